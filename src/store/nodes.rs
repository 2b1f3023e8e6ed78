//! Nodes and their labels.

use std::collections::BTreeSet;

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use diesel::result::OptionalEmptyChangesetExtension;
use jiff::Timestamp;

use super::bulk::{self, NodeRow};
use super::columns::{Id, Micros};
use super::schema::{boots, node_keys, node_labels, nodes, projects};
use super::{DbConnection, Tx, pool};
use crate::domain::node::{
    BootState, Hostname, Labels, Mac, NewNode, Node, NodeChange, SshKey, SystemId, instance_id,
};

type Row = (
    String,
    String,
    String,
    String,
    String,
    bool,
    i32,
    Micros,
    String,
    Option<Id>,
    Option<(String, Option<Micros>)>,
);

macro_rules! rows {
    () => {
        nodes::table
            .inner_join(projects::table)
            .left_join(
                node_keys::table
                    .on(node_keys::system_id.eq(nodes::system_id).and(node_keys::state.eq("live"))),
            )
            .left_join(boots::table)
            .select(columns!())
    };
}

macro_rules! columns {
    () => {
        (
            nodes::system_id,
            nodes::hostname,
            nodes::macs,
            nodes::ssh_keys,
            nodes::labels,
            nodes::netboot,
            nodes::reprovisions,
            nodes::created_at,
            projects::name,
            node_keys::token_id.nullable(),
            (boots::state, boots::fails_at).nullable(),
        )
    };
}

fn node(row: Row, now: Timestamp) -> QueryResult<Node> {
    let (
        system_id,
        hostname,
        macs,
        ssh_keys,
        labels,
        netboot,
        reprovisions,
        created_at,
        project,
        token,
        boot,
    ) = row;
    let system_id = SystemId::parse(&system_id).map_err(broken)?;
    Ok(Node {
        instance_id: instance_id(&system_id, reprovisions),
        system_id,
        hostname: Hostname::parse(&hostname).map_err(broken)?,
        macs: texts(&macs, Mac::parse)?,
        ssh_keys: texts(&ssh_keys, SshKey::parse)?,
        labels: Labels::parse(json(&labels)?).map_err(broken)?,
        project,
        netboot,
        boot_state: super::boots::state(token.is_some(), boot, now)?,
        created_at: created_at.into(),
    })
}

/// A row that breaks its word is our trouble, never "there is none".
fn broken(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> diesel::result::Error {
    diesel::result::Error::DeserializationError(why.into())
}

fn json<T: serde::de::DeserializeOwned>(text: &str) -> QueryResult<T> {
    serde_json::from_str(text).map_err(broken)
}

fn texts<T>(text: &str, parse: impl Fn(&str) -> Result<T, String>) -> QueryResult<Vec<T>> {
    json::<Vec<String>>(text)?.iter().map(|text| parse(text).map_err(broken)).collect()
}

/// The keys of a row that authentication read.
pub fn ssh_keys(column: &str) -> QueryResult<Vec<SshKey>> {
    texts(column, SshKey::parse)
}

fn text<T: serde::Serialize>(value: &T) -> QueryResult<String> {
    serde_json::to_string(value).map_err(|e| diesel::result::Error::SerializationError(e.into()))
}

/// A node as it is at `now`: its boot state may change with the clock alone.
pub fn find(
    conn: &mut DbConnection,
    project: Id,
    system_id: &str,
    now: Timestamp,
) -> QueryResult<Option<Node>> {
    rows!()
        .filter(nodes::system_id.eq(system_id))
        .filter(nodes::project_id.eq(project))
        .first::<Row>(conn)
        .optional()?
        .map(|row| node(row, now))
        .transpose()
}

/// Those of these nodes that are in the project, in any order.
pub fn find_many(
    conn: &mut DbConnection,
    project: Id,
    system_ids: &[&str],
    now: Timestamp,
) -> QueryResult<Vec<Node>> {
    // Here and below the project is looked at afterwards: PostgreSQL, with a plan from when there
    // were few nodes, would go through all of the project's to find these.
    let rows: Vec<(Id, Row)> = rows!()
        .filter(nodes::system_id.eq_any(system_ids))
        .select((nodes::project_id, columns!()))
        .load(conn)?;
    let mine = rows.into_iter().filter(|(of, _)| *of == project);
    mine.map(|(_, row)| node(row, now)).collect()
}

/// The nodes of these hostnames, which are folded, in any order.
pub fn find_by_hostnames(
    conn: &mut DbConnection,
    project: Id,
    hostnames: &[String],
    now: Timestamp,
) -> QueryResult<Vec<Node>> {
    rows!()
        .filter(nodes::hostname_folded.eq_any(hostnames))
        .filter(nodes::project_id.eq(project))
        .load::<Row>(conn)?
        .into_iter()
        .map(|row| node(row, now))
        .collect()
}

/// What policy knows of a node beside its project.
pub fn find_policy(
    conn: &mut DbConnection,
    project: Id,
    system_id: &str,
) -> QueryResult<Option<(String, Labels)>> {
    let row: Option<(String, String)> = nodes::table
        .filter(nodes::system_id.eq(system_id))
        .filter(nodes::project_id.eq(project))
        .select((nodes::hostname, nodes::labels))
        .first(conn)
        .optional()?;
    let Some((hostname, labels)) = row else { return Ok(None) };
    Ok(Some((hostname, Labels::parse(json(&labels)?).map_err(broken)?)))
}

/// The same, and the project it is in, wherever that is.
pub fn find_place(
    conn: &mut DbConnection,
    system_id: &str,
) -> QueryResult<Option<(Id, String, Labels)>> {
    let project: Option<Id> =
        nodes::table.find(system_id).select(nodes::project_id).first(conn).optional()?;
    let Some(project) = project else { return Ok(None) };
    let found = find_policy(conn, project, system_id)?;
    Ok(found.map(|(hostname, labels)| (project, hostname, labels)))
}

/// Whether any project has a node of this system id.
pub fn exists(conn: &mut DbConnection, system_id: &str) -> QueryResult<bool> {
    let count: i64 =
        nodes::table.filter(nodes::system_id.eq(system_id)).count().get_result(conn)?;
    Ok(count > 0)
}

/// Which nodes to list.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// All of them must be on the node.
    pub labels: Vec<(String, String)>,
    pub state: Option<BootState>,
}

impl Filter {
    fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.state.is_none()
    }
}

/// Keys that one look goes through, however few of the nodes are asked for: a page takes no longer
/// in a larger fleet.
const KEYS: i64 = 10_000;

/// Nodes of a project by system id, and where to go on from when the look did not reach the end;
/// `after` is where the one before came to.
pub fn list(
    conn: &mut DbConnection,
    project: Id,
    filter: &Filter,
    after: &str,
    limit: i64,
    now: Timestamp,
) -> QueryResult<(Vec<Node>, Option<String>)> {
    if filter.is_empty() {
        let rows: Vec<Row> = rows!()
            .filter(nodes::project_id.eq(project))
            .filter(nodes::system_id.gt(after))
            .order(nodes::system_id)
            .limit(limit)
            .load(conn)?;
        let listed = rows.into_iter().map(|row| node(row, now)).collect::<QueryResult<_>>()?;
        return Ok((listed, None));
    }
    let place = Place { project, after, limit, now };
    let found = match (filter.labels.as_slice(), filter.state) {
        ([first, more @ ..], state) => list_labelled(conn, &place, first, more, state)?,
        ([], None | Some(BootState::New | BootState::Issued)) => {
            list_untouched(conn, &place, filter.state)?
        }
        ([], Some(BootState::Failed)) => {
            let failed = list_in_state(conn, &place, BootState::Failed)?;
            failed.merge(list_late(conn, &place)?, limit)
        }
        ([], Some(state)) => list_in_state(conn, &place, state)?,
    };
    let ids: Vec<&str> = found.ids.iter().map(String::as_str).collect();
    let mut listed = find_many(conn, project, &ids, now)?;
    // Some may have gone on since the look.
    listed.retain(|node| filter.state.is_none_or(|state| node.boot_state == state));
    listed.sort_unstable_by(|a, b| a.system_id.cmp(&b.system_id));
    let is_full = i64::try_from(found.ids.len()).is_ok_and(|found| found >= limit);
    let last = if is_full { found.ids.last().cloned() } else { found.until };
    Ok((listed, last))
}

/// Which page is asked for.
struct Place<'p> {
    project: Id,
    after: &'p str,
    limit: i64,
    now: Timestamp,
}

/// What a look at a stretch of keys found, and the last of them; none when it was the last.
struct Found {
    ids: Vec<String>,
    until: Option<String>,
}

impl Found {
    /// Both together, as far as both have looked.
    fn merge(self, other: Found, limit: i64) -> Found {
        let until = match (self.until, other.until) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        let mut ids = [self.ids, other.ids].concat();
        ids.retain(|id| until.as_ref().is_none_or(|until| id <= until));
        ids.sort_unstable();
        ids.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        Found { ids, until }
    }
}

/// Behind every system id, which are letters, digits, '.', '_' and '-'.
const LAST: &str = "~";

/// The last of the next keys of a query that is in their order.
macro_rules! find_end {
    ($conn:expr, $keys:expr) => {
        $keys.offset(KEYS - 1).limit(1).first::<String>($conn).optional()
    };
}

macro_rules! is_late {
    ($now:expr) => {
        boots::fails_at.is_not_null().and(boots::fails_at.le(Micros::from($now)).assume_not_null())
    };
}

/// Narrows a query over nodes, their live tokens and their boots to a state.
macro_rules! in_state {
    ($query:expr, $state:expr, $now:expr) => {{
        let late = is_late!($now);
        let unmoved = boots::state.is_null().or(boots::state.eq("issued").assume_not_null());
        match $state {
            None => $query,
            Some(BootState::New) => $query.filter(node_keys::token_id.is_null()).filter(unmoved),
            Some(BootState::Issued) => {
                $query.filter(node_keys::token_id.is_not_null()).filter(unmoved)
            }
            Some(BootState::Failed) => {
                $query.filter(boots::state.eq("failed").assume_not_null().or(late))
            }
            Some(state) => $query
                .filter(boots::state.eq(state.as_str()).assume_not_null())
                .filter(diesel::dsl::not(late)),
        }
    }};
}

macro_rules! with_token_and_boot {
    ($nodes:expr) => {
        $nodes
            .left_join(
                node_keys::table
                    .on(node_keys::system_id.eq(nodes::system_id).and(node_keys::state.eq("live"))),
            )
            .left_join(boots::table.on(boots::system_id.eq(nodes::system_id)))
    };
}

/// Those of the next nodes that nothing has been heard of.
fn list_untouched(
    conn: &mut DbConnection,
    place: &Place,
    state: Option<BootState>,
) -> QueryResult<Found> {
    let mine = nodes::table
        .filter(nodes::project_id.eq(place.project))
        .filter(nodes::system_id.gt(place.after))
        .order(nodes::system_id)
        .select(nodes::system_id);
    let until = find_end!(conn, mine)?;
    let query = with_token_and_boot!(nodes::table)
        .filter(nodes::project_id.eq(place.project))
        .filter(nodes::system_id.gt(place.after))
        .filter(nodes::system_id.le(until.as_deref().unwrap_or(LAST)))
        .order(nodes::system_id)
        .limit(place.limit)
        .select(nodes::system_id)
        .into_boxed();
    let ids = in_state!(query, state, place.now).load(conn)?;
    Ok(Found { ids, until })
}

/// Those of the next nodes with one label that are what else is asked for.
fn list_labelled(
    conn: &mut DbConnection,
    place: &Place,
    (name, value): &(String, String),
    more: &[(String, String)],
    state: Option<BootState>,
) -> QueryResult<Found> {
    let labelled = node_labels::table
        .filter(node_labels::name.eq(name))
        .filter(node_labels::value.eq(value))
        .filter(node_labels::system_id.gt(place.after))
        .order(node_labels::system_id)
        .select(node_labels::system_id);
    let until = find_end!(conn, labelled)?;
    let joined =
        node_labels::table.inner_join(nodes::table.on(nodes::system_id.eq(node_labels::system_id)));
    let mut query = with_token_and_boot!(joined)
        .filter(node_labels::name.eq(name))
        .filter(node_labels::value.eq(value))
        .filter(node_labels::system_id.gt(place.after))
        .filter(node_labels::system_id.le(until.as_deref().unwrap_or(LAST)))
        .filter(nodes::project_id.eq(place.project))
        .order(node_labels::system_id)
        .limit(place.limit)
        .select(node_labels::system_id)
        .into_boxed();
    let other = diesel::alias!(node_labels as other);
    for (name, value) in more {
        let too = other
            .filter(other.field(node_labels::system_id).eq(nodes::system_id))
            .filter(other.field(node_labels::name).eq(name))
            .filter(other.field(node_labels::value).eq(value));
        query = query.filter(diesel::dsl::exists(too));
    }
    let ids = in_state!(query, state, place.now).load(conn)?;
    Ok(Found { ids, until })
}

macro_rules! boots_of {
    ($place:expr, $boots:expr, $until:expr) => {{
        // No join: it could begin with all nodes of the project.
        let mine = nodes::table
            .filter(nodes::system_id.eq(boots::system_id))
            .filter(nodes::project_id.eq($place.project));
        $boots
            .filter(boots::system_id.gt($place.after))
            .filter(boots::system_id.le($until))
            .filter(diesel::dsl::exists(mine))
            .order(boots::system_id)
            .limit($place.limit)
            .select(boots::system_id)
    }};
}

/// Those of the next nodes in a state whose deadline has not passed.
fn list_in_state(conn: &mut DbConnection, place: &Place, state: BootState) -> QueryResult<Found> {
    let in_state = boots::table.filter(boots::state.eq(state.as_str()));
    let keys = in_state.filter(boots::system_id.gt(place.after)).order(boots::system_id);
    let until = find_end!(conn, keys.select(boots::system_id))?;
    let ids = boots_of!(place, in_state, until.as_deref().unwrap_or(LAST))
        .filter(diesel::dsl::not(is_late!(place.now)))
        .load(conn)?;
    Ok(Found { ids, until })
}

/// Those of the next nodes with a deadline that have missed it.
fn list_late(conn: &mut DbConnection, place: &Place) -> QueryResult<Found> {
    let waiting = boots::table.filter(boots::fails_at.is_not_null());
    let keys = waiting.filter(boots::system_id.gt(place.after)).order(boots::system_id);
    let until = find_end!(conn, keys.select(boots::system_id))?;
    let ids = boots_of!(place, waiting, until.as_deref().unwrap_or(LAST))
        .filter(boots::fails_at.le(Micros::from(place.now)).assume_not_null())
        .load(conn)?;
    Ok(Found { ids, until })
}

/// Those of these nodes that are in the project, and holds their rows until the transaction ends,
/// so that two changes to one node take turns. On `SQLite` the writer has the whole database
/// already.
pub fn lock(tx: &mut Tx, project: Id, system_ids: &[String]) -> QueryResult<Vec<String>> {
    let named = nodes::table
        .filter(nodes::system_id.eq_any(system_ids))
        .order(nodes::system_id)
        .select((nodes::system_id, nodes::project_id));
    let known: Vec<(String, Id)> = match tx.conn {
        DbConnection::Sqlite(conn) => named.load(conn)?,
        DbConnection::Postgres(conn) => named.for_no_key_update().load(conn)?,
    };
    let mine = known.into_iter().filter(|(_, of)| *of == project);
    Ok(mine.map(|(system_id, _)| system_id).collect())
}

/// Holds the rows of these nodes, in one order, until the transaction ends. On `SQLite` the writer
/// has the whole database already.
pub fn hold(tx: &mut Tx, system_ids: &[&str]) -> QueryResult<()> {
    match tx.conn {
        DbConnection::Sqlite(_) => Ok(()),
        DbConnection::Postgres(conn) => nodes::table
            .filter(nodes::system_id.eq_any(system_ids))
            .order(nodes::system_id)
            .select(nodes::system_id)
            .for_no_key_update()
            .load::<String>(conn)
            .map(drop),
    }
}

/// Holds those of these nodes that nobody else holds for longer than a moment, and says who the
/// others are: what is done to the rest need not wait for them.
pub fn hold_free(tx: &mut Tx, system_ids: &[&str]) -> QueryResult<BTreeSet<String>> {
    let DbConnection::Postgres(conn) = tx.conn else { return Ok(BTreeSet::new()) };
    let held: Vec<String> = nodes::table
        .filter(nodes::system_id.eq_any(system_ids))
        .order(nodes::system_id)
        .select(nodes::system_id)
        .for_no_key_update()
        .skip_locked()
        .load(conn)?;
    if held.len() == system_ids.len() {
        return Ok(BTreeSet::new());
    }
    let others: Vec<&str> =
        system_ids.iter().copied().filter(|id| !held.iter().any(|held| held == id)).collect();
    // In a savepoint, which a lock that does not come undoes.
    let waited = conn.transaction(|conn| {
        conn.batch_execute("SET LOCAL lock_timeout = '20ms'")?;
        let held = nodes::table
            .filter(nodes::system_id.eq_any(&others))
            .order(nodes::system_id)
            .select(nodes::system_id)
            .for_no_key_update()
            .load::<String>(conn)?;
        conn.batch_execute(&format!("SET LOCAL lock_timeout = '{}'", pool::LOCK_TIMEOUT))?;
        Ok(held)
    });
    match waited {
        Ok(_) => Ok(BTreeSet::new()),
        // Those that are there at all; the others are nobody's.
        Err(diesel::result::Error::DatabaseError(..)) => Ok(nodes::table
            .filter(nodes::system_id.eq_any(others))
            .select(nodes::system_id)
            .load(conn)?
            .into_iter()
            .collect()),
        Err(error) => Err(error),
    }
}

/// The node is to be installed anew: it gets another instance-id.
pub fn update_reprovisioned(tx: &mut Tx, system_id: &str) -> QueryResult<usize> {
    tx.has_logged = true;
    diesel::update(nodes::table.find(system_id))
        .set(nodes::reprovisions.eq(nodes::reprovisions + 1))
        .execute(tx.conn)
}

/// Sets the flag that a node itself may set.
pub fn update_netboot(tx: &mut Tx, system_id: &str, netboot: bool) -> QueryResult<()> {
    diesel::update(nodes::table.find(system_id))
        .set(nodes::netboot.eq(netboot))
        .execute(tx.conn)
        .map(drop)
}

/// A unique violation means that a system id, or a hostname in this project, is taken.
pub fn insert(tx: &mut Tx, project: Id, new: &[(&SystemId, &NewNode)]) -> QueryResult<()> {
    let now = Micros::from(tx.now);
    let rows = new.iter().map(|(id, new)| columns(id, new)).collect::<QueryResult<Vec<_>>>()?;
    match tx.conn {
        DbConnection::Postgres(conn) => bulk::insert_nodes(conn, project, &rows, now)?,
        DbConnection::Sqlite(conn) => {
            rows.iter().try_for_each(|row| insert_one(conn, project, row, now))?;
        }
    }
    let labels = new.iter().flat_map(|&(id, new)| {
        new.labels.iter().map(move |(name, value)| (id.as_str(), name, value))
    });
    insert_labels(tx, &labels.collect::<Vec<_>>())
}

fn columns<'n>(system_id: &'n SystemId, new: &'n NewNode) -> QueryResult<NodeRow<'n>> {
    Ok(NodeRow {
        system_id: system_id.as_str(),
        hostname: new.hostname.as_str(),
        hostname_folded: new.hostname.folded(),
        macs: text(&new.macs)?,
        ssh_keys: text(&new.ssh_keys)?,
        labels: text(&new.labels)?,
        netboot: new.netboot,
    })
}

fn insert_one(
    conn: &mut SqliteConnection,
    project: Id,
    row: &NodeRow,
    now: Micros,
) -> QueryResult<()> {
    diesel::insert_into(nodes::table)
        .values((
            nodes::system_id.eq(row.system_id),
            nodes::project_id.eq(project),
            nodes::hostname.eq(row.hostname),
            nodes::hostname_folded.eq(&row.hostname_folded),
            nodes::macs.eq(&row.macs),
            nodes::ssh_keys.eq(&row.ssh_keys),
            nodes::labels.eq(&row.labels),
            nodes::netboot.eq(row.netboot),
            nodes::reprovisions.eq(0),
            nodes::created_at.eq(now),
        ))
        .execute(conn)
        .map(drop)
}

/// Labels as system id, name and value.
fn insert_labels(tx: &mut Tx, labels: &[(&str, &str, &str)]) -> QueryResult<()> {
    match tx.conn {
        DbConnection::Postgres(_) if labels.is_empty() => Ok(()),
        DbConnection::Postgres(conn) => bulk::insert_labels(conn, labels),
        DbConnection::Sqlite(conn) => labels.iter().try_for_each(|(system_id, name, value)| {
            diesel::insert_into(node_labels::table)
                .values((
                    node_labels::name.eq(name),
                    node_labels::value.eq(value),
                    node_labels::system_id.eq(system_id),
                ))
                .execute(conn)
                .map(drop)
        }),
    }
}

#[derive(AsChangeset, Default)]
#[diesel(table_name = nodes)]
struct Changes {
    project_id: Option<Id>,
    hostname: Option<String>,
    hostname_folded: Option<String>,
    macs: Option<String>,
    ssh_keys: Option<String>,
    labels: Option<String>,
    netboot: Option<bool>,
}

/// Changes what `change` names; `to` is the project it names, already looked up.
pub fn update(
    tx: &mut Tx,
    system_id: &SystemId,
    change: &NodeChange,
    to: Option<Id>,
) -> QueryResult<()> {
    tx.has_logged = true;
    if let Some(labels) = &change.labels {
        diesel::delete(node_labels::table.filter(node_labels::system_id.eq(system_id.as_str())))
            .execute(tx.conn)?;
        let id = system_id.as_str();
        let rows: Vec<_> = labels.iter().map(|(name, value)| (id, name, value)).collect();
        insert_labels(tx, &rows)?;
    }
    let changes = Changes {
        project_id: to,
        hostname: change.hostname.as_ref().map(|h| h.as_str().to_owned()),
        hostname_folded: change.hostname.as_ref().map(Hostname::folded),
        macs: change.macs.as_ref().map(text).transpose()?,
        ssh_keys: change.ssh_keys.as_ref().map(text).transpose()?,
        labels: change.labels.as_ref().map(text).transpose()?,
        netboot: change.netboot,
    };
    diesel::update(nodes::table.find(system_id.as_str()))
        .set(&changes)
        .execute(tx.conn)
        .optional_empty_changeset()
        .map(drop)
}

/// Removes a node with its labels and contents. Its tokens must have ended.
pub fn delete(tx: &mut Tx, system_id: &str) -> QueryResult<usize> {
    diesel::delete(nodes::table.find(system_id)).execute(tx.conn)
}
