//! Percent encoding as RFC 5849 §3.6 narrows it, and the decoding of headers, queries and forms.

use std::borrow::Cow;

const HEX: &[u8; 16] = b"0123456789ABCDEF";

/// Appends `bytes` to `out`, every byte outside `A-Z a-z 0-9 - . _ ~` as `%XX` in upper case.
pub fn encode_into(out: &mut Vec<u8>, mut bytes: &[u8]) {
    while let Some(at) = bytes.iter().position(|&byte| !is_unreserved(byte)) {
        let [high, low] = [bytes[at] >> 4, bytes[at] & 15].map(|digit| HEX[usize::from(digit)]);
        out.extend_from_slice(&bytes[..at]);
        out.extend_from_slice(&[b'%', high, low]);
        bytes = &bytes[at + 1..];
    }
    out.extend_from_slice(bytes);
}

/// The same as a text of its own, or as it is if nothing in it is to be encoded.
#[must_use]
pub fn encoded(bytes: &[u8]) -> Cow<'_, [u8]> {
    if bytes.iter().all(|&byte| is_unreserved(byte)) {
        return bytes.into();
    }
    let mut out = Vec::with_capacity(bytes.len() + 16);
    encode_into(&mut out, bytes);
    out.into()
}

fn is_unreserved(byte: u8) -> bool {
    UNRESERVED[usize::from(byte)]
}

const UNRESERVED: [bool; 256] = {
    let mut unreserved = [false; 256];
    let mut byte = 0;
    while byte < 128_u8 {
        unreserved[byte as usize] =
            byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
        byte += 1;
    }
    unreserved
};

/// Decodes `%XX` once and leaves every other byte alone; `None` if a `%` has no two hex digits.
pub fn decode(bytes: &[u8]) -> Option<Cow<'_, [u8]>> {
    if bytes.contains(&b'%') { decoded(bytes, b'+').map(Cow::Owned) } else { Some(bytes.into()) }
}

/// As [`decode`], with `+` for a space: what `application/x-www-form-urlencoded` asks for.
pub fn decode_form(bytes: &[u8]) -> Option<Cow<'_, [u8]>> {
    if bytes.iter().any(|byte| matches!(byte, b'%' | b'+')) {
        decoded(bytes, b' ').map(Cow::Owned)
    } else {
        Some(bytes.into())
    }
}

fn decoded(mut bytes: &[u8], plus: u8) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(bytes.len());
    while let Some(at) = bytes.iter().position(|byte| matches!(byte, b'%' | b'+')) {
        out.extend_from_slice(&bytes[..at]);
        let (byte, rest) = match &bytes[at..] {
            [b'%', high, low, rest @ ..] => (hex_digit(*high)? << 4 | hex_digit(*low)?, rest),
            [b'+', rest @ ..] => (plus, rest),
            _ => return None,
        };
        out.push(byte);
        bytes = rest;
    }
    out.extend_from_slice(bytes);
    Some(out)
}

fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encoded(bytes: &[u8]) -> String {
        let mut out = Vec::new();
        encode_into(&mut out, bytes);
        String::from_utf8(out).expect("ASCII")
    }

    #[test]
    fn only_the_unreserved_characters_stay_as_they_are() {
        let unreserved = "ABCXYZabcxyz0189-._~";
        assert_eq!(encoded(unreserved.as_bytes()), unreserved);
        let kept = (0..=255u8).filter(|&byte| encoded(&[byte]).len() == 1).count();
        assert_eq!(kept, 26 + 26 + 10 + 4);
    }

    #[test]
    fn escapes_are_upper_case_and_utf8_goes_byte_by_byte() {
        assert_eq!(encoded(b"/ +%&=\x00\xff"), "%2F%20%2B%25%26%3D%00%FF");
        assert_eq!(encoded("t+k/é".as_bytes()), "t%2Bk%2F%C3%A9");
    }

    #[test]
    fn either_case_is_decoded_and_only_once() {
        assert_eq!(decode(b"%2f%2F%2526").unwrap(), b"//%26".as_slice());
        assert_eq!(decode(b"a+b").unwrap(), b"a+b".as_slice());
        assert_eq!(decode_form(b"a+b%2Bc%20d").unwrap(), b"a b+c d".as_slice());
    }

    #[test]
    fn a_broken_escape_is_refused() {
        for broken in ["%", "%2", "a%", "%zz", "%2g", "%%41", "% 41", "%+1", "%2%41", "%é"] {
            assert_eq!(decode(broken.as_bytes()), None, "{broken}");
            assert_eq!(decode_form(broken.as_bytes()), None, "{broken}");
        }
    }

    #[test]
    fn what_needs_no_decoding_is_borrowed() {
        assert!(matches!(decode(b"plain+text"), Some(Cow::Borrowed(_))));
        assert!(matches!(decode_form(b"plain-text"), Some(Cow::Borrowed(_))));
    }

    proptest! {
        #[test]
        fn any_bytes_come_back(bytes: Vec<u8>) {
            let text = encoded(&bytes);
            prop_assert!(text.len() <= 3 * bytes.len());
            prop_assert_eq!(decode(text.as_bytes()).unwrap(), bytes.as_slice());
            prop_assert_eq!(decode_form(text.as_bytes()).unwrap(), bytes.as_slice());
        }

        #[test]
        fn any_text_comes_back(text: String) {
            let once = encoded(text.as_bytes());
            let twice = encoded(once.as_bytes());
            prop_assert_eq!(decode(twice.as_bytes()).unwrap(), once.as_bytes());
            prop_assert_eq!(decode(once.as_bytes()).unwrap(), text.as_bytes());
        }

        #[test]
        fn decoding_any_bytes_never_panics_and_never_grows(bytes: Vec<u8>) {
            for decoded in [decode(&bytes), decode_form(&bytes)].into_iter().flatten() {
                prop_assert!(decoded.len() <= bytes.len());
            }
        }
    }
}
