//! What the audit says of changes of identity: who, what and to whom, done or refused, and for
//! whom a service spoke.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::coverage::{CASES, Scene};
use crate::support::TestServer;
use crate::support::realm::{JSON, Realm};

fn audit(server: &TestServer) -> Vec<Value> {
    server.operator().session.get("/v1/audit").unwrap()["items"].as_array().unwrap().clone()
}

/// The one row that came since there were `before`.
#[track_caller]
fn one_more(server: &TestServer, before: usize, asked: &str) -> Value {
    let rows = audit(server);
    assert_eq!(rows.len(), before + 1, "{asked}: {:#?}", &rows[before..]);
    rows[before].clone()
}

#[test]
fn every_change_of_identity_and_every_refused_one_is_one_row() {
    let scene = Scene::start();
    let server = &scene.realm.server;
    let reader = scene.realm.admin.person("reader", "reader", &scene.realm.t1).caller;
    let changes = CASES.iter().filter(|case| {
        let identity = case.route.starts_with("/v2.0/") && !case.is_anonymous();
        case.method != "GET" && (identity || case.route == "/v1/bootstrap")
    });
    let mut verbs = BTreeSet::new();
    for case in changes {
        let asked = format!("{} {}", case.method, case.route);
        let before = audit(server).len();
        let refused = scene.send(case, &reader, &[]);
        assert_eq!(refused.status, 403, "{asked}");
        let row = one_more(server, before, &asked);
        assert_eq!(row["outcome"], "refused", "{row}");
        assert!(row["actor"].as_str().unwrap().contains("reader"), "{row}");
        assert_eq!(row["request_id"], refused.header("x-request-id").unwrap(), "{row}");
        let verb = row["verb"].clone();

        // What only the socket may is refused to the admin too.
        let (before, reply) = (before + 1, scene.send(case, &scene.realm.admin, &[]));
        let row = one_more(server, before, &asked);
        let outcome = if case.route == "/v1/bootstrap" { "refused" } else { "done" };
        assert_eq!((&row["outcome"], &row["verb"]), (&json!(outcome), &verb), "{row}");
        assert!(row["actor"].as_str().unwrap().contains("root"), "{row}");
        assert_eq!(row["request_id"], reply.header("x-request-id").unwrap(), "{row}");
        assert_eq!(row["at"], "2027-01-15T08:00:00Z");
        verbs.insert(verb.as_str().unwrap().to_owned());
    }
    let expected = [
        "identity:bootstrap",
        "identity:revoke",
        "project:change",
        "project:create",
        "project:remove",
        "role:grant",
        "role:revoke",
        "user:change",
        "user:create",
        "user:password",
        "user:remove",
    ];
    assert_eq!(verbs, expected.map(str::to_owned).into());
    let whole: String = audit(server).iter().map(Value::to_string).collect();
    for secret in ["nit_", "password of", "another password", "argon2"] {
        assert!(!whole.contains(secret), "{secret}");
    }
    let verified = server.operator().session.get("/v1/audit/verify").unwrap();
    assert_eq!(verified["ok"], true, "{verified}");
}

#[test]
fn a_change_that_comes_to_nothing_is_no_change_done() {
    let realm = Realm::start();
    let before = audit(&realm.server).len();
    for (status, reply) in [
        (400, realm.admin.create_user(json!({"name": ""}))),
        (404, realm.admin.create_user(json!({"name": "x", "tenantId": "nope"}))),
        (409, realm.admin.create_user(json!({"name": "ROOT"}))),
        (404, realm.admin.delete("/v2.0/users/nope")),
        (404, realm.admin.revoke("garbage")),
    ] {
        assert_eq!(reply.status, status, "{}", reply.text());
    }
    let since: Vec<_> = audit(&realm.server)[before..].to_vec();
    assert!(since.iter().all(|row| row["outcome"] != "done"), "{since:#?}");
}

#[test]
fn what_a_service_does_for_somebody_names_both_and_by_how_much_the_token_was_overrun() {
    let realm = Realm::start();
    let alice = realm.admin.person("alice", "provisioner", &realm.t1);
    let deployd = realm.admin.person("deployd", "service", &realm.t2);
    realm.server.clock.advance(3600 + 1234);
    let service = deployd.enter_again();
    let headers = [JSON, ("X-Service-Token", service.token())];
    let send = |method: &str, path: &str, body: &Value| {
        alice.caller.send(method, path, &headers, body.to_string().as_bytes()).status
    };
    let before = audit(&realm.server).len();
    let node = json!({"system_id": "n1", "hostname": "n1.example.com"});
    assert_eq!(send("POST", "/v1/t1/nodes", &node), 201);
    let row = one_more(&realm.server, before, "the node");
    let actor = row["actor"].as_str().unwrap();
    for part in ["alice", "deployd", "1234"] {
        assert!(actor.contains(part), "{part}: {row}");
    }
    assert_eq!((&row["verb"], &row["outcome"]), (&json!("node:create"), &json!("done")));
    // And what it may not do for her.
    let password = json!({"user": {"password": "stolen password"}});
    let path = format!("/v2.0/users/{}/OS-KSADM/password", alice.id);
    assert_eq!(send("PUT", &path, &password), 403);
    let row = one_more(&realm.server, before + 1, "the password");
    let actor = row["actor"].as_str().unwrap();
    assert!(actor.contains("alice") && actor.contains("deployd"), "{row}");
    assert_eq!((&row["verb"], &row["outcome"]), (&json!("user:password"), &json!("refused")));
}
