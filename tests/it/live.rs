//! What is served from memory: nothing that the database has taken away or changed, on the process
//! that did it at once, on every other within a second, and on one that is cut off for 5 s at most.

use std::sync::Arc;
use std::time::{Duration, Instant};

use diesel::prelude::*;
use nodeinit::store::{DbConnection, changes as log};
use serde_json::json;

use crate::support::cable::{Cable, Relay, authority};
use crate::support::process::{Home, Process};
use crate::support::{Method, Node, Operator, Reply, rows};

const ID: &str = "/latest/meta-data/instance-id";
const JSON: [(&str, &str); 1] = [("content-type", "application/json")];

/// A server, and where the database takes it another one over it.
struct Pair {
    // Dropped in this order.
    first: Process,
    second: Option<Process>,
    _homes: [Home; 2],
}

impl Pair {
    fn start() -> Pair {
        let (home, other) = (Home::new(), Home::without_key());
        let first = home.serve();
        let url = home.database.url().to_owned();
        let second = home.database.is_postgres().then(|| other.serve_beside(&home, &url));
        Pair { first, second, _homes: [home, other] }
    }

    fn node(&self, system_id: &str) -> Node {
        self.first.node(system_id)
    }

    /// The same node at the other server, if there is one.
    fn there(&self, node: &Node) -> Option<Node> {
        Some(Node { address: self.second.as_ref()?.node, ..node.clone() })
    }
}

fn patch(operator: &Operator, node: &str, body: &str) -> Reply {
    let path = format!("/v1/default/nodes/{node}");
    operator.send(Method::PATCH, &path, &JSON, body.as_bytes())
}

type Change = fn(&Operator, &str);

/// A node to make, what it reads, what is done to it, and what it reads then.
fn changes() -> [(&'static str, &'static str, Change, (u16, &'static str)); 11] {
    let refused = (401, "credentials_refused");
    [
        (
            "rename",
            "/latest/meta-data/local-hostname",
            |o, n| {
                assert_eq!(patch(o, n, r#"{"hostname": "other.example.com"}"#).status, 200);
            },
            (200, "other.example.com"),
        ),
        (
            "keys",
            "/latest/meta-data/public-keys",
            |o, n| {
                assert_eq!(patch(o, n, r#"{"ssh_keys": ["ssh-ed25519 AAAA one"]}"#).status, 200);
            },
            (200, "ssh-ed25519 AAAA one"),
        ),
        (
            "listing",
            "/latest/meta-data",
            |o, n| {
                o.set(n, "vendor-data", b"#cloud-config\n{}\n");
            },
            (200, "instance-id\nlocal-hostname\nvendor-data"),
        ),
        (
            "user-data",
            "/latest/user-data",
            |o, n| {
                o.set(n, "user-data", b"#!/bin/sh\necho two\n");
            },
            (200, "#!/bin/sh\necho two\n"),
        ),
        (
            "has-user-data",
            "/latest",
            |o, n| {
                o.set(n, "user-data", b"#!/bin/sh\necho two\n");
            },
            (200, "meta-data\nuser-data"),
        ),
        (
            "cleared",
            "/latest/user-data",
            |o, n| {
                o.set(n, "user-data", b"#!/bin/sh\n");
                let path = format!("/v1/default/nodes/{n}/user-data");
                assert_eq!(o.send(Method::DELETE, &path, &[], b"").status, 204);
            },
            (200, ""),
        ),
        (
            "revoke",
            ID,
            |o, n| {
                let path = format!("/v1/default/nodes/{n}/token");
                assert_eq!(o.send(Method::DELETE, &path, &[], b"").status, 204);
            },
            refused,
        ),
        (
            "reprovision",
            ID,
            |o, n| {
                let path = format!("/v1/default/nodes/{n}/reprovision");
                assert_eq!(o.send(Method::POST, &path, &[], b"").status, 200);
            },
            refused,
        ),
        (
            "move",
            ID,
            |o, n| {
                assert_eq!(patch(o, n, r#"{"project": "elsewhere"}"#).status, 200);
            },
            refused,
        ),
        (
            "remove",
            ID,
            |o, n| {
                let path = format!("/v1/default/nodes/{n}");
                assert_eq!(o.send(Method::DELETE, &path, &[], b"").status, 204);
            },
            refused,
        ),
        (
            "reissue",
            ID,
            |o, n| {
                // Superseded, and its time is up at once.
                let path = format!("/v1/default/nodes/{n}/token/reissue");
                let body = br#"{"retire_after": "0s"}"#;
                assert_eq!(o.send(Method::POST, &path, &JSON, body).status, 200);
            },
            refused,
        ),
    ]
}

#[test]
fn a_change_is_felt_at_once_where_it_was_made_and_within_a_second_elsewhere() {
    let pair = Pair::start();
    let operator = pair.first.operator();
    operator.send(Method::POST, "/v2.0/tenants", &JSON, br#"{"tenant": {"name": "elsewhere"}}"#);
    for (name, path, change, (status, body)) in changes() {
        let node = pair.node(name);
        let there = pair.there(&node);
        for node in [Some(&node), there.as_ref()].into_iter().flatten() {
            for _ in 0..2 {
                assert_eq!(node.get(path).status, 200, "{name}");
            }
        }
        change(&operator, name);
        let since = Instant::now();
        assert_eq!(node.get(path).brief(), (status, body.to_owned()), "{name}: at once");
        let Some(there) = there else { continue };
        while there.get(path).brief() != (status, body.to_owned()) {
            assert!(since.elapsed() < Duration::from_secs(1), "{name}: elsewhere");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

#[test]
fn a_read_asks_no_database_once_its_token_is_known() {
    let home = Home::new();
    let server = home.serve();
    let node = server.node("n1");
    server.operator().set("n1", "user-data", b"#!/bin/sh\n");
    let paths = [ID, "/", "/latest", "/latest/meta-data/vendor-data", "/latest/user-data"];
    let before: Vec<_> = paths.iter().map(|path| node.get(path).brief()).collect();
    assert_eq!(before[4], (200, "#!/bin/sh\n".to_owned()));
    // What a read would have to ask.
    for table in ["node_keys", "contents", "blobs"] {
        home.database.execute(&format!("ALTER TABLE {table} RENAME TO {table}_away"));
    }
    for (path, before) in paths.iter().zip(&before) {
        assert_eq!(&node.get(path).brief(), before, "{path}");
    }
}

/// What a database that logs by itself is for: an older program, or a hand, cannot leave it out.
#[test]
fn what_is_changed_past_the_server_is_felt_within_a_second() {
    let home = Home::new();
    let server = home.serve();
    for (name, sql, expected) in [
        (
            "renamed",
            "UPDATE nodes SET hostname = 'by-hand', hostname_folded = 'by-hand' \
             WHERE system_id = 'renamed'",
            (200, "by-hand"),
        ),
        (
            "unpaired",
            "DELETE FROM node_keys WHERE system_id = 'unpaired'",
            (403, "Not authenticated as a known node."),
        ),
        (
            "unconsumed",
            "DELETE FROM consumers WHERE id IN \
             (SELECT id FROM tokens WHERE made_for = 'unconsumed')",
            (401, "credentials_refused"),
        ),
    ] {
        let node = server.node(name);
        let path = "/latest/meta-data/local-hostname";
        assert_eq!(node.get(path).status, 200);
        home.database.execute(sql);
        let since = Instant::now();
        while node.get(path).brief() != (expected.0, expected.1.to_owned()) {
            assert!(since.elapsed() < Duration::from_secs(1), "{name}: {:?}", node.get(path));
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn logged(conn: &mut DbConnection, key: &str) {
    diesel::insert_into(nodeinit::store::schema::changes::table)
        .values(nodeinit::store::schema::changes::token_key.eq(key))
        .execute(conn)
        .unwrap();
}

/// What a process reads that has missed nothing.
fn list(conn: &mut DbConnection, since: &log::Position) -> (Vec<String>, log::Position) {
    let news = log::list_since(conn, since).unwrap();
    assert!(!news.has_gap);
    (news.keys, news.now)
}

#[test]
fn a_change_that_began_first_and_was_committed_last_is_not_hidden() {
    let home = Home::new();
    home.run(&["migrate"]).done();
    let mut reader = rows::open(&home.database);
    let start = log::find_end(&mut reader).unwrap();
    let (mut slow, mut quick) = (rows::open(&home.database), rows::open(&home.database));
    if !home.database.is_postgres() {
        // There the second would have to wait for the first; in order, each is seen once.
        logged(&mut slow, "slow");
        let (keys, then) = list(&mut reader, &start);
        assert_eq!(keys, ["slow"]);
        logged(&mut quick, "quick");
        let (keys, then) = list(&mut reader, &then);
        assert_eq!(keys, ["quick"]);
        assert_eq!(list(&mut reader, &then).0, Vec::<String>::new());
        return;
    }
    rows::run(&mut slow, "BEGIN");
    logged(&mut slow, "slow");
    let (keys, then) = list(&mut reader, &start);
    assert_eq!(keys, Vec::<String>::new());
    // Later in the log, and there before; it waits for nobody.
    logged(&mut quick, "quick");
    let (keys, then) = list(&mut reader, &then);
    assert_eq!(keys, ["quick"]);
    let (keys, then) = list(&mut reader, &then);
    assert_eq!(keys, Vec::<String>::new(), "each is told once");
    rows::run(&mut slow, "COMMIT");
    let (keys, then) = list(&mut reader, &then);
    assert_eq!(keys, ["slow"]);
    let (keys, _) = list(&mut reader, &then);
    assert_eq!(keys, Vec::<String>::new());
}

#[test]
fn a_replica_that_is_cut_off_serves_from_memory_for_5_s_and_never_what_was_ended_after_that() {
    let home = Home::new();
    if !home.database.is_postgres() {
        // One process has that database; how it fares without it is in `hardening`.
        return;
    }
    let first = home.serve();
    let other = Home::without_key();
    let (host, _) = authority(home.database.url());
    let (relay, address) = Relay::start(host.clone());
    let url = home.database.url().replacen(&host, &address.to_string(), 1);
    let second = other.serve_beside(&home, &url);
    let mut cable = Cable::Relay(relay);
    let (kept, ended) = (first.node("kept"), first.node("ended"));
    let there = |node: &Node| Node { address: second.node, ..node.clone() };
    for node in [&kept, &ended, &there(&kept), &there(&ended)] {
        assert_eq!(node.get(ID).status, 200);
    }
    cable.cut();
    let cut = Instant::now();
    let path = "/v1/default/nodes/ended/token";
    assert_eq!(first.operator().send(Method::DELETE, path, &[], b"").status, 204);
    assert_eq!(ended.get(ID).status, 401);
    assert_eq!(there(&kept).get(ID).status, 200);
    loop {
        let (replies, asked) = ([&kept, &ended].map(|node| there(node).get(ID)), cut.elapsed());
        if asked > Duration::from_millis(5_800) {
            for reply in replies {
                assert_eq!(reply.brief(), (503, "Try again".to_owned()), "{asked:?}");
                assert!(reply.header("retry-after").is_some());
            }
            break;
        }
        assert!(replies.iter().all(|reply| matches!(reply.status, 200 | 503)));
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(kept.get(ID).status, 200, "the other one goes on");
    cable.mend();
    let mended = Instant::now();
    while there(&kept).get(ID).status != 200 {
        assert!(mended.elapsed() < Duration::from_secs(10), "it does not come back");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(there(&ended).get(ID).status, 401, "what it missed is caught up with first");
}

#[test]
fn everybody_is_served_their_own_while_it_is_changed() {
    let home = Home::new();
    let server = home.serve();
    let nodes: Vec<Node> = (0..40).map(|n| server.node(&format!("n{n}"))).collect();
    let nodes = Arc::new(nodes);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let nodes = nodes.clone();
            scope.spawn(move || {
                for turn in 0..nodes.len() {
                    let node = &nodes[(turn * 7 + thread) % nodes.len()];
                    assert_eq!(node.get(ID).brief(), (200, node.system_id.clone()));
                }
            });
        }
        // Meanwhile what they are served is changed again and again.
        let operator = server.operator();
        for turn in 0..40 {
            let body = json!({"ssh_keys": [format!("ssh-ed25519 AAAA {turn}")]}).to_string();
            assert_eq!(patch(&operator, &format!("n{turn}"), &body).status, 200);
        }
    });
    for (turn, node) in nodes.iter().enumerate() {
        let keys = node.get("/latest/meta-data/public-keys").text();
        assert_eq!(keys, format!("ssh-ed25519 AAAA {turn}"));
    }
}

#[test]
fn the_change_log_is_deleted_from_its_beginning_a_few_rows_at_a_time() {
    use nodeinit::clock::Clock;
    use nodeinit::store::{DatabaseUrl, Db, DbError, Tx};
    let home = Home::new();
    home.run(&["migrate"]).done();
    let mut conn = rows::open(&home.database);
    let start = log::find_end(&mut conn).unwrap();
    for key in ["a", "b", "c", "d"] {
        logged(&mut conn, key);
    }
    let (keys, read) = list(&mut conn, &start);
    assert_eq!(keys, ["a", "b", "c", "d"]);
    let newest = log::find_newest(&mut conn).unwrap().unwrap();
    let url = DatabaseUrl::parse(home.database.url()).unwrap();
    let gone = crate::support::wait(async {
        let db = Db::open(&url, Clock::System, 2).unwrap();
        let mut gone = Vec::new();
        for _ in 0..3 {
            let delete = move |tx: &mut Tx| Ok::<_, DbError>(log::delete_until(tx, newest - 1, 2)?);
            gone.push(db.write("sweep", delete).await.unwrap());
        }
        gone
    });
    assert_eq!(gone, [2, 1, 0]);
    // Whoever had not read so far cannot know what was there; whoever had goes on.
    assert!(log::list_since(&mut conn, &start).unwrap().has_gap);
    let (keys, _) = list(&mut conn, &read);
    assert_eq!(keys, Vec::<String>::new());
    assert_eq!(rows::text(&home.database, "SELECT token_key FROM changes"), "d");
    // A number is never given again, so nobody who has read further misses a row.
    home.database.execute("DELETE FROM changes");
    logged(&mut conn, "e");
    assert!(log::find_newest(&mut conn).unwrap().unwrap() > newest);
}
