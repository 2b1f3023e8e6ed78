//! What the CLI and other programs speak to a server with.
//!
//! | to | see |
//! |---|---|
//! | say where a server is | [`ServerUrl`] |
//! | talk to it | [`Session`]: [`get`](Session::get), [`send_json`](Session::send_json), [`delete`](Session::delete), [`list`](Session::list), and [`request`](Session::request) for all else |
//! | choose a CA, a plugin, retries, a log | [`Session::builder`] |
//! | send bytes, or a stream that is sent once | [`Body`] |
//! | prove who is asking | [`AuthPlugin`] and the five that exist: [`PLUGINS`], [`NoAuth`](plugins::NoAuth), [`Token`](plugins::Token), [`Password`](plugins::Password), [`Service`](plugins::Service), [`OAuth1`](plugins::OAuth1) |
//! | know what a plugin needs | [`AuthOption`], [`PluginKind::find`] |
//! | write a plugin | [`AuthPlugin`], [`Transport`], [`Verdict`] |
//! | log in, name users, projects and roles | [`identity`] |
//! | know what went wrong | [`ClientError`] |
//!
//! What holds for every request: a 401 leads to at most one more attempt and a 403 to none; a body
//! is sent whole each time, or the call fails; redirects are followed within one origin only; time
//! and chance come from the caller ([`Surroundings`]), and nothing secret is logged or printed.
//!
//! ```no_run
//! use nodeinit::client::{ServerUrl, Session, plugins::Token};
//! # fn token() -> nodeinit::domain::credentials::Secret { unimplemented!() }
//! let server = ServerUrl::parse("https://nodeinit.example.com:5241").unwrap();
//! let ca = std::fs::read("ca.pem").unwrap();
//! let session = Session::builder(server).plugin(Token::new(token(), None)).ca(&ca).unwrap().build();
//! println!("{}", session.get("/v1/whoami").unwrap());
//! ```

mod answer;
mod body;
mod builder;
pub mod identity;
mod log;
pub mod oauth1;
mod plugin;
pub mod plugins;
mod redirect;
mod retries;
mod session;
mod tls;
mod unix;
mod url;

pub use answer::{Answer, ClientError, Problem};
pub use body::Body;
pub use builder::Builder;
pub use log::Detail;
pub use plugin::{
    AuthHeaders, AuthOption, AuthPlugin, Generation, Nonce, Now, Provides, RequestHead,
    ResponseHead, Surroundings, Transport, Values, Verdict,
};
pub use plugins::{PLUGINS, PluginKind};
pub use retries::Retries;
pub use session::{Outgoing, Session};
pub use url::ServerUrl;
