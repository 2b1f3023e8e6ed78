//! A claim on a preseed: a URL that one machine may fetch, for one boot.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroize as _;

use super::cull::parse_duration;

/// How long a claim may wait to be fetched, unless its maker says otherwise.
pub const TTL: Duration = Duration::from_mins(15);
const LONGEST: Duration = Duration::from_hours(24);
/// From the first fetch: cloud-init fetches at least twice in a boot, six times when it fails.
pub const WINDOW: Duration = Duration::from_mins(10);
pub const FETCHES: i32 = 8;

/// How long a claim may wait.
///
/// # Errors
/// A sentence that says how long that can be.
pub fn parse_ttl(text: &str) -> Result<Duration, String> {
    match parse_duration(text) {
        Ok(ttl) if ttl > Duration::ZERO && ttl <= LONGEST => Ok(ttl),
        _ => Err("a claim waits from 1s to 24h".into()),
    }
}

/// What makes the URL of a claim unguessable: 128 random bits. Like a token's secret it has no
/// `Debug`, `Display` or `Serialize`.
pub struct ClaimSecret(String);

impl ClaimSecret {
    #[must_use]
    pub fn new(random: [u8; 16]) -> ClaimSecret {
        ClaimSecret(URL_SAFE_NO_PAD.encode(random))
    }

    /// What somebody asks for; `None` when no claim can have it.
    #[must_use]
    pub fn parse(text: &str) -> Option<ClaimSecret> {
        let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        (text.len() == 22 && text.bytes().all(fits)).then(|| ClaimSecret(text.to_owned()))
    }

    /// What is stored of it.
    #[must_use]
    pub fn hash(&self) -> Vec<u8> {
        Sha256::digest(&self.0).to_vec()
    }

    /// The URL that is given away; it uses the secret up.
    #[must_use]
    pub fn url(self, metadata_url: &str) -> String {
        format!("{metadata_url}claim/{}", self.0)
    }
}

impl Drop for ClaimSecret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// Whether an event says that the boot has got past the fetching of its preseed.
#[must_use]
pub fn is_progress(event_name: &str) -> bool {
    let stage = event_name.split('/').next().unwrap_or_default();
    matches!(stage, "modules-config" | "modules-final")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_22_letters_of_128_bits() {
        let url = ClaimSecret::new([0xfb; 16]).url("http://h/MAAS/metadata/");
        assert_eq!(url, "http://h/MAAS/metadata/claim/-_v7-_v7-_v7-_v7-_v7-w");
        let secret = url.rsplit('/').next().unwrap();
        let parsed = ClaimSecret::parse(secret).unwrap();
        assert_eq!(parsed.hash(), ClaimSecret::new([0xfb; 16]).hash());
        for bad in ["", "a", &secret[1..], &format!("{secret}a"), "../../../../../../../..", "é"] {
            assert!(ClaimSecret::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_claim_waits_as_long_as_it_is_told_to_within_a_day() {
        assert_eq!(parse_ttl("15m"), Ok(TTL));
        assert_eq!(parse_ttl("24h"), Ok(LONGEST));
        for bad in ["0s", "25h", "", "-1s", "15"] {
            assert!(parse_ttl(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_stages_behind_the_network_are_progress() {
        for name in ["modules-config", "modules-final", "modules-config/config-locale"] {
            assert!(is_progress(name), "{name}");
        }
        for name in ["init-network", "init-local/check-cache", "", "modules", "modules-finalx"] {
            assert!(!is_progress(name), "{name}");
        }
    }
}
