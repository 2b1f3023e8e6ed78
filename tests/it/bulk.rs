//! A whole fleet at once: its import, its tokens, their cull, and the pages between.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use nodeinit::store::columns::Id;
use nodeinit::store::tokens;
use serde_json::{Value, json};

use crate::support::process::{Home, run};
use crate::support::{Method, Reply, TestServer, rows, wait};

const NDJSON: [(&str, &str); 1] = [("content-type", "application/x-ndjson")];
const DAY: i64 = 86_400;

fn id(i: usize) -> String {
    format!("n{i:05}")
}

/// A line as operators write it; user-data is shared by all.
fn line(i: usize) -> String {
    let node = json!({
        "system_id": id(i),
        "hostname": format!("{}.example.com", id(i)),
        "labels": {"rack": format!("r{}", i / 100), "role": "compute"},
        "macs": [format!("52:54:00:00:{:02x}:{:02x}", i / 256, i % 256)],
        "ssh_keys": ["ssh-ed25519 AAAA ops"],
        "user_data": "IyEvYmluL3NoCg==",
    });
    format!("{node}\n")
}

fn post(server: &TestServer, path: &str, lines: &str) -> Reply {
    server.operator().send(Method::POST, path, &NDJSON, lines.as_bytes())
}

/// Nodes that were imported, in requests that the server takes.
fn imported(count: usize) -> TestServer {
    let server = TestServer::start();
    for batch in (0..count).collect::<Vec<_>>().chunks(5000) {
        let lines: String = batch.iter().map(|i| line(*i)).collect();
        let reply = post(&server, "/v1/default/nodes", &lines);
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    server
}

/// System id and token key, as they are told.
fn issued(reply: &Reply) -> Vec<(String, String)> {
    assert_eq!(reply.status, 200, "{}", reply.text());
    let text = |row: &Value, name: &str| row[name].as_str().unwrap().to_owned();
    let rows = reply.text();
    let rows = rows.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    rows.map(|row| (text(&row, "system_id"), text(&row, "token_key"))).collect()
}

fn get_tokens(server: &TestServer, ids: impl Iterator<Item = usize>) -> Vec<(String, String)> {
    let lines: String = ids.map(|i| format!("\"{}\"\n", id(i))).collect();
    issued(&post(server, "/v1/default/tokens", &lines))
}

#[test]
fn a_fleet_is_known_to_the_planner_soon_after_its_import() {
    let home = Home::new();
    let server = home.serve();
    let file = home.path("nodes.ndjson");
    std::fs::write(&file, (0..6000).map(line).collect::<String>()).unwrap();
    home.run(&["node", "import", file.to_str().unwrap()]).done();
    // SQLite's plans do not depend on how much there is; PostgreSQL looks by itself each minute.
    if home.database.is_postgres() {
        let known = "(SELECT count(*) FROM pg_stats WHERE schemaname = current_schema() \
            AND tablename IN ('nodes', 'node_labels') AND attname = 'system_id')";
        let began = Instant::now();
        while rows::number(&home.database, known) < 2 {
            assert!(began.elapsed() < Duration::from_secs(30), "it is told nothing");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    let page = server.operator().session.get("/v1/default/nodes?label=role=compute").unwrap();
    assert_eq!(page["items"].as_array().unwrap().len(), 1000);
    server.stop();
}

#[test]
fn an_import_cut_short_by_a_kill_ends_with_exactly_the_file() {
    const LINES: usize = 12_000;
    let home = Home::new();
    let server = home.serve();
    let file = home.path("nodes.ndjson");
    std::fs::write(&file, (0..LINES).map(line).collect::<String>()).unwrap();
    let import = ["node", "import", file.to_str().unwrap(), "-o", "json"];
    let first = home.command(&import);
    let first = std::thread::spawn(move || run(first, b""));
    let began = Instant::now();
    while rows::count(&home.database, "nodes") < 2000 {
        assert!(began.elapsed() < Duration::from_mins(1), "nothing is imported");
        std::thread::sleep(Duration::from_millis(5));
    }
    server.kill();
    let first = first.join().unwrap();
    assert_eq!((first.code, first.out.as_str()), (1, ""), "{first:?}");
    assert!(first.err.contains("nodes were added before line"), "{}", first.err);

    // Whole batches are there, each told of once, with their contents.
    let before = rows::count(&home.database, "nodes");
    assert!((2000..12_000).contains(&before) && before % 2000 == 0, "{before}");
    assert_eq!(rows::count(&home.database, "contents"), before);
    assert_eq!(rows::count(&home.database, "node_labels"), before * 2);
    assert_eq!(rows::count(&home.database, "blobs"), 1);
    let told = "audit WHERE verb = 'node:create'";
    assert_eq!(rows::count(&home.database, told), before / 2000);

    let _server = home.serve();
    let second = home.run(&import).done();
    let told = json!({"created": 12_000 - before, "unchanged": before});
    assert_eq!(second.json(), told, "{}", second.err);
    assert_eq!(second.err, "", "no bar for a program");
    assert_eq!(rows::count(&home.database, "contents"), 12_000);
    let listed = home.run(&["node", "list", "-o", "json"]).done().json();
    let listed: Vec<&Value> = listed.as_array().unwrap().iter().collect();
    assert_eq!(listed.len(), LINES);
    for (i, node) in listed.into_iter().enumerate() {
        let line: Value = serde_json::from_str(&line(i)).unwrap();
        for name in ["system_id", "hostname", "labels", "macs", "ssh_keys"] {
            assert_eq!(node[name], line[name], "line {}", i + 1);
        }
    }
    assert_eq!(home.run(&["audit", "verify"]).code, 0);
}

#[test]
fn a_problem_names_the_line_of_the_file_and_keeps_what_came_before_its_batch() {
    let home = Home::new();
    let _server = home.serve();
    let mut lines: Vec<String> = (0..4500).map(line).collect();
    lines[1] = "\n".to_owned();
    lines[4320] = lines[4319].replace("n04319.example", "other.example");
    let ran = home.run_with(&["node", "import", "-"], lines.concat().as_bytes());
    assert_eq!((ran.code, ran.out.as_str()), (1, ""), "{ran:?}");
    assert!(ran.err.contains("line 4321: this system id is taken"), "{}", ran.err);
    assert!(ran.err.contains("3999 nodes were added before line 4001"), "{}", ran.err);
    assert_eq!(rows::count(&home.database, "nodes"), 3999);
    // A line may say again what another said.
    lines[4320] = lines[4319].clone();
    let ran = home.run_with(&["node", "import", "-", "-o", "json"], lines.concat().as_bytes());
    assert_eq!(ran.done().json(), json!({"created": 499, "unchanged": 4000}));
}

#[test]
fn all_who_ask_for_a_fleets_tokens_at_once_get_the_same() {
    const NODES: usize = 3000;
    let server = imported(NODES);
    let answers: Vec<BTreeMap<String, String>> = std::thread::scope(|scope| {
        let ask = |turn: usize| {
            let server = &server;
            scope.spawn(move || {
                let order: Vec<usize> = match turn {
                    0 => (0..NODES).collect(),
                    1 => (0..NODES).rev().collect(),
                    _ => (0..NODES).map(|i| (i * 7 + turn) % NODES).collect(),
                };
                let got = get_tokens(server, order.iter().copied());
                let asked: Vec<String> = order.iter().map(|i| id(*i)).collect();
                let told: Vec<&str> = got.iter().map(|(id, _)| id.as_str()).collect();
                assert_eq!(told, asked, "in the order of the question");
                got.into_iter().collect()
            })
        };
        let asking: Vec<_> = (0..4).map(ask).collect();
        asking.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert!(answers.iter().all(|answer| *answer == answers[0]), "one token a node");
    let keys: BTreeSet<&String> = answers[0].values().collect();
    assert_eq!((answers[0].len(), keys.len()), (NODES, NODES));
    for table in ["consumers", "tokens", "node_keys"] {
        assert_eq!(rows::count(&server.database, table), 3000, "{table}");
    }
    for (node, key) in answers[0].iter().step_by(500) {
        let key = nodeinit::domain::credentials::TokenKey::parse(key).unwrap();
        let found = wait(nodeinit::actions::tokens::get_node_for_key(&server.app, key)).unwrap();
        assert_eq!(found.as_ref(), Some(node));
        assert_eq!(server.credentials(node).get("/latest/meta-data/instance-id").text(), *node);
    }
    // A few are new; the others keep theirs.
    let more: String = (NODES..NODES + 10).map(line).collect();
    assert_eq!(post(&server, "/v1/default/nodes", &more).status, 200);
    let again: BTreeMap<_, _> = get_tokens(&server, (0..NODES + 10).rev()).into_iter().collect();
    assert!(answers[0].iter().all(|(node, key)| again[node] == *key));
    assert_eq!(rows::count(&server.database, "tokens"), 3010);
}

/// Who would go, or went.
fn cull(server: &TestServer, more: Value) -> Vec<String> {
    let mut body = json!({"unused_for": "7d"});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let culled = server.operator().session.send_json(Method::POST, "/v1/tokens/cull", &body);
    let culled = culled.unwrap();
    assert_eq!(culled["dry_run"], body["dry_run"].as_bool().unwrap_or(false));
    let name = |token: &Value| token["system_id"].as_str().unwrap().to_owned();
    let mut names: Vec<String> = culled["tokens"].as_array().unwrap().iter().map(name).collect();
    // Tokens made within one tick of a fixed clock have no order of their own.
    names.sort();
    names
}

#[test]
fn a_cull_of_more_than_a_page_says_and_does_the_same() {
    const NODES: usize = 3000;
    let server = imported(NODES);
    get_tokens(&server, 0..NODES);
    server.clock.advance(8 * DAY);
    let more: String = (NODES..NODES + 50).map(line).collect();
    assert_eq!(post(&server, "/v1/default/nodes", &more).status, 200);
    get_tokens(&server, NODES..NODES + 50);

    let all: Vec<String> = (0..NODES).map(id).collect();
    assert_eq!(cull(&server, json!({"dry_run": true})), all);
    assert_eq!(rows::count(&server.database, "node_keys"), 3050, "it was dry");
    assert_eq!(cull(&server, json!({"force": true})), all);
    assert_eq!(rows::count(&server.database, "tokens WHERE ended_by = 'cull'"), 3000);
    assert_eq!(rows::count(&server.database, "node_keys"), 50);
    assert_eq!(rows::count(&server.database, "audit WHERE verb = 'token:cull'"), 8);
    assert!(cull(&server, json!({"dry_run": true})).is_empty(), "again changes nothing");
}

#[test]
fn the_few_stale_tokens_behind_many_others_are_found_and_counted() {
    const NODES: usize = 4500;
    let server = imported(NODES);
    get_tokens(&server, 0..NODES);
    server.clock.advance(8 * DAY);
    // All but the last eleven in the order of the keys are in use.
    let mut stale = BTreeSet::new();
    let listed = |conn: &mut _| tokens::list(conn, None, None, 10_000);
    let mut all: Vec<(Id, String)> = wait(server.app.db.read(listed))
        .unwrap()
        .into_iter()
        .map(|(id, token)| (id, token.system_id.unwrap()))
        .collect();
    for (_, node) in all.split_off(NODES - 11) {
        stale.insert(node);
    }
    let use_them = server.app.db.write("use tokens", move |tx| {
        for (id, _) in all {
            tokens::update_last_used(tx, id, tx.now)?;
        }
        Ok::<_, nodeinit::actions::Failure>(())
    });
    wait(use_them).unwrap();
    let stale: Vec<String> = stale.into_iter().collect();
    assert_eq!(cull(&server, json!({"dry_run": true})), stale);
    let body = json!({"unused_for": "7d", "max": "10"});
    let refused = server.operator().session.send_json(Method::POST, "/v1/tokens/cull", &body);
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("11 of 4500 live tokens are stale, and at most 10"), "{refused}");
    assert_eq!(cull(&server, json!({"max": "11"})), stale);
}

#[test]
fn a_list_goes_on_behind_a_long_stretch_of_others() {
    const NODES: usize = 10_100;
    let server = imported(NODES);
    get_tokens(&server, [NODES - 1].into_iter());
    let operator = server.operator();
    // The first page has looked through as many nodes as one may, and says where to go on.
    let page = operator.session.get("/v1/default/nodes?state=issued").unwrap();
    assert_eq!(page["items"], json!([]));
    let next = page["next"].as_str().unwrap();
    let page = operator.session.get(&format!("/v1/default/nodes?state=issued&cursor={next}"));
    let page = page.unwrap();
    assert_eq!(page["items"][0]["system_id"], id(NODES - 1));
    assert_eq!(page["next"], Value::Null);

    let listed = |query: &str| {
        let nodes = operator.session.list(&format!("/v1/default/nodes?{query}"), None).unwrap();
        let name = |node: &Value| node["system_id"].as_str().unwrap().to_owned();
        nodes.iter().map(name).collect::<Vec<_>>()
    };
    let all: Vec<String> = (0..NODES).map(id).collect();
    assert_eq!(listed("state=issued"), [id(NODES - 1)]);
    assert_eq!(listed("label=role=compute&state=issued"), [id(NODES - 1)]);
    assert_eq!(listed("state=new"), all[..NODES - 1]);
    assert_eq!(listed("label=role=compute"), all);
    assert_eq!(listed("label=rack=r100&label=role=compute"), all[10_000..]);
    assert_eq!(listed("label=role=compute&label=rack=r3"), all[300..400]);
    for query in ["state=failed", "state=ready", "label=role=none", "label=rack=r1&state=booting"] {
        assert!(listed(query).is_empty(), "{query}");
    }
}
