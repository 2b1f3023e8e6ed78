//! Secrets at rest: an AEAD envelope bound to where it is stored.

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};
use hmac::{Hmac, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::credentials::{Mint, Secret, TokenKey};

/// ```text
/// 01      9f3a51c2   …24 bytes…   …secret + 16 bytes of tag…
/// version key id     nonce        ciphertext, with "tokens.sealed_secret" NUL token_key as associated data
/// ```
const VERSION: u8 = 1;
const KEY_ID: usize = 4;
const NONCE: usize = 24;

/// Opens and closes envelopes under a key derived from the secret key file.
pub struct Sealer {
    cipher: XChaCha20Poly1305,
    key_id: [u8; KEY_ID],
    check: [u8; 32],
}

/// An envelope that this key did not close, or that was moved or changed.
#[derive(Debug, thiserror::Error)]
#[error("a sealed secret does not open: it was closed under another key, moved or changed")]
pub struct SealBroken;

impl Sealer {
    /// From the 32 bytes of the secret key file, one subkey a purpose.
    #[must_use]
    pub fn new(secret_key: &[u8; 32]) -> Sealer {
        let seal = Zeroizing::new(subkey(secret_key, b"nodeinit seal v1"));
        let check = subkey(secret_key, b"nodeinit check v1");
        let mut key_id = [0; KEY_ID];
        key_id.copy_from_slice(&subkey(secret_key, b"nodeinit key id v1")[..KEY_ID]);
        Sealer { cipher: XChaCha20Poly1305::new(&Key::from(*seal)), key_id, check }
    }

    /// What a database keeps to recognise its key: it says nothing about the key itself.
    #[must_use]
    pub fn check_value(&self) -> &[u8] {
        &self.check
    }

    /// # Panics
    /// Never: the cipher refuses only messages of 256 GiB and more.
    #[must_use]
    pub fn seal(&self, secret: &Secret, token: &TokenKey, mint: &Mint) -> Vec<u8> {
        let nonce: [u8; NONCE] = mint.bytes();
        let plain = Payload { msg: secret.expose().as_bytes(), aad: &place(token) };
        let ciphertext = self
            .cipher
            .encrypt(&XNonce::from(nonce), plain)
            .expect("XChaCha20-Poly1305 refuses only messages of 256 GiB and more");
        [&[VERSION][..], &self.key_id, &nonce, &ciphertext].concat()
    }

    /// # Errors
    /// [`SealBroken`] for anything that [`Sealer::seal`] did not make for this very token.
    pub fn open(&self, sealed: &[u8], token: &TokenKey) -> Result<Secret, SealBroken> {
        let (head, ciphertext) = sealed.split_at_checked(1 + KEY_ID + NONCE).ok_or(SealBroken)?;
        let (version, rest) = head.split_at(1);
        let (key_id, nonce) = rest.split_at(KEY_ID);
        if version != [VERSION] || key_id != self.key_id {
            return Err(SealBroken);
        }
        let nonce: [u8; NONCE] = nonce.try_into().map_err(|_| SealBroken)?;
        let payload = Payload { msg: ciphertext, aad: &place(token) };
        let plain = self.cipher.decrypt(&XNonce::from(nonce), payload).map_err(|_| SealBroken)?;
        String::from_utf8(plain).map(Secret::new).map_err(|_| SealBroken)
    }
}

fn place(token: &TokenKey) -> Vec<u8> {
    [b"tokens.sealed_secret\0", token.as_str().as_bytes()].concat()
}

/// One subkey a purpose, so that none tells anything of another.
pub(super) fn subkey(secret_key: &[u8; 32], purpose: &[u8]) -> [u8; 32] {
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(secret_key)
        .expect("HMAC takes a key of any length");
    mac.update(purpose);
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_envelope_opens_only_where_it_belongs_and_whole() {
        let mint = Mint::seeded([1; 32]);
        let sealer = Sealer::new(&[9; 32]);
        let made = mint.credentials();
        let envelope = sealer.seal(&made.secret, &made.token_key, &mint);
        assert!(sealer.open(&envelope, &made.token_key).is_ok_and(|s| s == made.secret));

        let elsewhere = mint.credentials().token_key;
        assert!(sealer.open(&envelope, &elsewhere).is_err(), "moved to another row");
        assert!(Sealer::new(&[8; 32]).open(&envelope, &made.token_key).is_err(), "another key");
        for at in 0..envelope.len() {
            let mut changed = envelope.clone();
            changed[at] ^= 1;
            assert!(sealer.open(&changed, &made.token_key).is_err(), "byte {at} changed");
            assert!(sealer.open(&envelope[..at], &made.token_key).is_err(), "cut at {at}");
        }
        let found = envelope.windows(8).any(|w| made.secret.expose().as_bytes().starts_with(w));
        assert!(!found, "the plain secret is in the envelope");
    }
}
