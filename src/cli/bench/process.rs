//! Processes of the bench's own: where they keep their files, which cores they run on, what CPU
//! time they took, and that none is left behind.

use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// How long a process may take to come up.
const START: Duration = Duration::from_secs(20);
/// How long a process may take to end by itself. Nothing is connected to it by then.
const STOP: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A directory for this run alone, gone when this is dropped.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn make(name: &str) -> anyhow::Result<Scratch> {
        let path = std::env::temp_dir().join(name);
        // Not `create_dir_all`: a directory that somebody put there before us is refused.
        let made = DirBuilder::new().mode(0o700).create(&path);
        made.with_context(|| path.display().to_string())?;
        Ok(Scratch(path))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("nodeinit: {} is left behind: {error}", self.0.display());
        }
    }
}

/// Who runs where: servers on one half of the cores and the generator on the other, so that
/// requests per second are those of so many cores and nobody waits for the one who asks.
pub struct Cores {
    /// `None` when there is one core, or none may be chosen: then all share what there is.
    split: Option<(CpuSet, CpuSet)>,
    pub all: usize,
    pub server: usize,
    pub generator: usize,
}

impl Cores {
    /// All cores for everybody: what a storm finds where machines do not run one thing alone.
    pub fn shared() -> Cores {
        let all = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Cores { split: None, all, server: all, generator: all.div_ceil(2) }
    }

    pub fn split() -> Cores {
        let shared = |all| Cores { split: None, all, server: all, generator: all };
        let Ok(allowed) = sched_getaffinity(None) else {
            return shared(std::thread::available_parallelism().map_or(1, std::num::NonZero::get));
        };
        let cores: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core)).collect();
        let (servers, generator) = cores.split_at(cores.len() / 2);
        let sets = (set(servers), set(generator));
        if servers.is_empty() || sched_setaffinity(None, &sets.1).is_err() {
            return shared(cores.len());
        }
        Cores {
            split: Some(sets),
            all: cores.len(),
            server: servers.len(),
            generator: generator.len(),
        }
    }

    /// Starts `command` on the servers' cores, which a child has from the thread that starts it.
    fn spawn(&self, command: &mut Command) -> std::io::Result<Child> {
        let Some((servers, generator)) = &self.split else { return command.spawn() };
        sched_setaffinity(None, servers)?;
        let child = command.spawn();
        sched_setaffinity(None, generator)?;
        child
    }
}

fn set(cores: &[usize]) -> CpuSet {
    let mut set = CpuSet::new();
    for core in cores {
        set.set(*core);
    }
    set
}

/// A process that ends when this is dropped.
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command`; what it says goes to the file `log`, since a pipe would want a reader.
    pub fn start(command: &mut Command, cores: &Cores, log: PathBuf) -> anyhow::Result<Process> {
        let name = command.get_program().to_string_lossy().into_owned();
        let shown = || log.display().to_string();
        let file = File::options().create(true).append(true).open(&log).with_context(shown)?;
        let command =
            command.stdin(Stdio::null()).stdout(file.try_clone().with_context(shown)?).stderr(file);
        let child = cores.spawn(command).with_context(|| format!("{name} does not start"))?;
        Ok(Process { child, log })
    }

    /// Waits until `is_up`.
    pub async fn wait_until(&mut self, is_up: impl Fn() -> bool) -> anyhow::Result<()> {
        let started = Instant::now();
        while !is_up() {
            if let Some(status) = self.child.try_wait()? {
                anyhow::bail!("it ended ({status}): {}", self.said());
            }
            anyhow::ensure!(started.elapsed() < START, "it does not come up: {}", self.said());
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Ok(())
    }

    fn said(&self) -> String {
        let said = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&said).trim().to_owned()
    }

    /// Empties the log, which grows by gigabytes in a long run. It is opened for appending, so
    /// the process goes on at the start.
    pub fn empty_log(&self) {
        let _ = File::options().write(true).truncate(true).open(&self.log);
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Ends the process as a power cut would: it has no time for anything.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Memory of the process that is in RAM, in MiB; `None` where `/proc` has none.
    pub fn rss_mib(&self) -> Option<f64> {
        rss_mib_of(self.child.id())
    }

    /// CPU time of the process and its children up to now; `None` where `/proc` has none.
    pub fn cpu(&self) -> Option<Duration> {
        cpu_of(self.child.id())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let asked = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) {
            if asked.elapsed() > STOP {
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }
}

/// proc(5), `/proc/pid/status`, which counts in KiB.
fn rss_mib_of(pid: u32) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u32 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(f64::from(kibibytes) / 1024.0)
}

/// CPU time of this process, without those it started.
pub fn own_cpu() -> Option<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    Some(of_ticks(parent_and_ticks(&stat)?.1))
}

/// CPU time of a process and its children up to now (proc(5), `/proc/pid/stat`).
fn cpu_of(pid: u32) -> Option<Duration> {
    let mut ticks = None;
    for entry in std::fs::read_dir("/proc").ok()?.flatten() {
        // Processes come and go while we look: those that are gone took no time we ask about.
        let id = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok());
        let stat = id.and_then(|_| std::fs::read_to_string(entry.path().join("stat")).ok());
        if let Some((parent, used)) = stat.as_deref().and_then(parent_and_ticks)
            && (id == Some(pid) || parent == pid)
        {
            ticks = Some(ticks.unwrap_or(0) + used);
        }
    }
    ticks.map(of_ticks)
}

fn of_ticks(ticks: u64) -> Duration {
    let a_second = rustix::param::clock_ticks_per_second().max(1);
    Duration::from_millis(ticks.saturating_mul(1000) / a_second)
}

/// `PID (NAME) STATE PPID … UTIME STIME …`, the 4th, 14th and 15th field. The name may hold
/// spaces and parentheses.
fn parent_and_ticks(stat: &str) -> Option<(u32, u64)> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split(' ').collect();
    let number = |field: usize| fields.get(field)?.parse::<u64>().ok();
    Some((fields.get(1)?.parse().ok()?, number(11)? + number(12)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_parentheses_does_not_shift_the_fields() {
        let stat = "42 (a) b (c) S 7 42 42 0 -1 4194304 1 2 3 4 150 25 0 0 20 0 1 0 99 0 0";
        assert_eq!(parent_and_ticks(stat), Some((7, 175)));
        assert_eq!(parent_and_ticks("42 (a) S 7"), None);
    }
}
