//! Settings: flag, then environment, then file, then default. Parsed types, safe to print.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_yaml::Spanned;

use crate::domain::credentials::PlaintextReplay;
use crate::domain::cull::parse_duration;
use crate::domain::limits::Limits;
use crate::domain::metadata::AbsentItems;
use crate::domain::metadata_url::MetadataUrl;
use crate::domain::network::TrustedProxies;
use crate::store::DatabaseUrl;

/// One setting: its flag is `--name`, its variable `NODEINIT_NAME`, its place in the file
/// `section: {name: …}`.
pub struct Setting {
    pub section: &'static str,
    pub name: &'static str,
    pub value: &'static str,
    pub default: &'static str,
    pub help: &'static str,
}

macro_rules! settings {
    ($($section:literal { $($name:literal $value:literal = $default:literal : $help:literal;)* })*) => {
        /// Every setting, in the order of the README's table.
        pub const SETTINGS: &[Setting] = &[$($(Setting {
            section: $section, name: $name, value: $value, default: $default, help: $help,
        },)*)*];
    };
}

settings! {
    "server" {
        "state-dir" "DIR" = "$STATE_DIRECTORY, else ./nodeinit-state":
            "Holds nodeinit.db, admin.sock and secret.key; made with mode 0700";
        "database-url" "URL" = "sqlite:<state-dir>/nodeinit.db":
            "sqlite:PATH, or postgres://USER:PASSWORD@HOST/NAME for a fleet; the password is never printed";
        "listen" "ADDR:PORT" = "127.0.0.1:5240":
            "Where nodes fetch their metadata; port 0 takes a free one";
        "admin-listen" "ADDR:PORT|off" = "127.0.0.1:5241":
            "Health and version over TCP; off leaves only the socket <state-dir>/admin.sock";
        "metadata-url" "URL" = "http://<listen>/MAAS/metadata/":
            "What is written into preseeds, https with --tls-cert; without it a wildcard --listen cannot hand out any";
        "trusted-proxy" "CIDR…" = "none":
            "Networks of proxies, with commas between, whose X-Forwarded-For or PROXY v2 header is believed: for logs, claims and limits, never for who a node is";
        "preseed-dir" "DIR" = "none":
            "Templates that replace the compiled-in ones of cloud-init/preseed by file name; one with a mistake refuses the start";
    }
    "tls" {
        "tls-cert" "FILE" = "none":
            "PEM chain for HTTPS on --listen, with --tls-key; read again on SIGHUP";
        "tls-key" "FILE" = "none":
            "PEM private key of --tls-cert, not encrypted; only the server should be able to read it";
        "admin-tls-cert" "FILE" = "none":
            "PEM chain for HTTPS on --admin-listen, with --admin-tls-key; read again on SIGHUP";
        "admin-tls-key" "FILE" = "none":
            "PEM private key of --admin-tls-cert, not encrypted";
        "admin-plain-http" "true|false" = "false":
            "Allow an --admin-listen that is not loopback to speak plain HTTP: anyone on the way can read it";
    }
    "node" {
        "absent-items" "empty|not-found" = "empty":
            "How an optional item that a node lacks is answered; not-found costs current cloud-init a second each";
        "plaintext-replay" "ignore|refuse" = "ignore":
            "Whether PLAINTEXT's timestamp and nonce are judged; refuse keeps machines with a wrong clock from booting at once";
    }
    "secrets" {
        "secret-key-file" "FILE" = "<state-dir>/secret.key":
            "32 bytes that seal the tokens' secrets; replicas share it; without it no token can be read";
    }
    "identity" {
        "policy-file" "FILE" = "none":
            "YAML of rules that replace the compiled-in ones by name; read again when it changes, and a broken one changes nothing";
        "service-token-window" "DURATION" = "48h":
            "How long past its end a user's token is good beside a service's own; 0s turns that off";
    }
    "retention" {
        "keep-events" "DURATION" = "90d":
            "How long what nodes reported stays, with its files, before it is swept";
        "keep-ended-tokens" "DURATION" = "30d":
            "How long an ended token stays on record before it is swept";
        "keep-audit" "DURATION|forever" = "forever":
            "How long a row of the audit is kept; what is left of the chain can still be verified";
    }
    "limits" {
        "header-bytes" "SIZE" = "8KiB": "Bytes of request headers; more is 431";
        "content-bytes" "SIZE" = "64MiB": "Bytes of one user-data or vendor-data; more is 413";
        "json-bytes" "SIZE" = "1MiB": "Bytes of a JSON body; more is 413";
        "report-bytes" "SIZE" = "16MiB": "Bytes of one report of a node; more is 413";
        "report-file-bytes" "SIZE" = "8MiB": "Bytes of one file in a report, unpacked; more is 413";
        "report-files" "N" = "16": "Files in one report; more is 413";
        "json-depth" "N" = "32": "Nesting of JSON; more is 400";
        "header-time" "DURATION" = "5s": "How long a connection may take to send its headers";
        "connections" "N" = "20000": "Connections at once on the node listener; more wait";
        "node-rate" "N" = "50": "Requests a second of one node; more is 429";
        "node-burst" "N" = "200": "Requests of one node that may come at once";
        "refused-rate" "N" = "1000": "Refused requests a second of one source address; more is 429";
        "refused-burst" "N" = "10000": "Refused requests of one source that may come at once";
        "live-bytes" "SIZE" = "512MiB":
            "Memory for tokens in use and what their nodes are served; about 1 KiB a token";
        "page" "N" = "1000": "Rows on one page of a list";
    }
}

/// Where a value was given, for the message that says what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Origin {
    Flag(&'static str),
    Variable(String),
    File { path: PathBuf, line: u64, key: String },
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Origin::Flag(name) => write!(f, "--{name}"),
            Origin::Variable(name) => write!(f, "{name}"),
            Origin::File { path, line, key } => write!(f, "{}:{line}: {key}", path.display()),
        }
    }
}

/// What was given where, before it is understood.
#[derive(Default)]
pub struct Given {
    values: BTreeMap<&'static str, (String, Origin)>,
    problems: Vec<String>,
    warnings: Vec<String>,
}

/// Variables of ours that are no settings of the server.
pub const OTHER_VARIABLES: [&str; 22] = [
    "NODEINIT_AUTH",
    "NODEINIT_CA_FILE",
    "NODEINIT_CONFIG",
    "NODEINIT_CONSUMER_KEY",
    "NODEINIT_PASSWORD",
    "NODEINIT_PASSWORD_FILE",
    "NODEINIT_PROJECT",
    "NODEINIT_RETRIES",
    "NODEINIT_SERVER",
    "NODEINIT_SERVICE_PASSWORD",
    "NODEINIT_SERVICE_PASSWORD_FILE",
    "NODEINIT_SERVICE_PROJECT",
    "NODEINIT_SERVICE_TOKEN",
    "NODEINIT_SERVICE_TOKEN_FILE",
    "NODEINIT_SERVICE_USER",
    "NODEINIT_SIGNATURE_METHOD",
    "NODEINIT_TOKEN",
    "NODEINIT_TOKEN_FILE",
    "NODEINIT_TOKEN_KEY",
    "NODEINIT_TOKEN_SECRET",
    "NODEINIT_TOKEN_SECRET_FILE",
    "NODEINIT_USER",
];

impl Given {
    /// Gathers every source; `file` is the text of the configuration file and its path.
    #[must_use]
    pub fn gather(
        flags: BTreeMap<&'static str, String>,
        environment: impl Iterator<Item = (String, String)>,
        file: Option<(&Path, &str)>,
    ) -> Given {
        let mut given = Given::default();
        // The weakest first: what comes later replaces it.
        if let Some((path, text)) = file {
            given.take_file(path, text);
        }
        for (name, value) in environment.filter(|(name, _)| name.starts_with("NODEINIT_")) {
            given.take_variable(name, value);
        }
        for (name, value) in flags {
            given.values.insert(name, (value, Origin::Flag(name)));
        }
        given
    }

    fn take_file(&mut self, path: &Path, text: &str) {
        type File = BTreeMap<String, Spanned<BTreeMap<String, Spanned<Option<String>>>>>;
        if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
            return;
        }
        let file: File = match serde_yaml::from_str(text) {
            Ok(file) => file,
            Err(error) => {
                let line = error.location().map_or(1, |at| at.line());
                // The parser's own words may quote the file, and with it a password.
                let why = if error.to_string().contains("duplicate") {
                    "a section or setting stands twice"
                } else {
                    "not sections of settings: write `section:` and, under it, `name: value`"
                };
                self.problems.push(format!("{}:{line}: {why}", path.display()));
                return;
            }
        };
        for (section, settings) in file {
            let known = SETTINGS.iter().any(|setting| setting.section == section);
            if !known {
                let line = settings.referenced.line();
                self.problems.push(format!(
                    "{}:{}: unknown section {section:?}: there are {}",
                    path.display(),
                    line.saturating_sub(1).max(1),
                    sections().join(", ")
                ));
                continue;
            }
            for (name, value) in settings.value {
                let line = value.referenced.line();
                let key = format!("{section}.{name}");
                match SETTINGS.iter().find(|s| s.section == section && s.name == name) {
                    Some(setting) => match value.value {
                        Some(value) => {
                            let origin = Origin::File { path: path.to_owned(), line, key };
                            self.values.insert(setting.name, (value, origin));
                        }
                        None => self
                            .problems
                            .push(format!("{}:{line}: {key}: there is no value", path.display())),
                    },
                    None => self
                        .problems
                        .push(format!("{}:{line}: unknown setting {key:?}", path.display())),
                }
            }
        }
    }

    fn take_variable(&mut self, name: String, value: String) {
        let setting = SETTINGS.iter().find(|setting| variable(setting.name) == name);
        match setting {
            Some(setting) => {
                self.values.insert(setting.name, (value, Origin::Variable(name)));
            }
            None if OTHER_VARIABLES.contains(&name.as_str()) => {}
            None => self.warnings.push(format!("{name} is not a setting and is ignored")),
        }
    }

    /// The value of a setting that is no flag of the command at hand, as it was given.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(|(value, _)| value.as_str())
    }

    /// A certificate and its key: both or none.
    fn tls_files(&mut self, cert: &'static str, key: &'static str) -> Option<TlsFiles> {
        let mut path = |name| {
            self.parse(name, |text| match text {
                "" => Err("there is no file name".into()),
                _ => Ok(PathBuf::from(text)),
            })
        };
        let missing = match (path(cert), path(key)) {
            (Some(cert), Some(key)) => return Some(TlsFiles { cert, key }),
            (None, None) => return None,
            (Some(_), None) => key,
            (None, Some(_)) => cert,
        };
        let there = if missing == key { cert } else { key };
        // An unreadable value has been told of already.
        if let (Some((_, origin)), None) = (self.values.get(there), self.values.get(missing)) {
            self.problems.push(format!("{origin}: --{missing} is missing: TLS needs both"));
        }
        None
    }

    fn parse<T>(&mut self, name: &str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let (value, origin) = self.values.get(name)?;
        match parse(value) {
            Ok(parsed) => Some(parsed),
            Err(why) => {
                let problem = format!("{origin}: {why}");
                self.problems.push(problem);
                None
            }
        }
    }
}

fn sections() -> Vec<&'static str> {
    let mut sections: Vec<&str> = SETTINGS.iter().map(|setting| setting.section).collect();
    sections.dedup();
    sections
}

/// The variable of a setting.
#[must_use]
pub fn variable(name: &str) -> String {
    format!("NODEINIT_{}", name.to_ascii_uppercase().replace('-', "_"))
}

/// Where the operator plane is served over TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminListen {
    Off,
    On(SocketAddr),
}

/// The files of a listener that speaks TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// Everything the server needs to know, understood and complete.
#[derive(Clone)]
pub struct Settings {
    pub state_dir: PathBuf,
    pub database_url: DatabaseUrl,
    pub listen: SocketAddr,
    pub admin_listen: AdminListen,
    pub metadata_url: Option<MetadataUrl>,
    pub trusted_proxies: TrustedProxies,
    pub preseed_dir: Option<PathBuf>,
    /// The node listener's, and the admin listener's.
    pub tls: Option<TlsFiles>,
    pub admin_tls: Option<TlsFiles>,
    pub admin_plain_http: bool,
    pub absent_items: AbsentItems,
    pub plaintext_replay: PlaintextReplay,
    pub secret_key_file: PathBuf,
    pub policy_file: Option<PathBuf>,
    pub service_token_window: Duration,
    pub keep_events: Duration,
    pub keep_ended_tokens: Duration,
    /// `None`: for ever.
    pub keep_audit: Option<Duration>,
    pub limits: Limits,
    /// Said once at start.
    pub warnings: Vec<String>,
}

/// What one request, one node and one process may ask for.
fn limits(given: &mut Given) -> Limits {
    let defaults = Limits::default();
    Limits {
        header_bytes: given
            .parse("header-bytes", |t| size(t, 1 << 10, 64 << 10))
            .unwrap_or(defaults.header_bytes),
        content_bytes: given
            .parse("content-bytes", |t| size(t, 0, 512 << 20))
            .unwrap_or(defaults.content_bytes),
        json_bytes: given
            .parse("json-bytes", |t| size(t, 1 << 10, 64 << 20))
            .unwrap_or(defaults.json_bytes),
        report_bytes: given
            .parse("report-bytes", |t| size(t, 1 << 10, 64 << 20))
            .unwrap_or(defaults.report_bytes),
        report_file_bytes: given
            .parse("report-file-bytes", |t| size(t, 0, 64 << 20))
            .unwrap_or(defaults.report_file_bytes),
        report_files: given
            .parse("report-files", |t| number(t, 0, 1000))
            .unwrap_or(defaults.report_files),
        json_depth: given.parse("json-depth", |t| number(t, 2, 100)).unwrap_or(defaults.json_depth),
        header_time: given
            .parse("header-time", |t| duration(t, 1, 60))
            .unwrap_or(defaults.header_time),
        connections: given
            .parse("connections", |t| number(t, 1, 1_000_000))
            .unwrap_or(defaults.connections),
        node_rate: given
            .parse("node-rate", |t| number(t, 1, 1_000_000))
            .unwrap_or(defaults.node_rate),
        node_burst: given
            .parse("node-burst", |t| number(t, 1, 1_000_000))
            .unwrap_or(defaults.node_burst),
        refused_rate: given
            .parse("refused-rate", |t| number(t, 1, 1_000_000))
            .unwrap_or(defaults.refused_rate),
        refused_burst: given
            .parse("refused-burst", |t| number(t, 1, 1_000_000))
            .unwrap_or(defaults.refused_burst),
        live_bytes: given
            .parse("live-bytes", |t| size(t, 1 << 20, 1 << 40))
            .unwrap_or(defaults.live_bytes),
        page: given.parse("page", |t| number(t, 1, 100_000)).unwrap_or(defaults.page),
    }
}

/// Everything that is wrong with what was given.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct BadSettings(pub Vec<String>);

impl Settings {
    /// Understands what was given, or says everything that is wrong with it.
    ///
    /// # Errors
    /// [`BadSettings`] with one line a problem: where it was given, and what would be right.
    pub fn resolve(
        mut given: Given,
        state_directory: Option<String>,
    ) -> Result<Settings, BadSettings> {
        let state_dir = state_dir(&given, state_directory);
        let database_url = given
            .parse("database-url", DatabaseUrl::parse)
            .unwrap_or_else(|| DatabaseUrl::Sqlite(state_dir.join("nodeinit.db")));
        let limits = limits(&mut given);
        let settings = Settings {
            listen: given.parse("listen", address).unwrap_or(loopback(5240)),
            admin_listen: given
                .parse("admin-listen", |t| {
                    if t == "off" { Ok(AdminListen::Off) } else { address(t).map(AdminListen::On) }
                })
                .unwrap_or(AdminListen::On(loopback(5241))),
            metadata_url: given.parse("metadata-url", MetadataUrl::parse),
            trusted_proxies: given
                .parse("trusted-proxy", TrustedProxies::parse)
                .unwrap_or_default(),
            preseed_dir: given.parse("preseed-dir", |text| match text {
                "" => Err("there is no directory name".into()),
                _ => Ok(PathBuf::from(text)),
            }),
            tls: given.tls_files("tls-cert", "tls-key"),
            admin_tls: given.tls_files("admin-tls-cert", "admin-tls-key"),
            admin_plain_http: given
                .parse("admin-plain-http", |t| choice(t, &[("true", true), ("false", false)]))
                .unwrap_or(false),
            absent_items: given
                .parse("absent-items", |t| {
                    choice(
                        t,
                        &[("empty", AbsentItems::Empty), ("not-found", AbsentItems::NotFound)],
                    )
                })
                .unwrap_or_default(),
            plaintext_replay: given
                .parse("plaintext-replay", |t| {
                    choice(
                        t,
                        &[("ignore", PlaintextReplay::Ignore), ("refuse", PlaintextReplay::Refuse)],
                    )
                })
                .unwrap_or_default(),
            secret_key_file: given
                .parse("secret-key-file", |t| Ok(PathBuf::from(t)))
                .unwrap_or_else(|| state_dir.join("secret.key")),
            policy_file: given.parse("policy-file", |t| Ok(PathBuf::from(t))),
            service_token_window: given
                .parse("service-token-window", |t| {
                    if t == "0" { Ok(Duration::ZERO) } else { parse_duration(t) }
                })
                .unwrap_or(Duration::from_hours(48)),
            keep_events: given
                .parse("keep-events", parse_duration)
                .unwrap_or(Duration::from_hours(90 * 24)),
            keep_ended_tokens: given
                .parse("keep-ended-tokens", parse_duration)
                .unwrap_or(Duration::from_hours(30 * 24)),
            keep_audit: given
                .parse("keep-audit", |t| {
                    if t == "forever" {
                        return Ok(None);
                    }
                    parse_duration(t).map(Some).map_err(|why| format!("{why}, or forever"))
                })
                .unwrap_or(None),
            limits,
            state_dir,
            database_url,
            warnings: std::mem::take(&mut given.warnings),
        };
        if let AdminListen::On(address) = settings.admin_listen
            && !address.ip().is_loopback()
            && settings.admin_tls.is_none()
            && !settings.admin_plain_http
        {
            given.problems.push(format!(
                "--admin-listen {address}: not loopback, and it speaks plain HTTP; keep it on loopback, \
                 give it --admin-tls-cert and --admin-tls-key, or say --admin-plain-http if the network \
                 in between is trusted"
            ));
        }
        if given.problems.is_empty() { Ok(settings) } else { Err(BadSettings(given.problems)) }
    }

    /// What nodes speak to the node listener: `http` or `https`.
    #[must_use]
    pub fn node_scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    /// The resolved settings by section, with secrets left out.
    #[must_use]
    pub fn show(&self) -> BTreeMap<&'static str, BTreeMap<&'static str, String>> {
        let mut shown: BTreeMap<&str, BTreeMap<&str, String>> = BTreeMap::new();
        let file = |path: Option<&PathBuf>| {
            path.map_or_else(|| "none".into(), |p| p.display().to_string())
        };
        for setting in SETTINGS {
            let value = match setting.name {
                "state-dir" => self.state_dir.display().to_string(),
                "database-url" => self.database_url.to_string(),
                "listen" => self.listen.to_string(),
                "admin-listen" => match self.admin_listen {
                    AdminListen::Off => "off".into(),
                    AdminListen::On(address) => address.to_string(),
                },
                "metadata-url" => match default_metadata_url(self, self.listen) {
                    Some(url) => url.as_str().to_owned(),
                    None => "none: --listen is a wildcard".into(),
                },
                "trusted-proxy" => self.trusted_proxies.to_string(),
                "preseed-dir" => file(self.preseed_dir.as_ref()),
                "tls-cert" => file(self.tls.as_ref().map(|tls| &tls.cert)),
                "tls-key" => file(self.tls.as_ref().map(|tls| &tls.key)),
                "admin-tls-cert" => file(self.admin_tls.as_ref().map(|tls| &tls.cert)),
                "admin-tls-key" => file(self.admin_tls.as_ref().map(|tls| &tls.key)),
                "admin-plain-http" => self.admin_plain_http.to_string(),
                "absent-items" => match self.absent_items {
                    AbsentItems::Empty => "empty".into(),
                    AbsentItems::NotFound => "not-found".into(),
                },
                "plaintext-replay" => match self.plaintext_replay {
                    PlaintextReplay::Ignore => "ignore".into(),
                    PlaintextReplay::Refuse => "refuse".into(),
                },
                "secret-key-file" => self.secret_key_file.display().to_string(),
                "policy-file" => match &self.policy_file {
                    None => "none".into(),
                    Some(path) => path.display().to_string(),
                },
                "service-token-window" => format!("{}s", self.service_token_window.as_secs()),
                "keep-events" => format!("{}s", self.keep_events.as_secs()),
                "keep-ended-tokens" => format!("{}s", self.keep_ended_tokens.as_secs()),
                "keep-audit" => match self.keep_audit {
                    None => "forever".into(),
                    Some(keep) => format!("{}s", keep.as_secs()),
                },
                "header-bytes" => self.limits.header_bytes.to_string(),
                "content-bytes" => self.limits.content_bytes.to_string(),
                "json-bytes" => self.limits.json_bytes.to_string(),
                "report-bytes" => self.limits.report_bytes.to_string(),
                "report-file-bytes" => self.limits.report_file_bytes.to_string(),
                "report-files" => self.limits.report_files.to_string(),
                "json-depth" => self.limits.json_depth.to_string(),
                "header-time" => format!("{}s", self.limits.header_time.as_secs()),
                "connections" => self.limits.connections.to_string(),
                "node-rate" => self.limits.node_rate.to_string(),
                "node-burst" => self.limits.node_burst.to_string(),
                "refused-rate" => self.limits.refused_rate.to_string(),
                "refused-burst" => self.limits.refused_burst.to_string(),
                "live-bytes" => self.limits.live_bytes.to_string(),
                "page" => self.limits.page.to_string(),
                _ => continue,
            };
            shown.entry(setting.section).or_default().insert(setting.name, value);
        }
        shown
    }
}

/// The state directory, which client commands need too: they find the socket in it.
#[must_use]
pub fn state_dir(given: &Given, state_directory: Option<String>) -> PathBuf {
    let named = given.text("state-dir").map(str::to_owned).or(state_directory);
    PathBuf::from(named.unwrap_or_else(|| "nodeinit-state".into()))
}

/// The metadata URL that was set, or the one a listener that is no wildcard implies.
#[must_use]
pub fn default_metadata_url(settings: &Settings, bound: SocketAddr) -> Option<MetadataUrl> {
    settings.metadata_url.clone().or_else(|| {
        let url = format!("{}://{bound}/MAAS/metadata/", settings.node_scheme());
        if bound.ip().is_unspecified() { None } else { MetadataUrl::parse(&url).ok() }
    })
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "an address is IP:PORT, such as 127.0.0.1:5240 or [::1]:5240".into())
}

fn choice<T: Copy>(text: &str, choices: &[(&str, T)]) -> Result<T, String> {
    let found = choices.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
    let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
    found.ok_or_else(|| format!("one of {}", names.join(", ")))
}

fn number<T>(text: &str, least: T, most: T) -> Result<T, String>
where
    T: std::str::FromStr + PartialOrd + std::fmt::Display + Copy,
{
    match text.parse::<T>() {
        Ok(number) if number >= least && number <= most => Ok(number),
        _ => Err(format!("a whole number from {least} to {most}")),
    }
}

fn duration(text: &str, least: u64, most: u64) -> Result<Duration, String> {
    match parse_duration(text) {
        Ok(duration) if (least..=most).contains(&duration.as_secs()) => Ok(duration),
        _ => Err(format!("a duration from {least}s to {most}s")),
    }
}

/// `8192`, `8KiB`, `64MiB`.
fn size(text: &str, least: usize, most: usize) -> Result<usize, String> {
    let (digits, unit) = match (text.strip_suffix("KiB"), text.strip_suffix("MiB")) {
        (Some(digits), _) => (digits, 1 << 10),
        (_, Some(digits)) => (digits, 1 << 20),
        _ => (text, 1),
    };
    match digits.parse::<usize>().ok().and_then(|count| count.checked_mul(unit)) {
        Some(size) if (least..=most).contains(&size) => Ok(size),
        _ => Err(format!("a size from {least} to {most} bytes, such as 8KiB or 64MiB")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(
        flags: &[(&'static str, &str)],
        variables: &[(&str, &str)],
        file: Option<&str>,
    ) -> Result<Settings, Vec<String>> {
        let flags = flags.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        let variables = variables.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned()));
        let file = file.map(|text| (Path::new("c.yaml"), text));
        Settings::resolve(Given::gather(flags, variables, file), None).map_err(|bad| bad.0)
    }

    #[test]
    fn a_flag_wins_over_a_variable_over_the_file_over_the_default() {
        let file = "server:\n  listen: 127.0.0.1:1\n";
        let variable = [("NODEINIT_LISTEN", "127.0.0.1:2")];
        let flag = [("listen", "127.0.0.1:3")];
        let port = |settings: Result<Settings, Vec<String>>| settings.unwrap().listen.port();
        assert_eq!(port(resolve(&[], &[], None)), 5240);
        assert_eq!(port(resolve(&[], &[], Some(file))), 1);
        assert_eq!(port(resolve(&[], &variable, Some(file))), 2);
        assert_eq!(port(resolve(&flag, &variable, Some(file))), 3);
    }

    #[test]
    fn every_problem_is_said_with_its_place() {
        let file =
            "server:\n  listen: nowhere\n  port: 5\nservr:\n  listen: x\nlimits:\n  page: 0\n";
        let problems =
            resolve(&[("absent-items", "maybe")], &[("NODEINIT_NODE_RATE", "-1")], Some(file))
                .err()
                .unwrap();
        assert_eq!(
            problems,
            [
                "c.yaml:3: unknown setting \"server.port\"",
                "c.yaml:4: unknown section \"servr\": there are server, tls, node, secrets, identity, retention, limits",
                "NODEINIT_NODE_RATE: a whole number from 1 to 1000000",
                "c.yaml:7: limits.page: a whole number from 1 to 100000",
                "c.yaml:2: server.listen: an address is IP:PORT, such as 127.0.0.1:5240 or [::1]:5240",
                "--absent-items: one of empty, not-found",
            ]
        );
    }

    #[test]
    fn a_file_may_have_comments_numbers_and_booleans_and_nothing() {
        let file = "# ours\nlimits:\n  page: 10 # rows\ntls:\n  admin-plain-http: true\n";
        let settings = resolve(&[], &[], Some(file)).unwrap();
        assert_eq!((settings.limits.page, settings.admin_plain_http), (10, true));
        assert!(resolve(&[], &[], Some("# nothing\n\n")).is_ok());
        for broken in [
            "- a\n",
            "server\n",
            "server: {listen: [1]}\n",
            "a: b: c\n",
            "server:\n  page: 1\nserver:\n  page: 2\n",
        ] {
            let problems = resolve(&[], &[], Some(broken)).err().unwrap();
            assert!(problems[0].starts_with("c.yaml:"), "{broken:?}: {problems:?}");
        }
    }

    #[test]
    fn an_unknown_variable_is_a_warning() {
        let settings = resolve(&[], &[("NODEINIT_LISTN", "x"), ("OTHER", "y")], None).unwrap();
        assert_eq!(settings.warnings, ["NODEINIT_LISTN is not a setting and is ignored"]);
    }

    #[test]
    fn an_open_admin_listener_over_plain_http_must_be_asked_for() {
        assert!(resolve(&[("admin-listen", "0.0.0.0:5241")], &[], None).is_err());
        let asked = [("admin-listen", "0.0.0.0:5241"), ("admin-plain-http", "true")];
        assert!(resolve(&asked, &[], None).is_ok());
        assert!(resolve(&[("admin-listen", "off")], &[], None).is_ok());
        let mut tls = vec![("admin-listen", "0.0.0.0:5241"), ("admin-tls-cert", "c")];
        assert!(resolve(&tls, &[], None).is_err());
        tls.push(("admin-tls-key", "k"));
        assert!(resolve(&tls, &[], None).is_ok());
    }

    #[test]
    fn a_certificate_needs_its_key_and_a_key_its_certificate() {
        let cert = resolve(&[("tls-cert", "c.pem")], &[], None).err().unwrap();
        assert_eq!(cert, ["--tls-cert: --tls-key is missing: TLS needs both"]);
        let file = "tls:\n  admin-tls-key: k.pem\n";
        let key = resolve(&[], &[("NODEINIT_TLS_KEY", "k")], Some(file)).err().unwrap();
        assert_eq!(
            key,
            [
                "NODEINIT_TLS_KEY: --tls-cert is missing: TLS needs both",
                "c.yaml:2: tls.admin-tls-key: --admin-tls-cert is missing: TLS needs both",
            ]
        );
        let empty = resolve(&[("tls-cert", ""), ("tls-key", "k")], &[], None).err().unwrap();
        assert_eq!(empty, ["--tls-cert: there is no file name"]);
        let whole = resolve(&[("tls-cert", "c"), ("tls-key", "k")], &[], None).unwrap();
        let files = TlsFiles { cert: "c".into(), key: "k".into() };
        assert_eq!((whole.tls.as_ref(), whole.admin_tls.as_ref()), (Some(&files), None));
    }

    #[test]
    fn the_metadata_url_is_https_when_the_node_listener_is() {
        let url = |flags: &[(&'static str, &str)]| {
            let settings = resolve(flags, &[], None).unwrap();
            default_metadata_url(&settings, settings.listen).unwrap().as_str().to_owned()
        };
        assert_eq!(url(&[]), "http://127.0.0.1:5240/MAAS/metadata/");
        let tls = [("tls-cert", "c"), ("tls-key", "k")];
        assert_eq!(url(&tls), "https://127.0.0.1:5240/MAAS/metadata/");
        assert_eq!(url(&[tls[0], tls[1], ("metadata-url", "http://proxy/")]), "http://proxy/");
    }

    #[test]
    fn what_is_shown_has_every_setting_and_no_password() {
        let url = ("database-url", "postgres://u:hunter2@h/n");
        let shown = resolve(&[url], &[], None).unwrap().show();
        assert_eq!(shown.values().map(BTreeMap::len).sum::<usize>(), SETTINGS.len());
        assert!(!format!("{shown:?}").contains("hunter2"));
    }
}
