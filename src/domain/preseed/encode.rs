//! How each format writes a value, so that no value can leave its place.

use std::fmt::Write as _;

/// A double-quoted YAML scalar, in printable ASCII.
pub fn yaml(value: &str) -> String {
    let mut out = String::from("\"");
    for c in value.chars() {
        // Writing to a String cannot fail.
        let _ = match c {
            '"' | '\\' => write!(out, "\\{c}"),
            '\n' => write!(out, "\\n"),
            ' '..='~' => write!(out, "{c}"),
            _ if u32::from(c) <= 0xff => write!(out, "\\x{:02x}", u32::from(c)),
            _ if u32::from(c) <= 0xffff => write!(out, "\\u{:04x}", u32::from(c)),
            _ => write!(out, "\\U{:08x}", u32::from(c)),
        };
    }
    out.push('"');
    out
}

/// One word of a POSIX shell.
pub fn shell(value: &str) -> String {
    format!("'{}'", value.replace('\'', r"'\''"))
}

/// A URL as one word without quotes and backslashes: those become escapes.
pub fn url(value: &str) -> String {
    percent(value, |b| b.is_ascii_graphic() && !matches!(b, b'"' | b'\'' | b'\\' | b'`'))
}

/// A value of `application/x-www-form-urlencoded`.
pub fn form(value: &str) -> String {
    percent(value, |b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'*'))
}

fn percent(value: &str, literal: impl Fn(u8) -> bool) -> String {
    let mut out = String::with_capacity(value.len());
    for byte in value.bytes() {
        if literal(byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const NASTY: &str = "a\"b'c\n# d: {e} $(f)\\ é\u{85}\u{2028}\u{1f511}&g=%0A";

    #[test]
    fn a_value_cannot_leave_its_place() {
        assert_eq!(yaml(NASTY), r#""a\"b'c\n# d: {e} $(f)\\ \xe9\x85\u2028\U0001f511&g=%0A""#);
        assert_eq!(shell("a'b $(c)"), r"'a'\''b $(c)'");
        assert_eq!(url("http://h/a b'\"\n\\é"), "http://h/a%20b%27%22%0A%5C%C3%A9");
        assert_eq!(form("a&b=c d+%"), "a%26b%3Dc%20d%2B%25");
    }

    #[test]
    fn yaml_reads_what_was_written() {
        let read: String = serde_yaml::from_str(&yaml(NASTY)).unwrap();
        assert_eq!(read, NASTY);
    }
}
