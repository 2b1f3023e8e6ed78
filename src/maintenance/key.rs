//! The secret key file: 32 bytes, readable by their owner.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use zeroize::Zeroizing;

#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error(
        "there is no secret key at {path}: with PostgreSQL make one with `nodeinit migrate --new-key` \
         or copy it from another replica; for a database that is in use, restore it from the backup"
    )]
    Missing { path: String },
    #[error("{path} is {length} bytes and a secret key is 32")]
    Length { path: String, length: usize },
    #[error("the secret key at {path} is not the one this database was made with")]
    DoesNotFit { path: String },
    #[error("there is a secret key at {path} already: it is not replaced")]
    Exists { path: String },
    #[error("{path}")]
    File { path: String, source: std::io::Error },
}

/// # Errors
/// When the file is missing, unreadable or not 32 bytes.
pub fn load(path: &Path) -> Result<Zeroizing<[u8; 32]>, KeyError> {
    let shown = path.display().to_string();
    let bytes = match std::fs::read(path) {
        Ok(bytes) => Zeroizing::new(bytes),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(KeyError::Missing { path: shown });
        }
        Err(source) => return Err(KeyError::File { path: shown, source }),
    };
    if std::fs::metadata(path).is_ok_and(|meta| meta.mode() & 0o077 != 0) {
        tracing::warn!(path = shown, "the secret key can be read by others: chmod 600");
    }
    let key: [u8; 32] = bytes
        .as_slice()
        .try_into()
        .map_err(|_| KeyError::Length { path: shown, length: bytes.len() })?;
    Ok(Zeroizing::new(key))
}

/// Makes a key where there is none, whole or not at all.
///
/// # Errors
/// [`KeyError::Exists`], or when the file cannot be written.
pub fn make(path: &Path) -> Result<(), KeyError> {
    let shown = path.display().to_string();
    let failed = |source| KeyError::File { path: shown.clone(), source };
    let mut key = Zeroizing::new([0; 32]);
    rand::TryRng::try_fill_bytes(&mut rand::rngs::SysRng, key.as_mut_slice())
        .map_err(|e| failed(std::io::Error::other(e)))?;

    let partial = path.with_extension(format!("new.{}", std::process::id()));
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&partial)
        .map_err(failed)?;
    file.write_all(key.as_slice()).and_then(|()| file.sync_all()).map_err(failed)?;
    // A link does not replace what is there, as a rename would.
    let linked = std::fs::hard_link(&partial, path);
    let _ = std::fs::remove_file(&partial);
    match linked {
        Ok(()) => sync_directory(path).map_err(failed),
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
            Err(KeyError::Exists { path: shown.clone() })
        }
        Err(source) => Err(failed(source)),
    }
}

/// Makes the name of a file as durable as its bytes.
///
/// # Errors
/// When the directory cannot be opened.
pub fn sync_directory(of: &Path) -> std::io::Result<()> {
    let parent = of.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::File::open(parent)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_for_its_owner_and_is_32_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret.key");
        assert!(matches!(load(&path), Err(KeyError::Missing { .. })));
        make(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let key = load(&path).unwrap();
        assert!(matches!(make(&path), Err(KeyError::Exists { .. })));
        assert_eq!(load(&path).unwrap(), key);
        std::fs::write(&path, "short").unwrap();
        assert!(matches!(load(&path), Err(KeyError::Length { length: 5, .. })));
    }
}
