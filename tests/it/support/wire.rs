//! HTTP/1.1 over a plain socket, so that a test sees the very bytes.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nodeinit::client::Session;
use serde_json::Value;
use ureq::http::Method;

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Reply {
    /// A header by its lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.text()))
    }

    /// Status and body, for the many tests that look at just these.
    pub fn brief(&self) -> (u16, String) {
        (self.status, self.text())
    }
}

/// A nonce that no test has used.
pub fn nonce() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    format!("13149692234393143178{}{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// The bytes of a request; `Host` and `Content-Length` are added unless they are given.
pub fn request(
    method: &str,
    path: &str,
    host: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Vec<u8> {
    let given = |name: &str| headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
    let mut out = format!("{method} {path} HTTP/1.1\r\n");
    if !given("host") {
        out.extend(["Host: ", host, "\r\n"]);
    }
    if !given("content-length")
        && !given("transfer-encoding")
        && (!body.is_empty() || method != "GET")
    {
        out.extend(["Content-Length: ", &body.len().to_string(), "\r\n"]);
    }
    for (name, value) in headers {
        out.extend([name, ": ", value, "\r\n"]);
    }
    out += "\r\n";
    [out.as_bytes(), body].concat()
}

/// One request on a connection of its own.
pub fn send(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Reply {
    let mut all = vec![("Connection", "close")];
    all.extend_from_slice(headers);
    raw(address, &request(method, path, &address.to_string(), &all, body))
}

/// One GET from another of this machine's own addresses, such as 127.0.0.2.
pub fn get_from(source: &str, address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Reply {
    let mut all = vec![("Connection", "close")];
    all.extend_from_slice(headers);
    let mut connection = Connection::open_from(source, address);
    let bytes = request("GET", path, &address.to_string(), &all, b"");
    connection.stream.write_all(&bytes).unwrap();
    connection.read(false)
}

/// Any bytes on a connection of their own, answered to the end.
pub fn raw(address: SocketAddr, bytes: &[u8]) -> Reply {
    let is_head = bytes.starts_with(b"HEAD ");
    let mut connection = Connection::open(address);
    // The server may refuse and close before it has read everything.
    let _ = connection.stream.write_all(bytes);
    connection.read(is_head)
}

/// A connection that is kept.
pub struct Connection {
    pub stream: TcpStream,
    address: SocketAddr,
    left: Vec<u8>,
}

impl Connection {
    pub fn open(address: SocketAddr) -> Connection {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
        Connection { stream, address, left: Vec::new() }
    }

    pub fn open_from(source: &str, address: SocketAddr) -> Connection {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let socket = socket.unwrap();
        let source: std::net::IpAddr = source.parse().unwrap();
        socket.bind(&SocketAddr::from((source, 0)).into()).unwrap();
        socket.connect(&address.into()).unwrap();
        socket.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
        Connection { stream: socket.into(), address, left: Vec::new() }
    }

    pub fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Reply {
        let bytes = request(method, path, &self.address.to_string(), headers, body);
        self.stream.write_all(&bytes).unwrap();
        self.read(method == "HEAD")
    }

    /// Reads one answer by its own framing.
    pub fn read(&mut self, is_head: bool) -> Reply {
        let end = loop {
            if let Some(at) = self.left.windows(4).position(|w| w == b"\r\n\r\n") {
                break at;
            }
            assert!(
                self.more(),
                "closed within the headers: {:?}",
                String::from_utf8_lossy(&self.left)
            );
        };
        let head = String::from_utf8_lossy(&self.left[..end]).into_owned();
        self.left.drain(..end + 4);
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers: Vec<(String, String)> = lines
            .map(|line| line.split_once(':').unwrap())
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let mut reply = Reply { status, headers, body: Vec::new() };
        assert_eq!(reply.header("transfer-encoding"), None, "every answer has its length");
        let length: usize = match reply.header("content-length") {
            _ if is_head || status == 204 || status == 304 => 0,
            Some(length) => length.parse().unwrap(),
            None => panic!("no content-length: {reply:?}"),
        };
        while self.left.len() < length {
            assert!(self.more(), "closed within the body");
        }
        reply.body = self.left.drain(..length).collect();
        reply
    }

    fn more(&mut self) -> bool {
        let mut buffer = vec![0; 64 << 10];
        let read = self.stream.read(&mut buffer).unwrap_or(0);
        self.left.extend_from_slice(&buffer[..read]);
        read > 0
    }
}

/// One request on the admin socket.
pub fn unix(
    session: &Session,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<&[u8]>,
) -> Reply {
    let answer = session.send(method, path, headers, body).unwrap();
    let headers = answer.etag.iter().map(|tag| ("etag".to_owned(), tag.clone())).collect();
    Reply { status: answer.status.as_u16(), headers, body: answer.body }
}
