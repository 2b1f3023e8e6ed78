//! The command line with operators: plugins, logins, users, projects and roles.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nodeinit::client::PLUGINS;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::on_the_machines_clock;
use crate::support::process::{Ran, nodeinit, run};
use crate::support::stub::{Asked, Ca, Stub, Told, told};

const EXPIRES: &str = "2999-01-15T09:00:00Z";

/// A command with this environment.
fn cli(args: &[&str], variables: &[(&str, &str)]) -> Ran {
    run(command(args, variables), b"")
}

fn command(args: &[&str], variables: &[(&str, &str)]) -> Command {
    let mut command = nodeinit();
    command.args(args).envs(variables.iter().copied()).current_dir("/");
    command
}

/// Operators as the contract has them: two users, two projects, a login for anybody.
fn operators() -> Stub {
    Stub::new(answer)
}

fn answer(asked: &Asked) -> Told {
    let user = |id: &str, name: &str| json!({"id": id, "name": name, "enabled": true, "email": null, "tenantId": "t1"});
    let project = |id: &str, name: &str| json!({"id": id, "name": name, "enabled": true});
    let missing = || {
        let fault = json!({"code": 404, "title": "Not Found", "message": "no such thing"});
        told(404).json(json!({"error": fault}))
    };
    match asked.line().as_str() {
        "POST /v2.0/tokens" => told(200).json(json!({"access": {
            "token": {"id": "nit_fresh", "expires": EXPIRES, "tenant": {"id": "t2", "name": "lab"}},
            "user": {"id": "u1", "name": "alice"},
        }})),
        "GET /v1/whoami" => told(200).json(json!({
            "user": "alice", "project": "lab", "roles": ["admin"], "service": null,
            "expires_at": EXPIRES,
        })),
        "GET /v2.0/users" => {
            told(200).json(json!({"users": [user("u1", "alice"), user("u2", "bob")]}))
        }
        "GET /v2.0/users?name=bob"
        | "GET /v2.0/users/u2"
        | "POST /v2.0/users"
        | "PUT /v2.0/users/u2" => told(200).json(json!({"user": user("u2", "bob")})),
        "PUT /v2.0/users/u2/OS-KSADM/password" => told(200).json(json!({"user": {"id": "u2"}})),
        "GET /v2.0/tenants" => {
            told(200).json(json!({"tenants": [project("t1", "default"), project("t2", "lab")]}))
        }
        // The other way that servers filter.
        "GET /v2.0/tenants?name=lab" => told(200).json(json!({"tenants": [project("t2", "lab")]})),
        "GET /v2.0/tenants?name=t2" | "GET /v2.0/tenants?name=nope" => {
            told(200).json(json!({"tenants": []}))
        }
        "GET /v2.0/tenants/t2" | "POST /v2.0/tenants" | "POST /v2.0/tenants/t2" => {
            told(200).json(json!({"tenant": project("t2", "lab")}))
        }
        "DELETE /v2.0/users/u2" | "DELETE /v2.0/tenants/t2" => told(204),
        line if line.contains("/roles/OS-KSADM/") => {
            if asked.method == "PUT" {
                told(200)
            } else {
                told(204)
            }
        }
        line if line.contains("/nodes") => told(200).json(json!({"items": [], "next": null})),
        _ => missing(),
    }
}

/// A command as alice, with a token.
fn alice(stub: &Stub, args: &[&str]) -> Ran {
    cli(args, &[("NODEINIT_SERVER", &stub.text()), ("NODEINIT_TOKEN", "nit_alices")])
}

/// A file that only we can read.
fn private(text: &str) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("secret");
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    (dir, path)
}

/// What was sent after the look-ups: the request line and the body.
#[track_caller]
fn sent(stub: &Stub) -> (String, Value) {
    let last = stub.asked().pop().unwrap();
    assert_eq!(last.header("x-auth-token"), Some("nit_alices"));
    let body = if last.body.is_empty() { Value::Null } else { last.json() };
    (last.line(), body)
}

#[test]
fn c01_login_options_lists_what_a_plugin_needs() {
    let ran = cli(&["login", "--options", "oauth1"], &[]).done();
    let lines: Vec<Vec<&str>> =
        ran.out.lines().map(|line| line.split_whitespace().take(4).collect()).collect();
    assert_eq!(lines[0], ["NAME", "REQUIRED", "SECRET", "VARIABLE"]);
    assert_eq!(lines[1], ["consumer-key", "true", "false", "NODEINIT_CONSUMER_KEY"]);
    assert_eq!(lines[2], ["token-key", "true", "false", "NODEINIT_TOKEN_KEY"]);
    assert_eq!(lines[3], ["token-secret", "true", "true", "NODEINIT_TOKEN_SECRET"]);
    assert_eq!(lines[4], ["signature-method", "false", "false", "NODEINIT_SIGNATURE_METHOD"]);
    for kind in PLUGINS {
        let ran = cli(&["login", "--options", kind.name, "-o", "json"], &[]).done();
        let names: Vec<Value> =
            ran.json().as_array().unwrap().iter().map(|o| o["name"].clone()).collect();
        let wanted: Vec<&str> = kind.options.iter().map(|option| option.name).collect();
        assert_eq!(names, wanted);
    }
    let yaml = cli(&["login", "--options", "token", "-o", "yaml"], &[]).done().out;
    assert!(yaml.contains("variable: NODEINIT_TOKEN"), "{yaml}");
}

#[test]
fn c03_an_unknown_plugin_is_exit_2_and_the_known_ones_are_listed() {
    for (args, variables) in [
        (&["node", "list", "--auth", "nope"][..], &[][..]),
        (&["node", "list"], &[("NODEINIT_AUTH", "nope")]),
        (&["login", "--options", "nope"], &[]),
    ] {
        let ran = cli(args, variables);
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{ran:?}");
        for kind in PLUGINS {
            assert!(ran.err.contains(kind.name), "{}: {}", kind.name, ran.err);
        }
    }
}

#[test]
fn without_credentials_a_url_is_exit_2_that_lists_what_is_needed() {
    let stub = operators();
    let server = [("NODEINIT_SERVER", stub.text())];
    let server: Vec<(&str, &str)> =
        server.iter().map(|(name, url)| (*name, url.as_str())).collect();
    let ran = cli(&["node", "list"], &server);
    assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{ran:?}");
    for name in ["NODEINIT_TOKEN", "NODEINIT_USER", "NODEINIT_PASSWORD", "--auth"] {
        assert!(ran.err.contains(name), "{name}: {}", ran.err);
    }
    for (auth, missing) in [
        ("token", &["NODEINIT_TOKEN"][..]),
        ("password", &["NODEINIT_USER", "NODEINIT_PASSWORD"]),
        ("service", &["NODEINIT_TOKEN", "NODEINIT_SERVICE_TOKEN", "NODEINIT_SERVICE_USER"]),
        ("oauth1", &["NODEINIT_CONSUMER_KEY", "NODEINIT_TOKEN_KEY", "NODEINIT_TOKEN_SECRET"]),
    ] {
        let ran = cli(&["node", "list", "--auth", auth], &server);
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{ran:?}");
        assert_eq!(ran.err.lines().count(), 1, "{}", ran.err);
        for name in missing {
            assert!(ran.err.contains(name), "{auth}: {name}: {}", ran.err);
        }
    }
    let ran = cli(&["login"], &server);
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(ran.err.contains("NODEINIT_USER") && ran.err.contains("NODEINIT_PASSWORD"));
    let method = [("NODEINIT_SIGNATURE_METHOD", "RSA-SHA1"), ("NODEINIT_TOKEN_SECRET", "x")];
    let keys = [("NODEINIT_CONSUMER_KEY", "x"), ("NODEINIT_TOKEN_KEY", "x")];
    let ran = cli(&["whoami", "--auth", "oauth1"], &[&server, &method[..], &keys].concat());
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(ran.err.contains("PLAINTEXT or HMAC-SHA1"), "{}", ran.err);
    assert_eq!(stub.lines(), [""; 0], "nothing was sent");
}

#[test]
fn what_is_set_chooses_the_plugin() {
    let stub = operators();
    let url = stub.text();
    let with = |variables: &[(&str, &str)]| {
        let before = stub.asked().len();
        cli(&["whoami"], &[&[("NODEINIT_SERVER", url.as_str())], variables].concat()).done();
        stub.asked().split_off(before)
    };
    let (token, user, password) = (
        ("NODEINIT_TOKEN", "nit_alices"),
        ("NODEINIT_USER", "alice"),
        ("NODEINIT_PASSWORD", "sesame"),
    );
    let asked = with(&[token, user, password]);
    assert_eq!(asked.len(), 1, "a token wins");
    assert_eq!(asked[0].header("x-auth-token"), Some("nit_alices"));
    let asked = with(&[user, password, ("NODEINIT_PROJECT", "lab")]);
    assert_eq!(asked[0].json()["auth"]["passwordCredentials"]["password"], "sesame");
    assert_eq!(asked[0].json()["auth"]["tenantName"], "lab");
    assert_eq!(asked[1].header("x-auth-token"), Some("nit_fresh"));
    let asked = with(&[user, password, token, ("NODEINIT_AUTH", "password")]);
    assert_eq!(asked.len(), 2);
    let service = [("NODEINIT_AUTH", "service"), ("NODEINIT_SERVICE_TOKEN", "nit_service")];
    let asked = with(&[&service[..], &[token]].concat());
    assert_eq!(asked[0].header("x-auth-token"), Some("nit_alices"));
    assert_eq!(asked[0].header("x-service-token"), Some("nit_service"));
    let asked = with(&[("NODEINIT_AUTH", "none")]);
    assert_eq!(asked[0].header("x-auth-token"), None);
    // Empty is as good as absent.
    assert_eq!(with(&[("NODEINIT_TOKEN", ""), user, password]).len(), 2);
    // A flag wins over the variable.
    let variables = [("NODEINIT_SERVER", url.as_str()), ("NODEINIT_AUTH", "nope"), token];
    cli(&["whoami", "--auth", "token"], &variables).done();
}

#[test]
fn secrets_come_from_files_too_and_one_newline_is_dropped() {
    let stub = operators();
    let (_dir, path) = private("sesame\n\n");
    let file = path.to_str().unwrap();
    let server = ("NODEINIT_SERVER", stub.text());
    let base = [(server.0, server.1.as_str()), ("NODEINIT_USER", "alice")];
    let last = || stub.asked().iter().rfind(|a| a.target == "/v2.0/tokens").unwrap().json();
    let password = |asked: Value| asked["auth"]["passwordCredentials"]["password"].clone();

    let ran = cli(&["whoami", "--password-file", file], &base).done();
    assert_eq!(password(last()), "sesame\n");
    assert_eq!(ran.err, "", "nobody else can read it");
    cli(&["whoami"], &[&base[..], &[("NODEINIT_PASSWORD_FILE", file)]].concat()).done();
    assert_eq!(password(last()), "sesame\n");
    run(command(&["whoami", "--password-file", "-"], &base), b"from stdin\n").done();
    assert_eq!(password(last()), "from stdin");
    // The flag wins over the variable.
    let set = [("NODEINIT_PASSWORD", "set")];
    cli(&["whoami", "--password-file", file], &[&base[..], &set].concat()).done();
    assert_eq!(password(last()), "sesame\n");

    let (_dir, path) = private("nit_filed\n");
    let filed = [(server.0, server.1.as_str()), ("NODEINIT_TOKEN_FILE", path.to_str().unwrap())];
    cli(&["whoami"], &filed).done();
    assert_eq!(stub.asked().pop().unwrap().header("x-auth-token"), Some("nit_filed"));

    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let ran = cli(&["whoami"], &filed).done();
    assert!(ran.err.starts_with("nodeinit: warning: ") && ran.err.contains("read by others"));
    assert!(!ran.err.contains("nit_filed"));
    std::fs::write(&path, b"\xffsecret").unwrap();
    let ran = cli(&["whoami"], &filed);
    assert_eq!(ran.code, 1);
    assert!(!ran.err.contains("secret\u{fffd}") && ran.err.contains("not UTF-8"), "{}", ran.err);
    // Standard input is one file.
    let args = ["user-data", "set", "n1", "-", "--project", "p", "--password-file", "-"];
    let before = stub.lines().len();
    let ran = run(command(&args, &base), b"sesame\n");
    assert_eq!(ran.code, 2, "{ran:?}");
    assert_eq!(stub.lines().len(), before);
    let ran = cli(&["whoami", "--password-file", "/nowhere/at-all"], &base);
    assert!(ran.code == 1 && ran.err.contains("/nowhere/at-all"), "{ran:?}");
}

#[test]
fn no_flag_takes_a_secret() {
    for kind in PLUGINS {
        for option in kind.options.iter().filter(|option| option.secret) {
            let flag = format!("--{}", option.name);
            let ran = cli(&["whoami", &flag, "hunter2"], &[]);
            assert_eq!(ran.code, 2, "{flag}");
        }
    }
}

/// The command under a terminal of its own: what is shown there, `typed` being answered to the
/// `question`.
fn at_a_terminal(args: &[&str], variables: &[(&str, &str)], question: &str, typed: &str) -> String {
    let words = [&[env!("CARGO_BIN_EXE_nodeinit")], args].concat();
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &words.join(" "), "/dev/null"]);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("NODEINIT_") {
            script.env_remove(name);
        }
    }
    script.envs(variables.iter().copied()).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = script.spawn().expect("script, of util-linux");
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let (mut shown, mut byte) = (Vec::new(), [0]);
    while !shown.ends_with(question.as_bytes()) {
        stdout.read_exact(&mut byte).expect("a question");
        shown.push(byte[0]);
    }
    // It asks first and stops the echo then.
    std::thread::sleep(Duration::from_millis(300));
    stdin.write_all(typed.as_bytes()).unwrap();
    stdout.read_to_end(&mut shown).unwrap();
    let shown = String::from_utf8(shown).unwrap();
    assert!(child.wait().unwrap().success(), "{shown}");
    shown
}

#[test]
fn a_password_is_asked_for_at_a_terminal_and_not_shown() {
    let stub = operators();
    let url = stub.text();
    let variables = [("NODEINIT_SERVER", url.as_str()), ("NODEINIT_USER", "alice")];
    let args = ["login", "-o", "json"];
    let shown = at_a_terminal(&args, &variables, "password: ", "tYpEd\n");
    assert!(shown.contains("nit_fresh") && !shown.contains("tYpEd"), "{shown}");
    let login = stub.asked().pop().unwrap().json();
    assert_eq!(login["auth"]["passwordCredentials"]["password"], "tYpEd");
    // Not when stdin or stdout is none: then it is missing.
    let ran = run(command(&["login"], &variables), b"typed\n");
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(ran.err.contains("password (NODEINIT_PASSWORD)"), "{}", ran.err);
    assert_eq!(stub.asked().len(), 1);
    let args = ["user", "add", "bob"];
    let variables = [("NODEINIT_SERVER", url.as_str()), ("NODEINIT_TOKEN", "nit_alices")];
    let shown = at_a_terminal(&args, &variables, "New password of bob: ", "nEwOnE12\n");
    assert!(!shown.contains("nEwOnE12"), "{shown}");
    assert_eq!(sent(&stub).1["user"]["OS-KSADM:password"], "nEwOnE12");
}

#[test]
fn login_prints_a_token_for_later_use() {
    let stub = operators();
    let url = stub.text();
    let variables = [("NODEINIT_SERVER", url.as_str()), ("NODEINIT_PASSWORD", "sesame")];
    let ran = cli(&["login", "--user", "alice"], &variables).done();
    assert_eq!(ran.out, "export NODEINIT_TOKEN=nit_fresh\n", "for eval");
    assert_eq!(ran.err, format!("nodeinit: alice in lab until {EXPIRES}\n"));
    let document = cli(&["login", "--user", "alice", "-o", "json"], &variables).done().json();
    assert_eq!(
        document,
        json!({"token": "nit_fresh", "expires_at": EXPIRES, "user": "alice", "project": "lab"})
    );
    let yaml = cli(&["login", "--user", "alice", "-o", "yaml"], &variables).done().out;
    assert!(yaml.contains("token: nit_fresh"), "{yaml}");
    assert_eq!(stub.lines(), ["POST /v2.0/tokens"; 3]);
    // Nothing that a shell would obey is printed for one.
    let evil = Stub::new(|_| told(200).json(json!({"access": {"token": {"id": "x; reboot"}}})));
    let url = evil.text();
    let variables = [("NODEINIT_SERVER", url.as_str()), ("NODEINIT_PASSWORD", "sesame")];
    let ran = cli(&["login", "--user", "alice"], &variables);
    assert_eq!((ran.code, ran.out.as_str()), (1, ""), "{ran:?}");
}

#[test]
fn c19_no_secret_is_told_however_much_is_asked_for() {
    let stub = Stub::new(|asked| {
        answer(asked).header("set-cookie", "session=cOoKiE").header("x-subject-token", "nit_fresh")
    });
    let url = stub.text();
    let (password, service) = ("pAsSwOrD", "nit_sErViCe");
    let variables = [
        ("NODEINIT_SERVER", url.as_str()),
        ("NODEINIT_USER", "alice"),
        ("NODEINIT_PASSWORD", password),
        ("NODEINIT_SERVICE_TOKEN", service),
        ("NODEINIT_AUTH", "service"),
    ];
    let ran = cli(&["-vv", "whoami"], &variables).done();
    assert!(ran.err.contains(&format!("POST {url}/v2.0/tokens: 200 OK")), "{}", ran.err);
    assert!(ran.err.contains(&format!("GET {url}/v1/whoami: 200 OK")), "{}", ran.err);
    // printf nit_fresh | sha256sum; printf nit_sErViCe | sha256sum
    assert!(ran.err.contains("x-auth-token: {SHA256}e4b9b9a029fb"), "{}", ran.err);
    assert!(ran.err.contains("x-service-token: {SHA256}bd40ee1e15a4"), "{}", ran.err);
    for secret in [password, service, "nit_fresh", "cOoKiE"] {
        assert!(!ran.err.contains(secret), "{secret}: {}", ran.err);
    }
    let once = cli(&["whoami", "-v"], &variables).done();
    assert_eq!(once.err.lines().count(), 2, "{}", once.err);
    assert_eq!(cli(&["whoami"], &variables).done().err, "");

    for method in ["PLAINTEXT", "HMAC-SHA1"] {
        let variables = [
            ("NODEINIT_SERVER", url.as_str()),
            ("NODEINIT_AUTH", "oauth1"),
            ("NODEINIT_CONSUMER_KEY", "ck"),
            ("NODEINIT_TOKEN_KEY", "tk"),
            ("NODEINIT_TOKEN_SECRET", "sEcReT"),
            ("NODEINIT_SIGNATURE_METHOD", method),
        ];
        let ran = cli(&["-vv", "whoami"], &variables);
        assert_eq!(ran.code, 1, "the stub is no node plane");
        assert!(ran.err.contains("oauth_token=\"tk\""), "{}", ran.err);
        let header = stub.asked().pop().unwrap().header("authorization").unwrap().to_owned();
        let signature = header.split("oauth_signature=\"").nth(1).unwrap().trim_end_matches('"');
        for secret in ["sEcReT", signature, "oauth_signature="] {
            assert!(!ran.err.contains(secret), "{secret}: {}", ran.err);
        }
    }
}

#[test]
fn the_project_is_the_sessions_unless_it_is_named() {
    let stub = operators();
    let paths = |args: &[&str], variables: &[(&str, &str)]| {
        let before = stub.lines().len();
        let url = stub.text();
        cli(args, &[&[("NODEINIT_SERVER", url.as_str())], variables].concat()).done();
        stub.lines().split_off(before)
    };
    let list = |project: &str| format!("GET /v1/{project}/nodes?");
    let token = ("NODEINIT_TOKEN", "nit_alices");
    assert_eq!(paths(&["node", "list"], &[token]), ["GET /v1/whoami".to_owned(), list("lab")]);
    assert_eq!(paths(&["node", "list"], &[token, ("NODEINIT_PROJECT", "p2")]), [list("p2")]);
    assert_eq!(paths(&["node", "list", "--project", "p3"], &[token]), [list("p3")]);
    let login = [("NODEINIT_USER", "alice"), ("NODEINIT_PASSWORD", "sesame")];
    assert_eq!(paths(&["node", "list"], &login), ["POST /v2.0/tokens".to_owned(), list("lab")]);
    assert_eq!(paths(&["node", "list"], &[("NODEINIT_AUTH", "none")]), [list("default")]);
}

#[test]
fn users_are_named_by_name_or_id() {
    let stub = operators();
    let shown = |name: &str| alice(&stub, &["user", "show", name, "-o", "json"]);
    assert_eq!(shown("bob").done().json()["id"], "u2");
    assert_eq!(shown("u2").done().json()["name"], "bob");
    assert_eq!(
        stub.lines(),
        ["GET /v2.0/users?name=bob", "GET /v2.0/users?name=u2", "GET /v2.0/users/u2"]
    );
    let ran = shown("nobody");
    assert_eq!((ran.code, ran.out.as_str()), (1, ""));
    assert_eq!(ran.err, "nodeinit: user show: there is no user nobody\n");
    let ran = alice(&stub, &["user", "list"]).done();
    assert!(ran.out.starts_with("ID ") && ran.out.contains("bob"), "{}", ran.out);
    let listed = alice(&stub, &["user", "list", "-o", "json"]).done().json();
    assert_eq!(listed.as_array().unwrap().len(), 2);
    // What is typed stays in its place.
    alice(&stub, &["user", "show", "../x?y&name=bob"]);
    assert_eq!(stub.lines().pop().unwrap(), "GET /v2.0/users/..%2Fx%3Fy%26name%3Dbob");
}

#[test]
fn users_are_added_set_and_removed_with_one_call_each() {
    let stub = operators();
    let (_dir, path) = private("sesame street\n");
    let file = path.to_str().unwrap();
    let add = ["user", "add", "bob", "--email", "b@example.com", "--project", "lab"];
    let user = alice(&stub, &[&add[..], &["--password-file", file, "-o", "json"]].concat());
    assert_eq!(user.done().json()["id"], "u2");
    let (line, body) = sent(&stub);
    assert_eq!(line, "POST /v2.0/users");
    assert_eq!(
        body,
        json!({"user": {
            "name": "bob", "OS-KSADM:password": "sesame street", "enabled": true,
            "email": "b@example.com", "tenantId": "t2",
        }})
    );
    alice(&stub, &["user", "add", "eve", "--disabled", "--password-file", file]).done();
    let body = sent(&stub).1;
    assert_eq!(
        body,
        json!({"user": {"name": "eve", "OS-KSADM:password": "sesame street", "enabled": false}})
    );
    let ran = alice(&stub, &["user", "add", "eve"]);
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(ran.err.contains("--password-file"), "{}", ran.err);
    let ran = alice(&stub, &["user", "add", "eve", "--project", "nope", "--password-file", file]);
    assert_eq!(ran.err, "nodeinit: user add: there is no project nope\n");

    alice(&stub, &["user", "set", "bob", "--name", "rob", "--enabled", "false"]).done();
    let changed = json!({"user": {"name": "rob", "enabled": false}});
    assert_eq!(sent(&stub), ("PUT /v2.0/users/u2".into(), changed));
    alice(&stub, &["user", "set", "u2", "--project", "lab", "--email", "r@x"]).done();
    let changed = json!({"user": {"email": "r@x", "tenantId": "t2"}});
    assert_eq!(sent(&stub), ("PUT /v2.0/users/u2".into(), changed));
    assert_eq!(alice(&stub, &["user", "set", "bob"]).code, 2, "nothing to change");
    assert_eq!(alice(&stub, &["user", "set", "bob", "--enabled", "yes"]).code, 2);

    let ran = alice(&stub, &["user", "password", "bob", "--password-file", file]).done();
    assert_eq!((ran.out.as_str(), ran.err.as_str()), ("", ""));
    let body = json!({"user": {"password": "sesame street"}});
    assert_eq!(sent(&stub), ("PUT /v2.0/users/u2/OS-KSADM/password".into(), body));
    alice(&stub, &["user", "remove", "bob"]).done();
    assert_eq!(sent(&stub), ("DELETE /v2.0/users/u2".into(), Value::Null));
}

#[test]
fn the_password_that_is_set_is_not_the_one_that_logs_in() {
    let stub = operators();
    let url = stub.text();
    let (_dir, path) = private("bobs new one\n");
    let variables = [
        ("NODEINIT_SERVER", url.as_str()),
        ("NODEINIT_USER", "alice"),
        ("NODEINIT_PASSWORD", "sesame"),
    ];
    let args = ["user", "password", "bob", "--password-file", path.to_str().unwrap()];
    cli(&args, &variables).done();
    let asked = stub.asked();
    assert_eq!(asked[0].json()["auth"]["passwordCredentials"]["password"], "sesame");
    assert_eq!(asked.last().unwrap().json(), json!({"user": {"password": "bobs new one"}}));
}

#[test]
fn projects_are_added_listed_set_and_removed() {
    let stub = operators();
    alice(&stub, &["project", "add", "lab", "--description", "the lab"]).done();
    let body = json!({"tenant": {"name": "lab", "description": "the lab", "enabled": true}});
    assert_eq!(sent(&stub), ("POST /v2.0/tenants".into(), body));
    let listed = alice(&stub, &["project", "list", "-o", "json"]).done().json();
    assert_eq!(listed[1]["name"], "lab");
    let shown = alice(&stub, &["project", "show", "lab", "-o", "json"]).done().json();
    assert_eq!(shown["id"], "t2");
    assert_eq!(alice(&stub, &["project", "show", "t2", "-o", "json"]).done().json()["id"], "t2");
    alice(&stub, &["project", "set", "lab", "--enabled", "false", "--name", "l2"]).done();
    let body = json!({"tenant": {"name": "l2", "enabled": false}});
    assert_eq!(sent(&stub), ("POST /v2.0/tenants/t2".into(), body));
    assert_eq!(alice(&stub, &["project", "set", "lab"]).code, 2);
    alice(&stub, &["project", "remove", "lab"]).done();
    assert_eq!(sent(&stub), ("DELETE /v2.0/tenants/t2".into(), Value::Null));
    let ran = alice(&stub, &["project", "remove", "nope"]);
    assert_eq!(ran.err, "nodeinit: project remove: there is no project nope\n");
}

#[test]
fn roles_are_granted_and_revoked_by_name() {
    let stub = operators();
    let place = "/v2.0/tenants/t2/users/u2/roles/OS-KSADM/provisioner";
    for (verb, method) in [("grant", "PUT"), ("revoke", "DELETE")] {
        let args = ["role", verb, "provisioner", "--user", "bob", "--project", "lab"];
        let ran = alice(&stub, &args).done();
        assert_eq!(ran.out, "");
        assert_eq!(sent(&stub), (format!("{method} {place}"), Value::Null));
        // The project is the session's by default.
        alice(&stub, &["role", verb, "provisioner", "--user", "u2"]).done();
        assert_eq!(sent(&stub), (format!("{method} {place}"), Value::Null));
    }
    assert_eq!(alice(&stub, &["role", "grant", "reader"]).code, 2, "to whom?");
}

#[test]
fn a_refusal_is_told_in_the_servers_words() {
    let stub = Stub::new(|_| {
        let fault = json!({"code": 403, "title": "Forbidden", "message": "user:list is not yours"});
        told(403).json(json!({"error": fault}))
    });
    let ran = alice(&stub, &["user", "list"]);
    assert_eq!((ran.code, ran.out.as_str()), (1, ""));
    assert_eq!(ran.err, "nodeinit: user list: user:list is not yours\n");
}

#[test]
fn bootstrap_speaks_to_the_socket_and_drops_one_newline() {
    let dir = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(dir.path().join("admin.sock")).unwrap();
    let seen = Arc::new(Mutex::new(String::new()));
    let told = seen.clone();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut request = Vec::new();
            let mut buffer = [0; 4096];
            while !request.ends_with(b"}") {
                let read = stream.read(&mut buffer).unwrap();
                request.extend_from_slice(&buffer[..read]);
            }
            *told.lock().unwrap() = String::from_utf8(request).unwrap();
            let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n");
        }
    });
    let bootstrap = |file: &str, input: &[u8]| {
        let args = ["bootstrap", "--user", "root", "--password-file", file];
        let variables = [("NODEINIT_STATE_DIR", dir.path().to_str().unwrap())];
        run(command(&args, &variables), input)
    };
    let asked = || {
        let request = seen.lock().unwrap().clone();
        let (head, body) = request.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("POST /v1/bootstrap HTTP/1.1\r\n"), "{head}");
        assert!(!head.to_ascii_lowercase().contains("x-auth-token"), "{head}");
        serde_json::from_str::<Value>(body).unwrap()
    };
    let ran = bootstrap("-", b"sesame street\n\n").done();
    assert_eq!(asked(), json!({"name": "root", "password": "sesame street\n"}));
    assert_eq!((ran.out.as_str(), ran.err.as_str()), ("", "nodeinit: root is admin\n"));
    let (_dir, path) = private("sesame street");
    bootstrap(path.to_str().unwrap(), b"").done();
    assert_eq!(asked(), json!({"name": "root", "password": "sesame street"}));
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o604)).unwrap();
    let ran = bootstrap(path.to_str().unwrap(), b"").done();
    assert!(ran.err.contains("warning") && ran.err.contains("read by others"), "{}", ran.err);
    assert_eq!(cli(&["bootstrap", "--password-file", "-"], &[]).code, 2, "whom?");
    let ran = cli(&["bootstrap", "--user", "root"], &[]);
    assert!(ran.code == 2 && ran.err.contains("--password-file"), "{ran:?}");
}

#[test]
fn a_private_ca_is_named_by_flag_or_variable() {
    let (ours, theirs) = (Ca::new(), Ca::new());
    let stub = Stub::tls(ours.server("127.0.0.1"), answer);
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        std::fs::write(dir.path().join(name), text).unwrap();
        dir.path().join(name).display().to_string()
    };
    let (good, other, bad) =
        (file("ca.pem", &ours.pem), file("other.pem", &theirs.pem), file("bad.pem", "hello"));
    alice(&stub, &["whoami", "--ca-file", &good]).done();
    let url = stub.text();
    let variables =
        [("NODEINIT_TOKEN", "x"), ("NODEINIT_CA_FILE", good.as_str()), ("NODEINIT_SERVER", &url)];
    cli(&["whoami"], &variables).done();
    assert_eq!(stub.lines().len(), 2);
    // Without one it is the system's that count; OpenSSL's variable names others in their place.
    let system = [("NODEINIT_TOKEN", "x"), ("NODEINIT_SERVER", &url), ("SSL_CERT_FILE", &good)];
    cli(&["whoami"], &system).done();
    assert_eq!(stub.lines().len(), 3);
    for ca in [other.as_str(), bad.as_str(), "/nowhere/ca.pem"] {
        let ran = alice(&stub, &["whoami", "--ca-file", ca]);
        assert_eq!((ran.code, ran.out.as_str()), (1, ""), "{ran:?}");
        assert_eq!(ran.err.lines().count(), 1, "{}", ran.err);
    }
    assert_eq!(alice(&stub, &["whoami"]).code, 1, "the system does not know it");
    assert_eq!(stub.lines().len(), 3);
    // Nothing turns it off.
    for flag in ["--insecure", "-k", "--no-verify", "--skip-tls-verify"] {
        assert_eq!(alice(&stub, &["whoami", flag]).code, 2, "{flag}");
    }
}

#[test]
fn a_node_is_told_who_it_is_whatever_its_clock_and_time_zone() {
    let server = on_the_machines_clock();
    let node = server.node("n1");
    let url = format!("http://{}", server.node);
    for (zone, method) in [
        ("UTC", "HMAC-SHA1"),
        ("Asia/Tokyo", "HMAC-SHA1"),
        ("America/New_York", "HMAC-SHA1"),
        ("Asia/Tokyo", "PLAINTEXT"),
    ] {
        let variables = [
            ("TZ", zone),
            ("NODEINIT_SERVER", url.as_str()),
            ("NODEINIT_AUTH", "oauth1"),
            ("NODEINIT_CONSUMER_KEY", &node.consumer_key),
            ("NODEINIT_TOKEN_KEY", &node.token_key),
            ("NODEINIT_TOKEN_SECRET", &node.token_secret),
            ("NODEINIT_SIGNATURE_METHOD", method),
        ];
        let me = cli(&["whoami", "-o", "json"], &variables).done().json();
        assert_eq!(me, json!({"instance_id": "n1", "hostname": "n1.example.com"}), "{zone}");
    }
    // A server whose clock is far from this machine's: one 401, and its Date mends it.
    let ahead = "Fri, 15 Jan 2027 08:00:00 GMT";
    let stub = Stub::new(move |asked| {
        let is_mended =
            asked.header("authorization").unwrap().contains("oauth_timestamp=\"18000000");
        told(if is_mended { 200 } else { 401 }).header("date", ahead)
    });
    let url = stub.text();
    let variables = [
        ("TZ", "Asia/Tokyo"),
        ("NODEINIT_SERVER", url.as_str()),
        ("NODEINIT_AUTH", "oauth1"),
        ("NODEINIT_CONSUMER_KEY", "ck"),
        ("NODEINIT_TOKEN_KEY", "tk"),
        ("NODEINIT_TOKEN_SECRET", "s"),
    ];
    cli(&["whoami"], &variables).done();
    assert_eq!(stub.lines().len(), 3, "one 401, then two reads");
}

#[test]
fn retries_are_made_when_they_are_asked_for() {
    let stub = Stub::new(|_| told(503).header("retry-after", "0"));
    for (args, variables, attempts) in [
        (&["whoami"][..], &[][..], 1),
        (&["whoami", "--retries", "2"], &[], 3),
        (&["whoami"], &[("NODEINIT_RETRIES", "1")], 2),
        (&["role", "grant", "reader", "--user", "u", "--project", "p", "--retries", "1"], &[], 2),
    ] {
        let before = stub.lines().len();
        let url = stub.text();
        let base = [("NODEINIT_SERVER", url.as_str()), ("NODEINIT_TOKEN", "x")];
        assert_eq!(cli(args, &[&base[..], variables].concat()).code, 1);
        assert_eq!(stub.lines().len() - before, attempts, "{args:?}");
    }
    assert_eq!(cli(&["whoami"], &[("NODEINIT_RETRIES", "many")]).code, 2);
}

#[test]
fn the_server_takes_the_clients_variables_for_what_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let mut variables = vec![("NODEINIT_STATE_DIR", dir.path().to_str().unwrap())];
    for kind in PLUGINS {
        variables.extend(kind.options.iter().map(|option| (option.variable, "x")));
    }
    variables.extend([("NODEINIT_PASSWORD_FILE", "x"), ("NODEINIT_CA_FILE", "x")]);
    let ran = cli(&["config", "check"], &variables).done();
    assert_eq!(ran.err, "nodeinit: the settings are good\n");
}
