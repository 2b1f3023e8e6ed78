//! A session with one server: every attempt, redirect, renewal and retry of a request.

use serde_json::Value;
use ureq::http::{self, HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use ureq::{Agent, SendBody};

use super::log::Log;
use super::plugin::{
    AuthHeaders, AuthPlugin, Generation, Provides, RequestHead, ResponseHead, Transport, Verdict,
};
use super::redirect::{self, Target};
use super::{Answer, Body, Builder, ClientError, Retries, ServerUrl};

/// One request.
pub struct Outgoing<'r> {
    pub method: Method,
    /// Path and query; it begins with a slash.
    pub path: &'r str,
    pub headers: &'r [(&'r str, &'r str)],
    pub body: Body<'r>,
}

/// A client of one server, shared by as many threads as like.
pub struct Session {
    pub(super) agent: Agent,
    pub(super) server: ServerUrl,
    pub(super) plugin: Box<dyn AuthPlugin>,
    pub(super) retries: Retries,
    pub(super) log: Option<Log>,
}

impl Session {
    /// Without credentials: the right to open the socket is enough there.
    #[must_use]
    pub fn new(server: ServerUrl) -> Session {
        Session::builder(server).build()
    }

    #[must_use]
    pub fn builder(server: ServerUrl) -> Builder {
        Builder::new(server)
    }

    /// Who the session is, as far as its plugin knows or can learn.
    ///
    /// # Errors
    /// When asking fails.
    pub fn provides(&self) -> Result<Provides, ClientError> {
        self.plugin.provides(self)
    }

    /// Where it talks to.
    #[must_use]
    pub fn server(&self) -> &ServerUrl {
        &self.server
    }

    /// The plugin's name.
    #[must_use]
    pub fn plugin(&self) -> &'static str {
        self.plugin.name()
    }

    /// Sends a request and reads its answer, whatever its status.
    ///
    /// # Errors
    /// Any [`ClientError`] but [`ClientError::Refused`], unless a login is refused.
    pub fn request(&self, request: Outgoing<'_>) -> Result<Answer, ClientError> {
        self.run(Some(&*self.plugin), request)
    }

    /// [`Session::request`] for bytes.
    ///
    /// # Errors
    /// As there.
    pub fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&[u8]>,
    ) -> Result<Answer, ClientError> {
        self.request(Outgoing { method, path, headers, body: body.into() })
    }

    /// Sends a request that has to succeed.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with the server's own words, and as [`Session::request`].
    pub fn call(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&[u8]>,
    ) -> Result<Answer, ClientError> {
        self.send(method, path, headers, body)?.succeeded()
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
        // It may hold a password.
        let body = zeroize::Zeroizing::new(body.to_string());
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
        for page in self.pages(path) {
            items.append(&mut page?);
            if limit.is_some_and(|limit| items.len() >= limit) {
                items.truncate(limit.unwrap_or_default());
                break;
            }
        }
        Ok(items)
    }

    /// The pages of a list, each asked for when it is wanted; the first error is the last.
    pub fn pages(&self, path: &str) -> impl Iterator<Item = Result<Vec<Value>, ClientError>> {
        let mark = if path.contains('?') { '&' } else { '?' };
        let mut next = Some(path.to_owned());
        std::iter::from_fn(move || {
            let answer = self.get(&next.take()?);
            Some(answer.map(|mut answer| {
                let cursor = answer["next"].as_str();
                next = cursor.map(|cursor| format!("{path}{mark}cursor={cursor}"));
                answer["items"].as_array_mut().map(std::mem::take).unwrap_or_default()
            }))
        })
    }

    /// Everything that one request can take: redirects, one renewal, retries.
    fn run(
        &self,
        plugin: Option<&dyn AuthPlugin>,
        mut request: Outgoing<'_>,
    ) -> Result<Answer, ClientError> {
        if !request.path.starts_with('/') {
            // Behind the base it could name another host: `@elsewhere/`.
            return Err(ClientError::Unsendable("a path begins with a slash".into()));
        }
        let mut url = format!("{}{}", self.server.base(), request.path);
        let (mut renewed, mut hops, mut retries) = (false, 0, 0);
        loop {
            let (answer, sent) = self.attempt(plugin, &url, &mut request)?;
            let verdict = match plugin {
                Some(plugin) if !renewed => self.judge(plugin, sent, &url, &answer),
                _ => Verdict::Accept,
            };
            match verdict {
                Verdict::Fail(error) => return Err(error),
                Verdict::Resend if answer.status == StatusCode::UNAUTHORIZED => {
                    renewed = true;
                    again(&request, &answer)?;
                    continue;
                }
                Verdict::Resend | Verdict::Accept => {}
            }
            if redirect::is_redirect(answer.status)
                && let Some(location) = answer.header("location")
            {
                let to = self.follow(&url, location)?;
                if redirect::is_followed(answer.status, &request.method) {
                    hops += 1;
                    if hops > redirect::MOST {
                        let server = self.server.to_string();
                        return Err(ClientError::TooManyRedirects { server, most: redirect::MOST });
                    }
                    again(&request, &answer)?;
                    url = to;
                    continue;
                }
            }
            let may_repeat = request.method.is_idempotent() && request.body.is_replayable();
            if may_repeat && let Some(wait) = self.retries.wait(retries, &answer) {
                retries += 1;
                std::thread::sleep(wait);
                continue;
            }
            return Ok(answer);
        }
    }

    /// Proves and sends it once.
    fn attempt(
        &self,
        plugin: Option<&dyn AuthPlugin>,
        url: &str,
        request: &mut Outgoing<'_>,
    ) -> Result<(Answer, Generation), ClientError> {
        let head = RequestHead {
            method: &request.method,
            url,
            headers: request.headers,
            body: request.body.bytes(),
        };
        let proof = match plugin {
            None => AuthHeaders::default(),
            Some(plugin) => plugin
                .headers(self, &head)?
                .ok_or(ClientError::NoCredentials { plugin: plugin.name() })?,
        };
        let headers = headers(request.headers, &proof)?;
        let answer = self.exchange_once(&request.method, url, &headers, request.body.take())?;
        Ok((answer, proof.generation))
    }

    fn judge(
        &self,
        plugin: &dyn AuthPlugin,
        sent: Generation,
        url: &str,
        answer: &Answer,
    ) -> Verdict {
        let refusal =
            if answer.status.is_success() { String::new() } else { answer.refused().to_string() };
        let head = ResponseHead {
            url,
            status: answer.status,
            headers: &answer.headers,
            refusal: &refusal,
        };
        plugin.verdict(self, sent, &head)
    }

    fn follow(&self, url: &str, location: &str) -> Result<String, ClientError> {
        let here: Uri = url.parse().map_err(unsendable)?;
        match redirect::target(&here, location) {
            Target::Same(url) => Ok(url),
            Target::Other(to) => {
                Err(ClientError::Elsewhere { server: self.server.to_string(), to })
            }
        }
    }

    fn exchange_once(
        &self,
        method: &Method,
        url: &str,
        headers: &HeaderMap,
        body: Body<'_>,
    ) -> Result<Answer, ClientError> {
        let mut parts = http::Request::builder().method(method).uri(url).body(());
        let parts = match &mut parts {
            Ok(request) => {
                *request.headers_mut() = headers.clone();
                std::mem::take(request).into_parts().0
            }
            Err(error) => return Err(unsendable(error)),
        };
        let outcome = match body {
            Body::Empty => self.agent.run(http::Request::from_parts(parts, ())),
            Body::Bytes(bytes) => self.agent.run(http::Request::from_parts(parts, bytes)),
            Body::Stream(mut reader) => {
                let body = SendBody::from_reader(&mut reader);
                self.agent.run(http::Request::from_parts(parts, body))
            }
            Body::Spent => {
                return Err(ClientError::Unsendable("the body was sent already".into()));
            }
        };
        let outcome = outcome.and_then(read).map_err(|error| error.to_string());
        if let Some(log) = &self.log {
            log.request(method, url, &outcome);
            log.headers('>', headers);
            if let Ok(answer) = &outcome {
                log.headers('<', &answer.headers);
            }
        }
        outcome.map_err(|why| ClientError::NoAnswer { server: self.server.to_string(), why })
    }
}

impl Transport for Session {
    fn exchange(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&[u8]>,
    ) -> Result<Answer, ClientError> {
        self.run(None, Outgoing { method, path, headers, body: body.into() })
    }

    fn server(&self) -> &ServerUrl {
        &self.server
    }
}

fn read(mut response: http::Response<ureq::Body>) -> Result<Answer, ureq::Error> {
    let body = response.body_mut().with_config().limit(u64::MAX).read_to_vec()?;
    let (parts, _) = response.into_parts();
    let etag = parts.headers.get("etag").and_then(|v| v.to_str().ok()).map(str::to_owned);
    Ok(Answer { status: parts.status, headers: parts.headers, etag, body })
}

/// Whether the request can be sent as if it had not been: never with less than its body.
fn again(request: &Outgoing<'_>, answer: &Answer) -> Result<(), ClientError> {
    if request.body.is_replayable() {
        return Ok(());
    }
    Err(ClientError::BodyNotReplayable { status: answer.status.as_u16() })
}

fn headers(given: &[(&str, &str)], proof: &AuthHeaders) -> Result<HeaderMap, ClientError> {
    let mut headers = HeaderMap::new();
    for (name, value) in given {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(unsendable)?;
        headers.append(name, HeaderValue::from_str(value).map_err(unsendable)?);
    }
    for (name, value) in &proof.fields {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(unsendable)?;
        let mut value = HeaderValue::from_str(value.expose())
            .map_err(|_| ClientError::Unsendable(format!("what goes into {name} is no header")))?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Ok(headers)
}

fn unsendable(error: impl std::fmt::Display) -> ClientError {
    ClientError::Unsendable(error.to_string())
}
