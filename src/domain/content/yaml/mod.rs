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

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> Vec<(&'static str, usize)> {
        let document = read(text, Tags::Safe);
        assert_eq!(document.root.is_none(), document.faults.iter().any(|f| f.code != "yaml_value"));
        document.faults.iter().map(|fault| (fault.code, fault.line)).collect()
    }

    #[test]
    fn what_pyyaml_refuses_and_newer_readers_take_is_refused() {
        assert_eq!(faults("a:\tb"), [("yaml_tab", 1)]);
        assert_eq!(faults("a: @b"), [("yaml_syntax", 1)]);
        assert_eq!(faults("a: \"\\ud83d\\ude00\""), [("yaml_surrogate", 1)]);
        assert_eq!(faults("a: x\nb: ="), [("yaml_value", 2)]);
        assert_eq!(faults(&format!("{}: v", "k".repeat(1025))), [("yaml_syntax", 1)]);
    }

    #[test]
    fn nesting_is_bounded() {
        let nested = |depth| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert_eq!(faults(&nested(32)), []);
        assert_eq!(faults(&nested(33)), [("yaml_depth", 1)]);
        assert_eq!(faults(&"- ".repeat(100_000)), [("yaml_depth", 1)]);
        assert_eq!(faults(&"[".repeat(100_000)), [("yaml_depth", 1)]);
        assert_eq!(faults(&"[a: ".repeat(100_000)), [("yaml_depth", 1)]);
    }

    #[test]
    fn the_billion_laughs_are_refused() {
        let levels = (1..30).map(|level| {
            let nine = vec![format!("*a{}", level - 1); 9].join(", ");
            format!("a{level}: &a{level} [{nine}]\n")
        });
        let text: String = std::iter::once("a0: &a0 [lol]\n".to_owned()).chain(levels).collect();
        let found = faults(&text);
        assert_eq!((found.len(), found[0].0), (1, "yaml_alias_expansion"));
        let long = "x".repeat(1 << 20);
        assert_eq!(faults(&format!("a: &a {long}\nb: *a")), [("yaml_alias_expansion", 2)]);
    }

    #[test]
    fn so_many_values_that_a_boot_would_wait_for_them_are_refused() {
        assert_eq!(faults(&"- a\n".repeat(99_000)), []);
        assert_eq!(faults(&"- a\n".repeat(101_000)), [("yaml_size", 100_001)]);
    }
}
