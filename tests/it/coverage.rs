//! Every route × whoever must not use it. A route that is added without a case here fails.

use std::collections::BTreeSet;

use nodeinit::domain::metadata::MetadataKey;
use nodeinit::http::node::route::{Path, Target, parse};
use nodeinit::http::operator_routes;

use crate::support::plane::{READS, assert_refused};
use crate::support::realm::{Caller, Person, Realm, refused};
use crate::support::{Method, Node, Options, TestServer, wire};

/// One route of the operator plane, with a request that it answers.
#[derive(Clone, Copy)]
pub struct Case {
    pub method: &'static str,
    pub route: &'static str,
    pub content_type: &'static str,
    pub body: &'static str,
    /// What the admin on the socket gets for it.
    pub answer: u16,
}

const fn case(method: &'static str, route: &'static str, body: &'static str, answer: u16) -> Case {
    Case { method, route, content_type: "application/json", body, answer }
}

const NODES: &str = "/v1/{project}/nodes";
const NODE: &str = "/v1/{project}/nodes/{system_id}";
const USER_DATA: &str = "/v1/{project}/nodes/{system_id}/user-data";
const USER_DATA_VERSIONS: &str = "/v1/{project}/nodes/{system_id}/user-data/versions";
const VENDOR_DATA: &str = "/v1/{project}/nodes/{system_id}/vendor-data";
const VENDOR_DATA_VERSIONS: &str = "/v1/{project}/nodes/{system_id}/vendor-data/versions";
const TOKEN: &str = "/v1/{project}/nodes/{system_id}/token";
const PRESEED: &str = "/v1/{project}/nodes/{system_id}/preseed";
const REISSUE: &str = "/v1/{project}/nodes/{system_id}/token/reissue";
const CLAIMS: &str = "/v1/{project}/nodes/{system_id}/claims";
const REPROVISION: &str = "/v1/{project}/nodes/{system_id}/reprovision";
const EVENTS: &str = "/v1/{project}/nodes/{system_id}/events";
const EVENT_FILE: &str = "/v1/{project}/nodes/{system_id}/events/{event}/files/{ordinal}";
const TIMELINE: &str = "/v1/{project}/nodes/{system_id}/timeline";
const EXPLAIN: &str = "/v1/{project}/nodes/{system_id}/explain";
const TOKENS: &str = "/v1/{project}/tokens";
const USERS: &str = "/v2.0/users";
const USER: &str = "/v2.0/users/{user}";
const PASSWORD: &str = "/v2.0/users/{user}/OS-KSADM/password";
const PROJECTS: &str = "/v2.0/tenants";
const PROJECT: &str = "/v2.0/tenants/{tenant}";
const ROLES: &str = "/v2.0/tenants/{tenant}/users/{user}/roles";
const ROLE: &str = "/v2.0/tenants/{tenant}/users/{user}/roles/OS-KSADM/{role}";
const LOGIN: &str = r#"{"auth": {"passwordCredentials": {"username": "victim", "password": "password of victim"}}}"#;

/// In an order in which the admin can send them one after another.
pub const CASES: &[Case] = &[
    case("GET", NODES, "", 200),
    case("POST", NODES, r#"{"hostname": "added.example.com"}"#, 201),
    case("GET", NODE, "", 200),
    case("PATCH", NODE, r#"{"netboot": false}"#, 200),
    case("PUT", USER_DATA, "#!/bin/sh\n", 201),
    case("GET", USER_DATA, "", 200),
    case("GET", USER_DATA_VERSIONS, "", 200),
    case("DELETE", USER_DATA, "", 204),
    case("PUT", VENDOR_DATA, "#cloud-config\nbootcmd: [true]\n", 201),
    case("GET", VENDOR_DATA, "", 200),
    case("GET", VENDOR_DATA_VERSIONS, "", 200),
    case("DELETE", VENDOR_DATA, "", 204),
    case("GET", EVENTS, "", 200),
    case("GET", EVENT_FILE, "", 404),
    case("GET", "/v1/events", "", 200),
    case("GET", TIMELINE, "", 200),
    case("GET", EXPLAIN, "", 200),
    case("GET", "/v1/stuck", "", 200),
    case("POST", TOKEN, "", 200),
    case("GET", TOKEN, "", 200),
    Case { content_type: "application/x-ndjson", ..case("POST", TOKENS, "\"n1\"\n", 200) },
    case("POST", REISSUE, "", 200),
    case("POST", PRESEED, r#"{"format": "cloud-config"}"#, 200),
    case("POST", CLAIMS, r#"{"ttl": "5m"}"#, 201),
    case("POST", REPROVISION, "", 200),
    case("GET", "/v1/tokens", "", 200),
    case("POST", "/v1/tokens/cull", r#"{"unused_for": "1d"}"#, 200),
    case("GET", "/v1/audit", "", 200),
    case("GET", "/v1/audit/verify", "", 200),
    case("GET", "/v1/policy", "", 200),
    case("POST", "/v1/policy/explain", r#"{"action": "node:list", "user": "node-init"}"#, 200),
    case("DELETE", TOKEN, "", 204),
    case("DELETE", NODE, "", 204),
    case("GET", "/v1/openapi.json", "", 200),
    case("GET", "/v1/whoami", "", 200),
    case("POST", "/v2.0/tokens", LOGIN, 200),
    case("GET", "/v2.0/tokens/{token}", "", 200),
    case("DELETE", "/v2.0/tokens/{token}", "", 204),
    case("GET", USERS, "", 200),
    case("POST", USERS, r#"{"user": {"name": "added"}}"#, 200),
    case("GET", USER, "", 200),
    case("PUT", USER, r#"{"user": {"email": "e@example.com"}}"#, 200),
    case("PUT", PASSWORD, r#"{"user": {"password": "another password"}}"#, 200),
    case("GET", PROJECTS, "", 200),
    case("POST", PROJECTS, r#"{"tenant": {"name": "added"}}"#, 200),
    case("GET", PROJECT, "", 200),
    case("POST", PROJECT, r#"{"tenant": {"description": "changed"}}"#, 200),
    case("GET", ROLES, "", 200),
    case("PUT", ROLE, "", 204),
    case("DELETE", ROLE, "", 204),
    case("DELETE", USER, "", 204),
    case("DELETE", PROJECT, "", 204),
    case("POST", "/v1/bootstrap", r#"{"name": "chief", "password": "password of chief"}"#, 201),
];

/// Routes that ask for no token. This list may shrink.
pub const ANONYMOUS: [(&str, &str); 2] = [("GET", "/v1/openapi.json"), ("POST", "/v2.0/tokens")];

impl Case {
    pub fn is_anonymous(&self) -> bool {
        ANONYMOUS.contains(&(self.method, self.route))
    }
}

/// A server with all that the paths of the cases name.
pub struct Scene {
    pub realm: Realm,
    pub node: Node,
    victim: Person,
}

impl Scene {
    pub fn start() -> Scene {
        Scene::start_with(Options::default())
    }

    pub fn start_with(options: Options) -> Scene {
        let realm = Realm::start_with(options);
        let node = realm.server.node("n1");
        let victim = realm.admin.person("victim", "reader", &realm.t1);
        Scene { realm, node, victim }
    }

    pub fn path(&self, case: &Case) -> String {
        [
            ("{project}", "default"),
            ("{system_id}", "n1"),
            ("{tenant}", &self.realm.t2),
            ("{user}", &self.victim.id),
            ("{token}", self.victim.token()),
            ("{role}", "service"),
        ]
        .iter()
        .fold(case.route.to_owned(), |path, (name, value)| path.replace(name, value))
    }

    /// Sends a case with a token, and other headers beside it.
    pub fn send(&self, case: &Case, caller: &Caller, more: &[(&str, &str)]) -> wire::Reply {
        let mut headers = vec![("Content-Type", case.content_type)];
        headers.extend_from_slice(more);
        caller.send(case.method, &self.path(case), &headers, case.body.as_bytes())
    }
}

/// Every request that would change or show something, by everybody who may not send it.
fn intruders(node: &Node) -> Vec<Vec<(&'static str, String)>> {
    vec![
        vec![],
        vec![("X-Auth-Token", "nit_wrong".into())],
        vec![("X-Auth-Token", String::new())],
        vec![("X-Auth-Token", node.token_secret.clone())],
        vec![("X-Service-Token", "nit_wrong".into())],
        vec![("Authorization", node.header())],
        vec![("Authorization", "Basic YWRtaW46YWRtaW4=".into())],
        vec![("Cookie", "session=nit_wrong".into())],
        vec![("X-Roles", "admin".into()), ("X-User-Id", "1".into()), ("X-Project-Id", "1".into())],
        vec![("X-Identity-Status", "Confirmed".into()), ("X-Forwarded-For", "127.0.0.1".into())],
    ]
}

fn send(
    address: std::net::SocketAddr,
    case: &Case,
    path: &str,
    who: &[(&'static str, String)],
) -> wire::Reply {
    let mut headers = vec![("Content-Type", case.content_type)];
    headers.extend(who.iter().map(|(name, value)| (*name, value.as_str())));
    wire::send(address, case.method, path, &headers, case.body.as_bytes())
}

/// All that the intruders could have changed or be after.
fn state(scene: &Scene) -> Vec<serde_json::Value> {
    let paths = [
        "/v1/default/nodes",
        "/v1/tokens",
        "/v1/default/nodes/n1/user-data/versions",
        "/v2.0/users",
        "/v2.0/tenants",
    ];
    let session = scene.realm.server.operator().session;
    paths.map(|path| session.get(path).unwrap()).to_vec()
}

#[test]
fn every_route_of_the_operator_plane_has_a_case() {
    let routes: BTreeSet<(&str, &str)> = operator_routes()
        .iter()
        .flat_map(|(path, methods)| methods.iter().map(move |operation| (*path, operation.method)))
        .collect();
    let cases: BTreeSet<(&str, &str)> =
        CASES.iter().map(|case| (case.route, case.method)).collect();
    assert_eq!(routes, cases);
    assert_eq!(cases.len(), CASES.len());
}

#[test]
fn the_admin_on_the_socket_is_answered_on_every_route() {
    let scene = Scene::start();
    let operator = scene.realm.server.operator();
    for case in CASES {
        let headers = [("Content-Type", case.content_type)];
        let method = Method::from_bytes(case.method.as_bytes()).unwrap();
        let reply = operator.send(method, &scene.path(case), &headers, case.body.as_bytes());
        assert_eq!(reply.status, case.answer, "{} {}", case.method, case.route);
    }
}

#[test]
fn over_tcp_nobody_without_a_token_is_answered_on_the_operator_plane() {
    let scene = Scene::start();
    let server = &scene.realm.server;
    let before = state(&scene);
    for case in CASES.iter().filter(|case| !case.is_anonymous()) {
        for who in intruders(&scene.node) {
            let reply = send(server.admin, case, &scene.path(case), &who);
            let asked = format!("{} {} as {who:?}", case.method, case.route);
            assert_eq!(reply.status, 401, "{asked}: {}", reply.text());
            assert!(reply.header("www-authenticate").is_some(), "{asked}");
            if case.route.starts_with("/v2.0") {
                refused(&reply, 401);
                continue;
            }
            assert_eq!(reply.header("content-type"), Some("application/problem+json"), "{asked}");
            assert_eq!(reply.json()["status"], 401, "{asked}");
        }
    }
    assert_eq!(state(&scene), before);
}

#[test]
fn of_two_tokens_none_is_picked_on_any_route() {
    let scene = Scene::start();
    let before = state(&scene);
    let admin = scene.realm.admin.token();
    for case in CASES.iter().filter(|case| !case.is_anonymous()) {
        for pair in [[admin, "garbage"], ["garbage", admin], [admin, admin]] {
            let who = pair.map(|token| ("X-Auth-Token", token));
            let reply = scene.send(case, &scene.realm.nobody(), &who);
            assert_eq!(reply.status, 400, "{} {}: {}", case.method, case.route, reply.text());
        }
    }
    assert_eq!(state(&scene), before);
}

#[test]
fn on_the_nodes_listener_there_is_no_operator_plane() {
    let scene = Scene::start();
    let server = &scene.realm.server;
    let before = state(&scene);
    let mut all = intruders(&scene.node);
    all.push(vec![("X-Auth-Token", scene.realm.admin.token().to_owned())]);
    for case in CASES {
        for who in &all {
            for base in ["", "/MAAS/metadata", "/MAAS"] {
                let reply = send(server.node, case, &format!("{base}{}", scene.path(case)), who);
                let asked = format!("{} {base}{} as {who:?}", case.method, case.route);
                assert_eq!(reply.status, 404, "{asked}: {}", reply.text());
            }
        }
    }
    for path in ["/healthz", "/readyz", "/version", "/metrics"] {
        assert_eq!(server.stranger().get(path).status, 404, "{path}");
    }
    assert_eq!(state(&scene), before);
}

#[test]
fn on_the_admin_doors_there_is_no_node_plane() {
    let server = TestServer::start();
    let node = server.node("n1");
    for path in READS {
        let path = format!("/MAAS/metadata{path}");
        let header = node.header();
        let reply = server.observer().send("GET", &path, &[("Authorization", &header)], b"");
        assert_eq!(reply.status, 404, "{path}");
        assert!(!reply.text().contains("n1"));
        let reply = server.operator().send(Method::GET, &path, &[("Authorization", &header)], b"");
        assert_eq!(reply.status, 404, "{path}");
    }
}

#[test]
fn the_observers_routes_are_open_and_say_nothing_of_nodes() {
    let server = TestServer::start();
    let node = server.node("n1");
    for path in ["/healthz", "/readyz", "/version", "/metrics"] {
        let reply = server.observer().get(path);
        assert_eq!(reply.status, 200, "{path}");
        for secret in [&node.token_secret, &node.token_key, &node.consumer_key, "example.com"] {
            assert!(!reply.text().contains(secret), "{path}");
        }
        assert_eq!(server.observer().send("POST", path, &[], b"").status, 405, "{path}");
    }
}

/// The paths of a target; a target without any does not compile.
fn paths(target: Target<'_>) -> Vec<&'static str> {
    match target {
        Target::Index => vec!["/"],
        Target::Version => vec!["/2012-03-01/"],
        Target::MetaData => vec!["/2012-03-01/meta-data/"],
        Target::Item(MetadataKey::InstanceId) => vec!["/2012-03-01/meta-data/instance-id"],
        Target::Item(MetadataKey::LocalHostname) => vec!["/2012-03-01/meta-data/local-hostname"],
        Target::Item(MetadataKey::PublicKeys) => vec!["/2012-03-01/meta-data/public-keys"],
        Target::Item(MetadataKey::VendorData) => vec!["/2012-03-01/meta-data/vendor-data"],
        Target::UnknownItem(_) => vec![],
        Target::UserData => vec!["/2012-03-01/user-data"],
        Target::Status(_) => vec!["/status/n1"],
    }
}

#[test]
fn every_target_of_the_node_plane_is_among_the_paths_that_tests_ask() {
    let items = MetadataKey::ALL.into_iter().map(Target::Item);
    let targets: Vec<Target> =
        [Target::Index, Target::Version, Target::MetaData].into_iter().chain(items).collect();
    let mut all: Vec<&str> = targets.into_iter().flat_map(paths).collect();
    all.extend(paths(Target::UserData));
    assert_eq!(all, READS);
    for path in READS.into_iter().chain(paths(Target::Status("n1"))) {
        let whole = format!("/MAAS/metadata{path}");
        let Path::Known(target) = parse(&whole) else { panic!("{path} is not known") };
        assert_eq!(paths(target), [path]);
    }
}

#[test]
fn every_path_of_the_node_plane_wants_the_nodes_own_signature() {
    let server = TestServer::start();
    let first = server.node("n1");
    let second = server.node("n2");
    server.operator().session.delete("/v1/default/nodes/n2/token").unwrap();
    let ended = second;
    let second = server.credentials("n2");
    for base in ["", "/curtin"] {
        for path in READS.into_iter().chain(["/status/n1"]) {
            let path = format!("{base}{path}");
            for method in ["GET", "POST", "PUT", "DELETE"] {
                let send = |headers: &[(&str, &str)]| first.send(method, &path, headers, b"");
                assert_refused(&send(&[]), "credentials_missing");
                for wrong in ["Basic YWRtaW46YWRtaW4=", "Bearer nit_wrong"] {
                    assert_refused(&send(&[("Authorization", wrong)]), "credentials_missing");
                }
                let operators = [("X-Auth-Token", "nit_wrong"), ("X-Roles", "admin")];
                assert_refused(&send(&operators), "credentials_missing");
                assert_refused(&send(&[("Authorization", "OAuth x=\"")]), "credentials_malformed");
                for liar in [
                    Node { token_secret: "x".repeat(32), ..first.clone() },
                    Node { token_secret: second.token_secret.clone(), ..first.clone() },
                    Node { token_key: second.token_key.clone(), ..first.clone() },
                    Node { consumer_key: second.consumer_key.clone(), ..first.clone() },
                    ended.clone(),
                ] {
                    let reply = send(&[("Authorization", &liar.header())]);
                    assert_refused(&reply, "credentials_refused");
                }
            }
            if path.ends_with("/status/n1") {
                let reply =
                    second.send("POST", &path, &[("Authorization", &second.header())], b"{}");
                assert_eq!(reply.status, 403, "{path}: {}", reply.text());
                continue;
            }
            // Another node sees itself, where there is anything to see of a node at all.
            let seen = second.get(&path);
            assert_eq!(seen.status, 200);
            assert!(!seen.text().contains("n1"), "{path}: {}", seen.text());
            assert_eq!(first.get(&path).text().replace("n1", "n2"), seen.text());
        }
    }
}
