//! What oslo.policy's semantics deny is never allowed: a small second reading of that engine
//! (`oslo_policy/_checks.py`), two-valued as it is, on rules generated in both languages.

use std::collections::BTreeMap;

use nodeinit::domain::policy::{Creds, Names, Rules, Target, Verdict, from_file};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

#[derive(Clone, Debug)]
enum Piece {
    Text(&'static str),
    Key(&'static str),
}

#[derive(Clone, Debug)]
enum Check {
    Const(bool),
    Rule(&'static str),
    Role(Vec<Piece>),
    /// How a literal of Python is written, and how Python prints it.
    Literal((&'static str, &'static str), Vec<Piece>),
    Path(&'static str, Vec<Piece>),
}

#[derive(Clone, Debug)]
enum Expr {
    Check(Check),
    Not(Box<Expr>),
    And(Vec<Expr>),
    Or(Vec<Expr>),
}

#[derive(Clone, Debug)]
enum Rule {
    Text(Expr),
    List(Vec<Vec<Check>>),
}

/// What Python would print; a marked spelling of lists and maps, of which only sameness matters.
fn python(value: &Value) -> String {
    match value {
        Value::Null => "None".into(),
        Value::Bool(true) => "True".into(),
        Value::Bool(false) => "False".into(),
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        other => format!("\u{1}{other}"),
    }
}

struct Oslo<'a> {
    rules: &'a BTreeMap<&'static str, Rule>,
    creds: &'a Creds,
    target: &'a Target,
}

/// `None`: the engine raises.
impl Oslo<'_> {
    fn enforce(&self, name: &str) -> Option<bool> {
        match self.rules.get(name).or_else(|| self.rules.get("default")) {
            None => Some(false),
            Some(Rule::Text(expr)) => self.expr(expr),
            Some(Rule::List(any)) if any.is_empty() => Some(true),
            Some(Rule::List(any)) => {
                for all in any {
                    let mut holds = true;
                    for check in all {
                        holds = self.check(check)?;
                        if !holds {
                            break;
                        }
                    }
                    if holds {
                        return Some(true);
                    }
                }
                Some(false)
            }
        }
    }

    fn expr(&self, expr: &Expr) -> Option<bool> {
        match expr {
            Expr::Check(check) => self.check(check),
            Expr::Not(inner) => self.expr(inner).map(|holds| !holds),
            Expr::And(all) => {
                for inner in all {
                    if !self.expr(inner)? {
                        return Some(false);
                    }
                }
                Some(true)
            }
            Expr::Or(any) => {
                for inner in any {
                    if self.expr(inner)? {
                        return Some(true);
                    }
                }
                Some(false)
            }
        }
    }

    fn check(&self, check: &Check) -> Option<bool> {
        match check {
            Check::Const(allow) => Some(*allow),
            Check::Rule(name) => self.enforce(name),
            Check::Role(wanted) => {
                let Some(wanted) = self.fill(wanted) else { return Some(false) };
                let roles = match self.creds.get("roles") {
                    None => return Some(false),
                    Some(Value::Array(roles)) => {
                        roles.iter().map(Value::as_str).collect::<Option<Vec<_>>>()?
                    }
                    // Text is a list of its letters.
                    Some(Value::String(text)) => {
                        text.char_indices().map(|(at, c)| &text[at..at + c.len_utf8()]).collect()
                    }
                    Some(_) => return None,
                };
                Some(roles.iter().any(|role| role.to_lowercase() == wanted.to_lowercase()))
            }
            Check::Literal((_, prints), matched) => {
                Some(self.fill(matched).is_some_and(|matched| matched == *prints))
            }
            Check::Path(path, matched) => {
                let Some(matched) = self.fill(matched) else { return Some(false) };
                let path: Vec<&str> = path.split('.').collect();
                let (first, rest) = path.split_first().unwrap();
                match self.creds.get(*first) {
                    None => Some(false),
                    Some(value) => within(value, rest, &matched),
                }
            }
        }
    }

    fn fill(&self, template: &[Piece]) -> Option<String> {
        let piece = |piece: &Piece| match piece {
            Piece::Text(text) => Some((*text).to_owned()),
            Piece::Key(key) => self.target.get(*key).map(python),
        };
        template.iter().map(piece).collect()
    }
}

/// `_find_in_dict`, entered with what a name led to.
fn within(value: &Value, path: &[&str], matched: &str) -> Option<bool> {
    if let Value::Array(list) = value {
        for element in list {
            // An element is not a list "on the way" until a name leads to it.
            if step(element, path, matched)? {
                return Some(true);
            }
        }
        return Some(false);
    }
    step(value, path, matched)
}

fn step(value: &Value, path: &[&str], matched: &str) -> Option<bool> {
    match (path.split_first(), value) {
        (None, value) => Some(python(value) == matched),
        (Some((name, rest)), Value::Object(map)) => match map.get(*name) {
            None => Some(false),
            Some(value) => within(value, rest, matched),
        },
        // TypeError: neither text nor null nor a list is indexed by a name.
        (Some(_), _) => None,
    }
}

fn written(template: &[Piece]) -> String {
    let piece = |piece: &Piece| match piece {
        Piece::Text(text) => text.replace('%', "%%"),
        Piece::Key(key) => format!("%({key})s"),
    };
    template.iter().map(piece).collect()
}

impl Check {
    fn written(&self) -> String {
        match self {
            Check::Const(true) => "@".into(),
            Check::Const(false) => "!".into(),
            Check::Rule(name) => format!("rule:{name}"),
            Check::Role(wanted) => format!("role:{}", written(wanted)),
            Check::Literal((source, _), matched) => format!("{source}:{}", written(matched)),
            Check::Path(path, matched) => format!("{path}:{}", written(matched)),
        }
    }
}

impl Expr {
    fn written(&self) -> String {
        let joined = |all: &[Expr], word: &str| {
            all.iter().map(|inner| format!("({})", inner.written())).collect::<Vec<_>>().join(word)
        };
        match self {
            Expr::Check(check) => check.written(),
            // A parenthesis less where none is needed: the precedence is tried too.
            Expr::Not(inner) if matches!(**inner, Expr::Check(_) | Expr::Not(_)) => {
                format!("NOT {}", inner.written())
            }
            Expr::Not(inner) => format!("not ({})", inner.written()),
            Expr::And(all) => joined(all, " and "),
            Expr::Or(any) => any.iter().map(Expr::written).collect::<Vec<_>>().join(" Or "),
        }
    }
}

impl Rule {
    fn written(&self) -> Value {
        match self {
            Rule::Text(expr) => expr.written().into(),
            Rule::List(any) => {
                let all = |all: &Vec<Check>| match &all[..] {
                    [one] => json!(one.written()),
                    all => json!(all.iter().map(Check::written).collect::<Vec<_>>()),
                };
                any.iter().map(all).collect()
            }
        }
    }
}

fn matched() -> impl Strategy<Value = Vec<Piece>> {
    let text = select(vec!["m", "M", "u1", "p1", "None", "True", "5", "é", "a%b"]);
    let key = select(vec!["k", "n", "node.project_id", "gone"]);
    prop_oneof![
        text.clone().prop_map(|text| vec![Piece::Text(text)]),
        key.clone().prop_map(|key| vec![Piece::Key(key)]),
        (text, key).prop_map(|(text, key)| vec![Piece::Text(text), Piece::Key(key)]),
    ]
}

fn role() -> impl Strategy<Value = Vec<Piece>> {
    let name = select(vec!["m", "M", "admin", "None", "a:b"]).prop_map(|t| vec![Piece::Text(t)]);
    let key = select(vec!["k", "n", "gone"]).prop_map(|key| vec![Piece::Key(key)]);
    prop_oneof![4 => name, 1 => key]
}

/// A check that may refer to the rules `below`.
fn check(below: &'static [&'static str]) -> impl Strategy<Value = Check> {
    let literals = vec![
        ("True", "True"),
        ("False", "False"),
        ("None", "None"),
        ("'m'", "m"),
        ("\"M\"", "M"),
        ("5", "5"),
        ("-1", "-1"),
    ];
    let paths =
        vec!["user_id", "is_admin", "groups", "groups.name", "user.id", "user.d.id", "gone"];
    prop_oneof![
        1 => any::<bool>().prop_map(Check::Const),
        3 => select(below).prop_map(Check::Rule),
        3 => role().prop_map(Check::Role),
        3 => (select(literals), matched()).prop_map(|(literal, m)| Check::Literal(literal, m)),
        6 => (select(paths), matched()).prop_map(|(path, m)| Check::Path(path, m)),
    ]
}

fn rule(below: &'static [&'static str]) -> impl Strategy<Value = Rule> {
    let expr = check(below).prop_map(Expr::Check).prop_recursive(5, 24, 3, |inner| {
        prop_oneof![
            inner.clone().prop_map(|inner| Expr::Not(inner.into())),
            vec(inner.clone(), 2..4).prop_map(Expr::And),
            vec(inner, 2..4).prop_map(Expr::Or),
        ]
    });
    prop_oneof![
        3 => expr.prop_map(Rule::Text),
        1 => vec(vec(check(below), 1..4), 0..4).prop_map(Rule::List),
    ]
}

/// No rule leads back to itself; `gone` is nowhere, so that the default answers or nothing does.
fn rules() -> impl Strategy<Value = BTreeMap<&'static str, Rule>> {
    const T: &[&str] = &["a", "b", "gone"];
    const A: &[&str] = &["b", "gone"];
    const LAST: &[&str] = &["gone"];
    const DEFAULT: &[&str] = &["b"];
    (rule(T), rule(A), rule(LAST), option::of(rule(DEFAULT))).prop_filter_map(
        "a cycle through the default",
        |(t, a, b, default)| {
            let mut rules = BTreeMap::from([("t", t), ("a", a), ("b", b)]);
            if let Some(default) = default {
                // `b` may refer to `gone`, and with it to the default.
                rules.insert("default", default);
                Rules::load(&source(&rules), &none(), Names::Any).ok()?;
            }
            Some(rules)
        },
    )
}

fn scalar() -> impl Strategy<Value = Value> {
    select(vec![
        json!(null),
        json!(true),
        json!(false),
        json!(5),
        json!(-1),
        json!(""),
        json!("m"),
        json!("M"),
        json!("u1"),
        json!("p1"),
        json!("None"),
        json!("True"),
        json!("5"),
        json!("é"),
        json!("a%b"),
    ])
}

fn value() -> impl Strategy<Value = Value> {
    scalar().prop_recursive(3, 8, 3, |inner| {
        let names = select(vec!["id", "name", "d"]);
        prop_oneof![
            vec(inner.clone(), 0..3).prop_map(Value::from),
            vec((names, inner), 0..3)
                .prop_map(|map| map.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()),
        ]
    })
}

fn roles() -> impl Strategy<Value = Value> {
    prop_oneof![
        6 => vec(select(vec!["m", "M", "admin", "None", "5", "a:b"]), 0..3).prop_map(|r| json!(r)),
        1 => select(vec![json!(null), json!("m"), json!([null, "m"]), json!([["m"]]), json!(5)]),
    ]
}

fn map(names: &'static [&'static str]) -> impl Strategy<Value = serde_json::Map<String, Value>> {
    vec(option::weighted(0.8, value()), names.len()).prop_map(move |values| {
        names
            .iter()
            .zip(values)
            .filter_map(|(name, value)| Some(((*name).to_owned(), value?)))
            .collect()
    })
}

fn creds() -> impl Strategy<Value = Creds> {
    let groups = select(vec![
        json!(["m", "p1"]),
        json!([{"name": "m"}, {"name": null}, {}]),
        json!({"name": ["u1"]}),
    ]);
    let rest = map(&["user_id", "is_admin", "groups", "user"]);
    (rest, option::weighted(0.9, roles()), option::weighted(0.3, groups)).prop_map(
        |(mut creds, roles, groups)| {
            creds.extend(roles.map(|roles| ("roles".to_owned(), roles)));
            creds.extend(groups.map(|groups| ("groups".to_owned(), groups)));
            creds
        },
    )
}

fn target() -> impl Strategy<Value = Target> {
    map(&["k", "n", "node.project_id"])
}

fn none() -> Rules {
    Rules::defaults(&[]).expect("nothing to refuse")
}

fn source(rules: &BTreeMap<&'static str, Rule>) -> String {
    let rules = rules.iter().map(|(name, rule)| ((*name).to_owned(), rule.written()));
    Value::Object(rules.collect()).to_string()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, ..ProptestConfig::default() })]

    #[test]
    fn what_oslo_denies_is_denied(rules in rules(), creds in creds(), target in target()) {
        let oslo = Oslo { rules: &rules, creds: &creds, target: &target };
        let source = source(&rules);
        // Refused is denied: a reference into nothing is.
        if let Ok(loaded) = Rules::load(&source, &none(), Names::Any) {
            for name in ["t", "a", "b", "gone"] {
                let decision = loaded.check(name, &creds, &target);
                prop_assert_eq!(decision.allowed(), loaded.allows(name, &creds, &target));
                let theirs = oslo.enforce(name);
                prop_assert!(
                    !(decision.allowed() && theirs == Some(false)),
                    "{} of {}: {}", name, source, decision.why()
                );
                // What is known for sure is known to both, unless theirs raises.
                if decision.why().verdict == Verdict::False {
                    prop_assert_ne!(theirs, Some(true), "{} of {}: {}", name, source, decision.why());
                }
            }
        }
    }

    /// Unknown is what is left when something is not told: an answer never turns round.
    #[test]
    fn to_know_less_never_allows_more(
        rules in rules(), creds in creds(), target in target(), which in any::<prop::sample::Index>()
    ) {
        let Ok(loaded) = Rules::load(&source(&rules), &none(), Names::Any) else { return Ok(()) };
        let told = creds.len() + target.len();
        if told == 0 { return Ok(()) }
        let gone = which.index(told);
        let without = |map: &serde_json::Map<String, Value>, at: usize| {
            let kept = map.iter().enumerate().filter(|(n, _)| *n != at);
            kept.map(|(_, (name, value))| (name.clone(), value.clone())).collect()
        };
        let less_creds: Creds = without(&creds, gone);
        let less_target: Target = without(&target, gone.wrapping_sub(creds.len()));
        for name in ["t", "a", "b"] {
            let all = loaded.check(name, &creds, &target).why().verdict;
            let less = loaded.check(name, &less_creds, &less_target).why().verdict;
            prop_assert!(less == all || less == Verdict::Unknown, "{}: {} then {}", name, all, less);
        }
    }

    #[test]
    fn no_bytes_upset_the_loader(bytes in vec(any::<u8>(), 0..200)) {
        if let Err(error) = from_file(&bytes) {
            prop_assert!(error.problems.iter().all(|problem| problem.place.is_some()));
        }
    }

    /// A file that is cut, or in which a byte has turned, loads or is refused with a place.
    #[test]
    fn no_damage_upsets_the_loader(
        rules in rules(), at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>()
    ) {
        let mut bytes = source(&rules).into_bytes();
        let at = at.index(bytes.len());
        if cut { bytes.truncate(at) } else { bytes[at] = byte }
        let _ = from_file(&bytes).map_err(|error| error.to_string());
    }
}

/// The property above says nothing if everything is refused, denied, or raises.
#[test]
fn the_generator_makes_what_is_allowed_and_what_is_denied() {
    use proptest::strategy::ValueTree as _;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for _ in 0..300 {
        let ((rules, creds), target) =
            ((rules(), creds()), target()).new_tree(&mut runner).unwrap().current();
        let theirs = Oslo { rules: &rules, creds: &creds, target: &target }.enforce("t");
        let ours = Rules::load(&source(&rules), &none(), Names::Any)
            .map(|loaded| loaded.allows("t", &creds, &target));
        *seen.entry(format!("{theirs:?} {:?}", ours.ok())).or_default() += 1;
    }
    println!("{seen:#?}");
    assert!(seen["Some(true) Some(true)"] > 30, "{seen:?}");
    assert!(seen["Some(false) Some(false)"] > 30, "{seen:?}");
}
