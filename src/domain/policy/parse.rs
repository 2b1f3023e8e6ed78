//! A rule's text, or list of lists, to the expression it means; one rule at a time.
//!
//! ```text
//! expr = and { "or" and } ;  and = not { "and" not }        keywords in any case
//! not  = "not" not | "(" expr ")" | "@" | "!" | check
//! ```
//! So `(role:a)and(role:b)`, without blanks, is one broken word. Lists hold single checks only.

use std::fmt;

use super::check::{self, Check, Test};
use super::source::{Node, Written};
use super::words::{Fault, MAX_TOKENS, Token, tokens, too_long};
use super::{Place, shown};

/// Bounds the recursion over what a file says.
const MAX_DEPTH: usize = 64;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Expr {
    Const(bool),
    Not(Box<Expr>),
    And(Vec<Expr>),
    Or(Vec<Expr>),
    Check(Check),
}

impl Expr {
    /// The rules it refers to, in the order written.
    pub fn references<'a>(&'a self, into: &mut Vec<&'a str>) {
        match self {
            Expr::Not(inner) => inner.references(into),
            Expr::And(all) | Expr::Or(all) => all.iter().for_each(|e| e.references(into)),
            Expr::Check(Check { test: Test::Rule(name), .. }) => into.push(name),
            Expr::Const(_) | Expr::Check(_) => {}
        }
    }

    pub fn height(&self) -> usize {
        match self {
            Expr::Not(inner) => 1 + inner.height(),
            Expr::And(all) | Expr::Or(all) => 1 + all.iter().map(Expr::height).max().unwrap_or(0),
            Expr::Const(_) | Expr::Check(_) => 1,
        }
    }
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (word, all) = match self {
            Expr::Const(allow) => return f.write_str(if *allow { "@" } else { "!" }),
            Expr::Not(inner) => return write!(f, "not {inner}"),
            Expr::Check(check) => return f.write_str(&check.text),
            Expr::And(all) => ("and", all),
            Expr::Or(all) => ("or", all),
        };
        for (n, inner) in all.iter().enumerate() {
            if n == 0 {
                write!(f, "({inner}")?;
            } else {
                write!(f, " {word} {inner}")?;
            }
        }
        f.write_str(")")
    }
}

/// A whole rule, in either language, or everything that is wrong with it.
pub(super) fn rule(node: &Node) -> Result<Expr, Vec<(Option<Place>, String)>> {
    let located = |node: &Node, fault: Fault| (node.place_at(fault.at), fault.message);
    match &node.value {
        Written::Text { text, .. } => self::text(text).map_err(|fault| vec![located(node, fault)]),
        Written::Other(what) => {
            Err(vec![(node.place, format!("a rule is text or a list, not {what}"))])
        }
        Written::List(outer) if outer.is_empty() => Ok(Expr::Const(true)),
        Written::List(outer) => {
            let mut problems = Vec::new();
            let mut checks = 0;
            let mut any = Vec::new();
            for element in outer {
                let inner = match &element.value {
                    Written::Text { .. } => std::slice::from_ref(element),
                    Written::List(inner) if !inner.is_empty() => inner.as_slice(),
                    // Essex allows everyone by an empty one, oslo skips it.
                    Written::List(_) => {
                        problems.push((element.place, "the inner list is empty".into()));
                        continue;
                    }
                    Written::Other(what) => {
                        let message =
                            format!("a list holds checks and lists of checks, not {what}");
                        problems.push((element.place, message));
                        continue;
                    }
                };
                checks += inner.len();
                let mut all = Vec::new();
                for node in inner {
                    match single(node) {
                        Ok(check) => all.push(check),
                        Err(fault) => problems.push(located(node, fault)),
                    }
                }
                any.push(all_of(all));
            }
            if checks > MAX_TOKENS {
                problems.push((node.place, too_long()));
            }
            if problems.is_empty() { Ok(any_of(any)) } else { Err(problems) }
        }
    }
}

/// The string language.
pub(super) fn text(rule: &str) -> Result<Expr, Fault> {
    if rule.is_empty() {
        return Ok(Expr::Const(true));
    }
    let tokens = tokens(rule)?;
    if tokens.is_empty() {
        return Err(Fault {
            at: 0,
            message: "a blank rule: write \"\" or @ to allow everyone".into(),
        });
    }
    let mut parser = Parser { tokens, next: 0, end: rule.len() };
    let expr = parser.or(0)?;
    match parser.peek() {
        None => Ok(expr),
        Some((at, Token::Close)) => Err(Fault { at, message: "a ')' without its '('".into() }),
        Some((at, token)) => Err(Fault {
            at,
            message: format!("expected 'and' or 'or' before {}", shown(token.text())),
        }),
    }
}

/// One check of the list form, in which the string language means nothing.
fn single(node: &Node) -> Result<Expr, Fault> {
    let Written::Text { text, .. } = &node.value else {
        return Err(Fault { at: 0, message: "a check is text".into() });
    };
    match tokens(text)?[..] {
        [] => Err(Fault { at: 0, message: format!("not a check: {}", shown(text)) }),
        [(_, Token::Word(word))] if word == text => word_expr(0, word),
        _ => {
            let message = format!("one check per string in list form: {}", shown(text));
            Err(Fault { at: 0, message })
        }
    }
}

struct Parser<'a> {
    tokens: Vec<(usize, Token<'a>)>,
    next: usize,
    end: usize,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<(usize, Token<'a>)> {
        self.tokens.get(self.next).copied()
    }

    fn take(&mut self, wanted: fn(Token<'a>) -> bool) -> bool {
        let found = self.peek().is_some_and(|(_, token)| wanted(token));
        self.next += usize::from(found);
        found
    }

    fn or(&mut self, depth: usize) -> Result<Expr, Fault> {
        let mut any = vec![self.and(depth)?];
        while self.take(|token| matches!(token, Token::Or(_))) {
            any.push(self.and(depth)?);
        }
        Ok(any_of(any))
    }

    fn and(&mut self, depth: usize) -> Result<Expr, Fault> {
        let mut all = vec![self.not(depth)?];
        while self.take(|token| matches!(token, Token::And(_))) {
            all.push(self.not(depth)?);
        }
        Ok(all_of(all))
    }

    fn not(&mut self, depth: usize) -> Result<Expr, Fault> {
        let Some((at, token)) = self.peek() else {
            return Err(Fault { at: self.end, message: "expected a check, found the end".into() });
        };
        self.next += 1;
        let too_deep = || Fault { at, message: format!("nested deeper than {MAX_DEPTH}") };
        match token {
            Token::Word(word) => word_expr(at, word),
            Token::Not(_) | Token::Open if depth == MAX_DEPTH => Err(too_deep()),
            Token::Not(_) => Ok(Expr::Not(Box::new(self.not(depth + 1)?))),
            Token::Open => {
                let inner = self.or(depth + 1)?;
                if self.take(|token| token == Token::Close) {
                    Ok(inner)
                } else if let Some((at, token)) = self.peek() {
                    let message =
                        format!("expected 'and', 'or' or ')' before {}", shown(token.text()));
                    Err(Fault { at, message })
                } else {
                    Err(Fault { at, message: "a '(' that is never closed".into() })
                }
            }
            Token::Close | Token::And(_) | Token::Or(_) => Err(Fault {
                at,
                message: format!("expected a check, found {}", shown(token.text())),
            }),
        }
    }
}

fn word_expr(at: usize, word: &str) -> Result<Expr, Fault> {
    match word {
        "@" => Ok(Expr::Const(true)),
        "!" => Ok(Expr::Const(false)),
        _ => check::parse(word).map(Expr::Check).map_err(|message| Fault { at, message }),
    }
}

/// `a and (b and c)` is one list of three: no nesting that means nothing.
fn all_of(exprs: Vec<Expr>) -> Expr {
    let flat = exprs.into_iter().flat_map(|expr| match expr {
        Expr::And(inner) => inner,
        expr => vec![expr],
    });
    one_or(flat.collect(), Expr::And)
}

fn any_of(exprs: Vec<Expr>) -> Expr {
    let flat = exprs.into_iter().flat_map(|expr| match expr {
        Expr::Or(inner) => inner,
        expr => vec![expr],
    });
    one_or(flat.collect(), Expr::Or)
}

fn one_or(mut exprs: Vec<Expr>, several: fn(Vec<Expr>) -> Expr) -> Expr {
    if exprs.len() == 1 { exprs.remove(0) } else { several(exprs) }
}
