//! Operators' tokens: made by a login, carried to another project, looked into and ended.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use zeroize::Zeroizing;

use super::operators::find_known;
use super::{App, Failure, audit};
use crate::domain::audit::Object;
use crate::domain::identity::{By, Caller, Identity, Name, Named, Role, id_text};
use crate::domain::password::{OperatorToken, Password};
use crate::domain::policy::Action;
use crate::store::columns::Id;
use crate::store::operator_tokens::{self, Hash, Known};
use crate::store::projects::Project;
use crate::store::users::User;
use crate::store::{DbConnection, DbError, Tx, grants, meta, projects, users};

pub const NO_SUCH_TOKEN: Failure = Failure::NotFound("there is no such token");

/// How long a token lives.
const LIFE: SignedDuration = SignedDuration::from_hours(1);

/// Unknown user, wrong password, disabled, no such project, nothing in it: one answer.
pub const REFUSED: Failure = Failure::Unauthenticated("the login is refused");

/// Which user logs in.
pub enum Who {
    Name(Name),
    Id(Id),
    /// What no user can be called.
    Nobody,
}

/// Which project the token is to be for.
pub enum Scope {
    /// The user's default project, if the user is anything in it; else none.
    Default,
    Name(Name),
    Id(Id),
    /// What no project can be called.
    Nowhere,
}

/// How somebody proves to be somebody.
pub enum Proof {
    Password(Who, Password),
    /// A token that is live: the new one ends when it does.
    Token(OperatorToken),
}

/// A token that was made: its text can be taken out once.
pub struct Login {
    pub identity: Identity,
    pub project: Option<Project>,
    pub issued_at: Timestamp,
    text: Zeroizing<String>,
}

impl Login {
    /// Gives the token away: called by the answer to a login, nowhere else.
    #[must_use]
    pub fn reveal(self) -> Zeroizing<String> {
        self.text
    }
}

/// Makes a token. `source` is where the request comes from: tries are counted by it and the name.
///
/// # Errors
/// [`Failure::Unauthenticated`] whatever was wrong; [`Failure::Throttled`] after too many of those.
pub async fn login(
    app: &App,
    source: &str,
    request_id: String,
    proof: Proof,
    scope: Scope,
) -> Result<Login, Failure> {
    match proof {
        Proof::Password(who, password) => {
            let (whose, user) = find_user(app, who).await?;
            let counted = format!("{source} {whose}");
            let throttled = |wait: Duration| Failure::Throttled(wait.as_secs() + 1);
            app.login_sources.take(source, Instant::now()).map_err(throttled)?;
            app.logins.take(&counted, Instant::now()).map_err(throttled)?;
            let made = by_password(app, request_id, user, password, scope).await;
            if !matches!(made, Err(Failure::Unauthenticated(_))) {
                app.logins.give_back(&counted);
                app.login_sources.give_back(source);
            }
            made
        }
        Proof::Token(token) => by_token(app, request_id, token, scope).await,
    }
}

/// The user, with the password's hash, and the one name that all tries for the user are counted by.
async fn find_user(
    app: &App,
    who: Who,
) -> Result<(String, Option<(User, Option<String>)>), DbError> {
    let named = match &who {
        Who::Name(name) => name.folded(),
        Who::Id(id) => id_text(id.0),
        Who::Nobody => String::new(),
    };
    let found = app
        .db
        .read(move |conn| {
            let user = match who {
                Who::Name(name) => users::find_by_name(conn, &name)?,
                Who::Id(id) => users::find(conn, id)?,
                Who::Nobody => None,
            };
            let Some(user) = user else { return Ok(None) };
            let hash = users::find_password_hash(conn, user.id)?;
            Ok(Some((user, hash)))
        })
        .await?;
    let whose = found.as_ref().map_or(named, |(user, _)| id_text(user.id.0));
    Ok((whose, found))
}

async fn by_password(
    app: &App,
    request_id: String,
    found: Option<(User, Option<String>)>,
    password: Password,
    scope: Scope,
) -> Result<Login, Failure> {
    let (user, hash) = match found {
        Some((user, hash)) => (Some(user), hash),
        None => (None, None),
    };
    // The same work for a user who does not exist, or has no password.
    let against = hash.clone().unwrap_or_else(|| app.nobodys_password.clone());
    let fits = app.hashing(move || password.fits(&against)).await?;
    let (Some(user), Some(hash), true) = (user, hash, fits) else { return Err(REFUSED) };
    issue(app, request_id, move |tx| {
        // As it is now: the password may have been changed, or the user disabled, meanwhile.
        let user = users::find(tx.conn, user.id)?.filter(|user| user.enabled).ok_or(REFUSED)?;
        if users::find_password_hash(tx.conn, user.id)? != Some(hash) {
            return Err(REFUSED);
        }
        let end = tx.now.checked_add(LIFE).unwrap_or(tx.now);
        // Whole seconds: there are clients that read no others.
        let end = Timestamp::from_second(end.as_second()).unwrap_or(end);
        Ok((user, scope, end))
    })
    .await
}

async fn by_token(
    app: &App,
    request_id: String,
    token: OperatorToken,
    scope: Scope,
) -> Result<Login, Failure> {
    let hash = token.hash();
    // A stranger costs a look-up and no write.
    find(app, hash, false).await?.ok_or(REFUSED)?;
    issue(app, request_id, move |tx| {
        let known = operator_tokens::find(tx.conn, &hash)?.ok_or(REFUSED)?;
        let end = known.identity.expires_at;
        if tx.now >= end {
            return Err(REFUSED);
        }
        let user = users::find(tx.conn, Id(known.identity.user.id))?.ok_or(REFUSED)?;
        // A token that is carried on ends when the first one does (CVE-2012-3426, and twice since).
        Ok((user, scope, end))
    })
    .await
}

/// Makes a token for whom `decide` says, in one transaction that nothing can be taken away under.
async fn issue<F>(app: &App, request_id: String, decide: F) -> Result<Login, Failure>
where
    F: FnOnce(&mut Tx) -> Result<(User, Scope, Timestamp), Failure> + Send + 'static,
{
    let token = OperatorToken::mint(&app.mint);
    let (hash, audit_id) = (token.hash(), id_text(app.mint.id(app.clock.now())));
    let key = app.audit_key.clone();
    let (identity, project, issued_at) = app
        .db
        .write("log in", move |tx| {
            meta::hold_auth_epoch(tx)?;
            let (user, scope, expires_at) = decide(tx)?;
            let (project, roles) = scoped(tx.conn, &user, scope)?;
            operator_tokens::insert(
                tx,
                &operator_tokens::New {
                    hash,
                    audit_id: audit_id.clone(),
                    user: user.id,
                    project: project.as_ref().map(|project| project.id),
                    issued_at: tx.now,
                    expires_at,
                },
            )?;
            let identity = Identity {
                user: Named { id: user.id.0, name: user.name },
                project: project.as_ref().map(|p| Named { id: p.id.0, name: p.name.clone() }),
                roles,
                expires_at,
                audit_id,
            };
            let caller = Caller::Operator { identity: Arc::new(identity.clone()), service: None };
            audit::logged_in(tx, &key, By { caller, request_id }, &identity.audit_id)?;
            Ok::<_, Failure>((identity, project, tx.now))
        })
        .await?;
    Ok(Login { identity, project, issued_at, text: token.reveal() })
}

/// The project of a scope and what the user is in it.
fn scoped(
    conn: &mut DbConnection,
    user: &User,
    scope: Scope,
) -> Result<(Option<Project>, BTreeSet<Role>), Failure> {
    let (project, must) = match scope {
        Scope::Name(name) => (projects::find_by_name(conn, &name)?, true),
        Scope::Id(id) => (projects::find_by_id(conn, id)?, true),
        Scope::Nowhere => (None, true),
        Scope::Default => match user.default_project {
            Some(id) => (projects::find_by_id(conn, id)?, false),
            None => (None, false),
        },
    };
    if let Some(project) = project.filter(|project| project.enabled) {
        let roles = grants::list_roles(conn, user.id, project.id)?;
        if !roles.is_empty() {
            return Ok((Some(project), roles));
        }
    }
    if must { Err(REFUSED) } else { Ok((None, BTreeSet::new())) }
}

/// A token that somebody asks about, if it is good: live, or, where `allow_expired`, within the
/// window of service tokens.
///
/// # Errors
/// Only the store's.
pub async fn find(
    app: &App,
    hash: Hash,
    allow_expired: bool,
) -> Result<Option<(Arc<Known>, Option<Project>)>, DbError> {
    let identities = app.identities.clone();
    let found = app
        .db
        .read(move |conn| {
            let Some(known) = find_known(&identities, conn, &hash)? else { return Ok(None) };
            let project = match &known.identity.project {
                None => None,
                Some(project) => projects::find_by_id(conn, Id(project.id))?,
            };
            Ok(Some((known, project)))
        })
        .await?;
    let window = if allow_expired { app.service_token_window } else { SignedDuration::ZERO };
    let now = app.clock.now();
    Ok(found.filter(|(known, _)| now.duration_since(known.identity.expires_at) < window))
}

/// Ends one token, for ever; its user's others live on.
///
/// # Errors
/// [`Failure::NotFound`] when there is none.
pub async fn revoke(app: &App, by: &By, hash: Hash) -> Result<(), Failure> {
    let (epoch, auditor) = (app.epoch(), app.auditor(by));
    app.db
        .write("revoke operator token", move |tx| {
            meta::update_auth_epoch(tx, &epoch)?;
            let audit_id = operator_tokens::find_audit_id(tx.conn, &hash)?.ok_or(NO_SUCH_TOKEN)?;
            operator_tokens::delete(tx, &hash)?;
            let object = Object::Token(audit_id);
            Ok(auditor.note(tx, Action::TokenRevokeOperator, &object, &json!({}))?)
        })
        .await
}
