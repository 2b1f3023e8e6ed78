//! `nodeinit bench read`: a server of its own and nginx beside it, turn by turn under the same
//! requests, and the report as ratios.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

use super::generator::{self, Load, Mode, Target};
use super::nginx::{self, Nginx};
use super::process::{Cores, Process, Scratch, own_cpu};
use super::server::OwnServer;
use super::{merge, rounded};
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
    /// The nginx to measure beside [default: nginx on the PATH or in /usr/sbin]
    #[arg(long, value_name = "PATH")]
    nginx: Option<PathBuf>,
}

const MODES: [Mode; 2] = [Mode::KeptAlive, Mode::NewConnection];
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
    rounds: [Vec<Round>; MODES.len()],
    errors: u64,
    first_error: Option<String>,
}

/// What one server did in one mode in one round.
struct Round {
    requests_per_s: f64,
    p50_us: f64,
    p99_us: f64,
    cpu_us_per_request: Option<f64>,
    generator_busy: Option<f64>,
    errors: u64,
}

async fn measure(flags: &Read) -> anyhow::Result<(Value, Option<String>)> {
    let cores = Cores::split();
    let id = u64::from_ne_bytes(Mint::from_system()?.bytes());
    let scratch = Scratch::make(&format!("nodeinit-bench-{id:016x}"))?;
    let own = OwnServer::start(scratch.path(), &cores, flags.nodes).await?;
    let nginx = match start_nginx(flags, &own, scratch.path(), &cores).await {
        Ok(nginx) => Some(nginx),
        Err(why) => {
            eprintln!("nodeinit: bench read: there will be no ratio: {why:#}");
            None
        }
    };

    let own_target = Target::new(own.address, &own.signers, |signer| signer.system_id.clone());
    let mut ours = Measured::new(&own.process, own_target);
    // One file for everybody: the first node's answer, and all are equally long.
    let mut theirs = nginx.as_ref().map(|nginx| {
        let target = Target::new(nginx.address, &own.signers, |_| file_body(&own));
        Measured::new(&nginx.process, target)
    });

    let load = |mode, duration| Load {
        mode,
        connections: usize::try_from(flags.connections).unwrap_or(usize::MAX),
        duration,
        threads: cores.generator,
    };
    for measured in [Some(&mut ours), theirs.as_mut()].into_iter().flatten() {
        measured.ask(load(Mode::KeptAlive, WARM_UP)).await?;
    }
    for _ in 0..flags.rounds {
        for (number, mode) in MODES.into_iter().enumerate() {
            for measured in [Some(&mut ours), theirs.as_mut()].into_iter().flatten() {
                let round = measured.ask(load(mode, flags.duration)).await?;
                measured.rounds[number].push(round);
            }
        }
    }

    let read: Vec<Value> = MODES
        .iter()
        .enumerate()
        .map(|(number, mode)| {
            let nginx = theirs.as_ref().map(|theirs| summary(&theirs.rounds[number]));
            let mut row = json!({"mode": mode.name()});
            merge(&mut row, summary(&ours.rounds[number]));
            row["ratio"] = ratio(&row, nginx.as_ref());
            row["nginx"] = nginx.unwrap_or_default();
            row
        })
        .collect();
    let report = json!({
        "read": read,
        "nodes": flags.nodes,
        "connections": flags.connections,
        "duration": format!("{}s", flags.duration.as_secs()),
        "rounds": flags.rounds,
        "cpus": cores.all,
        "server_cpus": cores.server,
    });
    let trouble = [Some(&ours), theirs.as_ref()].into_iter().flatten().find_map(|measured| {
        let why = measured.first_error.as_ref()?;
        Some(format!("{} errors, the first from {why}", measured.errors))
    });
    Ok((report, trouble))
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
    let dir = dir.join("nginx");
    std::fs::create_dir(&dir).with_context(|| dir.display().to_string())?;
    let connections = usize::try_from(flags.connections)?;
    let body = file_body(own);
    Nginx::start(&program, &dir, cores, connections, generator::PATH, body.as_bytes())
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
        let mut tally = generator::run(&self.target, load).await?;
        let seconds = started.elapsed().as_secs_f64();
        let since = |before: Option<Duration>, after: Option<Duration>| {
            Some(after?.saturating_sub(before?).as_secs_f64())
        };
        let server = since(server, self.process.cpu());
        let generator = since(generator, own_cpu());
        self.process.empty_log();

        self.errors += tally.errors;
        self.first_error = self.first_error.take().or(tally.first_error);
        tally.latencies.sort_unstable();
        let requests = f64::from(u32::try_from(tally.latencies.len())?);
        let threads = f64::from(u32::try_from(load.threads)?);
        let percentile = |percent: usize| {
            let at = tally.latencies.len() * percent / 100;
            tally.latencies.get(at).map_or(f64::NAN, |micros| f64::from(*micros))
        };
        Ok(Round {
            requests_per_s: requests / seconds,
            p50_us: percentile(50),
            p99_us: percentile(99),
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

const COLUMNS: [&str; 9] = [
    "mode",
    "server",
    "requests_per_s",
    "p50_us",
    "p99_us",
    "errors",
    "cpu_us_per_request",
    "generator_busy",
    "ratio",
];

fn print(format: Format, report: &Value) -> anyhow::Result<()> {
    if format != Format::Table {
        return output::object(format, report);
    }
    eprintln!(
        "nodeinit: {} nodes, {} connections, medians of {} rounds of {}, servers on {} of {} cpus",
        report["nodes"],
        report["connections"],
        report["rounds"],
        report["duration"].as_str().unwrap_or_default(),
        report["server_cpus"],
        report["cpus"],
    );
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
    output::list(format, &COLUMNS, &rows)
}
