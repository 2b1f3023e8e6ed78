//! Requests as cloud-init writes them, byte for byte, and what is read of their answers.

use std::io::Write as _;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use clap::ValueEnum;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::Deserialize;
use sha2::Sha256;

/// A node and what it signs with; a line of the answer to `POST /v1/{project}/tokens`.
#[derive(Clone, Deserialize)]
pub struct Signer {
    pub system_id: String,
    pub consumer_key: String,
    pub token_key: String,
    pub token_secret: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Signing {
    Plaintext,
    HmacSha256,
}

/// What is asked, before it is signed.
#[derive(Clone, Copy)]
pub struct Ask<'a> {
    pub method: &'a str,
    pub host: &'a str,
    pub path: &'a str,
    pub agent: &'a str,
    /// Of a POST; cloud-init says no `Content-Type`.
    pub body: Option<&'a [u8]>,
    /// Of the listener.
    pub scheme: &'a str,
}

/// What makes two requests different.
#[derive(Clone, Copy)]
pub struct Fresh {
    pub random: u64,
    pub timestamp: i64,
}

impl Ask<'_> {
    /// Writes the request into `out`, signed.
    pub fn write(&self, out: &mut Vec<u8>, signer: &Signer, signing: Signing, fresh: Fresh) {
        let Ask { method, host, path, agent, body, scheme } = self;
        let Fresh { random, timestamp } = fresh;
        let Signer { consumer_key, token_key, token_secret, .. } = signer;
        out.clear();
        // Header names, order and values as captured from cloud-init 22.4.2 to 26.2. Writing to
        // memory cannot fail. A nonce is `str(getrandbits(64)) + str(timestamp)`; keys and secrets
        // are letters and digits, so nothing in them needs escaping.
        let _ = write!(
            out,
            "{method} {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: {agent}\r\n\
             Accept-Encoding: gzip, deflate\r\nAccept: */*\r\nConnection: keep-alive\r\n\
             Authorization: OAuth oauth_nonce=\"{random}{timestamp}\", \
             oauth_timestamp=\"{timestamp}\", oauth_version=\"1.0\", "
        );
        let _ = match signing {
            Signing::Plaintext => write!(
                out,
                "oauth_signature_method=\"PLAINTEXT\", oauth_consumer_key=\"{consumer_key}\", \
                 oauth_token=\"{token_key}\", oauth_signature=\"%26{token_secret}\"\r\n"
            ),
            Signing::HmacSha256 => {
                let parameters = format!(
                    "oauth_consumer_key={consumer_key}&oauth_nonce={random}{timestamp}\
                     &oauth_signature_method=HMAC-SHA256&oauth_timestamp={timestamp}\
                     &oauth_token={token_key}&oauth_version=1.0"
                );
                let base = format!(
                    "{method}&{}&{}",
                    escaped(&format!("{scheme}://{host}{path}")),
                    escaped(&parameters)
                );
                let signature = hmac_sha256(&format!("&{token_secret}"), &base);
                write!(
                    out,
                    "oauth_signature_method=\"HMAC-SHA256\", \
                     oauth_consumer_key=\"{consumer_key}\", oauth_token=\"{token_key}\", \
                     oauth_signature=\"{}\"\r\n",
                    escaped(&signature)
                )
            }
        };
        if let Some(body) = body {
            let _ = write!(out, "Content-Length: {}\r\n", body.len());
        }
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(body.unwrap_or_default());
    }
}

fn hmac_sha256(key: &str, text: &str) -> String {
    let mut mac =
        Hmac::<Sha256>::new_from_slice(key.as_bytes()).expect("HMAC takes a key of any length");
    mac.update(text.as_bytes());
    BASE64_STANDARD.encode(mac.finalize().into_bytes())
}

/// RFC 5849 §3.6.
pub fn escaped(text: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(text.len() + 32);
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// An answer that is there to its last byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer<'a> {
    pub status: u16,
    pub body: &'a [u8],
}

/// The answer in `bytes`, once it is whole by its `Content-Length`.
///
/// # Errors
/// What is wrong with it.
pub fn answer(bytes: &[u8]) -> Result<Option<Answer<'_>>, String> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        return Ok(None);
    };
    let (head, body) = (&bytes[..end], &bytes[end + 4..]);
    let status = head.get(9..12).and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
    let Some(status) = status.filter(|_| head.starts_with(b"HTTP/1.")) else {
        return Err("it does not speak HTTP".into());
    };
    let length = match length(head) {
        Some(length) => length,
        None if status == 204 => 0,
        None => return Err("no Content-Length".into()),
    };
    match body.len().cmp(&length) {
        std::cmp::Ordering::Less => Ok(None),
        std::cmp::Ordering::Equal => Ok(Some(Answer { status, body })),
        std::cmp::Ordering::Greater => Err("more than one answer to one request".into()),
    }
}

fn length(head: &[u8]) -> Option<usize> {
    head.split(|b| *b == b'\n').find_map(|line| {
        let (name, value) = line.split_at_checked(b"content-length:".len())?;
        let value = name.eq_ignore_ascii_case(b"content-length:").then_some(value)?;
        std::str::from_utf8(value).ok()?.trim().parse::<usize>().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signer() -> Signer {
        Signer {
            system_id: "n1".into(),
            consumer_key: "ckey-boot".into(),
            token_key: "tkey-boot".into(),
            token_secret: "tsec-boot".into(),
        }
    }

    const ASK: Ask = Ask {
        method: "GET",
        host: "10.0.2.2:5240",
        path: "/MAAS/metadata/2012-03-01/meta-data/instance-id",
        agent: "Cloud-Init/25.1.4",
        body: None,
        scheme: "http",
    };

    fn text(ask: &Ask, signing: Signing) -> String {
        let mut out = Vec::new();
        let fresh = Fresh { random: 13_149_692_234_393_143_178, timestamp: 1_795_315_087 };
        ask.write(&mut out, &signer(), signing, fresh);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_request_is_cloud_inits() {
        assert_eq!(
            text(&ASK, Signing::Plaintext),
            "GET /MAAS/metadata/2012-03-01/meta-data/instance-id HTTP/1.1\r\n\
             Host: 10.0.2.2:5240\r\nUser-Agent: Cloud-Init/25.1.4\r\n\
             Accept-Encoding: gzip, deflate\r\nAccept: */*\r\nConnection: keep-alive\r\n\
             Authorization: OAuth oauth_nonce=\"131496922343931431781795315087\", \
             oauth_timestamp=\"1795315087\", oauth_version=\"1.0\", \
             oauth_signature_method=\"PLAINTEXT\", oauth_consumer_key=\"ckey-boot\", \
             oauth_token=\"tkey-boot\", oauth_signature=\"%26tsec-boot\"\r\n\r\n"
        );
        let event = Ask { method: "POST", path: "/s", body: Some(b"{}"), ..ASK };
        let event = text(&event, Signing::Plaintext);
        assert!(event.starts_with("POST /s HTTP/1.1\r\n"));
        assert!(event.ends_with("\"%26tsec-boot\"\r\nContent-Length: 2\r\n\r\n{}"), "{event}");
    }

    #[test]
    fn a_hmac_signature_is_that_of_python() {
        // hmac.new(b"&tsec-boot", base, "sha256") over the base string of RFC 5849 §3.4.1.
        let signed = text(&ASK, Signing::HmacSha256);
        let (_, signature) = signed.split_once("oauth_signature=\"").unwrap();
        assert_eq!(signature, "ZUySM9gGd68fDY6HE%2Fnbf5cIPLBhWzQlXRuHSFuIn70%3D\"\r\n\r\n");
    }

    #[test]
    fn an_answer_is_whole_at_its_content_length() {
        let whole = b"HTTP/1.1 200 OK\r\nA: b\r\ncontent-length: 3\r\nC: d\r\n\r\nabc";
        for end in 0..whole.len() {
            assert_eq!(answer(&whole[..end]), Ok(None), "{end}");
        }
        assert_eq!(answer(whole), Ok(Some(Answer { status: 200, body: b"abc" })));
        assert!(answer(&[whole.as_slice(), b"H"].concat()).is_err());
        assert!(answer(b"HTTP/1.1 200 OK\r\n\r\nabc").is_err());
        assert!(answer(b"SSH-2.0-x\r\n\r\n").is_err());
        let refused = b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 1\r\n\r\nx";
        assert_eq!(answer(refused), Ok(Some(Answer { status: 401, body: b"x" })));
        let stored = b"HTTP/1.1 204 No Content\r\n\r\n";
        assert_eq!(answer(stored), Ok(Some(Answer { status: 204, body: b"" })));
    }
}
