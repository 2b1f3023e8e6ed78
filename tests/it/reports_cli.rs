//! `nodeinit event …`.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::Node;
use crate::support::process::Home;

fn report(node: &Node, name: &str, description: &str) {
    let event = json!({"event_type": "finish", "origin": "cloudinit", "name": name,
        "description": description, "result": "WARN"});
    let path = format!("/status/{}", node.system_id);
    let headers = [("Authorization", &*node.header())];
    let reply = node.send("POST", &path, &headers, event.to_string().as_bytes());
    assert_eq!(reply.status, 204, "{}", reply.text());
}

#[test]
fn events_are_listed_without_what_a_terminal_would_obey() {
    let home = Home::new();
    let server = home.serve();
    let node = server.node("n1");
    server.node("n2");
    report(&node, "first", "plain");
    report(&node, "second", "\u{1b}[31mred\u{7}\n\u{9b}1mC1");
    let table = home.run(&["event", "list", "--node", "n1"]).done().out;
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 3, "{table}");
    assert!(lines[0].starts_with("RECEIVED_AT") && lines[0].ends_with("DESCRIPTION"), "{table}");
    assert!(lines[1].ends_with("plain"), "{table}");
    assert!(lines[2].ends_with("\u{fffd}[31mred\u{fffd}\u{fffd}\u{fffd}1mC1"), "{table}");
    assert!(!table.chars().any(|c| c.is_control() && c != '\n'), "{table:?}");

    let listed = |args: &[&str]| {
        let all = [&["event", "list", "-o", "json"], args].concat();
        let events = home.run(&all).done().json();
        let name = |event: &Value| event["name"].as_str().unwrap().to_owned();
        events.as_array().unwrap().iter().map(name).collect::<Vec<String>>()
    };
    assert_eq!(listed(&[]), ["first", "second"], "of the whole fleet");
    assert_eq!(listed(&["--node", "n2"]), Vec::<String>::new());
    assert_eq!(listed(&["--node", "n1", "--limit", "1"]), ["first"]);
    assert_eq!(listed(&["--node", "n1", "--name", "second", "--type", "finish"]), ["second"]);
    assert_eq!(listed(&["--since", "1h", "--type", "start"]), Vec::<String>::new());
    assert_eq!(listed(&["--since", "2000-01-01T00:00:00Z"]), ["first", "second"]);

    let missing = home.run(&["event", "list", "--node", "n3"]);
    assert_eq!((missing.code, missing.out.as_str()), (1, ""), "{missing:?}");
    assert_eq!(missing.err, "nodeinit: event list: there is no such node\n");
    assert_eq!(home.run(&["event", "list", "--since", "yesterday"]).code, 2);
    server.stop();
}

/// A tail that is running, and the lines it prints.
struct Tail(Child, Receiver<String>);

impl Tail {
    fn start(home: &Home, args: &[&str]) -> Tail {
        let mut command = home.command(&[&["event", "tail"], args].concat());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (out, lines) = mpsc::channel();
        std::thread::spawn(move || {
            stdout.lines().map_while(Result::ok).try_for_each(|l| out.send(l))
        });
        Tail(child, lines)
    }

    fn line(&self) -> String {
        self.1.recv_timeout(Duration::from_secs(30)).expect("a line")
    }

    fn name(&self) -> String {
        let event: Value = serde_json::from_str(&self.line()).unwrap();
        event["name"].as_str().unwrap().to_owned()
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_tail_begins_with_the_newest_and_follows_each_event_once() {
    let home = Home::new();
    let server = home.serve();
    let [first, second] = ["n1", "n2"].map(|id| server.node(id));
    for number in 0..4 {
        report(&first, &format!("before {number}"), "d");
    }
    let fleet = Tail::start(&home, &["-o", "json", "--limit", "2"]);
    let one = Tail::start(&home, &["--node", "n2"]);
    assert_eq!([fleet.name(), fleet.name()], ["before 2", "before 3"]);
    let mut expected = Vec::new();
    for number in 0..6 {
        let node = if number % 2 == 0 { &first } else { &second };
        let name = format!("after {number}");
        report(node, &name, "a\u{1b}b");
        expected.push(name);
        std::thread::sleep(Duration::from_millis(300));
    }
    let followed: Vec<String> = expected.iter().map(|_| fleet.name()).collect();
    assert_eq!(followed, expected);
    for number in [1, 3, 5] {
        let line = one.line();
        assert!(
            line.contains(&format!("after {number}")) && line.ends_with("a\u{fffd}b"),
            "{line}"
        );
    }
    let more = fleet.1.recv_timeout(Duration::from_secs(3));
    assert!(more.is_err(), "each once: {more:?}");
    server.stop();
}
