//! Cuts YAML into tokens exactly as `PyYAML`'s scanner.py does, tabs, simple keys and all.
//!
//! A port, function by function, because the verdict that counts is that of the node's `PyYAML`:
//! YAML 1.2 readers take `key:\tvalue` and read `yes` as a string, and it does neither. Where the
//! original answers with an error, so does this; where it is lenient, so is this.

use std::borrow::Cow;
use std::collections::VecDeque;

use super::cursor::{Cursor, END, is_blank, is_break};
use super::{Fault, text};

/// A key is on one line and at most this long (`stale_possible_simple_keys`).
const MAX_KEY_CHARS: usize = 1024;

#[derive(Debug)]
pub struct Token<'a> {
    pub line: usize,
    pub body: TokenBody<'a>,
}

#[derive(Debug, PartialEq)]
pub enum TokenBody<'a> {
    DocumentStart,
    DocumentEnd,
    Directive,
    BlockSequenceStart,
    BlockMappingStart,
    BlockEnd,
    FlowSequenceStart,
    FlowSequenceEnd,
    FlowMappingStart,
    FlowMappingEnd,
    BlockEntry,
    FlowEntry,
    Key,
    Value,
    Alias(&'a str),
    Anchor(&'a str),
    /// What follows the first `!`, up to the blank.
    Tag(&'a str),
    Scalar {
        text: Cow<'a, str>,
        style: Style,
    },
    StreamEnd,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    Plain,
    Quoted,
    /// `|`: line n of the text is n lines below the indicator.
    Literal,
    Folded,
}

/// A token that turns out to be a key if a `:` follows it.
#[derive(Debug)]
struct SimpleKey {
    token: usize,
    required: bool,
    index: usize,
    line: usize,
    column: isize,
}

#[derive(Debug)]
pub struct Scanner<'a> {
    at: Cursor<'a>,
    tokens: VecDeque<Token<'a>>,
    taken: usize,
    /// The indentation of the open block collection, -1 outside any; and of those around it.
    indent: isize,
    indents: Vec<isize>,
    allow_simple_key: bool,
    /// One place per flow level, the block context first.
    simple_keys: Vec<Option<SimpleKey>>,
    done: bool,
    max_depth: usize,
}

impl<'a> Scanner<'a> {
    pub fn new(text: &'a str, max_depth: usize) -> Self {
        let mut at = Cursor::new(text);
        if at.peek() == '\u{feff}' {
            at.bump();
        }
        Self {
            at,
            tokens: VecDeque::new(),
            taken: 0,
            indent: -1,
            indents: Vec::new(),
            allow_simple_key: true,
            simple_keys: vec![None],
            done: false,
            max_depth,
        }
    }

    pub fn peek_token(&mut self) -> Result<&mut Token<'a>, Fault> {
        self.fill()?;
        self.tokens.front_mut().ok_or_else(|| end_of_tokens(self.at.line))
    }

    pub fn next_token(&mut self) -> Result<Token<'a>, Fault> {
        self.fill()?;
        self.taken += 1;
        self.tokens.pop_front().ok_or_else(|| end_of_tokens(self.at.line))
    }

    /// `need_more_tokens`: the first token is not handed out while it may yet become a key.
    fn fill(&mut self) -> Result<(), Fault> {
        while !self.done {
            if !self.tokens.is_empty() {
                self.drop_stale_keys()?;
                let first = self.simple_keys.iter().flatten().next();
                if first.is_none_or(|key| key.token != self.taken) {
                    break;
                }
            }
            self.fetch()?;
        }
        Ok(())
    }

    fn fetch(&mut self) -> Result<(), Fault> {
        self.skip_to_next_token();
        self.drop_stale_keys()?;
        self.unwind_indent(self.at.column);
        let (c, next) = self.at.peek_two();
        let block = !self.in_flow();
        match c {
            END => self.fetch_stream_end(),
            '%' if self.at.column == 0 => self.fetch_directive(),
            '-' if self.at.at_document_mark("---") => {
                self.fetch_document_mark(TokenBody::DocumentStart)
            }
            '.' if self.at.at_document_mark("...") => {
                self.fetch_document_mark(TokenBody::DocumentEnd)
            }
            '[' => self.fetch_flow_start(TokenBody::FlowSequenceStart),
            '{' => self.fetch_flow_start(TokenBody::FlowMappingStart),
            ']' => self.fetch_flow_end(TokenBody::FlowSequenceEnd),
            '}' => self.fetch_flow_end(TokenBody::FlowMappingEnd),
            ',' => self.fetch_flow_entry(),
            '-' if is_blank(next) => self.fetch_block_entry(),
            '?' if !block || is_blank(next) => self.fetch_key(),
            ':' if !block || is_blank(next) => self.fetch_value(),
            '*' | '&' => self.fetch_anchor(c),
            '!' => self.fetch_tag(),
            '|' | '>' if block => self.fetch_block(c == '>'),
            '\'' | '"' => self.fetch_quoted(c),
            _ if starts_plain(c, next, block) => self.fetch_plain(),
            _ => Err(no_token(self.at.line, c)),
        }
    }

    fn skip_to_next_token(&mut self) {
        loop {
            self.at.skip_comment();
            if self.at.line_break().is_none() {
                return;
            }
            if !self.in_flow() {
                self.allow_simple_key = true;
            }
        }
    }

    fn in_flow(&self) -> bool {
        self.simple_keys.len() > 1
    }

    /// A key that did not get its `:` on its own line within 1024 characters is none.
    fn drop_stale_keys(&mut self) -> Result<(), Fault> {
        let Cursor { line, index, .. } = self.at;
        for place in &mut self.simple_keys {
            let stale = place.take_if(|key| key.line != line || index - key.index > MAX_KEY_CHARS);
            forbid_required(stale)?;
        }
        Ok(())
    }

    fn save_simple_key(&mut self) -> Result<(), Fault> {
        if self.allow_simple_key {
            let key = SimpleKey {
                token: self.taken + self.tokens.len(),
                required: !self.in_flow() && self.indent == self.at.column,
                index: self.at.index,
                line: self.at.line,
                column: self.at.column,
            };
            self.remove_simple_key()?;
            if let Some(place) = self.simple_keys.last_mut() {
                *place = Some(key);
            }
        }
        Ok(())
    }

    fn take_simple_key(&mut self) -> Option<SimpleKey> {
        self.simple_keys.last_mut().and_then(Option::take)
    }

    fn remove_simple_key(&mut self) -> Result<(), Fault> {
        forbid_required(self.take_simple_key())
    }

    fn unwind_indent(&mut self, column: isize) {
        if self.in_flow() {
            return;
        }
        while self.indent > column {
            self.indent = self.indents.pop().unwrap_or(-1);
            self.push(TokenBody::BlockEnd);
        }
    }

    fn add_indent(&mut self, column: isize) -> Result<bool, Fault> {
        if self.indent >= column {
            return Ok(false);
        }
        if self.indents.len() >= self.max_depth {
            return Err(Fault::too_deep(self.at.line));
        }
        self.indents.push(self.indent);
        self.indent = column;
        Ok(true)
    }

    fn push(&mut self, body: TokenBody<'a>) {
        self.tokens.push_back(Token { line: self.at.line, body });
    }

    fn push_indicator(&mut self, body: TokenBody<'a>) {
        self.push(body);
        self.at.bump();
    }

    fn push_scalar(&mut self, line: usize, text: Cow<'a, str>, style: Style) {
        self.tokens.push_back(Token { line, body: TokenBody::Scalar { text, style } });
    }

    fn fetch_stream_end(&mut self) -> Result<(), Fault> {
        self.unwind_indent(-1);
        self.remove_simple_key()?;
        self.simple_keys.fill_with(|| None);
        self.push(TokenBody::StreamEnd);
        self.done = true;
        Ok(())
    }

    /// Only `%YAML 1.x` is let through; `%TAG` belongs to tags, and others do nothing.
    fn fetch_directive(&mut self) -> Result<(), Fault> {
        self.unwind_indent(-1);
        self.remove_simple_key()?;
        self.allow_simple_key = false;
        self.push(TokenBody::Directive);
        let line = self.at.line;
        let directive = self.at.take(is_break).trim_end_matches(' ');
        let version = directive.strip_prefix("%YAML ").map(|rest| rest.trim_start_matches(' '));
        match version.and_then(|version| version.strip_prefix("1.")).map(str::as_bytes) {
            Some([b'0'..=b'9']) => Ok(()),
            _ => Err(Fault::at(
                line,
                "yaml_directive",
                "a line that starts with `%` is a YAML directive",
                "remove the line, or put the value in quotes",
            )),
        }
    }

    fn fetch_document_mark(&mut self, body: TokenBody<'a>) -> Result<(), Fault> {
        self.unwind_indent(-1);
        self.remove_simple_key()?;
        self.allow_simple_key = false;
        self.push(body);
        self.at.skip(3);
        Ok(())
    }

    fn fetch_flow_start(&mut self, body: TokenBody<'a>) -> Result<(), Fault> {
        self.save_simple_key()?;
        if self.simple_keys.len() > self.max_depth {
            return Err(Fault::too_deep(self.at.line));
        }
        self.simple_keys.push(None);
        self.allow_simple_key = true;
        self.push_indicator(body);
        Ok(())
    }

    fn fetch_flow_end(&mut self, body: TokenBody<'a>) -> Result<(), Fault> {
        self.remove_simple_key()?;
        // PyYAML goes on with a flow level of -1, and its parser then refuses the token.
        if !self.in_flow() {
            return Err(Fault::syntax(
                self.at.line,
                "a closing bracket has no opening one",
                "put the value in quotes if the bracket belongs to it",
            ));
        }
        self.simple_keys.pop();
        self.allow_simple_key = false;
        self.push_indicator(body);
        Ok(())
    }

    fn fetch_flow_entry(&mut self) -> Result<(), Fault> {
        self.allow_simple_key = true;
        self.remove_simple_key()?;
        self.push_indicator(TokenBody::FlowEntry);
        Ok(())
    }

    /// Opens a block collection here, if one can stand here and none is open yet.
    fn start_block(
        &mut self,
        start: TokenBody<'a>,
        what: &'static str,
        instead: &'static str,
    ) -> Result<(), Fault> {
        if self.in_flow() {
            return Ok(());
        }
        if !self.allow_simple_key {
            return Err(Fault::syntax(self.at.line, what, instead));
        }
        if self.add_indent(self.at.column)? {
            self.push(start);
        }
        Ok(())
    }

    fn fetch_block_entry(&mut self) -> Result<(), Fault> {
        self.start_block(
            TokenBody::BlockSequenceStart,
            "a `- ` list item starts where none can",
            "start the list on a line of its own",
        )?;
        self.allow_simple_key = true;
        self.remove_simple_key()?;
        self.push_indicator(TokenBody::BlockEntry);
        Ok(())
    }

    fn fetch_key(&mut self) -> Result<(), Fault> {
        self.start_block(
            TokenBody::BlockMappingStart,
            "a `? ` key starts where none can",
            "put the value in quotes if the question mark belongs to it",
        )?;
        self.allow_simple_key = !self.in_flow();
        self.remove_simple_key()?;
        self.push_indicator(TokenBody::Key);
        Ok(())
    }

    fn fetch_value(&mut self) -> Result<(), Fault> {
        if let Some(key) = self.take_simple_key() {
            let place = key.token - self.taken;
            self.tokens.insert(place, Token { line: key.line, body: TokenBody::Key });
            if !self.in_flow() && self.add_indent(key.column)? {
                let start = Token { line: key.line, body: TokenBody::BlockMappingStart };
                self.tokens.insert(place, start);
            }
            self.allow_simple_key = false;
        } else {
            self.start_block(
                TokenBody::BlockMappingStart,
                "a second `: ` stands inside a value",
                "put the value in quotes",
            )?;
            self.allow_simple_key = !self.in_flow();
            self.remove_simple_key()?;
        }
        self.push_indicator(TokenBody::Value);
        Ok(())
    }

    fn fetch_anchor(&mut self, indicator: char) -> Result<(), Fault> {
        self.save_simple_key()?;
        self.allow_simple_key = false;
        let line = self.at.line;
        self.at.bump();
        let name = self.at.take(|c| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_')));
        let after = self.at.peek();
        if name.is_empty() || !(is_blank(after) || "?:,]}%@`".contains(after)) {
            return Err(Fault::syntax(
                line,
                "a value starts with `*` or `&`, which YAML takes for an alias or an anchor",
                "put the value in quotes",
            ));
        }
        let body = if indicator == '*' { TokenBody::Alias(name) } else { TokenBody::Anchor(name) };
        self.tokens.push_back(Token { line, body });
        Ok(())
    }

    /// The name is judged later: none that is accepted holds what `scan_tag` stumbles over.
    fn fetch_tag(&mut self) -> Result<(), Fault> {
        self.save_simple_key()?;
        self.allow_simple_key = false;
        let line = self.at.line;
        self.at.bump();
        let name = self.at.take(is_blank);
        // Unlike elsewhere a tab does not end the token.
        if self.at.peek() == '\t' {
            return Err(Fault::tag(line));
        }
        self.tokens.push_back(Token { line, body: TokenBody::Tag(name) });
        Ok(())
    }

    fn fetch_block(&mut self, folded: bool) -> Result<(), Fault> {
        self.allow_simple_key = true;
        self.remove_simple_key()?;
        let line = self.at.line;
        let text = text::block(&mut self.at, self.indent, folded)?;
        let style = if folded { Style::Folded } else { Style::Literal };
        self.push_scalar(line, Cow::Owned(text), style);
        Ok(())
    }

    fn fetch_quoted(&mut self, quote: char) -> Result<(), Fault> {
        self.save_simple_key()?;
        self.allow_simple_key = false;
        let line = self.at.line;
        let text = text::quoted(&mut self.at, quote)?;
        self.push_scalar(line, Cow::Owned(text), Style::Quoted);
        Ok(())
    }

    fn fetch_plain(&mut self) -> Result<(), Fault> {
        self.save_simple_key()?;
        let line = self.at.line;
        let in_flow = self.in_flow();
        let (text, on_new_line) = text::plain(&mut self.at, self.indent, in_flow);
        self.allow_simple_key = on_new_line;
        self.push_scalar(line, text, Style::Plain);
        Ok(())
    }
}

/// `check_plain`
fn starts_plain(c: char, next: char, block: bool) -> bool {
    !(is_blank(c) || "-?:,[]{}#&*!|>'\"%@`".contains(c))
        || (!is_blank(next) && (c == '-' || (block && matches!(c, '?' | ':'))))
}

fn forbid_required(key: Option<SimpleKey>) -> Result<(), Fault> {
    match key {
        Some(key) if key.required => Err(Fault::syntax(
            key.line,
            "this line is neither `key: value` nor a list item",
            "add the missing `:`, or indent the line under its key",
        )),
        _ => Ok(()),
    }
}

fn no_token(line: usize, c: char) -> Fault {
    if c == '\t' {
        return Fault::at(
            line,
            "yaml_tab",
            "a tab stands where YAML allows only spaces",
            "use spaces for indentation and after `:` and `-`",
        );
    }
    Fault::syntax(
        line,
        "a value starts with a character that YAML reserves",
        "put the value in quotes",
    )
}

fn end_of_tokens(line: usize) -> Fault {
    Fault::syntax(line, "the text ends too early", "complete it")
}
