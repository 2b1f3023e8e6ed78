//! A rule's text to its words. Blank space splits them; a run of `(` in front of a word and of `)`
//! behind it are words of their own, so a check may hold them but not end in one.

/// Beyond this a rule is not something a person wrote.
pub(super) const MAX_TOKENS: usize = 1024;

/// What is wrong, and how many bytes into the text.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub at: usize,
    pub message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token<'a> {
    Open,
    Close,
    And(&'a str),
    Or(&'a str),
    Not(&'a str),
    Word(&'a str),
}

impl<'a> Token<'a> {
    pub fn text(self) -> &'a str {
        match self {
            Token::Open => "(",
            Token::Close => ")",
            Token::And(word) | Token::Or(word) | Token::Not(word) | Token::Word(word) => word,
        }
    }
}

/// Splits a rule, or refuses the first character that has no business in one.
pub(super) fn tokens(rule: &str) -> Result<Vec<(usize, Token<'_>)>, Fault> {
    if let Some((at, message)) = rule.char_indices().find_map(|(at, c)| Some((at, unfit(c)?))) {
        return Err(Fault { at, message });
    }
    let mut tokens = Vec::new();
    let mut next = 0;
    for word in rule.split([' ', '\t', '\n', '\r']) {
        let mut at = next;
        next += word.len() + 1;
        let inner = word.trim_start_matches('(');
        let clean = inner.trim_end_matches(')');
        for _ in 0..word.len() - inner.len() {
            tokens.push((at, Token::Open));
            at += 1;
        }
        match clean.to_ascii_lowercase().as_str() {
            "" => {}
            "and" => tokens.push((at, Token::And(clean))),
            "or" => tokens.push((at, Token::Or(clean))),
            "not" => tokens.push((at, Token::Not(clean))),
            _ => tokens.push((at, Token::Word(clean))),
        }
        at += clean.len();
        for _ in 0..inner.len() - clean.len() {
            tokens.push((at, Token::Close));
            at += 1;
        }
        if tokens.len() > MAX_TOKENS {
            return Err(Fault { at, message: too_long() });
        }
    }
    Ok(tokens)
}

pub(super) fn too_long() -> String {
    format!("the rule is too long: more than {MAX_TOKENS} words")
}

/// A character that reads as something other than it looks, or that engines disagree about.
fn unfit(c: char) -> Option<String> {
    let what = match c {
        ' ' | '\t' | '\n' | '\r' => return None,
        c if c.is_control() => "control character",
        c if c.is_whitespace() => "odd white space",
        '\u{ad}'
        | '\u{34f}'
        | '\u{61c}'
        | '\u{115f}'
        | '\u{1160}'
        | '\u{17b4}'
        | '\u{17b5}'
        | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}'
        | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}'
        | '\u{2800}'
        | '\u{3164}'
        | '\u{fe00}'..='\u{fe0f}'
        | '\u{feff}'
        | '\u{ffa0}'
        | '\u{fff0}'..='\u{fffb}'
        | '\u{e0000}'..='\u{e0fff}' => "invisible character",
        _ => return None,
    };
    Some(format!("{what} U+{:04X}", u32::from(c)))
}
