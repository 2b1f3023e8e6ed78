//! Reads YAML the way cloud-init on the node will: with `PyYAML`'s safe loader, YAML 1.1.
//!
//! Only the verdict and the shape are kept; nothing is converted. tests/it/content.rs holds the
//! verdicts against those of the real `PyYAML`.

mod compose;
mod construct;
mod cursor;
mod node;
mod scalar;
mod scanner;
mod text;

pub use node::{Body, Document, NodeId};
pub use scalar::Kind;
pub use scanner::Style;

/// After this many problems the rest of the text is not looked at.
pub const MAX_FAULTS: usize = 50;

/// Which tags pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tags {
    Refused,
    /// Those the safe loader can build from what they stand on; `!!binary` is in cloud-init's own
    /// examples.
    Safe,
}

/// One reason why a text is not the YAML its author meant; the caller knows what cloud-init will
/// do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub code: &'static str,
    pub line: usize,
    pub what: &'static str,
    pub instead: &'static str,
}

impl Fault {
    fn at(line: usize, code: &'static str, what: &'static str, instead: &'static str) -> Self {
        Self { code, line, what, instead }
    }

    fn syntax(line: usize, what: &'static str, instead: &'static str) -> Self {
        Self::at(line, "yaml_syntax", what, instead)
    }

    fn tag(line: usize) -> Self {
        let instead = "remove the tag, or put the value in quotes";
        Self::at(line, "yaml_tag", "a value carries a `!` tag", instead)
    }

    fn too_deep(line: usize) -> Self {
        Self::at(line, "yaml_depth", "lists and maps nest more than 32 deep", "flatten them")
    }
}

/// Reads one document, with its faults in the order of their lines.
pub fn read(text: &str, tags: Tags) -> Document<'_> {
    // PyYAML's reader looks at every character before its scanner sees one (check_printable).
    if let Some(document) = unprintable(text) {
        return document;
    }
    let mut document = compose::compose(text, tags);
    document.faults.sort_by_key(|fault| fault.line);
    document
}

fn unprintable(text: &str) -> Option<Document<'_>> {
    let refused = |line: &str| line.contains(|c| !is_printable(c));
    if !refused(text) {
        return None;
    }
    let fault = |line| {
        Fault::at(
            line,
            "yaml_unprintable",
            "the line holds a control character, which YAML forbids",
            "remove it, or write it as an escape in double quotes",
        )
    };
    let lines = text.split('\n').zip(1..).filter(|(text, _)| refused(text));
    let mut document = Document::default();
    document.faults.extend(lines.take(MAX_FAULTS).map(|(_, line)| fault(line)));
    Some(document)
}

/// reader.py, `NON_PRINTABLE`
fn is_printable(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | ' '..='~' | '\u{85}' | '\u{a0}'..='\u{fffd}' | '\u{10000}'..)
}
