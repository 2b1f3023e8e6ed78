//! The rules in force, and the look-out for a changed policy file.
//!
//! A thread of its own looks at the file, so that a file system that hangs holds up neither a
//! request nor a stop.

use std::fs::Metadata;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

use super::locked;
use crate::clock::Clock;
use crate::domain::policy::{Creds, Rules, Target, compiled_in, from_file};

/// How often the file is looked at.
const EVERY: Duration = Duration::from_secs(1);
/// A look that takes this long is not coming back soon.
const HUNG: Duration = Duration::from_secs(10);
/// One byte more than the loader takes.
const MOST_BYTES: u64 = (1 << 20) + 1;
/// A file that moves while it is read is read again, this often at one look.
const TRIES: usize = 5;

/// Why a policy file cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadFile {
    pub path: PathBuf,
    /// One a line: where in the file, and what is wrong.
    pub problems: Vec<String>,
}

impl std::fmt::Display for BadFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (n, problem) in self.problems.iter().enumerate() {
            let separator = if n == 0 { "" } else { "\n" };
            write!(f, "{separator}{}: {problem}", self.path.display())?;
        }
        Ok(())
    }
}

impl std::error::Error for BadFile {}

/// What tells two states of a file apart without reading it. The time of change is in it because
/// nobody can set that back.
type Stamp = (u64, u64, u64, i64, i64, i64, i64);

fn stamp(file: &Metadata) -> Stamp {
    let (written, changed) = ((file.mtime(), file.mtime_nsec()), (file.ctime(), file.ctime_nsec()));
    (file.dev(), file.ino(), file.size(), written.0, written.1, changed.0, changed.1)
}

/// A state of the file: its stamp, if it is there, and the digest of what was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    stamp: Option<Stamp>,
    digest: [u8; 32],
}

struct Seen {
    tried: State,
    /// Two writes in one tick of the file system's clock have one stamp: what was read is read once
    /// more at the next look.
    settled: bool,
    loaded_at: Timestamp,
    problems: Vec<String>,
    /// When a look began that has not ended.
    looking: Option<Instant>,
}

/// How the policy file fares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileState {
    pub path: PathBuf,
    /// When the rules in force were read.
    pub loaded_at: Timestamp,
    /// Why the file as it is now is not in force; empty while it is.
    pub problems: Vec<String>,
}

/// The rules in force. What refuses a file leaves them as they are.
pub struct PolicySource {
    file: Option<(PathBuf, Mutex<Seen>)>,
    rules: RwLock<Rules>,
    clock: Clock,
}

impl PolicySource {
    /// The rules that are compiled in, with those of `file` over them.
    ///
    /// # Errors
    /// [`BadFile`] when a file is named that cannot be used.
    pub fn open(file: Option<PathBuf>, clock: Clock) -> Result<PolicySource, BadFile> {
        let Some(path) = file else {
            return Ok(PolicySource { file: None, rules: RwLock::new(compiled_in()), clock });
        };
        let (tried, rules) = read(&path);
        let rules = rules.map_err(|problems| BadFile { path: path.clone(), problems })?;
        let seen = Seen {
            tried,
            settled: false,
            loaded_at: clock.now(),
            problems: Vec::new(),
            looking: None,
        };
        Ok(PolicySource { file: Some((path, Mutex::new(seen))), rules: RwLock::new(rules), clock })
    }

    #[must_use]
    pub fn current(&self) -> Rules {
        self.rules.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the rules in force allow it.
    #[must_use]
    pub fn allows(&self, rule: &str, creds: &Creds, target: &Target) -> bool {
        self.current().allows(rule, creds, target)
    }

    /// `None` without a file.
    #[must_use]
    pub fn file(&self) -> Option<FileState> {
        let (path, seen) = self.file.as_ref()?;
        let seen = locked(seen);
        let mut problems = seen.problems.clone();
        if seen.looking.is_some_and(|since| since.elapsed() > HUNG) {
            problems.push("reading it does not come to an end".into());
        }
        Some(FileState { path: path.clone(), loaded_at: seen.loaded_at, problems })
    }

    /// Looks at the file, and takes its rules if it has changed and they hold together.
    fn look(&self) {
        let Some((path, seen)) = &self.file else { return };
        let (tried, settled) = {
            let mut seen = locked(seen);
            seen.looking = Some(Instant::now());
            (seen.tried, seen.settled)
        };
        let now = std::fs::metadata(path).ok().map(|file| stamp(&file));
        let read = (now != tried.stamp || !settled).then(|| read(path));
        let mut seen = locked(seen);
        seen.looking = None;
        let Some((state, rules)) = read else { return };
        seen.settled = state == tried;
        if seen.settled {
            return;
        }
        seen.tried = state;
        let shown = path.display();
        match rules {
            Ok(rules) => {
                *self.rules.write().unwrap_or_else(PoisonError::into_inner) = rules;
                seen.loaded_at = self.clock.now();
                seen.problems.clear();
                tracing::info!(file = %shown, "the policy file is loaded");
            }
            Err(problems) => {
                let all = problems.join("; ");
                tracing::error!(file = %shown, problems = %all, "the policy file cannot be used: the rules before it hold");
                seen.problems = problems;
            }
        }
    }
}

/// The file as it stands still for a moment, and its rules or what is wrong with them.
fn read(path: &Path) -> (State, Result<Rules, Vec<String>>) {
    let mut state = State { stamp: None, digest: [0; 32] };
    for _ in 0..TRIES {
        let (before, read) = match bytes(path) {
            Ok((before, bytes)) => (Some(before), Ok(bytes)),
            Err((before, why)) => (before, Err(why)),
        };
        state.stamp = before;
        if before != std::fs::metadata(path).ok().map(|file| stamp(&file)) {
            continue;
        }
        let rules = read.and_then(|bytes| {
            state.digest = Sha256::digest(&bytes).into();
            from_file(&bytes)
                .map_err(|error| error.problems.iter().map(ToString::to_string).collect::<Vec<_>>())
        });
        return (state, rules);
    }
    (state, Err(vec!["it changes while it is being read".into()]))
}

type Unread = (Option<Stamp>, Vec<String>);

fn bytes(path: &Path) -> Result<(Stamp, Vec<u8>), Unread> {
    let why = |stamp| move |error: std::io::Error| (stamp, vec![error.to_string()]);
    let file = std::fs::metadata(path).map_err(why(None))?;
    let stamp = stamp(&file);
    if !file.is_file() {
        return Err((Some(stamp), vec!["not a file".into()]));
    }
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(why(Some(stamp)))?;
    file.take(MOST_BYTES).read_to_end(&mut bytes).map_err(why(Some(stamp)))?;
    Ok((stamp, bytes))
}

/// A thread that looks at the file until this is dropped.
pub struct Watch(Sender<()>);

impl Watch {
    /// Starts looking, if there is a file.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn spawn(source: &Arc<PolicySource>) -> std::io::Result<Option<Watch>> {
        if source.file.is_none() {
            return Ok(None);
        }
        let (ask, asked) = channel();
        let source = source.clone();
        std::thread::Builder::new().name("policy-file".into()).spawn(move || {
            while asked.recv_timeout(EVERY) != Err(RecvTimeoutError::Disconnected) {
                source.look();
            }
        })?;
        Ok(Some(Watch(ask)))
    }

    /// Looks now rather than within the second.
    pub fn look(&self) {
        // It lives as long as this does.
        let _ = self.0.send(());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &Path) -> Result<PolicySource, BadFile> {
        let clock = Clock::fixed(Timestamp::from_second(1_800_000_000).unwrap());
        PolicySource::open(Some(path.to_owned()), clock)
    }

    fn anyone_may_list(source: &PolicySource) -> bool {
        source.allows("node:list", &Creds::new(), &Target::new())
    }

    #[test]
    fn two_writes_within_one_tick_are_both_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("policy.yaml");
        std::fs::write(&path, "node:list: '@'\n").unwrap();
        let source = source(&path).unwrap();
        // As if the second write had left the very stamp of the first.
        std::fs::write(&path, "node:list: '!'\n").unwrap();
        let file = std::fs::metadata(&path).unwrap();
        locked(&source.file.as_ref().unwrap().1).tried.stamp = Some(stamp(&file));
        assert!(anyone_may_list(&source));
        source.look();
        assert!(!anyone_may_list(&source));
        source.look();
        assert!(locked(&source.file.as_ref().unwrap().1).settled);
    }

    #[test]
    fn a_look_that_hangs_is_told_of() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("policy.yaml");
        std::fs::write(&path, "{}\n").unwrap();
        let source = source(&path).unwrap();
        assert_eq!(source.file().unwrap().problems, [""; 0]);
        let long_ago = Instant::now().checked_sub(HUNG * 2);
        locked(&source.file.as_ref().unwrap().1).looking = long_ago;
        assert_eq!(source.file().unwrap().problems.len(), 1);
        source.look();
        assert_eq!(source.file().unwrap().problems, [""; 0]);
    }

    #[test]
    fn a_directory_and_a_pipe_are_no_policy_files() {
        let dir = tempfile::tempdir().unwrap();
        let refused = source(dir.path()).err().unwrap();
        assert_eq!(refused.to_string(), format!("{}: not a file", dir.path().display()));
        assert!(source(Path::new("/dev/zero")).is_err());
    }
}
