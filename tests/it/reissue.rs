//! Reissue, which makes before it breaks, and reprovision, which breaks for good.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nodeinit::actions;
use nodeinit::domain::credentials::TokenKey;
use serde_json::{Value, json};

use crate::support::{Method, Node, Options, Reply, TestServer, rows, socket, wait};

const JSON: (&str, &str) = ("content-type", "application/json");

fn path(system_id: &str, below: &str) -> String {
    format!("/v1/default/nodes/{system_id}{below}")
}

fn reissue_with(server: &TestServer, system_id: &str, body: &str) -> Reply {
    let path = path(system_id, "/token/reissue");
    socket::send(&server.socket, "POST", &path, &[JSON], body.as_bytes())
}

fn reissue(server: &TestServer, system_id: &str) -> Node {
    let reply = reissue_with(server, system_id, "");
    assert_eq!(reply.status, 200, "{}", reply.text());
    Node::new(server.node, server.clock.clone(), &reply.json())
}

fn revoke(server: &TestServer, system_id: &str) {
    server.operator().session.delete(&path(system_id, "/token")).unwrap();
}

fn read(node: &Node) -> u16 {
    node.get("/latest/meta-data/instance-id").status
}

fn flush(server: &TestServer) {
    wait(actions::cull::flush(&server.app)).unwrap();
}

/// A read, and what it taught is committed.
fn used(server: &TestServer, node: &Node) -> u16 {
    let status = read(node);
    flush(server);
    status
}

/// The states of a node's tokens, sorted: tokens made within a millisecond have no order.
fn states(server: &TestServer, system_id: &str) -> Vec<String> {
    let rows = server.operator().session.list("/v1/tokens", None).unwrap();
    let mut states: Vec<String> = rows
        .iter()
        .filter(|row| row["system_id"] == system_id)
        .map(|row| row["state"].as_str().unwrap().to_owned())
        .collect();
    states.sort();
    states
}

fn node_of(server: &TestServer, node: &Node) -> Option<String> {
    let key = TokenKey::trusted(node.token_key.clone());
    wait(actions::tokens::get_node_for_key(&server.app, key)).unwrap()
}

#[test]
fn a_new_token_is_live_and_the_old_one_works_until_the_new_one_is_used() {
    let server = TestServer::start();
    let old = server.node("n1");
    assert_eq!(used(&server, &old), 200);
    let new = reissue(&server, "n1");
    assert_ne!((&new.token_key, &new.token_secret), (&old.token_key, &old.token_secret));
    assert_eq!(states(&server, "n1"), ["live", "retiring"]);
    // The laws: get is the live one's; both keys are the node's.
    assert_eq!(server.credentials("n1").token_key, new.token_key);
    for node in [&old, &new] {
        assert_eq!(node_of(&server, node).as_deref(), Some("n1"));
    }
    for _ in 0..3 {
        assert_eq!(used(&server, &old), 200, "its own use ends nothing");
    }
    assert_eq!(used(&server, &new), 200);
    assert_eq!(states(&server, "n1"), ["ended", "live"]);
    assert_eq!((read(&old), read(&new)), (401, 200));
    assert_eq!(node_of(&server, &old), None);
    let why = "SELECT ended_by FROM tokens WHERE ended_at IS NOT NULL";
    assert_eq!(rows::text(&server.database, why), "reissue");
}

#[test]
fn a_first_use_that_is_a_post_ends_the_old_token_with_its_commit() {
    let server = TestServer::start();
    let old = server.node("n1");
    assert_eq!(used(&server, &old), 200);
    let new = reissue(&server, "n1");
    let post = |node: &Node| {
        let header = node.header();
        let signed = [("Authorization", header.as_str())];
        let body =
            br#"{"event_type": "start", "origin": "cloudinit", "name": "init", "description": ""}"#;
        node.send("POST", "/status/n1", &signed, body).status
    };
    assert_eq!((post(&old), post(&new)), (204, 204));
    assert_eq!(states(&server, "n1"), ["ended", "live"]);
    assert_eq!((post(&old), post(&new)), (401, 204));
}

#[test]
fn a_first_use_is_learnt_within_a_second_and_no_read_waits_for_it() {
    let server = TestServer::start_with(Options::default().system_clock());
    let old = server.node("n1");
    let new = reissue(&server, "n1");
    let held = rows::hold(&server.database, &["tokens", "node_keys"]);
    let began = Instant::now();
    assert_eq!(read(&new), 200);
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    assert_eq!(read(&old), 200);
    drop(held);
    let began = Instant::now();
    while read(&old) == 200 {
        assert!(began.elapsed() < Duration::from_secs(10), "nobody has learnt of the use");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(read(&new), 200);
}

#[test]
fn an_old_token_ends_at_its_deadline_swept_or_not() {
    let server = TestServer::start();
    let old = server.node("n1");
    let other = server.node("n2");
    let reply = reissue_with(&server, "n1", r#"{"retire_after": "2h"}"#);
    assert_eq!(reply.status, 200);
    reissue(&server, "n2");
    server.clock.advance(2 * 3600 - 1);
    assert_eq!(read(&old), 200);
    server.clock.advance(1);
    assert_eq!(read(&old), 401, "no sweep has passed");
    assert_eq!(node_of(&server, &old), None);
    assert_eq!(read(&other), 200, "a day is the default");
    let keep = Duration::from_hours(24 * 30);
    wait(actions::cull::sweep(&server.app, keep)).unwrap();
    assert_eq!(states(&server, "n1"), ["ended", "live"]);
    assert_eq!(states(&server, "n2"), ["live", "retiring"]);
    server.clock.advance(22 * 3600);
    assert_eq!(read(&other), 401);
    for bad in [r#"{"retire_after": "91d"}"#, r#"{"retire_after": 5}"#, r#"{"x": 1}"#, "x"] {
        assert_eq!(reissue_with(&server, "n1", bad).status, 400, "{bad}");
    }
    let now = reissue_with(&server, "n2", r#"{"retire_after": "0s"}"#);
    assert_eq!(now.status, 200);
}

#[test]
fn a_reissue_that_nobody_has_taken_up_is_given_again() {
    let server = TestServer::start();
    let first = server.node("n1");
    assert_eq!(used(&server, &first), 200);
    let second = reissue(&server, "n1");
    server.clock.advance(23 * 3600);
    let again = reissue(&server, "n1");
    assert_eq!(again.token_key, second.token_key);
    assert_eq!(again.token_secret, second.token_secret);
    assert_eq!(states(&server, "n1"), ["live", "retiring"]);
    server.clock.advance(23 * 3600);
    assert_eq!(used(&server, &first), 200, "the deadline counts from the second");
    assert_eq!(used(&server, &second), 200);
    // Now it is taken up, and the next is another.
    let third = reissue(&server, "n1");
    assert_ne!(third.token_key, second.token_key);
    assert_eq!(states(&server, "n1"), ["ended", "live", "retiring"]);
    // So it is when the old one's time was up, whether or not anybody swept.
    server.clock.advance(24 * 3600);
    let fourth = reissue(&server, "n1");
    assert_ne!(fourth.token_key, third.token_key);
    assert_eq!(states(&server, "n1"), ["ended", "ended", "live", "retiring"]);
    assert_eq!((read(&second), read(&third), read(&fourth)), (401, 200, 200));
}

#[test]
fn a_node_without_a_token_gets_its_first_and_revoking_ends_both() {
    let server = TestServer::start();
    server.operator().add("n1", json!({}));
    let first = reissue(&server, "n1");
    assert_eq!(states(&server, "n1"), ["live"]);
    let second = reissue(&server, "n1");
    assert_eq!((read(&first), read(&second)), (200, 200));
    revoke(&server, "n1");
    assert_eq!((read(&first), read(&second)), (401, 401));
    assert_eq!(states(&server, "n1"), ["ended", "ended"]);
    assert_eq!(reissue_with(&server, "none", "").status, 404);
    let secrets = rows::dump(&server.database);
    for secret in [&first.token_secret, &second.token_secret] {
        assert!(!rows::holds(&secrets, secret), "sealed like any other");
    }
}

#[test]
fn both_are_told_in_the_audit() {
    let server = TestServer::start();
    server.node("n1");
    let new = reissue(&server, "n1");
    server
        .operator()
        .session
        .send_json(Method::POST, &path("n1", "/reprovision"), &json!({}))
        .unwrap();
    let audit = server.operator().session.get("/v1/audit?limit=1000").unwrap();
    let rows: Vec<&Value> = audit["items"].as_array().unwrap().iter().collect();
    let of = |verb: &str| rows.iter().find(|row| row["verb"] == verb).expect(verb).to_string();
    assert!(of("token:reissue").contains(&new.token_key));
    assert!(of("node:reprovision").contains("n1.r1"));
    assert!(!audit.to_string().contains(&new.token_secret));
}

/// A node that reads without a pause. It holds the token that last worked and the newest it was
/// given, and there must be no instant at which neither works.
fn read_on(server: &TestServer, first: Node, stop: &AtomicBool, reads: &AtomicUsize) {
    let mut works = first;
    while !stop.load(Ordering::SeqCst) {
        let given = server.credentials("n1");
        for _ in 0..3 {
            let (old, new) = (read(&works), read(&given));
            assert!(old == 200 || new == 200, "neither works: {old} and {new}");
            reads.fetch_add(1, Ordering::SeqCst);
            if new == 200 {
                works = given.clone();
            }
        }
    }
}

#[test]
fn at_no_instant_neither_token_works_whoever_reissues_gets_and_uses_at_once() {
    let server = TestServer::start_with(
        Options::default().system_clock().flag("node-rate", "100000").flag("node-burst", "100000"),
    );
    let first = server.node("n1");
    assert_eq!(used(&server, &first), 200);
    let (stop, reads) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        // One machine: a use by anybody else would say that the old token is not needed any more.
        let reader = scope.spawn(|| read_on(&server, first.clone(), &stop, &reads));
        let reissuers: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    for _ in 0..15 {
                        reissue(&server, "n1");
                        std::thread::sleep(Duration::from_millis(40));
                    }
                })
            })
            .collect();
        let flusher = scope.spawn(|| {
            while !stop.load(Ordering::SeqCst) {
                flush(&server);
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let mut done: Vec<_> =
            reissuers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        stop.store(true, Ordering::SeqCst);
        done.extend([reader.join(), flusher.join()]);
        assert!(done.iter().all(Result::is_ok));
    });
    assert!(reads.load(Ordering::SeqCst) > 20);
    let ended = states(&server, "n1").iter().filter(|state| *state == "ended").count();
    assert!(ended >= 3, "tokens really were replaced: {:?}", states(&server, "n1"));
    for state in ["live", "retiring"] {
        let count = format!("SELECT count(*) FROM node_keys WHERE state = '{state}'");
        assert!(rows::number(&server.database, &count) <= 1, "{state}");
    }
}

#[test]
fn with_revokers_among_them_what_remains_is_in_order() {
    let server = TestServer::start_with(
        Options::default().system_clock().flag("node-rate", "100000").flag("node-burst", "100000"),
    );
    server.node("n1");
    std::thread::scope(|scope| {
        for worker in 0..5 {
            let server = &server;
            scope.spawn(move || {
                for _ in 0..10 {
                    match worker {
                        0 | 1 => assert!(matches!(read(&reissue(server, "n1")), 200 | 401)),
                        2 => revoke(server, "n1"),
                        3 => assert!(matches!(read(&server.credentials("n1")), 200 | 401)),
                        _ => flush(server),
                    }
                }
            });
        }
    });
    let live = "SELECT count(*) FROM node_keys WHERE state = 'live'";
    assert!(rows::number(&server.database, live) <= 1);
    let both = "SELECT count(*) FROM node_keys k JOIN tokens t ON t.id = k.token_id \
                WHERE t.ended_at IS NOT NULL";
    assert_eq!(rows::number(&server.database, both), 0, "who has ended speaks for nobody");
    let node = server.credentials("n1");
    assert_eq!(read(&node), 200);
    assert_eq!(node_of(&server, &node).as_deref(), Some("n1"));
    let new = reissue(&server, "n1");
    assert_eq!(used(&server, &new), 200);
}

#[test]
fn reprovisioning_ends_the_tokens_and_changes_the_instance() {
    let server = TestServer::start();
    let first = server.node("n1");
    let old = reissue(&server, "n1");
    let bystander = server.node("n2");
    for number in 1..=3 {
        let path = path("n1", "/reprovision");
        let reply = socket::send(&server.socket, "POST", &path, &[], b"");
        assert_eq!(reply.status, 200, "{}", reply.text());
        let node = reply.json();
        let instance_id = format!("n1.r{number}");
        assert_eq!((&node["system_id"], &node["boot_state"]), (&json!("n1"), &json!("new")));
        assert_eq!(node["instance_id"], instance_id.as_str());
        assert_eq!((read(&first), read(&old)), (401, 401));
        let new = server.credentials("n1");
        assert_ne!(new.token_key, old.token_key);
        let read = new.get("/latest/meta-data/instance-id");
        assert_eq!(read.brief(), (200, instance_id));
    }
    let why = "SELECT count(*) FROM tokens WHERE ended_by = 'reprovision'";
    assert_eq!(rows::number(&server.database, why), 4);
    assert_eq!(bystander.get("/latest/meta-data/instance-id").text(), "n2");
    let missing = socket::send(&server.socket, "POST", &path("no", "/reprovision"), &[], b"");
    assert_eq!(missing.status, 404);
    let body =
        socket::send(&server.socket, "POST", &path("n1", "/reprovision"), &[JSON], b"{\"x\": 1}");
    assert_eq!(body.status, 400);
}
