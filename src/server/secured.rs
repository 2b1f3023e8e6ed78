//! One TLS connection. What a handshake leaves to be said goes out with the first answer.

use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::{ProtocolVersion, ServerConfig, ServerConnection};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::tls::Tls;

/// A connection with TLS on it. Many clients look at the certificate's name only after the
/// handshake, and leave without a word, let alone an alert, if it is not theirs: that is told of.
pub struct Secured {
    io: TcpStream,
    session: ServerConnection,
    tls: Arc<Tls>,
    peer: Option<SocketAddr>,
    progress: Progress,
    is_closing: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    Silent,
    Greeted,
    Secured,
    Spoken,
}

impl Secured {
    pub fn new(
        tls: &Arc<Tls>,
        config: Arc<ServerConfig>,
        io: TcpStream,
        peer: Option<SocketAddr>,
    ) -> io::Result<Secured> {
        let session = ServerConnection::new(config).map_err(io::Error::other)?;
        let progress = Progress::Silent;
        Ok(Secured { io, session, tls: tls.clone(), peer, progress, is_closing: false })
    }

    /// Until the handshake is done. False: whoever it was went away without a word, and was perhaps
    /// looking whether the port is open.
    ///
    /// # Errors
    /// What went wrong; the peer has been told, if it listens.
    pub fn poll_handshake(&mut self, context: &mut Context<'_>) -> Poll<io::Result<bool>> {
        while self.session.is_handshaking() {
            ready!(self.poll_send(context))?;
            match ready!(self.poll_receive(context)) {
                Ok(0) | Err(_) if self.progress == Progress::Silent => {
                    return Poll::Ready(Ok(false));
                }
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                Ok(_) => {}
                Err(error) => {
                    // An alert says why. It may not go out any more.
                    let _ = self.poll_send(context);
                    return Poll::Ready(Err(error));
                }
            }
        }
        // In TLS 1.3 these are tickets, which nobody waits for; before, it is the server's last word.
        if self.session.protocol_version() != Some(ProtocolVersion::TLSv1_3) {
            ready!(self.poll_send(context))?;
        }
        self.progress = Progress::Secured;
        Poll::Ready(Ok(true))
    }

    fn poll_receive(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut raw = Raw { io: &mut self.io, context };
        match self.session.read_tls(&mut raw) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
            Err(error) => Poll::Ready(Err(error)),
            Ok(read) => {
                if read > 0 && self.progress == Progress::Silent {
                    self.progress = Progress::Greeted;
                }
                let processed = self.session.process_new_packets();
                Poll::Ready(processed.map(|_| read).map_err(io::Error::other))
            }
        }
    }

    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.session.wants_write() {
            let mut raw = Raw { io: &mut self.io, context };
            match self.session.write_tls(&mut raw) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Err(error) => return Poll::Ready(Err(error)),
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(_) => {}
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Secured {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            match this.session.reader().read(buffer.initialize_unfilled()) {
                Ok(read) => {
                    if read > 0 {
                        this.progress = Progress::Spoken;
                    }
                    buffer.advance(read);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
            if let Err(error) = ready!(this.poll_receive(context)) {
                let _ = this.poll_send(context);
                return Poll::Ready(Err(error));
            }
        }
    }
}

impl AsyncWrite for Secured {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        loop {
            let taken = this.session.writer().write(bytes)?;
            let sent = this.poll_send(context)?;
            if taken > 0 || bytes.is_empty() {
                return Poll::Ready(Ok(taken));
            }
            // Its buffer was full, and is empty only if all of it went out.
            ready!(sent);
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_send(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.is_closing {
            this.is_closing = true;
            this.session.send_close_notify();
        }
        ready!(this.poll_send(context))?;
        Pin::new(&mut this.io).poll_shutdown(context)
    }
}

impl Drop for Secured {
    fn drop(&mut self) {
        if self.progress == Progress::Secured {
            let reason =
                "it said nothing after the handshake: it may not believe the certificate's name";
            self.tls.tell(self.peer, reason);
        }
    }
}

/// A socket as rustls wants it: what cannot be done now would block, and wakes the task later.
struct Raw<'a, 'c> {
    io: &'a mut TcpStream,
    context: &'a mut Context<'c>,
}

fn or_block<T>(polled: Poll<io::Result<T>>) -> io::Result<T> {
    match polled {
        Poll::Ready(done) => done,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}

impl io::Read for Raw<'_, '_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let mut buffer = ReadBuf::new(bytes);
        let polled = Pin::new(&mut *self.io).poll_read(self.context, &mut buffer);
        or_block(polled).map(|()| buffer.filled().len())
    }
}

impl io::Write for Raw<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        or_block(Pin::new(&mut *self.io).poll_write(self.context, bytes))
    }

    fn write_vectored(&mut self, pieces: &[io::IoSlice<'_>]) -> io::Result<usize> {
        or_block(Pin::new(&mut *self.io).poll_write_vectored(self.context, pieces))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
