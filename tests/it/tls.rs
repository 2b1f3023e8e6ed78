//! TLS: who may believe the listeners, what a reload replaces, and what failed handshakes cost.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use nodeinit::client::oauth1::{NodeCredentials, hmac_sha1};
use nodeinit::clock::Clock;
use rustix::process::Signal;
use rustls::ProtocolVersion;
use rustls::version::{TLS12, TLS13};

use crate::support::process::{Home, Process};
use crate::support::tls::{Ca, Client, Pair};
use crate::support::wire::{self, nonce};
use crate::support::{NOW, Options, TestServer};

const ID: &str = "/MAAS/metadata/latest/meta-data/instance-id";

/// Settings under which both listeners show this certificate.
fn both(dir: &Path, pair: &Pair, options: Options) -> Options {
    let (cert, key) = pair.write(dir, "pair");
    let (cert, key) = (cert.to_str().unwrap(), key.to_str().unwrap());
    options
        .flag("tls-cert", cert)
        .flag("tls-key", key)
        .flag("admin-tls-cert", cert)
        .flag("admin-tls-key", key)
}

/// A server of this process with TLS on both listeners, at [`NOW`].
fn start(pair: &Pair, options: Options) -> TestServer {
    let files = tempfile::tempdir().unwrap();
    // Where there may be replicas, a start refuses its first seconds.
    let clock = Clock::fixed(jiff::Timestamp::from_second(NOW - 1000).unwrap());
    let server = TestServer::start_with(both(files.path(), pair, Options { clock, ..options }));
    server.clock.advance(1000);
    server
}

/// The binary with TLS on both listeners, its files in its state directory.
fn serve(home: &Home, pair: &Pair) -> Process {
    pair.write(home.dir.path(), "pair");
    home.serve_with(&[
        "--tls-cert",
        "pair.pem",
        "--tls-key",
        "pair.key",
        "--admin-tls-cert",
        "pair.pem",
        "--admin-tls-key",
        "pair.key",
    ])
}

/// Waits until the server has said this so many times on stderr.
fn said(server: &Process, what: &str, times: usize) {
    let began = Instant::now();
    while server.said().matches(what).count() < times {
        assert!(began.elapsed() < Duration::from_secs(30), "{what:?}: {}", server.said());
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_node_reads_itself_over_tls_12_and_13_by_an_ip_san_and_by_a_name() {
    let ca = Ca::new();
    let server = start(&ca.issue(&["127.0.0.1", "metadata.example.com"]), Options::default());
    let node = server.node("n1");
    for (version, number) in
        [(&TLS12, ProtocolVersion::TLSv1_2), (&TLS13, ProtocolVersion::TLSv1_3)]
    {
        for name in ["127.0.0.1", "metadata.example.com"] {
            let mut secured = ca.client_of(version).connect(server.node, name).unwrap();
            assert_eq!(secured.stream.conn.protocol_version(), Some(number));
            let reply = secured.get(ID, &node.header());
            assert_eq!(reply.brief(), (200, "n1".into()), "{name}");
        }
    }
}

#[test]
fn an_ipv6_literal_and_its_ip_san_work() {
    let ca = Ca::new();
    let server = start(&ca.issue(&["::1"]), Options::default().flag("listen", "[::1]:0"));
    let node = server.node("n1");
    let reply = ca.client().get(server.node, ID, &node.header()).unwrap();
    assert_eq!(reply.brief(), (200, "n1".into()));
}

#[test]
fn an_untrusted_ca_and_a_wrong_name_are_refused_by_the_client() {
    let ca = Ca::new();
    let server = start(&ca.issue(&["127.0.0.1"]), Options::default());
    for version in [&TLS12, &TLS13] {
        let untrusting = Ca::new().client_of(version).connect(server.node, "127.0.0.1");
        assert!(untrusting.err().unwrap().to_string().contains("UnknownIssuer"));
        for name in ["metadata.example.com", "127.0.0.2"] {
            let wrong = ca.client_of(version).connect(server.node, name);
            assert!(wrong.err().unwrap().to_string().contains("not valid for name"), "{name}");
        }
    }
    assert!(ca.client().connect(server.node, "127.0.0.1").is_ok());
}

#[test]
fn an_old_ticket_is_no_hindrance_after_a_reload() {
    let ca = Ca::new();
    let home = Home::new();
    let server = serve(&home, &ca.issue(&["127.0.0.1"]));
    let clients = [&TLS12, &TLS13].map(|version| ca.client_of(version));
    let kinds = |client: &Client| {
        [(); 3].map(|()| {
            let mut secured = client.connect(server.node, "127.0.0.1").unwrap();
            assert_eq!(secured.get(ID, "").status, 401);
            format!("{:?}", secured.stream.conn.handshake_kind().unwrap())
        })
    };
    for client in &clients {
        assert_eq!(kinds(client), ["Full", "Resumed", "Resumed"]);
    }
    ca.issue(&["127.0.0.1"]).write(home.dir.path(), "pair");
    server.signal(Signal::HUP);
    said(&server, "the certificate was read anew", 2);
    for client in &clients {
        assert_eq!(kinds(client), ["Full", "Resumed", "Resumed"]);
    }
}

#[test]
fn a_client_that_comes_back_resumes_its_session() {
    let ca = Ca::new();
    let server = start(&ca.issue(&["127.0.0.1"]), Options::default());
    for version in [&TLS12, &TLS13] {
        let client = ca.client_of(version);
        let kinds: Vec<String> = (0..2)
            .map(|_| {
                let mut secured = client.connect(server.node, "127.0.0.1").unwrap();
                secured.get(ID, "");
                format!("{:?}", secured.stream.conn.handshake_kind().unwrap())
            })
            .collect();
        assert_eq!(kinds, ["Full", "Resumed"], "{version:?}");
    }
}

#[test]
fn preseeds_say_https_when_the_node_listener_does() {
    let server = start(&Ca::new().issue(&["127.0.0.1"]), Options::default());
    let url = server.app.metadata_url.as_ref().unwrap();
    assert_eq!(url.as_str(), format!("https://{}/MAAS/metadata/", server.node));
}

#[test]
fn hmac_over_tls_covers_the_https_url() {
    let ca = Ca::new();
    // Behind another name, so that it is the listener's own scheme that is asked for.
    let options = Options::default().flag("metadata-url", "http://elsewhere/MAAS/metadata/");
    let server = start(&ca.issue(&["127.0.0.1"]), options);
    let node = server.node("n1");
    let credentials = NodeCredentials {
        consumer_key: node.consumer_key.clone(),
        token_key: node.token_key.clone(),
        token_secret: node.token_secret.clone(),
    };
    for (scheme, expected) in
        [("https", (200, "n1".to_owned())), ("http", (401, "credentials_refused".to_owned()))]
    {
        let url = format!("{scheme}://{}{ID}", server.node);
        let header = hmac_sha1(&credentials, NOW.unsigned_abs(), &nonce(), "GET", &url);
        assert_eq!(
            ca.client().get(server.node, ID, &header).unwrap().brief(),
            expected,
            "{scheme}"
        );
    }
}

#[test]
fn the_admin_listener_answers_over_tls_alone() {
    let ca = Ca::new();
    let server = start(&ca.issue(&["127.0.0.1"]), Options::default());
    assert_eq!(ca.client().get(server.admin, "/healthz", "").unwrap().status, 200);
    assert_eq!(ca.client().get(server.admin, "/v1/tokens", "").unwrap().status, 401);
    assert!(speak_plainly(server.admin) < Duration::from_secs(2));
}

#[test]
fn a_connection_over_tls_is_kept_for_the_next_request() {
    let ca = Ca::new();
    let server = start(&ca.issue(&["127.0.0.1"]), Options::default());
    let mut secured = ca.client().connect(server.admin, "127.0.0.1").unwrap();
    for _ in 0..3 {
        secured.stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
        let mut answer = [0; 4096];
        let read = secured.stream.read(&mut answer).unwrap();
        assert!(answer[..read].starts_with(b"HTTP/1.1 200 OK\r\n"));
    }
    assert_eq!(secured.get("/healthz", "").status, 200);
}

/// Speaks HTTP without TLS, and returns how long it took until the connection was closed.
fn speak_plainly(address: SocketAddr) -> Duration {
    let began = Instant::now();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert!(!answer.starts_with(b"HTTP/"), "{}", String::from_utf8_lossy(&answer));
    began.elapsed()
}

#[test]
fn what_is_no_handshake_is_closed_told_of_and_told_of_no_more_in_a_flood() {
    let home = Home::new();
    let ca = Ca::new();
    let server = serve(&home, &ca.issue(&["127.0.0.1"]));
    let failed = "a TLS handshake failed";
    // Whether the port is open is nobody's failure.
    drop(TcpStream::connect(server.node).unwrap());
    assert!(speak_plainly(server.node) < Duration::from_secs(2));
    said(&server, "not TLS: plain HTTP, perhaps", 1);
    assert_eq!(server.said().matches(failed).count(), 1, "{}", server.said());
    assert!(Ca::new().client().connect(server.node, "127.0.0.1").is_err());
    said(&server, "UnknownCA", 1);
    // A client that looks at the name late leaves like this.
    drop(ca.client().connect(server.node, "127.0.0.1").unwrap());
    said(&server, "it said nothing after the handshake", 1);
    for _ in 0..100 {
        let _ = speak_plainly(server.node);
    }
    let node = server.node("n1");
    assert_eq!(ca.client().get(server.node, ID, &node.header()).unwrap().status, 200);
    // The other listener has an allowance of its own.
    speak_plainly(server.admin.unwrap());
    said(&server, "\"plane\":\"admin\",\"peer\":\"127.0.0.1:", 1);
    let log = server.stop();
    assert_eq!(log.matches(failed).count(), 10 + 1, "{log}");
}

#[test]
fn handshakes_that_never_end_are_ended_and_starve_nobody() {
    let ca = Ca::new();
    let server = start(&ca.issue(&["127.0.0.1"]), Options::default().flag("header-time", "2s"));
    let node = server.node("n1");
    // More than actix would do at once; every other one has begun to speak.
    let began = Instant::now();
    let mut open: Vec<TcpStream> = (0..1200)
        .map(|n| {
            let mut stream = TcpStream::connect(server.node).unwrap();
            if n % 2 == 0 {
                stream.write_all(&[22, 3, 1]).unwrap();
            }
            stream
        })
        .collect();
    let asked = Instant::now();
    assert_eq!(ca.client().get(server.node, ID, &node.header()).unwrap().status, 200);
    assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
    for stream in &mut open {
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        assert!(stream.read(&mut [0; 64]).is_ok_and(|read| read == 0), "closed in order");
    }
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
}

#[test]
fn a_hangup_swaps_the_certificates_under_a_running_server_and_keeps_them_from_broken_files() {
    let home = Home::new();
    let ca = Ca::new();
    let first = ca.issue(&["127.0.0.1"]);
    let server = serve(&home, &first);
    let node = server.node("n1");
    let shown = |address| ca.client().connect(address, "127.0.0.1").unwrap().certificate();
    let both = || [shown(server.node), shown(server.admin.unwrap())];
    let mut kept = ca.client().connect(server.node, "127.0.0.1").unwrap();
    let before = both();
    assert_eq!(before[0], before[1]);

    ca.issue(&["127.0.0.1"]).write(home.dir.path(), "pair");
    assert_eq!(both(), before, "not before it is told to");
    server.signal(Signal::HUP);
    said(&server, "the certificate was read anew", 2);
    let after = both();
    assert_ne!(after[0], before[0]);
    assert_eq!(after[0], after[1]);
    // Whoever was connected is not cut off.
    assert_eq!(kept.get(ID, &node.header()).brief(), (200, "n1".into()));

    // A key of another certificate, a file that is none, no file.
    let key = home.path("pair.key");
    let other = ca.issue(&["127.0.0.1"]);
    let breakages: [&dyn Fn(); 3] = [
        &|| std::fs::write(&key, &other.key).unwrap(),
        &|| std::fs::write(home.path("pair.pem"), "nothing").unwrap(),
        &|| std::fs::remove_file(home.path("pair.pem")).unwrap(),
    ];
    for (n, (break_it, why)) in breakages
        .iter()
        .zip([
            "pair.key: is not the key of the certificate in pair.pem",
            "pair.pem: there is no certificate in PEM in it",
            "pair.pem: cannot be read: No such file",
        ])
        .enumerate()
    {
        break_it();
        server.signal(Signal::HUP);
        said(&server, "the old certificate stays in use", 2 * (n + 1));
        said(&server, why, 2);
        assert_eq!(both(), after);
        assert_eq!(ca.client().get(server.node, ID, &node.header()).unwrap().status, 200);
    }

    other.write(home.dir.path(), "pair");
    server.signal(Signal::HUP);
    said(&server, "the certificate was read anew", 4);
    assert_ne!(both(), after);
    let log = server.stop();
    assert!(!log.contains("PRIVATE KEY") && !log.contains(other.key.lines().nth(1).unwrap()));
}

#[test]
fn a_stop_answers_what_is_asked_over_tls_and_closes_what_is_idle() {
    let home = Home::new();
    let ca = Ca::new();
    let server = serve(&home, &ca.issue(&["127.0.0.1"]));
    let idle = ca.client().connect(server.node, "127.0.0.1").unwrap();
    let mut asked = ca.client().connect(server.admin.unwrap(), "127.0.0.1").unwrap();
    asked.stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    let mut answer = [0; 4096];
    assert!(asked.stream.read(&mut answer).unwrap() > 0);
    let began = Instant::now();
    server.stop();
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    drop(idle);
}

#[test]
fn a_start_and_a_config_check_say_which_file_is_wrong_and_why() {
    let home = Home::new();
    let ca = Ca::new();
    let (one, two) = (ca.issue(&["127.0.0.1"]), ca.issue(&["127.0.0.1"]));
    one.write(home.dir.path(), "one");
    two.write(home.dir.path(), "two");
    let encrypted = one.key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    std::fs::write(home.path("encrypted.key"), encrypted).unwrap();
    let broken = format!("-----BEGIN CERTIFICATE-----\nAAAA\n{}", "-----END CERTIFICATE-----\n");
    std::fs::write(home.path("broken.pem"), broken).unwrap();
    for (cert, key, why) in [
        ("one.pem", "two.key", "two.key: is not the key of the certificate in one.pem"),
        ("none.pem", "one.key", "none.pem: cannot be read: No such file or directory"),
        ("one.pem", "none.key", "none.key: cannot be read: No such file or directory"),
        ("one.key", "one.key", "one.key: there is no certificate in PEM in it"),
        ("one.pem", "one.pem", "one.pem: there is no unencrypted private key in PEM in it"),
        ("one.pem", "encrypted.key", "encrypted.key: there is no unencrypted private key in PEM"),
        ("broken.pem", "one.key", "broken.pem: its first certificate is not one"),
    ] {
        for [cert_flag, key_flag] in
            [["--tls-cert", "--tls-key"], ["--admin-tls-cert", "--admin-tls-key"]]
        {
            for verb in [&["serve", "--listen", "127.0.0.1:0"][..], &["config", "check"]] {
                let ran = home.run(&[verb, &[cert_flag, cert, key_flag, key]].concat());
                assert_eq!(ran.code, 1, "{ran:?}");
                assert!(ran.err.contains(why), "{ran:?}");
            }
        }
    }
    // Both pairs are looked at, and a half of one is no pair.
    let mut flags = vec!["config", "check", "--tls-cert", "one.pem", "--tls-key", "two.key"];
    flags.extend(["--admin-tls-cert", "none.pem", "--admin-tls-key", "one.key"]);
    let ran = home.run(&flags);
    assert!(ran.err.contains("two.key: is not") && ran.err.contains("none.pem: cannot"), "{ran:?}");
    let half = home.run(&["serve", "--tls-cert", "one.pem"]);
    assert_eq!(half.code, 1);
    assert!(half.err.contains("--tls-cert: --tls-key is missing"), "{half:?}");
    let good = home.run(&["config", "check", "--tls-cert", "one.pem", "--tls-key", "one.key"]);
    assert_eq!((good.code, good.err.as_str()), (0, "nodeinit: the settings are good\n"));
}

#[test]
fn a_key_that_others_can_read_is_a_warning() {
    use std::os::unix::fs::PermissionsExt;
    let home = Home::new();
    Ca::new().issue(&["127.0.0.1"]).write(home.dir.path(), "pair");
    std::fs::set_permissions(home.path("pair.key"), PermissionsExt::from_mode(0o644)).unwrap();
    let flags = ["--tls-cert", "pair.pem", "--tls-key", "pair.key"];
    let checked = home.run(&[&["config", "check"], &flags[..]].concat()).done();
    assert!(checked.err.contains("warning: pair.key: others can use this key"), "{checked:?}");
    let server = home.serve_with(&flags);
    said(&server, "pair.key: others can use this key", 1);
    assert_eq!(server.stop().matches("others can use this key").count(), 1);
}

#[test]
fn the_binary_tells_its_https_addresses() {
    let home = Home::new();
    let ca = Ca::new();
    let server = serve(&home, &ca.issue(&["127.0.0.1"]));
    let admin = server.admin.unwrap();
    assert_eq!(
        server.addresses[..2],
        [
            format!("nodeinit: nodes on https://{}/MAAS/metadata/", server.node),
            format!("nodeinit: admin on https://{admin}/"),
        ]
    );
    let node = server.node("n1");
    assert_eq!(ca.client().get(server.node, ID, &node.header()).unwrap().brief().1, "n1");
    assert_eq!(ca.client().get(admin, "/readyz", "").unwrap().status, 200);
    // The admin socket has no use for TLS.
    assert_eq!(server.operator().session.get("/readyz").unwrap()["status"], "ready");
    let preseed = home.run(&["preseed", "n1", "--format", "curl"]).done();
    assert!(preseed.out.contains(&format!("https://{}/", server.node)), "{preseed:?}");
}

#[test]
fn tls_on_one_listener_leaves_the_other_plain() {
    let home = Home::new();
    let ca = Ca::new();
    ca.issue(&["127.0.0.1"]).write(home.dir.path(), "pair");
    let server = home.serve_with(&["--tls-cert", "pair.pem", "--tls-key", "pair.key"]);
    assert_eq!(server.observer().get("/healthz").status, 200);
    server.stop();
    let server = home.serve_with(&["--admin-tls-cert", "pair.pem", "--admin-tls-key", "pair.key"]);
    assert_eq!(wire::send(server.node, "GET", ID, &[], b"").status, 401);
    assert_eq!(ca.client().get(server.admin.unwrap(), "/healthz", "").unwrap().status, 200);
}
