//! Refusals of callers nobody knows, counted by source until the audit is told of them.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Mutex;

use jiff::{SignedDuration, Timestamp};

use super::locked;

/// At most one row of a source in this long.
const WINDOW: SignedDuration = SignedDuration::from_mins(1);
/// Sources that are told apart; those past it are counted together.
const MOST: usize = 1024;

/// A source and how often it was refused since it was last told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Refusals {
    /// `None`: sources of which there were too many.
    pub source: Option<IpAddr>,
    pub count: u64,
}

#[derive(Default)]
struct Source {
    told_at: Option<Timestamp>,
    untold: u64,
}

#[derive(Default)]
pub struct Strangers(Mutex<HashMap<Option<IpAddr>, Source>>);

impl Strangers {
    /// Counts one refusal. Says what the audit has to be told now, if anything.
    pub fn count(&self, source: Option<IpAddr>, now: Timestamp) -> Option<Refusals> {
        let mut sources = locked(&self.0);
        let mut source = source.map(network);
        if sources.len() >= MOST && !sources.contains_key(&source) {
            sources.retain(|_, known| known.untold > 0 || !is_due(known, now));
            if sources.len() >= MOST {
                source = None;
            }
        }
        let known = sources.entry(source).or_default();
        known.untold += 1;
        is_due(known, now).then(|| tell(source, known, now))
    }

    /// What has been counted and is due.
    pub fn due(&self, now: Timestamp) -> Vec<Refusals> {
        let mut sources = locked(&self.0);
        sources.retain(|_, known| known.untold > 0 || !is_due(known, now));
        let due = sources.iter_mut().filter(|(_, known)| is_due(known, now));
        due.map(|(source, known)| tell(*source, known, now)).collect()
    }

    /// Puts back what could not be written: the next row of its source counts it.
    pub fn put_back(&self, refusals: Refusals) {
        locked(&self.0).entry(refusals.source).or_default().untold += refusals.count;
    }
}

fn is_due(known: &Source, now: Timestamp) -> bool {
    // A clock that was set back does not silence a source.
    known.told_at.is_none_or(|told| now.duration_since(told).abs() >= WINDOW)
}

fn tell(source: Option<IpAddr>, known: &mut Source, now: Timestamp) -> Refusals {
    known.told_at = Some(now);
    Refusals { source, count: std::mem::take(&mut known.untold) }
}

/// One machine has as many IPv6 addresses as it likes, all in its network.
#[must_use]
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn source(text: &str) -> Option<IpAddr> {
        text.parse().ok()
    }

    #[test]
    fn a_source_is_told_of_once_a_minute_with_all_that_came_since() {
        let strangers = Strangers::default();
        let one = source("192.0.2.1");
        assert_eq!(strangers.count(one, at(0)), Some(Refusals { source: one, count: 1 }));
        for second in 1..60 {
            assert_eq!(strangers.count(one, at(second)), None);
        }
        let other = source("192.0.2.2");
        assert_eq!(strangers.count(other, at(59)), Some(Refusals { source: other, count: 1 }));
        assert_eq!(strangers.count(one, at(60)), Some(Refusals { source: one, count: 60 }));

        assert_eq!(strangers.count(one, at(61)), None);
        assert_eq!(strangers.due(at(119)), []);
        assert_eq!(strangers.due(at(120)), [Refusals { source: one, count: 1 }]);
        assert_eq!(strangers.due(at(1000)), []);
    }

    #[test]
    fn what_was_not_written_is_counted_with_the_next() {
        let strangers = Strangers::default();
        let one = source("192.0.2.1");
        strangers.put_back(strangers.count(one, at(0)).unwrap());
        assert_eq!(strangers.count(one, at(60)), Some(Refusals { source: one, count: 2 }));
    }

    #[test]
    fn an_ipv6_source_is_its_network() {
        let strangers = Strangers::default();
        let network = source("2001:db8:1:2::");
        let told = strangers.count(source("2001:db8:1:2::5"), at(0));
        assert_eq!(told, Some(Refusals { source: network, count: 1 }));
        assert_eq!(strangers.count(source("2001:db8:1:2:ffff::1"), at(1)), None);
        assert!(strangers.count(source("2001:db8:1:3::1"), at(1)).is_some());
        // The same machine over a socket that takes both.
        assert!(strangers.count(source("192.0.2.1"), at(1)).is_some());
        assert_eq!(strangers.count(source("::ffff:192.0.2.1"), at(1)), None);
    }

    #[test]
    fn however_many_sources_there_are_memory_and_rows_are_bounded() {
        let strangers = Strangers::default();
        let (mut rows, mut refused) = (0, 0);
        for n in 0..10_000_u32 {
            let source = Some(IpAddr::V4(n.into()));
            rows += u64::from(strangers.count(source, at(0)).is_some());
            refused += 1;
        }
        assert!(locked(&strangers.0).len() <= MOST + 1);
        assert!(rows <= 1025, "{rows}");
        // None is forgotten: one row told of one refusal.
        let late: u64 = strangers.due(at(60)).iter().map(|refusals| refusals.count).sum();
        assert_eq!(rows + late, refused);
    }
}
