//! `/v2.0/tokens` and `/v1/whoami`: logging in, and asking about tokens.

use std::collections::BTreeSet;

use actix_web::{HttpMessage as _, HttpRequest, HttpResponse, web};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};

use super::{envelope, id, missing, seconds};
use crate::actions::Problem;
use crate::actions::logins::{self, Login, NO_SUCH_TOKEN, Proof, Scope, Who};
use crate::domain::identity::{By, Caller, Identity, Name, Role, id_text};
use crate::domain::password::{OperatorToken, Password};
use crate::http::Shared;
use crate::http::answer::{RequestId, source};
use crate::http::body::Fields;
use crate::http::error::HttpError;
use crate::http::extract::Operator;
use crate::http::operator::{Query, refuse_if, unknown_parameter};
use crate::live::strangers::network;
use crate::store::projects::Project;

/// Logs in with a password, or carries a live token to another project.
pub async fn login(
    shared: web::Data<Shared>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, HttpError> {
    let mut auth = envelope(&shared, &request, payload, "auth").await?;
    let password = auth.object("passwordCredentials").map(by_password).transpose()?;
    let token = auth.object("token").map(by_token).transpose()?;
    let named =
        auth.parsed("tenantName", |text| Ok(Name::parse(text).map_or(Scope::Nowhere, Scope::Name)));
    let by_id = auth.parsed("tenantId", |text| Ok(id(text).map_or(Scope::Nowhere, Scope::Id)));
    let mut problems = auth.finish();
    let scope = match (named, by_id) {
        (None, None) => Scope::Default,
        (Some(scope), None) | (None, Some(scope)) => scope,
        (Some(_), Some(_)) => {
            problems
                .push(Problem::field("tenantName", "tenantName and tenantId exclude each other"));
            Scope::Nowhere
        }
    };
    refuse_if(problems)?;
    let proof = match (password, token) {
        (Some(proof), None) => proof,
        (None, Some(token)) => {
            // What no token looks like is as good as an unknown one.
            Proof::Token(token.ok_or(logins::REFUSED)?)
        }
        _ => {
            let message = "send one of passwordCredentials and token";
            return Err(HttpError::invalid(vec![Problem::field("auth", message)]));
        }
    };
    let source = source(&request);
    let source = source.map_or_else(|| "socket".into(), |source| network(source).to_string());
    let request_id = request.extensions().get::<RequestId>().map(|id| id.0.clone());
    let request_id = request_id.unwrap_or_default();
    let login = logins::login(&shared.app, &source, request_id, proof, scope).await?;
    let (identity, project) = (login.identity.clone(), login.project.clone());
    let issued_at = login.issued_at;
    let token = Login::reveal(login);
    Ok(HttpResponse::Ok().json(access(&token, &identity, project, issued_at)))
}

fn by_password(mut fields: Fields) -> Result<Proof, HttpError> {
    let name =
        fields.parsed("username", |text| Ok(Name::parse(text).map_or(Who::Nobody, Who::Name)));
    let by_id = fields.parsed("userId", |text| Ok(id(text).map_or(Who::Nobody, Who::Id)));
    let password = fields.parsed("password", |text| Ok(Password::tried(text)));
    refuse_if(fields.finish())?;
    let ((Some(who), None) | (None, Some(who))) = (name, by_id) else {
        return Err(missing("username"));
    };
    Ok(Proof::Password(who, password.ok_or_else(|| missing("password"))?))
}

fn by_token(mut fields: Fields) -> Result<Option<OperatorToken>, HttpError> {
    let token = fields.required("id", |text| Ok(OperatorToken::parse(text)));
    refuse_if(fields.finish())?;
    token.ok_or_else(|| missing("id"))
}

/// Keystone's `{"access": {…}}`.
fn access(
    token: &str,
    identity: &Identity,
    project: Option<Project>,
    issued_at: Timestamp,
) -> Value {
    let roles: Vec<Value> =
        identity.roles.iter().map(|role| json!({"id": role, "name": role})).collect();
    let mut shown = json!({
        "id": token,
        "issued_at": seconds(issued_at),
        "expires": seconds(identity.expires_at),
        "audit_ids": [identity.audit_id],
    });
    if let Some(project) = project {
        shown["tenant"] = json!(super::tenants::shown(project));
    }
    let is_admin = u8::from(identity.roles.contains(&Role::Admin));
    json!({"access": {
        "token": shown,
        "user": {
            "id": id_text(identity.user.id),
            "name": identity.user.name,
            "username": identity.user.name,
            "roles": roles,
            "roles_links": [],
        },
        "serviceCatalog": [],
        "metadata": {"is_admin": is_admin, "roles": identity.roles},
    }})
}

/// What a token says of its bearer: `belongsTo` asks for a project, `allow_expired` for the window
/// of service tokens too.
pub async fn validate(
    shared: web::Data<Shared>,
    Operator(by): Operator,
    token: web::Path<String>,
    query: Query,
) -> Result<HttpResponse, HttpError> {
    let mut belongs_to = None;
    let mut allow_expired = false;
    for (name, value) in query.into_inner() {
        match name.as_str() {
            "belongsTo" => belongs_to = Some(value),
            "allow_expired" => allow_expired = matches!(value.as_str(), "1" | "true"),
            _ => {
                return Err(HttpError::invalid(vec![unknown_parameter(
                    "belongsTo, allow_expired",
                )]));
            }
        }
    }
    // Who only asks about an own token is told of its life, and no more.
    let may = by.caller.roles();
    allow_expired &= may.contains(&Role::Admin) || may.contains(&Role::Service);
    // Nor is one who is here by that window himself.
    allow_expired &= !by.caller.token_expired();
    let parsed = OperatorToken::parse(&token).ok_or(NO_SUCH_TOKEN)?;
    let found = logins::find(&shared.app, parsed.hash(), allow_expired).await?;
    let (known, project) = found.ok_or(NO_SUCH_TOKEN)?;
    if let Some(wanted) = belongs_to {
        let own = project.as_ref().is_some_and(|project| Some(project.id) == id(&wanted));
        if !own {
            return Err(HttpError::unauthenticated().because("the token is for another project"));
        }
    }
    Ok(HttpResponse::Ok().json(access(&token, &known.identity, project, known.issued_at)))
}

pub async fn revoke(
    shared: web::Data<Shared>,
    Operator(by): Operator,
    token: web::Path<String>,
) -> Result<HttpResponse, HttpError> {
    let token = OperatorToken::parse(&token).ok_or(NO_SUCH_TOKEN)?;
    logins::revoke(&shared.app, &by, token.hash()).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// Who one is. The socket's caller has neither a project nor an end.
#[derive(Serialize, JsonSchema)]
pub(in crate::http::operator) struct Whoami {
    user: String,
    project: Option<String>,
    roles: BTreeSet<Role>,
    /// The service that sent its token beside the user's.
    service: Option<String>,
    expires_at: Option<Timestamp>,
}

/// `GET /v1/whoami`.
pub async fn whoami(Operator(By { caller, .. }): Operator) -> HttpResponse {
    let roles = caller.roles();
    HttpResponse::Ok().json(match caller {
        Caller::Socket { uid, .. } => Whoami {
            user: format!("socket uid={uid}"),
            project: None,
            roles,
            service: None,
            expires_at: None,
        },
        Caller::Operator { identity, service } => Whoami {
            user: identity.user.name.clone(),
            project: identity.project.as_ref().map(|project| project.name.clone()),
            roles,
            service: service.map(|service| service.user.name),
            expires_at: Some(identity.expires_at),
        },
    })
}
