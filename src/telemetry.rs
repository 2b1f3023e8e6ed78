//! Logs: one line a request, JSON when stderr is no terminal, UTC. Never a secret, a query or a
//! claim. The metrics are in a file of their own.

pub mod metrics;

use std::io::IsTerminal;

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer as _, fmt, registry};

/// Sends the log to stderr. Called once, by `serve`.
pub fn init() {
    // What the framework says of its own workers is no operator's concern.
    let levels = Targets::new()
        .with_default(LevelFilter::INFO)
        .with_target("actix_server", LevelFilter::WARN)
        .with_target("mio", LevelFilter::WARN);
    let lines = fmt::layer().with_writer(std::io::stderr).with_target(false);
    let lines = if std::io::stderr().is_terminal() {
        lines.compact().boxed()
    } else {
        lines.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed()
    };
    // A second call, in a test, changes nothing.
    let _ = registry().with(lines.with_filter(levels)).try_init();
}

/// What the line of one request says.
pub struct RequestLine<'a> {
    pub plane: &'static str,
    pub method: &'a str,
    /// The route as the table has it, never the path: a path may hold a claim.
    pub route: &'a str,
    pub status: u16,
    pub bytes: u64,
    pub micros: u64,
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
