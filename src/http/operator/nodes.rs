//! `/v1/{project}/nodes`.

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};

use super::guard::{Takes, require};
use super::{Paging, Query, is_strict, refuse_if, unknown_parameter};
use crate::actions::contents::Checked;
use crate::actions::nodes::{ImportLine, Imported};
use crate::actions::{self, NO_SUCH_NODE, Problem};
use crate::domain::content::{self, Finding};
use crate::domain::limits::Limits;
use crate::domain::node::{
    BootState, Hostname, Labels, Mac, NewNode, NodeChange, SshKey, SystemId, check_label,
};
use crate::domain::policy::Action;
use crate::http::Shared;
use crate::http::body::{self, Fields};
use crate::http::error::HttpError;
use crate::http::extract::{InProject, OnNode};
use crate::store::nodes as store;

/// Lines of one import, which is one transaction.
const MOST_LINES: usize = 10_000;

pub async fn list(
    shared: web::Data<Shared>,
    scope: InProject,
    query: Query,
) -> Result<HttpResponse, HttpError> {
    let mut problems = Vec::new();
    let (paging, rest) = Paging::take(query, shared.app.limits.page, &mut problems);
    let mut filter = store::Filter::default();
    for (name, value) in rest {
        match name.as_str() {
            "label" => match value.split_once('=') {
                Some((name, value)) if check_label(name, value).is_ok() => {
                    filter.labels.push((name.to_owned(), value.to_owned()));
                }
                _ => problems.push(Problem::field("label", "a label filter is NAME=VALUE")),
            },
            "state" => match BootState::parse(&value) {
                Ok(state) => filter.state = Some(state),
                Err(why) => problems.push(Problem::field("state", why)),
            },
            _ => problems.push(unknown_parameter("cursor, label, limit, state")),
        }
    }
    refuse_if(problems)?;
    let project = scope.project()?;
    let (after, limit) = (paging.after.clone(), paging.limit_and_one());
    let now = shared.app.clock.now();
    let list = move |conn: &mut _| store::list(conn, project, &filter, &after, limit, now);
    let (rows, until) = shared.app.db.read(list).await?;
    Ok(HttpResponse::Ok().json(paging.page_until(rows, |node| node.system_id.to_string(), until)))
}

/// One node as JSON, or many as newline-delimited JSON.
pub async fn create(
    shared: web::Data<Shared>,
    scope: InProject,
    path: web::Path<String>,
    query: Query,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, HttpError> {
    let app = &shared.app;
    let limits = &app.limits;
    if body::media_type(&request) == "application/json" {
        let mut fields = body::fields(&request, payload, limits).await?;
        let node = new_node(&mut fields);
        refuse_if(fields.finish())?;
        let node = node.ok_or_else(|| HttpError::invalid(Vec::new()))?;
        let project = scope.project()?;
        let node = actions::nodes::add(app, &scope.by, project, node).await?;
        let location = format!("/v1/{}/nodes/{}", path.into_inner(), node.system_id);
        return Ok(HttpResponse::Created().insert_header((header::LOCATION, location)).json(node));
    }
    let bytes = body::read(&request, payload, Takes::Nodes.most(limits)).await?;
    let limits = limits.clone();
    let strict = is_strict(query)?;
    let (lines, warnings) = web::block(move || import_lines(&bytes, &limits, strict))
        .await
        .map_err(|_| crate::store::DbError::Ended)?
        .map_err(HttpError::invalid)?;
    let project = scope.project()?;
    let imported = actions::nodes::import(app, &scope.by, project, lines).await?;
    Ok(HttpResponse::Ok().json(Imported { warnings, ..imported }))
}

fn new_node(fields: &mut Fields) -> Option<NewNode> {
    let system_id = fields.parsed("system_id", SystemId::parse);
    let hostname = fields.required("hostname", Hostname::parse);
    let macs = fields.list("macs", Mac::parse).unwrap_or_default();
    let ssh_keys = fields.list("ssh_keys", SshKey::parse).unwrap_or_default();
    let labels = fields.map("labels", Labels::parse).unwrap_or_default();
    let netboot = fields.boolean("netboot").unwrap_or(true);
    Some(NewNode { system_id, hostname: hostname?, macs, ssh_keys, labels, netboot })
}

fn import_lines(
    bytes: &[u8],
    limits: &Limits,
    strict: bool,
) -> Result<(Vec<ImportLine>, Vec<Problem>), Vec<Problem>> {
    let values = body::parse_lines(bytes, limits.json_depth)?;
    if values.len() > MOST_LINES {
        return Err(vec![Problem::new(format!("send at most {MOST_LINES} lines at once"))]);
    }
    let mut lines = Vec::with_capacity(values.len());
    let mut problems = Vec::new();
    let mut warnings = Vec::new();
    for (line, value) in values {
        match import_line(line, value, limits) {
            Ok((read, found)) => {
                lines.push(read);
                let to = if strict { &mut problems } else { &mut warnings };
                to.extend(found);
            }
            Err(wrong) => problems.extend(wrong.into_iter().map(|problem| problem.at_line(line))),
        }
    }
    if problems.is_empty() { Ok((lines, warnings)) } else { Err(problems) }
}

/// A line, and what cloud-init would silently ignore in its user-data.
fn import_line(
    line: usize,
    value: serde_json::Value,
    limits: &Limits,
) -> Result<(ImportLine, Vec<Problem>), Vec<Problem>> {
    let mut fields = Fields::new(value).map_err(|problem| vec![problem])?;
    let node = new_node(&mut fields);
    let user_data = fields.bytes("user_data", limits.content_bytes);
    let vendor_data = fields.bytes("vendor_data", limits.content_bytes);
    let mut problems = fields.finish();
    let found = |field: &'static str, findings: Vec<Finding>| {
        let problem =
            move |finding| Problem { field: Some(field), ..Problem::from(finding).at_line(line) };
        findings.into_iter().map(problem).collect::<Vec<_>>()
    };
    let vendor_data = match vendor_data.map(|bytes| Checked::vendor_data(&bytes)).transpose() {
        Ok(checked) => checked,
        Err(findings) => {
            problems.extend(found("vendor_data", findings));
            None
        }
    };
    let ignored =
        found("user_data", user_data.as_deref().map(content::user_data).unwrap_or_default());
    match node {
        Some(node) if problems.is_empty() => {
            Ok((ImportLine { line, node, user_data, vendor_data }, ignored))
        }
        _ => Err(problems),
    }
}

pub async fn show(shared: web::Data<Shared>, scope: OnNode) -> Result<HttpResponse, HttpError> {
    let (project, system_id) = scope.node()?;
    let now = shared.app.clock.now();
    let node = shared.app.db.read(move |conn| store::find(conn, project, &system_id, now)).await?;
    Ok(HttpResponse::Ok().json(node.ok_or(NO_SUCH_NODE)?))
}

pub async fn change(
    shared: web::Data<Shared>,
    scope: OnNode,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, HttpError> {
    let mut fields = body::fields(&request, payload, &shared.app.limits).await?;
    let change = NodeChange {
        hostname: fields.parsed("hostname", Hostname::parse),
        macs: fields.list("macs", Mac::parse),
        ssh_keys: fields.list("ssh_keys", SshKey::parse),
        labels: fields.map("labels", Labels::parse),
        netboot: fields.boolean("netboot"),
        project: fields.text("project"),
    };
    refuse_if(fields.finish())?;
    if change.project.is_some() {
        require(&shared.app, &scope.by.caller, Action::NodeMove, &scope.target)?;
    }
    let (project, system_id) = scope.node()?;
    let node = actions::nodes::change(&shared.app, &scope.by, project, system_id, change).await?;
    Ok(HttpResponse::Ok().json(node))
}

pub async fn remove(shared: web::Data<Shared>, scope: OnNode) -> Result<HttpResponse, HttpError> {
    let (project, system_id) = scope.node()?;
    actions::nodes::remove(&shared.app, &scope.by, project, system_id).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// The node is to be installed anew.
pub async fn reprovision(
    shared: web::Data<Shared>,
    scope: OnNode,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, HttpError> {
    let fields = body::optional_fields(&request, payload, &shared.app.limits).await?;
    refuse_if(fields.finish())?;
    let (project, system_id) = scope.node()?;
    let node = actions::nodes::reprovision(&shared.app, &scope.by, project, system_id).await?;
    Ok(HttpResponse::Ok().json(node))
}
