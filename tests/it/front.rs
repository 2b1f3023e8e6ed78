//! The listeners themselves: heads in pieces and in time, what ends a connection, how many there may
//! be, and the log under load.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::support::plane::date;
use crate::support::process::{Home, free_port};
use crate::support::tls::Ca;
use crate::support::wire::{self, Connection, request};
use crate::support::{Node, Options, TestServer};

const ID: &str = "/MAAS/metadata/latest/meta-data/instance-id";
const NOWHERE: &str = "/MAAS/metadata/2.0/";
const BEGUN: &[u8] = b"GET /MAAS/metadata/ HTTP/1.1\r\nHost: h\r\nX-Slow: ";

fn one_node(options: Options) -> (TestServer, Node) {
    let server = TestServer::start_with(options);
    let node = server.node("n1");
    (server, node)
}

fn signed(node: &Node, extra: &[(&str, &str)]) -> Vec<u8> {
    let header = node.header();
    let mut headers = vec![("Authorization", &*header)];
    headers.extend_from_slice(extra);
    request("GET", ID, "h", &headers, b"")
}

/// Whether the other end closes within this time, saying nothing more.
fn closes_within(stream: &mut TcpStream, time: Duration) -> bool {
    stream.set_read_timeout(Some(time)).unwrap();
    match stream.read(&mut [0; 64]) {
        Ok(0) => true,
        Ok(_) => panic!("it says more"),
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

#[test]
fn every_head_of_a_connection_has_header_time_and_not_more() {
    let (server, node) = one_node(Options::default().flag("header-time", "1s"));
    for asks in ["nothing", "a read", "a refused read", "a post", "five reads"] {
        let mut connection = Connection::open(server.node);
        let mut send = |method, path, headers: &[(&str, &str)], body: &[u8], status| {
            assert_eq!(connection.send(method, path, headers, body).status, status, "{asks}");
        };
        let header = node.header();
        let headers = [("Authorization", &*header)];
        match asks {
            "nothing" => {}
            "a read" => send("GET", ID, &headers, b"", 200),
            "a refused read" => send("GET", NOWHERE, &[], b"", 404),
            "a post" => send("POST", ID, &headers, b"a body", 405),
            _ => (0..5).for_each(|_| {
                let header = node.header();
                send("GET", ID, &[("Authorization", &*header)], b"", 200);
            }),
        }
        // A pause before the first byte is no part of it.
        std::thread::sleep(Duration::from_millis(if asks == "nothing" { 0 } else { 1300 }));
        let began = Instant::now();
        connection.stream.write_all(BEGUN).unwrap();
        std::thread::sleep(Duration::from_millis(500));
        connection.stream.write_all(b"x").unwrap();
        let reply = connection.read(false);
        let waited = began.elapsed();
        assert_eq!((reply.status, reply.text()), (408, String::new()), "{asks}");
        let right = Duration::from_millis(700)..Duration::from_secs(4);
        assert!(right.contains(&waited), "{asks}: {waited:?}");
        for (name, value) in
            [("vary", "Authorization"), ("cache-control", "no-store"), ("connection", "close")]
        {
            assert_eq!(reply.header(name), Some(value), "{asks}");
        }
        assert_eq!(reply.header("x-request-id").map(str::len), Some(16));
        date(&reply);
        assert!(closes_within(&mut connection.stream, Duration::from_secs(10)), "{asks}");
    }
}

#[test]
fn a_connection_that_says_nothing_is_closed_without_a_word() {
    let (server, _) = one_node(Options::default().flag("header-time", "1s"));
    let mut stream = TcpStream::connect(server.node).unwrap();
    let began = Instant::now();
    assert!(closes_within(&mut stream, Duration::from_secs(10)));
    let right = Duration::from_millis(700)..Duration::from_secs(4);
    assert!(right.contains(&began.elapsed()), "{:?}", began.elapsed());
}

#[test]
fn a_request_may_come_byte_by_byte_and_many_may_come_at_once() {
    let (server, node) = one_node(Options::default().flag("header-time", "2s"));
    let mut connection = Connection::open(server.node);
    connection.stream.set_nodelay(true).unwrap();
    let header = node.header();
    let post = request("POST", ID, "h", &[("Authorization", &header)], b"twelve bytes");
    for bytes in [signed(&node, &[]), post.clone()] {
        for byte in bytes {
            connection.stream.write_all(&[byte]).unwrap();
        }
        assert!(matches!(connection.read(false).status, 200 | 405));
    }
    // A line too many is nothing that anybody has to finish.
    connection.stream.write_all(b"\r\n").unwrap();
    std::thread::sleep(Duration::from_millis(2500));
    let nowhere = request("GET", NOWHERE, "h", &[], b"");
    let mut ahead = Vec::new();
    for _ in 0..50 {
        ahead.extend([signed(&node, &[]), post.clone(), nowhere.clone()].concat());
    }
    let (first, second) = ahead.split_at(ahead.len() / 2 + 7);
    connection.stream.write_all(first).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    connection.stream.write_all(second).unwrap();
    for _ in 0..50 {
        assert_eq!(connection.read(false).brief(), (200, "n1".to_owned()));
        assert_eq!(connection.read(false).status, 405);
        assert_eq!(connection.read(false).status, 404);
    }
}

#[test]
fn who_asks_for_the_end_gets_it_after_the_answer() {
    let (server, node) = one_node(Options::default());
    let header = node.header();
    let old = |extra: &str| {
        format!("GET {ID} HTTP/1.0\r\nAuthorization: {header}\r\n{extra}\r\n").into_bytes()
    };
    let close = [("Connection", "close")];
    let post = |headers: &[(&str, &str)]| {
        let mut all = vec![("Authorization", &*header)];
        all.extend_from_slice(headers);
        request("POST", ID, "h", &all, b"x")
    };
    for (bytes, stays) in [
        (signed(&node, &[]), true),
        (signed(&node, &[("Connection", "keep-alive")]), true),
        (signed(&node, &close), false),
        (signed(&node, &[("Connection", "Keep-Alive, Close")]), false),
        (post(&[]), true),
        (post(&close), false),
        (old(""), false),
        (old("Connection: keep-alive\r\n"), true),
    ] {
        let shown = String::from_utf8_lossy(&bytes).into_owned();
        let mut connection = Connection::open(server.node);
        connection.stream.write_all(&bytes).unwrap();
        assert!(matches!(connection.read(false).status, 200 | 405), "{shown}");
        if stays {
            connection.stream.write_all(&signed(&node, &close)).unwrap();
            assert_eq!(connection.read(false).status, 200, "{shown}");
        }
        assert!(closes_within(&mut connection.stream, Duration::from_secs(10)), "{shown}");
    }
    // What stands behind the last request is no request any more.
    let mut connection = Connection::open(server.node);
    let bytes = [signed(&node, &close), signed(&node, &[])].concat();
    connection.stream.write_all(&bytes).unwrap();
    assert_eq!(connection.read(false).status, 200);
    assert!(closes_within(&mut connection.stream, Duration::from_secs(10)));
}

#[test]
fn a_post_waits_to_be_told_to_go_on_when_it_says_so() {
    let (server, node) = one_node(Options::default());
    let header = node.header();
    let status = "/MAAS/metadata/status/n1";
    let event = br#"{"event_type": "start", "origin": "o", "name": "n", "description": "d"}"#;
    let length = event.len().to_string();
    let headers =
        [("Authorization", &*header), ("Expect", "100-continue"), ("Content-Length", &*length)];
    let mut connection = Connection::open(server.node);
    connection.stream.write_all(&request("POST", status, "h", &headers, b"")).unwrap();
    let mut told = [0; 25];
    connection.stream.read_exact(&mut told).unwrap();
    assert_eq!(&told, b"HTTP/1.1 100 Continue\r\n\r\n");
    connection.stream.write_all(event).unwrap();
    assert_eq!(connection.read(false).status, 204);

    let header = node.header();
    let chunked = [("Authorization", &*header), ("Transfer-Encoding", "chunked")];
    let head = request("POST", status, "h", &chunked, b"");
    let (first, second) = event.split_at(20);
    connection.stream.write_all(&head).unwrap();
    for piece in [first, second] {
        std::thread::sleep(Duration::from_millis(20));
        let chunk = format!("{:x}\r\n{}\r\n", piece.len(), String::from_utf8_lossy(piece));
        connection.stream.write_all(chunk.as_bytes()).unwrap();
    }
    connection.stream.write_all(b"0\r\n\r\n").unwrap();
    assert_eq!(connection.read(false).status, 204);
    connection.stream.write_all(&signed(&node, &[])).unwrap();
    assert_eq!(connection.read(false).brief(), (200, "n1".to_owned()));
}

#[test]
fn a_body_longer_than_anybody_reads_ends_its_connection_and_not_its_answer() {
    let (server, node) = one_node(Options::default());
    let header = node.header();
    let headers = [("Authorization", &*header), ("Content-Length", "50000000")];
    let mut connection = Connection::open(server.node);
    let bytes = request("PUT", ID, "h", &headers, &vec![b'x'; 300_000]);
    connection.stream.write_all(&bytes).unwrap();
    let reply = connection.read(false);
    assert_eq!((reply.status, reply.header("connection")), (405, Some("close")));
    assert!(closes_within(&mut connection.stream, Duration::from_secs(10)));
}

#[test]
fn a_stop_ends_idle_connections_at_once_and_busy_ones_after_their_answer() {
    let home = Home::new();
    let mut server = home.serve();
    let node = server.node("n1");
    let mut idle = Connection::open(server.node);
    idle.stream.write_all(&signed(&node, &[])).unwrap();
    assert_eq!(idle.read(false).brief(), (200, "n1".to_owned()));
    let mut silent = TcpStream::connect(server.node).unwrap();
    let mut busy: Vec<Connection> = Vec::new();
    let bytes = signed(&node, &[]);
    let header = node.header();
    let headers = [("Authorization", &*header)];
    let status = "/MAAS/metadata/status/n1";
    let event = br#"{"event_type": "start", "origin": "o", "name": "n", "description": "d"}"#;
    let post = request("POST", status, "h", &headers, event);
    for bytes in [&bytes, &post] {
        let mut connection = Connection::open(server.node);
        connection.stream.write_all(&bytes[..bytes.len() - 3]).unwrap();
        busy.push(connection);
    }
    std::thread::sleep(Duration::from_millis(300));
    server.signal(Signal::TERM);
    assert!(closes_within(&mut idle.stream, Duration::from_millis(900)));
    assert!(!server.has_ended());
    let refused = Instant::now();
    while TcpStream::connect(server.node).is_ok() {
        assert!(refused.elapsed() < Duration::from_secs(5), "it still takes connections");
        std::thread::sleep(Duration::from_millis(10));
    }
    for (connection, bytes) in busy.iter_mut().zip([&bytes, &post]) {
        connection.stream.write_all(&bytes[bytes.len() - 3..]).unwrap();
        assert!(matches!(connection.read(false).status, 200 | 204));
        assert!(closes_within(&mut connection.stream, Duration::from_secs(5)));
    }
    assert!(closes_within(&mut silent, Duration::from_secs(3)));
    assert_eq!(server.wait(), 0, "{}", server.said());
}

#[test]
fn connections_past_their_bound_wait_and_have_their_turn() {
    let (server, node) = one_node(Options::default().flag("connections", "2"));
    let workers = std::thread::available_parallelism().unwrap().get().max(2);
    let open = |address: SocketAddr| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(&signed(&node, &[])).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        stream
    };
    let mut streams: Vec<TcpStream> = (0..20).map(|_| open(server.node)).collect();
    std::thread::sleep(Duration::from_millis(500));
    let answered = |stream: &mut TcpStream| stream.read(&mut [0; 4096]).is_ok_and(|read| read > 0);
    for stream in &streams {
        stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    }
    let (held, waiting): (Vec<_>, Vec<_>) =
        streams.drain(..).map(|mut s| (answered(&mut s), s)).partition(|(answered, _)| *answered);
    assert!(!held.is_empty() && held.len() <= workers, "{} at once", held.len());
    // Each that ends makes room for one that waits.
    drop(held);
    let mut waiting: Vec<TcpStream> = waiting.into_iter().map(|(_, stream)| stream).collect();
    let began = Instant::now();
    while !waiting.is_empty() {
        assert!(began.elapsed() < Duration::from_secs(20), "{} still wait", waiting.len());
        waiting.retain_mut(|stream| !answered(stream));
    }
}

#[test]
fn as_many_threads_as_cores_listen_and_a_second_server_is_refused_the_address() {
    let port = free_port();
    let listen = format!("127.0.0.1:{port}");
    let home = Home::new();
    let first = home.serve_with(&["--listen", &listen]);
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let local = format!("0100007F:{port:04X}");
    let listeners = table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|fields| fields[1] == local && fields[3] == "0A")
        .count();
    assert_eq!(listeners, std::thread::available_parallelism().unwrap().get());

    let other = Home::new();
    let refused = other.run(&["serve", "--listen", &listen, "--admin-listen", "off"]);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.err.contains(&format!("cannot listen on {listen}")), "{refused:?}");
    // What is left of the first one's connections does not keep the next one out.
    let mut kept = Connection::open(first.node);
    assert_eq!(kept.send("GET", NOWHERE, &[], b"").status, 404);
    first.stop();
    let second = home.serve_with(&["--listen", &listen]);
    assert_eq!(wire::send(second.node, "GET", NOWHERE, &[], b"").status, 404);
}

#[test]
fn over_tls_heads_have_their_time_and_requests_may_be_sent_ahead_too() {
    let ca = Ca::new();
    let dir = tempfile::tempdir().unwrap();
    let (cert, key) = ca.issue(&["127.0.0.1"]).write(dir.path(), "node");
    let options = Options::default()
        .flag("tls-cert", cert.to_str().unwrap())
        .flag("tls-key", key.to_str().unwrap())
        .flag("header-time", "1s");
    let (server, node) = one_node(options);
    let mut secured = ca.client().connect(server.node, "127.0.0.1").unwrap();
    let ahead = [signed(&node, &[]), request("GET", NOWHERE, "h", &[], b"")].concat();
    secured.stream.write_all(&[&ahead, BEGUN].concat()).unwrap();
    let mut answers = String::new();
    // An end without a close_notify would be an error.
    secured.stream.read_to_string(&mut answers).unwrap();
    let statuses: Vec<&str> =
        answers.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect();
    assert_eq!(statuses, ["200", "404", "408"], "{answers}");
}

#[test]
fn every_request_has_its_line_and_every_line_is_whole_under_load() {
    let home = Home::new();
    let server = home.serve();
    let node = server.node("n1");
    let asked = 8 * 200;
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut connection = Connection::open(server.node);
                for _ in 0..100 {
                    connection.stream.write_all(&signed(&node, &[])).unwrap();
                    assert!(matches!(connection.read(false).status, 200 | 429));
                    assert_eq!(connection.send("GET", NOWHERE, &[], b"").status, 404);
                }
            });
        }
    });
    let bad = wire::raw(server.node, b"no HTTP\r\n\r\n");
    assert_eq!(bad.status, 400);
    let said = server.stop();
    let lines: Vec<Value> = said
        .lines()
        .filter(|line| !line.starts_with("nodeinit: "))
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}")))
        .collect();
    let nodes = |line: &&Value| line["message"] == "request" && line["plane"] == "node";
    let mut ids: Vec<&str> =
        lines.iter().filter(nodes).map(|line| line["request_id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), asked + 1);
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), asked + 1, "each its own name");
    let line = lines.iter().find(|line| line["request_id"] == bad.header("x-request-id").unwrap());
    assert_eq!(
        (&line.unwrap()["status"], &line.unwrap()["reason"]),
        (&400.into(), &"not_http".into())
    );
}
