//! OAuth 1.0 (RFC 5849) as pure functions: the header parsed once into a [`Claim`], and its
//! signature verified. Whose secrets, which clock and which nonces are not known here.

mod claim;
pub mod percent;
mod signature;

pub use claim::{Claim, Malformed};
pub use signature::{Begun, Method, SignedRequest, signature_base_string, verify, verify_begun};
