//! What the store counts of itself, in plain atomics that whoever observes it reads.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

use diesel::connection::{Instrumentation, InstrumentationEvent};
use diesel::result::{DatabaseErrorKind, Error as QueryError};

use crate::domain::credentials::EndedBy;

/// On whose behalf statements run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behalf {
    /// A node's read that is not answered yet.
    NodeRead,
    Other,
}

/// By which of the two doors they came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    Read,
    Write,
}

/// What the statements of this thread are for.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    pub behalf: Behalf,
    pub door: Door,
}

impl Work {
    /// The work that this task asks for by this door.
    #[must_use]
    pub fn of_this_task(door: Door) -> Work {
        let is_read = FOR_NODE_READ.try_with(|()| ()).is_ok();
        Work { behalf: if is_read { Behalf::NodeRead } else { Behalf::Other }, door }
    }

    fn slot(self) -> usize {
        (self.behalf as usize) * 2 + self.door as usize
    }
}

/// What became of tokens, as the metric names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenChange {
    Made,
    Superseded,
    Ended(EndedBy),
}

impl TokenChange {
    pub const ALL: [TokenChange; 8] = [
        TokenChange::Made,
        TokenChange::Superseded,
        TokenChange::Ended(EndedBy::Revoke),
        TokenChange::Ended(EndedBy::Cull),
        TokenChange::Ended(EndedBy::Reissue),
        TokenChange::Ended(EndedBy::Reprovision),
        TokenChange::Ended(EndedBy::Project),
        TokenChange::Ended(EndedBy::Removal),
    ];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            TokenChange::Made => "made",
            TokenChange::Superseded => "superseded",
            TokenChange::Ended(by) => by.as_str(),
        }
    }
}

const CHANGES: usize = TokenChange::ALL.len();

tokio::task_local! {
    static FOR_NODE_READ: ();
}

thread_local! {
    static WORK: Cell<Work> =
        const { Cell::new(Work { behalf: Behalf::Other, door: Door::Read }) };
    /// Changes of the transaction that this thread is in.
    static CHANGED: Cell<[u64; CHANGES]> = const { Cell::new([0; CHANGES]) };
}

/// What `f` asks of the store counts as asked for by a node's read.
pub async fn for_node_read<F: Future>(f: F) -> F::Output {
    FOR_NODE_READ.scope((), f).await
}

/// Counts changes of tokens, once the transaction that makes them is committed.
pub fn changed(change: TokenChange, tokens: usize) {
    let at = TokenChange::ALL.iter().position(|one| *one == change).unwrap_or(0);
    CHANGED.with(|changed| {
        let mut counts = changed.get();
        counts[at] += tokens as u64;
        changed.set(counts);
    });
}

/// Everything that is counted.
#[derive(Default)]
pub struct Counts {
    statements: [AtomicU64; 4],
    errors: AtomicU64,
    changes: [AtomicU64; CHANGES],
}

impl Counts {
    #[must_use]
    pub fn statements(&self, behalf: Behalf, door: Door) -> u64 {
        self.statements[Work { behalf, door }.slot()].load(Ordering::Relaxed)
    }

    /// Statements that failed, and turns and connections that nobody got.
    #[must_use]
    pub fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }

    /// What became of tokens in transactions of this process.
    pub fn token_changes(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self.changes.iter().map(|count| count.load(Ordering::Relaxed));
        TokenChange::ALL.iter().map(|change| change.as_str()).zip(counts)
    }

    pub(super) fn failed(&self) {
        self.errors.fetch_add(1, Ordering::Relaxed);
    }

    /// Begins a transaction's changes anew.
    pub(super) fn forget_changes() {
        CHANGED.with(|changed| changed.set([0; CHANGES]));
    }

    /// Counts what a transaction changed, now that it is committed.
    pub(super) fn keep_changes(&self) {
        let changes = CHANGED.with(|changed| changed.replace([0; CHANGES]));
        for (total, more) in self.changes.iter().zip(changes).filter(|(_, more)| *more > 0) {
            total.fetch_add(more, Ordering::Relaxed);
        }
    }
}

/// Says what the statements of this thread are for, until this is dropped.
pub(super) struct Working(Work);

impl Working {
    pub fn on(work: Work) -> Working {
        Working(WORK.with(|current| current.replace(work)))
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        WORK.with(|current| current.set(self.0));
    }
}

/// What a connection tells us of its statements.
pub(super) struct Counting(pub std::sync::Arc<Counts>);

impl Instrumentation for Counting {
    fn on_connection_event(&mut self, event: InstrumentationEvent<'_>) {
        match event {
            InstrumentationEvent::StartQuery { .. } => {
                let slot = WORK.with(Cell::get).slot();
                self.0.statements[slot].fetch_add(1, Ordering::Relaxed);
            }
            // An insert that lost to another is an answer, not a failure.
            InstrumentationEvent::FinishQuery {
                error: Some(QueryError::DatabaseError(DatabaseErrorKind::UniqueViolation, _)),
                ..
            } => {}
            InstrumentationEvent::FinishQuery { error: Some(_), .. } => self.0.failed(),
            _ => {}
        }
    }
}
