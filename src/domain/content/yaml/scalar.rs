//! What `PyYAML` makes of a plain scalar: its YAML 1.1 type, and whether the value can be built.

/// The types of `PyYAML`'s implicit resolvers (resolver.py, at its foot).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    Str,
    Null,
    Bool,
    Int,
    Float,
    Timestamp,
    /// A plain `<<`.
    Merge,
    /// A plain `=`.
    Value,
}

/// Python refuses to convert longer decimal numbers (CVE-2020-10735): `ValueError`.
const MAX_DECIMAL_DIGITS: usize = 4300;

/// `1:2:3…` grows a base of 60^n: past 60^173 the float form is an `OverflowError`, which
/// `load_yaml` does not catch. Nobody writes ten.
const MAX_SEXAGESIMAL_PARTS: usize = 64;

/// The type of a plain scalar, and whether its constructor succeeds. A value such as `2024-13-01`
/// looks like a date, so `PyYAML` refuses the whole document when the date cannot be made.
pub fn resolve(text: &str) -> (Kind, bool) {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return (Kind::Null, true),
        "<<" => return (Kind::Merge, true),
        "=" => return (Kind::Value, true),
        "yes" | "Yes" | "YES" | "no" | "No" | "NO" | "true" | "True" | "TRUE" | "false"
        | "False" | "FALSE" | "on" | "On" | "ON" | "off" | "Off" | "OFF" => {
            return (Kind::Bool, true);
        }
        _ => {}
    }
    if !text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '.')) {
        return (Kind::Str, true);
    }
    if let Some(buildable) = int(text) {
        (Kind::Int, buildable)
    } else if let Some(buildable) = float(text) {
        (Kind::Float, buildable)
    } else if let Some(buildable) = timestamp(text) {
        (Kind::Timestamp, buildable)
    } else {
        (Kind::Str, true)
    }
}

/// `None` when it is no integer, else whether Python's `int()` takes what is left of it once the
/// underscores are gone: `0x_` matches the resolver and leaves nothing.
fn int(text: &str) -> Option<bool> {
    let body = unsigned(text);
    if let Some(digits) = body.strip_prefix("0b").filter(|d| all_of(d, |b| b"01_".contains(&b))) {
        return Some(has_digit(digits));
    }
    if let Some(digits) =
        body.strip_prefix("0x").filter(|d| all_of(d, |b| b.is_ascii_hexdigit() || b == b'_'))
    {
        return Some(digits.bytes().any(|b| b != b'_'));
    }
    if let Some(octal) = body.strip_prefix('0') {
        let octal = octal.bytes().all(|b| matches!(b, b'0'..=b'7' | b'_'));
        return octal.then_some(true);
    }
    let mut parts = body.split(':');
    let first = parts.next().filter(|p| all_of(p, digit_or_underscore) && !p.starts_with('_'))?;
    let mut count = 0;
    for part in parts {
        count += usize::from(sixtieth(part).then_some(true)?);
    }
    Some(decimal_digits(first) <= MAX_DECIMAL_DIGITS && count <= MAX_SEXAGESIMAL_PARTS)
}

fn float(text: &str) -> Option<bool> {
    let body = unsigned(text);
    if matches!(body, ".inf" | ".Inf" | ".INF") || matches!(text, ".nan" | ".NaN" | ".NAN") {
        return Some(true);
    }
    let (whole, rest) = body.split_once('.')?;
    let (fraction, exponent) = match rest.find(['e', 'E']) {
        Some(at) => (&rest[..at], Some(&rest[at + 1..])),
        None => (rest, None),
    };
    if !fraction.bytes().all(digit_or_underscore) {
        return None;
    }
    if let Some(exponent) = exponent {
        let digits = exponent.strip_prefix(['-', '+'])?;
        if !all_of(digits, |b| b.is_ascii_digit()) {
            return None;
        }
    }
    if whole.is_empty() {
        // PyYAML before 5.4 resolves `._` too, and then fails on `float(".")`.
        return (!fraction.is_empty() && body.len() == text.len()).then(|| has_digit(fraction));
    }
    if !whole.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let mut parts = whole.split(':');
    parts.next().filter(|p| all_of(p, digit_or_underscore))?;
    let mut count = 0;
    for part in parts {
        count += usize::from((exponent.is_none() && sixtieth(part)).then_some(true)?);
    }
    Some(count <= MAX_SEXAGESIMAL_PARTS)
}

/// `2001-12-14`, `2001-12-14t21:59:43.10-05:00`, `2001-12-14 21:59:43.10 -5`; `None` when it does
/// not look like one, else whether Python's `datetime` can hold it.
fn timestamp(text: &str) -> Option<bool> {
    let mut rest = text;
    let year = digits(&mut rest, 4, 4)?;
    let month = digits(eat(&mut rest, '-')?, 1, 2)?;
    let day = digits(eat(&mut rest, '-')?, 1, 2)?;
    let date_ok =
        year > 0 && (1..=12).contains(&month) && (1..=last_day(year, month)).contains(&day);
    if rest.is_empty() {
        // A bare date takes two digits each: `2001-1-1` is a string.
        return (text.len() == 10).then_some(date_ok);
    }
    let blank = rest.trim_start_matches([' ', '\t']);
    rest = if blank.len() < rest.len() { blank } else { rest.strip_prefix(['T', 't'])? };
    let hour = digits(&mut rest, 1, 2)?;
    let minute = digits(eat(&mut rest, ':')?, 2, 2)?;
    let second = digits(eat(&mut rest, ':')?, 2, 2)?;
    if let Some(fraction) = rest.strip_prefix('.') {
        rest = fraction.trim_start_matches(|c: char| c.is_ascii_digit());
    }
    let time_ok = date_ok && hour < 24 && minute < 60 && second < 60;
    if rest.is_empty() {
        return Some(time_ok);
    }
    rest = rest.trim_start_matches([' ', '\t']);
    if rest == "Z" {
        return Some(time_ok);
    }
    rest = rest.strip_prefix(['-', '+'])?;
    let zone_hour = digits(&mut rest, 1, 2)?;
    let zone_minute = if rest.is_empty() {
        0
    } else {
        digits(eat(&mut rest, ':')?, 2, 2).filter(|_| rest.is_empty())?
    };
    // PyYAML before 5.4 subtracts the offset, which leaves Python's years at either end.
    Some(time_ok && zone_hour * 60 + zone_minute < 24 * 60 && (2..9999).contains(&year))
}

fn unsigned(text: &str) -> &str {
    text.strip_prefix(['-', '+']).unwrap_or(text)
}

fn all_of(text: &str, accept: impl Fn(u8) -> bool) -> bool {
    !text.is_empty() && text.bytes().all(accept)
}

fn digit_or_underscore(byte: u8) -> bool {
    byte.is_ascii_digit() || byte == b'_'
}

fn has_digit(text: &str) -> bool {
    text.bytes().any(|b| b.is_ascii_digit())
}

fn decimal_digits(text: &str) -> usize {
    text.bytes().filter(u8::is_ascii_digit).count()
}

/// `[0-5]?[0-9]`
fn sixtieth(part: &str) -> bool {
    match part.as_bytes() {
        [unit] => unit.is_ascii_digit(),
        [ten, unit] => (b'0'..=b'5').contains(ten) && unit.is_ascii_digit(),
        _ => false,
    }
}

/// Takes `min` to `max` digits off the front.
fn digits(rest: &mut &str, min: usize, max: usize) -> Option<u32> {
    let run = rest.bytes().take(max).take_while(u8::is_ascii_digit).count();
    let (number, tail) = rest.split_at(run);
    *rest = tail;
    if run < min { None } else { number.parse().ok() }
}

fn eat<'r, 'a>(rest: &'r mut &'a str, c: char) -> Option<&'r mut &'a str> {
    *rest = rest.strip_prefix(c)?;
    Some(rest)
}

fn last_day(year: u32, month: u32) -> u32 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => {
            29
        }
        2 => 28,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_scalars_have_the_types_of_yaml_1_1() {
        for (text, kind) in [
            ("yes", Kind::Bool),
            ("y", Kind::Str),
            ("0755", Kind::Int),
            ("0o755", Kind::Str),
            ("08", Kind::Str),
            ("12:30:45", Kind::Int),
            ("12:30:60", Kind::Str),
            ("1_000", Kind::Int),
            ("_1", Kind::Str),
            ("1e5", Kind::Str),
            ("1.0e+5", Kind::Float),
            ("-.inf", Kind::Float),
            ("-.nan", Kind::Str),
            ("1.2.3", Kind::Str),
            ("12:30.5", Kind::Float),
            ("2024-02-29", Kind::Timestamp),
            ("2024-2-29", Kind::Str),
            ("2024-2-29 1:02:03 -5", Kind::Timestamp),
            ("-", Kind::Str),
            ("~", Kind::Null),
            ("<<", Kind::Merge),
            ("=", Kind::Value),
        ] {
            assert_eq!(resolve(text), (kind, true), "{text}");
        }
    }

    #[test]
    fn a_value_that_python_cannot_build_is_told_apart() {
        let long = "1".repeat(4301);
        let clock = format!("1{}", ":1".repeat(65));
        for text in [
            "2024-02-30",
            "2023-02-29",
            "0000-01-01",
            "2024-01-01 24:00:00",
            "2024-01-01t00:00:00+24:00",
            "0b_",
            "-0x__",
            "._",
            &long,
            &clock,
        ] {
            assert!(!resolve(text).1, "{text}");
        }
    }
}
