//! Reads as cloud-init makes them, each with a fresh nonce, every answer checked: one thread polls
//! many sockets, so that it is the server that has no more time, and not who asks.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, epoll};
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, SocketFlags, SocketType};
use rustls::ClientConnection;
use tokio::sync::oneshot;

use super::histogram::Histogram;
use super::sign::{self, Signed};
use super::tls::Handshake;
use super::wire::{self, Signer, Signing};
use crate::clock::Clock;
use crate::domain::credentials::Mint;

pub const PATH: &str = "/MAAS/metadata/2012-03-01/meta-data/instance-id";

/// A server that says nothing for this long will not say anything.
const SILENCE: Duration = Duration::from_secs(20);
/// What fails is tried again, but not as fast as it fails.
const AFTER_ERROR: Duration = Duration::from_millis(10);
/// Keys that nobody knows; they come again, as none is remembered.
const STRANGERS: usize = 1 << 14;
/// Addresses that connections come from: one runs out of ports within a second of closing
/// connections, which stay in `TIME_WAIT`.
const SOURCES: usize = 200;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Each connection is used for as long as the load lasts.
    KeptAlive,
    /// As cloud-init does it: keep-alive is asked for, and the connection closed all the same.
    NewConnection,
    /// A new TLS connection each, with a whole handshake, as cloud-init has it.
    NewTls,
    /// A new TLS connection each, that takes the session of the one before up again.
    ResumedTls,
}

impl Mode {
    pub fn name(self) -> &'static str {
        match self {
            Mode::KeptAlive => "kept_alive",
            Mode::NewConnection => "new_connection",
            Mode::NewTls => "new_tls",
            Mode::ResumedTls => "resumed_tls",
        }
    }

    fn handshake(self) -> Option<Handshake> {
        match self {
            Mode::KeptAlive | Mode::NewConnection => None,
            Mode::NewTls => Some(Handshake::Whole),
            Mode::ResumedTls => Some(Handshake::Resumed),
        }
    }
}

/// A server, what it is asked and what it has to answer.
pub struct Target {
    address: SocketAddr,
    asks: Vec<Ask>,
    status: u16,
    sources: Sources,
    /// The node that is next, whichever connection asks.
    turn: AtomicUsize,
}

struct Ask {
    signed: Signed,
    /// Empty: whatever it says.
    answer: Vec<u8>,
}

/// Where connections come from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sources {
    /// Each from an address of its own.
    OfConnections,
    /// Each request from another.
    OfRequests,
}

impl Target {
    /// A server that has to answer every one of `signers` what `answer` says.
    pub fn new(
        address: SocketAddr,
        scheme: &str,
        signers: &[Signer],
        signing: Signing,
        answer: impl Fn(&Signer) -> String,
    ) -> Target {
        let host = address.to_string();
        let asks = signers
            .iter()
            .map(|signer| Ask {
                signed: Signed::new(scheme, &host, PATH, signer, signing),
                answer: answer(signer).into_bytes(),
            })
            .collect();
        let sources = Sources::OfConnections;
        Target { address, asks, status: 200, sources, turn: AtomicUsize::new(0) }
    }

    /// A server that has to refuse keys that nobody knows, from addresses all over.
    pub fn of_strangers(address: SocketAddr, mint: &Mint) -> Target {
        let host = address.to_string();
        let asks = (0..STRANGERS).map(|_| {
            let signer = Signer {
                system_id: String::new(),
                consumer_key: format!("{:018x}", u64::from_ne_bytes(mint.bytes())),
                token_key: format!("{:018x}", u64::from_ne_bytes(mint.bytes())),
                token_secret: format!("{:032x}", u128::from_ne_bytes(mint.bytes())),
            };
            let ready = Signed::new("http", &host, PATH, &signer, Signing::Plaintext);
            Ask { signed: ready, answer: Vec::new() }
        });
        let (asks, sources) = (asks.collect(), Sources::OfRequests);
        Target { address, asks, status: 401, sources, turn: AtomicUsize::new(0) }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn len(&self) -> usize {
        self.asks.len()
    }

    fn next(&self) -> &Ask {
        &self.asks[self.turn.fetch_add(1, Ordering::Relaxed) % self.asks.len()]
    }
}

#[derive(Clone, Copy)]
pub struct Load {
    pub mode: Mode,
    pub connections: usize,
    pub duration: Duration,
    /// Threads that make the load.
    pub threads: usize,
    /// Requests a second, whatever the answers take; `None` is as many as go.
    pub rate: Option<u32>,
    /// Ends after so many requests, however long they take.
    pub most: Option<usize>,
    /// Gives way to other loads of this process.
    pub is_background: bool,
}

/// What came of a load.
#[derive(Default)]
pub struct Tally {
    /// Of every request that was answered well.
    pub latencies: Histogram,
    pub errors: u64,
    pub first_error: Option<String>,
}

impl Tally {
    pub fn add(&mut self, other: Tally) {
        self.latencies.add(&other.latencies);
        self.errors += other.errors;
        self.first_error = self.first_error.take().or(other.first_error);
    }

    fn error(&mut self, why: String) {
        self.errors += 1;
        self.first_error.get_or_insert(why);
    }
}

/// Puts `load` on `target`. A load that is dropped stops.
pub async fn run(target: &Arc<Target>, load: Load) -> anyhow::Result<Tally> {
    let threads = load.threads.clamp(1, load.connections.max(1));
    let mut shares = Vec::new();
    for thread in 0..threads {
        let (sender, receiver) = oneshot::channel();
        let (target, mint) = (target.clone(), Mint::from_system()?);
        std::thread::Builder::new().spawn(move || {
            if load.is_background {
                // Of this thread alone, on Linux; without it the load is only less even.
                let _ = rustix::process::nice(19);
            }
            let tally = Thread::start(&target, load, (thread, threads), &mint)
                .and_then(|thread| thread.run(|| sender.is_closed()));
            let _ = sender.send(tally);
        })?;
        shares.push(receiver);
    }
    let mut whole = Tally::default();
    for share in shares {
        whole.add(share.await??);
    }
    Ok(whole)
}

/// What a connection is at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    Rest,
    Asking,
}

struct Connection<'t> {
    number: usize,
    stream: Option<TcpStream>,
    tls: Option<ClientConnection>,
    at: At,
    ask: &'t Ask,
    request: Vec<u8>,
    /// Of the request, those that were sent.
    sent: usize,
    answer: Vec<u8>,
    asked: Instant,
}

/// The connections of one thread.
struct Thread<'t> {
    target: &'t Target,
    load: Load,
    poll: rustix::fd::OwnedFd,
    connections: Vec<Connection<'t>>,
    /// Those that may ask, the next one last.
    resting: Vec<usize>,
    /// Those that failed, and when they may ask again.
    failed: Vec<(Instant, usize)>,
    tls: Option<Arc<rustls::ClientConfig>>,
    tally: Tally,
    nonce: u64,
    /// How long a good answer of this target is; each is still looked at.
    whole: usize,
    began: Instant,
    started: u32,
    /// Which of so many threads this is.
    share: (u32, u32),
}

impl<'t> Thread<'t> {
    fn start(
        target: &'t Target,
        load: Load,
        (thread, threads): (usize, usize),
        mint: &Mint,
    ) -> anyhow::Result<Thread<'t>> {
        let connections: Vec<Connection> = (thread..load.connections)
            .step_by(threads)
            .map(|number| Connection {
                number,
                stream: None,
                tls: None,
                at: At::Rest,
                ask: &target.asks[0],
                request: Vec::with_capacity(1024),
                sent: 0,
                answer: Vec::with_capacity(4096),
                asked: Instant::now(),
            })
            .collect();
        Ok(Thread {
            resting: (0..connections.len()).rev().collect(),
            connections,
            target,
            load,
            poll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            failed: Vec::new(),
            tls: load.mode.handshake().map(super::tls::client),
            tally: Tally::default(),
            nonce: u64::from_ne_bytes(mint.bytes()),
            whole: 0,
            began: Instant::now(),
            started: 0,
            share: (u32::try_from(thread)?, u32::try_from(threads)?),
        })
    }

    fn run(mut self, is_given_up: impl Fn() -> bool) -> anyhow::Result<Tally> {
        let mut events = Vec::with_capacity(self.connections.len().max(64));
        let until = self.began + self.load.duration;
        let mut timestamp = Clock::System.now().as_second();
        loop {
            let now = Instant::now();
            if is_given_up() {
                return Ok(self.tally);
            }
            self.wake(now);
            let most = self.load.most.map(|most| most.div_ceil(self.share.1 as usize));
            let may_ask = |started: u32| match most {
                Some(most) => (started as usize) < most,
                None => now < until,
            };
            while may_ask(self.started) && self.begin(now, timestamp) {}
            let asking = self.connections.len() - self.resting.len() - self.failed.len();
            if !may_ask(self.started) && asking == 0 {
                return Ok(self.tally);
            }
            if now > until + SILENCE && most.is_none() {
                let why = format!("{}: no answer for {SILENCE:?}", self.target.address);
                (0..asking).for_each(|_| self.tally.error(why.clone()));
                return Ok(self.tally);
            }
            self.sleep(now)?;
            let at_once = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
            events.clear();
            match epoll::wait(
                &self.poll,
                rustix::buffer::spare_capacity(&mut events),
                Some(&at_once),
            ) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(io::Error::from(error).into()),
            }
            timestamp = Clock::System.now().as_second();
            for event in &events {
                let at = usize::try_from(event.data.u64()).unwrap_or(0);
                if self.connections[at].at == At::Asking {
                    self.go_on(at, timestamp, until);
                }
            }
        }
    }

    /// Until something has come, or the next request is due, to the microsecond.
    fn sleep(&self, now: Instant) -> io::Result<()> {
        let long = Duration::from_millis(10);
        let wait = self.due().map_or(long, |due| due.saturating_duration_since(now).min(long));
        let timeout =
            rustix::event::Timespec { tv_sec: 0, tv_nsec: i64::from(wait.subsec_nanos()) };
        let mut poll = [PollFd::new(&self.poll, PollFlags::IN)];
        match rustix::event::poll(&mut poll, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// When the next request is due, if there is a rate and a connection is free.
    fn due(&self) -> Option<Instant> {
        let rate = self.load.rate.filter(|_| !self.resting.is_empty())?;
        // This thread's every `threads`th of all: what waits for a connection is late.
        let (thread, threads) = self.share;
        let number = f64::from(self.started) * f64::from(threads) + f64::from(thread);
        Some(self.began + Duration::from_secs_f64(number / f64::from(rate.max(1))))
    }

    /// Lets those that failed ask again after a while.
    fn wake(&mut self, now: Instant) {
        let resting = &mut self.resting;
        self.failed.retain(|(until, at)| {
            if *until <= now {
                resting.push(*at);
            }
            *until > now
        });
    }

    /// Begins the next request if it is due and a connection is free; says whether it did.
    fn begin(&mut self, now: Instant, timestamp: i64) -> bool {
        let asked = self.due().unwrap_or(now);
        if asked > now {
            return false;
        }
        let Some(at) = self.resting.pop() else { return false };
        self.started += 1;
        self.ask(at, asked, timestamp);
        true
    }

    /// Writes the next node's request on a connection, and reads what is there already.
    fn ask(&mut self, at: usize, asked: Instant, timestamp: i64) {
        self.nonce = self.nonce.wrapping_add(1);
        let connection = &mut self.connections[at];
        connection.ask = self.target.next();
        connection.ask.signed.write(&mut connection.request, self.nonce, timestamp);
        connection.sent = 0;
        connection.answer.clear();
        connection.asked = asked;
        connection.at = At::Asking;
        let is_new = connection.stream.is_none();
        let opened = if is_new { self.open(at) } else { Ok(()) };
        let connection = &mut self.connections[at];
        let done = opened.and_then(|()| match &mut connection.tls {
            None => connection.write(),
            Some(tls) => tls.writer().write_all(&connection.request),
        });
        // A handshake begins at once too.
        let done = done.and_then(|()| {
            if connection.tls.is_some() { connection.exchange_tls().map(drop) } else { Ok(()) }
        });
        if let Err(error) = done {
            self.fail(at, &error.to_string());
        }
    }

    fn open(&mut self, at: usize) -> io::Result<()> {
        let stream = match self.target.sources {
            Sources::OfConnections => connect(self.target.address, self.connections[at].number)?,
            Sources::OfRequests => {
                let [_, _, high, low] = self.started.to_be_bytes();
                from(self.target.address, Ipv4Addr::new(127, 200, high, low.max(1)))?
            }
        };
        let connection = &mut self.connections[at];
        let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
        epoll::add(&self.poll, &stream, epoll::EventData::new_u64(at as u64), flags)?;
        connection.stream = Some(stream);
        if let Some(config) = &self.tls {
            let name = rustls::pki_types::ServerName::from(self.target.address.ip());
            let tls = ClientConnection::new(config.clone(), name).map_err(io::Error::other)?;
            connection.tls = Some(tls);
        }
        Ok(())
    }

    fn go_on(&mut self, at: usize, timestamp: i64, until: Instant) {
        let connection = &mut self.connections[at];
        let (whole, status) = (self.whole, self.target.status);
        match connection.advance(whole, status) {
            Ok(None) => {}
            Ok(Some(length)) => {
                self.whole = length;
                let now = Instant::now();
                let connection = &mut self.connections[at];
                self.tally.latencies.record(now.saturating_duration_since(connection.asked));
                connection.at = At::Rest;
                if self.load.mode != Mode::KeptAlive {
                    connection.stream = None;
                    connection.tls = None;
                }
                // The usual case without the way around: it asks again.
                if self.load.rate.is_none() && self.load.most.is_none() && now < until {
                    self.started = self.started.wrapping_add(1);
                    self.ask(at, now, timestamp);
                } else {
                    self.resting.push(at);
                }
            }
            Err(why) => self.fail(at, &why),
        }
    }

    fn fail(&mut self, at: usize, why: &str) {
        self.tally.error(format!("{}: {why}", self.target.address));
        let connection = &mut self.connections[at];
        connection.at = At::Rest;
        connection.stream = None;
        connection.tls = None;
        self.failed.push((Instant::now() + AFTER_ERROR, at));
    }
}

impl Connection<'_> {
    /// Goes on with the request and its answer; the answer's length once it is whole and right.
    fn advance(&mut self, whole: usize, status: u16) -> Result<Option<usize>, String> {
        let is_closed = if self.tls.is_some() {
            self.exchange_tls().map_err(|e| e.to_string())?
        } else {
            self.write().map_err(|e| e.to_string())?;
            self.read().map_err(|e| e.to_string())?
        };
        let expected = &self.ask.answer;
        // All good answers are equally long, so that one look at both ends is enough.
        let before = self.answer.len().wrapping_sub(expected.len());
        if self.answer.len() == whole
            && status == 200
            && self.answer.starts_with(b"HTTP/1.1 200")
            && self.answer[before..] == **expected
            && self.answer[..before].ends_with(b"\r\n\r\n")
        {
            return Ok(Some(whole));
        }
        match wire::answer(&self.answer)? {
            Some(answer)
                if answer.status == status && (expected.is_empty() || answer.body == *expected) =>
            {
                Ok(Some(self.answer.len()))
            }
            Some(answer) if answer.status != status => Err(format!("answered {}", answer.status)),
            Some(answer) => {
                let (body, wanted) =
                    (String::from_utf8_lossy(answer.body), String::from_utf8_lossy(expected));
                Err(format!("answered {body:?} for {wanted:?}"))
            }
            None if is_closed => Err("closed within an answer".into()),
            None => Ok(None),
        }
    }

    fn write(&mut self) -> io::Result<()> {
        let Some(stream) = &mut self.stream else { return Ok(()) };
        while self.sent < self.request.len() {
            match stream.write(&self.request[self.sent..]) {
                Ok(sent) => self.sent += sent,
                // Not connected yet counts as not yet.
                Err(e) if is_for_later(&e) => return Ok(()),
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Takes what has come; says whether it was the last.
    fn read(&mut self) -> io::Result<bool> {
        let Some(stream) = &self.stream else { return Ok(true) };
        loop {
            self.answer.reserve(1024);
            let room = self.answer.capacity() - self.answer.len();
            let read = rustix::io::read(stream, rustix::buffer::spare_capacity(&mut self.answer));
            match read.map_err(io::Error::from) {
                Ok(0) => return Ok(true),
                // An edge comes again with the next bytes.
                Ok(read) if read < room => return Ok(false),
                Ok(_) => {}
                Err(e) if is_for_later(&e) => return Ok(false),
                Err(e) => return Err(e),
            }
        }
    }

    /// The same both ways through TLS.
    fn exchange_tls(&mut self) -> io::Result<bool> {
        let (Some(stream), Some(tls)) = (&mut self.stream, &mut self.tls) else {
            return Ok(true);
        };
        let mut is_closed = false;
        loop {
            let mut is_idle = true;
            while tls.wants_write() {
                match tls.write_tls(stream) {
                    Ok(_) => is_idle = false,
                    Err(e) if is_for_later(&e) => break,
                    Err(e) => return Err(e),
                }
            }
            match tls.read_tls(stream) {
                Ok(0) => is_closed = true,
                Ok(_) => {
                    is_idle = false;
                    tls.process_new_packets().map_err(io::Error::other)?;
                }
                Err(e) if is_for_later(&e) => {}
                Err(e) => return Err(e),
            }
            if is_idle || is_closed {
                break;
            }
        }
        let mut room = [0; 4096];
        loop {
            match tls.reader().read(&mut room) {
                Ok(0) => return Ok(true),
                Ok(read) => self.answer.extend_from_slice(&room[..read]),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(is_closed),
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(true),
                Err(e) => return Err(e),
            }
        }
    }
}

fn is_for_later(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, NotConnected, WouldBlock};
    matches!(error.kind(), WouldBlock | NotConnected | Interrupted)
}

/// Begins to connect from a loopback address of the connection's own.
fn connect(to: SocketAddr, number: usize) -> io::Result<TcpStream> {
    let of = |n: usize| u8::try_from(n % SOURCES).unwrap_or_default();
    from(to, Ipv4Addr::new(127, 1, of(number / SOURCES), 1 + of(number)))
}

/// Begins to connect from this address.
fn from(to: SocketAddr, from: Ipv4Addr) -> io::Result<TcpStream> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    net::bind(&socket, &SocketAddr::from((from, 0)))?;
    match net::connect(&socket, &to) {
        Ok(()) | Err(Errno::INPROGRESS) => {}
        Err(error) => return Err(error.into()),
    }
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A nonce of nineteen digits, as long as most of cloud-init's.
#[must_use]
pub fn digits(nonce: u64) -> u64 {
    sign::LEAST_NONCE + nonce % (sign::LEAST_NONCE * 9)
}
