//! One part as cloud-init's handlers see it: what its first line makes of it, and whether the
//! handler can read the rest.

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::Finding;
use super::yaml::{self, Body, Document, Fault, Tags};

/// What cloud-init does to a part it cannot read (`cloud_config.py`, `user_data.py`): a line in
/// the node's log, and nothing else.
const DROPPED: &str = "cloud-init would log a warning and drop this whole part";

/// The kinds a first line can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartKind {
    CloudConfig,
    CloudConfigArchive,
    CloudConfigJsonp,
    Script,
    Boothook,
    Include,
    PartHandler,
    Jinja,
}

/// `handlers/__init__.py`, `INCLUSION_TYPES_MAP`, longest first as `type_from_starts_with` looks.
/// `#upstart-job` is no longer among them.
const FIRST_LINES: [(&str, PartKind); 9] = [
    ("#cloud-config-archive", PartKind::CloudConfigArchive),
    ("#cloud-config-jsonp", PartKind::CloudConfigJsonp),
    ("## template: jinja", PartKind::Jinja),
    ("#cloud-boothook", PartKind::Boothook),
    ("#cloud-config", PartKind::CloudConfig),
    ("#part-handler", PartKind::PartHandler),
    ("#include-once", PartKind::Include),
    ("#include", PartKind::Include),
    ("#!", PartKind::Script),
];

/// `type_from_starts_with`: blank lines before the marker and its case do not matter.
pub fn recognise(text: &str) -> Option<PartKind> {
    let start: String = trim_start(text).chars().take(24).flat_map(char::to_lowercase).collect();
    FIRST_LINES.iter().find(|(marker, _)| start.starts_with(marker)).map(|(_, kind)| *kind)
}

/// Python's `str.lstrip`.
pub fn trim_start(text: &str) -> &str {
    text.trim_start_matches(is_python_space)
}

pub fn is_blank(text: &str) -> bool {
    trim_start(text).is_empty()
}

fn is_python_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\x1c'..='\x1f')
}

/// `b"mime-version:" in bdata[0:4096].lower()` (`user_data.py`, `convert_string`): this, and not
/// the first line, makes a mail of it.
pub fn is_mime(bytes: &[u8]) -> bool {
    const MARK: &[u8] = b"mime-version:";
    let head = &bytes[..bytes.len().min(4096)];
    head.windows(MARK.len()).any(|window| window.eq_ignore_ascii_case(MARK))
}

/// What the handler of `kind` would stumble over. `line` is the line `text` starts on.
pub fn check(kind: PartKind, text: &str, line: usize, tags: Tags) -> Vec<Finding> {
    match kind {
        PartKind::CloudConfig => cloud_config(&yaml::read(text, tags), line),
        PartKind::CloudConfigArchive => archive(&yaml::read(text, tags), line),
        PartKind::CloudConfigJsonp => json_patch(text, line),
        // The kernel, and templater.detect_template, want the marker in the very first place.
        PartKind::Script | PartKind::Jinja if trim_start(text).len() < text.len() => {
            vec![Finding::new(
                "leading_space",
                Some(line),
                "white space stands before the first line; the node would recognise the part and \
                 then fail to run it; start with the marker itself",
            )]
        }
        PartKind::Script
        | PartKind::Jinja
        | PartKind::Boothook
        | PartKind::Include
        | PartKind::PartHandler => Vec::new(),
    }
}

pub fn cloud_config(document: &Document, line: usize) -> Vec<Finding> {
    if !document.faults.is_empty() {
        return faults(document, line, DROPPED);
    }
    match document.root.map(|root| &document.node(root).body) {
        Some(Body::Mapping(_)) => Vec::new(),
        body if body.is_none_or(is_null) => vec![Finding::new(
            "cloud_config_empty",
            Some(line),
            "the cloud-config holds nothing but comments; cloud-init would log `empty cloud \
             config` and do nothing; add the keys it should apply, or store nothing",
        )],
        _ => vec![Finding::new(
            "cloud_config_not_map",
            Some(line),
            format!("the cloud-config is not a map; {DROPPED}; write `key: value` lines"),
        )],
    }
}

/// `user_data.py`, `_explode_archive`.
pub fn archive(document: &Document, line: usize) -> Vec<Finding> {
    if !document.faults.is_empty() {
        return faults(document, line, DROPPED);
    }
    match document.root.map(|root| &document.node(root).body) {
        Some(Body::Sequence(_)) => Vec::new(),
        _ => vec![Finding::new(
            "archive_not_list",
            Some(line),
            format!("the archive is not a list; {DROPPED}; write one `- ` item for each part"),
        )],
    }
}

/// Takes no room, so that a long list takes none.
#[derive(Deserialize)]
struct PatchOperation {
    #[serde(rename = "op")]
    _op: IgnoredAny,
}

/// `cloud_config.py`, `_merge_patch`.
pub fn json_patch(text: &str, line: usize) -> Vec<Finding> {
    let body = trim_start(text).get("#cloud-config-jsonp".len()..).unwrap_or_default();
    let Err(error) = serde_json::from_str::<Vec<PatchOperation>>(body) else {
        return Vec::new();
    };
    let above = text.len() - body.len();
    let skipped = text[..above].matches('\n').count();
    vec![Finding::new(
        "jsonp_broken",
        Some(line + skipped + error.line().saturating_sub(1)),
        format!("the JSON patch is not a JSON list of operations; {DROPPED}; correct the JSON"),
    )]
}

/// The faults of a text that starts on `line`, with what comes of them.
pub fn faults(document: &Document, line: usize, consequence: &str) -> Vec<Finding> {
    let finding = |fault: &Fault| {
        let Fault { code, line: below, what, instead } = fault;
        let message = format!("{what}; {consequence}; {instead}");
        Finding::new(code, Some(line + below - 1), message)
    };
    document.faults.iter().map(finding).collect()
}

pub fn byte_order_mark(line: usize) -> Finding {
    Finding::new(
        "byte_order_mark",
        Some(line),
        "a byte-order mark stands before the first line, which cloud-init then does not recognise; \
         the part would be dropped; save the file as UTF-8 without a byte-order mark",
    )
}

pub fn is_null(body: &Body) -> bool {
    matches!(body, Body::Scalar { kind: yaml::Kind::Null, .. })
}
