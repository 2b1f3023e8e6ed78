//! The audit: what leaves a row and what does not, and that nobody takes one away unseen.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::SignedDuration;
use nodeinit::actions;
use nodeinit::domain::identity::{Role, id_text};
use nodeinit::domain::password::OperatorToken;
use nodeinit::http::operator_routes;
use nodeinit::store::columns::Id;
use nodeinit::store::{grants, operator_tokens, projects, users};
use serde_json::{Value, json};

use crate::support::process::Home;
use crate::support::{Method, Options, Reply, TestDatabase, TestServer, rows, wait, wire};

/// Every row, oldest first.
fn audit(server: &TestServer) -> Vec<Value> {
    server.operator().session.list("/v1/audit", None).unwrap()
}

/// What a row says was done, to what, and how it ended.
fn brief(row: &Value) -> [&str; 3] {
    ["verb", "object", "outcome"].map(|name| row[name].as_str().unwrap())
}

fn verify(server: &TestServer) -> Value {
    server.operator().session.get("/v1/audit/verify").unwrap()
}

/// `COUNT:MAC` as a person would note it.
fn head(server: &TestServer) -> String {
    let verified = verify(server);
    format!("{}:{}", verified["count"], verified["mac"].as_str().unwrap())
}

fn verify_against(server: &TestServer, head: &str) -> Value {
    server.operator().session.get(&format!("/v1/audit/verify?head={head}")).unwrap()
}

#[track_caller]
fn assert_whole(server: &TestServer) {
    let verified = verify(server);
    assert_eq!((&verified["ok"], &verified["problem"]), (&json!(true), &Value::Null));
}

#[track_caller]
fn assert_broken(verified: &Value, problem: &str) {
    assert_eq!((&verified["ok"], &verified["problem"]), (&json!(false), &json!(problem)));
}

/// An operator with a token, who is `role` in a project.
struct Person {
    token: String,
    user: String,
    audit_id: String,
    project: String,
    server: std::net::SocketAddr,
}

impl Person {
    fn new(server: &TestServer, name: &str, role: Role, project: Id) -> Person {
        let app = &server.app;
        let now = server.clock.now();
        let id = Id(app.mint.id(now));
        let token = OperatorToken::mint(&app.mint);
        let hash = token.hash();
        let user = users::User {
            id,
            name: name.to_owned(),
            email: None,
            enabled: true,
            default_project: None,
        };
        let audit_id = format!("audit-{name}");
        let new = operator_tokens::New {
            hash,
            audit_id: audit_id.clone(),
            user: id,
            project: Some(project),
            issued_at: now,
            expires_at: now + SignedDuration::from_hours(1),
        };
        server.write(move |tx| {
            users::insert(tx, &user, None)?;
            grants::insert(tx, id, project, role)?;
            operator_tokens::insert(tx, &new)
        });
        Person {
            token: token.reveal().to_string(),
            user: id_text(id.0),
            audit_id,
            project: id_text(project.0),
            server: server.admin,
        }
    }

    fn send(&self, method: &str, path: &str, body: &str) -> Reply {
        let headers = [("X-Auth-Token", self.token.as_str()), ("Content-Type", "application/json")];
        wire::send(self.server, method, path, &headers, body.as_bytes())
    }
}

struct Case {
    method: &'static str,
    route: &'static str,
    content_type: &'static str,
    body: &'static str,
    verb: &'static str,
    object: &'static str,
}

const fn case(
    method: &'static str,
    route: &'static str,
    body: &'static str,
    verb: &'static str,
) -> Case {
    Case { method, route, content_type: "application/json", body, verb, object: "node/n1" }
}

const NODES: &str = "/v1/{project}/nodes";
const NODE: &str = "/v1/{project}/nodes/{system_id}";
const USER_DATA: &str = "/v1/{project}/nodes/{system_id}/user-data";
const VENDOR_DATA: &str = "/v1/{project}/nodes/{system_id}/vendor-data";
const TOKEN: &str = "/v1/{project}/nodes/{system_id}/token";
const PRESEED: &str = "/v1/{project}/nodes/{system_id}/preseed";
const REISSUE: &str = "/v1/{project}/nodes/{system_id}/token/reissue";
const CLAIMS: &str = "/v1/{project}/nodes/{system_id}/claims";
const REPROVISION: &str = "/v1/{project}/nodes/{system_id}/reprovision";
const TOKENS: &str = "/v1/{project}/tokens";
const NDJSON: &str = "application/x-ndjson";
/// The project `default`.
const DEFAULT: &str = "project/019a00000000700080000000000000f1";

/// In an order in which each of them changes something.
const CASES: &[Case] = &[
    case("POST", NODES, r#"{"system_id": "n1", "hostname": "n1.example.com"}"#, "node:create"),
    Case {
        content_type: NDJSON,
        object: DEFAULT,
        ..case(
            "POST",
            NODES,
            r#"{"system_id": "n2", "hostname": "n2", "user_data": "IyEvYmluL3NoCg=="}
{"system_id": "n3", "hostname": "n3"}"#,
            "node:create",
        )
    },
    case("PATCH", NODE, r#"{"hostname": "other.example.com", "netboot": false}"#, "node:change"),
    case("PUT", USER_DATA, "#!/bin/sh\n", "user-data:set"),
    case("DELETE", USER_DATA, "", "user-data:set"),
    case("PUT", VENDOR_DATA, "#cloud-config\nbootcmd: [true]\n", "vendor-data:set"),
    case("DELETE", VENDOR_DATA, "", "vendor-data:set"),
    case("POST", TOKEN, "", "token:get"),
    case("POST", REISSUE, "", "token:reissue"),
    case("POST", CLAIMS, "", "claim:create"),
    case("DELETE", TOKEN, "", "token:revoke"),
    case("POST", PRESEED, r#"{"format": "cloud-config"}"#, "preseed:get"),
    case("POST", REPROVISION, "", "node:reprovision"),
    Case {
        content_type: NDJSON,
        object: DEFAULT,
        ..case("POST", TOKENS, "\"n1\"\n\"n2\"\n\"n3\"\n", "token:get")
    },
    Case {
        object: "fleet",
        ..case("POST", "/v1/tokens/cull", r#"{"unused_for": "1d", "force": true}"#, "token:cull")
    },
    case("DELETE", NODE, "", "node:remove"),
];

impl Case {
    fn path(&self) -> String {
        self.route.replace("{project}", "default").replace("{system_id}", "n1")
    }
}

#[test]
fn every_changing_route_under_v1_leaves_one_row_that_says_who_did_what() {
    let routes: BTreeSet<(&str, &str)> = operator_routes()
        .iter()
        .flat_map(|(path, methods)| methods.iter().map(move |operation| (*path, operation.method)))
        .filter(|(path, method)| path.starts_with("/v1/") && *method != "GET")
        // One is with the other changes of identity, below, and one only asks.
        .filter(|(path, _)| !["/v1/bootstrap", "/v1/policy/explain"].contains(path))
        .collect();
    let cases: BTreeSet<(&str, &str)> =
        CASES.iter().map(|case| (case.route, case.method)).collect();
    assert_eq!(routes, cases, "a route without a case, or a case without a route");

    let server = TestServer::start();
    let bob = Person::new(&server, "bob", Role::Admin, projects::DEFAULT);
    for by_bob in [false, true] {
        for case in CASES {
            if case.verb == "token:cull" {
                server.clock.advance(2 * 86_400);
                let later = server.clock.now() + SignedDuration::from_hours(1);
                server.database.execute(&format!(
                    "UPDATE operator_tokens SET expires_at = {}",
                    later.as_microsecond()
                ));
                // What is remembered of tokens is of another epoch then.
                server.write(move |tx| {
                    nodeinit::store::meta::update_auth_epoch(tx, &[u8::from(by_bob), 9])
                });
            }
            let before = audit(&server).len();
            let asked = format!("{} {}", case.method, case.route);
            let reply = if by_bob {
                let headers =
                    [("X-Auth-Token", bob.token.as_str()), ("Content-Type", case.content_type)];
                wire::send(server.admin, case.method, &case.path(), &headers, case.body.as_bytes())
            } else {
                let headers = [("Content-Type", case.content_type)];
                let method = Method::from_bytes(case.method.as_bytes()).unwrap();
                server.operator().send(method, &case.path(), &headers, case.body.as_bytes())
            };
            assert!((200..300).contains(&reply.status), "{asked}: {}", reply.text());
            let rows = audit(&server);
            assert_eq!(rows.len(), before + 1, "{asked}");
            let row = &rows[before];
            assert_eq!(brief(row), [case.verb, case.object, "done"], "{asked}");
            assert_eq!(row["request_id"].as_str().unwrap().len(), 16, "{asked}");
            assert_eq!(row["at"], json!(server.clock.now()), "{asked}");
            let actor = row["actor"].as_str().unwrap();
            if by_bob {
                assert_eq!(row["request_id"].as_str(), reply.header("x-request-id"), "{asked}");
                let (user, token) = (&bob.user, &bob.audit_id);
                let project = &bob.project;
                let whole =
                    format!("user bob id={user} project default id={project} token={token}");
                assert_eq!(actor, whole, "{asked}");
            } else {
                let pid = std::process::id();
                let uid = rustix::process::getuid().as_raw();
                assert_eq!(actor, format!("socket uid={uid} pid={pid}"), "{asked}");
            }
        }
        for id in ["n2", "n3"] {
            server.operator().session.delete(&format!("/v1/default/nodes/{id}")).unwrap();
        }
    }
    assert_whole(&server);
}

#[test]
fn every_change_of_identity_leaves_one_row_and_what_changes_nothing_none() {
    let server = TestServer::start();
    let ask = |method: &str, path: &str, token: Option<&str>, body: &Value| -> Reply {
        let mut headers = vec![("Content-Type", "application/json")];
        headers.extend(token.map(|token| ("X-Auth-Token", token)));
        let body = if body.is_null() { String::new() } else { body.to_string() };
        wire::send(server.admin, method, path, &headers, body.as_bytes())
    };
    let none = Value::Null;
    let mut seen = 0;
    // What the rows say that came since this was called last.
    let mut since = || -> Vec<[String; 3]> {
        let rows = audit(&server).split_off(seen);
        seen += rows.len();
        rows.iter().map(|row| brief(row).map(str::to_owned)).collect()
    };
    let credentials = json!({"name": "ann", "password": "ann's secret"});
    let session = server.operator().session;
    let ann = session.send_json(Method::POST, "/v1/bootstrap", &credentials).unwrap();
    let ann = format!("user/{}", ann["user"]["id"].as_str().unwrap());
    assert_eq!(since(), [["identity:bootstrap", &ann, "done"]]);
    session.send_json(Method::POST, "/v1/bootstrap", &credentials).unwrap();
    assert_eq!(since(), [["identity:bootstrap", &ann, "done"]]);

    let login = |name: &str, password: &str| {
        let credentials = json!({"username": name, "password": password});
        let auth = json!({"auth": {"passwordCredentials": credentials}});
        ask("POST", "/v2.0/tokens", None, &auth)
    };
    let reply = login("ann", "ann's secret");
    let access = reply.json()["access"].clone();
    let (token, audit_id) = (&access["token"]["id"], &access["token"]["audit_ids"][0]);
    let (token, audit_id) = (token.as_str().unwrap(), audit_id.as_str().unwrap());
    assert_eq!(since(), [["identity:login", &format!("token/{audit_id}"), "done"]]);
    let row = audit(&server).pop().unwrap();
    let id = ann.strip_prefix("user/").unwrap();
    let project = "019a00000000700080000000000000f1";
    let actor = format!("user ann id={id} project default id={project} token={audit_id}");
    assert_eq!(row["actor"], actor);
    assert_eq!(row["request_id"].as_str(), reply.header("x-request-id"));

    let tenant = json!({"tenant": {"name": "racks", "description": "all of them"}});
    let tenant = ask("POST", "/v2.0/tenants", Some(token), &tenant).json();
    let tenant = tenant["tenant"]["id"].as_str().unwrap().to_owned();
    let user = json!({"user": {"name": "bob", "password": "bob's secret", "tenantId": tenant}});
    let user = ask("POST", "/v2.0/users", Some(token), &user).json();
    let user = user["user"]["id"].as_str().unwrap().to_owned();
    let (project, bob) = (format!("project/{tenant}"), format!("user/{user}"));
    let both = format!("{project}/{bob}");
    assert_eq!(since(), [["project:create", &project, "done"], ["user:create", &bob, "done"]]);

    let bobs = login("bob", "bob's secret").json()["access"]["token"].clone();
    since();
    let users = "/v2.0/users";
    let granted = format!("/v2.0/tenants/{tenant}/users/{user}/roles/OS-KSADM/provisioner");
    let (user, tenant) = (format!("{users}/{user}"), format!("/v2.0/tenants/{tenant}"));
    let nobody = format!("{users}/{}", "0".repeat(32));
    let bobs_token = format!("/v2.0/tokens/{}", bobs["id"].as_str().unwrap());
    let bobs_audit_id = format!("token/{}", bobs["audit_ids"][0].as_str().unwrap());
    let unknown_token = format!("/v2.0/tokens/nit_{}", "x".repeat(43));
    let change = json!({"user": {"email": "bob@example.com"}});
    let password = json!({"user": {"password": "another secret"}});
    let describe = json!({"tenant": {"description": "none"}});
    let twice = json!({"user": {"name": "BOB", "password": "bob's secret"}});
    let zero = format!("user/{}", "0".repeat(32));
    for (method, path, body, status, verb, object, outcome) in [
        ("PUT", &*user, &change, 200, "user:change", &*bob, "done"),
        ("PUT", &user, &change, 200, "", "", ""),
        ("PUT", &granted, &none, 204, "role:grant", &both, "done"),
        ("PUT", &granted, &none, 204, "", "", ""),
        ("DELETE", &bobs_token, &none, 204, "identity:revoke", &bobs_audit_id, "done"),
        ("DELETE", &granted, &none, 204, "role:revoke", &both, "done"),
        ("DELETE", &granted, &none, 404, "role:revoke", &both, "refused"),
        ("POST", &tenant, &describe, 200, "project:change", &project, "done"),
        ("POST", &tenant, &describe, 200, "", "", ""),
        (
            "PUT",
            &format!("{user}/OS-KSADM/password"),
            &password,
            200,
            "user:password",
            &bob,
            "done",
        ),
        ("POST", users, &twice, 409, "user:create", "-", "refused"),
        ("DELETE", &nobody, &none, 404, "user:remove", &zero, "refused"),
        ("DELETE", &format!("{users}/bob"), &none, 404, "user:remove", "-", "refused"),
        ("DELETE", &unknown_token, &none, 404, "identity:revoke", "-", "refused"),
        ("DELETE", &user, &none, 204, "user:remove", &bob, "done"),
        ("DELETE", &tenant, &none, 204, "project:remove", &project, "done"),
        ("GET", users, &none, 200, "", "", ""),
    ] {
        let reply = ask(method, path, Some(token), body);
        assert_eq!(reply.status, status, "{method} {path}: {}", reply.text());
        let expected: &[[&str; 3]] = if verb.is_empty() { &[] } else { &[[verb, object, outcome]] };
        assert_eq!(since(), expected, "{method} {path}");
    }
    assert_eq!(login("ann", "wrong").status, 401);
    assert_eq!(since(), [["identity:authenticate", "-", "refused"]]);
    assert_whole(&server);
    let rows = serde_json::to_vec(&audit(&server)).unwrap();
    for secret in ["secret", "nit_", token, "bob@", "all of them"] {
        assert!(!rows::holds(&rows, secret), "{secret}");
    }
}

#[test]
fn a_row_has_digests_and_counts() {
    let server = TestServer::start();
    let operator = server.operator();
    operator.add("n1", json!({}));
    operator.set("n1", "user-data", b"#!/bin/sh\n");
    let lines = "{\"system_id\": \"n3\", \"hostname\": \"n3\"}\n{\"system_id\": \"n2\", \"hostname\": \"n2\"}\n";
    let ndjson = [("content-type", NDJSON)];
    assert_eq!(
        operator.send(Method::POST, "/v1/default/nodes", &ndjson, lines.as_bytes()).status,
        200
    );
    let change = json!({"labels": {"a": "b"}, "netboot": true});
    operator.session.send_json(Method::PATCH, "/v1/default/nodes/n1", &change).unwrap();
    let detail: Vec<Value> = audit(&server).iter().map(|row| row["detail"].clone()).collect();
    let project = "019a00000000700080000000000000f1";
    // sha256sum of the bytes, and of the two names with a newline behind each.
    let script = "a8076d3d28d21e02012b20eaf7dbf75409a6277134439025f282e368e3305abf";
    let names = "24786df63dc8230e82dd2597ad3516fbd829821f390cc65e6a2c17edb7188a50";
    assert_eq!(
        detail,
        [
            json!({"project": project}),
            json!({"version": 1, "size": 10, "sha256": script}),
            json!({"count": 2, "sha256": names}),
            json!({"fields": ["labels"], "project": project, "to_project": null}),
        ]
    );
}

#[test]
fn what_changes_nothing_leaves_no_row() {
    let server = TestServer::start();
    let operator = server.operator();
    let node = server.node("n1");
    operator.set("n1", "user-data", b"#!/bin/sh\n");
    let before = audit(&server);
    let send = |method: Method, path: &str, content_type: &str, body: &str| {
        let headers = [("Content-Type", content_type)];
        let reply = operator.send(method.clone(), path, &headers, body.as_bytes());
        assert!((200..300).contains(&reply.status), "{method} {path}: {}", reply.text());
    };
    for path in [
        "/v1/default/nodes",
        "/v1/default/nodes/n1",
        "/v1/default/nodes/n1/user-data",
        "/v1/default/nodes/n1/user-data/versions",
        "/v1/default/nodes/n1/token",
        "/v1/tokens",
        "/v1/audit",
        "/v1/audit/verify",
        "/healthz",
        "/metrics",
    ] {
        send(Method::GET, path, "", "");
        send(Method::HEAD, path, "", "");
    }
    let json = "application/json";
    let same = r#"{"hostname": "n1.example.com", "netboot": true, "labels": {}}"#;
    send(Method::PATCH, "/v1/default/nodes/n1", json, same);
    send(Method::PATCH, "/v1/default/nodes/n1", json, r#"{"project": "default"}"#);
    send(Method::POST, "/v1/default/nodes/n1/token", json, "");
    send(Method::POST, "/v1/default/tokens", NDJSON, "\"n1\"\n");
    send(Method::POST, "/v1/default/nodes/n1/preseed", json, r#"{"format": "curl"}"#);
    send(Method::DELETE, "/v1/default/nodes/n1/vendor-data", json, "");
    send(Method::POST, "/v1/tokens/cull", json, r#"{"unused_for": "1d"}"#);
    let again = r#"{"system_id": "n1", "hostname": "n1.example.com"}"#;
    send(Method::POST, "/v1/default/nodes", NDJSON, again);
    server.clock.advance(2 * 86_400);
    let dry = r#"{"unused_for": "1d", "dry_run": true}"#;
    send(Method::POST, "/v1/tokens/cull", json, dry);
    // Nor does what a node does, or the server for itself.
    assert_eq!(node.get("/latest/user-data").status, 200);
    assert_eq!(node.get_with("/latest/user-data", "OAuth x").status, 401);
    wait(actions::cull::flush(&server.app)).unwrap();
    assert_eq!(audit(&server), before);

    operator.session.delete("/v1/default/nodes/n1/token").unwrap();
    wait(actions::cull::sweep(&server.app, Duration::ZERO)).unwrap();
    let after_revoke = audit(&server).len();
    operator.session.delete("/v1/default/nodes/n1/token").unwrap();
    assert_eq!(after_revoke, before.len() + 1);
    assert_eq!(audit(&server).len(), after_revoke, "there was no token to end");
}

#[test]
fn a_refused_change_of_a_known_caller_leaves_a_row_and_a_refused_read_none() {
    let server = TestServer::start();
    let other = server.project("other");
    let reader = Person::new(&server, "reader", Role::Reader, projects::DEFAULT);
    let stray = Person::new(&server, "stray", Role::Provisioner, other);
    server.operator().add("n1", json!({}));
    server.operator().set("n1", "user-data", b"#!/bin/sh\n");
    let socket = |method: Method, path: &str, headers: &[(&str, &str)], body: &str| {
        server.operator().send(method, path, headers, body.as_bytes())
    };
    let json = ("Content-Type", "application/json");
    let other_version = [("If-Match", "\"7\"")];
    let refused: Vec<(Reply, u16, &str, &str)> = vec![
        (reader.send("PATCH", "/v1/default/nodes/n1", "{}"), 403, "node:change", "node/n1"),
        (reader.send("DELETE", "/v1/default/nodes/n9", ""), 403, "node:remove", "node/n9"),
        (reader.send("POST", "/v1/tokens/cull", "{}"), 403, "token:cull", "-"),
        (reader.send("POST", "/v1/default/nodes", "{}"), 403, "node:create", DEFAULT),
        (stray.send("DELETE", "/v1/default/nodes/n1", ""), 400, "node:remove", "node/n1"),
        (stray.send("DELETE", "/v1/default/nodes/%22'x", ""), 400, "node:remove", "-"),
        (stray.send("DELETE", "/v1/default/nodes/%ff", ""), 400, "node:remove", "-"),
        (stray.send("DELETE", "/v1/other/nodes/n1", ""), 404, "node:remove", "node/n1"),
        (
            socket(Method::PATCH, "/v1/default/nodes/n1", &[json], r#"{"hostname": "a b"}"#),
            400,
            "node:change",
            "node/n1",
        ),
        (
            socket(Method::POST, "/v1/nowhere/nodes/n1/token", &[json], ""),
            404,
            "token:get",
            "node/n1",
        ),
        (
            socket(
                Method::POST,
                "/v1/default/nodes",
                &[json],
                r#"{"system_id": "n1", "hostname": "x"}"#,
            ),
            409,
            "node:create",
            DEFAULT,
        ),
        (
            socket(Method::PUT, "/v1/default/nodes/n1/user-data", &[], "#!/bin/false\n"),
            428,
            "user-data:set",
            "node/n1",
        ),
        (
            socket(Method::PUT, "/v1/default/nodes/n1/user-data", &other_version, "#!/bin/false\n"),
            412,
            "user-data:set",
            "node/n1",
        ),
    ];
    let rows = audit(&server).split_off(2);
    assert_eq!(rows.len(), refused.len());
    for ((reply, status, verb, object), row) in refused.iter().zip(&rows) {
        assert_eq!(reply.status, *status, "{verb} {object}: {}", reply.text());
        assert_eq!(brief(row), [*verb, *object, "refused"], "{row}");
        assert_eq!(row["detail"], json!({"status": status}), "{row}");
        assert_eq!(row["request_id"].as_str().unwrap().len(), 16, "{row}");
    }
    for (row, name) in rows.iter().zip(["reader"; 4].into_iter().chain(["stray"; 4])) {
        assert!(row["actor"].as_str().unwrap().starts_with(&format!("user {name} id=")), "{row}");
    }

    for (path, status) in [("/v1/audit", 403), ("/v1/tokens", 403), ("/v1/other/nodes", 400)] {
        assert_eq!(reader.send("GET", path, "").status, status);
        assert_eq!(reader.send("HEAD", path, "").status, status);
    }
    let explain = json!({"action": "node:show"}).to_string();
    assert_eq!(reader.send("POST", "/v1/policy/explain", &explain).status, 403);
    assert_eq!(audit(&server).len(), 2 + refused.len());
    assert_whole(&server);
}

#[test]
fn strangers_are_counted_and_written_of_once_a_minute() {
    let server = TestServer::start();
    let knock = || {
        let reply = server.observer().send("DELETE", "/v1/default/nodes/n1", &[], b"");
        assert_eq!(reply.status, 401);
    };
    for _ in 0..5 {
        knock();
    }
    let headers = [("X-Auth-Token", "nit_wrong")];
    assert_eq!(server.observer().send("GET", "/v1/tokens", &headers, b"").status, 401);
    let rows = audit(&server);
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert_eq!(rows[0]["actor"], "stranger 127.0.0.1");
    assert_eq!(brief(&rows[0]), ["identity:authenticate", "-", "refused"]);
    assert_eq!(rows[0]["detail"], json!({"status": 401, "count": 1}));

    server.clock.advance(60);
    knock();
    knock();
    let rows = audit(&server);
    assert_eq!(rows.len(), 2, "{rows:?}");
    assert_eq!(rows[1]["detail"], json!({"status": 401, "count": 6}));
    // What comes last is told of too, when its minute is over and when the server stops.
    wait(actions::audit::flush_strangers(&server.app));
    assert_eq!(audit(&server).len(), 2);
    server.clock.advance(60);
    wait(actions::audit::flush_strangers(&server.app));
    let rows = audit(&server);
    assert_eq!(rows[2..].iter().map(|row| &row["detail"]["count"]).collect::<Vec<_>>(), [1]);
    assert_whole(&server);
}

#[test]
fn without_the_audit_nothing_is_changed_and_refusals_stand() {
    let server = TestServer::start();
    let operator = server.operator();
    operator.add("n1", json!({}));
    operator.add("n2", json!({}));
    operator.token("n2");
    let state = || {
        ["/v1/default/nodes", "/v1/tokens", "/v1/default/nodes/n1/user-data/versions"]
            .map(|path| operator.session.get(path).unwrap())
    };
    let before = state();
    server.clock.advance(2 * 86_400);
    server.database.execute("DROP TABLE audit");
    for case in CASES {
        let path = match case.verb {
            "token:revoke" | "node:remove" => case.path().replace("/n1", "/n2"),
            "user-data:set" | "vendor-data:set" if case.method == "DELETE" => continue,
            _ => case.path(),
        };
        let body = case.body.replace("\"n1\", \"h", "\"new\", \"h").replace("n1.example", "x");
        let body = body.replace("\"n2\", \"h", "\"m2\", \"h").replace("\"n3\", \"h", "\"m3\", \"h");
        let body = if case.route == TOKENS { "\"n1\"\n" } else { &body };
        let method = Method::from_bytes(case.method.as_bytes()).unwrap();
        let reply =
            operator.send(method, &path, &[("Content-Type", case.content_type)], body.as_bytes());
        assert_eq!(reply.status, 503, "{} {path}: {}", case.method, reply.text());
    }
    assert_eq!(state(), before);
    assert_eq!(operator.send(Method::DELETE, "/v1/default/nodes/n9", &[], b"").status, 404);
    assert_eq!(server.observer().send("GET", "/v1/tokens", &[], b"").status, 401);
}

/// A server whose audit has rows 1 to 6.
fn six_rows() -> TestServer {
    let server = TestServer::start();
    for n in 1..=6 {
        server.operator().add(&format!("n{n}"), json!({}));
    }
    assert_whole(&server);
    server
}

#[test]
fn whatever_is_done_to_a_row_is_seen() {
    for (sabotage, problem) in [
        ("UPDATE audit SET at = at + 1 WHERE seq = 3", "row 3 was changed, put in or moved"),
        ("UPDATE audit SET actor = 'x' WHERE seq = 3", "row 3 was changed, put in or moved"),
        ("UPDATE audit SET verb = 'x' WHERE seq = 1", "row 1 was changed, put in or moved"),
        ("UPDATE audit SET object = 'x' WHERE seq = 3", "row 3 was changed, put in or moved"),
        ("UPDATE audit SET outcome = 'x' WHERE seq = 3", "row 3 was changed, put in or moved"),
        ("UPDATE audit SET detail = '{}' WHERE seq = 3", "row 3 was changed, put in or moved"),
        ("UPDATE audit SET request_id = '' WHERE seq = 6", "row 6 was changed, put in or moved"),
        (
            "UPDATE audit SET mac = (SELECT mac FROM audit WHERE seq = 2) WHERE seq = 3",
            "row 3 was changed, put in or moved",
        ),
        ("DELETE FROM audit WHERE seq = 1", "row 1 is gone"),
        ("DELETE FROM audit WHERE seq = 4", "row 4 is gone"),
        ("DELETE FROM audit WHERE seq = 6", "row 6 is gone: the tail was cut"),
        ("DELETE FROM audit WHERE seq > 2", "row 3 is gone: the tail was cut"),
        ("DELETE FROM audit", "row 1 is gone: the tail was cut"),
        ("UPDATE audit SET seq = 7 WHERE seq = 6", "row 6 is gone: the tail was cut"),
        (
            "INSERT INTO audit SELECT 7, at, actor, verb, object, outcome, detail, request_id, mac \
             FROM audit WHERE seq = 6",
            "row 7 was put in",
        ),
        (
            "INSERT INTO audit SELECT 0, at, actor, verb, object, outcome, detail, request_id, mac \
             FROM audit WHERE seq = 6",
            "row 0 was put in",
        ),
        ("DELETE FROM audit_head", "the head is gone"),
        ("UPDATE audit_head SET seal = mac", "the head, which counts the rows, was changed"),
        ("UPDATE audit_head SET count = 7", "row 7 is gone: the tail was cut"),
    ] {
        let server = six_rows();
        server.database.execute(sabotage);
        let verified = verify(&server);
        assert_eq!(verified["problem"], problem, "{sabotage}");
        assert_broken(&verified, problem);
    }
}

#[test]
fn rows_that_changed_places_are_seen() {
    let server = six_rows();
    for (from, to) in [(3, 99), (4, 3), (99, 4)] {
        server.database.execute(&format!("UPDATE audit SET seq = {to} WHERE seq = {from}"));
    }
    assert_broken(&verify(&server), "row 3 was changed, put in or moved");
}

#[test]
fn what_is_no_text_any_more_is_named_too() {
    let server = six_rows();
    if server.database.is_postgres() {
        return; // it takes no such text
    }
    server.database.execute("UPDATE audit SET actor = CAST(x'ff00' AS TEXT) WHERE seq = 4");
    assert_broken(&verify(&server), "row 4 cannot be read");
}

/// Cuts the tail as somebody would who knows how the head counts it, but has no key.
fn cut_and_count(database: &TestDatabase, count: i64) {
    database.execute(&format!("DELETE FROM audit WHERE seq > {count}"));
    database.execute(&format!(
        "UPDATE audit_head SET count = {count}, mac = (SELECT mac FROM audit WHERE seq = {count})"
    ));
}

#[test]
fn a_tail_cut_with_its_count_is_seen_and_stays_seen() {
    let server = six_rows();
    let noted = head(&server);
    cut_and_count(&server.database, 4);
    assert_broken(&verify(&server), "the head, which counts the rows, was changed");
    let mut before = 4;
    // Nobody gets rid of it by going on.
    for id in ["n7", "n8", "n9"] {
        server.operator().add(id, json!({}));
        before += 1;
        let verified = verify(&server);
        assert_eq!(verified["count"], before);
        assert_broken(&verified, "the head, which counts the rows, was changed");
    }
    // As many rows as were noted, but not the same.
    let problem = verify_against(&server, &noted);
    assert_broken(&problem, "row 6 is not the one whose MAC was noted");
}

#[test]
fn against_a_noted_head_even_an_older_database_is_seen() {
    let server = six_rows();
    assert_broken(
        &verify_against(&server, &format!("7:{}", "00".repeat(32))),
        "the tail was cut: there are 6 rows, and were 7",
    );
    let fourth = audit(&server)[3]["mac"].as_str().unwrap().to_owned();
    for good in [head(&server), format!("4:{fourth}"), format!("0:{}", "00".repeat(32))] {
        let verified = verify_against(&server, &good);
        assert_eq!((&verified["ok"], &verified["problem"]), (&json!(true), &Value::Null));
    }
    let wrong = verify_against(&server, &format!("5:{fourth}"));
    assert_broken(&wrong, "row 5 is not the one whose MAC was noted");

    // All of it as it was before the first row: nothing in the database tells.
    let noted = head(&server);
    server.database.execute("DELETE FROM audit");
    let zero = if server.database.is_postgres() {
        ("decode(repeat('00', 32), 'hex')", "decode('', 'hex')")
    } else {
        ("zeroblob(32)", "x''")
    };
    server
        .database
        .execute(&format!("UPDATE audit_head SET count = 0, mac = {}, seal = {}", zero.0, zero.1));
    assert_whole(&server);
    let verified = verify_against(&server, &noted);
    assert_broken(&verified, "the tail was cut: there are 0 rows, and were 6");

    for bad in ["", "6", "6:zz", "x:00", "6%3A00"] {
        let reply =
            server.operator().send(Method::GET, &format!("/v1/audit/verify?head={bad}"), &[], b"");
        assert_eq!(reply.status, 400, "{bad}");
        assert_eq!(reply.json()["errors"][0]["field"], "head");
    }
}

#[test]
fn another_key_is_no_key() {
    let server = six_rows();
    let noted = head(&server);
    let rows = audit(&server);
    let restarted = server.restart();
    assert_eq!(head(&restarted), noted);
    assert_eq!(audit(&restarted), rows);
    assert_whole(&restarted);
}

#[test]
fn those_who_write_at_once_make_one_chain() {
    let server = TestServer::start_with(Options::default().system_clock());
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let server = &server;
            scope.spawn(move || {
                let operator = server.operator();
                for n in 0..5 {
                    let id = format!("n{thread}-{n}");
                    operator.add(&id, json!({}));
                    operator.token(&id);
                    let path = format!("/v1/default/nodes/{id}");
                    let change = json!({"labels": {"thread": thread.to_string()}});
                    operator.session.send_json(Method::PATCH, &path, &change).unwrap();
                    // Refused, in a transaction of its own.
                    assert_eq!(operator.send(Method::PUT, &path, &[], b"").status, 405);
                    let again = json!({"system_id": id, "hostname": "x"});
                    operator
                        .session
                        .send_json(Method::POST, "/v1/default/nodes", &again)
                        .unwrap_err();
                }
            });
        }
    });
    let rows = audit(&server);
    assert_eq!(rows.len(), 8 * 5 * 4);
    for (row, seq) in rows.iter().zip(1..) {
        assert_eq!(row["seq"], seq);
    }
    assert_whole(&server);
    for verb in ["token:get", "node:change"] {
        let done = rows.iter().filter(|row| row["verb"] == verb).count();
        assert_eq!(done, 40, "{verb}");
    }
}

#[test]
fn while_others_write_what_is_there_verifies() {
    let server = TestServer::start_with(Options::default().system_clock());
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for n in 0..60 {
                server.operator().add(&format!("n{n}"), json!({}));
            }
        });
        let sweeper = scope.spawn(|| {
            for _ in 0..20 {
                wait(actions::audit::sweep(&server.app, Duration::from_millis(50))).unwrap();
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        while !(writer.is_finished() && sweeper.is_finished()) {
            assert_whole(&server);
        }
    });
    assert_whole(&server);
    assert_eq!(verify(&server)["count"], 60);
}

#[test]
fn no_secret_and_nothing_that_was_sent_is_in_any_row() {
    let server = TestServer::start();
    let bob = Person::new(&server, "bob", Role::Admin, projects::DEFAULT);
    let operator = server.operator();
    let sent = json!({
        "macs": ["52:54:00:ab:cd:ef"],
        "ssh_keys": ["ssh-ed25519 AAAAsentkey sent@key"],
        "labels": {"sentname": "sentvalue"},
    });
    operator.add("n1", sent);
    let mut secrets = vec![bob.token.clone(), "example.com".into()];
    for _ in 0..3 {
        secrets.push(operator.token("n1")["token_secret"].as_str().unwrap().to_owned());
        operator.session.delete("/v1/default/nodes/n1/token").unwrap();
    }
    operator.set("n1", "user-data", b"#!/bin/sh\nsentdata\n");
    let format = r#"{"format": "debconf-sent"}"#;
    for (method, path, body) in [
        ("PATCH", "/v1/default/nodes/n1", r#"{"sentfield": "sentvalue"}"#),
        ("PATCH", "/v1/default/nodes/n1", r#"{"hostname": "sent host"}"#),
        ("PATCH", "/v1/default/nodes/n1", r#"{"project": "sentproject"}"#),
        ("DELETE", "/v1/sentproject/nodes/n1", ""),
        ("DELETE", "/v1/default/nodes/sent%20node", ""),
        ("POST", "/v1/default/nodes/n1/preseed", format),
        ("POST", "/v1/tokens/cull?sent=query", r#"{"unused_for": "sent"}"#),
    ] {
        assert!(bob.send(method, path, body).status >= 400, "{method} {path}");
    }
    let token = [("X-Auth-Token", "nit_sentsentsentsentsentsentsentsentsentsentsentsen")];
    assert_eq!(server.observer().send("GET", "/v1/tokens", &token, b"").status, 401);
    let rows = serde_json::to_vec(&audit(&server)).unwrap();
    assert!(audit(&server).len() >= 15);
    secrets.extend(["sent", "52:54", "AAAA"].map(str::to_owned));
    for secret in &secrets {
        assert!(!rows::holds(&rows, secret), "{secret}");
    }
}

#[test]
fn the_list_has_pages_and_filters() {
    let server = TestServer::start_with(Options::default().flag("page", "4"));
    let bob = Person::new(&server, "bob_1", Role::Admin, projects::DEFAULT);
    let off = r#"{"netboot": false}"#;
    for n in 1..=6 {
        server.operator().add(&format!("n{n}"), json!({}));
        if n == 1 {
            assert_eq!(bob.send("PATCH", "/v1/default/nodes/n1", off).status, 200);
            assert_eq!(bob.send("PATCH", "/v1/default/nodes/n9", off).status, 404);
        }
        server.clock.advance(3600);
    }
    let session = server.operator().session;
    let first = session.get("/v1/audit").unwrap();
    assert_eq!(first["items"].as_array().unwrap().len(), 4);
    let next = first["next"].as_str().unwrap();
    let second = session.get(&format!("/v1/audit?cursor={next}&limit=1")).unwrap();
    assert_eq!(second["items"][0]["seq"], 5);
    let all = session.list("/v1/audit", None).unwrap();
    let seqs: Vec<i64> = all.iter().map(|row| row["seq"].as_i64().unwrap()).collect();
    assert_eq!(seqs, [1, 2, 3, 4, 5, 6, 7, 8]);

    let objects = |query: &str| -> Vec<String> {
        let rows = session.list(&format!("/v1/audit?{query}"), None).unwrap();
        rows.iter().map(|row| row["object"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(objects("verb=node:create").len(), 6);
    assert_eq!(objects("verb=node:creat"), [""; 0]);
    assert_eq!(objects("object=node/n2"), ["node/n2"]);
    assert_eq!(objects("actor=bob_1"), ["node/n1", "node/n9"]);
    assert_eq!(objects("actor=USER%20bob_1&verb=node:change&object=node/n9"), ["node/n9"]);
    assert_eq!(objects("actor=boba1"), [""; 0]);
    assert_eq!(objects("actor=socket").len(), 6);
    assert_eq!(objects("actor=SOCKET").len(), 6);
    assert_eq!(objects("actor=sock"), [""; 0], "words are whole");
    for nothing in ["actor=%25", "actor=_ocket", "actor=s%25t", "object=%25", "actor=%5C"] {
        assert_eq!(objects(nothing), [""; 0], "{nothing}");
    }
    assert_eq!(objects("since=2027-01-15T12:00:00Z"), ["node/n5", "node/n6"]);
    assert_eq!(objects("since=2h"), ["node/n5", "node/n6"]);
    assert_eq!(objects("since=3h&verb=node:create&actor=socket&object=node/n6").len(), 1);
    for bad in ["since=yesterday", "limit=0", "cursor=x", "cursor=eA", "who=bob", "actor=a%00b"] {
        let reply = server.operator().send(Method::GET, &format!("/v1/audit?{bad}"), &[], b"");
        assert_eq!(reply.status, 400, "{bad}");
    }
}

#[test]
fn only_an_admin_reads_the_audit() {
    let server = six_rows();
    let admin = Person::new(&server, "ann", Role::Admin, projects::DEFAULT);
    for path in ["/v1/audit", "/v1/audit/verify"] {
        assert_eq!(admin.send("GET", path, "").status, 200);
        for role in [Role::Provisioner, Role::Reader, Role::Service] {
            let name = format!("{}{}", role.as_str(), path.len());
            let person = Person::new(&server, &name, role, projects::DEFAULT);
            assert_eq!(person.send("GET", path, "").status, 403, "{role:?}");
        }
    }
}

#[test]
fn the_oldest_rows_are_cut_and_the_rest_still_verifies() {
    let server = TestServer::start();
    let mut heads = Vec::new();
    for n in 1..=6 {
        server.operator().add(&format!("n{n}"), json!({}));
        heads.push(head(&server));
        server.clock.advance(3600);
    }
    let sweep = |keep: u64| wait(actions::audit::sweep(&server.app, Duration::from_secs(keep)));
    assert_eq!(sweep(7 * 3600).unwrap(), 0);
    assert_eq!(sweep(4 * 3600 - 1).unwrap(), 3);
    let rows = audit(&server);
    assert_eq!(rows.iter().map(|row| &row["seq"]).collect::<Vec<_>>(), [4, 5, 6]);
    assert_whole(&server);
    assert_eq!(head(&server), heads[5]);
    for (noted, ok) in heads.iter().zip([false, false, true, true, true, true]) {
        assert_eq!(verify_against(&server, noted)["ok"], ok, "{noted}");
    }
    assert_broken(
        &verify_against(&server, &heads[1]),
        "the noted head is older than the rows that are kept: note a later one",
    );
    server.operator().add("n7", json!({}));
    assert_eq!(sweep(0).unwrap(), 3);
    server.clock.advance(1);
    assert_eq!(sweep(0).unwrap(), 1);
    assert_whole(&server);
    assert_eq!(verify(&server)["count"], 7);
    server.operator().add("n8", json!({}));
    assert_whole(&server);
    assert_eq!(audit(&server)[0]["seq"], 8);
}

#[test]
fn what_was_changed_by_hand_is_not_swept_away() {
    for sabotage in [
        "UPDATE audit SET actor = 'x' WHERE seq = 2",
        "DELETE FROM audit WHERE seq = 2",
        "UPDATE audit_head SET base = 2, base_mac = (SELECT mac FROM audit WHERE seq = 2)",
    ] {
        let server = six_rows();
        server.clock.advance(3600);
        server.database.execute(sabotage);
        let rows = rows::count(&server.database, "audit");
        assert_eq!(wait(actions::audit::sweep(&server.app, Duration::ZERO)).unwrap(), 0);
        assert_eq!(rows::count(&server.database, "audit"), rows, "{sabotage}");
        assert_eq!(verify(&server)["ok"], false, "{sabotage}");
    }
}

#[test]
fn on_the_command_line_a_broken_audit_is_exit_1() {
    let home = Home::new();
    let _server = home.serve();
    for n in 1..=3 {
        let id = format!("n{n}");
        home.run(&["node", "add", &id, "--hostname", &id]).done();
    }
    let listed = home.run(&["audit", "list", "-o", "json"]).done().json();
    assert_eq!(listed.as_array().unwrap().len(), 3);
    let table = home.run(&["audit", "list", "--verb", "node:create", "--limit", "2"]).done();
    let lines: Vec<&str> = table.out.lines().collect();
    assert_eq!(lines.len(), 3, "{}", table.out);
    assert!(lines[0].starts_with("SEQ"), "{}", table.out);
    assert!(lines[1].contains("node:create") && lines[1].contains("node/n1"), "{}", table.out);
    let filters = ["--actor", "socket", "--object", "node/n3", "--since", "1h", "-o", "yaml"];
    let one = home.run(&[&["audit", "list"][..], &filters].concat()).done();
    assert_eq!(one.out.matches("seq:").count(), 1, "{}", one.out);

    let verified = home.run(&["audit", "verify", "-o", "json"]).done().json();
    assert_eq!((&verified["ok"], &verified["count"]), (&json!(true), &json!(3)));
    let noted = verified["head"].as_str().unwrap();
    assert_eq!(noted, format!("3:{}", verified["mac"].as_str().unwrap()));
    assert!(home.run(&["audit", "verify"]).done().out.contains(noted));
    home.run(&["audit", "verify", "--head", noted]).done();

    home.run(&["node", "remove", "n1"]).done();
    home.run(&["audit", "verify", "--head", noted]).done();
    let later = home.run(&["audit", "verify", "-o", "json"]).done().json();
    let later = later["head"].as_str().unwrap();
    home.database.execute("DELETE FROM audit WHERE seq = 4");
    for head in [&[][..], &["--head", noted], &["--head", later]] {
        let ran = home.run(&[&["audit", "verify"], head].concat());
        let line =
            "nodeinit: audit verify: the audit is not whole: row 4 is gone: the tail was cut\n";
        assert_eq!((ran.code, ran.err.as_str()), (1, line));
        assert!(ran.out.contains("count"), "{}", ran.out);
    }
    let ahead = format!("9:{}", "0".repeat(64));
    for wrong in [
        &["audit", "verify", "--head", "3"][..],
        &["audit", "verify", "--head", "x:y"],
        &["audit", "list", "--since", "yesterday"],
        &["audit", "list", "--limit", "x"],
    ] {
        assert_eq!(home.run(wrong).code, 2, "{wrong:?}");
    }
    assert_eq!(home.run(&["audit", "verify", "--head", &ahead]).code, 1);
}
