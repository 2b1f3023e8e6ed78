//! Everything that is tested from the outside, in one binary that links once.

mod architecture;
mod content;
mod coverage;
mod hardening;
mod isolation;
mod metadata;
mod nonces;
mod oauth;
mod oauth_vectors;
mod operator;
mod policy_cases;
mod policy_rules;
mod readme;
mod smoke;
mod support;
mod tokens;
