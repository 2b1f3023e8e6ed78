//! Identity as Keystone v2.0 speaks it: the subset that its real clients need.

pub mod tenants;
pub mod tokens;
pub mod users;

use actix_web::{HttpRequest, web};
use jiff::Timestamp;
use uuid::Uuid;

use crate::actions::Problem;
use crate::domain::identity::Name;
use crate::http::Shared;
use crate::http::body::{self, Fields};
use crate::http::error::HttpError;
use crate::store::columns::Id;

use super::guard::IDENTITY_BYTES;

/// What is in `{"NAME": {…}}`.
async fn envelope(
    shared: &Shared,
    request: &HttpRequest,
    payload: web::Payload,
    name: &'static str,
) -> Result<Fields, HttpError> {
    let bytes = body::read(request, payload, IDENTITY_BYTES).await?;
    let value = body::parse(&bytes, shared.app.limits.json_depth);
    let mut outer = value.and_then(Fields::new).map_err(|p| HttpError::invalid(vec![p]))?;
    let inner = outer.object(name);
    let problems = outer.finish();
    if !problems.is_empty() {
        return Err(HttpError::invalid(problems));
    }
    inner.ok_or_else(|| missing(name))
}

/// An id of a URL; what is none is nobody's.
fn id(text: &str) -> Option<Id> {
    Uuid::try_parse(text).ok().map(Id)
}

/// A name to be given. The words for an empty one are Keystone's.
fn name(text: &str) -> Result<Name, String> {
    if text.trim().is_empty() {
        return Err("Name field is required and cannot be empty".into());
    }
    // Whoever names somebody by id must not meet somebody else.
    if id(text.trim()).is_some() {
        return Err("a name does not look like an id".into());
    }
    Name::parse(text)
}

/// Keystone's clients send an object's id along with a change; it cannot be changed.
fn keep_id(fields: &mut Fields, of: &str) {
    if fields.text("id").is_some_and(|sent| id(&sent) != id(of)) {
        fields.refuse("id", "an id is not changed");
    }
}

/// Text of a person's choice, for people to read.
fn note(text: &str) -> Result<String, String> {
    if text.len() <= 255 && !text.contains(char::is_control) {
        Ok(text.to_owned())
    } else {
        Err("this is at most 255 bytes of one line".into())
    }
}

const ENABLED: &str = "Enabled field must be a boolean";

/// The one value of a query parameter; others are not known.
fn only(query: super::Query, known: &'static str) -> Result<Option<String>, HttpError> {
    let mut found = None;
    for (name, value) in query.into_inner() {
        if name != known || found.is_some() {
            return Err(HttpError::invalid(vec![super::unknown_parameter(known)]));
        }
        found = Some(value);
    }
    Ok(found)
}

/// `2027-01-15T09:00:00Z`: whole seconds, which all of Keystone's clients read.
fn seconds(at: Timestamp) -> String {
    Timestamp::from_second(at.as_second()).unwrap_or(at).to_string()
}

fn missing(field: &'static str) -> HttpError {
    HttpError::invalid(vec![Problem::field(field, "this is required")])
}
