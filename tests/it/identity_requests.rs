//! Who may ask the identity API at all, and what a request must look like: the cases A.. of
//! `tests/data/identity`.

use std::io::{Read as _, Write as _};
use std::time::Duration;

use serde_json::json;

use crate::support::realm::{JSON, Realm, refused};
use crate::support::wire::{self, Connection};

const USER: &[u8] = br#"{"user": {"name": "x"}}"#;

#[test]
fn a01_no_token() {
    let realm = Realm::start();
    let reply = realm.nobody().send("POST", "/v2.0/users", &[JSON], USER);
    refused(&reply, 401);
    assert!(reply.header("www-authenticate").is_some());
    // A body that is none is no reason to say more.
    refused(&realm.nobody().send("POST", "/v2.0/users", &[JSON], b"{"), 401);
    assert_eq!(realm.admin.user_names(), ["root"]);
}

#[test]
fn a02_an_empty_token() {
    let realm = Realm::start();
    for empty in ["", " "] {
        let headers = [JSON, ("X-Auth-Token", empty)];
        refused(&realm.nobody().send("POST", "/v2.0/users", &headers, USER), 401);
    }
    assert_eq!(realm.admin.user_names(), ["root"]);
}

#[test]
fn a09_malformed_json_by_an_admin() {
    let realm = Realm::start();
    refused(&realm.admin.send("POST", "/v2.0/users", &[JSON], br#"{"user":"#), 400);
    let reader = realm.admin.person("reader", "reader", &realm.t1).caller;
    refused(&reader.send("POST", "/v2.0/users", &[JSON], br#"{"user":"#), 403);
}

#[test]
fn a10_text_plain() {
    let realm = Realm::start();
    let plain = [("Content-Type", "text/plain")];
    refused(&realm.admin.send("POST", "/v2.0/users", &plain, USER), 415);
    // What the headers say is judged before who sent them.
    refused(&realm.nobody().send("POST", "/v2.0/users", &plain, USER), 415);
    assert_eq!(realm.admin.user_names(), ["root"]);
    let charset = [("Content-Type", "application/json; charset=utf-8")];
    assert_eq!(realm.admin.send("POST", "/v2.0/users", &charset, USER).status, 200);
}

#[test]
fn a11_a_body_of_another_shape() {
    let realm = Realm::start();
    for body in [
        r#"{"user":"x"}"#,
        r#"{"user":[]}"#,
        "[1]",
        "{}",
        "null",
        "1",
        r#""x""#,
        r#"{"user":null}"#,
    ] {
        refused(&realm.admin.send("POST", "/v2.0/users", &[JSON], body.as_bytes()), 400);
    }
    assert_eq!(realm.admin.user_names(), ["root"]);
}

#[test]
fn a13_a_body_over_the_limit() {
    let realm = Realm::start();
    let mut body = USER.to_vec();
    body.resize(114_689, b' ');
    refused(&realm.admin.send("POST", "/v2.0/users", &[JSON], &body), 413);

    // The length alone is enough: the answer comes before the body, and nothing more is read.
    let mut connection = Connection::open(realm.server.admin);
    let head = format!(
        "POST /v2.0/users HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
         X-Auth-Token: {}\r\nContent-Length: 114689\r\n\r\n",
        realm.admin.token()
    );
    connection.stream.write_all(head.as_bytes()).unwrap();
    refused(&connection.read(false), 413);
    connection.stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut rest = Vec::new();
    connection.stream.read_to_end(&mut rest).expect("the server closes");
    assert_eq!(rest, b"");

    // Without a length it is the same as soon as there is too much.
    let mut chunked = format!(
        "POST /v2.0/users HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Auth-Token: {}\r\n\
         Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n",
        realm.admin.token(),
        body.len()
    )
    .into_bytes();
    chunked.extend_from_slice(&body);
    chunked.extend_from_slice(b"\r\n0\r\n\r\n");
    refused(&wire::raw(realm.server.admin, &chunked), 413);
    assert_eq!(realm.admin.user_names(), ["root"]);

    body.truncate(114_688);
    assert_eq!(realm.admin.send("POST", "/v2.0/users", &[JSON], &body).status, 200);
    // It is judged before who sent it, logins included.
    body.push(b' ');
    refused(&realm.nobody().send("POST", "/v2.0/users", &[JSON], &body), 413);
    refused(&realm.nobody().send("POST", "/v2.0/tokens", &[JSON], &body), 413);
}

#[test]
fn a14_deeply_nested_json() {
    let realm = Realm::start();
    let deep = "[".repeat(100_000);
    refused(&realm.admin.send("POST", "/v2.0/users", &[JSON], deep.as_bytes()), 400);
    let within = format!(r#"{{"user": {{"name": {}1{}}}}}"#, "[".repeat(40), "]".repeat(40));
    refused(&realm.admin.send("POST", "/v2.0/users", &[JSON], within.as_bytes()), 400);
    refused(&realm.nobody().send("POST", "/v2.0/tokens", &[JSON], deep.as_bytes()), 400);
    assert_eq!(realm.admin.user_names(), ["root"]);
}

#[test]
fn a15_a_duplicate_key_in_json() {
    let realm = Realm::start();
    for body in [
        r#"{"user": {"name": "a", "name": "b"}}"#,
        r#"{"user": {"name": "a"}, "user": {"name": "b"}}"#,
    ] {
        refused(&realm.admin.send("POST", "/v2.0/users", &[JSON], body.as_bytes()), 400);
    }
    assert_eq!(realm.admin.user_names(), ["root"]);
}

#[test]
fn a16_blanks_around_the_token() {
    let realm = Realm::start();
    let padded = format!("  {} ", realm.admin.token());
    let reply = realm.nobody().send("GET", "/v2.0/users", &[("X-Auth-Token", &padded)], b"");
    assert_eq!(reply.status, 200, "{}", reply.text());
}

#[test]
fn a17_a_header_name_in_lower_case() {
    let realm = Realm::start();
    for name in ["x-auth-token", "X-AUTH-TOKEN"] {
        let headers = [(name, realm.admin.token())];
        assert_eq!(realm.nobody().send("GET", "/v2.0/users", &headers, b"").status, 200);
    }
}

#[test]
fn a18_a_token_in_the_query_or_as_bearer() {
    let realm = Realm::start();
    let token = realm.admin.token();
    for name in ["X-Auth-Token", "x-auth-token", "token", "auth_token"] {
        let reply = realm.nobody().get(&format!("/v2.0/users?{name}={token}"));
        refused(&reply, 401);
        assert!(!reply.text().contains(token));
    }
    let bearer = format!("Bearer {token}");
    for header in
        [("Authorization", bearer.as_str()), ("Cookie", token), ("X-Subject-Token", token)]
    {
        refused(&realm.nobody().send("GET", "/v2.0/users", &[header], b""), 401);
    }
}

#[test]
fn a19_two_x_auth_token_headers() {
    let realm = Realm::start();
    let token = realm.admin.token();
    for pair in [(token, "garbage"), ("garbage", token), (token, token), (token, "")] {
        let headers = [("X-Auth-Token", pair.0), ("X-Auth-Token", pair.1)];
        for path in ["/v2.0/users", "/v2.0/tenants"] {
            refused(&realm.nobody().send("GET", path, &headers, b""), 400);
        }
        let reply = realm.nobody().send("GET", "/v1/whoami", &headers, b"");
        assert_eq!(reply.status, 400, "{}", reply.text());
        assert_eq!(reply.header("content-type"), Some("application/problem+json"));
    }
}

#[test]
fn a20_a_reader_asks_for_a_user_who_does_not_exist() {
    let realm = Realm::start();
    let reader = realm.admin.person("reader", "reader", &realm.t1).caller;
    for user in ["nope", "0123456789abcdef0123456789abcdef"] {
        let path = format!("/v2.0/users/{user}");
        refused(&reader.get(&path), 403);
        refused(&reader.delete(&path), 403);
        refused(&reader.put(&path, &json!({"user": {"enabled": true}})), 403);
    }
    refused(&reader.get("/v2.0/tenants/nope"), 403);
    refused(&reader.delete("/v2.0/tenants/nope"), 403);
}

#[test]
fn a21_an_admin_asks_for_a_user_who_does_not_exist() {
    let realm = Realm::start();
    for user in ["nope", "0123456789abcdef0123456789abcdef", "root", "%00", "a%2Fb"] {
        let path = format!("/v2.0/users/{user}");
        let message = refused(&realm.admin.get(&path), 404);
        assert!(!message.contains(user), "{message}");
        refused(&realm.admin.delete(&path), 404);
        refused(&realm.admin.put(&path, &json!({"user": {"enabled": true}})), 404);
    }
}

#[test]
fn a22_a_trailing_slash() {
    let realm = Realm::start();
    let reply = realm.admin.send("POST", "/v2.0/users/", &[JSON], USER);
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(realm.admin.get("/v2.0/users/").json(), realm.admin.get("/v2.0/users").json());
    assert_eq!(realm.admin.get("/v2.0/tenants/").status, 200);
    refused(&realm.nobody().send("POST", "/v2.0/users/", &[JSON], USER), 401);
}

#[test]
fn a23_a_method_that_the_path_has_not() {
    let realm = Realm::start();
    let reply = realm.admin.put("/v2.0/users", &json!({"user": {"name": "x"}}));
    refused(&reply, 405);
    assert_eq!(reply.header("allow"), Some("GET, HEAD, POST"));
    let reply = realm.admin.delete("/v2.0/tokens");
    refused(&reply, 405);
    assert_eq!(reply.header("allow"), Some("POST"));
}

#[test]
fn a24_a_body_cannot_steer_the_policy_target() {
    let realm = Realm::start();
    let me = realm.admin.person("me", "reader", &realm.t1);
    let victim = realm.admin.person("victim", "reader", &realm.t2);
    let path = format!("/v2.0/users/{}", victim.id);
    let target = json!({"target": {"user": {"id": me.id}}, "user_id": me.id}).to_string();
    refused(&me.caller.send("GET", &path, &[JSON], target.as_bytes()), 403);
    refused(&me.caller.get(&format!("{path}?user_id={}", me.id)), 403);
    refused(&me.caller.get(&format!("{path}?target.user.id={}&user.id={}", me.id, me.id)), 403);
    let password = format!("{path}/OS-KSADM/password");
    let stolen = json!({"user": {"id": me.id, "password": "stolen password"}});
    refused(&me.caller.put(&password, &stolen), 403);
    refused(&me.caller.put(&format!("{password}?user_id={}", me.id), &stolen), 403);
    assert_eq!(victim.login_again().status, 200, "nothing happened");
}
