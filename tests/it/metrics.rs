//! `/metrics`: what is counted, under which names, and that none of it names a node.

use serde_json::json;

use crate::support::{Method, TestServer};

/// A line of the text format: its value, by name and labels.
#[track_caller]
fn value(text: &str, series: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {series} in\n{text}")).parse().unwrap()
}

fn metrics(server: &TestServer) -> String {
    let reply = server.observer().get("/metrics");
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    reply.text()
}

const EVENT: &[u8] = br#"{"name": "modules-final", "description": "", "event_type": "start",
                         "origin": "cloudinit", "timestamp": 1795706620.5}"#;

#[test]
fn requests_signatures_and_events_are_counted() {
    let server = TestServer::start();
    let node = server.node("n1");
    for _ in 0..3 {
        assert_eq!(node.get("/2012-03-01/meta-data/instance-id").status, 200);
    }
    let authorization = node.header();
    let post =
        || node.send("POST", "/status/n1", &[("Authorization", &authorization)], EVENT).status;
    assert_eq!(post(), 204);
    assert_eq!(server.stranger().get("/MAAS/metadata/").status, 401);
    let mut liar = node.clone();
    liar.token_secret = "x".repeat(32);
    assert_eq!(liar.get("/").status, 401);
    assert_eq!(server.stranger().get("/nowhere/n1").status, 404);
    assert_eq!(server.observer().send("BREW", "/nowhere/n1", &[], b"").status, 404);

    let text = metrics(&server);
    let requests = |plane: &str, route: &str, method: &str, code: &str| {
        let labels =
            format!("code=\"{code}\",method=\"{method}\",plane=\"{plane}\",route=\"{route}\"");
        value(&text, &format!("nodeinit_http_requests_total{{{labels}}}"))
    };
    let item = "/MAAS/metadata/{version}/meta-data/{item}";
    assert_eq!(requests("node", item, "GET", "200"), 3);
    assert_eq!(requests("node", "/MAAS/metadata/status/{system_id}", "POST", "204"), 1);
    assert_eq!(requests("node", "/MAAS/metadata/", "GET", "401"), 2);
    assert_eq!(requests("node", "unmatched", "GET", "404"), 1);
    assert_eq!(requests("operator", "unmatched", "other", "404"), 1);
    assert_eq!(requests("operator", "/v1/{project}/nodes", "POST", "201"), 1);
    let took =
        format!("nodeinit_http_request_duration_seconds_count{{plane=\"node\",route=\"{item}\"}}");
    assert_eq!(value(&text, &took), 3);
    for (result, count) in [("ok", 4), ("no_header", 1), ("wrong_signature", 1)] {
        assert_eq!(value(&text, &format!("nodeinit_auth_total{{result=\"{result}\"}}")), count);
    }
    assert_eq!(value(&text, "nodeinit_events_total{type=\"start\"}"), 1);
    assert_eq!(value(&text, "nodeinit_clock_skew_seconds_count"), 1);
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(value(&text, &format!("nodeinit_build_info{{version=\"{version}\"}}")), 1);
    assert_eq!(value(&text, "nodeinit_db_errors_total"), 0);
    let idle = value(&text, "nodeinit_db_pool_connections{state=\"idle\"}");
    let busy = value(&text, "nodeinit_db_pool_connections{state=\"busy\"}");
    assert!(idle + busy >= 1 && busy < 8, "{idle} idle, {busy} busy");
    for word in ["n1", &node.token_key, &node.consumer_key, "example.com"] {
        assert!(!text.contains(word), "{word}");
    }
    for (method, status, is_empty) in [("HEAD", 200, true), ("POST", 405, false)] {
        let reply = server.observer().send(method, "/metrics", &[], b"");
        assert_eq!((reply.status, reply.body.is_empty()), (status, is_empty), "{method}");
    }
}

#[test]
fn tokens_and_nodes_are_counted_by_state_and_tokens_by_what_became_of_them() {
    let server = TestServer::start();
    let operator = server.operator();
    let nodes: Vec<_> = ["n1", "n2", "n3"].map(|id| server.node(id)).into();
    operator.add("n4", json!({}));
    assert_eq!(nodes[0].get("/2012-03-01/meta-data/instance-id").status, 200);
    let header = nodes[0].header();
    let posted = nodes[0].send("POST", "/status/n1", &[("Authorization", &header)], EVENT);
    assert_eq!(posted.status, 204);
    let change = |method, path: &str| {
        let reply = operator.send(method, path, &[("Content-Type", "application/json")], b"{}");
        assert!((200..300).contains(&reply.status), "{path}: {}", reply.text());
    };
    change(Method::POST, "/v1/default/nodes/n2/token/reissue");
    change(Method::DELETE, "/v1/default/nodes/n3/token");
    // Refused, so not made: what a transaction did that was not committed does not count.
    let none = operator.send(Method::POST, "/v1/default/nodes/none/token", &[], b"");
    assert_eq!(none.status, 404);

    let text = metrics(&server);
    for (state, count) in [("live", 2), ("retiring", 1), ("ended", 1)] {
        assert_eq!(
            value(&text, &format!("nodeinit_tokens{{state=\"{state}\"}}")),
            count,
            "{state}"
        );
    }
    for (state, count) in [
        ("new", 2),
        ("issued", 1),
        ("claimed", 0),
        ("contacted", 0),
        ("booting", 1),
        ("ready", 0),
        ("failed", 0),
    ] {
        assert_eq!(value(&text, &format!("nodeinit_nodes{{state=\"{state}\"}}")), count, "{state}");
    }
    for (change, count) in [("made", 4), ("superseded", 1), ("revoke", 1), ("cull", 0)] {
        let series = format!("nodeinit_token_changes_total{{change=\"{change}\"}}");
        assert_eq!(value(&text, &series), count, "{change}");
    }
}

#[test]
fn statements_are_counted_by_whom_they_run_for() {
    let server = TestServer::start();
    let node = server.node("n1");
    let statements = |behalf: &str, kind: &str| {
        let series = format!("nodeinit_db_statements_total{{for=\"{behalf}\",kind=\"{kind}\"}}");
        value(&metrics(&server), &series)
    };
    assert_eq!(statements("node_read", "read"), 0);
    assert!(statements("other", "write") > 0, "a node was added");
    assert_eq!(node.get("/2012-03-01/user-data").status, 200);
    // The first read of a token has to ask somebody.
    assert!(statements("node_read", "read") >= 1);
    assert_eq!(statements("node_read", "write"), 0, "no read waits for a write");
    let before = statements("node_read", "read");
    let header = node.header();
    let posted = node.send("POST", "/status/n1", &[("Authorization", &header)], EVENT);
    assert_eq!(posted.status, 204);
    assert_eq!(statements("node_read", "read"), before, "an event is no read");
}
