//! What proves who is asking: the trait, and what passes between a plugin and its session.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use ureq::http::{HeaderMap, Method, StatusCode};

use super::{Answer, ClientError, ServerUrl};
use crate::domain::credentials::Secret;

/// Where a plugin that needs it gets the time from.
pub type Now = Arc<dyn Fn() -> Timestamp + Send + Sync>;
/// Where a plugin that signs gets a nonce from that nobody has used.
pub type Nonce = Arc<dyn Fn() -> String + Send + Sync>;

/// Time and chance, which the client takes from its caller.
#[derive(Clone)]
pub struct Surroundings {
    pub now: Now,
    pub nonce: Nonce,
}

/// One thing that a plugin needs to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct AuthOption {
    pub name: &'static str,
    pub required: bool,
    /// Never given as a flag, never printed.
    pub secret: bool,
    /// The environment variable that the command line reads it from.
    pub variable: &'static str,
    pub help: &'static str,
}

/// What the options of a plugin are, by their names. Empty is as good as absent.
pub type Values = BTreeMap<&'static str, Secret>;

/// What a plugin can say about the session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Provides {
    pub user: Option<String>,
    /// The project that the session speaks for, by name.
    pub project: Option<String>,
    /// When the credentials end, by the server's clock.
    pub expires_at: Option<Timestamp>,
}

/// Which credentials a request was sent with: a plugin that renews its own counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Generation {
    pub user: u64,
    pub service: u64,
}

/// What a plugin adds to a request. No fields at all is an answer too: the socket needs none.
#[derive(Default)]
pub struct AuthHeaders {
    /// In place of what the caller gave under these names.
    pub fields: Vec<(&'static str, Secret)>,
    pub generation: Generation,
}

/// A request as a plugin sees it, for each attempt anew.
pub struct RequestHead<'r> {
    pub method: &'r Method,
    /// Absolute, as it is sent.
    pub url: &'r str,
    pub headers: &'r [(&'r str, &'r str)],
    /// `None` when it is a stream.
    pub body: Option<&'r [u8]>,
}

/// An answer as a plugin sees it.
pub struct ResponseHead<'r> {
    pub url: &'r str,
    pub status: StatusCode,
    pub headers: &'r HeaderMap,
    /// In the server's words, when it refused.
    pub refusal: &'r str,
}

/// What is to be done about an answer.
#[derive(Debug)]
pub enum Verdict {
    /// It is the caller's.
    Accept,
    /// Credentials have been renewed: send the request once more. Heeded for a 401, and once.
    Resend,
    Fail(ClientError),
}

/// The only way of a plugin to the network: its session, without any credentials.
pub trait Transport {
    /// Sends a request and reads its answer, whatever its status.
    ///
    /// # Errors
    /// What a request without credentials can fail of.
    fn exchange(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&[u8]>,
    ) -> Result<Answer, ClientError>;

    /// Whom it talks to, for what is said about answers.
    fn server(&self) -> &ServerUrl;
}

/// Proves who is asking. One is shared by every thread that uses its session.
pub trait AuthPlugin: Send + Sync {
    /// As in `--auth NAME`.
    fn name(&self) -> &'static str;

    /// Where its requests go, when it knows better than the session's maker.
    fn base_url(&self) -> Option<ServerUrl> {
        None
    }

    /// Who the session is, which may have to be asked.
    ///
    /// # Errors
    /// When asking fails.
    fn provides(&self, transport: &dyn Transport) -> Result<Provides, ClientError>;

    /// The headers of this request; `None` if there is nothing to prove it with, and then nothing
    /// is sent.
    ///
    /// # Errors
    /// When the credentials cannot be had; then nothing is sent either.
    fn headers(
        &self,
        transport: &dyn Transport,
        request: &RequestHead<'_>,
    ) -> Result<Option<AuthHeaders>, ClientError>;

    /// What to do about the answer to a request that was `sent` with these credentials.
    fn verdict(
        &self,
        transport: &dyn Transport,
        sent: Generation,
        response: &ResponseHead<'_>,
    ) -> Verdict;
}
