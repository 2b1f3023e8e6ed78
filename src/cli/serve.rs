//! `serve`, `migrate` and `config`: the commands that read the server's settings.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Arg, ArgAction, ArgMatches, Args, FromArgMatches, Subcommand};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

use super::{Common, output, policy};
use crate::clock::Clock;
use crate::config::{SETTINGS, Settings, variable};
use crate::domain::credentials::Mint;
use crate::maintenance;
use crate::server::{Server, templates, tls};
use crate::store::migrations;
use crate::telemetry;

/// The settings as flags: the table in `config` is the only list of them.
#[derive(Clone, Default)]
pub struct SettingFlags(BTreeMap<&'static str, String>);

impl Args for SettingFlags {
    fn augment_args(command: clap::Command) -> clap::Command {
        // --state-dir is a flag of every command.
        SETTINGS.iter().filter(|s| s.name != "state-dir").fold(command, |command, setting| {
            let help = format!(
                "{} [env: {}] [default: {}]",
                setting.help,
                variable(setting.name),
                setting.default
            );
            let arg =
                Arg::new(setting.name).long(setting.name).value_name(setting.value).help(help);
            let is_switch = setting.value == "true|false";
            let arg = if is_switch {
                arg.num_args(0..=1).require_equals(true).default_missing_value("true")
            } else {
                arg
            };
            // A list may be given piece by piece.
            let is_list = setting.value.ends_with('…');
            let arg = if is_list { arg.action(ArgAction::Append) } else { arg };
            command.arg(arg.help_heading(heading(setting.section)))
        })
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

fn heading(section: &'static str) -> &'static str {
    match section {
        "server" => "Server",
        "tls" => "TLS",
        "node" => "Node plane",
        "secrets" => "Secrets",
        "identity" => "Identity",
        "retention" => "Retention",
        _ => "Limits",
    }
}

impl FromArgMatches for SettingFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut flags = SettingFlags::default();
        flags.update_from_arg_matches(matches)?;
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        for setting in SETTINGS.iter().filter(|s| s.name != "state-dir") {
            if let Some(values) = matches.get_many::<String>(setting.name) {
                let values: Vec<&str> = values.map(String::as_str).collect();
                self.0.insert(setting.name, values.join(","));
            }
        }
        Ok(())
    }
}

#[derive(Args)]
pub struct Migrate {
    #[command(subcommand)]
    command: Option<MigrateCommand>,
    /// Make the secret key; with PostgreSQL, once, and then copied to every replica
    #[arg(long)]
    new_key: bool,
    #[command(flatten)]
    flags: SettingFlags,
}

#[derive(Subcommand)]
enum MigrateCommand {
    /// Say which migrations the database has
    Status(SettingFlags),
}

#[derive(Subcommand)]
pub enum Config {
    /// Read everything and report every problem
    Check(SettingFlags),
    /// Print the resolved settings without secrets
    Show(SettingFlags),
}

fn settings(common: &Common, flags: SettingFlags) -> anyhow::Result<Settings> {
    let given = common.given(flags.0)?;
    let settings = Settings::resolve(given, std::env::var("STATE_DIRECTORY").ok())?;
    for warning in &settings.warnings {
        eprintln!("nodeinit: warning: {warning}");
    }
    Ok(settings)
}

pub fn serve(common: &Common, flags: SettingFlags) -> anyhow::Result<()> {
    let settings = settings(common, flags).context("settings")?;
    let _log = telemetry::init();
    raise_open_files();
    let mint = Mint::from_system().context("the system has no randomness")?;
    actix_web::rt::System::new().block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let server = tokio::select! {
            started = Server::start(settings, Clock::System, mint) => started.context("serve")?,
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
        };
        let scheme = server.app.node_scheme;
        eprintln!("nodeinit: nodes on {scheme}://{}/MAAS/metadata/", server.node);
        if let Some(admin) = server.admin {
            eprintln!("nodeinit: admin on {}://{admin}/", server.admin_scheme());
        }
        eprintln!("nodeinit: admin socket on unix:{}", server.socket.display());
        // Nobody may be listening for it; then there is nobody to tell.
        let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Ready]);
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = hangup.recv() => reload(&server),
            }
        }
        let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Stopping]);
        tracing::info!("stopping");
        server.stop().await;
        Ok(())
    })
}

fn reload(server: &Server) {
    use sd_notify::NotifyState;
    // `Type=notify-reload` wants the time with it.
    let mut begun = vec![NotifyState::Reloading];
    begun.extend(NotifyState::monotonic_usec_now().ok());
    let _ = sd_notify::notify(false, &begun);
    server.reload();
    let _ = sd_notify::notify(false, &[NotifyState::Ready]);
}

/// A rack that boots is one descriptor a connection; the soft limit is often 1024.
fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if setrlimit(Resource::Nofile, raised).is_err() {
        tracing::warn!("the limit of open files stays as it is: connections may be refused");
    }
}

pub fn migrate(common: &Common, command: Migrate) -> anyhow::Result<()> {
    let flags = match &command.command {
        Some(MigrateCommand::Status(flags)) => flags.clone(),
        None => command.flags,
    };
    let settings = settings(common, flags).context("settings")?;
    let steps = match command.command {
        Some(MigrateCommand::Status(_)) => migrations::status(&settings.database_url),
        None => {
            maintenance::migrate(&settings, command.new_key).context("migrate")?;
            migrations::status(&settings.database_url)
        }
    };
    let rows: Vec<Value> = steps
        .context("migrate")?
        .into_iter()
        .map(|step| json!({"migration": step.name, "applied": step.applied}))
        .collect();
    output::list(common.output, &["migration", "applied"], &rows)
}

pub fn config(common: &Common, command: Config) -> anyhow::Result<()> {
    match command {
        Config::Check(flags) => {
            let given = common.given(flags.0.clone())?;
            let file = given.text("policy-file").map(PathBuf::from);
            let preseeds = given.text("preseed-dir").filter(|dir| !dir.is_empty());
            let preseeds = preseeds.map(PathBuf::from);
            let mut problems: Vec<String> = Vec::new();
            match settings(common, flags) {
                Err(error) => problems.push(error.to_string()),
                Ok(settings) => {
                    let (found, warnings) = tls::check(&settings);
                    for warning in warnings {
                        eprintln!("nodeinit: warning: {warning}");
                    }
                    problems.extend(found.iter().map(ToString::to_string));
                }
            }
            let bad = templates::load(preseeds.as_deref()).err();
            problems.extend(bad.into_iter().flat_map(|templates::BadTemplates(bad)| bad));
            problems.extend(file.iter().flat_map(|path| policy::problems(path)));
            anyhow::ensure!(problems.is_empty(), "settings: {}", problems.join("\n"));
            eprintln!("nodeinit: the settings are good");
            Ok(())
        }
        Config::Show(flags) => {
            let shown = settings(common, flags).context("settings")?.show();
            if common.output != output::Format::Table {
                return output::object(common.output, &serde_json::to_value(shown)?);
            }
            let rows: Vec<Value> = shown
                .iter()
                .flat_map(|(section, settings)| {
                    settings.iter().map(move |(name, value)| {
                        json!({"setting": format!("{section}.{name}"), "value": value})
                    })
                })
                .collect();
            output::list(common.output, &["setting", "value"], &rows)
        }
    }
}
