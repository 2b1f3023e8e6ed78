//! What a hostile or broken peer, a large body and a failing store do (CONTRACT §3, last two
//! paragraphs, and §12). D are the checks of the real client, U a conformance case.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nodeinit::clock::Clock;
use serde_json::{Value, json};

use crate::support::cable::{Cable, authority, cabled};
use crate::support::plane::{READS, assert_refused, date, without_names};
use crate::support::process::Home;
use crate::support::wire::{Connection, request};
use crate::support::{Method, Node, Options, Reply, TestServer, rows};

const ID: &str = "/latest/meta-data/instance-id";
const ID_PATH: &str = "/MAAS/metadata/latest/meta-data/instance-id";

fn one_node() -> (TestServer, Node) {
    with(Options::default())
}

fn with(options: Options) -> (TestServer, Node) {
    let server = TestServer::start_with(options);
    let node = server.node("n1");
    (server, node)
}

/// Bytes that no compression and no text mode leaves as they are, the same every time.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// What the server says to bytes that may be no request at all: its status, or nothing.
fn blurt(address: SocketAddr, bytes: &[u8]) -> Option<u16> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    // It may close before it has read everything.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let text = String::from_utf8_lossy(&answer);
    let status = text.strip_prefix("HTTP/1.1 ").or_else(|| text.strip_prefix("HTTP/1.0 "))?;
    Some(status[..3].parse().unwrap())
}

#[test]
fn every_answer_carries_date_length_vary_no_store_and_a_request_id() {
    let options = Options::default().flag("node-rate", "1").flag("node-burst", "20");
    let (server, node) = with(options);
    let other = server.node("n2");
    let forbidden = server.node("n3");
    server.database.execute(&format!(
        "DELETE FROM node_keys WHERE token_id IN \
         (SELECT id FROM tokens WHERE token_key = '{}')",
        forbidden.token_key
    ));
    let post = |path: &str| other.send("POST", path, &[("Authorization", &*other.header())], b"{}");
    let long = "x".repeat(9000);
    let mut replies: Vec<Reply> = READS.iter().map(|path| node.get(path)).collect();
    replies.extend([
        node.send("GET", "/", &[], b""),
        node.get_with("/", "OAuth junk"),
        node.get_with("/", &with_secret(&node, "wrong").header()),
        forbidden.get("/"),
        node.get("/2.0/"),
        node.get("/latest/meta-data/no-such"),
        node.get("/latest/no-such"),
        server.stranger().get("/"),
        post("/latest/user-data"),
        other.send("GET", "/", &[("X-Long", &*long)], b""),
        other.send("HEAD", ID, &[("Authorization", &*other.header())], b""),
    ]);
    let too_many = (0..30).map(|_| node.get("/")).find(|reply| reply.status == 429);
    replies.extend(too_many);
    let late = server.node("n4");
    server.database.execute("DROP TABLE contents");
    replies.push(late.get("/latest/user-data"));

    let mut statuses: Vec<u16> = replies.iter().map(|reply| reply.status).collect();
    statuses.sort_unstable();
    statuses.dedup();
    assert_eq!(statuses, [200, 401, 403, 404, 405, 429, 431, 503]);
    let mut ids = std::collections::BTreeSet::new();
    for reply in &replies {
        assert!((date(reply) - Clock::System.now().as_second()).abs() <= 5, "{reply:?}");
        assert!(reply.header("content-length").is_some(), "{reply:?}");
        assert_eq!(reply.header("vary"), Some("Authorization"), "{reply:?}");
        assert_eq!(reply.header("cache-control"), Some("no-store"), "{reply:?}");
        let id = reply.header("x-request-id").unwrap();
        assert!(id.len() == 16 && id.bytes().all(|b| b.is_ascii_hexdigit()), "{id}");
        assert!(ids.insert(id.to_owned()), "{id} came twice");
        assert_eq!(reply.header("location"), None, "{reply:?}");
        let named = ["date", "content-length", "vary", "cache-control", "x-request-id"];
        for name in named {
            let times = reply.headers.iter().filter(|(n, _)| n == name).count();
            assert_eq!(times, 1, "{name}: {reply:?}");
        }
    }
}

fn with_secret(node: &Node, secret: &str) -> Node {
    Node { token_secret: secret.to_owned(), ..node.clone() }
}

#[test]
fn what_observers_are_told_is_not_stored_either() {
    let (server, _) = one_node();
    for (path, status) in
        [("/healthz", 200), ("/readyz", 200), ("/version", 200), ("/metrics", 200), ("/v1/x", 404)]
    {
        let reply = server.observer().get(path);
        assert_eq!(reply.status, status, "{path}");
        date(&reply);
        assert_eq!(reply.header("cache-control"), Some("no-store"), "{path}");
        assert_eq!(reply.header("x-request-id").map(str::len), Some(16), "{path}");
    }
}

#[test]
fn d20_head_answers_as_get_without_the_body() {
    let (server, node) = one_node();
    server.operator().set("n1", "user-data", &noise(100_000));
    server.operator().set("n1", "vendor-data", b"cloud-init: |\n  #cloud-config\n  {a: 1}\n");
    let mut connection = Connection::open(server.node);
    let header = node.header();
    let signed = [("Authorization", &*header)];
    let wrong = [("Authorization", "OAuth junk")];
    for path in READS.into_iter().chain(["/2.0/", "/latest/meta-data/no-such", "/no/such"]) {
        let path = format!("/MAAS/metadata{path}");
        for headers in [&signed[..], &wrong, &[]] {
            let get = connection.send("GET", &path, headers, b"");
            // On one connection a body would be read as the next answer.
            let head = connection.send("HEAD", &path, headers, b"");
            assert_eq!(without_names(head), Reply { body: Vec::new(), ..without_names(get) });
        }
    }
}

#[test]
fn d20_another_method_is_405_and_says_which_there_are() {
    let (_server, node) = one_node();
    for path in READS {
        for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND", "get"] {
            let header = node.header();
            let reply = node.send(method, path, &[("Authorization", &header)], b"");
            let takes_posts = path == "/2012-03-01/";
            let allow = if takes_posts { "GET, HEAD, POST" } else { "GET, HEAD" };
            if !(takes_posts && method == "POST") {
                assert_eq!(reply.status, 405, "{method} {path}");
                assert_eq!(reply.header("allow"), Some(allow), "{method} {path}");
            }
            assert_refused(&node.send(method, path, &[], b""), "credentials_missing");
        }
    }
}

#[test]
fn headers_of_more_than_8_kib_are_431() {
    let (server, node) = one_node();
    let header = node.header();
    let send = |extra: &[(&str, &str)]| {
        let mut headers = vec![("Authorization", &*header)];
        headers.extend_from_slice(extra);
        node.send("GET", ID, &headers, b"")
    };
    assert_eq!(send(&[("X-Long", &"x".repeat(7500))]).brief(), (200, "n1".to_owned()));
    for length in [8 << 10, 64 << 10] {
        assert_eq!(send(&[("X-Long", &"x".repeat(length))]).status, 431, "{length}");
    }
    let forty = "x".repeat(250);
    assert_eq!(send(&vec![("X-Many", forty.as_str()); 40]).status, 431);
    assert_eq!(send(&vec![("X-Many", "x"); 50]).brief(), (200, "n1".to_owned()));
    for count in [200, 5000] {
        let bytes = request("GET", ID_PATH, "h", &vec![("X-Many", "x"); count], b"");
        assert_eq!(blurt(server.node, &bytes), Some(431), "{count} headers");
    }
    let endless = [b"GET / HTTP/1.1\r\nX: ".to_vec(), vec![b'x'; 1 << 20]].concat();
    assert_eq!(blurt(server.node, &endless), Some(431));
    assert_eq!(node.get(ID).brief(), (200, "n1".to_owned()));
}

#[test]
fn the_header_limit_is_a_setting() {
    let (_server, node) = with(Options::default().flag("header-bytes", "2KiB"));
    let header = node.header();
    for (length, status) in [(1000, 200), (2048, 431)] {
        let long = "x".repeat(length);
        let headers = [("Authorization", &*header), ("X-Long", &long)];
        assert_eq!(node.send("GET", ID, &headers, b"").status, status);
    }
}

/// How long a peer that never finishes its headers is put up with; it sends a byte in between.
fn patience(mut stream: TcpStream) -> Duration {
    let started = Instant::now();
    stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let mut buffer = [0; 1024];
    while started.elapsed() < Duration::from_secs(15) {
        let _ = stream.write_all(b"x");
        match stream.read(&mut buffer) {
            Ok(0) => return started.elapsed(),
            Ok(read) => assert!(buffer[..read].starts_with(b"HTTP/1.1 408")),
            Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock) => {}
            Err(_) => return started.elapsed(),
        }
    }
    panic!("still open after {:?}", started.elapsed());
}

#[test]
fn a_connection_whose_headers_never_end_is_closed_after_header_time() {
    let (server, node) = with(Options::default().flag("header-time", "2s"));
    for beginning in ["", "GET ", "GET /MAAS/metadata/ HTTP/1.1\r\nHost: h\r\nX-Slow: "] {
        let mut stream = TcpStream::connect(server.node).unwrap();
        stream.write_all(beginning.as_bytes()).unwrap();
        let put_up_with = patience(stream);
        // actix reads its clock twice a second.
        let bounds = Duration::from_secs(1)..Duration::from_secs(6);
        assert!(bounds.contains(&put_up_with), "{beginning:?}: {put_up_with:?}");
    }
    assert_eq!(node.get(ID).brief(), (200, "n1".to_owned()));
}

#[test]
fn a_second_request_has_no_more_time_for_its_headers_than_the_first() {
    let (server, node) = with(Options::default().flag("header-time", "1s"));
    let mut connection = Connection::open(server.node);
    let header = node.header();
    let reply = connection.send("GET", ID_PATH, &[("Authorization", &header)], b"");
    assert_eq!(reply.brief(), (200, "n1".to_owned()));
    connection.stream.write_all(b"GET /MAAS/metadata/ HTTP/1.1\r\nHost: h\r\nX-Slow: ").unwrap();
    let put_up_with = patience(connection.stream);
    assert!(put_up_with < Duration::from_secs(5), "{put_up_with:?}");
}

#[test]
fn d19_500_half_open_connections_do_not_starve_a_node() {
    let (server, node) = one_node();
    server.operator().set("n1", "user-data", b"#!/bin/sh\n");
    let parts: [&[u8]; 5] = [
        b"",
        b"G",
        b"GET /MAAS/metadata/ HTTP/1.1\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\n",
        b"\r\n",
    ];
    let half_open: Vec<TcpStream> = (0..500)
        .map(|i| {
            let mut stream = TcpStream::connect(server.node).unwrap();
            stream.write_all(parts[i % parts.len()]).unwrap();
            stream
        })
        .collect();
    let started = Instant::now();
    for path in READS {
        assert_eq!(node.get(path).status, 200, "{path}");
    }
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    drop(half_open);
}

#[test]
fn d19_an_http_1_0_client_is_answered_and_let_go() {
    let (server, node) = one_node();
    for host in ["", "Host: h\r\n"] {
        let request =
            format!("GET {ID_PATH} HTTP/1.0\r\n{host}Authorization: {}\r\n\r\n", node.header());
        let mut stream = TcpStream::connect(server.node).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1."), "{answer}");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head[8..].starts_with(" 200 "), "{answer}");
        assert!(head.to_ascii_lowercase().contains("content-length: 2"), "{answer}");
        assert_eq!(body, "n1");
    }
}

#[test]
fn d19_a_connection_is_closed_for_who_asks_and_kept_for_who_does_not() {
    let (server, node) = one_node();
    let mut connection = Connection::open(server.node);
    for _ in 0..3 {
        let header = node.header();
        let reply = connection.send("GET", ID_PATH, &[("Authorization", &header)], b"");
        assert_eq!(reply.brief(), (200, "n1".to_owned()));
    }
    let headers = [("Authorization", &*node.header()), ("Connection", "close")];
    assert_eq!(connection.send("GET", ID_PATH, &headers, b"").status, 200);
    assert_eq!(connection.stream.read(&mut [0; 8]).unwrap(), 0);
}

#[test]
fn requests_sent_ahead_are_answered_in_order_and_each_as_its_own_node() {
    let (server, first) = one_node();
    let second = server.node("n2");
    let mut connection = Connection::open(server.node);
    let mut bytes = Vec::new();
    for _ in 0..5 {
        for node in [&first, &second] {
            bytes.extend(request("GET", ID_PATH, "h", &[("Authorization", &node.header())], b""));
        }
        bytes.extend(request("GET", ID_PATH, "h", &[], b""));
    }
    connection.stream.write_all(&bytes).unwrap();
    for _ in 0..5 {
        assert_eq!(connection.read(false).brief(), (200, "n1".to_owned()));
        assert_eq!(connection.read(false).brief(), (200, "n2".to_owned()));
        assert_refused(&connection.read(false), "credentials_missing");
    }
}

#[test]
fn a_body_that_nobody_reads_is_not_the_next_request() {
    let (server, node) = one_node();
    let header = node.header();
    let smuggled = request("GET", "/MAAS/metadata/smuggled/", "h", &[], b"");
    for method in ["GET", "POST", "PUT"] {
        let mut connection = Connection::open(server.node);
        let headers = [("Authorization", &*header), ("Content-Type", "text/plain")];
        let length = smuggled.len().to_string();
        let mut all = headers.to_vec();
        all.push(("Content-Length", &length));
        let mut bytes = request(method, ID_PATH, "h", &all, &smuggled);
        bytes.extend(request("GET", "/MAAS/metadata/", "h", &headers[..1], b""));
        connection.stream.write_all(&bytes).unwrap();
        let expected = if method == "GET" { 200 } else { 405 };
        assert_eq!(connection.read(false).status, expected);
        assert_eq!(connection.read(false).brief(), (200, "2012-03-01\nlatest".to_owned()));
    }
}

#[test]
fn a_node_that_asks_too_often_is_429_and_no_other_node_is() {
    let (server, eager) = with(Options::default().flag("node-rate", "1").flag("node-burst", "5"));
    let other = server.node("n2");
    // What is not signed well is not counted.
    for _ in 0..10 {
        assert_refused(&with_secret(&eager, "wrong").get(ID), "credentials_refused");
    }
    let replies: Vec<Reply> = (0..8).map(|_| eager.get(ID)).collect();
    let (good, late): (Vec<_>, Vec<_>) = replies.iter().partition(|reply| reply.status == 200);
    assert!((5..=6).contains(&good.len()), "{replies:?}");
    for reply in &late {
        assert_eq!(reply.brief(), (429, "Too many requests".to_owned()));
        let seconds: u64 = reply.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=2).contains(&seconds), "{seconds}");
    }
    assert_eq!(other.get(ID).brief(), (200, "n2".to_owned()));
    // This is about time: after what Retry-After said, it is taken again.
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(eager.get(ID).brief(), (200, "n1".to_owned()));
}

#[test]
fn by_default_a_node_may_ask_200_times_at_once() {
    let (_server, node) = one_node();
    let mut connection = Connection::open(node.address);
    for _ in 0..200 {
        let header = node.header();
        let reply = connection.send("GET", ID_PATH, &[("Authorization", &header)], b"");
        assert_eq!(reply.brief(), (200, "n1".to_owned()));
    }
}

#[test]
fn refused_attempts_are_counted_by_source_and_harm_nobody_who_signs_well() {
    let options = Options::default().flag("refused-rate", "1").flag("refused-burst", "5");
    let (_server, node) = with(options);
    let replies: Vec<Reply> = (0..10).map(|_| with_secret(&node, "wrong").get(ID)).collect();
    let refused = replies.iter().filter(|reply| reply.status == 401).count();
    let limited: Vec<_> = replies.iter().filter(|reply| reply.status == 429).collect();
    assert!((5..=7).contains(&refused) && refused + limited.len() == 10, "{replies:?}");
    assert!(limited.iter().all(|reply| reply.header("retry-after").is_some()));
    // Neither the address they share nor the key that was claimed keeps the node out.
    for _ in 0..10 {
        assert_eq!(node.get(ID).brief(), (200, "n1".to_owned()));
    }
}

fn user_data_round_trip(length: usize) {
    let (server, node) = one_node();
    let bytes = noise(length);
    server.operator().set("n1", "user-data", &bytes);
    let started = Instant::now();
    let reply = node.get("/latest/user-data");
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("content-length"), Some(length.to_string().as_str()));
    assert!(reply.body == bytes, "{} bytes came", reply.body.len());
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}

#[test]
fn u12_d29_user_data_of_256_bytes_is_served_byte_for_byte() {
    user_data_round_trip(256);
}

#[test]
fn u12_d29_user_data_of_1_mib_is_served_byte_for_byte() {
    user_data_round_trip(1 << 20);
}

#[test]
fn u12_d29_user_data_of_16_mib_is_served_byte_for_byte() {
    user_data_round_trip(16 << 20);
}

#[test]
fn u12_d29_user_data_of_64_mib_is_served_byte_for_byte() {
    user_data_round_trip(64 << 20);
}

#[test]
fn user_data_past_its_limit_is_refused_and_the_old_one_stays() {
    let (server, node) = with(Options::default().flag("content-bytes", "1MiB"));
    server.operator().set("n1", "user-data", b"#!/bin/sh\n");
    let path = "/v1/default/nodes/n1/user-data";
    let reply =
        server.operator().send(Method::PUT, path, &[("if-match", "*")], &noise((1 << 20) + 1));
    assert_eq!(reply.status, 413, "{}", reply.text());
    assert_eq!(node.get("/latest/user-data").text(), "#!/bin/sh\n");
}

/// The one answer to trouble of ours: 503, a time to come back, and not a word about what it is.
#[track_caller]
fn assert_unavailable(reply: &Reply) {
    assert_eq!(reply.brief(), (503, "Try again".to_owned()));
    let seconds: u64 = reply.header("retry-after").expect("Retry-After").parse().unwrap();
    assert!((1..=30).contains(&seconds));
    assert_eq!(reply.header("cache-control"), Some("no-store"));
    assert_eq!(reply.header("www-authenticate"), None);
}

#[test]
fn d11_d26_without_the_table_of_contents_what_is_not_in_memory_is_503() {
    for absent in ["empty", "not-found"] {
        let (server, node) = with(Options::default().flag("absent-items", absent));
        let cold = server.node("n2");
        server.operator().set("n1", "user-data", b"#!/bin/sh\n");
        let before: Vec<_> = READS.iter().map(|path| node.get(path).brief()).collect();
        assert!(before.contains(&(200, "#!/bin/sh\n".to_owned())));
        server.database.execute("DROP TABLE contents");
        for (path, before) in READS.iter().zip(&before) {
            assert_eq!(&node.get(path).brief(), before, "{path}");
            assert_unavailable(&cold.get(path));
        }
    }
}

#[test]
fn d11_without_the_table_of_tokens_everything_signed_is_503_and_nothing_is_401() {
    let (server, node) = one_node();
    let liar = with_secret(&node, "wrong");
    for table in ["claims", "node_keys", "tokens"] {
        server.database.execute(&format!("DROP TABLE {table}"));
    }
    for path in READS {
        assert_unavailable(&node.get(path));
        assert_unavailable(&liar.get(path));
        let header = node.header();
        let reply = node.send("POST", path, &[("Authorization", &header)], b"");
        assert_unavailable(&reply);
    }
    // What needs no store is answered as ever.
    assert_refused(&node.send("GET", ID, &[], b""), "credentials_missing");
    assert_refused(&node.get_with(ID, "OAuth junk"), "credentials_malformed");
    assert_eq!(node.get("/2.0/").status, 404);

    let path = "/v1/default/nodes/n1/token";
    let reply = server.operator().send(Method::POST, path, &[], b"");
    assert_eq!(reply.status, 503);
    let detail = reply.json()["detail"].as_str().unwrap().to_owned();
    for word in ["table", "tokens", "node_keys", "SELECT", "relation"] {
        assert!(!detail.contains(word), "{detail}");
    }
}

#[test]
fn a_stored_secret_that_does_not_open_is_503_and_says_nothing() {
    let (server, node) = one_node();
    let sealed = if server.database.is_postgres() { "'\\x0102'" } else { "x'0102'" };
    server.database.execute(&format!("UPDATE tokens SET sealed_secret = {sealed}"));
    assert_unavailable(&node.get(ID));
}

#[test]
fn d11_a_server_cut_from_its_database_serves_from_memory_for_5_s_then_503_then_again() {
    let (server, node, mut cable) = cabled(Options::default());
    let cold = server.node("n2");
    assert_eq!(node.get(ID).brief(), (200, "n1".to_owned()));
    cable.cut();
    let cut = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            assert_unavailable(&cold.get(ID));
            assert!(cut.elapsed() < Duration::from_secs(10), "{:?}", cut.elapsed());
        });
        // What was known goes on to be served, and no longer than it may be.
        loop {
            let (reply, asked) = (node.get(ID), cut.elapsed());
            if reply.status != 200 {
                assert_unavailable(&reply);
                break;
            }
            assert_eq!(reply.text(), "n1");
            assert!(asked < Duration::from_millis(5_800), "{asked:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
        let lasted = cut.elapsed();
        assert!(lasted > Duration::from_secs(4), "memory was of no use: {lasted:?}");
    });
    std::thread::scope(|scope| {
        for path in READS {
            let node = &node;
            scope.spawn(move || {
                let started = Instant::now();
                assert_unavailable(&node.get(path));
                assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
            });
        }
    });
    if server.database.is_postgres() {
        let ready = server.observer().get("/readyz");
        assert_eq!(ready.brief(), (503, "{\"status\":\"database\"}".to_owned()));
        assert!(ready.header("retry-after").is_some());
    }
    assert_eq!(server.observer().get("/healthz").status, 200);
    cable.mend();
    let started = Instant::now();
    loop {
        let reply = node.get(ID);
        if reply.status == 200 {
            assert_eq!(reply.text(), "n1");
            break;
        }
        assert_unavailable(&reply);
        assert!(started.elapsed() < Duration::from_secs(20), "it does not come back");
    }
    for path in READS {
        assert_eq!(node.get(path).status, 200, "{path}");
    }
}

#[test]
fn d25_a_database_that_says_nothing_is_503_within_10_seconds() {
    let (server, node, cable) = cabled(Options::default());
    let started = Instant::now();
    let silent = Duration::from_secs(10);
    match &cable {
        Cable::Relay(relay) => {
            relay.is_frozen.store(true, Ordering::SeqCst);
            assert_unavailable(&node.get(ID));
            assert!(started.elapsed() < silent, "{:?}", started.elapsed());
            relay.is_frozen.store(false, Ordering::SeqCst);
            // What it missed meanwhile comes first.
            std::thread::sleep(Duration::from_secs(1));
        }
        // A file cannot keep silent to readers; whoever has to write waits for its holder.
        Cable::File(_) => {
            let held = rows::hold(&server.database, &[]);
            let path = "/v1/default/nodes/n1/token";
            let reply = server.operator().send(Method::DELETE, path, &[], b"");
            assert_eq!(reply.status, 503, "{}", reply.text());
            assert!(started.elapsed() < silent, "{:?}", started.elapsed());
            drop(held);
        }
    }
    assert_eq!(node.get(ID).brief(), (200, "n1".to_owned()));
}

#[test]
fn no_read_waits_for_a_write_to_the_database() {
    let (server, node) = one_node();
    let held = rows::hold(&server.database, &["tokens", "nodes", "node_keys", "contents"]);
    let started = Instant::now();
    for path in READS {
        assert_eq!(node.get(path).status, 200, "{path}");
    }
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    drop(held);
}

#[test]
fn garbage_is_never_5xx_and_leaves_the_server_well() {
    let (server, node) = one_node();
    let good = request("GET", ID_PATH, "h", &[("Authorization", &node.header())], b"");
    let spliced = |from: &str, to: &[u8]| -> Vec<u8> {
        let at = good.windows(from.len()).position(|w| w == from.as_bytes()).unwrap();
        [&good[..at], to, &good[at + from.len()..]].concat()
    };
    let long_path = [b"/".to_vec(), vec![b'a'; 100_000]].concat();
    let cases: Vec<Vec<u8>> = vec![
        vec![],
        b"\0".to_vec(),
        b"\r\n\r\n".to_vec(),
        noise(4096),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n".to_vec(),
        b"GET\r\n\r\n".to_vec(),
        b"GET / HTTP/9.9\r\n\r\n".to_vec(),
        b"GET http://h/MAAS/metadata/ HTTP/1.1\r\nHost: h\r\n\r\n".to_vec(),
        b"CONNECT h:80 HTTP/1.1\r\nHost: h\r\n\r\n".to_vec(),
        b"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n".to_vec(),
        spliced("instance-id", b"%00"),
        spliced("instance-id", b"%ff%fe"),
        spliced("instance-id", b"%zz"),
        spliced("instance-id", b"\xff\xfe"),
        spliced("instance-id", b"\0"),
        spliced("instance-id", &"%2e%2e%2f".repeat(50).into_bytes()),
        spliced(ID_PATH, &long_path),
        spliced("instance-id", b"instance-id?%ff=%zz&\xff"),
        spliced("Host: h", b"Host: \xff\xfe"),
        spliced("Host: h", b"Host: h\r\nHost: i"),
        spliced("Host: h\r\n", b""),
        spliced("Host: h", b"Host: h\r\nContent-Length: -1"),
        spliced("Host: h", b"Host: h\r\nContent-Length: 99999999999999999999"),
        spliced("Host: h", b"Host: h\r\nContent-Length: 1\r\nContent-Length: 2"),
        spliced("Host: h", b"Host: h\r\nTransfer-Encoding: chunked\r\nContent-Length: 5"),
        spliced("Host: h", b"Host: h\r\nTransfer-Encoding: chunked, identity"),
        spliced("Host: h", b"Host: h\r\n folded: x"),
        spliced("Host: h", b"Host: h\r\nno colon"),
        spliced("oauth_token=\"", b"oauth_token=\"\xff\xfe"),
        spliced("oauth_token=\"", b"oauth_token=\"\0"),
        spliced("oauth_nonce", b"\xf0\x9f\x92\xa9"),
        spliced("\r\n\r\n", b"\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"),
        spliced("\r\n\r\n", b"\r\nExpect: nonsense\r\n\r\n"),
        spliced("\r\n\r\n", b"\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n"),
        spliced("\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
        spliced("\r\n\r\n", b"\r\nRange: bytes=0-0\r\nIf-None-Match: *\r\n\r\n"),
    ];
    for case in &cases {
        let status = blurt(server.node, case);
        let shown = String::from_utf8_lossy(&case[..case.len().min(200)]);
        assert!(status.is_none_or(|status| status < 500), "{status:?} to {shown:?}");
    }
    // A byte changed, cut or doubled anywhere.
    for (round, random) in noise(8 * 400).chunks_exact(8).enumerate() {
        let at = usize::from(u16::from_le_bytes([random[0], random[1]])) % good.len();
        let mut bytes = good.clone();
        match round % 4 {
            0 => bytes[at] = random[2],
            1 => drop(bytes.drain(at..(at + usize::from(random[2] % 16)).min(good.len()))),
            2 => bytes.insert(at, random[2]),
            _ => bytes.truncate(at),
        }
        let status = blurt(server.node, &bytes);
        let shown = String::from_utf8_lossy(&bytes);
        assert!(status.is_none_or(|status| status < 500), "{status:?} to {shown:?}");
    }
    assert_eq!(node.get(ID).brief(), (200, "n1".to_owned()));
}

#[test]
fn garbage_is_answered_400_with_a_date_and_a_length_and_the_connection_closed() {
    let (server, _) = one_node();
    for bytes in [&b"GET\r\n\r\n"[..], b"\0\0\0\r\n\r\n", b"GET / HTTP/1.1\r\nno colon\r\n\r\n"] {
        let mut connection = Connection::open(server.node);
        connection.stream.write_all(bytes).unwrap();
        let reply = connection.read(false);
        assert_eq!((reply.status, reply.text()), (400, String::new()));
        date(&reply);
        assert_eq!(connection.stream.read(&mut [0; 8]).unwrap(), 0);
    }
}

#[test]
fn what_a_path_said_is_not_said_again_beyond_its_plain_characters() {
    let (_server, node) = one_node();
    for (path, said) in [
        ("/<script>alert(1)</script>", None),
        ("/%3Cscript%3E/", Some("Unknown metadata version: %3Cscript%3E")),
        ("/latest/meta-data/%0d%0aX-Evil:1", Some("Unknown metadata attribute: %0d%0aX-Evil:1")),
    ] {
        let reply = node.get(path);
        assert!(matches!(reply.status, 400 | 404), "{path}: {reply:?}");
        assert_eq!(reply.header("x-evil"), None);
        if let Some(said) = said {
            assert_eq!(reply.text(), said);
            assert_eq!(reply.header("content-type"), Some("text/plain; charset=utf-8"));
        }
    }
    let long = node.get(&format!("/{}/", "v".repeat(5000)));
    assert_eq!(long.status, 404);
    assert!(long.body.len() < 200, "{}", long.body.len());
}

#[test]
fn no_secret_is_in_any_answer_or_in_the_log() {
    let home = Home::new();
    let mut url = home.database.url().to_owned();
    if home.database.is_postgres() {
        let (host, user) = authority(&url);
        let name = user.split(':').next().unwrap();
        url = url.replacen(&format!("{user}@{host}"), &format!("{name}:dbPaSsWoRd@{host}"), 1);
    }
    let process = home.serve_with(&["--database-url", &url]);
    let operator = process.operator();
    operator.add("n1", json!({}));
    operator.set("n1", "user-data", b"#!/bin/sh\n# uSeRdAtA\n");
    let preseed = operator.send(
        Method::POST,
        "/v1/default/nodes/n1/preseed",
        &[("content-type", "application/json")],
        br#"{"format": "cloud-config"}"#,
    );
    let node = process.credentials("n1");
    let secret = node.token_secret.clone();
    // The two answers that hold the secret on purpose.
    assert!(preseed.text().contains(&secret));

    let mut replies: Vec<Reply> = READS.iter().map(|path| node.get(path)).collect();
    assert!(replies.iter().all(|reply| reply.status == 200));
    let query = format!("{ID}?quErY=1&oauth_signature=%26{secret}");
    replies.push(node.get(&query));
    replies.push(node.send("GET", &query, &[], b""));
    replies.push(node.get(&format!("/{secret}/")));
    for header in [
        with_secret(&node, "wRoNgSeCrEt").header(),
        Node { token_key: "wRoNgToKeN".into(), ..node.clone() }.header(),
        Node { consumer_key: "wRoNg".into(), ..node.clone() }.header(),
        format!("{}, junk", node.header()),
        node.header().replace("PLAINTEXT", "HMAC-SHA1"),
        node.header().replace("PLAINTEXT", "RSA-SHA1"),
        node.header().replace("OAuth", "Basic"),
    ] {
        replies.push(node.get_with(ID, &header));
    }
    let wrong = [("X-Auth-Token", "oPeRaToR")];
    replies.push(process.observer().send("GET", "/v1/tokens", &wrong, b""));
    for path in ["/v1/tokens", "/v1/default/nodes/n1/token", "/v1/default/nodes/n1"] {
        replies.push(operator.send(Method::GET, path, &[], b""));
    }
    let bad = format!("{{\"hostname\": \"{secret}!\", \"{secret}\": 1}}");
    let json = [("content-type", "application/json")];
    replies.push(operator.send(Method::POST, "/v1/default/nodes", &json, bad.as_bytes()));
    // What is changed is read anew.
    let rename = br#"{"hostname": "another"}"#;
    let renamed = operator.send(Method::PATCH, "/v1/default/nodes/n1", &json, rename);
    assert_eq!(renamed.status, 200);
    home.database.execute("DROP TABLE contents");
    replies.push(node.get("/latest/user-data"));
    assert_eq!(replies.last().unwrap().status, 503);

    // A path that a client made up may be said back to it; nothing else.
    let echo = format!("Unknown metadata version: {secret}");
    for reply in replies.iter().filter(|reply| reply.text() != echo) {
        assert!(!format!("{reply:?} {}", reply.text()).contains(&secret), "{reply:?}");
        assert!(!reply.text().contains("HMAC") && !reply.text().contains("GET&"), "{reply:?}");
    }

    let log = process.stop();
    let lines: Vec<Value> = log
        .lines()
        .filter(|line| !line.starts_with("nodeinit: "))
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}")))
        .collect();
    let requests = lines.iter().filter(|line| line["message"] == "request").count();
    assert!(requests >= replies.len(), "{log}");
    for reason in ["wrong_signature", "unknown_token", "wrong_consumer", "no_equals_sign"] {
        assert!(log.contains(reason), "{reason}: {log}");
    }
    for hidden in [
        &*secret,
        "wRoNgSeCrEt",
        "wRoNgToKeN",
        "oPeRaToR",
        "uSeRdAtA",
        "quErY",
        "oauth_signature",
        "dbPaSsWoRd",
        "%26",
    ] {
        let line = log.lines().find(|line| line.contains(hidden));
        assert_eq!(line, None, "{hidden} is in the log");
    }
}
