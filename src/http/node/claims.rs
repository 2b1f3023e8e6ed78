//! The one route without a signature: a claim is its own proof, good for one machine and one boot.

use std::time::Instant;

use actix_web::http::{Method, StatusCode, header};
use actix_web::{HttpRequest, HttpResponse};

use super::{Answer, header_bytes, text, too_large, too_many, unavailable};
use crate::actions::App;
use crate::actions::claims::{Claimed, Refusal, fetch};
use crate::domain::claim::ClaimSecret;
use crate::http::answer::source;

/// Answers whoever holds the secret, which is no part of any answer, log or error.
pub async fn answer(request: &HttpRequest, app: &App, secret: &str, request_id: &str) -> Answer {
    if header_bytes(request) > app.limits.header_bytes {
        return too_large();
    }
    if *request.method() != Method::GET {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "Method not allowed");
        response.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static("GET"));
        return response.into();
    }
    // Nodes come over TCP, where everybody has an address.
    let Some(source) = source(request) else { return unavailable("no_source", None) };
    let claimed = match ClaimSecret::parse(secret) {
        None => Err(Refusal::Unknown),
        Some(secret) => fetch(app, &secret, source, request_id).await,
    };
    let (reason, response) = match claimed {
        Ok(Claimed { system_id, preseed }) => {
            let response =
                HttpResponse::Ok().content_type("text/plain; charset=utf-8").body(preseed);
            return Answer { node: Some(system_id), ..response.into() };
        }
        Err(Refusal::Unknown) => ("claim_unknown", text(StatusCode::NOT_FOUND, "Not found")),
        Err(Refusal::Gone { reason, .. }) => {
            (reason, text(StatusCode::GONE, "This claim is no longer good: make another"))
        }
        Err(Refusal::Nameless) => return unavailable("no_metadata_url", None),
        Err(Refusal::Store(error)) => return unavailable("store", Some(error.to_string())),
        Err(Refusal::Seal) => {
            return unavailable("seal_broken", Some("a stored secret does not open".into()));
        }
    };
    // Whoever guesses is slowed down by address, as for signatures.
    let response = match app.refused.take(&source.to_string(), Instant::now()) {
        Ok(()) => response,
        Err(retry_after) => too_many(retry_after),
    };
    Answer { reason, ..response.into() }
}
