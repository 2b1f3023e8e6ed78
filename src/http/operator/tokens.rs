//! Tokens: what a node signs with, and what becomes of it.

use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use serde::Serialize;
use uuid::Uuid;

use super::guard::Takes;
use super::{Page, Paging, Query, refuse_if, unknown_parameter};
use crate::actions::cull::Cull;
use crate::actions::{self, Failure, NO_SUCH_NODE, Problem};
use crate::domain::credentials::{IssuedToken, TokenKey, TokenSummary};
use crate::domain::cull::{Cap, Culled, Staleness, parse_duration};
use crate::domain::node::SystemId;
use crate::domain::policy::Action;
use crate::http::Shared;
use crate::http::body;
use crate::http::error::HttpError;
use crate::http::extract::{InProject, OnNode, Operator};
use crate::store::columns::Id;
use crate::store::tokens as store;

/// The answer to get and reissue: one of the two places where a secret leaves.
#[derive(Serialize, schemars::JsonSchema)]
#[schemars(rename = "Credentials")]
pub(super) struct Issued {
    system_id: String,
    consumer_key: String,
    consumer_secret: &'static str,
    token_key: String,
    token_secret: String,
    metadata_url: Option<String>,
}

fn issued(shared: &Shared, token: IssuedToken) -> Issued {
    let system_id = token.system_id.clone();
    let credentials = token.reveal();
    Issued {
        system_id,
        consumer_key: credentials.consumer_key.as_str().to_owned(),
        consumer_secret: "",
        token_key: credentials.token_key.as_str().to_owned(),
        token_secret: credentials.secret.expose().to_owned(),
        metadata_url: shared.app.metadata_url.as_ref().map(|url| url.as_str().to_owned()),
    }
}

pub async fn get(shared: web::Data<Shared>, scope: OnNode) -> Result<HttpResponse, HttpError> {
    let (project, system_id) = scope.node()?;
    let token =
        actions::tokens::get(&shared.app, &scope.by, Action::TokenGet, project, system_id).await?;
    Ok(HttpResponse::Ok().json(issued(&shared, token)))
}

/// System ids in, one JSON string a line; credentials out, one object a line, in the same order.
pub async fn get_many(
    shared: web::Data<Shared>,
    scope: InProject,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, HttpError> {
    let most = Takes::SystemIds.most(&shared.app.limits);
    let bytes = body::read(&request, payload, most).await?;
    let lines = body::parse_lines(&bytes, 1).map_err(HttpError::invalid)?;
    let mut problems = Vec::new();
    let mut ids = Vec::with_capacity(lines.len());
    for (line, value) in &lines {
        match value.as_str().map(SystemId::parse) {
            Some(Ok(id)) => ids.push(id.to_string()),
            Some(Err(_)) => problems.push(Problem::line(*line, NO_SUCH_NODE.to_string())),
            None => problems.push(Problem::line(*line, "a system id is JSON text")),
        }
    }
    refuse_if(problems)?;
    let project = scope.project()?;
    let tokens = actions::tokens::get_many(&shared.app, &scope.by, project, ids).await?;
    let missing = lines.iter().zip(&tokens).filter(|(_, token)| token.is_none());
    refuse_if(
        missing.map(|((line, _), _)| Problem::line(*line, NO_SUCH_NODE.to_string())).collect(),
    )?;
    let mut out = Vec::new();
    for token in tokens.into_iter().flatten() {
        // Writing to memory cannot fail, and neither can these types.
        let _ = serde_json::to_writer(&mut out, &issued(&shared, token));
        out.push(b'\n');
    }
    Ok(HttpResponse::Ok().content_type("application/x-ndjson").body(out))
}

pub async fn show(shared: web::Data<Shared>, scope: OnNode) -> Result<HttpResponse, HttpError> {
    let (_, system_id) = scope.node()?;
    let found = shared.app.db.read(move |conn| store::find_summary(conn, &system_id)).await?;
    let none = Failure::NotFound("this node has no token: get makes one");
    Ok(HttpResponse::Ok().json(found.ok_or(none)?))
}

pub async fn revoke(shared: web::Data<Shared>, scope: OnNode) -> Result<HttpResponse, HttpError> {
    let (project, system_id) = scope.node()?;
    actions::tokens::revoke(&shared.app, &scope.by, project, system_id).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// A new token, and until it is used the old one too: the answer is that of get.
pub async fn reissue(
    shared: web::Data<Shared>,
    scope: OnNode,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, HttpError> {
    let mut fields = body::optional_fields(&request, payload, &shared.app.limits).await?;
    let retire_after = fields.parsed("retire_after", actions::tokens::parse_retire_after);
    refuse_if(fields.finish())?;
    let (project, system_id) = scope.node()?;
    let retire_after = retire_after.unwrap_or(actions::tokens::RETIRE_AFTER);
    let token =
        actions::tokens::reissue(&shared.app, &scope.by, project, system_id, retire_after).await?;
    Ok(HttpResponse::Ok().json(issued(&shared, token)))
}

/// Every token in the order they were made, ended ones too; `?token_key=` finds one.
pub async fn list(
    shared: web::Data<Shared>,
    _operator: Operator,
    query: Query,
) -> Result<HttpResponse, HttpError> {
    let mut problems = Vec::new();
    let (paging, rest) = Paging::take(query, shared.app.limits.page, &mut problems);
    let mut key = None;
    for (name, value) in rest {
        match name.as_str() {
            "token_key" => key = Some(value),
            _ => problems.push(unknown_parameter("cursor, limit, token_key")),
        }
    }
    let after = match (paging.after.as_str(), Uuid::try_parse(&paging.after)) {
        ("", _) => None,
        (_, Ok(id)) => Some(Id(id)),
        (_, Err(_)) => {
            problems.push(Problem::field("cursor", "no cursor of this list"));
            None
        }
    };
    refuse_if(problems)?;
    let limit = paging.limit_and_one();
    let key = match key.map(|key| TokenKey::parse(&key)) {
        // What is no key is no token's.
        Some(None) => {
            let none = Page::<TokenSummary> { items: Vec::new(), next: None };
            return Ok(HttpResponse::Ok().json(none));
        }
        Some(key) => key,
        None => None,
    };
    let rows =
        shared.app.db.read(move |conn| store::list(conn, key.as_ref(), after, limit)).await?;
    let page = paging.page(rows.into_iter().map(Row).collect(), |Row((id, _))| id.0.to_string());
    Ok(HttpResponse::Ok().json(page))
}

/// A summary that remembers where it stands in the list.
struct Row((Id, TokenSummary));

impl Serialize for Row {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.0.1.serialize(to)
    }
}

pub async fn cull(
    shared: web::Data<Shared>,
    Operator(by): Operator,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, HttpError> {
    let mut fields = body::fields(&request, payload, &shared.app.limits).await?;
    let rule = Staleness {
        unused_for: fields.parsed("unused_for", parse_duration),
        idle_for: fields.parsed("idle_for", parse_duration),
    };
    let cap = fields.parsed("max", Cap::parse).unwrap_or(Cap::DEFAULT);
    let dry_run = fields.boolean("dry_run").unwrap_or(false);
    let force = fields.boolean("force").unwrap_or(false);
    refuse_if(fields.finish())?;
    let mut cull = actions::cull::cull(&shared.app, &by, rule, cap, dry_run, force).await?;
    let mut tokens = Vec::new();
    while let Some(page) = cull.next(&shared.app).await? {
        tokens.extend(page);
        if tokens.len() > MOST_AT_ONCE {
            return Ok(streamed(shared, cull, dry_run, &tokens));
        }
    }
    Ok(HttpResponse::Ok().json(Culled { dry_run, tokens }))
}

/// More tokens than this are told of as they go, since nobody holds a whole fleet's in memory.
const MOST_AT_ONCE: usize = 2000;

/// [`Culled`], page by page. What fails in the middle breaks the answer off, so that nobody takes
/// it for whole; whoever leaves in the middle stops the cull there.
fn streamed(
    shared: web::Data<Shared>,
    cull: Cull,
    dry_run: bool,
    first: &[TokenSummary],
) -> HttpResponse {
    let begun = format!("{{\"dry_run\":{dry_run},\"tokens\":[");
    let begun = Ok(Bytes::from([begun.into_bytes(), items(first)].concat()));
    let rest = stream::try_unfold(Some((shared, cull)), async |under_way| {
        let Some((shared, mut cull)) = under_way else { return Ok(None) };
        let page = match cull.next(&shared.app).await {
            Ok(None) => return Ok(Some((Bytes::from_static(b"]}"), None))),
            Ok(Some(page)) => page,
            Err(error) => {
                tracing::error!(%error, "a cull broke off");
                return Err(error);
            }
        };
        let mut bytes = items(&page);
        if !bytes.is_empty() {
            bytes.insert(0, b',');
        }
        Ok(Some((Bytes::from(bytes), Some((shared, cull)))))
    });
    HttpResponse::Ok()
        .content_type("application/json")
        .streaming(stream::once(std::future::ready(begun)).chain(rest))
}

/// The inside of a JSON array.
fn items(tokens: &[TokenSummary]) -> Vec<u8> {
    // Writing to memory cannot fail, and neither can these types.
    let mut array = serde_json::to_vec(tokens).unwrap_or_default();
    array.pop();
    if !array.is_empty() {
        array.remove(0);
    }
    array
}
