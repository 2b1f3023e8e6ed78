//! The webhook's JSON: lenient with text, strict with everything else.
//!
//! ```text
//! {"event_type": "start|progress|finish", "origin", "name", "description",
//!  "timestamp": 1795315087.84, "result": "SUCCESS|WARN|FAIL|FAILURE", "duration": 0.1,
//!  "files": [{"path", "encoding": "base64", "compression": null|"bzip2"|"gzip", "content"}], …}
//! ```

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::files::{Packed, Packing};
use super::{Bounds, Draft, EventType, Outcome, Refused, Report, Stamp, storable, within_words};

pub fn draft(body: &mut [u8], bounds: Bounds) -> Result<Draft, Refused> {
    let one = |problem: &str| Refused::Invalid(vec![problem.to_owned()]);
    if deepest(body) > bounds.depth {
        return Err(one("the report is nested too deeply"));
    }
    mend(body);
    let text = std::str::from_utf8(body).map_err(|_| one("the report is not UTF-8"))?;
    let fields: Fields = serde_json::from_str(text).map_err(|error| {
        one(match error.classify() {
            serde_json::error::Category::Data => {
                "the report is not one JSON object of single keys, at most 1000"
            }
            _ => "the report is not JSON",
        })
    })?;
    let mut said = Said::default();
    said.more(fields.0.iter().filter(|(key, _)| key != "files"))?;
    let mut reader = Reader { fields, problems: Vec::new() };

    let event_type = reader.required("event_type", |text| {
        EventType::parse(text).filter(|kind| *kind != EventType::Signal)
    });
    if let Some(None) = event_type {
        reader.wrong("event_type", "start, progress or finish");
    }
    let origin = reader.required("origin", str::to_owned);
    let name = reader.required("name", str::to_owned);
    let description = reader.required("description", str::to_owned);
    let timestamp = reader.number("timestamp");
    let result = reader.optional("result", Outcome::parse);
    if let Some(None) = result {
        reader.wrong("result", "SUCCESS, WARN, FAIL or FAILURE");
    }
    let duration = reader.number("duration");
    let mut extra = Map::new();
    if let Some(duration) = duration {
        extra.insert("duration".into(), value(duration));
    }
    let timestamp = timestamp.map(|raw| Stamp(raw.get().to_owned()));
    if let Some(odd) = timestamp.as_ref().filter(|stamp| stamp.instant().is_none()) {
        extra.insert("timestamp".into(), odd.as_str().into());
    }
    let packed = files(&mut reader, &mut extra, &mut said, bounds)?;
    for (key, raw) in reader.fields.0 {
        extra.insert(storable(key), value(raw));
    }
    let (Some(Some(event_type)), Some(origin), Some(name), Some(description), []) =
        (event_type, origin, name, description, reader.problems.as_slice())
    else {
        return Err(Refused::Invalid(reader.problems));
    };
    let report = Report {
        event_type,
        origin,
        name,
        description,
        result: result.flatten(),
        timestamp,
        files: Vec::new(),
        extra,
    };
    Ok(Draft { report, packed })
}

fn files(
    reader: &mut Reader,
    extra: &mut Map<String, Value>,
    said: &mut Said,
    bounds: Bounds,
) -> Result<Vec<Packed>, Refused> {
    let Some(raw) = reader.take("files") else { return Ok(Vec::new()) };
    let Ok(Items(items)) = serde_json::from_str(raw.get()) else {
        reader.wrong("files", "a list of objects of single keys");
        return Ok(Vec::new());
    };
    if items.len() > bounds.files {
        return Err(Refused::TooLarge(format!("there are more than {} files", bounds.files)));
    }
    let mut packed = Vec::new();
    let mut left = Vec::new();
    for (number, fields) in items.into_iter().enumerate() {
        said.more(fields.0.iter().filter(|(key, _)| key != "content"))?;
        let mut file = Reader { fields, problems: Vec::new() };
        let path = file.required("path", str::to_owned);
        let encoding = file.optional("encoding", str::to_owned);
        let packing = file.optional("compression", Packing::parse);
        // `null` is a file that the node could not read; without the key there is no telling.
        let there = file.fields.0.iter().any(|(key, _)| key == "content");
        let content = file.take("content").map(|raw| serde_json::from_str::<Text>(raw.get()));
        if !there {
            file.wrong("content", "this is required, null for a file that is absent");
        }
        if let Some(None) = packing {
            file.wrong("compression", "null, bzip2 or gzip");
        }
        let content = match content {
            None => None,
            Some(Err(_)) => {
                file.wrong("content", "this must be text");
                None
            }
            Some(Ok(_)) if encoding.as_deref() != Some("base64") => {
                file.wrong("encoding", "base64");
                None
            }
            Some(Ok(Text(text))) => Packed::decode(&text).or_else(|| {
                file.wrong("content", "this is not base64");
                None
            }),
        };
        let prefixed = |problem| format!("files: {}: {problem}", number + 1);
        reader.problems.extend(file.problems.into_iter().map(prefixed));
        if let Some(path) = path {
            packed.push(Packed { path, content, packing: packing.flatten() });
        }
        let rest = file.fields.0.into_iter().map(|(key, raw)| (storable(key), value(raw)));
        left.push(Value::Object(rest.collect()));
    }
    if left.iter().any(|rest| rest.as_object().is_some_and(|rest| !rest.is_empty())) {
        extra.insert("files".into(), left.into());
    }
    Ok(packed)
}

/// Keys of one object: each is compared with those before it.
const MOST_KEYS: usize = 1000;

/// The fields of an object as they were written, in their order.
struct Fields<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
                let mut fields: Vec<(String, &RawValue)> = Vec::new();
                while let Some((key, raw)) = map.next_entry::<String, _>()? {
                    if fields.len() == MOST_KEYS || fields.iter().any(|(other, _)| *other == key) {
                        return Err(serde::de::Error::custom("too many keys, or one twice"));
                    }
                    fields.push((key, raw));
                }
                Ok(Fields(fields))
            }
        }
        from.deserialize_map(Keys)
    }
}

/// How much a report says apart from what is in its files: it is kept in its row.
#[derive(Default)]
struct Said(usize);

impl Said {
    fn more<'f, 'a: 'f>(
        &mut self,
        fields: impl Iterator<Item = &'f (String, &'a RawValue)>,
    ) -> Result<(), Refused> {
        self.0 += fields.map(|(key, raw)| key.len() + raw.get().len()).sum::<usize>();
        within_words(self.0)
    }
}

/// A list of objects, of which no more are held than any setting allows.
struct Items<'a>(Vec<Fields<'a>>);

impl<'de: 'a, 'a> Deserialize<'de> for Items<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Some1000;
        impl<'de> Visitor<'de> for Some1000 {
            type Value = Items<'de>;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Items<'de>, A::Error> {
                let mut items = Vec::new();
                while items.len() <= MOST_KEYS
                    && let Some(fields) = list.next_element()?
                {
                    items.push(fields);
                }
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Items(items))
            }
        }
        from.deserialize_seq(Some1000)
    }
}

/// Text that is not copied unless it has escapes.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// Takes fields out one by one; what is wrong with them gathers.
struct Reader<'a> {
    fields: Fields<'a>,
    problems: Vec<String>,
}

impl<'a> Reader<'a> {
    fn wrong(&mut self, name: &str, why: &str) {
        self.problems.push(format!("{name}: {why}"));
    }

    /// A field that is there; `null` is as good as absent.
    fn take(&mut self, name: &str) -> Option<&'a RawValue> {
        let at = self.fields.0.iter().position(|(key, _)| key == name)?;
        Some(self.fields.0.remove(at).1).filter(|raw| raw.get() != "null")
    }

    fn optional<T>(&mut self, name: &str, parse: impl Fn(&str) -> T) -> Option<T> {
        let raw = self.take(name)?;
        let text = serde_json::from_str::<String>(raw.get());
        if text.is_err() {
            self.wrong(name, "this must be text");
        }
        Some(parse(&storable(text.ok()?)))
    }

    fn required<T>(&mut self, name: &str, parse: impl Fn(&str) -> T) -> Option<T> {
        let before = self.problems.len();
        let found = self.optional(name, parse);
        if found.is_none() && self.problems.len() == before {
            self.wrong(name, "this is required");
        }
        found
    }

    fn number(&mut self, name: &str) -> Option<&'a RawValue> {
        let raw = self.take(name)?;
        let is_number = raw.get().starts_with(|c: char| c == '-' || c.is_ascii_digit());
        if !is_number {
            self.wrong(name, "this must be a number");
        }
        Some(raw).filter(|_| is_number)
    }
}

/// A value as it may be kept; a number that is too large for any reader is kept as its text.
fn value(raw: &RawValue) -> Value {
    let value = serde_json::from_str(raw.get()).unwrap_or_else(|_| Value::from(raw.get()));
    kept(value)
}

fn kept(value: Value) -> Value {
    match value {
        Value::String(text) => storable(text).into(),
        Value::Array(items) => items.into_iter().map(kept).collect(),
        Value::Object(fields) => {
            Value::Object(fields.into_iter().map(|(k, v)| (storable(k), kept(v))).collect())
        }
        other => other,
    }
}

/// How deep the brackets go.
fn deepest(json: &[u8]) -> usize {
    let (mut depth, mut deepest, mut at) = (0_usize, 0, 0);
    while let Some(byte) = json.get(at) {
        match byte {
            b'"' => at = string_end(json, at),
            b'{' | b'[' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        at += 1;
    }
    deepest
}

/// Where the string that begins at `start` ends: its closing quote, or the end of it all.
fn string_end(json: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(byte) = json.get(at) {
        match byte {
            b'"' => return at,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    json.len()
}

/// Makes every `\u0000` and every surrogate without its other half a `\ufffd`: Python's json sends
/// both (`json.dumps` of what was decoded with `surrogateescape`), and neither can be kept.
fn mend(json: &mut [u8]) {
    let mut at = 0;
    while at < json.len() {
        if json[at] != b'\\' {
            at += 1;
            continue;
        }
        let Some(code) = escape(json, at) else {
            at += 2;
            continue;
        };
        let pair = matches!(code, 0xd800..=0xdbff)
            && matches!(escape(json, at + 6), Some(0xdc00..=0xdfff));
        if pair {
            at += 12;
            continue;
        }
        if matches!(code, 0 | 0xd800..=0xdfff) {
            json[at + 2..at + 6].copy_from_slice(b"fffd");
        }
        at += 6;
    }
}

/// The `\uXXXX` that stands here.
fn escape(json: &[u8], at: usize) -> Option<u16> {
    let digits = json.get(at..at + 6)?.strip_prefix(b"\\u")?;
    let text =
        std::str::from_utf8(digits).ok().filter(|t| t.bytes().all(|b| b.is_ascii_hexdigit()));
    u16::from_str_radix(text?, 16).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOUNDS: Bounds = Bounds { depth: 32, files: 16, file_bytes: 8 << 20 };

    fn report(json: &str) -> Result<Report, Refused> {
        Draft::from_json(&mut json.as_bytes().to_vec(), BOUNDS)?.unpack(BOUNDS)
    }

    fn described(description: &str) -> String {
        let json = format!(
            r#"{{"event_type": "start", "origin": "o", "name": "n", "description": "{description}"}}"#
        );
        report(&json).unwrap().description
    }

    #[test]
    fn text_that_cannot_be_kept_is_mended_and_all_else_is_left_alone() {
        for (sent, kept) in [
            (r"\u0000", "\u{fffd}"),
            (r"\ud83d", "\u{fffd}"),
            (r"\ude00", "\u{fffd}"),
            (r"\ud83d\ude00", "\u{1f600}"),
            (r"\uD83D\uDE00\ud83d", "\u{1f600}\u{fffd}"),
            (r"\ude00\ud83d", "\u{fffd}\u{fffd}"),
            (r"\ud83d\ud83d\ude00", "\u{fffd}\u{1f600}"),
            (r"\ud83d\n", "\u{fffd}\n"),
            (r"\\u0000", r"\u0000"),
            (r"\\\u0000", "\\\u{fffd}"),
            (r"\u00ef\u001b[31m", "\u{ef}\u{1b}[31m"),
            ("ü€😀", "ü€😀"),
        ] {
            assert_eq!(described(sent), kept, "{sent}");
        }
    }

    #[test]
    fn every_problem_is_named_and_nothing_is_repeated() {
        let Err(Refused::Invalid(problems)) = report(
            r#"{"event_type": "SECRET", "origin": 1, "timestamp": "SECRET", "result": "SECRET",
                "files": [{"path": "p", "encoding": "uuencode", "compression": "SECRET", "content": ""}]}"#,
        ) else {
            panic!("it was taken")
        };
        assert_eq!(
            problems,
            [
                "event_type: start, progress or finish",
                "origin: this must be text",
                "name: this is required",
                "description: this is required",
                "timestamp: this must be a number",
                "result: SUCCESS, WARN, FAIL or FAILURE",
                "files: 1: compression: null, bzip2 or gzip",
                "files: 1: encoding: base64",
            ]
        );
    }

    #[test]
    fn what_no_reader_would_take_again_is_kept_as_text() {
        let report = report(
            r#"{"event_type": "finish", "origin": "o", "name": "n", "description": "",
                "timestamp": 1e400, "level": "INFO", "huge": -1e999, "deep": [{"a": "\u0000"}]}"#,
        )
        .unwrap();
        assert_eq!(report.timestamp.unwrap().as_str(), "1e400");
        assert_eq!(
            Value::from(report.extra).to_string(),
            "{\"timestamp\":\"1e400\",\"level\":\"INFO\",\"huge\":\"-1e999\",\"deep\":[{\"a\":\"\u{fffd}\"}]}"
        );
    }

    #[test]
    fn what_is_nested_further_than_allowed_is_refused_without_being_parsed() {
        let nested = |levels: usize| {
            let (open, close) = ("[".repeat(levels), "]".repeat(levels));
            report(&format!(
                r#"{{"event_type": "start", "origin": "o", "name": "n", "description": "[[[[", "x": {open}{close}}}"#
            ))
        };
        assert!(nested(31).is_ok());
        assert!(nested(32).is_err());
        assert!(nested(1 << 20).is_err());
    }

    proptest! {
        #[test]
        fn nothing_sent_makes_it_panic(body in any::<Vec<u8>>()) {
            let _ = Draft::from_json(&mut body.clone(), BOUNDS);
        }

        #[test]
        fn any_text_comes_back_as_it_was(text in any::<String>()) {
            let sent = Value::from(text.as_str()).to_string();
            let json = format!(
                r#"{{"event_type": "start", "origin": {sent}, "name": {sent}, "description": {sent}}}"#
            );
            let report = report(&json).unwrap();
            let kept = text.replace('\0', "\u{fffd}");
            prop_assert_eq!([report.origin, report.name, report.description], [kept.clone(), kept.clone(), kept]);
        }

        #[test]
        fn mending_keeps_what_was_json_json(units in proptest::collection::vec(any::<u16>(), 0..40)) {
            let text: Vec<String> = units.iter().map(|unit| format!("\\u{unit:04x}")).collect();
            let kept = described(&text.concat());
            prop_assert_eq!(kept, String::from_utf16_lossy(&units).replace('\0', "\u{fffd}"));
        }
    }
}
