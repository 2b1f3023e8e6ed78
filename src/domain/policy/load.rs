//! From a file to rules that hold together, or to every reason why not. The YAML is in
//! [`super::source`].

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::link::{self, Gaps};
use super::source::{self, Entry, Node, Written};
use super::{DEFAULT_RULE, Linked, LoadError, Names, Place, Problem, Rules, check, parse};

pub(super) fn table(table: &[(&'static str, &'static str)]) -> Result<Rules, LoadError> {
    let entries = table.iter().map(|&(name, rule)| Entry {
        name: name.to_owned(),
        place: None,
        rule: Node { place: None, value: Written::Text { text: rule.to_owned(), verbatim: false } },
    });
    let default_rule = Some(DEFAULT_RULE.to_owned());
    let over = Linked { rules: BTreeMap::new(), default_rule, overridden: BTreeSet::new() };
    entries_over(entries.collect(), over, Gaps::Refuse, Vec::new())
}

pub(super) fn file(yaml: &str, over: &Rules, names: Names<'_>) -> Result<Rules, LoadError> {
    let (entries, mut problems) = source::read(yaml);
    let gaps = match names {
        Names::Any => Gaps::TakeDefault,
        Names::Known(known) => {
            problems.extend(unknown_names(&entries, over, known));
            Gaps::Refuse
        }
    };
    let mut over = Linked::clone(&over.0);
    over.overridden.extend(entries.iter().map(|entry| entry.name.clone()));
    entries_over(entries, over, gaps, problems)
}

/// Parses and links `entries` in place of those of the same name in `over`.
pub(super) fn entries_over(
    entries: Vec<Entry>,
    mut over: Linked,
    gaps: Gaps,
    mut problems: Vec<Problem>,
) -> Result<Rules, LoadError> {
    let mut nodes: HashMap<String, Node> = HashMap::new();
    for Entry { name, place, rule } in entries {
        if let Some(first) = nodes.get(&name) {
            let message = match first.place {
                Some(Place { line, .. }) => format!("defined twice, first on line {line}"),
                None => "defined twice".to_owned(),
            };
            problems.push(Problem { place, rule: Some(name), message });
            continue;
        }
        match parse::rule(&rule) {
            Ok(expr) => {
                over.rules.insert(name.clone(), expr);
            }
            Err(faults) => problems.extend(faults.into_iter().map(|(place, message)| Problem {
                place,
                rule: Some(name.clone()),
                message,
            })),
        }
        nodes.insert(name, rule);
    }
    // A rule that could not be read would be reported again as missing.
    let whole = nodes.keys().all(|name| over.rules.contains_key(name));
    for fault in link::faults(&over, gaps) {
        let placed = fault.rules.iter().find_map(|rule| Some((rule, nodes.get(rule)?)));
        if let Some((rule, node)) = placed.filter(|_| whole || fault.check.is_none()) {
            let place = fault.check.as_deref().map_or(node.place, |check| place_of(node, check));
            problems.push(Problem { place, rule: Some(rule.clone()), message: fault.message });
        } else if whole {
            problems.push(fault.unplaced());
        }
    }
    if problems.is_empty() { Ok(Rules(over.into())) } else { Err(LoadError::new(problems)) }
}

fn place_of(node: &Node, check: &str) -> Option<Place> {
    match &node.value {
        Written::Text { text, .. } => node.place_at(text.find(check).unwrap_or(0)),
        Written::List(list) => {
            let holds = |node: &Node| match &node.value {
                Written::Text { text, .. } => text == check,
                Written::List(inner) => inner
                    .iter()
                    .any(|node| matches!(&node.value, Written::Text { text, .. } if text == check)),
                Written::Other(_) => false,
            };
            let within = list.iter().find(|node| holds(node));
            within.map_or(node.place, |inner| place_of(inner, check))
        }
        Written::Other(_) => node.place,
    }
}

fn unknown_names(entries: &[Entry], over: &Rules, known: &[&str]) -> Vec<Problem> {
    let parsed: Vec<_> = entries.iter().filter_map(|entry| parse::rule(&entry.rule).ok()).collect();
    let mut used = Vec::new();
    for expr in &parsed {
        expr.references(&mut used);
    }
    let used: HashSet<&str> = used.into_iter().collect();
    let is_default = |name: &str| over.0.default_rule.as_deref() == Some(name);
    let problem = |entry: &Entry| {
        let name = entry.name.as_str();
        let message =
            if known.contains(&name) || over.0.rules.contains_key(name) || is_default(name) {
                return None;
            } else if !check::is_rule_name(name) {
                "a rule's name is letters, digits and _ - . :"
            } else if name.contains(':') {
                "unknown action"
            } else if used.contains(name) || parsed.len() < entries.len() {
                // A rule that cannot be read may be the one that refers to it.
                return None;
            } else {
                "neither an action nor a rule that another refers to"
            };
        Some(Problem {
            place: entry.place,
            rule: Some(name.to_owned()),
            message: message.to_owned(),
        })
    };
    entries.iter().filter_map(problem).collect()
}
