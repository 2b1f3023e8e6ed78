//! How far nodes come: recordings of Debian's own cloud-init, played against the server, and what
//! operators see of them (CONTRACT §§5, 6). The numbers are those of the checks of the real client.

use std::time::Duration;

use nodeinit::actions;
use nodeinit::domain::boot::Step;
use nodeinit::store::boots::{self, Move};
use nodeinit::store::nodes;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::process::Home;
use crate::support::{Method, NOW, Node, Options, Reply, TestServer, rows, wait};

const USER_DATA: &[u8] = b"#!/bin/sh\nexit 0\n";
/// In the order in which cloud-init asks for them.
const ITEMS: [&str; 6] = [
    "meta-data/instance-id",
    "meta-data/instance-id",
    "meta-data/local-hostname",
    "meta-data/public-keys",
    "meta-data/vendor-data",
    "user-data",
];

/// One line of a recording.
enum Seen {
    Get(String),
    Post(Value),
}

/// What was recorded of one boot: reads that were answered, and reports.
fn recorded(name: &str) -> Vec<Seen> {
    let path = format!("{}/tests/data/boot/{name}.jsonl", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap();
    let seen = text.lines().filter_map(|line| {
        let mut line: Value = serde_json::from_str(line).unwrap();
        match line.get("get") {
            None => Some(Seen::Post(line["post"].take())),
            Some(get) if line["status"] == 200 && get != "preseed" => {
                Some(Seen::Get(get.as_str().unwrap().to_owned()))
            }
            Some(_) => None,
        }
    });
    seen.collect()
}

fn read(node: &Node, item: &str) {
    let reply = node.get(&format!("/2012-03-01/{item}"));
    assert_eq!(reply.status, 200, "{item}: {}", reply.text());
}

fn post(node: &Node, event: &Value) -> Reply {
    let headers = [("Authorization", node.header())];
    let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
    let path = format!("/status/{}", node.system_id);
    node.send("POST", &path, &headers, event.to_string().as_bytes())
}

/// Reports something of cloud-init's, at a time of the node's own.
fn say(node: &Node, name: &str, kind: &str, result: &str, description: &str, at: i64) {
    let mut event = json!({"name": name, "event_type": kind, "origin": "cloudinit",
        "description": description, "timestamp": at});
    if kind == "finish" {
        event["result"] = result.into();
    }
    assert_eq!(post(node, &event).status, 204);
}

/// Plays a boot; every event is taken.
fn play<'s>(node: &Node, boot: impl IntoIterator<Item = &'s Seen>) {
    for seen in boot {
        match seen {
            Seen::Get(item) => read(node, item),
            Seen::Post(event) => assert_eq!(post(node, event).status, 204, "{event}"),
        }
    }
}

fn quick() -> TestServer {
    TestServer::start_with(Options::default().flag("node-burst", "100000"))
}

fn machine(server: &TestServer, id: &str) -> Node {
    server.operator().add(id, json!({}));
    server.operator().set(id, "user-data", USER_DATA);
    server.credentials(id)
}

fn flush(server: &TestServer) {
    wait(actions::cull::flush(&server.app)).unwrap();
}

fn get(server: &TestServer, path: &str) -> Value {
    server.operator().session.get(path).unwrap()
}

fn state(server: &TestServer, id: &str) -> String {
    get(server, &format!("/v1/default/nodes/{id}"))["boot_state"].as_str().unwrap().to_owned()
}

fn timeline(server: &TestServer, id: &str) -> Value {
    get(server, &format!("/v1/default/nodes/{id}/timeline"))
}

fn told(timeline: &Value) -> Vec<&str> {
    let entries = timeline["entries"].as_array().unwrap();
    entries.iter().map(|entry| entry["what"].as_str().unwrap()).collect()
}

fn listed(server: &TestServer, state: &str) -> String {
    let path = format!("/v1/default/nodes?state={state}");
    let nodes = server.operator().session.list(&path, None).unwrap();
    let ids: Vec<&str> = nodes.iter().map(|node| node["system_id"].as_str().unwrap()).collect();
    ids.join(" ")
}

/// A step that is not a node's to make: what makes claims and fetches will write it.
fn step(server: &TestServer, id: &str, step: Step<'static>) {
    let id = id.to_owned();
    server.write(move |tx| {
        nodes::hold(tx, &[&id])?;
        boots::advance(tx, &[Move { system_id: &id, token: None, step }])
    });
}

#[test]
fn d56_every_kind_of_boot_of_every_client_ends_ready() {
    let server = quick();
    for suite in ["bookworm", "trixie", "sid"] {
        for case in ["normal", "cloud-config-url", "init-local"] {
            if (suite, case) == ("bookworm", "init-local") {
                continue; // whose cloud-init never asks before the network is up
            }
            let id = format!("{suite}-{case}");
            let node = machine(&server, &id);
            assert_eq!(state(&server, &id), "issued");
            let boot = recorded(&id);
            let (last, rest) = boot.split_last().unwrap();
            play(&node, rest);
            assert_eq!(state(&server, &id), "booting");
            play(&node, [last]);
            assert_eq!(state(&server, &id), "ready", "{id}");
            let shown = timeline(&server, &id);
            assert_eq!(
                (&shown["boot_state"], &shown["stage"]),
                (&json!("ready"), &json!("modules-final"))
            );
        }
    }
    assert_eq!(listed(&server, "ready").split(' ').count(), 8);
    assert_eq!(listed(&server, "booting"), "");
}

#[test]
fn d39_a_reboot_never_regresses_a_ready_node() {
    let server = quick();
    for suite in ["bookworm", "sid"] {
        let node = machine(&server, suite);
        play(&node, &recorded(&format!("{suite}-normal")));
        for one in recorded(&format!("{suite}-reboot")) {
            play(&node, [&one]);
            assert_eq!(state(&server, suite), "ready");
        }
    }
}

#[test]
fn d54_metadata_that_only_fails_is_a_failed_node_until_a_boot_with_good_metadata() {
    let server = quick();
    for suite in ["bookworm", "trixie", "sid"] {
        let node = machine(&server, suite);
        play(&node, &recorded(&format!("{suite}-metadata-500")));
        let shown = timeline(&server, suite);
        assert_eq!(
            (&shown["boot_state"], &shown["stage"]),
            (&json!("failed"), &json!("init-network"))
        );
        assert_eq!(shown["why"], "no network data found from DataSourceMAAS");
        assert_eq!(told(&shown).last(), Some(&"failed"));
        assert_eq!(listed(&server, "failed"), suite);
        play(&node, &recorded(&format!("{suite}-metadata-mended")));
        assert_eq!(state(&server, suite), "ready", "{suite}");
        assert_eq!(timeline(&server, suite)["why"], Value::Null);
    }
}

#[test]
fn d55_a_failing_script_is_a_failed_node_and_says_so() {
    let server = quick();
    for suite in ["bookworm", "sid"] {
        let node = machine(&server, suite);
        play(&node, &recorded(&format!("{suite}-script-fails")));
        let shown = timeline(&server, suite);
        assert_eq!(shown["boot_state"], "failed");
        let why = shown["why"].as_str().unwrap();
        assert!(why.starts_with("modules-final/config-scripts-user: "), "{why}");
        play(&node, &recorded(&format!("{suite}-script-failed-reboot")));
        assert_eq!(state(&server, suite), "failed", "it did not run again");
    }
}

#[test]
fn within_a_boot_the_order_of_arrival_does_not_matter() {
    let server = quick();
    let ends = [
        ("sid-normal", "ready"),
        ("sid-metadata-500", "failed"),
        ("trixie-script-fails", "failed"),
    ];
    for (case, end) in ends {
        for (round, by) in [1_usize, 7, 31].into_iter().enumerate() {
            let id = format!("{case}-{round}");
            let node = machine(&server, &id);
            let boot = recorded(case);
            let count = boot.len();
            // Backwards, then in strides that are prime to the count.
            let stride = if count.is_multiple_of(by) { 1 } else { by };
            let order = (0..count).map(|i| count - 1 - i * stride % count);
            play(&node, order.map(|i| &boot[i]));
            flush(&server);
            assert_eq!(state(&server, &id), end, "{case} {by}");
        }
    }
}

#[test]
fn without_its_user_data_modules_final_makes_nobody_ready() {
    let server = quick();
    let node = machine(&server, "n1");
    say(&node, "modules-final", "finish", "SUCCESS", "running modules for final", 100);
    assert_eq!(state(&server, "n1"), "booting");
    server.clock.advance(86_400);
    assert_eq!(state(&server, "n1"), "booting", "a mark that is missing fails nobody");
    // HEAD and the listings are no reading of it.
    let headers = [("Authorization", node.header())];
    let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
    assert_eq!(node.send("HEAD", "/latest/user-data", &headers, b"").status, 200);
    assert_eq!(node.get("/latest/").status, 200);
    flush(&server);
    assert_eq!(state(&server, "n1"), "booting");
    read(&node, "user-data");
    flush(&server);
    assert_eq!(state(&server, "n1"), "ready");
}

#[test]
fn user_data_that_there_is_none_of_is_served_too() {
    for absent in ["empty", "not-found"] {
        let server = TestServer::start_with(Options::default().flag("absent-items", absent));
        let node = server.node("n1");
        for item in ITEMS {
            node.get(&format!("/2012-03-01/{item}"));
        }
        say(&node, "modules-final", "finish", "SUCCESS", "running modules for final", 100);
        assert_eq!(state(&server, "n1"), "ready", "{absent}");
    }
}

#[test]
fn what_a_node_read_is_on_record_with_its_next_event() {
    let server = quick();
    let node = machine(&server, "n1");
    for item in ITEMS {
        read(&node, item);
    }
    say(&node, "init-network/setup-datasource", "start", "", "setting up datasource", 100);
    let shown = timeline(&server, "n1");
    let digests: Vec<(&str, &str)> = shown["entries"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|entry| Some((entry["what"].as_str()?, entry["digest"].as_str()?)))
        .collect();
    let sha256 = |bytes: &[u8]| -> String {
        Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
    };
    let expected = [
        ("instance-id read", sha256(b"n1")),
        ("local-hostname read", sha256(b"n1.example.com")),
        ("public-keys read", sha256(b"")),
        ("vendor-data read", sha256(b"")),
        ("user-data read", sha256(USER_DATA)),
    ];
    let expected: Vec<(&str, &str)> =
        expected.iter().map(|(what, digest)| (*what, digest.as_str())).collect();
    assert_eq!(digests, expected);
    let order = ["first signed GET", "instance-id read"];
    assert_eq!(told(&shown)[..2], order);
    assert_eq!(told(&shown).last(), Some(&"init-network started"));
}

#[test]
fn a_read_just_before_its_token_is_revoked_is_not_lost() {
    let server = quick();
    let node = machine(&server, "n1");
    read(&node, ITEMS[0]);
    server.operator().session.delete("/v1/default/nodes/n1/token").unwrap();
    assert_eq!(told(&timeline(&server, "n1"))[..2], ["first signed GET", "instance-id read"]);
    server.clock.advance(121);
    assert_eq!(state(&server, "n1"), "failed");
}

#[test]
fn a_first_read_without_the_others_fails_after_120_seconds() {
    let server = quick();
    let node = machine(&server, "n1");
    read(&node, ITEMS[0]);
    flush(&server);
    assert_eq!(state(&server, "n1"), "contacted");
    assert_eq!(timeline(&server, "n1")["fails_at"], "2027-01-15T08:02:00Z");
    server.clock.advance(119);
    assert_eq!(
        (state(&server, "n1").as_str(), listed(&server, "contacted").as_str()),
        ("contacted", "n1")
    );
    assert_eq!(listed(&server, "failed"), "");
    server.clock.advance(1);
    assert_eq!(
        (state(&server, "n1").as_str(), listed(&server, "failed").as_str()),
        ("failed", "n1")
    );
    assert_eq!(listed(&server, "contacted"), "");
    let shown = timeline(&server, "n1");
    assert_eq!(shown["why"], "120 s went by without the reads after the first");
    assert_eq!(shown["since"], "2027-01-15T08:02:00Z");
    // The next boot goes through.
    for item in ITEMS {
        read(&node, item);
    }
    flush(&server);
    assert_eq!(state(&server, "n1"), "contacted");
    server.clock.advance(86_400);
    assert_eq!(state(&server, "n1"), "contacted");
}

/// The same server, started again as if it had been killed.
fn killed(mut server: TestServer) -> TestServer {
    server.stop();
    // A clean stop leaves this behind, a kill does not.
    std::fs::remove_file(server.dir.path().join("nonces")).unwrap();
    let options = Options { clock: server.clock.clone(), ..Options::default() };
    TestServer::open(options, server.dir.clone(), server.database.clone())
        .map_err(|e| e.to_string())
        .unwrap()
}

#[test]
fn a_server_that_was_killed_fails_nobody_for_what_it_did_not_write_down() {
    let server = quick();
    let node = machine(&server, "n1");
    read(&node, ITEMS[0]);
    flush(&server);
    let server = killed(server);
    server.clock.advance(86_400);
    assert_eq!(state(&server, "n1"), "contacted");
    // What is read from now on counts again.
    let node = Node { address: server.node, ..node };
    read(&node, ITEMS[0]);
    let server = server.restart();
    server.clock.advance(120);
    assert_eq!(state(&server, "n1"), "failed", "a clean stop loses nothing");
    // Others read after that, and what they read was written down: this one failed for good.
    server.clock.advance(60);
    let other = machine(&server, "n2");
    read(&other, ITEMS[0]);
    flush(&server);
    let server = killed(server);
    server.clock.advance(86_400);
    assert_eq!(state(&server, "n1"), "failed");
    assert_eq!(state(&server, "n2"), "contacted");
}

#[test]
fn d28_the_events_of_a_revoked_token_move_nothing() {
    let server = quick();
    let node = machine(&server, "n1");
    let boot = recorded("sid-normal");
    play(&node, &boot[..30]);
    let before = timeline(&server, "n1");
    assert_eq!(before["boot_state"], "booting");
    server.operator().session.delete("/v1/default/nodes/n1/token").unwrap();
    for seen in &boot[30..] {
        let Seen::Post(event) = seen else { continue };
        assert_eq!(post(&node, event).status, 401);
    }
    flush(&server);
    assert_eq!(timeline(&server, "n1"), before);
    // A new token is a new beginning for a node that was not ready.
    server.credentials("n1");
    assert_eq!(state(&server, "n1"), "issued");
}

#[test]
fn a_ready_node_stays_ready_when_its_token_is_renewed() {
    let server = quick();
    let node = machine(&server, "n1");
    play(&node, &recorded("sid-normal"));
    server.operator().session.delete("/v1/default/nodes/n1/token").unwrap();
    assert_eq!(state(&server, "n1"), "ready");
    server.credentials("n1");
    assert_eq!(state(&server, "n1"), "ready");
}

#[test]
fn claims_fetches_and_reprovisioning_are_steps_of_the_way() {
    let server = quick();
    let node = machine(&server, "n1");
    play(&node, &recorded("sid-normal"));
    let at = |second: i64| jiff::Timestamp::from_second(NOW + second).unwrap();
    step(&server, "n1", Step::ClaimMade { at: at(10) });
    assert_eq!(
        (state(&server, "n1").as_str(), listed(&server, "claimed").as_str()),
        ("claimed", "n1")
    );
    step(&server, "n1", Step::PreseedFetched { at: at(20) });
    let shown = timeline(&server, "n1");
    assert_eq!(shown["stage"], "preseed");
    assert_eq!(told(&shown)[..2], ["claim made", "preseed fetched"]);
    step(&server, "n1", Step::Reprovisioned { at: at(30) });
    assert_eq!(state(&server, "n1"), "issued");
    assert_eq!(told(&timeline(&server, "n1")), Vec::<&str>::new());
}

#[test]
fn curtin_and_signals_are_kept_apart() {
    let server = quick();
    let node = machine(&server, "n1");
    let event = json!({"name": "cmd-install", "event_type": "finish", "origin": "curtin",
        "description": "curtin command install", "result": "SUCCESS", "timestamp": 5.0,
        "level": "INFO"});
    assert_eq!(post(&node, &event).status, 204);
    let headers = [
        ("Authorization", node.header()),
        ("Content-Type", "application/x-www-form-urlencoded".into()),
    ];
    let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
    let reply = node.send("POST", "/latest/", &headers, b"op=signal&status=FAILED&error=disk");
    assert_eq!(reply.brief(), (200, "OK".into()));
    let shown = timeline(&server, "n1");
    assert_eq!((&shown["boot_state"], &shown["stage"]), (&json!("booting"), &json!("curtin")));
    assert_eq!(told(&shown), ["curtin: cmd-install", "signal: FAILED"]);
    assert_eq!(shown["entries"][1]["result"], "FAIL");
}

#[test]
fn the_sweep_of_events_changes_no_boot_state() {
    let server = quick();
    let node = machine(&server, "n1");
    play(&node, &recorded("bookworm-normal"));
    let before = timeline(&server, "n1");
    server.clock.advance(100 * 86_400);
    assert_ne!(rows::count(&server.database, "events"), 0);
    wait(actions::reports::sweep(&server.app, Duration::from_hours(24))).unwrap();
    assert_eq!(rows::count(&server.database, "events"), 0);
    assert_eq!(timeline(&server, "n1"), before);
}

#[test]
fn a_broken_clock_a_forger_and_a_revoked_token_are_explained() {
    let server = quick();
    let node = machine(&server, "n1");
    let explain = || get(&server, "/v1/default/nodes/n1/explain");
    let fresh = explain();
    assert_eq!(fresh["boot_state"], "issued");
    assert_eq!((&fresh["refusals"], &fresh["clock_skew"]), (&json!([]), &Value::Null));
    assert_eq!(fresh["token"]["token_key"], node.token_key.as_str());

    let path = "/latest/meta-data/instance-id";
    let ahead = node.header_at(NOW + 3600, "n");
    assert_eq!(node.get_with(path, &ahead).status, 200);
    assert_eq!(explain()["clock_skew"], json!({"seconds": 3600, "at": "2027-01-15T08:00:00Z"}));

    let forger = Node { token_secret: "x".repeat(32), ..node.clone() };
    for _ in 0..3 {
        assert_eq!(forger.get(path).status, 401);
    }
    server.operator().session.delete("/v1/default/nodes/n1/token").unwrap();
    server.clock.advance(1);
    assert_eq!(node.get(path).status, 401);
    let explained = explain();
    assert_eq!(explained["token"], Value::Null);
    assert_eq!(
        explained["refusals"],
        json!([
            {"reason": "wrong_signature", "times": 3, "at": "2027-01-15T08:00:00Z"},
            {"reason": "ended_token", "times": 1, "at": "2027-01-15T08:00:01Z"},
        ])
    );
    assert!(!explained.to_string().contains(&node.token_secret));
}

/// A fleet of which some have stopped: n1 claimed, n2 contacted, n3 at its first read, n4 booting,
/// n5 failed, n6 ready, n7 issued.
fn fleet(server: &TestServer) {
    let machines: Vec<Node> = (1..=7).map(|n| machine(server, &format!("n{n}"))).collect();
    step(server, "n1", Step::ClaimMade { at: server.clock.now() });
    for item in ITEMS {
        read(&machines[1], item);
    }
    read(&machines[2], ITEMS[0]);
    say(&machines[3], "modules-config/config-runcmd", "start", "", "running", 5);
    play(&machines[4], &recorded("sid-metadata-500"));
    play(&machines[5], &recorded("sid-normal"));
    flush(server);
}

#[test]
fn stuck_lists_where_each_node_stopped_and_how_many_there() {
    let server = quick();
    fleet(&server);
    let stuck = |query: &str| get(&server, &format!("/v1/stuck{query}"));
    assert_eq!(stuck("")["items"], json!([]));
    server.clock.advance(20 * 60);
    let all = stuck("?after=20m");
    let place = |node: &Value| {
        let text = |name: &str| node[name].as_str().unwrap_or("-").to_owned();
        [text("system_id"), text("boot_state"), text("stage")].join(" ")
    };
    let items = all["items"].as_array().unwrap();
    assert_eq!(
        items.iter().map(place).collect::<Vec<_>>(),
        [
            "n1 claimed claim",
            "n2 contacted user-data",
            "n3 failed instance-id",
            "n4 booting modules-config",
            "n5 failed init-network",
        ]
    );
    assert_eq!(items[3]["last_report"], "modules-config/config-runcmd");
    assert_eq!(items[4]["why"], "no network data found from DataSourceMAAS");
    assert_eq!(
        (&items[0]["hostname"], &items[0]["project"]),
        (&json!("n1.example.com"), &json!("default"))
    );
    let counts = all["counts"].as_array().unwrap();
    assert_eq!(counts.len(), 5);
    assert!(counts.contains(&json!({"boot_state": "failed", "stage": "instance-id", "nodes": 1})));
    assert_eq!(stuck("?after=21m")["items"], json!([]));
    // Page by page, in the order of their names, each with the counts of all.
    let mut path = "?limit=2".to_owned();
    let mut pages = Vec::new();
    loop {
        let page = stuck(&path);
        assert_eq!(page["counts"], all["counts"]);
        pages.push(page["items"].as_array().unwrap().len());
        let Some(next) = page["next"].as_str() else { break };
        path = format!("?limit=2&cursor={next}");
    }
    assert_eq!(pages, [2, 2, 1]);
    for bad in ["?after=soon", "?after=", "?hunter2=1", "?limit=0"] {
        let reply = server.operator().send(Method::GET, &format!("/v1/stuck{bad}"), &[], b"");
        assert_eq!(reply.status, 400, "{bad}");
        assert!(!reply.text().contains("hunter2"));
    }
    for path in ["timeline", "explain"] {
        let path = format!("/v1/default/nodes/none/{path}");
        assert_eq!(server.operator().send(Method::GET, &path, &[], b"").status, 404);
    }
}

#[test]
fn the_command_line_tells_the_way_and_cron_hears_of_the_stuck() {
    let home = Home::new();
    let server = home.serve_with(&["--node-burst", "100000"]);
    let node = server.node("n1");
    let nobody = home.run(&["stuck", "--after", "0s", "-o", "json"]);
    assert_eq!((nobody.code, nobody.out.trim(), nobody.err.as_str()), (0, "[]", ""));
    play(&node, &recorded("trixie-metadata-500"));
    let text = home.run(&["timeline", "n1"]).done().out;
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("n1 is failed in init-network since 20"), "{text}");
    assert!(
        lines[0]
            .ends_with(": no network data found from DataSourceMAAS; last report: init-network"),
        "{text}"
    );
    assert!(lines[1].starts_with("AT") && lines[1].ends_with("DETAIL"), "{text}");
    assert!(text.contains("init-network finished") && text.contains("sha256:"), "{text}");
    let shown = home.run(&["timeline", "n1", "-o", "json"]).done().json();
    assert_eq!(shown["boot_state"], "failed");
    assert_eq!(told(&shown).last(), Some(&"failed"));
    let explained = home.run(&["explain", "n1", "-o", "json"]).done().json();
    assert_eq!(explained["why"], "no network data found from DataSourceMAAS");
    assert!(home.run(&["explain", "n1"]).done().out.contains("boot_state"));

    let stuck = home.run(&["stuck", "--after", "0s"]);
    assert_eq!(stuck.code, 1);
    assert_eq!(stuck.err, "nodeinit: 1 node is stuck: 1 failed in init-network\n");
    assert!(stuck.out.lines().nth(1).unwrap().starts_with("n1 "), "{}", stuck.out);
    assert_eq!(home.run(&["stuck"]).code, 0, "not yet for 20 minutes");
    assert_eq!(home.run(&["stuck", "--after", "soon"]).code, 2);
    let missing = home.run(&["timeline", "none"]);
    assert_eq!(
        (missing.code, missing.err.as_str()),
        (1, "nodeinit: timeline none: there is no such node\n")
    );
    // What a node says is not what a terminal does.
    let description = "no network data found from \u{1b}[31mDataSourceMAAS";
    let other = server.node("n2");
    say(&other, "init-network/search-MAAS", "finish", "SUCCESS", description, 5);
    let text = home.run(&["timeline", "n2"]).done().out;
    assert!(text.contains("n2 is failed") && !text.contains('\u{1b}'), "{text:?}");
    server.stop();
}
