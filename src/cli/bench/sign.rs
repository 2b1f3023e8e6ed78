//! A node's request made ready: only its nonce and its time, and what is signed with them, are
//! still to be written.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use super::generator::digits;
use super::wire::{Ask, Fresh, Signer, Signing, escaped};

/// Nonces have this many digits, so that what stands behind them stays in its place.
pub const LEAST_NONCE: u64 = 1_000_000_000_000_000_000;
const NONCE: usize = 19;
const TIME: usize = 10;

/// A request in its pieces.
pub struct Signed {
    /// Up to the nonce, from behind the nonce to the timestamp, and from there.
    head: Vec<u8>,
    middle: Vec<u8>,
    tail: Vec<u8>,
    hmac: Option<Box<Signature>>,
}

/// What goes into an HMAC, in the same pieces.
struct Signature {
    mac: Hmac<Sha256>,
    middle: Vec<u8>,
    tail: Vec<u8>,
}

impl Signed {
    pub fn new(scheme: &str, host: &str, path: &str, signer: &Signer, signing: Signing) -> Signed {
        let ask = Ask { method: "GET", host, path, agent: "Cloud-Init/25.1.4", body: None, scheme };
        let mut whole = Vec::new();
        // Marks that stand where the digits will: as long as they, and found only there.
        let fresh = Fresh { random: LEAST_NONCE, timestamp: 1_111_111_111 };
        ask.write(&mut whole, signer, signing, fresh);
        let nonce = format!("{LEAST_NONCE}1111111111");
        let time = "oauth_timestamp=\"1111111111";
        let at = find(&whole, nonce.as_bytes());
        let time_at = find(&whole, time.as_bytes()) + time.len() - TIME;
        let head = whole[..at].to_vec();
        let middle = whole[at + NONCE + TIME..time_at].to_vec();
        let mut tail = whole[time_at + TIME..].to_vec();
        let hmac = (signing == Signing::HmacSha256).then(|| {
            let mark = b"oauth_signature=\"";
            let end = find(&tail, mark) + mark.len();
            tail.truncate(end);
            Box::new(Signature::new(&ask, signer))
        });
        Signed { head, middle, tail, hmac }
    }

    /// Writes the request into `out`.
    pub fn write(&self, out: &mut Vec<u8>, nonce: u64, timestamp: i64) {
        let mut fresh = [0; NONCE + TIME];
        write_digits(&mut fresh[..NONCE], digits(nonce));
        write_digits(&mut fresh[NONCE..], timestamp.unsigned_abs());
        let time = &fresh[NONCE..];
        out.clear();
        for piece in [&*self.head, &fresh, &self.middle, time, &self.tail] {
            out.extend_from_slice(piece);
        }
        if let Some(signature) = &self.hmac {
            let mut mac = signature.mac.clone();
            for piece in [&fresh, &*signature.middle, time, &signature.tail] {
                mac.update(piece);
            }
            // Of 44 characters of base64, three kinds are escaped.
            for byte in BASE64_STANDARD.encode(mac.finalize().into_bytes()).bytes() {
                match byte {
                    b'+' => out.extend_from_slice(b"%2B"),
                    b'/' => out.extend_from_slice(b"%2F"),
                    b'=' => out.extend_from_slice(b"%3D"),
                    byte => out.push(byte),
                }
            }
            out.extend_from_slice(b"\"\r\n\r\n");
        }
    }
}

impl Signature {
    fn new(ask: &Ask, signer: &Signer) -> Signature {
        let Signer { consumer_key, token_key, token_secret, .. } = signer;
        let mut mac = Hmac::<Sha256>::new_from_slice(format!("&{token_secret}").as_bytes())
            .expect("HMAC takes a key of any length");
        let url = escaped(&format!("{}://{}{}", ask.scheme, ask.host, ask.path));
        mac.update(format!("{}&{url}&oauth_consumer_key%3D{consumer_key}", ask.method).as_bytes());
        mac.update(b"%26oauth_nonce%3D");
        Signature {
            mac,
            middle: b"%26oauth_signature_method%3DHMAC-SHA256%26oauth_timestamp%3D".to_vec(),
            tail: format!("%26oauth_token%3D{token_key}%26oauth_version%3D1.0").into_bytes(),
        }
    }
}

fn find(text: &[u8], piece: &[u8]) -> usize {
    text.windows(piece.len()).position(|window| window == piece).unwrap_or(0)
}

fn write_digits(out: &mut [u8], mut number: u64) {
    for place in out.iter_mut().rev() {
        *place = b'0' + u8::try_from(number % 10).unwrap_or(0);
        number /= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_made_ready_is_the_request_written_out() {
        let signer = Signer {
            system_id: "n1".into(),
            consumer_key: "ckey-boot".into(),
            token_key: "tkey-boot".into(),
            token_secret: "tsec-boot".into(),
        };
        let (host, path) = ("10.0.2.2:5240", "/MAAS/metadata/2012-03-01/meta-data/instance-id");
        for signing in [Signing::Plaintext, Signing::HmacSha256] {
            let ready = Signed::new("http", host, path, &signer, signing);
            for (nonce, timestamp) in [(0, 1_795_315_087), (u64::MAX, 2_000_000_000), (7, 1 << 30)]
            {
                let mut fast = Vec::new();
                ready.write(&mut fast, nonce, timestamp);
                let mut plain = Vec::new();
                let ask = Ask {
                    method: "GET",
                    host,
                    path,
                    agent: "Cloud-Init/25.1.4",
                    body: None,
                    scheme: "http",
                };
                let fresh = Fresh { random: digits(nonce), timestamp };
                ask.write(&mut plain, &signer, signing, fresh);
                assert_eq!(String::from_utf8(fast), String::from_utf8(plain), "{signing:?}");
            }
        }
    }
}
