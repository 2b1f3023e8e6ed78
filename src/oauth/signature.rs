//! Signatures (RFC 5849 §3.4): the base string that HMAC signs, and the check of each method.

use std::borrow::Cow;
use std::sync::OnceLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use sha2::Sha256;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroize as _;

use super::{Claim, percent};

/// Room for what a header adds to a base string, so that a usual one is allocated once.
const USUAL: usize = 512;
/// Room for the bytes of the longest signature, and for those that base64 counts on beforehand.
const LONGEST_MAC: usize = 48;

/// `oauth_signature_method`. RSA-SHA1 is left out: nodes hold a secret, not a private key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Method {
    Plaintext,
    HmacSha1,
    HmacSha256,
}

impl Method {
    /// The name on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Plaintext => "PLAINTEXT",
            Self::HmacSha1 => "HMAC-SHA1",
            Self::HmacSha256 => "HMAC-SHA256",
        }
    }

    pub(super) fn named(name: &str) -> Option<Self> {
        let methods = [Self::Plaintext, Self::HmacSha1, Self::HmacSha256];
        methods.into_iter().find(|method| method.name() == name)
    }
}

/// What a signature covers of a request, beside its claim.
#[derive(Debug, Clone, Copy)]
pub struct SignedRequest<'r> {
    pub method: &'r str,
    /// `http` or `https`, as the client sees it.
    pub scheme: &'r str,
    /// The `Host` header as sent.
    pub host: &'r str,
    /// Path and query as sent, in origin form.
    pub target: &'r str,
    /// The body, if its `Content-Type` is `application/x-www-form-urlencoded`.
    pub form: Option<&'r [u8]>,
}

/// Where every HMAC-SHA256 with the same two secrets begins: the first one makes it, and each later
/// one is two of nine blocks shorter.
#[derive(Default)]
pub struct Begun(OnceLock<Box<Hmac<Sha256>>>);

impl Begun {
    /// What it takes beside itself, once it is made.
    pub const BYTES: usize = size_of::<Hmac<Sha256>>();
}

/// Whether whoever made the claim knows both secrets. For HMAC that includes this very request,
/// but whether it is fresh (timestamp, nonce) is not judged here.
///
/// Takes the same time whichever byte of a secret or a signature is wrong; a wrong length shows.
#[must_use]
pub fn verify(
    claim: &Claim<'_>,
    request: &SignedRequest<'_>,
    consumer_secret: &str,
    token_secret: &str,
) -> bool {
    verify_begun(claim, request, [consumer_secret, token_secret], &Begun::default())
}

/// The same with secrets that are verified with again and again; `begun` belongs to them.
#[must_use]
pub fn verify_begun(
    claim: &Claim<'_>,
    request: &SignedRequest<'_>,
    secrets: [&str; 2],
    begun: &Begun,
) -> bool {
    match claim.method {
        Method::Plaintext => states_secrets(&claim.signature, secrets),
        Method::HmacSha1 => is_signed(claim, request, keyed::<Hmac<Sha1>>(secrets)),
        Method::HmacSha256 => {
            let begun = begun.0.get_or_init(|| Box::new(keyed(secrets)));
            is_signed(claim, request, Hmac::<Sha256>::clone(begun))
        }
    }
}

/// RFC 5849 §3.4.4. The halves are decoded rather than the secrets encoded: clients differ in what
/// they escape, and in upper or lower case, but not in what they mean.
fn states_secrets(signature: &str, [consumer_secret, token_secret]: [&str; 2]) -> bool {
    let Some((consumer, token)) = signature.split_once('&') else {
        return false;
    };
    let decoded = percent::decode(consumer.as_bytes()).zip(percent::decode(token.as_bytes()));
    let Some((consumer, token)) = decoded else {
        return false;
    };
    (consumer.ct_eq(consumer_secret.as_bytes()) & token.ct_eq(token_secret.as_bytes())).into()
}

/// RFC 5849 §3.4.2, for any hash.
fn keyed<M: KeyInit>([consumer_secret, token_secret]: [&str; 2]) -> M {
    let mut key = Vec::with_capacity(3 * (consumer_secret.len() + token_secret.len()) + 1);
    percent::encode_into(&mut key, consumer_secret.as_bytes());
    key.push(b'&');
    percent::encode_into(&mut key, token_secret.as_bytes());
    let mac = M::new_from_slice(&key).expect("HMAC takes a key of any length");
    key.zeroize();
    mac
}

fn is_signed<M: Mac>(claim: &Claim<'_>, request: &SignedRequest<'_>, mac: M) -> bool {
    // The signature of either hash fits; a longer text is none.
    let mut room = [0; LONGEST_MAC];
    let Ok(length) = STANDARD.decode_slice(&*claim.signature, &mut room) else {
        return false;
    };
    let Some(text) = signature_base_string(claim, request) else {
        return false;
    };
    mac.chain_update(text).verify_slice(&room[..length]).is_ok()
}

/// RFC 5849 §3.4.1:
///
/// ```text
/// POST & http%3A%2F%2Fexample.com%2Frequest & a2%3Dr%2520b%26a3%3D2%2520q%26oauth_nonce%3D7d8f3e4a
/// |--|   |--------------------------------|   |-------------------------------------------------|
/// method          base string URI               query, header and form: decoded, encoded, sorted,
///                                               joined by = and &, and encoded once more
/// ```
/// (without the spaces). `None` if the query or the form has a broken percent escape.
#[must_use]
pub fn signature_base_string(claim: &Claim<'_>, request: &SignedRequest<'_>) -> Option<Vec<u8>> {
    let target = request.target;
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let form = request.form.unwrap_or_default();
    let mut text = Vec::with_capacity(USUAL + target.len() + query.len() + form.len());
    percent::encode_into(&mut text, upper_case(request.method).as_bytes());
    text.push(b'&');
    push_uri(&mut text, request.scheme, request.host, path);
    let mut joint: &[u8] = b"&";
    // A boot's reads sign what their header says and nothing else, and that is in order.
    if query.is_empty() && form.is_empty() && claim.others().len() == 0 {
        for (name, value) in claim.named() {
            text.extend_from_slice(joint);
            text.extend_from_slice(name.as_bytes());
            text.extend_from_slice(b"%3D");
            match percent::encoded(value.as_bytes()) {
                Cow::Borrowed(value) => text.extend_from_slice(value),
                Cow::Owned(value) => percent::encode_into(&mut text, &value),
            }
            joint = b"%26";
        }
        return Some(text);
    }
    let mut pairs: Vec<Pair<'_>> = Vec::with_capacity(16);
    for (name, value) in claim.named().chain(claim.others()) {
        pairs.push((percent::encoded(name.as_bytes()), percent::encoded(value.as_bytes())));
    }
    push_form(&mut pairs, query.as_bytes())?;
    push_form(&mut pairs, form)?;
    // By name, then by value, both as they are encoded (§3.4.1.3.2).
    pairs.sort_unstable();
    for (name, value) in &pairs {
        text.extend_from_slice(joint);
        percent::encode_into(&mut text, name);
        text.extend_from_slice(b"%3D");
        percent::encode_into(&mut text, value);
        joint = b"%26";
    }
    Some(text)
}

/// A parameter, name and value encoded once.
type Pair<'p> = (Cow<'p, [u8]>, Cow<'p, [u8]>);

/// Appends the parameters of a query or a form (RFC 5849 §3.4.1.3.1), decoded and encoded again.
fn push_form<'p>(pairs: &mut Vec<Pair<'p>>, form: &'p [u8]) -> Option<()> {
    for pair in form.split(|&byte| byte == b'&') {
        if pair.is_empty() {
            continue;
        }
        let end = pair.iter().position(|&byte| byte == b'=');
        let end = end.unwrap_or(pair.len());
        let name = percent::decode_form(&pair[..end])?;
        let value = percent::decode_form(pair.get(end + 1..).unwrap_or_default())?;
        if *name != *b"oauth_signature" {
            let [name, value] = [name, value].map(|text| match text {
                Cow::Borrowed(text) => percent::encoded(text),
                Cow::Owned(text) => Cow::Owned(percent::encoded(&text).into_owned()),
            });
            pairs.push((name, value));
        }
    }
    Some(())
}

/// Appends the base string URI, encoded (RFC 5849 §3.4.1.2). The path stays as it was sent: a URL
/// library would resolve its dots.
fn push_uri(text: &mut Vec<u8>, scheme: &str, host: &str, path: &str) {
    let scheme = lower_case(scheme);
    let default_port = if scheme == "https" { "443" } else { "80" };
    let host = match host.rsplit_once(':') {
        // An address in brackets has colons of its own.
        Some((name, port)) if port == default_port || port.is_empty() => name,
        _ => host,
    };
    let path = if path.is_empty() { "/" } else { path };
    percent::encode_into(text, scheme.as_bytes());
    text.extend_from_slice(b"%3A%2F%2F");
    percent::encode_into(text, lower_case(host).as_bytes());
    percent::encode_into(text, path.as_bytes());
}

fn lower_case(text: &str) -> Cow<'_, str> {
    let is_lower = !text.bytes().any(|byte| byte.is_ascii_uppercase());
    if is_lower { text.into() } else { text.to_ascii_lowercase().into() }
}

fn upper_case(text: &str) -> Cow<'_, str> {
    let is_upper = !text.bytes().any(|byte| byte.is_ascii_lowercase());
    if is_upper { text.into() } else { text.to_ascii_uppercase().into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_uris() {
        for (scheme, host, path, uri) in [
            ("http", "EXAMPLE.COM:80", "/r%20v/X", "http://example.com/r%20v/X"),
            ("https", "www.example.net:8080", "/", "https://www.example.net:8080/"),
            ("HTTPS", "h:443", "", "https://h/"),
            ("https", "h:80", "/", "https://h:80/"),
            ("http", "h:443", "/", "http://h:443/"),
            ("http", "h:8080", "/", "http://h:8080/"),
            ("http", "h:", "/", "http://h/"),
            ("http", "[FEC0::2]", "/", "http://[fec0::2]/"),
            ("http", "[fec0::80]:80", "/", "http://[fec0::80]/"),
            ("http", "[fec0::80]", "/", "http://[fec0::80]/"),
            ("http", "[fec0::2]:5240", "/a/", "http://[fec0::2]:5240/a/"),
            ("http", "h", "/a//b/./c/../%7e/;p", "http://h/a//b/./c/../%7e/;p"),
        ] {
            let mut text = Vec::new();
            push_uri(&mut text, scheme, host, path);
            assert_eq!(percent::decode(&text).unwrap(), uri.as_bytes());
        }
    }

    fn normalized(form: &str) -> Option<Vec<String>> {
        let mut pairs = Vec::new();
        push_form(&mut pairs, form.as_bytes())?;
        pairs.sort_unstable();
        let joined = |(name, value): &Pair<'_>| [&**name, &**value].join(&b'=');
        let pairs = pairs.iter().map(joined);
        Some(pairs.map(|pair| String::from_utf8(pair).expect("ASCII")).collect())
    }

    #[test]
    fn forms_are_decoded_and_encoded_again() {
        for (form, parameters) in [
            ("", &[] as &[&str]),
            ("&&", &[]),
            ("c2&b5=%3D%253D&c%40=", &["b5=%3D%253D", "c%40=", "c2="]),
            ("a=1=2&=x&=", &["=", "=x", "a=1%3D2"]),
            ("a+b=%2b+%20", &["a%20b=%2B%20%20"]),
            ("a=%ff%7E\u{e9}~", &["a=%FF~%C3%A9~"]),
            ("oauth_signature=x&oauth%5Fsignature=y&oauth_token=z", &["oauth_token=z"]),
        ] {
            assert_eq!(normalized(form).unwrap(), parameters, "{form}");
        }
        assert_eq!(normalized("a=1&b=%zz"), None);
        assert_eq!(normalized("%=1"), None);
    }

    #[test]
    fn plaintext_decodes_each_half() {
        for (signature, consumer_secret, token_secret) in [
            ("&SECRET", "", "SECRET"),
            ("&", "", ""),
            ("ja893SD9&xyz4992k83j47x0b", "ja893SD9", "xyz4992k83j47x0b"),
            ("csec%26&secret1", "csec&", "secret1"),
            ("&s%26e%3Dc%20%25~%22%27", "", "s&e=c %~\"'"),
            ("&s%26e%3dc%20%25%7e\"'", "", "s&e=c %~\"'"),
            ("&a+b", "", "a+b"),
            ("&%C3%A9", "", "é"),
        ] {
            assert!(states_secrets(signature, [consumer_secret, token_secret]), "{signature}");
        }
    }

    #[test]
    fn plaintext_refuses_everything_else() {
        for signature in [
            "",
            "&",
            "SECRET",
            "%26SECRET",
            "&SECRE",
            "&SECRETS",
            "&secret",
            "SECRET&",
            "&&SECRET",
            "x&SECRET",
            " &SECRET",
            "&SECRET ",
            "&SECRET&",
            "&%zzSECRET",
            "%&SECRET",
            "&SECRET%",
            "&SECRET%00",
            "&%2553ECRET",
        ] {
            assert!(!states_secrets(signature, ["", "SECRET"]), "{signature}");
        }
        assert!(states_secrets("&%53ECRET", ["", "SECRET"]));
    }
}
