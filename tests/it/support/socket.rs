//! The admin socket as bytes, for the headers that the client does not show.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::Reply;
use super::wire::request;

/// One request on a connection of its own.
pub fn send(
    socket: &Path,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Reply {
    let mut all = vec![("Connection", "close")];
    all.extend_from_slice(headers);
    raw(socket, &request(method, path, "localhost", &all, body), method == "HEAD")
}

/// Any bytes on a connection of their own, answered to the end.
pub fn raw(socket: &Path, bytes: &[u8], is_head: bool) -> Reply {
    let mut stream = UnixStream::connect(socket).unwrap();
    // The server may refuse and close before it has read everything.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    reply(&answer, is_head)
}

/// The one answer that these bytes are.
pub fn reply(answer: &[u8], is_head: bool) -> Reply {
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n");
    let end = end.unwrap_or_else(|| panic!("no answer: {:?}", String::from_utf8_lossy(answer)));
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers = lines
        .map(|line| line.split_once(':').unwrap())
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let reply = Reply { status, headers, body: answer[end + 4..].to_vec() };
    if !is_head && status != 204 {
        let length = reply.header("content-length").expect("every answer has its length");
        assert_eq!(reply.body.len(), length.parse::<usize>().unwrap(), "the whole body");
    }
    reply
}
