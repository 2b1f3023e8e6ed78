//! What nodes report: one writer a process, which takes along with each commit what gathered while
//! it wrote the one before.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use diesel::QueryResult;
use jiff::Timestamp;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use uuid::Uuid;

use super::App;
use super::authenticate::SignedNode;
use crate::domain::report::{EventType, Report};
use crate::live::PAST;
use crate::store::columns::Id;
use crate::store::events::{self, Appended, NewEvent};
use crate::store::{DbError, Left, Tx, boots, nodes, nonces, tokens};

/// Events that wait to be written, of each of the two lanes: ten thousand machines that boot at
/// once have one each under way.
const MOST_WAITING: usize = 16_384;
/// Events of one commit, and the bytes of their files.
const MOST_WRITTEN: usize = 128;
const MOST_WRITTEN_BYTES: usize = 16 << 20;

/// How soon a batch is tried again while there is no connection to the database.
/// How long the events of a node that somebody else holds are set aside.
const ASIDE: Duration = Duration::from_millis(250);
const AGAIN: Duration = Duration::from_millis(50);

/// Why an event was not stored.
#[derive(Debug, thiserror::Error)]
pub enum Unstored {
    #[error("too many events wait to be written")]
    Full,
    #[error("the token has ended")]
    Ended,
    #[error("the nonce was spent before")]
    Replayed,
    #[error("it could not be written in time")]
    Late,
    #[error("{0}")]
    Store(String),
}

impl From<DbError> for Unstored {
    fn from(error: DbError) -> Unstored {
        Unstored::Store(error.to_string())
    }
}

impl From<diesel::result::Error> for Unstored {
    fn from(error: diesel::result::Error) -> Unstored {
        DbError::Query(error).into()
    }
}

/// Memory that reports are given before they are read.
pub struct Memory {
    kibibytes: Arc<Semaphore>,
}

/// A share of the memory, given back when this is dropped.
pub type Share = OwnedSemaphorePermit;

impl Memory {
    fn new(bytes: usize) -> Memory {
        Memory { kibibytes: Arc::new(Semaphore::new(bytes.div_ceil(1 << 10).max(1))) }
    }

    /// Waits for room for so many bytes.
    pub async fn take(&self, bytes: usize) -> Option<Share> {
        let kibibytes = u32::try_from(bytes.div_ceil(1 << 10)).ok()?;
        self.kibibytes.clone().acquire_many_owned(kibibytes.max(1)).await.ok()
    }
}

/// Bytes of a body that counts as small: all that cloud-init sends.
pub const SMALL: usize = 64 << 10;
/// So many small bodies at once: more than one node may begin before the first is given up.
const MOST_SMALL: usize = 4096;

/// A node's turn with a large body.
pub struct Turn<'a> {
    reports: &'a Reports,
    system_id: Option<String>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if let Some(system_id) = &self.system_id {
            self.reports.reading().remove(system_id);
        }
    }
}

/// Events on their way to the disk.
pub struct Reports {
    lanes: Mutex<Lanes>,
    /// How many may wait in a lane.
    pub most_waiting: AtomicUsize,
    more: Notify,
    /// Large bodies that are being read, and their events that wait.
    large: Memory,
    /// The same of the many small ones, which no large one keeps waiting.
    small: Memory,
    /// The nodes whose large bodies are being read: one each, so that none has it all.
    reading: Mutex<HashSet<String>>,
    /// Files that are being unpacked.
    pub unpacked: Memory,
}

#[derive(Default)]
struct Lanes {
    /// What ends something: it is worth most, and goes first.
    finish: VecDeque<Queued>,
    other: VecDeque<Queued>,
}

struct Queued {
    system_id: String,
    token: Id,
    nonce: Option<nonces::WriteNonce>,
    received_at: Timestamp,
    /// Nobody waits for it any longer: it was turned away, and is not stored after that.
    until: Instant,
    report: Report,
    done: oneshot::Sender<Result<(), Unstored>>,
    /// Given back once the event is written, not when its sender is gone.
    shares: Vec<Share>,
}

impl Queued {
    fn bytes(&self) -> usize {
        let files = self.report.files.iter().filter_map(|file| file.content.as_ref());
        files.map(Vec::len).sum()
    }
}

impl Reports {
    /// `body` and `unpacked` are the largest that one report may need.
    #[must_use]
    pub fn new(body: usize, unpacked: usize) -> Reports {
        Reports {
            lanes: Mutex::default(),
            most_waiting: AtomicUsize::new(MOST_WAITING),
            more: Notify::new(),
            large: Memory::new(body.saturating_mul(8)),
            small: Memory::new(SMALL.saturating_mul(MOST_SMALL)),
            reading: Mutex::default(),
            unpacked: Memory::new(unpacked),
        }
    }

    /// Waits for room for a body of so many bytes, and for the node's turn with a large one.
    pub async fn room(&self, system_id: &str, bytes: usize) -> Option<(Share, Turn<'_>)> {
        if bytes <= SMALL {
            return Some((self.small.take(bytes).await?, Turn { reports: self, system_id: None }));
        }
        while !self.reading().insert(system_id.to_owned()) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let turn = Turn { reports: self, system_id: Some(system_id.to_owned()) };
        Some((self.large.take(bytes).await?, turn))
    }

    fn reading(&self) -> MutexGuard<'_, HashSet<String>> {
        self.reading.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lanes(&self) -> MutexGuard<'_, Lanes> {
        // A panic leaves whole lanes.
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, queued: Queued) -> Result<(), Unstored> {
        let mut lanes = self.lanes();
        let lane = match queued.report.event_type {
            EventType::Finish | EventType::Signal => &mut lanes.finish,
            EventType::Start | EventType::Progress => &mut lanes.other,
        };
        if lane.len() >= self.most_waiting.load(Ordering::Relaxed) {
            return Err(Unstored::Full);
        }
        lane.push_back(queued);
        drop(lanes);
        self.more.notify_one();
        Ok(())
    }

    /// Takes in again what was set aside.
    fn push_again(&self, new: NewEvent, one: Waiting) {
        let NewEvent { system_id, token, nonce, received_at, report, .. } = new;
        let Waiting { until, done, shares } = one;
        let queued = Queued { system_id, token, nonce, received_at, until, report, done, shares };
        self.lanes().finish.push_back(queued);
        self.more.notify_one();
    }

    /// Waits until there is something, and takes as much of it as one commit takes.
    async fn take(&self) -> Vec<Queued> {
        loop {
            let batch = self.take_now();
            if !batch.is_empty() {
                return batch;
            }
            self.more.notified().await;
        }
    }

    fn take_now(&self) -> Vec<Queued> {
        let mut lanes = self.lanes();
        let mut batch = Vec::new();
        let mut bytes = 0;
        while batch.len() < MOST_WRITTEN && bytes < MOST_WRITTEN_BYTES {
            let Some(next) = lanes.finish.pop_front().or_else(|| lanes.other.pop_front()) else {
                break;
            };
            bytes += next.bytes();
            batch.push(next);
        }
        batch
    }
}

/// Stores a report of a node; on disk once this returns. A repeat is stored already. While the
/// database is away it is kept `until` then.
///
/// # Errors
/// [`Unstored`].
pub async fn store(
    app: &App,
    signed: SignedNode,
    report: Report,
    shares: Vec<Share>,
    until: Instant,
) -> Result<(), Unstored> {
    let (done, stored) = oneshot::channel();
    app.reports.push(Queued {
        system_id: signed.system_id().to_owned(),
        token: signed.entry.token,
        nonce: signed.nonce,
        received_at: app.clock.now(),
        until,
        report,
        done,
        shares,
    })?;
    stored.await.unwrap_or_else(|_| Err(Unstored::Store("the writer of events ended".into())))
}

/// An event and whoever waits for it.
struct Waiting {
    until: Instant,
    done: oneshot::Sender<Result<(), Unstored>>,
    /// Given back once the event is written.
    shares: Vec<Share>,
}

/// The one writer: runs for ever.
pub async fn run(app: Arc<App>) {
    let mut last = Uuid::nil();
    loop {
        let mut waiting = Vec::new();
        let mut news = Vec::new();
        for Queued { system_id, token, nonce, received_at, until, report, done, shares } in
            app.reports.take().await
        {
            // Ids go up in the order of writing, within a millisecond too.
            last = app.mint.id(app.clock.now()).max(Uuid::from_u128(last.as_u128() + 1));
            news.push(NewEvent { id: last, system_id, token, nonce, received_at, report });
            waiting.push(Waiting { until, done, shares });
        }
        write(&app, news, waiting).await;
    }
}

/// What a batch came to whose commit nobody heard of.
type Unheard = Arc<Mutex<Vec<Appended>>>;

/// Writes a batch, however often the connection is lost meanwhile.
async fn write(app: &Arc<App>, mut news: Vec<NewEvent>, mut waiting: Vec<Waiting>) {
    let mut unheard = None;
    loop {
        let now = Instant::now();
        // One whose commit nobody heard of stays whole, to be recognised.
        if unheard.is_none() && waiting.iter().any(|one| one.until <= now) {
            let (late, in_time): (Vec<_>, Vec<_>) =
                news.into_iter().zip(waiting).partition(|(_, one)| one.until <= now);
            for (_, one) in late {
                tell(one, Err(Unstored::Late));
            }
            (news, waiting) = in_time.into_iter().unzip();
        }
        if waiting.iter().all(|one| one.until <= now) {
            return waiting.into_iter().for_each(|one| tell(one, Err(Unstored::Late)));
        }
        let whole = Arc::new(news);
        let appended = append(app, whole.clone(), 0..whole.len(), &mut unheard).await;
        match appended {
            Ok(appended) => return came_to(app, whole, waiting, appended),
            // While it may have been committed unheard, it is recognised as a whole only.
            Err((error, Left::Nothing)) if unheard.is_none() => {
                let until = waiting.iter().map(|one| one.until).collect();
                let outcomes = one_by_one(app, whole, until, error).await;
                return waiting.into_iter().zip(outcomes).for_each(|(one, said)| tell(one, said));
            }
            Err((error, _)) => {
                tracing::warn!(%error, events = whole.len(), "events wait for the database");
                tokio::time::sleep(AGAIN).await;
            }
        }
        // The attempt is over, and its thread has let go of them.
        let Some(kept) = Arc::into_inner(whole) else { return };
        news = kept;
    }
}

/// Tells everybody what became of a batch. The events of nodes that somebody else holds are tried
/// again a little later, and keep nobody waiting meanwhile.
fn came_to(
    app: &Arc<App>,
    news: Arc<Vec<NewEvent>>,
    waiting: Vec<Waiting>,
    appended: Vec<Appended>,
) {
    let mut news = Arc::into_inner(news).unwrap_or_default().into_iter();
    for (one, appended) in waiting.into_iter().zip(appended) {
        let new = news.next();
        match (appended, new) {
            (Appended::Busy, Some(new)) if one.until > Instant::now() + ASIDE => {
                let app = app.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(ASIDE).await;
                    app.reports.push_again(new, one);
                });
            }
            (appended, _) => tell(one, outcome(appended)),
        }
    }
}

fn tell(waiting: Waiting, outcome: Result<(), Unstored>) {
    // Whoever waited may be gone: a client that gave up.
    let _ = waiting.done.send(outcome);
}

/// Writes each by itself, so that a bad event is alone in what it does.
async fn one_by_one(
    app: &App,
    news: Arc<Vec<NewEvent>>,
    until: Vec<Instant>,
    error: DbError,
) -> Vec<Result<(), Unstored>> {
    let mut broken = (!is_of_one_event(&error)).then(|| error.to_string());
    if broken.is_none() {
        // A lone one is tried again too: on PostgreSQL it may have met another in a deadlock.
        tracing::warn!(%error, "events are written one by one");
    }
    let mut outcomes = Vec::with_capacity(news.len());
    for (at, until) in until.into_iter().enumerate() {
        if let Some(why) = &broken {
            outcomes.push(Err(Unstored::Store(why.clone())));
            continue;
        }
        if until <= Instant::now() {
            outcomes.push(Err(Unstored::Late));
            continue;
        }
        match append(app, news.clone(), at..at + 1, &mut None).await {
            Ok(appended) => outcomes.extend(appended.into_iter().map(outcome)),
            Err((error, left)) => {
                if left != Left::Nothing || !is_of_one_event(&error) {
                    broken = Some(error.to_string());
                }
                outcomes.push(Err(error.into()));
            }
        }
    }
    outcomes
}

/// Appends some of a batch. `unheard` is what an earlier attempt came to, if nobody heard whether
/// it was committed, and what this one came to if that goes the same way.
async fn append(
    app: &App,
    news: Arc<Vec<NewEvent>>,
    which: std::ops::Range<usize>,
    unheard: &mut Option<Unheard>,
) -> Result<Vec<Appended>, (DbError, Left)> {
    // What the nodes read before they reported goes with it, and before it.
    let tokens = news[which.clone()].iter().map(|new| new.token).collect();
    let learnt = app.learnt.take_of(&tokens);
    let mut taught = learnt.clone();
    let asked = news.clone();
    let range = which.clone();
    let (before, now) = (unheard.clone(), Unheard::default());
    let came_to = now.clone();
    let appended = app
        .db
        .write_on_kept("store events", move |tx| {
            let news = &news[which];
            // Whoever still commits the same unheard has to be waited for.
            let busy = match &before {
                Some(_) => events::hold(tx, news).map(|()| BTreeSet::new())?,
                None => events::hold_free(tx, news)?,
            };
            if !busy.is_empty() {
                taught.retain(|(token, _)| !is_busy(news, &busy, *token));
            }
            boots::learn(tx, &taught)?;
            if let Some(before) = before {
                let before = locked(&before).clone();
                if events::are_stored(tx, &before)? {
                    locked(&came_to).clone_from(&before);
                    return Ok(before);
                }
            }
            let appended = events::append(tx, news, &busy)?;
            locked(&came_to).clone_from(&appended);
            Ok::<_, DbError>(appended)
        })
        .await;
    match &appended {
        // What was learnt of nodes that were set aside is still to be told.
        Ok(appended) => app.learnt.put_back(
            learnt
                .into_iter()
                .filter(|(token, _)| {
                    let mut events = asked[range.clone()].iter().zip(appended);
                    events.any(|(new, became)| new.token == *token && *became == Appended::Busy)
                })
                .collect(),
        ),
        Err((_, left)) => {
            app.learnt.put_back(learnt);
            if *left == Left::Unknown {
                *unheard = Some(now);
            }
        }
    }
    appended
}

fn is_busy(news: &[NewEvent], busy: &BTreeSet<String>, token: Id) -> bool {
    news.iter().any(|new| new.token == token && busy.contains(&new.system_id))
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn outcome(appended: Appended) -> Result<(), Unstored> {
    match appended {
        Appended::Stored(_) | Appended::Repeat => Ok(()),
        Appended::Ended => Err(Unstored::Ended),
        Appended::Replayed => Err(Unstored::Replayed),
        Appended::Busy => Err(Unstored::Late),
    }
}

/// Whether one event may have done it, as against a store that does not answer at all.
fn is_of_one_event(error: &DbError) -> bool {
    matches!(error, DbError::Query(_) | DbError::Ended)
}

/// Sets the node's own netboot flag; while the database is away it is tried again `until` then.
///
/// # Errors
/// [`Unstored`].
pub async fn set_netboot(
    app: &App,
    signed: SignedNode,
    netboot: bool,
    until: Instant,
) -> Result<(), Unstored> {
    let signed = Arc::new(signed);
    loop {
        let signed = signed.clone();
        let set = move |tx: &mut Tx| update_netboot(tx, &signed, netboot);
        match app.db.write_on_kept("set netboot", set).await {
            Err((_, Left::Unreached)) if Instant::now() < until => {
                tokio::time::sleep(AGAIN).await;
            }
            done => return done.map_err(|(unstored, _)| unstored),
        }
    }
}

fn update_netboot(tx: &mut Tx, signed: &SignedNode, netboot: bool) -> Result<(), Unstored> {
    let system_id = signed.system_id();
    nodes::hold(tx, &[system_id])?;
    if !tokens::speaks_for(tx, signed.entry.token, system_id)? {
        return Err(Unstored::Ended);
    }
    if let Some(nonce) = &signed.nonce
        && nonces::spend(tx, &[nonce])? != [true]
    {
        return Err(Unstored::Replayed);
    }
    nodes::update_netboot(tx, system_id, netboot)?;
    Ok(())
}

/// Rows deleted by one transaction.
const BATCH: i64 = 400;
/// Seconds a nonce is kept past its window, should the clock be set back.
const NONCE_SLACK: i64 = 3600;

/// Deletes the events received longer ago than `keep`, with their files, and nonces whose
/// timestamps are refused anyhow. Returns how many events that were.
///
/// # Errors
/// Only the store's.
pub async fn sweep(app: &App, keep: Duration) -> Result<usize, DbError> {
    let now = app.clock.now();
    let stamped = now.as_second() - PAST.cast_signed() - NONCE_SLACK;
    in_batches(app, "sweep nonces", move |tx| nonces::delete_old(tx, stamped, BATCH)).await?;
    let Ok(before) = now.checked_sub(keep) else { return Ok(0) };
    in_batches(app, "sweep events", move |tx| events::delete_received(tx, before, BATCH)).await
}

/// Runs `delete` until it finds nothing more.
async fn in_batches(
    app: &App,
    name: &'static str,
    delete: impl Fn(&mut Tx) -> QueryResult<usize> + Copy + Send + 'static,
) -> Result<usize, DbError> {
    let mut gone = 0;
    loop {
        match app.db.write(name, move |tx| Ok::<_, DbError>(delete(tx)?)).await? {
            0 => return Ok(gone),
            some => gone += some,
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::domain::report::{Bounds, Draft};

    fn queued(event_type: &str, name: &str) -> Queued {
        let json = format!(
            r#"{{"event_type": "{event_type}", "origin": "o", "name": "{name}", "description": ""}}"#
        );
        let bounds = Bounds { depth: 32, files: 16, file_bytes: 0 };
        let draft = Draft::from_json(&mut json.into_bytes(), bounds).unwrap();
        Queued {
            system_id: "n1".into(),
            token: Id(Uuid::nil()),
            nonce: None,
            received_at: Timestamp::UNIX_EPOCH,
            until: Instant::now() + Duration::from_mins(1),
            report: draft.unpack(bounds).unwrap(),
            done: oneshot::channel().0,
            shares: Vec::new(),
        }
    }

    fn names(batch: &[Queued]) -> Vec<&str> {
        batch.iter().map(|queued| queued.report.name.as_str()).collect()
    }

    #[test]
    fn past_the_bound_starts_are_turned_away_and_what_ends_goes_first() {
        let reports = Reports::new(1 << 20, 1 << 20);
        for number in 0..MOST_WAITING {
            let kind = if number % 2 == 0 { "start" } else { "progress" };
            reports.push(queued(kind, &number.to_string())).unwrap();
        }
        for kind in ["start", "progress"] {
            assert!(matches!(reports.push(queued(kind, "late")), Err(Unstored::Full)));
        }
        for number in 0..MOST_WAITING {
            reports.push(queued("finish", &format!("f{number}"))).unwrap();
        }
        assert!(matches!(reports.push(queued("finish", "late")), Err(Unstored::Full)));
        let first = reports.take_now();
        assert_eq!(first.len(), MOST_WRITTEN);
        assert_eq!(names(&first)[..2], ["f0", "f1"]);
        let mut taken = first.len();
        while taken < MOST_WAITING {
            taken += reports.take_now().len();
        }
        assert_eq!(names(&reports.take_now())[..3], ["0", "1", "2"]);
        // There is room again.
        reports.push(queued("start", "now")).unwrap();
    }

    #[test]
    fn a_commit_takes_no_more_than_so_many_bytes_of_files() {
        let reports = Reports::new(1 << 20, 1 << 20);
        for number in 0..5 {
            let mut large = queued("finish", &number.to_string());
            let content = Some(vec![0; MOST_WRITTEN_BYTES / 2]);
            large
                .report
                .files
                .push(crate::domain::report::ReportedFile { path: "p".into(), content });
            reports.push(large).unwrap();
        }
        assert_eq!(names(&reports.take_now()), ["0", "1"]);
        assert_eq!(names(&reports.take_now()), ["2", "3"]);
        assert_eq!(names(&reports.take_now()), ["4"]);
        assert!(reports.take_now().is_empty());
    }
}
