//! The node's token as an operator sees it over TCP: the cases N.. of `tests/data/identity`.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::plane::assert_refused;
use crate::support::realm::{Caller, Realm};
use crate::support::{Node, rows};

const ID: &str = "/latest/meta-data/instance-id";

/// A provisioner of `t1` with the node `n1`.
fn with_node() -> (Realm, Caller) {
    let realm = Realm::start();
    let alice = realm.admin.person("alice", "provisioner", &realm.t1).caller;
    let body = json!({"system_id": "n1", "hostname": "n1.example.com"});
    assert_eq!(alice.post("/v1/t1/nodes", &body).status, 201);
    (realm, alice)
}

/// `get_token_for_node`.
fn ask(caller: &Caller, system_id: &str) -> Value {
    let reply = caller.post(&format!("/v1/t1/nodes/{system_id}/token"), &json!({}));
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

fn machine(realm: &Realm, credentials: &Value) -> Node {
    Node::new(realm.server.node, realm.server.clock.clone(), credentials)
}

#[test]
fn n02_a_second_ask_returns_the_same() {
    let (_realm, alice) = with_node();
    let first = ask(&alice, "n1");
    assert_eq!(ask(&alice, "n1"), first);
    assert_eq!(first["token_key"].as_str().unwrap().len(), 18);
}

#[test]
fn n03_the_node_of_a_nodes_key_is_the_node() {
    let (realm, alice) = with_node();
    for id in ["n2", "n3"] {
        let body = json!({"system_id": id, "hostname": format!("{id}.example.com")});
        assert_eq!(alice.post("/v1/t1/nodes", &body).status, 201);
    }
    for id in ["n1", "n2", "n3"] {
        let node = machine(&realm, &ask(&alice, id));
        assert_eq!(node.get(ID).brief(), (200, id.to_owned()));
    }
}

#[test]
fn n04_the_key_of_a_keys_node_is_the_key() {
    let (realm, alice) = with_node();
    ask(&alice, "n1");
    let tokens = realm.admin.get("/v1/tokens").json();
    let key = tokens["items"][0]["token_key"].clone();
    let node = machine(&realm, &ask(&alice, tokens["items"][0]["system_id"].as_str().unwrap()));
    let (status, system_id) = node.get(ID).brief();
    assert_eq!((status, ask(&alice, &system_id)["token_key"].clone()), (200, key));
}

#[test]
fn n05_an_unknown_key() {
    let (realm, alice) = with_node();
    let known = machine(&realm, &ask(&alice, "n1"));
    let unknown = Node { token_key: "u".repeat(18), ..known.clone() };
    let wrong = Node { token_secret: "w".repeat(32), ..known };
    assert_refused(&unknown.get(ID), "credentials_refused");
    assert_eq!(unknown.get(ID).brief(), wrong.get(ID).brief(), "no hint");
}

#[test]
fn n06_sixteen_asks_at_once_for_a_new_node() {
    let (realm, alice) = with_node();
    let answers: BTreeSet<String> = std::thread::scope(|scope| {
        let asks: Vec<_> = (0..16).map(|_| scope.spawn(|| ask(&alice, "n1").to_string())).collect();
        asks.into_iter().map(|ask| ask.join().unwrap()).collect()
    });
    assert_eq!(answers.len(), 1, "{answers:?}");
    assert_eq!(rows::count(&realm.server.database, "tokens"), 1);
}

#[test]
fn n07_cull_and_ask_again() {
    let (realm, alice) = with_node();
    let first = ask(&alice, "n1");
    let old = machine(&realm, &first);
    assert_eq!(old.get(ID).status, 200);
    assert_eq!(alice.delete("/v1/t1/nodes/n1/token").status, 204);
    assert_refused(&old.get(ID), "credentials_refused");
    let second = ask(&alice, "n1");
    assert_ne!(second["token_key"], first["token_key"]);
    assert_refused(&old.get(ID), "credentials_refused");
    assert_eq!(machine(&realm, &second).get(ID).brief(), (200, "n1".into()));
}

#[test]
fn n08_a_change_of_owner() {
    let (realm, alice) = with_node();
    let old = machine(&realm, &ask(&alice, "n1"));
    assert_eq!(old.get(ID).status, 200);
    // She may not give it to whom she does not belong to herself; the admin of the socket may.
    let move_to = json!({"project": "t2"});
    let reply = alice.send(
        "PATCH",
        "/v1/t1/nodes/n1",
        &[("Content-Type", "application/json")],
        move_to.to_string().as_bytes(),
    );
    assert_eq!(reply.status, 403, "{}", reply.text());
    assert_eq!(old.get(ID).status, 200);
    let operator = realm.server.operator();
    operator.session.send_json(crate::support::Method::PATCH, "/v1/t1/nodes/n1", &move_to).unwrap();
    assert_refused(&old.get(ID), "credentials_refused");
    assert_eq!(alice.get("/v1/t1/nodes/n1").status, 404);
    let bob = realm.admin.person("bob", "reader", &realm.t2).caller;
    assert_eq!(bob.get("/v1/t2/nodes/n1").json()["system_id"], "n1");
}
