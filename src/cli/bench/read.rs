//! `nodeinit bench read`: a server of its own and nginx beside it, turn by turn under the same
//! requests, and the report as ratios.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

use super::generator::{self, Load, Mode, Tally, Target};
use super::nginx::{self, Nginx};
use super::process::{Cores, Process, Scratch, own_cpu};
use super::scrape::Scrape;
use super::server::{Database, Fleet, OwnServer, Setup, UNPACED};
use super::tls::Files;
use super::wire::{Signer, Signing};
use super::{as_f64, merge, rounded};
use crate::cli::Common;
use crate::cli::output::{self, Format};
use crate::domain::credentials::Mint;
use crate::domain::cull::parse_duration;

#[derive(Args)]
pub struct Read {
    /// Nodes, each with a token of its own
    #[arg(long, value_name = "N", default_value_t = 2000,
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    nodes: u32,
    /// Connections that ask at once
    #[arg(long, value_name = "N", default_value_t = 64,
          value_parser = clap::value_parser!(u32).range(1..=10_000))]
    connections: u32,
    /// How long each round asks each server in each mode
    #[arg(long, value_name = "D", default_value = "3s", value_parser = parse_duration)]
    duration: Duration,
    /// Rounds; medians of them are printed
    #[arg(long, value_name = "N", default_value_t = 3,
          value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Speak TLS: a new connection for each request, with a whole handshake as cloud-init has it,
    /// and with the session of the one before taken up again
    #[arg(long)]
    tls: bool,
    /// Sign with HMAC-SHA256 instead of cloud-init's PLAINTEXT
    #[arg(long)]
    hmac: bool,
    /// What the bench's own server is to do with PLAINTEXT that comes twice
    #[arg(long, value_name = "P", default_value = "ignore", value_parser = ["ignore", "refuse"])]
    plaintext_replay: String,
    /// The database of the bench's own server; it is thrown away
    #[arg(long, value_enum, default_value_t = Database::Sqlite)]
    database: Database,
    /// Ask with N unknown keys a second beside the load, from other addresses, and tell what that
    /// does to those who are known, beside what N more requests of known nodes do; they ask at
    /// --rate then
    #[arg(long, value_name = "N", default_value_t = 0)]
    flood: u32,
    /// Requests a second of those who are known, with --flood
    #[arg(long, value_name = "N", default_value_t = 2000,
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: u32,
    /// The nginx to measure beside [default: nginx on the PATH or in /usr/sbin]
    #[arg(long, value_name = "PATH")]
    nginx: Option<PathBuf>,
}

const PLAIN: [Mode; 2] = [Mode::KeptAlive, Mode::NewConnection];
const SECURED: [Mode; 2] = [Mode::NewTls, Mode::ResumedTls];
/// Unmeasured, so that the first round is like the others.
const WARM_UP: Duration = Duration::from_millis(500);

pub fn run(common: &Common, flags: &Read) -> anyhow::Result<()> {
    anyhow::ensure!(
        common.server.is_none(),
        "--server is not supported yet: leave it out to measure a server of its own"
    );
    anyhow::ensure!(flags.duration > Duration::ZERO, "--duration is at least 1s");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (report, trouble) = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        // Dropping the measurement ends its processes and removes its directory.
        tokio::select! {
            measured = measure(flags) => measured,
            _ = terminate.recv() => anyhow::bail!("terminated"),
            _ = interrupt.recv() => anyhow::bail!("interrupted"),
        }
    })?;
    print(common.output, &report)?;
    trouble.map_or(Ok(()), |why| Err(anyhow::Error::msg(why)))
}

/// A server under measurement and what its rounds brought.
struct Measured<'p> {
    process: &'p Process,
    target: Arc<Target>,
    rounds: [Vec<Round>; 2],
    errors: u64,
    first_error: Option<String>,
}

/// What one server did in one mode in one round.
struct Round {
    requests_per_s: f64,
    p50_us: f64,
    p99_us: f64,
    p999_us: f64,
    cpu_us_per_request: Option<f64>,
    generator_busy: Option<f64>,
    errors: u64,
}

async fn measure(flags: &Read) -> anyhow::Result<(Value, Option<String>)> {
    let cores = Cores::split();
    let id = u64::from_ne_bytes(Mint::from_system()?.bytes());
    let scratch = Scratch::make(&format!("nodeinit-bench-{id:016x}"))?;
    let own = start_own(flags, scratch.path(), &cores).await?;
    let nginx = match start_nginx(flags, &own, scratch.path(), &cores).await {
        Ok(nginx) => Some(nginx),
        Err(why) => {
            eprintln!("nodeinit: bench read: there will be no ratio: {why:#}");
            None
        }
    };

    let scheme = own.metadata_url.scheme();
    let signing = if flags.hmac { Signing::HmacSha256 } else { Signing::Plaintext };
    let own_id = |signer: &Signer| signer.system_id.clone();
    let own_target = Target::new(own.address, scheme, &own.signers, signing, own_id);
    let mut ours = Measured::new(&own.process, own_target);
    // One file for everybody: the first node's answer, and all are equally long.
    let mut theirs = nginx.as_ref().map(|nginx| {
        let body = |_: &Signer| file_body(&own);
        let target = Target::new(nginx.address, scheme, &own.signers, signing, body);
        Measured::new(&nginx.process, target)
    });

    let modes = if flags.tls { SECURED } else { PLAIN };
    let load = |mode, duration| Load {
        mode,
        connections: usize::try_from(flags.connections).unwrap_or(usize::MAX),
        duration,
        threads: cores.generator,
        rate: None,
        most: None,
        is_background: false,
    };
    // Each node once: from there on memory is as full as it gets.
    let once = Load { most: Some(ours.target.len()), ..load(modes[0], flags.duration) };
    ours.ask(once).await?;
    let rss_mib_read_once = own.process.rss_mib();
    for measured in [Some(&mut ours), theirs.as_mut()].into_iter().flatten() {
        measured.ask(load(modes[0], WARM_UP)).await?;
    }
    let before = Scrape::take(&own.session)?;
    for _ in 0..flags.rounds {
        for (number, mode) in modes.into_iter().enumerate() {
            for measured in [Some(&mut ours), theirs.as_mut()].into_iter().flatten() {
                let round = measured.ask(load(mode, flags.duration)).await?;
                measured.rounds[number].push(round);
            }
        }
    }
    let after = Scrape::take(&own.session)?;
    let flood = match flags.flood {
        0 => Value::Null,
        _ => flooded(flags, &mut ours, load(modes[1], flags.duration)).await?,
    };

    let read: Vec<Value> = modes
        .iter()
        .enumerate()
        .map(|(number, mode)| {
            let nginx = theirs.as_ref().map(|theirs| summary(&theirs.rounds[number]));
            let mut row = json!({"mode": mode.name()});
            merge(&mut row, summary(&ours.rounds[number]));
            row["ratio"] = ratio(&row, nginx.as_ref());
            row["cpu_ratio"] = cpu_ratio(&row, nginx.as_ref());
            row["nginx"] = nginx.unwrap_or_default();
            row
        })
        .collect();
    let statements = |kind: &str| {
        let since = after.for_node_reads(kind)? - before.for_node_reads(kind)?;
        Some(since)
    };
    let report = json!({
        "read": read,
        "nodes": flags.nodes,
        "connections": flags.connections,
        "duration": format!("{}s", flags.duration.as_secs()),
        "rounds": flags.rounds,
        "database": flags.database.name(),
        "signing": if flags.hmac { "hmac-sha256" } else { "plaintext" },
        "plaintext_replay": flags.plaintext_replay,
        "read_db_statements": rounded(statements("read"), 0),
        "read_db_writes": rounded(statements("write"), 0),
        "rss_mib_read_once": rounded(rss_mib_read_once, 1),
        "rss_mib": rounded(own.process.rss_mib(), 1),
        "flood": flood,
        "cpus": cores.all,
        "server_cpus": cores.server,
    });
    let trouble = [Some(&ours), theirs.as_ref()].into_iter().flatten().find_map(|measured| {
        let why = measured.first_error.as_ref()?;
        Some(format!("{} errors, the first from {why}", measured.errors))
    });
    Ok((report, trouble))
}

async fn start_own(flags: &Read, dir: &Path, cores: &Cores) -> anyhow::Result<OwnServer> {
    let mut more = UNPACED.map(str::to_owned).to_vec();
    more.extend(["--plaintext-replay".to_owned(), flags.plaintext_replay.clone()]);
    if flags.tls {
        let Files { certificate, key } = Files::make(dir)?;
        more.extend(["--tls-cert".to_owned(), certificate.display().to_string()]);
        more.extend(["--tls-key".to_owned(), key.display().to_string()]);
    }
    let setup = Setup { database: flags.database, flags: more, ..Setup::default() };
    let own = OwnServer::start(dir, cores, setup, &Fleet::plain(flags.nodes)).await?;
    if flags.hmac && flags.database == Database::Postgres {
        // A server that cannot know what another saw refuses timestamps up to its start + 2 s.
        tokio::time::sleep(Duration::from_secs(4)).await;
    }
    Ok(own)
}

/// What a flood of unknown keys does to those who are known: both with it and without, turn by
/// turn.
async fn flooded(flags: &Read, ours: &mut Measured<'_>, load: Load) -> anyhow::Result<Value> {
    let load = Load { rate: Some(flags.rate), ..load };
    let strangers = Arc::new(Target::of_strangers(ours.target.address(), &Mint::from_system()?));
    let flood = Load { rate: Some(flags.flood), is_background: true, ..load };
    let (mut without, mut with, mut with_known) = (Vec::new(), Vec::new(), Vec::new());
    let mut floods = Tally::default();
    let known = ours.target.clone();
    for _ in 0..flags.rounds {
        without.push(ours.ask(load).await?);
        let (asked, flooded) = tokio::join!(ours.ask(load), generator::run(&strangers, flood));
        with.push(asked?);
        floods.add(flooded?);
        // What as many requests do of which each is answered well.
        let (asked, more) = tokio::join!(ours.ask(load), generator::run(&known, flood));
        with_known.push(asked?);
        let more = more?;
        ours.errors += more.errors;
        ours.first_error = ours.first_error.take().or(more.first_error);
    }
    let refused = floods.latencies.total();
    let seconds = load.duration.as_secs_f64() * f64::from(flags.rounds);
    let [without, with, with_known] = [without, with, with_known].map(|of| summary(&of));
    let p99 = |of: &Value| of["p99_us"].as_f64();
    let beside = |base: &Value| p99(&with).zip(p99(base)).map(|(with, base)| with / base);
    let (ratio, ratio_to_known) = (beside(&without), beside(&with_known));
    Ok(json!({
        "asked_for": flags.flood,
        "requests_per_s": rounded(Some(as_f64(refused + floods.errors) / seconds), 0),
        "refused_401": refused,
        // Nobody may be answered well, and nothing may break.
        "other": floods.errors,
        "first_other": floods.first_error,
        "known_rate": flags.rate,
        "without": without,
        "with": with,
        "with_known": with_known,
        "p99_ratio": rounded(ratio, 2),
        "p99_ratio_to_known": rounded(ratio_to_known, 2),
    }))
}

fn file_body(own: &OwnServer) -> String {
    own.signers.first().map(|signer| signer.system_id.clone()).unwrap_or_default()
}

async fn start_nginx(
    flags: &Read,
    own: &OwnServer,
    dir: &Path,
    cores: &Cores,
) -> anyhow::Result<Nginx> {
    let program = match &flags.nginx {
        Some(program) => program.clone(),
        None => nginx::find().context("no nginx on the PATH or in /usr/sbin: install it")?,
    };
    let own_dir = dir;
    let dir = dir.join("nginx");
    std::fs::create_dir(&dir).with_context(|| dir.display().to_string())?;
    let connections = usize::try_from(flags.connections)?;
    let body = file_body(own);
    let files = flags.tls.then(|| Files::of(own_dir));
    Nginx::start(
        &program,
        &dir,
        cores,
        connections,
        generator::PATH,
        body.as_bytes(),
        files.as_ref(),
    )
    .await
    .with_context(|| program.display().to_string())
}

impl<'p> Measured<'p> {
    fn new(process: &'p Process, target: Target) -> Measured<'p> {
        Measured {
            process,
            target: Arc::new(target),
            rounds: Default::default(),
            errors: 0,
            first_error: None,
        }
    }

    async fn ask(&mut self, load: Load) -> anyhow::Result<Round> {
        let (server, generator) = (self.process.cpu(), own_cpu());
        let started = Instant::now();
        let tally = generator::run(&self.target, load).await?;
        let seconds = started.elapsed().as_secs_f64();
        let since = |before: Option<Duration>, after: Option<Duration>| {
            Some(after?.saturating_sub(before?).as_secs_f64())
        };
        let server = since(server, self.process.cpu());
        let generator = since(generator, own_cpu());
        self.process.empty_log();

        self.errors += tally.errors;
        self.first_error = self.first_error.take().or(tally.first_error);
        let requests = as_f64(tally.latencies.total());
        let threads = f64::from(u32::try_from(load.threads)?);
        let percentile = |mille| tally.latencies.per_mille(mille).unwrap_or(f64::NAN);
        Ok(Round {
            requests_per_s: requests / seconds,
            p50_us: percentile(500),
            p99_us: percentile(990),
            p999_us: percentile(999),
            cpu_us_per_request: server.map(|server| server * 1e6 / requests),
            generator_busy: generator.map(|busy| busy / seconds / threads),
            errors: tally.errors,
        })
    }
}

/// Medians of a mode's rounds, and all their errors.
fn summary(rounds: &[Round]) -> Value {
    let of = |figure: fn(&Round) -> Option<f64>, digits: usize| {
        let mut figures: Vec<f64> = rounds.iter().filter_map(figure).collect();
        figures.sort_unstable_by(f64::total_cmp);
        rounded(figures.get(figures.len() / 2).copied(), digits)
    };
    json!({
        "requests_per_s": of(|round| Some(round.requests_per_s), 0),
        "p50_us": of(|round| Some(round.p50_us), 0),
        "p99_us": of(|round| Some(round.p99_us), 0),
        "p999_us": of(|round| Some(round.p999_us), 0),
        "errors": rounds.iter().map(|round| round.errors).sum::<u64>(),
        "cpu_us_per_request": of(|round| round.cpu_us_per_request, 1),
        // Near 1 it was the generator that could do no more, not the server.
        "generator_busy": of(|round| round.generator_busy, 2),
    })
}

fn ratio(ours: &Value, theirs: Option<&Value>) -> Value {
    let rate = |of: &Value| of["requests_per_s"].as_f64();
    rounded(rate(ours).zip(theirs.and_then(rate)).map(|(ours, theirs)| ours / theirs), 2)
}

/// nginx's CPU time for a request over ours: what the ratio of throughputs would be if the
/// generator had no end.
fn cpu_ratio(ours: &Value, theirs: Option<&Value>) -> Value {
    let cpu = |of: &Value| of["cpu_us_per_request"].as_f64();
    rounded(cpu(ours).zip(theirs.and_then(cpu)).map(|(ours, theirs)| theirs / ours), 2)
}

const COLUMNS: [&str; 11] = [
    "mode",
    "server",
    "requests_per_s",
    "p50_us",
    "p99_us",
    "p999_us",
    "errors",
    "cpu_us_per_request",
    "generator_busy",
    "ratio",
    "cpu_ratio",
];

fn print(format: Format, report: &Value) -> anyhow::Result<()> {
    if format != Format::Table {
        return output::object(format, report);
    }
    let mut rows = Vec::new();
    for read in report["read"].as_array().into_iter().flatten() {
        let mut ours = read.clone();
        ours["server"] = "nodeinit".into();
        let mut theirs = json!({"mode": read["mode"], "server": "nginx"});
        merge(&mut theirs, read["nginx"].clone());
        rows.push(ours);
        if !read["nginx"].is_null() {
            rows.push(theirs);
        }
    }
    output::list(format, &COLUMNS, &rows)?;
    let mut totals = report.clone();
    if let Some(totals) = totals.as_object_mut() {
        totals.remove("read");
    }
    output::object(format, &totals)
}
