//! One connection of HTTP/1: every head is read here, whoever answers it.

use std::future::poll_fn;
use std::io::{Read as _, Write as _};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::sync::futures::Notified;
use tokio::time::{Sleep, sleep_until};

use super::stack::Worker;
use super::{KEEP_ALIVE, exchange};
use crate::actions::App;
use crate::http::answer::{self, NoRequest};
use crate::http::node::lane::{self, Head, Lane};

/// As many as the framework takes.
const HEADERS: usize = 96;
/// What a request line may add to the headers.
const REQUEST_LINE: usize = 16 << 10;
/// Answers to requests sent ahead are gathered up to this size.
const GATHERED: usize = 64 << 10;
/// An answer's memory is kept for the next one up to this size.
const KEPT: usize = 256 << 10;
/// How long a connection may take to be closed in order.
const CLOSE: Duration = Duration::from_secs(1);
/// A peer that takes nothing for this long is gone; one slower than this on average too.
const PATIENCE: Duration = Duration::from_secs(30);
const LEAST_PER_SECOND: u64 = 8192;

/// What a listener is for, and what it allows.
#[derive(Clone)]
pub struct Plane {
    pub name: &'static str,
    /// The header that its answers depend on.
    pub vary: &'static str,
    pub app: Arc<App>,
    /// Whether there are reads that can be answered at once.
    pub has_lane: bool,
    pub header_time: Duration,
    /// Connections at once, a worker.
    pub connections: usize,
}

/// How far a connection had got before it became a task.
#[derive(Default)]
pub struct Begun {
    pending: BytesMut,
    unsent: Vec<u8>,
    answered: bool,
    is_last: bool,
}

/// What bytes are.
enum Step {
    /// A request of this length, whose answer is written.
    Answered {
        length: usize,
        keep: bool,
    },
    /// A request with a whole head, of this length, whose token has to be looked up first.
    Cold {
        length: usize,
    },
    /// A request with a whole head that the framework has to answer.
    Web,
    /// The beginning of a head, or nothing.
    Partial,
    Refused(NoRequest),
}

/// What waiting brought.
enum Came {
    Bytes(usize),
    End,
    Late,
}

/// Answers the first request of a connection if all of it is there: most connections carry just
/// one. What is left to do needs a task.
pub fn greet(
    worker: &Worker,
    stream: &std::net::TcpStream,
    peer: Option<SocketAddr>,
) -> Option<Begun> {
    let mut begun = Begun::default();
    let mut scratch = worker.scratch.borrow_mut();
    let read = match (&*stream).read(&mut scratch) {
        Ok(0) => return None,
        Ok(read) => read,
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Some(begun),
        Err(_) => return None,
    };
    let bytes = &scratch[..read];
    let mut out = worker.out.borrow_mut();
    out.clear();
    // A panic ends the connection it happened on, here as in a task.
    let step = catch_unwind(AssertUnwindSafe(|| look(worker, bytes, 0, peer, &mut out)));
    let Step::Answered { length, keep } = step.ok()? else {
        begun.pending.extend_from_slice(bytes);
        return Some(begun);
    };
    let sent = match (&*stream).write(&out) {
        Ok(sent) => sent,
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => 0,
        Err(_) => return None,
    };
    begun.pending.extend_from_slice(&bytes[length..]);
    if sent < out.len() || out.capacity() > KEPT {
        begun.unsent = std::mem::take(&mut *out);
        begun.unsent.drain(..sent);
    }
    (begun.answered, begun.is_last) = (true, !keep);
    let is_done = !keep && begun.unsent.is_empty() && begun.pending.is_empty();
    (!is_done).then_some(begun)
}

/// Answers requests until one side has had enough.
pub async fn serve<T>(worker: &Worker, mut io: T, peer: Option<SocketAddr>, begun: Begun)
where
    T: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let Begun { mut pending, unsent, mut answered, is_last } = begun;
    if !unsent.is_empty() && send(&mut io, &unsent, &mut Pace::new()).await.is_err() {
        return;
    }
    drop(unsent);
    if is_last {
        return close(io, !pending.is_empty()).await;
    }
    let header_time = worker.plane.header_time;
    let patience = if answered { KEEP_ALIVE } else { header_time };
    let deadline = Instant::now() + patience;
    let mut wait = Wait {
        deadline,
        sleep: pin!(sleep_until(deadline.into())),
        stopping: pin!(worker.stopping()),
        stops: false,
    };
    // Bytes that are there already are looked at before others are waited for.
    let mut fresh = !pending.is_empty();
    let mut in_head = false;
    let mut searched = 0;
    loop {
        let came = if fresh {
            Came::Bytes(0)
        } else {
            let is_idle = pending.is_empty();
            poll_fn(|cx| wait.poll(cx, worker, &mut io, is_idle, answered)).await
        };
        let read = match came {
            Came::Bytes(read) => read,
            Came::End => return,
            // Whoever asked for nothing is told nothing.
            Came::Late if pending.is_empty() => return close(io, false).await,
            Came::Late => {
                return farewell(io, &worker.plane.no_request(NoRequest::Late, peer)).await;
            }
        };
        let (step, has_answers) = worker.turn(&mut pending, read, searched, peer);
        if has_answers {
            (answered, in_head) = (true, false);
            if write_out(worker, &mut io).await.is_err() {
                return;
            }
        }
        (fresh, searched) = (false, 0);
        match step {
            Step::Answered { keep: false, .. } => return close(io, !pending.is_empty()).await,
            Step::Answered { .. } => fresh = true,
            Step::Partial if pending.is_empty() => {
                if answered {
                    wait.until(Instant::now() + KEEP_ALIVE);
                }
            }
            Step::Partial => {
                searched = pending.len();
                // The first head of a connection has had its time since it was opened.
                if answered && !in_head {
                    wait.until(Instant::now() + header_time);
                }
                in_head = true;
            }
            Step::Refused(why) => {
                return farewell(io, &worker.plane.no_request(why, peer)).await;
            }
            Step::Cold { .. } | Step::Web => {
                let looked_up = match step {
                    // Rare, so it is kept out of the memory that every connection takes.
                    Step::Cold { length } => Box::pin(look_up(worker, &pending[..length], peer))
                        .await
                        .inspect(|_| pending.advance(length)),
                    _ => None,
                };
                if let Some((out, keep)) = looked_up {
                    if send(&mut io, &out, &mut Pace::new()).await.is_err() {
                        return;
                    }
                    if !keep {
                        return close(io, !pending.is_empty()).await;
                    }
                } else {
                    // On the heap, for as long as it takes: connections are many, exchanges few.
                    let exchange = Box::pin(exchange::serve(worker, io, pending, peer));
                    let Some((kept, left)) = exchange.await else { return };
                    (io, pending) = (kept, left);
                }
                (answered, in_head) = (true, false);
                fresh = !pending.is_empty();
                wait.until(Instant::now() + KEEP_ALIVE);
            }
        }
    }
}

/// What a connection waits for beside bytes.
struct Wait<'w, 'n> {
    deadline: Instant,
    sleep: Pin<&'w mut Sleep>,
    stopping: Pin<&'w mut Notified<'n>>,
    stops: bool,
}

impl Wait<'_, '_> {
    fn until(&mut self, deadline: Instant) {
        self.deadline = deadline;
        // A timer that goes off too early is set anew then; that is cheaper than at each request.
        if self.sleep.deadline().into_std() > deadline {
            self.sleep.as_mut().reset(deadline.into());
        }
    }

    fn poll<T: AsyncRead + Unpin>(
        &mut self,
        context: &mut Context<'_>,
        worker: &Worker,
        io: &mut T,
        is_idle: bool,
        answered: bool,
    ) -> Poll<Came> {
        let mut scratch = worker.scratch.borrow_mut();
        let mut buffer = ReadBuf::new(&mut scratch);
        if let Poll::Ready(read) = Pin::new(io).poll_read(context, &mut buffer) {
            return Poll::Ready(match (read, buffer.filled().len()) {
                (Err(_), _) | (_, 0) => Came::End,
                (_, read) => Came::Bytes(read),
            });
        }
        if !self.stops && (self.stopping.as_mut().poll(context).is_ready() || worker.is_draining())
        {
            self.stops = true;
            if !answered {
                // It may just have been opened: its request is on the way.
                self.until(self.deadline.min(Instant::now() + CLOSE));
            }
        }
        if self.stops && is_idle && answered {
            return Poll::Ready(Came::Late);
        }
        while self.sleep.as_mut().poll(context).is_ready() {
            if Instant::now() >= self.deadline {
                return Poll::Ready(Came::Late);
            }
            self.sleep.as_mut().reset(self.deadline.into());
        }
        Poll::Pending
    }
}

impl Worker {
    /// Answers the requests that are whole, into `out`; what is not stays in `pending`. With it,
    /// what comes next.
    fn turn(
        &self,
        pending: &mut BytesMut,
        read: usize,
        searched: usize,
        peer: Option<SocketAddr>,
    ) -> (Step, bool) {
        let scratch = self.scratch.borrow();
        let mut out = self.out.borrow_mut();
        out.clear();
        let was_empty = pending.is_empty();
        if !was_empty {
            pending.extend_from_slice(&scratch[..read]);
        }
        let bytes = if was_empty { &scratch[..read] } else { &pending[..] };
        let (mut done, mut searched) = (0, searched);
        let step = loop {
            if done == bytes.len() {
                break Step::Partial;
            }
            let step = if out.is_empty() {
                look(self, &bytes[done..], searched, peer, &mut out)
            } else {
                let mut next = Vec::new();
                let step = look(self, &bytes[done..], 0, peer, &mut next);
                out.append(&mut next);
                step
            };
            searched = 0;
            let Step::Answered { length, keep } = step else { break step };
            done += length;
            if !keep || out.len() >= GATHERED {
                break step;
            }
        };
        if was_empty {
            pending.extend_from_slice(&scratch[done..read]);
        } else {
            pending.advance(done);
        }
        // Some clients end a request with a line too many: that is not the next one's beginning.
        if matches!(step, Step::Partial) && pending.iter().all(|byte| matches!(byte, b'\r' | b'\n'))
        {
            pending.clear();
        }
        let fresh = matches!(step, Step::Answered { keep: true, .. });
        let step = if fresh && pending.is_empty() { Step::Partial } else { step };
        (step, !out.is_empty())
    }
}

/// What these bytes begin with. Of a head that was incomplete before, `searched` bytes are known.
fn look(
    worker: &Worker,
    bytes: &[u8],
    searched: usize,
    peer: Option<SocketAddr>,
    out: &mut Vec<u8>,
) -> Step {
    let plane = &worker.plane;
    let partial = || {
        let is_long = bytes.len() > plane.app.limits.header_bytes + REQUEST_LINE;
        if is_long { Step::Refused(NoRequest::TooLong) } else { Step::Partial }
    };
    if searched > 0 && !ends_a_head(&bytes[searched.saturating_sub(3)..]) {
        return partial();
    }
    let mut headers = [const { MaybeUninit::uninit() }; HEADERS];
    let mut request = httparse::Request::new(&mut []);
    let length = match request.parse_with_uninit_headers(bytes, &mut headers) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return partial(),
        Err(httparse::Error::TooManyHeaders) => return Step::Refused(NoRequest::TooLong),
        Err(_) => return Step::Refused(NoRequest::NotHttp),
    };
    if !plane.has_lane {
        return Step::Web;
    }
    let Some(mut head) = simple(&request, peer, plane.app.limits.header_bytes) else {
        return Step::Web;
    };
    head.keep_alive &= !worker.is_draining();
    match lane::at_once(&plane.app, &head, out) {
        Lane::Answered => Step::Answered { length, keep: head.keep_alive },
        Lane::Cold => Step::Cold { length },
        Lane::NotOurs => Step::Web,
    }
}

/// Answers a request whose head, in `bytes`, has been looked at, once its token has been looked
/// up. `None`: the framework has to answer it. Else the answer, and whether more may follow.
async fn look_up(
    worker: &Worker,
    bytes: &[u8],
    peer: Option<SocketAddr>,
) -> Option<(Vec<u8>, bool)> {
    let plane = &worker.plane;
    let mut headers = vec![httparse::EMPTY_HEADER; HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    request.parse(bytes).ok()?;
    let mut head = simple(&request, peer, plane.app.limits.header_bytes)?;
    head.keep_alive &= !worker.is_draining();
    let mut out = Vec::new();
    let became = lane::later(&plane.app, &head, &mut out).await;
    (became == Lane::Answered).then_some((out, head.keep_alive))
}

/// Whether there is an empty line in these bytes.
fn ends_a_head(bytes: &[u8]) -> bool {
    bytes.windows(2).any(|two| two == b"\n\n") || bytes.windows(3).any(|three| three == b"\n\r\n")
}

/// A request that is what the lane takes. Whatever is unusual is the framework's.
fn simple<'a>(
    request: &'a httparse::Request<'a, 'a>,
    peer: Option<SocketAddr>,
    most: usize,
) -> Option<Head<'a>> {
    let (method, target) = (request.method?, request.path?);
    let is_old = request.version? == 0;
    let headers: &[httparse::Header<'_>] = request.headers;
    if !matches!(method, "GET" | "HEAD") || !target.starts_with('/') {
        return None;
    }
    let (mut hosts, mut size) = (0, 0);
    let (mut closes, mut keeps) = (false, false);
    for header in headers {
        let (name, value) = (header.name, header.value);
        size += name.len() + value.len() + 4;
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        match name.len() {
            4 if is("host") => hosts += 1,
            6 if is("expect") => return None,
            7 if is("upgrade") => return None,
            10 if is("connection") => {
                for option in value.split(|byte| *byte == b',') {
                    let option = option.trim_ascii();
                    closes |= option.eq_ignore_ascii_case(b"close");
                    keeps |= option.eq_ignore_ascii_case(b"keep-alive");
                    if option.eq_ignore_ascii_case(b"upgrade") {
                        return None;
                    }
                }
            }
            14 if is("content-length") && value != b"0" => return None,
            17 if is("transfer-encoding") => return None,
            _ => {}
        }
    }
    let is_addressed = hosts == 1 || (hosts == 0 && is_old);
    let keep_alive = !closes && (keeps || !is_old);
    (is_addressed && size <= most).then_some(Head {
        method,
        target,
        headers,
        peer,
        keep_alive,
        is_old,
    })
}

/// Sends what the turn answered.
async fn write_out<T: AsyncWrite + Unpin>(worker: &Worker, io: &mut T) -> std::io::Result<()> {
    let sent = poll_fn(|context| {
        let out = worker.out.borrow();
        Poll::Ready(match Pin::new(&mut *io).poll_write(context, &out) {
            Poll::Ready(Ok(sent)) => Ok((sent, Pin::new(&mut *io).poll_flush(context))),
            Poll::Ready(Err(error)) => Err(error),
            Poll::Pending => Ok((0, Poll::Pending)),
        })
    });
    let (sent, flushed) = sent.await?;
    let out = {
        let mut out = worker.out.borrow_mut();
        let is_done = sent == out.len() && flushed.is_ready();
        if is_done && out.capacity() <= KEPT {
            return Ok(());
        }
        std::mem::take(&mut *out)
    };
    send(io, &out[sent..], &mut Pace { started: Instant::now(), sent: sent as u64 }).await
}

/// How fast an answer goes out.
pub struct Pace {
    started: Instant,
    sent: u64,
}

impl Pace {
    pub fn new() -> Pace {
        Pace { started: Instant::now(), sent: 0 }
    }
}

/// Sends bytes as fast as the peer takes them, and no longer than it takes any.
pub async fn send<T>(io: &mut T, mut bytes: &[u8], pace: &mut Pace) -> std::io::Result<()>
where
    T: AsyncWrite + Unpin,
{
    let too_slow = || std::io::Error::from(std::io::ErrorKind::TimedOut);
    while !bytes.is_empty() {
        let writing = poll_fn(|context| Pin::new(&mut *io).poll_write(context, bytes));
        let sent = tokio::time::timeout(PATIENCE, writing).await.map_err(|_| too_slow())??;
        if sent == 0 {
            return Err(std::io::ErrorKind::WriteZero.into());
        }
        bytes = &bytes[sent..];
        pace.sent += sent as u64;
        let elapsed = pace.started.elapsed();
        if elapsed > PATIENCE && pace.sent < elapsed.as_secs() * LEAST_PER_SECOND {
            return Err(too_slow());
        }
    }
    let flushing = poll_fn(|context| Pin::new(&mut *io).poll_flush(context));
    tokio::time::timeout(PATIENCE, flushing).await.map_err(|_| too_slow())?
}

/// Closes a connection in order. Bytes that nobody read would turn its end into a reset, and the
/// last answer might be lost with it.
pub async fn close<T: AsyncRead + AsyncWrite + Unpin>(mut io: T, is_unread: bool) {
    let closing = async {
        if poll_fn(|context| Pin::new(&mut io).poll_shutdown(context)).await.is_err() || !is_unread
        {
            return;
        }
        let mut bytes = vec![0; 4096];
        while let Ok(1..) = io.read(&mut bytes).await {}
    };
    let _ = tokio::time::timeout(CLOSE, closing).await;
}

/// The last answer of a connection that has more to say.
async fn farewell<T: AsyncRead + AsyncWrite + Unpin>(mut io: T, bytes: &[u8]) {
    if send(&mut io, bytes, &mut Pace::new()).await.is_ok() {
        close(io, true).await;
    }
}

impl Plane {
    /// The answer to bytes that are no request, and their line in the log.
    pub fn no_request(&self, why: NoRequest, peer: Option<SocketAddr>) -> Vec<u8> {
        answer::no_request(&self.app, self.name, self.vary, why, peer)
    }
}
