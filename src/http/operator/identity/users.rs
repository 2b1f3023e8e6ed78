//! `/v2.0/users`, and the first admin.

use actix_web::{HttpRequest, HttpResponse, web};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::json;

use super::{ENABLED, envelope, id, keep_id, missing, name, note, only};
use crate::actions::users::{NO_SUCH_USER, NewUser, UserChange, Wanted};
use crate::actions::{self, Problem};
use crate::domain::identity::{Name, id_text};
use crate::domain::password::Password;
use crate::domain::policy::Action;
use crate::http::Shared;
use crate::http::body::{self, Fields};
use crate::http::error::HttpError;
use crate::http::extract::Operator;
use crate::http::operator::{Query, refuse_if};
use crate::store::columns::Id;
use crate::store::users as store;

/// A user as Keystone v2.0 shows one: nothing of the password, and of the project its id.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "User")]
struct Shown {
    id: String,
    name: String,
    username: String,
    enabled: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    email: Option<String>,
    #[serde(rename = "tenantId", skip_serializing_if = "Option::is_none")]
    tenant_id: Option<String>,
}

/// `{"user": {…}}`.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "UserEnvelope")]
pub(in crate::http::operator) struct Enveloped {
    user: Shown,
}

fn shown(user: store::User) -> Shown {
    Shown {
        id: id_text(user.id.0),
        username: user.name.clone(),
        name: user.name,
        enabled: user.enabled,
        email: user.email,
        tenant_id: user.default_project.map(|id| id_text(id.0)),
    }
}

fn one(user: store::User) -> HttpResponse {
    HttpResponse::Ok().json(Enveloped { user: shown(user) })
}

/// All of them, or with `?name=` the one, as Keystone has it.
pub async fn list(
    shared: web::Data<Shared>,
    _operator: Operator,
    query: Query,
) -> Result<HttpResponse, HttpError> {
    let db = &shared.app.db;
    if let Some(named) = only(query, "name")? {
        let named = Name::parse(&named).map_err(|_| NO_SUCH_USER)?;
        let user = db.read(move |conn| store::find_by_name(conn, &named)).await?;
        return Ok(one(user.ok_or(NO_SUCH_USER)?));
    }
    let users = db.read(store::list).await?;
    let users: Vec<Shown> = users.into_iter().map(shown).collect();
    Ok(HttpResponse::Ok().json(json!({"users": users, "users_links": []})))
}

pub async fn show(
    shared: web::Data<Shared>,
    _operator: Operator,
    user: web::Path<String>,
) -> Result<HttpResponse, HttpError> {
    let id = id(&user).ok_or(NO_SUCH_USER)?;
    let user = shared.app.db.read(move |conn| store::find(conn, id)).await?;
    Ok(one(user.ok_or(NO_SUCH_USER)?))
}

pub async fn create(
    shared: web::Data<Shared>,
    Operator(by): Operator,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, HttpError> {
    let mut fields = envelope(&shared, &request, payload, "user").await?;
    let name = either(&mut fields, "name", "username", name);
    let password = password(&mut fields);
    let new = (
        fields.flag("enabled", ENABLED).unwrap_or(true),
        fields.parsed("email", note),
        wanted(&mut fields),
    );
    let mut problems = fields.finish();
    if name.is_none() && problems.iter().all(|problem| problem.field != Some("name")) {
        let message = "Name field is required and cannot be empty";
        problems.push(Problem::field("name", message));
    }
    refuse_if(problems)?;
    let (enabled, email, project) = new;
    let name = name.ok_or_else(|| HttpError::invalid(Vec::new()))?;
    let new = NewUser { name, password, enabled, email, project };
    Ok(one(actions::users::create(&shared.app, &by, new).await?))
}

pub async fn change(
    shared: web::Data<Shared>,
    Operator(by): Operator,
    user: web::Path<String>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, HttpError> {
    let mut fields = envelope(&shared, &request, payload, "user").await?;
    let change = UserChange {
        name: either(&mut fields, "name", "username", name),
        password: password(&mut fields),
        enabled: fields.flag("enabled", ENABLED),
        email: fields.parsed("email", note),
        project: wanted(&mut fields),
    };
    keep_id(&mut fields, &user);
    refuse_if(fields.finish())?;
    let id = id(&user).ok_or(NO_SUCH_USER)?;
    Ok(one(actions::users::change(&shared.app, &by, Action::UserChange, id, change).await?))
}

pub async fn set_password(
    shared: web::Data<Shared>,
    Operator(by): Operator,
    user: web::Path<String>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, HttpError> {
    let mut fields = envelope(&shared, &request, payload, "user").await?;
    let password = password(&mut fields);
    keep_id(&mut fields, &user);
    let problems = fields.finish();
    if password.is_none() && problems.is_empty() {
        return Err(missing("password"));
    }
    refuse_if(problems)?;
    let id = id(&user).ok_or(NO_SUCH_USER)?;
    let change = UserChange { password, ..UserChange::default() };
    Ok(one(actions::users::change(&shared.app, &by, Action::UserPassword, id, change).await?))
}

pub async fn remove(
    shared: web::Data<Shared>,
    Operator(by): Operator,
    user: web::Path<String>,
) -> Result<HttpResponse, HttpError> {
    let id = id(&user).ok_or(NO_SUCH_USER)?;
    actions::users::remove(&shared.app, &by, id).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// Makes or resets the first admin; policy has it for the socket alone.
pub async fn bootstrap(
    shared: web::Data<Shared>,
    Operator(by): Operator,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, HttpError> {
    if !by.caller.is_socket() {
        return Err(HttpError::forbidden(Action::Bootstrap));
    }
    let mut fields = body::fields(&request, payload, &shared.app.limits).await?;
    let name = fields.required("name", name);
    let password = fields.required("password", Password::parse);
    refuse_if(fields.finish())?;
    let (Some(name), Some(password)) = (name, password) else {
        return Err(HttpError::invalid(Vec::new()));
    };
    let (user, created) = actions::users::bootstrap(&shared.app, &by, name, password).await?;
    let mut response = if created { HttpResponse::Created() } else { HttpResponse::Ok() };
    if created {
        response.insert_header(("Location", format!("/v2.0/users/{}", id_text(user.id.0))));
    }
    Ok(response.json(Enveloped { user: shown(user) }))
}

/// A field that Keystone knows under two names; if both are there, they agree. The first one counts,
/// even when there is nothing in it.
fn either<T>(
    fields: &mut Fields,
    field: &'static str,
    other: &'static str,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Option<T> {
    if fields.has(field) && fields.has(other) && !fields.agree(field, other) {
        fields.refuse(field, format!("{field} and {other} differ"));
    }
    let second = fields.parsed(other, &parse);
    if fields.has(field) {
        fields.parsed(field, parse)
    } else {
        fields.parsed(field, parse).or(second)
    }
}

fn password(fields: &mut Fields) -> Option<Password> {
    either(fields, "password", "OS-KSADM:password", Password::parse)
}

/// `tenantId`: `null` is as good as absent, empty text is a mistake.
fn wanted(fields: &mut Fields) -> Option<Wanted> {
    fields.parsed("tenantId", |text| match (text, id(text)) {
        ("", _) => Err("a project's id is not empty".to_owned()),
        (_, Some(Id(id))) => Ok(Wanted::Project(Id(id))),
        (_, None) => Ok(Wanted::Nothing),
    })
}
