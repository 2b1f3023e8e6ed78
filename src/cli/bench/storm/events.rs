//! Events alone: how many a second are on disk when they are acknowledged, and how soon.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::oneshot;

use super::{Met, Storm, latencies};
use crate::cli::bench::histogram::Histogram;
use crate::cli::bench::process::{Cores, own_cpu};
use crate::cli::bench::server::OwnServer;
use crate::cli::bench::wire::{self, Ask, Fresh, Signing};
use crate::cli::bench::{as_f64, merge, rounded};
use crate::clock::Clock;
use crate::domain::credentials::Mint;

/// A server that says nothing for this long will not say anything.
const SILENCE: Duration = Duration::from_secs(20);
const AFTER_ERROR: Duration = Duration::from_millis(10);

#[derive(Default)]
struct Tally {
    latencies: Histogram,
    errors: u64,
    first_error: Option<String>,
}

/// What a connection posts with: the nodes that are its own.
struct Poster {
    met: Arc<Met>,
    number: usize,
    connections: usize,
    signing: Signing,
    new_connections: bool,
    /// Between two events of this connection; `None` is as fast as it goes.
    every: Option<Duration>,
    began: Instant,
    until: Instant,
}

pub(super) async fn measure(
    flags: &Storm,
    met: Met,
    cores: &Cores,
) -> anyhow::Result<(Value, Option<String>)> {
    let connections = usize::try_from(flags.connections)?.min(met.signers.len());
    let every = (flags.rate > 0)
        .then(|| Duration::from_secs_f64(as_f64(connections as u64) / f64::from(flags.rate)));
    let met = Arc::new(met);
    let bytes = met.own().and_then(OwnServer::database_bytes);
    let cpu = (met.own().and_then(|own| own.process.cpu()), own_cpu());
    let threads = cores.generator.min(connections);
    let began = Instant::now();
    let mut shares = Vec::new();
    for thread in 0..threads {
        let posters = (thread..connections).step_by(threads).map(|number| Poster {
            met: met.clone(),
            number,
            connections,
            signing: if flags.hmac { Signing::HmacSha256 } else { Signing::Plaintext },
            new_connections: flags.new_connections,
            every,
            began,
            until: began + flags.duration,
        });
        shares.push(spawn(posters.collect())?);
    }
    let mut tally = Tally::default();
    for share in shares {
        let share = share.await.context("a thread of the bench ended")?;
        tally.latencies.add(&share.latencies);
        tally.errors += share.errors;
        tally.first_error = tally.first_error.or(share.first_error);
    }
    let seconds = began.elapsed().as_secs_f64();
    let since = |before: Option<Duration>, after: Option<Duration>| {
        Some(after?.saturating_sub(before?).as_secs_f64())
    };
    let own = met.own();
    let server = since(cpu.0, own.and_then(|own| own.process.cpu()));
    let generator = since(cpu.1, own_cpu());
    let stored = as_f64(tally.latencies.total());
    let growth = bytes.zip(own.and_then(OwnServer::database_bytes));
    let growth = growth.map(|(before, after)| as_f64(after.saturating_sub(before)) / stored);
    let mut report = json!({
        "events": tally.latencies.total(),
        "nodes": flags.nodes,
        "connections": connections,
        "mode": if flags.new_connections { "new_connection" } else { "kept_alive" },
        "rate": flags.rate,
        "database": if flags.database_url.is_some() { "url" } else { flags.database.name() },
        "signing": if flags.hmac { "hmac-sha256" } else { "plaintext" },
        "plaintext_replay": flags.plaintext_replay,
        "seconds": rounded(Some(seconds), 1),
    });
    merge(&mut report, latencies(&tally.latencies, seconds));
    merge(
        &mut report,
        json!({
            "errors": tally.errors,
            "cpu_us_per_request": rounded(server.map(|cpu| cpu * 1e6 / stored), 1),
            "generator_busy":
                rounded(generator.map(|busy| busy / seconds / as_f64(threads as u64)), 2),
            "rss_mib": rounded(own.and_then(|own| own.process.rss_mib()), 1),
            "database_bytes_per_event": rounded(growth, 0),
            "cpus": cores.all,
        }),
    );
    let trouble = (tally.errors > 0).then(|| {
        let first = tally.first_error.unwrap_or_default();
        format!("{} events were not taken, the first: {first}", tally.errors)
    });
    Ok((report, trouble))
}

fn spawn(posters: Vec<Poster>) -> anyhow::Result<oneshot::Receiver<Tally>> {
    let (mut sender, receiver) = oneshot::channel();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mint = Arc::new(Mint::from_system()?);
    std::thread::Builder::new().spawn(move || {
        runtime.block_on(async {
            let all = async {
                let mut running = tokio::task::JoinSet::new();
                for poster in posters {
                    let mint = mint.clone();
                    running.spawn(async move { poster.post(&mint).await });
                }
                let mut whole = Tally::default();
                while let Some(one) = running.join_next().await {
                    let Ok(one) = one else { continue };
                    whole.latencies.add(&one.latencies);
                    whole.errors += one.errors;
                    whole.first_error = whole.first_error.or(one.first_error);
                }
                whole
            };
            tokio::select! {
                tally = all => { let _ = sender.send(tally); }
                () = sender.closed() => {}
            }
        });
    })?;
    Ok(receiver)
}

impl Poster {
    async fn post(&self, mint: &Mint) -> Tally {
        let signers: Vec<_> =
            self.met.signers.iter().skip(self.number).step_by(self.connections).collect();
        let url = &self.met.metadata_url;
        let base = url.as_str().split_once(url.authority()).map_or("/", |(_, path)| path);
        let paths: Vec<String> =
            signers.iter().map(|signer| format!("{base}status/{}", signer.system_id)).collect();
        let mut tally = Tally::default();
        let (mut request, mut answer, mut body) = (Vec::new(), Vec::new(), Vec::new());
        let mut kept: Option<TcpStream> = None;
        for turn in 0_u32.. {
            // At a rate, what is late by our own doing is late all the same.
            let mut asked = Instant::now();
            if let Some(every) = self.every {
                let first = every / u32::try_from(self.connections).unwrap_or(1)
                    * u32::try_from(self.number).unwrap_or(0);
                asked = self.began + first + every * turn;
                tokio::time::sleep_until(asked.into()).await;
            }
            if asked >= self.until {
                break;
            }
            let at = usize::try_from(turn).unwrap_or(0) % signers.len();
            let now = Clock::System.now();
            write_body(&mut body, now.as_microsecond(), turn);
            let ask = Ask {
                method: "POST",
                host: url.authority(),
                path: &paths[at],
                agent: "Cloud-Init/25.1.4",
                body: Some(&body),
                scheme: "http",
            };
            let fresh =
                Fresh { random: u64::from_ne_bytes(mint.bytes()), timestamp: now.as_second() };
            ask.write(&mut request, signers[at], self.signing, fresh);
            let exchange = async {
                let mut stream = match kept.take() {
                    Some(stream) => stream,
                    None => self.connect().await.map_err(|e| e.to_string())?,
                };
                exchange(&mut stream, &request, &mut answer).await?;
                Ok::<_, String>(stream)
            };
            let done = tokio::time::timeout(SILENCE, exchange).await;
            match done.unwrap_or_else(|_| Err(format!("no answer for {SILENCE:?}"))) {
                Ok(stream) => {
                    tally.latencies.record(asked.elapsed());
                    kept = (!self.new_connections).then_some(stream);
                }
                Err(why) => {
                    tally.errors += 1;
                    tally.first_error.get_or_insert(why);
                    tokio::time::sleep(AFTER_ERROR).await;
                }
            }
        }
        tally
    }

    async fn connect(&self) -> std::io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        let of_200 = |n: usize| u8::try_from(n % 200).unwrap_or_default();
        let from = Ipv4Addr::new(127, 1, of_200(self.number / 200), 1 + of_200(self.number));
        socket.bind((from, 0).into())?;
        socket.set_nodelay(true)?;
        socket.connect(self.met.address).await
    }
}

/// An event as cloud-init's webhook writes it; no two of a connection are alike.
fn write_body(body: &mut Vec<u8>, micros: i64, turn: u32) {
    use std::io::Write as _;
    body.clear();
    let (seconds, micros) = (micros.div_euclid(1_000_000), micros.rem_euclid(1_000_000));
    let kind = if turn.is_multiple_of(2) { "start" } else { "finish" };
    let tail = if kind == "finish" { ", \"result\": \"SUCCESS\"" } else { "" };
    let _ = write!(
        body,
        "{{\"name\": \"modules-config/config-locale-{turn}\", \
         \"description\": \"running config-locale with frequency once-per-instance\", \
         \"event_type\": \"{kind}\", \"origin\": \"cloudinit\", \
         \"timestamp\": {seconds}.{micros:06}{tail}}}"
    );
}

async fn exchange(
    stream: &mut TcpStream,
    request: &[u8],
    answer: &mut Vec<u8>,
) -> Result<(), String> {
    stream.write_all(request).await.map_err(|e| e.to_string())?;
    answer.clear();
    loop {
        if stream.read_buf(answer).await.map_err(|e| e.to_string())? == 0 {
            return Err("closed within an answer".into());
        }
        if let Some(answer) = wire::answer(answer)? {
            return match answer.status {
                204 => Ok(()),
                status => Err(format!("answered {status}")),
            };
        }
    }
}
