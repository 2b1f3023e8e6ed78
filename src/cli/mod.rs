//! Commands and flags. Each arm makes one call, of the client, the server or maintenance, and
//! prints what came of it: results on stdout, all else on stderr.

mod audit;
mod auth;
mod bench;
mod boots;
mod contents;
mod events;
mod identity;
mod import;
mod nodes;
mod output;
mod policy;
mod serve;
mod tokens;

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use clap::{Args, CommandFactory as _, Parser, Subcommand};

use crate::client::identity::segment;
use crate::client::{ClientError, ServerUrl, Session};
use crate::config::{self, Given};
use crate::domain::metadata::ContentKind;
use output::Format;

/// The metadata service that bare-metal machines boot from.
#[derive(Parser)]
#[command(name = "nodeinit", version, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

/// Flags of every command, before or after the verb.
#[derive(Args, Clone)]
struct Common {
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        help = "Where the server keeps its state and its socket [env: NODEINIT_STATE_DIR] \
                [default: $STATE_DIRECTORY, else ./nodeinit-state]"
    )]
    state_dir: Option<String>,
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        help = "A YAML file with settings nested by section [env: NODEINIT_CONFIG]"
    )]
    config: Option<PathBuf>,
    #[arg(
        long,
        global = true,
        value_name = "URL",
        help = "The server to talk to [env: NODEINIT_SERVER] [default: unix:<state-dir>/admin.sock]"
    )]
    server: Option<String>,
    /// How results are printed
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table)]
    output: Format,
    #[command(flatten)]
    auth: auth::AuthFlags,
}

/// What was asked for cannot be done as it was asked: exit 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct WrongUse(String);

/// Whether it is how the command was used that went wrong, and nothing was done.
#[must_use]
pub fn is_wrong_use(error: &anyhow::Error) -> bool {
    error.is::<WrongUse>()
        || error
            .chain()
            .any(|cause| cause.downcast_ref::<ClientError>().is_some_and(ClientError::is_wrong_use))
}

#[derive(Subcommand)]
enum Command {
    /// Run the server
    Serve(serve::SettingFlags),
    /// Bring the database up to date; `migrate status` says what is missing
    Migrate(serve::Migrate),
    /// Check or show the settings
    #[command(subcommand)]
    Config(serve::Config),
    /// The machines that are served
    #[command(subcommand)]
    Node(nodes::Node),
    /// What the machines sign with
    #[command(subcommand)]
    Token(tokens::Token),
    /// What a node's owner wants it to run
    #[command(subcommand)]
    UserData(contents::Content),
    /// What we want a node to run, under its owner's
    #[command(subcommand)]
    VendorData(contents::Content),
    /// Tell a node where we are and with which credentials: prints its preseed
    Preseed(tokens::Preseed),
    /// Make a URL from which one booting machine may fetch its preseed
    Claim(tokens::Claim),
    /// What the machines report
    #[command(subcommand)]
    Event(events::Event),
    /// Make or reset the first admin, through the socket
    Bootstrap(identity::Bootstrap),
    /// Log in, and print a token for later commands
    Login(identity::Login),
    /// Say who the server takes you for
    Whoami,
    /// Those who may log in
    #[command(subcommand)]
    User(identity::User),
    /// What nodes belong to
    #[command(subcommand)]
    Project(identity::Project),
    /// Who may do what where
    #[command(subcommand)]
    Role(identity::Role),
    /// Tell how a node came to where it is: what it was served, what it reported, and why it failed
    Timeline(boots::OfNode),
    /// List the nodes that are claimed, contacted, booting or failed and get no further
    Stuck(boots::Stuck),
    /// Say why a node is refused: its state, its token, the last refusals, its clock
    Explain(boots::OfNode),
    /// Who changed what, and who was refused
    #[command(subcommand)]
    Audit(audit::Audit),
    /// Who may do what: check a file of rules, see those in force, and try them out
    #[command(subcommand)]
    Policy(policy::Policy),
    /// Measure a server of its own, or the one named
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Print a completion script
    Completion { shell: clap_complete::Shell },
}

/// Runs the command line of this process.
///
/// # Errors
/// What went wrong, ready to be printed behind `nodeinit: `.
pub fn run() -> anyhow::Result<()> {
    let Cli { common, command } = Cli::parse();
    match command {
        Command::Serve(flags) => serve::serve(&common, flags),
        Command::Migrate(command) => serve::migrate(&common, command),
        Command::Config(command) => serve::config(&common, command),
        Command::Node(command) => nodes::run(&common, command),
        Command::Token(command) => tokens::run(&common, command),
        Command::UserData(command) => contents::run(&common, command, ContentKind::UserData),
        Command::VendorData(command) => contents::run(&common, command, ContentKind::VendorData),
        Command::Preseed(command) => tokens::preseed(&common, &command),
        Command::Claim(command) => tokens::claim(&common, &command),
        Command::Event(command) => events::run(&common, command),
        Command::Bootstrap(command) => identity::bootstrap(&common, &command),
        Command::Login(command) => identity::login(&common, &command),
        Command::Whoami => identity::whoami(&common),
        Command::User(command) => identity::user(&common, command),
        Command::Project(command) => identity::project(&common, command),
        Command::Role(command) => identity::role(&common, command),
        Command::Timeline(of) => boots::timeline(&common, &of),
        Command::Stuck(command) => boots::stuck(&common, &command),
        Command::Explain(of) => boots::explain(&common, &of),
        Command::Audit(command) => audit::run(&common, command),
        Command::Policy(command) => policy::run(&common, command),
        Command::Bench(command) => bench::run(&common, command),
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "nodeinit", &mut script);
            Ok(std::io::stdout().write_all(&script)?)
        }
    }
}

/// Whoever read our output has had enough: that is no failure.
#[must_use]
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<std::io::Error>()
            .is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
    })
}

impl Common {
    /// Everything that was given, `flags` of the command among it.
    fn given(&self, mut flags: BTreeMap<&'static str, String>) -> anyhow::Result<Given> {
        if let Some(dir) = &self.state_dir {
            flags.insert("state-dir", dir.clone());
        }
        let path = match &self.config {
            Some(path) => Some(path.clone()),
            None => std::env::var("NODEINIT_CONFIG").ok().map(PathBuf::from),
        };
        let text = match &path {
            None => None,
            Some(path) => {
                let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
                let text = String::from_utf8(bytes);
                Some(text.map_err(|_| anyhow::anyhow!("{}: not UTF-8", path.display()))?)
            }
        };
        let file = path.as_deref().zip(text.as_deref());
        // A variable that is not UTF-8 cannot be one of ours.
        let variables = std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        });
        Ok(Given::gather(flags, variables, file))
    }

    /// The server that is meant.
    fn server(&self) -> anyhow::Result<ServerUrl> {
        let named = self.server.clone().or_else(|| std::env::var("NODEINIT_SERVER").ok());
        let Some(text) = named else {
            let given = self.given(BTreeMap::new())?;
            let dir = config::state_dir(&given, std::env::var("STATE_DIRECTORY").ok());
            return Ok(ServerUrl::Unix(dir.join("admin.sock")));
        };
        Ok(ServerUrl::parse(&text).map_err(|why| WrongUse(format!("--server: {why}")))?)
    }
}

/// A file argument: a path, or `-` for standard input.
fn read_file(path: &Path) -> anyhow::Result<Vec<u8>> {
    if path == Path::new("-") {
        take_stdin()?;
        let mut bytes = Vec::new();
        std::io::stdin().read_to_end(&mut bytes).context("standard input")?;
        return Ok(bytes);
    }
    std::fs::read(path).with_context(|| path.display().to_string())
}

/// What is left of standard input the second time is nothing, which must not pass for a file's
/// content.
fn take_stdin() -> anyhow::Result<()> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::SeqCst) {
        return Err(WrongUse("standard input can be read once: - stands twice".into()).into());
    }
    Ok(())
}

/// Where a node is looked for.
#[derive(Args, Clone)]
struct InProject {
    #[arg(
        long,
        value_name = "P",
        help = "The project, by name or id [default: the session's, which on the socket is default]"
    )]
    project: Option<String>,
}

impl InProject {
    fn name(&self, session: &Session) -> anyhow::Result<String> {
        match &self.project {
            Some(project) => Ok(project.clone()),
            None => Ok(session.provides()?.project.unwrap_or_else(|| "default".to_owned())),
        }
    }

    fn nodes(&self, session: &Session) -> anyhow::Result<String> {
        Ok(format!("/v1/{}/nodes", segment(&self.name(session)?)))
    }

    fn node(&self, session: &Session, system_id: &str) -> anyhow::Result<String> {
        Ok(format!("{}/{}", self.nodes(session)?, segment(system_id)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn common_flags_stand_before_or_after_the_verb() {
        for line in [
            ["nodeinit", "--state-dir", "d", "-o", "json", "node", "list"],
            ["nodeinit", "node", "list", "--state-dir", "d", "-o", "json"],
            ["nodeinit", "node", "--state-dir", "d", "list", "-o", "json"],
        ] {
            let cli = Cli::try_parse_from(line).unwrap();
            assert_eq!(cli.common.state_dir.as_deref(), Some("d"));
            assert_eq!(cli.common.output, Format::Json);
        }
    }

    #[test]
    fn a_segment_cannot_leave_its_place() {
        assert_eq!(segment("n-1.a_b"), "n-1.a_b");
        assert_eq!(segment("a/b?c#d"), "a%2Fb%3Fc%23d");
        assert_eq!(segment(".."), "%2E%2E");
    }
}
