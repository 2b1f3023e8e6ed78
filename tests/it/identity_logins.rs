//! Logging in and not: the cases L.. of `tests/data/identity`, and what bootstrap does to logins.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use nodeinit::store::columns::Id;
use nodeinit::store::users;
use serde_json::json;
use socket2::{Domain, Socket, Type};
use uuid::Uuid;

use crate::support::Reply;
use crate::support::plane::without_names;
use crate::support::process::Home;
use crate::support::realm::{Caller, Realm, refused, role_path, roles};
use crate::support::{rows, wire};

#[test]
fn l01_a_wrong_password_and_an_unknown_user() {
    let realm = Realm::start();
    realm.admin.person("alice", "reader", &realm.t1);
    realm.admin.made(json!({"name": "off", "password": "password of off", "enabled": false}));
    realm.admin.made(json!({"name": "bare"}));
    let login = |name: &str, password: &str| {
        let reply = realm.nobody().login(name, password, Some("t1"));
        refused(&reply, 401);
        without_names(reply)
    };
    let wrong = login("alice", "not her password");
    for (name, password) in [
        ("mallory", "not her password"),
        ("mallory", ""),
        ("alice", ""),
        ("alice", "password of alice "),
        ("alice", "Password of alice"),
        ("off", "password of off"),
        ("bare", "password of bare"),
        ("", ""),
        ("a\nb", "not her password"),
        ("alice", &"x".repeat(1025)),
    ] {
        assert_eq!(login(name, password), wrong, "{name:?}");
    }
    for said in ["alice", "mallory", "password"] {
        assert!(!String::from_utf8_lossy(&wrong.body).contains(said), "{said}");
    }
}

#[test]
fn l02_the_same_work_for_both() {
    const ROUNDS: usize = 30;
    // Nobody fails often enough to be slowed down.
    const EACH: usize = 6;
    let realm = Realm::start();
    let people = ROUNDS / EACH;
    for n in 0..people {
        let project = &realm.t1;
        realm.admin.made(
            json!({"name": format!("known{n}"), "password": "good password", "tenantId": project}),
        );
        realm.admin.made(json!({
            "name": format!("disabled{n}"), "password": "good password", "enabled": false,
            "tenantId": project,
        }));
    }
    let attempt = |name: &str, password: &str| {
        let began = Instant::now();
        let reply = realm.nobody().login(name, password, Some("t1"));
        let took = began.elapsed();
        assert_eq!(reply.status, 401, "{}", reply.text());
        took
    };
    let kinds =
        [("known", "wrong password"), ("unknown", "wrong password"), ("disabled", "good password")];
    let mut took: [Vec<Duration>; 3] = [vec![], vec![], vec![]];
    // One after another in turn, so that whatever else the machine does is shared by all.
    for round in 0..ROUNDS {
        for (kind, (name, password)) in kinds.iter().enumerate() {
            took[kind].push(attempt(&format!("{name}{}", round % people), password));
        }
    }
    let medians = took.map(|mut all| {
        all.sort();
        all[ROUNDS / 2].as_secs_f64()
    });
    for (kind, median) in kinds.iter().zip(medians).skip(1) {
        let ratio = median / medians[0];
        println!("{}: {:.1} ms, {ratio:.3} of a wrong password's", kind.0, median * 1e3);
        assert!((0.5..2.0).contains(&ratio), "{}: {medians:?}", kind.0);
    }
}

#[test]
fn l03_a_tenant_that_is_unknown_or_not_ones_own() {
    let realm = Realm::start();
    let alice = realm.admin.person("alice", "reader", &realm.t1);
    let login = |scope: (&str, &str)| {
        let credentials = json!({"username": "alice", "password": alice.password});
        let mut auth = json!({"passwordCredentials": credentials});
        auth[scope.0] = scope.1.into();
        let reply = realm.nobody().post("/v2.0/tokens", &json!({"auth": auth}));
        refused(&reply, 401);
        without_names(reply)
    };
    let unknown = login(("tenantName", "nope"));
    assert_eq!(login(("tenantName", "t2")), unknown);
    assert_eq!(login(("tenantId", &realm.t2)), unknown);
    assert_eq!(login(("tenantId", "nope")), unknown);
    let wrong = realm.nobody().login("alice", "wrong password", Some("t1"));
    assert_eq!(without_names(wrong), unknown, "nor is it told from a wrong password");
    // A role there opens it, and its loss closes it.
    realm.admin.grant(&realm.t2, &alice.id, "provisioner");
    let reply = realm.nobody().login("alice", &alice.password, Some("t2"));
    assert_eq!((reply.status, roles(&reply)), (200, vec!["provisioner".to_owned()]));
    let gone = realm.admin.delete(&role_path(&realm.t2, &alice.id, "provisioner"));
    assert_eq!(gone.status, 204);
    refused(&realm.nobody().login("alice", &alice.password, Some("t2")), 401);
}

#[test]
fn l04_a_disabled_tenant() {
    let realm = Realm::start();
    let alice = realm.admin.person("alice", "reader", &realm.t1);
    let reply = realm.admin.change_project(&realm.t1, json!({"enabled": false}));
    assert_eq!((reply.status, &reply.json()["tenant"]["enabled"]), (200, &json!(false)));
    refused(&alice.login_again(), 401);
    refused(&realm.nobody().login("alice", &alice.password, Some("t1")), 401);
    realm.admin.change_project(&realm.t1, json!({"enabled": true}));
    assert_eq!(alice.login_again().status, 200);
}

fn rescope(caller: &Caller, token: &str, project: &str) -> Reply {
    let auth = json!({"auth": {"token": {"id": token}, "tenantName": project}});
    caller.post("/v2.0/tokens", &auth)
}

#[test]
fn l07_rescoping_with_garbage() {
    let realm = Realm::start();
    let alice = realm.admin.person("alice", "reader", &realm.t1);
    realm.admin.grant(&realm.t2, &alice.id, "provisioner");
    let well_shaped = format!("nit_{}", "A".repeat(43));
    for garbage in ["garbage", "", "nit_", &well_shaped, &alice.token()[..46]] {
        let reply = rescope(&realm.nobody(), garbage, "t2");
        refused(&reply, 401);
        assert!(garbage.is_empty() || !reply.text().contains(garbage), "{}", reply.text());
    }
    // A good one may, and what comes of it ends when the first would have.
    realm.server.clock.advance(1800);
    let reply = rescope(&realm.nobody(), alice.token(), "t2");
    assert_eq!((reply.status, roles(&reply)), (200, vec!["provisioner".to_owned()]));
    let token = &reply.json()["access"]["token"];
    assert_eq!(token["expires"], "2027-01-15T09:00:00Z", "the parent's");
    assert_eq!(token["tenant"]["id"], realm.t2);
    let child = token["id"].as_str().unwrap();
    let again = rescope(&realm.nobody(), child, "t1");
    assert_eq!(again.json()["access"]["token"]["expires"], "2027-01-15T09:00:00Z");
    realm.server.clock.advance(1800);
    for token in [alice.token(), child] {
        refused(&rescope(&realm.nobody(), token, "t1"), 401);
    }
}

/// A login from another address of this machine.
fn login_from(source: [u8; 4], admin: SocketAddr, name: &str, password: &str) -> u16 {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let source = SocketAddr::new(IpAddr::V4(Ipv4Addr::from(source)), 0);
    socket.bind(&source.into()).unwrap();
    socket.connect(&admin.into()).unwrap();
    let mut stream = TcpStream::from(socket);
    let credentials = json!({"username": name, "password": password});
    let body = json!({"auth": {"passwordCredentials": credentials}}).to_string();
    let headers = [("Connection", "close"), ("Content-Type", "application/json")];
    let bytes = wire::request("POST", "/v2.0/tokens", "x", &headers, body.as_bytes());
    stream.write_all(&bytes).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

#[test]
fn l08_brute_force() {
    let realm = Realm::start();
    let alice = realm.admin.person("alice", "reader", &realm.t1);
    let bob = realm.admin.person("bob", "reader", &realm.t1);
    let login = |name: &str, password: &str| realm.nobody().login(name, password, Some("t1"));
    // A name that nobody has is slowed down as one that somebody has.
    for name in ["alice", "mallory"] {
        for _ in 0..10 {
            refused(&login(name, "wrong password"), 401);
        }
        let right = login(name, "password of alice");
        refused(&right, 429);
        let wait: i64 = right.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=60).contains(&wait), "{wait}");
        let wrong = login(name, "wrong password");
        assert_eq!(without_names(wrong), without_names(right), "{name}");
        refused(&login(&name.to_uppercase(), "password of alice"), 429);
    }
    assert_eq!(bob.login_again().status, 200, "another name");
    assert_eq!(alice.caller.whoami().status, 200, "tokens that exist");
    let from = |last| login_from([127, 0, 0, last], realm.server.admin, "alice", &alice.password);
    assert_eq!(from(1), 429);
    assert_eq!(from(2), 200, "the same name from another address");
}

#[test]
fn k23_the_bootstrap_command_twice() {
    let home = Home::new();
    let server = home.serve();
    let bootstrap = |password: &str| {
        let args = ["bootstrap", "--user", "chief", "--password-file", "-"];
        home.run_with(&args, password.as_bytes()).done()
    };
    let door = Caller::nobody(server.admin.unwrap());
    // One trailing newline is dropped, and only one.
    bootstrap("first password\n");
    let first = door.enter("chief", "first password", None);
    let who = first.whoami().json();
    assert_eq!((&who["user"], &who["project"]), (&json!("chief"), &json!("default")));
    assert_eq!(who["roles"], json!(["admin"]));
    let second = first.login("chief", "first password", Some("default"));
    assert_eq!(second.status, 200);

    // A lost admin comes back whole.
    let id = second.json()["access"]["user"]["id"].as_str().unwrap().to_owned();
    bootstrap("second password");
    refused(&door.login("chief", "first password", None), 401);
    assert_eq!(first.whoami().status, 401);
    let again = door.enter("chief", "second password", None);
    assert_eq!(again.whoami().json()["roles"], json!(["admin"]));
    refused(&again.validate(first.token()), 404);
    let names = again.user_names();
    assert_eq!(names, ["chief"], "reset, not made anew");
    let project = again.get("/v2.0/tenants").json()["tenants"][0]["id"].clone();
    again.made(json!({"name": "deputy", "password": "deputy password", "tenantId": project}));
    let deputy = again.get("/v2.0/users").json();
    let deputy = deputy["users"].as_array().unwrap().iter().find(|u| u["name"] == "deputy");
    again.grant(project.as_str().unwrap(), deputy.unwrap()["id"].as_str().unwrap(), "admin");
    let deputy = door.enter("deputy", "deputy password", None);
    assert_eq!(deputy.change_user(&id, json!({"enabled": false})).status, 200);
    refused(&door.login("chief", "second password", None), 401);
    bootstrap("third password\n\n");
    refused(&door.login("chief", "third password", None), 401);
    assert_eq!(door.enter("chief", "third password\n", None).whoami().status, 200);
    assert_eq!(deputy.whoami().status, 200, "others are left alone");
}

#[test]
fn a_refused_login_says_so_and_asks_for_no_token() {
    let realm = Realm::start();
    let auth = json!({"auth": {"token": {"id": "garbage"}}});
    for reply in [
        realm.nobody().login("root", "wrong password", None),
        realm.nobody().post("/v2.0/tokens", &auth),
    ] {
        let message = refused(&reply, 401);
        assert!(message.contains("the login is refused"), "{message}");
        assert!(!message.contains("X-Auth-Token"), "{message}");
    }
}

#[test]
fn a_login_without_its_envelope_is_told_what_is_missing() {
    let realm = Realm::start();
    for body in [json!({}), json!({"auth": null})] {
        let message = refused(&realm.nobody().post("/v2.0/tokens", &body), 400);
        assert!(message.contains("auth: this is required"), "{message}");
    }
}

#[test]
fn a_user_who_goes_away_in_the_middle_of_a_login_has_no_password() {
    let realm = Realm::start();
    let gone = realm.admin.made(json!({"name": "gone", "password": "password of gone"}));
    let id = Id(Uuid::try_parse(&gone).unwrap());
    let mut conn = rows::open(&realm.server.database);
    assert!(users::find_password_hash(&mut conn, id).unwrap().is_some());
    assert_eq!(realm.admin.delete(&format!("/v2.0/users/{gone}")).status, 204);
    assert_eq!(users::find_password_hash(&mut conn, id), Ok(None), "and no failure of the store");
}
