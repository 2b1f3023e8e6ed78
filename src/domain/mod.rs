//! The nouns of the service and their pure rules: no I/O, no clock, no log.

pub mod audit;
pub mod boot;
pub mod claim;
pub mod content;
pub mod credentials;
pub mod cull;
pub mod identity;
pub mod limits;
pub mod metadata;
pub mod metadata_url;
pub mod network;
pub mod node;
pub mod password;
pub mod policy;
pub mod preseed;
pub mod report;
pub mod seal;
