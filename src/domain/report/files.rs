//! Files in a report: base64, perhaps compressed, and never unpacked further than a file may go.

use std::borrow::Cow;
use std::io::Read;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{Bounds, Refused};

/// A file as a node sent it; no content means that the node had no such file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportedFile {
    /// A name, whatever it looks like: nothing is ever opened by it.
    pub path: String,
    pub content: Option<Vec<u8>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    Bzip2,
    Gzip,
}

impl Packing {
    #[must_use]
    pub fn parse(text: &str) -> Option<Packing> {
        match text {
            "bzip2" => Some(Packing::Bzip2),
            "gzip" => Some(Packing::Gzip),
            _ => None,
        }
    }
}

/// A file that is not unpacked yet.
#[derive(Debug)]
pub struct Packed {
    pub path: String,
    pub content: Option<Vec<u8>>,
    pub packing: Option<Packing>,
}

impl Packed {
    /// The bytes of base64, which some encoders break into lines.
    #[must_use]
    pub fn decode(text: &str) -> Option<Vec<u8>> {
        let text = if text.bytes().any(|b| b.is_ascii_whitespace()) {
            Cow::from(text.split_ascii_whitespace().collect::<String>())
        } else {
            Cow::from(text)
        };
        STANDARD.decode(text.as_bytes()).ok()
    }

    pub(super) fn is_compressed(&self) -> bool {
        self.packing.is_some() && self.content.is_some()
    }
}

pub fn unpack(packed: Vec<Packed>, bounds: Bounds) -> Result<Vec<ReportedFile>, Refused> {
    let mut files = Vec::with_capacity(packed.len());
    let mut problems = Vec::new();
    for (number, Packed { path, content, packing }) in packed.into_iter().enumerate() {
        let unpacked = match (content, packing) {
            (None, _) => Ok(None),
            (Some(bytes), None) => Ok(Some(bytes)),
            (Some(bytes), Some(Packing::Bzip2)) => {
                capped(bzip2::read::MultiBzDecoder::new(&*bytes), bounds.file_bytes).map(Some)
            }
            (Some(bytes), Some(Packing::Gzip)) => {
                capped(flate2::read::MultiGzDecoder::new(&*bytes), bounds.file_bytes).map(Some)
            }
        };
        match unpacked {
            Ok(Some(bytes)) if bytes.len() > bounds.file_bytes => {
                let (number, most) = (number + 1, bounds.file_bytes);
                return Err(Refused::TooLarge(format!(
                    "file {number} is larger than {most} bytes"
                )));
            }
            Ok(content) => files.push(ReportedFile { path, content }),
            Err(_) => {
                problems.push(format!("files: {}: content: this does not unpack", number + 1));
            }
        }
    }
    if problems.is_empty() { Ok(files) } else { Err(Refused::Invalid(problems)) }
}

/// Reads one byte more than is allowed at the most, so that a bomb goes off no further than that.
fn capped(from: impl Read, most: usize) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(most as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    const BOUNDS: Bounds = Bounds { depth: 32, files: 16, file_bytes: 1000 };

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut to = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        to.write_all(bytes).unwrap();
        to.finish().unwrap()
    }

    fn bzip2(bytes: &[u8]) -> Vec<u8> {
        let mut to = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::best());
        to.write_all(bytes).unwrap();
        to.finish().unwrap()
    }

    fn unpacked(content: Vec<u8>, packing: Packing) -> Result<Vec<ReportedFile>, Refused> {
        let packed = Packed { path: "p".into(), content: Some(content), packing: Some(packing) };
        unpack(vec![packed], BOUNDS)
    }

    #[test]
    fn what_was_packed_comes_out_as_it_was_up_to_the_cap() {
        for size in [0, 1, 999, 1000, 1001, 1 << 16] {
            let bytes: Vec<u8> = (0..=255).cycle().take(size).collect();
            for (content, packing) in
                [(gzip(&bytes), Packing::Gzip), (bzip2(&bytes), Packing::Bzip2)]
            {
                match unpacked(content, packing) {
                    Ok(files) => assert_eq!(files[0].content.as_ref(), Some(&bytes)),
                    Err(refused) => {
                        assert!(size > 1000);
                        let too_large = "file 1 is larger than 1000 bytes".to_owned();
                        assert_eq!(refused, Refused::TooLarge(too_large));
                    }
                }
            }
        }
    }

    #[test]
    fn members_that_follow_each_other_are_one_file() {
        let content = [gzip(b"one "), gzip(b"two")].concat();
        let files = unpacked(content, Packing::Gzip).unwrap();
        assert_eq!(files[0].content.as_deref(), Some(&b"one two"[..]));
    }

    #[test]
    fn what_is_cut_or_broken_is_refused() {
        for (whole, packing) in
            [(gzip(b"some text"), Packing::Gzip), (bzip2(b"text"), Packing::Bzip2)]
        {
            for end in 1..whole.len() {
                assert!(unpacked(whole[..end].to_vec(), packing).is_err(), "{packing:?} {end}");
            }
            assert!(unpacked(b"plain text".to_vec(), packing).is_err());
        }
    }
}
