//! Vendor-data: brought into the one form every cloud-init accepts, or refused with all reasons.
//!
//! `DataSourceMAAS.py` loads it as YAML and gives up the whole datasource when that fails or gives
//! nothing; `sources/__init__.py`, `convert_vendordata`, then looks only under `cloud-init`.

use super::part::{self, PartKind};
use super::yaml::{self, Body, Document, Kind, NodeId, Style, Tags};
use super::{Finding, invalid_utf8_line, listed, wrap};

const FATAL: &str = "cloud-init would give up the whole datasource, and the node with it";
const IGNORED: &str = "cloud-init would ignore all of it without a word";
const PLACE_UNDER: &str = "write `cloud-init: |` and the text below it, indented";

/// Vendor-data as it will be served: YAML that every cloud-init (22.4 to 26.2) accepts, or every
/// reason why not.
///
/// A map with a usable `cloud-init` is returned byte for byte; a bare `#cloud-config`, and a bare
/// list or string of parts, are put under that key.
pub fn vendor_data(bytes: &[u8]) -> Result<Vec<u8>, Vec<Finding>> {
    if bytes.is_empty() {
        return Err(vec![Finding::new(
            "vendor_empty",
            None,
            "there are no bytes; to serve no vendor-data, clear it (DELETE) instead",
        )]);
    }
    let text = str::from_utf8(bytes).map_err(|error| {
        let line = invalid_utf8_line(bytes, error);
        let message = format!("the bytes are not UTF-8; {FATAL}; convert the file to UTF-8");
        vec![Finding::new("not_utf8", Some(line), message)]
    })?;
    // PyYAML skips the mark, but a part that starts with it is one that cloud-init cannot name.
    if let Some(body) = text.strip_prefix('\u{feff}') {
        let mut findings = vec![part::byte_order_mark(1)];
        findings.extend(served(body).err().unwrap_or_default());
        return Err(listed(findings));
    }
    match served(text) {
        Ok(wrapped) => Ok(wrapped.map_or_else(|| bytes.to_vec(), String::into_bytes)),
        Err(findings) => Err(listed(findings)),
    }
}

/// `None` when the text is served as it is.
fn served(text: &str) -> Result<Option<String>, Vec<Finding>> {
    if part::is_blank(text) {
        return refuse(
            "vendor_blank",
            1,
            format!("there is only white space; {FATAL}; clear it instead"),
        );
    }
    let document = yaml::read(text, Tags::Refused);
    let root = document.root.map(|root| &document.node(root).body);
    let under_key = match root {
        Some(Body::Mapping(entries)) => {
            entries.iter().find(|(key, _)| is_cloud_init(&document, *key))
        }
        _ => None,
    };
    match (under_key, part::recognise(text)) {
        (Some((_, value)), _) => {
            fatal_faults(&document)?;
            parts(&document, *value, Explicit::Yes).map(|_| None)
        }
        (
            None,
            Some(
                kind @ (PartKind::CloudConfig
                | PartKind::CloudConfigArchive
                | PartKind::CloudConfigJsonp),
            ),
        ) => bare(kind, text, &document),
        (None, Some(_)) => refuse(
            "vendor_bare_part",
            1,
            format!(
                "cloud-init reads vendor-data as YAML, where this first line is a comment; \
                 {PLACE_UNDER}"
            ),
        ),
        (None, None) => {
            fatal_faults(&document)?;
            without_key(&document)
        }
    }
}

/// A part given without the map around it: the same text read as YAML, but for a JSON patch.
fn bare(kind: PartKind, text: &str, document: &Document) -> Result<Option<String>, Vec<Finding>> {
    let findings = match kind {
        PartKind::CloudConfigJsonp => part::json_patch(text, 1),
        _ if !document.faults.is_empty() => part::faults(document, 1, FATAL),
        _ if document.root.is_none() => return only_comments(),
        PartKind::CloudConfigArchive => part::archive(document, 1),
        _ => part::cloud_config(document, 1),
    };
    if findings.is_empty() { Ok(Some(wrap::text(text))) } else { Err(findings) }
}

/// A document without the key `cloud-init`: a list or a string of parts can be put under it.
fn without_key(document: &Document) -> Result<Option<String>, Vec<Finding>> {
    let Some(root) = document.root else {
        return only_comments();
    };
    let node = document.node(root);
    match &node.body {
        body if part::is_null(body) => refuse(
            "vendor_null",
            node.line,
            format!("the YAML holds nothing; {FATAL}; clear it instead"),
        ),
        Body::Mapping(_) => refuse(
            "vendor_no_key",
            node.line,
            format!("the map has no key `cloud-init`; {IGNORED}; {PLACE_UNDER}"),
        ),
        Body::Sequence(_) => {
            parts(document, root, Explicit::No).map(|texts| Some(wrap::list(texts)))
        }
        Body::Scalar { .. } => parts(document, root, Explicit::No)
            .map(|texts| texts.first().map(|text| wrap::text(text))),
    }
}

/// Whether the text stands under `cloud-init`. There it may be anything; elsewhere any text file
/// at all reads as a YAML string, so it must be something that cloud-init knows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Explicit {
    Yes,
    No,
}

/// The texts of one string, or of a list of strings, with every problem of each.
fn parts<'d>(
    document: &'d Document,
    value: NodeId,
    explicit: Explicit,
) -> Result<Vec<&'d str>, Vec<Finding>> {
    let line = document.node(value).line;
    let values = match &document.node(value).body {
        Body::Sequence(items) if items.is_empty() => {
            return refuse(
                "vendor_no_parts",
                line,
                format!("the list has no parts; {IGNORED}; clear it instead"),
            );
        }
        Body::Sequence(items) => items.clone(),
        Body::Mapping(_) => {
            return refuse(
                "vendor_map",
                line,
                format!(
                    "`cloud-init` holds a map; cloud-init would log a warning and ignore it; \
                     {PLACE_UNDER}"
                ),
            );
        }
        Body::Scalar { .. } => vec![value],
    };
    let mut texts = Vec::with_capacity(values.len());
    let mut findings = Vec::new();
    for value in values {
        match text_of(document, value, explicit) {
            Ok(text) => texts.push(text),
            Err(found) => findings.extend(found),
        }
    }
    if findings.is_empty() { Ok(texts) } else { Err(findings) }
}

fn text_of<'d>(
    document: &'d Document,
    value: NodeId,
    explicit: Explicit,
) -> Result<&'d str, Vec<Finding>> {
    let node = document.node(value);
    let Body::Scalar { text, kind: Kind::Str, style } = &node.body else {
        // convert_string has no answer to a number or a map: it raises, and init stops.
        return refuse(
            "vendor_not_text",
            node.line,
            "a part is not text; cloud-init would stop with an exception or ignore it; put it in \
             quotes, or write it as a block with `|`",
        );
    };
    if part::is_blank(text) {
        return refuse(
            "vendor_part_blank",
            node.line,
            format!("a part has no text; {IGNORED}; remove it"),
        );
    }
    if text.starts_with('\u{feff}') {
        return Err(vec![part::byte_order_mark(node.line)]);
    }
    // Only a literal block keeps its lines; elsewhere the finding names the line it starts on.
    let literal = *style == Style::Literal;
    let first_line = if literal { node.line + 1 } else { node.line };
    let mut findings = match part::recognise(text) {
        Some(kind) => part::check(kind, text, first_line, Tags::Refused),
        None if explicit == Explicit::Yes || part::is_mime(text.as_bytes()) => Vec::new(),
        None => {
            return refuse(
                "vendor_part_unknown",
                node.line,
                format!(
                    "a part has no first line that cloud-init knows, such as `#cloud-config` or \
                     `#!`; {IGNORED}; add that line"
                ),
            );
        }
    };
    if !literal {
        for finding in &mut findings {
            finding.line = finding.line.map(|_| node.line);
        }
    }
    if findings.is_empty() { Ok(text) } else { Err(findings) }
}

fn is_cloud_init(document: &Document, key: NodeId) -> bool {
    match &document.node(key).body {
        Body::Scalar { text, kind: Kind::Str, .. } => text == "cloud-init",
        _ => false,
    }
}

fn fatal_faults(document: &Document) -> Result<(), Vec<Finding>> {
    if document.faults.is_empty() { Ok(()) } else { Err(part::faults(document, 1, FATAL)) }
}

fn only_comments<T>() -> Result<T, Vec<Finding>> {
    refuse(
        "vendor_only_comments",
        1,
        format!("there are only comments; {FATAL}; add the keys to apply, or clear it instead"),
    )
}

fn refuse<T>(
    code: &'static str,
    line: usize,
    message: impl Into<String>,
) -> Result<T, Vec<Finding>> {
    Err(vec![Finding::new(code, Some(line), message)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn kept(text: &str) {
        assert_eq!(vendor_data(text.as_bytes()), Ok(text.as_bytes().to_vec()), "{text:?}");
    }

    fn served_as(text: &str, expected: &str) {
        let served = vendor_data(text.as_bytes()).map(|bytes| String::from_utf8(bytes).unwrap());
        assert_eq!(served, Ok(expected.to_owned()), "{text:?}");
    }

    fn refused(bytes: &[u8]) -> Vec<(&'static str, Option<usize>)> {
        let findings = vendor_data(bytes).expect_err("a refusal");
        findings.iter().map(|finding| (finding.code, finding.line)).collect()
    }

    #[test]
    fn a_map_with_a_usable_cloud_init_is_kept_byte_for_byte() {
        kept("cloud-init: |\n  #cloud-config\n  packages: [tmux]\n");
        kept("cloud-init:\n- |\n  #cloud-config\n  a: 1\n- \"#!/bin/sh\\ntrue\\n\"\n");
        kept("{\"cloud-init\": \"#cloud-config\\n{}\"}");
        kept("# ours\r\n---\r\nother: 1\r\ncloud-init: any text\r\n...\r\n");
    }

    #[test]
    fn a_bare_cloud_config_is_wrapped() {
        served_as(
            "#cloud-config\nruncmd:\n- ls\n",
            "cloud-init: |\n  #cloud-config\n  runcmd:\n  - ls\n",
        );
        served_as("#cloud-config\r\na: b\r\n", "cloud-init: \"#cloud-config\\r\\na: b\\r\\n\"\n");
        served_as("#cloud-config-archive\n- a", "cloud-init: |-\n  #cloud-config-archive\n  - a\n");
    }

    #[test]
    fn a_bare_list_or_string_of_parts_is_put_under_the_key() {
        served_as("|\n  #!/bin/sh\n  true\n", "cloud-init: |\n  #!/bin/sh\n  true\n");
        served_as(
            "[\"#!/bin/sh\", \"#cloud-config\\na: b\\n\"]",
            "cloud-init:\n- |-\n  #!/bin/sh\n- |\n  #cloud-config\n  a: b\n",
        );
    }

    #[test]
    fn what_kills_the_datasource_is_refused() {
        assert_eq!(refused(b""), [("vendor_empty", None)]);
        assert_eq!(refused(b" \n"), [("vendor_blank", Some(1))]);
        assert_eq!(refused(b"#cloud-config\n"), [("vendor_only_comments", Some(1))]);
        assert_eq!(refused(b"# x\nnull\n"), [("vendor_null", Some(2))]);
        assert_eq!(refused(b"cloud-init: a\nb: \xe9\n"), [("not_utf8", Some(2))]);
        assert_eq!(refused(b"\xef\xbb\xbfcloud-init: a"), [("byte_order_mark", Some(1))]);
        assert_eq!(refused(b"cloud-init: !!str a"), [("yaml_tag", Some(1))]);
        assert_eq!(refused(b"cloud-init:\ta"), [("yaml_tab", Some(1))]);
        assert_eq!(refused(b"cloud-init: a\n---\nb: c\n"), [("yaml_documents", Some(2))]);
        assert_eq!(refused(b"cloud-init: a\x7f"), [("yaml_unprintable", Some(1))]);
    }

    #[test]
    fn what_cloud_init_would_ignore_is_refused() {
        assert_eq!(refused(b"{}"), [("vendor_no_key", Some(1))]);
        assert_eq!(refused(b"packages: [tmux]"), [("vendor_no_key", Some(1))]);
        assert_eq!(refused(b"cloud-init: {a: b}"), [("vendor_map", Some(1))]);
        assert_eq!(refused(b"cloud-init: ''"), [("vendor_part_blank", Some(1))]);
        assert_eq!(refused(b"cloud-init:\n- a\n- 1\n"), [("vendor_not_text", Some(3))]);
        assert_eq!(refused(b"[]"), [("vendor_no_parts", Some(1))]);
        assert_eq!(refused(b"12"), [("vendor_not_text", Some(1))]);
        assert_eq!(refused(b"just text"), [("vendor_part_unknown", Some(1))]);
        assert_eq!(refused(b"#!/bin/sh\necho hi\n"), [("vendor_bare_part", Some(1))]);
    }

    #[test]
    fn every_problem_of_every_part_is_listed_on_its_own_line() {
        let text = "cloud-init:\n- |\n  #cloud-config\n  a: [\n- |\n  #cloud-config\n  [b]\n- 3\n";
        assert_eq!(
            refused(text.as_bytes()),
            [
                ("yaml_syntax", Some(5)),
                ("cloud_config_not_map", Some(6)),
                ("vendor_not_text", Some(8))
            ]
        );
        let text = b"#cloud-config\na: !x y\nb: 1\nb: 2\nc: =\n";
        assert_eq!(
            refused(text),
            [("yaml_tag", Some(2)), ("yaml_duplicate_key", Some(4)), ("yaml_value", Some(5))]
        );
    }

    #[test]
    fn findings_do_not_repeat_the_content() {
        for text in ["cloud-init: !s3cret x", "s3cret: {", "#cloud-config\ns3cret", "s3cret"] {
            for finding in vendor_data(text.as_bytes()).expect_err("a refusal") {
                assert!(!finding.message.contains("s3cret"), "{finding:?}");
            }
        }
    }

    #[test]
    fn a_million_problems_are_not_all_listed() {
        let text = format!("cloud-init: [{}]", "1, ".repeat(50_000));
        let found = refused(text.as_bytes());
        assert_eq!((found.len(), found[49].0), (50, "more"));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = vendor_data(&bytes);
        }

        #[test]
        fn what_is_served_is_accepted_again_as_it_is(
            text in "(#cloud-config\n|cloud-init: |- |)[-a:#|>'\"\\[\\]{},&*!%?\t \n]{0,30}",
        ) {
            if let Ok(served) = vendor_data(text.as_bytes()) {
                prop_assert_eq!(vendor_data(&served), Ok(served));
            }
        }

        #[test]
        fn a_bare_cloud_config_is_carried_unchanged(value in "[ -~é☃😀]{0,20}", end in "\n{0,3}") {
            let quoted = serde_json::to_string(&value).unwrap();
            let text = format!("#cloud-config\nkey: {quoted}{end}");
            let served = String::from_utf8(vendor_data(text.as_bytes()).unwrap()).unwrap();
            let document = yaml::read(&served, Tags::Refused);
            let Body::Mapping(entries) = &document.node(document.root.unwrap()).body else {
                panic!("not a map")
            };
            let carried = &document.node(entries[0].1).body;
            let same = matches!(carried, Body::Scalar { text: read, .. } if *read == text);
            prop_assert!(same);
        }
    }
}
