//! Signs requests as a node does, with `oauth1-request`.

use std::num::NonZeroU64;

use oauth1_request::signature_method::{HmacSha1, Plaintext, SignatureMethod};
use oauth1_request::{Builder, Token};

/// What a node signs with.
pub struct NodeCredentials {
    pub consumer_key: String,
    pub token_key: String,
    pub token_secret: String,
}

/// The `Authorization` header cloud-init sends: PLAINTEXT, empty consumer secret.
#[must_use]
pub fn plaintext(node: &NodeCredentials, timestamp: u64, nonce: &str, url: &str) -> String {
    authorization(node, timestamp, nonce, "GET", url, Plaintext::new())
}

/// The same with HMAC-SHA1 over the method and URL (RFC 5849 §3.4.2).
#[must_use]
pub fn hmac_sha1(
    node: &NodeCredentials,
    timestamp: u64,
    nonce: &str,
    method: &str,
    url: &str,
) -> String {
    authorization(node, timestamp, nonce, method, url, HmacSha1::new())
}

fn authorization<S: SignatureMethod>(
    node: &NodeCredentials,
    timestamp: u64,
    nonce: &str,
    method: &str,
    url: &str,
    by: S,
) -> String {
    let token = Token::from_parts(
        node.consumer_key.as_str(),
        "",
        node.token_key.as_str(),
        node.token_secret.as_str(),
    );
    let mut builder = Builder::with_token(token, by);
    builder.nonce(nonce).timestamp(NonZeroU64::new(timestamp));
    builder.into_authorization(method, url, &())
}
