//! Tokens: the laws of `get_token_for_node` and `get_node_for_key`, what ends a token, and what
//! keeps its secret.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use nodeinit::actions;
use nodeinit::domain::credentials::TokenKey;
use nodeinit::maintenance::key;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::support::process::{Home, mode};
use crate::support::{Method, Node, Options, Reply, TestServer, rows, wait};

fn node_of(server: &TestServer, key: &str) -> Option<String> {
    let key = TokenKey::trusted(key.to_owned());
    wait(actions::tokens::get_node_for_key(&server.app, key)).unwrap()
}

fn key_of(token: &Value) -> String {
    token["token_key"].as_str().unwrap().to_owned()
}

fn node_path(system_id: &str) -> String {
    format!("/v1/default/nodes/{system_id}")
}

fn revoke(server: &TestServer, system_id: &str) -> u16 {
    let path = format!("{}/token", node_path(system_id));
    server.operator().send(Method::DELETE, &path, &[], b"").status
}

fn remove(server: &TestServer, system_id: &str) -> u16 {
    server.operator().send(Method::DELETE, &node_path(system_id), &[], b"").status
}

fn patch(server: &TestServer, project: &str, system_id: &str, change: &Value) -> Reply {
    let path = format!("/v1/{project}/nodes/{system_id}");
    let json = [("content-type", "application/json")];
    server.operator().send(Method::PATCH, &path, &json, change.to_string().as_bytes())
}

fn instance_id(node: &Node) -> (u16, String) {
    node.get("/latest/meta-data/instance-id").brief()
}

/// Days go by and the sweep passes.
fn sweep_after(server: &TestServer, days: u64) -> usize {
    server.clock.advance(i64::try_from(days).unwrap() * 86_400 + 1);
    let keep = std::time::Duration::from_hours(24 * days);
    wait(actions::cull::sweep(&server.app, keep)).unwrap()
}

#[test]
fn t01_the_first_get_makes_a_token_and_its_node_key() {
    let server = TestServer::start();
    server.operator().add("n1", json!({}));
    for table in ["consumers", "tokens", "node_keys"] {
        assert_eq!(rows::count(&server.database, table), 0, "{table}: adding makes none");
    }
    let token = server.operator().token("n1");
    for table in ["consumers", "tokens", "node_keys"] {
        assert_eq!(rows::count(&server.database, table), 1, "{table}");
    }
    assert_eq!(token["system_id"], "n1");
}

#[test]
fn t02_the_second_get_is_the_same_token() {
    let server = TestServer::start();
    server.operator().add("n1", json!({}));
    let first = server.operator().token("n1");
    assert_eq!(server.operator().token("n1"), first);
    assert_eq!(rows::count(&server.database, "tokens"), 1);
    let server = server.restart();
    let mut again = server.operator().token("n1");
    // Only the port is another.
    again["metadata_url"] = first["metadata_url"].clone();
    assert_eq!(again, first, "a restart changes nothing");
}

#[test]
fn t03_t04_get_token_and_get_node_are_each_others_inverse() {
    let server = TestServer::start();
    for id in ["n1", "n2", "n3"] {
        server.operator().add(id, json!({}));
    }
    for id in ["n1", "n2", "n3"] {
        let key = key_of(&server.operator().token(id));
        let node = node_of(&server, &key).unwrap();
        assert_eq!(node, id);
        assert_eq!(key_of(&server.operator().token(&node)), key);
    }
}

#[test]
fn t05_an_unknown_key_is_nobodys_and_makes_nothing() {
    let server = TestServer::start();
    server.operator().add("n1", json!({}));
    let key = key_of(&server.operator().token("n1"));
    for unknown in ["zzzzzzzzzzzzzzzzzz", "", "n1", &key[1..], &swapped_case(&key)] {
        assert_eq!(node_of(&server, unknown), None, "{unknown}");
    }
    assert_eq!(rows::count(&server.database, "tokens"), 1);
    assert_eq!(rows::count(&server.database, "node_keys"), 1);
}

fn swapped_case(text: &str) -> String {
    let swap = |c: char| {
        if c.is_ascii_lowercase() { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() }
    };
    text.chars().map(swap).collect()
}

#[test]
fn t06_keys_are_18_and_secrets_32_letters_and_digits() {
    let server = TestServer::start();
    let (mut seen, mut letters) = (BTreeSet::new(), BTreeSet::new());
    for i in 0..40 {
        let id = format!("n{i}");
        server.operator().add(&id, json!({}));
        let token = server.operator().token(&id);
        for (name, length) in [("consumer_key", 18), ("token_key", 18), ("token_secret", 32)] {
            let text = token[name].as_str().unwrap();
            assert_eq!(text.len(), length, "{name}");
            assert!(text.bytes().all(|b| b.is_ascii_alphanumeric()), "{name}");
            assert!(seen.insert(text.to_owned()), "{name} is no other's");
            letters.extend(text.bytes());
        }
        assert_eq!(token["consumer_secret"], "");
    }
    assert_eq!(letters.len(), 62, "all of [A-Za-z0-9] is used");
}

/// One hundred callers at once, spread over these servers: what they were given.
fn hundred_at_once(servers: &[&TestServer], system_id: &str) -> Vec<Value> {
    let barrier = std::sync::Barrier::new(100);
    std::thread::scope(|scope| {
        let callers: Vec<_> = (0..100)
            .map(|i| {
                let (server, barrier) = (servers[i % servers.len()], &barrier);
                scope.spawn(move || {
                    let operator = server.operator();
                    barrier.wait();
                    let mut token = operator.token(system_id);
                    token["metadata_url"].take();
                    token
                })
            })
            .collect();
        callers.into_iter().map(|caller| caller.join().unwrap()).collect()
    })
}

#[test]
fn t07_a_hundred_first_calls_at_once_make_one_token() {
    let server = TestServer::start();
    for id in ["n1", "n2"] {
        server.operator().add(id, json!({}));
        let tokens = hundred_at_once(&[&server], id);
        assert!(tokens.iter().all(|token| *token == tokens[0]), "all callers get the same");
    }
    for table in ["consumers", "tokens", "node_keys"] {
        assert_eq!(rows::count(&server.database, table), 2, "{table}: no loser leaves anything");
    }
}

/// A second server with a state directory of its own, over the database and key of the first.
fn second(first: &TestServer) -> Result<TestServer, String> {
    let dir = Arc::new(tempfile::Builder::new().prefix("nodeinit").tempdir().unwrap());
    let key = first.dir.path().join("secret.key");
    std::fs::copy(key, dir.path().join("secret.key")).unwrap();
    let options = Options { clock: first.clock.clone(), ..Options::default() };
    TestServer::open(options, dir, first.database.clone()).map_err(|why| why.to_string())
}

#[test]
fn t07_two_servers_over_one_database_make_one_token_or_the_second_does_not_start() {
    let server = TestServer::start();
    server.operator().add("n1", json!({}));
    if !server.database.is_postgres() {
        let why = second(&server).err().expect("a second server on one SQLite file");
        assert!(why.contains("in use by another nodeinit"), "{why}");
        assert!(why.contains(&std::process::id().to_string()), "it names the process: {why}");
        assert!(why.contains("nodeinit.db"), "and the file: {why}");
        assert_eq!(server.operator().token("n1")["system_id"], "n1", "the first is unharmed");
        return;
    }
    let other = second(&server).unwrap();
    for id in ["n1", "n2", "n3"] {
        if id != "n1" {
            server.operator().add(id, json!({}));
        }
        let tokens = hundred_at_once(&[&server, &other], id);
        assert!(tokens.iter().all(|token| *token == tokens[0]), "one token on both");
        let key = key_of(&tokens[0]);
        for server in [&server, &other] {
            assert_eq!(node_of(server, &key).as_deref(), Some(id));
            assert_eq!(instance_id(&server.credentials(id)), (200, id.into()));
        }
    }
    assert_eq!(rows::count(&server.database, "tokens"), 3);
}

#[test]
fn replicas_that_start_at_once_over_an_empty_database_all_come_up() {
    let first = tempfile::Builder::new().prefix("nodeinit").tempdir().unwrap();
    let database = Arc::new(crate::support::TestDatabase::new(first.path()));
    if !database.is_postgres() {
        return;
    }
    key::make(&first.path().join("secret.key")).unwrap();
    let servers: Vec<TestServer> = std::thread::scope(|scope| {
        let starts: Vec<_> = (0..6)
            .map(|_| {
                let dir = tempfile::Builder::new().prefix("nodeinit").tempdir().unwrap();
                std::fs::copy(first.path().join("secret.key"), dir.path().join("secret.key"))
                    .unwrap();
                let database = database.clone();
                scope.spawn(move || {
                    let started = TestServer::open(Options::default(), Arc::new(dir), database);
                    started.map_err(|why| why.to_string()).unwrap()
                })
            })
            .collect();
        starts.into_iter().map(|start| start.join().unwrap()).collect()
    });
    servers[0].operator().add("n1", json!({}));
    let refs: Vec<&TestServer> = servers.iter().collect();
    let tokens = hundred_at_once(&refs, "n1");
    assert!(tokens.iter().all(|token| *token == tokens[0]));
    let names = "SELECT string_agg(name, ' ' ORDER BY name) FROM meta";
    assert_eq!(
        rows::text(&database, names),
        "auth-epoch changes-swept secret-key-check serves-since"
    );
    assert_eq!(rows::count(&database, "users"), 1);
}

#[test]
fn two_server_processes_over_one_database_make_one_token() {
    let home = Home::new();
    let first = home.serve();
    if !home.database.is_postgres() {
        let other = Home::without_key();
        let url = home.database.url().to_owned();
        let second = other.run(&["serve", "--database-url", &url, "--listen", "127.0.0.1:0"]);
        assert_eq!(second.code, 1, "{second:?}");
        assert!(second.err.contains("in use by another nodeinit"), "{}", second.err);
        assert!(second.err.contains(&first.pid().to_string()), "{}", second.err);
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(home.path("secret.key"), dir.path().join("secret.key")).unwrap();
    let mut command =
        home.command(&["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
    command.env("NODEINIT_STATE_DIR", dir.path());
    let socket = dir.path().join("admin.sock");
    let second = crate::support::process::Process::spawn(command, socket);
    first.operator().add("n1", json!({}));
    let barrier = std::sync::Barrier::new(100);
    let keys: BTreeSet<String> = std::thread::scope(|scope| {
        let callers: Vec<_> = (0..100)
            .map(|i| {
                let (server, barrier) = (if i % 2 == 0 { &first } else { &second }, &barrier);
                scope.spawn(move || {
                    let operator = server.operator();
                    barrier.wait();
                    key_of(&operator.token("n1"))
                })
            })
            .collect();
        callers.into_iter().map(|caller| caller.join().unwrap()).collect()
    });
    assert_eq!(keys.len(), 1, "{keys:?}");
    // Ended on one, refused on the other within a second.
    let node = second.credentials("n1");
    assert_eq!(instance_id(&node).0, 200);
    let path = format!("{}/token", node_path("n1"));
    assert_eq!(first.operator().send(Method::DELETE, &path, &[], b"").status, 204);
    std::thread::sleep(std::time::Duration::from_secs(1));
    assert_eq!(instance_id(&node), (401, "credentials_refused".into()));
}

#[test]
fn t08_a_revoked_token_is_refused_like_an_unknown_one_and_its_rows_go() {
    let server = TestServer::start();
    let old = server.node("n1");
    assert_eq!(instance_id(&old).0, 200);
    assert_eq!(revoke(&server, "n1"), 204);

    let unknown = Node { token_key: "a".repeat(18), ..old.clone() };
    let bare = |mut reply: Reply| {
        reply.headers.retain(|(name, _)| name != "date" && name != "x-request-id");
        reply.headers.sort();
        reply
    };
    let path = "/latest/meta-data/instance-id";
    assert_eq!(instance_id(&old), (401, "credentials_refused".into()));
    assert_eq!(bare(old.get(path)), bare(unknown.get(path)));
    assert_eq!(node_of(&server, &old.token_key), None);
    assert_eq!(rows::count(&server.database, "node_keys"), 0);

    let new = server.credentials("n1");
    assert_ne!(new.token_key, old.token_key);
    assert_ne!(new.token_secret, old.token_secret);
    assert_ne!(new.consumer_key, old.consumer_key);
    assert_eq!(instance_id(&new), (200, "n1".into()));
    assert_eq!(instance_id(&old).0, 401, "a new token does not revive the old");

    // Token and consumer are kept on record for the retention, and then go together.
    assert_eq!(rows::count(&server.database, "tokens"), 2);
    assert_eq!(sweep_after(&server, 30), 1);
    assert_eq!(rows::count(&server.database, "tokens"), 1);
    assert_eq!(rows::count(&server.database, "consumers"), 1);
    assert_eq!(instance_id(&new), (200, "n1".into()));
}

#[test]
fn t09_revoking_where_there_is_no_token_is_no_error() {
    let server = TestServer::start();
    server.operator().add("n1", json!({}));
    assert_eq!(revoke(&server, "n1"), 204);
    assert_eq!(revoke(&server, "n1"), 204);
    assert_eq!(rows::count(&server.database, "tokens"), 0);
    assert_eq!(revoke(&server, "n2"), 404);
}

#[test]
fn t10_every_change_of_project_ends_token_and_consumer() {
    let server = TestServer::start();
    server.project("alpha");
    server.project("beta");
    server.operator().add("n1", json!({}));
    let token_in = |project: &str| {
        let path = format!("/v1/{project}/nodes/n1/token");
        server.operator().session.send_json(Method::POST, &path, &json!({})).unwrap()
    };
    let mut seen = BTreeSet::new();
    let mut old = token_in("default");
    for (from, to) in [("default", "alpha"), ("alpha", "beta"), ("beta", "default")] {
        let node = Node::new(server.node, server.clock.clone(), &old);
        assert_eq!(instance_id(&node).0, 200);
        let moved = patch(&server, from, "n1", &json!({"project": to}));
        assert_eq!((moved.status, &moved.json()["project"]), (200, &json!(to)));
        assert_eq!(instance_id(&node), (401, "credentials_refused".into()), "{from} to {to}");
        assert_eq!(node_of(&server, &node.token_key), None);
        assert_eq!(rows::count(&server.database, "node_keys"), 0);
        let by = format!("SELECT ended_by FROM tokens WHERE token_key = '{}'", node.token_key);
        assert_eq!(rows::text(&server.database, &by), "project");

        let gone = server.operator().send(Method::GET, &format!("/v1/{from}/nodes/n1"), &[], b"");
        assert_eq!(gone.status, 404, "it is not in the old project any more");
        let token = format!("/v1/{from}/nodes/n1/token");
        assert_eq!(server.operator().send(Method::POST, &token, &[], b"").status, 404);
        old = token_in(to);
        for name in ["consumer_key", "token_key", "token_secret"] {
            assert!(seen.insert(old[name].as_str().unwrap().to_owned()), "another {name}");
        }
    }
    sweep_after(&server, 30);
    assert_eq!(rows::count(&server.database, "consumers"), 1, "the ended ones' consumers are gone");
}

#[test]
fn t10_moving_a_node_to_the_project_it_is_in_keeps_its_token() {
    let server = TestServer::start();
    let node = server.node("n1");
    assert_eq!(patch(&server, "default", "n1", &json!({"project": "default"})).status, 200);
    assert_eq!(instance_id(&node), (200, "n1".into()));
}

#[test]
fn t10_a_move_that_is_refused_ends_nothing() {
    let server = TestServer::start();
    server.project("alpha");
    let node = server.node("n1");
    let body = json!({"system_id": "n2", "hostname": "N1.example.COM"});
    server.operator().session.send_json(Method::POST, "/v1/alpha/nodes", &body).unwrap();
    // Its hostname is taken over there, so it stays, token and all.
    assert_eq!(patch(&server, "default", "n1", &json!({"project": "alpha"})).status, 409);
    assert_eq!(patch(&server, "default", "n1", &json!({"project": "nowhere"})).status, 404);
    assert_eq!(instance_id(&node), (200, "n1".into()));
    assert_eq!(key_of(&server.operator().token("n1")), node.token_key);
}

#[test]
fn t11_other_changes_leave_the_token() {
    let server = TestServer::start();
    let node = server.node("n1");
    let changes = [
        json!({"hostname": "other.example.com"}),
        json!({"macs": ["52:54:00:00:00:01"]}),
        json!({"ssh_keys": ["ssh-ed25519 AAAA a@b"]}),
        json!({"labels": {"rack": "r7"}}),
        json!({"netboot": false}),
        json!({}),
    ];
    for change in changes {
        assert_eq!(patch(&server, "default", "n1", &change).status, 200, "{change}");
        assert_eq!(instance_id(&node), (200, "n1".into()), "{change}");
    }
    server.operator().set("n1", "user-data", b"#!/bin/sh\n");
    server.operator().set("n1", "vendor-data", b"#cloud-config\n{}\n");
    assert_eq!(key_of(&server.operator().token("n1")), node.token_key);
    assert_eq!(rows::count(&server.database, "tokens"), 1);
}

#[test]
fn t12_a_removed_node_takes_its_token_consumer_and_user_data_along() {
    let server = TestServer::start();
    let old = server.node("n1");
    let other = server.node("n2");
    server.operator().set("n1", "user-data", b"#!/bin/sh\necho only n1\n");
    server.operator().set("n2", "user-data", b"#!/bin/sh\necho n2\n");
    assert_eq!(remove(&server, "n1"), 204);
    assert_eq!(remove(&server, "n1"), 404);
    for path in ["/", "/latest/", "/latest/meta-data/instance-id", "/latest/user-data"] {
        assert_eq!(old.get(path).brief(), (401, "credentials_refused".into()), "{path}");
    }
    assert_eq!(node_of(&server, &old.token_key), None);
    assert_eq!(rows::count(&server.database, "nodes"), 1);
    assert_eq!(rows::count(&server.database, "node_keys"), 1);
    assert_eq!(rows::count(&server.database, "contents"), 1);
    assert_eq!(rows::count(&server.database, "blobs"), 1, "bytes that nobody else has are gone");

    // Who comes by the same name later is somebody else.
    let new = server.node("n1");
    assert_ne!((&new.token_key, &new.token_secret), (&old.token_key, &old.token_secret));
    assert_eq!(new.get("/latest/user-data").brief(), (200, String::new()));
    assert_eq!(instance_id(&old).0, 401);
    sweep_after(&server, 30);
    assert_eq!(rows::count(&server.database, "tokens"), 2);
    assert_eq!(rows::count(&server.database, "consumers"), 2);
    assert_eq!(instance_id(&other), (200, "n2".into()));
}

#[test]
fn t13_a_node_survives_the_end_of_its_token() {
    let server = TestServer::start();
    let old = server.node("n1");
    server.operator().set("n1", "user-data", b"#!/bin/sh\n");
    server.clock.advance(8 * 86_400);
    let cull = json!({"unused_for": "7d"});
    let culled = server.operator().session.send_json(Method::POST, "/v1/tokens/cull", &cull);
    assert_eq!(culled.unwrap()["tokens"].as_array().unwrap().len(), 1);
    assert_eq!(instance_id(&old).0, 401);

    let node = server.operator().session.get(&node_path("n1")).unwrap();
    assert_eq!((&node["system_id"], &node["boot_state"]), (&json!("n1"), &json!("new")));
    let new = server.credentials("n1");
    assert_ne!(new.token_key, old.token_key);
    assert_eq!(new.get("/latest/user-data").brief(), (200, "#!/bin/sh\n".into()));
}

#[test]
fn t14_showing_the_token_of_a_node_without_one_is_404_and_makes_nothing() {
    let server = TestServer::start();
    server.operator().add("n1", json!({}));
    for id in ["n1", "n2"] {
        let path = format!("{}/token", node_path(id));
        assert_eq!(server.operator().send(Method::GET, &path, &[], b"").status, 404, "{id}");
    }
    assert_eq!(rows::count(&server.database, "tokens"), 0);
}

#[test]
fn t16_the_answer_to_get_has_exactly_these_keys() {
    let server = TestServer::start();
    server.operator().add("n1", json!({}));
    let token = server.operator().token("n1");
    let keys: Vec<&str> = token.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(
        keys,
        [
            "system_id",
            "consumer_key",
            "consumer_secret",
            "token_key",
            "token_secret",
            "metadata_url"
        ]
    );
    assert_eq!(token["metadata_url"], format!("http://{}/MAAS/metadata/", server.node));

    let shown = server.operator().session.get(&format!("{}/token", node_path("n1"))).unwrap();
    let keys: Vec<&str> = shown.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, ["system_id", "token_key", "state", "created_at", "last_used_at"]);
    assert_eq!(shown["state"], "live");
    assert_eq!(shown["created_at"], "2027-01-15T08:00:00Z");
    assert_eq!(shown["last_used_at"], Value::Null);
}

#[test]
fn t17_node_init_is_one_disabled_user_who_owns_every_token() {
    let server = TestServer::start();
    server.node("n1");
    server.node("n2");
    let server = server.restart();
    server.node("n3");
    assert_eq!(rows::count(&server.database, "users WHERE name = 'node-init'"), 1);
    assert_eq!(rows::count(&server.database, "users WHERE enabled"), 0);
    let owned =
        "consumers JOIN users ON users.id = consumers.user_id WHERE users.name = 'node-init'";
    assert_eq!(rows::count(&server.database, owned), 3);
    // The same in every installation.
    let hex = if server.database.is_postgres() { "encode(id, 'hex')" } else { "lower(hex(id))" };
    let id = rows::text(&server.database, &format!("SELECT {hex} FROM users"));
    assert_eq!(id, "019a00000000700080000000000000a1");
}

#[test]
fn t18_twenty_processes_that_migrate_an_empty_database_at_once_make_one_node_init() {
    let home = Home::new();
    let codes: Vec<(i32, String)> = std::thread::scope(|scope| {
        let home = &home;
        let runs: Vec<_> = (0..20)
            .map(|_| {
                scope.spawn(move || {
                    let ran = home.run(&["migrate"]);
                    (ran.code, ran.err)
                })
            })
            .collect();
        runs.into_iter().map(|run| run.join().unwrap()).collect()
    });
    for (code, err) in codes {
        assert_eq!(code, 0, "{err}");
    }
    assert_eq!(rows::count(&home.database, "users"), 1);
    assert_eq!(rows::count(&home.database, "projects"), 1);
}

#[test]
fn t19_a_token_that_exists_is_got_without_a_write() {
    let server = TestServer::start();
    server.operator().add("n1", json!({}));
    let token = server.operator().token("n1");
    let held = rows::hold(&server.database, &["nodes", "tokens", "consumers", "node_keys"]);
    let began = std::time::Instant::now();
    assert_eq!(server.operator().token("n1"), token);
    assert!(began.elapsed().as_secs() < 2, "it waited for the writer");
    drop(held);
}

/// What may happen to a few nodes in a few projects.
#[derive(Clone, Debug)]
enum Step {
    Add(usize, usize),
    Get(usize),
    Revoke(usize),
    Remove(usize),
    Move(usize, usize),
}

const PROJECTS: [&str; 3] = ["default", "alpha", "beta"];

fn step() -> impl Strategy<Value = Step> {
    let (node, project) = (0..4_usize, 0..3_usize);
    prop_oneof![
        2 => (node.clone(), project.clone()).prop_map(|(n, p)| Step::Add(n, p)),
        4 => node.clone().prop_map(Step::Get),
        1 => node.clone().prop_map(Step::Revoke),
        1 => node.clone().prop_map(Step::Remove),
        2 => (node, project).prop_map(|(n, p)| Step::Move(n, p)),
    ]
}

/// What we believe of one node: its project, and the key of its live token.
struct Belief {
    project: usize,
    key: Option<String>,
}

/// Both laws, for every node and every key there has ever been.
fn laws_hold(
    server: &TestServer,
    believed: &BTreeMap<String, Belief>,
    ended: &BTreeSet<String>,
) -> Result<(), TestCaseError> {
    for (id, belief) in believed {
        let project = PROJECTS[belief.project];
        if let Some(key) = &belief.key {
            let node = node_of(server, key);
            prop_assert_eq!(node.as_deref(), Some(id.as_str()));
            let path = format!("/v1/{project}/nodes/{}/token", node.unwrap());
            let again = server.operator().session.send_json(Method::POST, &path, &json!({}));
            prop_assert_eq!(&key_of(&again.unwrap()), key);
        }
    }
    for key in ended {
        prop_assert_eq!(node_of(server, key), None);
    }
    Ok(())
}

#[test]
fn the_two_laws_hold_after_every_step_of_any_history() {
    let server = TestServer::start();
    server.project("alpha");
    server.project("beta");
    let case = std::cell::Cell::new(0);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 24,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let histories = proptest::collection::vec(step(), 1..24);
    let checked = runner.run(&histories, |history| {
        case.set(case.get() + 1);
        let name = |n: usize| format!("c{}n{n}", case.get());
        let operator = server.operator();
        let send = |method, path: &str, body: Value| {
            let json = [("content-type", "application/json")];
            operator.send(method, path, &json, body.to_string().as_bytes())
        };
        let mut believed: BTreeMap<String, Belief> = BTreeMap::new();
        let mut ended = BTreeSet::new();
        for step in history {
            match step {
                Step::Add(n, project) => {
                    let id = name(n);
                    let body = json!({"system_id": id, "hostname": id});
                    let path = format!("/v1/{}/nodes", PROJECTS[project]);
                    let taken = believed.contains_key(&id);
                    let status = send(Method::POST, &path, body).status;
                    prop_assert_eq!(status, if taken { 409 } else { 201 });
                    believed.entry(id).or_insert(Belief { project, key: None });
                }
                Step::Get(n) => {
                    let id = name(n);
                    let project = believed.get(&id).map_or(0, |belief| belief.project);
                    let path = format!("/v1/{}/nodes/{id}/token", PROJECTS[project]);
                    let reply = send(Method::POST, &path, json!({}));
                    let Some(belief) = believed.get_mut(&id) else {
                        prop_assert_eq!(reply.status, 404);
                        continue;
                    };
                    prop_assert_eq!(reply.status, 200);
                    let key = key_of(&reply.json());
                    prop_assert!(!ended.contains(&key), "an ended key is given out again");
                    prop_assert_eq!(belief.key.get_or_insert(key.clone()), &key);
                }
                Step::Revoke(n) | Step::Remove(n) => {
                    let id = name(n);
                    let is_removal = matches!(step, Step::Remove(_));
                    let project = believed.get(&id).map_or(0, |belief| belief.project);
                    let path = format!("/v1/{}/nodes/{id}", PROJECTS[project]);
                    let path = if is_removal { path } else { format!("{path}/token") };
                    let reply = operator.send(Method::DELETE, &path, &[], b"");
                    let known = believed.contains_key(&id);
                    prop_assert_eq!(reply.status, if known { 204 } else { 404 });
                    ended.extend(believed.get_mut(&id).and_then(|belief| belief.key.take()));
                    if is_removal {
                        believed.remove(&id);
                    }
                }
                Step::Move(n, to) => {
                    let id = name(n);
                    let project = believed.get(&id).map_or(0, |belief| belief.project);
                    let path = format!("/v1/{}/nodes/{id}", PROJECTS[project]);
                    let reply = send(Method::PATCH, &path, json!({"project": PROJECTS[to]}));
                    let Some(belief) = believed.get_mut(&id) else {
                        prop_assert_eq!(reply.status, 404);
                        continue;
                    };
                    prop_assert_eq!(reply.status, 200);
                    if to != belief.project {
                        ended.extend(belief.key.take());
                        belief.project = to;
                    }
                }
            }
            laws_hold(&server, &believed, &ended)?;
        }
        Ok(())
    });
    checked.unwrap();
}

#[test]
fn the_two_laws_hold_after_a_brawl() {
    let server = TestServer::start();
    server.project("alpha");
    for id in ["n1", "n2", "n3"] {
        server.operator().add(id, json!({}));
    }
    std::thread::scope(|scope| {
        for fighter in 0..8_usize {
            let server = &server;
            scope.spawn(move || {
                let operator = server.operator();
                for round in 0..25_usize {
                    let id = ["n1", "n2", "n3"][(fighter + round) % 3];
                    let project = ["default", "alpha"][round / 2 % 2];
                    let path = format!("/v1/{project}/nodes/{id}");
                    let reply = match (fighter * 7 + round) % 5 {
                        0 => operator.send(Method::DELETE, &format!("{path}/token"), &[], b""),
                        1 => {
                            let to = ["alpha", "default"][round % 2];
                            patch(server, project, id, &json!({"project": to}))
                        }
                        _ => operator.send(Method::POST, &format!("{path}/token"), &[], b""),
                    };
                    // In the other project just now is 404; trouble of ours is nothing of this.
                    assert!(matches!(reply.status, 200 | 204 | 404), "{}", reply.text());
                }
            });
        }
    });
    let live = "node_keys WHERE state = 'live'";
    assert_eq!(rows::count(&server.database, "node_keys"), rows::count(&server.database, live));
    for id in ["n1", "n2", "n3"] {
        let projects = ["default", "alpha"];
        let token = projects.iter().find_map(|project| {
            let path = format!("/v1/{project}/nodes/{id}/token");
            server.operator().session.send_json(Method::POST, &path, &json!({})).ok()
        });
        let key = key_of(&token.expect("it is in one of the two"));
        assert_eq!(node_of(&server, &key).as_deref(), Some(id));
    }
    let stray = "tokens LEFT JOIN node_keys ON node_keys.token_id = tokens.id \
                 WHERE tokens.ended_at IS NULL AND node_keys.token_id IS NULL";
    assert_eq!(rows::count(&server.database, stray), 0, "what has not ended speaks for a node");
}

#[test]
fn secrets_are_sealed_at_rest_in_every_table_and_file() {
    let mut server = TestServer::start();
    let nodes: Vec<Node> = (0..5).map(|i| server.node(&format!("n{i}"))).collect();
    for node in &nodes {
        assert_eq!(instance_id(node).0, 200);
        let path = format!("{}/preseed", node_path(&node.system_id));
        let body = json!({"format": "cloud-config"}).to_string();
        let json = [("content-type", "application/json")];
        let preseed = server.operator().send(Method::POST, &path, &json, body.as_bytes());
        assert!(preseed.text().contains(&node.token_secret));
    }
    revoke(&server, "n0");
    remove(&server, "n1");
    let key = std::fs::read(server.dir.path().join("secret.key")).unwrap();
    let check = |when: &str, server: &TestServer| {
        let mut at_rest = rows::dump(&server.database);
        assert!(rows::holds(&at_rest, &nodes[2].token_key), "the dump holds what it should");
        for entry in std::fs::read_dir(server.dir.path()).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() && !path.ends_with("secret.key") {
                at_rest.extend(std::fs::read(path).unwrap());
            }
        }
        for node in &nodes {
            assert!(!rows::holds(&at_rest, &node.token_secret), "{when}: {}", node.system_id);
        }
        let hex: String = key.iter().map(|b| format!("{b:02x}")).collect();
        assert!(!at_rest.windows(key.len()).any(|w| w == key), "{when}: the key itself");
        assert!(!rows::holds(&at_rest, &hex), "{when}: the key itself");
    };
    check("running", &server);
    server.stop();
    check("stopped", &server);
}

#[test]
fn two_equal_secrets_would_not_look_equal_at_rest() {
    let server = TestServer::start();
    server.node("n1");
    server.node("n2");
    // A swap of two envelopes is noticed: each is bound to its own row.
    server.database.execute(
        "UPDATE tokens SET sealed_secret = (SELECT other.sealed_secret FROM tokens AS other \
         WHERE other.token_key <> tokens.token_key)",
    );
    let path = format!("{}/token", node_path("n1"));
    let reply = server.operator().send(Method::POST, &path, &[], b"");
    assert_eq!(reply.status, 500, "{}", reply.text());
}

/// The id of an event with a file that the node reported.
fn reported(server: &TestServer, node: &Node) -> String {
    let event = br#"{"event_type": "finish", "origin": "o", "name": "n", "description": "d",
        "timestamp": 1, "files": [{"path": "p", "encoding": "base64", "content": "QQ=="}]}"#;
    let headers = [("Authorization", &*node.header())];
    let reply = node.send("POST", &format!("/status/{}", node.system_id), &headers, event);
    assert_eq!(reply.status, 204);
    let path = format!("/v1/default/nodes/{}/events", node.system_id);
    let events = server.operator().session.list(&path, None).unwrap();
    events[0]["id"].as_str().unwrap().to_owned()
}

#[test]
fn a_secret_leaves_by_get_and_by_preseed_and_no_other_way() {
    let server = TestServer::start();
    server.project("alpha");
    let operator = server.operator();
    let mut told = BTreeSet::new();
    let mut asked = 0;
    let routes = nodeinit::http::operator_routes().into_iter();
    // Nothing of a node is known below /v2.0.
    for (path, methods) in routes.filter(|(path, _)| path.starts_with("/v1/")) {
        for method in methods.iter().map(|operation| operation.method) {
            // Each on a node of its own, whose secret is known.
            asked += 1;
            let id = format!("n{asked}");
            let node = server.node(&id);
            assert_eq!(instance_id(&node).0, 200);
            operator.set(&id, "user-data", b"#!/bin/sh\n");
            operator.set(&id, "vendor-data", b"#cloud-config\n{}\n");
            let at = path.replace("{project}", "default").replace("{system_id}", &id);
            let at = at.replace("{event}", &reported(&server, &node)).replace("{ordinal}", "0");
            let (kind, body) = match (method, path) {
                ("POST", "/v1/{project}/tokens") => ("application/x-ndjson", format!("\"{id}\"")),
                ("POST", "/v1/{project}/nodes") => (
                    "application/json",
                    json!({"system_id": format!("{id}-new"), "hostname": "new"}).to_string(),
                ),
                ("POST", "/v1/bootstrap") => (
                    "application/json",
                    json!({"name": "root", "password": "correct horse"}).to_string(),
                ),
                ("POST", "/v1/tokens/cull") => {
                    ("application/json", json!({"idle_for": "0s", "dry_run": true}).to_string())
                }
                ("POST", "/v1/policy/explain") => {
                    let question = json!({"action": "token:get", "user": "node-init", "node": id});
                    ("application/json", question.to_string())
                }
                ("POST", path) if path.ends_with("/preseed") => {
                    ("application/json", json!({"format": "curl"}).to_string())
                }
                ("PUT", _) => ("application/octet-stream", "#cloud-config\n{}\n".to_owned()),
                _ => ("application/json", json!({}).to_string()),
            };
            let headers = [("content-type", kind), ("if-match", "*")];
            let headers = if method == "PUT" { &headers[..] } else { &headers[..1] };
            let method: Method = method.parse().unwrap();
            let body = if method == Method::GET { "" } else { &body };
            let reply = operator.send(method.clone(), &at, headers, body.as_bytes());
            assert!(reply.status < 300, "{method} {path}: {}", reply.text());
            if rows::holds(&reply.body, &node.token_secret) {
                told.insert(format!("{method} {path}"));
            }
            // A mistake does not tell it either.
            let wrong = operator.send(method.clone(), &at, &[("if-match", "x")], b"{\"x\": 1");
            if wrong.status >= 400 {
                assert!(!rows::holds(&wrong.body, &node.token_secret), "{method} {path}");
            }
        }
    }
    let told: Vec<&str> = told.iter().map(String::as_str).collect();
    assert_eq!(
        told,
        [
            "POST /v1/{project}/nodes/{system_id}/preseed",
            "POST /v1/{project}/nodes/{system_id}/token",
            "POST /v1/{project}/tokens",
        ]
    );

    let node = server.node("reader");
    let wrong = Node { token_secret: "x".repeat(32), ..node.clone() };
    for path in [
        "/",
        "/latest/",
        "/latest/meta-data/",
        "/latest/meta-data/instance-id",
        "/latest/meta-data/local-hostname",
        "/latest/meta-data/public-keys",
        "/latest/meta-data/vendor-data",
        "/latest/user-data",
        "/latest/nothing",
        "/junk/",
    ] {
        for reply in [node.get(path), wrong.get(path), node.send("POST", path, &[], b"")] {
            let everything = format!("{:?}{}", reply.headers, reply.text());
            assert!(!everything.contains(&node.token_secret), "{path}");
        }
    }
    for path in ["/healthz", "/readyz", "/version", "/metrics"] {
        assert!(!server.observer().get(path).text().contains(&node.token_secret));
    }
}

#[test]
fn no_secret_is_logged() {
    let home = Home::new();
    let server = home.serve();
    let node = server.node("n1");
    let other = server.node("n2");
    assert_eq!(instance_id(&node).0, 200);
    node.get("/latest/user-data?oauth_signature=%26hunter2hunter2");
    let wrong = Node { token_key: other.token_key.clone(), ..node.clone() };
    assert_eq!(instance_id(&wrong).0, 401);
    let path = format!("{}/preseed", node_path("n1"));
    let body = json!({"format": "curl"}).to_string();
    let json = [("content-type", "application/json")];
    server.operator().send(Method::POST, &path, &json, body.as_bytes());
    let said = server.stop();
    assert!(said.contains("\"route\":\"/MAAS/metadata/{version}/user-data\""), "{said}");
    for secret in [&node.token_secret, &other.token_secret, "hunter2"] {
        assert!(!rows::holds(said.as_bytes(), secret), "{said}");
    }
}

#[test]
fn the_key_file_is_32_bytes_for_its_owner_alone() {
    let server = TestServer::start();
    let path = server.dir.path().join("secret.key");
    assert_eq!(mode(&path), 0o600);
    let made = std::fs::read(&path).unwrap();
    assert_eq!(made.len(), 32);
    assert!(made.iter().collect::<BTreeSet<_>>().len() > 8, "no constant");
    let dir = server.dir.clone();
    drop(server.restart());
    assert_eq!(std::fs::read(dir.path().join("secret.key")).unwrap(), made, "it is made once");
}

/// A server that was used, stopped, and what is wrong with its key when it starts again.
fn start_again(sabotage: impl Fn(&std::path::Path)) -> Result<(TestServer, Node), String> {
    let mut server = TestServer::start();
    let node = server.node("n1");
    server.stop();
    sabotage(&server.dir.path().join("secret.key"));
    let again = TestServer::open(Options::default(), server.dir.clone(), server.database.clone());
    let again = again.map_err(|why| why.to_string())?;
    let node = Node { address: again.node, ..node };
    Ok((again, node))
}

#[test]
fn a_wrong_key_stops_the_start_and_the_right_one_brings_everything_back() {
    let why = start_again(|path| {
        std::fs::remove_file(path).unwrap();
        key::make(path).unwrap();
    })
    .err()
    .expect("a key that does not fit");
    assert!(why.contains("not the one this database was made with"), "{why}");
    assert!(why.contains("secret.key"), "{why}");

    let (server, node) = start_again(|path| {
        // Away and back again.
        let right = std::fs::read(path).unwrap();
        std::fs::write(path, [7; 32]).unwrap();
        std::fs::write(path, right).unwrap();
    })
    .unwrap();
    assert_eq!(instance_id(&node), (200, "n1".into()));
    assert_eq!(server.operator().token("n1")["token_secret"], node.token_secret);
}

#[test]
fn a_missing_or_broken_key_stops_the_start_and_none_is_made_in_its_place() {
    let kept = std::cell::RefCell::new(std::path::PathBuf::new());
    let missing = start_again(|path| {
        std::fs::remove_file(path).unwrap();
        kept.replace(path.to_owned());
    });
    let why = missing.err().expect("no key");
    assert!(why.contains("no secret key at") && why.contains("secret.key"), "{why}");
    assert!(!kept.borrow().exists());

    for broken in [&b""[..], b"short", &[1; 31], &[1; 33]] {
        let why = start_again(|path| std::fs::write(path, broken).unwrap()).err().expect("broken");
        assert!(why.contains("a secret key is 32"), "{why}");
    }
}

#[test]
fn the_key_may_lie_elsewhere() {
    let elsewhere = tempfile::tempdir().unwrap();
    let path = elsewhere.path().join("the.key");
    let home = Home::without_key();
    let key = path.to_str().unwrap();
    if home.database.is_postgres() {
        home.run(&["migrate", "--new-key", "--secret-key-file", key]).done();
    }
    let server = home.serve_with(&["--secret-key-file", key]);
    let node = server.node("n1");
    assert_eq!(instance_id(&node).0, 200);
    assert_eq!(mode(&path), 0o600);
    assert!(!home.path("secret.key").exists());
    server.stop();
}

#[test]
fn with_postgresql_only_migrate_new_key_makes_a_key() {
    let home = Home::without_key();
    let before = home.run(&["serve", "--listen", "127.0.0.1:0", "--admin-listen", "off", "--help"]);
    assert_eq!(before.code, 0);
    if home.database.is_postgres() {
        let refused = home.run(&["serve", "--listen", "127.0.0.1:0", "--admin-listen", "off"]);
        assert_eq!(refused.code, 1, "{refused:?}");
        assert!(refused.err.contains("nodeinit migrate --new-key"), "{}", refused.err);
        assert!(!home.path("secret.key").exists());
    }
    home.run(&["migrate", "--new-key"]).done();
    let path = home.path("secret.key");
    assert_eq!(mode(&path), 0o600);
    let made = std::fs::read(&path).unwrap();
    assert_eq!(made.len(), 32);

    let again = home.run(&["migrate", "--new-key"]);
    assert_eq!(again.code, 1, "{again:?}");
    assert!(again.err.contains("not replaced"), "{}", again.err);
    assert_eq!(std::fs::read(&path).unwrap(), made);

    let server = home.serve();
    assert_eq!(instance_id(&server.node("n1")), (200, "n1".into()));
    server.stop();
}

#[test]
fn with_sqlite_the_first_start_makes_the_key_also_after_a_migrate() {
    let home = Home::without_key();
    if home.database.is_postgres() {
        return;
    }
    home.run(&["migrate"]).done();
    let server = home.serve();
    assert_eq!(mode(&home.path("secret.key")), 0o600);
    assert_eq!(instance_id(&server.node("n1")), (200, "n1".into()));
    server.stop();
}

#[test]
fn a_key_that_others_can_read_is_a_warning() {
    use std::os::unix::fs::PermissionsExt as _;
    let home = Home::new();
    home.serve().stop();
    let path = home.path("secret.key");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let said = home.serve().stop();
    assert!(said.contains("can be read by others"), "{said}");
}
