//! Adding, importing, changing and removing nodes.

use serde_json::json;
use sha2::{Digest, Sha256};

use super::contents::{self, Checked};
use super::{App, Failure, NO_SUCH_NODE, Problem, audit};
use crate::domain::audit::Object;
use crate::domain::boot::Step;
use crate::domain::credentials::EndedBy;
use crate::domain::identity::{By, id_text};
use crate::domain::metadata::ContentKind;
use crate::domain::node::{NewNode, Node, NodeChange, SystemId};
use crate::domain::policy::Action;
use crate::store::boots::{self, Move};
use crate::store::columns::Id;
use crate::store::{DbConnection, Tx, blobs, is_unique_violation, nodes, tokens};

const SYSTEM_ID_TAKEN: &str = "this system id is taken: show the node, or choose another";
const HOSTNAME_TAKEN: &str =
    "another node of this project has this hostname (hostnames are compared without case)";

/// Adds one node.
///
/// # Errors
/// [`Failure::Conflict`] when its system id or hostname is taken.
pub async fn add(app: &App, by: &By, project: Id, new: NewNode) -> Result<Node, Failure> {
    let system_id = new.system_id.clone();
    // A made-up id that is taken is rare; five in a row are not chance.
    let ids: Vec<SystemId> = match system_id {
        Some(id) => vec![id],
        None => (0..5).filter_map(|_| SystemId::parse(&app.mint.system_id()).ok()).collect(),
    };
    let auditor = app.auditor(by);
    app.db
        .write("add node", move |tx| {
            let mut refused = Failure::Conflict(SYSTEM_ID_TAKEN.into());
            for id in ids {
                match insert(tx, project, &id, &new)? {
                    None => {
                        let node = nodes::find(tx.conn, project, id.as_str(), tx.now)?;
                        let node = node.ok_or(NO_SUCH_NODE)?;
                        let detail = json!({"project": id_text(project.0)});
                        let object = Object::Node(id.to_string());
                        auditor.note(tx, Action::NodeCreate, &object, &detail)?;
                        return Ok(node);
                    }
                    Some(taken) => refused = Failure::Conflict(taken.into()),
                }
            }
            Err(refused)
        })
        .await
}

/// Inserts in a savepoint, since a violation would end the whole transaction on PostgreSQL.
/// Returns what was taken.
fn insert(
    tx: &mut Tx,
    project: Id,
    id: &SystemId,
    new: &NewNode,
) -> Result<Option<&'static str>, Failure> {
    use diesel::Connection;
    let now = tx.now;
    let inserted = tx.conn.transaction(|conn| {
        nodes::insert(&mut Tx { conn, now, has_logged: false }, project, id, new)
    });
    match inserted {
        Ok(()) => Ok(None),
        Err(error) if is_unique_violation(&error) => {
            let taken = nodes::exists(tx.conn, id.as_str())?;
            Ok(Some(if taken { SYSTEM_ID_TAKEN } else { HOSTNAME_TAKEN }))
        }
        Err(error) => Err(error.into()),
    }
}

/// One line of an import, already read and checked.
pub struct ImportLine {
    pub line: usize,
    pub node: NewNode,
    pub user_data: Option<Vec<u8>>,
    pub vendor_data: Option<Checked>,
}

/// What an import did: a line that is already there, just so, is left alone, so that an import
/// that was cut short can be started again.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, schemars::JsonSchema)]
pub struct Imported {
    pub created: usize,
    pub unchanged: usize,
    /// User-data that cloud-init would silently ignore.
    pub warnings: Vec<Problem>,
}

/// Adds many nodes with their contents, all or none.
///
/// # Errors
/// [`Failure::Invalid`] with every line that is in conflict.
pub async fn import(
    app: &App,
    by: &By,
    project: Id,
    lines: Vec<ImportLine>,
) -> Result<Imported, Failure> {
    let mut lines: Vec<(SystemId, ImportLine)> = lines
        .into_iter()
        .map(|line| match line.node.system_id.clone() {
            Some(id) => Ok((id, line)),
            None => SystemId::parse(&app.mint.system_id()).map(|id| (id, line)),
        })
        .collect::<Result<_, _>>()
        .map_err(|why| Failure::Invalid(vec![Problem::new(why)]))?;
    // In one order, so that two imports of the same nodes wait for each other and not in a ring.
    lines.sort_by(|(a, _), (b, _)| a.cmp(b));
    let auditor = app.auditor(by);
    app.db
        .write("import nodes", move |tx| {
            let mut created = Vec::new();
            let mut imported = Imported::default();
            let mut problems = Vec::new();
            for (id, line) in lines {
                match insert(tx, project, &id, &line.node)? {
                    None => {
                        store_contents(tx, &id, &line)?;
                        created.push(id);
                    }
                    Some(_) if is_there(tx, project, &line)? => imported.unchanged += 1,
                    Some(taken) => problems.push(Problem::line(line.line, taken)),
                }
            }
            problems.sort_by_key(|problem| problem.line);
            if !problems.is_empty() {
                return Err(Failure::Invalid(problems));
            }
            imported.created = created.len();
            if !created.is_empty() {
                let detail = audit::batch(created.iter().map(SystemId::as_str));
                auditor.note(tx, Action::NodeCreate, &Object::Project(project.0), &detail)?;
            }
            Ok(imported)
        })
        .await
}

fn store_contents(tx: &mut Tx, id: &SystemId, line: &ImportLine) -> Result<(), Failure> {
    if let Some(bytes) = &line.user_data {
        contents::append_first(tx, id.as_str(), ContentKind::UserData, bytes)?;
    }
    if let Some(Checked(bytes)) = &line.vendor_data {
        contents::append_first(tx, id.as_str(), ContentKind::VendorData, bytes)?;
    }
    Ok(())
}

fn is_there(tx: &mut Tx, project: Id, line: &ImportLine) -> Result<bool, Failure> {
    let (conn, now) = (&mut *tx.conn, tx.now);
    // A line that leaves the system id to us is known again by its hostname.
    let there = match &line.node.system_id {
        Some(id) => nodes::find(conn, project, id.as_str(), now)?,
        None => nodes::find_by_hostname(conn, project, &line.node.hostname, now)?,
    };
    let Some(there) = there else { return Ok(false) };
    let id = &there.system_id;
    let new = &line.node;
    let same = there.hostname == new.hostname
        && there.macs == new.macs
        && there.ssh_keys == new.ssh_keys
        && there.labels == new.labels
        && there.netboot == new.netboot;
    let vendor_data = line.vendor_data.as_ref().map(|Checked(bytes)| bytes);
    Ok(same
        && has(conn, id, ContentKind::UserData, line.user_data.as_ref())?
        && has(conn, id, ContentKind::VendorData, vendor_data)?)
}

/// A line that leaves a content out says nothing about it.
fn has(
    conn: &mut DbConnection,
    id: &SystemId,
    kind: ContentKind,
    bytes: Option<&Vec<u8>>,
) -> Result<bool, Failure> {
    let Some(bytes) = bytes else { return Ok(true) };
    let newest = crate::store::contents::find_newest(conn, id.as_str(), kind)?;
    let digest = newest.and_then(|version| version.sha256);
    Ok(digest.as_deref() == Some(Sha256::digest(bytes).as_slice()))
}

/// Changes what `change` names. Moving a node to another project ends its tokens: the old
/// project's hands may still hold them (LP 1507586).
///
/// # Errors
/// [`Failure::NotFound`] for the node or the new project, [`Failure::Conflict`] for a hostname.
pub async fn change(
    app: &App,
    by: &By,
    project: Id,
    system_id: String,
    change: NodeChange,
) -> Result<Node, Failure> {
    let to = match change.project.clone() {
        None => None,
        Some(name) => Some(app.project(name).await?),
    };
    let auditor = app.auditor(by);
    app.db
        .write("change node", move |tx| {
            if nodes::lock(tx, project, std::slice::from_ref(&system_id))?.is_empty() {
                return Err(NO_SUCH_NODE);
            }
            let id = SystemId::parse(&system_id).map_err(|_| NO_SUCH_NODE)?;
            let before = nodes::find(tx.conn, project, &system_id, tx.now)?.ok_or(NO_SUCH_NODE)?;
            if to.is_some_and(|to| to != project) {
                tokens::end_for_node(tx, &system_id, EndedBy::Project)?;
                // What it was on its way to there is over.
                let step = Step::TokenChanged { at: tx.now };
                boots::advance(tx, &[Move { system_id: &system_id, token: None, step }])?;
            }
            match nodes::update(tx, &id, &change, to) {
                Err(error) if is_unique_violation(&error) => {
                    return Err(Failure::Conflict(HOSTNAME_TAKEN.into()));
                }
                changed => changed?,
            }
            let into = to.unwrap_or(project);
            let node = nodes::find(tx.conn, into, &system_id, tx.now)?.ok_or(NO_SUCH_NODE)?;
            if node != before {
                let detail = json!({
                    "fields": node.differs_in(&before),
                    "project": id_text(project.0),
                    "to_project": (into != project).then(|| id_text(into.0)),
                });
                let moved = into != project;
                let verb = if moved { Action::NodeMove } else { Action::NodeChange };
                auditor.note(tx, verb, &Object::Node(system_id), &detail)?;
            }
            Ok(node)
        })
        .await
}

/// Removes a node with its contents and ends its tokens.
///
/// # Errors
/// [`Failure::NotFound`] when the project has no such node.
pub async fn remove(app: &App, by: &By, project: Id, system_id: String) -> Result<(), Failure> {
    let auditor = app.auditor(by);
    app.db
        .write("remove node", move |tx| {
            if nodes::lock(tx, project, std::slice::from_ref(&system_id))?.is_empty() {
                return Err(NO_SUCH_NODE);
            }
            let ended = tokens::end_for_node(tx, &system_id, EndedBy::Removal)?;
            let digests = blobs::list_digests(tx.conn, &system_id)?;
            nodes::delete(tx, &system_id)?;
            blobs::delete_unused(tx, &digests)?;
            let detail = json!({"project": id_text(project.0), "tokens_ended": ended});
            auditor.note(tx, Action::NodeRemove, &Object::Node(system_id), &detail)?;
            Ok(())
        })
        .await
}

/// Makes a node ready to be installed anew: its tokens end, and it gets a new instance-id, since
/// cloud-init runs nothing again with only one of the two changed (`check_instance_id`).
///
/// # Errors
/// [`Failure::NotFound`] when the project has no such node.
pub async fn reprovision(
    app: &App,
    by: &By,
    project: Id,
    system_id: String,
) -> Result<Node, Failure> {
    let auditor = app.auditor(by);
    app.db
        .write("reprovision node", move |tx| {
            if nodes::lock(tx, project, std::slice::from_ref(&system_id))?.is_empty() {
                return Err(NO_SUCH_NODE);
            }
            let ended = tokens::end_for_node(tx, &system_id, EndedBy::Reprovision)?;
            nodes::update_reprovisioned(tx, &system_id)?;
            let step = Step::Reprovisioned { at: tx.now };
            boots::advance(tx, &[Move { system_id: &system_id, token: None, step }])?;
            let node = nodes::find(tx.conn, project, &system_id, tx.now)?.ok_or(NO_SUCH_NODE)?;
            let detail = json!({
                "project": id_text(project.0),
                "instance_id": node.instance_id,
                "tokens_ended": ended,
            });
            auditor.note(tx, Action::NodeReprovision, &Object::Node(system_id), &detail)?;
            Ok(node)
        })
        .await
}
