//! An answer on the admin socket that is read as it comes: a whole fleet's tokens fit in nobody's
//! memory twice.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::Context as _;

/// The answer to a cull, under way.
pub struct Told {
    stream: UnixStream,
    buffer: Vec<u8>,
    /// The last bytes that came.
    end: Vec<u8>,
}

/// Posts JSON and reads the answer's head.
pub fn post(socket: &Path, path: &str, body: &str) -> anyhow::Result<Told> {
    let mut stream = UnixStream::connect(socket).context("the admin socket")?;
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        anyhow::ensure!(stream.read(&mut byte)? > 0, "the answer broke off in its head");
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let status = head.lines().next().unwrap_or_default();
    anyhow::ensure!(status.starts_with("HTTP/1.1 200 "), "{path}: {status}");
    Ok(Told { stream, buffer: vec![0; 1 << 16], end: Vec::new() })
}

impl Told {
    /// Objects that ended in the next bytes; `None` at the end of the answer.
    fn next(&mut self) -> anyhow::Result<Option<u64>> {
        let read = self.stream.read(&mut self.buffer)?;
        if read == 0 {
            return Ok(None);
        }
        let bytes = &self.buffer[..read];
        self.end.extend_from_slice(bytes);
        self.end.drain(..self.end.len().saturating_sub(16));
        // Tokens are flat objects, and no text in them has a brace.
        Ok(Some(bytes.iter().map(|byte| u64::from(*byte == b'}')).sum()))
    }

    /// How many tokens came with the first that came.
    pub fn first(&mut self) -> anyhow::Result<u64> {
        loop {
            match self.next()?.context("the answer broke off")? {
                0 => {}
                tokens => return Ok(tokens),
            }
        }
    }

    /// How many tokens there are, once the answer is whole.
    pub fn count(mut self) -> anyhow::Result<u64> {
        let mut objects = 0;
        while let Some(more) = self.next()? {
            objects += more;
        }
        let whole = self.end.ends_with(b"]}") || self.end.ends_with(b"]}\r\n0\r\n\r\n");
        anyhow::ensure!(whole, "the answer broke off");
        // The last one is the answer itself.
        Ok(objects - 1)
    }
}
