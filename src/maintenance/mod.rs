//! What needs the files rather than a running server: the secret key and the migrations.

pub mod key;
pub mod lock;

use std::time::Duration;

use crate::config::Settings;
use crate::domain::audit::AuditKey;
use crate::domain::seal::Sealer;
use crate::store::migrations::{self, MigrateError};
use crate::store::{DatabaseUrl, Db, DbError, is_unique_violation, meta};

/// Why a database and its key could not be made ready.
#[derive(Debug, thiserror::Error)]
pub enum MaintenanceError {
    #[error(transparent)]
    Migrate(#[from] MigrateError),
    #[error(transparent)]
    Key(#[from] key::KeyError),
    #[error(transparent)]
    Lock(#[from] lock::LockError),
    #[error(transparent)]
    Store(#[from] DbError),
    #[error("{path}")]
    File { path: String, source: std::io::Error },
}

/// Makes the state directory, for its owner alone, if it is not there.
///
/// # Errors
/// When it cannot be made.
pub fn make_state_dir(settings: &Settings) -> Result<(), MaintenanceError> {
    use std::os::unix::fs::DirBuilderExt as _;
    // Whatever this process makes is its owner's alone: the database, the socket, the nonces.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let path = &settings.state_dir;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| MaintenanceError::File { path: path.display().to_string(), source })
}

/// Whether this start is the first: there is no `SQLite` file yet.
#[must_use]
pub fn is_brand_new(settings: &Settings) -> bool {
    match &settings.database_url {
        DatabaseUrl::Sqlite(path) => !path.exists(),
        DatabaseUrl::Postgres(_) => false,
    }
}

/// `nodeinit migrate [--new-key]`: applies what is missing, and makes the key if asked to.
///
/// # Errors
/// When a step fails, or a key is there already.
pub fn migrate(settings: &Settings, new_key: bool) -> Result<Vec<String>, MaintenanceError> {
    make_state_dir(settings)?;
    // Several at once take turns; a server that runs is not migrated under its feet.
    let _lock = lock::database(settings, Duration::from_secs(10))?;
    if new_key {
        key::make(&settings.secret_key_file)?;
    }
    Ok(migrations::run(&settings.database_url)?)
}

/// What is made of the secret key.
pub struct Keys {
    pub sealer: Sealer,
    pub audit: AuditKey,
}

/// The keys of this database, checked against it: one that does not fit stops the start.
///
/// # Errors
/// When there is no key, or it is not the one the database was first used with.
pub async fn fitting_key(settings: &Settings, db: &Db) -> Result<Keys, MaintenanceError> {
    let path = &settings.secret_key_file;
    // A database that no key was noted in has no secret to lose. Replicas share a key, so theirs
    // is made by hand, once.
    let embedded = matches!(settings.database_url, DatabaseUrl::Sqlite(_));
    if embedded && !path.exists() && db.read(meta::find_key_check).await?.is_none() {
        key::make(path)?;
    }
    let secret = key::load(path)?;
    let (sealer, audit) = (Sealer::new(&secret), AuditKey::new(&secret));
    let check = sealer.check_value().to_vec();
    let stored = db
        .write("note the key", move |tx| {
            if let Some(stored) = meta::find_key_check(tx.conn)? {
                return Ok(stored);
            }
            match meta::insert_key_check(tx, &check) {
                // Another replica was first; its transaction is over, ours begins again.
                Err(error) if is_unique_violation(&error) => Ok(Vec::new()),
                inserted => inserted.map(|()| check).map_err(DbError::from),
            }
        })
        .await;
    let stored = match stored {
        Ok(stored) if stored.is_empty() => db.read(meta::find_key_check).await?.unwrap_or_default(),
        Ok(stored) => stored,
        Err(error) => return Err(MaintenanceError::Store(error)),
    };
    if stored == sealer.check_value() {
        Ok(Keys { sealer, audit })
    } else {
        Err(key::KeyError::DoesNotFit { path: path.display().to_string() }.into())
    }
}
