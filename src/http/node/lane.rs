//! The lane: reads that are answered where their connection is, before the framework sees them.

use std::net::SocketAddr;

use crate::actions::App;

/// A GET or HEAD without a body, of HTTP/1.0 or 1.1, whose headers are within their limit. Its
/// target begins with a slash, and a request of HTTP/1.1 has exactly one `Host`.
pub struct Head<'a> {
    pub method: &'a str,
    pub target: &'a str,
    pub headers: &'a [httparse::Header<'a>],
    /// The address at the other end; what it says of others is in the headers.
    pub peer: Option<SocketAddr>,
    /// Whether the connection stays open after the answer; if not, the answer says so.
    pub keep_alive: bool,
    /// HTTP/1.0: a connection that stays open has to be told so.
    pub is_old: bool,
}

/// Puts the whole answer into `out`, which is empty, if it can be given at once. If not, nothing
/// has been done.
#[must_use]
pub fn at_once(_app: &App, _head: &Head<'_>, _out: &mut Vec<u8>) -> bool {
    false
}
