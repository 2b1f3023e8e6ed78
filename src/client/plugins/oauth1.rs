//! `oauth1`: signs each request as a node does, by a clock that is mended by the server's.

use std::collections::HashMap;
use std::sync::Mutex;

use ureq::http::{StatusCode, Uri, header};

use super::super::oauth1::{self, NodeCredentials, SignBy};
use super::super::plugin::{
    AuthHeaders, AuthOption, AuthPlugin, Generation, Provides, RequestHead, ResponseHead,
    Surroundings, Transport, Values, Verdict,
};
use super::password::lock;
use super::{ClientError, text};
use crate::domain::credentials::Secret;

pub const OPTIONS: [AuthOption; 4] = [
    AuthOption {
        name: "consumer-key",
        required: true,
        secret: false,
        variable: "NODEINIT_CONSUMER_KEY",
        help: "The consumer key, as `nodeinit token get NODE` prints it",
    },
    AuthOption {
        name: "token-key",
        required: true,
        secret: false,
        variable: "NODEINIT_TOKEN_KEY",
        help: "The token key",
    },
    AuthOption {
        name: "token-secret",
        required: true,
        secret: true,
        variable: "NODEINIT_TOKEN_SECRET",
        help: "The token's secret",
    },
    AuthOption {
        name: "signature-method",
        required: false,
        secret: false,
        variable: "NODEINIT_SIGNATURE_METHOD",
        help: "PLAINTEXT, as cloud-init signs, or HMAC-SHA1; PLAINTEXT by default",
    },
];

pub(super) fn build(mut values: Values, around: &Surroundings) -> Result<OAuth1, ClientError> {
    let by = match text(&mut values, "signature-method").as_deref() {
        None | Some("PLAINTEXT") => SignBy::Plaintext,
        Some("HMAC-SHA1") => SignBy::HmacSha1,
        Some(_) => {
            let why = "signature-method is PLAINTEXT or HMAC-SHA1".to_owned();
            return Err(ClientError::BadOption { plugin: "oauth1", why });
        }
    };
    let mut field = |name| text(&mut values, name).unwrap_or_default();
    let node = NodeCredentials {
        consumer_key: field("consumer-key"),
        token_key: field("token-key"),
        token_secret: field("token-secret"),
    };
    Ok(OAuth1::new(node, by, around.clone()))
}

/// Sends `Authorization: OAuth`, with a nonce and a timestamp of its own each time.
pub struct OAuth1 {
    node: NodeCredentials,
    by: SignBy,
    around: Surroundings,
    /// By how many seconds each host and port is ahead of us. Serves signing and nothing else.
    skews: Mutex<HashMap<String, i64>>,
}

impl OAuth1 {
    #[must_use]
    pub fn new(node: NodeCredentials, by: SignBy, around: Surroundings) -> OAuth1 {
        OAuth1 { node, by, around, skews: Mutex::default() }
    }

    fn skew(&self, place: &str) -> i64 {
        lock(&self.skews).get(place).copied().unwrap_or(0)
    }
}

fn place(url: &str) -> String {
    url.parse::<Uri>().map(|uri| oauth1::authority(&uri)).unwrap_or_default()
}

impl AuthPlugin for OAuth1 {
    fn name(&self) -> &'static str {
        "oauth1"
    }

    fn provides(&self, _: &dyn Transport) -> Result<Provides, ClientError> {
        Ok(Provides::default())
    }

    fn headers(
        &self,
        _: &dyn Transport,
        request: &RequestHead<'_>,
    ) -> Result<Option<AuthHeaders>, ClientError> {
        let is_form = request.headers.iter().any(|(name, value)| {
            name.eq_ignore_ascii_case("content-type")
                && value.starts_with("application/x-www-form-urlencoded")
        });
        let form = match request.body {
            Some(body) if is_form => body,
            None if is_form && self.by == SignBy::HmacSha1 => {
                let why = "a form that is streamed cannot be signed with HMAC".to_owned();
                return Err(ClientError::Unsendable(why));
            }
            _ => b"",
        };
        let now = (self.around.now)().as_second() + self.skew(&place(request.url));
        // A timestamp is a positive number (RFC 5849 §3.3), and a clock may stand before 1970.
        let timestamp = u64::try_from(now).unwrap_or(0).max(1);
        let nonce = (self.around.nonce)();
        let method = request.method.as_str();
        let signed =
            oauth1::sign(&self.node, self.by, timestamp, &nonce, method, request.url, form)
                .map_err(ClientError::Unsendable)?;
        Ok(Some(AuthHeaders {
            fields: vec![("authorization", Secret::new(signed))],
            generation: Generation::default(),
        }))
    }

    fn verdict(
        &self,
        transport: &dyn Transport,
        _: Generation,
        response: &ResponseHead<'_>,
    ) -> Verdict {
        if response.status != StatusCode::UNAUTHORIZED {
            return Verdict::Accept;
        }
        let date = response.headers.get(header::DATE).and_then(|date| date.to_str().ok());
        let Some(theirs) = date.and_then(oauth1::parse_date) else {
            let server = transport.server().to_string();
            return Verdict::Fail(ClientError::NoDate {
                server,
                detail: response.refusal.to_owned(),
            });
        };
        let skew = theirs.as_second() - (self.around.now)().as_second();
        lock(&self.skews).insert(place(response.url), skew);
        Verdict::Resend
    }
}
