//! What a node posts: status events, signals, and its netboot flag.

use std::time::{Duration, Instant};

use actix_web::http::{StatusCode, header};
use actix_web::{HttpRequest, HttpResponse, ResponseError as _, web};
use bytes::BytesMut;

use super::{Answer, refuse, shown, text, unavailable};
use crate::actions::App;
use crate::actions::authenticate::{Refusal, SignedNode};
use crate::actions::reports::{self, SMALL, Share, Unstored};
use crate::domain::report::{Bounds, Draft, Form, Refused, Report, Unsignalled, from_form};
use crate::http::answer::source;
use crate::http::body;

/// How long a post may take in all, signature, room and commit: its answer begins within the 10 s
/// that a client is promised.
const PATIENCE: Duration = Duration::from_secs(9);

/// When a post is turned away if it is not done by then.
#[derive(Clone, Copy)]
pub struct Until(Instant);

impl Until {
    /// Of a post that has come just now, but for its body.
    #[must_use]
    pub fn from_now() -> Until {
        Until(Instant::now() + PATIENCE)
    }

    /// Waits for our own doing until then; past it, the trouble is ours.
    async fn wait<T>(self, doing: impl Future<Output = Option<T>>) -> Taken<T> {
        match tokio::time::timeout_at(self.0.into(), doing).await {
            Ok(Some(done)) => Ok(done),
            _ => Err(unavailable("overload", None)),
        }
    }
}

impl From<Until> for tokio::time::Instant {
    fn from(until: Until) -> tokio::time::Instant {
        until.0.into()
    }
}

/// A body may be this slow at first, and then no slower than 8 KiB/s.
const BODY_PATIENCE: Duration = Duration::from_secs(30);
const BODY_LEAST_PER_SECOND: usize = 8 << 10;

/// What a request brings along beside its signature.
pub enum Body {
    /// Read already, since its signature covers it.
    Read(BytesMut),
    Coming(web::Payload),
}

/// A post that was turned down, as its answer.
type Taken<T> = Result<T, Answer>;

/// `POST /status/SYSTEM_ID`.
pub async fn status(
    request: &HttpRequest,
    app: &App,
    signed: SignedNode,
    named: &str,
    body: Body,
    mut until: Until,
) -> Taken<HttpResponse> {
    if named != signed.system_id() {
        let response = text(StatusCode::FORBIDDEN, "Not authenticated as this node.");
        return Err(Answer { reason: "other_node", ..response.into() });
    }
    let (mut body, share) = read(request, app, &signed, body, &mut until).await?;
    let size = body.len();
    let bounds = bounds(app);
    // The work owns its room in memory: a client that leaves does not end it.
    let read = move || Ok((Draft::from_json(&mut body, bounds)?, share));
    let (draft, share) = off_thread(size, read).await?;
    let mut shares = vec![share];
    let most = draft.most_unpacked(bounds);
    if most > 0 {
        shares.push(until.wait(app.reports.unpacked.take(most)).await?);
    }
    let unpack = move || Ok((draft.unpack(bounds)?, shares));
    let (report, shares) = off_thread(most, unpack).await?;
    store(request, app, signed, report, shares, until).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// `POST /VERSION/`: the operation is named by the query or by the form.
pub async fn operation(
    request: &HttpRequest,
    app: &App,
    signed: SignedNode,
    body: Body,
    mut until: Until,
) -> Taken<HttpResponse> {
    let (body, share) = read(request, app, &signed, body, &mut until).await?;
    let content_type = request.headers().get(header::CONTENT_TYPE);
    let content_type = content_type.and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let bounds = bounds(app);
    let size = body.len();
    let parse = move || Ok((Form::parse(&content_type, &body, bounds)?, share));
    let (form, share) = off_thread(size, parse).await?;
    let named = named_operation(request).or_else(|| form.last("op").map(str::to_owned));
    match named.as_deref() {
        Some("signal") => {
            let report = from_form(form).map_err(|unsignalled| {
                let why = match unsignalled {
                    Unsignalled::NoStatus => "No provided status!".to_owned(),
                    Unsignalled::Unknown(status) => format!("Unknown status: '{}'", shown(&status)),
                };
                invalid(&why)
            })?;
            store(request, app, signed, report, vec![share], until).await?;
        }
        Some(flag @ ("netboot_on" | "netboot_off")) => {
            let set = reports::set_netboot(app, signed, flag == "netboot_on", until.0);
            let set = until.wait(async { Some(set.await) }).await?;
            set.map_err(|unstored| turned_down(request, app, unstored))?;
        }
        named => return Err(unrecognised("POST", named)),
    }
    Ok(HttpResponse::Ok().content_type("text/plain").body("OK"))
}

/// The `op` of a query.
pub fn named_operation(request: &HttpRequest) -> Option<String> {
    let query = web::Query::<Vec<(String, String)>>::from_query(request.query_string()).ok()?;
    query.into_inner().into_iter().find(|(name, _)| name == "op").map(|(_, op)| op)
}

/// What piston says of an operation it has not.
pub fn unrecognised(method: &str, operation: Option<&str>) -> Answer {
    let operation = operation.map_or("None".into(), shown);
    invalid(&format!("Unrecognised signature: method={method} op={operation}"))
}

fn bounds(app: &App) -> Bounds {
    Bounds {
        depth: app.limits.json_depth,
        files: app.limits.report_files,
        file_bytes: app.limits.report_file_bytes,
    }
}

/// Reads a body, once there is room for what it says its size is.
async fn read(
    request: &HttpRequest,
    app: &App,
    signed: &SignedNode,
    body: Body,
    until: &mut Until,
) -> Taken<(BytesMut, Share)> {
    let limit = app.limits.report_bytes;
    let size = match &body {
        Body::Read(bytes) => bytes.len(),
        Body::Coming(_) => {
            let length = request.headers().get(header::CONTENT_LENGTH);
            length.and_then(|v| v.to_str().ok()?.parse::<usize>().ok()).unwrap_or(limit)
        }
    };
    if size > limit {
        return Err(too_large(&format!("a report is at most {limit} bytes")));
    }
    let room = app.reports.room(signed.system_id(), size);
    let (share, _turn) = until.wait(room).await?;
    let bytes = match body {
        Body::Read(bytes) => bytes,
        Body::Coming(payload) => {
            let slowest = u64::try_from(size / BODY_LEAST_PER_SECOND).unwrap_or(u64::MAX);
            let patience = BODY_PATIENCE + Duration::from_secs(slowest);
            let began = Instant::now();
            let read = tokio::time::timeout(patience, body::read(request, payload, limit)).await;
            // The time counts from the request's last byte.
            until.0 += began.elapsed();
            match read {
                Ok(Ok(bytes)) => bytes,
                Ok(Err(error)) => {
                    let status = error.status_code();
                    return Err(Answer {
                        reason: "report_unreadable",
                        ..text(status, "The report cannot be read").into()
                    });
                }
                Err(_) => {
                    let response = text(StatusCode::REQUEST_TIMEOUT, "The report is too slow");
                    return Err(Answer { reason: "report_too_slow", ..response.into() });
                }
            }
        }
    };
    Ok((bytes, share))
}

async fn store(
    request: &HttpRequest,
    app: &App,
    signed: SignedNode,
    report: Report,
    shares: Vec<Share>,
    until: Until,
) -> Taken<()> {
    let kind = report.event_type.as_str();
    let stored = reports::store(app, signed, report, shares, until.0);
    let stored = until.wait(async { Some(stored.await) }).await?;
    stored.map_err(|unstored| turned_down(request, app, unstored))?;
    app.metrics.event(kind);
    Ok(())
}

fn turned_down(request: &HttpRequest, app: &App, unstored: Unstored) -> Answer {
    match unstored {
        Unstored::Ended => {
            refuse(app, source(request), &Refusal::Refused { reason: "ended_token" })
        }
        Unstored::Replayed => {
            refuse(app, source(request), &Refusal::Nonce { reason: "nonce_spent" })
        }
        Unstored::Full => unavailable("queue_full", None),
        Unstored::Late => unavailable("overload", None),
        Unstored::Store(why) => unavailable("store", Some(why)),
    }
}

/// Parses where we are, or off the async threads when there is much of it.
async fn off_thread<T: Send + 'static>(
    bytes: usize,
    parse: impl FnOnce() -> Result<T, Refused> + Send + 'static,
) -> Taken<T> {
    let parsed = if bytes <= SMALL {
        parse()
    } else {
        let parsed = tokio::task::spawn_blocking(parse).await;
        parsed.map_err(|_| unavailable("parse", Some("parsing a report ended badly".into())))?
    };
    parsed.map_err(refused)
}

fn refused(refused: Refused) -> Answer {
    match refused {
        Refused::TooLarge(why) => too_large(&why),
        Refused::Invalid(problems) => invalid(&problems.join("\n")),
    }
}

fn too_large(why: &str) -> Answer {
    Answer { reason: "report_too_large", ..text(StatusCode::PAYLOAD_TOO_LARGE, why).into() }
}

fn invalid(why: &str) -> Answer {
    Answer { reason: "report_invalid", ..text(StatusCode::BAD_REQUEST, why).into() }
}
