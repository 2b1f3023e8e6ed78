//! Operators' passwords and bearer tokens: text that nobody prints, and what is stored of it.

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};
use argon2::{Argon2, password_hash};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::credentials::Mint;

/// A password as somebody typed it: 8 to 1024 bytes when it is set, any when it is tried. All of
/// its bytes count, and no spelling of them is taken for another.
pub struct Password(Zeroizing<String>);

/// Bytes of the longest password that is looked at.
const LONGEST: usize = 1024;

impl Password {
    /// For a password to be set.
    ///
    /// # Errors
    /// A sentence that says how long a password is.
    pub fn parse(text: &str) -> Result<Password, String> {
        if (8..=LONGEST).contains(&text.len()) {
            Ok(Password::tried(text))
        } else {
            Err(format!("a password is 8 to {LONGEST} bytes"))
        }
    }

    /// For a password that somebody logs in with.
    #[must_use]
    pub fn tried(text: &str) -> Password {
        Password(Zeroizing::new(text.to_owned()))
    }

    /// What is stored of it: argon2id in PHC form (RFC 9106, OWASP's 19 MiB and two passes).
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn hash(&self, salt: [u8; 16]) -> Result<String, password_hash::Error> {
        let hash: PasswordHash =
            Argon2::default().hash_password_with_salt(self.0.as_bytes(), &salt)?;
        Ok(hash.to_string())
    }

    /// Whether it is the password that `stored` was made of; the work is the same for a wrong one.
    #[must_use]
    pub fn fits(&self, stored: &str) -> bool {
        if self.0.len() > LONGEST {
            return false;
        }
        let Ok(hash) = PasswordHash::new(stored) else { return false };
        Argon2::default().verify_password(self.0.as_bytes(), &hash).is_ok()
    }
}

/// An operator's bearer token: `nit_` and 32 random bytes. It leaves in the answer to a login.
pub struct OperatorToken(Zeroizing<String>);

const PREFIX: &str = "nit_";

impl OperatorToken {
    #[must_use]
    pub fn mint(mint: &Mint) -> OperatorToken {
        let bytes: [u8; 32] = mint.bytes();
        OperatorToken(Zeroizing::new(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))))
    }

    /// A token that somebody sends; `None` when none can look so.
    #[must_use]
    pub fn parse(text: &str) -> Option<OperatorToken> {
        let rest = text.strip_prefix(PREFIX)?;
        let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        let shaped = rest.len() == 43 && rest.bytes().all(fits);
        shaped.then(|| OperatorToken(Zeroizing::new(text.to_owned())))
    }

    /// What is stored of it and what it is looked up by.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        Sha256::digest(self.0.as_bytes()).into()
    }

    /// Gives the text away: called by the answer to a login, nowhere else.
    #[must_use]
    pub fn reveal(self) -> Zeroizing<String> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_of_a_password_counts() {
        let stored = Password::parse(&"x".repeat(80)).unwrap().hash([3; 16]).unwrap();
        assert!(stored.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{stored}");
        assert!(Password::tried(&"x".repeat(80)).fits(&stored));
        assert!(!Password::tried(&"x".repeat(72)).fits(&stored));
        assert!(!Password::tried(&format!("{}y", "x".repeat(79))).fits(&stored));
        assert!(!Password::tried("").fits(&stored));
        assert!(!Password::tried("x").fits("no hash"));
    }

    #[test]
    fn a_password_to_be_set_has_8_to_1024_bytes() {
        for (length, good) in [(7, false), (8, true), (1024, true), (1025, false)] {
            assert_eq!(Password::parse(&"x".repeat(length)).is_ok(), good, "{length}");
        }
    }

    #[test]
    fn a_token_looks_like_one_of_ours_or_is_not_looked_up() {
        let token = OperatorToken::mint(&Mint::seeded([4; 32]));
        let hash = token.hash();
        let text = token.reveal();
        assert_eq!(text.len(), 47);
        assert!(OperatorToken::parse(&text).is_some_and(|again| again.hash() == hash));
        for bad in
            ["", "nit_", "x", &text[..46], &format!("{}x", *text), &text.replace("nit_", "nyt_")]
        {
            assert!(OperatorToken::parse(bad).is_none());
        }
    }
}
