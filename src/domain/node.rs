//! A node: its names, what may be in them, and what its owner may set.

use std::collections::BTreeMap;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

/// A node's short public name: `[A-Za-z0-9][A-Za-z0-9._-]{0,62}`, compared exactly.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, JsonSchema)]
pub struct SystemId(String);

impl SystemId {
    /// # Errors
    /// A sentence that says what a system id is.
    pub fn parse(text: &str) -> Result<SystemId, String> {
        let rest = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        let first = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
        if first && text.len() <= 63 && text.bytes().all(rest) {
            Ok(SystemId(text.to_owned()))
        } else {
            Err("a system id is 1 to 63 letters, digits, '.', '_' or '-', a letter or digit first"
                .into())
        }
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for SystemId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// A node's fully qualified name: kept as given, compared without case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Hostname(String);

impl Hostname {
    /// Labels of letters, digits and inner hyphens, 253 bytes in all (RFC 1123 §2.1).
    ///
    /// An IPv4 address is refused: cloud-init turns it into `ip-1-2-3-4`.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub fn parse(text: &str) -> Result<Hostname, String> {
        if text.is_empty() || text.len() > 253 {
            return Err("a hostname is 1 to 253 bytes".into());
        }
        if !text.is_ascii() {
            return Err(
                "a hostname is ASCII: write an international name as its A-label (xn--…)".into()
            );
        }
        if text.parse::<std::net::Ipv4Addr>().is_ok() {
            return Err(
                "a hostname is not an IPv4 address: cloud-init would rename the node".into()
            );
        }
        let good = |label: &str| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        };
        if text.split('.').all(good) {
            Ok(Hostname(text.to_owned()))
        } else {
            Err("a hostname is labels of 1 to 63 letters, digits and inner hyphens, joined by dots"
                .into())
        }
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The form in which two hostnames are compared.
    #[must_use]
    pub fn folded(&self) -> String {
        self.0.to_ascii_lowercase()
    }
}

/// A hardware address in lower case with colons: 6 bytes, or 20 for `InfiniBand`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
pub struct Mac(String);

impl Mac {
    /// # Errors
    /// A sentence that says what a MAC is.
    pub fn parse(text: &str) -> Result<Mac, String> {
        let lower = text.to_ascii_lowercase().replace('-', ":");
        let octets: Vec<&str> = lower.split(':').collect();
        let octet = |o: &&str| o.len() == 2 && o.bytes().all(|b| b.is_ascii_hexdigit());
        if matches!(octets.len(), 6 | 20) && octets.iter().all(octet) {
            Ok(Mac(lower))
        } else {
            Err("a MAC address is six (or, for InfiniBand, twenty) two-digit hexadecimal bytes"
                .into())
        }
    }
}

/// One line of `authorized_keys`, handed to the default user as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct SshKey(String);

impl SshKey {
    /// # Errors
    /// A sentence: cloud-init passes blank lines and comments on as keys, so they are refused.
    pub fn parse(text: &str) -> Result<SshKey, String> {
        let line = text.strip_suffix('\n').unwrap_or(text).trim_matches([' ', '\t']);
        if line.is_empty() || line.starts_with('#') {
            return Err("an SSH key is one line, not blank and not a comment".into());
        }
        // splitlines() on the node also splits at these (str.splitlines in Python).
        if line.chars().any(|c| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')) {
            return Err("an SSH key is one line without control characters".into());
        }
        if line.len() > 16 * 1024 {
            return Err("an SSH key is at most 16 KiB".into());
        }
        Ok(SshKey(line.to_owned()))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What an operator sticks on nodes to find them again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Labels(BTreeMap<String, String>);

impl Labels {
    /// # Errors
    /// A sentence that says what a label is.
    pub fn parse(pairs: BTreeMap<String, String>) -> Result<Labels, String> {
        for (name, value) in &pairs {
            check_label(name, value)?;
        }
        if pairs.len() > 64 {
            return Err("a node has at most 64 labels".into());
        }
        Ok(Labels(pairs))
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

/// # Errors
/// A sentence that says what a label is.
pub fn check_label(name: &str, value: &str) -> Result<(), String> {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'/');
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    if !first || name.len() > 63 || !name.bytes().all(inner) {
        return Err("a label's name is 1 to 63 letters, digits, '.', '_', '-' or '/', a letter or digit first".into());
    }
    if value.len() > 255 || value.chars().any(char::is_control) {
        return Err("a label's value is one line of at most 255 bytes".into());
    }
    Ok(())
}

/// How far a node has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BootState {
    /// No token, and nothing else.
    New,
    /// A token was made and has not been used.
    Issued,
    /// A claim was made, or its preseed fetched.
    Claimed,
    /// The node has read something.
    Contacted,
    /// It reports.
    Booting,
    /// It has what is its own, and ran it.
    Ready,
    Failed,
}

impl BootState {
    pub const ALL: [BootState; 7] = [
        BootState::New,
        BootState::Issued,
        BootState::Claimed,
        BootState::Contacted,
        BootState::Booting,
        BootState::Ready,
        BootState::Failed,
    ];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            BootState::New => "new",
            BootState::Issued => "issued",
            BootState::Claimed => "claimed",
            BootState::Contacted => "contacted",
            BootState::Booting => "booting",
            BootState::Ready => "ready",
            BootState::Failed => "failed",
        }
    }

    /// # Errors
    /// A sentence that lists the states.
    pub fn parse(text: &str) -> Result<BootState, String> {
        let known = BootState::ALL.into_iter().find(|state| state.as_str() == text);
        known.ok_or_else(|| {
            let names = BootState::ALL.map(BootState::as_str).join(", ");
            format!("a boot state is one of {names}")
        })
    }
}

/// A node as the operator plane shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Node {
    pub system_id: SystemId,
    pub instance_id: String,
    pub hostname: Hostname,
    pub macs: Vec<Mac>,
    pub ssh_keys: Vec<SshKey>,
    pub labels: Labels,
    /// The project's name.
    pub project: String,
    pub netboot: bool,
    pub boot_state: BootState,
    pub created_at: Timestamp,
}

impl Node {
    /// The names of the fields in which it is not as `other` is.
    #[must_use]
    pub fn differs_in(&self, other: &Node) -> Vec<&'static str> {
        [
            ("hostname", self.hostname != other.hostname),
            ("macs", self.macs != other.macs),
            ("ssh_keys", self.ssh_keys != other.ssh_keys),
            ("labels", self.labels != other.labels),
            ("project", self.project != other.project),
            ("netboot", self.netboot != other.netboot),
        ]
        .into_iter()
        .filter_map(|(name, differs)| differs.then_some(name))
        .collect()
    }
}

/// The `instance-id`: cloud-init takes the node for a new one when it changes.
#[must_use]
pub fn instance_id(system_id: &SystemId, reprovisions: i32) -> String {
    if reprovisions == 0 { system_id.0.clone() } else { format!("{system_id}.r{reprovisions}") }
}

/// What is needed to add a node; everything but the hostname has a default.
#[derive(Clone, Debug)]
pub struct NewNode {
    /// `None`: make one up.
    pub system_id: Option<SystemId>,
    pub hostname: Hostname,
    pub macs: Vec<Mac>,
    pub ssh_keys: Vec<SshKey>,
    pub labels: Labels,
    pub netboot: bool,
}

/// A change to a node: `None` leaves a field as it is.
#[derive(Clone, Debug, Default)]
pub struct NodeChange {
    pub hostname: Option<Hostname>,
    pub macs: Option<Vec<Mac>>,
    pub ssh_keys: Option<Vec<SshKey>>,
    pub labels: Option<Labels>,
    pub netboot: Option<bool>,
    /// The name or id of the project to move it to; its tokens end with the old one.
    pub project: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_ids_are_a_letter_or_digit_and_up_to_62_more() {
        let longest = "a".repeat(63);
        for good in ["a", "7", "node-7f3a", "A.b_c-d", longest.as_str()] {
            assert_eq!(SystemId::parse(good).unwrap().as_str(), good);
        }
        let too_long = "a".repeat(64);
        for bad in ["", ".a", "-a", "_a", "a/b", "a b", "a\n", "é", "a%2e", too_long.as_str()] {
            assert!(SystemId::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn hostnames_are_names_that_cloud_init_keeps() {
        for good in
            ["h", "web-1.example.com", "WEB-1.Example.com", "xn--bcher-kva.example", "1.2.3"]
        {
            assert_eq!(Hostname::parse(good).unwrap().as_str(), good);
        }
        let long_label = format!("{}.example.com", "a".repeat(64));
        let long = vec!["a".repeat(60); 5].join(".");
        for bad in [
            "",
            "10.0.0.1",
            "a..b",
            "a.",
            ".a",
            "-a",
            "a-",
            "a_b",
            "bücher.example",
            "a\nb",
            "a b",
            &long_label,
            &long,
        ] {
            assert!(Hostname::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn ssh_keys_are_one_line_each() {
        for good in ["ssh-ed25519 AAAA a@b", "command=\"x,y\" ssh-rsa AAAA ключ", "key1"] {
            assert_eq!(SshKey::parse(good).unwrap().as_str(), good);
        }
        assert_eq!(SshKey::parse("ssh-rsa AAAA\n").unwrap().as_str(), "ssh-rsa AAAA");
        for bad in ["", "  ", "# c", "a\nb", "a\rb", "a\u{85}b", "a\u{2028}b", "a\0b", "a\u{1c}b"] {
            assert!(SshKey::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn macs_are_kept_in_one_form() {
        assert_eq!(
            Mac::parse("52-54-00-AB-cd-01").unwrap(),
            Mac::parse("52:54:00:ab:CD:01").unwrap()
        );
        for bad in ["", "52:54:00:ab:cd", "52:54:00:ab:cd:0g", "525400abcd01", "5:54:00:ab:cd:01"] {
            assert!(Mac::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_instance_id_counts_reprovisions() {
        let id = SystemId::parse("n1").unwrap();
        assert_eq!(instance_id(&id, 0), "n1");
        assert_eq!(instance_id(&id, 2), "n1.r2");
    }
}
