//! nodeinit: every bare-metal node its own credentials and its own data, and nothing else.
//!
//! Where things are, and which way the arrows point (`tests/it/architecture.rs` holds them):
//!
//! | module | what is in it | may use |
//! |---|---|---|
//! | [`domain`] | nouns and pure rules | – |
//! | [`oauth`] | bytes in, verdict out: RFC 5849 | `domain` |
//! | [`clock`] | the wall clock | – |
//! | [`telemetry`] | the log and the metrics | `clock` |
//! | [`store`] | the only SQL | `domain`, `clock` |
//! | [`live`] | memory in front of the store | `domain`, `oauth`, `store`, `clock` |
//! | [`actions`] | the only changes | `domain`, `oauth`, `clock`, `store`, `live`, `telemetry` |
//! | [`config`] | settings | `domain`, `store`, `telemetry` |
//! | [`maintenance`] | the key file, the migrations | `domain`, `store`, `config` |
//! | [`http`] | routes, proofs, answers | `domain`, `oauth`, `clock`, `store`, `live`, `actions`, `telemetry` |
//! | [`server`] | bind, migrate, serve, drain | all of the above |
//! | [`client`] | what talks to a server | `domain`, `oauth` |
//! | [`cli`] | commands and flags | `client`, `config`, `server`, `maintenance`, `domain`, `store`, `clock`, `telemetry` |
//!
//! A read goes from its handler to the [`store`]; a change goes from its handler to [`actions`]
//! and from there to the store.
//!
//! Follow a node reading its metadata: [`http::node::serve`], [`actions::authenticate`],
//! [`oauth`], [`http::node::metadata::read`]. Follow a token being made: [`http::operator::tokens`],
//! [`actions::tokens`], [`store::tokens`].

pub mod actions;
pub mod cli;
pub mod client;
pub mod clock;
pub mod config;
pub mod domain;
pub mod http;
pub mod live;
pub mod maintenance;
pub mod oauth;
pub mod server;
pub mod store;
pub mod telemetry;
