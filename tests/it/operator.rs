//! The operator plane under `/v1`: bodies, codes, the order of refusals, lists and their pages.

use nodeinit::http::operator::guard::Operation;
use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::support::{Options, Reply, TestServer, rows, socket};

const JSON: (&str, &str) = ("content-type", "application/json");
const NDJSON: (&str, &str) = ("content-type", "application/x-ndjson");

fn get(server: &TestServer, path: &str) -> Reply {
    socket::send(&server.socket, "GET", path, &[], b"")
}

fn delete(server: &TestServer, path: &str) -> Reply {
    socket::send(&server.socket, "DELETE", path, &[], b"")
}

/// A request with a JSON body.
fn send(server: &TestServer, method: &str, path: &str, body: &Value) -> Reply {
    socket::send(&server.socket, method, path, &[JSON], body.to_string().as_bytes())
}

fn post_lines(server: &TestServer, path: &str, lines: &[u8]) -> Reply {
    socket::send(&server.socket, "POST", path, &[NDJSON], lines)
}

fn put(server: &TestServer, path: &str, condition: Option<(&str, &str)>, bytes: &[u8]) -> Reply {
    socket::send(&server.socket, "PUT", path, condition.as_slice(), bytes)
}

/// How many nodes an import created, and how many it found as they were.
fn counts(reply: &Reply) -> (u64, u64) {
    let json = reply.json();
    (json["created"].as_u64().unwrap(), json["unchanged"].as_u64().unwrap())
}

fn add(server: &TestServer, id: &str) {
    let body = json!({"system_id": id, "hostname": format!("{id}.example.com")});
    let reply = send(server, "POST", "/v1/default/nodes", &body);
    assert_eq!(reply.status, 201, "{}", reply.text());
}

/// A refusal as RFC 9457 has it: what is wrong, by line and field.
#[track_caller]
fn problems(reply: &Reply, status: u16) -> Vec<Value> {
    assert_eq!(reply.status, status, "{}", reply.text());
    assert_eq!(reply.header("content-type"), Some("application/problem+json"));
    let body = reply.json();
    assert_eq!((&body["type"], &body["status"]), (&json!("about:blank"), &json!(status)));
    assert!(body["title"].is_string() && body["detail"].is_string(), "{body}");
    body["errors"].as_array().cloned().unwrap_or_default()
}

fn fields(problems: &[Value]) -> Vec<&str> {
    problems.iter().map(|problem| problem["field"].as_str().unwrap_or("-")).collect()
}

fn lines(problems: &[Value]) -> Vec<u64> {
    problems.iter().map(|problem| problem["line"].as_u64().unwrap_or(0)).collect()
}

fn ids(items: &Value) -> Vec<&str> {
    items.as_array().unwrap().iter().map(|node| node["system_id"].as_str().unwrap()).collect()
}

#[test]
fn a_node_is_created_with_201_and_where_it_is() {
    let server = TestServer::start();
    let body = json!({
        "system_id": "n1",
        "hostname": "Web-1.Example.com",
        "macs": ["52-54-00-AB-CD-01"],
        "ssh_keys": ["ssh-ed25519 AAAA a@b", "ssh-rsa BBBB"],
        "labels": {"rack": "r7", "zone/row": "é ü"},
        "netboot": false,
    });
    let made = send(&server, "POST", "/v1/default/nodes", &body);
    assert_eq!(made.status, 201, "{}", made.text());
    assert_eq!(made.header("location"), Some("/v1/default/nodes/n1"));
    assert_eq!(made.header("content-type"), Some("application/json"));
    let expected = json!({
        "system_id": "n1",
        "instance_id": "n1",
        "hostname": "Web-1.Example.com",
        "macs": ["52:54:00:ab:cd:01"],
        "ssh_keys": ["ssh-ed25519 AAAA a@b", "ssh-rsa BBBB"],
        "labels": {"rack": "r7", "zone/row": "é ü"},
        "project": "default",
        "netboot": false,
        "boot_state": "new",
        "created_at": "2027-01-15T08:00:00Z",
    });
    assert_eq!(made.json(), expected);
    assert_eq!(get(&server, "/v1/default/nodes/n1").json(), expected);

    let least = json!({"system_id": "n2", "hostname": "h2"});
    let made = send(&server, "POST", "/v1/default/nodes", &least).json();
    assert_eq!((&made["macs"], &made["ssh_keys"]), (&json!([]), &json!([])));
    assert_eq!((&made["labels"], &made["netboot"]), (&json!({}), &json!(true)));
}

#[test]
fn a_node_without_a_system_id_is_given_one() {
    let server = TestServer::start();
    let made: BTreeSet<String> = (0..5)
        .map(|i| {
            let reply =
                send(&server, "POST", "/v1/default/nodes", &json!({"hostname": format!("h{i}")}));
            assert_eq!(reply.status, 201);
            let id = reply.json()["system_id"].as_str().unwrap().to_owned();
            assert_eq!(reply.header("location"), Some(&*format!("/v1/default/nodes/{id}")));
            assert_eq!(get(&server, &format!("/v1/default/nodes/{id}")).status, 200);
            id
        })
        .collect();
    assert_eq!(made.len(), 5);
}

#[test]
fn a_change_is_200_and_touches_what_it_names_alone() {
    let server = TestServer::start();
    let body = json!({
        "system_id": "n1", "hostname": "h1", "macs": ["52:54:00:00:00:01"],
        "ssh_keys": ["key one"], "labels": {"a": "1", "b": "2"},
    });
    send(&server, "POST", "/v1/default/nodes", &body);
    let mut node = get(&server, "/v1/default/nodes/n1").json();
    for (change, field, value) in [
        (json!({"hostname": "H1.example.com"}), "hostname", json!("H1.example.com")),
        (json!({"macs": []}), "macs", json!([])),
        (json!({"ssh_keys": ["two", "one"]}), "ssh_keys", json!(["two", "one"])),
        (json!({"labels": {"c": "3"}}), "labels", json!({"c": "3"})),
        (json!({"netboot": false}), "netboot", json!(false)),
        (json!({"netboot": null, "hostname": null}), "netboot", json!(false)),
        (json!({}), "netboot", json!(false)),
    ] {
        let reply = send(&server, "PATCH", "/v1/default/nodes/n1", &change);
        assert_eq!(reply.status, 200, "{change}: {}", reply.text());
        node[field] = value;
        assert_eq!(reply.json(), node, "{change}");
        assert_eq!(get(&server, "/v1/default/nodes/n1").json(), node, "{change}");
    }
    let refused = send(&server, "PATCH", "/v1/default/nodes/n1", &json!({"system_id": "n2"}));
    assert_eq!(problems(&refused, 400).len(), 1, "a system id is for life");
}

#[test]
fn a_removal_is_204_and_what_is_gone_is_404() {
    let server = TestServer::start();
    add(&server, "n1");
    let gone = delete(&server, "/v1/default/nodes/n1");
    assert_eq!((gone.status, gone.body.len()), (204, 0));
    for reply in [
        get(&server, "/v1/default/nodes/n1"),
        delete(&server, "/v1/default/nodes/n1"),
        send(&server, "PATCH", "/v1/default/nodes/n1", &json!({})),
    ] {
        problems(&reply, 404);
    }
    add(&server, "n1");
}

#[test]
fn a_taken_system_id_or_hostname_is_409() {
    let server = TestServer::start();
    server.project("alpha");
    add(&server, "n1");
    let made = |project: &str, id: &str, hostname: &str| {
        let body = json!({"system_id": id, "hostname": hostname});
        send(&server, "POST", &format!("/v1/{project}/nodes"), &body)
    };
    problems(&made("default", "n1", "other"), 409);
    problems(&made("alpha", "n1", "other"), 409);
    problems(&made("default", "n2", "N1.EXAMPLE.com"), 409);
    problems(&made("default", "n1", "n1.example.com"), 409);
    assert_eq!(made("default", "N1", "other").status, 201, "system ids are compared exactly");
    assert_eq!(made("alpha", "n2", "n1.example.com").status, 201, "another project's names");

    let rename = |to: &str| {
        send(&server, "PATCH", "/v1/default/nodes/N1", &json!({"hostname": to, "netboot": false}))
    };
    problems(&rename("n1.Example.Com"), 409);
    assert_eq!(get(&server, "/v1/default/nodes/N1").json()["netboot"], true, "nothing of it");
    assert_eq!(rename("OTHER").status, 200, "its own name in other letters");
    assert_eq!(rows::count(&server.database, "nodes"), 3);
}

#[test]
fn a_400_names_every_problem_and_echoes_nothing() {
    let server = TestServer::start();
    let wrong = json!({
        "system_id": "hunter2/../x",
        "hostname": "hunter2_",
        "macs": ["52:54:00:00:00:01", "hunter2"],
        "ssh_keys": ["hunter2\nhunter2"],
        "labels": {"hunter2": 2},
        "netboot": "hunter2",
        "hunter2": true,
    });
    let reply = send(&server, "POST", "/v1/default/nodes", &wrong);
    let found = problems(&reply, 400);
    let mut named = fields(&found);
    named.sort_unstable();
    assert_eq!(named, ["-", "hostname", "labels", "macs", "netboot", "ssh_keys", "system_id"]);
    assert!(!reply.text().contains("hunter2"), "{}", reply.text());

    for (body, named) in [
        (json!({}), vec!["hostname"]),
        (json!({"hostname": null}), vec!["hostname"]),
        (json!({"hostname": 7, "macs": "52:54:00:00:00:01"}), vec!["hostname", "macs"]),
        (json!({"hostname": "h", "netboot": 1}), vec!["netboot"]),
        (json!({"hostname": "h", "labels": ["a=b"]}), vec!["labels"]),
        (json!({"hostname": "h", "labels": {"-a": "b"}}), vec!["labels"]),
        (json!({"hostname": "10.0.0.1"}), vec!["hostname"]),
        (json!({"hostname": "h", "system_id": ""}), vec!["system_id"]),
        (json!({"hostname": "h", "ssh_keys": ["# comment"]}), vec!["ssh_keys"]),
        (json!({"hostname": "h", "user_data": "eA=="}), vec!["-"]),
    ] {
        let reply = send(&server, "POST", "/v1/default/nodes", &body);
        assert_eq!(fields(&problems(&reply, 400)), named, "{body}");
    }
    for text in [
        "",
        "{",
        "[]",
        "null",
        "\"hunter2\"",
        "{\"hostname\": \"h\"} x",
        "{\"hostname\": \"a\", \"hostname\": \"b\"}",
        "{\"hostname\": \"h\", \"labels\": {\"a\": \"1\", \"a\": \"2\"}}",
        "{'hostname': 'h'}",
        "\u{feff}{\"hostname\": \"h\"}",
    ] {
        let reply =
            socket::send(&server.socket, "POST", "/v1/default/nodes", &[JSON], text.as_bytes());
        assert_eq!(problems(&reply, 400).len(), 1, "{text}");
        assert!(!reply.text().contains("hunter2"), "{}", reply.text());
    }
    let not_utf8 = b"{\"hostname\": \"h\xff\"}";
    let reply = socket::send(&server.socket, "POST", "/v1/default/nodes", &[JSON], not_utf8);
    problems(&reply, 400);
    let deep = format!("{{\"hostname\": {}{}}}", "[".repeat(40), "]".repeat(40));
    let reply = socket::send(&server.socket, "POST", "/v1/default/nodes", &[JSON], deep.as_bytes());
    problems(&reply, 400);
    assert_eq!(rows::count(&server.database, "nodes"), 0);
}

#[test]
fn a_body_of_another_media_type_is_415() {
    let server = TestServer::start();
    add(&server, "n1");
    let body = json!({"hostname": "h", "format": "curl"}).to_string();
    for kind in [
        None,
        Some("text/plain"),
        Some("application/x-www-form-urlencoded"),
        Some("application/jsonx"),
        Some(""),
    ] {
        let headers: Vec<(&str, &str)> = kind.iter().map(|kind| ("content-type", *kind)).collect();
        for (method, path) in [
            ("POST", "/v1/default/nodes"),
            ("PATCH", "/v1/default/nodes/n1"),
            ("POST", "/v1/default/nodes/n1/preseed"),
            ("POST", "/v1/default/tokens"),
            ("POST", "/v1/tokens/cull"),
        ] {
            let reply = socket::send(&server.socket, method, path, &headers, body.as_bytes());
            problems(&reply, 415);
        }
    }
    for kind in ["application/json; charset=utf-8", "Application/JSON", "application/json;x=y"] {
        let headers = [("content-type", kind)];
        let reply = socket::send(&server.socket, "PATCH", "/v1/default/nodes/n1", &headers, b"{}");
        assert_eq!(reply.status, 200, "{kind}");
    }
    // Content is bytes, of whatever type its sender says.
    let path = "/v1/default/nodes/n1/user-data";
    let headers = [("content-type", "text/x-shellscript")];
    let reply = socket::send(&server.socket, "PUT", path, &headers, b"#!/bin/sh\n");
    assert_eq!(reply.status, 201);
}

#[test]
fn a_body_over_its_limit_is_413() {
    let limits = Options::default()
        .flag("json-bytes", "1KiB")
        .flag("content-bytes", "100")
        .flag("page", "7");
    let server = TestServer::start_with(limits);
    add(&server, "n1");
    let fat = json!({"hostname": "h".repeat(2000)});
    problems(&send(&server, "POST", "/v1/default/nodes", &fat), 413);
    problems(&send(&server, "PATCH", "/v1/default/nodes/n1", &fat), 413);
    problems(&send(&server, "POST", "/v1/tokens/cull", &fat), 413);
    for what in ["user-data", "vendor-data"] {
        let path = format!("/v1/default/nodes/n1/{what}");
        let exact = [b"#cloud-config\n#".as_slice(), &[b'x'; 84], b"\n"].concat();
        assert_eq!(exact.len(), 100);
        let status = put(&server, &path, None, &exact).status;
        // As vendor-data a lone comment is refused, but not for its size.
        assert!(matches!(status, 201 | 400), "{status}");
        problems(&put(&server, &path, None, &[b'x'; 101]), 413);
        // Without a length said beforehand.
        let head = format!(
            "PUT {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
        );
        let chunk = format!("65\r\n{}\r\n0\r\n\r\n", "x".repeat(101));
        let reply = socket::raw(&server.socket, (head + &chunk).as_bytes(), false);
        problems(&reply, 413);
    }
}

#[test]
fn refusals_come_in_the_order_413_415_400_404_409_412_428() {
    let limits = Options::default().flag("json-bytes", "1KiB").flag("content-bytes", "100");
    let server = TestServer::start_with(limits);
    add(&server, "n1");
    add(&server, "n2");
    let user_data = "/v1/default/nodes/n1/user-data";
    assert_eq!(put(&server, user_data, None, b"#!/bin/sh\n").status, 201);
    let fat = [b'{'; 2000];
    let big = [b'x'; 101];

    // 413 and 415 before everything.
    for path in ["/v1/nowhere/nodes", "/v1/default/nodes"] {
        problems(&socket::send(&server.socket, "POST", path, &[JSON], &fat), 413);
        problems(&socket::send(&server.socket, "POST", path, &[], b"{"), 415);
    }
    for path in ["/v1/nowhere/nodes/n1", "/v1/default/nodes/no"] {
        problems(&socket::send(&server.socket, "PATCH", path, &[JSON], &fat), 413);
        problems(&socket::send(&server.socket, "PATCH", path, &[], b"{"), 415);
    }
    for path in [
        "/v1/nowhere/nodes/n1/user-data",
        "/v1/default/nodes/no/user-data",
        user_data,
        "/v1/default/nodes/n1/user-data?strict=maybe",
        "/v1/default/nodes/n1/user-data?unknown=1",
    ] {
        problems(&put(&server, path, None, &big), 413);
        problems(&put(&server, path, Some(("if-match", "\"9\"")), &big), 413);
    }
    // 400 before 404.
    problems(&send(&server, "POST", "/v1/nowhere/nodes", &json!({})), 400);
    problems(&send(&server, "PATCH", "/v1/nowhere/nodes/n1", &json!({"x": 1})), 400);
    problems(&send(&server, "PATCH", "/v1/default/nodes/no", &json!({"macs": 1})), 400);
    problems(&send(&server, "POST", "/v1/default/nodes/no/preseed", &json!({})), 400);
    problems(&get(&server, "/v1/nowhere/nodes?limit=0"), 400);
    problems(&get(&server, "/v1/default/nodes/no/user-data?version=x"), 400);
    problems(&put(&server, "/v1/default/nodes/no/user-data?strict=x", None, b"x"), 400);
    problems(&put(&server, "/v1/default/nodes/no/vendor-data", None, b"null\n"), 400);
    problems(&post_lines(&server, "/v1/nowhere/tokens", b"{"), 400);
    problems(&post_lines(&server, "/v1/nowhere/nodes", b"{}\n"), 400);
    // 404 before 409, 412 and 428.
    let taken = json!({"system_id": "n1", "hostname": "n1.example.com"});
    problems(&send(&server, "POST", "/v1/nowhere/nodes", &taken), 404);
    let taken = json!({"hostname": "n1.example.com"});
    problems(&send(&server, "PATCH", "/v1/default/nodes/no", &taken), 404);
    problems(&send(&server, "PATCH", "/v1/default/nodes/n2", &taken), 409);
    let elsewhere = json!({"hostname": "n1.example.com", "project": "nowhere"});
    problems(&send(&server, "PATCH", "/v1/default/nodes/n2", &elsewhere), 404);
    let stale = Some(("if-match", "\"9\""));
    problems(&put(&server, "/v1/nowhere/nodes/n1/user-data", stale, b"x"), 404);
    problems(&put(&server, "/v1/default/nodes/no/user-data", stale, b"x"), 404);
    problems(&put(&server, user_data, stale, b"x"), 412);
    problems(&put(&server, user_data, None, b"x"), 428);
    // What is refused for its content is not asked for its version.
    let vendor_data = "/v1/default/nodes/n1/vendor-data";
    assert_eq!(put(&server, vendor_data, None, b"#cloud-config\n{}\n").status, 201);
    problems(&put(&server, vendor_data, None, b"null\n"), 400);
    problems(&put(&server, &format!("{user_data}?strict=true"), stale, b"nothing known"), 400);
}

/// The routes of `/v1`; those of `/v2.0` speak as Keystone does.
fn v1_routes() -> impl Iterator<Item = (&'static str, Vec<Operation>)> {
    nodeinit::http::operator_routes().into_iter().filter(|(path, _)| path.starts_with("/v1/"))
}

/// Every one of them, with a body that it takes.
fn every_route() -> Vec<(String, &'static str, Option<Value>)> {
    let mut all = Vec::new();
    for (path, methods) in v1_routes() {
        for method in methods.iter().map(|operation| operation.method) {
            let body = match (method, path) {
                ("POST", "/v1/{project}/nodes") => Some(json!({"hostname": "h"})),
                ("POST", "/v1/tokens/cull") => Some(json!({"idle_for": "1d"})),
                ("POST", path) if path.ends_with("/preseed") => Some(json!({"format": "curl"})),
                ("POST" | "PATCH", _) => Some(json!({})),
                _ => None,
            };
            all.push((path.to_owned(), method, body));
        }
    }
    all
}

#[test]
fn what_is_missing_is_404_on_every_route() {
    let server = TestServer::start();
    add(&server, "n1");
    server.project("alpha");
    for (path, method, body) in every_route() {
        for (project, node) in
            [("nowhere", "n1"), ("default", "no"), ("alpha", "n1"), ("default", "N1")]
        {
            let names_both = path.contains("{system_id}");
            if !path.contains("{project}") || (!names_both && project != "nowhere") {
                continue;
            }
            let at = path.replace("{project}", project).replace("{system_id}", node);
            let kind = if path == "/v1/{project}/tokens" { NDJSON } else { JSON };
            let text = match &body {
                Some(_) if kind == NDJSON => "\"n1\"".to_owned(),
                Some(body) => body.to_string(),
                None if method == "PUT" => "#cloud-config\n{}\n".to_owned(),
                None => String::new(),
            };
            let reply = socket::send(&server.socket, method, &at, &[kind], text.as_bytes());
            problems(&reply, 404);
            for name in ["nowhere", "alpha"] {
                assert!(!reply.text().contains(name), "{method} {at} echoes: {}", reply.text());
            }
        }
    }
    for path in ["/", "/v1", "/v1/default", "/v1/default/nodes/n1/nothing"] {
        problems(&get(&server, path), 404);
    }
    assert_eq!(rows::count(&server.database, "tokens"), 0);
    assert_eq!(rows::count(&server.database, "nodes"), 1);
}

#[test]
fn a_project_is_named_by_its_name_or_its_id() {
    let server = TestServer::start();
    let id = server.project("alpha").0.to_string();
    let body = json!({"system_id": "n1", "hostname": "h1"});
    assert_eq!(send(&server, "POST", &format!("/v1/{id}/nodes"), &body).status, 201);
    let by_name = get(&server, "/v1/alpha/nodes/n1");
    assert_eq!(by_name.json()["project"], "alpha");
    assert_eq!(get(&server, &format!("/v1/{id}/nodes/n1")).json(), by_name.json());
    let moved = send(&server, "PATCH", "/v1/alpha/nodes/n1", &json!({"project": "default"}));
    assert_eq!(moved.json()["project"], "default");
    let back = send(&server, "PATCH", "/v1/default/nodes/n1", &json!({"project": id}));
    assert_eq!(back.json()["project"], "alpha");
}

#[test]
fn another_method_on_a_known_path_is_405_and_says_which_there_are() {
    let server = TestServer::start();
    add(&server, "n1");
    for (path, methods) in v1_routes() {
        let at = path.replace("{project}", "default").replace("{system_id}", "n1");
        let mut known: Vec<&str> = methods.iter().map(|operation| operation.method).collect();
        if known.contains(&"GET") {
            known.push("HEAD");
        }
        known.sort_unstable();
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"] {
            if known.contains(&method) {
                continue;
            }
            let reply = socket::send(&server.socket, method, &at, &[], b"");
            problems(&reply, 405);
            assert_eq!(reply.header("allow"), Some(&*known.join(", ")), "{method} {at}");
        }
    }
    for path in ["/healthz", "/readyz", "/version", "/metrics"] {
        let reply = socket::send(&server.socket, "POST", path, &[], b"");
        problems(&reply, 405);
        assert_eq!(reply.header("allow"), Some("GET, HEAD"));
    }
}

#[test]
fn head_is_get_without_the_body() {
    let server = TestServer::start();
    server.node("n1");
    server.operator().set("n1", "user-data", b"#!/bin/sh\n");
    for path in [
        "/v1/default/nodes",
        "/v1/default/nodes/n1",
        "/v1/default/nodes/n1/user-data",
        "/v1/default/nodes/n1/user-data/versions",
        "/v1/default/nodes/n1/token",
        "/v1/tokens",
        "/healthz",
        "/v1/default/nodes/no",
    ] {
        let whole = get(&server, path);
        let head = socket::send(&server.socket, "HEAD", path, &[], b"");
        assert_eq!((head.status, head.body.len()), (whole.status, 0), "{path}");
        for name in ["content-type", "content-length", "etag"] {
            assert_eq!(head.header(name), whole.header(name), "{path}: {name}");
        }
    }
}

#[test]
fn every_answer_says_how_it_may_be_kept_and_what_it_is_called() {
    let server = TestServer::start();
    server.node("n1");
    let mut seen = BTreeSet::new();
    for reply in [
        get(&server, "/v1/default/nodes"),
        get(&server, "/v1/default/nodes/no"),
        get(&server, "/nothing"),
        get(&server, "/version"),
        socket::send(&server.socket, "BREW", "/v1/tokens", &[], b""),
        send(&server, "POST", "/v1/default/nodes/n1/token", &json!({})),
        send(&server, "POST", "/v1/default/nodes", &json!({})),
        server.observer().get("/healthz"),
        server.observer().get("/v1/tokens"),
    ] {
        assert_eq!(reply.header("cache-control"), Some("no-store"), "{reply:?}");
        assert_eq!(reply.header("vary"), Some("X-Auth-Token"), "{reply:?}");
        assert!(reply.header("date").is_some(), "{reply:?}");
        let id = reply.header("x-request-id").expect("an id").to_owned();
        assert!(seen.insert(id), "no two requests share an id");
    }
}

#[test]
fn an_odd_path_is_a_missing_node_and_never_trouble() {
    let server = TestServer::start();
    add(&server, "n1");
    for odd in ["n1%00", "%2e%2e", "n1%2f..", "%F0%9F%98%80", "n1%0a", &"a".repeat(2000), "n1;x"] {
        problems(&get(&server, &format!("/v1/default/nodes/{odd}")), 404);
        problems(&get(&server, &format!("/v1/default/nodes/{odd}/token")), 404);
        problems(&get(&server, &format!("/v1/{odd}/nodes")), 404);
    }
    problems(&send(&server, "PATCH", "/v1/default/nodes/n1", &json!({"project": "\u{0}"})), 404);
    assert_eq!(get(&server, "/v1/tokens?token_key=%00").json()["items"], json!([]));
    for path in
        ["/v1/default/nodes?cursor=AA", "/v1/tokens?cursor=AA", "/v1/default/nodes?label=a=%00"]
    {
        problems(&get(&server, path), 400);
    }
    let nul = post_lines(&server, "/v1/default/tokens", b"\"n1\"\n\"n1\\u0000\"\n\"\"\n");
    assert_eq!(lines(&problems(&nul, 400)), [2, 3]);
    for unreadable in ["%ff", "%c3%28"] {
        let reply = get(&server, &format!("/v1/default/nodes/{unreadable}"));
        assert!(matches!(reply.status, 400 | 404), "{}", reply.text());
    }
}

#[test]
fn content_is_versioned_and_overwritten_only_by_those_who_know_what_is_there() {
    let server = TestServer::start();
    add(&server, "n1");
    for (what, one, two) in [
        ("user-data", &b"#!/bin/sh\necho 1\n"[..], &b"#!/bin/sh\necho 2\n"[..]),
        ("vendor-data", b"cloud-init: |\n  #cloud-config\n  {}\n", b"cloud-init: '#!/bin/sh'\n"),
    ] {
        let path = format!("/v1/default/nodes/n1/{what}");
        problems(&get(&server, &path), 404);
        assert_eq!(get(&server, &format!("{path}/versions")).json()["items"], json!([]));
        problems(&put(&server, &path, Some(("if-match", "\"1\"")), one), 412);
        problems(&put(&server, &path, Some(("if-match", "*")), one), 412);

        let made = put(&server, &path, None, one);
        assert_eq!((made.status, made.header("etag")), (201, Some("\"1\"")));
        assert_eq!(made.header("location"), Some(&*path));
        let told = made.json();
        assert_eq!((&told["version"], &told["size"]), (&json!(1), &json!(one.len())));
        assert_eq!(told["sha256"].as_str().unwrap().len(), 64);
        assert_eq!(told["warnings"], json!([]));
        let read = get(&server, &path);
        assert_eq!((read.status, read.header("etag"), &*read.body), (200, Some("\"1\""), one));
        assert_eq!(read.header("content-type"), Some("application/octet-stream"));

        problems(&put(&server, &path, None, two), 428);
        for stale in ["\"2\"", "\"0\"", "W/\"1\"", "1", "\"x\"", "\"2\", \"3\"", ""] {
            problems(&put(&server, &path, Some(("if-match", stale)), two), 412);
        }
        problems(&put(&server, &path, Some(("if-none-match", "*")), two), 412);
        problems(&put(&server, &path, Some(("if-none-match", "\"1\"")), two), 400);
        let both = [("if-match", "\"1\""), ("if-none-match", "*")];
        problems(&socket::send(&server.socket, "PUT", &path, &both, two), 400);
        assert_eq!(get(&server, &path).body, one, "{what}: none of these wrote");

        let changed = put(&server, &path, Some(("if-match", "\"7\", \"1\"")), two);
        assert_eq!((changed.status, changed.header("etag")), (200, Some("\"2\"")));
        assert_eq!(changed.header("location"), None);
        assert_eq!(put(&server, &path, Some(("if-match", "*")), one).header("etag"), Some("\"3\""));

        let stale = Some(("if-match", "\"2\""));
        let refused = socket::send(&server.socket, "DELETE", &path, stale.as_slice(), b"");
        problems(&refused, 412);
        let right = [("if-match", "\"3\"")];
        assert_eq!(socket::send(&server.socket, "DELETE", &path, &right, b"").status, 204);
        problems(&get(&server, &path), 404);
        assert_eq!(delete(&server, &path).status, 204, "{what}: none there is no error");
        problems(&put(&server, &path, Some(("if-match", "*")), two), 412);
        let again = put(&server, &path, Some(("if-none-match", "*")), two);
        assert_eq!((again.status, again.header("etag")), (201, Some("\"5\"")));

        let versions = get(&server, &format!("{path}/versions")).json();
        assert_eq!(versions["next"], Value::Null);
        let told: Vec<(i64, i64, bool)> = versions["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|v| {
                assert_eq!(v["created_at"], "2027-01-15T08:00:00Z");
                (v["version"].as_i64().unwrap(), v["size"].as_i64().unwrap(), v["sha256"].is_null())
            })
            .collect();
        let (a, b) = (i64::try_from(one.len()).unwrap(), i64::try_from(two.len()).unwrap());
        assert_eq!(
            told,
            [(1, a, false), (2, b, false), (3, a, false), (4, 0, true), (5, b, false)]
        );
        let version = |n: &str| get(&server, &format!("{path}?version={n}"));
        assert_eq!((&*version("1").body, version("1").header("etag")), (one, Some("\"1\"")));
        assert_eq!(&*version("2").body, two);
        for none in ["4", "6", "0", "-1"] {
            problems(&version(none), 404);
        }
        for bad in ["x", "", "1.5", "99999999999"] {
            problems(&version(bad), 400);
        }
        problems(&get(&server, &format!("{path}?versoin=1")), 400);
    }
}

#[test]
fn of_many_who_overwrite_the_same_version_one_wins() {
    let server = TestServer::start();
    add(&server, "n1");
    let path = "/v1/default/nodes/n1/user-data";
    for condition in [("if-none-match", "*"), ("if-match", "\"1\""), ("if-match", "\"2\"")] {
        let barrier = std::sync::Barrier::new(12);
        let statuses: Vec<u16> = std::thread::scope(|scope| {
            let writers: Vec<_> = (0..12)
                .map(|i| {
                    let (server, barrier) = (&server, &barrier);
                    scope.spawn(move || {
                        barrier.wait();
                        let bytes = format!("#!/bin/sh\n# {condition:?} {i}\n");
                        put(server, path, Some(condition), bytes.as_bytes()).status
                    })
                })
                .collect();
            writers.into_iter().map(|writer| writer.join().unwrap()).collect()
        });
        let won = statuses.iter().filter(|status| matches!(status, 200 | 201)).count();
        assert_eq!(won, 1, "{condition:?}: {statuses:?}");
        assert_eq!(statuses.iter().filter(|status| **status == 412).count(), 11, "{statuses:?}");
    }
    assert_eq!(rows::count(&server.database, "contents"), 3);
}

#[test]
fn many_nodes_given_the_same_bytes_at_once_each_have_them() {
    let server = TestServer::start();
    for i in 0..12 {
        add(&server, &format!("n{i}"));
    }
    let bytes = b"#!/bin/sh\necho the same for all\n";
    std::thread::scope(|scope| {
        for i in 0..12 {
            let server = &server;
            scope.spawn(move || {
                let path = format!("/v1/default/nodes/n{i}/user-data");
                assert_eq!(put(server, &path, None, bytes).status, 201);
            });
        }
    });
    assert_eq!(rows::count(&server.database, "blobs"), 1, "stored once");
    // The last of them takes the bytes along, no other does.
    for i in 0..12 {
        assert_eq!(get(&server, &format!("/v1/default/nodes/n{i}/user-data")).body, bytes);
        assert_eq!(delete(&server, &format!("/v1/default/nodes/n{i}")).status, 204);
    }
    assert_eq!(rows::count(&server.database, "blobs"), 0);
}

#[test]
fn user_data_that_cloud_init_would_ignore_is_a_warning_or_strictly_a_400() {
    let server = TestServer::start();
    add(&server, "n1");
    let path = "/v1/default/nodes/n1/user-data";
    let strictly = "/v1/default/nodes/n1/user-data?strict=true";
    for bytes in [
        &b"hunter2: nothing that cloud-init knows\n"[..],
        b"\xef\xbb\xbf#cloud-config\n{}\n",
        b"#cloud-config\nhunter2: [\n",
        b"#!/bin/sh\n\xff\n",
        b"I2Nsb3VkLWNvbmZpZwpodW50ZXIyOiB7fQo=",
    ] {
        let refused = put(&server, strictly, Some(("if-none-match", "*")), bytes);
        let found = problems(&refused, 400);
        assert!(!found.is_empty());
        assert!(found.iter().all(|p| p["code"].is_string() && p["message"].is_string()));
        assert!(!refused.text().contains("hunter2"), "{}", refused.text());
        problems(&get(&server, path), 404);

        let taken = put(&server, &format!("{path}?strict=false"), None, bytes);
        assert_eq!(taken.status, 201, "{}", taken.text());
        assert_eq!(taken.json()["warnings"].as_array().unwrap().len(), found.len());
        assert!(!taken.text().contains("hunter2"), "{}", taken.text());
        assert_eq!(get(&server, path).body, bytes, "stored as it is");
        assert_eq!(delete(&server, path).status, 204);
    }
    let good = put(&server, strictly, None, b"#cloud-config\npackages: [git]\n");
    assert_eq!((good.status, &good.json()["warnings"]), (201, &json!([])));
    for bad in ["strict=maybe", "strict=", "strict", "Strict=true", "x=1"] {
        let reply = put(&server, &format!("{path}?{bad}"), Some(("if-match", "*")), b"#!/bin/sh\n");
        problems(&reply, 400);
    }
}

#[test]
fn vendor_data_is_stored_as_every_cloud_init_accepts_it_or_refused() {
    let server = TestServer::start();
    let node = server.node("n1");
    let path = "/v1/default/nodes/n1/vendor-data";
    for bytes in [
        &b""[..],
        b" \n",
        b"# hunter2\n",
        b"null\n",
        b"\xff\xfe",
        b"cloud-init: !hunter2 x\n",
        b"a: b: hunter2\n",
    ] {
        let refused = put(&server, path, None, bytes);
        assert!(!problems(&refused, 400).is_empty());
        assert!(!refused.text().contains("hunter2"), "{}", refused.text());
    }
    problems(&get(&server, path), 404);
    assert_eq!(put(&server, path, None, b"#cloud-config\npackages: [git]\n").status, 201);
    let stored = get(&server, path).body;
    assert!(stored.starts_with(b"cloud-init: |"), "{}", String::from_utf8_lossy(&stored));
    assert_eq!(node.get("/latest/meta-data/vendor-data").body, stored);
}

fn import_line(id: &str, more: &Value) -> String {
    let mut line = json!({"system_id": id, "hostname": format!("{id}.example.com")});
    for (name, value) in more.as_object().unwrap() {
        line[name] = value.clone();
    }
    format!("{line}\n")
}

#[test]
fn an_import_adds_all_with_their_contents_and_can_be_run_again() {
    let server = TestServer::start();
    let user_data = [b"#!/bin/sh\n".as_slice(), &[0, 255, 10, 13]].concat();
    let text = [
        import_line("n1", &json!({"user_data": STANDARD.encode(&user_data)})),
        "\n  \r\n".to_owned(),
        import_line("n2", &json!({"vendor_data": STANDARD.encode("#cloud-config\n{}\n")})),
        import_line(
            "n3",
            &json!({"macs": ["52-54-00-00-00-03"], "labels": {"rack": "r7"},
            "ssh_keys": ["key"], "netboot": false}),
        )
        .trim_end()
        .to_owned(),
    ]
    .concat();
    let first = post_lines(&server, "/v1/default/nodes", text.as_bytes());
    assert_eq!(first.status, 200, "{}", first.text());
    assert_eq!(counts(&first), (3, 0));
    assert_eq!(first.json()["warnings"][0]["code"], "script_not_utf8");
    assert_eq!(first.json()["warnings"][0]["line"], 1);
    let strict = post_lines(&server, "/v1/default/nodes?strict=true", text.as_bytes());
    assert_eq!(strict.status, 400, "{}", strict.text());
    let again = post_lines(&server, "/v1/default/nodes", text.as_bytes());
    assert_eq!(counts(&again), (0, 3));
    assert_eq!(get(&server, "/v1/default/nodes/n1/user-data").header("etag"), Some("\"1\""));

    let node = server.credentials("n1");
    assert_eq!(node.get("/latest/user-data").body, user_data);
    let vendor_data = server.credentials("n2").get("/latest/meta-data/vendor-data").text();
    assert!(vendor_data.starts_with("cloud-init: |"), "{vendor_data}");
    let third = get(&server, "/v1/default/nodes/n3").json();
    assert_eq!((&third["netboot"], &third["labels"]["rack"]), (&json!(false), &json!("r7")));

    // What was cut short goes on where it was: some there, some new.
    let longer = text + "\n" + &import_line("n4", &json!({}));
    let longer = post_lines(&server, "/v1/default/nodes", longer.as_bytes());
    assert_eq!(counts(&longer), (1, 3));
    let nothing = post_lines(&server, "/v1/default/nodes", b"\n");
    assert_eq!(counts(&nothing), (0, 0));
}

#[test]
fn an_import_is_all_or_nothing_and_names_every_bad_line() {
    let server = TestServer::start();
    add(&server, "there");
    let text = [
        import_line("n1", &json!({})),
        import_line("n2", &json!({"macs": ["hunter2"], "netboot": "hunter2"})),
        "\n".to_owned(),
        import_line("n3", &json!({"user_data": "hunter2 is no base64"})),
        import_line("n4", &json!({"vendor_data": STANDARD.encode("null")})),
        import_line("n5", &json!({"hunter2": 1})),
        "[\"hunter2\"]\n".to_owned(),
        import_line("n6", &json!({})),
    ]
    .concat();
    let refused = post_lines(&server, "/v1/default/nodes", text.as_bytes());
    let found = problems(&refused, 400);
    assert_eq!(lines(&found), [2, 2, 4, 5, 6, 7], "{}", refused.text());
    let named = fields(&found);
    assert_eq!(&named[..4], ["macs", "netboot", "user_data", "vendor_data"]);
    assert!(!refused.text().contains("hunter2"), "{}", refused.text());
    assert_eq!(rows::count(&server.database, "nodes"), 1, "none was added");

    let broken = [&import_line("n1", &json!({})), "{\"hunter2\n", "hunter2\n", "{}{}\n"].concat();
    let refused = post_lines(&server, "/v1/default/nodes", broken.as_bytes());
    assert_eq!(lines(&problems(&refused, 400)), [2, 3, 4]);
    assert!(!refused.text().contains("hunter2"), "{}", refused.text());

    // In conflict with what is there, or with each other.
    let text = [
        import_line("n1", &json!({})),
        import_line("there", &json!({"labels": {"rack": "r1"}})),
        import_line("n2", &json!({"hostname": "THERE.example.com"})),
        import_line("n1", &json!({"hostname": "other"})),
        import_line("n1", &json!({})),
        import_line("there", &json!({"user_data": STANDARD.encode("#!/bin/sh\n")})),
    ]
    .concat();
    let refused = post_lines(&server, "/v1/default/nodes", text.as_bytes());
    assert_eq!(lines(&problems(&refused, 400)), [2, 3, 4, 6], "{}", refused.text());
    assert_eq!(rows::count(&server.database, "nodes"), 1);
    assert_eq!(rows::count(&server.database, "contents"), 0);

    // The netboot flag is the node's own: it may have changed since the import that was cut short.
    let again = post_lines(
        &server,
        "/v1/default/nodes",
        import_line("there", &json!({"netboot": false})).as_bytes(),
    );
    assert_eq!(again.json()["unchanged"], 1, "{}", again.text());

    let many = "{\"hostname\":\"h\"}\n".repeat(10_001);
    problems(&post_lines(&server, "/v1/default/nodes", many.as_bytes()), 400);
}

#[test]
fn a_list_is_sorted_by_bytes_and_filtered() {
    let server = TestServer::start();
    server.project("alpha");
    for (id, labels) in [
        ("b", json!({"rack": "r1", "role": "web"})),
        ("a-b", json!({"rack": "r1"})),
        ("A", json!({"rack": "r2", "role": "web"})),
        ("a.b", json!({"rack": "é=&", "role": ""})),
        ("a_b", json!({})),
        ("10", json!({"rack": "r1", "role": "db"})),
        ("9", json!({})),
    ] {
        let body = json!({"system_id": id, "hostname": format!("h{}", id.replace(['.', '_'], "x")
            .to_lowercase() + if id == "A" { "upper" } else { "" } + &id.len().to_string()
            + if id == "a_b" { "u" } else { "" }), "labels": labels});
        let reply = send(&server, "POST", "/v1/default/nodes", &body);
        assert_eq!(reply.status, 201, "{}", reply.text());
    }
    let elsewhere = json!({"system_id": "else", "hostname": "h", "labels": {"rack": "r1"}});
    send(&server, "POST", "/v1/alpha/nodes", &elsewhere);
    let listed = |query: &str| {
        let reply = get(&server, &format!("/v1/default/nodes?{query}"));
        assert_eq!(reply.status, 200, "{query}: {}", reply.text());
        let body = reply.json();
        assert_eq!(body["next"], Value::Null, "{query}");
        ids(&body["items"]).join(" ")
    };
    assert_eq!(listed(""), "10 9 A a-b a.b a_b b");
    assert_eq!(listed("label=rack=r1"), "10 a-b b");
    assert_eq!(listed("label=rack%3Dr1&label=role=web"), "b");
    assert_eq!(listed("label=rack=%C3%A9%3D%26"), "a.b");
    assert_eq!(listed("label=role="), "a.b");
    assert_eq!(listed("label=none=x"), "");
    assert_eq!(listed("label=rack=r1&label=rack=r2"), "", "a repeated filter narrows");

    server.operator().token("9");
    server.operator().token("b");
    server.credentials("b").get("/latest/meta-data/instance-id");
    crate::support::wait(nodeinit::actions::cull::flush(&server.app)).unwrap();
    assert_eq!(listed("state=new"), "10 A a-b a.b a_b");
    assert_eq!(listed("state=issued"), "9");
    assert_eq!(listed("state=contacted"), "b");
    assert_eq!(listed("state=contacted&label=rack=r1"), "b");
    assert_eq!(listed("state=issued&label=rack=r1"), "");

    for (bad, field) in [
        ("label=rack", "label"),
        ("label==x", "label"),
        ("label=-a=x", "label"),
        ("state=hunter2", "state"),
        ("state=", "state"),
        ("hunter2=1", "-"),
    ] {
        let reply = get(&server, &format!("/v1/default/nodes?{bad}"));
        assert_eq!(fields(&problems(&reply, 400)), [field], "{bad}");
        assert!(!reply.text().contains("hunter2"), "{}", reply.text());
    }
    let all = get(&server, "/v1/default/nodes?limit=0&cursor=!&state=x&label=x&x=1");
    assert_eq!(problems(&all, 400).len(), 5, "every problem: {}", all.text());
}

/// Every item of a list, page by page, and how many pages there were.
fn pages(server: &TestServer, path: &str, key: &str) -> (Vec<String>, usize) {
    let (mut items, mut count, mut cursor) = (Vec::new(), 0, String::new());
    loop {
        let reply = get(server, &format!("{path}{cursor}"));
        assert_eq!(reply.status, 200, "{}", reply.text());
        let body = reply.json();
        count += 1;
        items.extend(
            body["items"].as_array().unwrap().iter().map(|i| i[key].as_str().unwrap().to_owned()),
        );
        match body["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return (items, count),
        }
    }
}

#[test]
fn cursors_walk_every_page_once() {
    let server = TestServer::start();
    let all: Vec<String> = (0..20).map(|i| format!("n{i:02}")).collect();
    let mut keys = Vec::new();
    for (i, id) in all.iter().enumerate() {
        let parity = if i % 2 == 0 { "even" } else { "odd" };
        server.operator().add(id, json!({"labels": {"parity": parity}}));
        server.clock.advance(1);
        keys.push(server.operator().token(id)["token_key"].as_str().unwrap().to_owned());
    }
    for (limit, expected) in [(1, 20), (3, 7), (7, 3), (19, 2), (20, 1), (21, 1), (1000, 1)] {
        let path = format!("/v1/default/nodes?limit={limit}");
        assert_eq!(pages(&server, &path, "system_id"), (all.clone(), expected), "{limit}");
        let path = format!("/v1/tokens?limit={limit}");
        assert_eq!(pages(&server, &path, "token_key"), (keys.clone(), expected), "{limit}");
    }
    let even: Vec<String> = all.iter().step_by(2).cloned().collect();
    let path = "/v1/default/nodes?limit=4&label=parity=even";
    assert_eq!(pages(&server, path, "system_id"), (even, 3));

    // What comes and goes meanwhile makes no repeats and no gaps among the others.
    let first = get(&server, "/v1/default/nodes?limit=10").json();
    delete(&server, "/v1/default/nodes/n09");
    add(&server, "a-new-one");
    add(&server, "n095");
    let next = first["next"].as_str().unwrap();
    let rest = get(&server, &format!("/v1/default/nodes?cursor={next}")).json();
    let rest = ids(&rest["items"]);
    assert_eq!(rest[..2], ["n095", "n10"]);
    assert_eq!(rest.len(), 11);
}

#[test]
fn no_page_is_longer_than_the_servers_own_limit() {
    let server = TestServer::start_with(Options::default().flag("page", "3"));
    for i in 0..7 {
        server.node(&format!("n{i}"));
    }
    for path in ["/v1/default/nodes", "/v1/tokens"] {
        for (query, rows) in [("", 3), ("?limit=2", 2), ("?limit=4", 3), ("?limit=1000000", 3)] {
            let body = get(&server, &format!("{path}{query}")).json();
            assert_eq!(body["items"].as_array().unwrap().len(), rows, "{path}{query}");
            assert!(body["next"].is_string(), "{path}{query}");
        }
    }
}

#[test]
fn a_limit_is_a_number_from_1_and_a_cursor_is_one_of_the_list() {
    let server = TestServer::start();
    for path in ["/v1/default/nodes", "/v1/tokens"] {
        for limit in ["1", "1000"] {
            assert_eq!(get(&server, &format!("{path}?limit={limit}")).status, 200, "{limit}");
        }
        for limit in ["0", "-1", "", "x", "1.5"] {
            let reply = get(&server, &format!("{path}?limit={limit}"));
            assert_eq!(fields(&problems(&reply, 400)), ["limit"], "{limit}");
        }
        for cursor in ["!", "%ff", "_w", "a=b"] {
            let reply = get(&server, &format!("{path}?cursor={cursor}"));
            assert_eq!(fields(&problems(&reply, 400)), ["cursor"], "{cursor}");
        }
    }
    problems(&get(&server, "/v1/tokens?cursor=bm90IGFuIGlk"), 400);
    problems(&get(&server, "/v1/tokens?x=1"), 400);
}

#[test]
fn tokens_are_listed_in_the_order_they_were_made_ended_ones_too() {
    let server = TestServer::start();
    let node = server.node("n2");
    server.clock.advance(1);
    server.node("n1");
    server.clock.advance(1);
    assert_eq!(delete(&server, "/v1/default/nodes/n2/token").status, 204);
    let newer = server.credentials("n2");
    let body = get(&server, "/v1/tokens").json();
    let told: Vec<(&str, &str, &str)> = body["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| {
            assert_eq!(
                t.as_object().unwrap().keys().collect::<Vec<_>>(),
                ["system_id", "token_key", "state", "created_at", "last_used_at"]
            );
            let text = |name: &str| t[name].as_str().unwrap();
            (text("system_id"), text("state"), text("created_at"))
        })
        .collect();
    assert_eq!(
        told,
        [
            ("n2", "ended", "2027-01-15T08:00:00Z"),
            ("n1", "live", "2027-01-15T08:00:01Z"),
            ("n2", "live", "2027-01-15T08:00:02Z"),
        ]
    );
    for (key, count) in [(&node.token_key, 1), (&newer.token_key, 1), (&"x".repeat(18), 0)] {
        let found = get(&server, &format!("/v1/tokens?token_key={key}")).json();
        assert_eq!(found["items"].as_array().unwrap().len(), count);
        assert_eq!(found["next"], Value::Null);
    }
    problems(&get(&server, "/v1/default/nodes/no/token"), 404);
    assert_eq!(get(&server, "/v1/default/nodes/n1/token").json()["state"], "live");
}

#[test]
fn tokens_in_bulk_come_in_the_order_of_the_ids() {
    let server = TestServer::start();
    let all: Vec<String> = (0..700).map(|i| format!("n{i}")).collect();
    let import: String = all.iter().map(|id| import_line(id, &json!({}))).collect();
    assert_eq!(post_lines(&server, "/v1/default/nodes", import.as_bytes()).status, 200);
    let known = server.operator().token("n5");

    let mut asked: Vec<&str> = all.iter().rev().map(String::as_str).collect();
    asked.push("n5");
    asked.insert(3, "n5");
    let text: String = asked.iter().map(|id| format!("\"{id}\"\n")).collect();
    let reply = post_lines(&server, "/v1/default/tokens", text.as_bytes());
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.header("content-type"), Some("application/x-ndjson"));
    let text = reply.text();
    let told: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let order: Vec<&str> = told.iter().map(|t| t["system_id"].as_str().unwrap()).collect();
    assert_eq!(order, asked);
    assert!(told.iter().filter(|t| t["system_id"] == "n5").all(|t| *t == known));
    assert_eq!(rows::count(&server.database, "tokens"), 700);
    let again = post_lines(&server, "/v1/default/tokens", text_of(&asked).as_bytes());
    assert_eq!(again.text(), reply.text(), "the same again");

    assert_eq!(post_lines(&server, "/v1/default/tokens", b"").brief(), (200, String::new()));
}

fn text_of(ids: &[&str]) -> String {
    ids.iter().map(|id| format!("\"{id}\"\n")).collect()
}

#[test]
fn tokens_in_bulk_name_every_line_that_is_wrong() {
    let server = TestServer::start();
    server.project("alpha");
    add(&server, "n1");
    let elsewhere = json!({"system_id": "else", "hostname": "h"});
    send(&server, "POST", "/v1/alpha/nodes", &elsewhere);
    let refused = |lines: &[u8]| {
        let reply = post_lines(&server, "/v1/default/tokens", lines);
        assert!(!reply.text().contains("hunter2"), "{}", reply.text());
        self::lines(&problems(&reply, 400))
    };
    assert_eq!(refused(b"\"n1\"\n\"hunter2\"\n\"n1\"\n\"else\"\n"), [2, 4]);
    assert_eq!(refused(b"\"n1\"\n7\nnull\n{\"hunter2\": 1}\n"), [2, 3, 4]);
    assert_eq!(refused(b"\"n1\"\nhunter2\n"), [2]);
    assert_eq!(refused(b"\"n1\"\n\n\n\"hunter2\"\n"), [4], "blank lines count");
}

#[test]
fn a_cull_says_what_is_wrong_with_its_rule() {
    let server = TestServer::start();
    for (body, named) in [
        (json!({}), vec!["-"]),
        (json!({"dry_run": true}), vec!["-"]),
        (json!({"idle_for": "hunter2"}), vec!["idle_for"]),
        (json!({"idle_for": 90, "unused_for": "7"}), vec!["unused_for", "idle_for"]),
        (json!({"idle_for": "1d", "max": "101%"}), vec!["max"]),
        (json!({"idle_for": "1d", "max": 5}), vec!["max"]),
        (json!({"idle_for": "1d", "force": "true", "dry_run": 1}), vec!["dry_run", "force"]),
        (json!({"idle_for": "1d", "hunter2": true}), vec!["-"]),
    ] {
        let reply = send(&server, "POST", "/v1/tokens/cull", &body);
        assert_eq!(fields(&problems(&reply, 400)), named, "{body}");
        assert!(!reply.text().contains("hunter2"), "{}", reply.text());
    }
    let nothing = send(&server, "POST", "/v1/tokens/cull", &json!({"idle_for": "1d"}));
    assert_eq!(nothing.json(), json!({"dry_run": false, "tokens": []}));
}

#[test]
fn a_preseed_is_text_with_the_nodes_credentials() {
    let server = TestServer::start();
    add(&server, "n1");
    let preseed = |body: Value| send(&server, "POST", "/v1/default/nodes/n1/preseed", &body);
    for format in ["cloud-config", "cloud-cfg-d", "curl"] {
        let reply = preseed(json!({"format": format}));
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert_eq!(reply.header("content-type"), Some("text/plain; charset=utf-8"));
        let token = server.operator().token("n1");
        for name in ["consumer_key", "token_key", "token_secret", "metadata_url"] {
            assert!(reply.text().contains(token[name].as_str().unwrap()), "{format}: {name}");
        }
    }
    assert!(preseed(json!({"format": "cloud-config"})).body.starts_with(b"#cloud-config\n"));
    assert_eq!(rows::count(&server.database, "tokens"), 1, "it makes one token and keeps it");
    for bad in [json!({}), json!({"format": "hunter2"}), json!({"format": "curl", "hunter2": 1})] {
        let reply = preseed(bad);
        assert_eq!(problems(&reply, 400).len(), 1);
        assert!(!reply.text().contains("hunter2"), "{}", reply.text());
    }
}

#[test]
fn on_a_wildcard_listener_a_preseed_needs_a_metadata_url() {
    let wildcard = Options::default().flag("listen", "0.0.0.0:0");
    let server = TestServer::start_with(wildcard);
    add(&server, "n1");
    let curl = json!({"format": "curl"});
    let reply = send(&server, "POST", "/v1/default/nodes/n1/preseed", &curl);
    problems(&reply, 409);
    assert!(reply.text().contains("--metadata-url"), "{}", reply.text());
    assert_eq!(rows::count(&server.database, "tokens"), 0, "and no token is made for it");
    assert_eq!(server.operator().token("n1")["metadata_url"], Value::Null);
    problems(&send(&server, "POST", "/v1/default/nodes/no/preseed", &curl), 404);
    drop(server);

    let url = "http://boot.example.com:8080/MAAS/metadata/";
    let named = Options::default().flag("listen", "0.0.0.0:0").flag("metadata-url", url);
    let server = TestServer::start_with(named);
    add(&server, "n1");
    let reply = send(&server, "POST", "/v1/default/nodes/n1/preseed", &curl);
    assert_eq!(reply.status, 200);
    assert!(reply.text().contains(url), "{}", reply.text());
    assert_eq!(server.operator().token("n1")["metadata_url"], url);
}

#[test]
fn over_tcp_a_stranger_may_observe_and_nothing_else() {
    let server = TestServer::start();
    let node = server.node("n1");
    let observer = server.observer();
    for (path, key, value) in [
        ("/healthz", "status", "ok"),
        ("/readyz", "status", "ready"),
        ("/version", "version", env!("CARGO_PKG_VERSION")),
    ] {
        let reply = observer.get(path);
        assert_eq!((reply.status, &reply.json()[key]), (200, &json!(value)), "{path}");
        assert_eq!(observer.send("HEAD", path, &[], b"").status, 200);
        assert_eq!(observer.send("POST", path, &[], b"").status, 405);
        assert_eq!(get(&server, path).json(), reply.json(), "the socket says the same");
    }
    let header = node.header();
    let tries = [
        vec![JSON],
        vec![JSON, ("X-Auth-Token", "nit_x")],
        vec![JSON, ("Authorization", &header)],
        vec![JSON, ("Cookie", "session=x"), ("X-Forwarded-For", "127.0.0.1")],
        vec![
            JSON,
            ("X-User-Id", "admin"),
            ("X-Roles", "admin"),
            ("X-Identity-Status", "Confirmed"),
        ],
    ];
    let mut bodies = BTreeSet::new();
    for (path, method, body) in every_route() {
        if path == "/v1/openapi.json" {
            continue; // for anybody
        }
        let at = path.replace("{project}", "default").replace("{system_id}", "n1");
        for headers in &tries {
            let body = body.as_ref().map(Value::to_string).unwrap_or_default();
            let mut headers = headers.clone();
            if path.ends_with("/tokens") && method == "POST" {
                headers.retain(|header| *header != JSON);
                headers.push(("content-type", "application/x-ndjson"));
            }
            let reply = observer.send(method, &at, &headers, body.as_bytes());
            problems(&reply, 401);
            assert!(reply.header("www-authenticate").is_some());
            bodies.insert(reply.text());
        }
    }
    for path in ["/", "/v1", "/nothing", "/MAAS/metadata/", "//healthz"] {
        problems(&observer.get(path), 404);
    }
    assert_eq!(bodies.len(), 1, "one answer for all");
    assert_eq!(rows::count(&server.database, "nodes"), 1);
    assert_eq!(node.get("/latest/meta-data/instance-id").status, 200);
}

#[test]
fn empty_user_data_is_user_data() {
    let server = TestServer::start();
    let node = server.node("n1");
    assert_eq!(node.get("/latest/").text(), "meta-data");
    let made = put(&server, "/v1/default/nodes/n1/user-data", None, b"");
    assert_eq!((made.status, &made.json()["size"]), (201, &json!(0)));
    let read = get(&server, "/v1/default/nodes/n1/user-data");
    assert_eq!((read.status, read.body.len()), (200, 0));
    assert_eq!(node.get("/latest/").text(), "meta-data\nuser-data");
    assert_eq!(node.get("/latest/user-data").brief(), (200, String::new()));
}

#[test]
fn any_bytes_put_as_user_data_come_back_byte_for_byte_from_both_planes() {
    let server = TestServer::start_with(Options::default().flag("node-burst", "100000"));
    let node = server.node("n1");
    let there_and_back = |bytes: &[u8]| -> Result<(), TestCaseError> {
        let path = "/v1/default/nodes/n1/user-data";
        let tag = get(&server, path).header("etag").map(str::to_owned);
        let condition = tag.as_deref().map(|tag| ("if-match", tag));
        let reply = put(&server, path, condition, bytes);
        prop_assert!(matches!(reply.status, 200 | 201), "{}", reply.text());
        prop_assert_eq!(&reply.json()["size"], &json!(bytes.len()));
        prop_assert_eq!(&get(&server, path).body[..], bytes);
        let read = node.get("/latest/user-data");
        prop_assert_eq!(read.status, 200);
        prop_assert_eq!(read.header("content-type"), Some("application/octet-stream"));
        prop_assert_eq!(&read.body[..], bytes);
        Ok(())
    };
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 48,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let any = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..2000),
        "\\PC{0,200}".prop_map(String::into_bytes),
        "(#!|#cloud-config\n|\u{feff}|)[a-z:\\- \r\n\t]{0,80}".prop_map(String::into_bytes),
    ];
    runner.run(&any, |bytes| there_and_back(&bytes)).unwrap();
    for length in [1_usize, 65_535, 65_536, 65_537, 1 << 20, (5 << 20) + 3] {
        let mut state = u32::try_from(length).unwrap();
        let bytes: Vec<u8> = (0..length)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                state.to_be_bytes()[0]
            })
            .collect();
        there_and_back(&bytes).unwrap();
    }
    there_and_back(&(0..=255).collect::<Vec<u8>>()).unwrap();
}

#[test]
fn bytes_that_nodes_share_come_and_go_under_them_without_trouble() {
    let server = TestServer::start();
    std::thread::scope(|scope| {
        for worker in 0..6 {
            let server = &server;
            scope.spawn(move || {
                for round in 0..12 {
                    let id = format!("n{worker}-{round}");
                    add(server, &id);
                    let path = format!("/v1/default/nodes/{id}/user-data");
                    let reply = put(server, &path, None, b"#!/bin/sh\necho shared\n");
                    assert_eq!(reply.status, 201, "{}", reply.text());
                    assert_eq!(get(server, &path).body, b"#!/bin/sh\necho shared\n");
                    let gone = socket::send(
                        &server.socket,
                        "DELETE",
                        &format!("/v1/default/nodes/{id}"),
                        &[],
                        b"",
                    );
                    assert_eq!(gone.status, 204, "{}", gone.text());
                }
            });
        }
    });
    assert_eq!(rows::count(&server.database, "blobs"), 0);
}

#[test]
fn imports_of_the_same_nodes_in_any_order_wait_for_each_other() {
    let server = TestServer::start();
    let line =
        |i: &usize| format!("{{\"system_id\":\"n{i}\",\"hostname\":\"n{i}.example.com\"}}\n");
    let forwards: String = (0..60).collect::<Vec<_>>().iter().map(line).collect();
    let backwards: String = (0..60).rev().collect::<Vec<_>>().iter().map(line).collect();
    let created: u64 = std::thread::scope(|scope| {
        let imports: Vec<_> = (0..8)
            .map(|i| if i % 2 == 0 { &forwards } else { &backwards })
            .map(|text| {
                let server = &server;
                scope.spawn(move || {
                    let reply = post_lines(server, "/v1/default/nodes", text.as_bytes());
                    assert_eq!(reply.status, 200, "{}", reply.text());
                    counts(&reply).0
                })
            })
            .collect();
        imports.into_iter().map(|import| import.join().unwrap()).sum()
    });
    assert_eq!(created, 60);
}

#[test]
fn a_line_without_a_system_id_is_known_again_by_its_hostname() {
    let server = TestServer::start();
    let line = b"{\"hostname\": \"Web.example.com\"}\n";
    assert_eq!(counts(&post_lines(&server, "/v1/default/nodes", line)), (1, 0));
    assert_eq!(counts(&post_lines(&server, "/v1/default/nodes", line)), (0, 1));
}
