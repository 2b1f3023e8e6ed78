//! The cull, which an operator asks for, and the sweep, which nobody does: what goes, what stays.

use std::collections::BTreeMap;
use std::time::Duration;

use nodeinit::actions;
use nodeinit::store::{boots, nodes};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::support::{Method, NOW, Node, Options, Reply, TestServer, rows, wait};

const DAY: i64 = 86_400;

fn ask(server: &TestServer, body: &Value) -> Reply {
    let headers = [("content-type", "application/json")];
    let path = "/v1/tokens/cull";
    server.operator().send(Method::POST, path, &headers, body.to_string().as_bytes())
}

/// The nodes whose tokens went, by name.
fn culled(server: &TestServer, body: &Value) -> Vec<String> {
    let reply = ask(server, body);
    assert_eq!(reply.status, 200, "{body}: {}", reply.text());
    let tokens = reply.json()["tokens"].as_array().unwrap().clone();
    let name = |token: &Value| token["system_id"].as_str().unwrap().to_owned();
    let mut names: Vec<String> = tokens.iter().map(name).collect();
    // Tokens made within one tick of a fixed clock have no order of their own.
    names.sort();
    names
}

fn status(node: &Node) -> u16 {
    node.get("/latest/meta-data/instance-id").status
}

/// A use that is on disk.
fn used(server: &TestServer, node: &Node) {
    assert_eq!(status(node), 200);
    wait(actions::cull::flush(&server.app)).unwrap();
}

fn many(server: &TestServer, names: std::ops::Range<usize>) -> Vec<Node> {
    let ids: Vec<String> = names.map(|i| format!("n{i:03}")).collect();
    let lines: String = ids
        .iter()
        .map(|id| {
            format!("{}\n", json!({"system_id": id, "hostname": format!("{id}.example.com")}))
        })
        .collect();
    let headers = [("content-type", "application/x-ndjson")];
    let operator = server.operator();
    let path = "/v1/default/nodes";
    assert_eq!(operator.send(Method::POST, path, &headers, lines.as_bytes()).status, 200);
    let lines: String = ids.iter().map(|id| format!("\"{id}\"\n")).collect();
    let reply = operator.send(Method::POST, "/v1/default/tokens", &headers, lines.as_bytes());
    let credentials = |line: &str| {
        Node::new(server.node, server.clock.clone(), &serde_json::from_str(line).unwrap())
    };
    reply.text().lines().map(credentials).collect()
}

#[test]
fn t20_only_tokens_unused_for_that_long_go_and_used_ones_keep_working() {
    let server = TestServer::start();
    let old_unused = server.node("old-unused");
    let old_used = server.node("old-used");
    used(&server, &old_used);
    server.clock.advance(7 * DAY);
    let young = server.node("young");
    let younger = server.node("younger-used");
    used(&server, &younger);
    // Exactly seven days are not more than seven days.
    assert_eq!(culled(&server, &json!({"unused_for": "7d"})), Vec::<String>::new());
    server.clock.advance(1);
    assert_eq!(culled(&server, &json!({"unused_for": "7d"})), ["old-unused"]);
    for (node, expected) in [(&old_unused, 401), (&old_used, 200), (&young, 200), (&younger, 200)] {
        assert_eq!(status(node), expected, "{}", node.system_id);
    }
}

#[test]
fn idle_tokens_go_by_their_last_use_and_unused_ones_by_their_age() {
    let server = TestServer::start();
    let unused = server.node("a-unused");
    let idle = server.node("b-idle");
    let busy = server.node("c-busy");
    used(&server, &idle);
    used(&server, &busy);
    server.clock.advance(89 * DAY);
    used(&server, &busy);
    server.clock.advance(DAY);
    assert!(culled(&server, &json!({"idle_for": "90d", "dry_run": true})).is_empty());
    server.clock.advance(1);
    // Never used is not idle: that is what unused_for is for.
    assert_eq!(culled(&server, &json!({"idle_for": "90d", "dry_run": true})), ["b-idle"]);
    assert_eq!(culled(&server, &json!({"unused_for": "90d", "dry_run": true})), ["a-unused"]);
    let both = json!({"idle_for": "90d", "unused_for": "90d"});
    assert_eq!(culled(&server, &both), ["a-unused", "b-idle"]);
    assert_eq!((status(&unused), status(&idle), status(&busy)), (401, 401, 200));
}

#[test]
fn a_use_that_is_not_on_disk_yet_counts() {
    let server = TestServer::start();
    let node = server.node("n1");
    server.clock.advance(8 * DAY);
    assert_eq!(status(&node), 200);
    assert!(culled(&server, &json!({"unused_for": "7d"})).is_empty());
    server.clock.advance(100 * DAY);
    assert_eq!(status(&node), 200);
    assert!(culled(&server, &json!({"idle_for": "90d", "unused_for": "90d"})).is_empty());
    assert_eq!(status(&node), 200);
}

#[test]
fn a_use_short_of_a_minute_after_the_last_one_counts() {
    let server = TestServer::start();
    let node = server.node("n1");
    used(&server, &node);
    server.clock.advance(50);
    used(&server, &node);
    server.clock.advance(15);
    assert!(culled(&server, &json!({"idle_for": "1m"})).is_empty(), "it was used 15 s ago");
    assert_eq!(status(&node), 200);
}

#[test]
fn last_use_is_on_disk_within_a_second() {
    let server = TestServer::start();
    let node = server.node("n1");
    assert_eq!(rows::count(&server.database, "tokens WHERE last_used_at IS NOT NULL"), 0);
    server.clock.advance(5);
    assert_eq!(status(&node), 200);
    let began = std::time::Instant::now();
    let noted = format!("tokens WHERE last_used_at = {}", (NOW + 5) * 1_000_000);
    while rows::count(&server.database, &noted) == 0 {
        assert!(began.elapsed() < Duration::from_secs(10), "it is never written");
        std::thread::sleep(Duration::from_millis(20));
    }
    let took = began.elapsed();
    assert!(took < Duration::from_secs(3), "{took:?} on a busy machine, 1 s on an idle one");
    let shown = server.operator().session.get("/v1/default/nodes/n1/token").unwrap();
    assert_eq!(shown["last_used_at"], "2027-01-15T08:00:05Z");
}

#[test]
fn last_use_survives_a_clean_stop_and_never_goes_back() {
    let server = TestServer::start();
    let node = server.node("n1");
    server.clock.advance(100);
    assert_eq!(status(&node), 200);
    let server = server.restart();
    let last_use = || rows::number(&server.database, "SELECT last_used_at FROM tokens");
    assert_eq!(last_use(), (NOW + 100) * 1_000_000);
    let node = server.credentials("n1");
    server.clock.advance(-90);
    used(&server, &node);
    assert_eq!(last_use(), (NOW + 100) * 1_000_000);
}

#[test]
fn a_refused_request_is_no_use() {
    let server = TestServer::start();
    let node = server.node("n1");
    let forged = Node { token_secret: "x".repeat(32), ..node.clone() };
    assert_eq!(status(&forged), 401);
    wait(actions::cull::flush(&server.app)).unwrap();
    assert_eq!(rows::count(&server.database, "tokens WHERE last_used_at IS NOT NULL"), 0);
}

#[test]
fn a_dry_run_says_exactly_what_goes_and_a_second_run_finds_nothing() {
    let server = TestServer::start();
    let nodes = many(&server, 0..30);
    for node in nodes.iter().step_by(3) {
        used(&server, node);
    }
    server.clock.advance(10 * DAY);
    let rule = json!({"unused_for": "7d", "max": "20"});
    let mut dry = rule.clone();
    dry["dry_run"] = true.into();
    let said = ask(&server, &dry).json();
    assert_eq!(ask(&server, &dry).json(), said, "a dry run changes nothing");
    assert_eq!(said["dry_run"], true);
    assert_eq!(said["tokens"].as_array().unwrap().len(), 20);
    let done = ask(&server, &rule).json();
    assert_eq!(done["dry_run"], false);
    assert_eq!(done["tokens"], said["tokens"], "exactly what was said");
    for (i, node) in nodes.iter().enumerate() {
        assert_eq!(status(node), if i % 3 == 0 { 200 } else { 401 }, "{}", node.system_id);
    }
    let ended = "tokens WHERE ended_by = 'cull'";
    assert_eq!(rows::count(&server.database, ended), 20);
    assert_eq!(ask(&server, &rule).json(), json!({"dry_run": false, "tokens": []}));
    assert_eq!(rows::count(&server.database, ended), 20);
    assert_eq!(rows::count(&server.database, "tokens"), 30);
}

#[test]
fn more_than_the_cap_is_409_and_nothing_goes() {
    let server = TestServer::start();
    many(&server, 0..11);
    server.clock.advance(8 * DAY);
    let refused = |body: &Value| {
        let reply = ask(&server, body);
        assert_eq!(reply.status, 409, "{body}: {}", reply.text());
        assert_eq!(rows::count(&server.database, "node_keys"), 11, "nothing goes");
        reply.text()
    };
    // By default 5 %, and at least 10.
    let why = refused(&json!({"unused_for": "7d"}));
    assert!(why.contains("11 of 11") && why.contains("at most 10"), "{why}");
    refused(&json!({"unused_for": "7d", "max": "10"}));
    refused(&json!({"unused_for": "7d", "max": "0"}));
    refused(&json!({"unused_for": "7d", "max": "0", "force": false}));
    refused(&json!({"unused_for": "7d", "max": "1%"}));
    let dry = json!({"unused_for": "7d", "max": "0", "dry_run": true});
    assert_eq!(culled(&server, &dry).len(), 11, "a dry run is not held up");
    assert_eq!(culled(&server, &json!({"unused_for": "7d", "max": "11"})).len(), 11);
}

#[test]
fn the_cap_is_a_number_or_a_share_of_the_live_tokens() {
    let server = TestServer::start();
    many(&server, 0..240);
    server.clock.advance(8 * DAY);
    many(&server, 240..480);
    let ended: String = (240..280).map(|i| format!("n{i}")).collect::<Vec<_>>().join(" ");
    for id in ended.split(' ') {
        server.operator().session.delete(&format!("/v1/default/nodes/{id}/token")).unwrap();
    }
    // 440 are live, 240 of them stale.
    let stale = |max: &str| ask(&server, &json!({"unused_for": "7d", "max": max}));
    for (max, most) in [("5%", 22), ("54%", 237), ("54.5%", 239), ("239", 239), ("0%", 10)] {
        let reply = stale(max);
        assert_eq!(reply.status, 409, "{max}");
        let text = reply.text();
        assert!(text.contains("240 of 440"), "{text}");
        assert!(text.contains(&format!("at most {most} ")), "{max}: {text}");
    }
    assert_eq!(stale("54.6%").status, 200);
    assert_eq!(rows::count(&server.database, "tokens WHERE ended_by = 'cull'"), 240);
}

#[test]
fn force_ends_them_however_many_there_are_in_batches() {
    let server = TestServer::start();
    many(&server, 0..950);
    server.clock.advance(8 * DAY);
    let young = many(&server, 950..960);
    let forced = culled(&server, &json!({"unused_for": "7d", "force": true}));
    assert_eq!(forced, (0..950).map(|i| format!("n{i:03}")).collect::<Vec<_>>());
    assert_eq!(rows::count(&server.database, "node_keys"), 10);
    assert!(young.iter().all(|node| status(node) == 200));
}

#[test]
fn the_node_stays_and_its_next_get_makes_another_token() {
    let server = TestServer::start();
    let old = server.node("n1");
    server.operator().set("n1", "user-data", b"#!/bin/sh\n");
    let before = server.operator().session.get("/v1/default/nodes/n1").unwrap();
    server.clock.advance(8 * DAY);
    assert_eq!(culled(&server, &json!({"unused_for": "7d"})), ["n1"]);
    let mut after = server.operator().session.get("/v1/default/nodes/n1").unwrap();
    assert_eq!(after["boot_state"], "new");
    after["boot_state"] = before["boot_state"].clone();
    assert_eq!(after, before);
    let new = server.credentials("n1");
    assert_ne!(new.token_key, old.token_key);
    assert_eq!((status(&old), status(&new)), (401, 200));
    assert_eq!(new.get("/latest/user-data").text(), "#!/bin/sh\n");
    // The new one is as old as it is, not as the node.
    assert!(culled(&server, &json!({"unused_for": "7d", "idle_for": "7d"})).is_empty());
}

#[test]
fn nodes_that_read_all_the_while_are_never_refused() {
    let server = TestServer::start_with(Options::default().flag("node-burst", "100000"));
    let busy = many(&server, 0..6);
    for node in &busy {
        used(&server, node);
    }
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for node in &busy {
            let done = &done;
            scope.spawn(move || {
                while !done.load(std::sync::atomic::Ordering::SeqCst) {
                    let reply = node.get("/latest/meta-data/instance-id");
                    assert_eq!(reply.brief(), (200, node.system_id.clone()));
                }
            });
        }
        for round in 0..12 {
            let range = 100 + round * 5..105 + round * 5;
            many(&server, range);
            server.clock.advance(3600);
            // Every busy node has read since, and is waited for.
            let mark = server.clock.now();
            let seen = |node: &Node| {
                let path = format!("/v1/default/nodes/{}/token", node.system_id);
                let shown = server.operator().session.get(&path).unwrap();
                shown["last_used_at"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap() >= mark
            };
            let began = std::time::Instant::now();
            while !busy.iter().all(seen) {
                assert!(began.elapsed() < Duration::from_secs(30), "last use is not learnt");
            }
            server.clock.advance(1200);
            let gone =
                culled(&server, &json!({"unused_for": "30m", "idle_for": "30m", "force": true}));
            assert_eq!(gone.len(), 5, "round {round}: {gone:?}");
            assert!(gone.iter().all(|id| id.as_str() >= "n100"), "{gone:?}");
        }
        done.store(true, std::sync::atomic::Ordering::SeqCst);
    });
}

/// What we believe of one token.
#[derive(Clone, Copy, Debug)]
struct Belief {
    made: i64,
    used: Option<i64>,
}

#[derive(Clone, Debug)]
enum Step {
    Get(usize),
    Use(usize),
    Revoke(usize),
    Wait(i64),
    Cull { unused: Option<i64>, idle: Option<i64>, dry: bool },
}

fn step() -> impl Strategy<Value = Step> {
    let node = 0..5_usize;
    // In steps that are far from the minute within which a use may not be written.
    let hours = prop_oneof![Just(1_i64), Just(5), Just(24), Just(100)];
    let rule = proptest::option::of(prop_oneof![Just(2_i64), Just(10), Just(50)]);
    prop_oneof![
        4 => node.clone().prop_map(Step::Get),
        4 => node.clone().prop_map(Step::Use),
        1 => node.prop_map(Step::Revoke),
        4 => hours.prop_map(Step::Wait),
        3 => (rule.clone(), rule, any::<bool>())
            .prop_filter("a rule", |(unused, idle, _)| unused.is_some() || idle.is_some())
            .prop_map(|(unused, idle, dry)| Step::Cull { unused, idle, dry }),
    ]
}

#[test]
fn over_any_history_a_cull_takes_what_a_simple_model_takes() {
    let server = TestServer::start_with(Options::default().flag("node-burst", "1000000"));
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 24,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let case = std::cell::Cell::new(0);
    let histories = proptest::collection::vec(step(), 1..30);
    let checked = runner.run(&histories, |history| {
        case.set(case.get() + 1);
        let ids: Vec<String> = (0..5).map(|n| format!("c{}n{n}", case.get())).collect();
        for id in &ids {
            server.operator().add(id, json!({}));
        }
        let mut live: BTreeMap<String, (Node, Belief)> = BTreeMap::new();
        let mut ended: Vec<Node> = Vec::new();
        for step in history {
            let now = server.clock.now().as_second();
            match step {
                Step::Get(n) => {
                    let node = server.credentials(&ids[n]);
                    let (known, _) = live
                        .entry(ids[n].clone())
                        .or_insert((node.clone(), Belief { made: now, used: None }));
                    prop_assert_eq!(&known.token_key, &node.token_key);
                }
                Step::Use(n) => {
                    if let Some((node, belief)) = live.get_mut(&ids[n]) {
                        prop_assert_eq!(status(node), 200);
                        belief.used = Some(now);
                    }
                }
                Step::Revoke(n) => {
                    let path = format!("/v1/default/nodes/{}/token", ids[n]);
                    server.operator().session.delete(&path).unwrap();
                    ended.extend(live.remove(&ids[n]).map(|(node, _)| node));
                }
                Step::Wait(hours) => server.clock.advance(hours * 3600),
                Step::Cull { unused, idle, dry } => {
                    let stale = |belief: &Belief| match belief.used {
                        None => unused.is_some_and(|hours| now - belief.made > hours * 3600),
                        Some(used) => idle.is_some_and(|hours| now - used > hours * 3600),
                    };
                    let mut expected: Vec<String> = live
                        .iter()
                        .filter(|(_, (_, belief))| stale(belief))
                        .map(|(id, _)| id.clone())
                        .collect();
                    let hours = |rule: Option<i64>| rule.map(|hours| format!("{hours}h"));
                    let found = culled(
                        &server,
                        &json!({"unused_for": hours(unused), "idle_for": hours(idle),
                            "dry_run": dry}),
                    );
                    expected.sort();
                    prop_assert_eq!(&found, &expected);
                    if !dry {
                        for id in &expected {
                            ended.extend(live.remove(id).map(|(node, _)| node));
                        }
                    }
                }
            }
            // Asking is a use, so only the ended ones are asked.
            for node in &ended {
                prop_assert_eq!(status(node), 401);
            }
        }
        // Whoever is left still works, whatever went around it.
        for (node, _) in live.values() {
            prop_assert_eq!(status(node), 200);
        }
        for id in &ids {
            server.operator().session.delete(&format!("/v1/default/nodes/{id}")).unwrap();
        }
        Ok(())
    });
    checked.unwrap();
}

/// What a node does on its way, and what is done to it.
#[derive(Clone, Debug)]
enum Turn {
    Get(usize),
    /// The first read alone: after 120 s the node has failed.
    Knock(usize),
    ReadAll(usize),
    Boot(usize),
    Finish(usize),
    Fail(usize),
    Claim(usize),
    Revoke(usize),
    Wait(i64),
    Cull {
        unused: Option<i64>,
        idle: Option<i64>,
        force: bool,
    },
}

fn turn() -> impl Strategy<Value = Turn> {
    let node = || 0..4_usize;
    let rule = || proptest::option::of(prop_oneof![Just(2_i64), Just(10)]);
    prop_oneof![
        4 => node().prop_map(Turn::Get),
        1 => node().prop_map(Turn::Knock),
        2 => node().prop_map(Turn::ReadAll),
        2 => node().prop_map(Turn::Boot),
        2 => node().prop_map(Turn::Finish),
        1 => node().prop_map(Turn::Fail),
        1 => node().prop_map(Turn::Claim),
        1 => node().prop_map(Turn::Revoke),
        4 => prop_oneof![Just(1_i64), Just(5), Just(24)].prop_map(Turn::Wait),
        3 => (rule(), rule(), any::<bool>())
            .prop_filter("a rule", |(unused, idle, _)| unused.is_some() || idle.is_some())
            .prop_map(|(unused, idle, force)| Turn::Cull { unused, idle, force }),
    ]
}

/// What we believe of a node: how far it has come, and its token.
struct Way {
    state: &'static str,
    /// Its user-data was served to its token.
    served: bool,
    /// Its first read was, and no other.
    knocked: Option<i64>,
    token: Option<(Node, Belief)>,
}

impl Way {
    fn state_at(&self, now: i64) -> &'static str {
        let late = self.knocked.is_some_and(|at| now >= at + 120);
        if self.state == "contacted" && !self.served && late { "failed" } else { self.state }
    }
}

/// Reports that a stage starts, or how it ended; the status of the answer.
fn report(node: &Node, name: &str, result: &str, at: i64) -> u16 {
    let kind = if result.is_empty() { "start" } else { "finish" };
    let mut event = json!({"name": name, "event_type": kind, "origin": "cloudinit",
        "description": "d", "timestamp": at});
    if !result.is_empty() {
        event["result"] = result.into();
    }
    let path = format!("/status/{}", node.system_id);
    let authorization = node.header();
    let headers = [("Authorization", authorization.as_str())];
    node.send("POST", &path, &headers, event.to_string().as_bytes()).status
}

/// Hours.
#[derive(Clone, Copy)]
struct Rule {
    unused: Option<i64>,
    idle: Option<i64>,
    force: bool,
}

/// Culls, and holds what went against what we believe.
fn cull_as_believed(
    server: &TestServer,
    ids: &[String],
    ways: &mut [Way],
    Rule { unused, idle, force }: Rule,
) -> Result<(), TestCaseError> {
    let now = server.clock.now().as_second();
    wait(actions::cull::flush(&server.app)).unwrap();
    let mut expected = Vec::new();
    for (id, way) in ids.iter().zip(&*ways) {
        let node = server.operator().session.get(&format!("/v1/default/nodes/{id}")).unwrap();
        let is = node["boot_state"].as_str().unwrap();
        if way.state != "reported" && (way.token.is_some() || way.state == "contacted") {
            prop_assert_eq!(is, way.state_at(now), "{}", id);
        }
        let Some((_, belief)) = &way.token else { continue };
        let stale = match belief.used {
            None => unused.is_some_and(|hours| now - belief.made > hours * 3600),
            Some(used) => idle.is_some_and(|hours| now - used > hours * 3600),
        };
        if stale && !["claimed", "contacted", "booting"].contains(&is) {
            expected.push(id.clone());
        }
    }
    let hours = |rule: Option<i64>| rule.map(|hours| format!("{hours}h"));
    let mut rule = json!({"unused_for": hours(unused), "idle_for": hours(idle),
        "force": force, "dry_run": true});
    prop_assert_eq!(&culled(server, &rule), &expected, "the dry run");
    rule["dry_run"] = false.into();
    prop_assert_eq!(&culled(server, &rule), &expected);
    for (id, way) in ids.iter().zip(ways) {
        if expected.contains(id) {
            way.token = None;
        }
    }
    Ok(())
}

#[test]
fn over_any_history_no_cull_ends_a_token_of_a_node_on_its_way() {
    let server = TestServer::start_with(Options::default().flag("node-burst", "1000000"));
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 24,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let case = std::cell::Cell::new(0);
    let checked = runner.run(&proptest::collection::vec(turn(), 1..40), |history| {
        case.set(case.get() + 1);
        let ids: Vec<String> = (0..4).map(|n| format!("w{}n{n}", case.get())).collect();
        for id in &ids {
            server.operator().add(id, json!({}));
        }
        let unmoved = || Way { state: "issued", served: false, knocked: None, token: None };
        let mut ways: Vec<Way> = ids.iter().map(|_| unmoved()).collect();
        // Two reports of one name at two times are two boots.
        for (clock, turn) in (1..).zip(history) {
            let now = server.clock.now().as_second();
            let say = |node: &Node, result: &str| {
                report(node, "modules-final", result, now * 1000 + clock)
            };
            match turn {
                Turn::Get(n) => {
                    let node = server.credentials(&ids[n]);
                    let way = &mut ways[n];
                    if way.token.is_none() {
                        way.token = Some((node, Belief { made: now, used: None }));
                        way.served = false;
                        way.knocked = None;
                        // One that is ready stays so; what else was reported is over.
                        if way.state == "contacted" {
                            way.state = "issued";
                        }
                    }
                }
                Turn::Knock(n) | Turn::ReadAll(n) => {
                    let way = &mut ways[n];
                    let Some((node, belief)) = &mut way.token else { continue };
                    prop_assert_eq!(status(node), 200);
                    belief.used = Some(now);
                    way.knocked = Some(now);
                    if matches!(turn, Turn::ReadAll(_)) {
                        prop_assert_eq!(node.get("/latest/user-data").status, 200);
                        way.served = true;
                    }
                    if way.state == "issued" {
                        way.state = "contacted";
                    }
                    // What is read and not yet written goes with its token.
                    wait(actions::cull::flush(&server.app)).unwrap();
                }
                Turn::Boot(n) | Turn::Finish(n) | Turn::Fail(n) => {
                    let way = &mut ways[n];
                    let Some((node, belief)) = &mut way.token else { continue };
                    let result = match turn {
                        Turn::Boot(_) => "",
                        Turn::Finish(_) => "SUCCESS",
                        _ => "FAIL",
                    };
                    prop_assert_eq!(say(node, result), 204);
                    belief.used = Some(now);
                    // The state is asked of the server below; here is only what must follow.
                    way.state = "reported";
                }
                Turn::Claim(n) => {
                    let id = ids[n].clone();
                    let at = server.clock.now();
                    server.write(move |tx| {
                        nodes::hold(tx, &[&id])?;
                        let step = nodeinit::domain::boot::Step::ClaimMade { at };
                        boots::advance(tx, &[boots::Move { system_id: &id, token: None, step }])
                    });
                    ways[n].state = "reported";
                }
                Turn::Revoke(n) => {
                    let path = format!("/v1/default/nodes/{}/token", ids[n]);
                    server.operator().session.delete(&path).unwrap();
                    ways[n].token = None;
                }
                Turn::Wait(hours) => server.clock.advance(hours * 3600),
                Turn::Cull { unused, idle, force } => {
                    let rule = Rule { unused, idle, force };
                    cull_as_believed(&server, &ids, &mut ways, rule)?;
                }
            }
        }
        // Whoever was passed over still works.
        for way in &ways {
            if let Some((node, _)) = &way.token {
                prop_assert_eq!(status(node), 200);
            }
        }
        for id in &ids {
            server.operator().session.delete(&format!("/v1/default/nodes/{id}")).unwrap();
        }
        Ok(())
    });
    checked.unwrap();
}

#[test]
fn a_cull_passes_over_nodes_that_are_claimed_contacted_or_booting() {
    let server = TestServer::start();
    let [claimed, contacted, booting, ready, failed, silent] =
        ["a-claimed", "b-contacted", "c-booting", "d-ready", "e-failed", "f-silent"]
            .map(|id| server.node(id));
    let step = nodeinit::domain::boot::Step::ClaimMade { at: server.clock.now() };
    server.write(move |tx| {
        boots::advance(tx, &[boots::Move { system_id: "a-claimed", token: None, step }])
    });
    for node in [&contacted, &ready] {
        assert_eq!(node.get("/latest/user-data").status, 200);
    }
    for (node, name, result) in [
        (&booting, "init-network/check-cache", "SUCCESS"),
        (&ready, "modules-final", "SUCCESS"),
        (&failed, "modules-final", "FAIL"),
    ] {
        assert_eq!(report(node, name, result, 5), 204);
    }
    // One that asked once and went silent has failed by now.
    used(&server, &silent);
    server.clock.advance(100 * DAY);
    let rule = json!({"unused_for": "1d", "idle_for": "1d"});
    let mut dry = rule.clone();
    dry["dry_run"] = true.into();
    assert_eq!(culled(&server, &dry), ["d-ready", "e-failed", "f-silent"]);
    assert_eq!(culled(&server, &rule), ["d-ready", "e-failed", "f-silent"]);
    for node in [&claimed, &contacted, &booting] {
        assert_eq!(status(node), 200, "{}", node.system_id);
    }
}

#[test]
fn the_sweep_deletes_tokens_ended_before_the_retention_with_their_consumers_and_nothing_else() {
    let server = TestServer::start();
    let sweep = |days: u64| {
        wait(actions::cull::sweep(&server.app, Duration::from_hours(24 * days))).unwrap()
    };
    let operator = server.operator();
    let revoke =
        |id: &str| operator.session.delete(&format!("/v1/default/nodes/{id}/token")).unwrap();
    let live = server.node("live-and-old");
    for id in ["by-revoke", "by-removal", "by-project", "by-cull"] {
        server.node(id);
    }
    server.operator().set("by-revoke", "user-data", b"#!/bin/sh\n");
    server.project("alpha");
    revoke("by-revoke");
    operator.session.delete("/v1/default/nodes/by-removal").unwrap();
    let moved = json!({"project": "alpha"});
    operator.session.send_json(Method::PATCH, "/v1/default/nodes/by-project", &moved).unwrap();
    used(&server, &live);
    server.clock.advance(10);
    assert_eq!(culled(&server, &json!({"unused_for": "5s"})), ["by-cull"]);
    server.clock.advance(-10);
    let culled_late = 10;

    server.clock.advance(30 * DAY);
    assert_eq!(sweep(30), 0, "thirty days are not more than thirty days");
    server.clock.advance(1);
    let young = server.node("young");
    revoke("young");
    assert_eq!(sweep(30), 3);
    assert_eq!(sweep(30), 0);
    server.clock.advance(culled_late);
    assert_eq!(sweep(30), 1, "the culled one, ten seconds later");

    assert_eq!(rows::count(&server.database, "tokens"), 2);
    assert_eq!(rows::count(&server.database, "consumers"), 2);
    assert_eq!(rows::count(&server.database, "tokens WHERE ended_at IS NOT NULL"), 1);
    assert_eq!(rows::count(&server.database, "nodes"), 5, "nodes stay");
    assert_eq!(rows::count(&server.database, "contents"), 1, "content stays");
    assert_eq!(rows::count(&server.database, "users"), 1);
    assert_eq!(status(&live), 200, "a live token is never swept, however old");
    assert_eq!(status(&young), 401);
    let list = operator.session.list("/v1/tokens", None).unwrap();
    let left: Vec<&str> = list.iter().map(|t| t["system_id"].as_str().unwrap()).collect();
    assert_eq!(left, ["live-and-old", "young"]);
}

#[test]
fn a_sweep_of_very_many_goes_on_until_it_is_through() {
    let server = TestServer::start();
    many(&server, 0..1100);
    server.clock.advance(DAY);
    assert_eq!(culled(&server, &json!({"unused_for": "1h", "force": true})).len(), 1100);
    let kept = many(&server, 0..10);
    server.clock.advance(31 * DAY);
    assert_eq!(wait(actions::cull::sweep(&server.app, Duration::from_hours(720))).unwrap(), 1100);
    assert_eq!(rows::count(&server.database, "consumers"), 10);
    assert!(kept.iter().all(|node| status(node) == 200));
}
