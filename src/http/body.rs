//! Request bodies: read within bounds, parsed strictly, every problem named and nothing echoed.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use actix_web::http::header;
use actix_web::{HttpRequest, web};
use base64::Engine as _;
use bytes::BytesMut;
use futures_util::StreamExt as _;
use serde::de::{Deserialize, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::error::HttpError;
use crate::actions::Problem;
use crate::domain::limits::Limits;

/// A body that does not move for this long is given up.
const STALLED: Duration = Duration::from_secs(30);

/// Reads a whole body of at most `limit` bytes.
///
/// # Errors
/// 413 as soon as it is known to be too large, 408 when it stalls, 400 when it breaks off.
pub async fn read(
    request: &HttpRequest,
    mut payload: web::Payload,
    limit: usize,
) -> Result<BytesMut, HttpError> {
    let announced = request
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|length| length > limit) {
        return Err(HttpError::too_large(limit));
    }
    let mut body = BytesMut::with_capacity(announced.unwrap_or(0).min(1 << 20));
    loop {
        let chunk = tokio::time::timeout(STALLED, payload.next()).await.map_err(|_| {
            HttpError::new(actix_web::http::StatusCode::REQUEST_TIMEOUT, "the body stopped coming")
        })?;
        match chunk {
            None => return Ok(body),
            Some(Ok(chunk)) if body.len() + chunk.len() > limit => {
                return Err(HttpError::too_large(limit));
            }
            Some(Ok(chunk)) => body.extend_from_slice(&chunk),
            Some(Err(_)) => {
                return Err(HttpError::invalid(vec![Problem::new("the body broke off")]));
            }
        }
    }
}

/// The media type of a request without its parameters, in lower case.
#[must_use]
pub fn media_type(request: &HttpRequest) -> String {
    let value = request.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
    value.unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// Reads a JSON object; the route's guard has seen to its media type.
///
/// # Errors
/// 413, or 400 that says where it is no JSON.
pub async fn fields(
    request: &HttpRequest,
    payload: web::Payload,
    limits: &Limits,
) -> Result<Fields, HttpError> {
    let body = read(request, payload, limits.json_bytes).await?;
    let value =
        parse(&body, limits.json_depth).map_err(|problem| HttpError::invalid(vec![problem]))?;
    Fields::new(value).map_err(|problem| HttpError::invalid(vec![problem]))
}

/// The same where a request without a body is as good as `{}`.
///
/// # Errors
/// As [`fields`].
pub async fn optional_fields(
    request: &HttpRequest,
    payload: web::Payload,
    limits: &Limits,
) -> Result<Fields, HttpError> {
    let body = read(request, payload, limits.json_bytes).await?;
    let body: &[u8] = if body.is_empty() { b"{}" } else { &body };
    let value = parse(body, limits.json_depth).and_then(Fields::new);
    value.map_err(|problem| HttpError::invalid(vec![problem]))
}

/// One JSON value, strictly: no duplicate keys, no more than `depth` levels.
///
/// # Errors
/// Where it stops being that.
pub fn parse(bytes: &[u8], depth: usize) -> Result<Value, Problem> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value =
        Strict { depth }.deserialize(&mut json).and_then(|value| json.end().map(|()| value));
    value.map_err(|error| {
        // serde_json's own message may repeat what was sent.
        let why = match error.classify() {
            serde_json::error::Category::Data => "has a duplicate key or is nested too deeply",
            serde_json::error::Category::Eof => "ends too early",
            _ => "is not JSON",
        };
        Problem::new(format!("the body {why}, at line {} column {}", error.line(), error.column()))
    })
}

/// One line of newline-delimited JSON and its number.
///
/// # Errors
/// Every line that is not JSON.
pub fn parse_lines(bytes: &[u8], depth: usize) -> Result<Vec<(usize, Value)>, Vec<Problem>> {
    let mut values = Vec::new();
    let mut problems = Vec::new();
    for (number, line) in bytes.split(|b| *b == b'\n').enumerate() {
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        match parse(line, depth) {
            Ok(value) => values.push((number + 1, value)),
            Err(_) => problems.push(Problem::line(number + 1, "this line is not JSON")),
        }
    }
    if problems.is_empty() { Ok(values) } else { Err(problems) }
}

struct Strict {
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let depth = self.inner()?;
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(Strict { depth })? {
            items.push(item);
        }
        Ok(items.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let depth = self.inner()?;
        let mut fields = serde_json::Map::new();
        while let Some(key) = map.next_key_seed(Key)? {
            let value = map.next_value_seed(Strict { depth })?;
            if fields.insert(key, value).is_some() {
                return Err(serde::de::Error::custom("duplicate key"));
            }
        }
        Ok(fields.into())
    }
}

impl Strict {
    fn inner<E: serde::de::Error>(&self) -> Result<usize, E> {
        self.depth.checked_sub(1).ok_or_else(|| E::custom("nested too deeply"))
    }
}

struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<String, D::Error> {
        String::deserialize(from)
    }
}

/// The fields of a JSON object, taken out one by one; what is wrong with them gathers.
#[derive(Debug)]
pub struct Fields {
    left: serde_json::Map<String, Value>,
    asked: Vec<&'static str>,
    problems: Vec<Problem>,
}

impl Fields {
    /// # Errors
    /// When the value is no object.
    pub fn new(value: Value) -> Result<Fields, Problem> {
        match value {
            Value::Object(left) => Ok(Fields { left, asked: Vec::new(), problems: Vec::new() }),
            _ => Err(Problem::new("this must be a JSON object")),
        }
    }

    /// A field that is there; `null` is as good as absent.
    fn take(&mut self, name: &'static str) -> Option<Value> {
        self.asked.push(name);
        self.left.remove(name).filter(|value| !value.is_null())
    }

    fn wrong<T>(&mut self, name: &'static str, why: impl Into<String>) -> Option<T> {
        self.problems.push(Problem::field(name, why));
        None
    }

    /// Whether a field was sent, `null` included.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.left.contains_key(name)
    }

    /// Whether two fields were sent with the same value.
    #[must_use]
    pub fn agree(&self, name: &str, other: &str) -> bool {
        self.left.get(name) == self.left.get(other)
    }

    /// Notes what is wrong with a field beyond its own value.
    pub fn refuse(&mut self, name: &'static str, why: impl Into<String>) {
        self.wrong::<()>(name, why);
    }

    /// An object inside this one.
    pub fn object(&mut self, name: &'static str) -> Option<Fields> {
        match self.take(name).map(Fields::new) {
            None => None,
            Some(Ok(fields)) => Some(fields),
            Some(Err(_)) => self.wrong(name, "this must be a JSON object"),
        }
    }

    /// Text that `parse` understands.
    pub fn parsed<T>(
        &mut self,
        name: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        match self.take(name)? {
            Value::String(text) => match parse(&text) {
                Ok(parsed) => Some(parsed),
                Err(why) => self.wrong(name, why),
            },
            _ => self.wrong(name, "this must be text"),
        }
    }

    pub fn text(&mut self, name: &'static str) -> Option<String> {
        self.parsed(name, |text| Ok(text.to_owned()))
    }

    /// A field that has to be there.
    pub fn required<T>(
        &mut self,
        name: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        if self.left.get(name).is_none_or(Value::is_null) {
            self.asked.push(name);
            self.left.remove(name);
            return self.wrong(name, "this is required");
        }
        self.parsed(name, parse)
    }

    pub fn list<T>(
        &mut self,
        name: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<Vec<T>> {
        let Value::Array(items) = self.take(name)? else {
            return self.wrong(name, "this must be a list of texts");
        };
        if items.len() > 1000 {
            return self.wrong(name, "this is a list of at most 1000");
        }
        let mut list = Vec::with_capacity(items.len());
        for item in items {
            match item.as_str().map(&parse) {
                Some(Ok(parsed)) => list.push(parsed),
                Some(Err(why)) => return self.wrong(name, why),
                None => return self.wrong(name, "this must be a list of texts"),
            }
        }
        Some(list)
    }

    pub fn map<T>(
        &mut self,
        name: &'static str,
        parse: impl Fn(BTreeMap<String, String>) -> Result<T, String>,
    ) -> Option<T> {
        let Value::Object(pairs) = self.take(name)? else {
            return self.wrong(name, "this must be an object of texts");
        };
        let mut map = BTreeMap::new();
        for (key, value) in pairs {
            match value {
                Value::String(text) => map.insert(key, text),
                _ => return self.wrong(name, "this must be an object of texts"),
            };
        }
        match parse(map) {
            Ok(parsed) => Some(parsed),
            Err(why) => self.wrong(name, why),
        }
    }

    /// A JSON boolean; `"true"` and 1 are none (CVE-2026-40683).
    pub fn boolean(&mut self, name: &'static str) -> Option<bool> {
        match self.take(name)? {
            Value::Bool(value) => Some(value),
            _ => self.wrong(name, "this must be true or false"),
        }
    }

    /// The same where `null` is no way to leave it out.
    pub fn flag(&mut self, name: &'static str, why: &'static str) -> Option<bool> {
        self.asked.push(name);
        match self.left.remove(name)? {
            Value::Bool(value) => Some(value),
            _ => self.wrong(name, why),
        }
    }

    /// Bytes in base64.
    pub fn bytes(&mut self, name: &'static str, limit: usize) -> Option<Vec<u8>> {
        self.parsed(name, |text| {
            let bytes = base64::engine::general_purpose::STANDARD
                .decode(text)
                .map_err(|_| "this must be base64".to_owned())?;
            if bytes.len() > limit {
                return Err(format!("this is larger than the {limit} bytes allowed"));
            }
            Ok(bytes)
        })
    }

    /// Everything that was wrong, fields that nobody asked for included.
    #[must_use]
    pub fn finish(mut self) -> Vec<Problem> {
        if !self.left.is_empty() {
            self.asked.sort_unstable();
            self.problems.push(Problem::new(format!(
                "there is a field that is not known; known are {}",
                self.asked.join(", ")
            )));
        }
        self.problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duplicate_keys_and_deep_nesting_are_refused() {
        assert!(parse(br#"{"a": 1, "b": [true, null, "x", 1.5, -1]}"#, 32).is_ok());
        for bad in
            [r#"{"a":1,"a":2}"#, r#"{"a":{"b":1,"b":1}}"#, "", "{", "{} {}", "[1,]", "\u{feff}{}"]
        {
            assert!(parse(bad.as_bytes(), 32).is_err(), "{bad}");
        }
        let nested = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
        assert!(parse(nested(32).as_bytes(), 32).is_ok());
        assert!(parse(nested(33).as_bytes(), 32).is_err());
        assert!(parse("[".repeat(100_000).as_bytes(), 32).is_err());
    }

    #[test]
    fn every_problem_of_an_object_is_named_and_nothing_is_echoed() {
        let value =
            parse(br#"{"hostname": 7, "macs": ["hunter2"], "netboot": "true", "hunter2": 1}"#, 32);
        let mut fields = Fields::new(value.unwrap()).unwrap();
        assert_eq!(fields.required("hostname", |t| Ok(t.to_owned())), None);
        assert_eq!(fields.list("macs", |_| Err::<(), _>("no MAC".into())), None);
        assert_eq!(fields.boolean("netboot"), None);
        assert_eq!(fields.required("system_id", |t| Ok(t.to_owned())), None);
        let problems = fields.finish();
        let named: Vec<_> = problems.iter().map(|problem| problem.field).collect();
        assert_eq!(
            named,
            [Some("hostname"), Some("macs"), Some("netboot"), Some("system_id"), None]
        );
        assert!(!serde_json::to_string(&problems).unwrap().contains("hunter2"));
    }
}
