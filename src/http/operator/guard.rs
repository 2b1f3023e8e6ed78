//! What stands before every route of the operator plane, in this order: the body's size and type
//! as announced (413, 415), who is calling (401), whether the URL names the caller's project
//! (400), and policy (403). Behind it, what was refused is noted.

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use actix_web::http::{Method, header};
use actix_web::middleware::{Next, from_fn};
use actix_web::{FromRequest, Handler, HttpMessage as _, Responder, ResponseError as _};
use actix_web::{Route, guard, web};
use serde::Deserialize;
use uuid::Uuid;

use super::refusals;
use super::target;
use crate::actions::App;
use crate::actions::operators::{Stranger, authenticate, find_known};
use crate::domain::identity::{By, Caller};
use crate::domain::limits::Limits;
use crate::domain::node::SystemId;
use crate::domain::password::OperatorToken;
use crate::domain::policy::{Action, Target};
use crate::http::Shared;
use crate::http::answer::RequestId;
use crate::http::body::media_type;
use crate::http::error::HttpError;
use crate::http::extract::{Allowed, SocketPeer};
use crate::store::columns::Id;
use crate::store::{DbError, nodes, projects, users};

/// Bytes of a body of the identity routes (Keystone's `max_request_body_size`).
pub const IDENTITY_BYTES: usize = 114_688;
/// Bytes of a list of system ids.
const MOST_IDS: usize = 64 << 20;

/// What a route takes as its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// None, or one that is not looked at.
    Nothing,
    Json,
    /// JSON, or nothing where the defaults will do.
    Options,
    /// JSON in Keystone's bounds.
    IdentityJson,
    /// One node as JSON, or many as newline-delimited JSON.
    Nodes,
    /// Newline-delimited system ids.
    SystemIds,
    /// Any bytes.
    Content,
}

impl Takes {
    /// The media types of the body; none where any will do.
    #[must_use]
    pub fn media_types(self) -> &'static [&'static str] {
        match self {
            Takes::Nothing | Takes::Options | Takes::Content => &[],
            Takes::Json | Takes::IdentityJson => &["application/json"],
            Takes::Nodes => &["application/json", "application/x-ndjson"],
            Takes::SystemIds => &["application/x-ndjson"],
        }
    }

    /// The bytes of the largest body.
    #[must_use]
    pub fn most(self, limits: &Limits) -> usize {
        match self {
            Takes::Nothing | Takes::Json | Takes::Options => limits.json_bytes,
            Takes::IdentityJson => IDENTITY_BYTES,
            // One node's contents in base64 have to fit.
            Takes::Nodes => limits.json_bytes + limits.content_bytes / 3 * 8,
            Takes::SystemIds => MOST_IDS,
            Takes::Content => limits.content_bytes,
        }
    }

    fn admit(self, request: &ServiceRequest, limits: &Limits) -> Result<(), HttpError> {
        let length = request.headers().get(header::CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        let most = self.most(limits);
        if length.is_some_and(|length| length > most) {
            return Err(HttpError::too_large(most));
        }
        let types = self.media_types();
        let sent = media_type(request.request());
        // Keystone takes a body without a type for JSON.
        let unsaid = sent.is_empty() && self == Takes::IdentityJson;
        if types.is_empty() || unsaid || types.contains(&sent.as_str()) {
            return Ok(());
        }
        Err(HttpError::media_type(&types.join(" or ")))
    }
}

/// One method of one path.
pub struct Operation {
    pub method: &'static str,
    /// What policy is asked; `None` for a route that is there for those who have no token yet.
    pub action: Option<Action>,
    pub takes: Takes,
    route: Route,
}

impl Operation {
    fn new<F, Args>(method: &Method, action: Option<Action>, takes: Takes, handler: F) -> Operation
    where
        F: Handler<Args>,
        Args: FromRequest + 'static,
        F::Output: Responder + 'static,
    {
        let (method, route) = match *method {
            Method::POST => ("POST", web::post()),
            Method::PUT => ("PUT", web::put()),
            Method::PATCH => ("PATCH", web::patch()),
            Method::DELETE => ("DELETE", web::delete()),
            // GET, and HEAD with it.
            _ => ("GET", web::route().guard(guard::Any(guard::Get()).or(guard::Head()))),
        };
        let route = route
            .to(handler)
            .wrap(from_fn(move |request, next| stand(action, takes, request, next)));
        Operation { method, action, takes, route }
    }

    /// For those whom policy allows `action`.
    pub fn of<F, Args>(method: &Method, action: Action, takes: Takes, handler: F) -> Operation
    where
        F: Handler<Args>,
        Args: FromRequest + 'static,
        F::Output: Responder + 'static,
    {
        Operation::new(method, Some(action), takes, handler)
    }

    /// For anybody.
    pub fn open<F, Args>(method: &Method, takes: Takes, handler: F) -> Operation
    where
        F: Handler<Args>,
        Args: FromRequest + 'static,
        F::Output: Responder + 'static,
    {
        Operation::new(method, None, takes, handler)
    }

    pub(in crate::http) fn into_route(self) -> Route {
        self.route
    }
}

async fn stand(
    action: Option<Action>,
    takes: Takes,
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, actix_web::Error> {
    let response = match admit(action, takes, &request).await {
        Err(refused) => request.into_response(refused.error_response()),
        Ok(allowed) => {
            if let Some(allowed) = allowed {
                request.extensions_mut().insert(allowed);
            }
            next.call(request).await?.map_into_boxed_body()
        }
    };
    refusals::note(action, &response).await;
    Ok(response)
}

async fn admit(
    action: Option<Action>,
    takes: Takes,
    request: &ServiceRequest,
) -> Result<Option<Allowed>, HttpError> {
    let shared = request.app_data::<web::Data<Shared>>().ok_or_else(HttpError::unauthenticated)?;
    let app = &shared.app;
    takes.admit(request, &app.limits)?;
    let Some(action) = action else { return Ok(None) };
    let caller = caller(app, request).await?;
    let request_id =
        request.extensions().get::<RequestId>().map(|id| id.0.clone()).unwrap_or_default();
    let by = By { caller, request_id };
    // For the log, whatever becomes of it.
    request.extensions_mut().insert(by.clone());
    if is_unscoped(&by.caller) && !for_the_unscoped(action) {
        return Err(HttpError::unauthenticated().because("the token has no project"));
    }
    let names = web::Path::<Names>::from_request(request.request(), &mut Payload::None).await;
    let names = names.map_err(|_| HttpError::unreadable_url())?.into_inner();
    let allowed = place(app, names, by).await?;
    request.extensions_mut().insert(refusals::InUrl(allowed.project));
    require(app, &allowed.by.caller, action, &allowed.target)?;
    Ok(Some(allowed))
}

/// Whether `caller` may do `action` to `target`; what is not known is not allowed.
///
/// # Errors
/// 403 that names the action.
pub fn require(
    app: &App,
    caller: &Caller,
    action: Action,
    target: &Target,
) -> Result<(), HttpError> {
    if action.changes_identity() && caller.token_expired() {
        return Err(HttpError::forbidden(action).because("an expired token changes no identity"));
    }
    if app.policy.allows(action.name(), &caller.creds(), target) {
        Ok(())
    } else {
        Err(HttpError::forbidden(action))
    }
}

async fn caller(app: &App, request: &ServiceRequest) -> Result<Caller, HttpError> {
    if let Some(SocketPeer(caller)) = request.conn_data::<SocketPeer>() {
        return Ok(caller.clone());
    }
    let token = single(request, "x-auth-token")?;
    let token = token.ok_or_else(HttpError::unauthenticated)?;
    let service = single(request, "x-service-token")?;
    authenticate(app, &token, service.as_deref()).await.map_err(|stranger| match stranger {
        Stranger::Refused(why) => HttpError::unauthenticated().because(why),
        Stranger::Store(error) => error.into(),
    })
}

/// The one value of a header; blank is as good as absent.
fn single(request: &ServiceRequest, name: &str) -> Result<Option<String>, HttpError> {
    let mut values = request.headers().get_all(name);
    let first = values.next();
    if values.next().is_some() {
        return Err(HttpError::bad_request(
            "send one X-Auth-Token, and one X-Service-Token at most",
        ));
    }
    let text = first.map(|value| value.to_str().unwrap_or("?").trim().to_owned());
    Ok(text.filter(|text| !text.is_empty()))
}

fn is_unscoped(caller: &Caller) -> bool {
    matches!(caller, Caller::Operator { identity, .. } if identity.project.is_none())
}

/// What a token without a project is good for.
pub(super) fn for_the_unscoped(action: Action) -> bool {
    matches!(
        action,
        Action::Whoami | Action::TokenValidate | Action::TokenRevokeOperator | Action::ProjectList
    )
}

/// The parts of a path that name something, as the table of routes spells them.
#[derive(Deserialize)]
pub(super) struct Names {
    project: Option<String>,
    pub system_id: Option<String>,
    pub user: Option<String>,
    pub tenant: Option<String>,
    pub token: Option<String>,
}

/// What the URL names, and the target of policy: the stored object, or, where there is none yet,
/// the place it would be in. Nothing of the request gets into it.
async fn place(app: &App, names: Names, by: By) -> Result<Allowed, HttpError> {
    let mut target = Target::new();
    let mut allowed =
        Allowed { by, project: None, named: None, system_id: None, target: Target::new() };

    if let Some(named) = names.project {
        let project = match &allowed.by.caller {
            Caller::Socket { .. } => find_project(app, named).await?,
            Caller::Operator { identity, .. } => {
                let own = identity.project.as_ref();
                let own = own.filter(|p| p.name == named || same_id(&named, p.id));
                // Nova's words (2012.1 api/openstack/wsgi.py:838).
                let own = own.ok_or_else(|| HttpError::bad_request("Malformed request url"))?;
                Some((Id(own.id), own.name.clone()))
            }
        };
        if let Some((id, name)) = project {
            allowed.project = Some(id);
            target::of_project(&mut target, id, &name);
        }
    }
    // What is no system id is no node's; and some of it no database would take.
    let system_id = names.system_id.and_then(|text| SystemId::parse(&text).ok());
    allowed.named = system_id.as_ref().map(SystemId::to_string);
    if let (Some(project), Some(system_id)) = (allowed.project, system_id) {
        let id = system_id.to_string();
        let found = app.db.read(move |conn| nodes::find_policy(conn, project, &id)).await?;
        if let Some((hostname, labels)) = found {
            target::of_node(&mut target, system_id.as_str(), &hostname, &labels);
            allowed.system_id = Some(system_id.to_string());
        }
    }
    if let Some(id) = names.user.and_then(|id| Uuid::try_parse(&id).ok())
        && let Some(user) = app.db.read(move |conn| users::find(conn, Id(id))).await?
    {
        target::of_user(&mut target, user.id, &user.name);
    }
    if let Some(id) = names.tenant.and_then(|id| Uuid::try_parse(&id).ok())
        && let Some(project) = app.db.read(move |conn| projects::find_by_id(conn, Id(id))).await?
    {
        target::of_tenant(&mut target, project.id, &project.name);
    }
    if let Some(token) = names.token.and_then(|text| OperatorToken::parse(&text)) {
        let (hash, identities) = (token.hash(), app.identities.clone());
        let known = app.db.read(move |conn| find_known(&identities, conn, &hash)).await?;
        if let Some(known) = known {
            target::of_token(&mut target, Id(known.identity.user.id));
        }
    }
    Ok(Allowed { target, ..allowed })
}

fn same_id(text: &str, id: Uuid) -> bool {
    Uuid::try_parse(text).is_ok_and(|named| named == id)
}

async fn find_project(app: &App, named: String) -> Result<Option<(Id, String)>, DbError> {
    let found = app.db.read(move |conn| projects::find(conn, &named)).await?;
    Ok(found.map(|project| (project.id, project.name)))
}
