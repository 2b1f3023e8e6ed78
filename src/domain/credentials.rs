//! What a node is given: consumer key, token key and secret, and the mint that makes them.

use std::sync::Mutex;

use jiff::Timestamp;
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use subtle::ConstantTimeEq;
use uuid::Uuid;
use zeroize::Zeroize;

/// Length of a consumer key and of a token key (MAAS `piston3` models, 18 characters).
pub const KEY_LENGTH: usize = 18;
/// Length of a token secret (MAAS `piston3` models, 32 characters).
pub const SECRET_LENGTH: usize = 32;

/// The public half of a token, in clear in every request's header: 18 of `[A-Za-z0-9]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TokenKey(String);

/// The `OAuth1` party a token is issued under: 18 of `[A-Za-z0-9]`, its secret always empty.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ConsumerKey(String);

macro_rules! key {
    ($name:ident) => {
        impl $name {
            /// For keys that were minted or come out of the database.
            #[must_use]
            pub fn trusted(text: String) -> Self {
                Self(text)
            }

            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
    };
}
key!(TokenKey);
key!(ConsumerKey);

impl TokenKey {
    /// A key that somebody names; `None` when no token can have it.
    #[must_use]
    pub fn parse(text: &str) -> Option<TokenKey> {
        let fits = text.len() == KEY_LENGTH && text.bytes().all(|b| b.is_ascii_alphanumeric());
        fits.then(|| TokenKey(text.to_owned()))
    }
}

impl ConsumerKey {
    /// Whether a claim names this consumer, in time that does not depend on where they differ.
    #[must_use]
    pub fn is(&self, claimed: &str) -> bool {
        self.0.as_bytes().ct_eq(claimed.as_bytes()).into()
    }
}

/// A token's secret. It has no `Debug`, `Display`, `Serialize` or `Deref`: it leaves through
/// [`IssuedToken::reveal`] and, to verify a signature, through [`Secret::expose`].
pub struct Secret(String);

impl Secret {
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The plain text, for the verifier and the seal. Whoever calls this answers for it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_bytes().ct_eq(other.0.as_bytes()).into()
    }
}

/// What signs a node's requests. The consumer's secret is always empty, as in MAAS.
pub struct Credentials {
    pub consumer_key: ConsumerKey,
    pub token_key: TokenKey,
    pub secret: Secret,
}

/// Whether PLAINTEXT's timestamp and nonce are judged. They protect nothing, since the header
/// carries the secret itself (RFC 5849 §3.1), and judging them keeps machines with a wrong clock
/// from booting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum PlaintextReplay {
    #[default]
    Ignore,
    Refuse,
}

/// A token's place in its life (CONTRACT §5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TokenState {
    Live,
    /// Superseded by a reissue, still accepted.
    Retiring,
    Ended,
}

/// Why a token ended; what the database keeps beside the instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndedBy {
    Revoke,
    Cull,
    /// A newer one took its place.
    Reissue,
    Reprovision,
    Project,
    Removal,
}

impl EndedBy {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            EndedBy::Revoke => "revoke",
            EndedBy::Cull => "cull",
            EndedBy::Reissue => "reissue",
            EndedBy::Reprovision => "reprovision",
            EndedBy::Project => "project",
            EndedBy::Removal => "removal",
        }
    }
}

/// A token as lists and pages show it: there is no secret in it to leak.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, schemars::JsonSchema)]
pub struct TokenSummary {
    /// The node it speaks for, or spoke for.
    pub system_id: Option<String>,
    pub token_key: String,
    pub state: TokenState,
    pub created_at: Timestamp,
    pub last_used_at: Option<Timestamp>,
}

/// The answer to "the token of this node": its secret can be taken out once.
pub struct IssuedToken {
    pub system_id: String,
    credentials: Credentials,
}

impl IssuedToken {
    #[must_use]
    pub fn new(system_id: String, credentials: Credentials) -> Self {
        Self { system_id, credentials }
    }

    /// Gives the credentials away: called by the answers to get and reissue and by a preseed, nowhere
    /// else.
    #[must_use]
    pub fn reveal(self) -> Credentials {
        self.credentials
    }
}

/// The only source of chance: the operating system's, or a seed in tests.
pub struct Mint(Mutex<StdRng>);

const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
/// No vowels and no look-alikes, after MAAS's system ids.
const SYSTEM_ID_ALPHABET: &[u8; 24] = b"3478abcdefghkmnpqrstwxyz";

impl Mint {
    /// Seeded by the operating system.
    ///
    /// # Errors
    /// When the operating system has no randomness to give.
    pub fn from_system() -> Result<Mint, rand::rngs::SysError> {
        let mut seed = [0; 32];
        rand::TryRng::try_fill_bytes(&mut rand::rngs::SysRng, &mut seed)?;
        Ok(Mint::seeded(seed))
    }

    #[must_use]
    pub fn seeded(seed: [u8; 32]) -> Mint {
        Mint(Mutex::new(StdRng::from_seed(seed)))
    }

    fn with<T>(&self, draw: impl FnOnce(&mut StdRng) -> T) -> T {
        // A panic while drawing leaves a generator that is as good as before.
        draw(&mut self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    fn text(&self, alphabet: &[u8], length: usize) -> String {
        self.with(|rng| {
            (0..length).map(|_| char::from(alphabet[rng.random_range(0..alphabet.len())])).collect()
        })
    }

    #[must_use]
    pub fn credentials(&self) -> Credentials {
        Credentials {
            consumer_key: ConsumerKey(self.text(ALPHABET, KEY_LENGTH)),
            token_key: TokenKey(self.text(ALPHABET, KEY_LENGTH)),
            secret: Secret(self.text(ALPHABET, SECRET_LENGTH)),
        }
    }

    /// A short public name for a node, eight characters.
    #[must_use]
    pub fn system_id(&self) -> String {
        self.text(SYSTEM_ID_ALPHABET, 8)
    }

    /// A uuid v7 at `now`.
    #[must_use]
    pub fn id(&self, now: Timestamp) -> Uuid {
        let millis = u64::try_from(now.as_millisecond()).unwrap_or(0);
        uuid::Builder::from_unix_timestamp_millis(millis, &self.bytes()).into_uuid()
    }

    #[must_use]
    pub fn bytes<const N: usize>(&self) -> [u8; N] {
        self.with(|rng| {
            let mut bytes = [0; N];
            rng.fill_bytes(&mut bytes);
            bytes
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_secrets_have_maas_lengths_and_alphabet() {
        let mint = Mint::seeded([7; 32]);
        for _ in 0..200 {
            let made = mint.credentials();
            for (text, length) in [
                (made.consumer_key.as_str(), 18),
                (made.token_key.as_str(), 18),
                (made.secret.expose(), 32),
            ] {
                assert_eq!(text.len(), length);
                assert!(text.bytes().all(|b| b.is_ascii_alphanumeric()));
            }
        }
    }

    #[test]
    fn ids_sort_by_time() {
        let mint = Mint::seeded([7; 32]);
        let at = |second| Timestamp::from_second(second).unwrap();
        assert!(mint.id(at(1_700_000_000)) < mint.id(at(1_700_000_001)));
        assert_eq!(mint.id(at(1_700_000_000)).get_version_num(), 7);
    }
}
