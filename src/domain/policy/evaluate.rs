//! Three-valued evaluation of one question. An operand that is absent, null, empty or not a plain
//! value makes a check unknown, `not` keeps it unknown, and what is unknown at the top is denied;
//! in oslo.policy the same absence inside a `not` allows.

use std::collections::HashMap;
use std::fmt;

use serde::Serialize;

use super::check::{Check, Test};
use super::compare::{leaf, operands};
use super::parse::Expr;
use super::{Creds, Linked, Target};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    True,
    False,
    Unknown,
}

impl From<bool> for Verdict {
    fn from(value: bool) -> Verdict {
        if value { Verdict::True } else { Verdict::False }
    }
}

impl std::ops::Not for Verdict {
    type Output = Verdict;

    fn not(self) -> Verdict {
        match self {
            Verdict::True => Verdict::False,
            Verdict::False => Verdict::True,
            Verdict::Unknown => Verdict::Unknown,
        }
    }
}

impl Verdict {
    #[must_use]
    pub fn and(self, other: Verdict) -> Verdict {
        match (self, other) {
            (Verdict::False, _) | (_, Verdict::False) => Verdict::False,
            (Verdict::True, Verdict::True) => Verdict::True,
            _ => Verdict::Unknown,
        }
    }

    #[must_use]
    pub fn or(self, other: Verdict) -> Verdict {
        !(!self).and(!other)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verdict::True => "true",
            Verdict::False => "false",
            Verdict::Unknown => "unknown",
        })
    }
}

/// The answer, with its reasons.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    Allow(Why),
    Deny(Why),
}

impl Decision {
    #[must_use]
    pub fn allowed(&self) -> bool {
        matches!(self, Decision::Allow(_))
    }

    #[must_use]
    pub fn why(&self) -> &Why {
        match self {
            Decision::Allow(why) | Decision::Deny(why) => why,
        }
    }
}

/// One part of a rule, what became of it, and because of what. Displayed as an indented tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Why {
    pub check: String,
    pub verdict: Verdict,
    /// What was compared, for a check; empty where the parts say it all.
    pub note: String,
    pub because: Vec<Why>,
}

impl Why {
    /// The checks that decide, on one line.
    #[must_use]
    pub fn summary(&self) -> String {
        let mut leaves = Vec::new();
        self.deciding(&mut leaves);
        leaves.join("; ")
    }

    fn deciding(&self, leaves: &mut Vec<String>) {
        if self.because.is_empty() {
            leaves.push(self.to_string().trim_end().to_owned());
        }
        let alike = self.because.iter().filter(|part| part.verdict == self.verdict);
        match (self.check.as_str(), self.verdict) {
            // One part is enough.
            (ALL, Verdict::False) | (ANY, Verdict::True) => {
                alike.take(1).for_each(|part| part.deciding(leaves));
            }
            (ALL | ANY, _) => alike.for_each(|part| part.deciding(leaves)),
            _ => self.because.iter().for_each(|part| part.deciding(leaves)),
        }
    }

    fn tree(&self, f: &mut fmt::Formatter<'_>, depth: usize) -> fmt::Result {
        write!(f, "{:indent$}{}: {}", "", self.check, self.verdict, indent = 2 * depth)?;
        if !self.note.is_empty() {
            write!(f, " ({})", self.note)?;
        }
        writeln!(f)?;
        self.because.iter().try_for_each(|part| part.tree(f, depth + 1))
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.tree(f, 0)
    }
}

const ALL: &str = "all of";
const ANY: &str = "any of";

pub(super) fn check(linked: &Linked, rule: &str, creds: &Creds, target: &Target) -> Decision {
    let mut asked = Asked { linked, creds, target, known: HashMap::new() };
    let why = asked.explain_rule(rule);
    if why.verdict == Verdict::True { Decision::Allow(why) } else { Decision::Deny(why) }
}

pub(super) fn allows(linked: &Linked, rule: &str, creds: &Creds, target: &Target) -> bool {
    let mut asked = Asked { linked, creds, target, known: HashMap::new() };
    asked.rule(rule) == Verdict::True
}

struct Asked<'a> {
    linked: &'a Linked,
    creds: &'a Creds,
    target: &'a Target,
    /// Each rule is worked out once, or rules that refer twice to the next would take 2ⁿ steps.
    known: HashMap<&'a str, Verdict>,
}

impl<'a> Asked<'a> {
    fn rule(&mut self, name: &str) -> Verdict {
        let Some((name, expr)) = self.linked.resolve(name) else {
            return Verdict::Unknown;
        };
        if let Some(&known) = self.known.get(name) {
            return known;
        }
        let verdict = self.verdict(expr);
        self.known.insert(name, verdict);
        verdict
    }

    fn verdict(&mut self, expr: &'a Expr) -> Verdict {
        match expr {
            Expr::Const(allow) => (*allow).into(),
            Expr::Not(inner) => !self.verdict(inner),
            Expr::And(all) => {
                let mut verdict = Verdict::True;
                for inner in all {
                    verdict = verdict.and(self.verdict(inner));
                    if verdict == Verdict::False {
                        break;
                    }
                }
                verdict
            }
            Expr::Or(any) => {
                let mut verdict = Verdict::False;
                for inner in any {
                    verdict = verdict.or(self.verdict(inner));
                    if verdict == Verdict::True {
                        break;
                    }
                }
                verdict
            }
            Expr::Check(Check { test: Test::Rule(name), .. }) => self.rule(name),
            Expr::Check(check) => leaf(&check.test, self.creds, self.target),
        }
    }

    fn explain_rule(&mut self, asked: &str) -> Why {
        let mut why = Why {
            check: asked.to_owned(),
            verdict: Verdict::Unknown,
            note: String::new(),
            because: Vec::new(),
        };
        let Some((name, expr)) = self.linked.resolve(asked) else {
            why.note = "no rule of that name, and no default".into();
            return why;
        };
        if name != asked {
            why.note = format!("no such rule: {name} answers");
        }
        if let Some(&known) = self.known.get(name) {
            why.verdict = known;
            why.note = "as above".into();
            return why;
        }
        let part = self.explain(expr);
        why.verdict = part.verdict;
        why.because.push(part);
        self.known.insert(name, why.verdict);
        why
    }

    fn explain(&mut self, expr: &'a Expr) -> Why {
        let (name, parts) = match expr {
            Expr::Const(_) => (expr.to_string(), &[][..]),
            Expr::Not(inner) => ("not".to_owned(), std::slice::from_ref(&**inner)),
            Expr::And(all) => (ALL.to_owned(), all.as_slice()),
            Expr::Or(any) => (ANY.to_owned(), any.as_slice()),
            Expr::Check(Check { text, test: Test::Rule(name) }) => {
                return Why { check: text.clone(), ..self.explain_rule(name) };
            }
            Expr::Check(check) => {
                return Why {
                    check: check.text.clone(),
                    verdict: leaf(&check.test, self.creds, self.target),
                    note: operands(&check.test, self.creds, self.target),
                    because: Vec::new(),
                };
            }
        };
        let because: Vec<Why> = parts.iter().map(|part| self.explain(part)).collect();
        let verdicts = because.iter().map(|part| part.verdict);
        let verdict = match expr {
            Expr::Not(_) => verdicts.fold(Verdict::Unknown, |_, inner| !inner),
            Expr::And(_) => verdicts.fold(Verdict::True, Verdict::and),
            Expr::Or(_) => verdicts.fold(Verdict::False, Verdict::or),
            Expr::Const(allow) => (*allow).into(),
            Expr::Check(_) => Verdict::Unknown,
        };
        Why { check: name, verdict, note: String::new(), because }
    }
}
