//! What every answer carries, and the one log line of every request.

use std::time::{Duration, Instant};

use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{self, HeaderName, HeaderValue};
use actix_web::middleware::Next;
use actix_web::{HttpMessage, HttpRequest, web};

use super::Shared;
use super::error::Reason;
use super::extract::Operator;
use crate::actions::App;
use crate::telemetry::RequestLine;

pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// A request's name in the log and in its answer: 16 hexadecimal digits.
#[must_use]
pub fn request_id(app: &App) -> String {
    format!("{:016x}", u64::from_be_bytes(app.mint.bytes()))
}

/// Whole microseconds, for a log line.
#[must_use]
pub fn micros(elapsed: Duration) -> u64 {
    u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX)
}

/// Puts on an answer what every answer carries.
pub fn stamp(headers: &mut header::HeaderMap, vary: &'static str, request_id: &str) {
    headers.insert(header::VARY, HeaderValue::from_static(vary));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Ok(id) = HeaderValue::from_str(request_id) {
        headers.insert(REQUEST_ID, id);
    }
}

/// The address at the other end of the connection, or `socket`.
#[must_use]
pub fn peer(request: &HttpRequest) -> String {
    request.peer_addr().map_or_else(|| "socket".into(), |address| address.to_string())
}

/// Around every request of the operator plane and the observer: stamps, then logs.
///
/// # Errors
/// None of its own.
pub async fn around(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, actix_web::Error> {
    let started = Instant::now();
    let id = request.app_data::<web::Data<Shared>>().map(|shared| request_id(&shared.app));
    let id = id.unwrap_or_default();
    let method = request.method().as_str().to_owned();
    let peer = peer(request.request());
    let mut response = next.call(request).await?;
    stamp(response.response_mut().headers_mut(), "X-Auth-Token", &id);

    let route = response.request().match_pattern().unwrap_or_else(|| "unmatched".into());
    let who = response.request().extensions().get::<Operator>().map(|o| o.0.to_string());
    let reason = response.response().extensions().get::<Reason>().map(|reason| reason.0.clone());
    RequestLine {
        plane: "operator",
        method: &method,
        route: &route,
        status: response.status().as_u16(),
        bytes: match response.response().body().size() {
            actix_web::body::BodySize::Sized(bytes) => bytes,
            _ => 0,
        },
        micros: micros(started.elapsed()),
        request_id: &id,
        peer: &peer,
        who: who.as_deref().unwrap_or_default(),
        reason: reason.as_deref().unwrap_or_default(),
    }
    .write();
    Ok(response)
}
