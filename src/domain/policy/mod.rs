//! Who may do what: oslo.policy's rule language, loaded strictly and evaluated so that what is not
//! known is not allowed. Reading the file and noticing that it changed are the caller's.
//!
//! A rule is text (`role:admin or rule:owner`) or a list of lists (outer: any, inner: all).
//! Loading goes `source` (YAML) → `parse` (a rule; its words in `words`, one check in `check`) →
//! `link` (the set as a whole), called by `load`; deciding is `evaluate` (three-valued logic) over
//! `compare` (one check).

mod actions;
mod check;
mod compare;
mod eval_cases;
mod evaluate;
mod link;
mod load;
mod parse;
mod source;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

pub use actions::{Action, Listed, compiled_in, from_file, list};
pub use eval_cases::{CaseResult, Load, eval_cases};
pub use evaluate::{Decision, Verdict, Why};

use parse::Expr;

/// What the caller's token says: `user_id`, `project_id`, `roles`, `token_expired`…; walked by dots.
pub type Creds = serde_json::Map<String, serde_json::Value>;
/// The stored object acted on, flat: a dot in `%(node.project_id)s` is part of the key.
pub type Target = serde_json::Map<String, serde_json::Value>;

/// The rule that stands in for an action without one.
const DEFAULT_RULE: &str = "default";

/// A set of rules that belong together: every name in it resolves and none leads back to itself.
#[derive(Clone, Debug)]
pub struct Rules(Arc<Linked>);

#[derive(Clone, Debug, Default)]
struct Linked {
    rules: BTreeMap<String, Expr>,
    default_rule: Option<String>,
    /// What a file has put in place of others, or beside them.
    overridden: BTreeSet<String>,
}

impl Linked {
    /// The rule that answers for `name`: itself, or the default.
    fn resolve(&self, name: &str) -> Option<(&str, &Expr)> {
        let found = self.rules.get_key_value(name).or_else(|| {
            let default = self.default_rule.as_deref()?;
            self.rules.get_key_value(default)
        })?;
        Some((found.0, found.1))
    }
}

/// Which rule names a file may define.
#[derive(Clone, Copy, Debug)]
pub enum Names<'a> {
    /// These, those of the rules it is loaded over, and helpers of its own: names without a colon
    /// that another rule refers to. A helper nobody refers to is a misspelt name that would change
    /// nothing, so it is refused, and so is a reference that only the default rule would answer.
    Known(&'a [&'static str]),
    /// Any, for rules that are tried out without a server.
    Any,
}

/// Where in the file, both counted from 1, columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub line: usize,
    pub column: usize,
}

/// One reason why a file is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// None when the rules did not come from a file.
    pub place: Option<Place>,
    pub rule: Option<String>,
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(Place { line, column }) = self.place {
            write!(f, "line {line}, column {column}: ")?;
        }
        if let Some(rule) = &self.rule {
            write!(f, "rule {}: ", shown(rule))?;
        }
        f.write_str(&self.message)
    }
}

/// Every reason why a file is refused, in the order of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadError {
    pub problems: Vec<Problem>,
}

impl LoadError {
    /// A file of nothing but mistakes is answered with the first hundred.
    const MOST: usize = 100;

    fn new(mut problems: Vec<Problem>) -> LoadError {
        problems.sort_by_key(|problem| problem.place);
        if let Some(more) = problems.len().checked_sub(Self::MOST).filter(|&n| n > 0) {
            problems.truncate(Self::MOST);
            let message = format!("and {more} more");
            problems.push(Problem { place: None, rule: None, message });
        }
        LoadError { problems }
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, problem) in self.problems.iter().enumerate() {
            let separator = if n == 0 { "" } else { "\n" };
            write!(f, "{separator}{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for LoadError {}

impl Rules {
    /// The rules compiled in, each in its string form; `default` among them answers for the rest.
    pub fn defaults(table: &[(&'static str, &'static str)]) -> Result<Rules, LoadError> {
        load::table(table)
    }

    /// `over` with the rules of a file in place of those of the same name.
    pub fn load(yaml: &str, over: &Rules, names: Names<'_>) -> Result<Rules, LoadError> {
        load::file(yaml, over, names)
    }

    /// Whether the caller may, and why. What is unknown is denied.
    #[must_use]
    pub fn check(&self, rule: &str, creds: &Creds, target: &Target) -> Decision {
        evaluate::check(&self.0, rule, creds, target)
    }

    /// What [`Rules::check`] decides, without the reasons: for lists, which ask once a row.
    #[must_use]
    pub fn allows(&self, rule: &str, creds: &Creds, target: &Target) -> bool {
        evaluate::allows(&self.0, rule, creds, target)
    }

    /// The names of the rules that came from a file.
    #[must_use]
    pub fn overridden(&self) -> &BTreeSet<String> {
        &self.0.overridden
    }

    /// One rule, in oslo.policy's canonical spelling.
    #[must_use]
    pub fn spelling(&self, name: &str) -> Option<String> {
        self.0.rules.get(name).map(ToString::to_string)
    }

    /// Every rule, by name, in oslo.policy's canonical spelling.
    pub fn iter(&self) -> impl Iterator<Item = (&str, String)> {
        self.0.rules.iter().map(|(name, expr)| (name.as_str(), expr.to_string()))
    }
}

/// Text from a file or a request, made fit for one line of a message.
fn shown(text: &str) -> String {
    const MOST: usize = 60;
    let mut out = String::from("'");
    for c in text.chars().take(MOST) {
        match c {
            // `escape_debug` would spell these with a backslash, which the text does not have.
            '"' | '\'' => out.push(c),
            c => out.extend(c.escape_debug()),
        }
    }
    out.push_str(if text.chars().nth(MOST).is_some() { "…'" } else { "'" });
    out
}
