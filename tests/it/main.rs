//! Everything that is tested from the outside, in one binary that links once.

mod isolation;
mod metadata;
mod oauth;
mod policy_cases;
mod policy_rules;
mod smoke;
mod support;
