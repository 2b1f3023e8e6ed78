//! The audit: an entry for each change and each refusal, chained to the one before by an HMAC.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac as _};
use jiff::Timestamp;
use sha2::Sha256;
use subtle::ConstantTimeEq as _;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::cull::parse_duration;
use super::identity::{Caller, Named, id_text};
use super::seal::subkey;

/// What was done to what, by whom. Texts are kept as they were stored, so that a changed one is
/// seen to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub at: Timestamp,
    pub actor: String,
    pub verb: String,
    pub object: String,
    pub outcome: String,
    /// JSON: digests, counts, statuses; never a secret, never what somebody sent.
    pub detail: String,
    pub request_id: String,
}

/// The change was made.
pub const DONE: &str = "done";
/// It was not.
pub const REFUSED: &str = "refused";

/// Verbs of what is no action: anybody may try it.
pub const LOGIN: &str = "identity:login";
pub const AUTHENTICATE: &str = "identity:authenticate";

/// ```text
/// 01       00066517…  00000012  socket…  0000000b  node:create  … object, outcome, detail, request_id
/// version  at, µs     length    actor    length    verb                    (integers big-endian)
/// ```
const VERSION: u8 = 1;

impl Entry {
    fn canonical(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        bytes.extend(self.at.as_microsecond().to_be_bytes());
        for text in
            [&self.actor, &self.verb, &self.object, &self.outcome, &self.detail, &self.request_id]
        {
            field(&mut bytes, text.as_bytes());
        }
        bytes
    }
}

fn field(bytes: &mut Vec<u8>, value: &[u8]) {
    // Nothing here is 4 GiB long; a length that were cut short would only fail to verify.
    bytes.extend(u32::try_from(value.len()).unwrap_or(u32::MAX).to_be_bytes());
    bytes.extend(value);
}

/// Both ends of the chain: the last row that retention cut, and the last one written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    pub base: i64,
    pub base_mac: Vec<u8>,
    pub count: i64,
    pub mac: Vec<u8>,
}

impl Head {
    /// Before the first entry.
    fn is_first(&self) -> bool {
        self.base == 0
            && self.count == 0
            && [&self.base_mac, &self.mac].iter().all(|mac| mac.as_slice() == [0; 32])
    }
}

/// What the chain and its head are made with. It has no `Debug`.
pub struct AuditKey {
    chain: Zeroizing<[u8; 32]>,
    head: Zeroizing<[u8; 32]>,
}

impl AuditKey {
    /// From the 32 bytes of the secret key file.
    #[must_use]
    pub fn new(secret_key: &[u8; 32]) -> AuditKey {
        AuditKey {
            chain: Zeroizing::new(subkey(secret_key, b"nodeinit audit v1")),
            head: Zeroizing::new(subkey(secret_key, b"nodeinit audit head v1")),
        }
    }

    /// `mac(n) = HMAC-SHA256(key, length, mac(n-1), n, canonical entry)`.
    #[must_use]
    pub fn link(&self, before: &[u8], seq: i64, entry: &Entry) -> Vec<u8> {
        let mut bytes = Vec::new();
        field(&mut bytes, before);
        bytes.extend(seq.to_be_bytes());
        bytes.extend(entry.canonical());
        mac(&self.chain, &bytes)
    }

    /// Whether a row follows upon the one before.
    #[must_use]
    pub fn follows(&self, before: &[u8], seq: i64, entry: &Entry, mac: &[u8]) -> bool {
        self.link(before, seq, entry).ct_eq(mac).into()
    }

    /// Who has no key cannot move the head back to a row that was its tail once.
    #[must_use]
    pub fn seal(&self, head: &Head) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (number, mac) in [(head.base, &head.base_mac), (head.count, &head.mac)] {
            bytes.extend(number.to_be_bytes());
            field(&mut bytes, mac);
        }
        mac(&self.head, &bytes)
    }

    #[must_use]
    pub fn holds(&self, head: &Head, seal: &[u8]) -> bool {
        // The migration that makes the head has no key.
        (head.is_first() && seal.is_empty()) || self.seal(head).ct_eq(seal).into()
    }
}

fn mac(key: &[u8; 32], bytes: &[u8]) -> Vec<u8> {
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(key).expect("HMAC takes any key");
    mac.update(bytes);
    mac.finalize().into_bytes().to_vec()
}

/// What is done to. Its text is what `audit list --object` is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// Nothing that has an id.
    None,
    /// The whole of the service.
    Fleet,
    Node(String),
    Project(Uuid),
    User(Uuid),
    /// A user in a project.
    Grant {
        project: Uuid,
        user: Uuid,
    },
    /// An operator's token, by its public name.
    Token(String),
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Object::None => f.write_str("-"),
            Object::Fleet => f.write_str("fleet"),
            Object::Node(system_id) => write!(f, "node/{system_id}"),
            Object::Project(id) => write!(f, "project/{}", id_text(*id)),
            Object::User(id) => write!(f, "user/{}", id_text(*id)),
            Object::Grant { project, user } => {
                write!(f, "project/{}/user/{}", id_text(*project), id_text(*user))
            }
            Object::Token(audit_id) => write!(f, "token/{audit_id}"),
        }
    }
}

/// Everything that is known of a caller, in words without blanks in them.
#[must_use]
pub fn actor(caller: &Caller) -> String {
    let Caller::Operator { identity, service } = caller else { return caller.to_string() };
    let named =
        |what: &str, named: &Named| format!("{what} {} id={}", named.name, id_text(named.id));
    let mut words = vec![named("user", &identity.user)];
    words.extend(identity.project.as_ref().map(|project| named("project", project)));
    words.push(format!("token={}", identity.audit_id));
    if let Some(service) = service {
        words.push(named("service", &service.user));
        words.extend(service.overrun.map(|overrun| format!("overrun={}s", overrun.as_secs())));
    }
    words.join(" ")
}

/// The head as somebody noted it earlier: `COUNT:MAC`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Noted {
    pub count: i64,
    pub mac: [u8; 32],
}

impl Noted {
    /// # Errors
    /// A sentence that says what a head is.
    pub fn parse(text: &str) -> Result<Noted, String> {
        let read = |text: &str| -> Option<Noted> {
            let (count, hex) = text.split_once(':')?;
            let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            if !digits(count) || hex.len() != 64 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
                return None;
            }
            let mut mac = [0; 32];
            for (byte, at) in mac.iter_mut().zip((0..64).step_by(2)) {
                *byte = u8::from_str_radix(&hex[at..at + 2], 16).ok()?;
            }
            Some(Noted { count: count.parse().ok()?, mac })
        };
        read(text).ok_or_else(|| {
            "a head is COUNT:MAC, as audit verify prints it: a number and 64 hexadecimal digits"
                .into()
        })
    }
}

/// From when on: an instant, or how long before `now`.
///
/// # Errors
/// A sentence that says what there is.
pub fn parse_since(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    match (text.parse(), parse_duration(text)) {
        (Ok(at), _) => Ok(at),
        (Err(_), Ok(age)) => Ok(now.checked_sub(age).unwrap_or(Timestamp::MIN)),
        (Err(_), Err(_)) => Err("an instant such as 2027-01-15T08:00:00Z, or how long ago, such \
                                 as 24h"
            .into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        Entry {
            at: Timestamp::from_second(1_800_000_000).unwrap(),
            actor: "socket uid=0 pid=1".into(),
            verb: "node:create".into(),
            object: "node/n1".into(),
            outcome: DONE.into(),
            detail: "{}".into(),
            request_id: "0123456789abcdef".into(),
        }
    }

    #[test]
    fn an_entry_is_these_bytes() {
        let start = b"\x01\x00\x06\x65\x17\x28\x98\x80\x00\x00\x00\x00\x12socket uid=0 pid=1\x00";
        let bytes = entry().canonical();
        assert!(bytes.starts_with(start), "{bytes:x?}");
        assert!(bytes.ends_with(b"\x00\x00\x00\x02{}\x00\x00\x00\x100123456789abcdef"));
    }

    #[test]
    fn a_row_follows_only_upon_its_own_past_in_its_own_place_and_unchanged() {
        let key = AuditKey::new(&[9; 32]);
        let before = [7; 32];
        let mac = key.link(&before, 5, &entry());
        assert!(key.follows(&before, 5, &entry(), &mac));
        assert!(!key.follows(&[8; 32], 5, &entry(), &mac), "another past");
        assert!(!key.follows(&before, 6, &entry(), &mac), "another place");
        assert!(!AuditKey::new(&[8; 32]).follows(&before, 5, &entry(), &mac), "another key");
        let later = entry().at + jiff::SignedDuration::from_micros(1);
        let x = || "x".to_owned();
        for (what, changed) in [
            ("at", Entry { at: later, ..entry() }),
            ("actor", Entry { actor: x(), ..entry() }),
            ("verb", Entry { verb: x(), ..entry() }),
            ("object", Entry { object: x(), ..entry() }),
            ("outcome", Entry { outcome: REFUSED.into(), ..entry() }),
            ("detail", Entry { detail: x(), ..entry() }),
            ("request_id", Entry { request_id: x(), ..entry() }),
            // The same letters, cut elsewhere.
            (
                "cut",
                Entry {
                    verb: "node:create".into(),
                    object: "node/n1d".into(),
                    outcome: "one".into(),
                    ..entry()
                },
            ),
        ] {
            assert!(!key.follows(&before, 5, &changed, &mac), "{what}");
        }
    }

    #[test]
    fn a_head_is_moved_by_nobody_without_the_key() {
        let key = AuditKey::new(&[9; 32]);
        let zero = vec![0; 32];
        let first = Head { base: 0, base_mac: zero.clone(), count: 0, mac: zero };
        assert!(key.holds(&first, &[]));
        let head = Head { count: 3, mac: vec![3; 32], ..first.clone() };
        let seal = key.seal(&head);
        assert!(key.holds(&head, &seal));
        for moved in [
            Head { count: 2, ..head.clone() },
            Head { mac: vec![2; 32], ..head.clone() },
            Head { base: 1, ..head.clone() },
            Head { base_mac: vec![1; 32], ..head.clone() },
            first.clone(),
        ] {
            assert!(!key.holds(&moved, &seal));
        }
        assert!(!key.holds(&head, &[]));
        assert!(!AuditKey::new(&[8; 32]).holds(&head, &seal));
    }

    #[test]
    fn a_head_is_read_as_it_is_printed() {
        let hex = "0f".repeat(32);
        let head = Noted::parse(&format!("12:{hex}")).unwrap();
        assert_eq!(head, Noted { count: 12, mac: [15; 32] });
        for bad in ["", "12", ":", "12:", "x:00", "-1:00", "12:0f", &format!("+1:{hex}"), &hex] {
            assert!(Noted::parse(bad).is_err(), "{bad}");
        }
    }
}
