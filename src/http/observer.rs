//! Health, readiness, version and metrics, for probes; no credentials.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use actix_web::{HttpResponse, web};
use serde_json::json;

use super::Shared;
use super::error::{HttpError, RETRY_AFTER_SECONDS};
use crate::store::census;
use crate::store::counts::{Behalf, Door};
use crate::telemetry::metrics::Figures;

/// How long a scrape waits for nodes and tokens to be counted; the next one has the numbers.
const CENSUS_PATIENCE: Duration = Duration::from_secs(2);

/// The process is up; degraded when what it was told last is not what it does.
pub async fn healthz(shared: web::Data<Shared>) -> HttpResponse {
    let policy = shared.app.policy.file();
    HttpResponse::Ok().json(if policy.is_some_and(|file| !file.problems.is_empty()) {
        let reason = "the policy file cannot be used: the rules before it hold; the log says why";
        json!({"status": "degraded", "reason": reason})
    } else {
        json!({"status": "ok"})
    })
}

/// The process can serve: the database answers and nobody has asked it to stop.
///
/// # Errors
/// 503 that says which of the two it is.
pub async fn readyz(shared: web::Data<Shared>) -> Result<HttpResponse, HttpError> {
    let not_ready = |why: &str| {
        HttpResponse::ServiceUnavailable()
            .insert_header(("Retry-After", RETRY_AFTER_SECONDS))
            .json(json!({"status": why}))
    };
    if shared.draining.load(Ordering::SeqCst) {
        return Ok(not_ready("draining"));
    }
    // What may not be served from memory is 503 to nodes, so a balancer had better know.
    let is_confirmed = shared.app.view.is_confirmed(Instant::now());
    Ok(match shared.app.db.ping().await {
        Ok(()) if !is_confirmed => not_ready("database"),
        Ok(()) => HttpResponse::Ok().json(json!({"status": "ready"})),
        Err(_) => not_ready("database"),
    })
}

pub async fn version() -> HttpResponse {
    HttpResponse::Ok().json(json!({"version": env!("CARGO_PKG_VERSION")}))
}

/// What this process has done and how it fares, in Prometheus's text format.
pub async fn metrics(shared: web::Data<Shared>) -> HttpResponse {
    if shared.app.metrics.is_time_to_count() {
        // A task of its own, so that a scrape that is given up does not end it.
        let counting = actix_web::rt::spawn(count(shared.clone()));
        let _ = tokio::time::timeout(CENSUS_PATIENCE, counting).await;
    }
    let db = &shared.app.db;
    let (idle, busy) = db.connections();
    let statements = |behalf, door| db.counts().statements(behalf, door);
    let [hits, misses] = shared.app.view.look_ups();
    let figures = Figures {
        pool: [("idle", idle.into()), ("busy", busy.into())],
        database_errors: db.counts().errors(),
        statements: [
            ("node_read", "read", statements(Behalf::NodeRead, Door::Read)),
            ("node_read", "write", statements(Behalf::NodeRead, Door::Write)),
            ("other", "read", statements(Behalf::Other, Door::Read)),
            ("other", "write", statements(Behalf::Other, Door::Write)),
        ],
        look_ups: [("hit", hits), ("miss", misses)],
        token_changes: db.counts().token_changes().collect(),
    };
    HttpResponse::Ok()
        .content_type("text/plain; version=0.0.4; charset=utf-8")
        .body(shared.app.metrics.text(&figures))
}

async fn count(shared: web::Data<Shared>) {
    let started = Instant::now();
    let now = shared.app.clock.now();
    let counted = shared.app.db.read(move |conn| census::count(conn, now)).await;
    let states = counted
        .ok()
        .map(|census| (census.tokens.into_iter().collect(), census.nodes.into_iter().collect()));
    shared.app.metrics.counted(started.elapsed(), states);
}
