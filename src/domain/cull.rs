//! Which tokens are stale, and how many may go at once.

use std::time::Duration;

use serde::Serialize;

use super::credentials::TokenSummary;

/// A token goes when either age says so; at least one is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Staleness {
    /// Made longer ago than this, and never used.
    pub unused_for: Option<Duration>,
    /// Last used longer ago than this.
    pub idle_for: Option<Duration>,
}

/// How many tokens one cull may end without being forced.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Cap {
    Count(u64),
    Percent(f64),
}

/// Small fleets may always lose this many: 5 % of 20 nodes is one.
const AT_LEAST: u64 = 10;

impl Cap {
    pub const DEFAULT: Cap = Cap::Percent(5.0);

    /// `100`, or `5%`.
    ///
    /// # Errors
    /// A sentence that says what a cap is.
    pub fn parse(text: &str) -> Result<Cap, String> {
        let wrong =
            || "a cap is a number of tokens, such as 100, or a share, such as 5%".to_owned();
        match text.strip_suffix('%') {
            None => text.parse().map(Cap::Count).map_err(|_| wrong()),
            Some(share) => match share.parse::<f64>() {
                Ok(percent) if (0.0..=100.0).contains(&percent) => Ok(Cap::Percent(percent)),
                _ => Err(wrong()),
            },
        }
    }

    /// The most that may go out of `live` tokens.
    #[must_use]
    pub fn of(self, live: u64) -> u64 {
        match self {
            Cap::Count(count) => count,
            #[expect(
                clippy::cast_precision_loss,
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a share of at most 2^53 tokens, between 0 and 100 %"
            )]
            Cap::Percent(percent) => ((live as f64 * percent / 100.0) as u64).max(AT_LEAST),
        }
    }
}

/// What a cull ended, or, in a dry run, exactly what it would have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct Culled {
    pub dry_run: bool,
    pub tokens: Vec<TokenSummary>,
}

/// `90d`, `12h`, `30m`, `45s`: a whole number and its unit.
///
/// # Errors
/// A sentence that says what a duration is.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong =
        || "a duration is a whole number and a unit, such as 90d, 12h, 30m or 45s".to_owned();
    let unit = match text.bytes().last() {
        Some(b's') => 1,
        Some(b'm') => 60,
        Some(b'h') => 3600,
        Some(b'd') => 86_400,
        _ => return Err(wrong()),
    };
    let digits = &text[..text.len() - 1];
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(wrong());
    }
    let count: u64 = digits.parse().map_err(|_| wrong())?;
    // A thousand years is more than anybody means and less than any clock overflows at.
    count
        .checked_mul(unit)
        .filter(|seconds| *seconds <= 365_000 * 86_400)
        .map(Duration::from_secs)
        .ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cap_is_a_number_or_a_share_with_a_floor_of_ten() {
        assert_eq!(Cap::DEFAULT.of(1000), 50);
        assert_eq!(Cap::DEFAULT.of(20), 10);
        assert_eq!(Cap::parse("3").unwrap().of(1000), 3);
        assert_eq!(Cap::parse("20%").unwrap().of(1000), 200);
        for bad in ["", "%", "-1", "101%", "five", "nan%", "1.5"] {
            assert!(Cap::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(parse_duration("90d").unwrap().as_secs(), 90 * 86_400);
        assert_eq!(parse_duration("15m").unwrap().as_secs(), 900);
        for bad in
            ["", "d", "90", "-1d", "+1d", "1w", "1.5h", "é", "9999999999999999999d", "99999999d"]
        {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }
}
