//! Logs: one line a request, JSON when stderr is no terminal, UTC. Never a secret, a query or a
//! claim.

use std::io::IsTerminal;

/// Sends the log to stderr. Called once, by `serve`.
pub fn init() {
    let subscriber = tracing_subscriber::fmt().with_writer(std::io::stderr).with_target(false);
    // A second call, in a test, changes nothing.
    let _ = if std::io::stderr().is_terminal() {
        subscriber.compact().try_init()
    } else {
        subscriber
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .try_init()
    };
}

/// What the line of one request says.
pub struct RequestLine<'a> {
    pub plane: &'static str,
    pub method: &'a str,
    /// The route as the table has it, never the path: a path may hold a claim.
    pub route: &'a str,
    pub status: u16,
    pub bytes: u64,
    pub micros: u128,
    pub request_id: &'a str,
    pub peer: &'a str,
    /// The node that signed, or the operator who called.
    pub who: &'a str,
    /// Why it was refused or failed; empty when it was not.
    pub reason: &'a str,
}

impl RequestLine<'_> {
    pub fn write(&self) {
        tracing::info!(
            plane = self.plane,
            method = self.method,
            route = self.route,
            status = self.status,
            bytes = self.bytes,
            micros = self.micros,
            request_id = self.request_id,
            peer = self.peer,
            who = self.who,
            reason = self.reason,
            "request"
        );
    }
}
