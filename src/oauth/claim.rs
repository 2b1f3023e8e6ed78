//! What a request says about itself: its `Authorization: OAuth` header, parsed once and verified
//! elsewhere.

use std::borrow::Cow;
use std::fmt;

use super::{Method, percent};

/// Characters a timestamp or a nonce may have: what MAAS's column holds.
const LONGEST: usize = 255;

/// The credentials of a request as its header states them (RFC 5849 §3.5.1); not verified yet.
///
/// ```text
/// OAuth realm="a, b", oauth_token="t%2Bk", oauth_nonce=7d8f ,oauth_signature="%26s%2526e"
/// |---| |----------|  |---------|  |---|               |--|                   |--------|
///   |     ignored       name       value:              bare             PLAINTEXT, encoded twice:
/// scheme,                          decoded once,       value            decoded once it is &s%26e,
/// any case                         t+k                                  each half once more & s&e
///
/// parameter = name "=" ( quoted-string / anything up to the next comma )
/// ```
///
/// Quoted strings follow RFC 9110 §5.6.4, though clients percent-encode whatever would need it: a
/// comma inside belongs to the value, `\x` stands for `x`. Spaces and tabs around names, values and
/// commas mean nothing, nor do commas with nothing between them (§5.6.1).
pub struct Claim<'h> {
    pub consumer_key: Cow<'h, str>,
    pub token_key: Cow<'h, str>,
    pub method: Method,
    /// Whole seconds; a number too big for the type is its greatest value. Always there for HMAC.
    pub timestamp: Option<u64>,
    /// Always there, and never empty, for HMAC.
    pub nonce: Option<Cow<'h, str>>,
    /// For PLAINTEXT this holds the secrets, so it is neither public nor shown.
    pub(super) signature: Cow<'h, str>,
    timestamp_as_sent: Option<Cow<'h, str>>,
    version: Option<Cow<'h, str>>,
    others: Vec<(Cow<'h, str>, Cow<'h, str>)>,
}

/// Why a header states no credentials that could be verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Malformed {
    Empty,
    OtherScheme,
    NoParameters,
    NoEqualsSign,
    EmptyName,
    /// A quote that is never closed, has text behind it, or stands in a name or a bare value.
    StrayQuote,
    /// A name or a bare value with a space in it: most likely a forgotten comma.
    StraySpace,
    PercentEscape,
    NotUtf8,
    ControlCharacter,
    Duplicate,
    NoConsumerKey,
    NoToken,
    NoSignatureMethod,
    NoSignature,
    NoTimestamp,
    NoNonce,
    UnknownMethod,
    UnknownVersion,
    TimestampNotANumber,
    TimestampTooLong,
    NonceEmpty,
    NonceTooLong,
}

impl Malformed {
    /// A stable label for logs and metrics.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::OtherScheme => "other_scheme",
            Self::NoParameters => "no_parameters",
            Self::NoEqualsSign => "no_equals_sign",
            Self::EmptyName => "empty_name",
            Self::StrayQuote => "stray_quote",
            Self::StraySpace => "stray_space",
            Self::PercentEscape => "percent_escape",
            Self::NotUtf8 => "not_utf8",
            Self::ControlCharacter => "control_character",
            Self::Duplicate => "duplicate",
            Self::NoConsumerKey => "no_consumer_key",
            Self::NoToken => "no_token",
            Self::NoSignatureMethod => "no_signature_method",
            Self::NoSignature => "no_signature",
            Self::NoTimestamp => "no_timestamp",
            Self::NoNonce => "no_nonce",
            Self::UnknownMethod => "unknown_method",
            Self::UnknownVersion => "unknown_version",
            Self::TimestampNotANumber => "timestamp_not_a_number",
            Self::TimestampTooLong => "timestamp_too_long",
            Self::NonceEmpty => "nonce_empty",
            Self::NonceTooLong => "nonce_too_long",
        }
    }

    /// Whether there are no OAuth credentials at all, rather than broken ones.
    #[must_use]
    pub fn is_missing(self) -> bool {
        matches!(self, Self::Empty | Self::OtherScheme | Self::NoParameters)
    }
}

impl<'h> Claim<'h> {
    /// Parses the value of an `Authorization` header.
    pub fn parse(header: &'h [u8]) -> Result<Self, Malformed> {
        let mut rest = parameters(header)?;
        let mut found = Found::default();
        while !rest.is_empty() {
            let (name, value, behind) = parameter(rest)?;
            found.keep(name, value)?;
            rest = skip(behind, SPACE | COMMA);
        }
        found.into_claim()
    }

    /// What the header adds to the signature base string, in order: all but `oauth_signature` and
    /// `realm` (RFC 5849 §3.4.1.3.1), and but for [`Claim::others`].
    pub(super) fn named(&self) -> impl Iterator<Item = (&str, &str)> {
        let named = [
            ("oauth_consumer_key", Some(&*self.consumer_key)),
            ("oauth_nonce", self.nonce.as_deref()),
            ("oauth_signature_method", Some(self.method.name())),
            ("oauth_timestamp", self.timestamp_as_sent.as_deref()),
            ("oauth_token", Some(&*self.token_key)),
            ("oauth_version", self.version.as_deref()),
        ];
        named.into_iter().filter_map(|(name, value)| Some((name, value?)))
    }

    /// Parameters of other names, which are signed too.
    pub(super) fn others(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.others.iter().map(|(name, value)| (&**name, &**value))
    }
}

impl fmt::Debug for Claim<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claim")
            .field("consumer_key", &self.consumer_key)
            .field("token_key", &self.token_key)
            .field("method", &self.method)
            .field("timestamp", &self.timestamp)
            .field("nonce", &self.nonce)
            .finish_non_exhaustive()
    }
}

/// The parameters met so far, each decoded.
#[derive(Default)]
struct Found<'h> {
    consumer_key: Option<Cow<'h, str>>,
    token_key: Option<Cow<'h, str>>,
    method: Option<Cow<'h, str>>,
    signature: Option<Cow<'h, str>>,
    timestamp: Option<Cow<'h, str>>,
    nonce: Option<Cow<'h, str>>,
    version: Option<Cow<'h, str>>,
    others: Vec<(Cow<'h, str>, Cow<'h, str>)>,
}

impl<'h> Found<'h> {
    fn keep(&mut self, name: Piece<'h>, value: Piece<'h>) -> Result<(), Malformed> {
        let name = name.decoded()?;
        let slot = match &*name {
            // MAAS drops whatever merely contains the word, a nonce included. Its value is no
            // percent-encoded text, so it is not looked at.
            "realm" => return Ok(()),
            "oauth_consumer_key" => &mut self.consumer_key,
            "oauth_token" => &mut self.token_key,
            "oauth_signature_method" => &mut self.method,
            "oauth_signature" => &mut self.signature,
            "oauth_timestamp" => &mut self.timestamp,
            "oauth_nonce" => &mut self.nonce,
            "oauth_version" => &mut self.version,
            _ => {
                self.others.push((name, value.decoded()?));
                return Ok(());
            }
        };
        match slot.replace(value.decoded()?) {
            None => Ok(()),
            Some(_) => Err(Malformed::Duplicate),
        }
    }

    fn into_claim(mut self) -> Result<Claim<'h>, Malformed> {
        // Sorted, twins stand side by side: a header full of names costs no quadratic search.
        self.others.sort_unstable();
        let twins =
            |pair: &[(Cow<str>, _)]| pair[0].0 == pair[1].0 && pair[0].0.starts_with("oauth_");
        if self.others.windows(2).any(twins) {
            return Err(Malformed::Duplicate);
        }
        let consumer_key = self.consumer_key.ok_or(Malformed::NoConsumerKey)?;
        let token_key = self.token_key.ok_or(Malformed::NoToken)?;
        let method = self.method.ok_or(Malformed::NoSignatureMethod)?;
        let signature = self.signature.ok_or(Malformed::NoSignature)?;
        let method = Method::named(&method).ok_or(Malformed::UnknownMethod)?;
        if self.version.as_deref().unwrap_or("1.0") != "1.0" {
            return Err(Malformed::UnknownVersion);
        }
        let timestamp = self.timestamp.as_deref().map(seconds).transpose()?;
        let nonce = self.nonce.as_deref();
        if nonce.is_some_and(|nonce| nonce.chars().count() > LONGEST) {
            return Err(Malformed::NonceTooLong);
        }
        if method != Method::Plaintext {
            timestamp.ok_or(Malformed::NoTimestamp)?;
            if nonce.ok_or(Malformed::NoNonce)?.is_empty() {
                return Err(Malformed::NonceEmpty);
            }
        }
        Ok(Claim {
            consumer_key,
            token_key,
            method,
            timestamp,
            nonce: self.nonce,
            signature,
            timestamp_as_sent: self.timestamp,
            version: self.version,
            others: self.others,
        })
    }
}

/// What stands behind the scheme, which must be `OAuth`.
fn parameters(header: &[u8]) -> Result<&str, Malformed> {
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = header.iter().position(|byte| !is_space(byte));
    let header = &header[start.ok_or(Malformed::Empty)?..];
    let end = header.iter().position(is_space).unwrap_or(header.len());
    let (scheme, rest) = header.split_at(end);
    if !scheme.eq_ignore_ascii_case(b"OAuth") {
        return Err(Malformed::OtherScheme);
    }
    let rest = str::from_utf8(rest).map_err(|_| Malformed::NotUtf8)?;
    let rest = skip(rest, SPACE | COMMA);
    if rest.is_empty() { Err(Malformed::NoParameters) } else { Ok(rest) }
}

/// Splits the first parameter into name and value, and from what follows it.
fn parameter(rest: &str) -> Result<(Piece<'_>, Piece<'_>, &str), Malformed> {
    let (name, kinds, behind) = split(rest, EQUALS | COMMA);
    let behind = behind.strip_prefix('=').ok_or(Malformed::NoEqualsSign)?;
    let name = Piece::bare(name, kinds)?;
    if name.raw.is_empty() {
        return Err(Malformed::EmptyName);
    }
    let behind = skip(behind, SPACE);
    if let Some(inside) = behind.strip_prefix('"') {
        let (value, behind) = Piece::quoted(inside)?;
        return Ok((name, value, behind));
    }
    let (value, kinds, behind) = split(behind, COMMA);
    Ok((name, Piece::bare(value, kinds)?, behind))
}

/// A name or a value as sent, but for the quotes around it, and what has to be done to it.
#[derive(Clone, Copy)]
struct Piece<'h> {
    raw: &'h str,
    kinds: u8,
}

impl<'h> Piece<'h> {
    fn bare(mut raw: &'h str, kinds: u8) -> Result<Self, Malformed> {
        if kinds & QUOTE != 0 {
            return Err(Malformed::StrayQuote);
        }
        if kinds & SPACE != 0 {
            raw = raw.trim_end_matches([' ', '\t']);
            if raw.contains([' ', '\t']) {
                return Err(Malformed::StraySpace);
            }
        }
        let kinds = kinds & ODD;
        Ok(Self { raw, kinds })
    }

    /// Splits a quoted string whose first quote is gone from what follows its last.
    fn quoted(text: &'h str) -> Result<(Self, &'h str), Malformed> {
        let (mut end, mut kinds) = (0, 0);
        loop {
            let (plain, more, behind) = split(&text[end..], QUOTE | BACKSLASH);
            end += plain.len();
            kinds |= more;
            let mut characters = behind.chars();
            if characters.next().ok_or(Malformed::StrayQuote)? == '"' {
                break;
            }
            kinds |= BACKSLASH | ODD;
            end += 1 + characters.next().ok_or(Malformed::StrayQuote)?.len_utf8();
        }
        let behind = skip(&text[end + 1..], SPACE);
        if !(behind.is_empty() || behind.starts_with(',')) {
            return Err(Malformed::StrayQuote);
        }
        let raw = &text[..end];
        Ok((Self { raw, kinds }, behind))
    }

    /// Decodes once.
    #[inline]
    fn decoded(self) -> Result<Cow<'h, str>, Malformed> {
        if self.kinds & ODD == 0 { Ok(self.raw.into()) } else { self.decoded_at_length() }
    }

    fn decoded_at_length(self) -> Result<Cow<'h, str>, Malformed> {
        let mut raw = Cow::from(self.raw);
        if self.kinds & BACKSLASH != 0 {
            raw = unescaped(self.raw).into();
        }
        let decoded = percent::decode(raw.as_bytes()).ok_or(Malformed::PercentEscape)?;
        let text = String::from_utf8(decoded.into_owned()).map_err(|_| Malformed::NotUtf8)?;
        // Characters are looked at only where a byte might be part of such a one.
        let may_be = |byte: u8| byte.is_ascii_control() || !byte.is_ascii();
        if text.bytes().any(may_be) && text.contains(char::is_control) {
            return Err(Malformed::ControlCharacter);
        }
        Ok(text.into())
    }
}

fn unescaped(inside: &str) -> String {
    let mut characters = inside.chars();
    let next = || match characters.next() {
        Some('\\') => characters.next(),
        character => character,
    };
    std::iter::from_fn(next).collect()
}

/// Splits before the first byte of the kinds `ends`, and says which kinds are in front of it.
// Inlined, its loop runs out of registers and costs twice as much.
#[inline(never)]
fn split(text: &str, ends: u8) -> (&str, u8, &str) {
    let mut kinds = 0;
    for (at, byte) in text.bytes().enumerate() {
        let kind = KINDS[usize::from(byte)];
        if kind & ends != 0 {
            let (before, behind) = text.split_at(at);
            return (before, kinds, behind);
        }
        kinds |= kind;
    }
    (text, kinds, "")
}

fn skip(text: &str, kinds: u8) -> &str {
    let end = text.bytes().position(|byte| KINDS[usize::from(byte)] & kinds == 0);
    &text[end.unwrap_or(text.len())..]
}

/// Kinds of byte, one bit each, so that one pass finds the end of a piece and what is in it.
const SPACE: u8 = 1;
const COMMA: u8 = 2;
const EQUALS: u8 = 4;
const QUOTE: u8 = 8;
const BACKSLASH: u8 = 16;
/// A percent sign, a control character, or a part of a character beyond ASCII.
const ODD: u8 = 32;

const KINDS: [u8; 256] = {
    let mut kinds = [ODD; 256];
    let mut byte = b' ';
    while byte <= b'~' {
        kinds[byte as usize] = match byte {
            b' ' => SPACE,
            b',' => COMMA,
            b'=' => EQUALS,
            b'"' => QUOTE,
            b'\\' => BACKSLASH,
            b'%' => ODD,
            _ => 0,
        };
        byte += 1;
    }
    kinds[b'\t' as usize] = SPACE | ODD;
    kinds
};

fn seconds(timestamp: &str) -> Result<u64, Malformed> {
    if timestamp.is_empty() || !timestamp.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Malformed::TimestampNotANumber);
    }
    if timestamp.len() > LONGEST {
        return Err(Malformed::TimestampTooLong);
    }
    let append = |number: u64, digit: u8| {
        let digit = u64::from(digit - b'0');
        number.saturating_mul(10).saturating_add(digit)
    };
    Ok(timestamp.bytes().fold(0, append))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAINTEXT: &str = "OAuth oauth_consumer_key=\"ckey\", oauth_token=\"tkey\", \
        oauth_signature_method=\"PLAINTEXT\", oauth_signature=\"%26tsec\"";
    const HMAC: &str = "OAuth oauth_consumer_key=\"ckey\", oauth_token=\"tkey\", \
        oauth_signature_method=\"HMAC-SHA256\", oauth_signature=\"c2lnbg%3D%3D\", \
        oauth_timestamp=\"1795315087\", oauth_nonce=\"7d8f3e4a\"";

    fn with(header: &str, more: &str) -> String {
        format!("{header}, {more}")
    }

    fn without(header: &str, name: &str) -> String {
        let is_other = |parameter: &&str| !parameter.contains(&format!("{name}="));
        let header = header.strip_prefix("OAuth ").unwrap();
        format!("OAuth {}", header.split(", ").filter(is_other).collect::<Vec<_>>().join(", "))
    }

    #[track_caller]
    fn accepted(header: &str) -> Claim<'_> {
        let claim = Claim::parse(header.as_bytes()).expect(header);
        assert_eq!((&*claim.consumer_key, &*claim.token_key), ("ckey", "tkey"), "{header}");
        claim
    }

    #[track_caller]
    fn refused(header: impl AsRef<[u8]>, why: Malformed) {
        let header = header.as_ref();
        let shown = String::from_utf8_lossy(header);
        assert_eq!(Claim::parse(header).map(|_| ()), Err(why), "{shown}");
    }

    #[test]
    fn every_spelling_of_the_header_says_the_same() {
        for header in [
            PLAINTEXT.to_owned(),
            PLAINTEXT.replace("OAuth ", "oauth "),
            PLAINTEXT.replace("OAuth ", " \tOAUTH \t "),
            PLAINTEXT.replace(", ", ","),
            PLAINTEXT.replace(", ", " ,\t"),
            PLAINTEXT.replace('=', " = "),
            PLAINTEXT.replace('"', ""),
            PLAINTEXT.replace('"', "").replace("%26", "&"),
            PLAINTEXT.replace("%26", "\\&"),
            PLAINTEXT.replace("OAuth ", "OAuth realm=\"\", "),
            PLAINTEXT.replace("ckey", "%63%6bey").replace("oauth_token", "oauth%5Ftoken"),
            with(PLAINTEXT, "realm=\"x, oauth_token=\\\"y\\\" 100%\""),
            with(PLAINTEXT, "realm=a%zz, realm=b"),
            with(PLAINTEXT, "oauth_version=\"1.0\""),
            with(PLAINTEXT, "oauth_callback=\"oob\",oauth_x=\"\",c2=,c2="),
            with(PLAINTEXT, ",, "),
        ] {
            let claim = accepted(&header);
            assert_eq!(claim.method, Method::Plaintext, "{header}");
            assert_eq!(claim.signature, "&tsec", "{header}");
            assert_eq!((claim.timestamp, claim.nonce), (None, None), "{header}");
        }
        let claim = accepted(HMAC);
        assert_eq!(
            (claim.timestamp, claim.nonce.as_deref()),
            (Some(1_795_315_087), Some("7d8f3e4a"))
        );
    }

    #[test]
    fn only_a_parameter_named_realm_is_the_realm() {
        let nonce = with(PLAINTEXT, "oauth_nonce=xrealmx, xrealm=\"1\", realmx=\"2\", Realm=\"3\"");
        let claim = accepted(&nonce);
        assert_eq!(claim.nonce.as_deref(), Some("xrealmx"));
        let names: Vec<_> = claim.others().map(|(name, _)| name).collect();
        assert!(["xrealm", "realmx", "Realm"].iter().all(|name| names.contains(name)));
        let realm = with(PLAINTEXT, "re%61lm=\"x\"");
        assert_eq!(accepted(&realm).others().len(), 0);
    }

    #[test]
    fn a_claim_shows_no_signature() {
        let shown = format!("{:?}", accepted(PLAINTEXT));
        assert!(shown.contains("tkey") && !shown.contains("tsec"), "{shown}");
    }

    #[test]
    fn the_claim_of_a_usual_header_borrows_all_but_the_signature() {
        let claim = accepted(HMAC);
        let nonce = claim.nonce.as_ref().unwrap();
        for part in [&claim.consumer_key, &claim.token_key, nonce] {
            assert!(matches!(part, Cow::Borrowed(_)));
        }
        assert_eq!(claim.others.capacity(), 0);
    }

    #[test]
    fn no_credentials_at_all() {
        for (header, why) in [
            ("", Malformed::Empty),
            (" \t ", Malformed::Empty),
            ("Basic b2F1dGg6eA==", Malformed::OtherScheme),
            ("Bearer oauth_token=\"x\"", Malformed::OtherScheme),
            ("OAuth2 x", Malformed::OtherScheme),
            ("OAuthoauth_nonce=\"x\", oauth_token=\"y\"", Malformed::OtherScheme),
            ("OAuth,oauth_token=\"y\"", Malformed::OtherScheme),
            ("oauth_token=\"y\"", Malformed::OtherScheme),
            ("\u{a0}OAuth a=b", Malformed::OtherScheme),
            ("OAuth", Malformed::NoParameters),
            ("oauth ", Malformed::NoParameters),
            ("OAuth , ,", Malformed::NoParameters),
        ] {
            refused(header, why);
            assert!(why.is_missing());
        }
    }

    /// A header refused for each reason; a new reason does not compile before it has one.
    fn example(why: Malformed) -> String {
        let long = "1".repeat(256);
        match why {
            Malformed::Empty => String::new(),
            Malformed::OtherScheme => "Digest realm=\"x\"".to_owned(),
            Malformed::NoParameters => "OAuth ".to_owned(),
            Malformed::NoEqualsSign => with(PLAINTEXT, "junk"),
            Malformed::EmptyName => with(PLAINTEXT, "=\"x\""),
            Malformed::StrayQuote => with(PLAINTEXT, "oauth_nonce=\"x"),
            Malformed::StraySpace => with(PLAINTEXT, "oauth_nonce=x y=z"),
            Malformed::PercentEscape => with(PLAINTEXT, "oauth_nonce=\"%zz\""),
            Malformed::NotUtf8 => with(PLAINTEXT, "oauth_nonce=\"%ff\""),
            Malformed::ControlCharacter => with(PLAINTEXT, "oauth_nonce=\"%00\""),
            Malformed::Duplicate => with(PLAINTEXT, "oauth_token=\"tkey\""),
            Malformed::NoConsumerKey => without(PLAINTEXT, "oauth_consumer_key"),
            Malformed::NoToken => without(PLAINTEXT, "oauth_token"),
            Malformed::NoSignatureMethod => without(PLAINTEXT, "oauth_signature_method"),
            Malformed::NoSignature => without(PLAINTEXT, "oauth_signature"),
            Malformed::NoTimestamp => without(HMAC, "oauth_timestamp"),
            Malformed::NoNonce => without(HMAC, "oauth_nonce"),
            Malformed::UnknownMethod => PLAINTEXT.replace("PLAINTEXT", "RSA-SHA1"),
            Malformed::UnknownVersion => with(PLAINTEXT, "oauth_version=\"2.0\""),
            Malformed::TimestampNotANumber => with(PLAINTEXT, "oauth_timestamp=\"abc\""),
            Malformed::TimestampTooLong => with(PLAINTEXT, &format!("oauth_timestamp={long}")),
            Malformed::NonceEmpty => HMAC.replace("7d8f3e4a", ""),
            Malformed::NonceTooLong => with(PLAINTEXT, &format!("oauth_nonce={long}")),
        }
    }

    #[test]
    fn each_reason_has_a_header_and_a_label_of_its_own() {
        let reasons = [
            Malformed::Empty,
            Malformed::OtherScheme,
            Malformed::NoParameters,
            Malformed::NoEqualsSign,
            Malformed::EmptyName,
            Malformed::StrayQuote,
            Malformed::StraySpace,
            Malformed::PercentEscape,
            Malformed::NotUtf8,
            Malformed::ControlCharacter,
            Malformed::Duplicate,
            Malformed::NoConsumerKey,
            Malformed::NoToken,
            Malformed::NoSignatureMethod,
            Malformed::NoSignature,
            Malformed::NoTimestamp,
            Malformed::NoNonce,
            Malformed::UnknownMethod,
            Malformed::UnknownVersion,
            Malformed::TimestampNotANumber,
            Malformed::TimestampTooLong,
            Malformed::NonceEmpty,
            Malformed::NonceTooLong,
        ];
        for (at, why) in reasons.into_iter().enumerate() {
            assert_eq!(why as usize, at);
            refused(example(why), why);
            assert_eq!(why.is_missing(), at < 3, "{why:?}");
            assert!(why.reason().bytes().all(|byte| byte == b'_' || byte.is_ascii_alphanumeric()));
        }
        let labels: std::collections::HashSet<_> = reasons.map(Malformed::reason).into();
        assert_eq!(labels.len(), reasons.len());
    }

    #[test]
    fn broken_syntax() {
        for (more, why) in [
            ("x=1,junk,y=2", Malformed::NoEqualsSign),
            ("\"x\"=1", Malformed::StrayQuote),
            ("x=\"1\" y=\"2\"", Malformed::StrayQuote),
            ("x=\"1\"2", Malformed::StrayQuote),
            ("x=1\"2\"", Malformed::StrayQuote),
            ("x=\"1\\\"", Malformed::StrayQuote),
            ("x=\"1\\", Malformed::StrayQuote),
            ("realm=\"x", Malformed::StrayQuote),
            ("x y=1", Malformed::StraySpace),
            ("OAuth x=1", Malformed::StraySpace),
            (" = 1", Malformed::EmptyName),
            ("x=%", Malformed::PercentEscape),
            ("x=%2", Malformed::PercentEscape),
            ("x=\"%2\\\"\"", Malformed::PercentEscape),
            ("%g0=1", Malformed::PercentEscape),
            ("x=%C3", Malformed::NotUtf8),
            ("x=%ED%A0%80", Malformed::NotUtf8),
            ("%ff=1", Malformed::NotUtf8),
            ("x=\"\t\"", Malformed::ControlCharacter),
            ("x=\n1", Malformed::ControlCharacter),
            ("x=%7F", Malformed::ControlCharacter),
            ("x=%C2%85", Malformed::ControlCharacter),
            ("x%0A=1", Malformed::ControlCharacter),
            ("\0x=1", Malformed::ControlCharacter),
        ] {
            refused(with(PLAINTEXT, more), why);
        }
        refused([PLAINTEXT.as_bytes(), b",x=\xff"].concat(), Malformed::NotUtf8);
        refused([PLAINTEXT.as_bytes(), b",\xfe=1"].concat(), Malformed::NotUtf8);
    }

    #[test]
    fn each_oauth_parameter_is_stated_at_most_once() {
        for twice in [
            "oauth_consumer_key=ckey",
            "oauth_token=other",
            "oauth%5Ftoken=tkey",
            "oauth_signature=x",
            "oauth_signature_method=PLAINTEXT",
            "oauth_timestamp=1,oauth_timestamp=1",
            "oauth_nonce=a,oauth_nonce=b",
            "oauth_version=1.0,oauth_version=1.0",
            "oauth_x=1,a=,oauth_y=1,b=,oauth_x=2",
            "oauth_=,oauth_=",
        ] {
            refused(with(PLAINTEXT, twice), Malformed::Duplicate);
        }
    }

    #[test]
    fn required_parameters() {
        for (name, why) in [
            ("oauth_consumer_key", Malformed::NoConsumerKey),
            ("oauth_token", Malformed::NoToken),
            ("oauth_signature_method", Malformed::NoSignatureMethod),
            ("oauth_signature", Malformed::NoSignature),
            ("oauth_timestamp", Malformed::NoTimestamp),
            ("oauth_nonce", Malformed::NoNonce),
        ] {
            refused(without(HMAC, name), why);
            refused(without(HMAC, name).replace("SHA256", "SHA1"), why);
        }
    }

    #[test]
    fn versions_and_methods_are_compared_exactly() {
        for version in ["", "1", "1.00", "1.0 ", "1.0a", "2.0"] {
            let version = format!("oauth_version=\"{version}\"");
            refused(with(PLAINTEXT, &version), Malformed::UnknownVersion);
        }
        for method in ["", "plaintext", "PLAINTEXT ", "HMAC-SHA512", "HMAC_SHA1", "RSA-SHA1"] {
            refused(PLAINTEXT.replace("PLAINTEXT", method), Malformed::UnknownMethod);
        }
    }

    #[test]
    fn timestamps_are_digits() {
        for (timestamp, seconds) in [
            ("0", 0),
            ("007", 7),
            ("18446744073709551615", u64::MAX),
            ("18446744073709551616", u64::MAX),
            (&"9".repeat(255), u64::MAX),
            (&format!("{}5", "0".repeat(254)), 5),
        ] {
            let plaintext = with(PLAINTEXT, &format!("oauth_timestamp={timestamp}"));
            assert_eq!(accepted(&plaintext).timestamp, Some(seconds), "{timestamp}");
            let hmac = HMAC.replace("1795315087", timestamp);
            assert_eq!(accepted(&hmac).timestamp, Some(seconds), "{timestamp}");
        }
        for timestamp in ["", "-1", "+1", "1.5e9", "1.0", " 1", "1 ", "0x1", "١", "1,2"] {
            let plaintext = with(PLAINTEXT, &format!("oauth_timestamp=\"{timestamp}\""));
            refused(plaintext, Malformed::TimestampNotANumber);
            refused(HMAC.replace("1795315087", timestamp), Malformed::TimestampNotANumber);
        }
        refused(HMAC.replace("1795315087", &"0".repeat(256)), Malformed::TimestampTooLong);
    }

    #[test]
    fn nonces_are_measured_in_characters() {
        let nonce = "é".repeat(255);
        let header = HMAC.replace("7d8f3e4a", &nonce);
        assert_eq!(accepted(&header).nonce, Some(nonce.into()));
        refused(HMAC.replace("7d8f3e4a", &"%C3%A9".repeat(256)), Malformed::NonceTooLong);
        let header = with(PLAINTEXT, "oauth_nonce=\"\"");
        assert_eq!(accepted(&header).nonce.as_deref(), Some(""));
    }
}
