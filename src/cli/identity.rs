//! `login`, `whoami`, `bootstrap`, `user …`, `project …` and `role …`.

use anyhow::Context as _;
use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::output::{self, Format};
use super::{Common, InProject, auth};
use crate::client::identity::{self, Kind};
use crate::client::plugins::NoAuth;
use crate::client::{ClientError, PluginKind};
use crate::domain::credentials::Secret;

const USERS: [&str; 5] = ["id", "name", "enabled", "email", "tenantId"];
const PROJECTS: [&str; 4] = ["id", "name", "enabled", "description"];

#[derive(Args)]
pub struct Login {
    /// Log in as this user [env: `NODEINIT_USER`]
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// List what a plugin needs instead
    #[arg(long, value_name = "PLUGIN", value_parser = PossibleValuesParser::new(auth::names()))]
    options: Option<String>,
}

#[derive(Args)]
pub struct Bootstrap {
    /// The name of the first admin
    #[arg(long, value_name = "NAME")]
    user: String,
}

#[derive(Subcommand)]
pub enum User {
    /// Add a user; the password comes from --password-file or a prompt
    Add {
        name: String,
        /// The project to make them a reader in
        #[arg(long, value_name = "P")]
        project: Option<String>,
        #[arg(long)]
        email: Option<String>,
        /// They cannot log in until they are enabled
        #[arg(long)]
        disabled: bool,
    },
    /// List users
    List,
    /// Show a user, by name or id
    Show { user: String },
    /// Change a user; what is not named stays
    Set {
        user: String,
        #[command(flatten)]
        change: UserChange,
    },
    /// Remove a user; their tokens end
    Remove { user: String },
    /// Set a user's password, from --password-file or a prompt; their tokens end
    Password { user: String },
}

#[derive(Args)]
#[group(required = true, multiple = true)]
pub struct UserChange {
    /// Another name
    #[arg(long)]
    name: Option<String>,
    #[arg(long)]
    email: Option<String>,
    /// Disabling ends the user's tokens for ever
    #[arg(long, value_name = "true|false")]
    enabled: Option<bool>,
    /// The project they log in to when they name none
    #[arg(long, value_name = "P")]
    project: Option<String>,
}

#[derive(Subcommand)]
pub enum Project {
    /// Add a project
    Add {
        name: String,
        #[arg(long)]
        description: Option<String>,
    },
    /// List projects
    List,
    /// Show a project, by name or id
    Show { project: String },
    /// Change a project; what is not named stays
    Set {
        project: String,
        #[command(flatten)]
        change: ProjectChange,
    },
    /// Remove a project
    Remove { project: String },
}

#[derive(Args)]
#[group(required = true, multiple = true)]
pub struct ProjectChange {
    /// Another name
    #[arg(long)]
    name: Option<String>,
    #[arg(long)]
    description: Option<String>,
    /// Disabling ends the tokens of the project for ever
    #[arg(long, value_name = "true|false")]
    enabled: Option<bool>,
}

#[derive(Subcommand)]
pub enum Role {
    /// Give a user a role in a project
    Grant(InRole),
    /// Take it away; the user's tokens of that project end
    Revoke(InRole),
}

#[derive(Args)]
pub struct InRole {
    /// admin, provisioner, reader or service
    role: String,
    /// The user, by name or id
    #[arg(long)]
    user: String,
    #[command(flatten)]
    project: InProject,
}

pub fn login(common: &Common, command: &Login) -> anyhow::Result<()> {
    if let Some(name) = &command.options {
        let kind = PluginKind::find(name).context("login --options")?;
        let rows = kind.options.iter().map(serde_json::to_value).collect::<Result<Vec<_>, _>>()?;
        return output::list(
            common.output,
            &["name", "required", "secret", "variable", "help"],
            &rows,
        );
    }
    let values = common.login_values(command.user.as_deref())?;
    let missing = ["user", "password"].iter().filter(|name| !values.contains_key(**name));
    let missing: Vec<String> =
        missing.map(|name| format!("{name} (NODEINIT_{})", name.to_uppercase())).collect();
    if !missing.is_empty() {
        return Err(ClientError::Missing { plugin: "password", options: missing }.into());
    }
    let session = common.session_with(common.server()?, NoAuth.into())?;
    let text = |name: &str| values.get(name).map(Secret::expose);
    let project = text("project");
    let done =
        identity::login(&session, text("user").unwrap_or_default(), &values["password"], project)
            .context("login")?;
    if common.output != Format::Table {
        let document = json!({
            "token": done.token.expose(),
            "expires_at": done.expires_at,
            "user": done.user,
            "project": done.project,
        });
        return output::object(common.output, &document);
    }
    let user = done.user.as_deref().unwrap_or("?");
    let place = done.project.map(|project| format!(" in {project}")).unwrap_or_default();
    let until = done.expires_at.map(|end| format!(" until {end}")).unwrap_or_default();
    eprintln!("nodeinit: {}", output::plain(&format!("{user}{place}{until}")));
    // For `eval "$(nodeinit login)"`; what a shell would obey is no token.
    let token = done.token.expose();
    let is_word =
        token.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'));
    anyhow::ensure!(is_word, "login: the token is not one word: use -o json");
    output::bytes(format!("export NODEINIT_TOKEN={token}\n").as_bytes())
}

pub fn whoami(common: &Common) -> anyhow::Result<()> {
    let session = common.session()?;
    // A node is told who it is on its own plane.
    let me = if session.plugin() == "oauth1" {
        identity::node(&session)
    } else {
        identity::whoami(&session)
    };
    output::object(common.output, &me.context("whoami")?)
}

pub fn bootstrap(common: &Common, command: &Bootstrap) -> anyhow::Result<()> {
    let password = common.new_password(&command.user)?;
    let session = common.session_beside_password()?;
    identity::bootstrap(&session, &command.user, &password).context("bootstrap")?;
    eprintln!("nodeinit: {} is admin", output::plain(&command.user));
    Ok(())
}

/// The fields that were given.
fn fields<const N: usize>(given: [(&str, Option<Value>); N]) -> Map<String, Value> {
    given.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

pub fn user(common: &Common, command: User) -> anyhow::Result<()> {
    const KIND: Kind = Kind::User;
    match command {
        User::Add { name, project, email, disabled } => {
            let password = common.new_password(&name)?;
            let session = common.session_beside_password()?;
            let fields = fields([
                ("name", Some(name.into())),
                ("OS-KSADM:password", Some(password.expose().into())),
                ("enabled", Some((!disabled).into())),
                ("email", email.map(Value::from)),
            ]);
            let user = identity::add(&session, KIND, fields, project.as_deref());
            output::object(common.output, &user.context("user add")?)
        }
        User::List => {
            let users = identity::all(&common.session()?, KIND).context("user list")?;
            output::list(common.output, &USERS, &users)
        }
        User::Show { user } => {
            let found = identity::find(&common.session()?, KIND, &user).context("user show")?;
            output::object(common.output, &found)
        }
        User::Set { user, change } => {
            let fields = fields([
                ("name", change.name.map(Value::from)),
                ("email", change.email.map(Value::from)),
                ("enabled", change.enabled.map(Value::from)),
            ]);
            let session = common.session()?;
            let changed = identity::set(&session, KIND, &user, fields, change.project.as_deref());
            output::object(common.output, &changed.context("user set")?)
        }
        User::Remove { user } => {
            identity::remove(&common.session()?, KIND, &user).context("user remove")
        }
        User::Password { user } => {
            let password = common.new_password(&user)?;
            let session = common.session_beside_password()?;
            identity::set_password(&session, &user, &password).context("user password")
        }
    }
}

pub fn project(common: &Common, command: Project) -> anyhow::Result<()> {
    const KIND: Kind = Kind::Project;
    let session = common.session()?;
    match command {
        Project::Add { name, description } => {
            let fields = fields([
                ("name", Some(name.into())),
                ("description", description.map(Value::from)),
                ("enabled", Some(true.into())),
            ]);
            let project = identity::add(&session, KIND, fields, None).context("project add")?;
            output::object(common.output, &project)
        }
        Project::List => {
            let projects = identity::all(&session, KIND).context("project list")?;
            output::list(common.output, &PROJECTS, &projects)
        }
        Project::Show { project } => {
            let found = identity::find(&session, KIND, &project).context("project show")?;
            output::object(common.output, &found)
        }
        Project::Set { project, change } => {
            let fields = fields([
                ("name", change.name.map(Value::from)),
                ("description", change.description.map(Value::from)),
                ("enabled", change.enabled.map(Value::from)),
            ]);
            let changed = identity::set(&session, KIND, &project, fields, None);
            output::object(common.output, &changed.context("project set")?)
        }
        Project::Remove { project } => {
            identity::remove(&session, KIND, &project).context("project remove")
        }
    }
}

pub fn role(common: &Common, command: Role) -> anyhow::Result<()> {
    let session = common.session()?;
    let (is_granted, what, of) = match command {
        Role::Grant(of) => (true, "role grant", of),
        Role::Revoke(of) => (false, "role revoke", of),
    };
    let project = of.project.name(&session)?;
    identity::role(&session, is_granted, &of.role, &of.user, &project).context(what)
}
