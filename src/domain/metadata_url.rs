//! Where nodes find the metadata: what is written into preseeds.

/// Where nodes find the metadata: `http(s)://AUTHORITY/…/`, with a final slash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetadataUrl {
    url: String,
}

impl MetadataUrl {
    /// # Errors
    /// A sentence that says what such a URL is.
    pub fn parse(text: &str) -> Result<MetadataUrl, String> {
        let wrong = "a metadata URL is http://HOST[:PORT]/MAAS/metadata/ (or https), without user, query or fragment";
        let rest = text
            .strip_prefix("http://")
            .or_else(|| text.strip_prefix("https://"))
            .ok_or_else(|| wrong.to_owned())?;
        let authority = rest.split('/').next().unwrap_or_default();
        let plain = |b: u8| {
            b.is_ascii_graphic()
                && !matches!(b, b'?' | b'#' | b'@' | b'"' | b'\\' | b'<' | b'>' | b'\'')
        };
        if authority.is_empty() || authority.starts_with(':') || !text.bytes().all(plain) {
            return Err(wrong.into());
        }
        let slash = if rest.contains('/') && rest.ends_with('/') { "" } else { "/" };
        Ok(MetadataUrl { url: format!("{text}{slash}") })
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.url
    }

    /// `http` or `https`.
    #[must_use]
    pub fn scheme(&self) -> &str {
        self.url.split(':').next().unwrap_or_default()
    }

    /// `HOST[:PORT]`, as a `Host` header has it.
    #[must_use]
    pub fn authority(&self) -> &str {
        self.url.split('/').nth(2).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metadata_url_has_a_final_slash_and_an_authority() {
        for (text, url, authority) in [
            ("http://h/MAAS/metadata", "http://h/MAAS/metadata/", "h"),
            ("http://h", "http://h/", "h"),
            (
                "https://[fec0::2]:5240/MAAS/metadata/",
                "https://[fec0::2]:5240/MAAS/metadata/",
                "[fec0::2]:5240",
            ),
        ] {
            let parsed = MetadataUrl::parse(text).unwrap();
            assert_eq!((parsed.as_str(), parsed.authority()), (url, authority));
        }
        for bad in [
            "",
            "h/x",
            "ftp://h/",
            "http://",
            "http:///x",
            "http://u@h/",
            "http://h/?q",
            "http://h/ x",
        ] {
            assert!(MetadataUrl::parse(bad).is_err(), "{bad}");
        }
    }
}
