//! Proxies in front: whose word about an address is taken, and that an address is no identity.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::process::Home;
use crate::support::tls::Ca;
use crate::support::{Options, Reply, TestServer, socket, wire};

/// `\r\n\r\n\0\r\nQUIT\n`, version 2, PROXY, TCP over IPv4, then both addresses and ports.
fn proxy_v2(source: &str) -> Vec<u8> {
    let source: SocketAddr = source.parse().unwrap();
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21".to_vec();
    match source {
        SocketAddr::V4(source) => {
            header.extend([0x11, 0, 12]);
            header.extend(source.ip().octets());
            header.extend([192, 0, 2, 1]);
        }
        SocketAddr::V6(source) => {
            header.extend([0x21, 0, 36]);
            header.extend(source.ip().octets());
            header.extend([0; 16]);
        }
    }
    header.extend(source.port().to_be_bytes());
    header.extend(5240_u16.to_be_bytes());
    header
}

fn claim(server: &TestServer) -> String {
    let path = "/v1/default/nodes/n1/claims";
    let made = socket::send(&server.socket, "POST", path, &[], b"").json();
    let url = made["url"].as_str().unwrap();
    url[url.find("/MAAS").unwrap()..].to_owned()
}

fn trusting(networks: &str) -> TestServer {
    let server = TestServer::start_with(Options::default().flag("trusted-proxy", networks));
    server.node("n1");
    server
}

/// A GET behind these bytes.
fn get_behind(address: SocketAddr, first: &[u8], path: &str, headers: &[(&str, &str)]) -> Reply {
    let mut all = vec![("Connection", "close")];
    all.extend_from_slice(headers);
    let request = wire::request("GET", path, "h", &all, b"");
    wire::raw(address, &[first, &request].concat())
}

#[test]
fn a_claim_is_bound_to_the_address_that_a_trusted_proxy_names() {
    let server = trusting("127.0.0.1");
    let path = claim(&server);
    let as_client = |client: &str| {
        wire::send(server.node, "GET", &path, &[("X-Forwarded-For", client)], b"").status
    };
    assert_eq!(as_client("203.0.113.7"), 200);
    assert_eq!(as_client("203.0.113.8"), 410);
    // What the client wrote itself stands to the left of what the proxy wrote.
    assert_eq!(as_client("203.0.113.7, 203.0.113.8"), 410);
    assert_eq!(as_client("203.0.113.8, 203.0.113.7"), 200);
    assert_eq!(as_client("203.0.113.7, 127.0.0.1"), 200);
    // Nobody else is believed.
    let forged = [("X-Forwarded-For", "203.0.113.7")];
    assert_eq!(wire::get_from("127.0.0.2", server.node, &path, &forged).status, 410);
}

#[test]
fn without_trusted_proxies_no_header_is_believed() {
    let server = TestServer::start();
    server.node("n1");
    let path = claim(&server);
    assert_eq!(wire::get_from("127.0.0.2", server.node, &path, &[]).status, 200);
    for name in ["X-Forwarded-For", "Forwarded", "X-Real-IP"] {
        let forged = [(name, "127.0.0.2")];
        assert_eq!(wire::get_from("127.0.0.3", server.node, &path, &forged).status, 410, "{name}");
    }
    let behind = get_behind(server.node, &proxy_v2("127.0.0.2:9"), &path, &[]);
    assert_eq!(behind.status, 400, "a PROXY header is no HTTP");
}

#[test]
fn a_proxy_header_names_the_client_on_every_request_of_its_connection() {
    let server = trusting("127.0.0.1,2001:db8:f::/48");
    let node = server.credentials("n1");
    for client in ["203.0.113.7:4711", "[2001:db8::7]:4711"] {
        let path = claim(&server);
        let bytes = proxy_v2(client);
        assert_eq!(get_behind(server.node, &bytes, &path, &[]).status, 200, "{client}");
        let other = proxy_v2("203.0.113.8:4711");
        assert_eq!(get_behind(server.node, &other, &path, &[]).status, 410);
        assert_eq!(wire::send(server.node, "GET", &path, &[], b"").status, 410, "the proxy itself");
        // Its bytes may come in pieces, and the connection carries more than one request.
        let mut connection = wire::Connection::open(server.node);
        for piece in bytes.chunks(5) {
            connection.stream.write_all(piece).unwrap();
            std::thread::sleep(Duration::from_millis(8));
        }
        for _ in 0..2 {
            assert_eq!(connection.send("GET", &path, &[], b"").status, 200, "{client}");
        }
        // It says nothing about who a node is.
        let header = node.header();
        let signed = [("Authorization", header.as_str())];
        let at = "/MAAS/metadata/latest/meta-data/instance-id";
        assert_eq!(get_behind(server.node, &bytes, at, &signed).text(), "n1");
        assert_eq!(get_behind(server.node, &bytes, at, &[]).status, 401);
    }
    // Behind a proxy that knows no HTTP, one that does.
    let path = claim(&server);
    let chain = proxy_v2("[2001:db8:f::1]:9");
    let forwarded = [("X-Forwarded-For", "203.0.113.9")];
    assert_eq!(get_behind(server.node, &chain, &path, &forwarded).status, 200);
    let stranger = proxy_v2("203.0.113.10:9");
    assert_eq!(get_behind(server.node, &stranger, &path, &forwarded).status, 410);
    assert_eq!(get_behind(server.node, &proxy_v2("203.0.113.9:1"), &path, &[]).status, 200);
}

/// What comes back when these bytes are sent and no more.
fn answer_to(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
    stream.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    answer
}

#[test]
fn a_broken_proxy_header_ends_the_connection_and_a_slow_one_too() {
    let options = Options::default().flag("trusted-proxy", "127.0.0.1").flag("header-time", "1s");
    let server = TestServer::start_with(options);
    server.node("n1");
    let get = wire::request("GET", "/MAAS/metadata/x", "h", &[("Connection", "close")], b"");
    let good = proxy_v2("203.0.113.7:9");
    let changed = |at: usize, to: u8| {
        let mut bytes = good.clone();
        bytes[at] = to;
        [bytes, get.clone()].concat()
    };
    for (what, bytes) in [
        ("version 1", changed(12, 0x11)),
        ("an unknown command", changed(12, 0x22)),
        ("datagrams", changed(13, 0x12)),
        ("an unknown family", changed(13, 0x41)),
        ("64 KiB", changed(14, 0xff)),
        ("cut addresses", changed(15, 11)),
    ] {
        assert_eq!(answer_to(server.node, &bytes), b"", "{what}");
    }
    for unfinished in [&good[..4], &good[..12], &good[..20]] {
        let began = Instant::now();
        assert_eq!(answer_to(server.node, unfinished), b"");
        let waited = began.elapsed();
        assert!(
            waited > Duration::from_millis(700) && waited < Duration::from_secs(10),
            "{waited:?}"
        );
    }
    // The proxy speaks for itself; a peer that is a proxy may send no header at all.
    let local = [b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0", get.as_slice()].concat();
    for bytes in [local, get.clone(), [b"\r\n", get.as_slice()].concat()] {
        assert_eq!(wire::raw(server.node, &bytes).status, 404);
    }
}

#[test]
fn a_proxy_header_comes_before_tls() {
    let ca = Ca::new();
    let dir = tempfile::tempdir().unwrap();
    let (cert, key) = ca.issue(&["127.0.0.1"]).write(dir.path(), "node");
    let options = Options::default()
        .flag("trusted-proxy", "127.0.0.1")
        .flag("tls-cert", cert.to_str().unwrap())
        .flag("tls-key", key.to_str().unwrap());
    let server = TestServer::start_with(options);
    server.node("n1");
    let path = claim(&server);
    let client = ca.client();
    let get = |client_address: &str| {
        let first = proxy_v2(client_address);
        client.connect_behind(server.node, "127.0.0.1", &first).unwrap().get(&path, "").status
    };
    assert_eq!(get("203.0.113.7:1"), 200);
    assert_eq!(get("203.0.113.8:1"), 410);
    assert_eq!(get("203.0.113.7:2"), 200);
    assert_eq!(client.get(server.node, &path, "").unwrap().status, 410, "it may do without one");
}

#[test]
fn limits_and_logs_are_by_the_address_that_is_believed() {
    let home = Home::new();
    let server = home.serve_with(&[
        "--trusted-proxy",
        "127.0.0.1",
        "--trusted-proxy",
        "10.0.0.0/8",
        "--refused-rate",
        "1",
        "--refused-burst",
        "3",
    ]);
    let unsigned = |client: &str| {
        let headers = [("X-Forwarded-For", client)];
        wire::send(server.node, "GET", "/MAAS/metadata/latest/", &headers, b"").status
    };
    let noisy: Vec<u16> = (0..6).map(|_| unsigned("203.0.113.7")).collect();
    assert!(noisy.contains(&429), "{noisy:?}");
    assert_eq!(unsigned("203.0.113.8"), 401, "another client of the same proxy");

    // Failed logins are counted by source too: ten at once.
    let admin = server.admin.unwrap();
    let login = |client: &str| {
        let headers = [("X-Forwarded-For", client), ("Content-Type", "application/json")];
        let credentials = json!({"username": "nobody", "password": "wrong"});
        let body = json!({"auth": {"passwordCredentials": credentials}}).to_string();
        wire::send(admin, "POST", "/v2.0/tokens", &headers, body.as_bytes()).status
    };
    let tries: Vec<u16> = (0..12).map(|_| login("203.0.113.9, 10.1.1.1")).collect();
    assert_eq!((tries[0], tries[11]), (401, 429), "{tries:?}");
    assert_eq!(login("203.0.113.10"), 401);

    let behind = proxy_v2("198.51.100.4:4711");
    assert_eq!(get_behind(server.node, &behind, "/MAAS/metadata/x", &[]).status, 404);
    let said = server.stop();
    for peer in ["\"peer\":\"203.0.113.7\"", "\"peer\":\"203.0.113.9\"", "198.51.100.4:4711"] {
        assert!(said.contains(peer), "{peer}: {said}");
    }
}
