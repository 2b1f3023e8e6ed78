//! Events while the store is away, behind, or wants one of them not.

use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::cable::cabled;
use crate::support::{Node, Options, Reply, TestServer, rows};

/// Without a time of its own, so that the same one again is another.
fn event(kind: &str, name: &str) -> Value {
    json!({"event_type": kind, "origin": "cloudinit", "name": name, "description": ""})
}

fn post(node: &Node, event: &Value) -> Reply {
    let path = format!("/status/{}", node.system_id);
    let header = node.header();
    node.send("POST", &path, &[("Authorization", &header)], event.to_string().as_bytes())
}

fn fast() -> Options {
    Options::default().flag("node-rate", "1000000")
}

fn stored(server: &TestServer, name: &str) -> i64 {
    rows::number(&server.database, &format!("SELECT count(*) FROM events WHERE name = '{name}'"))
}

#[test]
fn what_is_posted_while_the_database_restarts_is_taken_once_it_is_back() {
    let (server, first, mut cable) = cabled(fast());
    if !server.database.is_postgres() {
        return; // a file is never away
    }
    let nodes: Vec<Node> =
        std::iter::once(first).chain((2..8).map(|i| server.node(&format!("n{i}")))).collect();
    for node in &nodes {
        assert_eq!(post(node, &event("start", "before")).status, 204);
    }
    cable.cut();
    let cut = Instant::now();
    std::thread::scope(|scope| {
        for node in &nodes {
            scope.spawn(move || {
                for (kind, name) in [("start", "a"), ("progress", "b"), ("finish", "c")] {
                    let reply = post(node, &event(kind, name));
                    assert_eq!(reply.status, 204, "{}", reply.text());
                    assert!(cut.elapsed() > Duration::from_secs(2), "{:?}", cut.elapsed());
                }
            });
        }
        scope.spawn(|| {
            let form = ("Content-Type", "application/x-www-form-urlencoded");
            let headers = [("Authorization", &*nodes[0].header()), form];
            let reply = nodes[0].send("POST", "/latest/", &headers, b"op=netboot_off");
            assert_eq!(reply.brief(), (200, "OK".into()));
        });
        std::thread::sleep(Duration::from_secs(2));
        cable.mend();
    });
    let left = "SELECT count(*) FROM nodes WHERE NOT netboot";
    assert_eq!(rows::number(&server.database, left), 1);
    let took = cut.elapsed();
    assert!(took < Duration::from_secs(6), "{took:?}");
    for name in ["before", "a", "b", "c"] {
        assert_eq!(stored(&server, name), 7, "{name}");
    }
}

#[test]
fn a_commit_that_nobody_heard_of_is_not_made_twice() {
    let (server, node, mut cable) = cabled(fast());
    if !server.database.is_postgres() {
        return; // nothing comes between a file and who writes it
    }
    // It takes its time at the commit itself, when all was said.
    server.database.execute(
        "CREATE FUNCTION linger() RETURNS trigger LANGUAGE plpgsql AS \
         $$ BEGIN PERFORM pg_sleep(1.5); RETURN NULL; END $$",
    );
    server.database.execute(
        "CREATE CONSTRAINT TRIGGER linger AFTER INSERT ON events DEFERRABLE INITIALLY DEFERRED \
         FOR EACH ROW WHEN (NEW.name = 'once') EXECUTE FUNCTION linger()",
    );
    assert_eq!(post(&node, &event("start", "before")).status, 204);
    std::thread::scope(|scope| {
        let posted = scope.spawn(|| post(&node, &event("finish", "once")));
        std::thread::sleep(Duration::from_millis(700));
        cable.cut();
        cable.mend();
        let reply = posted.join().unwrap();
        assert_eq!(reply.status, 204, "{}", reply.text());
    });
    assert_eq!(stored(&server, "once"), 1);
    assert_eq!(post(&node, &event("finish", "after")).status, 204);
}

#[test]
fn a_database_that_stays_away_is_503_within_10_s_and_nothing_of_it_is_stored_later() {
    let (server, node, mut cable) = cabled(fast());
    if !server.database.is_postgres() {
        return; // a file is never away
    }
    assert_eq!(post(&node, &event("start", "before")).status, 204);
    cable.cut();
    let began = Instant::now();
    let reply = post(&node, &event("finish", "late"));
    let took = began.elapsed();
    assert_eq!(reply.status, 503, "{}", reply.text());
    assert!(reply.header("retry-after").is_some());
    assert!(took > Duration::from_secs(8) && took < Duration::from_secs(10), "{took:?}");
    cable.mend();
    let began = Instant::now();
    while post(&node, &event("finish", "after")).status != 204 {
        assert!(began.elapsed() < Duration::from_secs(10), "it does not come back");
    }
    assert_eq!(stored(&server, "late"), 0);
}

/// Posts, each of a node of its own, that gather while the store is held; `done` lets it go.
fn gathered(server: &TestServer, events: &[Value], while_held: impl FnOnce()) -> Vec<(Value, u16)> {
    let first = server.node("first");
    let nodes: Vec<Node> = (0..events.len()).map(|i| server.node(&format!("n{i}"))).collect();
    for node in nodes.iter().chain([&first]) {
        assert_eq!(post(node, &event("finish", "before")).status, 204);
    }
    let held = rows::hold(&server.database, &["events"]);
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| post(&first, &event("finish", "first")).status);
        std::thread::sleep(Duration::from_millis(200));
        let posting: Vec<_> = nodes
            .iter()
            .zip(events)
            .map(|(node, event)| scope.spawn(move || (event.clone(), post(node, event).status)))
            .collect();
        std::thread::sleep(Duration::from_millis(400));
        while_held();
        drop(held);
        assert_eq!(writing.join().unwrap(), 204);
        posting.into_iter().map(|posted| posted.join().unwrap()).collect()
    })
}

#[test]
fn past_the_bound_starts_and_progress_are_503_at_once_and_what_ends_is_taken() {
    let server = TestServer::start_with(fast());
    let more = ["s", "p", "f"].map(|id| server.node(id));
    for node in &more {
        assert_eq!(post(node, &event("start", "before")).status, 204);
    }
    server.app.reports.most_waiting.store(8, Ordering::Relaxed);
    let events: Vec<Value> = (0..8).map(|i| event("start", &format!("waiting {i}"))).collect();
    let (ended, end) = (AtomicU16::new(0), &more[2]);
    std::thread::scope(|scope| {
        let posted = gathered(&server, &events, || {
            for (node, kind) in more.iter().zip(["start", "progress"]) {
                let began = Instant::now();
                let reply = post(node, &event(kind, "one too many"));
                assert_eq!(reply.brief(), (503, "Try again".into()));
                assert!(reply.header("retry-after").is_some());
                assert!(began.elapsed() < Duration::from_millis(300), "{:?}", began.elapsed());
            }
            scope.spawn(|| {
                let reply = post(end, &event("finish", "the end"));
                ended.store(reply.status, Ordering::Relaxed);
            });
            std::thread::sleep(Duration::from_millis(200));
        });
        assert!(posted.iter().all(|(_, status)| *status == 204), "{posted:?}");
    });
    assert_eq!(ended.into_inner(), 204);
    assert_eq!((stored(&server, "one too many"), stored(&server, "the end")), (0, 1));
    // It went before those that had waited longer.
    let id = |name| format!("SELECT id FROM events WHERE name = '{name}'");
    let earlier = format!(
        "SELECT count(*) FROM events WHERE id < ({}) AND name LIKE 'waiting%'",
        id("the end")
    );
    assert_eq!(rows::number(&server.database, &earlier), 0);
}

#[test]
fn one_bad_event_in_a_full_batch_is_refused_alone() {
    let server = TestServer::start_with(fast());
    let poison = if server.database.is_postgres() {
        "CREATE FUNCTION poison() RETURNS trigger LANGUAGE plpgsql AS \
         $$ BEGIN IF NEW.name = 'poison' THEN RAISE EXCEPTION 'poison'; END IF; RETURN NEW; END $$; \
         CREATE TRIGGER poison BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION poison()"
    } else {
        "CREATE TRIGGER poison BEFORE INSERT ON events WHEN NEW.name = 'poison' \
         BEGIN SELECT RAISE(ABORT, 'poison'); END"
    };
    for statement in poison.split_inclusive("$$;") {
        server.database.execute(statement);
    }
    let mut events: Vec<Value> = (0..40).map(|i| event("finish", &format!("good {i}"))).collect();
    events[17] = event("finish", "poison");
    let posted = gathered(&server, &events, || {});
    for (event, status) in &posted {
        let is_bad = event["name"] == "poison";
        assert_eq!(*status, if is_bad { 503 } else { 204 }, "{event}");
    }
    assert_eq!(stored(&server, "poison"), 0);
    let good = "SELECT count(*) FROM events WHERE name LIKE 'good%'";
    assert_eq!(rows::number(&server.database, good), 39);
    let known = "SELECT count(*) FROM boots WHERE system_id LIKE 'n%'";
    assert_eq!(rows::number(&server.database, known), 40);
}

#[test]
fn an_event_from_before_repeats_were_sorted_by_time_is_still_known() {
    let mut server = TestServer::start();
    let node = server.node("n1");
    let mut event = event("finish", "once");
    event["timestamp"] = json!(1_795_315_087.5);
    assert_eq!(post(&node, &event).status, 204);
    server.stop();
    if !server.database.is_postgres() {
        server.database.execute("UPDATE events SET repeat_of = substr(repeat_of, 9)");
    }
    server
        .database
        .execute("DELETE FROM __diesel_schema_migrations WHERE version = '20261126000011'");
    let server = server.restart();
    let node = Node { address: server.node, ..node };
    assert_eq!(post(&node, &event).status, 204);
    assert_eq!(stored(&server, "once"), 1);
}

#[test]
fn a_node_that_somebody_holds_keeps_no_other_nodes_events_waiting() {
    let server = TestServer::start_with(fast());
    if !server.database.is_postgres() {
        return; // nobody else has the file
    }
    let (held, free) = (server.node("held"), server.node("free"));
    for node in [&held, &free] {
        assert_eq!(post(node, &event("start", "before")).status, 204);
    }
    let mut hand = rows::open(&server.database);
    rows::run(&mut hand, "BEGIN");
    rows::run(&mut hand, "UPDATE nodes SET netboot = netboot WHERE system_id = 'held'");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let (reply, began) = (post(&held, &event("finish", "kept")), Instant::now());
            assert!(began.elapsed() < Duration::from_secs(10));
            reply
        });
        let until = Instant::now() + Duration::from_secs(3);
        let mut slowest = Duration::ZERO;
        while Instant::now() < until {
            let began = Instant::now();
            assert_eq!(post(&free, &event("progress", "meanwhile")).status, 204);
            slowest = slowest.max(began.elapsed());
        }
        assert!(slowest < Duration::from_secs(2), "{slowest:?}");
        rows::run(&mut hand, "COMMIT");
        assert_eq!(waiting.join().unwrap().status, 204, "it is tried again until then");
    });
    assert_eq!(stored(&server, "kept"), 1);

    // One that is held for longer than a post may take is turned away, and not stored after that.
    rows::run(&mut hand, "BEGIN");
    rows::run(&mut hand, "UPDATE nodes SET netboot = netboot WHERE system_id = 'held'");
    let began = Instant::now();
    let reply = post(&held, &event("finish", "late"));
    assert_eq!(reply.status, 503, "{}", reply.text());
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    rows::run(&mut hand, "COMMIT");
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(stored(&server, "late"), 0);
}
