//! `nodeinit bench issue`: a fleet imported, given its tokens, looked through and half culled, on a
//! server of its own; how fast, and what it costs those who read meanwhile.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::Args;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use ureq::http::Method;

use super::generator::{self, Load, Mode, Target};
use super::postgres::Postgres;
use super::process::{Cores, Process, Scratch};
use super::server::{self, Database, Setup, UNPACED};
use super::told;
use super::wire::{Signer, Signing};
use crate::cli::Common;
use crate::cli::output::{self, Format};
use crate::client::Session;
use crate::domain::credentials::Mint;
use crate::domain::metadata_url::MetadataUrl;

#[derive(Args)]
pub struct Issue {
    /// Nodes to import, and to give tokens to
    #[arg(long, value_name = "N", default_value_t = 10_000,
          value_parser = clap::value_parser!(u32).range(1000..=10_000_000))]
    nodes: u32,
    /// The database of the bench's own server; it is thrown away
    #[arg(long, value_enum, default_value_t = Database::Sqlite)]
    database: Database,
    /// Connections that read while half of the tokens are culled
    #[arg(long, value_name = "N", default_value_t = 16,
          value_parser = clap::value_parser!(u32).range(1..=10_000))]
    connections: u32,
}

/// Nodes of one request.
const BATCH: u32 = 2000;
/// Nodes that read while the others' tokens are culled.
const READERS: usize = 2000;
/// Times that a page is asked for; the slowest is printed.
const TIMES: usize = 20;
/// Reads before the cull are counted for so long.
const BEFORE: Duration = Duration::from_secs(3);
/// Between the tokens that are culled and those that are not.
const APART: Duration = Duration::from_secs(2);

pub fn run(common: &Common, flags: &Issue) -> anyhow::Result<()> {
    anyhow::ensure!(
        common.server.is_none(),
        "--server is not supported: half of its tokens would be culled"
    );
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        // Dropping the measurement ends its processes and removes its directory.
        tokio::select! {
            measured = measure_own(flags) => measured,
            _ = terminate.recv() => anyhow::bail!("terminated"),
            _ = interrupt.recv() => anyhow::bail!("interrupted"),
        }
    })?;
    print(common.output, &report)
}

async fn measure_own(flags: &Issue) -> anyhow::Result<Value> {
    let cores = Cores::split();
    let database = flags.database.name();
    let id = u64::from_ne_bytes(Mint::from_system()?.bytes());
    let scratch = Scratch::make(&format!("nodeinit-bench-{id:016x}"))?;
    let mut row = json!({"database": database});
    measure(flags, &cores, scratch.path(), &mut row).await.context(database)?;
    Ok(json!({
        "issue": [row],
        "nodes": flags.nodes,
        "connections": flags.connections,
        "cpus": cores.all,
        "server_cpus": cores.server,
    }))
}

/// A server under measurement.
struct Served {
    process: Process,
    session: Arc<Session>,
    state: PathBuf,
    /// Behind the server: it ends after it.
    _postgres: Option<Postgres>,
}

impl Served {
    async fn start(dir: &Path, cores: &Cores, database: Database) -> anyhow::Result<Served> {
        let state = dir.join("state");
        let flags = UNPACED.map(str::to_owned).to_vec();
        let setup = Setup { database, flags, ..Setup::default() };
        let (postgres, arguments) = server::start_database(dir, cores, setup, &state).await?;
        let log = dir.join("server.log");
        let served = server::serve(&state, &log, cores, "127.0.0.1:0", &arguments).await;
        let (process, session) = served.context("serve")?;
        Ok(Served { process, session: Arc::new(session), state, _postgres: postgres })
    }

    /// How long `SQLite`'s log is.
    fn wal_mib(&self) -> Option<f64> {
        let log = std::fs::metadata(self.state.join("nodeinit.db-wal")).ok()?;
        Some(f64::from(u32::try_from(log.len() >> 10).ok()?) / 1024.0)
    }
}

fn system_id(node: u32) -> String {
    format!("bench-{node:07}")
}

/// A realistic line: labels, hardware addresses, a key, and user-data that all share.
fn line(node: u32) -> Value {
    let octets = node.to_be_bytes().map(|octet| format!("{octet:02x}")).join(":");
    json!({
        "system_id": system_id(node),
        "hostname": format!("{}.example.com", system_id(node)),
        "labels": {"rack": format!("r{}", node / 40), "role": "compute"},
        "macs": [format!("52:54:{octets}"), format!("52:56:{octets}")],
        "ssh_keys": [
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ6mB1Gk0Uo0a3pKxkD9m5gTz5cJ3cVq7nLw8rQ2sT1u ops"
        ],
        // #cloud-config, packages: [chrony]
        "user_data": "I2Nsb3VkLWNvbmZpZwpwYWNrYWdlczogW2Nocm9ueV0K",
    })
}

async fn measure(flags: &Issue, cores: &Cores, dir: &Path, row: &mut Value) -> anyhow::Result<()> {
    let served = Served::start(dir, cores, flags.database).await?;
    let nodes = flags.nodes;

    let file = dir.join("nodes.ndjson");
    write_lines(&file, nodes)?;
    let (state, started) = (served.state.clone(), Instant::now());
    off(move || import(&state, &file, nodes)).await?;
    row["import_s"] = figure(started.elapsed().as_secs_f64(), 2);
    row["import_nodes_per_s"] = rate(nodes, started.elapsed());

    // The first half is culled, and so older than the second.
    let half = nodes / 2;
    let get = |nodes: Range<u32>| {
        let session = served.session.clone();
        off(move || get_tokens(&session, nodes))
    };
    let first = Instant::now();
    get(0..half).await?;
    let first = first.elapsed();
    tokio::time::sleep(APART).await;
    let younger = Instant::now();
    let (signers, metadata_url) = get(half..nodes).await?;
    row["tokens_per_s"] = rate(nodes, first + younger.elapsed());
    let again = Instant::now();
    get(0..half).await?;
    row["tokens_again_per_s"] = rate(half, again.elapsed());

    let session = served.session.clone();
    for (name, took) in off(move || look(&session, nodes)).await? {
        row[name] = figure(took, 2);
    }

    let url = MetadataUrl::parse(&metadata_url.context("the server does not say where it is")?);
    let address = url.map_err(anyhow::Error::msg)?.authority().parse().context("its address")?;
    let target = Arc::new(Target::new(address, "http", &signers, Signing::Plaintext, |signer| {
        signer.system_id.clone()
    }));
    cull(flags, cores, &served, &target, younger, row).await?;
    row["rss_mib"] = served.process.rss_mib().map_or(Value::Null, |mib| figure(mib, 1));
    Ok(())
}

/// Blocks elsewhere, so that a signal is heard.
async fn off<T: Send + 'static>(
    f: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    tokio::task::spawn_blocking(f).await?
}

fn write_lines(file: &Path, nodes: u32) -> anyhow::Result<()> {
    use std::io::Write as _;
    let shown = || file.display().to_string();
    let mut out = std::io::BufWriter::new(std::fs::File::create(file).with_context(shown)?);
    for node in 0..nodes {
        writeln!(out, "{}", line(node)).with_context(shown)?;
    }
    out.flush().with_context(shown)
}

/// Through the CLI, as an operator would.
fn import(state: &Path, file: &Path, nodes: u32) -> anyhow::Result<()> {
    let mut command = server::program("node", state)?;
    command.args(["import", "-o", "json"]).arg(file);
    let done = command.output().context("node import")?;
    let said = String::from_utf8_lossy(&done.stderr);
    anyhow::ensure!(done.status.success(), "node import: {}", said.trim());
    let told: Value = serde_json::from_slice(&done.stdout)?;
    anyhow::ensure!(told["created"] == nodes, "{} nodes of {nodes} were added", told["created"]);
    Ok(())
}

const NDJSON: [(&str, &str); 1] = [("content-type", "application/x-ndjson")];

/// Gets the tokens of these nodes. Returns the first few, and where the server says it is.
fn get_tokens(
    session: &Session,
    nodes: Range<u32>,
) -> anyhow::Result<(Vec<Signer>, Option<String>)> {
    let (mut signers, mut metadata_url) = (Vec::new(), None);
    for first in nodes.clone().step_by(BATCH as usize) {
        let last = nodes.end.min(first + BATCH);
        let lines: Vec<String> =
            (first..last).map(|node| json!(system_id(node)).to_string()).collect();
        let lines = lines.join("\n");
        let path = "/v1/default/tokens";
        let answer = session.call(Method::POST, path, &NDJSON, Some(lines.as_bytes()))?;
        let mut got = 0;
        for line in answer.body.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
            if signers.len() < READERS {
                let issued: Value = serde_json::from_slice(line)?;
                metadata_url = metadata_url.or(issued["metadata_url"].as_str().map(str::to_owned));
                signers.push(serde_json::from_value(issued)?);
            }
            got += 1;
        }
        anyhow::ensure!(got == last - first, "{got} tokens for {} nodes", last - first);
    }
    Ok((signers, metadata_url))
}

/// How long the slowest of a few looks at each page took.
fn look(session: &Session, nodes: u32) -> anyhow::Result<Vec<(&'static str, f64)>> {
    let mut looks = Vec::new();
    for (name, path) in pages(nodes) {
        looks.push((name, slowest(|| session.get(&path).map(drop)).context(name)?));
    }
    // A line without a system id is looked for by its hostname.
    let mut known = line(nodes / 2);
    known.as_object_mut().and_then(|line| line.remove("system_id"));
    let find = known.to_string();
    let found = || {
        let path = "/v1/default/nodes";
        let answer = session.call(Method::POST, path, &NDJSON, Some(find.as_bytes()))?;
        let told: Value = serde_json::from_slice(&answer.body)?;
        anyhow::ensure!(told["unchanged"] == 1, "a node is not found by its hostname");
        Ok(())
    };
    looks.push(("find_ms", slowest(found)?));
    Ok(looks)
}

/// What people look at, in the middle of the fleet where there is one.
fn pages(nodes: u32) -> Vec<(&'static str, String)> {
    let cursor = |node| URL_SAFE_NO_PAD.encode(system_id(node));
    let (middle, list) = (nodes / 2, "/v1/default/nodes");
    vec![
        ("list_ms", format!("{list}?cursor={}", cursor(middle))),
        ("list_label_ms", format!("{list}?label=role=compute&cursor={}", cursor(middle))),
        ("list_rack_ms", format!("{list}?label=rack=r{}", middle / 40)),
        ("list_issued_ms", format!("{list}?state=issued&cursor={}", cursor(middle))),
        ("list_new_ms", format!("{list}?state=new")),
        ("list_failed_ms", format!("{list}?state=failed")),
        ("show_ms", format!("{list}/{}", system_id(middle))),
        ("events_ms", format!("{list}/{}/events", system_id(middle))),
        ("tokens_ms", "/v1/tokens".into()),
        ("stuck_ms", "/v1/stuck".into()),
    ]
}

/// Milliseconds that the slowest of a few took.
fn slowest<E>(mut ask: impl FnMut() -> Result<(), E>) -> Result<f64, E> {
    let mut slowest = Duration::ZERO;
    for _ in 0..TIMES {
        let asked = Instant::now();
        ask()?;
        slowest = slowest.max(asked.elapsed());
    }
    Ok(slowest.as_secs_f64() * 1000.0)
}

/// Culls the first half of the tokens while nodes of the second half read.
async fn cull(
    flags: &Issue,
    cores: &Cores,
    served: &Served,
    target: &Arc<Target>,
    younger: Instant,
    row: &mut Value,
) -> anyhow::Result<()> {
    let load = |duration| Load {
        mode: Mode::KeptAlive,
        connections: usize::try_from(flags.connections).unwrap_or(usize::MAX),
        duration,
        threads: cores.generator,
        rate: None,
        most: None,
        is_background: false,
    };
    // The first ones fill memory.
    Reads::default().ask(target, load(ROUND)).await?;
    let mut before = Reads::default();
    while before.took < BEFORE {
        before.ask(target, load(ROUND)).await?;
    }

    // The older half was made more than this long ago, the younger half was not.
    let age = younger.elapsed() + APART / 4;
    let rule = format!("{}s", age.as_secs() + 1);
    let dry = json!({"unused_for": rule, "dry_run": true}).to_string();
    let path = served.state.join("admin.sock");
    let page = off(move || slowest(|| first_of(&path, &dry)));
    row["cull_page_ms"] = figure(page.await?, 2);

    let body = json!({"unused_for": rule, "force": true}).to_string();
    let (path, started) = (served.state.join("admin.sock"), Instant::now());
    let culling = tokio::task::spawn_blocking(move || told::post(&path, CULL, &body)?.count());
    let (mut during, mut wal) = (Reads::default(), 0.0_f64);
    while !culling.is_finished() || during.took == Duration::ZERO {
        during.ask(target, load(ROUND)).await?;
        wal = wal.max(served.wal_mib().unwrap_or(0.0));
    }
    let culled = culling.await??;
    let took = started.elapsed();
    let expected = u64::from(flags.nodes / 2);
    anyhow::ensure!(culled == expected, "{culled} tokens were culled, not {expected}");
    row["culled"] = culled.into();
    row["cull_s"] = figure(took.as_secs_f64(), 2);
    row["reads_per_s_before"] = figure(before.per_s(), 0);
    row["reads_per_s_during"] = figure(during.per_s(), 0);
    row["reads_lost_percent"] = figure((1.0 - during.per_s() / before.per_s()) * 100.0, 1);
    row["longest_read_before_ms"] = figure(before.longest_ms(), 1);
    row["longest_read_during_ms"] = figure(during.longest_ms(), 1);
    row["wal_mib"] = figure(wal, 1);
    Ok(())
}

const CULL: &str = "/v1/tokens/cull";
/// Reads are looked at so long at a time.
const ROUND: Duration = Duration::from_secs(1);

/// Until the first tokens of the answer are there; whoever asks then has seen enough.
fn first_of(socket: &Path, body: &str) -> anyhow::Result<()> {
    let mut told = told::post(socket, CULL, body)?;
    anyhow::ensure!(told.first()? > 0, "no token is told of");
    Ok(())
}

/// What reads came to.
#[derive(Default)]
struct Reads {
    count: u64,
    longest: Duration,
    took: Duration,
}

impl Reads {
    async fn ask(&mut self, target: &Arc<Target>, load: Load) -> anyhow::Result<()> {
        let started = Instant::now();
        let tally = generator::run(target, load).await?;
        self.took += started.elapsed();
        if let Some(why) = tally.first_error {
            anyhow::bail!("{} reads failed, the first: {why}", tally.errors);
        }
        self.count += tally.latencies.total();
        self.longest = self.longest.max(tally.latencies.longest());
        Ok(())
    }

    fn per_s(&self) -> f64 {
        super::as_f64(self.count) / self.took.as_secs_f64()
    }

    fn longest_ms(&self) -> f64 {
        self.longest.as_secs_f64() * 1000.0
    }
}

fn rate(count: u32, took: Duration) -> Value {
    figure(f64::from(count) / took.as_secs_f64(), 0)
}

/// With so many digits.
fn figure(figure: f64, digits: usize) -> Value {
    format!("{figure:.digits$}").parse().map_or(Value::Null, |figure: f64| figure.into())
}

fn print(format: Format, report: &Value) -> anyhow::Result<()> {
    if format != Format::Table {
        return output::object(format, report);
    }
    eprintln!(
        "nodeinit: {} nodes, {} connections, servers on {} of {} cpus; pages: the slowest of {TIMES}",
        report["nodes"], report["connections"], report["server_cpus"], report["cpus"],
    );
    for row in report["issue"].as_array().into_iter().flatten() {
        output::object(format, row)?;
    }
    Ok(())
}
