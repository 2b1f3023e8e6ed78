//! A large body, sent as fast as the peer takes it, and no longer than it takes any.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use actix_web::body::{BodySize, MessageBody};
use bytes::Bytes;

/// Bytes handed over at a time.
const PIECE: usize = 64 << 10;
/// A transfer slower than this on average is given up: it holds memory for hours.
const LEAST_PER_SECOND: f64 = 8192.0;
/// How long it may be slow before it is judged.
const PATIENCE: Duration = Duration::from_secs(30);

/// The body is whole before its first byte goes out; a peer that takes nothing at all is cut off
/// by the kernel (`TCP_USER_TIMEOUT`, set in `server`).
pub struct Paced {
    left: Bytes,
    sent: usize,
    started: Option<Instant>,
}

/// The peer was too slow.
#[derive(Debug)]
pub struct TooSlow;

impl std::fmt::Display for TooSlow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the peer takes less than 8 KiB/s")
    }
}

impl std::error::Error for TooSlow {}

impl From<Infallible> for TooSlow {
    fn from(never: Infallible) -> TooSlow {
        match never {}
    }
}

impl Paced {
    #[must_use]
    pub fn new(bytes: Bytes) -> Paced {
        Paced { left: bytes, sent: 0, started: None }
    }

    fn next_piece(&mut self, now: Instant) -> Option<Result<Bytes, TooSlow>> {
        let elapsed = now.saturating_duration_since(*self.started.get_or_insert(now));
        #[expect(clippy::cast_precision_loss, reason = "a body is far below 2^52 bytes")]
        let slow = (self.sent as f64) < elapsed.as_secs_f64() * LEAST_PER_SECOND;
        if self.left.is_empty() {
            None
        } else if elapsed > PATIENCE && slow {
            Some(Err(TooSlow))
        } else {
            let piece = self.left.split_to(self.left.len().min(PIECE));
            self.sent += piece.len();
            Some(Ok(piece))
        }
    }
}

impl MessageBody for Paced {
    type Error = TooSlow;

    fn size(&self) -> BodySize {
        BodySize::Sized(self.left.len() as u64)
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, TooSlow>>> {
        Poll::Ready(self.next_piece(Instant::now()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(per_second: usize, seconds: u64) -> Option<bool> {
        let start = Instant::now();
        let mut body = Paced::new(Bytes::from(vec![0; 64 << 20]));
        body.next_piece(start)?.ok()?;
        for second in 1..=seconds {
            let now = start + Duration::from_secs(second);
            while (body.sent as u64) < (per_second as u64) * second {
                if body.next_piece(now)?.is_err() {
                    return Some(false);
                }
            }
        }
        Some(body.next_piece(start + Duration::from_secs(seconds))?.is_ok())
    }

    #[test]
    fn a_slow_peer_is_given_up_and_a_steady_one_is_not() {
        assert_eq!(pieces(16 << 10, 600), Some(true));
        assert_eq!(pieces(1 << 20, 30), Some(true));
        assert_eq!(pieces(2 << 10, 600), Some(false));
    }

    #[test]
    fn the_pieces_are_the_body() {
        let bytes = Bytes::from((0..200_000_u32).map(|i| i.to_le_bytes()[0]).collect::<Vec<_>>());
        let mut body = Paced::new(bytes.clone());
        let mut out = Vec::new();
        while let Some(Ok(piece)) = body.next_piece(Instant::now()) {
            out.extend_from_slice(&piece);
        }
        assert_eq!(out, bytes);
    }
}
