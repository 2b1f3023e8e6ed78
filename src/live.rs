//! Memory in front of the store: spent nonces, what reads taught, how fast each node asks, and the
//! rules in force.

pub mod identities;
mod nonces;
mod observed;
pub mod policy;
pub mod strangers;
pub mod view;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;

pub use nonces::{FUTURE, Nonces, PAST, Stale, write_nonce};
pub use observed::{Observed, Refused, Seen, Skew};

use crate::domain::boot::{Item, Learned};
use crate::store::columns::Id;
use view::Entry;

const SHARDS: usize = 64;

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // None of these maps is left half-changed by a panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whole seconds since the epoch, as OAuth counts.
#[must_use]
pub fn seconds(at: Timestamp) -> u64 {
    u64::try_from(at.as_second()).unwrap_or(0)
}

/// What reads teach, until it is committed in one batch: no read waits for a write.
pub struct Learnt([Mutex<HashMap<Id, Learned>>; SHARDS]);

impl Default for Learnt {
    fn default() -> Learnt {
        Learnt(std::array::from_fn(|_| Mutex::default()))
    }
}

impl Learnt {
    fn of(&self, token: Id) -> MutexGuard<'_, HashMap<Id, Learned>> {
        locked(&self.0[usize::from(token.0.as_bytes()[15]) % SHARDS])
    }

    /// A token was used at `now`, unless that was noted a moment ago.
    pub fn used(&self, entry: &Entry, now: Timestamp) {
        if entry.notes_use(now) {
            self.of(entry.token).entry(entry.token).or_default().used = Some(now);
        }
    }

    /// A read of a token was answered: a listing, or an item with the digest of what it held.
    pub fn read(&self, entry: &Entry, item: Option<(Item, [u8; 32])>, now: Timestamp) {
        if !entry.notes_read(item.map(|(item, _)| item), now) {
            return;
        }
        let mut map = self.of(entry.token);
        let learned = map.entry(entry.token).or_default();
        learned.contacted.get_or_insert(now);
        if let Some((item, digest)) = item {
            learned.items[item as usize] = Some((now, digest));
        }
    }

    /// Takes out what has gathered, in key order.
    #[must_use]
    pub fn take(&self) -> Vec<(Id, Learned)> {
        let maps = self.0.iter().map(|shard| std::mem::take(&mut *locked(shard)));
        let mut gathered: Vec<_> = maps.flatten().collect();
        gathered.sort_unstable_by_key(|(token, _)| *token);
        gathered
    }

    /// Takes out what has gathered of these tokens, to be committed with what they report.
    #[must_use]
    pub fn take_of(&self, tokens: &BTreeSet<Id>) -> Vec<(Id, Learned)> {
        tokens.iter().filter_map(|token| self.of(*token).remove_entry(token)).collect()
    }

    /// Puts back what could not be committed; what came since wins.
    pub fn put_back(&self, gathered: Vec<(Id, Learned)>) {
        for (token, learned) in gathered {
            self.of(token).entry(token).or_default().follow(learned);
        }
    }
}

fn shard(name: &str) -> usize {
    name.bytes().fold(0_usize, |hash, b| hash.wrapping_mul(31) ^ usize::from(b)) % SHARDS
}

struct Bucket {
    left: f64,
    at: Instant,
}

/// A token bucket a name: so many requests a second, so many at once.
pub struct Pace {
    rate: f64,
    burst: f64,
    shards: [Mutex<HashMap<String, Bucket>>; SHARDS],
}

/// A shard drops its idle nodes when it has grown this large.
const MOST_PACED: usize = 4096;

impl Pace {
    #[must_use]
    pub fn new(rate: u32, burst: u32) -> Pace {
        Pace {
            rate: f64::from(rate),
            burst: f64::from(burst),
            shards: std::array::from_fn(|_| Mutex::default()),
        }
    }

    /// So many at once, and one more after each `every`.
    #[must_use]
    pub fn slow(every: Duration, burst: u32) -> Pace {
        Pace { rate: every.as_secs_f64().recip(), ..Pace::new(1, burst) }
    }

    /// Takes back what [`Pace::take`] counted.
    pub fn give_back(&self, name: &str) {
        if let Some(bucket) = locked(&self.shards[shard(name)]).get_mut(name) {
            bucket.left = (bucket.left + 1.0).min(self.burst);
        }
    }

    /// Counts one request of `name`, a node or a source address.
    ///
    /// # Errors
    /// How long until the next would be taken.
    pub fn take(&self, name: &str, at: Instant) -> Result<(), Duration> {
        let mut buckets = locked(&self.shards[shard(name)]);
        let Some(bucket) = buckets.get_mut(name) else {
            if buckets.len() >= MOST_PACED {
                buckets.retain(|_, bucket| self.filled(bucket, at) < self.burst);
            }
            buckets.insert(name.to_owned(), Bucket { left: self.burst - 1.0, at });
            return Ok(());
        };
        bucket.left = self.filled(bucket, at);
        bucket.at = at;
        if bucket.left >= 1.0 {
            bucket.left -= 1.0;
            Ok(())
        } else {
            Err(Duration::from_secs_f64((1.0 - bucket.left) / self.rate))
        }
    }

    fn filled(&self, bucket: &Bucket, at: Instant) -> f64 {
        let gone = at.saturating_duration_since(bucket.at).as_secs_f64();
        (bucket.left + gone * self.rate).min(self.burst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_may_burst_and_then_keeps_its_pace() {
        let pace = Pace::new(50, 200);
        let start = Instant::now();
        assert_eq!((0..300).filter(|_| pace.take("n", start).is_ok()).count(), 200);
        assert_eq!(pace.take("n", start), Err(Duration::from_millis(20)));
        assert_eq!(pace.take("other", start), Ok(()), "one node's haste is not another's");
        let later = start + Duration::from_secs(1);
        assert_eq!((0..300).filter(|_| pace.take("n", later).is_ok()).count(), 50);
    }
}
