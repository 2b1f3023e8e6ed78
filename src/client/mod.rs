//! What the CLI and other programs speak to a server with.

pub mod oauth1;
mod unix;

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use ureq::http::{self, Method, StatusCode};

/// Why a call did not bring what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nothing was answered.
    #[error("no answer from {server}: {why}")]
    NoAnswer { server: String, why: String },
    /// The server said no, and why.
    #[error("{detail}{}", lines(.problems))]
    Refused { status: u16, detail: String, problems: Vec<Problem> },
    #[error("{server} answered what is not nodeinit's: {why}")]
    Strange { server: String, why: String },
}

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerUrl {
    /// `unix:PATH`: the admin socket.
    Unix(PathBuf),
    /// `http://HOST:PORT`.
    Http(String),
}

impl ServerUrl {
    /// # Errors
    /// A sentence that says what a server URL is.
    pub fn parse(text: &str) -> Result<ServerUrl, String> {
        if let Some(path) = text.strip_prefix("unix:")
            && !path.is_empty()
        {
            return Ok(ServerUrl::Unix(PathBuf::from(path)));
        }
        if text.strip_prefix("http://").is_some_and(|rest| !rest.is_empty()) {
            return Ok(ServerUrl::Http(text.trim_end_matches('/').to_owned()));
        }
        Err("a server is unix:PATH or http://HOST:PORT".into())
    }
}

impl std::fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ServerUrl::Unix(path) => write!(f, "unix:{}", path.display()),
            ServerUrl::Http(url) => f.write_str(url),
        }
    }
}

/// One answer, read to its end.
pub struct Answer {
    pub status: StatusCode,
    pub etag: Option<String>,
    pub body: Vec<u8>,
}

impl Answer {
    fn json(&self, server: &ServerUrl) -> Result<Value, ClientError> {
        serde_json::from_slice(&self.body).map_err(|e| ClientError::Strange {
            server: server.to_string(),
            why: format!("no JSON ({e})"),
        })
    }
}

/// A client of one server. The socket needs no credentials: the right to open it is enough.
pub struct Session {
    agent: ureq::Agent,
    server: ServerUrl,
}

impl Session {
    #[must_use]
    pub fn new(server: ServerUrl) -> Session {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            // A program that reads our output slowly would find its connection closed by then.
            .max_idle_connections(0)
            .timeout_connect(Some(Duration::from_secs(10)))
            .timeout_recv_response(Some(Duration::from_mins(10)))
            .build();
        let agent = match &server {
            ServerUrl::Unix(path) => unix::agent(config, path.clone()),
            ServerUrl::Http(_) => config.new_agent(),
        };
        Session { agent, server }
    }

    /// Sends a request and reads its answer, whatever its status.
    ///
    /// # Errors
    /// [`ClientError::NoAnswer`].
    pub fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&[u8]>,
    ) -> Result<Answer, ClientError> {
        let failed = |why: String| ClientError::NoAnswer { server: self.server.to_string(), why };
        let base = match &self.server {
            // An address that needs no look-up; the connector goes to the socket.
            ServerUrl::Unix(_) => "http://127.0.0.1",
            ServerUrl::Http(url) => url,
        };
        let mut request = http::Request::builder().method(method).uri(format!("{base}{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = match body {
            Some(body) => request
                .body(body)
                .map_err(|e| failed(e.to_string()))
                .and_then(|request| self.agent.run(request).map_err(|e| failed(e.to_string()))),
            None => request
                .body(())
                .map_err(|e| failed(e.to_string()))
                .and_then(|request| self.agent.run(request).map_err(|e| failed(e.to_string()))),
        };
        let mut response = response?;
        let etag = response.headers().get("etag").and_then(|v| v.to_str().ok()).map(str::to_owned);
        let status = response.status();
        let body = response
            .body_mut()
            .with_config()
            .limit(u64::MAX)
            .read_to_vec()
            .map_err(|e| failed(e.to_string()))?;
        Ok(Answer { status, etag, body })
    }

    /// Sends a request that has to succeed.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with the server's own words.
    pub fn call(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&[u8]>,
    ) -> Result<Answer, ClientError> {
        let answer = self.send(method, path, headers, body)?;
        if answer.status.is_success() { Ok(answer) } else { Err(refused(&answer)) }
    }

    /// # Errors
    /// As [`Session::call`].
    pub fn get(&self, path: &str) -> Result<Value, ClientError> {
        self.call(Method::GET, path, &[], None)?.json(&self.server)
    }

    /// # Errors
    /// As [`Session::call`].
    pub fn send_json(
        &self,
        method: Method,
        path: &str,
        body: &Value,
    ) -> Result<Value, ClientError> {
        let body = body.to_string();
        let headers = [("content-type", "application/json")];
        self.call(method, path, &headers, Some(body.as_bytes()))?.json(&self.server)
    }

    /// # Errors
    /// As [`Session::call`].
    pub fn delete(&self, path: &str) -> Result<(), ClientError> {
        self.call(Method::DELETE, path, &[], None).map(drop)
    }

    /// A list, page by page; `limit` rows in all.
    ///
    /// # Errors
    /// As [`Session::call`].
    pub fn list(&self, path: &str, limit: Option<usize>) -> Result<Vec<Value>, ClientError> {
        let mut items = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let mark = if path.contains('?') { '&' } else { '?' };
            let page = match &cursor {
                None => path.to_owned(),
                Some(cursor) => format!("{path}{mark}cursor={cursor}"),
            };
            let mut answer = self.get(&page)?;
            if let Some(rows) = answer["items"].as_array_mut() {
                items.append(rows);
            }
            if limit.is_some_and(|limit| items.len() >= limit) {
                items.truncate(limit.unwrap_or_default());
                return Ok(items);
            }
            match answer["next"].as_str() {
                Some(next) => cursor = Some(next.to_owned()),
                None => return Ok(items),
            }
        }
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

#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct ProblemDetails {
    detail: Option<String>,
    errors: Vec<Problem>,
}

fn refused(answer: &Answer) -> ClientError {
    let details: ProblemDetails = serde_json::from_slice(&answer.body).unwrap_or_default();
    ClientError::Refused {
        status: answer.status.as_u16(),
        detail: details.detail.unwrap_or_else(|| format!("the server answered {}", answer.status)),
        problems: details.errors,
    }
}

fn lines(problems: &[Problem]) -> String {
    let line = |problem: &Problem| {
        let line = problem.line.map(|line| format!("line {line}: ")).unwrap_or_default();
        let field = problem.field.as_ref().map(|field| format!("{field}: ")).unwrap_or_default();
        format!("\n  {line}{field}{}", problem.message)
    };
    problems.iter().map(line).collect()
}
