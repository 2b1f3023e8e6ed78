//! Adding, importing, changing and removing nodes.

use std::collections::HashMap;

use serde_json::json;
use sha2::{Digest, Sha256};

use super::contents::Checked;
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
use crate::store::contents::{self as store, First};
use crate::store::{DbError, Tx, blobs, is_unique_violation, nodes, tokens};

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
        nodes::insert(&mut Tx { conn, now, has_logged: false }, project, &[(id, new)])
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

/// A line on its way into the database: its system id, and its contents with their digests.
struct Row {
    line: usize,
    id: SystemId,
    node: NewNode,
    contents: Vec<(ContentKind, Vec<u8>, [u8; 32])>,
}

impl Row {
    fn new(id: SystemId, line: ImportLine) -> Row {
        let vendor_data = line.vendor_data.map(|Checked(bytes)| bytes);
        let contents =
            [(ContentKind::UserData, line.user_data), (ContentKind::VendorData, vendor_data)];
        let digested = |(kind, bytes): (ContentKind, Option<Vec<u8>>)| {
            let bytes = bytes?;
            let sha256 = Sha256::digest(&bytes).into();
            Some((kind, bytes, sha256))
        };
        let contents = contents.into_iter().filter_map(digested).collect();
        Row { line: line.line, id, node: line.node, contents }
    }

    fn firsts(&self) -> impl Iterator<Item = First<'_>> {
        self.contents.iter().map(|(kind, bytes, sha256)| First {
            system_id: self.id.as_str(),
            kind: *kind,
            bytes,
            sha256,
        })
    }
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
    let lines: Vec<(SystemId, ImportLine)> = lines
        .into_iter()
        .map(|line| match line.node.system_id.clone() {
            Some(id) => Ok((id, line)),
            None => SystemId::parse(&app.mint.system_id()).map(|id| (id, line)),
        })
        .collect::<Result<_, _>>()
        .map_err(|why| Failure::Invalid(vec![Problem::new(why)]))?;
    // Nobody waits for the write while contents are hashed.
    let rows = tokio::task::spawn_blocking(move || {
        let mut rows: Vec<Row> = lines.into_iter().map(|(id, line)| Row::new(id, line)).collect();
        // In one order, so that two imports of the same nodes wait for each other and not in a
        // ring.
        rows.sort_by(|a, b| a.id.cmp(&b.id));
        rows
    });
    let rows = rows.await.map_err(|_| DbError::Ended)?;
    let auditor = app.auditor(by);
    app.db
        .write("import nodes", move |tx| {
            let there = There::find(tx, project, &rows)?;
            let (there, new): (Vec<Row>, Vec<Row>) =
                rows.into_iter().partition(|row| there.has(row));
            let mut imported = Imported { unchanged: there.len(), ..Imported::default() };
            // Row by row only to tell which lines are in conflict.
            let created: Vec<&Row> = if insert_all(tx, project, &new)? {
                new.iter().collect()
            } else {
                insert_each(tx, project, &new, &mut imported)?
            };
            imported.created = created.len();
            if !created.is_empty() {
                let detail = audit::batch(created.iter().map(|row| row.id.as_str()));
                auditor.note(tx, Action::NodeCreate, &Object::Project(project.0), &detail)?;
            }
            Ok(imported)
        })
        .await
}

/// Inserts all of them, or none when something is taken: then it says `false`.
fn insert_all(tx: &mut Tx, project: Id, rows: &[Row]) -> Result<bool, Failure> {
    use diesel::Connection;
    if rows.is_empty() {
        return Ok(true);
    }
    let new: Vec<_> = rows.iter().map(|row| (&row.id, &row.node)).collect();
    let now = tx.now;
    let inserted = tx
        .conn
        .transaction(|conn| nodes::insert(&mut Tx { conn, now, has_logged: false }, project, &new));
    match inserted {
        Err(error) if is_unique_violation(&error) => return Ok(false),
        inserted => inserted?,
    }
    store::append_first(tx, &rows.iter().flat_map(Row::firsts).collect::<Vec<_>>())?;
    Ok(true)
}

/// Inserts them one by one: a line may repeat another, or be in conflict.
fn insert_each<'r>(
    tx: &mut Tx,
    project: Id,
    rows: &'r [Row],
    imported: &mut Imported,
) -> Result<Vec<&'r Row>, Failure> {
    let mut created = Vec::new();
    let mut problems = Vec::new();
    for row in rows {
        match insert(tx, project, &row.id, &row.node)? {
            None => {
                store::append_first(tx, &row.firsts().collect::<Vec<_>>())?;
                created.push(row);
            }
            Some(_) if There::find(tx, project, std::slice::from_ref(row))?.has(row) => {
                imported.unchanged += 1;
            }
            Some(taken) => problems.push(Problem::line(row.line, taken)),
        }
    }
    problems.sort_by_key(|problem| problem.line);
    if problems.is_empty() { Ok(created) } else { Err(Failure::Invalid(problems)) }
}

/// What is there already of what lines name.
struct There {
    /// By system id, and for lines that leave it to us by hostname.
    nodes: HashMap<String, Node>,
    hostnames: HashMap<String, Node>,
    contents: HashMap<(ContentKind, String), Option<Vec<u8>>>,
}

impl There {
    fn find(tx: &mut Tx, project: Id, rows: &[Row]) -> Result<There, Failure> {
        let (named, unnamed): (Vec<&Row>, Vec<&Row>) =
            rows.iter().partition(|row| row.node.system_id.is_some());
        let ids: Vec<&str> = named.iter().map(|row| row.id.as_str()).collect();
        let folded: Vec<String> = unnamed.iter().map(|row| row.node.hostname.folded()).collect();
        let nodes = nodes::find_many(tx.conn, project, &ids, tx.now)?;
        let hostnames = if folded.is_empty() {
            Vec::new()
        } else {
            nodes::find_by_hostnames(tx.conn, project, &folded, tx.now)?
        };

        let ids: Vec<&str> =
            nodes.iter().chain(&hostnames).map(|node| node.system_id.as_str()).collect();
        let mut contents = HashMap::new();
        for kind in [ContentKind::UserData, ContentKind::VendorData] {
            let named = rows.iter().flat_map(|row| &row.contents).any(|(of, ..)| *of == kind);
            if named && !ids.is_empty() {
                let newest = store::find_newest_digests(tx.conn, &ids, kind)?;
                contents.extend(newest.into_iter().map(|(id, sha256)| ((kind, id), sha256)));
            }
        }
        Ok(There {
            nodes: nodes.into_iter().map(|node| (node.system_id.to_string(), node)).collect(),
            hostnames: hostnames.into_iter().map(|node| (node.hostname.folded(), node)).collect(),
            contents,
        })
    }

    /// Whether a line is there, just so. A line that leaves a content out says nothing about it.
    fn has(&self, row: &Row) -> bool {
        let new = &row.node;
        let there = match &new.system_id {
            Some(id) => self.nodes.get(id.as_str()),
            // A line that leaves the system id to us is known again by its hostname.
            None => self.hostnames.get(&new.hostname.folded()),
        };
        let Some(there) = there else { return false };
        let has = |(kind, _, sha256): &(ContentKind, Vec<u8>, [u8; 32])| {
            let newest = self.contents.get(&(*kind, there.system_id.to_string()));
            newest.and_then(Option::as_deref) == Some(sha256.as_slice())
        };
        there.hostname == new.hostname
            && there.macs == new.macs
            && there.ssh_keys == new.ssh_keys
            && there.labels == new.labels
            // Not the netboot flag: the node may have set its own since.
            && row.contents.iter().all(has)
    }
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
