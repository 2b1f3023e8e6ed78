//! Holds the tests to the list of cases they came from: every case has a test of its name.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

const CASES: &str = include_str!("../data/identity/identity_cases.json");

/// The text of every test in this binary.
fn sources() -> String {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it");
    let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let rust = files.filter(|path| path.extension().is_some_and(|end| end == "rs"));
    rust.map(|path| std::fs::read_to_string(path).unwrap()).collect()
}

#[test]
fn every_recorded_case_has_a_test_of_its_name() {
    let cases: Value = serde_json::from_str(CASES).unwrap();
    let cases = cases["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 140);
    let ids: BTreeSet<&str> = cases.iter().map(|case| case["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), cases.len(), "each has its own");

    let sources = sources();
    let keystone = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/real_client/keystone.py");
    let keystone = std::fs::read_to_string(keystone).unwrap();
    let has_test = |id: &str| match id {
        // The one that no test of ours can be: a real client's.
        "C26" => keystone.contains("\ndef c26_"),
        id => sources.contains(&format!("#[test]\nfn {}_", id.to_lowercase())),
    };
    let missing: Vec<_> = ids.into_iter().filter(|id| !has_test(id)).collect();
    assert!(missing.is_empty(), "no test for {missing:?}");
}
