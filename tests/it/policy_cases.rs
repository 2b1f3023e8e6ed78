//! The policy engine against the recorded verdicts of the engines it descends from.

use std::collections::BTreeMap;

use nodeinit::domain::policy::{Creds, Load, Names, Rules, Target, eval_cases};
use serde::Deserialize;
use serde_json::{Value, json};

const POLICY_CASES: &str = include_str!("../data/policy/policy_cases.json");
const OSLO_CASES: &str = include_str!("../data/policy/oslo_cases.json");

#[test]
fn every_recorded_case_is_answered_as_the_contract_says() {
    let cases: Value = serde_json::from_str(POLICY_CASES).unwrap();
    let cases = cases["cases"].as_array().unwrap();
    let answers = eval_cases(POLICY_CASES).unwrap();
    assert_eq!(answers.len(), cases.len());
    assert_eq!(cases.len(), 305);
    let mut wrong = Vec::new();
    for (case, answer) in cases.iter().zip(&answers) {
        let ours = &case["ours"];
        let load = if answer.load == Load::Ok { "ok" } else { "refused" };
        let allow = ours["allow"].as_bool().unwrap_or(false);
        let same = answer.id == case["id"] && ours["load"] == load && allow == answer.allow;
        if !same || answer.why.is_empty() {
            wrong.push(format!("{}: {answer:?}, expected {ours}", case["rules"]));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_rule_is_read_as_oslo_reads_it() {
    let cases: Value = serde_json::from_str(POLICY_CASES).unwrap();
    let mut compared = 0;
    for case in cases["cases"].as_array().unwrap() {
        let yaml = case["rules"].to_string();
        let canonical = case["oslo_canonical"].as_str();
        if case["ours"]["load"] != "ok" || canonical.is_none() {
            continue;
        }
        let rules = Rules::load(&yaml, &none(), Names::Any).unwrap();
        let ours: BTreeMap<&str, String> = rules.iter().collect();
        assert_eq!(ours[case["rule"].as_str().unwrap()], canonical.unwrap(), "{yaml}");
        compared += 1;
    }
    assert!(compared > 170, "{compared}");
}

/// The rule, which creds, which target, and what oslo said.
type Asked = (String, usize, usize, Value);

#[derive(Deserialize)]
struct Recorded {
    creds: Vec<Creds>,
    targets: Vec<Target>,
    sets: Vec<(Value, Vec<Asked>)>,
    texts: Vec<(String, Option<String>)>,
}

/// Deny is the answer to a refused file, too: the old rules stay, and these never come to speak.
#[test]
fn what_oslo_denies_is_never_allowed() {
    let recorded: Recorded = serde_json::from_str(OSLO_CASES).unwrap();
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for (rules, asks) in &recorded.sets {
        let loaded = Rules::load(&rules.to_string(), &none(), Names::Any);
        for (rule, creds, target, oslo) in asks {
            let (creds, target) = (&recorded.creds[*creds], &recorded.targets[*target]);
            let ours = match &loaded {
                Ok(loaded) => {
                    let decision = loaded.check(rule, creds, target);
                    assert_eq!(decision.allowed(), loaded.allows(rule, creds, target));
                    if decision.allowed() { "allow" } else { "deny" }
                }
                Err(_) => "refuse",
            };
            let oslo = match oslo {
                Value::Number(one) if one.as_u64() == Some(1) => "allow",
                Value::Number(_) => "deny",
                _ => "raise",
            };
            *seen.entry(format!("oslo {oslo}, ours {ours}")).or_default() += 1;
            let asked = || json!([rules, rule, creds, target]);
            assert!((oslo, ours) != ("deny", "allow"), "{}", asked());
        }
    }
    println!("{seen:#?}");
    assert!(recorded.sets.len() >= 3000);
}

#[test]
fn random_text_means_what_it_means_to_oslo_or_is_refused() {
    let recorded: Recorded = serde_json::from_str(OSLO_CASES).unwrap();
    let mut read = 0;
    for (text, canonical) in &recorded.texts {
        let yaml = json!({"t": text, "default": "!"}).to_string();
        if let Ok(rules) = Rules::load(&yaml, &none(), Names::Any) {
            let ours = rules.iter().find(|(name, _)| *name == "t").unwrap().1;
            assert_eq!(Some(&ours), canonical.as_ref(), "{text:?}");
            read += 1;
        }
    }
    println!("{read} of {} read", recorded.texts.len());
    assert!(read > recorded.texts.len() / 4);
}

fn none() -> Rules {
    Rules::defaults(&[]).expect("nothing to refuse")
}
