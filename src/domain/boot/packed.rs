//! A fold in few bytes: it is written anew with every report, and its pages are what a disk has
//! most of.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use serde::de::{SeqAccess, Visitor};
use serde::ser::SerializeSeq as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::marks::{Boot, Known, Mark, Other, Word};
use super::{Before, Fold, Served};

/// The first number of the list that a fold is packed into.
const VERSION: u8 = 1;

type Packed<B, S, T, M, O> = (u8, [Option<i64>; 4], i64, B, S, T, M, O);
type Whole = Packed<(bool, bool, Vec<Known>), Vec<Service>, (Option<String>, bool), Marks, Others>;
type Service = (String, Items);
type Items = [Option<(i64, String)>; 5];
type Marks = Vec<Short>;
type Others = Vec<(String, Short)>;

impl Fold {
    /// As a list, with each instant as what passed since the one before it.
    ///
    /// # Errors
    /// None that is known of.
    pub fn pack(&self) -> serde_json::Result<String> {
        let Fold { claimed, fetched, contacted, served, before, boot, lost, since } = self;
        let mut from = Instants::default();
        let marks: Vec<Short> =
            boot.marks.iter().map(|(known, mark)| from.shorten(*known, mark)).collect();
        let others: Vec<(&str, Short)> = boot
            .others
            .iter()
            .map(|other| (other.who.as_str(), from.shorten(0, &other.mark)))
            .collect();
        let served: Vec<(&str, Items)> = served
            .iter()
            .map(|served| {
                (served.token.as_str(), served.items.clone().map(|item| each(item, short)))
            })
            .collect();
        let packed: Packed<_, _, _, _, _> = (
            VERSION,
            [*claimed, *fetched, *contacted, *lost],
            *since,
            (before.ready, before.was_ready, &before.broken),
            served,
            (&boot.token, boot.entitled),
            marks,
            others,
        );
        serde_json::to_string(&packed)
    }

    /// What [`Fold::pack`] packed, or the fold as it is written for who knows no other way.
    ///
    /// # Errors
    /// When it is neither.
    pub fn unpack(text: &str) -> serde_json::Result<Fold> {
        if text.starts_with('{') {
            return serde_json::from_str(text);
        }
        let (version, instants, since, before, served, boot, marks, others): Whole =
            serde_json::from_str(text)?;
        if version != VERSION {
            return Err(serde::de::Error::custom("it was packed another way"));
        }
        let [claimed, fetched, contacted, lost] = instants;
        let (ready, was_ready, broken) = before;
        let (token, entitled) = boot;
        let mut from = Instants::default();
        let marks: BTreeMap<Known, Mark> =
            marks.into_iter().map(|short| (short.known, from.lengthen(short))).collect();
        let others = others
            .into_iter()
            .map(|(who, short)| Other { who, mark: from.lengthen(short) })
            .collect();
        Ok(Fold {
            claimed,
            fetched,
            contacted,
            served: served
                .into_iter()
                .map(|(token, items)| Served { token, items: items.map(|item| each(item, long)) })
                .collect(),
            before: Before { ready, was_ready, broken },
            boot: Boot { token, marks, others, entitled },
            lost,
            since,
        })
    }
}

fn each(item: Option<(i64, String)>, f: impl Fn(String) -> String) -> Option<(i64, String)> {
    item.map(|(at, digest)| (at, f(digest)))
}

/// A digest in base64, where it is in hexadecimal; anything else stays as it is.
fn short(digest: String) -> String {
    let bytes: Option<Vec<u8>> = (digest.len() == 64)
        .then(|| {
            digest
                .as_bytes()
                .chunks(2)
                .map(|two| hex(two[0])?.checked_mul(16)?.checked_add(hex(two[1])?))
                .collect()
        })
        .flatten();
    bytes.map_or(digest, |bytes| STANDARD_NO_PAD.encode(bytes))
}

/// Digits as we write them: only what comes back the same is made short.
fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

/// What [`short`] made short.
fn long(digest: String) -> String {
    let bytes = (digest.len() == 43).then(|| STANDARD_NO_PAD.decode(&digest).ok()).flatten();
    let Some(bytes) = bytes else { return digest };
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.map(|digit| char::from(b"0123456789abcdef"[usize::from(digit)])).collect()
}

/// The mark before: our time, and how far it was ahead of the node's.
#[derive(Default)]
struct Instants {
    at: i64,
    ahead: i64,
}

impl Instants {
    fn shorten(&mut self, known: Known, mark: &Mark) -> Short {
        // Wrapping either way, so that any instant comes back.
        let passed = mark.at.wrapping_sub(self.at);
        self.at = mark.at;
        let ahead = mark.sent.map(|sent| {
            let ahead = mark.at.wrapping_sub(sent);
            ahead.wrapping_sub(std::mem::replace(&mut self.ahead, ahead))
        });
        let (text, duration) = (mark.text.clone(), mark.duration);
        Short { known, passed, ahead, word: mark.word as u8, text, duration }
    }

    fn lengthen(&mut self, short: Short) -> Mark {
        self.at = self.at.wrapping_add(short.passed);
        let sent = short.ahead.map(|more| {
            self.ahead = self.ahead.wrapping_add(more);
            self.at.wrapping_sub(self.ahead)
        });
        let word = Word::ALL.get(usize::from(short.word)).copied().unwrap_or(Word::Nothing);
        Mark { sent, at: self.at, word, text: short.text, duration: short.duration }
    }
}

/// `[known, passed, ahead, word, text, duration]`; the last two only if there is something.
struct Short {
    known: Known,
    passed: i64,
    ahead: Option<i64>,
    word: u8,
    text: String,
    duration: Option<f64>,
}

impl Serialize for Short {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(None)?;
        list.serialize_element(&self.known)?;
        list.serialize_element(&self.passed)?;
        list.serialize_element(&self.ahead)?;
        list.serialize_element(&self.word)?;
        if !self.text.is_empty() || self.duration.is_some() {
            list.serialize_element(&self.text)?;
        }
        if let Some(duration) = self.duration {
            list.serialize_element(&duration)?;
        }
        list.end()
    }
}

impl<'de> Deserialize<'de> for Short {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Short, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = Short;

            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("a mark")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Short, A::Error> {
                let cut = || serde::de::Error::custom("a mark is cut off");
                Ok(Short {
                    known: list.next_element()?.ok_or_else(cut)?,
                    passed: list.next_element()?.ok_or_else(cut)?,
                    ahead: list.next_element()?.ok_or_else(cut)?,
                    word: list.next_element()?.ok_or_else(cut)?,
                    text: list.next_element()?.unwrap_or_default(),
                    duration: list.next_element()?,
                })
            }
        }
        deserializer.deserialize_seq(List)
    }
}
