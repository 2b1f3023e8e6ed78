//! User-data: what cloud-init would fetch and then drop, while the node reports SUCCESS.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::part::{self, PartKind};
use super::yaml::Tags;
use super::{Finding, invalid_utf8_line, listed, mime};

const UNHANDLED: &str = "cloud-init would log `Unhandled non-multipart` and do nothing";

/// As much of base64 text as is decoded to see what it is; whole groups of four.
const BASE64_SAMPLE: usize = 8192;

/// What cloud-init would silently ignore in this user-data. Empty list = fine. Never changes the
/// bytes.
#[must_use]
pub fn user_data(bytes: &[u8]) -> Vec<Finding> {
    if bytes.is_empty() || is_gzip(bytes) {
        // convert_string decompresses first; what is inside is not looked at here.
        return Vec::new();
    }
    if let [0xff, 0xfe, ..] | [0xfe, 0xff, ..] = bytes {
        return vec![Finding::new(
            "byte_order_mark",
            Some(1),
            format!("the text is UTF-16; {UNHANDLED}; save it as UTF-8 without a byte-order mark"),
        )];
    }
    let (bytes, mut findings) = match bytes.strip_prefix(b"\xef\xbb\xbf") {
        Some(rest) => (rest, vec![part::byte_order_mark(1)]),
        None => (bytes, Vec::new()),
    };
    findings.extend(match str::from_utf8(bytes) {
        Ok(text) if part::is_mime(bytes) => mime::check(text),
        Ok(text) => match part::recognise(text) {
            Some(kind) => part::check(kind, text, 1, Tags::Safe),
            None => unknown(text),
        },
        Err(error) => vec![not_utf8(bytes, invalid_utf8_line(bytes, error))],
    });
    listed(findings)
}

/// The header `gzip.GzipFile` wants; anything less is taken as it is (`util.decomp_gzip`).
fn is_gzip(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0x1f, 0x8b, 8])
}

fn unknown(text: &str) -> Vec<Finding> {
    if part::is_blank(text) {
        let message = format!("there is only white space; {UNHANDLED}; clear it instead");
        return vec![Finding::new("blank", Some(1), message)];
    }
    let line = 1 + leading_lines(text);
    let finding = if text.contains('\0') || text.starts_with("\x7fELF") {
        binary()
    } else if is_wrapped_in_base64(text) {
        Finding::new(
            "base64",
            Some(line),
            format!(
                "the content is base64 text of something cloud-init knows; nothing decodes it; {UNHANDLED}; store the decoded bytes"
            ),
        )
    } else if starts_ignoring_case(text, "content-type:") {
        Finding::new(
            "mime_version_missing",
            Some(line),
            format!(
                "the mail headers lack `MIME-Version: 1.0`, by which cloud-init knows MIME; {UNHANDLED}; add that header"
            ),
        )
    } else if starts_ignoring_case(text, "#upstart-job") {
        Finding::new(
            "upstart_job",
            Some(line),
            format!(
                "no cloud-init from 22.4 on knows `#upstart-job`; {UNHANDLED}; write a systemd unit with #cloud-config"
            ),
        )
    } else {
        Finding::new(
            "unknown_first_line",
            Some(line),
            format!(
                "the first line is none that cloud-init knows; {UNHANDLED}; start with `#!`, `#cloud-config` or another of its markers"
            ),
        )
    };
    vec![finding]
}

fn leading_lines(text: &str) -> usize {
    let blank = text.len() - part::trim_start(text).len();
    text[..blank].matches('\n').count()
}

fn starts_ignoring_case(text: &str, start: &str) -> bool {
    let head = part::trim_start(text).as_bytes();
    head.get(..start.len()).is_some_and(|head| head.eq_ignore_ascii_case(start.as_bytes()))
}

/// The part is recognised all the same (its bytes are decoded with `surrogateescape`), but what is
/// decoded so can be neither written out nor read as YAML.
fn not_utf8(bytes: &[u8], line: usize) -> Finding {
    if part::is_mime(bytes) {
        return Finding::new(
            "mime_not_utf8",
            Some(line),
            "the MIME text is not UTF-8; cloud-init would stop with an exception before any part \
             of it runs; encode such parts as base64",
        );
    }
    let head = String::from_utf8_lossy(&bytes[..bytes.len().min(256)]);
    let (code, what) = match part::recognise(&head) {
        Some(PartKind::Script) => ("script_not_utf8", "the script is not UTF-8"),
        Some(_) => ("not_utf8", "the text is not UTF-8"),
        None => return binary(),
    };
    let message = format!(
        "{what}; cloud-init would log an encoding error, not run it, and report SUCCESS; convert \
         it to UTF-8"
    );
    Finding::new(code, Some(line), message)
}

fn binary() -> Finding {
    Finding::new(
        "binary",
        None,
        format!(
            "the content is a program or other binary data; {UNHANDLED}; store a script that fetches and runs it"
        ),
    )
}

/// Whether all of it is base64, of either alphabet, and its start decodes to something known.
fn is_wrapped_in_base64(text: &str) -> bool {
    let packed = || text.bytes().filter(|byte| !byte.is_ascii_whitespace());
    let unpadded = text.trim_end_matches(|c: char| c == '=' || c.is_ascii_whitespace());
    let in_alphabet = |byte: u8| {
        byte.is_ascii_alphanumeric() || byte.is_ascii_whitespace() || b"+/-_".contains(&byte)
    };
    if !unpadded.bytes().all(in_alphabet) {
        return false;
    }
    let sample: Vec<u8> = packed()
        .take(BASE64_SAMPLE)
        .filter(|byte| *byte != b'=')
        .map(|byte| match byte {
            b'-' => b'+',
            b'_' => b'/',
            _ => byte,
        })
        .collect();
    let config = GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::RequireNone)
        .with_decode_allow_trailing_bits(true);
    let Ok(decoded) = GeneralPurpose::new(&alphabet::STANDARD, config).decode(sample) else {
        return false;
    };
    let start = String::from_utf8_lossy(&decoded);
    is_gzip(&decoded) || part::is_mime(&decoded) || part::recognise(&start).is_some()
}
