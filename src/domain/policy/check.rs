//! One check, `kind:match`, read from one word; not how checks are combined.
//!
//! ```text
//! check = kind ":" match                    the first colon splits; the match may hold more
//! kind  = "rule" | "role" | 'text' | "text" | True | False | None | integer | path
//! path  = seg { "." seg }                   seg = [A-Za-z_][A-Za-z0-9_-]*
//! match = { char | "%%" | "%(key)s" }       not empty
//! ```

use super::shown;

/// A check and how it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Check {
    pub text: String,
    pub test: Test,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Test {
    /// What another rule says.
    Rule(String),
    /// The caller holds the role, whatever its case.
    Role(Template),
    /// A constant equals something of the target.
    Literal(Literal, Template),
    /// Something of the caller, found by dots, equals something of the target.
    Path(Vec<String>, Template),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Literal {
    Text(String),
    Null,
}

/// Text with holes that the target fills.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Template(pub Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Text(String),
    Key(String),
}

/// Reads a word that is neither a keyword, a parenthesis nor a constant.
pub(super) fn parse(word: &str) -> Result<Check, String> {
    // oslo takes such a word for a string, which no rule may contain.
    if is_quoted(word) {
        return Err(format!("a quoted string is not a check: {}", shown(word)));
    }
    let (kind, matched) =
        word.split_once(':').ok_or_else(|| format!("not a check: {}", shown(word)))?;
    let test = match kind {
        "rule" if is_rule_name(matched) => Test::Rule(matched.to_owned()),
        "rule" => return Err(format!("bad rule name {}", shown(matched))),
        "role" => Test::Role(role(matched)?),
        _ => other(kind, matched)?,
    };
    Ok(Check { text: word.to_owned(), test })
}

/// What `rule:` may point at.
pub(super) fn is_rule_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b"_-.:".contains(&b))
}

fn is_quoted(word: &str) -> bool {
    word.len() >= 2
        && ['"', '\''].iter().any(|&quote| word.starts_with(quote) && word.ends_with(quote))
}

/// Our roles are `[a-z][a-z0-9_-]*`; a mark outside these few is a slip, as in `role:admin,`.
fn role(matched: &str) -> Result<Template, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-.:%".contains(c);
    let template = template(matched)?;
    let good = template.0.iter().all(|piece| match piece {
        Piece::Text(text) => text.chars().all(plain),
        Piece::Key(_) => true,
    });
    if good && !matched.is_empty() {
        Ok(template)
    } else {
        Err(format!("bad role name {}", shown(matched)))
    }
}

fn other(kind: &str, matched: &str) -> Result<Test, String> {
    match kind.to_ascii_lowercase().as_str() {
        // oslo posts the credentials there, and takes the answer of whoever listens.
        "http" | "https" => return Err("remote checks are refused".into()),
        // oslo would look for an attribute `ROLE` of the caller, and deny.
        lower @ ("role" | "rule") => return Err(format!("write {lower}: in lower case")),
        "and" | "or" | "not" => return Err(format!("bad kind {}", shown(kind))),
        _ => {}
    }
    let left = literal(kind);
    let path = || kind.split('.').map(segment).collect::<Option<Vec<_>>>();
    if left.is_none() && path().is_none() {
        return Err(format!("bad kind {}", shown(kind)));
    }
    if matched.is_empty() {
        return Err(format!("nothing to compare with after {}", shown(&format!("{kind}:"))));
    }
    let template = template(matched)?;
    Ok(match left {
        Some(literal) => Test::Literal(literal, template),
        None => Test::Path(path().unwrap_or_default(), template),
    })
}

fn segment(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let good = bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
        // Constants in Python, so not names of anything.
        && !["True", "False", "None"].contains(&text);
    good.then(|| text.to_owned())
}

/// The Python literals that policies use; the rest of them (`0x10`, `1.5`, `[1]`) are refused.
fn literal(kind: &str) -> Option<Literal> {
    if kind == "None" {
        return Some(Literal::Null);
    }
    let text = |text: &str| Some(Literal::Text(text.to_owned()));
    if kind == "True" || kind == "False" {
        return text(kind);
    }
    if is_quoted(kind) {
        let inside = &kind[1..kind.len() - 1];
        return if inside.contains(['\\', '"', '\'']) { None } else { text(inside) };
    }
    // Only as Python would print it, so that comparing texts compares numbers.
    let digits = kind.strip_prefix('-').unwrap_or(kind);
    let number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    let canonical = !digits.starts_with('0') || kind == "0";
    (number && canonical).then(|| Literal::Text(kind.to_owned()))
}

/// Python's `%` with one conversion, `%(key)s`; `%s` would print the whole target.
fn template(text: &str) -> Result<Template, String> {
    let mut pieces = Vec::new();
    let mut plain = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('%') {
        plain.push_str(&rest[..at]);
        let hole = &rest[at..];
        if let Some(after) = hole.strip_prefix("%%") {
            plain.push('%');
            rest = after;
        } else if let Some((key, after)) = hole.strip_prefix("%(").and_then(key) {
            if !plain.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut plain)));
            }
            pieces.push(Piece::Key(key.to_owned()));
            rest = after;
        } else {
            return Err(format!("bad substitution at {}", shown(hole)));
        }
    }
    plain.push_str(rest);
    if !plain.is_empty() {
        pieces.push(Piece::Text(plain));
    }
    Ok(Template(pieces))
}

fn key(text: &str) -> Option<(&str, &str)> {
    let (key, after) = text.split_once(")s")?;
    (!key.is_empty() && !key.contains(['(', ')', '%'])).then_some((key, after))
}
