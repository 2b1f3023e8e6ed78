//! Which plugin a command speaks through, and where its options come from: a secret from a file, a
//! variable or a prompt, never from a flag.

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::builder::PossibleValuesParser;
use clap::{ArgAction, Args};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use super::{Common, WrongUse, read_file};
use crate::client::{
    AuthOption, AuthPlugin, Detail, PLUGINS, PluginKind, Retries, ServerUrl, Session, Surroundings,
    Values,
};
use crate::clock::Clock;
use crate::domain::credentials::{Mint, Secret};

/// Flags of every command that talks to a server.
#[derive(Args, Clone, Default)]
pub struct AuthFlags {
    #[arg(
        long,
        global = true,
        help_heading = "Client",
        value_name = "PLUGIN",
        value_parser = PossibleValuesParser::new(names()),
        help = "How to prove who is asking; `login --options PLUGIN` lists what it needs \
                [env: NODEINIT_AUTH] [default: none on the socket, else token if NODEINIT_TOKEN \
                is set, else password if NODEINIT_USER is]"
    )]
    auth: Option<String>,
    #[arg(
        long,
        global = true,
        help_heading = "Client",
        value_name = "FILE",
        help = "Trust the CAs in this PEM file in place of the system's [env: NODEINIT_CA_FILE]"
    )]
    ca_file: Option<PathBuf>,
    #[arg(
        long,
        global = true,
        help_heading = "Client",
        value_name = "FILE|-",
        help = "Read the login's password from there; on bootstrap, user add and user password, \
                the new one [env: NODEINIT_PASSWORD_FILE, for the login's]"
    )]
    password_file: Option<PathBuf>,
    #[arg(
        long,
        global = true,
        help_heading = "Client",
        value_name = "N",
        help = "Try again so often when the server answers 503, where that is harmless \
                [env: NODEINIT_RETRIES] [default: 0]"
    )]
    retries: Option<u32>,
    /// Tell of each request on stderr; twice, of its headers. Secrets are left out
    #[arg(short, long, global = true, help_heading = "Client", action = ArgAction::Count)]
    verbose: u8,
}

pub fn names() -> impl Iterator<Item = &'static str> {
    PLUGINS.into_iter().map(|kind| kind.name)
}

/// A variable that says something.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn is_set(name: &str) -> bool {
    variable(name).is_some() || variable(&format!("{name}_FILE")).is_some()
}

impl Common {
    /// A session with the server that is meant, by whoever the flags and variables say.
    pub fn session(&self) -> anyhow::Result<Session> {
        let server = self.server()?;
        let kind = self.auth.kind(&server)?;
        let plugin = self.auth.plugin(kind)?;
        self.session_with(server, plugin)
    }

    /// A session by somebody who has not logged in yet.
    pub fn session_with(
        &self,
        server: ServerUrl,
        plugin: Box<dyn AuthPlugin>,
    ) -> anyhow::Result<Session> {
        let ca = self.auth.ca_file.clone().or_else(|| variable("NODEINIT_CA_FILE").map(Into::into));
        let ca = ca.filter(|_| server.is_https());
        let mut builder = Session::builder(server).plugin(plugin);
        if let Some(path) = ca {
            let pem = std::fs::read(&path).with_context(|| path.display().to_string())?;
            builder = builder.ca(&pem).with_context(|| path.display().to_string())?;
        }
        let most = match (self.auth.retries, variable("NODEINIT_RETRIES")) {
            (Some(most), _) => most,
            (None, Some(text)) => {
                text.parse().map_err(|_| WrongUse("NODEINIT_RETRIES: a whole number".to_owned()))?
            }
            (None, None) => 0,
        };
        builder = builder.retries(Retries { most, first_wait: Duration::from_millis(500) });
        let detail = match self.auth.verbose {
            0 => return Ok(builder.build()),
            1 => Detail::Requests,
            _ => Detail::Headers,
        };
        Ok(builder.log(detail, |line| eprintln!("nodeinit: {line}")).build())
    }

    /// The same for a command whose `--password-file` is not the login's.
    pub fn session_beside_password(&self) -> anyhow::Result<Session> {
        let mut common = self.clone();
        common.auth.password_file = None;
        common.session()
    }

    /// A password that is to be set.
    pub fn new_password(&self, whose: &str) -> anyhow::Result<Secret> {
        if let Some(path) = &self.auth.password_file {
            return secret_file(path);
        }
        let asked = prompt(&format!("New password of {}: ", super::output::plain(whose)))?;
        Ok(asked.ok_or_else(|| WrongUse("give the new password by --password-file".to_owned()))?)
    }

    /// What logs in: the options of the password plugin, with this name if one is given.
    pub fn login_values(&self, user: Option<&str>) -> anyhow::Result<Values> {
        let kind = PluginKind::find("password").expect("it is in the table");
        let mut given = Values::new();
        if let Some(user) = user {
            given.insert("user", Secret::new(user.to_owned()));
        }
        self.auth.values(kind, given)
    }
}

impl AuthFlags {
    fn kind(&self, server: &ServerUrl) -> anyhow::Result<&'static PluginKind> {
        let name = match self.auth.clone().or_else(|| variable("NODEINIT_AUTH")) {
            Some(name) => name,
            None if matches!(server, ServerUrl::Unix(_)) => "none".to_owned(),
            None if is_set("NODEINIT_TOKEN") => "token".to_owned(),
            None if variable("NODEINIT_USER").is_some() => "password".to_owned(),
            None => {
                let needed = format!(
                    "{server} asks who you are: set NODEINIT_TOKEN, or NODEINIT_USER and \
                     NODEINIT_PASSWORD, or choose another --auth ({})",
                    names().collect::<Vec<_>>().join(", ")
                );
                return Err(WrongUse(needed).into());
            }
        };
        let kind = PluginKind::find(&name);
        let known = names().collect::<Vec<_>>().join(", ");
        Ok(kind.ok_or_else(|| WrongUse(format!("NODEINIT_AUTH: the plugins are {known}")))?)
    }

    fn plugin(&self, kind: &PluginKind) -> anyhow::Result<Box<dyn AuthPlugin>> {
        let values = self.values(kind, Values::new())?;
        Ok(kind.build(values, &surroundings()?)?)
    }

    /// Every option that can be had; what is required and missing is told by the plugin.
    fn values(&self, kind: &PluginKind, mut values: Values) -> anyhow::Result<Values> {
        for option in kind.options {
            if !values.contains_key(option.name)
                && let Some(value) = self.value(option)?
            {
                values.insert(option.name, value);
            }
        }
        let is_missing =
            |option: &&AuthOption| option.required && !values.contains_key(option.name);
        let missing: Vec<_> = kind.options.iter().filter(is_missing).collect();
        if missing.iter().all(|option| option.secret) {
            for option in missing {
                if let Some(typed) = prompt(&format!("{}: ", option.name))? {
                    values.insert(option.name, typed);
                }
            }
        }
        Ok(values)
    }

    fn value(&self, option: &AuthOption) -> anyhow::Result<Option<Secret>> {
        if option.name == "password"
            && let Some(path) = &self.password_file
        {
            return secret_file(path).map(Some);
        }
        if let Some(value) = variable(option.variable) {
            return Ok(Some(Secret::new(value)));
        }
        match variable(&format!("{}_FILE", option.variable)) {
            Some(path) if option.secret => secret_file(Path::new(&path)).map(Some),
            _ => Ok(None),
        }
    }
}

pub fn surroundings() -> anyhow::Result<Surroundings> {
    let mint = Mint::from_system().context("the system has no randomness")?;
    Ok(Surroundings {
        now: Arc::new(|| Clock::System.now()),
        nonce: Arc::new(move || format!("{:032x}", u128::from_be_bytes(mint.bytes()))),
    })
}

/// A secret in a file, without the newline that an editor ends it with.
fn secret_file(path: &Path) -> anyhow::Result<Secret> {
    use std::os::unix::fs::PermissionsExt as _;
    let shown = path.display();
    if path != Path::new("-") {
        let about = std::fs::metadata(path).with_context(|| shown.to_string())?;
        if about.is_file() && about.permissions().mode() & 0o044 != 0 {
            eprintln!("nodeinit: warning: {shown} can be read by others: chmod 600 {shown}");
        }
    }
    let text = String::from_utf8(read_file(path)?);
    // The error holds the bytes.
    let Ok(mut text) = text else { anyhow::bail!("{shown}: not UTF-8") };
    if text.ends_with('\n') {
        text.pop();
    }
    Ok(Secret::new(text))
}

/// Asks a person, unseen. `None` unless both stdin and stdout are terminals.
fn prompt(question: &str) -> anyhow::Result<Option<Secret>> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() || !std::io::stdout().is_terminal() {
        return Ok(None);
    }
    let mut stderr = std::io::stderr();
    write!(stderr, "{question}")?;
    stderr.flush()?;
    let unseen = Unseen::begin()?;
    let mut line = String::new();
    let read = stdin.read_line(&mut line);
    drop(unseen);
    writeln!(stderr)?;
    read?;
    if line.ends_with('\n') {
        line.pop();
    }
    Ok(Some(Secret::new(line)))
}

/// What is typed is not shown until this is dropped.
struct Unseen(Termios);

impl Unseen {
    fn begin() -> anyhow::Result<Unseen> {
        let before = tcgetattr(std::io::stdin())?;
        let mut without = before.clone();
        without.local_modes.remove(LocalModes::ECHO);
        tcsetattr(std::io::stdin(), OptionalActions::Flush, &without)?;
        Ok(Unseen(before))
    }
}

impl Drop for Unseen {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::OTHER_VARIABLES;

    #[test]
    fn the_server_knows_every_variable_of_the_client() {
        let options = PLUGINS.into_iter().flat_map(|kind| kind.options);
        let mut names: Vec<String> = options
            .flat_map(|option| {
                let file = option.secret.then(|| format!("{}_FILE", option.variable));
                std::iter::once(option.variable.to_owned()).chain(file)
            })
            .collect();
        for flag in ["AUTH", "CA_FILE", "RETRIES", "SERVER", "CONFIG"] {
            names.push(format!("NODEINIT_{flag}"));
        }
        names.sort();
        names.dedup();
        let mut known: Vec<&str> = OTHER_VARIABLES.into();
        known.sort_unstable();
        assert_eq!(names, known);
    }
}
