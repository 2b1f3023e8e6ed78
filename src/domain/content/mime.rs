//! User-data that is a mail: its headers and first level of parts, as Python's email package and
//! `UserDataProcessor` (`user_data.py`) take them apart.

use super::Finding;
use super::part::{self, PartKind};
use super::yaml::{self, Tags};

/// Types with a handler (`handlers/__init__.py`), a decompressor or a walk of their own
/// (`user_data.py`).
const HANDLED: [&str; 20] = [
    "application/gzip",
    "application/gzip-compressed",
    "application/gzipped",
    "application/x-compress",
    "application/x-compressed",
    "application/x-gunzip",
    "application/x-gzip",
    "application/x-gzip-compressed",
    "text/cloud-boothook",
    "text/cloud-config",
    "text/cloud-config-archive",
    "text/cloud-config-jsonp",
    "text/jinja2",
    "text/part-handler",
    "text/x-include-once-url",
    "text/x-include-url",
    "text/x-shellscript",
    "text/x-shellscript-per-boot",
    "text/x-shellscript-per-instance",
    "text/x-shellscript-per-once",
];

const DROPPED: &str = "cloud-init would log a warning and drop this part";

/// Parts that are looked at.
const MOST_PARTS: usize = 1000;

/// Headers, and the text below them.
struct Entity<'a> {
    content_type: String,
    boundary: Option<String>,
    /// Base64 or quoted-printable: the body is not what it looks like.
    encoded: bool,
    body: &'a str,
    line: usize,
}

pub fn check(text: &str) -> Vec<Finding> {
    let mail = entity(text, 1);
    if !mail.content_type.starts_with("multipart/") {
        return check_parts(&[mail]);
    }
    let parts = mail.boundary.as_ref().map(|boundary| split(&mail, boundary)).unwrap_or_default();
    if parts.is_empty() {
        return vec![Finding::new(
            "mime_no_parts",
            Some(1),
            "the multipart text has no part between its boundary lines; cloud-init would do \
             nothing; put `--` and the boundary of the header before each part",
        )];
    }
    check_parts(&parts)
}

fn check_parts(parts: &[Entity]) -> Vec<Finding> {
    // A part-handler may register a type of its own for the parts after it.
    let extended = parts.iter().any(|part| {
        part.content_type == "text/part-handler"
            || part::recognise(part.body) == Some(PartKind::PartHandler)
    });
    parts.iter().flat_map(|part| check_part(part, extended)).collect()
}

fn check_part(part: &Entity, extended: bool) -> Vec<Finding> {
    if part.encoded {
        return unknown_type(part, extended).into_iter().collect();
    }
    if !part.body.is_ascii() {
        // Message.get_payload(decode=True) falls back to raw-unicode-escape, whatever the charset.
        return vec![Finding::new(
            "mime_not_ascii",
            Some(part.line),
            "a part holds letters outside ASCII and is not encoded; cloud-init would garble them, \
             or fail on the part; give it `Content-Transfer-Encoding: base64`",
        )];
    }
    // A type of which nothing is known is looked up by the first line (user_data.py, TYPE_NEEDED).
    match part.content_type.as_str() {
        "text/plain" | "text/x-not-multipart" | "text/x-shellscript" => {
            match part::recognise(part.body) {
                Some(kind) => part::check(kind, part.body, part.line, Tags::Safe),
                None if part.content_type == "text/x-shellscript" => Vec::new(),
                None if part::is_blank(part.body) => vec![Finding::new(
                    "mime_part_blank",
                    Some(part.line),
                    "there is no text below the mail headers; cloud-init would do nothing with \
                     the part; put a blank line and the text there, or remove it",
                )],
                None => vec![Finding::new(
                    "unknown_first_line",
                    Some(part.line),
                    format!(
                        "a part of no particular type starts with a line that cloud-init does not \
                         know; {DROPPED}; start it with `#!`, `#cloud-config` or another of its \
                         markers, or name its type"
                    ),
                )],
            }
        }
        "text/cloud-config" => part::cloud_config(&yaml::read(part.body, Tags::Safe), part.line),
        _ => unknown_type(part, extended).into_iter().collect(),
    }
}

fn unknown_type(part: &Entity, extended: bool) -> Option<Finding> {
    let kind = part.content_type.as_str();
    let sniffed = matches!(kind, "text/plain" | "text/x-not-multipart");
    let container = kind.starts_with("multipart/") || kind.starts_with("message/");
    if extended || sniffed || container || HANDLED.contains(&kind) {
        return None;
    }
    Some(Finding::new(
        "mime_unknown_type",
        Some(part.line),
        format!(
            "a part has a Content-Type that cloud-init has no handler for; {DROPPED}; use a type \
             such as text/x-shellscript or text/cloud-config"
        ),
    ))
}

/// feedparser.py: headers end at the first line that is none, blank or not.
fn entity(text: &str, line: usize) -> Entity<'_> {
    let mut content_type = None;
    let mut encoding = None;
    // The value of the header that a continuation line would go on with.
    let mut open: Option<&mut String> = None;
    let mut at = 0;
    let mut below = line;
    for row in text.split_inclusive('\n') {
        let bare = row.trim_end_matches(['\r', '\n']);
        if let Some((name, value)) = header(bare) {
            // Message.get gives the first of several.
            open = if name.eq_ignore_ascii_case("content-type") && content_type.is_none() {
                Some(content_type.insert(value.to_owned()))
            } else if name.eq_ignore_ascii_case("content-transfer-encoding") && encoding.is_none() {
                Some(encoding.insert(value.to_owned()))
            } else {
                None
            };
        } else if bare.starts_with([' ', '\t']) && at > 0 {
            if let Some(value) = &mut open {
                value.push_str(bare);
            }
        } else if !(bare.is_empty() || at == 0 && bare.starts_with("From ")) {
            break;
        }
        at += row.len();
        below += 1;
        if bare.is_empty() {
            break;
        }
    }
    let (content_type, boundary) = media_type(&content_type.unwrap_or_default());
    let encoding = encoding.unwrap_or_default().trim().to_ascii_lowercase();
    Entity {
        content_type,
        boundary,
        encoded: matches!(encoding.as_str(), "base64" | "quoted-printable"),
        body: &text[at..],
        line: below,
    }
}

fn header(line: &str) -> Option<(&str, &str)> {
    line.split_once(':').filter(|(name, _)| name.bytes().all(|byte| byte.is_ascii_graphic()))
}

/// The type in lower case, and the boundary. What is not `a/b` is text, says
/// `Message.get_content_type`.
fn media_type(value: &str) -> (String, Option<String>) {
    let mut parameters = value.split(';');
    let mut content_type = parameters.next().unwrap_or_default().trim().to_ascii_lowercase();
    if content_type.matches('/').count() != 1 {
        "text/plain".clone_into(&mut content_type);
    }
    let boundary = parameters.find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        let value = value.trim().trim_matches('"').trim_end();
        name.trim().eq_ignore_ascii_case("boundary").then(|| value.to_owned())
    });
    (content_type, boundary)
}

fn split<'a>(mail: &Entity<'a>, boundary: &str) -> Vec<Entity<'a>> {
    let mut parts = Vec::new();
    let mut start: Option<(usize, usize)> = None;
    let mut at = 0;
    for (row, line) in mail.body.split_inclusive('\n').zip(mail.line..) {
        let after = row.strip_prefix("--").and_then(|row| row.strip_prefix(boundary));
        let closes = after.is_some_and(|after| after.trim_end() == "--");
        if closes || after.is_some_and(|after| after.trim_end().is_empty()) {
            if let Some((from, line)) = start {
                parts.push(entity(&mail.body[from..at], line));
            }
            start = (!closes).then_some((at + row.len(), line + 1));
            if closes {
                break;
            }
        }
        at += row.len();
        if parts.len() >= MOST_PARTS {
            return parts;
        }
    }
    // An unclosed last part is read to the end.
    if let Some((from, line)) = start {
        parts.push(entity(&mail.body[from..], line));
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(text: &str) -> Vec<(&'static str, Option<usize>)> {
        check(text).iter().map(|finding| (finding.code, finding.line)).collect()
    }

    fn multipart(parts: &[&str]) -> String {
        let mut text =
            "Content-Type: multipart/mixed;\n boundary=\"==x==\"\nMIME-Version: 1.0\n\n".to_owned();
        for part in parts {
            text.push_str("--==x==\n");
            text.push_str(part);
        }
        text + "--==x==--\n"
    }

    const CONFIG: &str = "Content-Type: text/cloud-config; charset=utf-8\n\n#cloud-config\na: b\n";
    const SCRIPT: &str = "Content-Type: text/x-shellscript\n\n#!/bin/sh\n";

    #[test]
    fn a_mail_of_parts_with_handlers_passes_with_either_line_end() {
        let text = multipart(&[CONFIG, SCRIPT, "\n#include\nhttp://192.0.2.1/\n"]);
        assert_eq!(codes(&text), []);
        assert_eq!(codes(&text.replace('\n', "\r\n")), []);
        assert_eq!(codes("MIME-Version: 1.0\nContent-Type: text/cloud-config\n\na: b\n"), []);
    }

    #[test]
    fn a_script_that_speaks_of_mime_is_still_a_script() {
        assert_eq!(codes("#!/bin/sh\n# MIME-Version: 1.0\n"), []);
    }

    #[test]
    fn a_part_nobody_handles_is_named_on_its_line() {
        assert_eq!(
            codes(&multipart(&["Content-Type: text/x-sh\n\n#!/bin/sh\n"])),
            [("mime_unknown_type", Some(8))]
        );
        assert_eq!(
            codes(&multipart(&["Content-Type: text/plain\n\nhello\n"])),
            [("unknown_first_line", Some(8))]
        );
        assert_eq!(
            codes(&multipart(&["Content-Type: text/cloud-config\n\na: [\n"])),
            [("yaml_syntax", Some(9))]
        );
        assert_eq!(codes(&multipart(&[SCRIPT, "\n\n"])), [("mime_part_blank", Some(11))]);
    }

    #[test]
    fn a_part_handler_may_bring_its_own_types() {
        let handler = "Content-Type: text/part-handler\n\n#part-handler\n";
        assert_eq!(codes(&multipart(&[handler, "Content-Type: text/x-own\n\nx\n"])), []);
    }

    #[test]
    fn letters_outside_ascii_need_an_encoding() {
        let plain = multipart(&["Content-Type: text/x-shellscript\n\n#!/bin/sh\n# é\n"]);
        assert_eq!(codes(&plain), [("mime_not_ascii", Some(8))]);
        let encoded = "Content-Type: text/x-shellscript\nContent-Transfer-Encoding: base64\n\n\
                       IyEvYmluL3NoCiMgw6kK\n";
        assert_eq!(codes(&multipart(&[encoded])), []);
    }

    #[test]
    fn a_mail_without_parts_does_nothing() {
        assert_eq!(codes(&multipart(&[])), [("mime_no_parts", Some(1))]);
        assert_eq!(
            codes("MIME-Version: 1.0\nContent-Type: multipart/mixed\n\n--x\n"),
            [("mime_no_parts", Some(1))]
        );
    }
}
