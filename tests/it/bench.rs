//! `nodeinit bench`, run as a program with numbers too small to say anything about speed.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn bench_read(scratch: &Path, more: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_nodeinit"))
        .args(["bench", "read", "--nodes", "20", "--connections", "4"])
        .args(["--duration", "1s", "--rounds", "1", "-o", "json"])
        .args(more)
        .env("TMPDIR", scratch)
        // Somebody else's database is never the bench's.
        .env("NODEINIT_DATABASE_URL", "postgres://nobody@127.0.0.1:1/none")
        .output()
        .expect("the binary was built with this test")
}

fn rows(output: &Output) -> Vec<Value> {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("one document");
    assert_eq!(report["nodes"], 20);
    let rows = report["read"].as_array().expect("a row a mode").clone();
    let modes: Vec<&Value> = rows.iter().map(|row| &row["mode"]).collect();
    assert_eq!(modes, ["kept_alive", "new_connection"]);
    rows
}

fn is_measured(figures: &Value) {
    assert_eq!(figures["errors"], 0, "{figures}");
    for name in ["requests_per_s", "p50_us", "p99_us"] {
        assert!(figures[name].as_f64().is_some_and(|figure| figure > 0.0), "{name}: {figures}");
    }
}

fn is_empty(dir: &Path) -> bool {
    std::fs::read_dir(dir).expect("the test made it").next().is_none()
}

#[test]
fn reads_are_measured_beside_nginx_without_an_error() {
    let scratch = tempfile::tempdir().unwrap();
    let output = bench_read(scratch.path(), &[]);
    let nginx_is_there = std::env::split_paths(&std::env::var_os("PATH").unwrap())
        .chain(["/usr/sbin".into(), "/usr/local/sbin".into()])
        .any(|dir| dir.join("nginx").is_file());
    for row in rows(&output) {
        is_measured(&row);
        if nginx_is_there {
            is_measured(&row["nginx"]);
            assert!(row["ratio"].as_f64().is_some_and(|ratio| ratio > 0.0), "{row}");
        }
    }
    assert!(is_empty(scratch.path()), "nothing is left behind");
}

#[test]
fn without_nginx_there_is_no_ratio_and_somebody_says_so() {
    let scratch = tempfile::tempdir().unwrap();
    let output = bench_read(scratch.path(), &["--nginx", "/nowhere/nginx"]);
    for row in rows(&output) {
        is_measured(&row);
        assert!(row["ratio"].is_null() && row["nginx"].is_null(), "{row}");
    }
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("no ratio") && said.contains("/nowhere/nginx"), "{said}");
    assert!(is_empty(scratch.path()), "nothing is left behind");
}

fn modes(output: &Output) -> Vec<String> {
    let report = report(output);
    let rows = report["read"].as_array().expect("a row a mode");
    rows.iter().for_each(is_measured);
    rows.iter().map(|row| row["mode"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn reads_over_tls_are_measured_with_whole_handshakes_and_with_sessions_taken_up_again() {
    let scratch = tempfile::tempdir().unwrap();
    let output = bench_read(scratch.path(), &["--tls"]);
    assert_eq!(modes(&output), ["new_tls", "resumed_tls"]);
    assert!(is_empty(scratch.path()), "nothing is left behind");
}

#[test]
fn reads_signed_with_hmac_are_measured_where_every_nonce_is_judged() {
    let scratch = tempfile::tempdir().unwrap();
    let args = ["--hmac", "--plaintext-replay", "refuse", "--database", database()];
    let output = bench_read(scratch.path(), &args);
    assert_eq!(modes(&output), ["kept_alive", "new_connection"]);
    let report = report(&output);
    assert_eq!(
        (&report["signing"], &report["database"]),
        (&"hmac-sha256".into(), &database().into())
    );
    assert_eq!(report["read_db_writes"], 0, "no read waits for a write");
    for name in ["rss_mib", "rss_mib_read_once"] {
        assert!(report[name].as_f64().is_some_and(|mib| mib > 1.0), "{name}: {report}");
    }
}

#[test]
fn a_flood_of_unknown_keys_is_turned_away_beside_reads_that_are_answered() {
    let scratch = tempfile::tempdir().unwrap();
    let args = ["--flood", "200", "--rate", "100", "--nginx", "/nowhere"];
    let report = report(&bench_read(scratch.path(), &args));
    let flood = &report["flood"];
    assert!(flood["refused_401"].as_u64() > Some(0), "{flood}");
    assert_eq!(flood["other"], 0, "nobody unknown is answered well: {flood}");
    for figures in ["with", "without", "with_known"] {
        is_measured(&flood[figures]);
    }
    for ratio in ["p99_ratio", "p99_ratio_to_known"] {
        assert!(flood[ratio].as_f64().is_some_and(|ratio| ratio > 0.0), "{flood}");
    }
}

#[test]
fn a_server_that_is_named_is_not_measured_yet() {
    let scratch = tempfile::tempdir().unwrap();
    let output = bench_read(scratch.path(), &["--server", "http://127.0.0.1:1"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("not supported yet"));
    assert!(is_empty(scratch.path()), "nothing is left behind");
}

/// The database of the bench's own servers: a throwaway one of the kind that the tests run on.
fn database() -> &'static str {
    let url = std::env::var("TEST_DATABASE_URL").unwrap_or_default();
    if url.starts_with("postgres") { "postgres" } else { "sqlite" }
}

fn storm(scratch: &Path, more: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_nodeinit"))
        .args(["bench", "storm", "--nodes", "8", "--ramp", "1s", "-o", "json"])
        .args(["--database", database()])
        .args(more)
        .env("TMPDIR", scratch)
        .env("NODEINIT_DATABASE_URL", "postgres://nobody@127.0.0.1:1/none")
        .output()
        .expect("the binary was built with this test")
}

#[track_caller]
fn report(output: &Output) -> Value {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said} {}", String::from_utf8_lossy(&output.stdout));
    serde_json::from_slice(&output.stdout).expect("one document")
}

#[test]
fn in_a_storm_every_machine_becomes_ready_and_no_read_waits_for_a_write() {
    let scratch = tempfile::tempdir().unwrap();
    let report = report(&storm(scratch.path(), &[]));
    assert_eq!(report["requests"], 8 * (1 + 5 + 79), "{report}");
    assert_eq!(report["nodes_ready"], 8, "{report}");
    for name in ["errors", "errors_5xx", "wrongful_401", "nodes_failed", "read_db_writes"] {
        assert_eq!(report[name], 0, "{name}: {report}");
    }
    for name in ["requests_per_s", "p99_ms", "rss_mib", "cpu_us_per_request"] {
        assert!(report[name].as_f64().is_some_and(|figure| figure > 0.0), "{name}: {report}");
    }
    let phases: Vec<&Value> = report["phases"].as_array().unwrap().iter().collect();
    assert_eq!(phases.len(), 3);
    for phase in phases {
        assert!(phase["p999_ms"].as_f64() >= phase["p50_ms"].as_f64(), "{phase}");
    }
    assert!(is_empty(scratch.path()), "nothing is left behind");
}

#[test]
fn a_server_that_is_killed_in_a_storm_has_kept_what_it_acknowledged() {
    let scratch = tempfile::tempdir().unwrap();
    let report = report(&storm(scratch.path(), &["--kill", "--old-clients"]));
    assert!(report["killed"]["down_ms"].as_f64().is_some_and(|down| down > 0.0), "{report}");
    let kept = &report["kept"];
    assert_eq!((&kept["lost"], &kept["twice"]), (&Value::from(0), &Value::from(0)), "{report}");
    assert!(kept["acknowledged"].as_u64() > Some(0), "{report}");
    for name in ["wrongful_401", "nodes_failed", "nodes_never_served"] {
        assert_eq!(report[name], 0, "{name}: {report}");
    }
    assert!(is_empty(scratch.path()), "nothing is left behind");
}

#[test]
fn a_storm_of_machines_that_sign_with_hmac_passes_where_every_nonce_is_judged() {
    let scratch = tempfile::tempdir().unwrap();
    let args = ["--hmac", "--plaintext-replay", "refuse"];
    let output = storm(scratch.path(), &args);
    let report = report(&output);
    assert_eq!(report["signing"], "hmac-sha256");
    assert_eq!(report["nodes_ready"], 8, "{report}");
}

#[test]
fn events_alone_are_posted_kept_alive_or_at_a_rate_on_new_connections() {
    let scratch = tempfile::tempdir().unwrap();
    let alone = ["--events-only", "--connections", "4", "--duration", "1s"];
    let fast = report(&storm(scratch.path(), &alone));
    assert_eq!((&fast["mode"], &fast["errors"]), (&"kept_alive".into(), &0.into()), "{fast}");
    assert!(fast["events"].as_u64() > Some(0), "{fast}");
    let args = [&alone[..], &["--rate", "20", "--new-connections"]].concat();
    let paced = report(&storm(scratch.path(), &args));
    assert_eq!((&paced["mode"], &paced["errors"]), (&"new_connection".into(), &0.into()));
    assert_eq!(paced["events"], 20, "{paced}");
    assert!(is_empty(scratch.path()), "nothing is left behind");
}

#[test]
fn a_storm_over_servers_that_are_up_already_boots_through_the_target() {
    let home = crate::support::process::Home::new();
    let server = home.serve();
    let target = format!("http://{}", server.node);
    let socket = format!("unix:{}", server.socket.display());
    let run = |more: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_nodeinit"))
            .args(["bench", "storm", "--nodes", "5", "--ramp", "1s", "-o", "json", "--outages"])
            .args(["--server", &socket])
            .args(more)
            .output()
            .unwrap()
    };
    let report = report(&run(&["--target", &target]));
    assert_eq!(report["nodes_ready"], 5, "{report}");
    assert_eq!(report["kept"]["acknowledged"], 5 * 79, "{report}");
    assert_eq!((&report["kept"]["lost"], &report["kept"]["twice"]), (&0.into(), &0.into()));
    assert!(report["rss_mib"].is_null(), "it is not ours to look at");
    // Where the machines are to boot is not guessed.
    assert_eq!(run(&[]).status.code(), Some(2));
    assert_eq!(run(&["--target", &target, "--kill"]).status.code(), Some(2));
}
