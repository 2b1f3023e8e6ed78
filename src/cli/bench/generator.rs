//! Load as cloud-init makes it: its requests byte for byte, each with a fresh nonce, every answer
//! checked.

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::wire::Signer;
use crate::clock::Clock;
use crate::domain::credentials::Mint;

pub const PATH: &str = "/MAAS/metadata/2012-03-01/meta-data/instance-id";

/// A server that says nothing for this long will not say anything.
const SILENCE: Duration = Duration::from_secs(20);
/// What fails is tried again, but not as fast as it fails.
const AFTER_ERROR: Duration = Duration::from_millis(10);

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Each connection is used for as long as the load lasts.
    KeptAlive,
    /// As cloud-init does it: keep-alive is asked for, and the connection closed all the same.
    NewConnection,
}

impl Mode {
    pub fn name(self) -> &'static str {
        match self {
            Mode::KeptAlive => "kept_alive",
            Mode::NewConnection => "new_connection",
        }
    }
}

/// A server, what it is asked and what it has to answer.
pub struct Target {
    address: SocketAddr,
    /// A request up to its nonce.
    head: String,
    asks: Vec<Ask>,
    /// The node that is next, whichever connection asks.
    turn: AtomicUsize,
}

struct Ask {
    /// A request from behind its timestamp.
    tail: String,
    answer: String,
}

impl Target {
    /// A server that has to answer every one of `signers` what `answer` says.
    pub fn new(
        address: SocketAddr,
        signers: &[Signer],
        answer: impl Fn(&Signer) -> String,
    ) -> Target {
        // Header names, order and values as captured from cloud-init 22.4.2 to 26.2.
        let head = format!(
            "GET {PATH} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: Cloud-Init/25.1.4\r\n\
             Accept-Encoding: gzip, deflate\r\nAccept: */*\r\nConnection: keep-alive\r\n\
             Authorization: OAuth oauth_nonce=\""
        );
        let asks = signers
            .iter()
            .map(|signer| Ask {
                // Keys and secrets are letters and digits: nothing in them needs escaping.
                tail: format!(
                    "\", oauth_version=\"1.0\", oauth_signature_method=\"PLAINTEXT\", \
                     oauth_consumer_key=\"{}\", oauth_token=\"{}\", \
                     oauth_signature=\"%26{}\"\r\n\r\n",
                    signer.consumer_key, signer.token_key, signer.token_secret
                ),
                answer: answer(signer),
            })
            .collect();
        Target { address, head, asks, turn: AtomicUsize::new(0) }
    }

    /// Writes the next node's request into `request`, and says what it has to be answered.
    fn next(&self, mint: &Mint, request: &mut Vec<u8>) -> &str {
        use std::io::Write as _;
        let ask = &self.asks[self.turn.fetch_add(1, Ordering::Relaxed) % self.asks.len()];
        let timestamp = Clock::System.now().as_second();
        let random = u64::from_ne_bytes(mint.bytes());
        request.clear();
        // Writing to memory cannot fail. A nonce is `str(getrandbits(64)) + str(timestamp)`.
        let _ = write!(
            request,
            "{}{random}{timestamp}\", oauth_timestamp=\"{timestamp}{}",
            self.head, ask.tail
        );
        &ask.answer
    }
}

#[derive(Clone, Copy)]
pub struct Load {
    pub mode: Mode,
    pub connections: usize,
    pub duration: Duration,
    /// Threads that make the load.
    pub threads: usize,
}

/// What came of a load.
#[derive(Default)]
pub struct Tally {
    /// Of every request that was answered well, in microseconds.
    pub latencies: Vec<u32>,
    pub errors: u64,
    pub first_error: Option<String>,
}

impl Tally {
    fn add(&mut self, other: Tally) {
        self.latencies.extend(other.latencies);
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
    let each = load.connections.div_ceil(threads);
    let mut shares = Vec::new();
    for first in (0..load.connections).step_by(each) {
        let (mut sender, receiver) = oneshot::channel();
        let target = target.clone();
        let range = first..load.connections.min(first + each);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    tally = share(target, load, range) => { let _ = sender.send(tally); }
                    () = sender.closed() => {}
                }
            });
        })?;
        shares.push(receiver);
    }
    let mut whole = Tally::default();
    for share in shares {
        whole.add(share.await??);
    }
    Ok(whole)
}

/// The connections of one thread.
async fn share(target: Arc<Target>, load: Load, range: Range<usize>) -> anyhow::Result<Tally> {
    let mint = Arc::new(Mint::from_system()?);
    let until = Instant::now() + load.duration;
    let mut connections = JoinSet::new();
    for number in range {
        let (target, mint) = (target.clone(), mint.clone());
        connections.spawn(async move { ask_until(&target, &mint, load.mode, number, until).await });
    }
    let mut tally = Tally::default();
    while !connections.is_empty() {
        match tokio::time::timeout(load.duration + SILENCE, connections.join_next()).await {
            Ok(Some(one)) => tally.add(one?),
            Ok(None) => break,
            Err(_) => {
                for _ in 0..connections.len() {
                    tally.error(format!("{}: no answer for {SILENCE:?}", target.address));
                }
                break;
            }
        }
    }
    Ok(tally)
}

async fn ask_until(
    target: &Target,
    mint: &Mint,
    mode: Mode,
    number: usize,
    until: Instant,
) -> Tally {
    let mut tally = Tally::default();
    let mut kept = None;
    let mut request = Vec::with_capacity(1024);
    let mut answer = Vec::with_capacity(4096);
    while Instant::now() < until {
        let expected = target.next(mint, &mut request);
        let asked = Instant::now();
        let outcome = async {
            let mut stream = match kept.take() {
                Some(stream) => stream,
                None => connect(target.address, number).await.map_err(|e| e.to_string())?,
            };
            exchange(&mut stream, &request, &mut answer, expected).await?;
            Ok(stream)
        };
        match outcome.await {
            Ok(stream) => {
                let micros = asked.elapsed().as_micros();
                tally.latencies.push(u32::try_from(micros).unwrap_or(u32::MAX));
                kept = (mode == Mode::KeptAlive).then_some(stream);
            }
            Err(why) => {
                let why: String = why;
                tally.error(format!("{}: {why}", target.address));
                tokio::time::sleep(AFTER_ERROR).await;
            }
        }
    }
    tally
}

/// Each connection comes from a loopback address of its own: one address runs out of ports within
/// a second of closing connections, which stay in `TIME_WAIT`.
async fn connect(to: SocketAddr, number: usize) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    let of_200 = |n: usize| u8::try_from(n % 200).unwrap_or_default();
    let from = Ipv4Addr::new(127, 1, of_200(number / 200), 1 + of_200(number));
    socket.bind((from, 0).into())?;
    socket.set_nodelay(true)?;
    socket.connect(to).await
}

/// One request and its answer, which has to be 200 and `expected`.
async fn exchange(
    stream: &mut TcpStream,
    request: &[u8],
    answer: &mut Vec<u8>,
    expected: &str,
) -> Result<(), String> {
    stream.write_all(request).await.map_err(|e| e.to_string())?;
    answer.clear();
    loop {
        if stream.read_buf(answer).await.map_err(|e| e.to_string())? == 0 {
            return Err("closed within an answer".into());
        }
        if let Some(body) = body(answer)? {
            return if body == expected.as_bytes() {
                Ok(())
            } else {
                Err(format!("answered {:?} for {expected:?}", String::from_utf8_lossy(body)))
            };
        }
    }
}

/// The body of a 200, once it is there to its last byte by `Content-Length`.
fn body(answer: &[u8]) -> Result<Option<&[u8]>, String> {
    let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else {
        return Ok(None);
    };
    let (head, body) = (&answer[..end], &answer[end + 4..]);
    if !head.starts_with(b"HTTP/1.1 200 ") {
        let line = head.split(|b| *b == b'\r').next().unwrap_or_default();
        return Err(String::from_utf8_lossy(line).into_owned());
    }
    let length = head
        .split(|b| *b == b'\n')
        .find_map(|line| {
            let (name, value) = line.split_at_checked(b"content-length:".len())?;
            let value = name.eq_ignore_ascii_case(b"content-length:").then_some(value)?;
            std::str::from_utf8(value).ok()?.trim().parse::<usize>().ok()
        })
        .ok_or("no Content-Length")?;
    match body.len().cmp(&length) {
        std::cmp::Ordering::Less => Ok(None),
        std::cmp::Ordering::Equal => Ok(Some(body)),
        std::cmp::Ordering::Greater => Err("more than one answer to one request".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_cloud_inits() {
        let signer = Signer {
            system_id: "n1".into(),
            consumer_key: "ckey-boot".into(),
            token_key: "tkey-boot".into(),
            token_secret: "tsec-boot".into(),
        };
        let address = "10.0.2.2:5240".parse().unwrap();
        let target = Target::new(address, &[signer], |signer| signer.system_id.clone());
        let mint = Mint::seeded([7; 32]);
        let (mut one, mut other) = (Vec::new(), Vec::new());
        assert_eq!(target.next(&mint, &mut one), "n1");
        target.next(&mint, &mut other);
        assert_ne!(one, other, "a nonce is fresh");

        let text = String::from_utf8(one).unwrap();
        let (head, rest) = text.split_once("oauth_nonce=\"").unwrap();
        let (nonce, rest) = rest.split_once("\", oauth_timestamp=\"").unwrap();
        let (timestamp, tail) = rest.split_once("\", ").unwrap();
        assert_eq!(
            head,
            "GET /MAAS/metadata/2012-03-01/meta-data/instance-id HTTP/1.1\r\n\
             Host: 10.0.2.2:5240\r\nUser-Agent: Cloud-Init/25.1.4\r\n\
             Accept-Encoding: gzip, deflate\r\nAccept: */*\r\nConnection: keep-alive\r\n\
             Authorization: OAuth "
        );
        assert!(nonce.ends_with(timestamp) && nonce.len() <= 30, "{nonce}");
        assert_eq!(
            tail,
            "oauth_version=\"1.0\", oauth_signature_method=\"PLAINTEXT\", \
             oauth_consumer_key=\"ckey-boot\", oauth_token=\"tkey-boot\", \
             oauth_signature=\"%26tsec-boot\"\r\n\r\n"
        );
    }

    #[test]
    fn an_answer_is_whole_at_its_content_length() {
        let whole = b"HTTP/1.1 200 OK\r\nA: b\r\ncontent-length: 3\r\nC: d\r\n\r\nabc";
        for end in 0..whole.len() {
            assert_eq!(body(&whole[..end]), Ok(None), "{end}");
        }
        assert_eq!(body(whole), Ok(Some(&b"abc"[..])));
        assert!(body(&[whole.as_slice(), b"H"].concat()).is_err());
        assert!(body(b"HTTP/1.1 200 OK\r\n\r\nabc").is_err());
        assert_eq!(
            body(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 3\r\n\r\nabc"),
            Err("HTTP/1.1 401 Unauthorized".into())
        );
    }
}
