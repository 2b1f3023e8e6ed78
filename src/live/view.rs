//! The live view: tokens used lately, each with its node and what that is served, so that an
//! authenticated read asks no database. What the change log names is forgotten.

use std::collections::{HashMap, VecDeque};
use std::hash::RandomState;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use diesel::QueryResult;
use jiff::Timestamp;
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{OptionsBuilder, Weighter};
use sha2::{Digest, Sha256};
use tokio::sync::{Notify, oneshot};

use super::locked;
use crate::domain::boot::Item;
use crate::domain::credentials::{ConsumerKey, KEY_LENGTH, Secret, TokenKey};
use crate::domain::metadata::{MetadataKey, NodeMetadata};
use crate::domain::node::SystemId;
use crate::domain::seal::Sealer;
use crate::oauth::{Begun, Claim, SignedRequest, verify_begun};
use crate::store::changes::{self, News, Position};
use crate::store::columns::Id;
use crate::store::contents::{self, Held};
use crate::store::tokens::{self, Known};
use crate::store::{Db, DbConnection, DbError, nodes};

/// What has not been confirmed for this long is not served (CONTRACT §5).
const CONFIRMED_FOR: Duration = Duration::from_secs(5);
/// How often the change log is read: what another replica ended is felt within a second.
pub const POLL: Duration = Duration::from_millis(250);
/// Rows of the change log are kept this long at least. Whoever has not read them by then has not
/// served anything for minutes, and a transaction that wrote them has long been over.
const LOGGED_FOR: Duration = Duration::from_mins(5);
/// How long keys gather after a look-up: one alone costs as much as ten together, and a flood of
/// unknown keys would come one by one.
const GATHER: Duration = Duration::from_millis(1);
/// Keys that are looked up together.
const BATCH: usize = 256;
/// Keys that wait to be looked up. Whoever knows none of them can fill only this.
const MOST_WAITING: usize = 8192;
/// How long a look-up tries to reach the database: a restart of it is over by then, and an old
/// cloud-init never asks a second time.
const REACH: Duration = Duration::from_secs(5);
const TRY_AGAIN: Duration = Duration::from_millis(100);
/// The same use of the same token teaches nothing new within this, in microseconds.
const TAUGHT_FOR: i64 = 5_000_000;

type Key = [u8; KEY_LENGTH];

/// Content of a node: its bytes are elsewhere, under their digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    pub sha256: [u8; 32],
}

/// A token and what it takes to believe and to serve it.
pub struct Entry {
    pub token: Id,
    key: Key,
    pub system_id: Box<str>,
    /// Whether it speaks for a node; only such are remembered.
    pub standing: Standing,
    consumer_key: ConsumerKey,
    secret: Secret,
    begun: Begun,
    /// When a superseded token's time is up.
    retires_at: Option<Timestamp>,
    pub user_data: Option<Content>,
    pub vendor_data: Option<Content>,
    /// Its values and the listing of their keys, one after another, each up to its end.
    values: Box<str>,
    ends: [u32; 4],
    /// SHA-256 of each value.
    digests: [[u8; 32]; 3],
    /// When its use was noted last, and each item and the skew of its clock: microseconds.
    used: AtomicI64,
    taught: [AtomicI64; Item::ALL.len() + 1],
    skew: AtomicI64,
    skew_at: AtomicI64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    SpeaksForNode,
    /// Signed well, it belongs to no node.
    NoNode,
    Ended,
}

impl Entry {
    /// # Errors
    /// When the node's row cannot be read.
    fn new(known: Known, secret: Secret, held: Option<&Held>) -> Result<Entry, String> {
        let mut values = String::new();
        let mut ends = [0; 4];
        let mut digests = [[0; 32]; 3];
        if let Some(node) = &known.node {
            let metadata = NodeMetadata {
                system_id: SystemId::parse(&node.system_id)?,
                reprovisions: node.reprovisions,
                hostname: node.hostname.clone(),
                ssh_keys: nodes::ssh_keys(&node.ssh_keys).map_err(|e| e.to_string())?,
            };
            for (at, key) in VALUES.into_iter().enumerate() {
                // No keys are an empty list in MAAS too (test_public_keys_for_node_without_…).
                let value = metadata.value(key).unwrap_or_default();
                values.push_str(&value);
                ends[at] = u32::try_from(values.len()).map_err(|_| "a value is too long")?;
                digests[at] = Sha256::digest(&value).into();
            }
            let has_vendor_data = held.is_some_and(|held| held.vendor_data.is_some());
            values.push_str(&metadata.listing(has_vendor_data));
            ends[3] = u32::try_from(values.len()).map_err(|_| "a value is too long")?;
        }
        let standing = match &known.node {
            _ if known.ended => Standing::Ended,
            None => Standing::NoNode,
            Some(_) => Standing::SpeaksForNode,
        };
        let system_id = known.node.map(|node| node.system_id).or(known.made_for);
        let key = Key::try_from(known.token_key.as_str().as_bytes());
        Ok(Entry {
            token: known.id,
            key: key.map_err(|_| "a token key has another length")?,
            system_id: system_id.unwrap_or_default().into(),
            standing,
            consumer_key: known.consumer_key,
            secret,
            begun: Begun::default(),
            retires_at: known.retires_at,
            user_data: held.and_then(|held| held.user_data).map(|sha256| Content { sha256 }),
            vendor_data: held.and_then(|held| held.vendor_data).map(|sha256| Content { sha256 }),
            values: values.into(),
            ends,
            digests,
            used: AtomicI64::new(known.last_used_at.map_or(i64::MIN, Timestamp::as_microsecond)),
            taught: [const { AtomicI64::new(i64::MIN) }; Item::ALL.len() + 1],
            skew: AtomicI64::new(0),
            skew_at: AtomicI64::new(i64::MIN),
        })
    }

    /// A token that no request can name, which an unknown one is verified against.
    #[must_use]
    pub fn nobody(consumer_key: ConsumerKey, secret: Secret) -> Entry {
        Entry {
            token: Id(uuid::Uuid::nil()),
            key: [0; KEY_LENGTH],
            system_id: "".into(),
            standing: Standing::NoNode,
            consumer_key,
            secret,
            begun: Begun::default(),
            retires_at: None,
            user_data: None,
            vendor_data: None,
            values: "".into(),
            ends: [0; 4],
            digests: [[0; 32]; 3],
            used: AtomicI64::new(i64::MIN),
            taught: [const { AtomicI64::new(i64::MIN) }; Item::ALL.len() + 1],
            skew: AtomicI64::new(0),
            skew_at: AtomicI64::new(i64::MIN),
        }
    }

    #[must_use]
    pub fn token_key(&self) -> &str {
        std::str::from_utf8(&self.key).unwrap_or_default()
    }

    #[must_use]
    pub fn consumer_key(&self) -> &ConsumerKey {
        &self.consumer_key
    }

    /// Whether whoever made this claim knows its secret; the consumer's is always empty.
    #[must_use]
    pub fn signed(&self, claim: &Claim<'_>, request: &SignedRequest<'_>) -> bool {
        verify_begun(claim, request, ["", self.secret.expose()], &self.begun)
    }

    /// Whether it has ended: a superseded one at its deadline, swept or not.
    #[must_use]
    pub fn has_ended(&self, now: Timestamp) -> bool {
        self.standing == Standing::Ended || self.retires_at.is_some_and(|at| at <= now)
    }

    /// A value of the node and its digest; `None` for vendor-data, which is content.
    #[must_use]
    pub fn value(&self, key: MetadataKey) -> Option<(&str, [u8; 32])> {
        let at = VALUES.iter().position(|value| *value == key)?;
        let start = if at == 0 { 0 } else { self.ends[at - 1] as usize };
        Some((&self.values[start..self.ends[at] as usize], self.digests[at]))
    }

    /// The listing of `meta-data/`.
    #[must_use]
    pub fn listing(&self) -> &str {
        &self.values[self.ends[2] as usize..]
    }

    /// Whether its use now is worth noting.
    #[must_use]
    pub fn notes_use(&self, now: Timestamp) -> bool {
        is_due(&self.used, now.as_microsecond(), TAUGHT_FOR)
    }

    /// Whether serving this item now, or a listing, is worth noting.
    #[must_use]
    pub fn notes_read(&self, item: Option<Item>, now: Timestamp) -> bool {
        let at = item.map_or(Item::ALL.len(), |item| item as usize);
        is_due(&self.taught[at], now.as_microsecond(), TAUGHT_FOR)
    }

    /// Whether the node's clock is worth noting: it is off by something else, or it is a while ago.
    #[must_use]
    pub fn notes_skew(&self, seconds: i64, now: Timestamp) -> bool {
        let same = self.skew.swap(seconds, Ordering::Relaxed).abs_diff(seconds) <= 1;
        is_due(&self.skew_at, now.as_microsecond(), TAUGHT_FOR) || !same
    }

    fn bytes(&self) -> usize {
        // The entry, what it points to, and its places in the cache.
        size_of::<Entry>()
            + Begun::BYTES
            + self.values.len()
            + self.system_id.len()
            + KEY_LENGTH
            + 32
            + 128
    }
}

/// Sets a time to now if that is a step later, or earlier: a clock was set back.
fn is_due(last: &AtomicI64, now: i64, step: i64) -> bool {
    let before = last.load(Ordering::Relaxed);
    let due = now.saturating_sub(before) >= step || now < before;
    if due {
        last.store(now, Ordering::Relaxed);
    }
    due
}

const VALUES: [MetadataKey; 3] =
    [MetadataKey::InstanceId, MetadataKey::LocalHostname, MetadataKey::PublicKeys];

/// Why a key was not looked up.
#[derive(Clone, Debug)]
pub enum Unfilled {
    Store(String),
    /// The stored secret does not open.
    Seal,
}

type Found = Result<Option<Arc<Entry>>, Unfilled>;

#[derive(Clone)]
struct ByBytes;

impl Weighter<Key, Arc<Entry>> for ByBytes {
    fn weight(&self, _: &Key, entry: &Arc<Entry>) -> u64 {
        entry.bytes() as u64
    }
}

impl Weighter<[u8; 32], Bytes> for ByBytes {
    fn weight(&self, _: &[u8; 32], bytes: &Bytes) -> u64 {
        bytes.len() as u64 + 128
    }
}

type Bounded<K, V> = Cache<K, V, ByBytes, RandomState, DefaultLifecycle<K, V>>;

/// `parts` share the bound among them, so nothing larger than one of them is kept.
fn bounded<K: Eq + std::hash::Hash, V: Clone>(bytes: u64, each: u64, parts: usize) -> Bounded<K, V>
where
    ByBytes: Weighter<K, V>,
{
    // Sized for some; it grows up to the bound.
    let items = usize::try_from(bytes / each).unwrap_or(usize::MAX).min(10_000);
    let options = OptionsBuilder::new()
        .estimated_items_capacity(items)
        .weight_capacity(bytes)
        .shards(parts)
        .build()
        .expect("capacity and items are given");
    Cache::with_options(options, ByBytes, RandomState::new(), DefaultLifecycle::default())
}

/// Keys on their way into memory.
#[derive(Default)]
struct Pending {
    order: VecDeque<Key>,
    queued: HashMap<Key, Vec<oneshot::Sender<Found>>>,
    reading: HashMap<Key, Reading>,
}

/// A key that is being read.
#[derive(Default)]
struct Reading {
    waiting: Vec<oneshot::Sender<Found>>,
    /// It was changed since the read began: whoever waits may have what was read, nobody else.
    gave_way: bool,
    /// Several reads of one key may be under way after it was changed; only the last is kept.
    turn: u64,
}

/// See the head of this file.
pub struct View {
    tokens: Bounded<Key, Arc<Entry>>,
    contents: Bounded<[u8; 32], Bytes>,
    pending: Mutex<Pending>,
    more: Notify,
    turns: AtomicU64,
    log: Mutex<Option<Arc<Position>>>,
    /// Where the log ended at each sweep, the oldest first.
    ends: Mutex<VecDeque<(Instant, i64)>>,
    started: Instant,
    hits: AtomicU64,
    misses: AtomicU64,
    /// When the change log was read last, in milliseconds since the start.
    confirmed: AtomicU64,
}

impl View {
    /// A view that holds so many bytes: three quarters for tokens, the rest for content.
    #[must_use]
    pub fn new(bytes: usize) -> View {
        let bytes = bytes as u64;
        View {
            tokens: bounded(bytes / 4 * 3, 1024, 64),
            contents: bounded(bytes / 4, 16 << 10, 1),
            pending: Mutex::default(),
            more: Notify::new(),
            turns: AtomicU64::new(0),
            log: Mutex::default(),
            ends: Mutex::default(),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            started: Instant::now(),
            confirmed: AtomicU64::new(0),
        }
    }

    /// Whether what is in memory may be served: the change log was read a short while ago.
    #[must_use]
    pub fn is_confirmed(&self, at: Instant) -> bool {
        let confirmed = Duration::from_millis(self.confirmed.load(Ordering::Relaxed));
        let since = at.saturating_duration_since(self.started);
        since.saturating_sub(confirmed) <= CONFIRMED_FOR
    }

    /// The token in memory, if it is there and may be relied on.
    #[must_use]
    pub fn get(&self, key: &str, at: Instant) -> Option<Arc<Entry>> {
        let key: Key = key.as_bytes().try_into().ok()?;
        let entry = self.tokens.get(&key).filter(|_| self.is_confirmed(at))?;
        self.hits.fetch_add(1, Ordering::Relaxed);
        Some(entry)
    }

    /// How many look-ups memory answered, and how many it did not.
    #[must_use]
    pub fn look_ups(&self) -> [u64; 2] {
        [&self.hits, &self.misses].map(|count| count.load(Ordering::Relaxed))
    }

    /// The token, from memory or from the database; one look-up for all who ask at once.
    ///
    /// # Errors
    /// [`Unfilled`].
    pub async fn find(&self, key: &str) -> Found {
        // No token has a key that does not look like one.
        let looks_like_one = TokenKey::parse(key).and_then(|_| key.as_bytes().try_into().ok());
        let Some(key): Option<Key> = looks_like_one else { return Ok(None) };
        if !self.is_confirmed(Instant::now()) {
            return Err(Unfilled::Store("the database has not answered for a while".into()));
        }
        if let Some(entry) = self.tokens.get(&key) {
            self.hits.fetch_add(1, Ordering::Relaxed);
            return Ok(Some(entry));
        }
        self.misses.fetch_add(1, Ordering::Relaxed);
        let (sender, found) = oneshot::channel();
        {
            let mut pending = locked(&self.pending);
            // It may have come in between.
            if let Some(entry) = self.tokens.get(&key) {
                return Ok(Some(entry));
            }
            let Pending { order, queued, reading } = &mut *pending;
            if let Some(reading) = reading.get_mut(&key).filter(|reading| !reading.gave_way) {
                reading.waiting.push(sender);
            } else if let Some(waiting) = queued.get_mut(&key) {
                waiting.push(sender);
            } else if order.len() >= MOST_WAITING {
                return Err(Unfilled::Store("too many unknown keys are being looked up".into()));
            } else {
                order.push_back(key);
                queued.insert(key, vec![sender]);
            }
        }
        self.more.notify_one();
        found.await.unwrap_or_else(|_| Err(Unfilled::Store("the look-up ended".into())))
    }

    /// Looks up what is asked for: runs for ever. Two of these are the bound of their own that
    /// unknown keys pass.
    pub async fn run(&self, db: &Db, sealer: &Sealer) {
        loop {
            let (turn, keys) = self.take();
            if keys.is_empty() {
                self.more.notified().await;
                continue;
            }
            let began = Instant::now();
            let found = loop {
                let asked = keys.clone();
                let found = db.read_for_node(move |conn| find_held(conn, &asked)).await;
                match found {
                    Err(DbError::NoConnection(_)) if began.elapsed() < REACH => {
                        tokio::time::sleep(TRY_AGAIN).await;
                    }
                    found => break found,
                }
            };
            let found = found.map_err(|error| Unfilled::Store(error.to_string()));
            self.put(turn, &keys, found, sealer);
            tokio::time::sleep(GATHER).await;
        }
    }

    /// The next keys to look up, and the turn they are looked up in.
    fn take(&self) -> (u64, Vec<TokenKey>) {
        let turn = self.turns.fetch_add(1, Ordering::Relaxed);
        let mut pending = locked(&self.pending);
        let Pending { order, queued, reading } = &mut *pending;
        let mut keys = Vec::new();
        while keys.len() < BATCH
            && let Some(key) = order.pop_front()
        {
            let waiting = queued.remove(&key).unwrap_or_default();
            let old = reading.insert(key, Reading { waiting, gave_way: false, turn });
            // A read that gave way goes on for those who asked before the change.
            if let Some(mut old) = old {
                let new = reading.get_mut(&key).expect("it was just put there");
                new.waiting.append(&mut old.waiting);
            }
            keys.extend(TokenKey::parse(std::str::from_utf8(&key).unwrap_or_default()));
        }
        (turn, keys)
    }

    fn put(
        &self,
        turn: u64,
        keys: &[TokenKey],
        found: Result<Vec<(Known, Option<Held>)>, Unfilled>,
        sealer: &Sealer,
    ) {
        let mut entries: HashMap<Key, Found> = HashMap::new();
        let failed = match found {
            Ok(found) => {
                for (known, held) in found {
                    let Ok(key) = Key::try_from(known.token_key.as_str().as_bytes()) else {
                        continue;
                    };
                    entries.insert(key, entry(known, held.as_ref(), sealer).map(Some));
                }
                None
            }
            Err(unfilled) => Some(unfilled),
        };
        let mut answers = Vec::new();
        {
            let mut pending = locked(&self.pending);
            for key in keys {
                let Ok(key) = Key::try_from(key.as_str().as_bytes()) else { continue };
                // A later read of the same key answers for this one.
                if pending.reading.get(&key).is_none_or(|reading| reading.turn != turn) {
                    continue;
                }
                let Some(reading) = pending.reading.remove(&key) else { continue };
                let found = match &failed {
                    Some(unfilled) => Err(unfilled.clone()),
                    None => entries.remove(&key).unwrap_or(Ok(None)),
                };
                if let Ok(Some(entry)) = &found
                    && entry.standing == Standing::SpeaksForNode
                    && !reading.gave_way
                {
                    // Under the lock, so that no eviction comes between this and the look at it.
                    self.tokens.insert(key, entry.clone());
                }
                answers.push((reading.waiting, found));
            }
        }
        for (waiting, found) in answers {
            for sender in waiting {
                let _ = sender.send(found.clone());
            }
        }
    }

    fn forget(&self, key: &str) {
        let Ok(key) = Key::try_from(key.as_bytes()) else { return };
        let mut pending = locked(&self.pending);
        if let Some(reading) = pending.reading.get_mut(&key) {
            reading.gave_way = true;
        }
        self.tokens.remove(&key);
    }

    /// Forgets all tokens: what changed meanwhile cannot be known.
    pub fn forget_all(&self) {
        let mut pending = locked(&self.pending);
        for reading in pending.reading.values_mut() {
            reading.gave_way = true;
        }
        self.tokens.clear();
    }

    /// Reads the change log and forgets what it names.
    ///
    /// # Errors
    /// When it cannot be read; then nothing is confirmed.
    pub fn catch_up(&self, conn: &mut DbConnection) -> QueryResult<()> {
        let began = self.started.elapsed();
        // Not held while the database is asked: whoever does not hear from it keeps nobody waiting.
        let since = locked(&self.log).clone();
        let news = match &since {
            Some(since) => changes::list_since(conn, since)?,
            // What is in memory was read before anybody listened.
            None => News { keys: Vec::new(), now: changes::find_end(conn)?, has_gap: true },
        };
        let mut log = locked(&self.log);
        let confirmed = Duration::from_millis(self.confirmed.load(Ordering::Relaxed));
        if news.has_gap || began.saturating_sub(confirmed) > CONFIRMED_FOR {
            self.forget_all();
        }
        for key in &news.keys {
            self.forget(key);
        }
        // Another reader may have been quicker; what it has not read is read again.
        let is_mine = match (&*log, &since) {
            (Some(log), Some(since)) => Arc::ptr_eq(log, since),
            (None, None) => true,
            _ => false,
        };
        if is_mine {
            *log = Some(Arc::new(news.now));
        }
        self.confirm(began);
        Ok(())
    }

    /// Notes where the log ends now. Up to what is returned it may be swept.
    pub fn swept_until(&self, end: Option<i64>, now: Instant) -> Option<i64> {
        let mut ends = locked(&self.ends);
        ends.extend(end.map(|end| (now, end)));
        let mut until = None;
        while let Some((at, end)) = ends.front().copied()
            && now.saturating_duration_since(at) >= LOGGED_FOR
        {
            until = Some(end);
            ends.pop_front();
        }
        until
    }

    fn confirm(&self, began: Duration) {
        let millis = u64::try_from(began.as_millis()).unwrap_or(u64::MAX);
        self.confirmed.fetch_max(millis, Ordering::Relaxed);
    }

    /// Content in memory.
    #[must_use]
    pub fn content(&self, content: Content) -> Option<Bytes> {
        self.contents.get(&content.sha256)
    }

    /// Content, from memory or from the database; one look-up for all who ask at once. Its digest
    /// is its name, so it never changes; `None` when nobody has it any more.
    ///
    /// # Errors
    /// Only the store's.
    pub async fn find_content(&self, db: &Db, content: Content) -> Result<Option<Bytes>, DbError> {
        let guard = match self.contents.get_value_or_guard_async(&content.sha256).await {
            Ok(bytes) => return Ok(Some(bytes)),
            Err(guard) => guard,
        };
        let read = db.read_for_node(move |conn| contents::find_blob(conn, &content.sha256)).await?;
        let Some(bytes) = read.map(Bytes::from) else { return Ok(None) };
        let _ = guard.insert(bytes.clone());
        Ok(Some(bytes))
    }

    /// How many tokens are in memory, and how many bytes they and the content take.
    #[cfg(test)]
    fn size(&self) -> (usize, u64) {
        (self.tokens.len(), self.tokens.weight() + self.contents.weight())
    }
}

fn entry(known: Known, held: Option<&Held>, sealer: &Sealer) -> Result<Arc<Entry>, Unfilled> {
    let secret = sealer.open(&known.sealed_secret, &known.token_key);
    let secret = secret.map_err(|_| Unfilled::Seal)?;
    Entry::new(known, secret, held).map(Arc::new).map_err(Unfilled::Store)
}

/// The tokens of these keys, and what their nodes have.
fn find_held(
    conn: &mut DbConnection,
    keys: &[TokenKey],
) -> QueryResult<Vec<(Known, Option<Held>)>> {
    let known = tokens::find_by_keys(conn, keys)?;
    let ids: Vec<&str> =
        known.iter().filter_map(|known| Some(&*known.node.as_ref()?.system_id)).collect();
    let mut held = contents::find_held(conn, &ids)?;
    Ok(known
        .into_iter()
        .map(|known| {
            let held = known.node.as_ref().and_then(|node| held.remove(&node.system_id));
            (known, held)
        })
        .collect())
}

/// Reads the change log until told to stop, on a connection of its own.
pub fn listen(view: &View, db: &Db, stop: &std::sync::mpsc::Receiver<()>) {
    let mut conn = None;
    loop {
        if conn.is_none() {
            conn = db
                .connect()
                .map_err(|error| tracing::warn!(%error, "the change log is out of reach"))
                .ok();
        }
        let failed = conn.as_mut().and_then(|conn| view.catch_up(conn).err());
        if let Some(error) = failed {
            tracing::warn!(%error, "the change log cannot be read");
            conn = None;
        }
        match stop.recv_timeout(POLL) {
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {}
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::credentials::Mint;
    use crate::store::tokens::NodeRow;

    struct Scene {
        view: View,
        sealer: Sealer,
        mint: Mint,
    }

    fn scene(bytes: usize) -> Scene {
        Scene { view: View::new(bytes), sealer: Sealer::new(&[7; 32]), mint: Mint::seeded([7; 32]) }
    }

    impl Scene {
        fn known(&self, key: &str, hostname: &str) -> Known {
            let token_key = TokenKey::trusted(key.to_owned());
            let made = self.mint.credentials();
            Known {
                id: Id(uuid::Uuid::nil()),
                consumer_key: made.consumer_key,
                sealed_secret: self.sealer.seal(&made.secret, &token_key, &self.mint),
                token_key,
                last_used_at: None,
                ended: false,
                retires_at: None,
                made_for: Some("n1".into()),
                node: Some(NodeRow {
                    system_id: "n1".into(),
                    hostname: hostname.into(),
                    ssh_keys: "[]".into(),
                    reprovisions: 0,
                }),
            }
        }

        /// A slow machine may have taken seconds.
        fn confirm(&self) {
            self.view.confirm(self.view.started.elapsed());
        }

        fn put(&self, turn: u64, keys: &[TokenKey], hostname: &str) {
            let known = keys.iter().map(|key| (self.known(key.as_str(), hostname), None));
            self.view.put(turn, keys, Ok(known.collect()), &self.sealer);
        }

        fn hostname(&self, key: &str) -> Option<String> {
            self.view.get(key, Instant::now()).map(|entry| hostname(&entry))
        }
    }

    fn hostname(entry: &Entry) -> String {
        entry.value(MetadataKey::LocalHostname).unwrap().0.to_owned()
    }

    fn key(number: usize) -> String {
        format!("key{number:015}")
    }

    /// What somebody who asks for `key` gets, once it is there.
    fn ask(view: &View, key: String) -> impl Future<Output = Found> {
        // The first poll puts the question; the answer is waited for later.
        let mut asked = Box::pin(async move { view.find(&key).await });
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(asked.as_mut().poll(&mut context).is_pending());
        asked
    }

    fn now<T>(future: impl Future<Output = T>) -> T {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match std::pin::pin!(future).poll(&mut context) {
            std::task::Poll::Ready(ready) => ready,
            std::task::Poll::Pending => panic!("it is not there yet"),
        }
    }

    #[test]
    fn however_many_ask_one_look_up_answers_them() {
        let scene = scene(1 << 20);
        let asked: Vec<_> = (0..100).map(|_| ask(&scene.view, key(1))).collect();
        let (turn, keys) = scene.view.take();
        assert_eq!(keys.len(), 1);
        // Those who come while it is under way wait for the same.
        let late = ask(&scene.view, key(1));
        assert!(scene.view.take().1.is_empty());
        scene.put(turn, &keys, "one");
        for found in asked.into_iter().chain([late]) {
            assert_eq!(hostname(&now(found).unwrap().unwrap()), "one");
        }
        assert_eq!(scene.hostname(&key(1)).as_deref(), Some("one"));
    }

    #[test]
    fn a_look_up_gives_way_to_a_change_that_came_while_it_was_under_way() {
        let scene = scene(1 << 20);
        let before = ask(&scene.view, key(1));
        let (old, old_keys) = scene.view.take();
        scene.view.forget(&key(1));
        // Whoever asks after the change does not get what was read before it.
        let after = ask(&scene.view, key(1));
        scene.put(old, &old_keys, "old");
        assert_eq!(hostname(&now(before).unwrap().unwrap()), "old");
        assert_eq!(scene.hostname(&key(1)), None);
        let (new, new_keys) = scene.view.take();
        scene.put(new, &new_keys, "new");
        assert_eq!(hostname(&now(after).unwrap().unwrap()), "new");
        assert_eq!(scene.hostname(&key(1)).as_deref(), Some("new"));
    }

    #[test]
    fn an_old_look_up_that_ends_last_changes_nothing() {
        let scene = scene(1 << 20);
        let before = ask(&scene.view, key(1));
        let (old, old_keys) = scene.view.take();
        scene.view.forget(&key(1));
        let after = ask(&scene.view, key(1));
        let (new, new_keys) = scene.view.take();
        scene.put(new, &new_keys, "new");
        for found in [before, after] {
            assert_eq!(hostname(&now(found).unwrap().unwrap()), "new");
        }
        scene.put(old, &old_keys, "old");
        assert_eq!(scene.hostname(&key(1)).as_deref(), Some("new"));
    }

    #[test]
    fn what_is_forgotten_is_looked_up_again_and_nothing_else_is() {
        let scene = scene(1 << 20);
        let asked: Vec<_> = (0..3).map(|number| ask(&scene.view, key(number))).collect();
        let (turn, keys) = scene.view.take();
        scene.put(turn, &keys, "there");
        drop(asked);
        scene.view.forget(&key(1));
        let there: Vec<bool> = (0..3).map(|n| scene.hostname(&key(n)).is_some()).collect();
        assert_eq!(there, [true, false, true]);
        scene.view.forget_all();
        assert!((0..3).all(|number| scene.hostname(&key(number)).is_none()));
    }

    #[test]
    fn tokens_that_ended_or_are_unknown_are_not_remembered() {
        let scene = scene(1 << 20);
        let asked = [ask(&scene.view, key(1)), ask(&scene.view, key(2)), ask(&scene.view, key(3))];
        let (turn, keys) = scene.view.take();
        let ended = Known { ended: true, ..scene.known(&key(1), "x") };
        let stray = Known { node: None, ..scene.known(&key(2), "x") };
        scene.view.put(turn, &keys, Ok(vec![(ended, None), (stray, None)]), &scene.sealer);
        let found: Vec<Option<Standing>> =
            asked.map(|one| now(one).unwrap().map(|entry| entry.standing)).into();
        assert_eq!(found, [Some(Standing::Ended), Some(Standing::NoNode), None]);
        assert_eq!(scene.view.size().0, 0);
        // What cannot be a key is not looked up.
        for odd in ["", "short", "key-00000000000001", &"k".repeat(19)] {
            assert!(now(scene.view.find(odd)).unwrap().is_none());
        }
    }

    #[test]
    fn memory_is_bounded_by_bytes_and_waiting_keys_by_number() {
        let scene = scene(1 << 20);
        for round in 0..10 {
            scene.confirm();
            let asked: Vec<_> = (0..250).map(|n| ask(&scene.view, key(round * 250 + n))).collect();
            let (turn, keys) = scene.view.take();
            scene.put(turn, &keys, &"h".repeat(60));
            drop(asked);
        }
        let (tokens, bytes) = scene.view.size();
        assert!(tokens > 100 && bytes <= 1 << 20, "{tokens} tokens in {bytes} bytes");
        scene.confirm();
        let asked: Vec<_> =
            (0..MOST_WAITING).map(|n| ask(&scene.view, key(1_000_000 + n))).collect();
        assert!(matches!(now(scene.view.find(&key(9_000_000))), Err(Unfilled::Store(_))));
        drop(asked);
    }

    #[test]
    fn the_log_is_swept_up_to_where_it_ended_minutes_ago() {
        let view = View::new(1 << 20);
        let start = Instant::now();
        let at = |minutes: u64| start + Duration::from_mins(minutes);
        assert_eq!(view.swept_until(None, at(0)), None);
        for minute in 1..=5_u64 {
            assert_eq!(view.swept_until(Some(10 * minute.cast_signed()), at(minute)), None);
        }
        assert_eq!(view.swept_until(Some(60), at(6)), Some(10));
        assert_eq!(view.swept_until(Some(70), at(6)), None, "once");
        // A sweep that is late takes all that is due.
        assert_eq!(view.swept_until(None, at(30)), Some(70));
        assert_eq!(view.swept_until(None, at(60)), None);
    }

    #[test]
    fn a_secret_that_does_not_open_is_trouble_of_ours() {
        let scene = scene(1 << 20);
        let asked = ask(&scene.view, key(1));
        let (turn, keys) = scene.view.take();
        let broken = Known { sealed_secret: vec![1, 2], ..scene.known(&key(1), "x") };
        scene.view.put(turn, &keys, Ok(vec![(broken, None)]), &scene.sealer);
        assert!(matches!(now(asked), Err(Unfilled::Seal)));
    }
}
