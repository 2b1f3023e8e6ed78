//! A nodeinit server of the bench's own, with nodes and tokens that nobody else knows.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use clap::ValueEnum;
use serde_json::{Value, json};
use ureq::http::Method;

use super::postgres::Postgres;
use super::process::{Cores, Process};
use super::wire::Signer;
use crate::client::{ServerUrl, Session};
use crate::domain::metadata_url::MetadataUrl;

/// Lines of one import, which is one transaction.
const BATCH: usize = 5000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Database {
    Sqlite,
    Postgres,
}

impl Database {
    pub fn name(self) -> &'static str {
        match self {
            Database::Sqlite => "sqlite",
            Database::Postgres => "postgres",
        }
    }
}

/// How a server of the bench's own is to be.
pub struct Setup {
    pub database: Database,
    /// Another database than one of the bench's own.
    pub database_url: Option<String>,
    /// More flags of `serve`.
    pub flags: Vec<String>,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup { database: Database::Sqlite, database_url: None, flags: Vec::new() }
    }
}

/// What the owner of every lifelike node wants it to run.
pub const USER_DATA: &str =
    "#!/bin/sh\n# what the owner wants\nexec systemctl start work.service\n";

/// Flags of a server whose nodes may ask as often as they like: what a node may ask is not what is
/// measured.
pub const UNPACED: [&str; 4] = ["--node-rate", "1000000", "--node-burst", "1000000"];

pub struct OwnServer {
    pub process: Process,
    pub address: SocketAddr,
    pub session: Session,
    pub metadata_url: MetadataUrl,
    pub signers: Vec<Signer>,
    /// Behind the server: it ends after it.
    pub postgres: Option<Postgres>,
    state: PathBuf,
    arguments: Vec<String>,
    log: PathBuf,
}

impl OwnServer {
    /// Runs this very program on a port of its choice as `setup` says, its files in `dir`, with the
    /// nodes of `fleet`.
    pub async fn start(
        dir: &Path,
        cores: &Cores,
        setup: Setup,
        fleet: &Fleet,
    ) -> anyhow::Result<OwnServer> {
        let state = dir.join("state");
        let log = dir.join("server.log");
        let (postgres, arguments) = start_database(dir, cores, setup, &state).await?;
        let (process, session) =
            serve(&state, &log, cores, "127.0.0.1:0", &arguments).await.context("serve")?;
        fleet.add(&session).context("adding nodes")?;
        let (signers, metadata_url) = fleet.get_tokens(&session).context("getting tokens")?;
        let metadata_url = MetadataUrl::parse(&metadata_url).map_err(anyhow::Error::msg)?;
        let address = metadata_url.authority().parse().context("the server's own address")?;
        Ok(OwnServer {
            process,
            address,
            session,
            metadata_url,
            signers,
            postgres,
            state,
            arguments,
            log,
        })
    }

    /// Kills the server as a power cut would, and starts it again where it was.
    pub async fn kill_and_restart(&mut self, cores: &Cores) -> anyhow::Result<()> {
        self.process.kill()?;
        let listen = self.address.to_string();
        let started = serve(&self.state, &self.log, cores, &listen, &self.arguments).await;
        (self.process, self.session) = started.context("the restart")?;
        Ok(())
    }

    /// CPU time of a database that is a process of its own.
    pub fn database_cpu(&self) -> Option<Duration> {
        self.postgres.as_ref()?.process.cpu()
    }

    /// What its database takes on disk, unwritten logs included.
    pub fn database_bytes(&self) -> Option<u64> {
        if let Some(postgres) = &self.postgres {
            return postgres.bytes();
        }
        let size = |name: &str| Some(std::fs::metadata(self.state.join(name)).ok()?.len());
        Some(size("nodeinit.db")? + size("nodeinit.db-wal").unwrap_or(0))
    }
}

/// The database of a server in `state` that is about to start, and the server's flags.
pub async fn start_database(
    dir: &Path,
    cores: &Cores,
    setup: Setup,
    state: &Path,
) -> anyhow::Result<(Option<Postgres>, Vec<String>)> {
    let mut arguments = setup.flags;
    let mut postgres = None;
    let url = match (setup.database_url, setup.database) {
        (Some(url), _) => Some(url),
        (None, Database::Sqlite) => None,
        (None, Database::Postgres) => {
            postgres = Some(Postgres::start(dir, cores).await?);
            postgres.as_ref().map(|postgres| postgres.url.clone())
        }
    };
    if let Some(url) = &url {
        arguments.extend(["--database-url".to_owned(), url.clone()]);
    }
    if url.is_some_and(|url| url.starts_with("postgres")) {
        let mut migrate = program("migrate", state)?;
        let url = arguments.iter().rev().take(2).rev();
        let made = migrate.arg("--new-key").args(url).output().context("migrate")?;
        let said = String::from_utf8_lossy(&made.stderr).trim().to_owned();
        anyhow::ensure!(made.status.success(), "migrate: {said}");
    }
    Ok((postgres, arguments))
}

/// This very program. The caller's settings are of the caller's server: its database above all.
pub fn program(verb: &str, state: &Path) -> anyhow::Result<Command> {
    let program = std::env::current_exe().context("this program's own path")?;
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("NODEINIT_") || text == "STATE_DIRECTORY" || text == "NOTIFY_SOCKET" {
            command.env_remove(&name);
        }
    }
    command.arg(verb).arg("--state-dir").arg(state);
    Ok(command)
}

pub async fn serve(
    state: &Path,
    log: &Path,
    cores: &Cores,
    listen: &str,
    arguments: &[String],
) -> anyhow::Result<(Process, Session)> {
    let mut command = program("serve", state)?;
    command.args(["--listen", listen, "--admin-listen", "off"]).args(arguments);
    let mut process = Process::start(&mut command, cores, log.to_owned())?;
    let session = Session::new(ServerUrl::Unix(state.join("admin.sock")));
    process.wait_until(|| session.get("/version").is_ok()).await?;
    Ok((process, session))
}

/// Nodes that are made for a run.
pub struct Fleet {
    pub project: String,
    pub prefix: String,
    pub nodes: u32,
    /// Fields of every node beside its names.
    pub fields: Value,
}

const NDJSON: [(&str, &str); 1] = [("content-type", "application/x-ndjson")];

impl Fleet {
    /// Nodes with nothing but a name.
    pub fn plain(nodes: u32) -> Fleet {
        Fleet { project: "default".into(), prefix: "bench-".into(), nodes, fields: json!({}) }
    }

    /// Nodes as they are in life: with keys and with what they are to run.
    pub fn lifelike(nodes: u32, prefix: String, label: &str) -> Fleet {
        let vendor_data = "#cloud-config\nntp: {servers: [ntp.example.com]}\n";
        let fields = json!({
            "labels": {"bench": label},
            "ssh_keys": ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIE1 ops@example.com"],
            "user_data": BASE64_STANDARD.encode(USER_DATA),
            "vendor_data": BASE64_STANDARD.encode(vendor_data),
        });
        Fleet { project: "default".into(), prefix, nodes, fields }
    }

    /// Equally long, since nginx has one file for all.
    fn system_id(&self, node: u32) -> String {
        format!("{}{node:07}", self.prefix)
    }

    fn ids(&self) -> Vec<String> {
        (0..self.nodes).map(|node| self.system_id(node)).collect()
    }

    pub fn add(&self, session: &Session) -> anyhow::Result<()> {
        let path = format!("/v1/{}/nodes", self.project);
        for batch in self.ids().chunks(BATCH) {
            let mut lines = String::new();
            for id in batch {
                let mut node = json!({"system_id": id, "hostname": id});
                if let (Value::Object(node), Value::Object(fields)) = (&mut node, &self.fields) {
                    node.extend(fields.clone());
                }
                lines += &node.to_string();
                lines.push('\n');
            }
            session.call(Method::POST, &path, &NDJSON, Some(lines.as_bytes()))?;
        }
        Ok(())
    }

    /// The credentials of every node, and where the server says it is.
    pub fn get_tokens(&self, session: &Session) -> anyhow::Result<(Vec<Signer>, String)> {
        let path = format!("/v1/{}/tokens", self.project);
        let ids = self.ids();
        let mut signers = Vec::with_capacity(ids.len());
        let mut metadata_url = None;
        for batch in ids.chunks(BATCH) {
            let lines: Vec<String> = batch.iter().map(|id| json!(id).to_string()).collect();
            let lines = lines.join("\n");
            let answer = session.call(Method::POST, &path, &NDJSON, Some(lines.as_bytes()))?;
            for line in answer.body.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
                let row: Value = serde_json::from_slice(line)?;
                if metadata_url.is_none() {
                    metadata_url = row["metadata_url"].as_str().map(str::to_owned);
                }
                signers.push(serde_json::from_value(row)?);
            }
        }
        let (made, nodes) = (signers.len(), ids.len());
        anyhow::ensure!(made == nodes, "{made} tokens for {nodes} nodes");
        Ok((signers, metadata_url.context("the server does not say where it listens")?))
    }
}
