//! What every answer carries, and the one log line of every request.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant, UNIX_EPOCH};

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::Uri;
use actix_web::http::header::{self, HeaderName, HeaderValue};
use actix_web::middleware::Next;
use actix_web::{HttpMessage, HttpRequest, ResponseError as _, web};

use super::Shared;
use super::error::{HttpError, KeystoneBody, Reason};
use crate::actions::App;
use crate::clock::Clock;
use crate::domain::identity::By;
use crate::telemetry::metrics::Plane;
use crate::telemetry::{RequestLine, put_number};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The request's name, for whoever notes it.
#[derive(Clone, Debug)]
pub struct RequestId(pub String);

/// A request's name in the log and in its answer: 16 hexadecimal digits.
#[must_use]
pub fn request_id(app: &App) -> String {
    shown_id(&request_digits(app)).to_owned()
}

/// The same where nobody keeps it.
#[must_use]
pub fn request_digits(app: &App) -> [u8; 16] {
    let mut digits = [0; 16];
    for (two, byte) in digits.chunks_exact_mut(2).zip(app.mint.bytes::<8>()) {
        two.copy_from_slice(&[byte >> 4, byte & 15].map(|d| b"0123456789abcdef"[usize::from(d)]));
    }
    digits
}

#[must_use]
pub fn shown_id(digits: &[u8; 16]) -> &str {
    std::str::from_utf8(digits).unwrap_or_default()
}

/// Why bytes on a connection did not become a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRequest {
    NotHttp,
    TooLong,
    Late,
}

/// The whole answer to bytes that are no request, after which their connection is closed; it has
/// been logged.
#[must_use]
pub fn no_request(
    app: &App,
    plane: &'static str,
    vary: &'static str,
    why: NoRequest,
    peer: Option<SocketAddr>,
) -> Vec<u8> {
    let (status, name, reason) = match why {
        NoRequest::NotHttp => (400, "Bad Request", "not_http"),
        NoRequest::TooLong => (431, "Request Header Fields Too Large", "headers_too_long"),
        NoRequest::Late => (408, "Request Timeout", "headers_too_slow"),
    };
    let id = request_id(app);
    RequestLine {
        plane,
        method: "",
        route: "unmatched",
        status,
        bytes: 0,
        micros: 0,
        request_id: &id,
        peer: &peer.map(|peer| peer.to_string()).unwrap_or_default(),
        who: "",
        reason,
    }
    .write();
    let mut answer = format!(
        "HTTP/1.1 {status} {name}\r\ncontent-length: 0\r\nconnection: close\r\nvary: {vary}\r\n\
         cache-control: no-store\r\nx-request-id: {id}\r\ndate: "
    )
    .into_bytes();
    put_date(&mut answer);
    answer.extend_from_slice(b"\r\n\r\n");
    answer
}

/// Writes what an answer's `Date` says.
pub fn put_date(out: &mut Vec<u8>) {
    thread_local! {
        static WRITTEN: RefCell<(i64, String)> = const { RefCell::new((i64::MIN, String::new())) };
    }
    // What nodes correct their clocks by is this machine's time, whatever the service's is.
    let now = Clock::System.now().as_second();
    WRITTEN.with_borrow_mut(|(second, text)| {
        if *second != now {
            let since = Duration::from_secs(u64::try_from(now).unwrap_or_default());
            *text = httpdate::fmt_http_date(UNIX_EPOCH + since);
            *second = now;
        }
        out.extend_from_slice(text.as_bytes());
    });
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

/// What a proxy in front of `OpenStack`'s services says of the caller. Here it says nothing: whoever
/// sends such a header has made it up.
const IDENTITY_HEADERS: [&str; 9] = [
    "x-user",
    "x-tenant",
    "x-project",
    "x-role",
    "x-domain",
    "x-identity-",
    "x-is-admin",
    "x-service-",
    "openstack-system-scope",
];

/// Keystone's clients write a path with a slash behind it or without.
fn drop_trailing_slash(request: &mut ServiceRequest) {
    let Some(path) = request.path().strip_suffix('/') else { return };
    let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
    let Ok(uri) = Uri::builder().path_and_query(format!("{path}{query}")).build() else { return };
    request.match_info_mut().get_mut().update(&uri);
    request.head_mut().uri = uri;
}

/// What the headers of a request weigh on the wire.
#[must_use]
pub fn header_bytes(request: &HttpRequest) -> usize {
    request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum()
}

/// Takes away every header that claims an identity, however it is spelt.
pub fn strip_identity(headers: &mut header::HeaderMap) {
    let claims = |name: &HeaderName| {
        let name = name.as_str().replace('_', "-");
        name != "x-service-token" && IDENTITY_HEADERS.iter().any(|prefix| name.starts_with(prefix))
    };
    headers.retain(|name, _| !claims(name));
}

/// Where a request comes from, for logs, limits and claims, never for who it is from: the peer, or
/// what a trusted proxy says; `None` on the socket.
#[must_use]
pub fn source(request: &HttpRequest) -> Option<IpAddr> {
    let peer = request.peer_addr()?.ip();
    let Some(shared) = request.app_data::<web::Data<Shared>>() else { return Some(peer) };
    let forwarded = request.headers().get_all(&FORWARDED_FOR).map(HeaderValue::as_bytes);
    // Their order counts, and actix's iterator has only one end.
    let forwarded: Vec<&[u8]> = forwarded.collect();
    Some(shared.app.proxies.source(peer, forwarded.into_iter()))
}

/// The same for a log line, with the port where it is known.
#[must_use]
pub fn peer(request: &HttpRequest) -> String {
    shown_peer(source(request), request.peer_addr())
}

/// An address for a log line, with the port where it is known.
#[must_use]
pub fn shown_peer(source: Option<IpAddr>, peer: Option<SocketAddr>) -> String {
    match (source, peer) {
        (Some(IpAddr::V4(source)), Some(SocketAddr::V4(peer))) if source == *peer.ip() => {
            digits(peer)
        }
        (Some(source), Some(peer)) if source == peer.ip().to_canonical() => peer.to_string(),
        (Some(source), _) => source.to_string(),
        (None, _) => "socket".into(),
    }
}

/// What `to_string` says of it, in a tenth of the time.
fn digits(peer: SocketAddrV4) -> String {
    let mut text = Vec::with_capacity(21);
    for (at, octet) in peer.ip().octets().into_iter().enumerate() {
        if at > 0 {
            text.push(b'.');
        }
        put_number(&mut text, octet.into());
    }
    text.push(b':');
    put_number(&mut text, peer.port().into());
    String::from_utf8(text).unwrap_or_default()
}

/// Around every request of the operator plane and the observer: stamps, then logs.
///
/// # Errors
/// None of its own.
pub async fn around(
    mut request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, actix_web::Error> {
    let started = Instant::now();
    let id = request.app_data::<web::Data<Shared>>().map(|shared| request_id(&shared.app));
    let id = id.unwrap_or_default();
    let method = request.method().as_str().to_owned();
    let peer = peer(request.request());
    let limits = request.app_data::<web::Data<Shared>>().map(|shared| &shared.app.limits);
    let is_too_long =
        limits.is_some_and(|limits| header_bytes(request.request()) > limits.header_bytes);
    request.extensions_mut().insert(RequestId(id.clone()));
    strip_identity(request.headers_mut());
    let is_keystone = request.path().starts_with("/v2.0/");
    if is_keystone {
        drop_trailing_slash(&mut request);
    }
    let mut response = if is_too_long {
        request.into_response(HttpError::headers_too_long().error_response())
    } else {
        next.call(request).await?.map_into_boxed_body()
    };
    let keystone = response.response().extensions().get::<KeystoneBody>().map(|b| b.0.clone());
    if let Some(body) = keystone.filter(|_| is_keystone) {
        response = response.map_body(|head, _| {
            head.headers_mut()
                .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            BoxBody::new(body)
        });
    }
    stamp(response.response_mut().headers_mut(), "X-Auth-Token", &id);

    let route = response.request().match_pattern().unwrap_or_else(|| "unmatched".into());
    let who = response.request().extensions().get::<By>().map(|by| by.caller.to_string());
    if let Some(shared) = response.request().app_data::<web::Data<Shared>>() {
        let (code, took) = (response.status().as_u16(), started.elapsed());
        shared.app.metrics.request(Plane::Operator, &route, &method, code, took);
    }
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
