//! What a node reports of itself: events by webhook, signals by form, and the files with them.

mod files;
mod form;
mod json;
mod multipart;
mod signal;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value};

pub use files::{Packed, Packing, ReportedFile};
pub use form::Form;
pub use signal::{SIGNALS, Unsignalled, from_form};

/// What a report is about: the webhook's three, and the short report by form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EventType {
    Start,
    Progress,
    Finish,
    Signal,
}

impl EventType {
    pub const ALL: [EventType; 4] =
        [EventType::Start, EventType::Progress, EventType::Finish, EventType::Signal];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            EventType::Start => "start",
            EventType::Progress => "progress",
            EventType::Finish => "finish",
            EventType::Signal => "signal",
        }
    }

    #[must_use]
    pub fn parse(text: &str) -> Option<EventType> {
        EventType::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

/// How what was reported ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Outcome {
    Success,
    Warn,
    Fail,
}

impl Outcome {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Success => "SUCCESS",
            Outcome::Warn => "WARN",
            Outcome::Fail => "FAIL",
        }
    }

    /// `FAILURE` is what MAAS's own reporters say for `FAIL`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Outcome> {
        match text {
            "SUCCESS" => Some(Outcome::Success),
            "WARN" => Some(Outcome::Warn),
            "FAIL" | "FAILURE" => Some(Outcome::Fail),
            _ => None,
        }
    }
}

/// A node's own time of an event, in seconds since the epoch, as it wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp(String);

impl Stamp {
    /// The number as it was sent: what tells a repeat from another event.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The instant it names, if there is such an instant.
    #[must_use]
    pub fn instant(&self) -> Option<Timestamp> {
        let seconds: f64 = self.0.parse().ok()?;
        // Below 2^53 every microsecond is a number of its own.
        let micros = (seconds * 1e6).round();
        if micros.abs() > 9e15 {
            return None;
        }
        #[expect(clippy::cast_possible_truncation, reason = "its size was just looked at")]
        Timestamp::from_microsecond(micros as i64).ok()
    }
}

/// One event as a node reported it.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    pub event_type: EventType,
    pub origin: String,
    pub name: String,
    pub description: String,
    pub result: Option<Outcome>,
    pub timestamp: Option<Stamp>,
    pub files: Vec<ReportedFile>,
    /// Everything else that was sent, `duration` among it.
    pub extra: Map<String, Value>,
}

/// What a report may hold.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Nesting of JSON.
    pub depth: usize,
    pub files: usize,
    /// Bytes of one file, decoded.
    pub file_bytes: usize,
}

/// Why a report is not taken. Nothing that was sent is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    TooLarge(String),
    /// Everything that is wrong with it.
    Invalid(Vec<String>),
}

/// Bytes of all that a report says apart from its files: events are listed a thousand at a time.
const MOST_SAID: usize = 256 << 10;

fn within_words(bytes: usize) -> Result<(), Refused> {
    if bytes > MOST_SAID {
        let why = format!("a report without its files is at most {MOST_SAID} bytes");
        return Err(Refused::TooLarge(why));
    }
    Ok(())
}

/// A report that was read, with its files still packed.
#[derive(Debug)]
pub struct Draft {
    report: Report,
    packed: Vec<Packed>,
}

impl Draft {
    /// Reads the webhook's JSON. Escapes that no text can hold are mended in place.
    ///
    /// # Errors
    /// [`Refused`] with every problem.
    pub fn from_json(body: &mut [u8], bounds: Bounds) -> Result<Draft, Refused> {
        json::draft(body, bounds)
    }

    /// How many bytes unpacking may take at the most.
    #[must_use]
    pub fn most_unpacked(&self, bounds: Bounds) -> usize {
        self.packed.iter().filter(|file| file.is_compressed()).count() * bounds.file_bytes
    }

    /// Unpacks the files, none further than a file may go.
    ///
    /// # Errors
    /// [`Refused`] with every file that cannot be unpacked.
    pub fn unpack(mut self, bounds: Bounds) -> Result<Report, Refused> {
        self.report.files = files::unpack(self.packed, bounds)?;
        Ok(self.report)
    }
}

/// Text that both databases keep: PostgreSQL has no U+0000.
fn storable(text: String) -> String {
    if text.contains('\0') { text.replace('\0', "\u{fffd}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_the_instant_it_names_if_there_is_one() {
        let micros = |text: &str| Stamp(text.into()).instant().map(Timestamp::as_microsecond);
        assert_eq!(micros("1795315087.840638"), Some(1_795_315_087_840_638));
        assert_eq!(micros("0"), Some(0));
        assert_eq!(micros("-1.5"), Some(-1_500_000));
        assert_eq!(micros("2.09e9"), Some(2_090_000_000_000_000));
        for odd in ["1e400", "-1e400", "99999999999999999999", "1e18"] {
            assert_eq!(micros(odd), None, "{odd}");
        }
    }
}
