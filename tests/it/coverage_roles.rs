//! Every route of the operator plane × every role, over TCP. The statuses are literals: a rule that
//! lets in more, or fewer, than it did fails here.

use std::collections::BTreeSet;

use nodeinit::domain::policy::Action;
use nodeinit::http::operator_routes;

use crate::coverage::{ANONYMOUS, CASES, Case, Scene};
use crate::identity_headers::spoofed_in_every_spelling;
use crate::support::Options;
use crate::support::plane::without_names;
use crate::support::realm::Caller;

/// Each with a token of project `default` but the second provisioner, whose is of `t1`.
const ROLES: [&str; 5] = ["reader", "provisioner", "provisioner elsewhere", "service", "admin"];
const ADMIN: usize = 4;

/// Answered as the admin on the socket is.
const OK: u16 = 0;

/// What each role gets for each action. 400 is `Malformed request url`.
const BY_ACTION: &[(&str, [u16; 5])] = &[
    ("node:list", [OK, OK, 400, 403, OK]),
    ("node:show", [OK, OK, 400, 403, OK]),
    ("node:create", [403, OK, 400, 403, OK]),
    ("node:change", [403, OK, 400, 403, OK]),
    ("node:reprovision", [403, OK, 400, 403, OK]),
    ("node:remove", [403, OK, 400, 403, OK]),
    ("user-data:show", [OK, OK, 400, 403, OK]),
    ("user-data:set", [403, OK, 400, 403, OK]),
    ("vendor-data:show", [OK, OK, 400, 403, OK]),
    ("vendor-data:set", [403, OK, 400, 403, OK]),
    ("token:get", [403, OK, 400, 403, OK]),
    ("token:show", [OK, OK, 400, 403, OK]),
    ("token:revoke", [403, OK, 400, 403, OK]),
    ("token:reissue", [403, OK, 400, 403, OK]),
    ("preseed:get", [403, OK, 400, 403, OK]),
    ("claim:create", [403, OK, 400, 403, OK]),
    ("event:list", [OK, OK, 400, 403, OK]),
    ("timeline:show", [OK, OK, 400, 403, OK]),
    ("node:explain", [OK, OK, 400, 403, OK]),
    ("event:list-all", [403, 403, 403, 403, OK]),
    ("stuck:list", [403, 403, 403, 403, OK]),
    ("token:list", [403, 403, 403, 403, OK]),
    ("token:cull", [403, 403, 403, 403, OK]),
    ("audit:list", [403, 403, 403, 403, OK]),
    ("audit:verify", [403, 403, 403, 403, OK]),
    ("policy:show", [403, 403, 403, 403, OK]),
    ("identity:whoami", [OK, OK, OK, OK, OK]),
    ("identity:validate", [403, 403, 403, OK, OK]),
    ("identity:revoke", [403, 403, 403, 403, OK]),
    ("user:list", [403, 403, 403, 403, OK]),
    ("user:show", [403, 403, 403, 403, OK]),
    ("user:create", [403, 403, 403, 403, OK]),
    ("user:change", [403, 403, 403, 403, OK]),
    ("user:remove", [403, 403, 403, 403, OK]),
    ("user:password", [403, 403, 403, 403, OK]),
    ("project:list", [OK, OK, OK, OK, OK]),
    ("project:show", [403, 403, 403, 403, OK]),
    ("project:create", [403, 403, 403, 403, OK]),
    ("project:change", [403, 403, 403, 403, OK]),
    ("project:remove", [403, 403, 403, 403, OK]),
    ("role:list", [403, 403, 403, 403, OK]),
    ("role:grant", [403, 403, 403, 403, OK]),
    ("role:revoke", [403, 403, 403, 403, OK]),
    // The socket's alone.
    ("identity:bootstrap", [403, 403, 403, 403, 403]),
];

/// Actions that no route has of its own: what they are part of.
const WITHOUT_A_ROUTE: [&str; 1] = ["node:move"];

/// The media types that a route's body may have; none for a route that takes any or no body.
fn media_types(case: &Case) -> &'static [&'static str] {
    let routes = operator_routes();
    let (_, operations) = routes.iter().find(|(path, _)| *path == case.route).unwrap();
    operations.iter().find(|o| o.method == case.method).unwrap().takes.media_types()
}

fn action_of(case: &Case) -> Option<&'static str> {
    let routes = operator_routes();
    let (_, operations) = routes.iter().find(|(path, _)| *path == case.route).unwrap();
    operations.iter().find(|o| o.method == case.method).unwrap().action.map(Action::name)
}

/// What a role gets for a case: `OK` or the status of a refusal.
fn expected(case: &Case, role: usize) -> u16 {
    let Some(action) = action_of(case) else { return OK };
    BY_ACTION.iter().find(|(name, _)| *name == action).unwrap().1[role]
}

#[test]
fn every_action_is_in_the_table_and_every_route_has_an_action() {
    let routes = operator_routes();
    let mut used = BTreeSet::new();
    let mut anonymous = Vec::new();
    for (path, operations) in &routes {
        for operation in operations {
            match operation.action {
                Some(action) => drop(used.insert(action.name())),
                None => anonymous.push((operation.method, *path)),
            }
        }
    }
    assert_eq!(anonymous, ANONYMOUS);
    let table: BTreeSet<&str> = BY_ACTION.iter().map(|(action, _)| *action).collect();
    assert_eq!(table.len(), BY_ACTION.len());
    assert_eq!(used, table);
    let all: BTreeSet<&str> = Action::ALL.iter().map(|action| action.name()).collect();
    let missing: Vec<_> = all.difference(&used).copied().collect();
    assert_eq!(missing, WITHOUT_A_ROUTE);
}

/// Somebody of each role, in the order of the table.
fn cast(scene: &Scene) -> [Caller; 5] {
    let admin = &scene.realm.admin;
    let projects = admin.get("/v2.0/tenants").json();
    let projects = projects["tenants"].as_array().unwrap();
    let default = projects.iter().find(|project| project["name"] == "default").unwrap();
    let default = default["id"].as_str().unwrap();
    [
        admin.person("reader", "reader", default).caller,
        admin.person("provisioner", "provisioner", default).caller,
        admin.person("elsewhere", "provisioner", &scene.realm.t1).caller,
        admin.person("deployd", "service", default).caller,
        admin.clone(),
    ]
}

/// Walks through all cases as one role. What it is refused the admin does, so that the next case
/// finds what it needs.
fn walk(role: usize) {
    let scene = Scene::start();
    let caller = &cast(&scene)[role];
    let spoofed = spoofed_in_every_spelling();
    let (some, others) = spoofed.split_at(spoofed.len() / 2);
    for case in CASES {
        let asked = format!("{} {} as {}", case.method, case.route, ROLES[role]);
        let expected = expected(case, role);
        let reply = without_names(scene.send(case, caller, &[]));
        let status = if expected == OK { case.answer } else { expected };
        assert_eq!(reply.status, status, "{asked}: {}", reply.text());
        let malformed = reply.text().contains("Malformed request url");
        assert_eq!(malformed, expected == 400, "{asked}: {}", reply.text());
        // Saying that one is somebody else changes nothing.
        if expected != OK || case.method == "GET" {
            for headers in [some, others] {
                let headers: Vec<_> = headers.iter().map(|(n, value)| (&**n, *value)).collect();
                let again = without_names(scene.send(case, caller, &headers));
                assert_eq!(again, reply, "{asked}");
            }
        }
        if expected != OK && role != ADMIN {
            let admin = scene.send(case, &scene.realm.admin, &[]);
            let answer = if self::expected(case, ADMIN) == OK { case.answer } else { 403 };
            assert_eq!(admin.status, answer, "after {asked}: {}", admin.text());
        }
    }
}

#[test]
fn what_a_reader_gets() {
    walk(0);
}

#[test]
fn what_a_provisioner_gets() {
    walk(1);
}

#[test]
fn what_a_provisioner_of_another_project_gets() {
    walk(2);
}

#[test]
fn what_a_service_gets() {
    walk(3);
}

#[test]
fn what_an_admin_gets() {
    walk(ADMIN);
}

#[test]
fn refusals_come_in_one_order_on_every_route() {
    let scene = Scene::start();
    let callers = cast(&scene);
    let (reader, admin) = (&callers[0], &callers[ADMIN]);
    let plain = [("Content-Type", "text/plain")];
    for case in CASES.iter().filter(|case| !media_types(case).is_empty()) {
        let asked = format!("{} {}", case.method, case.route);
        let path = scene.path(case);
        let send = |who: &Caller, path: &str, headers: &[(&str, &str)], body: &[u8]| {
            who.send(case.method, path, headers, body).status
        };
        // What the headers say of the body, before who sends it.
        for who in [&scene.realm.nobody(), reader, admin] {
            assert_eq!(send(who, &path, &plain, b"{}"), 415, "{asked}");
        }
        let typed = [("Content-Type", case.content_type)];
        let endless = [typed[0], ("Content-Length", "99999999999")];
        assert_eq!(send(&scene.realm.nobody(), &path, &endless, b""), 413, "{asked}");
        if case.is_anonymous() {
            assert_eq!(send(admin, &path, &typed, b"{"), 400, "{asked}");
            continue;
        }
        // Who sends it, before what it is; what it is, before what it is about.
        assert_eq!(send(&scene.realm.nobody(), &path, &typed, b"{"), 401, "{asked}");
        let denied = expected(case, 0);
        assert_eq!(send(reader, &path, &typed, b"{"), denied, "{asked}");
        let missing = case.route.replace("{project}", "default").replace("{role}", "reader");
        let missing = ["{system_id}", "{user}", "{tenant}", "{token}"]
            .iter()
            .fold(missing, |path, name| path.replace(name, "nope"));
        let invalid = if expected(case, ADMIN) == OK { 400 } else { 403 };
        assert_eq!(send(admin, &missing, &typed, b"{"), invalid, "{asked}");
        assert_eq!(send(reader, &missing, &typed, b"{"), denied, "{asked}");
    }
}

#[test]
fn a_policy_file_shuts_every_route_to_the_admin_and_opens_it_to_everybody() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("policy.yaml");
    let every = |rule: &str| -> String {
        Action::ALL.iter().map(|action| format!("\"{}\": \"{rule}\"\n", action.name())).collect()
    };
    std::fs::write(&path, "default: \"rule:admin_required\"\n").unwrap();
    let flag = path.to_str().unwrap();
    let scene = Scene::start_with(Options::default().flag("policy-file", flag));
    let callers = cast(&scene);
    let (service, admin) = (&callers[3], &callers[ADMIN]);
    let wait_for = |status: u16| {
        let began = std::time::Instant::now();
        while service.whoami().status != status {
            assert!(began.elapsed().as_secs() < 20, "the file is not read");
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    };
    std::fs::write(&path, every("!")).unwrap();
    wait_for(403);
    for case in CASES.iter().filter(|case| !case.is_anonymous()) {
        let reply = scene.send(case, admin, &[]);
        assert_eq!(reply.status, 403, "{} {}: {}", case.method, case.route, reply.text());
    }
    std::fs::write(&path, every("@")).unwrap();
    wait_for(200);
    for case in CASES {
        let reply = scene.send(case, service, &[]);
        // The socket's alone, whatever a file says.
        let answer = if case.route == "/v1/bootstrap" { 403 } else { case.answer };
        assert_eq!(reply.status, answer, "{} {}: {}", case.method, case.route, reply.text());
    }
}
