//! What a node reads about itself: the versions, the keys, and the listings made of them.

use super::node::{SshKey, SystemId, instance_id};

/// A version directory of the metadata tree. Both serve the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetadataVersion;

/// In the order of the index listing.
pub const VERSIONS: [&str; 2] = ["2012-03-01", "latest"];

impl MetadataVersion {
    #[must_use]
    pub fn parse(segment: &str) -> Option<MetadataVersion> {
        VERSIONS.contains(&segment).then_some(MetadataVersion)
    }
}

/// What an operator stores for a node as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ContentKind {
    UserData,
    VendorData,
}

impl ContentKind {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            ContentKind::UserData => "user-data",
            ContentKind::VendorData => "vendor-data",
        }
    }
}

/// What an optional item that a node does not have is answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum AbsentItems {
    /// 200 and no bytes: the same to every cloud-init, and on current ones a second faster than
    /// a 404, which they retry.
    #[default]
    Empty,
    /// 404, as MAAS does.
    NotFound,
}

/// A value under `meta-data/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetadataKey {
    InstanceId,
    LocalHostname,
    PublicKeys,
    VendorData,
}

impl MetadataKey {
    /// Sorted by name, as the listing is.
    pub const ALL: [MetadataKey; 4] = [
        MetadataKey::InstanceId,
        MetadataKey::LocalHostname,
        MetadataKey::PublicKeys,
        MetadataKey::VendorData,
    ];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            MetadataKey::InstanceId => "instance-id",
            MetadataKey::LocalHostname => "local-hostname",
            MetadataKey::PublicKeys => "public-keys",
            MetadataKey::VendorData => "vendor-data",
        }
    }

    #[must_use]
    pub fn parse(segment: &str) -> Option<MetadataKey> {
        MetadataKey::ALL.into_iter().find(|key| key.name() == segment)
    }
}

/// A node as it reads itself, contents apart.
pub struct NodeMetadata {
    pub system_id: SystemId,
    pub reprovisions: i32,
    pub hostname: String,
    pub ssh_keys: Vec<SshKey>,
}

impl NodeMetadata {
    /// The value of a key that is a property of the node; `None` when this node has none.
    /// Vendor-data is content and is looked up by the caller.
    #[must_use]
    pub fn value(&self, key: MetadataKey) -> Option<String> {
        match key {
            MetadataKey::InstanceId => Some(instance_id(&self.system_id, self.reprovisions)),
            MetadataKey::LocalHostname => Some(self.hostname.clone()),
            MetadataKey::PublicKeys if self.ssh_keys.is_empty() => None,
            MetadataKey::PublicKeys => {
                Some(self.ssh_keys.iter().map(SshKey::as_str).collect::<Vec<_>>().join("\n"))
            }
            MetadataKey::VendorData => None,
        }
    }

    /// The listing of `meta-data/`: sorted names of what this node has, no final newline
    /// (MAAS `make_list_response`).
    #[must_use]
    pub fn listing(&self, has_vendor_data: bool) -> String {
        let has = |key: &MetadataKey| match key {
            MetadataKey::VendorData => has_vendor_data,
            key => self.value(*key).is_some(),
        };
        let names: Vec<&str> =
            MetadataKey::ALL.into_iter().filter(has).map(MetadataKey::name).collect();
        names.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(keys: &[&str]) -> NodeMetadata {
        NodeMetadata {
            system_id: SystemId::parse("n1").unwrap(),
            reprovisions: 0,
            hostname: "n1.example.com".into(),
            ssh_keys: keys.iter().map(|k| SshKey::parse(k).unwrap()).collect(),
        }
    }

    #[test]
    fn a_listing_names_only_what_the_node_has() {
        assert_eq!(node(&[]).listing(false), "instance-id\nlocal-hostname");
        assert_eq!(
            node(&["k1", "k2"]).listing(true),
            "instance-id\nlocal-hostname\npublic-keys\nvendor-data"
        );
    }

    #[test]
    fn every_listed_key_can_be_asked_for() {
        for key in MetadataKey::ALL {
            assert_eq!(MetadataKey::parse(key.name()), Some(key));
        }
        assert_eq!(MetadataKey::parse("x509"), None);
    }
}
