//! cloud-init's plane: one table of routes, one way in, and every refusal.

mod claims;
pub mod lane;
pub mod metadata;
mod paced;
mod reports;
pub mod route;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use actix_web::http::{Method, StatusCode, header};
use actix_web::{HttpRequest, HttpResponse, ResponseError as _, web};

use super::answer::{header_bytes, micros, peer, request_id, source, stamp};
use super::error::RETRY_AFTER_SECONDS;
use super::{Shared, body};
use crate::actions::App;
use crate::actions::authenticate::{Refusal, SignedNode, authenticate, claim};
use crate::domain::limits::Limits;
use crate::oauth::{Claim, Method as SignatureMethod, SignedRequest};
use crate::store::DbError;
use crate::store::counts;
use crate::telemetry::RequestLine;
use crate::telemetry::metrics::Plane;
use reports::{Body, Until};
use route::{Path, Target};

/// Clients have no timeout after their first request (`read_maas_seed_url` reads with none), so
/// the first byte has to come by itself, whatever happens behind it.
const DEADLINE: Duration = Duration::from_secs(8);

/// Bytes of a form body that HMAC covers, held before it is known who sent them.
const FORM_BYTES: usize = 64 << 10;
/// And how long such a body may take: who sends it is not known yet.
const FORM_TIME: Duration = Duration::from_secs(10);

/// An answer of the node plane and what its log line says beside it.
pub struct Answer {
    response: HttpResponse,
    reason: &'static str,
    /// What went wrong on our side; for the log alone.
    trouble: Option<String>,
    node: Option<String>,
}

impl From<HttpResponse> for Answer {
    fn from(response: HttpResponse) -> Answer {
        Answer { response, reason: "", trouble: None, node: None }
    }
}

/// Every request of the node plane.
pub async fn serve(
    request: HttpRequest,
    payload: web::Payload,
    shared: web::Data<Shared>,
) -> HttpResponse {
    let started = Instant::now();
    let id = request_id(&shared.app);
    let path = route::parse(request.path());
    // The deadline counts from the request's last byte.
    let mut answer = match &path {
        Path::Claim(secret) => in_time(claims::answer(&request, &shared.app, secret, &id)).await,
        _ => match receive(&request, payload, &shared.app, &path).await {
            Err(answer) => answer,
            Ok(received) if matches!(*request.method(), Method::GET | Method::HEAD) => {
                counts::for_node_read(answer(&request, &shared.app, received)).await
            }
            Ok(received) => answer(&request, &shared.app, received).await,
        },
    };
    stamp(answer.response.headers_mut(), "Authorization", &id);

    let bytes = match actix_web::body::MessageBody::size(answer.response.body()) {
        actix_web::body::BodySize::Sized(bytes) => bytes,
        _ => 0,
    };
    if let Some(trouble) = &answer.trouble {
        tracing::error!(request_id = id, "{trouble}");
    }
    let (code, took) = (answer.response.status().as_u16(), started.elapsed());
    shared.app.metrics.request(Plane::Node, path.template(), request.method().as_str(), code, took);
    RequestLine {
        plane: "node",
        method: request.method().as_str(),
        route: path.template(),
        status: code,
        bytes,
        micros: micros(took),
        request_id: &id,
        peer: &peer(&request),
        who: answer.node.as_deref().unwrap_or_default(),
        reason: answer.reason,
    }
    .write();
    answer.response
}

async fn in_time(answer: impl Future<Output = Answer>) -> Answer {
    let late = |_| unavailable("deadline", None);
    tokio::time::timeout(DEADLINE, answer).await.unwrap_or_else(late)
}

/// A request that has been read to its end: what it asks for, and what it says of itself.
struct Received<'r> {
    target: Target<'r>,
    claim: Claim<'r>,
    /// Read already if HMAC covers it; any other is read once it is known who sends it.
    body: Body,
}

/// Reads a request. What is refused here is refused without the store.
async fn receive<'r>(
    request: &'r HttpRequest,
    payload: web::Payload,
    app: &App,
    path: &Path<'r>,
) -> Result<Received<'r>, Answer> {
    if header_bytes(request) > app.limits.header_bytes {
        return Err(too_large());
    }
    let target = match path {
        Path::Known(target) => *target,
        // Which versions and paths there are is no secret, so no signature is asked for.
        Path::UnknownVersion(version) => {
            let message = format!("Unknown metadata version: {}", shown(version));
            return Err(not_found(&message).into());
        }
        Path::Claim(_) | Path::Unknown => return Err(not_found("Not found").into()),
    };
    let headers = request.headers().get_all(header::AUTHORIZATION);
    let claim = claim(headers.map(header::HeaderValue::as_bytes))
        .map_err(|refusal| refuse(app, source(request), &refusal))?;
    let covers_form = claim.method != SignatureMethod::Plaintext
        && body::media_type(request) == "application/x-www-form-urlencoded";
    if !covers_form {
        return Ok(Received { target, claim, body: Body::Coming(payload) });
    }
    let form = tokio::time::timeout(FORM_TIME, body::read(request, payload, FORM_BYTES)).await;
    let form = form.map_err(|_| Answer {
        reason: "form_too_slow",
        ..text(StatusCode::REQUEST_TIMEOUT, "The form is too slow").into()
    })?;
    let form = form.map_err(|error| Answer {
        reason: "form_unreadable",
        ..text(error.status_code(), "The form cannot be read").into()
    })?;
    Ok(Received { target, claim, body: Body::Read(form) })
}

async fn answer(request: &HttpRequest, app: &App, received: Received<'_>) -> Answer {
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    let post_until = Until::from_now();
    let until = if reads { tokio::time::Instant::now() + DEADLINE } else { post_until.into() };
    let late = |_| unavailable("deadline", None);
    let signed = tokio::time::timeout_at(until, sign_in(request, app, &received)).await;
    let signed = match signed.map_err(late) {
        Ok(Ok(signed)) => {
            app.metrics.authenticated();
            signed
        }
        Ok(Err(refusal)) => return refuse(app, source(request), &refusal),
        Err(answer) => return answer,
    };
    let system_id = signed.system_id().to_owned();
    let target = received.target;
    let mut answer = match (request.method(), target) {
        (method @ &(Method::GET | Method::HEAD), _) => {
            let operation = reports::named_operation(request);
            if target == Target::Version && operation.is_some() {
                reports::unrecognised(method.as_str(), operation.as_deref())
            } else {
                let read = metadata::read(app, &signed, target, method);
                match tokio::time::timeout_at(until, read).await.map_err(late) {
                    Ok(Ok(response)) => response.into(),
                    Ok(Err(error)) => unavailable("store", Some(error.to_string())),
                    Err(answer) => answer,
                }
            }
        }
        (&Method::POST, Target::Status(_) | Target::Version) => {
            let body = received.body;
            let taken = match target {
                Target::Status(named) => {
                    reports::status(request, app, signed, named, body, post_until).await
                }
                _ => reports::operation(request, app, signed, body, post_until).await,
            };
            taken.map_or_else(|answer| answer, Answer::from)
        }
        _ => not_allowed(target).into(),
    };
    answer.node = Some(system_id);
    answer
}

fn not_allowed(target: Target<'_>) -> HttpResponse {
    let allow = match target {
        Target::Status(_) => "POST",
        Target::Version => "GET, HEAD, POST",
        _ => "GET, HEAD",
    };
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "Method not allowed");
    response.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static(allow));
    response
}

/// The one way to an identity on this plane.
async fn sign_in(
    request: &HttpRequest,
    app: &App,
    received: &Received<'_>,
) -> Result<SignedNode, Refusal> {
    let host =
        request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let scheme = scheme(app, host);
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    let signed = SignedRequest {
        method: request.method().as_str(),
        scheme,
        host,
        target,
        form: match &received.body {
            Body::Read(form) => Some(form),
            Body::Coming(_) => None,
        },
    };
    authenticate(app, &received.claim, &signed).await
}

/// What a client that asked this host spoke.
fn scheme<'a>(app: &'a App, host: &str) -> &'a str {
    match &app.metadata_url {
        Some(url) if url.authority().eq_ignore_ascii_case(host) => url.scheme(),
        _ => app.node_scheme,
    }
}

/// Every refusal. The caller learns the variant, the log the reason.
fn refuse(app: &App, source: Option<IpAddr>, refusal: &Refusal) -> Answer {
    app.metrics.refused(refusal.reason());
    if let Some(retry_after) = too_many_refusals(app, source, refusal) {
        return Answer { reason: refusal.reason(), ..too_many(retry_after).into() };
    }
    let unauthorized = |code: &'static str| {
        let mut response = text(StatusCode::UNAUTHORIZED, code);
        let realm = header::HeaderValue::from_static("OAuth realm=\"nodeinit\"");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, realm);
        response
    };
    let response = match refusal {
        Refusal::Missing { .. } => unauthorized("credentials_missing"),
        Refusal::Malformed { .. } => unauthorized("credentials_malformed"),
        Refusal::Refused { .. } => unauthorized("credentials_refused"),
        Refusal::Timestamp { .. } => unauthorized("timestamp_refused"),
        Refusal::Nonce { .. } => unauthorized("nonce_refused"),
        Refusal::NotANode => text(StatusCode::FORBIDDEN, "Not authenticated as a known node."),
        Refusal::TooMany { retry_after } => too_many(*retry_after),
        Refusal::Store(why) => return unavailable("store", Some(why.clone())),
        Refusal::Seal => {
            return unavailable("seal_broken", Some("a stored secret does not open".into()));
        }
    };
    Answer { reason: refusal.reason(), ..response.into() }
}

/// Counts what was refused against its source address, never against the key it claimed: that may
/// be somebody else's. A good signature is never counted, whoever shares its address.
fn too_many_refusals(app: &App, source: Option<IpAddr>, refusal: &Refusal) -> Option<Duration> {
    match refusal {
        Refusal::Missing { .. } | Refusal::Malformed { .. } | Refusal::Refused { .. } => {
            app.refused.take(&source?.to_string(), Instant::now()).err()
        }
        _ => None,
    }
}

fn too_large() -> Answer {
    let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
    text(status, "the headers are too large").into()
}

fn too_many(retry_after: Duration) -> HttpResponse {
    let mut response = text(StatusCode::TOO_MANY_REQUESTS, "Too many requests");
    let seconds = retry_after.as_secs() + 1;
    response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    response
}

/// Our trouble: never a 404 or a 200 in its place.
fn unavailable(reason: &'static str, trouble: Option<String>) -> Answer {
    let mut response = text(StatusCode::SERVICE_UNAVAILABLE, "Try again");
    let seconds = header::HeaderValue::from_static(RETRY_AFTER_SECONDS);
    response.headers_mut().insert(header::RETRY_AFTER, seconds);
    Answer { reason, trouble, ..response.into() }
}

fn not_found(message: &str) -> HttpResponse {
    text(StatusCode::NOT_FOUND, message)
}

/// A message for people.
fn text(status: StatusCode, message: &str) -> HttpResponse {
    HttpResponse::build(status).content_type("text/plain; charset=utf-8").body(message.to_owned())
}

/// A name from a path, as it may be said again.
fn shown(segment: &str) -> String {
    segment.chars().filter(char::is_ascii_graphic).take(64).collect()
}

/// What the listener itself enforces, before a request is one.
#[must_use]
pub fn connections_per_worker(limits: &Limits, workers: usize) -> usize {
    (limits.connections / workers.max(1)).max(1)
}

/// A store that failed is an error of this type all the way up.
pub type Read = Result<HttpResponse, DbError>;
