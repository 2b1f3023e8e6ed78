//! One request that the framework answers: its body comes off the connection as it is asked for.

use std::cell::RefCell;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use actix_http::body::{BodySize, BoxBody, MessageBody as _};
use actix_http::error::{ParseError, PayloadError};
use actix_http::h1::{Codec, Message, MessageType};
use actix_http::{ConnectionType, Method, Payload, Response};
use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::codec::{Decoder as _, Encoder as _};
use tokio_util::io::poll_read_buf;

use super::connection::{Pace, close, send};
use super::stack::Worker;
use crate::http::answer::NoRequest;

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
/// Bytes of a body that are read or sent at a time.
const PIECE: usize = 32 << 10;

/// What is done to keep a connection whose body nobody wants.
const A_MOMENT: Duration = Duration::from_millis(200);
const MOST_UNWANTED: usize = 64 << 10;

/// A connection while a request on it is answered.
struct Exchange<T> {
    io: T,
    codec: Codec,
    /// What was read and not looked at.
    unread: BytesMut,
    /// Whether the request has been read to its end.
    is_whole: bool,
}

struct Shared<T>(Rc<RefCell<Exchange<T>>>);

/// Asks the framework, and sends its answer. The connection comes back with the bytes behind the
/// request, unless it has ended.
pub async fn serve<T>(
    worker: &Worker,
    io: T,
    mut bytes: BytesMut,
    peer: Option<SocketAddr>,
) -> Option<(T, BytesMut)>
where
    T: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let mut codec = Codec::new(worker.config.clone());
    let mut request = match codec.decode(&mut bytes) {
        Ok(Some(Message::Item(request))) => request,
        // Its head is whole, so whatever is wrong with it is in it.
        Err(ParseError::TooLarge) => return refuse(worker, io, NoRequest::TooLong, peer).await,
        _ => return refuse(worker, io, NoRequest::NotHttp, peer).await,
    };
    request.head_mut().peer_addr = peer;
    let is_head = request.method() == Method::HEAD;
    let expects = request.head().expect();
    // What is neither counted nor chunked ends with its connection: an upgrade, a CONNECT.
    let is_last = codec.message_type() == MessageType::Stream;
    let is_whole = codec.message_type() == MessageType::None;
    let exchange = Rc::new(RefCell::new(Exchange { io, codec, unread: bytes, is_whole }));
    let mut shared = Shared(exchange.clone());
    if !is_whole {
        *request.payload() = Payload::Stream { payload: Box::pin(Shared(exchange.clone())) };
    }
    if expects {
        send(&mut shared, CONTINUE, &mut Pace::new()).await.ok()?;
    }
    let response = (worker.web)(request).await;

    // A body that nobody read must not be taken for the next request. One that was announced with
    // an `Expect` may never come.
    let was_read = exchange.borrow_mut().skip() || (!expects && is_soon_whole(&exchange).await);
    let ends = is_last || worker.is_draining() || !was_read;
    let sent = answer(&mut shared, response, is_head, ends).await.ok()?;
    drop(shared);
    // Somebody who still waits for the body gets no more of it.
    let Exchange { io, codec, unread, is_whole } = Rc::try_unwrap(exchange).ok()?.into_inner();
    if sent && codec.keep_alive() && is_whole {
        return Some((io, unread));
    }
    close(io, !is_whole || !unread.is_empty()).await;
    None
}

/// Waits a moment for the rest of a body that nobody wants, if it is not much.
async fn is_soon_whole<T: AsyncRead + Unpin>(exchange: &Rc<RefCell<Exchange<T>>>) -> bool {
    let mut body = pin!(Shared(exchange.clone()));
    let rest = async {
        let mut left = MOST_UNWANTED;
        while let Some(Ok(chunk)) = poll_fn(|context| body.as_mut().poll_next(context)).await {
            left = left.checked_sub(chunk.len())?;
        }
        Some(())
    };
    let _ = tokio::time::timeout(A_MOMENT, rest).await;
    exchange.borrow().is_whole
}

async fn refuse<T: AsyncRead + AsyncWrite + Unpin>(
    worker: &Worker,
    mut io: T,
    why: NoRequest,
    peer: Option<SocketAddr>,
) -> Option<(T, BytesMut)> {
    let bytes = worker.plane.no_request(why, peer);
    send(&mut io, &bytes, &mut Pace::new()).await.ok()?;
    close(io, true).await;
    None
}

/// Sends an answer; whether it went out to its end.
async fn answer<T: AsyncRead + AsyncWrite + Unpin>(
    to: &mut Shared<T>,
    response: Response<BoxBody>,
    is_head: bool,
    ends: bool,
) -> std::io::Result<bool> {
    let (mut response, mut body) = response.into_parts();
    if ends {
        response.head_mut().set_connection_type(ConnectionType::Close);
    }
    let size = body.size();
    let has_body = !is_head && !matches!(size, BodySize::None | BodySize::Sized(0));
    let mut out = BytesMut::with_capacity(1024);
    to.0.borrow_mut().codec.encode(Message::Item((response, size)), &mut out)?;
    let mut pace = Pace::new();
    let mut is_done = !has_body;
    while !is_done {
        let next = poll_fn(|context| Pin::new(&mut body).poll_next(context)).await;
        let chunk = match next {
            Some(Ok(chunk)) => Some(chunk),
            Some(Err(_)) => return Ok(false),
            None => None,
        };
        is_done = chunk.is_none();
        to.0.borrow_mut().codec.encode(Message::Chunk(chunk), &mut out)?;
        if out.len() >= PIECE {
            send(to, &out, &mut pace).await?;
            out.clear();
        }
    }
    send(to, &out, &mut pace).await?;
    Ok(true)
}

impl<T> Exchange<T> {
    /// The next piece of the body that is there already.
    fn next(&mut self) -> Result<Option<Bytes>, PayloadError> {
        if self.is_whole {
            return Ok(None);
        }
        match self.codec.decode(&mut self.unread) {
            Ok(Some(Message::Chunk(Some(chunk)))) => Ok(Some(chunk)),
            Ok(Some(Message::Chunk(None))) => {
                self.is_whole = true;
                Ok(None)
            }
            Ok(None) => Ok(None),
            Ok(Some(Message::Item(_))) | Err(_) => Err(PayloadError::EncodingCorrupted),
        }
    }

    /// Drops what there is of the body; whether that was all of it.
    fn skip(&mut self) -> bool {
        while let Ok(Some(_)) = self.next() {}
        self.is_whole
    }
}

impl<T: AsyncRead + Unpin> Stream for Shared<T> {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let exchange = &mut *self.0.borrow_mut();
        loop {
            if let Some(chunk) = exchange.next().transpose() {
                return Poll::Ready(Some(chunk));
            }
            if exchange.is_whole {
                return Poll::Ready(None);
            }
            exchange.unread.reserve(PIECE);
            let io = Pin::new(&mut exchange.io);
            let more = ready!(poll_read_buf(io, context, &mut exchange.unread))?;
            if more == 0 {
                let is_stream = exchange.codec.message_type() == MessageType::Stream;
                exchange.is_whole = is_stream;
                let broke_off = PayloadError::Incomplete(None);
                return Poll::Ready((!is_stream).then_some(Err(broke_off)));
            }
        }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Shared<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0.borrow_mut().io).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0.borrow_mut().io).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0.borrow_mut().io).poll_shutdown(context)
    }
}
