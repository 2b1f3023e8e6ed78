//! Projects made, changed and removed, and what users are in them.

use serde_json::json;

use super::users::{NO_SUCH_USER, not_node_init, taken};
use super::{App, Failure};
use crate::domain::audit::Object;
use crate::domain::identity::{By, Name, Role};
use crate::domain::policy::Action;
use crate::store::columns::Id;
use crate::store::projects::{Change, DEFAULT, Project};
use crate::store::{Tx, grants, meta, operator_tokens, projects, users};

pub const NO_SUCH_PROJECT: Failure = Failure::NotFound("there is no such project");
const DEFAULT_STAYS: &str = "the project default always exists, under its name and enabled";

/// # Errors
/// [`Failure::Conflict`] when the name is taken.
pub async fn create(
    app: &App,
    by: &By,
    name: Name,
    description: Option<String>,
    enabled: bool,
) -> Result<Project, Failure> {
    let id = Id(app.mint.id(app.clock.now()));
    let auditor = app.auditor(by);
    let new = Project { id, name: name.as_str().to_owned(), description, enabled };
    app.db
        .write("create project", move |tx| {
            projects::insert(tx, &new).map_err(taken)?;
            let detail = json!({"enabled": new.enabled});
            auditor.note(tx, Action::ProjectCreate, &Object::Project(id.0), &detail)?;
            Ok(new)
        })
        .await
}

/// Changes what `change` names. A disabling ends every token for the project; enabling revives
/// none.
///
/// # Errors
/// [`Failure::NotFound`]; [`Failure::Conflict`] for the name, or for `default`.
pub async fn change(app: &App, by: &By, id: Id, change: Change) -> Result<Project, Failure> {
    let (epoch, auditor) = (app.epoch(), app.auditor(by));
    app.db
        .write("change project", move |tx| {
            meta::update_auth_epoch(tx, &epoch)?;
            let before = projects::find_by_id(tx.conn, id)?.ok_or(NO_SUCH_PROJECT)?;
            if id == DEFAULT && (change.name.is_some() || change.enabled == Some(false)) {
                return Err(Failure::Conflict(DEFAULT_STAYS.into()));
            }
            let mut ended = 0;
            if change.enabled == Some(false) {
                ended = operator_tokens::delete_for_project(tx, id)?;
            }
            projects::update(tx, id, &change).map_err(taken)?;
            let detail = json!({
                "name": change.name.is_some(),
                "description": change.description.is_some(),
                "enabled": change.enabled,
                "tokens_ended": ended,
            });
            let project = projects::find_by_id(tx.conn, id)?.ok_or(NO_SUCH_PROJECT)?;
            if project != before || ended > 0 {
                auditor.note(tx, Action::ProjectChange, &Object::Project(id.0), &detail)?;
            }
            Ok(project)
        })
        .await
}

/// Removes a project that no node is in, with the grants and tokens in it.
///
/// # Errors
/// [`Failure::NotFound`]; [`Failure::Conflict`] when there are nodes in it, or for `default`.
pub async fn remove(app: &App, by: &By, id: Id) -> Result<(), Failure> {
    let (epoch, auditor) = (app.epoch(), app.auditor(by));
    app.db
        .write("remove project", move |tx| {
            meta::update_auth_epoch(tx, &epoch)?;
            if id == DEFAULT {
                return Err(Failure::Conflict(DEFAULT_STAYS.into()));
            }
            if projects::delete(tx, id)? > 0 {
                let object = Object::Project(id.0);
                return Ok(auditor.note(tx, Action::ProjectRemove, &object, &json!({}))?);
            }
            projects::find_by_id(tx.conn, id)?.ok_or(NO_SUCH_PROJECT)?;
            Err(Failure::Conflict("there are nodes in this project: move or remove them".into()))
        })
        .await
}

/// Gives a user a role in a project; one that the user has already is no error.
///
/// # Errors
/// [`Failure::NotFound`] for either; [`Failure::Conflict`] for node-init.
pub async fn grant(app: &App, by: &By, user: Id, project: Id, role: Role) -> Result<(), Failure> {
    let (epoch, auditor) = (app.epoch(), app.auditor(by));
    app.db
        .write("grant role", move |tx| {
            meta::update_auth_epoch(tx, &epoch)?;
            both(tx, user, project)?;
            if grants::list_roles(tx.conn, user, project)?.contains(&role) {
                return Ok(());
            }
            grants::insert(tx, user, project, role)?;
            let object = Object::Grant { project: project.0, user: user.0 };
            Ok(auditor.note(tx, Action::RoleGrant, &object, &json!({"role": role}))?)
        })
        .await
}

/// Takes a role away, and ends the user's tokens for the project: granting again revives none.
///
/// # Errors
/// [`Failure::NotFound`] for either, or when the user does not have the role.
pub async fn ungrant(app: &App, by: &By, user: Id, project: Id, role: Role) -> Result<(), Failure> {
    let (epoch, auditor) = (app.epoch(), app.auditor(by));
    app.db
        .write("revoke role", move |tx| {
            meta::update_auth_epoch(tx, &epoch)?;
            both(tx, user, project)?;
            if grants::delete(tx, user, project, role)? == 0 {
                return Err(Failure::NotFound("the user does not have this role"));
            }
            let ended = operator_tokens::delete_for_user(tx, user, Some(project))?;
            let object = Object::Grant { project: project.0, user: user.0 };
            let detail = json!({"role": role, "tokens_ended": ended});
            Ok(auditor.note(tx, Action::RoleRevoke, &object, &detail)?)
        })
        .await
}

fn both(tx: &mut Tx, user: Id, project: Id) -> Result<(), Failure> {
    projects::find_by_id(tx.conn, project)?.ok_or(NO_SUCH_PROJECT)?;
    users::find(tx.conn, user)?.ok_or(NO_SUCH_USER)?;
    not_node_init(user)
}
