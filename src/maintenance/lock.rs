//! One process at a time for a state directory, and for an embedded database.

use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::config::Settings;
use crate::store::DatabaseUrl;

#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error("{what} is in use by another nodeinit (process {pid}): stop it first")]
    Held { what: String, pid: String },
    #[error("{path}")]
    File { path: String, source: std::io::Error },
}

/// The lock of the state directory: under it a stale socket may be replaced.
///
/// # Errors
/// [`LockError::Held`] once `patience` is over.
pub fn state_dir(settings: &Settings, patience: Duration) -> Result<Option<File>, LockError> {
    take(&settings.state_dir.join("lock"), "the state directory", patience).map(Some)
}

/// The lock of an `SQLite` file, beside it: two servers would each believe that it knows what was
/// spent and ended. PostgreSQL needs none.
///
/// # Errors
/// [`LockError::Held`] once `patience` is over.
pub fn database(settings: &Settings, patience: Duration) -> Result<Option<File>, LockError> {
    match &settings.database_url {
        DatabaseUrl::Postgres(_) => Ok(None),
        DatabaseUrl::Sqlite(path) => {
            let mut beside = path.clone().into_os_string();
            beside.push(".lock");
            take(Path::new(&beside), "the database file", patience).map(Some)
        }
    }
}

/// A lock that goes with the process, however it ends.
fn take(path: &Path, what: &str, patience: Duration) -> Result<File, LockError> {
    let failed = |source| LockError::File { path: path.display().to_string(), source };
    let mut options = File::options();
    let mut file =
        options.read(true).write(true).create(true).truncate(false).open(path).map_err(failed)?;
    let began = Instant::now();
    while let Err(refused) = file.try_lock() {
        if let std::fs::TryLockError::Error(source) = refused {
            return Err(failed(source));
        }
        if began.elapsed() >= patience {
            let mut pid = String::new();
            let _ = file.read_to_string(&mut pid);
            let what = format!("{what} ({})", path.display());
            return Err(LockError::Held { what, pid: pid.trim().to_owned() });
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    file.set_len(0).and_then(|()| file.rewind()).map_err(failed)?;
    writeln!(file, "{}", std::process::id()).map_err(failed)?;
    Ok(file)
}
