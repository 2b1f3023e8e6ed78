//! Puts tokens together into nodes, by the grammar at the head of `PyYAML`'s parser.py, and binds
//! aliases as its composer.py does.

use std::borrow::Cow;
use std::collections::HashMap;

use super::construct::{Constructor, Properties};
use super::node::{Document, NodeId};
use super::scanner::{Scanner, Style, TokenBody};
use super::{Fault, Tags};

/// Enough for any cloud-config, and far from Python's recursion limit.
const MAX_DEPTH: usize = 32;

/// Bytes that aliases may add when they are written out, as cloud-init does when it stores the
/// merged config (`NoAliasSafeDumper`): the billion laughs end here.
const ALIAS_BUDGET: u64 = 1 << 20;

/// Reads one document; `text` holds printable characters only. A byte-order mark at its start is
/// skipped, as `PyYAML` does.
pub fn compose(text: &str, tags: Tags) -> Document<'_> {
    let mut composer = Composer {
        scanner: Scanner::new(text, MAX_DEPTH),
        constructor: Constructor::new(tags),
        anchors: HashMap::new(),
        alias_budget: ALIAS_BUDGET,
    };
    let root = composer.stream();
    let mut document = composer.constructor.document;
    match root {
        Ok(root) => document.root = root,
        Err(fault) => document.faults.push(fault),
    }
    document
}

struct Composer<'a> {
    scanner: Scanner<'a>,
    constructor: Constructor<'a>,
    /// `None` while the node is being built.
    anchors: HashMap<&'a str, Option<NodeId>>,
    alias_budget: u64,
}

/// Where a node stands, which decides what it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Flow,
    Block,
    /// After a key, where a list needs no deeper indentation.
    BlockValue,
}

/// A collection that has been opened: how deep its items are, and what stood before it.
#[derive(Clone, Copy)]
struct Opened<'a> {
    depth: usize,
    line: usize,
    properties: Properties<'a>,
}

impl<'a> Composer<'a> {
    fn stream(&mut self) -> Result<Option<NodeId>, Fault> {
        if self.at(&TokenBody::StreamEnd)? {
            return Ok(None);
        }
        let directive = self.eat(&TokenBody::Directive)?;
        let line = self.line()?;
        let root = if self.eat(&TokenBody::DocumentStart)? {
            match self.scanner.peek_token()?.body {
                TokenBody::DocumentEnd | TokenBody::StreamEnd => self.empty(line)?,
                TokenBody::Directive | TokenBody::DocumentStart => {
                    return Err(many_documents(line));
                }
                _ => self.node(Place::Block, 0)?,
            }
        } else if directive {
            return Err(Fault::syntax(
                line,
                "`%YAML` wants `---` after it",
                "remove the directive",
            ));
        } else {
            self.node(Place::Block, 0)?
        };
        self.constructor.forbid_special(root)?;
        while self.eat(&TokenBody::DocumentEnd)? {}
        let token = self.scanner.peek_token()?;
        match token.body {
            TokenBody::StreamEnd => Ok(Some(root)),
            TokenBody::DocumentStart | TokenBody::Directive => Err(many_documents(token.line)),
            _ => Err(Fault::syntax(
                token.line,
                "the text goes on after its only value has ended",
                "check the indentation, and quote values that hold `: ` or brackets",
            )),
        }
    }

    fn node(&mut self, place: Place, depth: usize) -> Result<NodeId, Fault> {
        let line = self.line()?;
        if depth > MAX_DEPTH {
            return Err(Fault::too_deep(line));
        }
        if let TokenBody::Alias(name) = self.scanner.peek_token()?.body {
            self.scanner.next_token()?;
            return self.alias(name, line);
        }
        let properties = self.properties()?;
        let Some(name) = properties.anchor else {
            return self.content(place, Opened { depth: depth + 1, line, properties });
        };
        if self.anchors.insert(name, None).is_some() {
            return Err(Fault::at(
                line,
                "yaml_duplicate_anchor",
                "an anchor has the name of an earlier one",
                "give each `&` anchor its own name",
            ));
        }
        let id = self.content(place, Opened { depth: depth + 1, line, properties })?;
        self.anchors.insert(name, Some(id));
        Ok(id)
    }

    fn alias(&mut self, name: &str, line: usize) -> Result<NodeId, Fault> {
        let id = match self.anchors.get(name) {
            Some(Some(id)) => *id,
            Some(None) => {
                return Err(Fault::at(
                    line,
                    "yaml_recursive_alias",
                    "an alias stands inside the value it names",
                    "write the value out",
                ));
            }
            None => {
                return Err(Fault::at(
                    line,
                    "yaml_undefined_alias",
                    "a value starts with `*`, an alias, and no anchor before it has that name",
                    "put the value in quotes, or define the `&` anchor first",
                ));
            }
        };
        let weight = self.constructor.document.node(id).weight;
        self.alias_budget = self.alias_budget.checked_sub(weight).ok_or_else(|| {
            Fault::at(
                line,
                "yaml_alias_expansion",
                "aliases written out add more than 1 MiB",
                "write the values out",
            )
        })?;
        Ok(id)
    }

    /// At most one anchor and one tag, in either order.
    fn properties(&mut self) -> Result<Properties<'a>, Fault> {
        let mut found = Properties::default();
        loop {
            match self.scanner.peek_token()?.body {
                TokenBody::Anchor(name) if found.anchor.is_none() => found.anchor = Some(name),
                TokenBody::Tag(name) if found.tag.is_none() => found.tag = Some(name),
                _ => return Ok(found),
            }
            self.scanner.next_token()?;
        }
    }

    fn content(&mut self, place: Place, opened: Opened<'a>) -> Result<NodeId, Fault> {
        let Opened { line, properties, .. } = opened;
        let block = place != Place::Flow;
        match &mut self.scanner.peek_token()?.body {
            TokenBody::Scalar { text, style } => {
                let (text, style) = (std::mem::take(text), *style);
                let line = self.scanner.next_token()?.line;
                self.constructor.scalar(line, text, style, properties)
            }
            TokenBody::FlowSequenceStart => self.flow_sequence(opened),
            TokenBody::FlowMappingStart => self.flow_mapping(opened),
            TokenBody::BlockSequenceStart if block => self.block_sequence(opened),
            TokenBody::BlockMappingStart if block => self.block_mapping(opened),
            TokenBody::BlockEntry if place == Place::BlockValue => self.indentless_sequence(opened),
            _ if properties.anchor.is_some() || properties.tag.is_some() => {
                self.constructor.scalar(line, Cow::Borrowed(""), Style::Plain, properties)
            }
            _ => Err(Fault::syntax(
                line,
                "a value is missing, or a bracket or list item stands in its place",
                "complete the line, or put the value in quotes",
            )),
        }
    }

    fn block_sequence(&mut self, opened: Opened<'a>) -> Result<NodeId, Fault> {
        self.scanner.next_token()?;
        let mut items = Vec::new();
        loop {
            let token = self.scanner.next_token()?;
            match token.body {
                TokenBody::BlockEntry => {
                    let empty = self.at_any(&[TokenBody::BlockEntry, TokenBody::BlockEnd])?;
                    items.push(self.item(empty, Place::Block, opened.depth, token.line)?);
                }
                TokenBody::BlockEnd => {
                    return self.constructor.sequence(opened.line, items, opened.properties);
                }
                _ => return Err(bad_indentation(token.line)),
            }
        }
    }

    fn indentless_sequence(&mut self, opened: Opened<'a>) -> Result<NodeId, Fault> {
        let mut items = Vec::new();
        while self.at(&TokenBody::BlockEntry)? {
            let line = self.scanner.next_token()?.line;
            let empty = self.at_any(&[
                TokenBody::BlockEntry,
                TokenBody::Key,
                TokenBody::Value,
                TokenBody::BlockEnd,
            ])?;
            items.push(self.item(empty, Place::Block, opened.depth, line)?);
        }
        self.constructor.sequence(opened.line, items, opened.properties)
    }

    fn block_mapping(&mut self, opened: Opened<'a>) -> Result<NodeId, Fault> {
        const NOTHING: &[TokenBody] = &[TokenBody::Key, TokenBody::Value, TokenBody::BlockEnd];
        self.scanner.next_token()?;
        let mut entries = Vec::new();
        loop {
            let token = self.scanner.next_token()?;
            match token.body {
                TokenBody::Key => {
                    let empty = self.at_any(NOTHING)?;
                    let key = self.item(empty, Place::BlockValue, opened.depth, token.line)?;
                    let empty = !self.eat(&TokenBody::Value)? || self.at_any(NOTHING)?;
                    let value = self.item(empty, Place::BlockValue, opened.depth, token.line)?;
                    entries.push((key, value));
                }
                TokenBody::BlockEnd => {
                    return self.constructor.mapping(opened.line, entries, opened.properties);
                }
                _ => return Err(bad_indentation(token.line)),
            }
        }
    }

    fn flow_sequence(&mut self, opened: Opened<'a>) -> Result<NodeId, Fault> {
        const END: TokenBody = TokenBody::FlowSequenceEnd;
        self.scanner.next_token()?;
        let mut items = Vec::new();
        while !self.eat(&END)? {
            self.comma(items.is_empty(), opened.line)?;
            if self.at(&TokenBody::Key)? {
                // `[a: b]` is a list of one map.
                let line = self.line()?;
                let entry = self.flow_entry(opened.depth + 1, &END)?;
                items.push(self.constructor.mapping(line, vec![entry], Properties::default())?);
            } else if !self.at(&END)? {
                items.push(self.node(Place::Flow, opened.depth)?);
            }
        }
        self.constructor.sequence(opened.line, items, opened.properties)
    }

    fn flow_mapping(&mut self, opened: Opened<'a>) -> Result<NodeId, Fault> {
        const END: TokenBody = TokenBody::FlowMappingEnd;
        self.scanner.next_token()?;
        let mut entries = Vec::new();
        while !self.eat(&END)? {
            self.comma(entries.is_empty(), opened.line)?;
            if self.at(&TokenBody::Key)? {
                entries.push(self.flow_entry(opened.depth, &END)?);
            } else if !self.at(&END)? {
                let key = self.node(Place::Flow, opened.depth)?;
                entries.push((key, self.empty(opened.line)?));
            }
        }
        self.constructor.mapping(opened.line, entries, opened.properties)
    }

    fn comma(&mut self, first: bool, opened: usize) -> Result<(), Fault> {
        if first || self.eat(&TokenBody::FlowEntry)? {
            return Ok(());
        }
        Err(Fault::syntax(
            opened,
            "a bracket opens here, and a comma or its closing bracket is missing",
            "close it, or put the value in quotes",
        ))
    }

    fn flow_entry(&mut self, depth: usize, end: &TokenBody) -> Result<(NodeId, NodeId), Fault> {
        let line = self.scanner.next_token()?.line;
        let empty = self.at(&TokenBody::Value)? || self.at_flow_end(end)?;
        let key = self.item(empty, Place::Flow, depth, line)?;
        let empty = !self.eat(&TokenBody::Value)? || self.at_flow_end(end)?;
        Ok((key, self.item(empty, Place::Flow, depth, line)?))
    }

    fn at_flow_end(&mut self, end: &TokenBody) -> Result<bool, Fault> {
        Ok(self.at(&TokenBody::FlowEntry)? || self.at(end)?)
    }

    fn item(
        &mut self,
        empty: bool,
        place: Place,
        depth: usize,
        line: usize,
    ) -> Result<NodeId, Fault> {
        if empty { self.empty(line) } else { self.node(place, depth) }
    }

    fn empty(&mut self, line: usize) -> Result<NodeId, Fault> {
        self.constructor.scalar(line, Cow::Borrowed(""), Style::Plain, Properties::default())
    }

    fn line(&mut self) -> Result<usize, Fault> {
        Ok(self.scanner.peek_token()?.line)
    }

    fn at(&mut self, body: &TokenBody) -> Result<bool, Fault> {
        Ok(self.scanner.peek_token()?.body == *body)
    }

    fn at_any(&mut self, bodies: &[TokenBody]) -> Result<bool, Fault> {
        Ok(bodies.contains(&self.scanner.peek_token()?.body))
    }

    fn eat(&mut self, body: &TokenBody) -> Result<bool, Fault> {
        let found = self.at(body)?;
        if found {
            self.scanner.next_token()?;
        }
        Ok(found)
    }
}

fn many_documents(line: usize) -> Fault {
    Fault::at(
        line,
        "yaml_documents",
        "a second YAML document starts here, and cloud-init reads only one",
        "remove the `---`, or make each a part of its own",
    )
}

fn bad_indentation(line: usize) -> Fault {
    Fault::syntax(
        line,
        "this line does not fit the indentation of those above it",
        "line it up with its neighbours",
    )
}
