//! The node plane's table of routes.
//!
//! Any run of slashes counts as one and a trailing slash is optional: cloud-init 22.4 strips one
//! slash off a configured URL and MAAS's own scripts double them (`DataSourceMAAS.get_data`,
//! LP 1356855).

use crate::domain::metadata::{MetadataKey, MetadataVersion};

/// What a known path asks for. The `/curtin` tree is the same tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target<'p> {
    /// `/`
    Index,
    /// `/VERSION/`
    Version,
    /// `/VERSION/meta-data/`
    MetaData,
    /// `/VERSION/meta-data/KEY`
    Item(MetadataKey),
    /// The same shape with a key there is none of.
    UnknownItem(&'p str),
    /// `/VERSION/user-data`
    UserData,
    /// `/status/SYSTEM_ID`
    Status(&'p str),
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Path<'p> {
    Known(Target<'p>),
    /// `/claim/SECRET`, which nobody signs. The secret is for nothing but to be looked up.
    Claim(&'p str),
    UnknownVersion(&'p str),
    Unknown,
}

/// Reads a path. Segments are taken as they were sent: none of ours needs an escape.
#[must_use]
pub fn parse(path: &str) -> Path<'_> {
    let mut segments = path.split('/').filter(|segment| !segment.is_empty());
    if segments.next() != Some("MAAS") || segments.next() != Some("metadata") {
        return Path::Unknown;
    }
    let mut first = segments.next();
    if first == Some("claim") {
        return match (segments.next(), segments.next()) {
            (Some(secret), None) => Path::Claim(secret),
            _ => Path::Unknown,
        };
    }
    if first == Some("curtin") {
        first = segments.next();
    }
    let Some(version) = first else { return Path::Known(Target::Index) };
    let rest = [segments.next(), segments.next(), segments.next()];
    if version == "status" {
        return match rest {
            [Some(system_id), None, _] => Path::Known(Target::Status(system_id)),
            _ => Path::Unknown,
        };
    }
    let target = match rest {
        [None, ..] => Target::Version,
        [Some("meta-data"), None, _] => Target::MetaData,
        [Some("meta-data"), Some(name), None] => {
            MetadataKey::parse(name).map_or(Target::UnknownItem(name), Target::Item)
        }
        [Some("user-data"), None, _] => Target::UserData,
        _ => return Path::Unknown,
    };
    match MetadataVersion::parse(version) {
        Some(_) => Path::Known(target),
        None => Path::UnknownVersion(version),
    }
}

impl Path<'_> {
    /// The route's name in logs and metrics: bounded, and without anything a client chose.
    #[must_use]
    pub fn template(&self) -> &'static str {
        match self {
            Path::Known(Target::Index) => "/MAAS/metadata/",
            Path::Known(Target::Version) => "/MAAS/metadata/{version}/",
            Path::Known(Target::MetaData) => "/MAAS/metadata/{version}/meta-data/",
            Path::Known(Target::Item(_) | Target::UnknownItem(_)) => {
                "/MAAS/metadata/{version}/meta-data/{item}"
            }
            Path::Known(Target::UserData) => "/MAAS/metadata/{version}/user-data",
            Path::Claim(_) => "/MAAS/metadata/claim/{secret}",
            Path::Known(Target::Status(_)) => "/MAAS/metadata/status/{system_id}",
            Path::UnknownVersion(_) | Path::Unknown => "unmatched",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(path: &str) -> Option<Target<'_>> {
        match parse(path) {
            Path::Known(target) => Some(target),
            _ => None,
        }
    }

    #[test]
    fn slashes_are_folded_and_a_trailing_one_is_optional() {
        for path in
            ["/MAAS/metadata", "/MAAS/metadata/", "//MAAS//metadata///", "/MAAS/metadata/curtin"]
        {
            assert_eq!(known(path), Some(Target::Index), "{path}");
        }
        for path in [
            "/MAAS/metadata/latest",
            "/MAAS/metadata//2012-03-01//",
            "/MAAS/metadata/curtin/latest/",
        ] {
            assert_eq!(known(path), Some(Target::Version), "{path}");
        }
        for path in ["/MAAS/metadata/status/n1", "/MAAS/metadata//curtin/status//n1/"] {
            assert_eq!(known(path), Some(Target::Status("n1")), "{path}");
        }
        for path in [
            "/MAAS/metadata/latest/meta-data/instance-id",
            "/MAAS/metadata//latest///meta-data//instance-id/",
        ] {
            assert_eq!(known(path), Some(Target::Item(MetadataKey::InstanceId)), "{path}");
        }
    }

    #[test]
    fn what_is_not_in_the_table_is_not_guessed() {
        for path in [
            "/",
            "/latest/",
            "/MAAS",
            "/maas/metadata/",
            "/MAAS/metadata/latest/no-such",
            "/MAAS/metadata/status",
            "/MAAS/metadata/status/n1/x",
            "/MAAS/metadata/latest/status/n1",
            "/MAAS/metadata/latest/meta-data/instance-id/extra",
            "/MAAS/metadata/latest/meta-data/public-keys/0/openssh-key",
            "/MAAS/metadata/latest/user-data/x",
            "/MAAS/metadata/latest/by-id/n1/",
            "/MAAS/metadata/latest/by-mac/x/meta-data/instance-id",
            "/MAAS/metadata/latest/enlist-preseed/",
            "/MAAS/metadata/enlist/latest/meta-data/",
            "/MAAS/metadata/latest/../latest/meta-data",
            "/MAAS/metadata/latest/%6deta-data/instance-id",
        ] {
            assert_eq!(known(path), None, "{path}");
        }
        assert!(parse("/MAAS/metadata/2009-04-04") == Path::UnknownVersion("2009-04-04"));
    }

    #[test]
    fn a_claim_is_one_segment_and_its_secret_is_in_no_name() {
        for path in ["/MAAS/metadata/claim/s3cret", "//MAAS//metadata//claim//s3cret/"] {
            assert!(parse(path) == Path::Claim("s3cret"), "{path}");
            assert!(!parse(path).template().contains("s3cret"), "{path}");
        }
        for path in ["/MAAS/metadata/claim", "/MAAS/metadata/claim/a/b", "/claim/a"] {
            assert!(parse(path) == Path::Unknown, "{path}");
        }
        assert!(parse("/MAAS/metadata/curtin/claim/a") == Path::Unknown);
    }
}
