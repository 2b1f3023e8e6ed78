//! A throwaway `PostgreSQL`, as durable as a real one: it fsyncs what it commits.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::Context as _;
use rustix::process::{Signal, kill_process};

use super::process::{Cores, Process};
use crate::store::DatabaseUrl;
use crate::store::pool::Manager;

pub struct Postgres {
    pub process: Process,
    pub url: String,
    port: u16,
}

/// Where systems keep `PostgreSQL`'s own programs; the newest of them.
fn find() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?.flatten();
    let mut found: Vec<(u32, PathBuf)> = versions
        .filter_map(|entry| {
            let version = entry.file_name().to_str()?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .filter(|(_, bin)| bin.join("initdb").is_file())
        .collect();
    found.sort_unstable();
    found.pop().map(|(_, bin)| bin)
}

/// A command that does not run as root, which `PostgreSQL` refuses.
fn command(program: &Path) -> Command {
    if !rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]).arg(program);
    command
}

impl Postgres {
    /// Runs a cluster for as long as this lives; its files are in `dir`.
    ///
    /// # Errors
    /// When there is no `PostgreSQL`, or it does not start.
    pub async fn start(dir: &Path, cores: &Cores) -> anyhow::Result<Postgres> {
        let bin = find().context("there is no PostgreSQL in /usr/lib/postgresql: install it")?;
        let home = dir.join("postgres");
        std::fs::create_dir(&home).with_context(|| home.display().to_string())?;
        if rustix::process::geteuid().is_root() {
            // The way there is closed to everybody else.
            let nobody = Some(65534);
            std::os::unix::fs::chown(&home, nobody, nobody)?;
            let open = std::os::unix::fs::PermissionsExt::from_mode(0o711);
            std::fs::set_permissions(dir, open)?;
        }
        let data = home.join("data");
        let mut initdb = command(&bin.join("initdb"));
        initdb.current_dir(&home).arg("-D").arg(&data);
        initdb.args(["-U", "bench", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8"]);
        let made = initdb.output().context("initdb does not start")?;
        anyhow::ensure!(made.status.success(), "initdb: {}", said(&made));

        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let mut postgres = command(&bin.join("postgres"));
        postgres.current_dir(&home).arg("-D").arg(&data).arg("-k").arg(&home);
        postgres.args(["-p", &port.to_string(), "-c", "listen_addresses=127.0.0.1"]);
        postgres.args(["-c", "max_connections=200", "-c", "shared_buffers=128MB"]);
        let mut process = Process::start(&mut postgres, cores, dir.join("postgres.log"))?;
        let url = format!("postgres://bench@127.0.0.1:{port}/postgres");
        let manager = Manager::new(DatabaseUrl::parse(&url).map_err(anyhow::Error::msg)?);
        // It listens a moment before it takes anybody in.
        process.wait_until(|| manager.open().is_ok()).await.context("postgres")?;
        Ok(Postgres { process, url, port })
    }

    /// How many bytes the database has on disk.
    #[must_use]
    pub fn bytes(&self) -> Option<u64> {
        let mut psql = Command::new(find()?.join("psql"));
        psql.args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", "bench", "-AtXc"]);
        psql.args(["select pg_database_size('postgres')", "postgres"]);
        String::from_utf8(psql.output().ok()?.stdout).ok()?.trim().parse().ok()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // Those that are connected are sent away: a smart stop would wait for them.
        let _ = kill_process(self.process.pid(), Signal::INT);
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).trim().to_owned()
}
