//! What came back: an answer read to its end, or why there is none.

use serde_json::Value;
use ureq::http::{HeaderMap, StatusCode, header};

use super::ServerUrl;

/// Why a call did not bring what was asked for.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ClientError {
    /// Nothing was answered.
    #[error("no answer from {server}: {why}")]
    NoAnswer { server: String, why: String },
    /// The server said no, and why.
    #[error("{detail}{}", lines(.problems))]
    Refused { status: u16, detail: String, problems: Vec<Problem> },
    #[error("{server} answered what is not nodeinit's: {why}")]
    Strange { server: String, why: String },
    /// Nothing was sent: these are missing.
    #[error("the {plugin} plugin needs {}", .options.join(", "))]
    Missing { plugin: &'static str, options: Vec<String> },
    /// Nothing was sent: this option means nothing.
    #[error("the {plugin} plugin: {why}")]
    BadOption { plugin: &'static str, why: String },
    /// Nothing was sent: the plugin gave no headers.
    #[error("the {plugin} plugin has no credentials to send, so nothing was sent")]
    NoCredentials { plugin: &'static str },
    /// Nothing was sent: this is no request.
    #[error("not sent: {0}")]
    Unsendable(String),
    /// The login that the request needed.
    #[error("login: {0}")]
    Login(Box<ClientError>),
    /// The request has to be sent again, and a stream is sent once.
    #[error("the body cannot be replayed, and the server's {status} asks for it again")]
    BodyNotReplayable { status: u16 },
    #[error("{server} sends this to {to}, which is another origin: not followed")]
    Elsewhere { server: String, to: String },
    #[error("{server} redirects more than {most} times")]
    TooManyRedirects { server: String, most: usize },
    /// A signature was refused, and nothing says by how much the clocks differ.
    #[error("{server} answered 401 without a Date to mend the clock by: {detail}")]
    NoDate { server: String, detail: String },
    #[error("the CA file: {0}")]
    BadCa(String),
}

impl ClientError {
    /// The status that the server refused with.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match self {
            ClientError::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// Whether what was given is at fault, and nothing was sent.
    #[must_use]
    pub fn is_wrong_use(&self) -> bool {
        matches!(self, ClientError::Missing { .. } | ClientError::BadOption { .. })
    }
}

/// One answer, read to its end.
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub etag: Option<String>,
    pub body: Vec<u8>,
}

impl Answer {
    /// A header's text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// # Errors
    /// [`ClientError::Strange`].
    pub fn json(&self, server: &ServerUrl) -> Result<Value, ClientError> {
        serde_json::from_slice(&self.body).map_err(|e| ClientError::Strange {
            server: server.to_string(),
            why: format!("no JSON ({e})"),
        })
    }

    /// # Errors
    /// [`ClientError::Refused`], with the server's own words.
    pub fn succeeded(self) -> Result<Answer, ClientError> {
        if self.status.is_success() { Ok(self) } else { Err(self.refused()) }
    }

    pub(super) fn refused(&self) -> ClientError {
        let mut details: Details = serde_json::from_slice(&self.body).unwrap_or_default();
        let said = details.detail.take().or_else(|| details.error.take()?.text());
        let detail = said.or_else(|| self.line()).map(|text| plain(&text));
        for problem in &mut details.errors {
            problem.message = plain(&problem.message);
            problem.field = problem.field.as_deref().map(plain);
        }
        ClientError::Refused {
            status: self.status.as_u16(),
            detail: detail.unwrap_or_else(|| format!("the server answered {}", self.status)),
            problems: details.errors,
        }
    }

    /// The node plane says why in one line of text.
    fn line(&self) -> Option<String> {
        let is_text = self.header(header::CONTENT_TYPE.as_str())?.starts_with("text/plain");
        let text = str::from_utf8(&self.body).ok()?.trim();
        let is_line = is_text && !text.is_empty() && text.len() <= 200 && !text.contains('\n');
        is_line.then(|| format!("the server answered {}: {text}", self.status))
    }
}

/// One thing the server found wrong with what was sent.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(default)]
pub struct Problem {
    pub line: Option<usize>,
    pub field: Option<String>,
    pub message: String,
}

/// `application/problem+json` under `/v1`, Keystone's `{"error": {code, title, message}}` under
/// `/v2.0`.
#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct Details {
    detail: Option<String>,
    errors: Vec<Problem>,
    error: Option<Fault>,
}

#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct Fault {
    title: Option<String>,
    message: Option<String>,
}

impl Fault {
    fn text(self) -> Option<String> {
        self.message.filter(|text| !text.is_empty()).or(self.title)
    }
}

/// What others wrote, without what a terminal would obey.
pub(super) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn lines(problems: &[Problem]) -> String {
    let line = |problem: &Problem| {
        let line = problem.line.map(|line| format!("line {line}: ")).unwrap_or_default();
        let field = problem.field.as_ref().map(|field| format!("{field}: ")).unwrap_or_default();
        format!("\n  {line}{field}{}", problem.message)
    };
    problems.iter().map(line).collect()
}
