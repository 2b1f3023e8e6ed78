//! What `PyYAML`'s constructor.py would refuse to build: values, tags, keys and merges.

use std::borrow::Cow;
use std::collections::HashSet;

use super::node::{Body, Document, NodeId};
use super::scalar::{self, Kind};
use super::scanner::Style;
use super::{Fault, MAX_FAULTS, Tags};

/// What stands before a node.
#[derive(Debug, Clone, Copy, Default)]
pub struct Properties<'a> {
    pub anchor: Option<&'a str>,
    /// Without its first `!`.
    pub tag: Option<&'a str>,
}

pub struct Constructor<'a> {
    pub document: Document<'a>,
    tags: Tags,
}

impl<'a> Constructor<'a> {
    pub fn new(tags: Tags) -> Self {
        Self { document: Document::default(), tags }
    }

    pub fn scalar(
        &mut self,
        line: usize,
        text: Cow<'a, str>,
        style: Style,
        properties: Properties,
    ) -> Result<NodeId, Fault> {
        let kind = match properties.tag {
            None if style == Style::Plain => buildable(&text),
            None => Some(Kind::Str),
            Some(tag) => self.tagged(tag, &text, line)?,
        };
        if kind.is_none() {
            self.fault(Fault::at(
                line,
                "yaml_value",
                "a value looks like a number or a date and cannot be one",
                "put the value in quotes",
            ))?;
        }
        self.document.add(line, Body::Scalar { text, kind: kind.unwrap_or(Kind::Str), style })
    }

    /// The tags that `SafeConstructor` puts on scalars, and `!`, which asks for the type the bare
    /// text would have. `None` where the tag does not fit the text.
    fn tagged(&mut self, tag: &str, text: &str, line: usize) -> Result<Option<Kind>, Fault> {
        let bare = buildable(text);
        let kind = match tag {
            "" => bare,
            "!str" => Some(Kind::Str),
            "!null" => Some(Kind::Null),
            "!bool" => bare.filter(|kind| *kind == Kind::Bool),
            "!int" => bare.filter(|kind| *kind == Kind::Int),
            "!float" if text.parse::<f64>().is_ok() => Some(Kind::Float),
            "!float" => bare.filter(|kind| *kind == Kind::Float),
            "!timestamp" => bare.filter(|kind| *kind == Kind::Timestamp),
            "!binary" => is_base64(text).then_some(Kind::Str),
            _ => {
                self.fault(Fault::tag(line))?;
                return Ok(Some(Kind::Str));
            }
        };
        if self.tags == Tags::Refused {
            self.fault(Fault::tag(line))?;
        }
        Ok(kind)
    }

    fn tagged_collection(
        &mut self,
        properties: Properties,
        own: &str,
        line: usize,
    ) -> Result<(), Fault> {
        match properties.tag {
            None => Ok(()),
            Some(tag) if self.tags == Tags::Safe && (tag.is_empty() || tag == own) => Ok(()),
            Some(_) => self.fault(Fault::tag(line)),
        }
    }

    pub fn sequence(
        &mut self,
        line: usize,
        items: Vec<NodeId>,
        properties: Properties,
    ) -> Result<NodeId, Fault> {
        self.tagged_collection(properties, "!seq", line)?;
        for item in &items {
            self.forbid_special(*item)?;
        }
        self.document.add(line, Body::Sequence(items))
    }

    /// `construct_mapping` and `flatten_mapping`.
    pub fn mapping(
        &mut self,
        line: usize,
        entries: Vec<(NodeId, NodeId)>,
        properties: Properties,
    ) -> Result<NodeId, Fault> {
        self.tagged_collection(properties, "!map", line)?;
        for fault in self.key_faults(&entries) {
            self.fault(fault)?;
        }
        for (_, value) in &entries {
            self.forbid_special(*value)?;
        }
        self.document.add(line, Body::Mapping(entries))
    }

    /// `PyYAML` takes the last of equal keys and says nothing; the earlier ones are lost, so that
    /// is a fault here.
    fn key_faults(&self, entries: &[(NodeId, NodeId)]) -> Vec<Fault> {
        let mut faults = Vec::new();
        let mut seen = HashSet::with_capacity(entries.len());
        for (key, value) in entries {
            let node = self.document.node(*key);
            match &node.body {
                Body::Sequence(_) | Body::Mapping(_) => faults.push(Fault::at(
                    node.line,
                    "yaml_key",
                    "a map has a list or a map as a key, as `{{ … }}` outside a template does",
                    "put the key in quotes",
                )),
                Body::Scalar { kind: Kind::Merge, .. } if self.is_mergeable(*value) => {}
                Body::Scalar { kind: Kind::Merge, .. } => faults.push(Fault::at(
                    node.line,
                    "yaml_merge",
                    "the merge key `<<` is given something other than a map or a list of maps",
                    "give it an alias of a map, or put it in quotes",
                )),
                Body::Scalar { text, kind, .. } if !seen.insert((*kind, text)) => {
                    faults.push(Fault::at(
                        node.line,
                        "yaml_duplicate_key",
                        "a map has the same key twice, and only the last one would count",
                        "join the two",
                    ));
                }
                Body::Scalar { .. } => {}
            }
        }
        faults
    }

    fn is_mergeable(&self, value: NodeId) -> bool {
        let is_map = |id: &NodeId| matches!(self.document.node(*id).body, Body::Mapping(_));
        match &self.document.node(value).body {
            Body::Mapping(_) => true,
            Body::Sequence(items) => items.iter().all(is_map),
            Body::Scalar { .. } => false,
        }
    }

    /// A plain `<<` or `=` is a merge or a default value; outside a key nothing builds it.
    pub fn forbid_special(&mut self, id: NodeId) -> Result<(), Fault> {
        let node = self.document.node(id);
        let Body::Scalar { kind: Kind::Merge | Kind::Value, .. } = node.body else {
            return Ok(());
        };
        self.fault(Fault::at(
            node.line,
            "yaml_value",
            "a value is a bare `=` or `<<`, which has a meaning of its own",
            "put it in quotes",
        ))
    }

    /// Notes a fault and goes on, until there are too many.
    fn fault(&mut self, fault: Fault) -> Result<(), Fault> {
        if self.document.faults.len() + 1 >= MAX_FAULTS {
            return Err(fault);
        }
        self.document.faults.push(fault);
        Ok(())
    }
}

fn buildable(text: &str) -> Option<Kind> {
    let (kind, buildable) = scalar::resolve(text);
    buildable.then_some(kind)
}

/// Whether `base64.decodebytes` takes it: it passes over what is not base64, stops at the padding,
/// and wants whole groups of four.
fn is_base64(text: &str) -> bool {
    let mut digits = 0;
    let mut pads = 0;
    for byte in text.bytes() {
        match byte {
            b'=' => {
                pads += 1;
                if digits % 4 >= 2 && digits % 4 + pads >= 4 {
                    return text.is_ascii();
                }
            }
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'+' | b'/' => {
                digits += 1;
                pads = 0;
            }
            _ => {}
        }
    }
    text.is_ascii() && digits % 4 == 0
}
