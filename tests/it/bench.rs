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

#[test]
fn a_server_that_is_named_is_not_measured_yet() {
    let scratch = tempfile::tempdir().unwrap();
    let output = bench_read(scratch.path(), &["--server", "http://127.0.0.1:1"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("not supported yet"));
    assert!(is_empty(scratch.path()), "nothing is left behind");
}
