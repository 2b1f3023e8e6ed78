//! How far nodes have come: `…/timeline`, `…/explain` and `/v1/stuck`.

use std::collections::VecDeque;
use std::time::Duration;

use actix_web::{HttpResponse, web};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use super::{Paging, Query, refuse_if, unknown_parameter};
use crate::actions::{NO_SUCH_NODE, Problem};
use crate::domain::credentials::TokenSummary;
use crate::domain::cull::parse_duration;
use crate::domain::node::BootState;
use crate::http::Shared;
use crate::http::error::HttpError;
use crate::http::extract::{OnNode, Operator};
use crate::live::{Refused, Skew};
use crate::store::{DbConnection, boots, nodes, tokens};

/// How a node came to where it is.
pub async fn timeline(shared: web::Data<Shared>, scope: OnNode) -> Result<HttpResponse, HttpError> {
    let (project, system_id) = scope.node()?;
    let now = shared.app.clock.now();
    let read = move |conn: &mut DbConnection| {
        let Some(node) = nodes::find(conn, project, &system_id, now)? else { return Ok(None) };
        let fold = boots::find(conn, &system_id)?.unwrap_or_default();
        Ok(Some(fold.timeline(&system_id, node.boot_state, now)))
    };
    let timeline = shared.app.db.read(read).await?;
    Ok(HttpResponse::Ok().json(timeline.ok_or(NO_SUCH_NODE)?))
}

/// Why a node is where it is, as far as this process has seen.
#[derive(Serialize, JsonSchema)]
pub(super) struct Explained {
    system_id: String,
    boot_state: BootState,
    stage: Option<&'static str>,
    since: Option<Timestamp>,
    why: Option<String>,
    fails_at: Option<Timestamp>,
    last_report: Option<String>,
    /// The live token; none: the next get makes one.
    token: Option<TokenSummary>,
    /// The last refusals of this node's tokens that this process knows of, the oldest first.
    refusals: VecDeque<Refused>,
    /// How far the node's clock is ahead, as this process saw last.
    clock_skew: Option<Skew>,
}

pub async fn explain(shared: web::Data<Shared>, scope: OnNode) -> Result<HttpResponse, HttpError> {
    let (project, system_id) = scope.node()?;
    let now = shared.app.clock.now();
    let seen = shared.app.observed.of(&system_id);
    let read = move |conn: &mut DbConnection| {
        let Some(node) = nodes::find(conn, project, &system_id, now)? else { return Ok(None) };
        let fold = boots::find(conn, &system_id)?.unwrap_or_default();
        let timeline = fold.timeline(&system_id, node.boot_state, now);
        Ok(Some(Explained {
            token: tokens::find_summary(conn, &system_id)?,
            system_id,
            boot_state: node.boot_state,
            stage: timeline.stage,
            since: timeline.since,
            why: timeline.why,
            fails_at: timeline.fails_at,
            last_report: timeline.last_report,
            refusals: seen.refusals,
            clock_skew: seen.skew,
        }))
    };
    let explained = shared.app.db.read(read).await?;
    Ok(HttpResponse::Ok().json(explained.ok_or(NO_SUCH_NODE)?))
}

/// A node that has stopped on its way, and where.
#[derive(Serialize, JsonSchema)]
pub(super) struct Stuck {
    system_id: String,
    hostname: String,
    project: String,
    boot_state: BootState,
    stage: Option<&'static str>,
    since: Option<Timestamp>,
    why: Option<String>,
    last_report: Option<String>,
}

/// How many have stopped there, on all pages together.
#[derive(Serialize, JsonSchema)]
pub(super) struct StuckCount {
    boot_state: String,
    stage: Option<String>,
    nodes: i64,
}

/// A page of them.
#[derive(Serialize, JsonSchema)]
pub(super) struct StuckPage {
    items: Vec<Stuck>,
    next: Option<String>,
    counts: Vec<StuckCount>,
}

/// How long a node may be at one place before it is said to be stuck there.
const STUCK_AFTER: Duration = Duration::from_mins(20);

/// The nodes of the whole fleet that are claimed, contacted, booting or failed, and have been where
/// they are for longer than `after`.
pub async fn stuck(
    shared: web::Data<Shared>,
    _operator: Operator,
    query: Query,
) -> Result<HttpResponse, HttpError> {
    let mut problems = Vec::new();
    let (paging, rest) = Paging::take(query, shared.app.limits.page, &mut problems);
    let mut patience = STUCK_AFTER;
    for (name, value) in rest {
        match (name.as_str(), parse_duration(&value)) {
            ("after", Ok(duration)) => patience = duration,
            ("after", Err(why)) => problems.push(Problem::field("after", why)),
            _ => problems.push(unknown_parameter("after, cursor, limit")),
        }
    }
    refuse_if(problems)?;
    let now = shared.app.clock.now();
    let before = now.checked_sub(patience).unwrap_or(Timestamp::MIN);
    let (after, limit) = (paging.after.clone(), paging.limit_and_one());
    let read = move |conn: &mut DbConnection| {
        let rows = boots::list_stuck(conn, before, &after, limit)?;
        Ok((rows, boots::count_stuck(conn, before, now)?))
    };
    let (rows, counts) = shared.app.db.read(read).await?;
    let shown = |row: boots::Stuck| Stuck {
        boot_state: row.fold.state_at(now),
        stage: Some(row.fold.stage()).filter(|stage| !stage.is_empty()),
        since: row.fold.since_at(now),
        why: row.fold.why(now),
        last_report: row.fold.last_report(),
        system_id: row.system_id,
        hostname: row.hostname,
        project: row.project,
    };
    let page =
        paging.page(rows.into_iter().map(shown).collect(), |row: &Stuck| row.system_id.clone());
    let counts = counts.into_iter().map(|((boot_state, stage), nodes)| StuckCount {
        boot_state,
        stage: Some(stage).filter(|stage| !stage.is_empty()),
        nodes,
    });
    Ok(HttpResponse::Ok().json(StuckPage {
        items: page.items,
        next: page.next,
        counts: counts.collect(),
    }))
}
