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
    if text.contains('\0') || text.starts_with("\x7fELF") {
        return vec![binary()];
    }
    let (code, what, instead) = if part::is_blank(text) {
        ("blank", "there is only white space", "clear it instead")
    } else if is_wrapped_in_base64(text) {
        (
            "base64",
            "the content is base64 of something cloud-init knows, and nothing decodes it",
            "store the decoded bytes",
        )
    } else if starts_ignoring_case(text, "content-type:") {
        (
            "mime_version_missing",
            "the mail headers lack `MIME-Version: 1.0`, by which cloud-init knows MIME",
            "add that header",
        )
    } else if starts_ignoring_case(text, "#upstart-job") {
        (
            "upstart_job",
            "no cloud-init from 22.4 on knows `#upstart-job`",
            "write a systemd unit by `#cloud-config`",
        )
    } else {
        (
            "unknown_first_line",
            "the first line is none that cloud-init knows",
            "start with `#!`, `#cloud-config` or another of its markers",
        )
    };
    let line = 1 + leading_lines(text);
    vec![Finding::new(code, Some(line), format!("{what}; {UNHANDLED}; {instead}"))]
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
            "the content is a program or other binary data; {UNHANDLED}; store a script that \
             fetches and runs it"
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn codes(bytes: impl AsRef<[u8]>) -> Vec<&'static str> {
        user_data(bytes.as_ref()).iter().map(|finding| finding.code).collect()
    }

    #[test]
    fn what_cloud_init_runs_passes() {
        for text in [
            "",
            "#!/bin/sh\necho hi\n",
            "#!/bin/sh\r\necho hi\r\n",
            "#!/bin/sh\n# a NUL: \0\n",
            "#cloud-config\npackages: [tmux]\n",
            "#cloud-config\r\npackages:\r\n- tmux\r\n",
            "\n #Cloud-Config\na: b\n",
            "#cloud-config\nwrite_files:\n- content: !!binary aGk=\n",
            "#cloud-config-archive\n- type: text/cloud-config\n  content: 'a: b'\n",
            "#cloud-config-jsonp\n[{\"op\": \"add\", \"path\": \"/a\", \"value\": 1}]\n",
            "#cloud-boothook\n#!/bin/sh\n",
            "#include\nhttp://192.0.2.1/x\n",
            "#include-once\nhttp://192.0.2.1/x\n",
            "#part-handler\n",
            "## template: jinja\n#cloud-config\na: {{ b }}\n{% c %}\n",
        ] {
            assert_eq!(codes(text), [""; 0], "{text:?}");
        }
        assert_eq!(codes(b"\x1f\x8b\x08\0\0\0\0\0"), [""; 0]);
    }

    #[test]
    fn what_cloud_init_drops_is_named() {
        for (bytes, code) in [
            (&b"\xef\xbb\xbf#cloud-config\na: b\n"[..], "byte_order_mark"),
            (b"\xff\xfe#\0!\0", "byte_order_mark"),
            (b"echo hi\n", "unknown_first_line"),
            (b"# cloud-config\na: b\n", "unknown_first_line"),
            (b"#upstart-job\n", "upstart_job"),
            (b" \n\t", "blank"),
            (b"#!/bin/sh\n# \xe9\n", "script_not_utf8"),
            (b"#cloud-config\na: \xe9\n", "not_utf8"),
            (b"\x7fELF\x02\x01\x01\0\0", "binary"),
            (b"\x1f\x8b\x01", "binary"),
            (b"\xde\xad\xbe\xef", "binary"),
            (b"#cloud-config\n", "cloud_config_empty"),
            (b"#cloud-config\n- a\n", "cloud_config_not_map"),
            (b"#cloud-config\na: b: c\n", "yaml_syntax"),
            (b"#cloud-config\na:\tb\n", "yaml_tab"),
            (b"#cloud-config\na: {{ b }}\n", "yaml_key"),
            (b"#cloud-config\na: 1\na: 2\n", "yaml_duplicate_key"),
            (b"#cloud-config\na: !vault x\n", "yaml_tag"),
            (b"#cloud-config\na: 2024-13-01\n", "yaml_value"),
            (b"#cloud-config-archive\na: b\n", "archive_not_list"),
            (b"#cloud-config-jsonp\n[1]\n", "jsonp_broken"),
            (b"\n#!/bin/sh\n", "leading_space"),
            (b"Content-Type: text/x-shellscript\n\n#!/bin/sh\n", "mime_version_missing"),
            (b"IyEvYmluL3NoCmVjaG8gaGkK", "base64"),
            (b"I2Nsb3Vk\r\nLWNvbmZp\r\nZwphOiBiCg==\r\n", "base64"),
            (b"H4sIAAAAAAAAA1NWBADAFwJvAgAAAA==", "base64"),
        ] {
            assert_eq!(codes(bytes), [code], "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn text_that_only_looks_like_base64_is_not_called_so() {
        assert_eq!(codes("hello"), ["unknown_first_line"]);
        assert_eq!(codes("aGVsbG8gd29ybGQK"), ["unknown_first_line"]);
    }

    #[test]
    fn a_byte_order_mark_does_not_hide_what_comes_after_it() {
        assert_eq!(codes("\u{feff}#cloud-config\na: [\n"), ["byte_order_mark", "yaml_syntax"]);
    }

    #[test]
    fn a_finding_names_its_line() {
        let found = user_data(b"#cloud-config\na: 1\nb:\n- c\n  d: e: f\n");
        assert_eq!(found[0].line, Some(5));
        assert_eq!(user_data(b"#!/bin/sh\n\n# \xe9\n")[0].line, Some(3));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = user_data(&bytes);
        }

        #[test]
        fn no_part_makes_it_panic(
            head in "(#cloud-config(-jsonp)?|MIME-Version: 1\r?\nContent-Type: a/b; boundary=-)?",
            body in "(\\PC|[-:;=/#\"\r\n\t ]|--|\n){0,60}",
        ) {
            let _ = user_data(format!("{head}\n{body}").as_bytes());
        }
    }
}
