//! Connections: which database a URL names, how one is opened, and when one is past use.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use diesel::connection::{AnsiTransactionManager, SimpleConnection, TransactionManager};
use diesel::{Connection, ConnectionError, PgConnection, SqliteConnection};

use super::counts::{Counting, Counts};

/// Either database behind one type; queries are written once.
#[derive(diesel::MultiConnection)]
pub enum DbConnection {
    Postgres(PgConnection),
    Sqlite(SqliteConnection),
}

/// Where the data is. It has no `Debug`, and its `Display` leaves the password out.
#[derive(Clone, PartialEq, Eq)]
pub enum DatabaseUrl {
    Sqlite(PathBuf),
    Postgres(String),
}

impl DatabaseUrl {
    /// `sqlite:PATH`, `postgres://…` or `postgresql://…`.
    ///
    /// # Errors
    /// A sentence that says which URLs there are.
    pub fn parse(text: &str) -> Result<DatabaseUrl, String> {
        let postgres = text.strip_prefix("postgres://").or(text.strip_prefix("postgresql://"));
        if let Some(rest) = postgres {
            // libpq repeats in its errors what it takes for a host or a port, which is the
            // password when that has a character with a meaning of its own in it.
            return match rest.split_once(['/', '?', '#']) {
                Some((_, tail)) if tail.contains('@') => Err(ESCAPE.into()),
                _ if rest.matches('@').count() > 1 || !is_plain(rest) => Err(ESCAPE.into()),
                Some((_, tail)) if !parameters_are_known(tail) => {
                    Err("a database URL has a parameter that libpq does not know".into())
                }
                _ => Ok(DatabaseUrl::Postgres(text.to_owned())),
            };
        }
        match text.strip_prefix("sqlite:") {
            Some(path) if !path.is_empty() && !path.contains('\0') => {
                Ok(DatabaseUrl::Sqlite(PathBuf::from(path.strip_prefix("//").unwrap_or(path))))
            }
            _ => Err("a database URL is sqlite:PATH or postgres://USER@HOST/NAME".into()),
        }
    }
}

impl std::fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DatabaseUrl::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            DatabaseUrl::Postgres(url) => {
                // scheme://user:password@host/name?parameters: a password may hide in either place.
                let (scheme, rest) = url.split_once("://").unwrap_or(("postgres", ""));
                let rest = rest.split(['?', '#']).next().unwrap_or_default();
                match rest.rsplit_once('@') {
                    None => write!(f, "{scheme}://{rest}"),
                    Some((user, host)) => {
                        let user = user.split(':').next().unwrap_or_default();
                        write!(f, "{scheme}://{user}@{host}")
                    }
                }
            }
        }
    }
}

const ESCAPE: &str = "a database URL has one '@', before the host: write '@', '/', '?', '#' and '%' \
                      in a password as %40, %2F, %3F, %23 and %25";

/// Printable, with whole escapes and brackets: all else libpq would quote back.
fn is_plain(text: &str) -> bool {
    let escape =
        |after: &str| after.len() >= 2 && after.bytes().take(2).all(|b| b.is_ascii_hexdigit());
    text.bytes().all(|b| b.is_ascii_graphic())
        && text.split('%').skip(1).all(escape)
        && text.matches('[').count() == text.matches(']').count()
}

/// Parameters of a connection URI that make sense here (PostgreSQL 18 manual, §32.1.2).
const PARAMETERS: [&str; 22] = [
    "application_name",
    "channel_binding",
    "client_encoding",
    "connect_timeout",
    "dbname",
    "gssencmode",
    "host",
    "hostaddr",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "options",
    "passfile",
    "password",
    "port",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslrootcert",
    "target_session_attrs",
    "user",
];

fn parameters_are_known(tail: &str) -> bool {
    let query = tail.rsplit_once('?').map_or("", |(_, query)| query);
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .filter_map(|pair| pair.split('=').next())
        .all(|name| PARAMETERS.contains(&name) || name == "tcp_user_timeout")
}

/// A connection and the time of the pool's life in which it was opened.
pub struct Pooled {
    pub conn: DbConnection,
    opened_in: u64,
}

/// Opens connections for r2d2. When the server has gone away, [`Manager::lost`] starts a new
/// era, and connections of older eras are thrown away as they are met instead of failing one
/// request each; no ping is needed to tell.
#[derive(Clone)]
pub struct Manager {
    url: DatabaseUrl,
    era: Arc<AtomicU64>,
    /// What the connections of this manager do.
    pub counts: Arc<Counts>,
}

impl Manager {
    #[must_use]
    pub fn new(url: DatabaseUrl) -> Manager {
        Manager { url, era: Arc::default(), counts: Arc::default() }
    }

    /// The connection was lost, so every other one of its era is taken to be.
    pub fn lost(&self, pooled: &Pooled) {
        let _ = self.era.compare_exchange(
            pooled.opened_in,
            pooled.opened_in + 1,
            Ordering::SeqCst,
            Ordering::SeqCst,
        );
    }

    /// A connection for all that is written: on `SQLite` it remembers more of the file.
    ///
    /// # Errors
    /// The backend's own reason why there is no connection.
    pub fn open_kept(&self) -> Result<Pooled, ConnectionError> {
        let mut pooled = r2d2::ManageConnection::connect(self)?;
        if let DbConnection::Sqlite(conn) = &mut pooled.conn {
            conn.batch_execute("PRAGMA cache_size = -16384")
                .map_err(ConnectionError::CouldntSetupConfiguration)?;
        }
        Ok(pooled)
    }

    /// # Errors
    /// The backend's own reason why there is no connection.
    pub fn open(&self) -> Result<DbConnection, ConnectionError> {
        let setup = |e| ConnectionError::CouldntSetupConfiguration(e);
        match &self.url {
            DatabaseUrl::Sqlite(path) => {
                let mut conn = SqliteConnection::establish(&path.to_string_lossy())?;
                // FULL: an acknowledged write survives power loss. Writers queue in front of the
                // database, so the busy timeout is only met when another process holds it.
                // The log is taken over beside the writes; by a commit only when it gets long.
                conn.batch_execute(
                    "PRAGMA busy_timeout = 2000; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; \
                     PRAGMA foreign_keys = ON; PRAGMA wal_autocheckpoint = 16384; \
                     PRAGMA journal_size_limit = 67108864;",
                )
                .map_err(setup)?;
                Ok(DbConnection::Sqlite(conn))
            }
            DatabaseUrl::Postgres(url) => {
                let mut conn =
                    PgConnection::establish(&with_timeouts(url)).map_err(|e| without(url, e))?;
                // Statistics come later than rows: a plan kept from when a table was empty would
                // read the whole of it once it is full. No query of ours wants that.
                conn.batch_execute(&format!("SET lock_timeout = '{LOCK_TIMEOUT}'"))
                    .map_err(setup)?;
                conn.batch_execute(
                    "SET enable_seqscan = off; SET jit = off; \
                     SET statement_timeout = '8s'; SET synchronous_commit = on; \
                     SET idle_in_transaction_session_timeout = '30s'; SET client_min_messages = warning",
                )
                .map_err(setup)?;
                Ok(DbConnection::Postgres(conn))
            }
        }
    }
}

/// libpq's reason, unless it repeats the password: then only that there is one.
fn without(url: &str, error: ConnectionError) -> ConnectionError {
    let user = url.split_once("://").and_then(|(_, rest)| rest.split_once('@'));
    let password = user.and_then(|(user, _)| user.split_once(':')).map_or("", |(_, p)| p);
    if password.is_empty() || !error.to_string().contains(password) {
        return error;
    }
    ConnectionError::BadConnection("PostgreSQL cannot be reached with this URL".into())
}

/// How long a statement waits for what another transaction holds.
pub const LOCK_TIMEOUT: &str = "4s";

/// How soon a peer that is gone is given up, and that a standby is not what is meant.
const DEFAULTS: [(&str, &str); 6] = [
    ("connect_timeout", "3"),
    ("tcp_user_timeout", "5000"),
    ("keepalives_idle", "10"),
    ("keepalives_interval", "5"),
    ("keepalives_count", "3"),
    ("target_session_attrs", "read-write"),
];

/// libpq waits for ever by default; a URL that sets these itself is left alone.
fn with_timeouts(url: &str) -> String {
    let mut url = url.to_owned();
    for (name, value) in DEFAULTS {
        if !url.contains(&format!("{name}=")) {
            url.push(if url.contains('?') { '&' } else { '?' });
            url.extend([name, "=", value]);
        }
    }
    url
}

impl r2d2::ManageConnection for Manager {
    type Connection = Pooled;
    type Error = ConnectionError;

    fn connect(&self) -> Result<Pooled, ConnectionError> {
        let opened_in = self.era.load(Ordering::SeqCst);
        let mut conn = self.open()?;
        conn.set_instrumentation(Counting(self.counts.clone()));
        Ok(Pooled { conn, opened_in })
    }

    fn is_valid(&self, pooled: &mut Pooled) -> Result<(), ConnectionError> {
        if self.has_broken(pooled) {
            Err(ConnectionError::BadConnection("lost with the server it was opened to".into()))
        } else {
            Ok(())
        }
    }

    fn has_broken(&self, pooled: &mut Pooled) -> bool {
        // A transaction left open by a panic ends with its connection.
        let in_transaction = match &mut pooled.conn {
            DbConnection::Postgres(c) => AnsiTransactionManager::is_broken_transaction_manager(c),
            DbConnection::Sqlite(c) => AnsiTransactionManager::is_broken_transaction_manager(c),
        };
        in_transaction || pooled.opened_in != self.era.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_printed_url_has_no_password() {
        for (url, shown) in [
            ("postgres://u:p@h:5/n", "postgres://u@h:5/n"),
            ("postgres://h/n?password=p", "postgres://h/n"),
            ("postgresql://u@h/n", "postgresql://u@h/n"),
            ("sqlite:/var/lib/x.db", "sqlite:/var/lib/x.db"),
            ("sqlite:///var/lib/x.db", "sqlite:/var/lib/x.db"),
        ] {
            assert_eq!(DatabaseUrl::parse(url).unwrap().to_string(), shown);
        }
        for bad in [
            "",
            "sqlite:",
            "mysql://h",
            "/path",
            "postgres:h",
            "postgres://u:p@ss@h/n",
            "postgres://u:p/ss@h/n",
            "postgres://u:p?ss@h/n",
            "postgres://u:p%zz@h/n",
            "postgres://u:p@[::1/n",
            "postgres://u:p p@h/n",
            "postgres://h/n?pasword=p",
        ] {
            assert!(DatabaseUrl::parse(bad).is_err(), "{bad}");
        }
    }
}
