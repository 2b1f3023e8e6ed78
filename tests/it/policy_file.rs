//! The policy file of a running server: what changes it, what leaves the rules as they are, and who
//! is told.

use std::fs::{self, File, FileTimes};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::process::{Home, Process};
use crate::support::{Method, Operator, Options, Stranger, TestServer};

const DENY: &str = "node:list: '!'\n";
const ALLOW: &str = "node:list: '@'\n";
const BROKEN: &str = "# rules\nnode:list: role:admin or\n";
/// Longer than a look at the file is away, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(20);
/// Longer than two looks are apart.
const TWO_LOOKS: Duration = Duration::from_millis(2500);

struct Policy {
    dir: TempDir,
    path: PathBuf,
}

impl Policy {
    fn new(text: &str) -> Policy {
        let dir = tempfile::Builder::new().prefix("policy").tempdir().unwrap();
        let path = dir.path().join("policy.yaml");
        fs::write(&path, text).unwrap();
        Policy { dir, path }
    }

    fn write(&self, text: &str) {
        fs::write(&self.path, text).unwrap();
    }

    /// Another file in its place, as editors and `mv` do it.
    fn replace(&self, text: &str) {
        let new = self.dir.path().join("new.yaml");
        fs::write(&new, text).unwrap();
        fs::rename(new, &self.path).unwrap();
    }

    fn written_at(&self) -> SystemTime {
        fs::metadata(&self.path).unwrap().modified().unwrap()
    }

    fn set_written_at(&self, at: SystemTime) {
        let file = File::options().write(true).open(&self.path).unwrap();
        file.set_times(FileTimes::new().set_modified(at)).unwrap();
    }

    fn server(&self) -> TestServer {
        TestServer::start_with(
            Options::default().flag("policy-file", &self.path.display().to_string()),
        )
    }
}

fn list(operator: &Operator) -> u16 {
    operator.send(Method::GET, "/v1/default/nodes", &[], b"").status
}

#[track_caller]
fn until(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[track_caller]
fn becomes(server: &TestServer, status: u16) {
    until(&format!("never {status}"), || list(&server.operator()) == status);
}

fn health(observer: &Stranger) -> Value {
    let reply = observer.get("/healthz");
    assert_eq!(reply.status, 200);
    reply.json()
}

#[track_caller]
fn becomes_degraded(server: &TestServer) {
    until("never degraded", || health(&server.observer())["status"] == "degraded");
}

#[track_caller]
fn becomes_well(server: &TestServer) {
    until("never well", || health(&server.observer()) == json!({"status": "ok"}));
}

#[test]
fn an_edit_takes_effect_within_seconds_though_the_clock_stands() {
    let policy = Policy::new("node:list: role:admin\n");
    let server = policy.server();
    assert_eq!(list(&server.operator()), 200);
    policy.write(DENY);
    becomes(&server, 403);
    policy.replace(ALLOW);
    becomes(&server, 200);
    assert_eq!(health(&server.observer()), json!({"status": "ok"}));
}

#[test]
fn other_content_of_the_same_age_and_size_is_noticed() {
    let policy = Policy::new(ALLOW);
    let server = policy.server();
    let at = policy.written_at();
    std::thread::sleep(TWO_LOOKS);
    policy.write(DENY);
    policy.set_written_at(at);
    assert_eq!(policy.written_at(), at);
    assert_eq!(ALLOW.len(), DENY.len());
    becomes(&server, 403);
    policy.replace(ALLOW);
    policy.set_written_at(at);
    becomes(&server, 200);
}

#[test]
fn an_older_file_put_back_is_noticed() {
    let policy = Policy::new(ALLOW);
    let server = policy.server();
    policy.replace(DENY);
    policy.set_written_at(policy.written_at() - Duration::from_hours(24 * 365));
    becomes(&server, 403);
}

#[test]
fn what_cannot_be_used_leaves_the_rules_as_they_are_and_is_told_until_repaired() {
    let policy = Policy::new(DENY);
    let server = policy.server();
    let unusable = [
        (BROKEN, "line 2, column "),
        ("", "line 1, column 1: the file holds no rules"),
        ("- node:list\n", "line 1, column 1: "),
        ("\nnode:list:\n", "line 2, column 1: "),
        ("node:list: '!'\nnode:list: '@'\n", "line 2, column 1: "),
        ("node:raed: '@'\n", "line 1, column 1: "),
    ];
    for (text, problem) in unusable {
        policy.write(text);
        until(text, || {
            let shown = server.operator().session.get("/v1/policy").unwrap();
            let problems = &shown["file"]["problems"];
            problems[0].as_str().is_some_and(|first| first.starts_with(problem))
        });
        assert_eq!(list(&server.operator()), 403, "{text:?}");
        let health = health(&server.observer());
        assert_eq!(health["status"], "degraded");
        let reason = health["reason"].to_string();
        assert!(!reason.contains("node:") && !reason.contains("role"), "{reason}");
    }
    // The very rules that hold, written again: a repair.
    policy.write(DENY);
    becomes_well(&server);
    let shown = server.operator().session.get("/v1/policy").unwrap();
    assert_eq!(shown["file"]["state"], "loaded");
    assert_eq!(shown["file"]["problems"], json!([]));
    fs::remove_file(&policy.path).unwrap();
    becomes_degraded(&server);
    assert_eq!(list(&server.operator()), 403);
    policy.write(ALLOW);
    becomes(&server, 200);
    becomes_well(&server);
}

#[test]
fn a_file_that_is_moved_away_and_back_is_good_again() {
    let policy = Policy::new(DENY);
    let server = policy.server();
    let away = policy.dir.path().join("away.yaml");
    fs::rename(&policy.path, &away).unwrap();
    becomes_degraded(&server);
    fs::rename(&away, &policy.path).unwrap();
    becomes_well(&server);
    assert_eq!(list(&server.operator()), 403);
}

#[test]
fn a_link_that_is_turned_to_another_file_is_noticed() {
    let policy = Policy::new(ALLOW);
    let [first, second] = ["first", "second"].map(|name| policy.dir.path().join(name));
    let at = policy.written_at();
    for (path, text) in [(&first, ALLOW), (&second, DENY)] {
        fs::create_dir(path).unwrap();
        let file = path.join("policy.yaml");
        fs::write(&file, text).unwrap();
        File::options().write(true).open(&file).unwrap().set_modified(at).unwrap();
    }
    let link = policy.dir.path().join("current");
    let turn = |to: &Path| {
        let new = policy.dir.path().join("new");
        std::os::unix::fs::symlink(to, &new).unwrap();
        fs::rename(new, &link).unwrap();
    };
    turn(&first);
    let path = link.join("policy.yaml").display().to_string();
    let server = TestServer::start_with(Options::default().flag("policy-file", &path));
    assert_eq!(list(&server.operator()), 200);
    turn(&second);
    becomes(&server, 403);
}

#[test]
fn lists_json_and_folded_text_are_rules_too() {
    let policy = Policy::new("node:list: [['!']]\n");
    let server = policy.server();
    assert_eq!(list(&server.operator()), 403);
    policy.write("{\"node:list\": [[\"role:reader\"], [\"role:admin\", \"socket:True\"]]}\n");
    becomes(&server, 200);
    policy.write("node:list: >-\n  role:admin\n  and socket:False\n");
    becomes(&server, 403);
    assert_eq!(health(&server.observer()), json!({"status": "ok"}));
}

#[test]
fn without_a_file_the_compiled_in_rules_hold() {
    let server = TestServer::start();
    assert_eq!(list(&server.operator()), 200);
    assert_eq!(health(&server.observer()), json!({"status": "ok"}));
    assert_eq!(server.operator().session.get("/v1/policy").unwrap()["file"], Value::Null);
}

/// The lines of the log at this level.
fn lines(process: &Process, level: &str) -> Vec<Value> {
    let said = process.said();
    let lines = said.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["level"] == level).collect()
}

#[test]
fn each_broken_state_is_one_error_with_its_place_and_sighup_looks_at_once() {
    let home = Home::new();
    let policy = Policy::new(DENY);
    let path = policy.path.display().to_string();
    let process = home.serve_with(&["--policy-file", &path]);
    assert_eq!(list(&process.operator()), 403);

    policy.write(BROKEN);
    process.signal(Signal::HUP);
    until("no error", || lines(&process, "ERROR").len() == 1);
    let error = lines(&process, "ERROR").remove(0);
    assert_eq!(error["file"], path.as_str());
    assert!(error["problems"].as_str().unwrap().starts_with("line 2, column "), "{error}");
    std::thread::sleep(TWO_LOOKS);
    process.signal(Signal::HUP);
    std::thread::sleep(TWO_LOOKS);
    assert_eq!(lines(&process, "ERROR").len(), 1, "{}", process.said());
    assert_eq!(health(&process.observer())["status"], "degraded");

    policy.write("node:list:\nnode:show: 5\n");
    until("no second error", || lines(&process, "ERROR").len() == 2);
    let error = lines(&process, "ERROR").remove(1);
    let problems = error["problems"].as_str().unwrap();
    assert!(problems.starts_with("line 1, column 1: "), "{error}");
    assert!(problems.contains("; line 2, column 12: "), "{error}");
    fs::remove_file(&policy.path).unwrap();
    until("no third error", || lines(&process, "ERROR").len() == 3);
    assert_eq!(list(&process.operator()), 403);
    std::thread::sleep(TWO_LOOKS);

    policy.write(ALLOW);
    until("not repaired", || list(&process.operator()) == 200);
    assert_eq!(health(&process.observer()), json!({"status": "ok"}));
    assert_eq!(lines(&process, "ERROR").len(), 3, "{}", process.said());
    process.stop();
}

#[test]
fn a_file_that_is_missing_or_broken_stops_the_start_and_fails_the_check() {
    let home = Home::new();
    let path = home.path("policy.yaml").display().to_string();
    let started = || home.run(&["serve", "--listen", "127.0.0.1:0", "--policy-file", &path]);
    let checked = || home.run(&["config", "check", "--policy-file", &path, "--page", "0"]);

    for ran in [started(), checked()] {
        assert_eq!(ran.code, 1, "{ran:?}");
        assert!(ran.err.contains(&path), "{ran:?}");
    }
    fs::write(&path, "node:list: role:a)\n\nnode:raed: '@'\n").unwrap();
    let started = home.run(&["serve", "--listen", "127.0.0.1:0", "--policy-file", &path]);
    for ran in [&started, &checked()] {
        assert_eq!((ran.code, ran.out.as_str()), (1, ""), "{ran:?}");
        for place in
            ["line 1, column 18: rule 'node:list': ", "line 3, column 1: rule 'node:raed': "]
        {
            assert!(ran.err.contains(&format!("{path}: {place}")), "{ran:?}");
        }
    }
    assert!(checked().err.contains("--page: "), "every problem");
    assert!(!home.path("admin.sock").exists() && !home.path("nodeinit.db").exists());
    fs::write(&path, DENY).unwrap();
    let good = home.run(&["config", "check", "--policy-file", &path]);
    assert_eq!(good.code, 0, "{good:?}");
    let shown = home.run(&["config", "show", "--policy-file", &path, "-o", "json"]).done().json();
    assert_eq!(shown["identity"]["policy-file"], path.as_str());
    assert_eq!(shown["identity"]["service-token-window"], "172800s");
}
