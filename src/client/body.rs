//! What a request carries.

use std::io::Read;

/// A body, which a second attempt has to send whole again.
pub enum Body<'b> {
    Empty,
    /// Sent again as often as it takes.
    Bytes(&'b [u8]),
    /// Read as it is sent, and so sent once: a second attempt fails before anything leaves.
    Stream(Box<dyn Read + 'b>),
    /// A stream that was sent.
    Spent,
}

impl<'b> Body<'b> {
    /// A body that is read as it is sent.
    pub fn stream(reader: impl Read + 'b) -> Body<'b> {
        Body::Stream(Box::new(reader))
    }

    /// Whether it can be sent as if it had not been before.
    #[must_use]
    pub fn is_replayable(&self) -> bool {
        matches!(self, Body::Empty | Body::Bytes(_))
    }

    /// For a signature that covers it.
    pub(super) fn bytes(&self) -> Option<&[u8]> {
        match self {
            Body::Empty => Some(b""),
            Body::Bytes(bytes) => Some(bytes),
            Body::Stream(_) | Body::Spent => None,
        }
    }

    /// For the attempt that is made now.
    pub(super) fn take(&mut self) -> Body<'b> {
        match self {
            Body::Empty => Body::Empty,
            Body::Bytes(bytes) => Body::Bytes(bytes),
            Body::Stream(_) | Body::Spent => std::mem::replace(self, Body::Spent),
        }
    }
}

impl<'b> From<Option<&'b [u8]>> for Body<'b> {
    fn from(bytes: Option<&'b [u8]>) -> Body<'b> {
        bytes.map_or(Body::Empty, Body::Bytes)
    }
}
