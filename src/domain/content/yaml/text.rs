//! Reads the text of scalars as `PyYAML`'s scanner.py does: blocks, quotes and plain ones.

use std::borrow::Cow;

use super::Fault;
use super::cursor::{Cursor, END, is_blank, is_break};

/// `|` and `>`, from the indicator on (`scan_block_scalar`).
pub fn block(at: &mut Cursor, parent_indent: isize, folded: bool) -> Result<String, Fault> {
    at.bump();
    let (chomping, increment) = block_header(at)?;
    let min_indent = (parent_indent + 1).max(1);
    let (mut breaks, indent) = if let Some(increment) = increment {
        let indent = min_indent + increment - 1;
        (block_breaks(at, indent), indent)
    } else {
        let (breaks, deepest) = block_indentation(at);
        (breaks, min_indent.max(deepest))
    };
    let mut text = String::new();
    let mut line_break = None;
    while at.column == indent && at.peek() != END {
        text.push_str(&breaks);
        let starts_blank = matches!(at.peek(), ' ' | '\t');
        text.push_str(at.take(is_break));
        line_break = at.line_break();
        breaks = block_breaks(at, indent);
        if at.column != indent || at.peek() == END {
            break;
        }
        let ends_blank = matches!(at.peek(), ' ' | '\t');
        if !folded || line_break != Some('\n') || starts_blank || ends_blank {
            text.extend(line_break);
        } else if breaks.is_empty() {
            text.push(' ');
        }
    }
    if chomping != Some('-') {
        text.extend(line_break);
    }
    if chomping == Some('+') {
        text.push_str(&breaks);
    }
    Ok(text)
}

/// The chomping and indentation indicators, in either order, and the rest of their line.
fn block_header(at: &mut Cursor) -> Result<(Option<char>, Option<isize>), Fault> {
    let line = at.line;
    let fault = || {
        Fault::syntax(
            line,
            "`|` or `>` is followed by more than its indicators",
            "start the text on the next line, or put the value in quotes",
        )
    };
    let mut chomping = None;
    let mut increment = None;
    for c in at.take(|c| c == ' ' || is_break(c)).chars() {
        match c {
            '+' | '-' if chomping.is_none() => chomping = Some(c),
            '1'..='9' if increment.is_none() => {
                increment = c.to_digit(10).and_then(|digit| isize::try_from(digit).ok());
            }
            _ => return Err(fault()),
        }
    }
    at.skip_comment();
    if at.peek() != END && at.line_break().is_none() {
        return Err(fault());
    }
    Ok((chomping, increment))
}

fn block_indentation(at: &mut Cursor) -> (String, isize) {
    let mut breaks = String::new();
    let mut deepest = 0;
    loop {
        at.skip_spaces();
        deepest = deepest.max(at.column);
        match at.line_break() {
            Some(line_break) => breaks.push(line_break),
            None => return (breaks, deepest),
        }
    }
}

fn block_breaks(at: &mut Cursor, indent: isize) -> String {
    let mut breaks = String::new();
    loop {
        while at.column < indent && at.peek() == ' ' {
            at.bump();
        }
        match at.line_break() {
            Some(line_break) => breaks.push(line_break),
            None => return breaks,
        }
    }
}

/// Single and double quotes, from the opening to the closing one (`scan_flow_scalar`). Indentation
/// plays no part in them.
pub fn quoted(at: &mut Cursor, quote: char) -> Result<String, Fault> {
    let line = at.line;
    let mut text = String::new();
    at.bump();
    loop {
        quoted_words(at, quote, &mut text)?;
        if at.peek() == quote {
            at.bump();
            return Ok(text);
        }
        quoted_blanks(at, line, &mut text)?;
    }
}

fn quoted_words(at: &mut Cursor, quote: char, text: &mut String) -> Result<(), Fault> {
    loop {
        text.push_str(at.take(|c| matches!(c, '\'' | '"' | '\\') || is_blank(c)));
        match at.peek_two() {
            ('\'', '\'') if quote == '\'' => {
                text.push('\'');
                at.skip(2);
            }
            ('\\', _) if quote == '"' => {
                at.bump();
                escape(at, text)?;
            }
            (c @ ('\'' | '"' | '\\'), _) if c != quote => {
                text.push(c);
                at.bump();
            }
            _ => return Ok(()),
        }
    }
}

fn escape(at: &mut Cursor, text: &mut String) -> Result<(), Fault> {
    let line = at.line;
    let unknown = || {
        Fault::syntax(
            line,
            "a backslash inside double quotes starts no escape that YAML knows",
            "double the backslash, or use single quotes",
        )
    };
    let c = at.peek();
    let width = match c {
        'x' => 2,
        'u' => 4,
        'U' => 8,
        _ => 0,
    };
    if width > 0 {
        let hex = at.rest().get(1..=width).filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
        let code = hex.and_then(|hex| u32::from_str_radix(hex, 16).ok());
        let code = code.filter(|code| *code <= u32::from(char::MAX)).ok_or_else(unknown)?;
        // PyYAML makes a lone surrogate of it, and cloud-init then fails to encode the text. A pair
        // of \u escapes, as JSON writes emoji, is two of them.
        text.push(char::from_u32(code).ok_or_else(|| {
            Fault::at(
                line,
                "yaml_surrogate",
                "a `\\u` escape names half a character, as JSON writes emoji",
                "write the character itself, or one `\\U` escape",
            )
        })?);
        at.skip(1 + width);
    } else if at.line_break().is_some() {
        quoted_breaks(at, line, text)?;
    } else {
        text.push(simple_escape(c).ok_or_else(unknown)?);
        at.bump();
    }
    Ok(())
}

fn simple_escape(c: char) -> Option<char> {
    Some(match c {
        '0' => '\0',
        'a' => '\x07',
        'b' => '\x08',
        't' | '\t' => '\t',
        'n' => '\n',
        'v' => '\x0b',
        'f' => '\x0c',
        'r' => '\r',
        'e' => '\x1b',
        ' ' | '"' | '\\' | '/' => c,
        'N' => '\u{85}',
        '_' => '\u{a0}',
        'L' => '\u{2028}',
        'P' => '\u{2029}',
        _ => return None,
    })
}

fn quoted_blanks(at: &mut Cursor, line: usize, text: &mut String) -> Result<(), Fault> {
    let blanks = at.take(|c| !matches!(c, ' ' | '\t'));
    if at.peek() == END {
        return Err(Fault::syntax(
            line,
            "a quote opens here and never closes",
            "close the quote, or put the whole value in quotes if this one belongs to it",
        ));
    }
    let Some(line_break) = at.line_break() else {
        text.push_str(blanks);
        return Ok(());
    };
    let before = text.len();
    if line_break != '\n' {
        text.push(line_break);
    }
    quoted_breaks(at, line, text)?;
    if text.len() == before {
        text.push(' ');
    }
    Ok(())
}

fn quoted_breaks(at: &mut Cursor, line: usize, text: &mut String) -> Result<(), Fault> {
    loop {
        if at.at_document_mark("---") || at.at_document_mark("...") {
            return Err(Fault::syntax(
                line,
                "a quote opens here and a document separator comes before its end",
                "close the quote",
            ));
        }
        at.take(|c| !matches!(c, ' ' | '\t'));
        match at.line_break() {
            Some(line_break) => text.push(line_break),
            None => return Ok(()),
        }
    }
}

/// A scalar without quotes (`scan_plain`), and whether it ended by running into a new line.
pub fn plain<'a>(at: &mut Cursor<'a>, parent_indent: isize, in_flow: bool) -> (Cow<'a, str>, bool) {
    let mut text: Cow<'a, str> = Cow::Borrowed("");
    let mut blanks = String::new();
    let mut on_new_line = false;
    while at.peek() != '#' {
        let length = plain_length(at.rest(), in_flow);
        if length == 0 {
            break;
        }
        let run = &at.rest()[..length];
        at.skip(length);
        if text.is_empty() {
            text = Cow::Borrowed(run);
        } else {
            let text = text.to_mut();
            text.push_str(&blanks);
            text.push_str(run);
        }
        (blanks, on_new_line) = plain_blanks(at);
        if blanks.is_empty() || (!in_flow && at.column <= parent_indent) {
            break;
        }
    }
    (text, on_new_line)
}

fn plain_length(rest: &str, in_flow: bool) -> usize {
    let mut chars = rest.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        let next = chars.peek().map_or(END, |(_, next)| *next);
        let ends = match c {
            ':' => is_blank(next) || (in_flow && matches!(next, ',' | '[' | ']' | '{' | '}')),
            ',' | '?' | '[' | ']' | '{' | '}' => in_flow,
            _ => is_blank(c),
        };
        if ends {
            return at;
        }
    }
    rest.len()
}

/// What joins two words or lines of a plain scalar, nothing where it ends; and whether there was a
/// line break.
fn plain_blanks(at: &mut Cursor) -> (String, bool) {
    let blanks = at.take(|c| c != ' ');
    let Some(line_break) = at.line_break() else {
        return (blanks.to_owned(), false);
    };
    let mut joint = String::new();
    if line_break != '\n' {
        joint.push(line_break);
    }
    loop {
        if at.at_document_mark("---") || at.at_document_mark("...") {
            return (String::new(), true);
        }
        at.skip_spaces();
        match at.line_break() {
            Some(line_break) => joint.push(line_break),
            None => break,
        }
    }
    if joint.is_empty() {
        joint.push(' ');
    }
    (joint, true)
}
