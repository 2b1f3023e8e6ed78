//! README's page of capacity: each figure on it is one that the benchmark printed, and says where.

use std::path::Path;

use serde_json::Value;

const README: &str = include_str!("../../README.md");

/// The generated part, between its two markers.
fn page() -> &'static str {
    let (_, rest) = README.split_once("<!-- capacity: written by scripts/capacity -->\n").unwrap();
    rest.split_once("<!-- capacity ends -->\n").unwrap().0
}

/// What a kept report has at a JSON pointer; `None` where there is no such report.
fn kept(name: &str, pointer: &str) -> Option<Value> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/capacity");
    let text = std::fs::read_to_string(dir.join(name)).ok()?;
    let report: Value = serde_json::from_str(&text).unwrap();
    report.pointer(pointer).filter(|value| !value.is_null()).cloned()
}

/// With as many digits as `shown` has.
fn as_shown(value: &Value, shown: &str) -> String {
    let digits = shown.split_once('.').map_or(0, |(_, fraction)| fraction.len());
    format!("{:.digits$}", value.as_f64().expect("a figure"))
}

#[test]
fn every_figure_of_the_capacity_page_is_in_the_report_that_its_row_names() {
    let rows: Vec<Vec<&str>> = page()
        .lines()
        .filter(|line| line.starts_with("| ") && line.contains(".json"))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    assert!(rows.len() >= 8, "{rows:?}");
    let mut figures = 0;
    for row in rows {
        let [what, sqlite, postgres, from] = row[..] else { panic!("{row:?}") };
        let named: Vec<&str> = from.split('`').filter(|part| !part.trim().is_empty()).collect();
        let [file, pointer] = named[..] else { panic!("{from}") };
        for (shown, database) in [(sqlite, "sqlite"), (postgres, "postgres")] {
            match kept(&file.replace('*', database), pointer) {
                None => assert_eq!(shown, "–", "{what}: nothing was measured"),
                Some(value) => {
                    let exact = as_shown(&value, shown);
                    // Halves are rounded either way.
                    let shown: f64 = shown.replace(',', "").parse().unwrap();
                    let off = (shown - value.as_f64().unwrap()).abs();
                    let least = 0.51
                        * 10_f64.powi(
                            -i32::try_from(
                                exact.split_once('.').map_or(0, |(_, fraction)| fraction.len()),
                            )
                            .unwrap(),
                        );
                    assert!(off <= least, "{what}: {shown}, and {file} says {value}");
                    figures += 1;
                }
            }
        }
    }
    assert!(figures >= 7, "only {figures} figures");
}

#[test]
fn outside_its_rows_the_capacity_page_has_no_figure_but_the_number_of_cores() {
    let cpus = kept("read-sqlite.json", "/cpus").unwrap();
    for line in page().lines().filter(|line| !line.starts_with("| ")) {
        let numbers: Vec<&str> =
            line.split(|c: char| !c.is_ascii_digit()).filter(|number| !number.is_empty()).collect();
        let cpus = cpus.to_string();
        assert!(numbers.iter().all(|number| **number == cpus), "{line}");
    }
}
