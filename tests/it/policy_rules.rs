//! What a policy file may say, what refuses it, and how a rule decides.

use nodeinit::domain::policy::{
    Creds, Decision, Load, LoadError, Names, Place, Rules, Target, Verdict, eval_cases,
};
use proptest::prelude::*;
use serde_json::{Value, json};

fn map(value: Value) -> serde_json::Map<String, Value> {
    match value {
        Value::Object(map) => map,
        other => panic!("not a map: {other}"),
    }
}

fn none() -> Rules {
    Rules::defaults(&[]).expect("nothing to refuse")
}

fn defaults() -> Rules {
    Rules::defaults(&[
        ("admin_required", "role:admin"),
        ("owner", "project_id:%(node.project_id)s"),
        ("default", "rule:admin_required"),
        ("node:read", "rule:admin_required or (rule:owner and role:reader)"),
        ("user:create", "rule:admin_required and token_expired:False"),
    ])
    .expect("the rules are sound")
}

const KNOWN: Names<'_> = Names::Known(&["node:read", "user:create", "admin_required", "owner"]);

fn refused(yaml: &str) -> LoadError {
    match Rules::load(yaml, &defaults(), KNOWN) {
        Ok(_) => panic!("loaded: {yaml:?}"),
        Err(error) => error,
    }
}

/// The file, the line and column it must name, and a word of the message.
const SLIPS: &[(&str, usize, usize, &str)] = &[
    ("node:read:\n", 1, 1, "left out"),
    ("# x\nnode:read:\nuser:create: '!'\n", 2, 1, "left out"),
    ("node:read:   # nothing\n", 1, 1, "left out"),
    ("node:read: |\n", 1, 1, "left out"),
    ("node:read: null\n", 1, 12, "null"),
    ("node:read: ~\n", 1, 12, "null"),
    ("node:read: false\n", 1, 12, "a boolean"),
    ("node:read: no\n", 1, 12, "a boolean"),
    ("node:read: True\n", 1, 12, "a boolean"),
    ("node:read: 0\n", 1, 12, "a number"),
    ("node:read: 1.5\n", 1, 12, "a number"),
    ("node:read: 5:5\n", 1, 12, "a number"),
    ("node:read: {}\n", 1, 12, "a map"),
    ("node:read:\n  role: admin\n", 2, 3, "a map"),
    ("node:read: ' '\n", 1, 13, "blank"),
    ("node:read: \"\\t\"\n", 1, 12, "blank"),
    ("node:read: [[]]\n", 1, 13, "inner list is empty"),
    ("node:read: [['role:admin'], []]\n", 1, 29, "inner list is empty"),
    ("node:read:\n- - role:admin\n- []\n", 3, 3, "inner list is empty"),
    ("node:read: ['']\n", 1, 14, "not a check"),
    ("node:read: [null]\n", 1, 13, "not null"),
    ("node:read:\n-\n", 2, 2, "left out"),
    ("node:read: [[role:admin, 1]]\n", 1, 26, "check is text"),
    ("node:read: [[[role:admin]]]\n", 1, 14, "check is text"),
    ("node:read: [role:admin or role:x]\n", 1, 13, "one check per string"),
    ("node:read: ['(role:admin)']\n", 1, 14, "one check per string"),
    ("node:read: role:admin or http://a/b\n", 1, 26, "remote checks are refused"),
    ("node:read: https:%(url)s\n", 1, 12, "remote checks are refused"),
    ("node:read: HTTP://a/b\n", 1, 12, "remote checks are refused"),
    ("node:read: '@'\n\"node:read\": '!'\n", 2, 2, "defined twice"),
    ("node:reed: '@'\n", 1, 1, "unknown action"),
    ("admin_requird: role:root\n", 1, 1, "neither an action nor"),
    ("<<: {node:read: '@'}\n", 1, 1, "a merge"),
    ("1: '@'\n", 1, 1, "a number"),
    ("? [a]\n: '@'\n", 1, 3, "not a list"),
    ("node:read: !\n", 1, 12, "a tag"),
    ("node:read: ! \n", 1, 12, "a tag"),
    ("node:read: !!str '@'\n", 1, 12, "a tag"),
    ("node:read: !!null\n", 1, 12, "a tag"),
    ("node:read: !x [[role:admin]]\n", 1, 12, "a tag"),
    ("node:read: [[!a role:admin]]\n", 1, 14, "check is text"),
    ("!x node:read: '@'\n", 1, 1, "a tag"),
    ("!x\nnode:read: '@'\n", 1, 1, "a tag"),
    ("node:read: &a '@'\n", 1, 15, "an anchor"),
    ("node:read: &a '@'\nuser:create: *a\n", 1, 15, "an anchor"),
    ("node:read: @\n", 1, 12, "put the rule in quotes"),
    ("node:read: role:%(x)d\n", 1, 12, "bad substitution"),
    ("node:read: x:%s\n", 1, 12, "bad substitution"),
    ("node:read: x:100%\n", 1, 12, "bad substitution"),
    ("node:read: x:%(x\n", 1, 12, "bad substitution"),
    ("node:read: role:admin or 1a:x\n", 1, 26, "bad kind"),
    ("node:read: ':x'\n", 1, 13, "bad kind"),
    ("node:read: '!role:x'\n", 1, 13, "bad kind"),
    ("node:read: user.:x\n", 1, 12, "bad kind"),
    ("node:read: ROLE:admin\n", 1, 12, "in lower case"),
    ("node:read: role:админ\n", 1, 12, "bad role name"),
    ("node:read: not bogus\n", 1, 16, "not a check"),
    ("node:read: role:a role:b\n", 1, 19, "expected 'and' or 'or'"),
    ("node:read: (role:a\n", 1, 12, "never closed"),
    ("node:read: role:a)\n", 1, 18, "without its '('"),
    ("node:read: role:a and\n", 1, 22, "found the end"),
    ("node:read: role:a\u{a0}or role:b\n", 1, 18, "odd white space U+00A0"),
    ("node:read: role:a\u{200b}\n", 1, 18, "invisible character U+200B"),
    ("node:read: \"\\u202erole:a\"\n", 1, 12, "invisible character U+202E"),
    ("node:read: \"role:a\\0\"\n", 1, 12, "control character U+0000"),
    ("node:read: role:x or not rule:gone\n", 1, 26, "refers to undefined 'gone'"),
    ("node:read: [[role:x, rule:gone]]\n", 1, 22, "refers to undefined 'gone'"),
    ("node:read: rule:node:read\n", 1, 12, "cyclic: node:read -> node:read"),
    ("owner: rule:o\no: rule:owner\n", 1, 8, "cyclic: owner -> o -> owner"),
    ("admin_required: rule:default\n", 1, 17, "cyclic: admin_required -> default"),
    ("\u{feff}node:read: '@'\n", 1, 1, "byte-order mark"),
    ("", 1, 1, "no rules"),
    ("# nothing\n", 1, 1, "no rules"),
    ("---\n", 1, 1, "no rules"),
    ("- node:read\n", 1, 1, "a map of rules by name"),
    ("node:read\n", 1, 1, "a map of rules by name"),
    ("node:read: '@'\n---\nnode:read: '!'\n", 2, 1, "a second document"),
    ("node:read: [role:admin\n", 1, 12, "not YAML"),
    ("node:read: role: admin\n", 1, 16, "not YAML"),
];

#[test]
fn a_slip_in_the_file_refuses_it_and_is_named() {
    let mut wrong = Vec::new();
    for (yaml, line, column, word) in SLIPS {
        let error = refused(yaml);
        let first = &error.problems[0];
        if first.place != Some(Place { line: *line, column: *column })
            || !first.message.contains(word)
        {
            wrong.push(format!("{yaml:?}: {error}, expected {line}:{column} {word}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_file_overrides_by_name_and_may_bring_helpers_that_are_used() {
    let reader = map(json!({"roles": ["reader"], "project_id": "p1"}));
    let node = map(json!({"node.project_id": "p1"}));
    let elsewhere = map(json!({"node.project_id": "p2"}));
    let before = defaults();
    assert!(before.allows("node:read", &reader, &node));
    assert!(!before.allows("node:read", &reader, &elsewhere));

    let yaml = "node:read: rule:anyone\nanyone: role:reader or role:admin\n";
    let after = Rules::load(yaml, &before, KNOWN).unwrap();
    assert!(after.allows("node:read", &reader, &elsewhere));
    assert!(!before.allows("node:read", &reader, &elsewhere), "the old rules are untouched");
    assert!(!after.allows("user:create", &reader, &node), "what the file leaves out stays");

    // An overridden helper reaches the defaults that refer to it.
    let tighter = Rules::load("owner: '!'\n", &before, KNOWN).unwrap();
    assert!(!tighter.allows("node:read", &reader, &node));
    assert!(Rules::load("{}", &before, KNOWN).is_ok());
}

#[test]
fn allowing_everyone_must_be_said_outright() {
    for allow in ["\"\"", "''", "[]", "\"@\"", "[[\"@\"]]", "\n- - '@'"] {
        let yaml = format!("node:read: {allow}\n");
        let rules = Rules::load(&yaml, &defaults(), KNOWN).unwrap();
        assert!(rules.allows("node:read", &Creds::new(), &Target::new()), "{yaml}");
    }
}

#[test]
fn the_default_answers_for_a_missing_rule_but_not_for_a_missing_reference() {
    let admin = map(json!({"roles": ["admin"]}));
    assert!(defaults().allows("no:such:action", &admin, &Target::new()));
    assert!(!none().allows("no:such:action", &admin, &Target::new()));
    let gap = "node:read: rule:gone\n";
    assert!(refused(gap).to_string().contains("undefined 'gone'"));
    assert!(Rules::load(gap, &defaults(), Names::Any).is_ok(), "as in oslo");
}

#[test]
fn every_problem_is_reported_in_the_order_of_the_file_and_none_quotes_it_whole() {
    let long = "x".repeat(5000);
    let error = refused(&format!("user:create: bogus\nnode:read:\nnode:reed: '{long}'\n"));
    let lines: Vec<_> = error.problems.iter().map(|p| p.place.unwrap().line).collect();
    assert_eq!(lines, [1, 2, 3, 3], "{error}");
    assert!(error.to_string().len() < 600, "{error}");
    assert_eq!(
        error.to_string().lines().next().unwrap(),
        "line 1, column 14: rule 'user:create': not a check: 'bogus'"
    );
    let many: Vec<String> = (0..500).map(|n| format!("a{n}:\n")).collect();
    assert_eq!(refused(&many.concat()).problems.len(), 101);
}

#[test]
fn nesting_and_length_have_an_end() {
    let one = |rule: &str| {
        let yaml = json!({"t": rule}).to_string();
        Rules::load(&yaml, &none(), Names::Any).map_err(|error| error.to_string())
    };
    let nots = |n: usize| "not ".repeat(n) + "@";
    let parens = |n: usize| "(".repeat(n) + "@" + &")".repeat(n);
    assert!(one(&nots(64)).is_ok() && one(&parens(64)).is_ok());
    assert!(one(&nots(65)).unwrap_err().contains("deeper than 64"));
    assert!(one(&parens(65)).unwrap_err().contains("deeper than 64"));
    let words = |n: usize| vec!["@"; n.div_ceil(2)].join(" or ");
    assert!(one(&words(1023)).is_ok());
    assert!(one(&words(1025)).unwrap_err().contains("too long"));
    let checks = |n: usize| json!({"t": [vec!["@"; n]]}).to_string();
    assert!(Rules::load(&checks(1024), &none(), Names::Any).is_ok());
    assert!(Rules::load(&checks(1025), &none(), Names::Any).is_err());
    let large = format!("t: '@' #{}", "x".repeat(1 << 20));
    assert!(Rules::load(&large, &none(), Names::Any).is_err());
}

#[test]
fn rules_that_refer_to_rules_end_soon_however_they_are_arranged() {
    let chain = |n: usize, link: fn(usize) -> String| -> String {
        let rules: Vec<String> = (0..n).map(|n| format!("r{n}: {}\n", link(n + 1))).collect();
        rules.concat() + &format!("r{n}: '@'\n")
    };
    let straight = |to: usize| format!("rule:r{to}");
    assert!(Rules::load(&chain(255, straight), &none(), Names::Any).is_ok());
    let error = Rules::load(&chain(50_000, straight), &none(), Names::Any).unwrap_err();
    assert_eq!(error.problems.len(), 1);
    assert!(error.to_string().contains("deeper than 256"), "{error}");

    // Twice the work at each step, were a rule worked out each time it is referred to.
    let twice = |to: usize| format!("not rule:r{to} and rule:r{to}");
    let rules = Rules::load(&chain(80, twice), &none(), Names::Any).unwrap();
    let decision = rules.check("r0", &Creds::new(), &Target::new());
    assert!(!decision.allowed());
    assert!(decision.why().to_string().lines().count() < 1000);

    let ring = (0..40_000).map(|n| format!("r{n}: rule:r{}\n", (n + 1) % 40_000));
    let error = Rules::load(&ring.collect::<String>(), &none(), Names::Any).unwrap_err();
    assert_eq!(error.problems.len(), 1);
    assert!(error.to_string().len() < 200, "{error}");
}

#[test]
fn a_decision_tells_why() {
    let caller = map(json!({"roles": ["reader"], "project_id": "p1", "token_expired": false}));
    let target = map(json!({"node.project_id": "p2"}));
    let decision = defaults().check("node:read", &caller, &target);
    assert!(matches!(decision, Decision::Deny(_)));
    assert_eq!(
        decision.why().to_string(),
        "\
node:read: false
  any of: false
    rule:admin_required: false
      role:admin: false (roles: [\"reader\"])
    all of: false
      rule:owner: false
        project_id:%(node.project_id)s: false (caller's project_id: 'p1', target's 'node.project_id': 'p2')
      role:reader: true (roles: [\"reader\"])
"
    );
    assert_eq!(
        decision.why().summary(),
        "role:admin: false (roles: [\"reader\"]); project_id:%(node.project_id)s: false \
         (caller's project_id: 'p1', target's 'node.project_id': 'p2')"
    );
    let unknown = defaults().check("node:read", &Creds::new(), &target);
    assert_eq!(unknown.why().verdict, Verdict::Unknown);
    assert!(unknown.why().summary().contains("role:admin: unknown (roles: absent)"));
}

#[test]
fn cases_come_bare_or_wrapped_and_stand_alone() {
    let case =
        json!({"rules": {"t": "role:m", "x:y": "!"}, "rule": "t", "creds": {"roles": ["M"]}});
    let bare = eval_cases(&json!([case]).to_string()).unwrap();
    assert_eq!(bare, eval_cases(&json!({"cases": [case], "about": 1}).to_string()).unwrap());
    assert_eq!(
        serde_json::to_value(&bare).unwrap(),
        json!([{"id": 1, "load": "ok", "allow": true, "why": "role:m: true (roles: [\"M\"])"}])
    );
    let other = json!({"id": "o", "rules": {"open": "@"}, "rule": "gone", "default_rule": "open"});
    let absent =
        json!({"id": "n", "rules": {"default": "@"}, "rule": "gone", "default_rule": null});
    let broken = json!({"id": 7, "rules": [], "rule": "t"});
    let answers = eval_cases(&json!([other, absent, broken]).to_string()).unwrap();
    let seen: Vec<_> = answers.iter().map(|a| (a.load, a.allow)).collect();
    assert_eq!(seen, [(Load::Ok, true), (Load::Ok, false), (Load::Refused, false)]);
    let twice = r#"[{"rules": {"t": "!", "t": "@"}, "rule": "t"}]"#;
    assert_eq!(eval_cases(twice).unwrap()[0].load, Load::Refused);
    for nothing in ["", "{}", "[1]", "[{}]", r#"[{"rules": {}, "rule": 1}]"#] {
        assert!(eval_cases(nothing).is_err(), "{nothing}");
    }
}

#[test]
fn numbers_compare_as_python_prints_them() {
    let numbers = json!({"n": [5, -1, 1.5, 2.0, 1e-7, 0.0001, 1234.75]});
    let prints = ["5", "-1", "1.5", "2.0", "1e-07", "0.0001", "1234.75"];
    for print in prints {
        let rules =
            Rules::load(&json!({"t": format!("n:{print}")}).to_string(), &none(), Names::Any);
        assert!(rules.unwrap().allows("t", &map(numbers.clone()), &Target::new()), "{print}");
    }
    // Rounded on the way in: neither equal nor unequal.
    for rounded in ["1e300", "18446744073709551616", "0.12345678901234567", "-0"] {
        let creds: Creds = serde_json::from_str(&format!("{{\"n\": {rounded}}}")).unwrap();
        let rules = Rules::load("t: 'not n:7'\n", &none(), Names::Any).unwrap();
        assert!(!rules.allows("t", &creds, &Target::new()), "{rounded}");
    }
}

fn verdict() -> impl Strategy<Value = Verdict> {
    prop_oneof![Just(Verdict::True), Just(Verdict::False), Just(Verdict::Unknown)]
}

fn rule_text() -> impl Strategy<Value = String> {
    let check = prop_oneof![
        Just("@"),
        Just("!"),
        Just("role:m"),
        Just("role:x"),
        Just("user_id:u"),
        Just("user_id:%(k)s"),
        Just("gone:u"),
        Just("rule:b"),
        Just("None:%(k)s"),
        Just("'u':%(k)s"),
    ];
    check.prop_map(str::to_owned).prop_recursive(5, 40, 3, |inner| {
        prop_oneof![
            inner.clone().prop_map(|a| format!("not ({a})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a}) and ({b})")),
            (inner.clone(), inner).prop_map(|(a, b)| format!("{a} or {b}")),
        ]
    })
}

/// The verdict of a rule of its own beside a helper `b` that refers to nothing.
fn ask(rule: &str, caller: &Creds, target: &Target) -> Verdict {
    let yaml = json!({"t": rule, "b": "user_id:%(n)s"}).to_string();
    let rules = Rules::load(&yaml, &none(), Names::Any).expect("the rule is sound");
    let decision = rules.check("t", caller, target);
    assert_eq!(decision.allowed(), rules.allows("t", caller, target));
    assert_eq!(decision.allowed(), decision.why().verdict == Verdict::True);
    decision.why().verdict
}

fn caller() -> impl Strategy<Value = Creds> {
    prop_oneof![
        Just(json!({})),
        Just(json!({"roles": ["m"], "user_id": "u"})),
        Just(json!({"roles": [], "user_id": null})),
        Just(json!({"roles": "m", "user_id": ["v", "u"]})),
    ]
    .prop_map(map)
}

fn target() -> impl Strategy<Value = Target> {
    prop_oneof![
        Just(json!({})),
        Just(json!({"k": "u", "n": null})),
        Just(json!({"k": null, "n": "u"})),
        Just(json!({"k": "", "n": "v"})),
    ]
    .prop_map(map)
}

proptest! {
    #[test]
    fn no_text_upsets_the_loader(text in any::<String>()) {
        let _ = Rules::load(&text, &defaults(), KNOWN);
        let rule = json!({"node:read": text.as_str()}).to_string();
        if let Ok(rules) = Rules::load(&rule, &defaults(), KNOWN) {
            let _ = rules.check("node:read", &Creds::new(), &Target::new());
        }
        let _ = eval_cases(&text);
    }

    #[test]
    fn nothing_like_yaml_upsets_the_loader(
        text in r#"([\[\]{}\-?:,&*!|>'"%@`#<~
    ()]|node:read|role:a|a: |%\(k\)s|and|or|not|---|é){0,40}"#
    ) {
        let _ = Rules::load(&text, &defaults(), KNOWN);
    }

    #[test]
    fn three_values_keep_the_laws(a in verdict(), b in verdict(), c in verdict()) {
        prop_assert_eq!(!!a, a);
        prop_assert_eq!(a.and(b), b.and(a));
        prop_assert_eq!(a.or(b), b.or(a));
        prop_assert_eq!(a.and(b).and(c), a.and(b.and(c)));
        prop_assert_eq!(a.or(b.and(c)), a.or(b).and(a.or(c)));
        prop_assert_eq!(!a.and(b), (!a).or(!b));
        prop_assert_eq!(a.and(a.or(b)), a);
        prop_assert_eq!(a.and(Verdict::True), a);
        prop_assert_eq!(a.and(Verdict::False), Verdict::False);
        prop_assert_eq!(Verdict::Unknown.and(!Verdict::Unknown), Verdict::Unknown);
    }

    #[test]
    fn the_text_of_a_rule_obeys_them_too(
        a in rule_text(), b in rule_text(), caller in caller(), target in target()
    ) {
        let ask = |rule: &str| ask(rule, &caller, &target);
        let (va, vb) = (ask(&a), ask(&b));
        prop_assert_eq!(ask(&format!("not ({a})")), !va);
        prop_assert_eq!(ask(&format!("({a}) and ({b})")), va.and(vb));
        prop_assert_eq!(ask(&format!("{a} or {b}")), va.or(vb));
        prop_assert_eq!(ask(&format!("not (({a}) and ({b}))")), ask(&format!("not ({a}) or not ({b})")));
    }

    /// What learning more can change is an unknown, never an answer.
    #[test]
    fn an_answer_without_the_caller_stands_with_him(a in rule_text(), c in caller(), target in target()) {
        let without = ask(&a, &Creds::new(), &target);
        prop_assert!(without == Verdict::Unknown || without == ask(&a, &c, &target));
    }

    #[test]
    fn a_rule_is_what_its_canonical_spelling_says(a in rule_text()) {
        let load = |rule: &str| {
            let rules = Rules::load(&json!({"t": rule, "b": "@"}).to_string(), &none(), Names::Any);
            rules.unwrap().iter().find(|(name, _)| *name == "t").unwrap().1
        };
        prop_assert_eq!(load(&load(&a)), load(&a));
    }
}
