//! What the audit is told of requests that were refused.

use actix_web::dev::{Payload, ServiceResponse};
use actix_web::http::{Method, StatusCode};
use actix_web::{FromRequest, HttpMessage as _, web};
use uuid::Uuid;

use super::guard::Names;
use crate::actions::operators::find_known;
use crate::actions::{App, audit};
use crate::domain::audit::Object;
use crate::domain::identity::By;
use crate::domain::node::SystemId;
use crate::domain::password::OperatorToken;
use crate::domain::policy::Action;
use crate::http::Shared;
use crate::http::answer::{RequestId, source};
use crate::store::columns::Id;

/// The project that the URL of a request names, once that is known.
pub(super) struct InUrl(pub Option<Id>);

/// Notes a refused change of a known caller, and any refusal of an unknown one. `action` is what
/// the route is for.
pub(super) async fn note<B>(action: Option<Action>, response: &ServiceResponse<B>) {
    let request = response.request();
    let Some(shared) = request.app_data::<web::Data<Shared>>() else { return };
    let (by, project, id) = {
        let found = request.extensions();
        let id = found.get::<RequestId>().map(|id| id.0.clone()).unwrap_or_default();
        (found.get::<By>().cloned(), found.get::<InUrl>().and_then(|url| url.0), id)
    };
    match (by, action) {
        (None, _) if response.status() == StatusCode::UNAUTHORIZED => {
            audit::refused_stranger(&shared.app, source(request), &id).await;
        }
        (Some(by), Some(action))
            if response.status().is_client_error()
                && !matches!(*request.method(), Method::GET | Method::HEAD)
                // Asked with a body, but asked.
                && action != Action::PolicyShow =>
        {
            let names = web::Path::<Names>::from_request(request, &mut Payload::None).await;
            let object = match names {
                Ok(names) => object(&shared.app, names.into_inner(), project).await,
                Err(_) => Object::None,
            };
            let status = response.status().as_u16();
            audit::refused(&shared.app, &by, action, object, status).await;
        }
        _ => {}
    }
}

/// What the URL names, as far as its parts are ids: what else somebody wrote there is not repeated.
async fn object(app: &App, names: Names, project: Option<Id>) -> Object {
    let id = |text: Option<String>| text.and_then(|text| Uuid::try_parse(&text).ok());
    let (user, tenant) = (id(names.user), id(names.tenant));
    if let Some(system_id) = names.system_id.and_then(|text| SystemId::parse(&text).ok()) {
        return Object::Node(system_id.to_string());
    }
    if let Some(token) = names.token.and_then(|text| OperatorToken::parse(&text)) {
        let (hash, identities) = (token.hash(), app.identities.clone());
        let known = app.db.read(move |conn| find_known(&identities, conn, &hash)).await;
        let audit_id = known.ok().flatten().map(|known| known.identity.audit_id.clone());
        return audit_id.map_or(Object::None, Object::Token);
    }
    match (tenant, user, project) {
        (Some(project), Some(user), _) => Object::Grant { project, user },
        (Some(project), None, _) => Object::Project(project),
        (None, Some(user), _) => Object::User(user),
        (None, None, Some(project)) => Object::Project(project.0),
        (None, None, None) => Object::None,
    }
}
