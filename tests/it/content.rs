//! Stored content against `PyYAML`'s own verdicts, recorded in tests/data/content/cases.jsonl.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nodeinit::domain::content::{user_data, vendor_data};
use serde::Deserialize;
use serde_json::json;

#[derive(Deserialize)]
struct Case {
    /// The bytes, as base64 where they are not UTF-8.
    text: Option<String>,
    base64: Option<String>,
    /// What `yaml.safe_load` makes of them: map, list, str, other, null or error.
    loads: String,
    /// Whether it makes a map of `#cloud-config`, a newline and them.
    cloud_config: bool,
    /// What we serve as vendor-data, read back and found right by `PyYAML`: `=` for the bytes
    /// themselves, absent when refused.
    served: Option<String>,
    refused: Vec<String>,
    warned: Vec<String>,
}

impl Case {
    fn bytes(&self) -> Vec<u8> {
        match (&self.text, &self.base64) {
            (Some(text), _) => text.clone().into_bytes(),
            (None, Some(base64)) => STANDARD.decode(base64).expect("base64"),
            (None, None) => panic!("a case without bytes"),
        }
    }
}

fn cases() -> Vec<Case> {
    include_str!("../data/content/cases.jsonl")
        .lines()
        .map(|line| serde_json::from_str(line).expect("a case"))
        .collect()
}

fn as_cloud_config(bytes: &[u8]) -> Vec<u8> {
    [b"#cloud-config\n", bytes].concat()
}

fn codes(findings: Vec<nodeinit::domain::content::Finding>) -> Vec<String> {
    findings.into_iter().map(|finding| finding.code.to_owned()).collect()
}

#[test]
fn vendor_data_is_served_as_pyyaml_was_seen_to_read_it() {
    let cases = cases();
    assert!(cases.len() >= 2000, "only {} cases", cases.len());
    for case in &cases {
        let bytes = case.bytes();
        let expected = case.served.as_ref().map(|served| match served.as_str() {
            "=" => bytes.clone(),
            text => text.as_bytes().to_vec(),
        });
        let (served, refused) = match vendor_data(&bytes) {
            Ok(served) => (Some(served), Vec::new()),
            Err(findings) => (None, codes(findings)),
        };
        let shown = String::from_utf8_lossy(&bytes);
        assert_eq!(served, expected, "{shown:?}");
        assert_eq!(refused, case.refused, "{shown:?}");
        assert_eq!(served.is_none(), !refused.is_empty(), "{shown:?}");
    }
}

#[test]
fn what_kills_the_datasource_is_never_kept_as_it_is() {
    for case in cases() {
        if matches!(case.loads.as_str(), "error" | "null" | "other") {
            assert_ne!(case.served.as_deref(), Some("="), "{:?}", case.text);
        }
    }
}

/// The codes for what `PyYAML` reads without complaint and we still name.
const OURS: [&str; 9] = [
    "more",
    "yaml_alias_expansion",
    "yaml_depth",
    "yaml_directive",
    "yaml_duplicate_key",
    "yaml_recursive_alias",
    "yaml_surrogate",
    "yaml_tag",
    "yaml_value",
];

#[test]
fn a_cloud_config_is_warned_about_when_pyyaml_reads_no_map() {
    for case in cases() {
        let bytes = as_cloud_config(&case.bytes());
        let warned = codes(user_data(&bytes));
        let shown = String::from_utf8_lossy(&bytes);
        assert_eq!(warned, case.warned, "{shown:?}");
        if case.cloud_config {
            assert!(
                warned.iter().all(|code| OURS.contains(&code.as_str())),
                "{shown:?} {warned:?}"
            );
        } else {
            assert_ne!(warned, Vec::<String>::new(), "{shown:?}");
        }
    }
}

/// Speaks to tests/data/content/generate.py: a line of base64 in, a line of JSON out.
#[test]
#[ignore = "run by tests/data/content/generate.py"]
fn probe() {
    let given = std::fs::read_to_string(std::env::var("CONTENT_PROBE_IN").unwrap()).unwrap();
    let answers: String = given
        .lines()
        .map(|line| {
            let bytes = STANDARD.decode(line).unwrap();
            let (served, refused) = match vendor_data(&bytes) {
                Ok(served) => (Some(STANDARD.encode(served)), Vec::new()),
                Err(findings) => (None, codes(findings)),
            };
            let warned = codes(user_data(&as_cloud_config(&bytes)));
            let raw = codes(user_data(&bytes));
            json!({"served": served, "refused": refused, "warned": warned, "raw": raw}).to_string()
                + "\n"
        })
        .collect();
    std::fs::write(std::env::var("CONTENT_PROBE_OUT").unwrap(), answers).unwrap();
}
