//! `/v1/audit`.

use actix_web::{HttpResponse, web};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::{Paging, Query, refuse_if, unknown_parameter};
use crate::actions::contents::hex;
use crate::actions::{self, Problem};
use crate::domain::audit::{Noted, parse_since};
use crate::http::Shared;
use crate::http::error::HttpError;
use crate::http::extract::Operator;
use crate::store::audit as store;

/// Rows oldest first, which is the order of the chain.
pub async fn list(
    shared: web::Data<Shared>,
    _operator: Operator,
    query: Query,
) -> Result<HttpResponse, HttpError> {
    let mut problems = Vec::new();
    let (paging, rest) = Paging::take(query, shared.app.limits.page, &mut problems);
    let mut filter = store::Filter::default();
    for (name, value) in rest {
        // PostgreSQL refuses to look for it, and no row has it.
        if value.contains('\0') {
            problems.push(Problem::new("a filter has no NUL in it"));
            continue;
        }
        match name.as_str() {
            "actor" => filter.actor = Some(value),
            "verb" => filter.verb = Some(value),
            "object" => filter.object = Some(value),
            "since" => match parse_since(&value, shared.app.clock.now()) {
                Ok(since) => filter.since = Some(since),
                Err(why) => problems.push(Problem::field("since", why)),
            },
            _ => problems.push(unknown_parameter("actor, cursor, limit, object, since, verb")),
        }
    }
    let after = match (paging.after.as_str(), paging.after.parse()) {
        ("", _) => i64::MIN,
        (_, Ok(seq)) => seq,
        (_, Err(_)) => {
            problems.push(Problem::field("cursor", "no cursor of this list"));
            0
        }
    };
    refuse_if(problems)?;
    let limit = paging.limit_and_one();
    let rows = shared.app.db.read(move |conn| store::list(conn, &filter, after, limit)).await?;
    let page = paging.page(rows.into_iter().map(shown).collect(), |row| row.seq.to_string());
    Ok(HttpResponse::Ok().json(page))
}

/// One row of the chain.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "AuditRow")]
pub(super) struct Shown {
    seq: i64,
    at: Timestamp,
    actor: String,
    /// The action, as policy names it.
    verb: String,
    object: String,
    /// `done` or `refused`.
    outcome: String,
    detail: Value,
    request_id: String,
    /// In hexadecimal digits.
    mac: String,
}

fn shown(store::Row { seq, entry, mac }: store::Row) -> Shown {
    Shown {
        seq,
        at: entry.at,
        actor: entry.actor,
        verb: entry.verb,
        object: entry.object,
        outcome: entry.outcome,
        detail: serde_json::from_str(&entry.detail).unwrap_or_else(|_| entry.detail.into()),
        request_id: entry.request_id,
        mac: hex(&mac),
    }
}

/// Whether the audit is whole; `?head=COUNT:MAC` is what it was seen to be earlier.
pub async fn verify(
    shared: web::Data<Shared>,
    _operator: Operator,
    query: Query,
) -> Result<HttpResponse, HttpError> {
    let mut problems = Vec::new();
    let mut noted = None;
    for (name, value) in query.into_inner() {
        match (name.as_str(), Noted::parse(&value)) {
            ("head", Ok(head)) => noted = Some(head),
            ("head", Err(why)) => problems.push(Problem::field("head", why)),
            _ => problems.push(unknown_parameter("head")),
        }
    }
    refuse_if(problems)?;
    Ok(HttpResponse::Ok().json(actions::audit::verify(&shared.app, noted).await?))
}
