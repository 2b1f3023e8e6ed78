//! A flood of keys that nobody knows, from addresses of its own, beside the load that is measured.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::generator::{self, PATH};
use super::wire::{Ask, Fresh, Signer, Signing};
use crate::clock::Clock;
use crate::domain::credentials::Mint;

/// Requests that are sent at once and looked at together.
const AT_ONCE: u32 = 32;

/// What was sent and what came back.
#[derive(Default)]
struct Counts {
    sent: AtomicU64,
    refused: AtomicU64,
    /// Turned away for coming too often.
    limited: AtomicU64,
    /// Anything else: nobody may be answered well, and nothing may break.
    other: AtomicU64,
}

/// A flood that goes on until this is dropped.
pub struct Flood {
    stop: Arc<AtomicBool>,
    counts: Arc<Counts>,
    began: Instant,
    thread: Option<JoinHandle<()>>,
}

/// A flood as it was.
#[derive(Clone, Copy, Debug)]
pub struct Flooded {
    pub seconds: f64,
    pub refused: u64,
    pub limited: u64,
    pub other: u64,
}

impl Flood {
    /// Asks with so many unknown keys a second.
    pub fn start(address: SocketAddr, rate: u32) -> anyhow::Result<Flood> {
        let (stop, counts) = (Arc::new(AtomicBool::new(false)), Arc::<Counts>::default());
        let mint = Mint::from_system()?;
        let (told, counted) = (stop.clone(), counts.clone());
        let began = Instant::now();
        let thread = std::thread::Builder::new().spawn(move || {
            let mut turn = 0_u32;
            while !told.load(Ordering::Relaxed) {
                let due = began + Duration::from_secs_f64(f64::from(turn) / f64::from(rate.max(1)));
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                some(address, turn, &mint, &counted);
                turn = turn.wrapping_add(AT_ONCE);
            }
        })?;
        Ok(Flood { stop, counts, began, thread: Some(thread) })
    }

    /// Ends it, and says what it was.
    pub fn end(mut self) -> Flooded {
        let seconds = self.began.elapsed().as_secs_f64();
        self.halt();
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Flooded {
            seconds,
            refused: of(&self.counts.refused),
            limited: of(&self.counts.limited),
            other: of(&self.counts.other),
        }
    }

    fn halt(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.halt();
    }
}

/// Sends some requests, each with a key of its own from an address of its own, then reads what
/// each is answered.
fn some(address: SocketAddr, turn: u32, mint: &Mint, counts: &Counts) {
    let host = address.to_string();
    let mut request = Vec::with_capacity(1024);
    let mut asked = Vec::with_capacity(AT_ONCE as usize);
    for number in turn..turn.saturating_add(AT_ONCE) {
        let [_, _, high, low] = number.to_be_bytes();
        let from = Ipv4Addr::new(127, 200, high, low.max(1));
        let signer = Signer {
            system_id: String::new(),
            consumer_key: format!("{:018x}", u64::from_ne_bytes(mint.bytes())),
            token_key: format!("{:018x}", u64::from_ne_bytes(mint.bytes())),
            token_secret: format!("{:032x}", u128::from_ne_bytes(mint.bytes())),
        };
        let fresh = Fresh {
            random: u64::from_ne_bytes(mint.bytes()),
            timestamp: Clock::System.now().as_second(),
        };
        let ask = Ask {
            method: "GET",
            host: &host,
            path: PATH,
            agent: "Cloud-Init/25.1.4",
            body: None,
            scheme: "http",
        };
        ask.write(&mut request, &signer, Signing::Plaintext, fresh);
        counts.sent.fetch_add(1, Ordering::Relaxed);
        let sent = generator::from(address, from).and_then(|mut stream| {
            stream.set_nonblocking(false)?;
            stream.set_read_timeout(Some(Duration::from_secs(10)))?;
            stream.write_all(&request)?;
            Ok(stream)
        });
        match sent {
            Ok(stream) => asked.push(stream),
            Err(_) => _ = counts.other.fetch_add(1, Ordering::Relaxed),
        }
    }
    for mut stream in asked {
        let mut answer = [0; 1024];
        let read = stream.read(&mut answer).unwrap_or(0);
        let count = match answer[..read].get(9..12) {
            Some(b"401") => &counts.refused,
            Some(b"429") => &counts.limited,
            _ => &counts.other,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }
}
