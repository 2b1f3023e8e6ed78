//! What this process has seen of nodes' signatures lately: why they were refused, and how far off
//! their clocks are.

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;

use jiff::{SignedDuration, Timestamp};
use schemars::JsonSchema;
use serde::Serialize;

use super::locked;

/// Refusals kept of a node.
const MOST_REFUSALS: usize = 8;
/// Nodes kept; past it those that were not seen for an hour go, and if there are none the newcomer.
const MOST_NODES: usize = 1 << 16;
const FORGET: SignedDuration = SignedDuration::from_hours(1);

/// One reason, and how often it came in a row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "Refused")]
pub struct Refused {
    pub reason: &'static str,
    pub times: u64,
    /// The last of them.
    pub at: Timestamp,
}

/// How far the node's clock is ahead of ours, when it last signed well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "ClockSkew")]
pub struct Skew {
    pub seconds: i64,
    pub at: Timestamp,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The oldest first.
    pub refusals: VecDeque<Refused>,
    pub skew: Option<Skew>,
}

impl Seen {
    fn last(&self) -> Option<Timestamp> {
        self.refusals.back().map(|refused| refused.at).max(self.skew.map(|skew| skew.at))
    }
}

#[derive(Default)]
pub struct Observed(Mutex<HashMap<String, Seen>>);

impl Observed {
    /// A token of this node was refused.
    pub fn refused(&self, system_id: &str, reason: &'static str, now: Timestamp) {
        self.note(system_id, now, |seen| match seen.refusals.back_mut() {
            Some(last) if last.reason == reason => {
                last.times += 1;
                last.at = now;
            }
            _ => {
                seen.refusals.push_back(Refused { reason, times: 1, at: now });
                if seen.refusals.len() > MOST_REFUSALS {
                    seen.refusals.pop_front();
                }
            }
        });
    }

    /// A token of this node signed well, at `timestamp` by the node's clock.
    pub fn signed(&self, system_id: &str, timestamp: Option<u64>, now: Timestamp) {
        let Some(timestamp) = timestamp.and_then(|stamp| i64::try_from(stamp).ok()) else { return };
        let seconds = timestamp.saturating_sub(now.as_second());
        self.note(system_id, now, |seen| seen.skew = Some(Skew { seconds, at: now }));
    }

    fn note(&self, system_id: &str, now: Timestamp, change: impl FnOnce(&mut Seen)) {
        let mut nodes = locked(&self.0);
        if let Some(seen) = nodes.get_mut(system_id) {
            return change(seen);
        }
        if nodes.len() >= MOST_NODES {
            nodes.retain(|_, seen| {
                seen.last().is_some_and(|last| now.duration_since(last) < FORGET)
            });
        }
        if nodes.len() < MOST_NODES {
            change(nodes.entry(system_id.to_owned()).or_default());
        }
    }

    /// What was seen of a node.
    #[must_use]
    pub fn of(&self, system_id: &str) -> Seen {
        locked(&self.0).get(system_id).cloned().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn the_last_few_reasons_are_kept_and_repeats_are_counted() {
        let observed = Observed::default();
        for (second, reason) in (0..).zip(["a", "b", "b", "b", "c"]) {
            observed.refused("n1", reason, at(second));
        }
        let kept = |observed: &Observed| -> Vec<(&'static str, u64, i64)> {
            let seen = observed.of("n1").refusals;
            seen.iter().map(|one| (one.reason, one.times, one.at.as_second())).collect()
        };
        assert_eq!(kept(&observed), [("a", 1, 0), ("b", 3, 3), ("c", 1, 4)]);
        for second in 5..100 {
            observed.refused("n1", if second % 2 == 0 { "d" } else { "e" }, at(second));
        }
        assert_eq!(kept(&observed).len(), MOST_REFUSALS);
        assert_eq!(kept(&observed).last(), Some(&("e", 1, 99)));
        assert_eq!(observed.of("n2"), Seen::default());
    }

    #[test]
    fn the_skew_is_the_nodes_clock_ahead_of_ours() {
        let observed = Observed::default();
        observed.signed("n1", Some(2_000), at(1_000));
        assert_eq!(observed.of("n1").skew, Some(Skew { seconds: 1_000, at: at(1_000) }));
        observed.signed("n1", Some(0), at(2_000));
        assert_eq!(observed.of("n1").skew.unwrap().seconds, -2_000);
        observed.signed("n1", None, at(3_000));
        observed.signed("n1", Some(u64::MAX), at(3_000));
        assert_eq!(observed.of("n1").skew.unwrap().seconds, -2_000);
    }

    #[test]
    fn the_memory_is_bounded() {
        let observed = Observed::default();
        for node in 0..MOST_NODES {
            observed.refused(&node.to_string(), "a", at(0));
        }
        observed.refused("late", "a", at(10));
        assert_eq!(observed.of("late"), Seen::default(), "nobody who is fresh is forgotten");
        observed.refused("later", "a", at(4_000));
        assert_eq!(observed.of("later").refusals.len(), 1);
        assert_eq!(locked(&observed.0).len(), 1);
    }
}
