//! What one check finds: the values of the caller and of the target, as Python prints them, because
//! that is how policies compare. An operand that is absent, null, empty or not plain is unknown.

use serde_json::Value;

use super::check::{Literal, Piece, Template, Test};
use super::evaluate::Verdict;
use super::{Creds, Target, shown};

/// A check other than `rule:`, which [`super::evaluate`] follows.
pub(super) fn leaf(test: &Test, creds: &Creds, target: &Target) -> Verdict {
    match test {
        Test::Rule(_) => Verdict::Unknown,
        Test::Role(wanted) => match (fill(wanted, target), roles(creds)) {
            (Some(wanted), Some(roles)) => {
                let wanted = wanted.to_lowercase();
                roles.iter().any(|role| role.to_lowercase() == wanted).into()
            }
            _ => Verdict::Unknown,
        },
        Test::Literal(Literal::Null, matched) => null(matched, target),
        Test::Literal(Literal::Text(left), matched) => match fill(matched, target) {
            Some(right) if !left.is_empty() => (*left == right).into(),
            _ => Verdict::Unknown,
        },
        Test::Path(path, matched) => match fill(matched, target) {
            Some(right) => find(creds, path, &right),
            None => Verdict::Unknown,
        },
    }
}

/// Keystone writes `not None:%(domain_id)s` for "has a domain": true only of a key that is there
/// and null. The text `None` is neither here nor there, and oslo cannot tell it from null.
fn null(matched: &Template, target: &Target) -> Verdict {
    let [Piece::Key(key)] = matched.0.as_slice() else {
        return Verdict::Unknown;
    };
    match target.get(key) {
        Some(Value::Null) => Verdict::True,
        Some(value) if scalar(value).is_some_and(|text| text != "None") => Verdict::False,
        _ => Verdict::Unknown,
    }
}

fn fill(template: &Template, target: &Target) -> Option<String> {
    let mut filled = String::new();
    for piece in &template.0 {
        match piece {
            Piece::Text(text) => filled.push_str(text),
            Piece::Key(key) => filled.push_str(&scalar(target.get(key)?)?),
        }
    }
    Some(filled)
}

/// A list with anything but text in it is not a list of roles.
fn roles(creds: &Creds) -> Option<Vec<&str>> {
    creds.get("roles")?.as_array()?.iter().map(Value::as_str).collect()
}

/// Walks the caller's attributes by name; of a list on the way, any element will do.
fn find(map: &Creds, path: &[String], wanted: &str) -> Verdict {
    let Some((name, rest)) = path.split_first() else {
        return Verdict::Unknown;
    };
    match map.get(name) {
        None => Verdict::Unknown,
        Some(Value::Array(list)) => {
            list.iter().map(|value| compare(value, rest, wanted)).fold(Verdict::False, Verdict::or)
        }
        Some(value) => compare(value, rest, wanted),
    }
}

fn compare(value: &Value, rest: &[String], wanted: &str) -> Verdict {
    match value {
        Value::Object(map) => find(map, rest, wanted),
        value if rest.is_empty() => {
            scalar(value).map_or(Verdict::Unknown, |text| (text == wanted).into())
        }
        _ => Verdict::Unknown,
    }
}

/// A plain value as Python prints it, which is how policies compare.
fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::Bool(true) => Some("True".to_owned()),
        Value::Bool(false) => Some("False".to_owned()),
        Value::Number(number) if number.is_f64() => number.as_f64().and_then(float),
        Value::Number(number) => Some(number.to_string()),
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Null | Value::String(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

/// None where reading the number may already have rounded it: then its text proves nothing.
fn float(number: f64) -> Option<String> {
    const EXACT: f64 = 1e15;
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e')?;
    let exponent: i32 = exponent.parse().ok()?;
    let sure = number != 0.0 && number.abs() < EXACT && digits.len() <= 16;
    sure.then(|| match exponent {
        // Python goes over to exponents here, and writes two digits of them.
        ..-4 => format!("{digits}e-{:02}", -exponent),
        _ => format!("{number:?}"),
    })
}

/// What a check compared, for people.
pub(super) fn operands(test: &Test, creds: &Creds, target: &Target) -> String {
    let (mut parts, template) = match test {
        Test::Rule(_) => return String::new(),
        Test::Role(template) => (vec![format!("roles: {}", value(creds.get("roles")))], template),
        Test::Literal(_, template) => (Vec::new(), template),
        Test::Path(path, template) => {
            let caller = value(creds.get(&path[0]));
            (vec![format!("caller's {}: {caller}", path[0])], template)
        }
    };
    for piece in &template.0 {
        if let Piece::Key(key) = piece {
            parts.push(format!("target's {}: {}", shown(key), value(target.get(key))));
        }
    }
    parts.join(", ")
}

fn value(value: Option<&Value>) -> String {
    match value {
        None => "absent".to_owned(),
        Some(Value::String(text)) => shown(text),
        Some(value) => shown(&value.to_string()).trim_matches('\'').to_owned(),
    }
}
