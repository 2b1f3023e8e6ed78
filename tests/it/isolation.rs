//! A node reads itself, whatever its request says beside its signature (CONTRACT §§3, 4). The ids
//! are those of the conformance cases; D7 is a check of the real client.

use serde_json::json;

use crate::support::plane::{READS, assert_refused};
use crate::support::{Method, Node, Reply, TestServer, wire};

const ID: &str = "/latest/meta-data/instance-id";

/// A server with two nodes whose every item tells which of them it belongs to.
fn two_nodes() -> (TestServer, Node, Node) {
    let server = TestServer::start();
    let [first, second] = ["n1", "n2"].map(|id| {
        let operator = server.operator();
        operator.add(id, json!({"ssh_keys": [format!("ssh-ed25519 AAAA{id} {id}")]}));
        operator.set(id, "user-data", format!("#!/bin/sh\n# {id}\n").as_bytes());
        let vendor_data = format!("cloud-init: |\n  #cloud-config\n  hostname: {id}\n");
        operator.set(id, "vendor-data", vendor_data.as_bytes());
        server.credentials(id)
    });
    (server, first, second)
}

fn own(node: &Node) -> (u16, String) {
    (200, node.system_id.clone())
}

fn list_tokens(server: &TestServer) -> Vec<serde_json::Value> {
    server.operator().session.list("/v1/tokens", None).unwrap()
}

#[test]
fn i01_a_token_that_belongs_to_no_node_is_403_everywhere() {
    let (server, node, other) = two_nodes();
    // Nothing makes such a token.
    server.database.execute(&format!(
        "DELETE FROM node_keys WHERE token_id IN \
         (SELECT id FROM tokens WHERE token_key = '{}')",
        node.token_key
    ));
    let message = (403, "Not authenticated as a known node.".to_owned());
    for path in READS {
        let reply = node.get(path);
        assert_eq!(reply.brief(), message, "{path}");
        assert_eq!(reply.header("www-authenticate"), None);
    }
    let header = node.header();
    let reply = node.send("POST", "/latest/user-data", &[("Authorization", &header)], b"");
    assert_eq!(reply.brief(), message);
    // It has to be signed well to learn that much.
    let liar = Node { token_secret: other.token_secret.clone(), ..node.clone() };
    assert_refused(&liar.get(ID), "credentials_refused");
    assert_eq!(other.get(ID).brief(), own(&other));
}

#[test]
fn i02_credentials_in_the_query_do_not_fill_up_a_header() {
    let (_server, first, second) = two_nodes();
    let header = format!("OAuth oauth_token=\"{}\"", first.token_key);
    let query = format!(
        "oauth_consumer_key={}&oauth_token={}&oauth_signature_method=PLAINTEXT\
         &oauth_timestamp={}&oauth_nonce={}&oauth_version=1.0&oauth_signature=%26{}",
        second.consumer_key,
        second.token_key,
        second.clock.now().as_second(),
        wire::nonce(),
        second.token_secret
    );
    let reply = first.get_with(&format!("{ID}?{query}"), &header);
    assert_refused(&reply, "credentials_malformed");
    // Beside a whole header they are nothing either.
    let reply = first.get_with(&format!("{ID}?{query}"), &first.header());
    assert_eq!(reply.brief(), own(&first));
}

#[test]
fn i03_of_two_tokens_in_a_header_neither_is_believed() {
    let (_server, first, second) = two_nodes();
    let header = second.header();
    let named = format!("oauth_token=\"{}\"", first.token_key);
    for doubled in [
        header.replacen("OAuth ", &format!("OAuth {named}, "), 1),
        format!("{header}, {named}"),
        header.replacen("OAuth ", &format!("OAuth oauth%5Ftoken=\"{}\", ", first.token_key), 1),
    ] {
        assert_refused(&second.get_with(ID, &doubled), "credentials_malformed");
    }
    let both = [("Authorization", &*first.header()), ("Authorization", &second.header())];
    assert_refused(&first.send("GET", ID, &both, b""), "credentials_malformed");
}

#[test]
fn i04_no_query_and_no_header_names_another_node() {
    let (_server, first, second) = two_nodes();
    for query in ["system_id=n1", "node=n1", "mac=52:54:00:00:00:01", "for_hardware=n1", "op=n1"] {
        assert_eq!(second.get(&format!("{ID}?{query}")).brief(), own(&second));
    }
    for (name, value) in [
        ("X-Forwarded-For", "10.0.0.1"),
        ("X-Forwarded-Host", "n1.example.com"),
        ("Forwarded", "for=10.0.0.1"),
        ("X-System-Id", "n1"),
        ("X-Auth-Token", "n1"),
        ("X-Original-URL", "/MAAS/metadata/latest/user-data"),
        ("Host", "n1.example.com"),
    ] {
        let headers = [("Authorization", &*second.header()), (name, value)];
        assert_eq!(second.send("GET", ID, &headers, b"").brief(), own(&second), "{name}");
    }
    assert_eq!(first.get(ID).brief(), own(&first));
}

#[test]
fn i05_no_status_is_posted_for_another_node() {
    let (server, _, second) = two_nodes();
    let event = br#"{"event_type": "start", "origin": "o", "name": "n", "description": "d"}"#;
    let before = server.operator().session.get("/v1/default/nodes/n1").unwrap();
    let headers = [("Authorization", &*second.header()), ("Content-Type", "application/json")];
    assert_eq!(second.send("POST", "/status/n1", &headers, event).status, 403);
    assert_eq!(server.operator().session.get("/v1/default/nodes/n1").unwrap(), before);
}

#[test]
fn i06_i12_d07_the_anonymous_paths_of_maas_do_not_exist() {
    let (server, first, _) = two_nodes();
    let named = format!("OAuth oauth_token=\"{}\"", first.token_key);
    for path in [
        "/latest/by-mac/52:54:00:00:00:01/meta-data/instance-id",
        "/latest/by-id/n1/",
        "/latest/by-id/n1/meta-data/instance-id",
        "/latest/by-id/n1/user-data",
        "/latest/enlist-preseed/",
        "/enlist-preseed/latest/",
        "/enlist/latest/",
        "/enlist/latest/meta-data/instance-id",
        "/enlist/2012-03-01/user-data",
        "/latest/maas-scripts",
        "/latest/meta-data/../by-id/n1/",
        "/n1/meta-data/instance-id",
    ] {
        for method in ["GET", "POST"] {
            for headers in [vec![], vec![("Authorization", named.as_str())]] {
                let reply = first.send(method, path, &headers, b"");
                assert!(matches!(reply.status, 401 | 404), "{method} {path}: {reply:?}");
                assert!(!reply.text().contains("example.com"), "{path}");
            }
            let headers = [("Authorization", &*first.header())];
            assert_eq!(first.send(method, path, &headers, b"").status, 404, "{method} {path}");
        }
    }
    assert_eq!(list_tokens(&server).len(), 2);
}

#[test]
fn i09_two_nodes_that_share_a_connection_each_read_themselves() {
    let (server, first, second) = two_nodes();
    let mut connection = wire::Connection::open(server.node);
    for round in 0..20 {
        for node in [&first, &second] {
            let path = format!("/MAAS/metadata{}", READS[round % READS.len()]);
            let shared = connection.send("GET", &path, &[("Authorization", &node.header())], b"");
            let alone = node.get(READS[round % READS.len()]);
            assert_eq!(shared.brief(), alone.brief());
            let id = "/MAAS/metadata/latest/meta-data/instance-id";
            let reply = connection.send("GET", id, &[("Authorization", &node.header())], b"");
            assert_eq!(reply.brief(), own(node));
        }
        let id = "/MAAS/metadata/latest/meta-data/instance-id";
        assert_refused(&connection.send("GET", id, &[], b""), "credentials_missing");
    }
}

#[test]
fn i11_the_token_of_a_removed_node_is_401_on_every_path() {
    let (server, first, second) = two_nodes();
    assert_eq!(first.get(ID).brief(), own(&first));
    server.operator().session.delete("/v1/default/nodes/n1").unwrap();
    for path in READS {
        assert_refused(&first.get(path), "credentials_refused");
    }
    assert_refused(&first.get("/curtin/latest/user-data"), "credentials_refused");

    // A node that takes over the name is another one.
    let again = server.node("n1");
    assert_ne!(again.token_key, first.token_key);
    assert_refused(&first.get(ID), "credentials_refused");
    assert_eq!(again.get("/latest/user-data").brief(), (200, String::new()));
    assert_eq!(second.get(ID).brief(), own(&second));
}

#[test]
fn d07_on_every_path_a_token_reads_its_own_node_or_nothing() {
    let (_server, first, second) = two_nodes();
    for path in READS {
        for path in [
            path.to_owned(),
            format!("/curtin{path}"),
            format!("/latest/../2012-03-01/{path}"),
            format!("/..{path}"),
            format!("/%2e%2e{path}"),
            format!("/n1{path}"),
            format!("{path}/../../n1"),
            format!("{path}%2e%2e/n1"),
            format!("{path};n1"),
            format!("{path}%00n1"),
            path.replace("2012", "%32012"),
        ] {
            let Reply { status, body, .. } = second.get(&path);
            let text = String::from_utf8(body).unwrap();
            assert!(matches!(status, 200 | 404), "{path}: {status}");
            if status == 200 {
                assert!(!text.contains("n1"), "{path}: {text}");
            }
        }
    }
    let items = READS[3..].iter().map(|path| (first.get(path).text(), second.get(path).text()));
    for (of_first, of_second) in items {
        assert_ne!(of_first, of_second);
        assert_eq!(of_first.replace("n1", "n2"), of_second);
    }
}

#[test]
fn d07_tokens_of_two_projects_are_as_apart_as_those_of_one() {
    let (server, first, _) = two_nodes();
    server.project("other");
    let node = json!({"system_id": "n3", "hostname": "n3.example.com"});
    let session = server.operator().session;
    session.send_json(Method::POST, "/v1/other/nodes", &node).unwrap();
    let token = session.send_json(Method::POST, "/v1/other/nodes/n3/token", &json!({})).unwrap();
    let third = Node::new(server.node, server.clock.clone(), &token);
    assert_eq!(third.get(ID).brief(), own(&third));
    assert_eq!(third.get("/latest/user-data").text(), "");
    assert_eq!(first.get(ID).brief(), own(&first));
}
