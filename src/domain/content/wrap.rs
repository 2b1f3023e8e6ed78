//! Writes vendor-data as a YAML map with the key `cloud-init`, so that `PyYAML` reads back exactly
//! the text that was given.

use std::fmt::Write as _;

const INDENT: &str = "  ";

/// `cloud-init: |` and the text, indented.
pub fn text(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + text.len() / 16 + 32);
    out.push_str("cloud-init: ");
    scalar(&mut out, text);
    out
}

/// The same with a list of texts.
pub fn list<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    let mut out = String::from("cloud-init:\n");
    for text in texts {
        out.push_str("- ");
        scalar(&mut out, text);
    }
    out
}

fn scalar(out: &mut String, text: &str) {
    if fits_block(text) {
        block(out, text);
    } else {
        quoted(out, text);
    }
}

/// What a literal block returns unchanged: no line breaks but `\n` (`PyYAML` turns `\r\n` and NEL
/// into it), nothing its reader refuses, and something to see on some line.
fn fits_block(text: &str) -> bool {
    let carried = |c| matches!(c, '\t' | '\n' | ' '..='~' | '\u{a0}'..='\u{fffd}' | '\u{10000}'..);
    let special = |c| matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}');
    text.chars().all(|c| carried(c) && !special(c)) && text.contains(|c| !matches!(c, ' ' | '\n'))
}

fn block(out: &mut String, text: &str) {
    out.push('|');
    // Where the first text is indented itself, its depth must be told, or it is taken for ours.
    let before = text.find(|c| !matches!(c, ' ' | '\n')).unwrap_or(text.len());
    if text[..before].contains(' ') {
        let _ = write!(out, "{}", INDENT.len());
    }
    let body = text.trim_end_matches('\n');
    out.push_str(match text.len() - body.len() {
        0 => "-",
        1 => "",
        _ => "+",
    });
    out.push('\n');
    for line in body.split('\n') {
        if !line.is_empty() {
            out.push_str(INDENT);
            out.push_str(line);
        }
        out.push('\n');
    }
    for _ in body.len() + 1..text.len() {
        out.push('\n');
    }
}

/// Double quotes, with an escape for all that is not plainly printable.
fn quoted(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            ' '..='~' => out.push(c),
            '\u{a1}'..='\u{d7ff}' | '\u{e000}'..='\u{fdff}' | '\u{10000}'..
                if !matches!(c, '\u{2028}' | '\u{2029}') =>
            {
                out.push(c);
            }
            _ => {
                let code = u32::from(c);
                let _ = if code < 0x100 {
                    write!(out, "\\x{code:02x}")
                } else {
                    write!(out, "\\u{code:04x}")
                };
            }
        }
    }
    out.push_str("\"\n");
}

#[cfg(test)]
mod tests {
    use super::super::yaml::{self, Body, Tags};
    use super::*;
    use proptest::prelude::*;

    /// The text our own reader finds under `cloud-init`; tests/it/content.rs asks `PyYAML`.
    fn read_back(document: &str) -> Vec<String> {
        let document = yaml::read(document, Tags::Refused);
        assert_eq!(document.faults, []);
        let Body::Mapping(entries) = &document.node(document.root.unwrap()).body else { panic!() };
        let string = |id| match &document.node(id).body {
            Body::Scalar { text, .. } => text.to_string(),
            _ => panic!("not a string"),
        };
        match &document.node(entries[0].1).body {
            Body::Sequence(items) => items.iter().map(|id| string(*id)).collect(),
            _ => vec![string(entries[0].1)],
        }
    }

    #[test]
    fn a_plain_cloud_config_becomes_a_literal_block() {
        assert_eq!(
            text("#cloud-config\npackages:\n- tmux\n\nruncmd: []\n"),
            "cloud-init: |\n  #cloud-config\n  packages:\n  - tmux\n\n  runcmd: []\n"
        );
    }

    #[test]
    fn the_end_of_the_text_chooses_the_chomping() {
        assert_eq!(text("a"), "cloud-init: |-\n  a\n");
        assert_eq!(text("a\n\n"), "cloud-init: |+\n  a\n\n");
        assert_eq!(text("a\n  "), "cloud-init: |-\n  a\n    \n");
    }

    #[test]
    fn a_first_line_that_is_indented_tells_its_depth() {
        assert_eq!(text("\n  a\nb\n"), "cloud-init: |2\n\n    a\n  b\n");
    }

    #[test]
    fn what_a_block_would_change_is_quoted() {
        assert_eq!(text("a\r\nb\r\n"), "cloud-init: \"a\\r\\nb\\r\\n\"\n");
        assert_eq!(text("\u{7f}\u{85}\u{2028}\u{feff}"), {
            "cloud-init: \"\\x7f\\x85\\u2028\\ufeff\"\n"
        });
    }

    proptest! {
        #[test]
        fn every_text_reads_back_as_it_was(
            given in "[ -~\t\r\n\u{85}\u{a0}\u{2028}\u{feff}é😀\u{0}\u{7f}]{0,40}",
        ) {
            prop_assert_eq!(read_back(&text(&given)), vec![given.clone()]);
            let two = list([given.as_str(), "x\n"]);
            prop_assert_eq!(read_back(&two), vec![given, "x\n".to_owned()]);
        }

        #[test]
        fn layouts_read_back_as_they_were(given in "[ \n\ta#:-]{0,12}") {
            prop_assert_eq!(read_back(&text(&given)), vec![given]);
        }
    }
}
