//! When a request is made again because the server could not take it.

use std::time::Duration;

use ureq::http::StatusCode;

use super::Answer;

/// What is done about a 503: nothing, unless it is asked for. Only requests that may be repeated
/// without harm are (GET, HEAD, PUT, DELETE, OPTIONS), and never one whose body is a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retries {
    pub most: u32,
    /// Before the first, doubled each time up to 30 s, unless the server names a time.
    pub first_wait: Duration,
}

impl Retries {
    const LONGEST: Duration = Duration::from_secs(30);
    /// A server that wants to be left alone for longer is not waited for.
    const LONGEST_ASKED: u64 = 300;

    /// How long to wait before this retry; `None` to let the answer stand.
    pub(super) fn wait(self, done: u32, answer: &Answer) -> Option<Duration> {
        if done >= self.most || answer.status != StatusCode::SERVICE_UNAVAILABLE {
            return None;
        }
        if let Some(asked) = answer.header("retry-after") {
            let seconds = seconds_asked(asked, answer.header("date"));
            if let Some(seconds) = seconds {
                return (seconds <= Self::LONGEST_ASKED).then(|| Duration::from_secs(seconds));
            }
        }
        Some(self.first_wait.saturating_mul(1 << done.min(10)).min(Self::LONGEST))
    }
}

/// `Retry-After` in seconds, or as a date beside the server's own.
fn seconds_asked(asked: &str, date: Option<&str>) -> Option<u64> {
    let second = |text: &str| Some(super::oauth1::parse_date(text)?.as_second());
    asked.trim().parse().ok().or_else(|| {
        let wait = second(asked)? - second(date?)?;
        u64::try_from(wait.max(0)).ok()
    })
}
