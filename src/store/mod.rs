//! The only SQL. `Db::read` and `Db::write` are the only two ways to it.

pub mod audit;
pub mod blobs;
pub mod boots;
mod bulk;
pub mod census;
pub mod changes;
pub mod claims;
pub mod columns;
pub mod contents;
pub mod counts;
pub mod events;
mod fixed;
pub mod grants;
pub mod meta;
pub mod migrations;
pub mod nodes;
pub mod nonces;
pub mod operator_tokens;
#[cfg(test)]
mod plans;
pub mod pool;
pub mod projects;
pub mod schema;
mod statistics;
pub mod tokens;
pub mod users;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use diesel::QueryResult;
use diesel::connection::{AnsiTransactionManager, SimpleConnection as _, TransactionManager};
use diesel::result::{DatabaseErrorKind, Error as QueryError};
use jiff::Timestamp;
use r2d2::ManageConnection as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::clock::Clock;
use counts::{Counts, Door, Work, Working};

pub use pool::{DatabaseUrl, DbConnection};

/// How long a request waits for a connection or for its turn to write.
const PATIENCE: Duration = Duration::from_secs(3);

/// How often PostgreSQL is asked whether a table has grown out of what its planner knows of it.
const STATISTICS: Duration = Duration::from_secs(2);
/// How often `SQLite`'s log is taken over to its file, if there is something in it.
const CHECKPOINT: Duration = Duration::from_millis(250);

/// Why the store did not answer. To a caller, each of these is 503.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    #[error("no connection to the database: {0}")]
    NoConnection(String),
    #[error("waited {} s for a turn to write", PATIENCE.as_secs())]
    Busy,
    #[error("the database failed: {0}")]
    Query(#[from] QueryError),
    #[error("the database's thread ended")]
    Ended,
}

/// What a failed write may have left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    Nothing,
    /// Nothing, and it is the connection that failed: on another it may be tried again.
    Unreached,
    /// The connection was lost at the commit: all of it or nothing.
    Unknown,
}

/// A write in progress. Functions that change rows ask for this, so none can run outside
/// [`Db::write`].
pub struct Tx<'a> {
    pub conn: &'a mut DbConnection,
    pub now: Timestamp,
    /// Whether it changes what tokens in memory stand on: they are forgotten at its commit. (What
    /// forgets to say so is felt a moment later, when the change log is read.)
    pub has_logged: bool,
}

/// The store: a pool of connections, a clock, and one writer at a time on `SQLite`.
#[derive(Clone)]
pub struct Db {
    pool: r2d2::Pool<pool::Manager>,
    manager: pool::Manager,
    /// `SQLite` has one write lock and makes those who wait for it poll; here they queue.
    turns: Arc<Semaphore>,
    clock: Clock,
    /// Run after a commit that logged changes, before anybody is told of it.
    after_changes: Arc<OnceLock<AfterChanges>>,
    counts: Arc<Counts>,
    /// The connection of the one writer. On `SQLite` all writes take it: what it has read of the
    /// file stays good, since nobody else writes.
    kept: Arc<Mutex<Option<pool::Pooled>>>,
    is_sqlite: bool,
    /// Whether something was committed since the last checkpoint.
    has_written: Arc<AtomicBool>,
}

type AfterChanges = Box<dyn Fn(&mut DbConnection) + Send + Sync>;

impl Db {
    /// Opens the database; it must have been migrated.
    ///
    /// # Errors
    /// When no connection can be made.
    pub fn open(url: &DatabaseUrl, clock: Clock, connections: u32) -> Result<Db, DbError> {
        let manager = pool::Manager::new(url.clone());
        let counts = manager.counts.clone();
        // The reason comes from the backend itself, not from a pool that gave up waiting.
        manager.open().map_err(|e| DbError::NoConnection(e.to_string()))?;
        let pool = r2d2::Pool::builder()
            .max_size(connections)
            .min_idle(Some(1))
            .connection_timeout(PATIENCE)
            .test_on_check_out(true)
            .error_handler(Box::new(r2d2::NopErrorHandler))
            .build(manager.clone())
            .map_err(|e| DbError::NoConnection(e.to_string()))?;
        let is_sqlite = matches!(url, DatabaseUrl::Sqlite(_));
        let turns = Arc::new(Semaphore::new(if is_sqlite { 1 } else { connections as usize }));
        let (after_changes, kept, has_written) = Default::default();
        Ok(Db { pool, manager, turns, clock, after_changes, counts, kept, is_sqlite, has_written })
    }

    /// What is to be done after each commit that logged changes; said once, at the start.
    pub fn after_changes(&self, forget: impl Fn(&mut DbConnection) + Send + Sync + 'static) {
        let _ = self.after_changes.set(Box::new(forget));
    }

    /// Runs `f` with a pooled connection, off the async threads.
    ///
    /// # Errors
    /// When there is no connection, or `f` failed.
    pub async fn read<T, F>(&self, f: F) -> Result<T, DbError>
    where
        F: FnOnce(&mut DbConnection) -> QueryResult<T> + Send + 'static,
        T: Send + 'static,
    {
        let db = self.clone();
        let work = Work::of_this_task(Door::Read);
        tokio::task::spawn_blocking(move || {
            db.with_connection(work, |conn| f(conn).map_err(DbError::from))
        })
        .await
        .map_err(|_| DbError::Ended)?
    }

    /// [`Db::read`] on behalf of a node's read that is not answered yet, and counted as such.
    ///
    /// # Errors
    /// As there.
    pub async fn read_for_node<T, F>(&self, f: F) -> Result<T, DbError>
    where
        F: FnOnce(&mut DbConnection) -> QueryResult<T> + Send + 'static,
        T: Send + 'static,
    {
        counts::for_node_read(self.read(f)).await
    }

    /// A connection beside the pool, for whoever keeps one.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub fn connect(&self) -> Result<DbConnection, DbError> {
        self.manager.open().map_err(|e| DbError::NoConnection(e.to_string()))
    }

    /// One transaction, one instant, the write lock from its first statement.
    ///
    /// # Errors
    /// Whatever `f` says, after a rollback; or that the store could not be reached.
    pub async fn write<T, E, F>(&self, name: &'static str, f: F) -> Result<T, E>
    where
        F: FnOnce(&mut Tx) -> Result<T, E> + Send + 'static,
        E: From<DbError> + Send + 'static,
        T: Send + 'static,
    {
        self.run(name, self.is_sqlite, f).await.map_err(|(error, _)| error)
    }

    /// The same on the one writer's own connection, which is opened anew as soon as that can be.
    ///
    /// # Errors
    /// Whatever `f` says, or that the store could not be reached; and what that left behind.
    pub async fn write_on_kept<T, E, F>(&self, name: &'static str, f: F) -> Result<T, (E, Left)>
    where
        F: FnOnce(&mut Tx) -> Result<T, E> + Send + 'static,
        E: From<DbError> + Send + 'static,
        T: Send + 'static,
    {
        self.run(name, true, f).await
    }

    async fn run<T, E, F>(&self, name: &'static str, on_kept: bool, f: F) -> Result<T, (E, Left)>
    where
        F: FnOnce(&mut Tx) -> Result<T, E> + Send + 'static,
        E: From<DbError> + Send + 'static,
        T: Send + 'static,
    {
        let turn = tokio::time::timeout(PATIENCE, self.turns.clone().acquire_owned()).await;
        let Ok(Ok(turn)) = turn else {
            self.counts.failed();
            return Err((DbError::Busy.into(), Left::Unreached));
        };
        let db = self.clone();
        let work = Work::of_this_task(Door::Write);
        let done = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let started = std::time::Instant::now();
            let write = |conn: &mut DbConnection| {
                let _working = Working::on(work);
                Counts::forget_changes();
                let (done, has_logged) = transaction(conn, db.clock.now(), f)?;
                db.counts.keep_changes();
                db.has_written.store(true, Ordering::Relaxed);
                if has_logged && let Some(forget) = db.after_changes.get() {
                    forget(conn);
                }
                Ok(done)
            };
            let result = if on_kept { db.with_kept(write) } else { db.with_pooled(write) };
            tracing::debug!(
                write = name,
                micros = started.elapsed().as_micros(),
                ok = result.is_ok()
            );
            result
        });
        done.await.map_err(|_| (DbError::Ended.into(), Left::Nothing))?
    }

    /// What a database needs now and then beside its writes; runs for ever.
    pub async fn run_upkeep(&self) {
        if self.is_sqlite {
            self.run_checkpoints().await;
        }
        loop {
            tokio::time::sleep(STATISTICS).await;
            // One that cannot be asked now is told of elsewhere.
            if let Err(error) = self.read(statistics::renew).await {
                tracing::debug!(%error, "statistics are renewed later");
            }
        }
    }

    /// Takes what was committed from `SQLite`'s log to its file while writes go on, so that no
    /// commit has to; runs for ever.
    async fn run_checkpoints(&self) {
        loop {
            tokio::time::sleep(CHECKPOINT).await;
            if !self.has_written.swap(false, Ordering::Relaxed) {
                continue;
            }
            let mut done = self.checkpoint(None).await;
            // What came meanwhile is little; with it done too, the log begins anew.
            if done.is_ok()
                && let Ok(turn) = self.turns.clone().acquire_owned().await
            {
                done = self.checkpoint(Some(turn)).await;
            }
            if let Err(error) = done {
                tracing::warn!(%error, "the log of the database is taken over later");
            }
        }
    }

    /// With the turn to write, on the connection that goes with it.
    async fn checkpoint(&self, turn: Option<OwnedSemaphorePermit>) -> Result<(), DbError> {
        let db = self.clone();
        let done = tokio::task::spawn_blocking(move || {
            let take_over = |conn: &mut DbConnection| match conn {
                DbConnection::Sqlite(conn) => conn
                    .batch_execute("PRAGMA wal_checkpoint(PASSIVE)")
                    .map_err(|error| (DbError::from(error), Left::Nothing)),
                DbConnection::Postgres(_) => Ok(()),
            };
            match turn {
                Some(_turn) => db.with_kept(take_over),
                None => db.with_pooled(take_over),
            }
        });
        done.await.map_err(|_| DbError::Ended)?.map_err(|(error, _)| error)
    }

    /// Whether the database answers a statement now.
    ///
    /// # Errors
    /// The reason why it does not.
    pub async fn ping(&self) -> Result<(), DbError> {
        self.read(meta::ping).await
    }

    /// What the store has counted since it was opened.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Connections that are open and idle, and those in use.
    #[must_use]
    pub fn connections(&self) -> (u32, u32) {
        let state = self.pool.state();
        (state.idle_connections, state.connections.saturating_sub(state.idle_connections))
    }

    fn with_connection<T>(
        &self,
        work: Work,
        f: impl FnOnce(&mut DbConnection) -> Result<T, DbError>,
    ) -> Result<T, DbError> {
        let _working = Working::on(work);
        self.with_pooled(|conn| f(conn).map_err(|e| (e, Left::Nothing))).map_err(|(error, _)| error)
    }

    fn with_pooled<T, E: From<DbError>>(
        &self,
        f: impl FnOnce(&mut DbConnection) -> Result<T, (E, Left)>,
    ) -> Result<T, (E, Left)> {
        let mut pooled = self.pool.get().map_err(|e| self.unreached(&e))?;
        f(&mut pooled.conn).map_err(|failed| self.look_after(&mut pooled, failed))
    }

    fn with_kept<T, E: From<DbError>>(
        &self,
        f: impl FnOnce(&mut DbConnection) -> Result<T, (E, Left)>,
    ) -> Result<T, (E, Left)> {
        // A panic may leave a transaction open: then the connection has broken.
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let mut whole = kept.take();
        whole.take_if(|pooled| self.manager.has_broken(pooled));
        let mut pooled = match whole {
            Some(pooled) => pooled,
            None => self.manager.open_kept().map_err(|e| self.unreached(&e))?,
        };
        let done = f(&mut pooled.conn).map_err(|failed| self.look_after(&mut pooled, failed));
        *kept = Some(pooled);
        done
    }

    /// Whether it was the connection that failed.
    fn look_after<E>(&self, pooled: &mut pool::Pooled, (error, left): (E, Left)) -> (E, Left) {
        if meta::ping(&mut pooled.conn).is_ok() {
            return (error, Left::Nothing);
        }
        self.manager.lost(pooled);
        match left {
            // A file that fails does not come back by itself.
            _ if self.is_sqlite => (error, Left::Nothing),
            Left::Nothing => (error, Left::Unreached),
            left => (error, left),
        }
    }

    fn unreached<E: From<DbError>>(&self, error: &impl std::fmt::Display) -> (E, Left) {
        self.counts.failed();
        let left = if self.is_sqlite { Left::Nothing } else { Left::Unreached };
        (DbError::NoConnection(error.to_string()).into(), left)
    }
}

fn transaction<T, E: From<DbError>>(
    conn: &mut DbConnection,
    now: Timestamp,
    f: impl FnOnce(&mut Tx) -> Result<T, E>,
) -> Result<(T, bool), (E, Left)> {
    // A plain BEGIN on SQLite takes the write lock at the first write, and a reader that comes to
    // write there fails instead of waiting.
    match conn {
        DbConnection::Sqlite(conn) => {
            AnsiTransactionManager::begin_transaction_sql(conn, "BEGIN IMMEDIATE")
        }
        DbConnection::Postgres(conn) => AnsiTransactionManager::begin_transaction(conn),
    }
    .map_err(|e| (DbError::from(e).into(), Left::Nothing))?;
    let mut tx = Tx { conn, now, has_logged: false };
    let done = f(&mut tx);
    let has_logged = tx.has_logged;
    match done {
        Ok(value) => {
            end(conn, true).map_err(|e| (DbError::from(e).into(), Left::Unknown))?;
            Ok((value, has_logged))
        }
        Err(error) => {
            // What went wrong first is what the caller needs to know.
            let _ = end(conn, false);
            Err((error, Left::Nothing))
        }
    }
}

fn end(conn: &mut DbConnection, commit: bool) -> QueryResult<()> {
    match (conn, commit) {
        (DbConnection::Sqlite(conn), true) => AnsiTransactionManager::commit_transaction(conn),
        (DbConnection::Sqlite(conn), false) => AnsiTransactionManager::rollback_transaction(conn),
        (DbConnection::Postgres(conn), true) => AnsiTransactionManager::commit_transaction(conn),
        (DbConnection::Postgres(conn), false) => AnsiTransactionManager::rollback_transaction(conn),
    }
}

/// Whether an insert lost to a row that was there first. The constraint's name is not asked for:
/// `SQLite` does not give it.
#[must_use]
pub fn is_unique_violation(error: &QueryError) -> bool {
    matches!(error, QueryError::DatabaseError(DatabaseErrorKind::UniqueViolation, _))
}
