//! A nodeinit server of the bench's own, with nodes and tokens that nobody else knows.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::Context as _;
use serde_json::{Value, json};
use ureq::http::Method;

use super::generator::Signer;
use super::process::{Cores, Process};
use crate::client::{ServerUrl, Session};
use crate::domain::metadata_url::MetadataUrl;

/// Lines of one import, which is one transaction.
const BATCH: usize = 5000;

pub struct OwnServer {
    pub process: Process,
    pub address: SocketAddr,
    pub signers: Vec<Signer>,
}

impl OwnServer {
    /// Runs this very program on a port of its choice, its files in `dir`, with so many nodes.
    pub async fn start(dir: &Path, cores: &Cores, nodes: u32) -> anyhow::Result<OwnServer> {
        let state = dir.join("state");
        let program = std::env::current_exe().context("this program's own path")?;
        let mut command = Command::new(program);
        command.args(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "off"]);
        command.arg("--state-dir").arg(&state);
        // So few nodes never ask this often; what a node may ask is not what is measured.
        command.args(["--node-rate", "1000000", "--node-burst", "1000000"]);
        // The caller's settings are of the caller's server: its database above all.
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("NODEINIT_") || text == "STATE_DIRECTORY" || text == "NOTIFY_SOCKET"
            {
                command.env_remove(&name);
            }
        }
        let mut process = Process::start(&mut command, cores, dir.join("server.log"))?;
        let session = Session::new(ServerUrl::Unix(state.join("admin.sock")));
        process.wait_until(|| session.get("/version").is_ok()).await.context("serve")?;
        add_nodes(&session, nodes).context("adding nodes")?;
        let (signers, metadata_url) = get_tokens(&session, nodes).context("getting tokens")?;
        let url = MetadataUrl::parse(&metadata_url).map_err(anyhow::Error::msg)?;
        let address = url.authority().parse().context("the server's own address")?;
        Ok(OwnServer { process, address, signers })
    }
}

/// Equally long, since nginx has one file for all.
fn system_id(node: u32) -> String {
    format!("bench-{node:07}")
}

const NDJSON: [(&str, &str); 1] = [("content-type", "application/x-ndjson")];

fn add_nodes(session: &Session, nodes: u32) -> anyhow::Result<()> {
    let ids: Vec<String> = (0..nodes).map(system_id).collect();
    for batch in ids.chunks(BATCH) {
        let lines: Vec<String> =
            batch.iter().map(|id| json!({"system_id": id, "hostname": id}).to_string()).collect();
        let lines = lines.join("\n");
        session.call(Method::POST, "/v1/default/nodes", &NDJSON, Some(lines.as_bytes()))?;
    }
    Ok(())
}

/// The credentials of every node, and where the server says it is.
fn get_tokens(session: &Session, nodes: u32) -> anyhow::Result<(Vec<Signer>, String)> {
    let ids: Vec<String> = (0..nodes).map(system_id).collect();
    let mut signers = Vec::with_capacity(ids.len());
    let mut metadata_url = None;
    for batch in ids.chunks(BATCH) {
        let lines: Vec<String> = batch.iter().map(|id| json!(id).to_string()).collect();
        let lines = lines.join("\n");
        let path = "/v1/default/tokens";
        let answer = session.call(Method::POST, path, &NDJSON, Some(lines.as_bytes()))?;
        for line in answer.body.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
            let row: Value = serde_json::from_slice(line)?;
            if metadata_url.is_none() {
                metadata_url = row["metadata_url"].as_str().map(str::to_owned);
            }
            signers.push(serde_json::from_value(row)?);
        }
    }
    anyhow::ensure!(signers.len() == ids.len(), "{} tokens for {nodes} nodes", signers.len());
    Ok((signers, metadata_url.context("the server does not say where it listens")?))
}
