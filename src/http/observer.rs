//! Health, readiness and version, for probes; no credentials.

use std::sync::atomic::Ordering;

use actix_web::{HttpResponse, web};
use serde_json::json;

use super::Shared;
use super::error::{HttpError, RETRY_AFTER_SECONDS};

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
    Ok(match shared.app.db.ping().await {
        Ok(()) => HttpResponse::Ok().json(json!({"status": "ready"})),
        Err(_) => not_ready("database"),
    })
}

pub async fn version() -> HttpResponse {
    HttpResponse::Ok().json(json!({"version": env!("CARGO_PKG_VERSION")}))
}
