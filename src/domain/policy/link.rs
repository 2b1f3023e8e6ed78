//! What a set of rules must satisfy as a whole: no reference into nothing, no cycle, an end in
//! sight. Where the rules stand in a file is the loader's to know.

use std::collections::HashMap;

use super::{Linked, Problem, shown};

/// Expressions nested through references, so that evaluation needs a bounded stack.
pub(super) const MAX_HEIGHT: usize = 256;

/// A problem of one rule, or of several that refer to each other.
pub(super) struct Fault {
    pub rules: Vec<String>,
    /// The check that is to blame, when one is.
    pub check: Option<String>,
    pub message: String,
}

impl Fault {
    /// For rules without a file.
    pub fn unplaced(self) -> Problem {
        Problem { place: None, rule: self.rules.into_iter().next(), message: self.message }
    }
}

/// Whether `rule:x` without an `x` means the default rule, as in oslo, or is a mistake.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Gaps {
    TakeDefault,
    Refuse,
}

pub(super) fn faults(linked: &Linked, gaps: Gaps) -> Vec<Fault> {
    let names: Vec<&str> = linked.rules.keys().map(String::as_str).collect();
    let index: HashMap<&str, usize> =
        names.iter().enumerate().map(|(n, &name)| (name, n)).collect();
    let mut faults = Vec::new();
    let mut edges = Vec::new();
    for (name, expr) in &linked.rules {
        let mut references = Vec::new();
        expr.references(&mut references);
        let mut to = Vec::new();
        for reference in references {
            let found = match gaps {
                Gaps::TakeDefault => linked.resolve(reference).map(|(name, _)| name),
                Gaps::Refuse => {
                    linked.rules.get_key_value(reference).map(|(name, _)| name.as_str())
                }
            };
            if let Some(found) = found {
                to.push(index[found]);
            } else {
                faults.push(Fault {
                    rules: vec![name.clone()],
                    check: Some(format!("rule:{reference}")),
                    message: format!("refers to undefined {}", shown(reference)),
                });
            }
        }
        edges.push(to);
    }
    let heights = linked.rules.values().map(super::parse::Expr::height).collect();
    walk(&names, &edges, heights, &mut faults);
    faults
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    New,
    Open,
    Done,
}

/// Depth first without recursion: a file may hold a chain as long as itself.
fn walk(names: &[&str], edges: &[Vec<usize>], mut heights: Vec<usize>, faults: &mut Vec<Fault>) {
    let mut marks = vec![Mark::New; names.len()];
    let (mut cyclic, mut deep) = (Vec::new(), Vec::new());
    for start in 0..names.len() {
        let mut path = vec![(start, 0)];
        if marks[start] != Mark::New {
            continue;
        }
        marks[start] = Mark::Open;
        while let Some((node, next)) = path.last_mut() {
            let (node, edge) = (*node, *next);
            *next += 1;
            let Some(&to) = edges[node].get(edge) else {
                deep.extend(grow(node, names, edges, &mut heights));
                marks[node] = Mark::Done;
                path.pop();
                continue;
            };
            match marks[to] {
                Mark::New => {
                    marks[to] = Mark::Open;
                    path.push((to, 0));
                }
                Mark::Open => {
                    let from = path.iter().position(|&(n, _)| n == to).unwrap_or(0);
                    let members: Vec<&str> = path[from..].iter().map(|&(n, _)| names[n]).collect();
                    cyclic.push(cycle(&members));
                }
                Mark::Done => {}
            }
        }
    }
    // A cycle is deep as well, and saying so helps nobody.
    faults.extend(if cyclic.is_empty() { deep } else { cyclic });
}

/// Adds what a rule refers to, which is known by now, to its height.
fn grow(node: usize, names: &[&str], edges: &[Vec<usize>], heights: &mut [usize]) -> Option<Fault> {
    let below = edges[node].iter().map(|&to| heights[to]).max().unwrap_or(0);
    heights[node] += below;
    // Of a chain, the one that goes too far is enough.
    (heights[node] > MAX_HEIGHT && below <= MAX_HEIGHT).then(|| Fault {
        rules: vec![names[node].to_owned()],
        check: None,
        message: format!("nested deeper than {MAX_HEIGHT}, counting the rules it refers to"),
    })
}

/// `a -> b -> a`; of a long one, the beginning.
fn cycle(members: &[&str]) -> Fault {
    const MOST: usize = 8;
    let mut message = String::from("cyclic: ");
    for name in members.iter().take(MOST) {
        message += name;
        message += " -> ";
    }
    if members.len() > MOST {
        message += "… -> ";
    }
    message += members[0];
    Fault { rules: members.iter().map(|&name| name.to_owned()).collect(), check: None, message }
}
