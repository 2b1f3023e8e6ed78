//! The lane: reads that are answered where their connection is, before the framework sees them.
//! Who asks and what is answered is decided by the same functions as everywhere on this plane.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use actix_web::HttpResponse;
use actix_web::body::MessageBody as _;
use actix_web::http::{StatusCode, header};

use super::metadata::{SMALL, Served, TEXT, absent_item, served};
use super::route::{self, Path, Target};
use super::{Answer, DEADLINE, claim, refuse, scheme, unavailable};
use crate::actions::App;
use crate::actions::authenticate::{Refusal, judge_read};
use crate::domain::boot::Item;
use crate::http::answer::{micros, put_date, request_digits, request_id, shown_id, shown_peer};
use crate::live::view::Entry;
use crate::oauth::{Claim, SignedRequest};
use crate::telemetry::metrics::Plane;
use crate::telemetry::{RequestLine, put_number};

/// A GET or HEAD without a body, of HTTP/1.0 or 1.1, whose headers are within their limit. Its
/// target begins with a slash, and a request of HTTP/1.1 has exactly one `Host`.
pub struct Head<'a> {
    pub method: &'a str,
    pub target: &'a str,
    pub headers: &'a [httparse::Header<'a>],
    /// The address at the other end; what it says of others is in the headers.
    pub peer: Option<SocketAddr>,
    /// Whether the connection stays open after the answer; if not, the answer says so.
    pub keep_alive: bool,
    /// HTTP/1.0: a connection that stays open has to be told so.
    pub is_old: bool,
}

/// What became of a request in the lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// The whole answer is in `out`.
    Answered,
    /// Its token has to be looked up first: [`later`] does.
    Cold,
    /// Nothing has been done: the framework answers it.
    NotOurs,
}

/// A request that the lane may answer, as far as it can be read without knowing anybody.
struct Asked<'h> {
    target: Target<'h>,
    template: &'static str,
    claim: Claim<'h>,
    signed: SignedRequest<'h>,
}

/// Puts the whole answer into `out`, which is empty, if it can be given at once.
#[must_use]
pub fn at_once(app: &App, head: &Head<'_>, out: &mut Vec<u8>) -> Lane {
    let started = Instant::now();
    let Some(asked) = read(app, head) else { return Lane::NotOurs };
    match app.view.get(&asked.claim.token_key, started) {
        Some(entry) => answer(app, head, &asked, Ok(Some(entry)), started, out),
        None => Lane::Cold,
    }
}

/// The same once its token has been looked up.
pub async fn later(app: &App, head: &Head<'_>, out: &mut Vec<u8>) -> Lane {
    let started = Instant::now();
    let Some(asked) = read(app, head) else { return Lane::NotOurs };
    let found = app.view.find(&asked.claim.token_key);
    let Ok(found) = tokio::time::timeout(DEADLINE, found).await else {
        write_other(app, head, &asked, unavailable("deadline", None), started, out);
        return Lane::Answered;
    };
    answer(app, head, &asked, found.map_err(Refusal::from), started, out)
}

fn read<'h>(app: &'h App, head: &'h Head<'_>) -> Option<Asked<'h>> {
    // A query may name an operation.
    if head.target.contains('?') {
        return None;
    }
    let path = route::parse(head.target);
    let template = path.template();
    let Path::Known(target) = path else { return None };
    if matches!(target, Target::Status(_) | Target::UnknownItem(_)) {
        return None;
    }
    let mut authorization = None;
    let mut host = "";
    for header in head.headers {
        if header.name.eq_ignore_ascii_case("authorization") {
            if authorization.replace(header.value).is_some() {
                return None;
            }
        } else if header.name.eq_ignore_ascii_case("host") {
            host = std::str::from_utf8(header.value).ok()?;
        }
    }
    let claim = claim(authorization.into_iter()).ok()?;
    let signed = SignedRequest {
        method: head.method,
        scheme: scheme(app, host),
        host,
        target: head.target,
        form: None,
    };
    Some(Asked { target, template, claim, signed })
}

fn answer(
    app: &App,
    head: &Head<'_>,
    asked: &Asked<'_>,
    found: Result<Option<Arc<Entry>>, Refusal>,
    started: Instant,
    out: &mut Vec<u8>,
) -> Lane {
    // What is large, or not in memory, is not begun here: a nonce is spent but once.
    let content = match &found {
        Ok(Some(entry)) => match served(entry, &asked.target) {
            Served::Content(_, _, content) => match app.view.content(content) {
                Some(bytes) if bytes.len() <= SMALL => Some(bytes),
                _ => return Lane::NotOurs,
            },
            _ => None,
        },
        _ => None,
    };
    let now = app.clock.now();
    let at = (now, started);
    let judged = found.and_then(|found| judge_read(app, &asked.claim, &asked.signed, found, at));
    let signed = match judged {
        Ok(signed) => signed,
        Err(refusal) => {
            let answer = refuse(app, source(app, head), &refusal);
            write_other(app, head, asked, answer, started, out);
            return Lane::Answered;
        }
    };
    let entry = &signed.entry;
    let (status, content_type, body, item): (_, _, &[u8], Option<(Item, [u8; 32])>) =
        match served(entry, &asked.target) {
            Served::Text(text, item) => (StatusCode::OK, TEXT, text.as_bytes(), item),
            Served::Content(content_type, item, of) => (
                StatusCode::OK,
                content_type,
                content.as_deref().unwrap_or_default(),
                Some((item, of.sha256)),
            ),
            Served::Absent(content_type, item) => {
                let (status, content_type, body) = absent_item(app, content_type);
                (status, content_type, body.as_bytes(), Some((item, NOTHING)))
            }
            Served::UnknownItem | Served::NotAllowed => return Lane::NotOurs,
        };
    let is_get = head.method == "GET";
    app.learnt.read(entry, item.filter(|_| is_get), now);
    let id = request_digits(app);
    let id = shown_id(&id);
    begin(out, status, body.len(), id, head);
    out.extend_from_slice(b"content-type: ");
    out.extend_from_slice(content_type.as_bytes());
    out.extend_from_slice(b"\r\n\r\n");
    if is_get {
        out.extend_from_slice(body);
    }
    app.metrics.authenticated();
    let done = Done { status, bytes: body.len(), started, id, who: &entry.system_id, reason: "" };
    note(app, head, asked, &done);
    Lane::Answered
}

/// SHA-256 of nothing.
const NOTHING: [u8; 32] = [
    0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24,
    0x27, 0xae, 0x41, 0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55,
];

fn source(app: &App, head: &Head<'_>) -> Option<std::net::IpAddr> {
    let peer = head.peer?.ip();
    if app.proxies.is_empty() {
        return Some(peer.to_canonical());
    }
    let forwarded: Vec<&[u8]> = head
        .headers
        .iter()
        .filter(|header| header.name.eq_ignore_ascii_case("x-forwarded-for"))
        .map(|header| header.value)
        .collect();
    Some(app.proxies.source(peer, forwarded.into_iter()))
}

/// What every answer begins with.
fn begin(out: &mut Vec<u8>, status: StatusCode, length: usize, id: &str, head: &Head<'_>) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    out.extend_from_slice(b"\r\ncontent-length: ");
    put_number(out, length as u64);
    out.extend_from_slice(b"\r\nvary: Authorization\r\ncache-control: no-store\r\nx-request-id: ");
    out.extend_from_slice(id.as_bytes());
    out.extend_from_slice(b"\r\ndate: ");
    put_date(out);
    out.extend_from_slice(match (head.keep_alive, head.is_old) {
        (true, false) => b"\r\n",
        (true, true) => b"\r\nconnection: keep-alive\r\n",
        (false, _) => b"\r\nconnection: close\r\n",
    });
}

/// An answer that the framework's type holds: refusals, and trouble of ours.
fn write_other(
    app: &App,
    head: &Head<'_>,
    asked: &Asked<'_>,
    answer: Answer,
    started: Instant,
    out: &mut Vec<u8>,
) {
    let id = request_id(app);
    if let Some(trouble) = &answer.trouble {
        tracing::error!(request_id = id, "{trouble}");
    }
    let Answer { response, reason, node, .. } = answer;
    let status = response.status();
    let bytes = write_response(out, response, &id, head);
    let who = node.as_deref().unwrap_or_default();
    note(app, head, asked, &Done { status, bytes, started, id: &id, who, reason });
}

/// An answer that has been given, for its line in the log and its metrics.
struct Done<'d> {
    status: StatusCode,
    bytes: usize,
    started: Instant,
    id: &'d str,
    who: &'d str,
    reason: &'static str,
}

fn note(app: &App, head: &Head<'_>, asked: &Asked<'_>, done: &Done<'_>) {
    let took = done.started.elapsed();
    let status = done.status.as_u16();
    app.metrics.request(Plane::Node, asked.template, head.method, status, took);
    RequestLine {
        plane: "node",
        method: head.method,
        route: asked.template,
        status,
        bytes: done.bytes as u64,
        micros: micros(took),
        request_id: done.id,
        peer: &shown_peer(source(app, head), head.peer),
        who: done.who,
        reason: done.reason,
    }
    .write();
}

fn write_response(out: &mut Vec<u8>, response: HttpResponse, id: &str, head: &Head<'_>) -> usize {
    let (response, body) = response.into_parts();
    // All of them are short texts in memory.
    let body = body.try_into_bytes().unwrap_or_default();
    begin(out, response.status(), body.len(), id, head);
    for (name, value) in response.headers() {
        if *name != header::CONTENT_LENGTH {
            out.extend_from_slice(name.as_str().as_bytes());
            out.extend_from_slice(b": ");
            out.extend_from_slice(value.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
    }
    out.extend_from_slice(b"\r\n");
    if head.method == "GET" {
        out.extend_from_slice(&body);
    }
    body.len()
}
