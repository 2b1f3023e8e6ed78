//! Everything that is tested from the outside, in one binary that links once.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]
#![expect(clippy::format_collect, clippy::needless_pass_by_value, reason = "brevity, in tests")]

mod architecture;
mod audit;
mod bench;
mod boot;
mod cli;
mod cli_identity;
mod client;
mod content;
mod coverage;
mod coverage_roles;
mod cull;
mod hardening;
mod identity_audit;
mod identity_cases;
mod identity_headers;
mod identity_logins;
mod identity_nodes;
mod identity_policy_file;
mod identity_projects;
mod identity_requests;
mod identity_service;
mod identity_tokens;
mod identity_users;
mod isolation;
mod metadata;
mod nonces;
mod oauth;
mod oauth_vectors;
mod openapi;
mod operator;
mod policy_cases;
mod policy_file;
mod policy_oslo;
mod policy_rules;
mod policy_show;
mod readme;
mod replicas;
mod reports;
mod reports_cli;
mod reports_kept;
mod support;
mod tls;
mod tokens;
