//! What nodes post: status events, signals and files (CONTRACT §6). The ids are those of the
//! conformance cases and of the checks of the real client (D).

use std::io::Write as _;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nodeinit::domain::report::SIGNALS;
use serde_json::{Value, json};

use crate::support::plane::assert_refused;
use crate::support::{Method, Node, Options, Reply, TestServer, rows, wire};

/// An event as cloud-init sends it, with these fields changed.
fn event(changes: Value) -> Value {
    let mut event = json!({
        "name": "init-network/check-cache",
        "description": "attempting to read from cache [trust]",
        "event_type": "start",
        "origin": "cloudinit",
        "timestamp": 1_795_315_087.840_638,
    });
    for (name, value) in changes.as_object().unwrap() {
        event[name] = value.clone();
    }
    event
}

impl Node {
    fn post(&self, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        let header = self.header();
        let headers = [&[("Authorization", header.as_str())], headers].concat();
        self.send("POST", path, &headers, body)
    }

    /// Posts an event as cloud-init does: without a media type.
    fn report(&self, event: &Value) -> Reply {
        self.report_bytes(event.to_string().as_bytes())
    }

    fn report_bytes(&self, body: &[u8]) -> Reply {
        self.post(&format!("/status/{}", self.system_id), &[], body)
    }

    fn signal(&self, form: &str) -> Reply {
        let form_type = [("Content-Type", "application/x-www-form-urlencoded")];
        self.post("/latest/", &form_type, form.as_bytes())
    }

    /// MAAS's multipart: fields, then files that are named by their fields.
    fn multipart(&self, fields: &[(&str, &str)], files: &[(&str, &[u8])]) -> Reply {
        let mut body = Vec::new();
        for (name, value) in fields {
            let part = format!(
                "--b\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n"
            );
            body.extend(part.bytes());
        }
        for (name, bytes) in files {
            let head = format!(
                "--b\r\nContent-Disposition: form-data; name=\"{name}\"; filename=\"{name}\"\r\n\
                 Content-Type: application/octet-stream\r\n\r\n"
            );
            body.extend(head.bytes());
            body.extend_from_slice(bytes);
            body.extend(b"\r\n");
        }
        body.extend(b"--b--\r\n");
        let media_type = [("Content-Type", "multipart/form-data; boundary=b")];
        self.post("/2012-03-01/", &media_type, &body)
    }
}

impl TestServer {
    fn events(&self, system_id: &str) -> Vec<Value> {
        let path = format!("/v1/default/nodes/{system_id}/events");
        self.operator().session.list(&path, None).unwrap()
    }

    fn file(&self, event: &Value, ordinal: usize) -> Reply {
        let (node, id) = (event["system_id"].as_str().unwrap(), event["id"].as_str().unwrap());
        let path = format!("/v1/default/nodes/{node}/events/{id}/files/{ordinal}");
        self.operator().send(Method::GET, &path, &[], b"")
    }
}

fn started() -> (TestServer, Node) {
    let server = TestServer::start();
    let node = server.node("n1");
    (server, node)
}

#[track_caller]
fn assert_taken(reply: &Reply) {
    assert_eq!(reply.brief(), (204, String::new()), "{reply:?}");
}

#[test]
fn w01_w02_w03_w04_only_a_good_signature_reports() {
    let (server, node) = started();
    let other = server.node("n2");
    let body = event(json!({})).to_string();
    let send = |authorization: Option<&str>| {
        let headers: Vec<(&str, &str)> =
            authorization.iter().map(|value| ("Authorization", *value)).collect();
        node.send("POST", "/status/n1", &headers, body.as_bytes())
    };
    assert_refused(&send(None), "credentials_missing");
    assert_refused(&send(Some("garbage")), "credentials_missing");
    assert_refused(&send(Some("OAuth oauth_token=\"")), "credentials_malformed");
    let bare = format!("oauth_token={}", node.token_key);
    assert_refused(&send(Some(&bare)), "credentials_missing");
    for liar in [
        Node { token_secret: other.token_secret.clone(), ..node.clone() },
        Node { token_key: "x".repeat(18), ..node.clone() },
        Node { token_key: other.token_key.clone(), ..node.clone() },
    ] {
        assert_refused(&send(Some(&liar.header())), "credentials_refused");
    }
    assert_eq!(rows::count(&server.database, "events"), 0);
    assert_taken(&send(Some(&node.header())));
}

#[test]
fn w05_d44_an_event_is_taken_with_or_without_a_media_type() {
    let (server, node) = started();
    let body = event(json!({}));
    assert_taken(&node.report(&body));
    let typed = event(json!({"event_type": "finish", "result": "WARN", "duration": 0.1234}));
    let typed = typed.to_string();
    let json = [("Content-Type", "application/json")];
    assert_taken(&node.post("/status/n1", &json, typed.as_bytes()));
    // curtin's tree is the same one.
    let curtin = json!({"name": "cmd-install", "description": "curtin command install",
        "event_type": "finish", "origin": "curtin", "timestamp": 1_795_315_088.5, "level": "ERROR",
        "result": "FAILURE"});
    assert_taken(&node.post("/curtin/status/n1/", &json, curtin.to_string().as_bytes()));

    let events = server.events("n1");
    let received = server.clock.now().to_string();
    let expected = [
        json!({"system_id": "n1", "event_type": "start", "origin": "cloudinit",
            "name": "init-network/check-cache",
            "description": "attempting to read from cache [trust]", "result": null,
            "timestamp": "2026-11-22T02:38:07.840638Z", "received_at": received, "files": [],
            "extra": {}}),
        json!({"system_id": "n1", "event_type": "finish", "origin": "cloudinit",
            "name": "init-network/check-cache",
            "description": "attempting to read from cache [trust]", "result": "WARN",
            "timestamp": "2026-11-22T02:38:07.840638Z", "received_at": received, "files": [],
            "extra": {"duration": 0.1234}}),
        json!({"system_id": "n1", "event_type": "finish", "origin": "curtin",
            "name": "cmd-install", "description": "curtin command install", "result": "FAIL",
            "timestamp": "2026-11-22T02:38:08.5Z", "received_at": received, "files": [],
            "extra": {"level": "ERROR"}}),
    ];
    let without_ids: Vec<Value> = events
        .into_iter()
        .map(|mut event| {
            event.as_object_mut().unwrap().shift_remove("id");
            event
        })
        .collect();
    assert_eq!(without_ids, expected);
}

#[test]
fn w06_w09_d51_what_is_no_json_object_is_refused_and_the_connection_kept() {
    let (server, node) = started();
    let mut connection = wire::Connection::open(server.node);
    for (body, why) in [
        ("", "the report is not JSON"),
        ("{", "the report is not JSON"),
        ("not json SECRET", "the report is not JSON"),
        ("{\"name\": NaN}", "the report is not JSON"),
        ("{} {}", "the report is not JSON"),
        ("1", "the report is not one JSON object of single keys, at most 1000"),
        ("null", "the report is not one JSON object of single keys, at most 1000"),
        ("\"SECRET\"", "the report is not one JSON object of single keys, at most 1000"),
        ("[]", "the report is not one JSON object of single keys, at most 1000"),
        (
            "{\"name\": \"a\", \"name\": \"b\"}",
            "the report is not one JSON object of single keys, at most 1000",
        ),
    ] {
        let header = node.header();
        let headers = [("Authorization", header.as_str())];
        let reply = connection.send("POST", "/MAAS/metadata/status/n1", &headers, body.as_bytes());
        assert_eq!(reply.brief(), (400, why.to_owned()), "{body}");
    }
    let latin = b"{\"name\": \"\xe9\"}";
    assert_eq!(node.report_bytes(latin).brief(), (400, "the report is not UTF-8".into()));
    assert_eq!(rows::count(&server.database, "events"), 0);
}

#[test]
fn w07_w10_every_problem_is_named_and_nothing_is_stored() {
    let (server, node) = started();
    let required = "event_type: this is required\norigin: this is required\n\
                    name: this is required\ndescription: this is required";
    assert_eq!(node.report(&json!({})).brief(), (400, required.into()));
    for (changes, why) in [
        (json!({"timestamp": "x"}), "timestamp: this must be a number"),
        (json!({"timestamp": {}}), "timestamp: this must be a number"),
        (json!({"event_type": "signal"}), "event_type: start, progress or finish"),
        (json!({"event_type": "SECRET"}), "event_type: start, progress or finish"),
        (json!({"result": "OK"}), "result: SUCCESS, WARN, FAIL or FAILURE"),
        (json!({"result": 1}), "result: this must be text"),
        (json!({"name": null}), "name: this is required"),
        (json!({"origin": 1}), "origin: this must be text"),
        (json!({"duration": "long"}), "duration: this must be a number"),
        (json!({"files": {}}), "files: a list of objects of single keys"),
        (json!({"files": [1]}), "files: a list of objects of single keys"),
    ] {
        assert_eq!(node.report(&event(changes.clone())).brief(), (400, why.into()), "{changes}");
    }
    assert_eq!(rows::count(&server.database, "events"), 0);
}

#[test]
fn w08_d48_any_text_and_any_time_is_taken() {
    let (server, node) = started();
    let send = |fields: &str| {
        let body = format!(r#"{{"event_type": "start", "origin": "o", "name": "n", {fields}}}"#);
        assert_taken(&node.report_bytes(body.as_bytes()));
        server.events("n1").pop().unwrap()
    };
    for (sent, kept) in [
        ("\u{e9}€😀".to_owned(), "\u{e9}€😀".to_owned()),
        (r"\u00ef\ud83d\ude00".to_owned(), "\u{ef}\u{1f600}".to_owned()),
        (r"\u0000".to_owned(), "\u{fffd}".to_owned()),
        (r"\ud83d".to_owned(), "\u{fffd}".to_owned()),
        (r"\ude00\ud83d x".to_owned(), "\u{fffd}\u{fffd} x".to_owned()),
        (r"\u001b[31m\n".to_owned(), "\u{1b}[31m\n".to_owned()),
        ("x".repeat(64 << 10), "x".repeat(64 << 10)),
        (String::new(), String::new()),
    ] {
        let stored = send(&format!(r#""description": "{sent}", "\u0000": "{sent}""#));
        assert_eq!(stored["description"], kept.as_str());
        assert_eq!(stored["extra"]["\u{fffd}"], kept.as_str());
    }
    for (sent, instant, kept) in [
        ("2090000000", json!("2036-03-24T19:33:20Z"), Value::Null),
        ("0", json!("1970-01-01T00:00:00Z"), Value::Null),
        ("-86400.5", json!("1969-12-30T23:59:59.5Z"), Value::Null),
        ("1e400", Value::Null, json!("1e400")),
        ("-99999999999999999999999", Value::Null, json!("-99999999999999999999999")),
    ] {
        let stored = send(&format!(r#""description": "", "timestamp": {sent}"#));
        assert_eq!(stored["timestamp"], instant, "{sent}");
        assert_eq!(stored["extra"]["timestamp"], kept, "{sent}");
        assert_eq!(stored["received_at"], server.clock.now().to_string());
    }
    // Names that no index of PostgreSQL would take.
    let long: String = (0_u32..64 << 10).map(|i| char::from(b'a' + (i * i % 26) as u8)).collect();
    assert_taken(&node.report(&event(json!({"name": long, "origin": long}))));
    assert_eq!(server.events("n1").pop().unwrap()["name"], long.as_str());
}

#[test]
fn w11_w14_d49_files_come_back_byte_for_byte() {
    let (server, node) = started();
    let bytes: Vec<u8> = (0..=255).cycle().take(5000).collect();
    let lines: String = STANDARD
        .encode(&bytes)
        .as_bytes()
        .chunks(76)
        .map(|line| format!("{}\n", String::from_utf8_lossy(line)))
        .collect();
    let gzipped = {
        let mut to = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        to.write_all(&bytes).unwrap();
        to.finish().unwrap()
    };
    assert_taken(&node.report(&event(json!({"event_type": "finish", "files": [
        {"path": "/tmp/x", "encoding": "base64", "content": STANDARD.encode(&bytes)},
        {"path": "../../etc/passwd", "encoding": "base64", "content": "", "result": 1},
        {"path": "gone", "encoding": "base64", "content": null},
        {"path": "b", "encoding": "base64", "compression": "bzip2", "content": STANDARD.encode(bzip2(&bytes))},
        {"path": "g", "encoding": "base64", "compression": "gzip", "content": STANDARD.encode(&gzipped)},
        {"path": "lines", "encoding": "base64", "compression": null, "content": lines},
    ]}))));
    let stored = server.events("n1").pop().unwrap();
    let files = stored["files"].as_array().unwrap();
    let paths: Vec<&str> = files.iter().map(|file| file["path"].as_str().unwrap()).collect();
    assert_eq!(paths, ["/tmp/x", "../../etc/passwd", "gone", "b", "g", "lines"]);
    assert_eq!(stored["extra"]["files"][1], json!({"result": 1}));
    assert_eq!(files[1]["size"], 0);
    assert_eq!(
        files[1]["sha256"],
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    );
    assert_eq!(files[2]["sha256"], Value::Null);
    assert_eq!(server.file(&stored, 2).status, 404);
    assert_eq!(server.file(&stored, 1).body, b"");
    for ordinal in [0, 3, 4, 5] {
        assert_eq!(files[ordinal]["size"], 5000);
        assert_eq!(server.file(&stored, ordinal).body, bytes, "{ordinal}");
    }
    assert_eq!(server.file(&stored, 6).status, 404);
    // Five files of two contents: each is kept once.
    assert_eq!(rows::count(&server.database, "blobs"), 2);
}

fn bzip2(bytes: &[u8]) -> Vec<u8> {
    let mut to = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::best());
    to.write_all(bytes).unwrap();
    to.finish().unwrap()
}

#[test]
fn w13_d49_files_that_cannot_be_unpacked_are_refused() {
    let (server, node) = started();
    for (changes, why) in [
        (json!({"encoding": "uuencode"}), "files: 1: encoding: base64"),
        (json!({"encoding": null}), "files: 1: encoding: base64"),
        (json!({"compression": "jpeg"}), "files: 1: compression: null, bzip2 or gzip"),
        (json!({"content": "%%%"}), "files: 1: content: this is not base64"),
        (json!({"content": "QUJ"}), "files: 1: content: this is not base64"),
        (json!({"content": 1}), "files: 1: content: this must be text"),
        (json!({"path": null}), "files: 1: path: this is required"),
        (json!({"compression": "bzip2"}), "files: 1: content: this does not unpack"),
        (json!({"compression": "gzip"}), "files: 1: content: this does not unpack"),
    ] {
        let mut file = json!({"path": "p", "encoding": "base64", "content": "QUJD"});
        for (name, value) in changes.as_object().unwrap() {
            file[name] = value.clone();
        }
        let reply = node.report(&event(json!({"files": [file]})));
        assert_eq!(reply.brief(), (400, why.into()), "{changes}");
    }
    assert_eq!(rows::count(&server.database, "events"), 0);
    assert_eq!(rows::count(&server.database, "blobs"), 0);
}

#[test]
fn d49_a_report_and_its_files_have_their_sizes() {
    let options = Options::default()
        .flag("report-bytes", "64KiB")
        .flag("report-file-bytes", "16KiB")
        .flag("report-files", "3");
    let server = TestServer::start_with(options);
    let node = server.node("n1");
    let file = |size: usize| json!({"path": "p", "encoding": "base64", "content": STANDARD.encode(vec![b'x'; size])});
    let packed = |size: usize| {
        let content = STANDARD.encode(bzip2(&vec![b'x'; size]));
        json!({"path": "p", "encoding": "base64", "compression": "bzip2", "content": content})
    };
    let send = |files: Vec<Value>| node.report(&event(json!({"files": files})));
    assert_taken(&send(vec![file(16 << 10), packed(16 << 10), file(0)]));
    assert_eq!(send(vec![file(1); 4]).status, 413);
    assert_eq!(send(vec![file((16 << 10) + 1)]).status, 413);
    assert_eq!(send(vec![packed((16 << 10) + 1)]).status, 413);
    assert_eq!(node.report_bytes(&vec![b' '; (64 << 10) + 1]).status, 413);
    // What is announced too large is refused without being read.
    let header = node.header();
    let headers = [("Authorization", header.as_str()), ("Content-Length", "999999999")];
    let began = Instant::now();
    assert_eq!(node.send("POST", "/status/n1", &headers, b"").status, 413);
    assert!(began.elapsed() < Duration::from_secs(5));
    let big = [("N", vec![b'x'; (16 << 10) + 1])];
    let big: Vec<(&str, &[u8])> =
        big.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect();
    assert_eq!(node.multipart(&[("op", "signal"), ("status", "OK")], &big).status, 413);
    assert_eq!(rows::count(&server.database, "events"), 1);
}

#[test]
fn a_bomb_goes_off_no_further_than_a_file_may_go() {
    let (server, node) = started();
    // 512 MiB of zeros in a few hundred bytes: the block that stands for 900 kB, again and again.
    let block = bzip2(&vec![0; 64 << 20]);
    let bomb = block.repeat(8);
    let gzip_bomb = {
        let mut to = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        for _ in 0..64 {
            to.write_all(&vec![0; 1 << 20]).unwrap();
        }
        to.finish().unwrap()
    };
    for (packing, bomb) in [("bzip2", &bomb), ("gzip", &gzip_bomb)] {
        let file = json!({"path": "bomb", "encoding": "base64", "compression": packing,
            "content": STANDARD.encode(bomb)});
        let body = event(json!({"files": vec![file; 16]}));
        let began = Instant::now();
        let reply = node.report(&body);
        assert_eq!(reply.brief(), (413, "file 1 is larger than 8388608 bytes".into()), "{packing}");
        assert!(began.elapsed() < Duration::from_secs(8), "{packing}: {:?}", began.elapsed());
    }
    assert_eq!(rows::count(&server.database, "events"), 0);
    assert_taken(&node.report(&event(json!({}))));
}

#[test]
fn d49_a_file_of_8_mib_is_taken() {
    let (server, node) = started();
    let bytes: Vec<u8> =
        (0_u32..8 << 20).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let file = json!({"path": "p", "encoding": "base64", "content": STANDARD.encode(&bytes)});
    assert_taken(&node.report(&event(json!({"files": [file]}))));
    let stored = server.events("n1").pop().unwrap();
    assert!(server.file(&stored, 0).body == bytes);
}

#[test]
fn i05_d07_another_nodes_status_is_403_and_nothing_is_stored() {
    let (server, node) = started();
    let other = server.node("n2");
    let body = event(json!({})).to_string();
    for path in ["/status/n1", "/curtin/status/n1", "/status/N2", "/status/n2.r1", "/status/%6e2"] {
        let reply = other.post(path, &[], body.as_bytes());
        assert_eq!(reply.brief(), (403, "Not authenticated as this node.".into()), "{path}");
    }
    assert_eq!(rows::count(&server.database, "events"), 0);
    for (method, path) in [("GET", "/status/n1"), ("PUT", "/status/n1"), ("HEAD", "/status/n1")] {
        let header = node.header();
        let reply = node.send(method, path, &[("Authorization", &header)], b"");
        assert_eq!((reply.status, reply.header("allow")), (405, Some("POST")), "{method}");
    }
    assert_eq!(node.post("/status", &[], b"").status, 404);
    assert_eq!(node.post("/status/n1/x", &[], b"").status, 404);
}

#[test]
fn what_a_report_says_is_bounded_apart_from_its_files() {
    let server = TestServer::start();
    let node = server.node("n1");
    // Many short keys, which are each compared with those before them.
    for keys in [1001, 9000, 1_000_000] {
        let body: Vec<String> = (0..keys).map(|key| format!("\"{key:x}\":0")).collect();
        let body = format!("{{{}}}", body.join(","));
        let status = node.report_bytes(body.as_bytes()).status;
        assert!(matches!(status, 400 | 413), "{keys} keys: {status}");
    }
    let event = |description: usize| {
        json!({"event_type": "start", "origin": "o", "name": "n", "timestamp": description,
               "description": "x".repeat(description)})
    };
    assert_eq!(node.report_bytes(event(200 << 10).to_string().as_bytes()).status, 204);
    assert_eq!(node.report_bytes(event(257 << 10).to_string().as_bytes()).status, 413);
    let mut files = event(1);
    files["files"] = json!(vec![json!({}); 100_000]);
    assert_eq!(node.report_bytes(files.to_string().as_bytes()).status, 413);
    files["files"] =
        json!([{"path": "p".repeat(300 << 10), "encoding": "base64", "content": "eA=="}]);
    assert_eq!(node.report_bytes(files.to_string().as_bytes()).status, 413);
    let form = format!("op=signal&status=OK&error={}", "x".repeat(300 << 10));
    let form_type = ("Content-Type", "application/x-www-form-urlencoded");
    let header = node.header();
    let headers = [("Authorization", header.as_str()), form_type];
    let reply = node.send("POST", "/2012-03-01/", &headers, form.as_bytes());
    assert_eq!(reply.status, 413);
}

#[test]
fn a_repeated_event_is_stored_once_and_one_without_a_time_is_never_a_repeat() {
    let (server, node) = started();
    let other = server.node("n2");
    let first = event(json!({}));
    for _ in 0..3 {
        assert_taken(&node.report(&first));
    }
    // What is said beside what makes an event does not make another.
    assert_taken(&node.report(&event(json!({"description": "again", "duration": 1}))));
    assert_eq!(server.events("n1").len(), 1);
    for other in [
        json!({"origin": "curtin"}),
        json!({"name": "init-network"}),
        json!({"event_type": "finish"}),
        json!({"timestamp": 1_795_315_087.840_639}),
    ] {
        assert_taken(&node.report(&event(other)));
    }
    assert_eq!(server.events("n1").len(), 5);
    assert_taken(&Node { system_id: "n2".into(), ..other }.report(&first));
    assert_eq!(server.events("n2").len(), 1);
    for _ in 0..3 {
        assert_taken(&node.report(&event(json!({"timestamp": null}))));
    }
    assert_eq!(server.events("n1").len(), 8);
}

#[test]
fn w16_d46_what_a_node_posts_stays_in_its_order() {
    let server = TestServer::start_with(Options::default().flag("node-rate", "1000000"));
    let nodes: Vec<Node> = (0..50).map(|i| server.node(&format!("n{i}"))).collect();
    std::thread::scope(|scope| {
        for node in &nodes {
            scope.spawn(|| {
                for number in 0..80 {
                    let kind = if number % 2 == 0 { "start" } else { "finish" };
                    let sent = json!({"name": number.to_string(), "event_type": kind, "timestamp": number});
                    assert_taken(&node.report(&event(sent)));
                }
            });
        }
    });
    for node in &nodes {
        let names: Vec<u32> = server
            .events(&node.system_id)
            .iter()
            .map(|event| event["name"].as_str().unwrap().parse().unwrap())
            .collect();
        assert_eq!(names, (0..80).collect::<Vec<u32>>(), "{}", node.system_id);
    }
}

#[test]
fn d53_who_does_not_sign_is_told_so_whatever_the_store_is_like() {
    let (server, node) = started();
    for table in ["claims", "node_keys", "tokens"] {
        server.database.execute(&format!("DROP TABLE {table}"));
    }
    let body = event(json!({})).to_string();
    // A new client without credentials would try again for ever after a 503.
    let reply = node.send("POST", "/status/n1", &[], body.as_bytes());
    assert_refused(&reply, "credentials_missing");
    assert_eq!(node.report(&event(json!({}))).status, 503);
}

#[test]
fn d57_what_curtin_asks_of_an_api_that_is_not_here_is_404() {
    let (_server, node) = started();
    for path in ["/MAAS/api/version/", "/MAAS/api/2.0/version/"] {
        assert_eq!(wire::send(node.address, "GET", path, &[], b"").status, 404, "{path}");
    }
}

#[test]
fn s01_s02_a_signal_has_one_of_ten_statuses() {
    let (server, node) = started();
    let missing = (400, "No provided status!".to_owned());
    assert_eq!(node.signal("op=signal").brief(), missing);
    assert_eq!(node.signal("op=signal&status=").brief(), missing);
    for unknown in ["XYZ", "ok", "OK "] {
        let form = format!("op=signal&status={}", unknown.replace(' ', "+"));
        let shown = unknown.trim();
        let expected = (400, format!("Unknown status: '{shown}'"));
        assert_eq!(node.signal(&form).brief(), expected);
    }
    assert_eq!(rows::count(&server.database, "events"), 0);
    for status in SIGNALS {
        let reply = node.signal(&format!("op=signal&status={status}"));
        assert_eq!(reply.brief(), (200, "OK".into()), "{status}");
    }
    let results: Vec<(String, Value)> = server
        .events("n1")
        .into_iter()
        .map(|event| (event["name"].as_str().unwrap().to_owned(), event["result"].clone()))
        .collect();
    for (name, result) in results {
        let expected = match name.as_str() {
            "OK" => json!("SUCCESS"),
            "FAILED" | "TIMEDOUT" => json!("FAIL"),
            _ => Value::Null,
        };
        assert_eq!(result, expected, "{name}");
    }
}

#[test]
fn s03_s07_s08_s09_s10_s11_a_signal_becomes_an_event_each_time() {
    let (server, node) = started();
    let forms = [
        "op=signal&status=OK",
        "op=signal&status=OK",
        "op=signal&status=FAILED&error=it+broke&script_result_id=7&exit_status=3",
        "op=signal&status=FAILED&error=it+broke",
        "op=signal&status=OK",
        "op=signal&status=WORKING&name=lshw&runtime=1.5&power_type=ipmi",
    ];
    for form in forms {
        assert_eq!(node.signal(form).brief(), (200, "OK".into()), "{form}");
    }
    let events = server.events("n1");
    let told: Vec<(&str, &str, &Value)> = events
        .iter()
        .map(|event| {
            assert_eq!(
                (&event["event_type"], &event["origin"]),
                (&json!("signal"), &json!("signal"))
            );
            assert_eq!(event["timestamp"], Value::Null);
            let text = |name: &str| event[name].as_str().unwrap();
            (text("name"), text("description"), &event["extra"])
        })
        .collect();
    let (no, failed) = (json!({}), json!({"script_result_id": "7", "exit_status": "3"}));
    let working = json!({"name": "lshw", "runtime": "1.5", "power_type": "ipmi"});
    let expected = [
        ("OK", "", &no),
        ("OK", "", &no),
        ("FAILED", "it broke", &failed),
        ("FAILED", "it broke", &no),
        ("OK", "", &no),
        ("WORKING", "", &working),
    ];
    assert_eq!(told, expected);
    let shown = server.operator().session.get("/v1/default/nodes/n1").unwrap();
    assert_eq!(shown["project"], "default", "a signal changes nothing of the node itself");
}

#[test]
fn s04_s05_only_the_node_itself_signals() {
    let (server, node) = started();
    let form = [("Content-Type", "application/x-www-form-urlencoded")];
    let reply = node.send("POST", "/latest/", &form, b"op=signal&status=OK");
    assert_refused(&reply, "credentials_missing");
    server.database.execute("DELETE FROM node_keys");
    let message = (403, "Not authenticated as a known node.".to_owned());
    assert_eq!(node.signal("op=signal&status=OK").brief(), message);
    assert_eq!(node.report(&event(json!({}))).brief(), message);
    assert_eq!(rows::count(&server.database, "events"), 0);
}

#[test]
fn s12_s13_s14_s16_the_files_of_a_signal_are_kept_byte_for_byte() {
    let (server, node) = started();
    let every: Vec<u8> = (0..=255).collect();
    let files: [(&str, &[u8]); 5] = [
        ("N", &every),
        ("N.out", b"\r\n--\r\nlines\r\n"),
        ("N.err", b""),
        ("N.yaml", b"a: 1\n"),
        ("binary", b"\xff\x00\xfe"),
    ];
    let fields = [("op", "signal"), ("status", "WORKING"), ("script_result", "7"), ("error", "")];
    assert_eq!(node.multipart(&fields, &files).brief(), (200, "OK".into()));
    let stored = server.events("n1").pop().unwrap();
    assert_eq!(stored["extra"], json!({"script_result": "7"}));
    assert_eq!(stored["files"].as_array().unwrap().len(), 5);
    for (ordinal, (name, bytes)) in files.iter().enumerate() {
        assert_eq!(stored["files"][ordinal]["path"], *name);
        assert_eq!(stored["files"][ordinal]["size"], bytes.len());
        assert_eq!(server.file(&stored, ordinal).body, *bytes, "{name}");
    }
}

#[test]
fn s15_a_file_of_exactly_1_mib_is_kept() {
    let (server, node) = started();
    let bytes = vec![0xa5; 1 << 20];
    let fields = [("op", "signal"), ("status", "OK")];
    assert_eq!(node.multipart(&fields, &[("N.out", &bytes)]).brief(), (200, "OK".into()));
    let stored = server.events("n1").pop().unwrap();
    assert!(server.file(&stored, 0).body == bytes);
}

#[test]
fn s20_s21_s22_s23_s24_the_operation_is_named_by_the_query_or_the_form() {
    let (server, node) = started();
    let ok = (200, "OK".to_owned());
    let form = [("Content-Type", "application/x-www-form-urlencoded")];
    let reply = node.post("/curtin/latest/?op=signal", &form, b"status=OK");
    assert_eq!(reply.brief(), ok);
    let unknown = |op: &str| (400, format!("Unrecognised signature: method=POST op={op}"));
    assert_eq!(node.signal("op=frob&status=OK").brief(), unknown("frob"));
    assert_eq!(
        node.post("/latest/?op=frob", &form, b"op=signal&status=OK").brief(),
        unknown("frob")
    );
    assert_eq!(node.signal("status=OK").brief(), unknown("None"));
    assert_eq!(node.post("/latest/", &[], b"").brief(), unknown("None"));
    let get = (400, "Unrecognised signature: method=GET op=signal".to_owned());
    assert_eq!(node.get("/latest/?op=signal").brief(), get);
    let reply = node.post("/bogus/", &form, b"op=signal&status=OK");
    assert_eq!(reply.brief(), (404, "Unknown metadata version: bogus".into()));
    let json_type = [("Content-Type", "application/json")];
    let body = br#"{"op": "signal", "status": "OK"}"#;
    assert_eq!(node.post("/latest/", &json_type, body).brief(), unknown("None"));
    let reply = node.post("/latest/?op=signal", &json_type, body);
    assert_eq!(reply.brief(), (400, "No provided status!".into()));
    let broken = [("Content-Type", "multipart/form-data; boundary=x")];
    assert_eq!(node.post("/latest/?op=signal", &broken, b"nothing").status, 400);
    assert_eq!(server.events("n1").len(), 1);
}

#[test]
fn s25_s26_a_node_sets_its_own_netboot_flag_and_nobody_elses() {
    let (server, node) = started();
    server.node("n2");
    let netboot = |id: &str| {
        server.operator().session.get(&format!("/v1/default/nodes/{id}")).unwrap()["netboot"]
            .clone()
    };
    assert_eq!(netboot("n1"), true);
    for (op, flag) in [("netboot_off", false), ("netboot_off", false), ("netboot_on", true)] {
        assert_eq!(node.signal(&format!("op={op}")).brief(), (200, "OK".into()));
        assert_eq!(netboot("n1"), flag, "{op}");
    }
    assert_eq!(node.post("/latest/?op=netboot_off", &[], b"").brief(), (200, "OK".into()));
    assert_eq!(netboot("n1"), false);
    for path in ["/latest/by-id/n2/?op=netboot_off", "/latest/by-id/n2/"] {
        for headers in [vec![], vec![("Authorization", node.header())]] {
            let headers: Vec<(&str, &str)> =
                headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
            assert_eq!(node.send("POST", path, &headers, b"op=netboot_off").status, 404, "{path}");
        }
    }
    assert_eq!(netboot("n2"), true);
    assert_eq!(server.events("n1").len(), 0);
}

#[test]
fn d52_a_revoked_token_reports_nothing_any_more() {
    let (server, node) = started();
    assert_taken(&node.report(&event(json!({"name": "before"}))));
    server.operator().session.delete("/v1/default/nodes/n1/token").unwrap();
    let began = Instant::now();
    assert_refused(&node.report(&event(json!({"name": "after"}))), "credentials_refused");
    assert_refused(&node.signal("op=signal&status=OK"), "credentials_refused");
    assert_refused(&node.signal("op=netboot_off"), "credentials_refused");
    assert!(began.elapsed() < Duration::from_secs(1));
    let names: Vec<Value> = server.events("n1").iter().map(|event| event["name"].clone()).collect();
    assert_eq!(names, ["before"]);
}

#[test]
fn a_token_revoked_while_its_report_is_on_the_way_is_401_and_nothing_is_stored() {
    let (server, node) = started();
    let body = event(json!({})).to_string();
    let request = wire::request(
        "POST",
        "/MAAS/metadata/status/n1",
        &server.node.to_string(),
        &[("Authorization", &node.header())],
        body.as_bytes(),
    );
    let mut connection = wire::Connection::open(server.node);
    let (head, tail) = request.split_at(request.len() - 1);
    connection.stream.write_all(head).unwrap();
    // Its signature is good; its last byte is still to come.
    std::thread::sleep(Duration::from_millis(500));
    server.operator().session.delete("/v1/default/nodes/n1/token").unwrap();
    connection.stream.write_all(tail).unwrap();
    assert_refused(&connection.read(false), "credentials_refused");
    assert_eq!(rows::count(&server.database, "events"), 0);
}

#[test]
fn d58_what_maass_own_script_sends_is_taken_byte_for_byte() {
    let (server, node) = started();
    let body = include_bytes!("../data/reports/maas_signal.multipart");
    let header = node.header();
    // As Python's urllib sends it, to the URL as the script makes it.
    let headers = [
        ("Accept-Encoding", "identity"),
        ("Content-Type", "multipart/form-data; boundary=QkzRfWmLtYbVhNcXgJpSdAeUoIiKlMn"),
        ("Authorization", &header),
        ("User-Agent", "Python-urllib/3.11"),
    ];
    let reply = node.send("POST", "//2012-03-01/", &headers, body);
    assert_eq!(reply.brief(), (200, "OK".into()), "204 would be a failure to it");
    let stored = server.events("n1").pop().unwrap();
    assert_eq!(stored["name"], "FAILED");
    assert_eq!(stored["description"], "Script failed: \u{e9}");
    let extra = json!({"script_result_id": "42", "exit_status": "1", "script_version_id": "7"});
    assert_eq!(stored["extra"], extra);
    let every: Vec<u8> = (0..=255).collect();
    let files: [(&str, &[u8]); 4] = [
        ("lshw", &every),
        ("lshw.out", b"two\r\nlines\n--QkzRfWmLtYbVhNcXgJpSdAeUoIiKlM\r\n"),
        ("lshw.err", b""),
        ("lshw.yaml", b"result: failed\n"),
    ];
    assert_eq!(stored["files"].as_array().unwrap().len(), 4);
    for (ordinal, (name, bytes)) in files.iter().enumerate() {
        assert_eq!(stored["files"][ordinal]["path"], *name);
        assert_eq!(server.file(&stored, ordinal).body, *bytes, "{name}");
    }
}

#[test]
fn no_body_is_read_before_it_is_known_whose_it_is() {
    let (server, node) = started();
    let other = server.node("n2");
    let liar = Node { token_secret: "x".repeat(32), ..node.clone() };
    for (header, path, status) in [
        (liar.header(), "/MAAS/metadata/status/n1", 401),
        (liar.header(), "/MAAS/metadata/latest/", 401),
        (other.header(), "/MAAS/metadata/status/n1", 403),
    ] {
        let headers = [("Authorization", header.as_str()), ("Content-Length", "10000000")];
        let mut connection = wire::Connection::open(server.node);
        let began = Instant::now();
        let reply = connection.send("POST", path, &headers, b"");
        assert_eq!(reply.status, status, "{path}");
        assert!(began.elapsed() < Duration::from_secs(5), "{path}");
    }
}

#[test]
fn bodies_that_do_not_come_keep_nobody_elses_waiting() {
    let (server, node) = started();
    let other = server.node("n2");
    let stalled: Vec<wire::Connection> = (0..40)
        .map(|number| {
            let length = if number % 2 == 0 { "16777216" } else { "60000" };
            let headers = [("Authorization", &*node.header()), ("Content-Length", length)];
            let head = wire::request(
                "POST",
                "/MAAS/metadata/status/n1",
                &server.node.to_string(),
                &headers,
                b"",
            );
            let mut connection = wire::Connection::open(server.node);
            connection.stream.write_all(&head).unwrap();
            connection
        })
        .collect();
    std::thread::sleep(Duration::from_millis(300));
    let file =
        json!({"path": "p", "encoding": "base64", "content": STANDARD.encode(vec![7; 1 << 20])});
    assert_taken(&other.report(&event(json!({}))));
    assert_taken(&other.report(&event(json!({"event_type": "finish", "files": [file]}))));
    // Nor its own small ones.
    assert_taken(&node.report(&event(json!({}))));
    drop(stalled);
}

#[test]
fn posts_of_a_node_in_haste_are_held_back_before_any_is_refused() {
    let options = Options::default().flag("node-rate", "10").flag("node-burst", "2");
    let server = TestServer::start_with(options);
    let node = server.node("n1");
    let began = Instant::now();
    for number in 0..12 {
        assert_taken(&node.report(&event(json!({"timestamp": number}))));
    }
    assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
    assert_eq!(server.events("n1").len(), 12);
    // Far more at once than two seconds have room for.
    let replies: Vec<Reply> = std::thread::scope(|scope| {
        let posts: Vec<_> = (100..160)
            .map(|number| {
                let (node, event) = (node.clone(), event(json!({"timestamp": number})));
                scope.spawn(move || node.report(&event))
            })
            .collect();
        posts.into_iter().map(|post| post.join().unwrap()).collect()
    });
    let taken = replies.iter().filter(|reply| reply.status == 204).count();
    assert!((10..50).contains(&taken), "{taken}");
    for reply in replies.iter().filter(|reply| reply.status != 204) {
        assert_eq!(reply.status, 429);
        assert!(reply.header("retry-after").is_some());
    }
    assert_eq!(server.events("n1").len(), 12 + taken);
}

#[test]
fn events_are_listed_by_page_and_by_what_they_are() {
    let (server, node) = started();
    let other = server.node("n2");
    for number in 0..7 {
        let kind = if number % 2 == 0 { "start" } else { "finish" };
        let sent =
            json!({"name": format!("n{}", number / 2), "event_type": kind, "timestamp": number});
        assert_taken(&node.report(&event(sent)));
        server.clock.advance(60);
    }
    assert_taken(&other.report(&event(json!({"name": "other"}))));
    let session = server.operator().session;
    let names = |path: &str| -> Vec<String> {
        let events = session.list(path, None).unwrap();
        let name = |event: &Value| event["name"].as_str().unwrap().to_owned();
        events.iter().map(name).collect()
    };
    let path = "/v1/default/nodes/n1/events";
    let all = ["n0", "n0", "n1", "n1", "n2", "n2", "n3"];
    assert_eq!(names(path), all);
    assert_eq!(names(&format!("{path}?limit=2")), all, "page by page");
    assert_eq!(names(&format!("{path}?type=finish")), ["n0", "n1", "n2"]);
    assert_eq!(names(&format!("{path}?name=n1")), ["n1", "n1"]);
    assert_eq!(names(&format!("{path}?name=n1%00")), Vec::<String>::new());
    assert_eq!(names(&format!("{path}?newest=2")), ["n2", "n3"]);
    assert_eq!(names(&format!("{path}?since=2027-01-15T08:05:00Z")), ["n2", "n3"]);
    assert_eq!(names(&format!("{path}?since=2m")), ["n2", "n3"]);
    assert_eq!(names(&format!("{path}?since=2027-01-15T08:00:00Z&type=start&name=n3")), ["n3"]);
    assert_eq!(names("/v1/events?newest=2"), ["n3", "other"]);
    assert_eq!(names("/v1/events").len(), 8);
    for bad in ["type=ended", "since=SECRET", "newest=0", "cursor=SECRET", "limit=0", "state=new"] {
        for path in [path, "/v1/events"] {
            let reply = server.operator().send(Method::GET, &format!("{path}?{bad}"), &[], b"");
            assert_eq!(reply.status, 400, "{bad}");
            assert!(!reply.text().contains("SECRET"), "{bad}");
        }
    }
    server.project("elsewhere");
    for path in ["/v1/elsewhere/nodes/n1/events", "/v1/default/nodes/n3/events"] {
        assert_eq!(server.operator().send(Method::GET, path, &[], b"").status, 404, "{path}");
    }
}

#[test]
fn a_file_is_found_by_its_own_node_and_event_alone() {
    let (server, node) = started();
    let other = server.node("n2");
    let with = |text: &str| {
        let file = json!({"path": "p", "encoding": "base64", "content": STANDARD.encode(text)});
        event(json!({"files": [file]}))
    };
    assert_taken(&node.report(&with("mine")));
    assert_taken(&other.report(&with("theirs")));
    let mine = server.events("n1").remove(0);
    let theirs = server.events("n2").remove(0);
    assert_eq!(server.file(&mine, 0).text(), "mine");
    let (mine, theirs) = (mine["id"].as_str().unwrap(), theirs["id"].as_str().unwrap());
    for path in [
        format!("n1/events/{theirs}/files/0"),
        format!("n2/events/{mine}/files/0"),
        format!("n1/events/{mine}/files/1"),
        format!("n1/events/{mine}/files/-1"),
        format!("n1/events/{mine}/files/x"),
        "n1/events/x/files/0".into(),
        format!("n1/events/{}/files/0", uuid_nil()),
    ] {
        let path = format!("/v1/default/nodes/{path}");
        assert_eq!(server.operator().send(Method::GET, &path, &[], b"").status, 404, "{path}");
    }
}

fn uuid_nil() -> String {
    "00000000-0000-0000-0000-000000000000".into()
}
