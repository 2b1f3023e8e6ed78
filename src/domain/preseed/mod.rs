//! Which template makes which preseed, from which names. The templates are text with `{{ name }}`
//! and no logic; they lie in `cloud-init/preseed`, and an operator may put others in their place.

mod encode;
mod template;

use super::credentials::IssuedToken;
use super::metadata_url::MetadataUrl;
pub use template::{Flaw, Template};

/// What a template that holds credentials may name.
const CREDENTIALS: &[&str] =
    &["metadata_url", "status_url", "system_id", "consumer_key", "token_key", "token_secret"];
/// What one that holds none may: a kernel's arguments are read by everybody.
const CLAIM: &[&str] = &["claim_url"];

macro_rules! formats {
    ($($name:ident $text:literal $names:ident $help:literal;)*) => {
        /// A form in which a node can be told where we are and with which credentials.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Format {
            $(#[doc = $help] $name,)*
        }

        impl Format {
            pub const ALL: &'static [Format] = &[$(Format::$name,)*];

            /// Its name, which is that of its template too.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Format::$name => $text,)* }
            }

            /// What its template may name.
            fn names(self) -> &'static [&'static str] {
                match self { $(Format::$name => $names,)* }
            }

            fn built_in(self) -> &'static str {
                match self {
                    $(Format::$name => {
                        include_str!(concat!("../../../cloud-init/preseed/", $text))
                    })*
                }
            }
        }
    };
}

formats! {
    CloudConfig "cloud-config" CREDENTIALS "User-data or a `cloud-config-url` answer.";
    CloudCfgD "cloud-cfg-d" CREDENTIALS "A file for `/etc/cloud/cloud.cfg.d/`.";
    Cmdline "cmdline" CLAIM "Kernel arguments, which hold a claim instead of the secret.";
    Curtin "curtin" CREDENTIALS "What MAAS's installer is configured with.";
    Debconf "debconf" CREDENTIALS "Answers for cloud-init's questions, for debconf-set-selections.";
    Autoinstall "autoinstall" CREDENTIALS "What Ubuntu's installer (subiquity) is configured with.";
    Curl "curl" CREDENTIALS "A command to try the credentials by hand; the secret is in no process list.";
}

impl Format {
    /// # Errors
    /// A sentence that lists the formats.
    pub fn parse(text: &str) -> Result<Format, String> {
        let names: Vec<&str> = Format::ALL.iter().map(|format| format.name()).collect();
        let found = Format::ALL.iter().find(|format| format.name() == text);
        found.copied().ok_or_else(|| format!("a preseed format is one of {}", names.join(", ")))
    }

    /// The formats that a claim can be for: those that are made of credentials.
    ///
    /// # Errors
    /// A sentence that lists them.
    pub fn parse_claimed(text: &str) -> Result<Format, String> {
        let claimed = |format: &Format| format.holds_credentials();
        let names: Vec<&str> =
            Format::ALL.iter().filter(|f| claimed(f)).map(|format| format.name()).collect();
        let found = Format::parse(text).ok().filter(claimed);
        found.ok_or_else(|| format!("a claim is for one of {}", names.join(", ")))
    }

    /// Whether it shows the node's credentials; if not, it shows where to claim them.
    #[must_use]
    pub fn holds_credentials(self) -> bool {
        self.names() == CREDENTIALS
    }

    fn encode(self, name: &str, value: &str) -> String {
        match self {
            Format::CloudConfig | Format::CloudCfgD | Format::Curtin | Format::Autoinstall => {
                encode::yaml(value)
            }
            Format::Curl => encode::shell(value),
            Format::Cmdline => encode::url(value),
            Format::Debconf if name.ends_with("_url") => encode::url(value),
            Format::Debconf => encode::form(value),
        }
    }

    /// What the consumer of the format asks of the whole text.
    fn judge(self, text: &str) -> Option<Flaw> {
        let flaw = |line, why: &str| Some(Flaw { line, why: why.into() });
        match self {
            Format::Cmdline if text.trim_end_matches('\n').contains('\n') => {
                flaw(2, "kernel arguments are one line")
            }
            Format::CloudConfig | Format::CloudCfgD | Format::Curtin | Format::Autoinstall
                if !text.starts_with("#cloud-config\n") =>
            {
                flaw(1, "the first line has to be `#cloud-config`: cloud-init looks for it")
            }
            _ => None,
        }
    }
}

/// The template of every format.
#[derive(Clone)]
pub struct Templates(Vec<(Format, Template)>);

impl Templates {
    /// The compiled-in ones.
    ///
    /// # Panics
    /// Never: a test reads them.
    #[must_use]
    pub fn built_in() -> Templates {
        let read = |format: &Format| {
            let template = Templates::read(*format, format.built_in());
            (*format, template.expect("the compiled-in templates are sound: a test reads them"))
        };
        Templates(Format::ALL.iter().map(read).collect())
    }

    fn read(format: Format, text: &str) -> Result<Template, Vec<Flaw>> {
        let judged = format.judge(text);
        match (Template::parse(text, format.names()), judged) {
            (Ok(template), None) => Ok(template),
            (parsed, judged) => {
                Err(judged.into_iter().chain(parsed.err().into_iter().flatten()).collect())
            }
        }
    }

    /// Puts an operator's template in the place of the compiled-in one.
    ///
    /// # Errors
    /// Everything that is wrong with it; the old one stays then.
    pub fn replace(&mut self, format: Format, text: &str) -> Result<(), Vec<Flaw>> {
        let template = Templates::read(format, text)?;
        self.0.retain(|(other, _)| *other != format);
        self.0.push((format, template));
        Ok(())
    }

    /// A preseed of a node; like a reveal, it uses the issued token up.
    #[must_use]
    pub fn render(
        &self,
        format: Format,
        metadata_url: &MetadataUrl,
        issued: IssuedToken,
    ) -> String {
        let system_id = issued.system_id.clone();
        let status_url = format!("{}status/{system_id}", metadata_url.as_str());
        let credentials = issued.reveal();
        self.fill(format, |name| match name {
            "metadata_url" => metadata_url.as_str(),
            "status_url" => &status_url,
            "system_id" => &system_id,
            "consumer_key" => credentials.consumer_key.as_str(),
            "token_key" => credentials.token_key.as_str(),
            "token_secret" => credentials.secret.expose(),
            _ => "",
        })
    }

    /// What tells a node where to claim its preseed; there is no secret of the node in it.
    #[must_use]
    pub fn render_claim(&self, format: Format, claim_url: &str) -> String {
        self.fill(format, |name| if name == "claim_url" { claim_url } else { "" })
    }

    fn fill<'v>(&self, format: Format, value: impl Fn(&str) -> &'v str) -> String {
        let template = self.0.iter().find(|(other, _)| *other == format);
        template
            .map(|(_, template)| template.fill(|name| format.encode(name, value(name))))
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::credentials::Mint;

    fn shown(format: Format) -> String {
        let url = MetadataUrl::parse("http://[fd00::2]:5240/MAAS/metadata/").unwrap();
        let issued = IssuedToken::new("node-7f3a".into(), Mint::seeded([3; 32]).credentials());
        if format.holds_credentials() {
            Templates::built_in().render(format, &url, issued)
        } else {
            Templates::built_in().render_claim(format, "http://h/MAAS/metadata/claim/AAAA_-b")
        }
    }

    #[test]
    fn every_template_is_filled_completely() {
        for format in Format::ALL {
            let text = shown(*format);
            assert!(!text.contains("{{") && text.ends_with('\n'), "{}", format.name());
            assert_eq!(Format::parse(format.name()), Ok(*format));
            let names = format.names().iter().filter(|name| **name != "system_id");
            for name in names {
                let place = format!("{{{{ {name} }}}}");
                assert!(
                    format.built_in().contains(&place) || *format == Format::Curl,
                    "{} does not use {name}",
                    format.name()
                );
            }
        }
        assert!(Format::parse_claimed("cmdline").is_err());
        assert_eq!(Format::parse_claimed("curtin"), Ok(Format::Curtin));
    }
}
