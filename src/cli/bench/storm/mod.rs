//! `nodeinit bench storm`: many machines boot at once, as cloud-init does it, and what became of
//! each.

mod boot;
mod events;
mod kept;

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

use super::histogram::Histogram;
use super::process::{Cores, Scratch, own_cpu};
use super::scrape::Scrape;
use super::server::{Database, Fleet, OwnServer, Setup, UNPACED};
use super::wire::{Signer, Signing};
use super::{as_f64, merge, rounded};
use crate::cli::Common;
use crate::cli::WrongUse;
use crate::cli::output::{self, Format};
use crate::client::Session;
use crate::domain::credentials::Mint;
use crate::domain::cull::parse_duration;
use crate::domain::metadata_url::MetadataUrl;
use boot::{End, Phase, Plan, Tally};

#[derive(Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub struct Storm {
    /// Machines that boot, each with a token of its own
    #[arg(long, value_name = "N", default_value_t = 1000,
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    nodes: u32,
    /// How long it takes until the last one has begun
    #[arg(long, value_name = "D", default_value = "30s", value_parser = parse_duration)]
    ramp: Duration,
    /// Machines do not retry a read, as cloud-init 22.4 does not
    #[arg(long)]
    old_clients: bool,
    /// Sign with HMAC-SHA256 instead of cloud-init's PLAINTEXT
    #[arg(long)]
    hmac: bool,
    /// What the bench's own server is to do with PLAINTEXT that comes twice
    #[arg(long, value_name = "P", default_value = "ignore", value_parser = ["ignore", "refuse"])]
    plaintext_replay: String,
    /// The database of the bench's own server; it is thrown away
    #[arg(long, value_enum, default_value_t = Database::Sqlite)]
    database: Database,
    /// The database of the bench's own server, already there: postgres://…; nodes stay in it
    #[arg(long, value_name = "URL", conflicts_with = "database")]
    database_url: Option<String>,
    /// Kill the bench's own server in the middle (kill -9), start it again, and look for every
    /// acknowledged event
    #[arg(long, conflicts_with = "hmac")]
    kill: bool,
    /// Where machines send their requests, with --server: a load balancer's http://HOST:PORT
    #[arg(long, value_name = "URL")]
    target: Option<String>,
    /// Somebody is going to stop servers meanwhile: those cut off between their requests are
    /// counted apart, and every acknowledged event is looked for
    #[arg(long)]
    outages: bool,
    /// Post events alone, as many as go
    #[arg(long, conflicts_with_all = ["kill", "outages", "target", "old_clients"])]
    events_only: bool,
    /// Connections that post at once, with --events-only
    #[arg(long, value_name = "N", default_value_t = 64,
          value_parser = clap::value_parser!(u32).range(1..=10_000))]
    connections: u32,
    /// Events a second, with --events-only; 0 is as many as go
    #[arg(long, value_name = "N", default_value_t = 0)]
    rate: u32,
    /// A new connection for each event, with --events-only
    #[arg(long)]
    new_connections: bool,
    /// How long events are posted, with --events-only
    #[arg(long, value_name = "D", default_value = "10s", value_parser = parse_duration)]
    duration: Duration,
}

/// How long reads may take to be written down after the last one.
const SETTLE: Duration = Duration::from_secs(10);

pub fn run(common: &Common, flags: &Storm) -> anyhow::Result<()> {
    if common.server.is_some() != flags.target.is_some() {
        let why = "--server, which adds the nodes, and --target, where they boot, go together";
        return Err(WrongUse(why.into()).into());
    }
    if flags.target.is_some() && (flags.kill || flags.database_url.is_some()) {
        return Err(WrongUse("--kill and --database-url are for a server of its own".into()).into());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (report, trouble) = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        // Dropping the measurement ends its processes and removes its directory.
        tokio::select! {
            measured = measure(common, flags) => measured,
            _ = terminate.recv() => anyhow::bail!("terminated"),
            _ = interrupt.recv() => anyhow::bail!("interrupted"),
        }
    })?;
    print(common.output, &report)?;
    trouble.map_or(Ok(()), |why| Err(anyhow::Error::msg(why)))
}

/// The server that the storm meets: its own, or one that is named.
struct Met {
    own: Option<(OwnServer, Scratch)>,
    session: Option<Session>,
    address: SocketAddr,
    metadata_url: MetadataUrl,
    signers: Vec<Signer>,
}

impl Met {
    async fn meet(common: &Common, flags: &Storm, cores: &Cores, run: &str) -> anyhow::Result<Met> {
        let prefix = format!("storm-{run}-");
        let mut fleet = Fleet::lifelike(flags.nodes, prefix, run);
        if let Some(target) = &flags.target {
            let session = common.session()?;
            fleet.project = session.provides()?.project.unwrap_or_else(|| "default".to_owned());
            fleet.add(&session).context("adding nodes")?;
            let (signers, url) = fleet.get_tokens(&session).context("getting tokens")?;
            let (address, metadata_url) = target_of(target, &url)?;
            return Ok(Met { own: None, session: Some(session), address, metadata_url, signers });
        }
        let id = u64::from_ne_bytes(Mint::from_system()?.bytes());
        let scratch = Scratch::make(&format!("nodeinit-bench-{id:016x}"))?;
        let mut setup = Setup {
            database: flags.database,
            database_url: flags.database_url.clone(),
            flags: vec!["--plaintext-replay".into(), flags.plaintext_replay.clone()],
        };
        if flags.events_only {
            setup.flags.extend(UNPACED.map(str::to_owned));
        }
        let mut own = OwnServer::start(scratch.path(), cores, setup, &fleet).await?;
        if flags.hmac && flags.database == Database::Postgres {
            // A server that cannot know what another saw refuses timestamps up to its start + 2 s.
            tokio::time::sleep(Duration::from_secs(4)).await;
        }
        let signers = std::mem::take(&mut own.signers);
        let (address, metadata_url) = (own.address, own.metadata_url.clone());
        Ok(Met { own: Some((own, scratch)), session: None, address, metadata_url, signers })
    }

    fn session(&self) -> anyhow::Result<&Session> {
        let own = self.own.as_ref().map(|(own, _)| &own.session);
        self.session.as_ref().or(own).context("no session")
    }

    fn own(&self) -> Option<&OwnServer> {
        self.own.as_ref().map(|(own, _)| own)
    }
}

/// Where `--target` is, and what nodes call it: the path is what the server says.
fn target_of(target: &str, metadata_url: &str) -> anyhow::Result<(SocketAddr, MetadataUrl)> {
    let parse = |text: &str| MetadataUrl::parse(text).map_err(WrongUse);
    let (target, told) = (parse(target)?, parse(metadata_url)?);
    if target.scheme() != "http" {
        return Err(WrongUse("--target is http://HOST:PORT".into()).into());
    }
    let address = target.authority().to_socket_addrs().with_context(|| "--target")?.next();
    let (_, path) = told.as_str().split_once(told.authority()).unwrap_or_default();
    let called = parse(&format!("http://{}{path}", target.authority()))?;
    Ok((address.context("--target has no address")?, called))
}

async fn measure(common: &Common, flags: &Storm) -> anyhow::Result<(Value, Option<String>)> {
    let cores = Cores::shared();
    let run = format!("{:08x}", u32::from_ne_bytes(Mint::from_system()?.bytes()));
    let mut met = Met::meet(common, flags, &cores, &run).await?;
    if flags.events_only {
        return events::measure(flags, met, &cores).await;
    }
    let base = met.metadata_url.as_str().split_once(met.metadata_url.authority());
    let plan = Arc::new(Plan {
        address: met.address,
        scheme: "http",
        host: met.metadata_url.authority().to_owned(),
        base: base.map(|(_, path)| path.to_owned()).unwrap_or_default(),
        signers: std::mem::take(&mut met.signers),
        ramp: flags.ramp,
        old_clients: flags.old_clients,
        signing: if flags.hmac { Signing::HmacSha256 } else { Signing::Plaintext },
        events: boot::events(),
        answered: AtomicU64::new(0),
    });

    let bytes = met.own().and_then(OwnServer::database_bytes);
    let before = Scrape::take(met.session()?).unwrap_or_default();
    let cpu = (met.own().and_then(|own| own.process.cpu()), own_cpu());
    let database_cpu = met.own().and_then(OwnServer::database_cpu);
    let started = Instant::now();
    let threads = cores.generator;
    let mut shares = Vec::new();
    for first in 0..threads {
        shares.push(boot::spawn(&plan, first, threads)?);
    }
    let mut killed = Value::Null;
    let mut used = (None, Duration::ZERO, Scrape::default());
    if flags.kill {
        let (own, _) = met.own.as_mut().context("--kill needs a server of its own")?;
        half_way(&plan, started).await;
        // What the one that dies has used counts too.
        used = (own.process.cpu(), started.elapsed(), Scrape::take(&own.session)?);
        let down = Instant::now();
        own.kill_and_restart(&cores).await?;
        let ms = |of: Duration| rounded(Some(of.as_secs_f64() * 1000.0), 0);
        killed = json!({"at_ms": ms(used.1), "down_ms": ms(down.elapsed())});
    }
    let mut tally = Tally::default();
    for share in shares {
        tally.add(share.await.context("a thread of the storm ended")?);
    }
    let seconds = started.elapsed().as_secs_f64();
    let since = |before: Option<Duration>, after: Option<Duration>| {
        Some(after?.saturating_sub(before?).as_secs_f64())
    };
    let server_cpu = match used.0 {
        None => since(cpu.0, met.own().and_then(|own| own.process.cpu())),
        Some(first) => {
            let second = met.own().and_then(|own| own.process.cpu());
            since(cpu.0, Some(first))
                .zip(second)
                .map(|(first, second)| first + second.as_secs_f64())
        }
    };
    let generator_cpu = since(cpu.1, own_cpu());
    let database_cpu = since(database_cpu, met.own().and_then(OwnServer::database_cpu));
    let after = Scrape::take(met.session()?).unwrap_or_default();
    let statements = |kind: &str| {
        let of_killed = used.2.for_node_reads(kind);
        let start = before.for_node_reads(kind)?;
        let end = after.for_node_reads(kind)?;
        // A server that was started again counts from nothing.
        Some(of_killed.map_or(end, |killed| end + killed) - start)
    };
    let (read_statements, read_writes) = (statements("read"), statements("write"));

    let looks = flags.kill || flags.outages;
    let kept = if looks {
        Some(kept::compare(met.session()?, &plan.signers, &plan.events, &tally.boots)?)
    } else {
        None
    };
    let ready_wanted = through(&plan, &tally);
    let states = settled(&met, &run, flags, ready_wanted).await?;
    let growth = bytes.zip(met.own().and_then(OwnServer::database_bytes)).map(|(before, after)| {
        let nodes = f64::from(flags.nodes);
        as_f64(after.saturating_sub(before)) / nodes
    });

    let figures = Figures {
        seconds,
        server_cpu,
        database_cpu,
        generator_busy: generator_cpu.map(|busy| busy / seconds / as_f64(threads as u64)),
        rss_mib: met.own().and_then(|own| own.process.rss_mib()),
        read_statements,
        read_writes,
        growth,
        killed,
    };
    let (mut report, trouble) = judge(flags, &plan, &tally, &states, kept.as_ref(), &figures);
    report["cpus"] = cores.all.into();
    Ok((report, trouble))
}

/// Waits until half of the storm is over: half of its ramp, or half of its requests.
async fn half_way(plan: &Plan, started: Instant) {
    while started.elapsed() < plan.ramp / 2
        && plan.answered.load(Ordering::Relaxed) < plan.requests() / 2
    {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// How many machines heard a good answer to everything they asked.
fn through(plan: &Plan, tally: &Tally) -> u64 {
    let all = (1_u128 << plan.events.len()) - 1;
    let through = |boot: &&boot::Boot| boot.end == End::Through && boot.acknowledged == all;
    tally.boots.iter().filter(through).count() as u64
}

/// How many nodes are in each state, once reads are written down too.
async fn settled(
    met: &Met,
    run: &str,
    flags: &Storm,
    wanted: u64,
) -> anyhow::Result<serde_json::Map<String, Value>> {
    let project = match flags.target {
        None => "default".to_owned(),
        Some(_) => met.session()?.provides()?.project.unwrap_or_else(|| "default".to_owned()),
    };
    let began = Instant::now();
    loop {
        let path = format!("/v1/{project}/nodes?label=bench%3D{run}&limit=1000");
        let mut states = serde_json::Map::new();
        for node in met.session()?.list(&path, None)? {
            let state = node["boot_state"].as_str().unwrap_or("unknown").to_owned();
            let count = states.get(&state).and_then(Value::as_u64).unwrap_or(0);
            states.insert(state, (count + 1).into());
        }
        let ready = states.get("ready").and_then(Value::as_u64).unwrap_or(0);
        if ready >= wanted || began.elapsed() > SETTLE {
            return Ok(states);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// What was measured beside the requests themselves.
struct Figures {
    seconds: f64,
    server_cpu: Option<f64>,
    database_cpu: Option<f64>,
    generator_busy: Option<f64>,
    rss_mib: Option<f64>,
    read_statements: Option<f64>,
    read_writes: Option<f64>,
    growth: Option<f64>,
    killed: Value,
}

/// The report, and what is wrong with it.
fn judge(
    flags: &Storm,
    plan: &Plan,
    tally: &Tally,
    states: &serde_json::Map<String, Value>,
    kept: Option<&kept::Kept>,
    figures: &Figures,
) -> (Value, Option<String>) {
    let mut all = Histogram::default();
    let mut phases = Vec::new();
    for (phase, of) in Phase::ALL.iter().zip(&tally.phases) {
        all.add(&of.latencies);
        let mut row = json!({"phase": phase.name()});
        merge(&mut row, latencies(&of.latencies, figures.seconds));
        row["errors"] = of.errors.into();
        phases.push(row);
    }
    let outages = flags.kill || flags.outages;
    let every = (1_u128 << plan.events.len()) - 1;
    let mut never_served = 0_u64;
    let mut read_failed = 0_u64;
    let (mut cut_off_reading, mut cut_off_reporting) = (0_u64, 0_u64);
    let mut events_lost = 0_u64;
    for boot in &tally.boots {
        let cut_off = outages && boot.only_outages;
        let lost = boot.end == End::Through && boot.acknowledged != every;
        match boot.end {
            End::NeverServed => never_served += 1,
            End::ReadFailed if cut_off => cut_off_reading += 1,
            End::ReadFailed => read_failed += 1,
            End::Through if lost && cut_off => cut_off_reporting += 1,
            End::Through => events_lost += u64::from((every & !boot.acknowledged).count_ones()),
        }
    }
    let ready = states.get("ready").and_then(Value::as_u64).unwrap_or(0);
    let through = through(plan, tally);
    // After a crash the last second of what reads taught may be missing; that fails nobody.
    let not_ready = if outages { 0 } else { through.saturating_sub(ready) };
    let failed = never_served + read_failed + not_ready;
    let requests = as_f64(all.total());
    let mut report = json!({
        "nodes": flags.nodes,
        "ramp_s": flags.ramp.as_secs(),
        "database": if flags.database_url.is_some() { "url" } else { flags.database.name() },
        "signing": if flags.hmac { "hmac-sha256" } else { "plaintext" },
        "plaintext_replay": flags.plaintext_replay,
        "old_clients": flags.old_clients,
        "seconds": rounded(Some(figures.seconds), 1),
        "requests": all.total(),
    });
    merge(&mut report, latencies(&all, figures.seconds));
    merge(
        &mut report,
        json!({
            "errors": tally.phases.iter().map(|phase| phase.errors).sum::<u64>(),
            "errors_5xx": tally.errors_5xx,
            "wrongful_401": tally.wrongful_401,
            "nodes_failed": failed,
            "nodes_never_served": never_served,
            "nodes_cut_off_reading": cut_off_reading,
            "nodes_cut_off_reporting": cut_off_reporting,
            "nodes_ready": ready,
            "states": states,
            "events_lost": events_lost,
            "read_db_statements": rounded(figures.read_statements, 0),
            "read_db_writes": rounded(figures.read_writes, 0),
            "boots_per_s": rounded(Some(f64::from(flags.nodes) / figures.seconds), 1),
            "boots_per_core_s":
                rounded(figures.server_cpu.map(|cpu| f64::from(flags.nodes) / cpu), 1),
            "cpu_us_per_request": rounded(figures.server_cpu.map(|cpu| cpu * 1e6 / requests), 1),
            "database_cpu_us_per_request":
                rounded(figures.database_cpu.map(|cpu| cpu * 1e6 / requests), 1),
            "generator_busy": rounded(figures.generator_busy, 2),
            "rss_mib": rounded(figures.rss_mib, 1),
            "database_bytes_per_boot": rounded(figures.growth, 0),
            "killed": figures.killed,
            "kept": kept.map(|kept| json!({
                "acknowledged": kept.acknowledged,
                "lost": kept.lost,
                "twice": kept.twice,
                "unacknowledged": kept.unacknowledged,
            })),
            "phases": phases,
        }),
    );
    let mut wrong = Vec::new();
    let mut say = |count: u64, what: &str| {
        if count > 0 {
            wrong.push(format!("{count} {what}"));
        }
    };
    if !outages {
        say(tally.errors_5xx, "answers of 5xx");
        say(events_lost, "events were not taken");
    }
    say(tally.wrongful_401, "valid requests were answered 401");
    say(failed, "nodes failed");
    say(kept.map_or(0, |kept| kept.lost), "acknowledged events are lost");
    say(kept.map_or(0, |kept| kept.twice), "events are stored twice");
    if let (false, Some(first)) = (wrong.is_empty(), &tally.first_error) {
        wrong.push(format!("the first error: {first}"));
    }
    (report, (!wrong.is_empty()).then(|| wrong.join("; ")))
}

/// Throughput and latencies, as every report names them.
fn latencies(of: &Histogram, seconds: f64) -> Value {
    let ms = |mille| rounded(of.per_mille(mille).map(|micros| micros / 1000.0), 2);
    json!({
        "requests_per_s": rounded(Some(as_f64(of.total()) / seconds), 0),
        "p50_ms": ms(500),
        "p99_ms": ms(990),
        "p999_ms": ms(999),
    })
}

const COLUMNS: [&str; 6] = ["phase", "requests_per_s", "p50_ms", "p99_ms", "p999_ms", "errors"];

fn print(format: Format, report: &Value) -> anyhow::Result<()> {
    if format != Format::Table {
        return output::object(format, report);
    }
    let mut totals = report.clone();
    if let (Some(fields), Some(phases)) = (totals.as_object_mut(), report["phases"].as_array()) {
        fields.remove("phases");
        output::list(format, &COLUMNS, phases)?;
    }
    output::object(format, &totals)
}
