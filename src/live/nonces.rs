//! Nonces that good signatures have spent within their window.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use jiff::Timestamp;
use sha2::{Digest, Sha256};

use super::{SHARDS, locked, seconds};
use crate::store::nonces::WriteNonce;

/// How far behind the server's clock a timestamp may be (piston's `timestamp_threshold`).
pub const PAST: u64 = 300;
/// How far ahead of it: a clock step, not a clock fault.
pub const FUTURE: u64 = 2;

/// Enough for 14,000 signed requests a second over the whole window; past it, requests are turned
/// away instead of forgetting a nonce.
const MOST_NONCES: usize = 1 << 22;

/// Why a timestamp or nonce was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stale {
    TooOld,
    TooNew,
    /// Stamped before this process could know what was spent.
    BeforeStart,
    Spent,
    Full,
}

/// Digests that were spent, in a table of which a look-up touches one place: that is rarely in a
/// cache, and costs more than the hash. Zero is an empty place; no digest is.
struct Digests {
    places: Vec<u64>,
    count: usize,
}

impl Digests {
    /// As large as one that holds so many.
    fn with_room(count: usize) -> Digests {
        let places = (count * 4).div_ceil(3).next_power_of_two().max(4);
        Digests { places: vec![0; places], count: 0 }
    }

    /// Whether it is a new one. `spread` is an odd number that nobody knows, or who signs could
    /// choose nonces that all want the same place.
    fn insert(&mut self, digest: u64, spread: u64) -> bool {
        if (self.count + 1) * 4 > self.places.len() * 3 {
            let mut larger = Digests::with_room((self.count + 1) * 2);
            for digest in self.iter() {
                larger.insert(digest, spread);
            }
            *self = larger;
        }
        let wanted = digest.wrapping_mul(spread) >> (64 - self.places.len().ilog2());
        let mut at = usize::try_from(wanted).unwrap_or_default();
        loop {
            match &mut self.places[at] {
                empty @ 0 => {
                    *empty = digest;
                    self.count += 1;
                    return true;
                }
                taken if *taken == digest => return false,
                _ => at = (at + 1) % self.places.len(),
            }
        }
    }

    fn iter(&self) -> impl Iterator<Item = u64> {
        self.places.iter().copied().filter(|digest| *digest != 0)
    }
}

#[derive(Default)]
struct Shard {
    /// By second of timestamp: those of one second are few enough to stay near.
    spent: BTreeMap<u64, Digests>,
    /// Timestamps up to here were forgotten, and are refused should the clock be set back.
    forgotten: u64,
}

/// Nonces spent within the window, by (token, timestamp, nonce) (RFC 5849 §3.3).
pub struct Nonces {
    shards: [Mutex<Shard>; SHARDS],
    count: AtomicUsize,
    most: usize,
    /// Timestamps up to here are refused: an earlier process may have seen them.
    floor: u64,
    spread: u64,
}

impl Nonces {
    /// `floor` in seconds since the epoch; 0 when nothing can have been spent before.
    #[must_use]
    pub fn new(floor: u64) -> Nonces {
        Nonces {
            shards: std::array::from_fn(|_| Mutex::default()),
            count: AtomicUsize::new(0),
            most: MOST_NONCES,
            floor,
            spread: RandomState::new().hash_one(0) | 1,
        }
    }

    /// Timestamps up to here are refused.
    #[must_use]
    pub fn floor(&self) -> u64 {
        self.floor
    }

    /// Spends a nonce of a request whose signature was good.
    ///
    /// # Errors
    /// [`Stale`]; nothing is spent then.
    pub fn spend(
        &self,
        token_key: &str,
        timestamp: u64,
        nonce: &str,
        now: Timestamp,
    ) -> Result<(), Stale> {
        let now = seconds(now);
        if timestamp.saturating_add(PAST) < now {
            return Err(Stale::TooOld);
        }
        if timestamp > now + FUTURE {
            return Err(Stale::TooNew);
        }
        if timestamp <= self.floor {
            return Err(Stale::BeforeStart);
        }
        self.insert(timestamp, digest(token_key, timestamp, nonce), now)
    }

    fn insert(&self, timestamp: u64, digest: u64, now: u64) -> Result<(), Stale> {
        let mut shard = locked(&self.shards[usize::from(digest.to_be_bytes()[3]) % SHARDS]);
        // Whole seconds go, once they are out of the window.
        while let Some(oldest) = shard.spent.first_entry()
            && oldest.key().saturating_add(PAST) < now
        {
            let second = *oldest.key();
            self.count.fetch_sub(oldest.remove().count, Ordering::Relaxed);
            shard.forgotten = shard.forgotten.max(second);
        }
        if timestamp <= shard.forgotten {
            return Err(Stale::TooOld);
        }
        if self.count.load(Ordering::Relaxed) >= self.most {
            return Err(Stale::Full);
        }
        let shard = &mut *shard;
        let digests = if let Some(digests) = shard.spent.get_mut(&timestamp) {
            digests
        } else {
            // As large as the one before it, so that a steady load seldom makes it grow.
            let before = timestamp.checked_sub(1).and_then(|second| shard.spent.get(&second));
            let room = Digests::with_room(before.map_or(0, |before| before.count));
            shard.spent.entry(timestamp).or_insert(room)
        };
        if digests.insert(digest, self.spread) {
            self.count.fetch_add(1, Ordering::Relaxed);
            Ok(())
        } else {
            Err(Stale::Spent)
        }
    }

    /// What a clean stop leaves for the next start: the newest timestamp that was forgotten, then
    /// one line an entry, timestamp and digest.
    #[must_use]
    pub fn save(&self) -> String {
        use std::fmt::Write as _;
        let forgotten = self.shards.iter().map(|shard| locked(shard).forgotten).max();
        let floor = forgotten.unwrap_or(0).max(self.floor);
        let mut out = format!("nodeinit nonces 2 {floor}\n");
        for shard in &self.shards {
            for (second, digests) in &locked(shard).spent {
                for digest in digests.iter() {
                    let _ = writeln!(out, "{second} {digest:016x}");
                }
            }
        }
        out
    }

    /// Takes in what [`Nonces::save`] left.
    ///
    /// # Errors
    /// When the text is not whole: then it cannot be relied on.
    pub fn load(saved: &str, now: Timestamp) -> Result<Nonces, String> {
        let mut lines = saved.lines();
        let head = lines.next().and_then(|line| line.strip_prefix("nodeinit nonces 2 "));
        let Some(Ok(floor)) = head.map(str::parse).filter(|_| saved.ends_with('\n')) else {
            return Err("it is not a list of nonces of this version".into());
        };
        let nonces = Nonces::new(floor);
        for line in lines {
            let entry = line.split_once(' ').and_then(|(second, digest)| {
                Some((second.parse().ok()?, u64::from_str_radix(digest, 16).ok()?.max(1)))
            });
            let Some((second, digest)) = entry else { return Err("a line is broken".into()) };
            // One that is out of the window by now is not needed any more.
            let _ = nonces.insert(second, digest, seconds(now));
        }
        Ok(nonces)
    }
}

/// The same nonce as a write spends it in the database.
#[must_use]
pub fn write_nonce(token_key: &str, timestamp: u64, nonce: &str) -> WriteNonce {
    let mut hash = Sha256::new();
    hash.update(token_key.as_bytes());
    hash.update([0]);
    hash.update(timestamp.to_be_bytes());
    hash.update(nonce.as_bytes());
    WriteNonce { digest: hash.finalize().into(), timestamp }
}

/// Of a timestamp below 2^40, which is any in a window. With a nonce of cloud-init's, 30 digits at
/// most, it is one block of the hash. 64 bits: of the most that are kept at once one is taken for
/// another once in 10^12 requests, and who could seek such a one would need the token's secret.
fn digest(token_key: &str, timestamp: u64, nonce: &str) -> u64 {
    let mut hash = Sha256::new();
    hash.update(&timestamp.to_be_bytes()[3..]);
    hash.update(token_key.as_bytes());
    hash.update([0]);
    hash.update(nonce.as_bytes());
    let whole: [u8; 32] = hash.finalize().into();
    let (short, _) = whole.split_first_chunk().expect("32 bytes begin with 8");
    u64::from_be_bytes(*short).max(1)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    proptest! {
        #[test]
        fn digests_are_a_set(
            digests in vec(prop_oneof![1..40_u64, (1..40_u64).prop_map(|high| high << 58), 1..u64::MAX], 0..400),
            spread: u64,
            room in 0..100_usize,
        ) {
            let (mut ours, mut set) = (Digests::with_room(room), HashSet::new());
            for digest in &digests {
                prop_assert_eq!(ours.insert(*digest, spread | 1), set.insert(*digest));
            }
            prop_assert_eq!(ours.count, set.len());
            prop_assert_eq!(ours.iter().collect::<HashSet<_>>(), set);
        }
    }

    const NOW: i64 = 1_800_000_000;
    const TS: u64 = 1_800_000_000;

    #[test]
    fn a_nonce_is_spent_once_per_token_timestamp_and_nonce() {
        let nonces = Nonces::new(0);
        assert_eq!(nonces.spend("k1", TS, "n", at(NOW)), Ok(()));
        assert_eq!(nonces.spend("k1", TS, "n", at(NOW)), Err(Stale::Spent));
        assert_eq!(nonces.spend("k2", TS, "n", at(NOW)), Ok(()));
        assert_eq!(nonces.spend("k1", TS - 1, "n", at(NOW)), Ok(()));
        assert_eq!(nonces.spend("k1", TS, "m", at(NOW)), Ok(()));
    }

    #[test]
    fn the_window_is_300_seconds_back_and_2_ahead() {
        let nonces = Nonces::new(0);
        for (ts, verdict) in [
            (TS - 300, Ok(())),
            (TS - 301, Err(Stale::TooOld)),
            (TS + 2, Ok(())),
            (TS + 3, Err(Stale::TooNew)),
            (u64::MAX, Err(Stale::TooNew)),
            (0, Err(Stale::TooOld)),
        ] {
            assert_eq!(nonces.spend("k", ts, "n", at(NOW)), verdict, "{ts}");
        }
    }

    #[test]
    fn nothing_stamped_up_to_the_floor_is_taken() {
        let nonces = Nonces::new(TS + 2);
        assert_eq!(nonces.spend("k", TS + 2, "n", at(NOW + 1)), Err(Stale::BeforeStart));
        assert_eq!(nonces.spend("k", TS + 3, "n", at(NOW + 1)), Ok(()));
    }

    #[test]
    fn a_nonce_is_forgotten_only_when_its_timestamp_is_out_of_the_window() {
        let nonces = Nonces::new(0);
        nonces.spend("k", TS + 2, "n", at(NOW)).unwrap();
        for later in 0..=302 {
            assert_eq!(
                nonces.spend("k", TS + 2, "n", at(NOW + later)),
                Err(Stale::Spent),
                "{later}"
            );
            // Others come and go in every shard meanwhile.
            for i in 0..64 {
                let _ = nonces.spend(
                    "k",
                    TS + u64::try_from(later).unwrap(),
                    &format!("{later}-{i}"),
                    at(NOW + later),
                );
            }
        }
        assert_eq!(nonces.spend("k", TS + 2, "n", at(NOW + 303)), Err(Stale::TooOld));
    }

    #[test]
    fn a_clock_set_back_does_not_bring_a_forgotten_nonce_back() {
        let nonces = Nonces::new(0);
        nonces.spend("k", TS, "n", at(NOW)).unwrap();
        for i in 0..1000 {
            let _ = nonces.spend("k", TS + 900, &i.to_string(), at(NOW + 900));
        }
        assert_eq!(nonces.spend("k", TS, "n", at(NOW)), Err(Stale::TooOld));
        let after = Nonces::load(&nonces.save(), at(NOW)).unwrap();
        assert_eq!(after.spend("k", TS, "n", at(NOW)), Err(Stale::BeforeStart));
    }

    #[test]
    fn the_set_does_not_grow_for_ever() {
        let nonces = Nonces::new(0);
        for step in 0..2000_i64 {
            for i in 0..64 {
                nonces
                    .spend("k", TS + u64::try_from(step).unwrap(), &i.to_string(), at(NOW + step))
                    .unwrap();
            }
        }
        let kept = nonces.count.load(Ordering::Relaxed);
        assert!(kept < 64 * 400, "{kept} kept of a window of 302 seconds");
    }

    #[test]
    fn a_full_set_takes_more_once_the_window_has_moved() {
        let nonces = Nonces { most: 100, ..Nonces::new(0) };
        let spend = |ts, now| {
            (0..200).filter(|i| nonces.spend("k", ts, &i.to_string(), at(now)).is_ok()).count()
        };
        assert_eq!(spend(TS, NOW), 100);
        assert_eq!(nonces.spend("k", TS, "more", at(NOW)), Err(Stale::Full));
        // Each shard drops what is old as it is asked, so the first few may still be turned away.
        spend(TS + 400, NOW + 400);
        assert!(
            nonces.spend("k", TS + 401, "more", at(NOW + 401)).is_ok()
                || spend(TS + 401, NOW + 401) > 0
        );
    }

    #[test]
    fn a_clean_stop_hands_the_nonces_on() {
        let before = Nonces::new(0);
        for i in 0..500 {
            before.spend("k", TS, &i.to_string(), at(NOW)).unwrap();
        }
        let after = Nonces::load(&before.save(), at(NOW + 1)).unwrap();
        for i in 0..500 {
            assert_eq!(after.spend("k", TS, &i.to_string(), at(NOW + 1)), Err(Stale::Spent));
        }
        assert_eq!(after.spend("k", TS, "fresh", at(NOW + 1)), Ok(()));
    }

    #[test]
    fn a_cut_list_of_nonces_is_not_believed() {
        let nonces = Nonces::new(0);
        nonces.spend("k", TS, "n", at(NOW)).unwrap();
        let saved = nonces.save();
        for end in 0..saved.len() {
            if saved[..end] == *"nodeinit nonces 2 0\n" {
                continue; // a whole list of none: only the rename that puts it there makes it whole
            }
            assert!(Nonces::load(&saved[..end], at(NOW)).is_err(), "{end}");
        }
    }

    #[test]
    fn a_list_of_nonces_from_a_clock_gone_mad_harms_nobody() {
        let saved = format!("nodeinit nonces 2 0\n{} 000000000000000a\n{TS} 0\n", u64::MAX);
        let nonces = Nonces::load(&saved, at(NOW)).unwrap();
        for i in 0..500 {
            assert_eq!(nonces.spend("k", TS, &i.to_string(), at(NOW)), Ok(()));
        }
    }

    #[test]
    fn eight_threads_racing_one_nonce_have_one_winner() {
        let nonces = Nonces::new(0);
        for round in 0..200 {
            let won: usize = std::thread::scope(|scope| {
                let racers: Vec<_> = (0..8)
                    .map(|_| {
                        scope.spawn(|| nonces.spend("k", TS, &round.to_string(), at(NOW)).is_ok())
                    })
                    .collect();
                racers.into_iter().map(|racer| usize::from(racer.join().unwrap())).sum()
            });
            assert_eq!(won, 1);
        }
    }
}
