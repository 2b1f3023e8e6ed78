//! `/v1/{project}/nodes/{system_id}/events` and `/v1/events`: what nodes reported.

use actix_web::http::header;
use actix_web::{HttpResponse, web};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::{Paging, Query, refuse_if, unknown_parameter};
use crate::actions::contents::hex;
use crate::actions::{Failure, Problem};
use crate::domain::audit::parse_since;
use crate::domain::report::EventType;
use crate::http::Shared;
use crate::http::error::HttpError;
use crate::http::extract::{OnNode, Operator};
use crate::store::columns::Id;
use crate::store::{DbConnection, events as store};

/// One event as a node reported it.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Event")]
pub(super) struct Row {
    id: String,
    system_id: String,
    event_type: String,
    origin: String,
    name: String,
    description: String,
    result: Option<String>,
    /// The node's own time, if it is one.
    timestamp: Option<Timestamp>,
    received_at: Timestamp,
    files: Vec<File>,
    /// Everything else it said.
    #[schemars(with = "serde_json::Value")]
    extra: Option<Box<RawValue>>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "EventFile")]
struct File {
    ordinal: i32,
    path: String,
    /// In hexadecimal digits; `null` where the node had no such file.
    sha256: Option<String>,
    size: i64,
}

fn shown(event: store::Event) -> Row {
    let file = |file: store::File| File {
        ordinal: file.ordinal,
        path: file.path,
        sha256: file.sha256.as_deref().map(hex),
        size: file.size,
    };
    Row {
        id: event.id.to_string(),
        system_id: event.system_id,
        event_type: event.event_type,
        origin: event.origin,
        name: event.name,
        description: event.description,
        result: event.result,
        timestamp: event.node_time,
        received_at: event.received_at,
        files: event.files.into_iter().map(file).collect(),
        extra: RawValue::from_string(event.extra).ok(),
    }
}

/// What a query asks for.
struct Asked {
    paging: Paging,
    filter: store::Filter,
    after: Option<Id>,
    /// So many of the newest, instead of a page.
    newest: Option<i64>,
}

impl Asked {
    fn take(query: Query, shared: &Shared, problems: &mut Vec<Problem>) -> Asked {
        let (paging, rest) = Paging::take(query, shared.app.limits.page, problems);
        let after = match (paging.after.as_str(), Uuid::try_parse(&paging.after)) {
            ("", _) => None,
            (_, Ok(id)) => Some(Id(id)),
            (_, Err(_)) => {
                problems.push(Problem::field("cursor", "no cursor of this list"));
                None
            }
        };
        let mut asked = Asked { paging, filter: store::Filter::default(), after, newest: None };
        for (name, value) in rest {
            match name.as_str() {
                "type" => match EventType::parse(&value) {
                    Some(kind) => asked.filter.event_type = Some(kind.as_str()),
                    None => {
                        problems.push(Problem::field("type", "start, progress, finish or signal"));
                    }
                },
                // PostgreSQL refuses to look for it, and no event has it.
                "name" => asked.filter.name = Some(value.replace('\0', "\u{fffd}")),
                "since" => match parse_since(&value, shared.app.clock.now()) {
                    Ok(since) => asked.filter.since = Some(since),
                    Err(why) => problems.push(Problem::field("since", why)),
                },
                "newest" => match value.parse() {
                    Ok(newest) if newest > 0 => asked.newest = Some(newest),
                    _ => problems.push(Problem::field("newest", "a number from 1")),
                },
                _ => problems.push(unknown_parameter("cursor, limit, name, newest, since, type")),
            }
        }
        asked
    }

    async fn answer(self, shared: &Shared) -> Result<HttpResponse, HttpError> {
        let Asked { paging, filter, after, newest } = self;
        let most = paging.limit_and_one();
        let (tail, limit) = match newest {
            Some(newest) => (true, newest.min(most - 1)),
            None => (false, most),
        };
        let read = move |conn: &mut DbConnection| store::list(conn, &filter, after, tail, limit);
        let rows = shared.app.db.read(read).await?;
        let rows = rows.into_iter().map(shown).collect();
        Ok(HttpResponse::Ok().json(paging.page(rows, |event| event.id.clone())))
    }
}

/// One node's events, the oldest first.
pub async fn list(
    shared: web::Data<Shared>,
    scope: OnNode,
    query: Query,
) -> Result<HttpResponse, HttpError> {
    let mut problems = Vec::new();
    let mut asked = Asked::take(query, &shared, &mut problems);
    refuse_if(problems)?;
    asked.filter.system_id = Some(scope.node()?.1);
    asked.answer(&shared).await
}

/// The events of the whole fleet, the oldest first.
pub async fn list_all(
    shared: web::Data<Shared>,
    _operator: Operator,
    query: Query,
) -> Result<HttpResponse, HttpError> {
    let mut problems = Vec::new();
    let asked = Asked::take(query, &shared, &mut problems);
    refuse_if(problems)?;
    asked.answer(&shared).await
}

/// The bytes of one file as the node had them.
pub async fn show_file(
    shared: web::Data<Shared>,
    scope: OnNode,
    path: web::Path<FileNames>,
) -> Result<HttpResponse, HttpError> {
    let (_, system_id) = scope.node()?;
    let none = || Failure::NotFound("this event has no such file");
    let event = Uuid::try_parse(&path.event).map_err(|_| none())?;
    let ordinal = path.ordinal.parse().map_err(|_| none())?;
    let read =
        move |conn: &mut DbConnection| store::find_file(conn, &system_id, Id(event), ordinal);
    let bytes = shared.app.db.read(read).await?.ok_or_else(none)?;
    // What a node made up is never anything that a browser would show.
    Ok(HttpResponse::Ok()
        .insert_header((header::CONTENT_TYPE, "application/octet-stream"))
        .insert_header((header::CONTENT_DISPOSITION, "attachment"))
        .insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .body(bytes))
}

/// What the path of a file names, beside the node.
#[derive(Deserialize)]
pub struct FileNames {
    event: String,
    ordinal: String,
}
