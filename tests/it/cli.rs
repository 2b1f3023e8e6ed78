//! The binary itself: its verbs, what it prints and where, exit codes, signals, files.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::process::{Home, Process, Ran, free_port, mode, nodeinit, run};
use crate::support::{Method, socket, wire};

/// A server that is up, and the command line that finds it.
struct Up {
    server: Process,
    home: Home,
}

impl Up {
    fn new() -> Up {
        Up::with(&[])
    }

    fn with(flags: &[&str]) -> Up {
        let home = Home::new();
        Up { server: home.serve_with(flags), home }
    }

    fn cli(&self, args: &[&str]) -> Ran {
        self.home.run(args)
    }

    fn pipe(&self, args: &[&str], input: &[u8]) -> Ran {
        self.home.run_with(args, input)
    }

    /// The JSON that a command prints.
    fn json(&self, args: &[&str]) -> Value {
        self.cli(&[args, &["-o", "json"]].concat()).done().json()
    }

    fn add(&self, id: &str) {
        let hostname = format!("{id}.example.com");
        self.cli(&["node", "add", id, "--hostname", &hostname]).done();
    }
}

/// One line on stderr and nothing on stdout, and exit 1.
#[track_caller]
fn failed(ran: &Ran) -> &str {
    assert_eq!((ran.code, ran.out.as_str()), (1, ""), "{ran:?}");
    assert_eq!(ran.err.lines().count(), 1, "{}", ran.err);
    assert!(ran.err.starts_with("nodeinit: "), "{}", ran.err);
    &ran.err
}

/// The commands that a help text lists.
fn listed(help: &str) -> Vec<String> {
    let mut lines = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let mut names = Vec::new();
    for line in lines.by_ref().take_while(|line| !line.is_empty()) {
        // Continued descriptions are indented further.
        if let Some(rest) = line.strip_prefix("  ")
            && !rest.starts_with(' ')
        {
            names.push(rest.split_whitespace().next().unwrap().to_owned());
        }
    }
    names.retain(|name| name != "help");
    names
}

fn walk(path: &[String], found: &mut BTreeSet<String>) {
    for flag in ["--help", "-h"] {
        let mut command = nodeinit();
        command.args(path).arg(flag);
        let ran = run(command, b"").done();
        assert_eq!(ran.err, "", "{path:?}");
        assert!(ran.out.contains("Usage: nodeinit"), "{path:?}: {}", ran.out);
        assert!(ran.out.contains("--state-dir"), "{path:?}: common flags everywhere");
        assert!(ran.out.contains("--output"), "{path:?}: common flags everywhere");
        if flag == "--help" {
            found.insert(path.join(" "));
            for name in listed(&ran.out) {
                walk(&[path, &[name]].concat(), found);
            }
        }
    }
}

#[test]
fn the_help_of_every_command_works() {
    let mut found = BTreeSet::new();
    walk(&[], &mut found);
    for verb in [
        "serve",
        "migrate",
        "migrate status",
        "config check",
        "config show",
        "node add",
        "node list",
        "node show",
        "node set",
        "node remove",
        "node import",
        "token get",
        "token show",
        "token list",
        "token revoke",
        "token cull",
        "timeline",
        "stuck",
        "explain",
        "user-data set",
        "user-data get",
        "user-data clear",
        "user-data validate",
        "user-data history",
        "user-data diff",
        "user-data rollback",
        "vendor-data set",
        "vendor-data get",
        "vendor-data clear",
        "vendor-data validate",
        "vendor-data history",
        "vendor-data diff",
        "vendor-data rollback",
        "preseed",
        "bootstrap",
        "login",
        "whoami",
        "user add",
        "user list",
        "user show",
        "user set",
        "user remove",
        "user password",
        "project add",
        "project list",
        "project show",
        "project set",
        "project remove",
        "role grant",
        "role revoke",
        "policy eval",
        "completion",
    ] {
        assert!(found.contains(verb), "{verb}: {found:?}");
    }
    let mut command = nodeinit();
    command.arg("--version");
    let version = run(command, b"").done();
    assert_eq!(version.out, format!("nodeinit {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn every_setting_is_a_flag_of_serve_with_its_variable_and_default() {
    let mut command = nodeinit();
    command.args(["serve", "--help"]).env("COLUMNS", "100");
    let help = run(command, b"").done().out;
    let flat = help.split_whitespace().collect::<Vec<_>>().join(" ");
    for setting in nodeinit::config::SETTINGS {
        assert!(flat.contains(&format!("--{}", setting.name)), "{}: {help}", setting.name);
        let variable = format!("NODEINIT_{}", setting.name.to_uppercase().replace('-', "_"));
        assert!(flat.contains(&variable), "{variable}: {help}");
        assert!(flat.contains(&format!("[default: {}", setting.default)), "{}", setting.name);
    }
}

#[test]
fn wrong_use_is_exit_2_and_says_so_on_stderr() {
    for args in [
        &[][..],
        &["frobnicate"],
        &["node"],
        &["node", "frobnicate"],
        &["node", "add"],
        &["node", "add", "n1"],
        &["node", "add", "n1", "--generate", "--hostname", "h"],
        &["node", "add", "n1", "--hostname", "h", "--label", "x"],
        &["node", "show"],
        &["node", "list", "--limit", "x"],
        &["node", "list", "-o", "xml"],
        &["node", "list", "--frobnicate"],
        &["token", "get"],
        &["token", "get", "n1", "--all"],
        &["user-data", "set", "n1"],
        &["user-data", "diff", "n1", "1"],
        &["user-data", "rollback", "n1"],
        &["preseed", "n1"],
        &["completion"],
        &["completion", "cmd"],
        &["serve", "extra"],
    ] {
        let mut command = nodeinit();
        command.args(args);
        let ran = run(command, b"");
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{args:?}: {ran:?}");
        assert!(ran.err.contains("Usage:") || ran.err.contains("error:"), "{args:?}: {}", ran.err);
    }
}

#[test]
fn nodes_are_added_listed_shown_set_and_removed() {
    let up = Up::new();
    let args = [
        "node",
        "add",
        "n1",
        "--hostname",
        "N1.example.com",
        "--mac",
        "52-54-00-00-00-01",
        "--mac",
        "52:54:00:00:00:02",
        "--ssh-key",
        "ssh-ed25519 AAAA a@b",
        "--label",
        "rack=r7",
        "--label",
        "role=a=b",
    ];
    let node = up.json(&args);
    let keys: Vec<&str> = node.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(
        keys,
        [
            "system_id",
            "instance_id",
            "hostname",
            "macs",
            "ssh_keys",
            "labels",
            "project",
            "netboot",
            "boot_state",
            "created_at",
        ]
    );
    assert_eq!(node["macs"], json!(["52:54:00:00:00:01", "52:54:00:00:00:02"]));
    assert_eq!(node["labels"], json!({"rack": "r7", "role": "a=b"}));
    assert!(node["created_at"].as_str().unwrap().ends_with('Z'), "{node}");
    assert_eq!(up.json(&["node", "show", "n1"]), node);

    let made = up.json(&["node", "add", "--generate", "--hostname", "h2"]);
    let generated = made["system_id"].as_str().unwrap().to_owned();
    up.cli(&["node", "remove", &generated]).done();
    up.add("n3");
    up.add("n2");

    let list = up.json(&["node", "list"]);
    let ids: Vec<&str> =
        list.as_array().unwrap().iter().map(|n| n["system_id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["n1", "n2", "n3"], "one array, sorted");
    assert_eq!(up.json(&["node", "list", "--label", "rack=r7"]), json!([node]));
    assert_eq!(up.json(&["node", "list", "--label", "role=a=b", "--state", "new"]), json!([node]));
    assert_eq!(up.json(&["node", "list", "--label", "rack=r8"]), json!([]));
    assert_eq!(up.json(&["node", "list", "--state", "issued"]), json!([]));
    assert_eq!(up.json(&["node", "list", "--limit", "2"]).as_array().unwrap().len(), 2);

    let set = up.json(&[
        "node",
        "set",
        "n1",
        "--hostname",
        "other",
        "--mac",
        "",
        "--ssh-key",
        "",
        "--label",
        "a=b",
        "--netboot",
        "false",
    ]);
    assert_eq!((&set["hostname"], &set["netboot"]), (&json!("other"), &json!(false)));
    assert_eq!((&set["macs"], &set["ssh_keys"]), (&json!([]), &json!([])));
    assert_eq!(set["labels"], json!({"a": "b"}));
    assert_eq!(up.json(&["node", "set", "n1"]), set, "what is not named stays");

    let removed = up.cli(&["node", "remove", "n1"]).done();
    assert_eq!((removed.out.as_str(), removed.err.as_str()), ("", ""));
    failed(&up.cli(&["node", "show", "n1"]));
    failed(&up.cli(&["node", "list", "--state", "x"]).one_line());
}

impl Ran {
    /// A refusal with problems has a line for each; here they count as one.
    fn one_line(mut self) -> Ran {
        self.err = self.err.lines().next().unwrap_or_default().to_owned() + "\n";
        self
    }
}

#[test]
fn a_table_has_a_header_and_aligned_columns_and_yaml_is_the_same_document() {
    let up = Up::new();
    up.add("n1");
    up.add("a-longer-name");
    let table = up.cli(&["node", "list"]).done().out;
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 3, "{table}");
    let header: Vec<&str> = lines[0].split_whitespace().collect();
    assert_eq!(header, ["SYSTEM_ID", "HOSTNAME", "BOOT_STATE", "LABELS", "CREATED_AT"]);
    assert!(lines[1].starts_with("a-longer-name ") && lines[2].starts_with("n1 "), "{table}");
    let column = lines[0].find("HOSTNAME").unwrap();
    assert_eq!(lines[2].find("n1.example.com"), Some(column), "{table}");
    assert_eq!(up.cli(&["node", "list", "-o", "table"]).done().out, table);

    let yaml = up.cli(&["node", "show", "n1", "-o", "yaml"]).done().out;
    assert!(yaml.contains("system_id: n1\n"), "{yaml}");
    let yaml = up.cli(&["node", "list", "--output", "yaml"]).done().out;
    assert_eq!(yaml.matches("- system_id:").count(), 2, "{yaml}");
    let json = up.cli(&["node", "list", "-o", "json"]).done();
    assert!(json.json().is_array() && json.out.ends_with("]\n"));
    let empty = up.cli(&["token", "list"]).done().out;
    assert_eq!(empty.lines().count(), 1, "a header and no rows: {empty}");
}

#[test]
fn common_flags_stand_before_or_after_the_verb() {
    let up = Up::new();
    up.add("n1");
    let dir = up.home.dir.path().to_str().unwrap();
    let server = format!("unix:{dir}/admin.sock");
    let config = up.home.path("c.yaml");
    std::fs::write(&config, format!("server:\n  state-dir: {dir}\n")).unwrap();
    let config = config.to_str().unwrap();
    let wanted = up.json(&["node", "show", "n1"]);
    for (flag, value) in [("--state-dir", dir), ("--config", config), ("--server", &server)] {
        for args in [
            vec![flag, value, "-o", "json", "node", "show", "n1"],
            vec!["node", flag, value, "show", "-o", "json", "n1"],
            vec!["node", "show", "n1", flag, value, "-o", "json"],
            vec!["-o", "json", "node", "show", flag, value, "n1"],
        ] {
            let mut command = nodeinit();
            command.args(&args).current_dir("/");
            assert_eq!(run(command, b"").done().json(), wanted, "{args:?}");
        }
    }
    for (variable, value) in
        [("NODEINIT_STATE_DIR", dir), ("NODEINIT_CONFIG", config), ("NODEINIT_SERVER", &server)]
    {
        let mut command = nodeinit();
        command.args(["node", "show", "n1", "-o", "json"]).env(variable, value).current_dir("/");
        assert_eq!(run(command, b"").done().json(), wanted, "{variable}");
    }
    let mut command = nodeinit();
    command.args(["node", "show", "n1", "-o", "json"]).env("STATE_DIRECTORY", dir);
    assert_eq!(run(command, b"").done().json(), wanted, "as systemd says it");
    // A flag wins over a variable.
    let mut command = nodeinit();
    command.args(["node", "show", "n1", "-o", "json", "--state-dir", dir]);
    command.env("NODEINIT_STATE_DIR", "/nowhere");
    assert_eq!(run(command, b"").done().json(), wanted);
}

#[test]
fn a_missing_node_is_exit_1_and_one_line() {
    let up = Up::new();
    up.add("n1");
    for args in [
        &["node", "show", "nope"][..],
        &["node", "set", "nope", "--netboot", "true"],
        &["node", "remove", "nope"],
        &["token", "get", "nope"],
        &["token", "get", "n1", "nope"],
        &["token", "show", "nope"],
        &["token", "revoke", "nope"],
        &["user-data", "get", "nope"],
        &["user-data", "set", "nope", "/dev/null"],
        &["user-data", "clear", "nope"],
        &["user-data", "history", "nope"],
        &["user-data", "diff", "nope"],
        &["user-data", "rollback", "nope", "--to", "1"],
        &["vendor-data", "get", "nope"],
        &["vendor-data", "clear", "nope"],
        &["preseed", "nope", "--format", "curl"],
    ] {
        for format in ["table", "json"] {
            let ran = up.cli(&[args, &["-o", format]].concat());
            let told = failed(&ran);
            assert!(told.contains("nope") && told.contains("no such node"), "{args:?}: {told}");
        }
    }
    // And what a node that is there does not have.
    up.add("n2");
    failed(&up.cli(&["token", "show", "n2"]));
    failed(&up.cli(&["user-data", "get", "n2"]));
    failed(&up.cli(&["node", "show", "n1", "--project", "nowhere"]));
}

#[test]
fn without_a_server_a_command_says_where_it_looked() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = nodeinit();
    command.args(["node", "list", "--state-dir", dir.path().to_str().unwrap()]);
    let ran = run(command, b"");
    assert!(failed(&ran).contains("admin.sock"), "{}", ran.err);
    for server in ["nowhere", "http://", "ftp://x", "unix:", "http://user@h:1"] {
        let mut command = nodeinit();
        command.args(["node", "list", "--server", server]);
        assert_eq!(run(command, b"").code, 2, "{server}");
    }
    let mut command = nodeinit();
    let url = format!("http://127.0.0.1:{}", free_port());
    command.args(["node", "list", "--auth", "none", "--server", &url]);
    failed(&run(command, b""));
}

#[test]
fn token_get_prints_one_document_for_one_node_and_a_line_each_for_several() {
    let up = Up::new();
    for id in ["n1", "n2", "n3"] {
        up.add(id);
    }
    let one = up.json(&["token", "get", "n2"]);
    let keys: Vec<&str> = one.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(
        keys,
        [
            "system_id",
            "consumer_key",
            "consumer_secret",
            "token_key",
            "token_secret",
            "metadata_url"
        ]
    );
    assert_eq!(one["metadata_url"], format!("http://{}/MAAS/metadata/", up.server.node));
    let lines = |args: &[&str]| {
        let ran = up.cli(args).done();
        let read = |line: &str| serde_json::from_str::<Value>(line).unwrap();
        ran.out.lines().map(read).collect::<Vec<_>>()
    };
    let ids = |rows: &[Value]| {
        rows.iter().map(|row| row["system_id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let several = lines(&["token", "get", "n3", "n2", "-o", "json"]);
    assert_eq!(ids(&several), ["n3", "n2"], "in the order they were asked for");
    assert_eq!(several[1], one);
    let all = lines(&["token", "get", "--all", "-o", "json"]);
    assert_eq!(ids(&all), ["n1", "n2", "n3"]);
    let table = up.cli(&["token", "get", "n1", "n2"]).done().out;
    assert!(table.contains(one["token_secret"].as_str().unwrap()), "{table}");

    let shown = up.json(&["token", "show", "n2"]);
    assert_eq!((&shown["state"], &shown["token_key"]), (&json!("live"), &one["token_key"]));
    let list = up.cli(&["token", "list", "-o", "json"]).done();
    assert_eq!(list.json().as_array().unwrap().len(), 3);
    let key = one["token_key"].as_str().unwrap();
    assert_eq!(up.json(&["token", "list", "--key", key]), json!([shown]));
    assert_eq!(up.json(&["token", "list", "--limit", "2"]).as_array().unwrap().len(), 2);
    for ran in [list, up.cli(&["token", "show", "n2"]), up.cli(&["token", "list"])] {
        assert!(!ran.out.contains(one["token_secret"].as_str().unwrap()), "{}", ran.out);
    }
    let revoked = up.cli(&["token", "revoke", "n2"]).done();
    assert_eq!((revoked.out.as_str(), revoked.err.as_str()), ("", ""));
    assert_eq!(up.json(&["token", "list", "--key", key])[0]["state"], "ended");
    assert_ne!(up.json(&["token", "get", "n2"])["token_key"], one["token_key"]);
}

#[test]
fn token_cull_prints_what_goes_on_stdout_and_how_many_on_stderr() {
    let up = Up::new();
    for i in 0..12 {
        up.add(&format!("n{i:02}"));
    }
    up.cli(&["token", "get", "--all"]).done();
    std::thread::sleep(Duration::from_millis(1100));
    let dry = up.cli(&["token", "cull", "--unused-for", "1s", "--dry-run", "-o", "json"]).done();
    assert_eq!(dry.json().as_array().unwrap().len(), 12);
    assert_eq!(dry.err, "nodeinit: 12 tokens would end\n");
    let refused = up.cli(&["token", "cull", "--unused-for", "1s"]);
    assert!(failed(&refused).contains("at most 10"), "{}", refused.err);
    for wrong in [&["token", "cull"][..], &["token", "cull", "--idle-for", "1x"]] {
        assert_eq!(up.cli(wrong).code, 2, "{wrong:?}: wrong use");
    }
    let done =
        up.cli(&["token", "cull", "--unused-for", "1s", "--max", "100%", "-o", "json"]).done();
    assert_eq!(done.err, "nodeinit: 12 tokens ended\n");
    let keys = |ran: &Ran| {
        let list = ran.json();
        let key = |token: &Value| token["token_key"].as_str().unwrap().to_owned();
        list.as_array().unwrap().iter().map(key).collect::<Vec<_>>()
    };
    assert_eq!(keys(&done), keys(&dry));
    let again = up.cli(&["token", "cull", "--unused-for", "1s", "--force", "-o", "json"]).done();
    assert_eq!((again.json(), again.err.as_str()), (json!([]), "nodeinit: 0 tokens ended\n"));
}

#[test]
fn user_data_is_set_got_compared_rolled_back_and_cleared() {
    let up = Up::new();
    up.add("n1");
    let bytes = [b"#!/bin/sh\n".as_slice(), &[0, 1, 254, 255, 13, 10]].concat();
    let file = up.home.path("file");
    std::fs::write(&file, b"#!/bin/sh\necho one\n").unwrap();
    for what in ["user-data", "vendor-data"] {
        let (first, second) = if what == "user-data" {
            (b"#!/bin/sh\necho one\n".as_slice(), b"#!/bin/sh\necho two\n".as_slice())
        } else {
            (b"cloud-init: '#!/bin/sh'\n".as_slice(), b"cloud-init: '#!/bin/bash'\n".as_slice())
        };
        std::fs::write(&file, first).unwrap();
        let set = up.json(&[what, "set", "n1", file.to_str().unwrap()]);
        assert_eq!((&set["version"], &set["size"]), (&json!(1), &json!(first.len())));
        let stdin = up.pipe(&[what, "set", "n1", "-"], second).done();
        assert_eq!(stdin.err, "");
        assert_eq!(up.cli(&[what, "get", "n1"]).done().bytes, second);
        assert_eq!(up.cli(&[what, "get", "n1", "--version", "1"]).done().bytes, first);

        let diff = up.cli(&[what, "diff", "n1"]).done().out;
        let removed = format!("-{}", String::from_utf8_lossy(first).lines().last().unwrap());
        assert!(diff.contains(&removed), "{diff}");
        assert!(diff.contains("version 1") && diff.contains("version 2"), "{diff}");
        assert_eq!(up.cli(&[what, "diff", "n1", "1", "1"]).done().out, "");

        assert_eq!(up.json(&[what, "rollback", "n1", "--to", "1"])["version"], 3);
        assert_eq!(up.cli(&[what, "get", "n1"]).done().bytes, first);
        up.cli(&[what, "clear", "n1"]).done();
        failed(&up.cli(&[what, "get", "n1"]));
        up.cli(&[what, "clear", "n1"]).done();
        failed(&up.cli(&[what, "rollback", "n1", "--to", "4"]));
        failed(&up.cli(&[what, "rollback", "n1", "--to", "9"]));
        let history = up.json(&[what, "history", "n1"]);
        let told: Vec<(i64, bool)> = history
            .as_array()
            .unwrap()
            .iter()
            .map(|v| (v["version"].as_i64().unwrap(), v["sha256"].is_null()))
            .collect();
        assert_eq!(told, [(1, false), (2, false), (3, false), (4, true)]);
        up.cli(&[what, "rollback", "n1", "--to", "2"]).done();
        assert_eq!(up.cli(&[what, "get", "n1"]).done().bytes, second);
    }
    up.pipe(&["user-data", "set", "n1", "-"], &bytes).done();
    assert_eq!(up.cli(&["user-data", "get", "n1"]).done().bytes, bytes, "byte for byte");
    let binary = up.cli(&["user-data", "diff", "n1"]).done().out;
    assert!(binary.starts_with("binary: "), "{binary}");
    up.pipe(&["user-data", "set", "n1", "-"], b"").done();
    assert_eq!(up.cli(&["user-data", "get", "n1"]).done().bytes, b"");
    let missing = up.cli(&["user-data", "set", "n1", "/no/such/file"]);
    assert!(failed(&missing).contains("/no/such/file"), "{}", missing.err);
}

#[test]
fn what_cloud_init_would_ignore_is_a_warning_on_stderr_or_strictly_a_failure() {
    let up = Up::new();
    up.add("n1");
    let bytes = b"nothing that cloud-init knows\n";
    let refused = up.pipe(&["user-data", "set", "n1", "-", "--strict"], bytes);
    assert_eq!((refused.code, refused.out.as_str()), (1, ""), "{refused:?}");
    assert!(refused.err.contains("line 1"), "{}", refused.err);
    failed(&up.cli(&["user-data", "get", "n1"]));
    let warned = up.pipe(&["user-data", "set", "n1", "-", "-o", "json"], bytes).done();
    assert!(warned.err.starts_with("nodeinit: warning: line 1: "), "{}", warned.err);
    assert_eq!(warned.json()["warnings"].as_array().unwrap().len(), 1);
}

#[test]
fn validate_needs_no_server() {
    let dir = tempfile::tempdir().unwrap();
    let validate = |what: &str, bytes: &[u8]| {
        let mut command = nodeinit();
        command.args([what, "validate", "-"]).current_dir(dir.path());
        run(command, bytes)
    };
    for (what, good, bad) in [
        ("user-data", &b"#cloud-config\n{}\n"[..], &b"#cloud-config\na: [\n"[..]),
        ("vendor-data", b"#cloud-config\n{}\n", b"null\n"),
    ] {
        let fine = validate(what, good).done();
        assert_eq!((fine.out.as_str(), fine.err.as_str()), ("", ""));
        let wrong = validate(what, bad);
        assert_eq!((wrong.code, wrong.out.as_str()), (1, ""), "{wrong:?}");
        assert!(wrong.err.contains("line "), "{}", wrong.err);
    }
    let file = dir.path().join("f");
    std::fs::write(&file, "#!/bin/sh\n").unwrap();
    let mut command = nodeinit();
    command.args(["user-data", "validate"]).arg(&file);
    run(command, b"").done();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "it leaves nothing");
}

#[test]
fn an_import_reads_a_file_or_stdin_and_counts_the_files_own_lines() {
    let up = Up::new();
    let line = |i: usize| {
        format!("{}\n", json!({"system_id": format!("n{i}"), "hostname": format!("h{i}")}))
    };
    let good: String = (1..=1200).map(line).collect();
    let first = up.pipe(&["node", "import", "-", "-o", "json"], good.as_bytes()).done();
    assert_eq!(first.json(), json!({"created": 1200, "unchanged": 0}));
    let file = up.home.path("nodes.ndjson");
    std::fs::write(&file, good.trim_end()).unwrap();
    let again = up.json(&["node", "import", file.to_str().unwrap()]);
    assert_eq!(again, json!({"created": 0, "unchanged": 1200}));

    let mut bad: Vec<String> = (1201..=2400).map(line).collect();
    bad[699] = "{\"hostname\": \"_\"}\n".to_owned();
    bad[700] = "hunter2\n".to_owned();
    let refused = up.pipe(&["node", "import", "-"], bad.concat().as_bytes());
    assert_eq!((refused.code, refused.out.as_str()), (1, ""), "{refused:?}");
    assert!(refused.err.contains("line 701"), "{}", refused.err);
    assert!(!refused.err.contains("hunter2"), "{}", refused.err);
    bad[700] = "\n".to_owned();
    let refused = up.pipe(&["node", "import", "-"], bad.concat().as_bytes());
    assert!(refused.err.contains("line 700: hostname"), "{}", refused.err);
    // Mended, it goes on where it was.
    bad[699] = "\n".to_owned();
    let mended = up.pipe(&["node", "import", "-", "-o", "json"], bad.concat().as_bytes()).done();
    let told = mended.json();
    assert_eq!(
        told["created"].as_u64().unwrap() + told["unchanged"].as_u64().unwrap(),
        1198,
        "{told}"
    );
    assert_eq!(up.json(&["node", "list"]).as_array().unwrap().len(), 2398);
    let nothing = up.pipe(&["node", "import", "-", "-o", "json"], b"").done();
    assert_eq!(nothing.json(), json!({"created": 0, "unchanged": 0}));
}

#[test]
fn a_limit_is_not_bounded_by_the_servers_pages() {
    let up = Up::with(&["--page", "3"]);
    let line = |i: usize| {
        format!("{}\n", json!({"system_id": format!("n{i}"), "hostname": format!("h{i}")}))
    };
    let nodes: String = (0..8).map(line).collect();
    up.pipe(&["node", "import", "-"], nodes.as_bytes()).done();
    up.cli(&["token", "get", "--all"]).done();
    for noun in ["node", "token"] {
        let count =
            |args: &[&str]| up.json(&[&[noun, "list"], args].concat()).as_array().unwrap().len();
        assert_eq!(count(&[]), 8, "{noun}");
        assert_eq!(count(&["--limit", "7"]), 7, "{noun}");
        assert_eq!(count(&["--limit", "2"]), 2, "{noun}");
        assert_eq!(count(&["--limit", "1000000"]), 8, "{noun}");
    }
}

#[test]
fn a_preseed_is_printed_as_it_is() {
    let up = Up::new();
    up.add("n1");
    let token = up.json(&["token", "get", "n1"]);
    let secret = token["token_secret"].as_str().unwrap();
    for format in ["cloud-config", "cloud-cfg-d", "curl"] {
        let preseed = up.cli(&["preseed", "n1", "--format", format]).done();
        assert!(preseed.out.contains(secret), "{format}: {}", preseed.out);
        assert_eq!(preseed.err, "", "{format}");
    }
    let wrong = up.cli(&["preseed", "n1", "--format", "x"]);
    assert_eq!((wrong.code, wrong.out.as_str()), (1, ""), "{wrong:?}");
    assert!(wrong.err.contains("cloud-config"), "it lists the formats: {}", wrong.err);

    // What it prints works.
    let curl = up.cli(&["preseed", "n1", "--format", "curl"]).done().out;
    let shell = std::process::Command::new("sh").args(["-c", &curl]).output().unwrap();
    if std::process::Command::new("curl").arg("--version").output().is_ok() {
        assert_eq!(String::from_utf8_lossy(&shell.stdout), "n1", "{shell:?}");
    }
}

#[test]
fn policy_eval_needs_no_server_and_prints_one_array() {
    let dir = tempfile::tempdir().unwrap();
    let cases = json!([
        {"id": "yes", "rules": {"a": "role:admin"}, "rule": "a", "creds": {"roles": ["admin"]},
         "target": {}},
        {"id": "no", "rules": {"a": "role:admin"}, "rule": "a", "creds": {"roles": []},
         "target": {}},
        {"id": "bad", "rules": {"a": null}, "rule": "a", "creds": {}, "target": {}},
    ]);
    for text in [cases.to_string(), json!({"cases": cases}).to_string()] {
        let mut command = nodeinit();
        command.args(["policy", "eval", "-", "-o", "json"]).current_dir(dir.path());
        let told = run(command, text.as_bytes()).done().json();
        let told: Vec<(&str, &str, bool)> = told
            .as_array()
            .unwrap()
            .iter()
            .map(|case| {
                let text = |name: &str| case[name].as_str().unwrap();
                (text("id"), text("load"), case["allow"].as_bool().unwrap())
            })
            .collect();
        assert_eq!(told, [("yes", "ok", true), ("no", "ok", false), ("bad", "refused", false)]);
    }
    for broken in ["", "{", "7", "{\"cases\": 7}"] {
        let mut command = nodeinit();
        command.args(["policy", "eval", "-"]);
        let ran = run(command, broken.as_bytes());
        assert_eq!((ran.code, ran.out.as_str()), (1, ""), "{broken}: {ran:?}");
    }
}

#[test]
fn completion_prints_a_script_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let mut command = nodeinit();
        command.args(["completion", shell]);
        let ran = run(command, b"").done();
        assert!(ran.out.contains("nodeinit") && ran.out.contains("user-data"), "{shell}");
        assert_eq!(ran.err, "");
    }
}

#[test]
fn whoever_reads_no_further_is_no_failure_and_a_full_disk_is_one() {
    let up = Up::new();
    let line = |i: usize| {
        format!("{}\n", json!({"system_id": format!("n{i}"), "hostname": format!("h{i}")}))
    };
    let nodes: String = (0..800).map(line).collect();
    up.pipe(&["node", "import", "-"], nodes.as_bytes()).done();
    let big: Vec<u8> = b"#!/bin/sh\n".iter().copied().cycle().take(1 << 20).collect();
    up.pipe(&["user-data", "set", "n1", "-"], &big).done();
    for args in [
        &["node", "list"][..],
        &["node", "list", "-o", "json"],
        &["node", "list", "-o", "yaml"],
        &["token", "get", "--all", "-o", "json"],
        &["token", "get", "--all"],
        &["user-data", "get", "n1"],
        &["completion", "bash"],
        &["node", "show", "n1"],
    ] {
        let mut command = up.home.command(args);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let ran = child.wait_with_output().unwrap();
        let err = String::from_utf8_lossy(&ran.stderr).into_owned();
        assert_eq!((ran.status.code(), err.as_str()), (Some(0), ""), "{args:?}");

        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let mut command = up.home.command(args);
        let ran = command.stdout(full).stderr(Stdio::piped()).output().unwrap();
        let err = String::from_utf8_lossy(&ran.stderr).into_owned();
        assert_eq!(ran.status.code(), Some(1), "{args:?}: {err}");
        assert!(err.contains("No space left"), "{args:?}: {err}");
    }
}

/// A server that gives this answer to one request, and its URL.
fn impostor(body: &Value) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let body = body.to_string();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 4096];
        let _ = stream.read(&mut request);
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
             connection: close\r\n\r\n",
            body.len()
        );
        let _ = stream.write_all((head + &body).as_bytes());
    });
    url
}

#[test]
fn no_control_character_reaches_a_table() {
    let evil = "n1\u{1b}[2J\u{7}\r\n\u{9b}31m\u{0}x\u{7f}\u{85}";
    let node = json!({
        "system_id": evil, "hostname": evil, "boot_state": evil, "labels": {evil: evil},
        "created_at": evil, "macs": [evil],
    });
    let list = json!({"items": [node], "next": null});
    for (args, body) in [
        (&["node", "list"][..], &list),
        (&["node", "show", "n1"], &node),
        (&["token", "list"], &json!({"items": [{"token_key": evil, "system_id": evil}]})),
    ] {
        let mut command = nodeinit();
        command.args(args).args(["--auth", "none", "--server", &impostor(body)]);
        let ran = run(command, b"").done();
        let control = |c: &char| c.is_control() && *c != '\n';
        assert_eq!(ran.out.chars().find(control), None, "{args:?}: {:?}", ran.out);
        assert!(ran.out.contains("n1\u{fffd}[2J"), "{:?}", ran.out);
        assert!(!ran.out.contains("\n31m"), "a line break makes no line: {:?}", ran.out);
    }
    let cases = json!([{"id": evil, "rules": {"a": "@"}, "rule": "a", "creds": {}, "target": {}}]);
    let mut command = nodeinit();
    command.args(["policy", "eval", "-"]);
    let ran = run(command, cases.to_string().as_bytes()).done();
    assert_eq!(ran.out.chars().find(|c| c.is_control() && *c != '\n'), None, "{:?}", ran.out);
    // For programs it is as it is.
    let mut command = nodeinit();
    command.args(["policy", "eval", "-", "-o", "json"]);
    let ran = run(command, cases.to_string().as_bytes()).done();
    assert_eq!(ran.json()[0]["id"], evil);
}

#[test]
fn an_error_in_the_configuration_file_names_file_line_and_key() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("nodeinit.yaml");
    let check = |text: &str| {
        std::fs::write(&file, text).unwrap();
        let mut command = nodeinit();
        command.args(["config", "check", "--config", file.to_str().unwrap()]);
        run(command, b"")
    };
    let good = check("# ours\nserver:\n  listen: 127.0.0.1:0\nlimits:\n  page: 10\n");
    assert_eq!((good.code, good.out.as_str()), (0, ""), "{good:?}");
    let at = |line: usize| format!("{}:{line}: ", file.display());
    for (text, line, key) in [
        ("server:\n  listen: nowhere\n", 2, "server.listen"),
        ("server:\n  lisen: x\n", 2, "server.lisen"),
        ("\n\nservr:\n  listen: x\n", 3, "servr"),
        ("limits:\n  # no\n  page: 0\n", 3, "limits.page"),
        ("node:\n  absent-items: maybe\n", 2, "node.absent-items"),
    ] {
        let ran = check(text);
        assert_eq!((ran.code, ran.out.as_str()), (1, ""), "{text}: {ran:?}");
        assert!(ran.err.contains(&at(line)) && ran.err.contains(key), "{text}: {}", ran.err);
    }
    let every = check("server:\n  listen: x\n  admin-listen: y\nlimits:\n  page: z\n");
    for line in [2, 3, 5] {
        assert!(every.err.contains(&at(line)), "every problem: {}", every.err);
    }
    for broken in ["- a\n", "server\n", "server: {listen: [1]}\n", "\t\n: :"] {
        let ran = check(broken);
        assert_eq!(ran.code, 1, "{broken}: {ran:?}");
        assert!(ran.err.contains(&format!("{}:", file.display())), "{broken}: {}", ran.err);
    }
    for command in ["serve", "migrate"] {
        std::fs::write(&file, "server:\n  lisen: x\n").unwrap();
        let mut refused = nodeinit();
        refused.args([command, "--config", file.to_str().unwrap()]).current_dir(dir.path());
        let ran = run(refused, b"");
        assert_eq!(ran.code, 1, "{ran:?}");
        assert!(ran.err.contains(&at(2)) && ran.err.contains("server.lisen"), "{}", ran.err);
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing was begun");
    let mut command = nodeinit();
    command.args(["config", "check", "--config", "/no/such/file"]);
    let ran = run(command, b"");
    assert!(failed(&ran).contains("/no/such/file"), "{}", ran.err);
}

#[test]
fn config_show_prints_every_setting_as_it_is_resolved() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("c.yaml");
    std::fs::write(&file, "limits:\n  page: 10\n  json-depth: 10\n  node-rate: 10\n").unwrap();
    let show = |format: &str| {
        let mut command = nodeinit();
        command.args(["config", "show", "--config", file.to_str().unwrap(), "-o", format]);
        command.args(["--node-rate", "30", "--state-dir", "/var/lib/x"]);
        command.env("NODEINIT_NODE_RATE", "20").env("NODEINIT_JSON_DEPTH", "20");
        run(command, b"").done()
    };
    let shown = show("json").json();
    assert_eq!(shown["limits"]["page"], "10", "the file over the default");
    assert_eq!(shown["limits"]["json-depth"], "20", "the environment over the file");
    assert_eq!(shown["limits"]["node-rate"], "30", "the flag over the environment");
    assert_eq!(shown["limits"]["node-burst"], "200", "the default");
    assert_eq!(shown["server"]["database-url"], "sqlite:/var/lib/x/nodeinit.db");
    for setting in nodeinit::config::SETTINGS {
        assert!(shown[setting.section][setting.name].is_string(), "{}", setting.name);
    }
    let table = show("table").out;
    assert!(table.lines().any(|line| line.starts_with("limits.node-rate")), "{table}");
    assert!(show("yaml").out.contains("node-rate:"));
}

#[test]
fn an_unknown_variable_is_a_warning_and_not_echoed() {
    let mut command = nodeinit();
    command.args(["config", "check"]).env("NODEINIT_LISTN", "hunter2");
    let ran = run(command, b"").done();
    assert!(ran.err.contains("warning: NODEINIT_LISTN"), "{}", ran.err);
    assert!(!ran.err.contains("hunter2"), "{}", ran.err);
    let home = Home::new();
    let mut command = home.command(&["serve", "--listen", "127.0.0.1:0", "--admin-listen", "off"]);
    command.env("NODEINIT_LISTN", "x");
    let server = Process::spawn(command, home.path("admin.sock"));
    assert!(server.stop().contains("warning: NODEINIT_LISTN"));
    // A bad value in a known one is an error that names it.
    let mut command = nodeinit();
    command.args(["config", "check"]).env("NODEINIT_PAGE", "hunter2");
    let ran = run(command, b"");
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("NODEINIT_PAGE") && !ran.err.contains("hunter2"), "{}", ran.err);
}

#[test]
fn the_database_password_is_never_printed() {
    let dir = tempfile::tempdir().unwrap();
    let port = free_port();
    for url in [
        format!("postgres://u:hunter2@127.0.0.1:{port}/n"),
        format!("postgres://u:hunter2@127.0.0.1:{port}/n?connect_timeout=1"),
        format!("postgres://127.0.0.1:{port}/n?user=u&password=hunter2"),
        // As people write them: characters that would have to be escaped.
        format!("postgres://u:hunter2/x@127.0.0.1:{port}/n"),
        format!("postgres://u:hunter2@y@127.0.0.1:{port}/n"),
        format!("postgres://u:hunter2%zz@127.0.0.1:{port}/n"),
        format!("postgres://u:hunter2#x@127.0.0.1:{port}/n"),
        format!("postgres://u:hunter2?x@127.0.0.1:{port}/n"),
        format!("postgres://127.0.0.1:{port}/n?pasword=hunter2"),
        format!("mysql://u:hunter2@127.0.0.1:{port}/n"),
        "hunter2".to_owned(),
    ] {
        for args in [
            &["config", "show"][..],
            &["config", "check"],
            &["migrate"],
            &["migrate", "status"],
            &["serve", "--listen", "127.0.0.1:0", "--admin-listen", "off"],
        ] {
            let state = dir.path().join("state");
            let mut command = nodeinit();
            command.args(args).args(["--state-dir", state.to_str().unwrap()]);
            command.env("NODEINIT_DATABASE_URL", &url);
            let ran = run(command, b"");
            if args[0] != "config" {
                assert_eq!(ran.code, 1, "{url} {args:?}: {ran:?}");
            }
            for text in [&ran.out, &ran.err] {
                assert!(!text.contains("hunter2"), "{url} {args:?}: {text}");
            }
        }
    }
}

#[test]
fn migrate_status_says_what_is_missing_and_changes_nothing() {
    let home = Home::new();
    let status = || {
        let told = home.run(&["migrate", "status", "-o", "json"]).done().json();
        let read = |row: &Value| {
            let name = row["migration"].as_str().unwrap().to_owned();
            (name, row["applied"].as_bool().unwrap())
        };
        told.as_array().unwrap().iter().map(read).collect::<Vec<_>>()
    };
    let before = status();
    assert!(before.len() >= 3 && before.iter().all(|(_, applied)| !applied), "{before:?}");
    assert!(before.windows(2).all(|pair| pair[0].0 < pair[1].0), "sorted: {before:?}");
    assert!(!home.path("nodeinit.db").exists(), "to ask is not to make");
    let table = home.run(&["migrate"]).done().out;
    assert!(table.starts_with("MIGRATION"), "{table}");
    let after = status();
    assert_eq!(after.len(), before.len());
    assert!(after.iter().all(|(_, applied)| *applied), "{after:?}");
    home.run(&["migrate"]).done();
    assert_eq!(status(), after);
}

#[test]
fn serve_prints_one_line_for_each_address_and_they_answer() {
    let home = Home::new();
    let server = home.serve();
    let admin = server.admin.unwrap();
    assert_eq!(
        server.addresses,
        [
            format!("nodeinit: nodes on http://{}/MAAS/metadata/", server.node),
            format!("nodeinit: admin on http://{admin}/"),
            format!("nodeinit: admin socket on unix:{}", home.path("admin.sock").display()),
        ]
    );
    assert!(server.node.port() > 0 && admin.port() > 0, "the real port is told");
    assert_eq!(server.observer().get("/readyz").status, 200);
    assert_eq!(wire::send(server.node, "GET", "/MAAS/metadata/", &[], b"").status, 401);
    assert_eq!(socket::send(&server.socket, "GET", "/readyz", &[], b"").status, 200);
    server.stop();

    let server = home.serve_with(&["--admin-listen", "off"]);
    assert_eq!(server.addresses.len(), 2, "{:?}", server.addresses);
    assert_eq!(server.operator().session.get("/readyz").unwrap()["status"], "ready");
    server.stop();
}

#[test]
fn serve_writes_nothing_to_stdout_and_its_log_is_one_json_object_a_line() {
    let home = Home::new();
    let mut command =
        home.command(&["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let began = Instant::now();
    while UnixStream::connect(home.path("admin.sock")).is_err() {
        assert!(began.elapsed() < Duration::from_mins(1));
        std::thread::sleep(Duration::from_millis(20));
    }
    let path = "/v1/default/nodes?label=hunter2=x";
    assert_eq!(socket::send(&home.path("admin.sock"), "GET", path, &[], b"").status, 200);
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, Signal::INT).unwrap();
    let mut out = String::new();
    child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
    let mut err = String::new();
    child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0), "SIGINT is a stop too: {err}");
    assert_eq!(out, "");
    let lines: Vec<Value> = err
        .lines()
        .filter(|line| !line.starts_with("nodeinit: "))
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}")))
        .collect();
    let request = lines.iter().find(|line| line["message"] == "request").expect("its line");
    assert_eq!(request["route"], "/v1/{project}/nodes");
    assert_eq!(request["status"], 200);
    assert!(request["timestamp"].as_str().unwrap().ends_with('Z'), "UTC: {request}");
    assert!(!err.contains("hunter2"), "no query string: {err}");
}

#[test]
fn an_address_in_use_stops_the_start_and_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let home = Home::new();
    for flags in [
        ["--listen", &address, "--admin-listen", "off"],
        ["--listen", "127.0.0.1:0", "--admin-listen", &address],
    ] {
        let ran = home.run(&[&["serve"][..], &flags].concat());
        assert_eq!((ran.code, ran.out.as_str()), (1, ""), "{ran:?}");
        assert!(ran.err.contains(&address), "{}", ran.err);
    }
    for flags in [["--listen", "nowhere"], ["--page", "0"]] {
        let ran = home.run(&[&["serve"][..], &flags].concat());
        assert_ne!(ran.code, 0);
        assert!(ran.err.contains(flags[0]), "{}", ran.err);
    }
    let open = home.run(&["serve", "--listen", "127.0.0.1:0", "--admin-listen", "0.0.0.0:0"]);
    assert_eq!(open.code, 1, "{open:?}");
    assert!(open.err.contains("--admin-plain-http"), "{}", open.err);
}

#[test]
fn the_state_directory_and_what_is_in_it_are_the_owners_alone() {
    let home = Home::new();
    let dir = home.path("made/on/start");
    // Whatever the umask of whoever starts it.
    let binary = env!("CARGO_BIN_EXE_nodeinit");
    let mut command = home.command(&[]);
    let line = format!("umask 0; exec {binary} serve --listen 127.0.0.1:0 --admin-listen off");
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", &line]);
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    command = shell;
    command.env("NODEINIT_STATE_DIR", &dir);
    if home.database.is_postgres() {
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o700)).unwrap();
        std::fs::copy(home.path("secret.key"), dir.join("secret.key")).unwrap();
    } else {
        command.env("NODEINIT_DATABASE_URL", format!("sqlite:{}/nodeinit.db", dir.display()));
    }
    let server = Process::spawn(command, dir.join("admin.sock"));
    assert_eq!(mode(&dir), 0o700);
    assert_eq!(mode(&dir.join("admin.sock")) & 0o077, 0);
    assert_eq!(mode(&dir.join("secret.key")), 0o600);
    assert_eq!(server.operator().session.get("/v1/default/nodes").unwrap()["items"], json!([]));
    server.stop();
    assert!(!dir.join("admin.sock").exists(), "a clean stop takes the socket away");
}

#[test]
fn by_default_the_state_is_below_the_working_directory() {
    let home = Home::new();
    if home.database.is_postgres() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut command = nodeinit();
    command.args(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "off"]);
    command.current_dir(dir.path());
    let state = dir.path().join("nodeinit-state");
    let server = Process::spawn(command, state.join("admin.sock"));
    assert!(state.join("nodeinit.db").exists() && state.join("secret.key").exists());
    let mut client = nodeinit();
    client.args(["node", "list", "-o", "json"]).current_dir(dir.path());
    assert_eq!(run(client, b"").done().json(), json!([]));
    server.stop();
}

#[test]
fn a_stale_socket_is_replaced() {
    let home = Home::new();
    let server = home.serve();
    server.operator().add("n1", json!({}));
    server.kill();
    assert!(home.path("admin.sock").exists(), "a crash leaves it");
    let server = home.serve();
    assert_eq!(server.operator().session.get("/v1/default/nodes/n1").unwrap()["system_id"], "n1");
    server.stop();
}

#[test]
fn a_second_server_on_one_state_directory_is_refused_with_the_pid_of_the_first() {
    let home = Home::new();
    let server = home.serve();
    let ran = home.run(&["serve", "--listen", "127.0.0.1:0", "--admin-listen", "off"]);
    let told = failed(&ran);
    assert!(told.contains(&format!("process {}", server.pid())), "{told}");
    assert!(told.contains(home.dir.path().to_str().unwrap()), "{told}");
    // The first has lost nothing by it, not even its socket.
    assert_eq!(server.operator().session.get("/readyz").unwrap()["status"], "ready");
    server.operator().add("n1", json!({}));
    server.kill();
    // A lock goes with its process, however that ended.
    home.serve().stop();
}

#[test]
fn a_write_that_was_acknowledged_survives_kill_9() {
    let home = Home::new();
    let mut acknowledged = Vec::new();
    for round in 0..3 {
        let server = home.serve();
        for i in 0..10 {
            let id = format!("n{round}-{i}");
            let node = server.node(&id);
            server.operator().set(&id, "user-data", id.as_bytes());
            acknowledged.push((id, node.token_key));
        }
        server.kill();
    }
    let server = home.serve();
    for (id, key) in &acknowledged {
        let node = server.credentials(id);
        assert_eq!(&node.token_key, key);
        assert_eq!(node.get("/latest/user-data").text(), *id);
    }
    server.stop();
}

#[test]
fn sigterm_says_not_ready_finishes_what_is_under_way_and_ends_with_0() {
    let home = Home::new();
    let mut server = home.serve();
    let node = server.node("n1");
    let big = vec![b'x'; 16 << 20];
    server.operator().set("n1", "user-data", &big);

    // One who reads slowly, and one who writes slowly.
    let header = node.header();
    let mut reader = TcpStream::connect(server.node).unwrap();
    let request = wire::request(
        "GET",
        "/MAAS/metadata/latest/user-data",
        "h",
        &[("Authorization", &header), ("Connection", "close")],
        b"",
    );
    reader.write_all(&request).unwrap();
    let mut answer = vec![0; 1 << 16];
    reader.read_exact(&mut answer).unwrap();
    let mut writer = UnixStream::connect(&server.socket).unwrap();
    let path = "/v1/default/nodes/n1/vendor-data";
    let body = b"#cloud-config\n{}\n";
    let request = wire::request("PUT", path, "h", &[("Connection", "close")], body);
    let (early, late) = request.split_at(request.len() - 5);
    writer.write_all(early).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(server.observer().get("/readyz").status, 200);

    server.signal(Signal::TERM);
    let began = Instant::now();
    loop {
        let reply = server.observer().get("/readyz");
        if reply.status == 503 {
            assert_eq!(reply.json()["status"], "draining");
            assert!(reply.header("retry-after").is_some());
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(5), "it never says so");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(!server.has_ended());
    // Nobody new is let in on the node plane, or at the least nobody is refused by it.
    if let Ok(stream) = TcpStream::connect(server.node) {
        drop(stream);
    }
    writer.write_all(late).unwrap();
    let mut stored = String::new();
    writer.read_to_string(&mut stored).unwrap();
    assert!(stored.starts_with("HTTP/1.1 201 "), "{stored}");
    reader.read_to_end(&mut answer).unwrap();
    let body = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
    assert_eq!(answer.len() - body, big.len(), "the whole body");
    let finished = Instant::now();
    assert_eq!(server.wait(), 0, "{}", server.said());
    assert!(finished.elapsed() < Duration::from_secs(10), "it has nothing left to wait for");
    assert!(home.path("nonces").exists(), "what the next start needs is left");

    let server = home.serve();
    let stored = server.operator().session.get(&format!("{path}/versions")).unwrap();
    assert_eq!(stored["items"].as_array().unwrap().len(), 1);
    server.stop();
}

#[test]
fn idle_connections_do_not_hold_up_a_stop() {
    let home = Home::new();
    let mut server = home.serve();
    let node = server.node("n1");
    let mut kept = wire::Connection::open(server.node);
    let header = node.header();
    let reply = kept.send("GET", "/MAAS/metadata/", &[("Authorization", &header)], b"");
    assert_eq!(reply.status, 200);
    let mut observer = wire::Connection::open(server.admin.unwrap());
    assert_eq!(observer.send("GET", "/readyz", &[], b"").status, 200);
    let silent = TcpStream::connect(server.node).unwrap();
    let began = Instant::now();
    server.signal(Signal::TERM);
    assert_eq!(server.wait(), 0);
    assert!(began.elapsed() < Duration::from_secs(10), "it took {:?}", began.elapsed());
    drop((kept, observer, silent));
}

#[test]
fn sighup_does_not_end_it() {
    let home = Home::new();
    let mut server = home.serve();
    let node = server.node("n1");
    for _ in 0..3 {
        server.signal(Signal::HUP);
        std::thread::sleep(Duration::from_millis(100));
        assert!(!server.has_ended(), "{}", server.said());
        assert_eq!(node.get("/latest/meta-data/instance-id").status, 200);
    }
    server.stop();
}

#[test]
fn systemd_is_told_when_it_is_ready_when_it_reloads_and_when_it_stops() {
    let home = Home::new();
    let path = home.path("notify");
    let told = UnixDatagram::bind(&path).unwrap();
    told.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut command = home.command(&["serve", "--listen", "127.0.0.1:0", "--admin-listen", "off"]);
    command.env("NOTIFY_SOCKET", &path);
    let server = Process::spawn(command, home.path("admin.sock"));
    let next = || {
        let mut buffer = [0; 256];
        let length = told.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    assert!(next().contains("READY=1"));
    server.signal(Signal::HUP);
    let reloading = next();
    assert!(reloading.contains("RELOADING=1\nMONOTONIC_USEC="), "{reloading}");
    assert!(next().contains("READY=1"));
    server.stop();
    assert!(next().contains("STOPPING=1"));
}

#[test]
fn the_client_speaks_to_whom_it_is_told_and_says_what_it_was_answered() {
    let up = Up::new();
    let url = format!("http://{}", up.server.admin.unwrap());
    let mut command = nodeinit();
    command.args(["node", "list", "--auth", "none", "--server", &url]);
    let ran = run(command, b"");
    assert!(failed(&ran).contains("X-Auth-Token"), "{}", ran.err);
    // And who is no nodeinit at all.
    let mut command = nodeinit();
    command.args(["node", "show", "n1", "--auth", "none", "--server", &impostor(&json!("<html>"))]);
    let ran = run(command, b"");
    assert!(ran.code == 0 || ran.code == 1, "{ran:?}");
    let reply = up.server.operator().send(Method::GET, "/v1/default/nodes", &[], b"");
    assert_eq!(reply.status, 200);
}
