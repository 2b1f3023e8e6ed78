//! One machine's boot, as cloud-init makes it: the wait, the reads, the events, the retries.

use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::oneshot;

use crate::cli::bench::histogram::Histogram;
use crate::cli::bench::server;
use crate::cli::bench::wire::{self, Ask, Fresh, Signer, Signing};
use crate::clock::Clock;
use crate::domain::credentials::Mint;

/// How long cloud-init waits for a server, in all and for one answer (`max_wait`, `timeout`).
const MAX_WAIT: Duration = Duration::from_mins(2);
const WAIT_TIMEOUT: Duration = Duration::from_secs(50);
/// cloud-init itself would wait for ever.
const SILENCE: Duration = Duration::from_mins(1);
/// How long new clients wait before the one retry of a read.
const RETRY: Duration = Duration::from_secs(1);
/// When a stage's events are given up after failures, the next stage begins so much later.
const NEXT_STAGE: Duration = Duration::from_secs(1);
/// Failures in a row after which a stage gives its events up (`flush` of the webhook's queue).
const MOST_FAILURES: u32 = 3;

/// The reads behind the wait, in cloud-init's order, below `…/2012-03-01/`.
const READS: [&str; 5] = [
    "meta-data/instance-id",
    "meta-data/local-hostname",
    "meta-data/public-keys",
    "meta-data/vendor-data",
    "user-data",
];

/// An event of a boot: its body up to its timestamp, and from behind it.
pub struct Event {
    pub kind: &'static str,
    pub name: &'static str,
    head: String,
    tail: &'static str,
}

/// The events of a boot, as recorded of cloud-init 22.4.
pub fn events() -> Vec<Event> {
    let lines = include_str!("boot.tsv").lines();
    let event = |line: &'static str| {
        let (kind, rest) = line.split_once('\t')?;
        let (name, description) = rest.split_once('\t')?;
        let head = format!(
            "{{\"name\": \"{name}\", \"description\": \"{description}\", \
             \"event_type\": \"{kind}\", \"origin\": \"cloudinit\", \"timestamp\": "
        );
        let tail = if kind == "finish" { ", \"result\": \"SUCCESS\"}" } else { "}" };
        Some(Event { kind, name, head, tail })
    };
    lines.filter_map(event).collect()
}

impl Event {
    /// The stage of the boot that posts it.
    fn stage(&self) -> &str {
        self.name.split('/').next().unwrap_or_default()
    }
}

/// A storm: who boots, where, and how.
pub struct Plan {
    pub address: SocketAddr,
    pub scheme: &'static str,
    pub host: String,
    /// `/MAAS/metadata/`, or what the server says instead.
    pub base: String,
    pub signers: Vec<Signer>,
    pub ramp: Duration,
    /// As cloud-init 22.4, which does not retry a read.
    pub old_clients: bool,
    pub signing: Signing,
    pub events: Vec<Event>,
    /// Requests answered well so far.
    pub answered: AtomicU64,
}

impl Plan {
    /// Requests of a storm in which nothing fails.
    pub fn requests(&self) -> u64 {
        (self.signers.len() * (1 + READS.len() + self.events.len())) as u64
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Wait,
    Read,
    Event,
}

impl Phase {
    pub const ALL: [Phase; 3] = [Phase::Wait, Phase::Read, Phase::Event];

    pub fn name(self) -> &'static str {
        match self {
            Phase::Wait => "wait",
            Phase::Read => "read",
            Phase::Event => "event",
        }
    }
}

/// What came of the requests of a phase.
#[derive(Default)]
pub struct PhaseTally {
    /// Of those that were answered well.
    pub latencies: Histogram,
    pub errors: u64,
}

/// What came of a share of a storm.
#[derive(Default)]
pub struct Tally {
    pub phases: [PhaseTally; 3],
    pub errors_5xx: u64,
    pub wrongful_401: u64,
    pub first_error: Option<String>,
    pub boots: Vec<Boot>,
}

impl Tally {
    pub fn add(&mut self, other: Tally) {
        for (phase, more) in self.phases.iter_mut().zip(other.phases) {
            phase.latencies.add(&more.latencies);
            phase.errors += more.errors;
        }
        self.errors_5xx += other.errors_5xx;
        self.wrongful_401 += other.wrongful_401;
        self.first_error = self.first_error.take().or(other.first_error);
        self.boots.extend(other.boots);
    }
}

/// How a boot ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// All was read; what was posted is in `acknowledged`.
    Through,
    /// Nobody answered in the wait stage.
    NeverServed,
    /// A read failed that is not retried any more.
    ReadFailed,
}

/// What a machine knows when its boot is over.
pub struct Boot {
    pub number: usize,
    pub end: End,
    /// The events that were answered 204, by their place in a boot.
    pub acknowledged: u128,
    /// Whether each failure was of the kind that a server that is gone makes.
    pub only_outages: bool,
}

/// Why a request failed.
enum Trouble {
    Connection(String),
    Status(u16),
    Wrong(String),
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Trouble::Status(status) => write!(f, "answered {status}"),
            Trouble::Connection(why) | Trouble::Wrong(why) => f.write_str(why),
        }
    }
}

impl Trouble {
    fn is_outage(&self) -> bool {
        matches!(self, Trouble::Connection(_) | Trouble::Status(502..=504))
    }
}

/// Boots every `of`th machine from `first` on; a storm that is dropped stops.
pub fn spawn(
    plan: &Arc<Plan>,
    first: usize,
    of: usize,
) -> anyhow::Result<oneshot::Receiver<Tally>> {
    let (mut sender, receiver) = oneshot::channel();
    let plan = plan.clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mint = Mint::from_system()?;
    std::thread::Builder::new().spawn(move || {
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime, async {
            tokio::select! {
                tally = share(plan, first, of, mint) => { let _ = sender.send(tally); }
                () = sender.closed() => {}
            }
        });
    })?;
    Ok(receiver)
}

async fn share(plan: Arc<Plan>, first: usize, of: usize, mint: Mint) -> Tally {
    let tally = Rc::new(RefCell::new(Tally::default()));
    let mint = Rc::new(mint);
    let began = Instant::now();
    let mut boots = tokio::task::JoinSet::new();
    let nodes = u32::try_from(plan.signers.len()).unwrap_or(u32::MAX).max(1);
    for number in (first..plan.signers.len()).step_by(of.max(1)) {
        let machine = Machine {
            plan: plan.clone(),
            number,
            mint: mint.clone(),
            tally: tally.clone(),
            request: Vec::new(),
            answer: Vec::new(),
            body: 0,
            only_outages: true,
        };
        let begins = plan.ramp / nodes * u32::try_from(number).unwrap_or(0);
        boots.spawn_local(async move {
            tokio::time::sleep_until((began + begins).into()).await;
            machine.boot().await;
        });
    }
    while boots.join_next().await.is_some() {}
    Rc::try_unwrap(tally).map(RefCell::into_inner).unwrap_or_default()
}

struct Machine {
    plan: Arc<Plan>,
    number: usize,
    mint: Rc<Mint>,
    tally: Rc<RefCell<Tally>>,
    request: Vec<u8>,
    answer: Vec<u8>,
    /// Where the body of the last answer begins.
    body: usize,
    only_outages: bool,
}

impl Machine {
    async fn boot(mut self) {
        self.request.reserve(1024);
        self.answer.reserve(2048);
        let mut acknowledged = 0;
        let end = if !self.wait().await {
            End::NeverServed
        } else if self.read().await {
            acknowledged = self.report().await;
            End::Through
        } else {
            End::ReadFailed
        };
        let (number, only_outages) = (self.number, self.only_outages);
        self.tally.borrow_mut().boots.push(Boot { number, end, acknowledged, only_outages });
    }

    /// Asks until the server answers: 1 s later five times, 2 s later five times, and so on.
    async fn wait(&mut self) -> bool {
        let began = Instant::now();
        for tries in 0_u64.. {
            let get = self.get(READS[0], Phase::Wait);
            let answered = tokio::time::timeout(WAIT_TIMEOUT, get).await;
            if matches!(answered, Ok(Ok(()))) {
                return true;
            }
            let pause = Duration::from_secs(1 + tries / 5);
            if began.elapsed() + pause > MAX_WAIT {
                break;
            }
            tokio::time::sleep(pause).await;
        }
        false
    }

    async fn read(&mut self) -> bool {
        for item in READS {
            let mut got = self.get(item, Phase::Read).await;
            if got.is_err() && !self.plan.old_clients {
                tokio::time::sleep(RETRY).await;
                got = self.get(item, Phase::Read).await;
            }
            if let Err(trouble) = got {
                self.only_outages &= trouble.is_outage();
                return false;
            }
        }
        true
    }

    /// Posts the events, one after another; says which were acknowledged.
    async fn report(&mut self) -> u128 {
        let plan = self.plan.clone();
        let mut acknowledged = 0;
        let (mut failures, mut given_up) = (0, "");
        let seconds = Clock::System.now().as_second();
        for (at, event) in plan.events.iter().enumerate() {
            if event.stage() == given_up {
                continue;
            }
            // No two events of a node have the same time.
            let body = format!("{}{seconds}.{at:03}{}", event.head, event.tail);
            match self.post(body.as_bytes()).await {
                Ok(()) => {
                    acknowledged |= 1 << at;
                    failures = 0;
                }
                Err(trouble) => {
                    self.only_outages &= trouble.is_outage();
                    failures += 1;
                    if failures >= MOST_FAILURES {
                        failures = 0;
                        given_up = event.stage();
                        tokio::time::sleep(NEXT_STAGE).await;
                    }
                }
            }
        }
        acknowledged
    }

    async fn get(&mut self, item: &str, phase: Phase) -> Result<(), Trouble> {
        let plan = self.plan.clone();
        let path = format!("{}2012-03-01/{item}", plan.base);
        let agent = match (plan.old_clients, phase) {
            (true, Phase::Wait) => "Cloud-Init/22.4.2",
            (true, _) => "python-requests/2.28.1",
            (false, _) => "Cloud-Init/25.1.4",
        };
        let ask = Ask {
            method: "GET",
            host: &plan.host,
            path: &path,
            agent,
            body: None,
            scheme: plan.scheme,
        };
        self.ask(ask, phase, 200).await.and_then(|()| self.check(item)).inspect_err(|trouble| {
            let mut tally = self.tally.borrow_mut();
            if let Trouble::Wrong(why) = trouble {
                tally.phases[phase as usize].errors += 1;
                tally.first_error.get_or_insert_with(|| why.clone());
            }
        })
    }

    /// Whether the answer is what this node has to be told.
    fn check(&self, item: &str) -> Result<(), Trouble> {
        let body = &self.answer[self.body..];
        let system_id = self.plan.signers[self.number].system_id.as_bytes();
        let is_right = match item {
            "meta-data/instance-id" | "meta-data/local-hostname" => body == system_id,
            "user-data" => body == server::USER_DATA.as_bytes(),
            _ => !body.is_empty(),
        };
        if is_right { Ok(()) } else { Err(Trouble::Wrong(format!("{item} is another's"))) }
    }

    async fn post(&mut self, body: &[u8]) -> Result<(), Trouble> {
        let plan = self.plan.clone();
        let path = format!("{}status/{}", plan.base, plan.signers[self.number].system_id);
        let agent = if plan.old_clients { "python-requests/2.28.1" } else { "Cloud-Init/25.1.4" };
        let ask = Ask {
            method: "POST",
            host: &plan.host,
            path: &path,
            agent,
            body: Some(body),
            scheme: plan.scheme,
        };
        self.ask(ask, Phase::Event, 204).await
    }

    /// One request on a connection of its own.
    async fn ask(&mut self, ask: Ask<'_>, phase: Phase, wanted: u16) -> Result<(), Trouble> {
        let plan = self.plan.clone();
        let fresh = Fresh {
            random: u64::from_ne_bytes(self.mint.bytes()),
            timestamp: Clock::System.now().as_second(),
        };
        ask.write(&mut self.request, &plan.signers[self.number], plan.signing, fresh);
        let asked = Instant::now();
        let exchanged = tokio::time::timeout(SILENCE, self.exchange()).await;
        let exchanged = exchanged.unwrap_or_else(|_| Err(format!("no answer for {SILENCE:?}")));
        let mut tally = self.tally.borrow_mut();
        let trouble = match exchanged {
            Ok(status) if status == wanted => {
                tally.phases[phase as usize].latencies.record(asked.elapsed());
                plan.answered.fetch_add(1, Ordering::Relaxed);
                return Ok(());
            }
            Ok(status) => Trouble::Status(status),
            Err(why) => Trouble::Connection(why),
        };
        tally.phases[phase as usize].errors += 1;
        match trouble {
            Trouble::Status(401) => tally.wrongful_401 += 1,
            Trouble::Status(500..) => tally.errors_5xx += 1,
            _ => {}
        }
        let Ask { method, path, .. } = ask;
        tally.first_error.get_or_insert_with(|| format!("{method} {path}: {trouble}"));
        Err(trouble)
    }

    async fn exchange(&mut self) -> Result<u16, String> {
        let mut stream =
            connect(self.plan.address, self.number).await.map_err(|e| e.to_string())?;
        stream.write_all(&self.request).await.map_err(|e| e.to_string())?;
        self.answer.clear();
        loop {
            if stream.read_buf(&mut self.answer).await.map_err(|e| e.to_string())? == 0 {
                return Err("closed within an answer".into());
            }
            if let Some(answer) = wire::answer(&self.answer)? {
                self.body = self.answer.len() - answer.body.len();
                return Ok(answer.status);
            }
        }
    }
}

/// Each machine has an address of its own where that can be had: limits and balancers go by it.
async fn connect(to: SocketAddr, number: usize) -> std::io::Result<TcpStream> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if to.ip().is_loopback() && to.is_ipv4() {
        let of_250 = |n: usize| u8::try_from(n % 250).unwrap_or_default();
        let second = 1 + of_250(number / 62_500);
        let from = Ipv4Addr::new(127, second, of_250(number / 250), 1 + of_250(number));
        socket.bind((from, 0).into())?;
    }
    socket.set_nodelay(true)?;
    socket.connect(to).await
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_boot_has_79_events_and_no_two_alike() {
        let events = events();
        assert_eq!(events.len(), 79);
        let alike: HashSet<_> = events.iter().map(|event| (event.kind, event.name)).collect();
        assert_eq!(alike.len(), 79);
        assert_eq!(events.iter().filter(|event| event.kind == "start").count(), 38);
        let last = &events[78];
        assert_eq!(
            (last.kind, last.name, last.stage()),
            ("finish", "modules-final", "modules-final")
        );
        for event in &events {
            let body = format!("{}1.5{}", event.head, event.tail);
            let json: serde_json::Value = serde_json::from_str(&body).unwrap();
            assert_eq!(json["name"], event.name);
        }
    }
}
