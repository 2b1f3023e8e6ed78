//! How far a node has come: a small fold of what it asked for and reported, and what follows from
//! it now. One boot gives the same state in whatever order its reports arrive.

mod marks;
mod packed;
mod timeline;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::metadata::MetadataKey;
use super::node::BootState;
use super::report::{EventType, Outcome, Report, Stamp};
use marks::{Boot, Known};
pub use timeline::{Entry, Timeline};

/// How long the reads after the first may take: cloud-init's own `max_wait`.
pub const READS_WITHIN: SignedDuration = SignedDuration::from_secs(120);

/// A read is dated anew when it comes this long after the last one, not for every poll.
const READ_AGAIN: i64 = 30_000_000;

/// A boot without a report for so long has no part in what an operator asks for next.
const SILENT: i64 = 600_000_000;

/// What a node is served, in the order in which cloud-init asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Item {
    InstanceId,
    LocalHostname,
    PublicKeys,
    VendorData,
    UserData,
}

impl Item {
    pub const ALL: [Item; 5] =
        [Item::InstanceId, Item::LocalHostname, Item::PublicKeys, Item::VendorData, Item::UserData];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Item::InstanceId => "instance-id",
            Item::LocalHostname => "local-hostname",
            Item::PublicKeys => "public-keys",
            Item::VendorData => "vendor-data",
            Item::UserData => "user-data",
        }
    }
}

impl From<MetadataKey> for Item {
    fn from(key: MetadataKey) -> Item {
        match key {
            MetadataKey::InstanceId => Item::InstanceId,
            MetadataKey::LocalHostname => Item::LocalHostname,
            MetadataKey::PublicKeys => Item::PublicKeys,
            MetadataKey::VendorData => Item::VendorData,
        }
    }
}

/// What the fold reads of a report.
#[derive(Clone, Copy, Debug)]
pub struct Said<'r> {
    pub origin: &'r str,
    pub name: &'r str,
    pub kind: EventType,
    pub result: Option<Outcome>,
    pub description: &'r str,
    /// The node's own clock, which may be years off.
    pub timestamp: Option<Timestamp>,
    /// Seconds, as the node measured them.
    pub duration: Option<f64>,
}

impl<'r> Said<'r> {
    #[must_use]
    pub fn of(report: &'r Report) -> Said<'r> {
        Said {
            origin: &report.origin,
            name: &report.name,
            kind: report.event_type,
            result: report.result,
            description: &report.description,
            timestamp: report.timestamp.as_ref().and_then(Stamp::instant),
            duration: report.extra.get("duration").and_then(Value::as_f64),
        }
    }
}

/// Everything that moves a node on.
#[derive(Clone, Copy, Debug)]
pub enum Step<'r> {
    /// A claim was made: an operator wants the node to boot.
    ClaimMade {
        at: Timestamp,
    },
    PreseedFetched {
        at: Timestamp,
    },
    /// Any signed read; the listings are no item.
    Contacted {
        at: Timestamp,
    },
    /// An item was answered, with the SHA-256 of what it held.
    Served {
        item: Item,
        digest: [u8; 32],
        at: Timestamp,
    },
    Reported {
        said: Said<'r>,
        received_at: Timestamp,
    },
    /// The node got another token.
    TokenChanged {
        at: Timestamp,
    },
    /// The node is to be installed anew.
    Reprovisioned {
        at: Timestamp,
    },
    /// A server ended without writing down its last second: reads may have gone unnoticed.
    MarksLost {
        at: Timestamp,
    },
}

/// What one token's reads taught: a few instants, however often it reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Learned {
    /// The last use.
    pub used: Option<Timestamp>,
    /// The first signed read.
    pub contacted: Option<Timestamp>,
    /// Each item's last answer and the digest of what it held, by [`Item::ALL`].
    pub items: [Option<(Timestamp, [u8; 32])>; 5],
}

impl Learned {
    /// Takes in what was learnt earlier.
    pub fn follow(&mut self, earlier: Learned) {
        self.used = self.used.max(earlier.used);
        self.contacted = earlier.contacted.or(self.contacted);
        for (item, earlier) in self.items.iter_mut().zip(earlier.items) {
            *item = item.or(earlier);
        }
    }

    /// The steps it makes.
    pub fn steps(self) -> impl Iterator<Item = Step<'static>> {
        let contacted = self.contacted.map(|at| Step::Contacted { at });
        let served = self.items.into_iter().zip(Item::ALL).filter_map(|(read, item)| {
            let (at, digest) = read?;
            Some(Step::Served { item, digest, at })
        });
        contacted.into_iter().chain(served)
    }
}

/// What was served to one token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Served {
    token: String,
    /// When, and the digest in hexadecimal, by [`Item::ALL`].
    items: [Option<(i64, String)>; 5],
}

/// What the boots before this one left.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Before {
    /// The node stands as the last boot left it.
    ready: bool,
    /// It was ready once since it was installed.
    was_ready: bool,
    /// Scripts that run once an instance and failed.
    broken: Vec<Known>,
}

/// What is kept of a node's way, bounded whatever the node sends.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Fold {
    claimed: Option<i64>,
    fetched: Option<i64>,
    /// The first signed read since the last new start.
    contacted: Option<i64>,
    /// The last two tokens, the later one last.
    served: Vec<Served>,
    before: Before,
    boot: Boot,
    /// Reads up to here may be missing their followers.
    lost: Option<i64>,
    /// Since when the node is in its state and stage.
    since: i64,
}

impl Fold {
    /// Takes in one step of the token `token`; says whether anything changed.
    pub fn advance(&mut self, token: Option<&str>, step: &Step) -> bool {
        let was = self.clone();
        let at = self.take(token, step);
        if self.is_entitled() {
            // Kept, so that what was served may be forgotten.
            self.boot.entitled = true;
        }
        if *self == was {
            return false;
        }
        if was.since == 0 || (self.state(), self.stage()) != (was.state(), was.stage()) {
            self.since = at.as_microsecond();
        }
        true
    }

    fn take(&mut self, token: Option<&str>, step: &Step) -> Timestamp {
        match *step {
            Step::ClaimMade { at } => {
                // A boot that is under way goes on; one that went silent is given up.
                let silent =
                    self.boot.latest().is_none_or(|latest| latest + SILENT < at.as_microsecond());
                if self.state() != BootState::Booting || silent {
                    self.start_anew();
                }
                (self.claimed, self.fetched) = (Some(at.as_microsecond()), None);
                at
            }
            Step::PreseedFetched { at } => {
                self.claimed.get_or_insert(at.as_microsecond());
                earliest(&mut self.fetched, at);
                at
            }
            Step::Contacted { at } => {
                earliest(&mut self.contacted, at);
                at
            }
            Step::Served { item, ref digest, at } => {
                earliest(&mut self.contacted, at);
                if let Some(token) = token {
                    self.serve(token, item, digest, at.as_microsecond());
                }
                at
            }
            Step::Reported { ref said, received_at } => {
                if let Some(last) = self.boot.take(token, said, received_at) {
                    self.close(&last);
                }
                received_at
            }
            Step::TokenChanged { at } => {
                // A machine that is up stays up, whatever it is given for its next boot.
                if self.state() != BootState::Ready {
                    self.start_anew();
                }
                at
            }
            Step::Reprovisioned { at } => {
                *self = Fold { since: self.since, ..Fold::default() };
                at
            }
            Step::MarksLost { at } => {
                self.lost = Some(at.as_microsecond());
                at
            }
        }
    }

    /// The boot is over without another having begun.
    fn start_anew(&mut self) {
        let last = std::mem::take(&mut self.boot);
        self.close(&last);
        self.before.ready = false;
        (self.claimed, self.fetched, self.contacted) = (None, None, None);
    }

    /// Keeps what outlives a boot.
    fn close(&mut self, last: &Boot) {
        let ready = self.is_ready(last);
        self.before.ready = ready || (self.before.ready && self.failure(last).is_none());
        self.before.was_ready |= ready;
        self.before.broken = last.broken(&self.before.broken);
    }

    fn serve(&mut self, token: &str, item: Item, digest: &[u8; 32], at: i64) {
        let mut served = match self.served.iter().position(|served| served.token == token) {
            Some(known) => self.served.remove(known),
            None => Served { token: token.to_owned(), items: Default::default() },
        };
        let digest = hex(digest);
        let settled = served.items[Item::UserData as usize].is_some();
        let place = &mut served.items[item as usize];
        let step = if settled { READ_AGAIN } else { 1 };
        let newer =
            |(known, same): &(i64, String)| at >= known + step || (at >= *known && *same != digest);
        if place.as_ref().is_none_or(newer) {
            *place = Some((at, digest));
        }
        self.served.push(served);
        if self.served.len() > 2 {
            self.served.remove(0);
        }
    }

    fn served_to(&self, token: Option<&str>) -> Option<&Served> {
        self.served.iter().find(|served| Some(served.token.as_str()) == token)
    }

    /// Whether this boot had what it takes to be more than cloud-init's word.
    fn is_entitled(&self) -> bool {
        let served = self.served_to(self.boot.token.as_deref());
        served.is_some_and(|served| served.items[Item::UserData as usize].is_some())
            || (self.boot.is_cached() && self.before.was_ready)
    }

    fn is_ready(&self, boot: &Boot) -> bool {
        boot.is_done() && boot.entitled && self.failure(boot).is_none()
    }

    fn failure<'f>(&'f self, boot: &'f Boot) -> Option<(&'static str, &'f str)> {
        boot.failure().or_else(|| {
            let skipped = boot.is_done() && !boot.broken(&self.before.broken).is_empty();
            skipped.then_some((
                "modules-final",
                "a script failed in an earlier boot and did not run again",
            ))
        })
    }

    /// The state but for the deadline: what [`Fold::fails_at`] says comes on top.
    #[must_use]
    pub fn state(&self) -> BootState {
        if self.failure(&self.boot).is_some() {
            BootState::Failed
        } else if self.is_ready(&self.boot) || self.before.ready {
            BootState::Ready
        } else if self.boot.has_reports() {
            BootState::Booting
        } else if self.contacted.is_some() {
            BootState::Contacted
        } else if self.claimed.is_some() {
            BootState::Claimed
        } else {
            BootState::Issued
        }
    }

    #[must_use]
    pub fn state_at(&self, now: Timestamp) -> BootState {
        if self.fails_at().is_some_and(|at| at <= now) { BootState::Failed } else { self.state() }
    }

    /// Where in its state the node is.
    #[must_use]
    pub fn stage(&self) -> &'static str {
        match self.state() {
            BootState::New | BootState::Issued => "",
            BootState::Claimed if self.fetched.is_some() => "preseed",
            BootState::Claimed => "claim",
            BootState::Contacted => self.furthest_item().map_or("metadata", Item::as_str),
            BootState::Failed => self.failure(&self.boot).map_or("", |(stage, _)| stage),
            BootState::Booting | BootState::Ready => self.boot.stage(),
        }
    }

    fn furthest_item(&self) -> Option<Item> {
        let since = self.contacted?;
        let items = &self.served.last()?.items;
        let read = |item: &Item| items[*item as usize].as_ref().is_some_and(|(at, _)| *at >= since);
        Item::ALL.into_iter().rev().find(read)
    }

    /// When the node has failed unless it goes on: its first read was answered, and none after it.
    #[must_use]
    pub fn fails_at(&self) -> Option<Timestamp> {
        if !matches!(self.state(), BootState::Contacted | BootState::Booting)
            || self.boot.has_data()
        {
            return None;
        }
        let items = &self.served.last()?.items;
        let (asked, _) = items[Item::InstanceId as usize].as_ref()?;
        let waits =
            items[Item::UserData as usize].is_none() && self.lost.is_none_or(|lost| lost < *asked);
        waits.then(|| instant(*asked) + READS_WITHIN)
    }

    /// Why the node has failed, if it has.
    #[must_use]
    pub fn why(&self, now: Timestamp) -> Option<String> {
        if let Some((_, why)) = self.failure(&self.boot) {
            return Some(why.to_owned());
        }
        let late = self.fails_at().is_some_and(|at| at <= now);
        late.then(|| "120 s went by without the reads after the first".to_owned())
    }

    #[must_use]
    pub fn since(&self) -> Timestamp {
        instant(self.since)
    }
}

fn earliest(known: &mut Option<i64>, at: Timestamp) {
    let at = at.as_microsecond();
    *known = Some(known.map_or(at, |known| known.min(at)));
}

fn instant(micros: i64) -> Timestamp {
    Timestamp::from_microsecond(micros).unwrap_or(Timestamp::MAX)
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

#[cfg(test)]
mod tests;
