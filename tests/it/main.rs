//! Everything that is tested from the outside, in one binary that links once.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]
#![expect(clippy::format_collect, clippy::needless_pass_by_value, reason = "brevity, in tests")]

mod architecture;
mod audit;
mod bench;
mod claims;
mod cli;
mod cli_identity;
mod client;
mod content;
mod coverage;
mod cull;
mod hardening;
mod isolation;
mod metadata;
mod nonces;
mod oauth;
mod oauth_vectors;
mod openapi;
mod operator;
mod policy_cases;
mod policy_rules;
mod preseeds;
mod proxies;
mod readme;
mod reissue;
mod support;
mod tls;
mod tokens;
