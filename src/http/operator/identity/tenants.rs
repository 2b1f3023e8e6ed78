//! `/v2.0/tenants`: projects under Keystone's old name, and what users are in them.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;
use serde_json::json;

use super::{ENABLED, envelope, id, keep_id, name, note, only};
use crate::actions::projects::NO_SUCH_PROJECT;
use crate::actions::users::NO_SUCH_USER;
use crate::actions::{self, Failure};
use crate::domain::identity::{Name, Role, id_text};
use crate::http::Shared;
use crate::http::error::HttpError;
use crate::http::extract::Operator;
use crate::http::operator::{Query, refuse_if};
use crate::store::columns::Id;
use crate::store::projects::{Change, Project};
use crate::store::{grants, projects as store};

#[derive(Serialize)]
pub struct Shown {
    id: String,
    name: String,
    description: Option<String>,
    enabled: bool,
}

#[must_use]
pub fn shown(project: Project) -> Shown {
    Shown {
        id: id_text(project.id.0),
        name: project.name,
        description: project.description,
        enabled: project.enabled,
    }
}

fn one(project: Project) -> HttpResponse {
    HttpResponse::Ok().json(json!({"tenant": shown(project)}))
}

/// For an admin all of them, for anybody else those in which they are anything; with `?name=` the
/// one. Which, the caller's roles decide, and no policy.
pub async fn list(
    shared: web::Data<Shared>,
    Operator(by): Operator,
    query: Query,
) -> Result<HttpResponse, HttpError> {
    let named = only(query, "name")?;
    let user = by.caller.user_id().filter(|_| !by.caller.roles().contains(&Role::Admin));
    let projects = shared
        .app
        .db
        .read(move |conn| match user {
            None => store::list(conn, None),
            Some(user) => {
                let own = grants::list_projects(conn, Id(user))?;
                store::list(conn, Some(&own))
            }
        })
        .await?;
    if let Some(named) = named {
        let named = Name::parse(&named).map_err(|_| NO_SUCH_PROJECT)?.folded();
        let found = projects.into_iter().find(|p| p.name.to_ascii_lowercase() == named);
        return Ok(one(found.ok_or(NO_SUCH_PROJECT)?));
    }
    let tenants: Vec<Shown> = projects.into_iter().map(shown).collect();
    Ok(HttpResponse::Ok().json(json!({"tenants": tenants, "tenants_links": []})))
}

pub async fn show(
    shared: web::Data<Shared>,
    _operator: Operator,
    tenant: web::Path<String>,
) -> Result<HttpResponse, HttpError> {
    let id = id(&tenant).ok_or(NO_SUCH_PROJECT)?;
    let project = shared.app.db.read(move |conn| store::find_by_id(conn, id)).await?;
    Ok(one(project.ok_or(NO_SUCH_PROJECT)?))
}

/// A project's name is part of URLs, where `.` and `..` are no names.
fn project_name(text: &str) -> Result<Name, String> {
    match text.trim() {
        "." | ".." => Err("a project's name is not . or ..".into()),
        _ => name(text),
    }
}

pub async fn create(
    shared: web::Data<Shared>,
    Operator(by): Operator,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, HttpError> {
    let mut fields = envelope(&shared, &request, payload, "tenant").await?;
    let name = fields.required("name", project_name);
    let description = fields.parsed("description", note);
    let enabled = fields.flag("enabled", ENABLED).unwrap_or(true);
    refuse_if(fields.finish())?;
    let name = name.ok_or_else(|| HttpError::invalid(Vec::new()))?;
    let made = actions::projects::create(&shared.app, &by, name, description, enabled).await?;
    Ok(one(made))
}

pub async fn change(
    shared: web::Data<Shared>,
    Operator(by): Operator,
    tenant: web::Path<String>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, HttpError> {
    let mut fields = envelope(&shared, &request, payload, "tenant").await?;
    let change = Change {
        name: fields.parsed("name", project_name),
        description: fields.parsed("description", note),
        enabled: fields.flag("enabled", ENABLED),
    };
    keep_id(&mut fields, &tenant);
    refuse_if(fields.finish())?;
    let id = id(&tenant).ok_or(NO_SUCH_PROJECT)?;
    Ok(one(actions::projects::change(&shared.app, &by, id, change).await?))
}

pub async fn remove(
    shared: web::Data<Shared>,
    Operator(by): Operator,
    tenant: web::Path<String>,
) -> Result<HttpResponse, HttpError> {
    let id = id(&tenant).ok_or(NO_SUCH_PROJECT)?;
    actions::projects::remove(&shared.app, &by, id).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// What a user is in a project.
pub async fn list_roles(
    shared: web::Data<Shared>,
    _operator: Operator,
    path: web::Path<(String, String)>,
) -> Result<HttpResponse, HttpError> {
    let (project, user) = both(&path)?;
    let found = shared
        .app
        .db
        .read(move |conn| {
            let there = (
                store::find_by_id(conn, project)?.is_some(),
                crate::store::users::find(conn, user)?.is_some(),
            );
            Ok((there, grants::list_roles(conn, user, project)?))
        })
        .await?;
    let roles = match found {
        ((false, _), _) => return Err(NO_SUCH_PROJECT.into()),
        ((_, false), _) => return Err(NO_SUCH_USER.into()),
        (_, roles) => roles,
    };
    let roles: Vec<_> = roles.into_iter().map(|role| json!({"id": role, "name": role})).collect();
    Ok(HttpResponse::Ok().json(json!({"roles": roles, "roles_links": []})))
}

pub async fn grant(
    shared: web::Data<Shared>,
    Operator(by): Operator,
    path: web::Path<(String, String, String)>,
) -> Result<HttpResponse, HttpError> {
    let (tenant, user, role) = path.into_inner();
    let role = parse_role(&role)?;
    let (project, user) = both(&(tenant, user))?;
    actions::projects::grant(&shared.app, &by, user, project, role).await?;
    Ok(HttpResponse::NoContent().finish())
}

pub async fn ungrant(
    shared: web::Data<Shared>,
    Operator(by): Operator,
    path: web::Path<(String, String, String)>,
) -> Result<HttpResponse, HttpError> {
    let (tenant, user, role) = path.into_inner();
    let role = parse_role(&role)?;
    let (project, user) = both(&(tenant, user))?;
    actions::projects::ungrant(&shared.app, &by, user, project, role).await?;
    Ok(HttpResponse::NoContent().finish())
}

fn both((tenant, user): &(String, String)) -> Result<(Id, Id), HttpError> {
    Ok((id(tenant).ok_or(NO_SUCH_PROJECT)?, id(user).ok_or(NO_SUCH_USER)?))
}

fn parse_role(text: &str) -> Result<Role, HttpError> {
    if text.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err(HttpError::bad_request("role names are lower case"));
    }
    Ok(Role::parse(text).ok_or(Failure::NotFound("there is no such role"))?)
}
