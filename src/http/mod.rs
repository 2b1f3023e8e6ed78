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

use actix_web::web::{self, ServiceConfig};
use actix_web::{Resource, Route, guard};

use crate::actions::{App, Problem};
use error::HttpError;

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

/// The operator plane as the admin socket has it: whoever may open it is admin.
pub fn operator_plane(config: &mut ServiceConfig) {
    // A path or query that cannot be read at all is answered like every other mistake.
    let unreadable = || HttpError::invalid(vec![Problem::new("the URL cannot be read")]);
    config.app_data(web::PathConfig::default().error_handler(move |_, _| unreadable().into()));
    config.app_data(web::QueryConfig::default().error_handler(move |_, _| unreadable().into()));
    for (path, methods) in operator_routes() {
        config.service(resource(path, methods));
    }
    observer_routes(config);
    config.default_service(web::to(not_found));
}

/// The admin listener over TCP: the observer's routes. There are no operators yet, so everything
/// else is 401.
pub fn observer_plane(config: &mut ServiceConfig) {
    observer_routes(config);
    config.default_service(web::to(unauthenticated));
}

fn observer_routes(config: &mut ServiceConfig) {
    config.service(resource("/healthz", vec![("GET", get().to(observer::healthz))]));
    config.service(resource("/readyz", vec![("GET", get().to(observer::readyz))]));
    config.service(resource("/version", vec![("GET", get().to(observer::version))]));
}

type Methods = Vec<(&'static str, Route)>;

/// Every route of the operator plane.
#[must_use]
pub fn operator_routes() -> Vec<(&'static str, Methods)> {
    use operator::{contents, nodes, tokens};
    use web::{delete, patch, post, put};
    vec![
        (
            "/v1/{project}/nodes",
            vec![("GET", get().to(nodes::list)), ("POST", post().to(nodes::create))],
        ),
        (
            "/v1/{project}/nodes/{system_id}",
            vec![
                ("GET", get().to(nodes::show)),
                ("PATCH", patch().to(nodes::change)),
                ("DELETE", delete().to(nodes::remove)),
            ],
        ),
        (
            "/v1/{project}/nodes/{system_id}/user-data",
            vec![
                ("GET", get().to(contents::show_user_data)),
                ("PUT", put().to(contents::set_user_data)),
                ("DELETE", delete().to(contents::clear_user_data)),
            ],
        ),
        (
            "/v1/{project}/nodes/{system_id}/user-data/versions",
            vec![("GET", get().to(contents::list_user_data))],
        ),
        (
            "/v1/{project}/nodes/{system_id}/vendor-data",
            vec![
                ("GET", get().to(contents::show_vendor_data)),
                ("PUT", put().to(contents::set_vendor_data)),
                ("DELETE", delete().to(contents::clear_vendor_data)),
            ],
        ),
        (
            "/v1/{project}/nodes/{system_id}/vendor-data/versions",
            vec![("GET", get().to(contents::list_vendor_data))],
        ),
        (
            "/v1/{project}/nodes/{system_id}/token",
            vec![
                ("POST", post().to(tokens::get)),
                ("GET", get().to(tokens::show)),
                ("DELETE", delete().to(tokens::revoke)),
            ],
        ),
        ("/v1/{project}/nodes/{system_id}/preseed", vec![("POST", post().to(tokens::preseed))]),
        ("/v1/{project}/tokens", vec![("POST", post().to(tokens::get_many))]),
        ("/v1/tokens", vec![("GET", get().to(tokens::list))]),
        ("/v1/tokens/cull", vec![("POST", post().to(tokens::cull))]),
    ]
}

/// GET, and HEAD with it.
fn get() -> Route {
    web::route().guard(guard::Any(guard::Get()).or(guard::Head()))
}

/// A path with its methods; any other is 405 and says which there are.
fn resource(path: &'static str, methods: Methods) -> Resource {
    let mut allow: Vec<&str> = methods.iter().map(|(name, _)| *name).collect();
    if allow.contains(&"GET") {
        allow.push("HEAD");
    }
    allow.sort_unstable();
    let allow = allow.join(", ");
    let resource = methods.into_iter().fold(web::resource(path), |r, (_, route)| r.route(route));
    resource.default_service(web::to(move || {
        let allow = allow.clone();
        async move { Err::<actix_web::HttpResponse, _>(HttpError::method_not_allowed(allow)) }
    }))
}

async fn not_found() -> Result<actix_web::HttpResponse, HttpError> {
    Err(HttpError::not_found("there is nothing at this path"))
}

async fn unauthenticated() -> Result<actix_web::HttpResponse, HttpError> {
    Err(HttpError::unauthenticated())
}
