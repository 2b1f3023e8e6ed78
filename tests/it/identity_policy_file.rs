//! A policy file that is edited under a running server: the cases F.. of `tests/data/identity`.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::Options;
use crate::support::process::{Home, nodeinit, run};
use crate::support::realm::{Caller, JSON, Realm};

/// The admin may list users, as by default.
const OPEN: &str = "user:list: \"role:admin\"\n";
/// Nobody may.
const SHUT: &str = "user:list: \"!\"\n";

struct Policed {
    realm: Realm,
    reader: Caller,
    path: PathBuf,
    _dir: TempDir,
}

impl Policed {
    fn start(text: &str) -> Policed {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("policy.yaml");
        fs::write(&path, text).unwrap();
        let options = Options::default().flag("policy-file", path.to_str().unwrap());
        let realm = Realm::start_with(options);
        let reader = realm.admin.person("reader", "reader", &realm.t1).caller;
        Policed { realm, reader, path, _dir: dir }
    }

    fn write(&self, text: &str) {
        fs::write(&self.path, text).unwrap();
    }

    /// What the admin and a reader get who list the users.
    fn answers(&self) -> (u16, u16) {
        (self.realm.admin.get("/v2.0/users").status, self.reader.get("/v2.0/users").status)
    }

    fn health(&self) -> Value {
        let reply = self.realm.nobody().get("/healthz");
        assert_eq!(reply.status, 200, "it lives: {}", reply.text());
        reply.json()["status"].clone()
    }

    /// Waits for what the file has come to: it is looked at once a second.
    #[track_caller]
    fn comes_to(&self, answers: (u16, u16), health: &str, why: &str) {
        let began = Instant::now();
        loop {
            let now = (self.answers(), self.health());
            if now == (answers, json!(health)) {
                return;
            }
            assert!(began.elapsed() < Duration::from_secs(20), "{why}: {now:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The old rules stay, health says so, and nothing is a 5xx.
    #[track_caller]
    fn keeps(&self, answers: (u16, u16), why: &str) {
        self.comes_to(answers, "degraded", why);
        for _ in 0..3 {
            assert_eq!((self.answers(), self.health()), (answers, json!("degraded")), "{why}");
        }
    }

    /// None of these is taken, whoever reads it; a server whose file shuts stays shut.
    #[track_caller]
    fn refuses(&self, texts: &[&str]) {
        for text in texts {
            let path = self.path.with_extension("tried");
            fs::write(&path, text).unwrap();
            let mut command = nodeinit();
            command.args(["policy", "check", path.to_str().unwrap()]);
            let ran = run(command, b"");
            assert_eq!(ran.code, 1, "{text}: {ran:?}");
            assert!(ran.err.contains("policy.tried:"), "where: {text}: {}", ran.err);
        }
        for text in [texts.first(), texts.last()].into_iter().flatten() {
            self.write(text);
            self.keeps((403, 403), text);
            self.write(OPEN);
            self.comes_to((200, 403), "ok", text);
            self.write(SHUT);
            self.comes_to((403, 403), "ok", text);
        }
    }

    fn set_mtime(&self, to: SystemTime) {
        File::options().write(true).open(&self.path).unwrap().set_modified(to).unwrap();
    }

    fn mtime(&self) -> SystemTime {
        fs::metadata(&self.path).unwrap().modified().unwrap()
    }
}

#[test]
fn f01_an_edit_takes_effect() {
    let policed = Policed::start(OPEN);
    assert_eq!((policed.answers(), policed.health()), ((200, 403), json!("ok")));
    policed.write(SHUT);
    policed.comes_to((403, 403), "ok", "an edit");
    policed.write("user:list: \"role:admin or role:reader\"\n");
    policed.comes_to((200, 200), "ok", "another edit");
}

#[test]
fn f02_the_same_mtime_and_other_content() {
    let policed = Policed::start(OPEN);
    let then = policed.mtime();
    policed.write(SHUT);
    policed.set_mtime(then);
    policed.comes_to((403, 403), "ok", "another size");

    // The same size and mtime, moved into place.
    let same_size = "user:list: \"@\"\n";
    assert_eq!(same_size.len(), SHUT.len());
    let beside = policed.path.with_extension("new");
    fs::write(&beside, same_size).unwrap();
    File::options().write(true).open(&beside).unwrap().set_modified(then).unwrap();
    fs::rename(&beside, &policed.path).unwrap();
    policed.comes_to((200, 200), "ok", "another inode");

    // An older one, as out of a backup.
    policed.write(SHUT);
    policed.set_mtime(then - Duration::from_hours(24));
    policed.comes_to((403, 403), "ok", "an older file");
}

/// What `nodeinit serve` says that does not come up.
fn refused_start(text: Option<&str>) -> String {
    let home = Home::new();
    let path = home.path("policy.yaml");
    if let Some(text) = text {
        fs::write(&path, text).unwrap();
    }
    let listen = ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
    let mut command = home.command(&["serve", "--policy-file", path.to_str().unwrap()]);
    command.args(listen);
    let ran = run(command, b"");
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains("policy.yaml"), "{}", ran.err);
    assert_eq!(ran.out, "");
    ran.err
}

#[test]
fn f05_broken_at_the_start() {
    let said = refused_start(Some("user:list: \"role:admin\"\n\nuser:create: \"role:\"\n"));
    assert!(said.contains("policy.yaml:3") || said.contains("line 3"), "{said}");
    let said = refused_start(Some("user:list: [\n"));
    assert!(said.contains("policy.yaml:") || said.contains("line "), "{said}");
    refused_start(Some(""));
    refused_start(None);
}

#[test]
fn f06_a_repaired_file() {
    let policed = Policed::start(SHUT);
    policed.write("user:list: \"role:admin\n");
    policed.keeps((403, 403), "broken");
    policed.write(OPEN);
    policed.comes_to((200, 403), "ok", "repaired");
    // What was good before may come back as it was.
    policed.write("user:list: \n");
    policed.keeps((200, 403), "broken again");
    policed.write(OPEN);
    policed.comes_to((200, 403), "ok", "as it was");
}

#[test]
fn f07_the_file_is_removed_while_running() {
    let policed = Policed::start(SHUT);
    fs::remove_file(&policed.path).unwrap();
    policed.keeps((403, 403), "removed");
    fs::create_dir(&policed.path).unwrap();
    policed.keeps((403, 403), "a directory in its place");
    fs::remove_dir(&policed.path).unwrap();
    policed.write(OPEN);
    policed.comes_to((200, 403), "ok", "there again");
}

#[test]
fn f08_an_empty_file_or_comments_only() {
    let policed = Policed::start(SHUT);
    policed.refuses(&["", "\n\n", "   \n# nothing\n", "---\n", "\u{feff}", "# user:list: \"@\"\n"]);
    fs::write(&policed.path, [0xff, 0xfe, 0x00]).unwrap();
    policed.keeps((403, 403), "not UTF-8");
}

#[test]
fn f09_the_top_level_is_a_list_or_text() {
    let policed = Policed::start(SHUT);
    let texts = ["- user:list\n", "\"@\"\n", "[]\n", "1\n", "null\n", "just words\n"];
    policed.refuses(&texts);
}

#[test]
fn f10_a_rule_without_a_value() {
    let policed = Policed::start(SHUT);
    let values = ["", "null", "~", "false", "0", "{}", "\"   \"", "[[]]", "[[\"@\"], []]", "!"];
    let texts = values.map(|value| format!("user:list: {value}\n"));
    policed.refuses(&texts.each_ref().map(String::as_str));
    for allows in ["\"\"", "[]", "\"@\""] {
        policed.write(&format!("user:list: {allows}\n"));
        policed.comes_to((200, 200), "ok", allows);
    }
}

#[test]
fn f13_a_duplicate_key() {
    let policed = Policed::start(SHUT);
    policed.refuses(&[
        "user:list: \"!\"\nuser:list: \"@\"\n",
        "user:list: \"@\"\n\"user:list\": \"@\"\n",
    ]);
}

#[test]
fn f15_a_json_file_a_list_of_lists_and_folded_text() {
    let policed = Policed::start(SHUT);
    for text in [
        r#"{"user:list": "role:admin"}"#,
        "{\n  \"user:list\": [[\"role:admin\"]]\n}\n",
        "user:list:\n  - [\"role:admin\"]\n",
        "user:list:\n- - role:admin\n  - rule:others\n- - role:nobody\nothers: \"@\"\n",
        "user:list: >\n  role:admin\n  or role:nobody\n",
        "user:list: |\n  role:nobody or\n  role:admin\n",
    ] {
        policed.write(text);
        policed.comes_to((200, 403), "ok", text);
        policed.write(SHUT);
        policed.comes_to((403, 403), "ok", text);
    }
}

#[test]
fn f17_an_unknown_action_name() {
    let policed = Policed::start(SHUT);
    let names = ["node:raed", "user:List", "users:list", "unused"];
    let texts = names.map(|name| format!("user:list: \"@\"\n\"{name}\": \"@\"\n"));
    policed.refuses(&texts.each_ref().map(String::as_str));
    // A name of one's own is good once another rule uses it.
    policed.write("user:list: \"rule:everybody\"\neverybody: \"@\"\n");
    policed.comes_to((200, 200), "ok", "a helper");
}

#[test]
fn f18_the_rule_is_missing_and_a_default_defined() {
    let home = Home::new();
    let case = |id: &str, rules: Value, roles: Value| {
        json!({
            "id": id, "rules": rules, "default_rule": "default", "rule": "user:list",
            "creds": {"roles": roles}, "target": {},
        })
    };
    let cases = json!([
        case("allows", json!({"default": "role:admin"}), json!(["admin"])),
        case("denies", json!({"default": "role:admin"}), json!(["reader"])),
        case("itself", json!({"default": "!", "user:list": "@"}), json!(["reader"])),
        case("none", json!({"other": "@"}), json!(["admin"])),
    ]);
    fs::write(home.path("cases.json"), cases.to_string()).unwrap();
    let answers = home.run(&["policy", "eval", "cases.json", "-o", "json"]).done().json();
    let answers: Vec<_> =
        answers.as_array().unwrap().iter().map(|a| (a["id"].clone(), a["allow"].clone())).collect();
    let expected = [("allows", true), ("denies", false), ("itself", true), ("none", false)]
        .map(|(id, allow)| (json!(id), json!(allow)));
    assert_eq!(answers, expected);

    // Every action has a rule of its own, so what the file does not name stays as compiled in.
    let policed = Policed::start("default: \"!\"\n");
    policed.comes_to((200, 403), "ok", "not the default");
}

#[test]
fn f19_the_default_refers_to_a_missing_rule() {
    let policed = Policed::start(SHUT);
    policed.refuses(&[
        "default: \"rule:gone\"\n",
        "default: \"rule:default\"\n",
        "user:list: \"rule:gone\"\n",
        "user:list: \"not rule:gone\"\n",
        "user:list: \"rule:user:list\"\n",
        "user:list: \"rule:a\"\na: \"rule:b\"\nb: \"rule:a\"\n",
    ]);
}

#[test]
fn f21_an_http_check() {
    let policed = Policed::start(SHUT);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let texts = [
        format!("user:list: \"http://{address}/x\"\n"),
        format!("user:list: \"https://{address}/x\"\n"),
        format!("user:list: [[\"http://{address}/%(user.id)s\"]]\n"),
        format!("user:list: \"role:admin or http://{address}/x\"\n"),
        format!("user:list: \"rule:asked\"\nasked: \"http://{address}/x\"\n"),
    ];
    policed.refuses(&texts.each_ref().map(String::as_str));
    refused_start(Some(&texts[0]));
    let nobody = listener.accept().map(|_| ()).map_err(|e| e.kind());
    assert_eq!(nobody, Err(std::io::ErrorKind::WouldBlock), "a connection was made");
}

#[test]
fn a_file_may_leave_the_moving_of_nodes_to_those_of_their_project() {
    let policed = Policed::start("node:move: \"rule:provisioner\"\n");
    let realm = &policed.realm;
    let mover = realm.admin.person("mover", "provisioner", &realm.t1).caller;
    let node = json!({"system_id": "n1", "hostname": "n1"});
    assert_eq!(mover.post("/v1/t1/nodes", &node).status, 201);
    let to = |caller: &Caller| {
        let body = json!({"project": "t2"}).to_string();
        let reply = caller.send("PATCH", "/v1/t1/nodes/n1", &[JSON], body.as_bytes());
        (reply.status, reply.text())
    };
    assert_eq!(to(&policed.reader).0, 403);
    let (status, text) = to(&mover);
    assert_eq!(status, 200, "policy is told which node it is: {text}");
}
