//! Signs requests as a node does, with `oauth1-request`.

use std::num::NonZeroU64;

use jiff::Timestamp;
use jiff::fmt::rfc2822;
use oauth1_request::signature_method::{HmacSha1, Plaintext, SignatureMethod};
use oauth1_request::{Builder, ParameterList, Request, Token};
use ureq::http::Uri;

use crate::oauth::percent;

/// How requests are signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignBy {
    /// What cloud-init does: the header carries the secret.
    Plaintext,
    HmacSha1,
}

/// What a node signs with.
pub struct NodeCredentials {
    pub consumer_key: String,
    pub token_key: String,
    pub token_secret: String,
}

/// The `Authorization` header cloud-init sends: PLAINTEXT, empty consumer secret.
#[must_use]
pub fn plaintext(node: &NodeCredentials, timestamp: u64, nonce: &str, url: &str) -> String {
    let header = signed(node, timestamp, nonce, "GET", url, Plaintext::new(), &());
    // oauth1-request leaves the signature as it is; a value in the header is encoded once more
    // (RFC 5849 §3.5.1), as cloud-init does.
    let Some((before, signature)) = header.split_once("oauth_signature=\"") else { return header };
    let mut out = Vec::new();
    percent::encode_into(&mut out, signature.trim_end_matches('"').as_bytes());
    format!("{before}oauth_signature=\"{}\"", String::from_utf8_lossy(&out))
}

/// The same with HMAC-SHA1 over the method and URL (RFC 5849 §3.4.2).
#[must_use]
pub fn hmac_sha1(
    node: &NodeCredentials,
    timestamp: u64,
    nonce: &str,
    method: &str,
    url: &str,
) -> String {
    signed(node, timestamp, nonce, method, url, HmacSha1::new(), &())
}

/// Signs any request. Its query, and its body if that is a `form`, are part of what HMAC signs.
///
/// # Errors
/// A sentence about parameters that cannot be signed.
pub fn sign(
    node: &NodeCredentials,
    by: SignBy,
    timestamp: u64,
    nonce: &str,
    method: &str,
    url: &str,
    form: &[u8],
) -> Result<String, String> {
    let (base, query) = url.split_once('?').unwrap_or((url, ""));
    Ok(match by {
        // The signature covers nothing but the secrets (RFC 5849 §3.4.4).
        SignBy::Plaintext => plaintext(node, timestamp, nonce, base),
        SignBy::HmacSha1 => {
            let parameters = parameters(&[query.as_bytes(), form])?;
            let base = base_uri(base);
            signed(node, timestamp, nonce, method, &base, HmacSha1::new(), &parameters)
        }
    })
}

/// RFC 5849 §3.4.1.3.1: what queries and forms say, decoded and in the order of their encoding.
fn parameters(queries: &[&[u8]]) -> Result<ParameterList<String, String>, String> {
    let decoded = |bytes: &[u8]| {
        let text = percent::decode_form(bytes).map(|bytes| String::from_utf8(bytes.into_owned()));
        text.and_then(Result::ok).ok_or("a parameter is not percent-encoded UTF-8")
    };
    let mut list = Vec::new();
    for pair in queries.iter().flat_map(|query| query.split(|b| *b == b'&')) {
        if pair.is_empty() {
            continue;
        }
        let end = pair.iter().position(|b| *b == b'=').unwrap_or(pair.len());
        let value = pair.get(end + 1..).unwrap_or_default();
        list.push((decoded(&pair[..end])?, decoded(value)?));
    }
    list.sort();
    let encoded = |text: &String| {
        let mut out = Vec::new();
        percent::encode_into(&mut out, text.as_bytes());
        out
    };
    // oauth1-request sorts what is decoded; the server, as the RFC says, what is encoded.
    if !list.is_sorted_by_key(|(name, value)| (encoded(name), encoded(value))) {
        return Err("parameters with these characters cannot be put in order: use PLAINTEXT".into());
    }
    Ok(ParameterList::new(list))
}

/// RFC 5849 §3.4.1.2: scheme and host in lower case, without the default port.
fn base_uri(url: &str) -> String {
    let Ok(uri) = url.parse::<Uri>() else { return url.to_owned() };
    format!("{}://{}{}", uri.scheme_str().unwrap_or("http"), authority(&uri), uri.path())
}

/// Host and port as they are compared: in lower case, without the default port.
pub(super) fn authority(uri: &Uri) -> String {
    let host = uri.host().unwrap_or_default().to_ascii_lowercase();
    match (uri.scheme_str(), uri.port_u16()) {
        (_, None) | (Some("http"), Some(80)) | (Some("https"), Some(443)) => host,
        (_, Some(port)) => format!("{host}:{port}"),
    }
}

/// The instant of a `Date` (RFC 9110 §5.6.7), which is GMT wherever the client is.
pub(super) fn parse_date(text: &str) -> Option<Timestamp> {
    let parser = rfc2822::DateTimeParser::new().relaxed_weekday(true);
    parser.parse_timestamp(text.trim()).ok()
}

fn signed<S: SignatureMethod, R: Request>(
    node: &NodeCredentials,
    timestamp: u64,
    nonce: &str,
    method: &str,
    url: &str,
    by: S,
    request: &R,
) -> String {
    let token = Token::from_parts(
        node.consumer_key.as_str(),
        "",
        node.token_key.as_str(),
        node.token_secret.as_str(),
    );
    let mut builder = Builder::with_token(token, by);
    builder.nonce(nonce).timestamp(NonZeroU64::new(timestamp));
    builder.into_authorization(method, url, request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_gmt() {
        let second = |text| parse_date(text).map(Timestamp::as_second);
        assert_eq!(second("Fri, 15 Jan 2027 08:00:00 GMT"), Some(1_800_000_000));
        assert_eq!(second("Mon, 15 Jan 2027 08:00:00 GMT"), Some(1_800_000_000), "a wrong weekday");
        assert_eq!(second("yesterday"), None);
    }

    #[test]
    fn the_base_uri_is_what_the_server_makes_of_it() {
        assert_eq!(base_uri("http://Host.Example:80/a/B"), "http://host.example/a/B");
        assert_eq!(base_uri("https://h:443/a"), "https://h/a");
        assert_eq!(base_uri("http://h:443"), "http://h:443/");
    }

    #[test]
    fn parameters_are_sorted_as_they_are_encoded_or_refused() {
        let sorted = parameters(&[b"b=2&a=x+y&&c", b"a=%26"]).unwrap();
        let pairs: Vec<_> = sorted.into_inner();
        let pairs: Vec<_> = pairs.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(pairs, [("a", "&"), ("a", "x y"), ("b", "2"), ("c", "")]);
        assert!(parameters(&[b"a%3A=1&a0=2"]).is_err());
        assert!(parameters(&[b"a=%zz"]).is_err());
    }
}
