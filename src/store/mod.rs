//! The only SQL. `Db::read` and `Db::write` are the only two ways to it.

/// Runs a query that `MultiConnection` cannot write down on whichever database it is.
macro_rules! on_either {
    ($connection:expr, $conn:ident => $query:expr) => {
        match $connection {
            $crate::store::DbConnection::Sqlite($conn) => $query,
            $crate::store::DbConnection::Postgres($conn) => $query,
        }
    };
}

pub mod audit;
pub mod blobs;
pub mod boots;
mod bulk;
pub mod claims;
pub mod columns;
pub mod contents;
pub mod events;
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
pub mod tokens;
pub mod users;

use std::sync::Arc;
use std::time::Duration;

use diesel::QueryResult;
use diesel::connection::{AnsiTransactionManager, TransactionManager};
use diesel::result::{DatabaseErrorKind, Error as QueryError};
use jiff::Timestamp;
use tokio::sync::Semaphore;

use crate::clock::Clock;

pub use pool::{DatabaseUrl, DbConnection};

/// How long a request waits for a connection or for its turn to write.
const PATIENCE: Duration = Duration::from_secs(3);

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

/// A write in progress. Functions that change rows ask for this, so none can run outside
/// [`Db::write`].
pub struct Tx<'a> {
    pub conn: &'a mut DbConnection,
    pub now: Timestamp,
}

/// The store: a pool of connections, a clock, and one writer at a time on `SQLite`.
#[derive(Clone)]
pub struct Db {
    pool: r2d2::Pool<pool::Manager>,
    manager: pool::Manager,
    /// `SQLite` has one write lock and makes those who wait for it poll; here they queue.
    turns: Arc<Semaphore>,
    clock: Clock,
}

impl Db {
    /// Opens the database; it must have been migrated.
    ///
    /// # Errors
    /// When no connection can be made.
    pub fn open(url: &DatabaseUrl, clock: Clock, connections: u32) -> Result<Db, DbError> {
        let manager = pool::Manager::new(url.clone());
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
        let turns = match url {
            DatabaseUrl::Sqlite(_) => 1,
            DatabaseUrl::Postgres(_) => connections as usize,
        };
        Ok(Db { pool, manager, turns: Arc::new(Semaphore::new(turns)), clock })
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
        tokio::task::spawn_blocking(move || {
            db.with_connection(|conn| f(conn).map_err(DbError::from))
        })
        .await
        .map_err(|_| DbError::Ended)?
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
        let turn = tokio::time::timeout(PATIENCE, self.turns.clone().acquire_owned()).await;
        let Ok(Ok(turn)) = turn else { return Err(DbError::Busy.into()) };
        let db = self.clone();
        let done = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let started = std::time::Instant::now();
            let result = db.with_connection(|conn| transaction(conn, db.clock.now(), f));
            tracing::debug!(
                write = name,
                micros = started.elapsed().as_micros(),
                ok = result.is_ok()
            );
            result
        });
        done.await.map_err(|_| DbError::Ended)?
    }

    /// Whether the database answers a statement now.
    ///
    /// # Errors
    /// The reason why it does not.
    pub async fn ping(&self) -> Result<(), DbError> {
        self.read(meta::ping).await
    }

    fn with_connection<T, E: From<DbError>>(
        &self,
        f: impl FnOnce(&mut DbConnection) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut pooled = self.pool.get().map_err(|e| DbError::NoConnection(e.to_string()))?;
        let result = f(&mut pooled.conn);
        if result.is_err() && meta::ping(&mut pooled.conn).is_err() {
            self.manager.lost(&pooled);
        }
        result
    }
}

fn transaction<T, E: From<DbError>>(
    conn: &mut DbConnection,
    now: Timestamp,
    f: impl FnOnce(&mut Tx) -> Result<T, E>,
) -> Result<T, E> {
    // A plain BEGIN on SQLite takes the write lock at the first write, and a reader that comes to
    // write there fails instead of waiting.
    match conn {
        DbConnection::Sqlite(conn) => {
            AnsiTransactionManager::begin_transaction_sql(conn, "BEGIN IMMEDIATE")
        }
        DbConnection::Postgres(conn) => AnsiTransactionManager::begin_transaction(conn),
    }
    .map_err(DbError::from)?;
    match f(&mut Tx { conn, now }) {
        Ok(value) => {
            end(conn, true).map_err(DbError::from)?;
            Ok(value)
        }
        Err(error) => {
            // What went wrong first is what the caller needs to know.
            let _ = end(conn, false);
            Err(error)
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
