//! The one map of failures to HTTP: what the caller can act on, and, apart from it, why, for the
//! log.

use actix_web::body::BoxBody;
use actix_web::http::{StatusCode, header};
use actix_web::{HttpResponse, ResponseError};
use serde::Serialize;

use crate::actions::{Failure, Problem};
use crate::domain::policy::Action;

/// How long a caller is asked to wait when the trouble is ours.
pub const RETRY_AFTER_SECONDS: &str = "2";

/// Why a request failed, for its log line. It travels in the answer's extensions, never in its
/// bytes.
pub struct Reason(pub String);

/// The same refusal as Keystone would word it, for `/v2.0`. It travels as [`Reason`] does.
pub struct KeystoneBody(pub bytes::Bytes);

/// A refusal or failure on the operator plane, as RFC 9457 has it.
#[derive(Debug)]
pub struct HttpError {
    status: StatusCode,
    detail: String,
    problems: Vec<Problem>,
    allow: Option<String>,
    retry_after: Option<u64>,
    reason: String,
}

#[derive(Serialize)]
struct ProblemDetails<'a> {
    r#type: &'static str,
    title: &'a str,
    status: u16,
    detail: &'a str,
    #[serde(skip_serializing_if = "<[Problem]>::is_empty")]
    errors: &'a [Problem],
}

impl HttpError {
    #[must_use]
    pub fn new(status: StatusCode, detail: impl Into<String>) -> HttpError {
        HttpError {
            status,
            detail: detail.into(),
            problems: Vec::new(),
            allow: None,
            retry_after: None,
            reason: String::new(),
        }
    }

    #[must_use]
    pub fn not_found(detail: &str) -> HttpError {
        HttpError::new(StatusCode::NOT_FOUND, detail)
    }

    #[must_use]
    pub fn unauthenticated() -> HttpError {
        HttpError::new(StatusCode::UNAUTHORIZED, "this needs a good X-Auth-Token: log in")
    }

    #[must_use]
    pub fn forbidden(action: Action) -> HttpError {
        let detail = format!("policy does not allow you {}", action.name());
        HttpError::new(StatusCode::FORBIDDEN, detail)
    }

    #[must_use]
    pub fn bad_request(detail: &str) -> HttpError {
        HttpError::new(StatusCode::BAD_REQUEST, detail)
    }

    /// A path or query that cannot be read at all.
    #[must_use]
    pub fn unreadable_url() -> HttpError {
        HttpError::invalid(vec![Problem::new("the URL cannot be read")])
    }

    /// Too many tries; the next is looked at after so many seconds.
    #[must_use]
    pub fn too_many(seconds: u64) -> HttpError {
        let detail = "too many tries: wait a while";
        HttpError {
            retry_after: Some(seconds),
            ..HttpError::new(StatusCode::TOO_MANY_REQUESTS, detail)
        }
    }

    /// Adds what only the log is told.
    #[must_use]
    pub fn because(self, reason: &str) -> HttpError {
        HttpError { reason: reason.to_owned(), ..self }
    }

    #[must_use]
    pub fn too_large(limit: usize) -> HttpError {
        let detail = format!("the body is larger than the {limit} bytes this route takes");
        HttpError::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
    }

    #[must_use]
    pub fn headers_too_long() -> HttpError {
        let detail = "the headers are longer than this server takes";
        HttpError::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, detail)
    }

    #[must_use]
    pub fn media_type(wanted: &str) -> HttpError {
        HttpError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, format!("send {wanted}"))
    }

    #[must_use]
    pub fn invalid(problems: Vec<Problem>) -> HttpError {
        HttpError {
            problems,
            ..HttpError::new(StatusCode::BAD_REQUEST, "what was sent cannot be taken")
        }
    }

    #[must_use]
    pub fn method_not_allowed(allow: String) -> HttpError {
        let detail = "this path has other methods";
        HttpError { allow: Some(allow), ..HttpError::new(StatusCode::METHOD_NOT_ALLOWED, detail) }
    }
}

impl HttpError {
    /// Keystone's `{"error": {…}}`.
    fn keystone(&self) -> Vec<u8> {
        let problems = self.problems.iter().map(|problem| match problem.field {
            Some(field) => format!("; {field}: {}", problem.message),
            None => format!("; {}", problem.message),
        });
        let message = self.detail.clone() + &problems.collect::<String>();
        let title = self.status.canonical_reason().unwrap_or_default();
        let error = serde_json::json!({
            "error": {"code": self.status.as_u16(), "title": title, "message": message}
        });
        error.to_string().into_bytes()
    }
}

impl From<Failure> for HttpError {
    fn from(failure: Failure) -> HttpError {
        let reason = failure.to_string();
        match failure {
            Failure::NotFound(what) => HttpError::not_found(what),
            Failure::Invalid(problems) => HttpError::invalid(problems),
            Failure::Conflict(why) => HttpError::new(StatusCode::CONFLICT, why),
            Failure::PreconditionFailed(why) => {
                HttpError::new(StatusCode::PRECONDITION_FAILED, why)
            }
            Failure::PreconditionRequired(why) => {
                HttpError::new(StatusCode::PRECONDITION_REQUIRED, why)
            }
            Failure::Unauthenticated(what) => HttpError::new(StatusCode::UNAUTHORIZED, what),
            Failure::Throttled(seconds) => HttpError::too_many(seconds),
            // Our trouble. What exactly is the log's business.
            Failure::Store(_) => HttpError {
                reason,
                ..HttpError::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "the store did not answer: try again",
                )
            },
            Failure::Seal(_) => HttpError {
                reason,
                ..HttpError::new(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "a stored secret does not open: see the server's log",
                )
            },
        }
    }
}

impl From<crate::store::DbError> for HttpError {
    fn from(error: crate::store::DbError) -> HttpError {
        Failure::Store(error).into()
    }
}

impl std::fmt::Display for HttpError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.status, self.detail)
    }
}

impl ResponseError for HttpError {
    fn status_code(&self) -> StatusCode {
        self.status
    }

    fn error_response(&self) -> HttpResponse<BoxBody> {
        let mut response = HttpResponse::build(self.status);
        response.content_type("application/problem+json");
        if let Some(allow) = &self.allow {
            response.insert_header((header::ALLOW, allow.as_str()));
        }
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response.insert_header((header::RETRY_AFTER, RETRY_AFTER_SECONDS));
        }
        if let Some(seconds) = self.retry_after {
            response.insert_header((header::RETRY_AFTER, seconds.to_string()));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response.insert_header((header::WWW_AUTHENTICATE, "X-Auth-Token realm=\"nodeinit\""));
        }
        let details = ProblemDetails {
            r#type: "about:blank",
            title: self.status.canonical_reason().unwrap_or_default(),
            status: self.status.as_u16(),
            detail: &self.detail,
            errors: &self.problems,
        };
        let mut response = response.body(serde_json::to_vec(&details).unwrap_or_default());
        let keystone = KeystoneBody(self.keystone().into());
        response.extensions_mut().insert(keystone);
        let why = if self.reason.is_empty() { &self.detail } else { &self.reason };
        response.extensions_mut().insert(Reason(why.clone()));
        response
    }
}
