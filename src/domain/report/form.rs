//! Forms: `application/x-www-form-urlencoded` and `multipart/form-data`.

use super::{Bounds, Refused, ReportedFile, multipart, storable, within_words};

/// Fields of a form at the most.
pub(super) const MOST_FIELDS: usize = 1000;

/// What a form holds: text by name, in its order, and files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Form {
    pub fields: Vec<(String, String)>,
    pub files: Vec<ReportedFile>,
}

impl Form {
    /// Reads a body by its media type; a body of any other type is a form without fields, as MAAS
    /// has it.
    ///
    /// # Errors
    /// [`Refused`] when it has too much in it, or is no form.
    pub fn parse(content_type: &str, body: &[u8], bounds: Bounds) -> Result<Form, Refused> {
        let (media_type, parameters) = content_type.split_once(';').unwrap_or((content_type, ""));
        match media_type.trim().to_ascii_lowercase().as_str() {
            "application/x-www-form-urlencoded" => Form::urlencoded(body),
            "multipart/form-data" => multipart::form(parameters, body, bounds),
            _ => Ok(Form::default()),
        }
        .and_then(|form| {
            within_words(form.fields.iter().map(|(name, value)| name.len() + value.len()).sum())?;
            Ok(form)
        })
    }

    fn urlencoded(body: &[u8]) -> Result<Form, Refused> {
        let mut fields = Vec::new();
        for pair in body.split(|b| *b == b'&').filter(|pair| !pair.is_empty()) {
            if fields.len() == MOST_FIELDS {
                return Err(Refused::TooLarge(format!("there are more than {MOST_FIELDS} fields")));
            }
            let end = pair.iter().position(|b| *b == b'=').unwrap_or(pair.len());
            let value = pair.get(end + 1..).unwrap_or_default();
            fields.push((decode(&pair[..end]), decode(value)));
        }
        Ok(Form { fields, files: Vec::new() })
    }

    /// The last value of a field, as Django has it.
    #[must_use]
    pub fn last(&self, name: &str) -> Option<&str> {
        self.fields.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// Text of a form; a `%` without its digits stands for itself.
fn decode(bytes: &[u8]) -> String {
    let digit = |at: usize| bytes.get(at).and_then(|b| char::from(*b).to_digit(16));
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        match (byte, digit(at + 1), digit(at + 2)) {
            (b'+', ..) => out.push(b' '),
            (b'%', Some(high), Some(low)) => {
                out.push(u8::try_from(high << 4 | low).unwrap_or_default());
                at += 2;
            }
            _ => out.push(*byte),
        }
        at += 1;
    }
    text(&out)
}

/// Any bytes as text.
pub(super) fn text(bytes: &[u8]) -> String {
    storable(String::from_utf8_lossy(bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_read_as_browsers_write_it_and_damage_is_left_as_it_is() {
        let form = Form::urlencoded(b"op=signal&error=a+b%26%C3%A9%00&x&=y&&bad=%zz%4&op=last%FF");
        let form = form.unwrap();
        let fields: Vec<(&str, &str)> =
            form.fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(
            fields,
            [
                ("op", "signal"),
                ("error", "a b&\u{e9}\u{fffd}"),
                ("x", ""),
                ("", "y"),
                ("bad", "%zz%4"),
                ("op", "last\u{fffd}"),
            ]
        );
        assert_eq!(form.last("op"), Some("last\u{fffd}"));
    }
}
