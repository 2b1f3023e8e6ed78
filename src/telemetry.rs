//! Logs: one line a request, JSON when stderr is no terminal, UTC. Never a secret, a query or a
//! claim. The metrics are in a file of their own.

pub mod metrics;

mod writer;

use std::cell::RefCell;
use std::io::{IsTerminal as _, Write as _};
use std::sync::OnceLock;

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer as _, fmt, registry};

use crate::clock::Clock;
use writer::Log;

/// Where lines go when stderr is no terminal.
static LOG: OnceLock<&'static Log> = OnceLock::new();

/// Writes out what is gathered when it is dropped.
#[must_use]
pub struct Flushing(());

impl Drop for Flushing {
    fn drop(&mut self) {
        if let Some(log) = LOG.get() {
            log.flush();
        }
    }
}

/// Sends the log to stderr. Called once, by `serve`, which keeps what it returns to its end.
pub fn init() -> Flushing {
    // What the framework says of its own workers is no operator's concern.
    let levels = Targets::new()
        .with_default(LevelFilter::INFO)
        .with_target("actix_server", LevelFilter::WARN)
        .with_target("mio", LevelFilter::WARN);
    let lines = fmt::layer().with_target(false);
    let log = if std::io::stderr().is_terminal() { None } else { Log::to_stderr() };
    let lines = match log {
        Some(log) => {
            // A second call, in a test, changes nothing.
            let _ = LOG.set(log);
            let lines = lines.with_writer(move || log).json().flatten_event(true);
            lines.with_current_span(false).with_span_list(false).boxed()
        }
        None => lines.with_writer(std::io::stderr).compact().boxed(),
    };
    let _ = registry().with(lines.with_filter(levels)).try_init();
    Flushing(())
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
    /// One line of JSON, put together by hand: there is one for each request.
    pub fn write(&self) {
        thread_local! {
            static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
        }
        let Some(log) = LOG.get() else { return self.trace() };
        LINE.with_borrow_mut(|line| {
            line.clear();
            self.put(line);
            log.line(line);
        });
    }

    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"timestamp\":\"");
        put_timestamp(out);
        out.extend_from_slice(b"\",\"level\":\"INFO\",\"message\":\"request\",\"plane\":\"");
        put_escaped(out, self.plane);
        out.extend_from_slice(b"\",\"method\":\"");
        put_escaped(out, self.method);
        out.extend_from_slice(b"\",\"route\":\"");
        put_escaped(out, self.route);
        out.extend_from_slice(b"\",\"status\":");
        put_number(out, self.status.into());
        out.extend_from_slice(b",\"bytes\":");
        put_number(out, self.bytes);
        out.extend_from_slice(b",\"micros\":");
        put_number(out, self.micros);
        for (name, value) in [
            (",\"request_id\":\"", self.request_id),
            (",\"peer\":\"", self.peer),
            (",\"who\":\"", self.who),
            (",\"reason\":\"", self.reason),
        ] {
            out.extend_from_slice(name.as_bytes());
            put_escaped(out, value);
            out.push(b'"');
        }
        out.extend_from_slice(b"}\n");
    }

    /// On a terminal, and where there is no log.
    fn trace(&self) {
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

/// A number in digits: `write!` takes ten times as long, and a request has five of them.
pub fn put_number(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + u8::try_from(number % 10).unwrap_or(0);
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// As the other lines have it: RFC 3339 in UTC, to the microsecond.
fn put_timestamp(out: &mut Vec<u8>) {
    thread_local! {
        /// A second, and all of it that stands before the fraction.
        static WRITTEN: RefCell<(i64, String)> = const { RefCell::new((i64::MIN, String::new())) };
    }
    let now = Clock::System.now();
    let (second, micros) = (now.as_second(), now.subsec_microsecond());
    WRITTEN.with_borrow_mut(|(written, text)| {
        if *written != second {
            let whole = jiff::Timestamp::from_second(second).unwrap_or(now).to_string();
            whole.trim_end_matches('Z').clone_into(text);
            *written = second;
        }
        out.extend_from_slice(text.as_bytes());
    });
    out.push(b'.');
    let from = out.len();
    // One more digit in front keeps the zeros.
    put_number(out, u64::from(micros.unsigned_abs()) + 1_000_000);
    out.remove(from);
    out.push(b'Z');
}

/// The inside of a JSON string.
fn put_escaped(out: &mut Vec<u8>, text: &str) {
    let is_plain = |byte: u8| byte >= 0x20 && byte != b'"' && byte != b'\\';
    // To its end, without a branch for each byte.
    if text.bytes().fold(true, |plain, byte| plain & is_plain(byte)) {
        return out.extend_from_slice(text.as_bytes());
    }
    for byte in text.bytes() {
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            0..0x20 => {
                let _ = write!(out, "\\u{byte:04x}");
            }
            _ => out.push(byte),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(who: &str, reason: &str) -> String {
        let mut out = Vec::new();
        RequestLine {
            plane: "node",
            method: "GET",
            route: "/MAAS/metadata/",
            status: 200,
            bytes: 17,
            micros: 42,
            request_id: "00ff00ff00ff00ff",
            peer: "[2001:db8::1]:4711",
            who,
            reason,
        }
        .put(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_line_has_its_fields_in_their_order_and_ends() {
        let line = line("n1", "");
        let (timestamp, rest) = line.split_once("\",\"level\"").unwrap();
        let stamp = timestamp.strip_prefix("{\"timestamp\":\"").unwrap();
        assert!(stamp.parse::<jiff::Timestamp>().is_ok(), "{stamp}");
        assert_eq!(stamp.len(), "2026-11-26T18:33:00.089045Z".len(), "{stamp}");
        assert_eq!(
            rest,
            ":\"INFO\",\"message\":\"request\",\"plane\":\"node\",\"method\":\"GET\",\
             \"route\":\"/MAAS/metadata/\",\"status\":200,\"bytes\":17,\"micros\":42,\
             \"request_id\":\"00ff00ff00ff00ff\",\"peer\":\"[2001:db8::1]:4711\",\"who\":\"n1\",\
             \"reason\":\"\"}\n"
        );
    }

    #[test]
    fn whatever_a_field_holds_the_line_is_one_line_of_json() {
        for text in ["a\"b\\c", "\n\r\t\u{0}\u{1f}", "ünï→\u{1f4a9}", "\u{7f}\u{2028}", "\\", "\""]
        {
            let line = line(text, text);
            assert_eq!(line.matches('\n').count(), 1, "{line:?}");
            let value: serde_json::Value = serde_json::from_str(&line).unwrap();
            assert_eq!((&value["who"], &value["reason"]), (&text.into(), &text.into()));
        }
    }
}
