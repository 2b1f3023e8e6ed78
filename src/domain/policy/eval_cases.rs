//! Rules as code: cases that bring their own rules, each judged alone, without a server.

use std::fmt;

use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::link::Gaps;
use super::source::{Entry, Node, Written};
use super::{Creds, DEFAULT_RULE, Linked, Target, load};

/// What became of one case; `allow` is false where the rules were refused.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CaseResult {
    /// As given, or the case's number, from 1.
    pub id: Value,
    pub load: Load,
    pub allow: bool,
    pub why: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Load {
    Ok,
    Refused,
}

#[derive(Deserialize)]
struct Cases {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    #[serde(default)]
    id: Value,
    rules: RawRules,
    /// Absent: `default`. Null: none.
    #[serde(default = "default_rule")]
    default_rule: Option<String>,
    rule: String,
    #[serde(default)]
    creds: Option<Creds>,
    #[serde(default)]
    target: Option<Target>,
}

#[expect(clippy::unnecessary_wraps, reason = "serde wants the field's type")]
fn default_rule() -> Option<String> {
    Some(DEFAULT_RULE.to_owned())
}

/// Judges `{"cases": […]}` or a bare list; an error means that there was nothing to judge.
pub fn eval_cases(json: &str) -> Result<Vec<CaseResult>, String> {
    let cases = if json.trim_start().starts_with('[') {
        serde_json::from_str(json)
    } else {
        serde_json::from_str(json).map(|Cases { cases }| cases)
    };
    let cases = cases.map_err(|error| error.to_string())?;
    Ok(cases.into_iter().enumerate().map(|(n, case)| judge(n + 1, case)).collect())
}

fn judge(number: usize, case: Case) -> CaseResult {
    let id = if case.id.is_null() { Value::from(number) } else { case.id };
    let refused =
        |why: String| CaseResult { id: id.clone(), load: Load::Refused, allow: false, why };
    let RawRules::Map(entries) = case.rules else {
        return refused("the rules are not a map".into());
    };
    let none = Linked { default_rule: case.default_rule, ..Linked::default() };
    match load::entries_over(entries, none, Gaps::TakeDefault, Vec::new()) {
        Err(error) => refused(error.to_string()),
        Ok(rules) => {
            let creds = case.creds.unwrap_or_default();
            let decision = rules.check(&case.rule, &creds, &case.target.unwrap_or_default());
            let why = decision.why().summary();
            CaseResult { id: id.clone(), load: Load::Ok, allow: decision.allowed(), why }
        }
    }
}

/// Read by hand because a JSON map forgets that a name came twice.
enum RawRules {
    Map(Vec<Entry>),
    Other,
}

impl<'de> Deserialize<'de> for RawRules {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<RawRules, D::Error> {
        deserializer.deserialize_any(RulesVisitor)
    }
}

struct RulesVisitor;

impl<'de> Visitor<'de> for RulesVisitor {
    type Value = RawRules;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("rules by name")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawRules, A::Error> {
        let mut entries = Vec::new();
        while let Some(name) = map.next_key()? {
            let rule = Node { place: None, value: map.next_value::<Written>()? };
            entries.push(Entry { name, place: None, rule });
        }
        Ok(RawRules::Map(entries))
    }

    fn visit_unit<E: de::Error>(self) -> Result<RawRules, E> {
        Ok(RawRules::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<RawRules, A::Error> {
        while seq.next_element::<de::IgnoredAny>()?.is_some() {}
        Ok(RawRules::Other)
    }
}

impl<'de> Deserialize<'de> for Written {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Written, D::Error> {
        Value::deserialize(deserializer).map(|value| node(value).value)
    }
}

fn node(value: Value) -> Node {
    let value = match value {
        Value::String(text) => Written::Text { text, verbatim: false },
        Value::Array(list) => Written::List(list.into_iter().map(node).collect()),
        other => Written::Other(kind(&other)),
    };
    Node { place: None, value }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::Object(_) => "a map",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
    }
}
