//! What an admin is shown of the rules: on `/v1/policy` and on the command line.

use nodeinit::domain::identity::Role;
use nodeinit::domain::policy::{Action, compiled_in};
use nodeinit::store::columns::Id;
use nodeinit::store::{grants, projects, users};
use serde_json::{Value, json};

use crate::support::process::{Home, Ran, nodeinit, run};
use crate::support::{Method, Options, Reply, TestServer};

/// A user of this name, with these roles in a project of their own.
fn user(server: &TestServer, name: &str, project: Id, roles: &'static [Role]) -> Id {
    let id = nomad(server, name, Some(project));
    server
        .write(move |tx| roles.iter().try_for_each(|&role| grants::insert(tx, id, project, role)));
    id
}

/// A user of this name who is nothing anywhere.
fn nomad(server: &TestServer, name: &str, default_project: Option<Id>) -> Id {
    let id = Id(server.app.mint.id(server.clock.now()));
    let new =
        users::User { id, name: name.to_owned(), email: None, enabled: true, default_project };
    server.write(move |tx| users::insert(tx, &new, None));
    id
}

fn explain(server: &TestServer, question: Value) -> Reply {
    let headers = [("Content-Type", "application/json")];
    let body = question.to_string();
    server.operator().send(Method::POST, "/v1/policy/explain", &headers, body.as_bytes())
}

/// The command line against a server in this process.
fn cli(server: &TestServer, args: &[&str]) -> Ran {
    let mut command = nodeinit();
    command.args(["--server", &format!("unix:{}", server.socket.display())]).args(args);
    run(command, b"")
}

/// A server with a node `n1` in `default` and one `n2` in `alpha`, and some users.
fn fleet() -> TestServer {
    let server = TestServer::start();
    server.operator().add("n1", json!({"labels": {"rack": "7"}}));
    let alpha = server.project("alpha");
    let body = json!({"system_id": "n2", "hostname": "n2"});
    server.operator().session.send_json(Method::POST, "/v1/alpha/nodes", &body).unwrap();
    user(&server, "ann", projects::DEFAULT, &[Role::Admin]);
    user(&server, "rita", projects::DEFAULT, &[Role::Reader]);
    user(&server, "paul", alpha, &[Role::Provisioner]);
    nomad(&server, "nomad", None);
    server
}

#[test]
fn what_a_user_may_is_judged_by_what_the_store_says() {
    let server = fleet();
    let cases = [
        ("ann", "user:create", json!({}), true),
        ("Rita", "user:create", json!({}), false),
        ("rita", "node:list", json!({}), true),
        ("rita", "node:show", json!({"node": "n1"}), true),
        ("rita", "node:change", json!({"node": "n1"}), false),
        ("rita", "node:change", json!({"node": "n1", "roles": ["provisioner"]}), true),
        ("rita", "node:list", json!({"roles": []}), false),
        ("paul", "node:change", json!({"node": "n2"}), true),
        ("paul", "node:change", json!({"node": "n1"}), false),
        ("paul", "node:change", json!({"node": "n1", "project": "default"}), false),
        ("rita", "identity:whoami", json!({}), true),
        ("rita", "user:show", json!({"target_user": "rita"}), true),
        ("rita", "user:show", json!({"target_user": "paul"}), false),
        ("rita", "identity:revoke", json!({"target_user": "rita"}), true),
        ("rita", "project:show", json!({"target_project": "default"}), true),
        ("rita", "project:show", json!({"target_project": "alpha"}), false),
        ("nomad", "node:list", json!({}), false),
        ("nomad", "project:list", json!({}), true),
        ("rita", "owner", json!({"node": "n1"}), true),
    ];
    for (user, action, more, allow) in cases {
        let mut question = json!({"action": action, "user": user});
        for (name, value) in more.as_object().unwrap() {
            question[name] = value.clone();
        }
        let reply = explain(&server, question.clone());
        assert_eq!(reply.status, 200, "{question}: {}", reply.text());
        assert_eq!(reply.json()["allow"], allow, "{question}: {}", reply.text());
    }
}

#[test]
fn the_reasons_are_a_tree_with_what_was_compared() {
    let server = fleet();
    let question = json!({"action": "node:change", "user": "paul", "node": "n1"});
    let answer = explain(&server, question).json();
    let lines: Vec<&str> =
        answer["why"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
    assert_eq!(lines[0], "node:change: false");
    assert!(lines.contains(&"        role:admin: false (roles: [\"provisioner\"])"), "{lines:#?}");
    assert_eq!(answer["target"]["node.labels.rack"], "7");
    assert_eq!(answer["target"]["node.project_name"], "default");
    assert_eq!(answer["project"]["name"], "alpha");
    assert_eq!(answer["roles"], json!(["provisioner"]));
    assert_eq!(
        answer["notes"],
        json!(["the node is in another project: a URL that names it is refused"])
    );
}

#[test]
fn who_could_have_no_token_is_not_allowed_whatever_the_rule_says() {
    let server = fleet();
    let gone = user(&server, "gone", projects::DEFAULT, &[Role::Admin]);
    let disable = users::Change { enabled: Some(false), ..users::Change::default() };
    server.write(move |tx| users::update(tx, gone, &disable));
    for (question, note) in [
        (json!({"user": "gone"}), "the user is disabled"),
        (json!({"user": "ann", "project": "alpha"}), "the user has no role"),
        (json!({"user": "node-init"}), "the user is disabled"),
        (json!({"user": "nomad", "roles": ["admin"]}), "a token without a project"),
    ] {
        let mut question = question;
        question["action"] = json!("node:list");
        let answer = explain(&server, question.clone()).json();
        assert_eq!(answer["allow"], false, "{question}");
        assert!(answer["notes"][0].as_str().unwrap().starts_with(note), "{answer}");
    }
}

#[test]
fn a_question_about_nothing_is_refused_without_an_echo() {
    let server = fleet();
    for (question, status) in [
        (json!({"action": "hunter2", "user": "rita"}), 400),
        (json!({"action": "node:list"}), 400),
        (json!({"user": "rita"}), 400),
        (json!({"action": "node:list", "user": "rita", "roles": ["hunter2"]}), 400),
        (json!({"action": "node:list", "user": "rita", "hunter2": 1}), 400),
        (json!({"action": "node:list", "user": "hunter2\u{0}"}), 400),
        (json!({"action": "node:list", "user": "hunter2"}), 404),
        (json!({"action": "node:list", "user": "rita", "project": "hunter2"}), 404),
        (json!({"action": "node:list", "user": "rita", "node": "hunter2"}), 404),
        (json!({"action": "node:list", "user": "rita", "target_user": "hunter2"}), 404),
        (json!({"action": "node:list", "user": "rita", "target_project": "hunter2"}), 404),
    ] {
        let reply = explain(&server, question.clone());
        assert_eq!(reply.status, status, "{question}: {}", reply.text());
        assert!(!reply.text().contains("hunter2"), "{}", reply.text());
    }
}

#[test]
fn every_action_is_shown_with_its_rule_and_where_that_is_from() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("policy.yaml").display().to_string();
    std::fs::write(&path, "node:list: rule:mine\nmine: role:reader\nowner: '!'\n").unwrap();
    let server = TestServer::start_with(Options::default().flag("policy-file", &path));
    let shown = server.operator().session.get("/v1/policy").unwrap();
    let items = shown["items"].as_array().unwrap();
    assert_eq!(items.len(), Action::ALL.len());
    let names: Vec<&str> = items.iter().map(|item| item["action"].as_str().unwrap()).collect();
    assert!(names.is_sorted());
    assert_eq!(shown["next"], Value::Null);
    let item = |name: &str| items.iter().find(|item| item["action"] == name).unwrap();
    assert_eq!(
        *item("node:list"),
        json!({
            "action": "node:list", "rule": "rule:mine", "default": "rule:reader",
            "overridden": true, "help": "list the nodes of a project"
        })
    );
    assert_eq!(item("node:show")["overridden"], false);
    assert_eq!(item("node:show")["rule"], item("node:show")["default"]);
    let helpers = shown["helpers"].as_array().unwrap();
    assert!(helpers.contains(&json!({"name": "owner", "rule": "!", "overridden": true})));
    assert!(helpers.contains(&json!({"name": "mine", "rule": "role:reader", "overridden": true})));
    assert_eq!(shown["file"]["path"], path.as_str());
    assert_eq!(shown["file"]["loaded_at"], "2027-01-15T08:00:00Z");

    let table = cli(&server, &["policy", "show"]).done().out;
    let line = |start: &str| {
        let line = table.lines().find(|line| line.starts_with(start));
        line.unwrap_or_else(|| panic!("{table}")).split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(line("ACTION"), "ACTION FROM RULE WHAT");
    assert_eq!(line("node:list "), "node:list file rule:mine list the nodes of a project");
    assert_eq!(line("node:show "), "node:show default rule:reader show a node");
    assert_eq!(line("rule:owner "), "rule:owner file !");
    let same = cli(&server, &["policy", "show", "-o", "json"]).done().json();
    assert_eq!(same, shown["items"]);
    // What the file would make of them, without asking the server.
    let offline = Home::new().run(&["policy", "show", "--file", &path, "-o", "json"]).done();
    assert_eq!(offline.json(), shown["items"]);
}

#[test]
fn the_command_line_explains_as_the_server_does() {
    let server = fleet();
    let args = ["policy", "explain", "node:change", "--user", "paul", "--node", "n2"];
    let ran = cli(&server, &args).done();
    let lines: Vec<&str> = ran.out.lines().collect();
    assert_eq!(lines[..3], ["allowed", "node:change: true", "  rule:provisioner: true"]);
    let json = cli(&server, &[&args[..], &["-o", "json"]].concat()).done().json();
    let question = json!({"action": "node:change", "user": "paul", "node": "n2"});
    assert_eq!(json, explain(&server, question).json());
    let denied = cli(&server, &["policy", "explain", "user:create", "--user", "rita"]).done();
    assert_eq!(denied.out.lines().next(), Some("denied"));
    let role = ["policy", "explain", "user:create", "--user", "rita", "--role", "admin"];
    assert_eq!(cli(&server, &role).done().out.lines().next(), Some("allowed"));
    let missing =
        cli(&server, &["policy", "explain", "node:show", "--user", "rita", "--node", "no"]);
    assert_eq!((missing.code, missing.err.lines().count()), (1, 1), "{missing:?}");
    let unused = cli(&server, &["policy", "explain", "node:show"]);
    assert_eq!(unused.code, 2);
}

#[test]
fn a_file_is_checked_without_a_server() {
    let home = Home::without_key();
    let path = home.path("p.yaml").display().to_string();
    std::fs::write(&path, "node:list: rule:mine\nmine: role:reader\nowner: '!'\n").unwrap();
    let good = home.run(&["policy", "check", &path]).done();
    assert_eq!(good.out, format!("{path}: good: overrides 2 rules and adds 1\n"));
    let json = home.run(&["policy", "check", &path, "-o", "json"]).done().json();
    assert_eq!(json, json!({"overrides": ["node:list", "owner"], "adds": ["mine"]}));
    let piped = home.run_with(&["policy", "check", "-"], b"node:list: role:a)\n");
    assert_eq!(piped.code, 1);
    assert!(piped.err.contains("\n-:1:18: rule 'node:list': "), "{piped:?}");

    std::fs::write(&path, b"node:list: role:a)\n\nnode:raed: '@'\n").unwrap();
    let bad = home.run(&["policy", "check", &path]);
    assert_eq!((bad.code, bad.out.as_str()), (1, ""), "{bad:?}");
    let lines: Vec<&str> = bad.err.lines().collect();
    assert_eq!(lines.len(), 3, "{bad:?}");
    assert!(lines[1].starts_with(&format!("{path}:1:18: rule 'node:list': a ')' ")), "{bad:?}");
    assert_eq!(lines[2], format!("{path}:3:1: rule 'node:raed': unknown action"));

    std::fs::write(&path, b"# caf\xc3\xa9\nnode:list: \xff\n").unwrap();
    let bytes = home.run(&["policy", "check", &path]);
    assert!(bytes.err.contains(&format!("{path}:2:12: not UTF-8")), "{bytes:?}");
    let missing = home.run(&["policy", "check", "nowhere.yaml"]);
    assert_eq!(missing.code, 1);
    assert!(missing.err.contains("nowhere.yaml"), "{missing:?}");
    assert!(!home.path("nodeinit.db").exists());
}

/// Judged within another action's route.
const WITHIN: &[Action] = &[Action::NodeMove];
/// Routes for those who have no token yet.
const OPEN: &[(&str, &str)] = &[("GET", "/v1/openapi.json"), ("POST", "/v2.0/tokens")];

#[test]
fn every_route_asks_for_an_action_and_every_action_has_a_rule_and_a_route() {
    let mut asked = Vec::new();
    let mut open = Vec::new();
    for (path, operations) in nodeinit::http::operator_routes() {
        for operation in operations {
            match operation.action {
                Some(action) => asked.push(action),
                None => open.push((operation.method, path)),
            }
        }
    }
    assert_eq!(open, OPEN, "routes that ask for no action");
    let rules = compiled_in();
    for &action in Action::ALL {
        assert!(rules.spelling(action.name()).is_some(), "{} has no rule", action.name());
        let excused = WITHIN.contains(&action);
        assert_ne!(asked.contains(&action), excused, "{}: no route, or excused", action.name());
    }
}

#[test]
fn only_a_url_with_a_project_in_it_tells_policy_of_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("policy.yaml");
    let rules = "user:list: 'rule:owner'\nnode:list: 'rule:owner'\nnode:move: 'rule:owner'\n";
    std::fs::write(&path, rules).unwrap();
    let server =
        TestServer::start_with(Options::default().flag("policy-file", path.to_str().unwrap()));
    user(&server, "rita", projects::DEFAULT, &[Role::Reader]);
    for (action, allow) in [("node:list", true), ("node:move", true), ("user:list", false)] {
        let answer = explain(&server, json!({"action": action, "user": "rita"})).json();
        assert_eq!(answer["allow"], allow, "{action}: {answer}");
    }
}
