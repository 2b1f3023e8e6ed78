//! What was acknowledged is kept, and what is kept goes when its time has come: trouble of the
//! store, crashes, replays, the sweep.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nodeinit::actions;
use nodeinit::client::oauth1::{NodeCredentials, hmac_sha1};
use serde_json::{Value, json};

use crate::support::process::{Home, Process};
use crate::support::{NOW, Node, Options, Reply, TestServer, rows, wait, wire};

fn event(name: &str) -> Value {
    json!({"event_type": "finish", "origin": "cloudinit", "name": name, "description": "d",
        "result": "SUCCESS", "timestamp": 1_795_315_087.5})
}

fn report(node: &Node, event: &Value) -> Reply {
    let path = format!("/status/{}", node.system_id);
    let header = node.header();
    node.send("POST", &path, &[("Authorization", &header)], event.to_string().as_bytes())
}

fn with_file(name: &str, text: &str) -> Value {
    let mut event = event(name);
    event["files"] = json!([{"path": "p", "encoding": "base64", "content": STANDARD.encode(text)}]);
    event
}

fn names(server: &TestServer, system_id: &str) -> Vec<String> {
    let path = format!("/v1/default/nodes/{system_id}/events");
    let events = server.operator().session.list(&path, None).unwrap();
    events.iter().map(|event| event["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn while_the_store_fails_it_is_503_and_nothing_is_lost_to_who_tries_again() {
    let server = TestServer::start_with(Options::default().flag("node-rate", "1000000"));
    let nodes: Vec<Node> = (0..4).map(|i| server.node(&format!("n{i}"))).collect();
    let refused = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for node in &nodes {
            let refused = &refused;
            scope.spawn(move || {
                for number in 0..60 {
                    loop {
                        let reply = report(node, &event(&number.to_string()));
                        if reply.status == 204 {
                            break;
                        }
                        assert_eq!(reply.status, 503, "{}", reply.text());
                        assert!(reply.header("retry-after").is_some());
                        refused.store(true, Ordering::SeqCst);
                        std::thread::sleep(Duration::from_millis(20));
                    }
                    std::thread::sleep(Duration::from_millis(5));
                }
            });
        }
        std::thread::sleep(Duration::from_millis(150));
        server.database.execute("ALTER TABLE events RENAME TO away");
        std::thread::sleep(Duration::from_millis(400));
        server.database.execute("ALTER TABLE away RENAME TO events");
    });
    assert!(refused.load(Ordering::SeqCst), "the trouble was seen");
    let all: Vec<String> = (0..60).map(|number| number.to_string()).collect();
    for node in &nodes {
        assert_eq!(names(&server, &node.system_id), all, "{}", node.system_id);
    }
}

#[test]
fn one_event_that_cannot_be_stored_spoils_no_other() {
    let server = TestServer::start_with(Options::default().flag("node-rate", "1000000"));
    if server.database.is_postgres() {
        server.database.execute(
            "CREATE FUNCTION poison() RETURNS trigger LANGUAGE plpgsql AS \
             $$ BEGIN IF NEW.name = 'poison' THEN RAISE EXCEPTION 'poison'; END IF; RETURN NEW; END $$",
        );
        server.database.execute(
            "CREATE TRIGGER poison BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION poison()",
        );
    } else {
        server.database.execute(
            "CREATE TRIGGER poison BEFORE INSERT ON events WHEN NEW.name = 'poison' \
             BEGIN SELECT RAISE(ABORT, 'poison'); END",
        );
    }
    let nodes: Vec<Node> = (0..8).map(|i| server.node(&format!("n{i}"))).collect();
    std::thread::scope(|scope| {
        for (at, node) in nodes.iter().enumerate() {
            scope.spawn(move || {
                for number in 0..25 {
                    let name = if at == 0 { "poison".into() } else { number.to_string() };
                    let status = report(node, &event(&name)).status;
                    assert_eq!(status, if at == 0 { 503 } else { 204 }, "{name}");
                }
            });
        }
    });
    assert_eq!(names(&server, "n0"), Vec::<String>::new());
    let all: Vec<String> = (0..25).map(|number| number.to_string()).collect();
    for node in &nodes[1..] {
        assert_eq!(names(&server, &node.system_id), all);
    }
}

/// The netboot flag as a form that HMAC does not cover.
const NETBOOT_OFF: &[u8] =
    b"--b\r\nContent-Disposition: form-data; name=\"op\"\r\n\r\nnetboot_off\r\n--b--\r\n";

/// An HMAC-signed post as it goes over the wire to `authority`.
fn signed(node: &Node, authority: &str, path: &str, nonce: &str, body: &[u8]) -> Vec<u8> {
    as_signed("POST", node, authority, path, nonce, body)
}

fn as_signed(
    method: &str,
    node: &Node,
    authority: &str,
    path: &str,
    nonce: &str,
    body: &[u8],
) -> Vec<u8> {
    let credentials = NodeCredentials {
        consumer_key: node.consumer_key.clone(),
        token_key: node.token_key.clone(),
        token_secret: node.token_secret.clone(),
    };
    let path = format!("/MAAS/metadata{path}");
    let timestamp = u64::try_from(node.clock.now().as_second()).unwrap();
    let url = format!("http://{authority}{path}");
    let header = hmac_sha1(&credentials, timestamp, nonce, method, &url);
    let headers = [
        ("Authorization", header.as_str()),
        ("Content-Type", "multipart/form-data; boundary=b"),
        ("Connection", "close"),
    ];
    wire::request(method, &path, authority, &headers, body)
}

fn replica_of(server: &TestServer) -> TestServer {
    let options = Options { clock: server.clock.clone(), ..Options::default() };
    let key = server.dir.path().join("secret.key");
    let dir = Arc::new(tempfile::Builder::new().prefix("nodeinit").tempdir().unwrap());
    let options = options.flag("secret-key-file", &key.display().to_string());
    let replica = TestServer::open(options, dir, server.database.clone());
    replica.map_err(|e| e.to_string()).unwrap()
}

#[test]
fn a_signed_read_is_served_once_by_each_replica() {
    let server = TestServer::start();
    if !server.database.is_postgres() {
        return; // one SQLite file has one server
    }
    server.clock.advance(3);
    let node = server.node("n1");
    let replica = replica_of(&server);
    server.clock.advance(3);
    let authority = server.node.to_string();
    let request = as_signed("GET", &node, &authority, "/latest/meta-data/instance-id", "r", b"");
    for one in [&server, &replica] {
        assert_eq!(wire::raw(one.node, &request).brief(), (200, "n1".into()));
        for again in [&server, one] {
            let reply = wire::raw(again.node, &request);
            assert_eq!(reply.brief(), (401, "nonce_refused".into()));
        }
    }
    assert_eq!(rows::count(&server.database, "node_nonces"), 0);
}

#[test]
fn a_signed_write_is_taken_once_by_all_replicas() {
    let server = TestServer::start();
    if !server.database.is_postgres() {
        return; // one SQLite file has one server
    }
    server.clock.advance(3);
    let node = server.node("n1");
    let replica = replica_of(&server);
    server.clock.advance(3);
    let authority = server.node.to_string();
    let mut event = event("once");
    event["timestamp"] = Value::Null;
    let body = event.to_string();
    for (number, (first, second)) in
        [(&server, &replica), (&replica, &server)].into_iter().enumerate()
    {
        let posts = [
            (signed(&node, &authority, "/status/n1", &format!("e{number}"), body.as_bytes()), 204),
            (signed(&node, &authority, "/latest/", &format!("n{number}"), NETBOOT_OFF), 200),
        ];
        for (request, status) in posts {
            assert_eq!(wire::raw(first.node, &request).status, status);
            for other in [first, second] {
                let reply = wire::raw(other.node, &request);
                assert_eq!(reply.brief(), (401, "nonce_refused".into()));
            }
        }
    }
    assert_eq!(names(&server, "n1"), ["once", "once"]);
    assert_eq!(rows::count(&server.database, "node_nonces"), 4);
}

#[test]
fn a_signed_write_is_refused_after_a_restart_that_remembers_nothing() {
    let mut server = TestServer::start();
    server.clock.advance(3);
    let node = server.node("n1");
    let authority = server.node.to_string();
    let request =
        signed(&node, &authority, "/status/n1", "n", event("once").to_string().as_bytes());
    assert_eq!(wire::raw(server.node, &request).status, 204);
    assert_eq!(wire::raw(server.node, &request).brief(), (401, "nonce_refused".into()));
    server.stop();
    // As if its memory had been lost, and its floor with it.
    std::fs::write(server.dir.path().join("nonces"), "nodeinit nonces 2 0\n").unwrap();
    let server = server.restart();
    assert_eq!(wire::raw(server.node, &request).brief(), (401, "nonce_refused".into()));
    assert_eq!(names(&server, "n1"), ["once"]);
    // A read spends nothing in the database.
    assert_eq!(node_at(&node, &server).get("/latest/meta-data/instance-id").status, 200);
    assert_eq!(rows::count(&server.database, "node_nonces"), 1);
}

fn node_at(node: &Node, server: &TestServer) -> Node {
    Node { address: server.node, ..node.clone() }
}

#[test]
fn a_write_that_failed_has_spent_no_nonce_in_the_database() {
    let server = TestServer::start();
    server.clock.advance(3);
    let node = server.node("n1");
    let authority = server.node.to_string();
    server.database.execute("ALTER TABLE events RENAME TO away");
    let request = signed(&node, &authority, "/status/n1", "n", event("x").to_string().as_bytes());
    assert_eq!(wire::raw(server.node, &request).status, 503);
    server.database.execute("ALTER TABLE away RENAME TO events");
    assert_eq!(rows::count(&server.database, "node_nonces"), 0);
}

#[test]
fn old_nonces_of_writes_are_swept() {
    let server = TestServer::start();
    server.clock.advance(3);
    let node = server.node("n1");
    let authority = server.node.to_string();
    let post = |nonce: &str| {
        let request = signed(&node, &authority, "/latest/", nonce, NETBOOT_OFF);
        assert_eq!(wire::raw(server.node, &request).status, 200);
    };
    let sweep = || wait(actions::reports::sweep(&server.app, Duration::from_hours(1))).unwrap();
    post("old");
    server.clock.advance(600);
    sweep();
    assert_eq!(rows::count(&server.database, "node_nonces"), 1, "the clock may be set back");
    server.clock.advance(3600);
    post("new");
    sweep();
    let oldest = rows::number(&server.database, "SELECT min(timestamp) FROM node_nonces");
    assert_eq!((rows::count(&server.database, "node_nonces"), oldest), (1, NOW + 4203));
}

#[test]
fn events_past_their_time_are_swept_with_the_bytes_that_nothing_else_uses() {
    let server = TestServer::start();
    let node = server.node("n1");
    server.operator().set("n1", "user-data", b"#!/bin/sh\nshared with user-data\n");
    for (name, text) in [
        ("old", "only of the old"),
        ("old too", "#!/bin/sh\nshared with user-data\n"),
        ("old three", "shared with the new"),
    ] {
        assert_eq!(report(&node, &with_file(name, text)).status, 204);
    }
    server.clock.advance(24 * 3600);
    assert_eq!(report(&node, &with_file("new", "shared with the new")).status, 204);
    let sweep = |days: u64| {
        wait(actions::reports::sweep(&server.app, Duration::from_hours(24 * days))).unwrap()
    };
    assert_eq!((sweep(2), rows::count(&server.database, "blobs")), (0, 3));
    server.clock.advance(1);
    assert_eq!((sweep(1), rows::count(&server.database, "blobs")), (3, 2));
    assert_eq!(names(&server, "n1"), ["new"]);
    assert_eq!(rows::count(&server.database, "event_files"), 1);
    assert_eq!(node.get("/latest/user-data").text(), "#!/bin/sh\nshared with user-data\n");
    assert_eq!(sweep(1), 0);
    // The swept ones are no repeats any more; what is there still is.
    assert_eq!(report(&node, &event("new")).status, 204);
    assert_eq!(names(&server, "n1"), ["new"]);
}

#[test]
fn a_sweep_takes_more_than_one_batch_and_runs_by_itself() {
    let server = TestServer::start_with(
        Options::default().flag("node-rate", "1000000").flag("keep-events", "1h"),
    );
    let node = server.node("n1");
    std::thread::scope(|scope| {
        for part in 0..8 {
            let node = &node;
            scope.spawn(move || {
                for number in 0..60 {
                    assert_eq!(report(node, &event(&format!("{part}-{number}"))).status, 204);
                }
            });
        }
    });
    assert_eq!(rows::count(&server.database, "events"), 480);
    server.clock.advance(3601);
    let sweep = wait(actions::reports::sweep(&server.app, Duration::from_hours(1))).unwrap();
    assert_eq!((sweep, rows::count(&server.database, "events")), (480, 0));
    assert_eq!(report(&node, &event("last")).status, 204);
    server.clock.advance(3601);
    let server = server.restart();
    let began = Instant::now();
    while rows::count(&server.database, "events") > 0 {
        assert!(began.elapsed() < Duration::from_secs(20), "the server's own sweep");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_removed_node_takes_its_events_and_their_bytes_along() {
    let server = TestServer::start();
    let [first, second] = ["n1", "n2"].map(|id| server.node(id));
    assert_eq!(report(&first, &with_file("a", "shared")).status, 204);
    assert_eq!(report(&first, &with_file("b", "its own")).status, 204);
    assert_eq!(report(&second, &with_file("a", "shared")).status, 204);
    server.operator().session.delete("/v1/default/nodes/n1").unwrap();
    assert_eq!(rows::count(&server.database, "events"), 1);
    assert_eq!(rows::count(&server.database, "blobs"), 1);
    assert_eq!(names(&server, "n2"), ["a"]);
}

/// Posts one event on a connection of its own; `None` when the server was gone before it answered.
fn post(node: &Node, name: &str) -> Option<u16> {
    let headers = [("Authorization", &*node.header()), ("Connection", "close")];
    let path = format!("/MAAS/metadata/status/{}", node.system_id);
    let host = node.address.to_string();
    let body = event(name).to_string();
    let request = wire::request("POST", &path, &host, &headers, body.as_bytes());
    let mut stream = TcpStream::connect(node.address).ok()?;
    stream.write_all(&request).ok()?;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    // Only a whole answer counts.
    let text = String::from_utf8_lossy(&answer);
    let (head, _) = text.split_once("\r\n\r\n")?;
    head.split(' ').nth(1)?.parse().ok()
}

#[test]
fn w15_d45_kill_9_after_a_204_loses_nothing() {
    let kills = if std::env::var_os("NODEINIT_LONG").is_some() { 300 } else { 10 };
    let home = Home::new();
    let serve = || home.serve_with(&["--node-rate", "1000000"]);
    let mut server = serve();
    let nodes: Vec<Node> = (0..4).map(|i| server.node(&format!("n{i}"))).collect();
    let mut acknowledged: Vec<BTreeSet<String>> = vec![BTreeSet::new(); nodes.len()];
    for kill in 0..kills {
        let address = server.node;
        let posted: Vec<Vec<String>> = std::thread::scope(|scope| {
            let posting: Vec<_> = nodes
                .iter()
                .map(|node| {
                    let node = Node { address, ..node.clone() };
                    scope.spawn(move || {
                        let mut taken = Vec::new();
                        for number in 0.. {
                            let name = format!("{kill}-{number}");
                            match post(&node, &name) {
                                Some(204) => taken.push(name),
                                Some(status) => panic!("{status}"),
                                None => return taken,
                            }
                        }
                        taken
                    })
                })
                .collect();
            std::thread::sleep(Duration::from_millis(40 + kill * 53 % 200));
            server.kill();
            posting.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        for (all, posted) in acknowledged.iter_mut().zip(posted) {
            all.extend(posted);
        }
        server = serve();
        for (node, acknowledged) in nodes.iter().zip(&acknowledged) {
            assert_all_there(&server, node, acknowledged);
        }
    }
    let all: usize = acknowledged.iter().map(BTreeSet::len).sum();
    assert!(all as u64 > kills, "{all} events were acknowledged in {kills} lives");
    server.stop();
}

fn assert_all_there(server: &Process, node: &Node, acknowledged: &BTreeSet<String>) {
    let path = format!("/v1/default/nodes/{}/events", node.system_id);
    let events = server.operator().session.list(&path, None).unwrap();
    let there: Vec<String> =
        events.iter().map(|event| event["name"].as_str().unwrap().to_owned()).collect();
    let distinct: BTreeSet<String> = there.iter().cloned().collect();
    let lost: Vec<&String> = acknowledged.difference(&distinct).collect();
    assert!(lost.is_empty(), "{} lost {lost:?}", node.system_id);
    assert_eq!(distinct.len(), there.len(), "none twice");
}

#[test]
fn no_text_of_an_event_is_logged() {
    let home = Home::new();
    let server = home.serve();
    let node = server.node("n1");
    let mut told = with_file("SECRET-name", "SECRET-content");
    told["description"] = "SECRET-description".into();
    told["files"][0]["path"] = "SECRET-path".into();
    assert_eq!(report(&node, &told).status, 204);
    told["origin"] = Value::Null;
    told["result"] = "SECRET-result".into();
    assert_eq!(report(&node, &told).status, 400);
    let header = node.header();
    let headers =
        [("Authorization", &*header), ("Content-Type", "application/x-www-form-urlencoded")];
    let form = b"op=signal&status=FAILED&error=SECRET-error";
    assert_eq!(node.send("POST", "/latest/", &headers, form).status, 200);
    let form = b"op=signal&status=SECRET-status";
    assert_eq!(node.send("POST", "/latest/", &headers, form).status, 400);
    let said = server.stop();
    assert!(said.contains("report_invalid"), "{said}");
    assert!(!said.contains("SECRET"), "{said}");
}
