//! The tables of routes, one a door. What is behind a route is said by its handler's signature.

pub mod answer;
pub mod body;
pub mod error;
pub mod extract;
pub mod node;
pub mod observer;
pub mod operator;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use actix_web::http::Method;
use actix_web::web::{self, ServiceConfig};
use actix_web::{FromRequest, Handler, Resource, Responder, Route, guard};

use crate::actions::App;
use crate::domain::policy::Action;
use error::HttpError;
use operator::guard::{Operation, Takes};

/// What every worker of every listener holds.
#[derive(Clone)]
pub struct Shared {
    pub app: Arc<App>,
    /// Set when the process has been told to stop: `/readyz` says so first.
    pub draining: Arc<AtomicBool>,
}

/// The node plane, for cloud-init: its routes are a table of their own, `node::route`.
pub fn node_plane(config: &mut ServiceConfig) {
    config.default_service(web::to(node::serve));
}

/// The operator plane, on the admin socket and on the admin listener: each route's guard knows the
/// one from the other.
pub fn operator_plane(config: &mut ServiceConfig) {
    // A path or query that cannot be read at all is answered like every other mistake.
    let unreadable = HttpError::unreadable_url;
    config.app_data(web::PathConfig::default().error_handler(move |_, _| unreadable().into()));
    config.app_data(web::QueryConfig::default().error_handler(move |_, _| unreadable().into()));
    for (path, operations) in operator_routes() {
        let methods = operations.iter().map(|operation| operation.method).collect();
        let routes = operations.into_iter().map(Operation::into_route).collect();
        config.service(resource(path, methods, routes));
    }
    for (path, route) in [
        ("/healthz", web::to(observer::healthz)),
        ("/readyz", web::to(observer::readyz)),
        ("/version", web::to(observer::version)),
        ("/metrics", web::to(observer::metrics)),
    ] {
        let get = guard::Any(guard::Get()).or(guard::Head());
        config.service(resource(path, vec!["GET"], vec![route.guard(get)]));
    }
    config.default_service(web::to(not_found));
}

/// Every route of the operator plane.
#[must_use]
pub fn operator_routes() -> Vec<(&'static str, Vec<Operation>)> {
    use operator::{audit, boots, contents, events, identity, nodes, policy, preseeds, tokens};
    const NOTHING: Takes = Takes::Nothing;
    vec![
        (
            "/v1/{project}/nodes",
            vec![
                get(Action::NodeList, nodes::list),
                post(Action::NodeCreate, Takes::Nodes, nodes::create),
            ],
        ),
        (
            "/v1/{project}/nodes/{system_id}",
            vec![
                get(Action::NodeShow, nodes::show),
                patch(Action::NodeChange, nodes::change),
                delete(Action::NodeRemove, nodes::remove),
            ],
        ),
        (
            "/v1/{project}/nodes/{system_id}/user-data",
            vec![
                get(Action::UserDataShow, contents::show_user_data),
                put(Action::UserDataSet, Takes::Content, contents::set_user_data),
                delete(Action::UserDataSet, contents::clear_user_data),
            ],
        ),
        (
            "/v1/{project}/nodes/{system_id}/user-data/versions",
            vec![get(Action::UserDataShow, contents::list_user_data)],
        ),
        (
            "/v1/{project}/nodes/{system_id}/vendor-data",
            vec![
                get(Action::VendorDataShow, contents::show_vendor_data),
                put(Action::VendorDataSet, Takes::Content, contents::set_vendor_data),
                delete(Action::VendorDataSet, contents::clear_vendor_data),
            ],
        ),
        (
            "/v1/{project}/nodes/{system_id}/vendor-data/versions",
            vec![get(Action::VendorDataShow, contents::list_vendor_data)],
        ),
        (
            "/v1/{project}/nodes/{system_id}/token",
            vec![
                post(Action::TokenGet, NOTHING, tokens::get),
                get(Action::TokenShow, tokens::show),
                delete(Action::TokenRevoke, tokens::revoke),
            ],
        ),
        (
            "/v1/{project}/nodes/{system_id}/token/reissue",
            vec![post(Action::TokenReissue, Takes::Options, tokens::reissue)],
        ),
        (
            "/v1/{project}/nodes/{system_id}/reprovision",
            vec![post(Action::NodeReprovision, Takes::Options, nodes::reprovision)],
        ),
        (
            "/v1/{project}/nodes/{system_id}/preseed",
            vec![post(Action::Preseed, Takes::Json, preseeds::preseed)],
        ),
        (
            "/v1/{project}/nodes/{system_id}/claims",
            vec![post(Action::ClaimCreate, Takes::Options, preseeds::claim)],
        ),
        ("/v1/{project}/nodes/{system_id}/events", vec![get(Action::EventList, events::list)]),
        (
            "/v1/{project}/nodes/{system_id}/events/{event}/files/{ordinal}",
            vec![get(Action::EventList, events::show_file)],
        ),
        (
            "/v1/{project}/nodes/{system_id}/timeline",
            vec![get(Action::TimelineShow, boots::timeline)],
        ),
        ("/v1/{project}/nodes/{system_id}/explain", vec![get(Action::NodeExplain, boots::explain)]),
        ("/v1/stuck", vec![get(Action::StuckList, boots::stuck)]),
        ("/v1/events", vec![get(Action::EventListAll, events::list_all)]),
        ("/v1/{project}/tokens", vec![post(Action::TokenGet, Takes::SystemIds, tokens::get_many)]),
        ("/v1/openapi.json", vec![Operation::open(&Method::GET, NOTHING, operator::openapi::show)]),
        ("/v1/whoami", vec![get(Action::Whoami, identity::tokens::whoami)]),
        ("/v1/bootstrap", vec![post(Action::Bootstrap, Takes::Json, identity::users::bootstrap)]),
        ("/v1/tokens", vec![get(Action::TokenList, tokens::list)]),
        ("/v1/audit", vec![get(Action::AuditList, audit::list)]),
        ("/v1/audit/verify", vec![get(Action::AuditVerify, audit::verify)]),
        ("/v1/tokens/cull", vec![post(Action::TokenCull, Takes::Json, tokens::cull)]),
        ("/v1/policy", vec![get(Action::PolicyShow, policy::show)]),
        ("/v1/policy/explain", vec![post(Action::PolicyShow, Takes::Json, policy::explain)]),
    ]
    .into_iter()
    .chain(identity_routes())
    .collect()
}

/// Those of Keystone's v2.0 API that there are here.
fn identity_routes() -> Vec<(&'static str, Vec<Operation>)> {
    use operator::identity::{tenants, tokens, users};
    const JSON: Takes = Takes::IdentityJson;
    vec![
        ("/v2.0/tokens", vec![Operation::open(&Method::POST, JSON, tokens::login)]),
        (
            "/v2.0/tokens/{token}",
            vec![
                get(Action::TokenValidate, tokens::validate),
                delete(Action::TokenRevokeOperator, tokens::revoke),
            ],
        ),
        (
            "/v2.0/users",
            vec![get(Action::UserList, users::list), post(Action::UserCreate, JSON, users::create)],
        ),
        (
            "/v2.0/users/{user}",
            vec![
                get(Action::UserShow, users::show),
                put(Action::UserChange, JSON, users::change),
                delete(Action::UserRemove, users::remove),
            ],
        ),
        (
            "/v2.0/users/{user}/OS-KSADM/password",
            vec![put(Action::UserPassword, JSON, users::set_password)],
        ),
        (
            "/v2.0/tenants",
            vec![
                get(Action::ProjectList, tenants::list),
                post(Action::ProjectCreate, JSON, tenants::create),
            ],
        ),
        (
            "/v2.0/tenants/{tenant}",
            vec![
                get(Action::ProjectShow, tenants::show),
                post(Action::ProjectChange, JSON, tenants::change),
                delete(Action::ProjectRemove, tenants::remove),
            ],
        ),
        (
            "/v2.0/tenants/{tenant}/users/{user}/roles",
            vec![get(Action::RoleList, tenants::list_roles)],
        ),
        (
            "/v2.0/tenants/{tenant}/users/{user}/roles/OS-KSADM/{role}",
            vec![
                put(Action::RoleGrant, Takes::Nothing, tenants::grant),
                delete(Action::RoleRevoke, tenants::ungrant),
            ],
        ),
    ]
}

macro_rules! methods {
    ($($name:ident $method:ident ($($takes:ident)?);)*) => {
        $(fn $name<F, Args>(action: Action, $($takes: Takes,)? handler: F) -> Operation
        where
            F: Handler<Args>,
            Args: FromRequest + 'static,
            F::Output: Responder + 'static,
        {
            let takes = methods!(@ $($takes)?);
            Operation::of(&Method::$method, action, takes, handler)
        })*
    };
    (@ $takes:ident) => { $takes };
    (@) => { Takes::Nothing };
}
methods! {
    get GET ();
    delete DELETE ();
    post POST (takes);
    put PUT (takes);
}

fn patch<F, Args>(action: Action, handler: F) -> Operation
where
    F: Handler<Args>,
    Args: FromRequest + 'static,
    F::Output: Responder + 'static,
{
    Operation::of(&Method::PATCH, action, Takes::Json, handler)
}

/// A path with its methods; any other is 405 and says which there are.
fn resource(path: &'static str, mut allow: Vec<&'static str>, routes: Vec<Route>) -> Resource {
    if allow.contains(&"GET") {
        allow.push("HEAD");
    }
    allow.sort_unstable();
    let allow = allow.join(", ");
    let resource = routes.into_iter().fold(web::resource(path), Resource::route);
    resource.default_service(web::to(move || {
        let allow = allow.clone();
        async move { Err::<actix_web::HttpResponse, _>(HttpError::method_not_allowed(allow)) }
    }))
}

async fn not_found() -> Result<actix_web::HttpResponse, HttpError> {
    Err(HttpError::not_found("there is nothing at this path"))
}
