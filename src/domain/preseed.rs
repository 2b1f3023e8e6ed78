//! Which template makes which preseed, from which variables. The templates are text with
//! `{{ name }}` and no logic; they lie in `cloud-init/preseed`.

use super::credentials::IssuedToken;

/// A form in which a node can be told where we are and with which credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// User-data or a `cloud-config-url` answer.
    CloudConfig,
    /// A file for `/etc/cloud/cloud.cfg.d/`.
    CloudCfgD,
    /// A shell command to try the credentials by hand; the secret is on no command line.
    Curl,
}

impl Format {
    pub const ALL: [Format; 3] = [Format::CloudConfig, Format::CloudCfgD, Format::Curl];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Format::CloudConfig => "cloud-config",
            Format::CloudCfgD => "cloud-cfg-d",
            Format::Curl => "curl",
        }
    }

    /// # Errors
    /// A sentence that lists the formats.
    pub fn parse(text: &str) -> Result<Format, String> {
        let names: Vec<&str> = Format::ALL.into_iter().map(Format::name).collect();
        Format::ALL
            .into_iter()
            .find(|format| format.name() == text)
            .ok_or_else(|| format!("a preseed format is one of {}", names.join(", ")))
    }

    fn template(self) -> &'static str {
        match self {
            Format::CloudConfig => include_str!("../../cloud-init/preseed/cloud-config"),
            Format::CloudCfgD => include_str!("../../cloud-init/preseed/cloud-cfg-d"),
            Format::Curl => include_str!("../../cloud-init/preseed/curl"),
        }
    }

    fn encode(self, value: &str) -> String {
        match self {
            Format::CloudConfig | Format::CloudCfgD => yaml(value),
            Format::Curl => shell(value),
        }
    }
}

/// A preseed of a node; like a reveal, it uses the issued token up.
#[must_use]
pub fn render(format: Format, metadata_url: &str, issued: IssuedToken) -> String {
    let status_url = format!("{metadata_url}status/{}", issued.system_id);
    let credentials = issued.reveal();
    fill(format.template(), |name| {
        let value = match name {
            "metadata_url" => metadata_url,
            "status_url" => &status_url,
            "consumer_key" => credentials.consumer_key.as_str(),
            "token_key" => credentials.token_key.as_str(),
            "token_secret" => credentials.secret.expose(),
            _ => return None,
        };
        Some(format.encode(value))
    })
}

/// Replaces every `{{ name }}`. A name that `value` does not know stays as it is written.
fn fill(template: &str, value: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(template.len() + 512);
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{ ") {
        out.push_str(before);
        let known = after.split_once(" }}").and_then(|(name, tail)| Some((value(name)?, tail)));
        if let Some((text, tail)) = known {
            out.push_str(&text);
            rest = tail;
        } else {
            out.push_str("{{ ");
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

/// A double-quoted scalar. JSON's strings are YAML's, and mean the same to every parser.
fn yaml(value: &str) -> String {
    serde_json::Value::from(value).to_string()
}

/// One word of a POSIX shell.
fn shell(value: &str) -> String {
    format!("'{}'", value.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::credentials::Mint;

    #[test]
    fn every_template_is_filled_completely() {
        for format in Format::ALL {
            let issued = IssuedToken::new("n1".into(), Mint::seeded([3; 32]).credentials());
            let text = render(format, "http://h/MAAS/metadata/", issued);
            assert!(!text.contains("{{") && !text.contains("}}"), "{}", format.name());
            assert_eq!(Format::parse(format.name()), Ok(format));
        }
    }

    #[test]
    fn a_value_cannot_leave_its_place() {
        assert_eq!(yaml("a\"b\n# c: {}"), r#""a\"b\n# c: {}""#);
        assert_eq!(shell("a'b $(c)"), r"'a'\''b $(c)'");
        assert_eq!(fill("{{ a }}{{ b", |_| Some("{{ a }}".into())), "{{ a }}{{ b");
    }
}
