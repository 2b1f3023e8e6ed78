//! Users made, changed and removed, and the first admin. Whatever takes something away from a user
//! ends the user's tokens in the same transaction, for ever.

use serde_json::json;

use super::{App, Failure};
use crate::domain::audit::Object;
use crate::domain::identity::{By, Name, Role, id_text};
use crate::domain::password::Password;
use crate::domain::policy::Action;
use crate::store::columns::Id;
use crate::store::users::{Change, NODE_INIT, User};
use crate::store::{Tx, grants, is_unique_violation, meta, operator_tokens, projects, users};

pub const NO_SUCH_USER: Failure = Failure::NotFound("there is no such user");
const NAME_TAKEN: &str = "this name is taken (names are compared without case)";
const NODE_INIT_STAYS: &str =
    "node-init owns the nodes' tokens: it stays as it is, and never logs in";
/// What a user is in the project it is made in.
const DEFAULT_ROLE: Role = Role::Reader;

/// A user to be made.
pub struct NewUser {
    pub name: Name,
    pub password: Option<Password>,
    pub enabled: bool,
    pub email: Option<String>,
    /// The default project, in which the user becomes a reader; the outer `None` is none asked for,
    /// the inner one that it cannot exist.
    pub project: Option<Wanted>,
}

/// A project that somebody names by id.
#[derive(Clone, Copy)]
pub enum Wanted {
    Project(Id),
    /// What no project's id looks like.
    Nothing,
}

impl Wanted {
    fn find(self, tx: &mut Tx) -> Result<Id, Failure> {
        let found = match self {
            Wanted::Project(id) => projects::find_by_id(tx.conn, id)?,
            Wanted::Nothing => None,
        };
        found.map(|project| project.id).ok_or(super::projects::NO_SUCH_PROJECT)
    }
}

/// Makes a user, with all that belongs to it or not at all.
///
/// # Errors
/// [`Failure::NotFound`] for the project, before anything is written; [`Failure::Conflict`] for
/// the name.
pub async fn create(app: &App, by: &By, new: NewUser) -> Result<User, Failure> {
    let id = Id(app.mint.id(app.clock.now()));
    let hash = hash(app, new.password).await?;
    let auditor = app.auditor(by);
    app.db
        .write("create user", move |tx| {
            // The project is not removed meanwhile.
            meta::hold_auth_epoch(tx)?;
            let default_project = new.project.map(|wanted| wanted.find(tx)).transpose()?;
            let user = User {
                id,
                name: new.name.as_str().to_owned(),
                email: new.email,
                enabled: new.enabled,
                default_project,
            };
            users::insert(tx, &user, hash.as_deref()).map_err(taken)?;
            if let Some(project) = default_project {
                grants::insert(tx, id, project, DEFAULT_ROLE)?;
            }
            let granted = default_project.map(|_| DEFAULT_ROLE);
            let detail = json!({"enabled": user.enabled, "role": granted});
            auditor.note(tx, Action::UserCreate, &Object::User(id.0), &detail)?;
            Ok(user)
        })
        .await
}

async fn hash(app: &App, password: Option<Password>) -> Result<Option<String>, Failure> {
    let Some(password) = password else { return Ok(None) };
    app.hash(password).await.map(Some)
}

/// A name of a user or a project that somebody else has is the caller's to change.
pub(super) fn taken(error: diesel::result::Error) -> Failure {
    if is_unique_violation(&error) { Failure::Conflict(NAME_TAKEN.into()) } else { error.into() }
}

/// What a change of a user names.
#[derive(Default)]
pub struct UserChange {
    pub name: Option<Name>,
    pub email: Option<String>,
    pub enabled: Option<bool>,
    pub project: Option<Wanted>,
    pub password: Option<Password>,
}

/// Changes what `change` names. A new password and a disabling end the user's tokens; enabling
/// revives none.
///
/// # Errors
/// [`Failure::NotFound`] for the user or the project, [`Failure::Conflict`] for the name.
pub async fn change(
    app: &App,
    by: &By,
    verb: Action,
    id: Id,
    change: UserChange,
) -> Result<User, Failure> {
    let auditor = app.auditor(by);
    let password_hash = hash(app, change.password).await?;
    let epoch = app.epoch();
    app.db
        .write("change user", move |tx| {
            meta::update_auth_epoch(tx, &epoch)?;
            let before = users::find(tx.conn, id)?.ok_or(NO_SUCH_USER)?;
            not_node_init(id)?;
            let default_project = change.project.map(|wanted| wanted.find(tx)).transpose()?;
            let mut ended = 0;
            if change.enabled == Some(false) || password_hash.is_some() {
                ended = operator_tokens::delete_for_user(tx, id, None)?;
            }
            let password = password_hash.is_some();
            let detail = json!({
                "name": change.name.is_some(),
                "email": change.email.is_some(),
                "password": password,
                "enabled": change.enabled,
                "project": default_project.map(|id| id_text(id.0)),
                "tokens_ended": ended,
            });
            let change = Change {
                name: change.name,
                email: change.email,
                enabled: change.enabled,
                default_project,
                password_hash,
            };
            users::update(tx, id, &change).map_err(taken)?;
            let user = users::find(tx.conn, id)?.ok_or(NO_SUCH_USER)?;
            if user != before || password || ended > 0 {
                auditor.note(tx, verb, &Object::User(id.0), &detail)?;
            }
            Ok(user)
        })
        .await
}

/// Removes a user with its grants and tokens.
///
/// # Errors
/// [`Failure::NotFound`], or [`Failure::Conflict`] for node-init.
pub async fn remove(app: &App, by: &By, id: Id) -> Result<(), Failure> {
    let (epoch, auditor) = (app.epoch(), app.auditor(by));
    app.db
        .write("remove user", move |tx| {
            meta::update_auth_epoch(tx, &epoch)?;
            not_node_init(id)?;
            if users::delete(tx, id)? == 0 {
                return Err(NO_SUCH_USER);
            }
            Ok(auditor.note(tx, Action::UserRemove, &Object::User(id.0), &json!({}))?)
        })
        .await
}

pub(super) fn not_node_init(id: Id) -> Result<(), Failure> {
    if id == NODE_INIT { Err(Failure::Conflict(NODE_INIT_STAYS.into())) } else { Ok(()) }
}

/// Makes the admin of the project `default`, or resets it: enabled, admin, with this password, its
/// earlier tokens ended. Twice is as good as once. Says whether the user is new.
///
/// # Errors
/// [`Failure::Conflict`] for node-init.
pub async fn bootstrap(
    app: &App,
    by: &By,
    name: Name,
    password: Password,
) -> Result<(User, bool), Failure> {
    let new_id = Id(app.mint.id(app.clock.now()));
    let password_hash = app.hash(password).await?;
    let (epoch, auditor) = (app.epoch(), app.auditor(by));
    app.db
        .write("bootstrap", move |tx| {
            meta::update_auth_epoch(tx, &epoch)?;
            let found = users::find_by_name(tx.conn, &name)?;
            let created = found.is_none();
            let id = found.map_or(new_id, |user| user.id);
            not_node_init(id)?;
            if created {
                let user = User {
                    id,
                    name: name.as_str().to_owned(),
                    email: None,
                    enabled: true,
                    default_project: Some(projects::DEFAULT),
                };
                users::insert(tx, &user, Some(&password_hash)).map_err(taken)?;
            } else {
                let change = Change {
                    enabled: Some(true),
                    password_hash: Some(password_hash),
                    default_project: Some(projects::DEFAULT),
                    ..Change::default()
                };
                users::update(tx, id, &change)?;
                operator_tokens::delete_for_user(tx, id, None)?;
            }
            let roles = grants::list_roles(tx.conn, id, projects::DEFAULT)?;
            if !roles.contains(&Role::Admin) {
                grants::insert(tx, id, projects::DEFAULT, Role::Admin)?;
            }
            let detail = json!({"created": created});
            auditor.note(tx, Action::Bootstrap, &Object::User(id.0), &detail)?;
            Ok((users::find(tx.conn, id)?.ok_or(NO_SUCH_USER)?, created))
        })
        .await
}
