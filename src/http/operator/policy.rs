//! `/v1/policy`: the rules in force, and what they decide for somebody.

use std::collections::BTreeSet;
use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, web};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;
use uuid::Uuid;

use super::guard::for_the_unscoped;
use super::{refuse_if, target};
use crate::actions::{Failure, NO_SUCH_NODE};
use crate::domain::identity::{Caller, Identity, Name, Named, Role, id_text};
use crate::domain::node::SystemId;
use crate::domain::policy::{Action, Listed, Rules, Target, list};
use crate::http::error::HttpError;
use crate::http::extract::Operator;
use crate::http::{Shared, body, operator_routes};
use crate::live::policy::FileState;
use crate::store::columns::Id;
use crate::store::users::{self, User};
use crate::store::{DbConnection, grants, nodes, projects};

/// Every action with its rule, and where the rules come from.
#[derive(Serialize, JsonSchema)]
pub struct Shown {
    items: Vec<Listed>,
    /// The rules that actions are written with.
    helpers: Vec<Helper>,
    /// `null` without a policy file.
    file: Option<PolicyFile>,
    /// There is one page.
    next: Option<String>,
}

#[derive(Serialize, JsonSchema)]
struct Helper {
    name: String,
    rule: String,
    overridden: bool,
}

#[derive(Serialize, JsonSchema)]
struct PolicyFile {
    path: String,
    /// `loaded`, or `degraded` while the file as it is now cannot be used.
    state: &'static str,
    /// When the rules in force were read.
    #[schemars(with = "String")]
    loaded_at: Timestamp,
    problems: Vec<String>,
}

pub async fn show(shared: web::Data<Shared>, _by: Operator) -> HttpResponse {
    let policy = &shared.app.policy;
    let rules = policy.current();
    let file = policy.file().map(|FileState { path, loaded_at, problems }| PolicyFile {
        path: path.display().to_string(),
        state: if problems.is_empty() { "loaded" } else { "degraded" },
        loaded_at,
        problems,
    });
    let (items, helpers) = (list(&rules), helpers(&rules));
    HttpResponse::Ok().json(Shown { items, helpers, file, next: None })
}

fn helpers(rules: &Rules) -> Vec<Helper> {
    let actions: BTreeSet<&str> = Action::ALL.iter().map(|action| action.name()).collect();
    let helpers = rules.iter().filter(|(name, _)| !actions.contains(name));
    let overridden = |name: &str| rules.overridden().contains(name);
    helpers
        .map(|(name, rule)| Helper { name: name.to_owned(), rule, overridden: overridden(name) })
        .collect()
}

/// Whether somebody may, and why.
#[derive(Serialize, JsonSchema)]
pub struct Explained {
    allow: bool,
    action: String,
    user: Reference,
    project: Option<Reference>,
    roles: BTreeSet<Role>,
    /// What policy is told of the object.
    target: Target,
    /// The tree of reasons as indented lines: it may be deeper than a reader of JSON goes.
    why: Vec<String>,
    /// Why no token can be what the question supposes.
    notes: Vec<&'static str>,
}

#[derive(Serialize, JsonSchema)]
struct Reference {
    id: String,
    name: String,
}

impl Reference {
    fn new(id: Id, name: &str) -> Reference {
        Reference { id: id_text(id.0), name: name.to_owned() }
    }
}

/// Whom to judge, and on what: names or ids, as they were sent.
struct Question {
    user: String,
    project: Option<String>,
    roles: Option<BTreeSet<Role>>,
    node: Option<SystemId>,
    target_user: Option<String>,
    target_project: Option<String>,
    /// Whether the action's URL names a project, which policy is told of then.
    in_project: bool,
}

/// What the store says of it.
struct Facts {
    user: User,
    project: Option<projects::Project>,
    roles: BTreeSet<Role>,
    target: Target,
    notes: Vec<&'static str>,
}

pub async fn explain(
    shared: web::Data<Shared>,
    _by: Operator,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, HttpError> {
    let rules = shared.app.policy.current();
    let mut fields = body::fields(&request, payload, &shared.app.limits).await?;
    let rule = fields.required("action", |name| {
        let known = rules.spelling(name).map(|_| name.to_owned());
        known.ok_or_else(|| "there is no such action: `policy show` lists them".to_owned())
    });
    let user = fields.required("user", text);
    let question = Question {
        project: fields.parsed("project", text),
        roles: fields.list("roles", known_role).map(BTreeSet::from_iter),
        node: fields.parsed("node", SystemId::parse),
        target_user: fields.parsed("target_user", text),
        target_project: fields.parsed("target_project", text),
        user: user.clone().unwrap_or_default(),
        in_project: true,
    };
    refuse_if(fields.finish())?;
    let Some(rule) = rule else { return Err(HttpError::invalid(Vec::new())) };
    let action = Action::ALL.iter().find(|action| action.name() == rule);
    let in_project = action.is_none_or(|&action| is_in_project(action));
    let question = Question { in_project, ..question };
    let found = shared.app.db.read(move |conn| find(conn, question)).await?;
    let mut facts = found.map_err(|missing| match missing {
        Missing::Node => HttpError::from(NO_SUCH_NODE),
        Missing::User => Failure::NotFound("there is no such user").into(),
        Missing::Project => Failure::NotFound("there is no such project").into(),
    })?;

    if facts.project.is_none() && action.is_some_and(|&action| !for_the_unscoped(action)) {
        facts.notes.push("a token without a project is not good for this: name one");
    }
    let caller = Caller::Operator {
        identity: Arc::new(Identity {
            user: Named { id: facts.user.id.0, name: facts.user.name.clone() },
            project: facts.project.as_ref().map(|p| Named { id: p.id.0, name: p.name.clone() }),
            roles: facts.roles.clone(),
            expires_at: Timestamp::MAX,
            audit_id: String::new(),
        }),
        service: None,
    };
    let decision = rules.check(&rule, &caller.creds(), &facts.target);
    let why = decision.why().to_string();
    Ok(HttpResponse::Ok().json(Explained {
        allow: decision.allowed() && facts.notes.is_empty(),
        action: rule,
        user: Reference::new(facts.user.id, &facts.user.name),
        project: facts.project.map(|project| Reference::new(project.id, &project.name)),
        roles: facts.roles,
        target: facts.target,
        why: why.lines().map(str::to_owned).collect(),
        notes: facts.notes,
    }))
}

fn is_in_project(action: Action) -> bool {
    // The moving of a node is asked about within its change.
    action == Action::NodeMove
        || operator_routes().iter().any(|(path, operations)| {
            path.contains("{project}") && operations.iter().any(|o| o.action == Some(action))
        })
}

fn known_role(text: &str) -> Result<Role, String> {
    Role::parse(text).ok_or_else(|| "there is no such role".to_owned())
}

/// What a database can be asked for.
fn text(text: &str) -> Result<String, String> {
    let good = !text.is_empty() && !text.contains('\0');
    good.then(|| text.to_owned()).ok_or_else(|| "a name or an id".to_owned())
}

enum Missing {
    User,
    Project,
    Node,
}

fn find(
    conn: &mut DbConnection,
    question: Question,
) -> diesel::QueryResult<Result<Facts, Missing>> {
    let Some(user) = find_user(conn, &question.user)? else { return Ok(Err(Missing::User)) };
    let node = match &question.node {
        None => None,
        Some(system_id) => match nodes::find_place(conn, system_id.as_str())? {
            None => return Ok(Err(Missing::Node)),
            found => found,
        },
    };
    let project = match (&question.project, user.default_project.or(node.as_ref().map(|n| n.0))) {
        (Some(named), _) => match projects::find(conn, named)? {
            None => return Ok(Err(Missing::Project)),
            found => found,
        },
        (None, Some(id)) => projects::find_by_id(conn, id)?,
        (None, None) => None,
    };
    let mut notes = Vec::new();
    if !user.enabled {
        notes.push("the user is disabled: no token of theirs is taken");
    }
    if project.as_ref().is_some_and(|project| !project.enabled) {
        notes.push("the project is disabled: no token for it is taken");
    }
    let roles = match (question.roles, &project) {
        (Some(roles), _) => roles,
        (None, None) => BTreeSet::new(),
        (None, Some(project)) => {
            let roles = grants::list_roles(conn, user.id, project.id)?;
            if roles.is_empty() {
                notes.push("the user has no role in the project: there is no token for it");
            }
            roles
        }
    };

    let mut target = Target::new();
    if let Some(project) = project.as_ref().filter(|_| question.in_project) {
        target::of_project(&mut target, project.id, &project.name);
    }
    if let Some((system_id, (id, hostname, labels))) = question.node.zip(node) {
        let Some(place) = projects::find_by_id(conn, id)? else {
            return Ok(Err(Missing::Project));
        };
        target::of_project(&mut target, place.id, &place.name);
        target::of_node(&mut target, system_id.as_str(), &hostname, &labels);
        if project.as_ref().is_some_and(|project| project.id != place.id) {
            notes.push("the node is in another project: a URL that names it is refused");
        }
    }
    if let Some(named) = question.target_user {
        let Some(user) = find_user(conn, &named)? else { return Ok(Err(Missing::User)) };
        target::of_user(&mut target, user.id, &user.name);
        target::of_token(&mut target, user.id);
    }
    if let Some(named) = question.target_project {
        let Some(project) = projects::find(conn, &named)? else {
            return Ok(Err(Missing::Project));
        };
        target::of_tenant(&mut target, project.id, &project.name);
    }
    Ok(Ok(Facts { user, project, roles, target, notes }))
}

/// By name or by id.
fn find_user(conn: &mut DbConnection, named: &str) -> diesel::QueryResult<Option<User>> {
    if let Ok(name) = Name::parse(named)
        && let Some(user) = users::find_by_name(conn, &name)?
    {
        return Ok(Some(user));
    }
    match Uuid::try_parse(named) {
        Ok(id) => users::find(conn, Id(id)),
        Err(_) => Ok(None),
    }
}
