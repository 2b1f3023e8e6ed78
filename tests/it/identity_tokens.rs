//! What a token says and what kills it: the cases K.. of `tests/data/identity`.

use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::support::realm::{Caller, Person, Realm, refused, role_path, roles};
use crate::support::{TestServer, rows};

fn with_alice() -> (Realm, Person) {
    let realm = Realm::start();
    let alice = realm.admin.person("alice", "reader", &realm.t1);
    (realm, alice)
}

/// A dead token: unusable, unknown, good for no other token, and not to be killed again.
#[track_caller]
fn assert_dead(admin: &Caller, dead: &Caller) {
    let reply = dead.whoami();
    assert_eq!(reply.status, 401, "{}", reply.text());
    assert!(reply.header("www-authenticate").is_some());
    refused(&admin.validate(dead.token()), 404);
    refused(&admin.revoke(dead.token()), 404);
    let auth = json!({"auth": {"token": {"id": dead.token()}, "tenantName": "t1"}});
    refused(&Caller::nobody(dead.address).post("/v2.0/tokens", &auth), 401);
}

#[test]
fn k01_validate() {
    let (realm, alice) = with_alice();
    let reply = realm.admin.validate(alice.token());
    assert_eq!(reply.status, 200, "{}", reply.text());
    let access = &reply.json()["access"];
    assert_eq!(access["token"]["id"], alice.token());
    assert_eq!(access["token"]["expires"], "2027-01-15T09:00:00Z");
    assert_eq!(access["token"]["tenant"]["id"], realm.t1);
    assert_eq!(access["token"]["tenant"]["name"], "t1");
    assert_eq!(access["user"]["id"], alice.id);
    assert_eq!(access["user"]["name"], "alice");
    assert_eq!(roles(&reply), ["reader"]);
    for secret in ["password", "argon2"] {
        assert!(!reply.text().contains(secret), "{}", reply.text());
    }
}

#[test]
fn k02_validate_as_role_service() {
    let (realm, alice) = with_alice();
    let deployd = realm.admin.person("deployd", "service", &realm.t2);
    assert_eq!(deployd.caller.validate(alice.token()).status, 200);
    for role in ["reader", "provisioner"] {
        let other = realm.admin.person(role, role, &realm.t1);
        refused(&other.caller.validate(alice.token()), 403);
        refused(&other.caller.validate("garbage"), 403);
    }
    assert_eq!(realm.nobody().validate(alice.token()).status, 401);
}

#[test]
fn k04_validate_ones_own_token() {
    let (realm, alice) = with_alice();
    let reply = alice.caller.validate(alice.token());
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.json()["access"]["user"]["name"], "alice");
    let sibling = alice.enter_again();
    assert_eq!(sibling.validate(alice.token()).status, 200, "one of one's own");
    // Also without a project, where little else is open.
    let unscoped = realm.nobody().enter("alice", &alice.password, None);
    assert_eq!(unscoped.validate(unscoped.token()).status, 200);
}

#[test]
fn k05_validate_garbage() {
    let (realm, _) = with_alice();
    let well_shaped = format!("nit_{}", "A".repeat(43));
    for garbage in [
        "garbage",
        "nit_",
        &well_shaped,
        "nit_garbage%20with%20blanks",
        "%00",
        "%F0%9F%A6%80",
        "MIIC",
        &"x".repeat(4000),
    ] {
        let reply = realm.admin.validate(garbage);
        refused(&reply, 404);
        assert!(!reply.text().contains(garbage), "{}", reply.text());
    }
}

#[test]
fn k06_belongs_to_another_tenant() {
    let (realm, alice) = with_alice();
    let path = |tenant: &str| format!("/v2.0/tokens/{}?belongsTo={tenant}", alice.token());
    refused(&realm.admin.get(&path(&realm.t2)), 401);
    refused(&realm.admin.get(&path("nope")), 401);
    assert_eq!(realm.admin.get(&path(&realm.t1)).status, 200);
    // A token without a project belongs to none.
    let unscoped = realm.nobody().enter("alice", &alice.password, None);
    let path = format!("/v2.0/tokens/{}?belongsTo={}", unscoped.token(), realm.t1);
    refused(&realm.admin.get(&path), 401);
}

#[test]
fn k07_head() {
    let (realm, alice) = with_alice();
    let path = format!("/v2.0/tokens/{}", alice.token());
    let reply = realm.admin.send("HEAD", &path, &[], b"");
    assert_eq!((reply.status, reply.body.len()), (200, 0));
    let reply = realm.admin.send("HEAD", "/v2.0/tokens/garbage", &[], b"");
    assert_eq!((reply.status, reply.body.len()), (404, 0));
}

#[test]
fn k08_revoke() {
    let (realm, alice) = with_alice();
    let gone = realm.admin.revoke(alice.token());
    assert_eq!((gone.status, gone.body.len()), (204, 0));
    refused(&realm.admin.validate(alice.token()), 404);
    refused(&realm.admin.revoke(alice.token()), 404);
    assert_dead(&realm.admin, &alice.caller);
}

#[test]
fn k09_revoking_one_leaves_its_siblings() {
    let (realm, alice) = with_alice();
    let sibling = alice.enter_again();
    assert_ne!(sibling.token(), alice.token());
    assert_eq!(realm.admin.revoke(alice.token()).status, 204);
    assert_dead(&realm.admin, &alice.caller);
    assert_eq!(sibling.whoami().status, 200);
    assert_eq!(realm.admin.whoami().status, 200);
}

#[test]
fn k11_exactly_at_expires_at() {
    let (realm, alice) = with_alice();
    realm.server.clock.advance(1800);
    let admin = realm.admin_again();
    realm.server.clock.advance(1799);
    let who = alice.caller.whoami();
    assert_eq!((who.status, &who.json()["expires_at"]), (200, &json!("2027-01-15T09:00:00Z")));
    assert_eq!(admin.validate(alice.token()).status, 200);
    realm.server.clock.advance(1);
    assert_eq!(realm.server.clock.now().to_string(), "2027-01-15T09:00:00Z");
    assert_eq!(alice.caller.whoami().status, 401);
    refused(&admin.validate(alice.token()), 404);
    realm.server.clock.advance(-1);
    assert_eq!(alice.caller.whoami().status, 200, "expiry is judged on every use");
}

#[test]
fn k12_a_password_change() {
    let (realm, alice) = with_alice();
    let sibling = alice.enter_again();
    let changed = realm.admin.change_password(&alice.id, "another password");
    assert_eq!(changed.status, 200, "{}", changed.text());
    assert!(!changed.text().contains("another password"));
    // The clock stands still: all of this is one and the same instant.
    let fresh = realm.nobody().enter("alice", "another password", Some("t1"));
    assert_eq!(fresh.whoami().status, 200);
    for dead in [&alice.caller, &sibling] {
        assert_dead(&realm.admin, dead);
    }
    refused(&alice.login_again(), 401);
    assert_eq!(realm.admin.whoami().status, 200, "others are left alone");

    // One's own, by the same route.
    assert_eq!(fresh.change_password(&alice.id, "third password").status, 200);
    assert_dead(&realm.admin, &fresh);
    assert_eq!(realm.nobody().login("alice", "third password", Some("t1")).status, 200);
    let bob = realm.admin.person("bob", "provisioner", &realm.t1);
    refused(&bob.caller.change_password(&alice.id, "fourth password"), 403);
    // Whatever is no password changes nothing.
    for wrong in ["", "short", &"x".repeat(1025)] {
        refused(&realm.admin.change_password(&alice.id, wrong), 400);
    }
    assert_eq!(realm.nobody().login("alice", "third password", Some("t1")).status, 200);
}

#[test]
fn k13_disable_then_enable() {
    let (realm, alice) = with_alice();
    let reply = realm.admin.change_user(&alice.id, json!({"enabled": false}));
    assert_eq!((reply.status, &reply.json()["user"]["enabled"]), (200, &json!(false)));
    assert_dead(&realm.admin, &alice.caller);
    refused(&alice.login_again(), 401);
    let reply = realm.admin.change_user(&alice.id, json!({"enabled": true}));
    assert_eq!((reply.status, &reply.json()["user"]["enabled"]), (200, &json!(true)));
    assert_dead(&realm.admin, &alice.caller);
    assert_eq!(alice.enter_again().whoami().status, 200);
}

#[test]
fn k15_a_role_removed() {
    let (realm, alice) = with_alice();
    realm.admin.take_role(&realm.t1, &alice.id, "reader");
    assert_dead(&realm.admin, &alice.caller);
    realm.admin.grant(&realm.t1, &alice.id, "reader");
    assert_dead(&realm.admin, &alice.caller);

    // One of two is enough, and another project's is not touched.
    realm.admin.grant(&realm.t1, &alice.id, "provisioner");
    realm.admin.grant(&realm.t2, &alice.id, "reader");
    let both = alice.enter_again();
    let elsewhere = realm.nobody().enter("alice", &alice.password, Some("t2"));
    realm.admin.take_role(&realm.t1, &alice.id, "provisioner");
    assert_dead(&realm.admin, &both);
    assert_eq!(elsewhere.whoami().status, 200);
    assert_eq!(roles(&alice.login_again()), ["reader"]);
}

#[test]
fn k16_a_role_added() {
    let (realm, alice) = with_alice();
    let nodes = "/v1/t1/nodes";
    let node = json!({"system_id": "n1", "hostname": "n1.example.com"});
    assert_eq!(alice.caller.post(nodes, &node).status, 403);
    realm.admin.grant(&realm.t1, &alice.id, "provisioner");
    assert_eq!(alice.caller.whoami().json()["roles"], json!(["provisioner", "reader"]));
    let mut seen = roles(&realm.admin.validate(alice.token()));
    seen.sort();
    assert_eq!(seen, ["provisioner", "reader"]);
    assert_eq!(alice.caller.post(nodes, &node).status, 201);
}

#[test]
fn k17_a_project_disabled_and_enabled() {
    let (realm, alice) = with_alice();
    realm.admin.grant(&realm.t2, &alice.id, "reader");
    let elsewhere = realm.nobody().enter("alice", &alice.password, Some("t2"));
    assert_eq!(realm.admin.change_project(&realm.t1, json!({"enabled": false})).status, 200);
    assert_dead(&realm.admin, &alice.caller);
    assert_eq!(realm.admin.change_project(&realm.t1, json!({"enabled": true})).status, 200);
    assert_dead(&realm.admin, &alice.caller);
    assert_eq!(elsewhere.whoami().status, 200);
    assert_eq!(alice.enter_again().whoami().status, 200);
}

#[test]
fn k18_a_user_deleted() {
    let (realm, alice) = with_alice();
    let path = format!("/v2.0/users/{}", alice.id);
    let gone = realm.admin.delete(&path);
    assert_eq!((gone.status, gone.body.len()), (204, 0));
    assert_dead(&realm.admin, &alice.caller);
    refused(&realm.admin.delete(&path), 404);
    refused(&realm.admin.get(&path), 404);
    refused(&alice.login_again(), 401);
    // The name may be taken again, and that is somebody else.
    let again = realm.admin.person("alice", "reader", &realm.t1);
    assert_ne!(again.id, alice.id);
    assert_dead(&realm.admin, &alice.caller);
}

#[test]
fn k19_the_cache_does_not_outlive_revocation() {
    let (realm, alice) = with_alice();
    for _ in 0..3 {
        assert_eq!(alice.caller.whoami().status, 200);
    }
    assert_eq!(realm.admin.revoke(alice.token()).status, 204);
    assert_eq!(alice.caller.whoami().status, 401);

    // What is asked before it exists is not remembered as unknown either.
    let sibling = alice.enter_again();
    assert_eq!(sibling.whoami().status, 200);
    // A reader of the database learns no token from it.
    let dump = rows::dump(&realm.server.database);
    for token in [alice.token(), sibling.token(), realm.admin.token()] {
        assert!(!rows::holds(&dump, token), "a token in clear");
        assert!(!rows::holds(&dump, token.strip_prefix("nit_").unwrap()), "a token in clear");
    }
}

/// The digest that a token is known by, in hexadecimal.
fn sha256(token: &str) -> String {
    Sha256::digest(token.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn k22_a_token_is_stored_as_its_sha_256() {
    let (realm, alice) = with_alice();
    let token = alice.token();
    assert_eq!((token.len(), &token[..4]), (4 + 43, "nit_"));
    let base64url = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    assert!(token[4..].bytes().all(base64url), "{token}");
    assert_eq!(
        sha256("abc"),
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        "FIPS 180-4"
    );
    assert_eq!(token_rows(&realm.server, &sha256(token)), 1);
    assert_eq!(token_rows(&realm.server, &sha256("garbage")), 0);
}

/// How many operator tokens are stored under this digest.
fn token_rows(server: &TestServer, hex: &str) -> i64 {
    let literal =
        if server.database.is_postgres() { format!(r"'\x{hex}'") } else { format!("x'{hex}'") };
    let query = format!("SELECT count(*) FROM operator_tokens WHERE hash = {literal}");
    rows::number(&server.database, &query)
}

#[test]
fn k24_a_grant_twice_and_the_removal_of_an_absent_one() {
    let (realm, alice) = with_alice();
    for _ in 0..2 {
        realm.admin.grant(&realm.t1, &alice.id, "provisioner");
    }
    assert_eq!(alice.caller.whoami().json()["roles"], json!(["provisioner", "reader"]));
    let path = role_path(&realm.t1, &alice.id, "service");
    refused(&realm.admin.delete(&path), 404);
    assert_eq!(alice.caller.whoami().status, 200, "nothing was removed");
    for (project, user) in [("nope", alice.id.as_str()), (&realm.t1, "nope")] {
        let path = role_path(project, user, "reader");
        refused(&realm.admin.send("PUT", &path, &[], b""), 404);
        refused(&realm.admin.delete(&path), 404);
    }
}

#[test]
fn k25_a_role_that_differs_only_in_case() {
    let (realm, alice) = with_alice();
    for role in ["Admin", "ADMIN", "Reader", "pRovisioner"] {
        let path = role_path(&realm.t1, &alice.id, role);
        refused(&realm.admin.send("PUT", &path, &[], b""), 400);
        refused(&realm.admin.delete(&path), 400);
    }
    for role in ["member", "_member_", "root"] {
        let path = role_path(&realm.t1, &alice.id, role);
        refused(&realm.admin.send("PUT", &path, &[], b""), 404);
        refused(&realm.admin.delete(&path), 404);
    }
    assert_eq!(alice.caller.whoami().json()["roles"], json!(["reader"]));
    refused(&alice.caller.send("PUT", &role_path(&realm.t1, &alice.id, "Admin"), &[], b""), 403);
}
