//! What a session tells of its requests: never a secret, whatever is asked for.

use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use ureq::http::{HeaderMap, Method};

use super::Answer;
use super::answer::plain;

/// How much is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Detail {
    /// A line a request, with its status.
    Requests,
    /// And the headers of both sides.
    Headers,
}

/// Where it is told, line by line.
#[derive(Clone)]
pub struct Log {
    pub detail: Detail,
    pub sink: Arc<dyn Fn(&str) + Send + Sync>,
}

/// Headers that say nothing but what they say. All others are named without their value.
const OPEN: [&str; 21] = [
    "accept",
    "accept-encoding",
    "allow",
    "cache-control",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "date",
    "etag",
    "host",
    "if-match",
    "if-none-match",
    "location",
    "retry-after",
    "server",
    "transfer-encoding",
    "user-agent",
    "vary",
    "www-authenticate",
    "x-request-id",
];

/// Tokens are told apart by the beginning of their hash.
const HASHED: [&str; 3] = ["x-auth-token", "x-service-token", "x-subject-token"];

impl Log {
    pub fn request(&self, method: &Method, url: &str, outcome: &Result<Answer, String>) {
        let url = url_without_secrets(url);
        (self.sink)(&match outcome {
            Ok(answer) => format!("{method} {url}: {}", answer.status),
            Err(why) => format!("{method} {url}: no answer: {}", plain(why)),
        });
    }

    pub fn headers(&self, mark: char, headers: &HeaderMap) {
        if self.detail < Detail::Headers {
            return;
        }
        for (name, value) in headers {
            let value = value.to_str().unwrap_or("(not text)");
            (self.sink)(&format!("  {mark} {name}: {}", shown(name.as_str(), value)));
        }
    }
}

fn shown(name: &str, value: &str) -> String {
    match name {
        "location" => url_without_secrets(value),
        "authorization" => authorization(value),
        name if HASHED.contains(&name) => hashed(value),
        name if OPEN.contains(&name) => plain(value),
        _ => "(not shown)".to_owned(),
    }
}

/// `{SHA256}` and the first 12 digits: enough to see which token it was, useless to whoever reads.
fn hashed(secret: &str) -> String {
    let digest = Sha256::digest(secret.as_bytes());
    let first = digest.iter().take(6).fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
    format!("{{SHA256}}{first:012x}")
}

/// With PLAINTEXT the signature is the secret itself.
fn authorization(value: &str) -> String {
    let Some(rest) = value.strip_prefix("OAuth ") else { return "(not shown)".to_owned() };
    let parts = rest.split(',').map(str::trim);
    let kept: Vec<&str> = parts.filter(|part| !part.starts_with("oauth_signature=")).collect();
    plain(&format!("OAuth {}", kept.join(", ")))
}

/// A token or a claim can stand in a path; a query is not told at all.
fn url_without_secrets(url: &str) -> String {
    let (path, query) = url.split_once('?').map_or((url, ""), |(path, _)| (path, "?…"));
    let mut before = ("", "");
    let mut shown = Vec::new();
    for segment in path.split('/') {
        let is_secret = segment.contains("nit_")
            || matches!(before, ("v2.0", "tokens") | ("metadata", "claim"));
        shown.push(if is_secret && !segment.is_empty() { hashed(segment) } else { plain(segment) });
        before = (before.1, segment);
    }
    shown.join("/") + query
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_told_by_the_beginning_of_their_hash() {
        // printf nit_abc | sha256sum
        assert_eq!(shown("x-auth-token", "nit_abc"), hashed("nit_abc"));
        assert!(!shown("x-service-token", "nit_abc").contains("nit_"));
        assert_eq!(hashed("hello"), "{SHA256}2cf24dba5fb0");
        let path = url_without_secrets("http://h/v2.0/tokens/nit_abc?belongsTo=t");
        assert_eq!(path, format!("http://h/v2.0/tokens/{}?…", hashed("nit_abc")));
        assert_eq!(url_without_secrets("http://h/v1/tokens/cull"), "http://h/v1/tokens/cull");
        assert!(!url_without_secrets("http://h/MAAS/metadata/claim/s3cr3t").contains("s3cr3t"));
    }

    #[test]
    fn a_signature_and_what_is_not_known_are_not_told() {
        let value = "OAuth oauth_token=\"k\",oauth_signature_method=\"PLAINTEXT\",\
                     oauth_signature=\"%2526sesame\"";
        let told = shown("authorization", value);
        assert_eq!(told, "OAuth oauth_token=\"k\", oauth_signature_method=\"PLAINTEXT\"");
        assert_eq!(shown("authorization", "Basic YTpi"), "(not shown)");
        assert_eq!(shown("set-cookie", "session=1"), "(not shown)");
        assert_eq!(shown("etag", "\"1\"\u{1b}"), "\"1\"\u{fffd}");
    }
}
