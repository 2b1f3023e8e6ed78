//! One boot: the reports that tell something of it, and where the next boot begins.
//!
//! cloud-init reports each name once a boot, so the same name at another time is another boot's
//! (`ReportEventStack`; the recordings in `tests/data/boot`). A node's clock may be years off, jump
//! once within a boot, or start at the same instant in every boot.

use std::collections::BTreeMap;
use std::mem::take;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{EventType, Outcome, Said};

pub(super) const STAGES: [&str; 4] =
    ["init-local", "init-network", "modules-config", "modules-final"];

/// The reports that are kept, in the order in which a boot comes to them.
const NAMES: [(&str, EventType); 24] = [
    ("init-local", EventType::Start),
    ("init-local/check-cache", EventType::Start),
    ("init-local/check-cache", EventType::Finish),
    ("init-local/search-MAASLocal", EventType::Start),
    ("init-local/search-MAASLocal", EventType::Finish),
    ("init-local", EventType::Finish),
    ("init-network", EventType::Start),
    ("init-network/check-cache", EventType::Start),
    ("init-network/check-cache", EventType::Finish),
    ("init-network/search-MAAS", EventType::Start),
    ("init-network/search-MAAS", EventType::Finish),
    ("init-network/search-None", EventType::Finish),
    ("init-network/setup-datasource", EventType::Start),
    ("init-network/activate-datasource", EventType::Start),
    ("init-network", EventType::Finish),
    ("modules-config", EventType::Start),
    ("modules-config", EventType::Finish),
    ("modules-final", EventType::Start),
    ("modules-final/config-scripts-vendor", EventType::Finish),
    ("modules-final/config-scripts-per-once", EventType::Finish),
    ("modules-final/config-scripts-per-boot", EventType::Finish),
    ("modules-final/config-scripts-per-instance", EventType::Finish),
    ("modules-final/config-scripts-user", EventType::Finish),
    ("modules-final", EventType::Finish),
];

/// A place in [`NAMES`]; then the first report of each stage, then its latest.
pub(super) type Known = u8;

const CACHE_LOCAL: Known = 2;
const SEARCH_LOCAL: Known = 4;
const CACHE_NETWORK: Known = 8;
const SEARCH_NETWORK: Known = 10;
const SEARCH_NONE: Known = 11;
/// From here on the node works with what it got.
const SETUP: Known = 12;
const SCRIPTS: std::ops::RangeInclusive<Known> = 18..=22;
/// The one among them that runs in every boot.
const PER_BOOT: Known = 20;
const FINAL: Known = 23;
const FIRST: Known = 24;
const LATEST: Known = 28;
/// Where each stage starts and finishes in the table.
const BOUNDS: [(Known, Known); 4] = [(0, 5), (6, 14), (15, 16), (17, FINAL)];

/// Characters kept of a description or name.
const WHY: usize = 200;
/// Two clocks that drift apart by more than this between two boots are not one clock.
const RESET: i64 = 10_000_000;

/// What a report says, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Word {
    Nothing,
    Success,
    Warn,
    Fail,
    Found,
    Missing,
    Restored,
    /// It ran in an earlier boot.
    Skipped,
}

impl Word {
    /// In the order of their numbers.
    pub const ALL: [Word; 8] = [
        Word::Nothing,
        Word::Success,
        Word::Warn,
        Word::Fail,
        Word::Found,
        Word::Missing,
        Word::Restored,
        Word::Skipped,
    ];
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Mark {
    /// The node's time, and ours.
    #[serde(rename = "t", default, skip_serializing_if = "Option::is_none")]
    pub sent: Option<i64>,
    #[serde(rename = "a")]
    pub at: i64,
    #[serde(rename = "w")]
    pub word: Word,
    #[serde(rename = "y", default, skip_serializing_if = "String::is_empty")]
    pub text: String,
    #[serde(rename = "d", default, skip_serializing_if = "Option::is_none")]
    pub duration: Option<f64>,
}

impl Mark {
    fn order(&self) -> (i64, &str) {
        (self.sent.unwrap_or(self.at), &self.text)
    }

    /// How far our clock is ahead of the node's.
    fn offset(&self) -> i64 {
        self.at.saturating_sub(self.sent.unwrap_or(self.at))
    }
}

/// The last word of those who are not cloud-init: curtin, a signal, anybody else.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Other {
    pub who: String,
    pub mark: Mark,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Boot {
    pub token: Option<String>,
    pub marks: BTreeMap<Known, Mark>,
    pub others: Vec<Other>,
    /// The token's user-data was served, or the boot goes on from one that was ready.
    pub entitled: bool,
}

impl Boot {
    /// Takes in a report. What it returns is the boot that ended before the one it belongs to.
    pub fn take(&mut self, token: Option<&str>, said: &Said, at: Timestamp) -> Option<Boot> {
        let sent = said.timestamp.map(Timestamp::as_microsecond);
        let at = at.as_microsecond();
        let word = match said.result {
            None => Word::Nothing,
            Some(Outcome::Success) => Word::Success,
            Some(Outcome::Warn) => Word::Warn,
            Some(Outcome::Fail) => Word::Fail,
        };
        let mark = Mark { sent, at, word, text: String::new(), duration: said.duration };
        let stage = STAGES.iter().position(|stage| {
            said.name
                .strip_prefix(stage)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        });
        let (true, Some(stage)) = (said.origin == "cloudinit", stage) else {
            self.take_other(said, &mark);
            return None;
        };

        let name = said.name.replace('_', "-");
        let known = NAMES.iter().position(|known| *known == (name.as_str(), said.kind));
        let known = known.map(index);
        let new_token = self.token.is_some() && self.token.as_deref() != token;
        let seen = known.and_then(|known| Some((known, self.marks.get(&known)?.clone())));
        let ended = match seen {
            _ if new_token => Some(take(self)),
            Some((_, old)) if sent.is_some() && old.sent == sent => return None,
            Some((known, old)) => Some(self.split(known, &old, &mark)),
            None => None,
        };
        self.token = token.map(str::to_owned);

        if let Some(known) = known {
            let (word, text) = meaning(known, said, word);
            self.marks.insert(known, Mark { word, text, ..mark.clone() });
        }
        let latest = Mark { text: clean(said.name), ..mark };
        let (first, last) = (FIRST + index(stage), LATEST + index(stage));
        if self.marks.get(&first).is_none_or(|known| latest.order() < known.order()) {
            self.marks.insert(first, latest.clone());
        }
        if self.marks.get(&last).is_none_or(|known| latest.order() > known.order()) {
            self.marks.insert(last, latest);
        }
        ended
    }

    fn take_other(&mut self, said: &Said, mark: &Mark) {
        let who = match (said.kind, said.origin) {
            (EventType::Signal, _) => "signal",
            (_, "curtin") => "curtin",
            _ => "other",
        };
        let mark = Mark { text: clean(said.name), ..mark.clone() };
        match self.others.iter_mut().find(|other| other.who == who) {
            None => self.others.push(Other { who: who.to_owned(), mark }),
            Some(known) if mark.order() > known.mark.order() => known.mark = mark,
            Some(_) => {}
        }
        self.others.sort_by(|a, b| a.who.cmp(&b.who));
    }

    /// One report came twice: some of what is here is the next boot's already. Leaves that here.
    fn split(&mut self, twice: Known, old: &Mark, new: &Mark) -> Boot {
        let mut ended =
            Boot { token: self.token.clone(), entitled: self.entitled, ..Boot::default() };
        for (known, mark) in take(&mut self.marks) {
            let is_new = known != twice && is_of_next(rank(known) > rank(twice), &mark, old, new);
            if is_new { &mut self.marks } else { &mut ended.marks }.insert(known, mark);
        }
        for stage in 0..4 {
            for boot in [&mut *self, &mut ended] {
                let (first, latest) =
                    (boot.marks.get(&(FIRST + stage)), boot.marks.get(&(LATEST + stage)));
                match (first.cloned(), latest.cloned()) {
                    (Some(mark), None) => boot.marks.insert(LATEST + stage, mark),
                    (None, Some(mark)) => boot.marks.insert(FIRST + stage, mark),
                    _ => None,
                };
            }
        }
        ended.others = take(&mut self.others);
        self.entitled = false;
        ended
    }

    fn word(&self, known: Known) -> Option<Word> {
        self.marks.get(&known).map(|mark| mark.word)
    }

    fn has_found(&self) -> bool {
        [SEARCH_LOCAL, SEARCH_NETWORK].iter().any(|search| self.word(*search) == Some(Word::Found))
    }

    /// Whether the node goes on with what an earlier boot read.
    pub fn is_cached(&self) -> bool {
        // What init-local has just found, init-network restores: the first word counts.
        let first = self.word(CACHE_LOCAL).or(self.word(CACHE_NETWORK));
        first == Some(Word::Restored) && !self.has_found()
    }

    pub fn is_done(&self) -> bool {
        matches!(self.word(FINAL), Some(Word::Success | Word::Warn))
    }

    pub fn has_reports(&self) -> bool {
        !(self.marks.is_empty() && self.others.is_empty())
    }

    /// Whether the node has gone on from reading its metadata.
    pub fn has_data(&self) -> bool {
        let late = |known: &Known| match *known {
            FIRST.. => *known % 4 >= 2,
            known => known >= SETUP,
        };
        !self.others.is_empty() || self.has_found() || self.marks.keys().any(late)
    }

    /// What went wrong, and in which stage.
    pub fn failure(&self) -> Option<(&'static str, &str)> {
        let missing = [SEARCH_NETWORK, SEARCH_NONE].into_iter().filter(|_| !self.has_found());
        let missing = missing.filter(|known| self.word(*known) == Some(Word::Missing));
        let failed = SCRIPTS.chain([FINAL]).filter(|known| self.word(*known) == Some(Word::Fail));
        let known = missing.chain(failed).next()?;
        let stage = if known < SETUP { STAGES[1] } else { STAGES[3] };
        Some((stage, &self.marks[&known].text))
    }

    /// The scripts that failed and will not run again by themselves; `before` are those of the
    /// boots before.
    pub fn broken(&self, before: &[Known]) -> Vec<Known> {
        SCRIPTS
            .filter(|script| *script != PER_BOOT)
            .filter(|script| match self.word(*script) {
                Some(Word::Fail) => true,
                None | Some(Word::Skipped) => self.is_cached() && before.contains(script),
                Some(_) => false,
            })
            .collect()
    }

    /// The furthest stage it came to.
    pub fn stage(&self) -> &'static str {
        let furthest = (0..4).rev().find(|stage| self.marks.contains_key(&(FIRST + stage)));
        match (furthest, self.others.first()) {
            (Some(stage), _) => STAGES[usize::from(stage)],
            (None, Some(other)) if other.who == "curtin" => "curtin",
            (None, Some(other)) if other.who == "signal" => "signal",
            (None, Some(_)) => "other",
            (None, None) => "",
        }
    }

    /// When the last report came.
    pub fn latest(&self) -> Option<i64> {
        self.marks
            .values()
            .chain(self.others.iter().map(|other| &other.mark))
            .map(|mark| mark.at)
            .max()
    }

    /// Of each stage it came to: the first report, the latest, and its end.
    pub fn stages(&self) -> impl Iterator<Item = (&'static str, &Mark, &Mark, Option<&Mark>)> {
        (0..4_u8).filter_map(|stage| {
            let first = self.marks.get(&(FIRST + stage))?;
            let latest = self.marks.get(&(LATEST + stage))?;
            let (_, finish) = BOUNDS[usize::from(stage)];
            Some((STAGES[usize::from(stage)], first, latest, self.marks.get(&finish)))
        })
    }
}

fn index(place: usize) -> Known {
    Known::try_from(place).unwrap_or(Known::MAX)
}

/// Where in a boot a mark stands, the stage's first and latest reports between its bounds.
fn rank(known: Known) -> u16 {
    let place = |known: Known| u16::from(known) * 2 + 1;
    match known {
        LATEST.. => place(BOUNDS[usize::from(known - LATEST)].1) - 1,
        FIRST.. => place(BOUNDS[usize::from(known - FIRST)].0) - 1,
        _ => place(known),
    }
}

/// Whether `mark` is of the boot of `new` rather than of the earlier one of `old`, the same report.
fn is_of_next(is_later: bool, mark: &Mark, old: &Mark, new: &Mark) -> bool {
    let (Some(sent), Some(was), Some(is)) = (mark.sent, old.sent, new.sent) else {
        return false; // without a clock, what came before is of before
    };
    let lost = (new.at - old.at).saturating_sub(is.saturating_sub(was));
    if is > was && lost <= RESET {
        // One clock for both boots: the old one ended before the new one began.
        if is_later { sent >= is } else { sent > was }
    } else {
        let far = |from: &Mark| mark.offset().saturating_sub(from.offset()).saturating_abs();
        far(new) < far(old)
    }
}

/// What a report that is kept says, and why if it tells of a failure.
fn meaning(known: Known, said: &Said, word: Word) -> (Word, String) {
    let text = said.description;
    let why = |word| (word, clean(text));
    match known {
        CACHE_LOCAL | CACHE_NETWORK if text.starts_with("restored from") => {
            (Word::Restored, String::new())
        }
        // What DataSourceNone finds is that nobody else found anything.
        SEARCH_NONE => why(Word::Missing),
        SEARCH_LOCAL | SEARCH_NETWORK if text.starts_with("found ") => (Word::Found, String::new()),
        SEARCH_LOCAL | SEARCH_NETWORK if text.starts_with("no ") || word == Word::Fail => {
            why(Word::Missing)
        }
        known if SCRIPTS.contains(&known) && text.ends_with("previously ran") => {
            (Word::Skipped, String::new())
        }
        _ if word == Word::Fail => {
            let (name, _) = NAMES[usize::from(known)];
            (word, clean(&format!("{name}: {text}")))
        }
        _ => (word, String::new()),
    }
}

/// A node's text as it is kept: short, and on one line.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).take(WHY).collect()
}

#[cfg(test)]
pub(super) fn names() -> impl Iterator<Item = (&'static str, EventType)> {
    NAMES.into_iter()
}
