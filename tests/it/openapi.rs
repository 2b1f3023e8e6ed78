//! The OpenAPI page says what there is: its operations are the routes, its bodies what handlers
//! know, its answers what is answered.

use std::collections::{BTreeMap, BTreeSet};

use nodeinit::http::operator_routes;
use serde_json::{Value, json};

use crate::support::{Reply, TestServer, socket};

fn page(server: &TestServer) -> Value {
    let reply = server.observer().get("/v1/openapi.json");
    assert_eq!(reply.status, 200, "nobody needs a token for it");
    assert_eq!(reply.header("content-type"), Some("application/json"));
    reply.json()
}

/// What the page says of an operation.
fn operation<'p>(page: &'p Value, method: &str, route: &str) -> &'p Value {
    let found = &page["paths"][route][method.to_ascii_lowercase()];
    assert!(found.is_object(), "{method} {route} is not on the page");
    found
}

const NODES: &str = "/v1/{project}/nodes";
const NODE: &str = "/v1/{project}/nodes/{system_id}";

/// A schema of the page that stands alone, its definitions with it.
fn validator(page: &Value, schema: &Value) -> jsonschema::Validator {
    let mut whole =
        json!({"$schema": "https://json-schema.org/draft/2020-12/schema", "allOf": [schema]});
    whole["components"] = page["components"].clone();
    jsonschema::validator_for(&whole).unwrap()
}

#[test]
fn its_operations_are_the_routes_of_v1_with_their_actions() {
    let server = TestServer::start();
    let page = page(&server);
    let mut routes = BTreeMap::new();
    for (path, operations) in operator_routes() {
        for operation in operations.iter().filter(|_| path.starts_with("/v1/")) {
            let action = operation.action.map(|action| action.name().to_owned());
            routes.insert((path.to_owned(), operation.method.to_ascii_lowercase()), action);
        }
    }
    let mut shown = BTreeMap::new();
    let mut ids = BTreeSet::new();
    for (path, methods) in page["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let action = operation["x-policy-action"].as_str().map(str::to_owned);
            shown.insert((path.clone(), method.clone()), action);
            assert!(ids.insert(operation["operationId"].as_str().unwrap().to_owned()));
            let answers = operation["responses"].as_object().unwrap();
            assert!(answers.keys().any(|status| status.starts_with('2')), "{method} {path}");
            let named: BTreeSet<&str> = operation["parameters"]
                .as_array()
                .unwrap()
                .iter()
                .filter(|parameter| parameter["in"] == "path")
                .map(|parameter| parameter["name"].as_str().unwrap())
                .collect();
            let in_path = path.split('{').skip(1).map(|part| part.split('}').next().unwrap());
            assert_eq!(named, in_path.collect(), "{method} {path}");
        }
    }
    assert_eq!(shown, routes);
}

/// Every `$ref` in a value.
fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                match (name.as_str(), value) {
                    ("$ref", Value::String(to)) => drop(found.insert(to.clone())),
                    _ => references(value, found),
                }
            }
        }
        Value::Array(list) => list.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

#[test]
fn it_stands_by_itself_and_every_reference_leads_somewhere() {
    let server = TestServer::start();
    let page = page(&server);
    assert_eq!(page["openapi"], "3.1.0");
    let mut found = BTreeSet::new();
    references(&page, &mut found);
    assert!(found.len() > 5);
    for reference in found {
        let pointer = reference.strip_prefix('#').expect("all of it is on this page");
        assert!(page.pointer(pointer).is_some(), "{reference}");
    }
}

/// The fields that a handler names when it is sent one that it does not know.
fn known(reply: &Reply) -> Option<BTreeSet<String>> {
    let errors = reply.json()["errors"].as_array().cloned().unwrap_or_default();
    errors.iter().find_map(|error| {
        let message = error["message"].as_str()?;
        let names = message.strip_prefix("there is a field that is not known; known are ")?;
        Some(names.split(", ").map(str::to_owned).collect())
    })
}

#[test]
fn the_bodies_it_shows_have_the_fields_that_handlers_know_and_no_others() {
    let server = TestServer::start();
    server.node("n1");
    let page = page(&server);
    let mut checked = 0;
    for (path, operations) in operator_routes() {
        for method in operations.iter().map(|operation| operation.method) {
            if !path.starts_with("/v1/") {
                continue;
            }
            let shown = operation(&page, method, path);
            for (media_type, content) in
                shown["requestBody"]["content"].as_object().into_iter().flatten()
            {
                let schema = resolved(&page, &content["schema"]);
                let Some(properties) = schema["properties"].as_object() else { continue };
                let at = path.replace("{project}", "default").replace("{system_id}", "n1");
                let body = "{\"no such field\": 1}\n";
                let headers = [("content-type", media_type.as_str())];
                let reply = socket::send(&server.socket, method, &at, &headers, body.as_bytes());
                assert_eq!(reply.status, 400, "{method} {path}: {}", reply.text());
                let properties: BTreeSet<String> = properties.keys().cloned().collect();
                assert_eq!(
                    known(&reply).as_ref(),
                    Some(&properties),
                    "{method} {path} {media_type}"
                );
                checked += 1;
            }
        }
    }
    assert!(checked >= 6, "{checked}");
}

fn resolved<'p>(page: &'p Value, schema: &'p Value) -> &'p Value {
    match schema["$ref"].as_str() {
        Some(reference) => page.pointer(reference.strip_prefix('#').unwrap()).unwrap(),
        None => schema,
    }
}

#[test]
fn what_is_answered_has_the_shape_it_shows() {
    let server = TestServer::start();
    server.node("n1");
    let page = page(&server);
    let json = "application/json";
    let below = |path: &str| format!("{NODE}{path}");
    let cases: Vec<(&str, String, &str, &str)> = vec![
        ("GET", NODES.into(), json, ""),
        (
            "POST",
            NODES.into(),
            json,
            r#"{"hostname": "a", "labels": {"rack": "7"}, "macs": ["52:54:00:00:00:01"]}"#,
        ),
        (
            "POST",
            NODES.into(),
            "application/x-ndjson",
            "{\"hostname\": \"b\", \"user_data\": \"eA==\"}\n",
        ),
        ("GET", NODE.into(), json, ""),
        ("PATCH", NODE.into(), json, r#"{"netboot": false}"#),
        ("PUT", below("/user-data"), "application/octet-stream", "nothing known"),
        ("GET", below("/user-data/versions"), json, ""),
        ("PUT", below("/vendor-data"), "application/octet-stream", "#cloud-config\n{}\n"),
        ("GET", below("/vendor-data/versions"), json, ""),
        ("POST", below("/token"), json, ""),
        ("GET", below("/token"), json, ""),
        ("POST", below("/token/reissue"), json, r#"{"retire_after": "1h"}"#),
        ("POST", below("/claims"), json, r#"{"ttl": "1m", "from": "10.0.0.0/8"}"#),
        ("POST", below("/reprovision"), json, ""),
        ("POST", "/v1/{project}/tokens".into(), "application/x-ndjson", "\"n1\"\n"),
        ("GET", "/v1/tokens".into(), json, ""),
        ("POST", "/v1/tokens/cull".into(), json, r#"{"unused_for": "0s", "dry_run": true}"#),
        ("GET", "/v1/whoami".into(), json, ""),
        ("GET", "/v1/audit".into(), json, ""),
        ("GET", "/v1/audit/verify".into(), json, ""),
        ("GET", "/v1/policy".into(), json, ""),
        (
            "POST",
            "/v1/policy/explain".into(),
            json,
            r#"{"action": "node:show", "user": "node-init", "node": "n1"}"#,
        ),
        ("POST", "/v1/bootstrap".into(), json, r#"{"name": "root", "password": "correct horse"}"#),
        ("GET", below("/nothing-like-it"), json, ""),
    ];
    for (method, route, kind, body) in cases {
        let at = route.replace("{project}", "default").replace("{system_id}", "n1");
        let reply =
            socket::send(&server.socket, method, &at, &[("content-type", kind)], body.as_bytes());
        if route.ends_with("/nothing-like-it") {
            let refusal = &page["components"]["responses"]["Refusal"]["content"];
            let schema = validator(&page, &refusal["application/problem+json"]["schema"]);
            assert!(schema.is_valid(&reply.json()), "{}", reply.text());
            continue;
        }
        let shown = &operation(&page, method, &route)["responses"][reply.status.to_string()];
        assert!(shown.is_object(), "{method} {route} answers {}", reply.status);
        let (kind, content) = shown["content"].as_object().unwrap().iter().next().unwrap();
        assert!(
            reply.header("content-type").unwrap().starts_with(kind.as_str()),
            "{method} {route}"
        );
        let schema = validator(&page, &content["schema"]);
        let text = reply.text();
        for line in
            if kind == "application/x-ndjson" { text.lines().collect() } else { vec![&*text] }
        {
            let value: Value = serde_json::from_str(line).unwrap();
            let wrong: Vec<String> = schema.iter_errors(&value).map(|e| e.to_string()).collect();
            assert_eq!(wrong, Vec::<String>::new(), "{method} {route}: {line}");
        }
    }
}
