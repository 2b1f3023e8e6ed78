//! `/v1/{project}/nodes/{system_id}/user-data` and `/vendor-data`.

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};

use super::{Page, Query, is_strict, unknown_parameter};
use crate::actions::contents::{Precondition, hex};
use crate::actions::{self, Failure, Problem};
use crate::domain::metadata::ContentKind;
use crate::http::Shared;
use crate::http::body;
use crate::http::error::HttpError;
use crate::http::extract::OnNode;
use crate::store::contents as store;

macro_rules! doors {
    ($kind:expr, $show:ident, $list:ident, $set:ident, $clear:ident) => {
        pub async fn $show(
            shared: web::Data<Shared>,
            scope: OnNode,
            query: Query,
        ) -> Result<HttpResponse, HttpError> {
            show(&shared, scope, query, $kind).await
        }

        pub async fn $list(
            shared: web::Data<Shared>,
            scope: OnNode,
        ) -> Result<HttpResponse, HttpError> {
            list(&shared, scope, $kind).await
        }

        pub async fn $set(
            shared: web::Data<Shared>,
            scope: OnNode,
            query: Query,
            request: HttpRequest,
            payload: web::Payload,
        ) -> Result<HttpResponse, HttpError> {
            set(&shared, scope, query, request, payload, $kind).await
        }

        pub async fn $clear(
            shared: web::Data<Shared>,
            scope: OnNode,
            request: HttpRequest,
        ) -> Result<HttpResponse, HttpError> {
            clear(&shared, scope, &request, $kind).await
        }
    };
}
doors!(ContentKind::UserData, show_user_data, list_user_data, set_user_data, clear_user_data);
doors!(
    ContentKind::VendorData,
    show_vendor_data,
    list_vendor_data,
    set_vendor_data,
    clear_vendor_data
);

/// The bytes of the current version, or of `?version=N`.
async fn show(
    shared: &Shared,
    scope: OnNode,
    query: Query,
    kind: ContentKind,
) -> Result<HttpResponse, HttpError> {
    let mut version = None;
    for (name, value) in query.into_inner() {
        match (name.as_str(), value.parse::<i32>()) {
            ("version", Ok(number)) => version = Some(number),
            ("version", Err(_)) => {
                return Err(HttpError::invalid(vec![Problem::field("version", "a number")]));
            }
            _ => return Err(HttpError::invalid(vec![unknown_parameter("version")])),
        }
    }
    let (_, system_id) = scope.node()?;
    let found = shared
        .app
        .db
        .read(move |conn| {
            let number = match version {
                Some(number) => Some(number),
                None => store::find_newest(conn, &system_id, kind)?.map(|newest| newest.version),
            };
            let Some(number) = number else { return Ok(None) };
            let bytes = store::find_version(conn, &system_id, kind, number)?;
            Ok(bytes.map(|bytes| (number, bytes)))
        })
        .await?;
    let (number, bytes) = found.ok_or(Failure::NotFound("there is none for this node"))?;
    Ok(HttpResponse::Ok()
        .insert_header((header::CONTENT_TYPE, "application/octet-stream"))
        .insert_header((header::ETAG, etag(number)))
        .body(bytes))
}

#[derive(serde::Serialize, schemars::JsonSchema)]
#[schemars(rename = "Version")]
pub(super) struct Row {
    version: i32,
    sha256: Option<String>,
    size: i64,
    created_at: jiff::Timestamp,
}

/// Every version; one without a digest cleared the content.
async fn list(
    shared: &Shared,
    scope: OnNode,
    kind: ContentKind,
) -> Result<HttpResponse, HttpError> {
    let (_, system_id) = scope.node()?;
    let versions = shared.app.db.read(move |conn| store::list(conn, &system_id, kind)).await?;
    let items = versions
        .into_iter()
        .map(|v| Row {
            version: v.version,
            sha256: v.sha256.as_deref().map(hex),
            size: v.size,
            created_at: v.created_at,
        })
        .collect();
    Ok(HttpResponse::Ok().json(Page { items, next: None }))
}

async fn set(
    shared: &Shared,
    scope: OnNode,
    query: Query,
    request: HttpRequest,
    payload: web::Payload,
    kind: ContentKind,
) -> Result<HttpResponse, HttpError> {
    let bytes = body::read(&request, payload, shared.app.limits.content_bytes).await?;
    let strict = is_strict(query)?;
    let precondition = precondition(&request)?;
    let location = request.path().to_owned();
    let (project, system_id) = scope.named()?;
    let stored = actions::contents::set(
        &shared.app,
        &scope.by,
        project,
        system_id,
        kind,
        bytes.to_vec(),
        precondition,
        strict,
    )
    .await?;
    let mut response = if stored.created { HttpResponse::Created() } else { HttpResponse::Ok() };
    if stored.created {
        response.insert_header((header::LOCATION, location));
    }
    Ok(response.insert_header((header::ETAG, etag(stored.version))).json(stored))
}

async fn clear(
    shared: &Shared,
    scope: OnNode,
    request: &HttpRequest,
    kind: ContentKind,
) -> Result<HttpResponse, HttpError> {
    let precondition = precondition(request)?;
    let (project, system_id) = scope.named()?;
    actions::contents::clear(&shared.app, &scope.by, project, system_id, kind, precondition)
        .await?;
    Ok(HttpResponse::NoContent().finish())
}

fn etag(version: i32) -> String {
    format!("\"{version}\"")
}

/// `If-Match` and `If-None-Match` (RFC 9110 §13.1). A tag that is not one of ours matches nothing.
fn precondition(request: &HttpRequest) -> Result<Precondition, HttpError> {
    let value = |name| {
        let header = request.headers().get(name).map(|value| value.to_str().unwrap_or_default());
        header.map(str::trim)
    };
    match (value(header::IF_MATCH), value(header::IF_NONE_MATCH)) {
        (None, None) => Ok(Precondition::None),
        (Some("*"), None) => Ok(Precondition::Exists),
        (Some(tags), None) => Ok(Precondition::Versions(
            tags.split(',')
                .filter_map(|tag| tag.trim().strip_prefix('"')?.strip_suffix('"')?.parse().ok())
                .collect(),
        )),
        (None, Some("*")) => Ok(Precondition::Absent),
        _ => Err(HttpError::invalid(vec![Problem::new(
            "send If-Match with an ETag, or If-None-Match: *, and not both",
        )])),
    }
}
