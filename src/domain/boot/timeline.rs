//! The fold as a story: what came when.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use super::marks::Word;
use super::{Fold, Item, instant};
use crate::domain::node::BootState;

/// One thing that happened, by our clock.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[schemars(rename = "TimelineEntry")]
pub struct Entry {
    pub at: Timestamp,
    pub what: String,
    /// By the node's own clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_time: Option<Timestamp>,
    /// SHA-256 of what was served.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<&'static str>,
    /// Seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// A node's way to where it is.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Timeline {
    pub system_id: String,
    pub boot_state: BootState,
    /// Where in its state: claim, preseed, an item, a stage of cloud-init.
    pub stage: Option<&'static str>,
    /// Since when it is there.
    pub since: Option<Timestamp>,
    pub why: Option<String>,
    /// When it has failed unless it goes on.
    pub fails_at: Option<Timestamp>,
    /// The last report, which is where a node that went silent stopped.
    pub last_report: Option<String>,
    pub entries: Vec<Entry>,
}

impl Entry {
    fn new(at: i64, what: impl Into<String>) -> Entry {
        let what = what.into();
        Entry {
            at: instant(at),
            what,
            node_time: None,
            digest: None,
            result: None,
            duration: None,
            why: None,
        }
    }
}

impl Fold {
    /// Since when the node is where it is.
    #[must_use]
    pub fn since_at(&self, now: Timestamp) -> Option<Timestamp> {
        let since = Some(self.since()).filter(|_| self.since != 0);
        self.fails_at().filter(|at| *at <= now).or(since)
    }

    /// The name of the last report.
    #[must_use]
    pub fn last_report(&self) -> Option<String> {
        self.boot.stages().last().map(|(_, _, latest, _)| latest.text.clone())
    }

    /// The way to `state`, which is what [`Fold::state_at`] says but for nodes without a token.
    #[must_use]
    pub fn timeline(&self, system_id: &str, state: BootState, now: Timestamp) -> Timeline {
        let mut items = Vec::new();
        let mut tell = |at: Option<i64>, what: &str| {
            items.extend(at.map(|at| Entry::new(at, what)));
        };
        tell(self.claimed, "claim made");
        tell(self.fetched, "preseed fetched");
        tell(self.contacted, "first signed GET");
        if let Some(served) = self.served.last() {
            for item in Item::ALL {
                // Reads of before the last new beginning are no part of this way.
                let read = served.items[item as usize].as_ref();
                let read = read.filter(|(at, _)| self.contacted.is_some_and(|since| *at >= since));
                if let Some((at, digest)) = read {
                    let digest = Some(digest.clone());
                    items.push(Entry {
                        digest,
                        ..Entry::new(*at, format!("{} read", item.as_str()))
                    });
                }
            }
        }
        for (stage, first, _, finish) in self.boot.stages() {
            let node_time = first.sent.map(instant);
            items.push(Entry { node_time, ..Entry::new(first.at, format!("{stage} started")) });
            let Some(finish) = finish else { continue };
            items.push(Entry {
                node_time: finish.sent.map(instant),
                result: word(finish.word),
                duration: finish.duration.or_else(|| seconds(first.sent?, finish.sent?)),
                why: Some(finish.text.clone()).filter(|why| !why.is_empty()),
                ..Entry::new(finish.at, format!("{stage} finished"))
            });
        }
        for other in &self.boot.others {
            let what = format!("{}: {}", other.who, other.mark.text);
            items.push(Entry {
                node_time: other.mark.sent.map(instant),
                result: word(other.mark.word),
                ..Entry::new(other.mark.at, what)
            });
        }
        // What came at one instant stays in the order of a boot.
        items.sort_by_key(|entry| entry.at);
        // Last of all what it came to, which may have been decided earlier.
        let why = self.why(now);
        if matches!(state, BootState::Ready | BootState::Failed) {
            let at = self.fails_at().map_or(self.since, Timestamp::as_microsecond);
            let what = if state == BootState::Ready { "ready" } else { "failed" };
            items.push(Entry { why: why.clone(), ..Entry::new(at, what) });
        }
        Timeline {
            system_id: system_id.to_owned(),
            boot_state: state,
            stage: Some(self.stage()).filter(|stage| !stage.is_empty()),
            since: self.since_at(now),
            why,
            fails_at: self.fails_at(),
            last_report: self.last_report(),
            entries: items,
        }
    }
}

fn seconds(from: i64, to: i64) -> Option<f64> {
    // A clock that jumped in between measures nothing.
    let micros = to.checked_sub(from).filter(|micros| (0..86_400_000_000).contains(micros))?;
    #[expect(clippy::cast_precision_loss, reason = "less than a day of microseconds")]
    Some(micros as f64 / 1e6)
}

fn word(word: Word) -> Option<&'static str> {
    match word {
        Word::Success | Word::Found | Word::Restored | Word::Skipped => Some("SUCCESS"),
        Word::Warn => Some("WARN"),
        Word::Fail | Word::Missing => Some("FAIL"),
        Word::Nothing => None,
    }
}
