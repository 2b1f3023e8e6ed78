//! Nonces and timestamps: what is judged, what is not, and what a stop, a crash and a start keep.

use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use nodeinit::actions;
use nodeinit::client::oauth1::{NodeCredentials, hmac_sha1};
use nodeinit::clock::Clock;
use nodeinit::maintenance::key;
use serde_json::json;

use crate::support::process::{Home, Process, free_port};
use crate::support::wire::{self, nonce};
use crate::support::{NOW, Node, Options, Reply, TestDatabase, TestServer, rows, wait};

const PATH: &str = "/latest/meta-data/instance-id";

/// An HMAC-SHA1 `Authorization` for a GET of [`PATH`].
fn hmac(node: &Node, timestamp: i64, nonce: &str) -> String {
    let url = format!("http://{}/MAAS/metadata{PATH}", node.address);
    let credentials = NodeCredentials {
        consumer_key: node.consumer_key.clone(),
        token_key: node.token_key.clone(),
        token_secret: node.token_secret.clone(),
    };
    hmac_sha1(&credentials, u64::try_from(timestamp).unwrap(), nonce, "GET", &url)
}

/// The answer to this `Authorization`: `200`, or the code of the refusal.
fn ask(node: &Node, authorization: &str) -> String {
    verdict(&node.get_with(PATH, authorization))
}

fn verdict(reply: &Reply) -> String {
    match reply.status {
        200 => "200".into(),
        401 => {
            let realm = reply.header("www-authenticate");
            assert_eq!(realm, Some("OAuth realm=\"nodeinit\""), "{reply:?}");
            reply.text()
        }
        status => format!("{status} {}", reply.text()),
    }
}

/// A server that has been up for a while at [`NOW`]: where there may be replicas, a start without
/// nonces refuses its first seconds.
fn start(options: Options) -> TestServer {
    let earlier = Timestamp::from_second(NOW - 1000).unwrap();
    let server = TestServer::start_with(Options { clock: Clock::fixed(earlier), ..options });
    server.clock.advance(1000);
    server
}

fn now() -> i64 {
    Clock::System.now().as_second()
}

fn strict() -> Options {
    Options::default().flag("plaintext-replay", "refuse")
}

#[test]
fn n01_a_cleanup_with_nothing_old_takes_nothing() {
    let server = start(Options::default());
    let node = server.node("n1");
    let spent = hmac(&node, NOW, "n");
    assert_eq!(ask(&node, &spent), "200");
    let keep = Duration::from_hours(1);
    assert_eq!(wait(actions::cull::sweep(&server.app, keep)).unwrap(), 0);
    assert_eq!(ask(&node, &spent), "nonce_refused");
}

#[test]
fn n02_nonces_out_of_the_window_are_dropped_and_newer_ones_kept() {
    let server = start(Options::default().flag("node-burst", "100000"));
    let node = server.node("n1");
    for i in 0..200 {
        assert_eq!(ask(&node, &hmac(&node, NOW, &format!("old{i}"))), "200");
    }
    server.clock.advance(200);
    let newer: Vec<String> =
        (0..20).map(|i| hmac(&node, NOW + 200, &format!("newer{i}"))).collect();
    assert!(newer.iter().all(|header| ask(&node, header) == "200"));
    let kept = || server.app.nonces.save().lines().count() - 1;
    assert_eq!(kept(), 220);

    server.clock.advance(200);
    // So many that each of the 64 shards is come by: one in 10^9 runs misses any.
    for i in 0..1600 {
        assert_eq!(ask(&node, &hmac(&node, NOW + 400, &format!("new{i}"))), "200");
    }
    assert_eq!(kept(), 1620, "the old ones are gone, and no other");
    assert!(newer.iter().all(|header| ask(&node, header) == "nonce_refused"));
    assert_eq!(ask(&node, &hmac(&node, NOW, "old0")), "timestamp_refused");
}

#[test]
fn n03_a_nonce_is_refused_at_every_second_of_its_timestamps_window() {
    let server = start(Options::default().flag("node-burst", "100000"));
    let node = server.node("n1");
    // As far ahead as a timestamp may be, and as far behind.
    let ahead = hmac(&node, NOW + 2, "ahead");
    let behind = hmac(&node, NOW - 300, "behind");
    assert_eq!(ask(&node, &ahead), "200");
    assert_eq!(ask(&node, &behind), "200");
    assert_eq!(ask(&node, &behind), "nonce_refused");
    for second in 0..=302_i64 {
        assert_eq!(ask(&node, &ahead), "nonce_refused", "{second} s later");
        // Others come by, and make room.
        assert_eq!(ask(&node, &hmac(&node, NOW + second, &format!("x{second}"))), "200");
        server.clock.advance(1);
    }
    assert_eq!(ask(&node, &ahead), "timestamp_refused", "303 s later it is out of the window");
}

#[test]
fn n03_a_clock_set_back_does_not_make_a_spent_nonce_good_again() {
    let server = start(Options::default().flag("node-burst", "100000"));
    let node = server.node("n1");
    let spent = hmac(&node, NOW, "spent");
    assert_eq!(ask(&node, &spent), "200");
    server.clock.advance(400);
    for i in 0..600 {
        assert_eq!(ask(&node, &hmac(&node, NOW + 400, &format!("x{i}"))), "200");
    }
    server.clock.advance(-400);
    assert_ne!(ask(&node, &spent), "200", "it is taken a second time");
}

#[test]
fn n04_the_sweep_runs_at_the_start() {
    let mut server = start(Options::default());
    server.node("n1");
    let token = "/v1/default/nodes/n1/token";
    server.operator().session.delete(token).unwrap();
    server.operator().token("n1");
    server.stop();
    assert_eq!(rows::count(&server.database, "tokens"), 2);
    server.clock.advance(31 * 86_400);
    let server = server.restart();
    let began = Instant::now();
    while rows::count(&server.database, "tokens") > 1 {
        assert!(began.elapsed() < Duration::from_secs(20), "nothing is swept");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(rows::count(&server.database, "consumers"), 1);
}

#[test]
fn n05_cleanup_and_traffic_do_not_disturb_each_other() {
    let server = start(Options::default().flag("node-burst", "100000"));
    let nodes: Vec<Node> = (0..4).map(|i| server.node(&format!("n{i}"))).collect();
    for i in 0..50 {
        let id = format!("gone{i}");
        server.node(&id);
        server.operator().session.delete(&format!("/v1/default/nodes/{id}")).unwrap();
    }
    server.clock.advance(86_400);
    let reading = std::sync::atomic::AtomicUsize::new(nodes.len());
    let swept: usize = std::thread::scope(|scope| {
        for node in &nodes {
            let (clock, reading) = (server.clock.clone(), &reading);
            scope.spawn(move || {
                for _ in 0..60 {
                    let header = hmac(node, clock.now().as_second(), &nonce());
                    assert_eq!(ask(node, &header), "200");
                }
                reading.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
            });
        }
        let mut swept = 0;
        while reading.load(std::sync::atomic::Ordering::SeqCst) > 0 {
            swept += wait(actions::cull::sweep(&server.app, Duration::from_hours(1))).unwrap();
            wait(actions::cull::flush(&server.app)).unwrap();
        }
        swept
    });
    assert_eq!(swept, 50);
}

#[test]
fn n06_a_clean_stop_keeps_what_was_spent_and_the_next_start_takes_fresh_ones_at_once() {
    let server = start(Options::default());
    let node = server.node("n1");
    let file = server.dir.path().join("nonces");
    let (early, late) = ("early".to_owned(), "late".to_owned());
    assert_eq!(ask(&node, &hmac(&node, NOW, &early)), "200");
    assert_eq!(ask(&node, &hmac(&node, NOW + 2, &late)), "200");
    let mut server = server;
    for round in 0..3 {
        server = server.restart();
        assert!(!file.exists(), "the start has consumed them");
        let node = server.credentials("n1");
        // The listener's port is in the signature, the nonce is what was spent.
        assert_eq!(ask(&node, &hmac(&node, NOW, &early)), "nonce_refused", "{round}");
        assert_eq!(ask(&node, &hmac(&node, NOW + 2, &late)), "nonce_refused", "{round}");
        assert_eq!(ask(&node, &hmac(&node, NOW, &format!("fresh{round}"))), "200");
        assert_eq!(ask(&node, &hmac(&node, NOW - 300, &format!("fresh{round}"))), "200");
    }
    server.stop();
    assert!(file.exists(), "a clean stop leaves them");
}

#[test]
fn n06_without_what_a_clean_stop_leaves_the_next_start_refuses_up_to_its_own_start_and_2_s() {
    for leave in [None, Some(&b""[..]), Some(b"nodeinit nonces 2\n12 zz\n"), Some(b"\xff\xfe")] {
        let mut server = start(Options::default());
        let node = server.node("n1");
        assert_eq!(ask(&node, &hmac(&node, NOW + 2, "spent")), "200");
        server.stop();
        let file = server.dir.path().join("nonces");
        match leave {
            None => std::fs::remove_file(&file).unwrap(),
            Some(bytes) => std::fs::write(&file, bytes).unwrap(),
        }
        server.clock.advance(1);
        let server = server.restart();
        let node = server.credentials("n1");
        for timestamp in [NOW - 299, NOW, NOW + 2, NOW + 3] {
            assert_eq!(ask(&node, &hmac(&node, timestamp, "any")), "timestamp_refused");
        }
        assert_eq!(ask(&node, &hmac(&node, NOW + 2, "spent")), "timestamp_refused");
        server.clock.advance(3);
        assert_eq!(ask(&node, &hmac(&node, NOW + 3, "any")), "timestamp_refused");
        assert_eq!(ask(&node, &hmac(&node, NOW + 4, "any")), "200", "{leave:?}");
        assert_eq!(node.get(PATH).status, 200);
    }
}

#[test]
fn n07_trouble_behind_a_signed_request_is_503_and_the_next_try_is_taken() {
    let server = start(Options::default());
    let node = server.node("n1");
    let read = |header: &str| node.send("GET", PATH, &[("Authorization", header)], b"");
    assert_eq!(read(&hmac(&node, NOW, &nonce())).status, 200);
    for table in ["contents", "tokens"] {
        // One that is not in memory.
        let node = server.node(table);
        server.database.execute(&format!("ALTER TABLE {table} RENAME TO away"));
        let path = "/latest/user-data";
        let url = format!("http://{}/MAAS/metadata{path}", node.address);
        let signed = || {
            let credentials = NodeCredentials {
                consumer_key: node.consumer_key.clone(),
                token_key: node.token_key.clone(),
                token_secret: node.token_secret.clone(),
            };
            hmac_sha1(&credentials, u64::try_from(NOW).unwrap(), &nonce(), "GET", &url)
        };
        for _ in 0..3 {
            let reply = node.get_with(path, &signed());
            assert_eq!(reply.status, 503, "{table}: {}", reply.text());
            assert!(reply.header("retry-after").is_some());
        }
        server.database.execute(&format!("ALTER TABLE away RENAME TO {table}"));
        assert_eq!(node.get_with(path, &signed()).brief(), (200, String::new()), "{table}");
    }
}

#[test]
fn n07_lost_database_connections_never_read_as_a_spent_nonce() {
    let dir = Arc::new(tempfile::Builder::new().prefix("nodeinit").tempdir().unwrap());
    let database = Arc::new(TestDatabase::new(dir.path()));
    let mut options = Options::default();
    let name = dir.path().file_name().unwrap().to_string_lossy().into_owned();
    if database.is_postgres() {
        key::make(&dir.path().join("secret.key")).unwrap();
        // Other tests have connections to the same server, and keep them.
        let url = format!("{}&application_name={name}", database.url());
        options = options.flag("database-url", &url);
    }
    let server = TestServer::open(options, dir, database).map_err(|e| e.to_string()).unwrap();
    server.clock.advance(3);
    let node = server.node("n1");
    if server.database.is_postgres() {
        let lost = format!(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
             WHERE application_name = '{name}'"
        );
        assert!(rows::number(&server.database, &lost) > 0);
    }
    let began = Instant::now();
    loop {
        match ask(&node, &hmac(&node, NOW + 3, &nonce())).as_str() {
            "200" => break,
            other => assert!(other.starts_with("503"), "{other}"),
        }
        assert!(began.elapsed() < Duration::from_secs(20), "it does not come back");
    }
}

#[test]
fn hmac_timestamps_may_be_300_s_behind_and_2_s_ahead() {
    let server = start(Options::default());
    let node = server.node("n1");
    for (offset, expected) in [
        (0, "200"),
        (-300, "200"),
        (-301, "timestamp_refused"),
        (2, "200"),
        (3, "timestamp_refused"),
        (86_400, "timestamp_refused"),
        (-NOW + 1, "timestamp_refused"),
    ] {
        let header = hmac(&node, NOW + offset, &nonce());
        assert_eq!(ask(&node, &header), expected, "{offset} s");
    }
    // Beyond every clock.
    let huge = hmac(&node, i64::MAX, &nonce());
    assert_eq!(ask(&node, &huge), "timestamp_refused");
}

#[test]
fn a_timestamp_is_refused_with_a_date_by_which_a_client_mends_its_clock() {
    let server = TestServer::start_with(Options::default().system_clock());
    let node = server.node("n1");
    let reply = node.get_with(PATH, &hmac(&node, now() - 100_000, &nonce()));
    assert_eq!(verdict(&reply), "timestamp_refused");
    let date = reply.header("date").expect("a Date").to_owned();
    let date = jiff::fmt::rfc2822::parse(&date).unwrap().timestamp().as_second();
    assert!((now() - date).abs() <= 2, "{date} is not now");
    // Retried by that clock, as cloud-init does.
    let began = Instant::now();
    while ask(&node, &hmac(&node, date.max(now()), &nonce())) != "200" {
        assert!(began.elapsed() < Duration::from_secs(5), "the mended clock is refused");
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn a_nonce_is_spent_once_per_token_timestamp_and_nonce() {
    let server = start(Options::default());
    let (node, other) = (server.node("n1"), server.node("n2"));
    let header = hmac(&node, NOW, "same");
    assert_eq!(ask(&node, &header), "200");
    assert_eq!(ask(&node, &header), "nonce_refused");
    assert_eq!(ask(&node, &hmac(&node, NOW - 1, "same")), "200", "another timestamp");
    assert_eq!(ask(&node, &hmac(&node, NOW, "Same")), "200", "another nonce");
    assert_eq!(ask(&other, &hmac(&other, NOW, "same")), "200", "another token");
    assert_eq!(ask(&node, &header), "nonce_refused");
}

#[test]
fn only_a_good_signature_spends_a_nonce() {
    let server = start(Options::default());
    let node = server.node("n1");
    let forged = Node { token_secret: "x".repeat(32), ..node.clone() };
    let stranger = Node { consumer_key: "y".repeat(18), ..node.clone() };
    for attacker in [&forged, &stranger] {
        for _ in 0..3 {
            assert_eq!(ask(attacker, &hmac(attacker, NOW, "theirs")), "credentials_refused");
        }
    }
    // Nor does a good one at a bad time.
    server.clock.advance(-10);
    assert_eq!(ask(&node, &hmac(&node, NOW, "theirs")), "timestamp_refused");
    server.clock.advance(10);
    assert_eq!(ask(&node, &hmac(&node, NOW, "theirs")), "200");
    assert_eq!(ask(&node, &hmac(&node, NOW, "theirs")), "nonce_refused");
    // A forger learns nothing of what was spent.
    assert_eq!(ask(&forged, &hmac(&forged, NOW, "theirs")), "credentials_refused");
    assert_eq!(ask(&forged, &hmac(&forged, NOW - 1000, "old")), "credentials_refused");
}

#[test]
fn of_fifty_identical_requests_at_once_exactly_one_is_taken() {
    let server = start(Options::default());
    let node = server.node("n1");
    for round in 0..3 {
        let header = hmac(&node, NOW, &format!("race{round}"));
        let barrier = std::sync::Barrier::new(50);
        let verdicts: Vec<String> = std::thread::scope(|scope| {
            let racers: Vec<_> = (0..50)
                .map(|_| {
                    scope.spawn(|| {
                        barrier.wait();
                        ask(&node, &header)
                    })
                })
                .collect();
            racers.into_iter().map(|racer| racer.join().unwrap()).collect()
        });
        assert_eq!(verdicts.iter().filter(|verdict| *verdict == "200").count(), 1);
        assert_eq!(verdicts.iter().filter(|verdict| *verdict == "nonce_refused").count(), 49);
    }
}

#[test]
fn hmac_needs_a_timestamp_and_a_nonce() {
    let server = start(Options::default());
    let node = server.node("n1");
    let whole = hmac(&node, NOW, "n");
    for name in ["oauth_timestamp", "oauth_nonce"] {
        let (scheme, parameters) = whole.split_once(' ').unwrap();
        let left: Vec<&str> =
            parameters.split(',').filter(|p| !p.trim_start().starts_with(name)).collect();
        assert_eq!(left.len() + 1, parameters.split(',').count());
        let header = format!("{scheme} {}", left.join(","));
        assert_eq!(ask(&node, &header), "credentials_malformed", "without {name}");
    }
}

/// A PLAINTEXT header with these parameters and no others for the time.
fn plaintext(node: &Node, timestamp: Option<&str>, nonce: Option<&str>) -> String {
    let mut header = format!(
        "OAuth oauth_version=\"1.0\", oauth_signature_method=\"PLAINTEXT\", \
         oauth_consumer_key=\"{}\", oauth_token=\"{}\", oauth_signature=\"%26{}\"",
        node.consumer_key, node.token_key, node.token_secret
    );
    for (name, value) in [("timestamp", timestamp), ("nonce", nonce)] {
        if let Some(value) = value {
            header.extend([", oauth_", name, "=\"", value, "\""]);
        }
    }
    header
}

#[test]
fn plaintext_is_never_refused_for_its_clock_or_a_replay() {
    let server = start(Options::default());
    let mut node = server.node("n1");
    let mut server = server;
    // Before and after a clean stop, and after a crash that left no nonces.
    for start in ["first", "clean", "unclean"] {
        for timestamp in [NOW, NOW + 1_000_000, NOW - 1_000_000, 0, 1, i64::MAX] {
            let header = node.header_at(timestamp, "always-the-same");
            for _ in 0..3 {
                assert_eq!(ask(&node, &header), "200", "{start}, {timestamp}");
            }
        }
        for (timestamp, nonce) in [(None, None), (Some("1"), None), (None, Some("n"))] {
            assert_eq!(ask(&node, &plaintext(&node, timestamp, nonce)), "200", "{start}");
        }
        if start == "clean" {
            server.stop();
            std::fs::remove_file(server.dir.path().join("nonces")).unwrap();
        }
        server = server.restart();
        node = server.credentials("n1");
    }
}

#[test]
fn plaintexts_timestamp_and_nonce_are_parsed_although_not_judged() {
    let server = start(Options::default());
    let node = server.node("n1");
    let (longest, too_long) = ("a".repeat(255), "a".repeat(256));
    for number in ["0", "99999999999999999999999", "9".repeat(255).as_str()] {
        assert_eq!(ask(&node, &plaintext(&node, Some(number), Some(&longest))), "200", "{number}");
    }
    for (timestamp, nonce) in [
        ("abc", "n"),
        ("", "n"),
        ("1.5e9", "n"),
        ("-1", "n"),
        ("+1", "n"),
        ("1800000000", &too_long),
        (&"9".repeat(256), "n"),
    ] {
        let header = plaintext(&node, Some(timestamp), Some(nonce));
        assert_eq!(ask(&node, &header), "credentials_malformed", "{timestamp} {nonce}");
    }
}

#[test]
fn strictly_plaintext_is_judged_as_hmac_is() {
    let server = start(strict());
    let now = server.clock.now().as_second();
    let node = server.node("n1");
    let at = |timestamp: i64, nonce: &str| node.header_at(timestamp, nonce);
    assert_eq!(ask(&node, &at(now, "n")), "200");
    assert_eq!(ask(&node, &at(now, "n")), "nonce_refused");
    assert_eq!(ask(&node, &at(now + 1, "n")), "200");
    assert_eq!(ask(&node, &at(now + 2, "m")), "200");
    assert_eq!(ask(&node, &at(now + 3, "m")), "timestamp_refused");
    assert_eq!(ask(&node, &at(now - 301, "m")), "timestamp_refused");
    for (timestamp, nonce) in [(None, None), (Some("1"), None), (None, Some("n"))] {
        let header = plaintext(&node, timestamp, nonce);
        assert_eq!(ask(&node, &header), "credentials_malformed");
    }
    let forged = Node { token_secret: "x".repeat(32), ..node.clone() };
    assert_eq!(ask(&forged, &forged.header_at(now, "f")), "credentials_refused");
    assert_eq!(ask(&node, &at(now, "f")), "200", "a forger spends nothing");

    let server = server.restart();
    let node = server.credentials("n1");
    assert_eq!(ask(&node, &node.header_at(now, "n")), "nonce_refused");
    assert_eq!(ask(&node, &node.header_at(now, "fresh")), "200");
}

/// Asks with fresh signatures until one is taken; how long that took.
fn until_taken(node: &Node) -> Duration {
    let began = Instant::now();
    loop {
        match ask(node, &hmac(node, now(), &nonce())).as_str() {
            "200" => return began.elapsed(),
            refused => assert_eq!(refused, "timestamp_refused"),
        }
        assert!(began.elapsed() < Duration::from_secs(8), "fresh requests stay refused");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_brand_new_sqlite_database_takes_signatures_at_once() {
    let home = Home::new();
    let server = home.serve();
    let node = server.node("n1");
    let first = ask(&node, &hmac(&node, now(), &nonce()));
    if home.database.is_postgres() {
        // It may be another replica's, and in use.
        assert_eq!(first, "timestamp_refused");
        until_taken(&node);
    } else {
        assert_eq!(first, "200");
    }
    server.stop();
}

#[test]
fn a_nonce_used_before_a_crash_is_refused_after_it() {
    let home = Home::new();
    let server = home.serve();
    let node = server.node("n1");
    until_taken(&node);
    let spent: Vec<(i64, String)> =
        [-200, -1, 0, 1].iter().map(|by| (now() + by, nonce())).collect();
    for (timestamp, nonce) in &spent {
        let verdict = ask(&node, &hmac(&node, *timestamp, nonce));
        // On PostgreSQL the first start has its own two seconds.
        assert!(verdict == "200" || *timestamp < now(), "{verdict}");
    }
    let replayed: Vec<_> = spent
        .iter()
        .filter(|(timestamp, nonce)| ask(&node, &hmac(&node, *timestamp, nonce)) == "nonce_refused")
        .collect();
    assert!(replayed.len() >= 2);
    server.kill();

    let server = home.serve();
    let node = server.credentials("n1");
    assert_eq!(node.get(PATH).status, 200, "PLAINTEXT is not held up");
    let is_refused = |when: &str| {
        for (timestamp, nonce) in &replayed {
            let verdict = ask(&node, &hmac(&node, *timestamp, nonce));
            assert_eq!(verdict, "timestamp_refused", "{when}: {timestamp}");
        }
    };
    is_refused("at once");
    let took = until_taken(&node);
    assert!(took < Duration::from_secs(4), "fresh ones are taken {took:?} after the start");
    is_refused("after the floor has passed");
    std::thread::sleep(Duration::from_secs(2));
    is_refused("later");
    server.stop();
}

#[test]
fn a_clean_stop_keeps_nonces_and_the_start_after_it_takes_fresh_ones_at_once() {
    let home = Home::new();
    let server = home.serve();
    let node = server.node("n1");
    until_taken(&node);
    let (timestamp, spent) = (now(), nonce());
    assert_eq!(ask(&node, &hmac(&node, timestamp, &spent)), "200");
    server.stop();

    let server = home.serve();
    let node = server.credentials("n1");
    assert_eq!(ask(&node, &hmac(&node, now(), &nonce())), "200", "at once");
    assert_eq!(ask(&node, &hmac(&node, timestamp, &spent)), "nonce_refused");
    // A crash of this one: the file of the stop before is not believed twice.
    let (timestamp, spent) = (now(), nonce());
    assert_eq!(ask(&node, &hmac(&node, timestamp, &spent)), "200");
    server.kill();

    let server = home.serve();
    let node = server.credentials("n1");
    assert_eq!(ask(&node, &hmac(&node, timestamp, &spent)), "timestamp_refused");
    until_taken(&node);
    assert_eq!(ask(&node, &hmac(&node, timestamp, &spent)), "timestamp_refused");
    server.stop();
}

#[test]
fn a_clean_stop_soon_after_a_crash_does_not_make_good_what_was_spent_before_it() {
    let home = Home::new();
    let server = home.serve();
    let node = server.node("n1");
    until_taken(&node);
    let (timestamp, spent) = (now(), nonce());
    assert_eq!(ask(&node, &hmac(&node, timestamp, &spent)), "200");
    server.kill();
    home.serve().stop();
    for _ in 0..2 {
        let server = home.serve();
        let node = server.credentials("n1");
        assert_eq!(ask(&node, &hmac(&node, timestamp, &spent)), "timestamp_refused");
        until_taken(&node);
        assert_eq!(ask(&node, &hmac(&node, timestamp, &spent)), "timestamp_refused");
        server.stop();
    }
}

#[test]
fn a_crash_never_refuses_plaintext() {
    let home = Home::new();
    for _ in 0..3 {
        let server = home.serve();
        if server.operator().session.get("/v1/default/nodes/n1").is_err() {
            server.operator().add("n1", json!({}));
        }
        let node = server.credentials("n1");
        for timestamp in [0, now() - 10_000, now(), now() + 10_000] {
            assert_eq!(ask(&node, &node.header_at(timestamp, "always-the-same")), "200");
        }
        server.kill();
    }
}

/// A strict server on a known port, and the first verdict on a node that asks all the while.
fn first_answer_while_starting(home: &Home, node: &Node) -> (Process, String, Duration) {
    let port = free_port();
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    let node = Node { address, ..node.clone() };
    let began = Instant::now();
    let asking = std::thread::spawn(move || {
        loop {
            let header = node.header_at(now(), &nonce());
            if TcpStream::connect(address).is_ok() {
                let path = format!("/MAAS/metadata{PATH}");
                let reply = wire::send(address, "GET", &path, &[("Authorization", &header)], b"");
                return (verdict(&reply), began.elapsed());
            }
            assert!(began.elapsed() < Duration::from_secs(50), "it does not open");
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    let listen = address.to_string();
    let server = home.serve_with(&["--plaintext-replay", "refuse", "--listen", &listen]);
    let (verdict, after) = asking.join().unwrap();
    (server, verdict, after)
}

#[test]
fn strictly_the_node_listener_opens_only_once_the_floor_has_passed() {
    let home = Home::new();
    let server = home.serve_with(&["--plaintext-replay", "refuse"]);
    let node = server.node("n1");
    let (timestamp, spent) = (now(), nonce());
    assert_eq!(ask(&node, &node.header_at(timestamp, &spent)), "200");
    server.kill();

    // No node that comes while it starts is refused for that.
    let (server, verdict, after) = first_answer_while_starting(&home, &node);
    assert_eq!(verdict, "200", "asked after {after:?}");
    assert!(after > Duration::from_secs(2), "opened after {after:?}");
    let node = Node { address: server.node, ..node };
    assert_eq!(ask(&node, &node.header_at(timestamp, &spent)), "timestamp_refused");
    server.stop();

    // After a clean stop there is nothing to wait for.
    let (server, verdict, _) = first_answer_while_starting(&home, &node);
    assert_eq!(verdict, "200");
    server.stop();
}
