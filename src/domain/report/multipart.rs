//! `multipart/form-data` (RFC 7578), whole in memory, as MAAS's scripts write it.
//!
//! ```text
//! --BOUNDARY CRLF
//! Content-Disposition: form-data; name="NAME" [; filename="FILE"] CRLF
//! [other headers CRLF] CRLF
//! the bytes CRLF
//! --BOUNDARY-- CRLF
//! ```

use super::form::{Form, MOST_FIELDS, text};
use super::{Bounds, Refused, ReportedFile};

/// Bytes of the headers of one part.
const HEADER_BYTES: usize = 8 << 10;

pub fn form(parameters: &str, body: &[u8], bounds: Bounds) -> Result<Form, Refused> {
    let broken = |why: &str| Refused::Invalid(vec![format!("the form is broken: {why}")]);
    let boundary = parameter(parameters, "boundary").unwrap_or_default();
    if boundary.is_empty() || boundary.len() > 200 {
        return Err(broken("it names no boundary"));
    }
    // What stands before the first boundary is nobody's.
    let first = format!("--{boundary}");
    let delimiter = format!("\r\n{first}");
    let mut rest = if body.starts_with(first.as_bytes()) {
        &body[first.len()..]
    } else {
        let at = find(body, delimiter.as_bytes()).ok_or_else(|| broken("it has no boundary"))?;
        &body[at + delimiter.len()..]
    };
    let mut form = Form::default();
    loop {
        if rest.starts_with(b"--") {
            return Ok(form);
        }
        let end = find(&rest[..rest.len().min(HEADER_BYTES)], b"\r\n\r\n");
        let end = end.filter(|_| rest.starts_with(b"\r\n"));
        let end = end.ok_or_else(|| broken("a part has no headers"))?;
        let headers = text(&rest[..end]);
        let content = &rest[end + 4..];
        // A part of no bytes at all may share its line's end with the headers'.
        let shared = &rest[end + 2..];
        let (content, after) = if shared.starts_with(delimiter.as_bytes()) {
            (&content[..0], &shared[delimiter.len()..])
        } else {
            let at = find(content, delimiter.as_bytes()).ok_or_else(|| broken("it is cut"))?;
            (&content[..at], &content[at + delimiter.len()..])
        };
        take(&mut form, &headers, content, bounds)?;
        rest = after;
    }
}

fn take(form: &mut Form, headers: &str, content: &[u8], bounds: Bounds) -> Result<(), Refused> {
    let disposition = headers.split("\r\n").find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.trim().eq_ignore_ascii_case("content-disposition").then_some(value)
    });
    let disposition = disposition.unwrap_or_default();
    let Some(name) = parameter(disposition, "name") else {
        return Err(Refused::Invalid(vec!["the form is broken: a part has no name".into()]));
    };
    if parameter(disposition, "filename").is_none() {
        if form.fields.len() == MOST_FIELDS {
            return Err(Refused::TooLarge(format!("there are more than {MOST_FIELDS} fields")));
        }
        form.fields.push((name, text(content)));
        return Ok(());
    }
    if form.files.len() == bounds.files {
        return Err(Refused::TooLarge(format!("there are more than {} files", bounds.files)));
    }
    if content.len() > bounds.file_bytes {
        let (number, most) = (form.files.len() + 1, bounds.file_bytes);
        return Err(Refused::TooLarge(format!("file {number} is larger than {most} bytes")));
    }
    // MAAS knows a file by its field (`process_file`).
    form.files.push(ReportedFile { path: name, content: Some(content.to_vec()) });
    Ok(())
}

/// A parameter of a header, quoted or bare.
fn parameter(header: &str, wanted: &str) -> Option<String> {
    let mut rest = header;
    while let Some((before, after)) = rest.split_once('=') {
        let name = before.rsplit(';').next().unwrap_or_default().trim();
        let after = after.trim_start();
        let (value, left) = if let Some(quoted) = after.strip_prefix('"') {
            unquote(quoted)
        } else {
            let end = after.find(';').unwrap_or(after.len());
            (after[..end].trim().to_owned(), &after[end..])
        };
        if name.eq_ignore_ascii_case(wanted) {
            return Some(value);
        }
        rest = left;
    }
    None
}

/// Up to the closing quote, without the backslashes, and what follows.
fn unquote(quoted: &str) -> (String, &str) {
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
            c => value.push(c),
        }
    }
    (value, "")
}

/// Where `needle`, which begins with a byte that is rare in text, first stands.
fn find(hay: &[u8], needle: &[u8]) -> Option<usize> {
    let first = *needle.first()?;
    let mut from = 0;
    while let Some(at) = hay[from..].iter().position(|byte| *byte == first) {
        if hay[from + at..].starts_with(needle) {
            return Some(from + at);
        }
        from += at + 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOUNDS: Bounds = Bounds { depth: 32, files: 3, file_bytes: 64 };

    fn parts(parts: &[(&str, &[u8])]) -> Vec<u8> {
        let mut body = Vec::new();
        for (disposition, content) in parts {
            body.extend(
                format!("--B\r\nContent-Disposition: form-data; {disposition}\r\n\r\n").bytes(),
            );
            body.extend_from_slice(content);
            body.extend(b"\r\n");
        }
        body.extend(b"--B--\r\n");
        body
    }

    #[test]
    fn fields_and_files_are_told_apart_by_their_filename() {
        let body = parts(&[
            (r#"name="op""#, b"signal"),
            (r#"name="error""#, b"two\r\nlines"),
            (r#"name="N.out"; filename="N.out""#, b"\x00\xff\r\n--C"),
            (r#"name="a \"b\""; filename="""#, b""),
            ("name=bare", b""),
        ]);
        let form = form(" boundary=\"B\"; charset=utf-8", &body, BOUNDS).unwrap();
        let field = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let fields = [field("op", "signal"), field("error", "two\r\nlines"), field("bare", "")];
        assert_eq!(form.fields, fields);
        let file = |path: &str, content: &[u8]| ReportedFile {
            path: path.into(),
            content: Some(content.to_vec()),
        };
        assert_eq!(form.files, [file("N.out", b"\x00\xff\r\n--C"), file("a \"b\"", b"")]);
    }

    #[test]
    fn a_form_that_is_cut_anywhere_is_refused() {
        let body = parts(&[(r#"name="op""#, b"signal"), (r#"name="f"; filename="f""#, b"bytes")]);
        let whole = body.len() - 2;
        for end in 0..whole {
            assert!(form(" boundary=B", &body[..end], BOUNDS).is_err(), "{end}");
        }
        assert!(form(" boundary=B", &body[..whole], BOUNDS).is_ok());
        for parameters in ["", " boundary=", " boundary=C", " charset=B"] {
            assert!(form(parameters, &body, BOUNDS).is_err(), "{parameters}");
        }
    }

    #[test]
    fn there_are_so_many_files_of_so_many_bytes() {
        let file = |size: usize| (r#"name="f"; filename="f""#, vec![b'x'; size]);
        let body = |files: &[(&'static str, Vec<u8>)]| {
            parts(&files.iter().map(|(d, c)| (*d, c.as_slice())).collect::<Vec<_>>())
        };
        assert!(form(" boundary=B", &body(&vec![file(64); 3]), BOUNDS).is_ok());
        for too_much in [vec![file(1); 4], vec![file(65)]] {
            let refused = form(" boundary=B", &body(&too_much), BOUNDS);
            assert!(matches!(refused, Err(Refused::TooLarge(_))));
        }
    }

    proptest! {
        #[test]
        fn nothing_sent_makes_it_panic(body in any::<Vec<u8>>(), parameters in any::<String>()) {
            let _ = form(" boundary=B", &[b"--B\r\n", body.as_slice()].concat(), BOUNDS);
            let _ = form(&parameters, &body, BOUNDS);
        }

        #[test]
        fn bytes_come_back_as_they_were(content in proptest::collection::vec(any::<u8>(), 0..64)) {
            prop_assume!(find(&content, b"\r\n--B").is_none());
            let body = parts(&[(r#"name="f"; filename="f""#, &content)]);
            let form = form(" boundary=B", &body, BOUNDS).unwrap();
            prop_assert_eq!(form.files[0].content.as_ref(), Some(&content));
        }
    }
}
