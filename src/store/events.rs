//! What nodes reported: appended in batches, listed in the order of their ids, never changed.

mod append;

use std::collections::HashMap;

use diesel::prelude::*;
use jiff::Timestamp;
use uuid::Uuid;

use super::columns::{Id, Micros};
use super::nonces::WriteNonce;
use super::schema::{blobs as blobs_table, event_files, events, nodes as nodes_table};
use super::{DbConnection, Tx, blobs};
use crate::domain::report::Report;

pub use append::{append, are_stored, hold, hold_free};

/// An event that is to be stored.
pub struct NewEvent {
    /// Minted in the order of arrival; a node whose last one is later gets the next after that.
    pub id: Uuid,
    pub system_id: String,
    /// The token that signed it.
    pub token: Id,
    pub nonce: Option<WriteNonce>,
    pub received_at: Timestamp,
    pub report: Report,
}

/// What became of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// As the event of this id.
    Stored(Id),
    /// The same event was stored before.
    Repeat,
    /// Its token has ended since it was signed.
    Ended,
    /// Its nonce was spent before.
    Replayed,
    /// Somebody else holds its node: nothing was done.
    Busy,
}

/// Which events to list.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub project: Option<Id>,
    pub system_id: Option<String>,
    pub event_type: Option<&'static str>,
    pub name: Option<String>,
    /// Received then or later.
    pub since: Option<Timestamp>,
}

/// A file of an event, without its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    pub ordinal: i32,
    pub path: String,
    pub sha256: Option<Vec<u8>>,
    pub size: i64,
}

/// An event as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub id: Uuid,
    pub system_id: String,
    pub event_type: String,
    pub origin: String,
    pub name: String,
    pub description: String,
    pub result: Option<String>,
    pub node_time: Option<Timestamp>,
    pub received_at: Timestamp,
    /// JSON.
    pub extra: String,
    pub files: Vec<File>,
}

type Row =
    (Id, String, String, String, String, String, Option<String>, Option<Micros>, Micros, String);

/// Events in the order of their ids; `after` is the last one of the page before, and with
/// `newest` it is the last of them that are taken.
pub fn list(
    conn: &mut DbConnection,
    filter: &Filter,
    after: Option<Id>,
    newest: bool,
    limit: i64,
) -> QueryResult<Vec<Event>> {
    let mut query = events::table
        .select((
            events::id,
            events::system_id,
            events::event_type,
            events::origin,
            events::name,
            events::description,
            events::result,
            events::node_time,
            events::received_at,
            events::extra,
        ))
        .limit(limit)
        .into_boxed();
    if let Some(project) = filter.project {
        let mine = nodes_table::table
            .filter(nodes_table::project_id.eq(project))
            .select(nodes_table::system_id);
        query = query.filter(events::system_id.eq_any(mine));
    }
    if let Some(system_id) = &filter.system_id {
        query = query.filter(events::system_id.eq(system_id));
    }
    if let Some(event_type) = filter.event_type {
        query = query.filter(events::event_type.eq(event_type));
    }
    if let Some(name) = &filter.name {
        query = query.filter(events::name.eq(name));
    }
    if let Some(since) = filter.since {
        query = query.filter(events::received_at.ge(Micros::from(since)));
    }
    if let Some(after) = after {
        query = query.filter(events::id.gt(after));
    }
    query = if newest { query.order(events::id.desc()) } else { query.order(events::id) };
    let mut rows: Vec<Row> = query.load(conn)?;
    if newest {
        rows.reverse();
    }
    let mut files = list_files(conn, rows.iter().map(|row| row.0).collect())?;
    Ok(rows.into_iter().map(|row| event(row, &mut files)).collect())
}

fn event(row: Row, files: &mut HashMap<Id, Vec<File>>) -> Event {
    let (id, system_id, event_type, origin, name, description, result, node_time, received, extra) =
        row;
    Event {
        id: id.0,
        system_id,
        event_type,
        origin,
        name,
        description,
        result,
        node_time: node_time.map(Timestamp::from),
        received_at: received.into(),
        extra,
        files: files.remove(&id).unwrap_or_default(),
    }
}

fn list_files(conn: &mut DbConnection, ids: Vec<Id>) -> QueryResult<HashMap<Id, Vec<File>>> {
    type Row = (Id, i32, String, Option<Vec<u8>>, i64);
    let rows: Vec<Row> = event_files::table
        .filter(event_files::event_id.eq_any(ids))
        .order((event_files::event_id, event_files::ordinal))
        .select((
            event_files::event_id,
            event_files::ordinal,
            event_files::path,
            event_files::sha256,
            event_files::size,
        ))
        .load(conn)?;
    let mut files: HashMap<Id, Vec<File>> = HashMap::new();
    for (event, ordinal, path, sha256, size) in rows {
        files.entry(event).or_default().push(File { ordinal, path, sha256, size });
    }
    Ok(files)
}

/// The bytes of one file; `None` when there is no such file, or the node had none.
pub fn find_file(
    conn: &mut DbConnection,
    system_id: &str,
    event: Id,
    ordinal: i32,
) -> QueryResult<Option<Vec<u8>>> {
    event_files::table
        .inner_join(events::table)
        .inner_join(blobs_table::table)
        .filter(events::system_id.eq(system_id))
        .filter(events::id.eq(event))
        .filter(event_files::ordinal.eq(ordinal))
        .select(blobs_table::bytes)
        .first(conn)
        .optional()
}

/// Deletes at most `limit` events received before `before`, and the bytes that nothing else uses.
pub fn delete_received(tx: &mut Tx, before: Timestamp, limit: i64) -> QueryResult<usize> {
    let ids: Vec<Id> = events::table
        .filter(events::received_at.lt(Micros::from(before)))
        .order(events::received_at)
        .limit(limit)
        .select(events::id)
        .load(tx.conn)?;
    let digests: Vec<Vec<u8>> = event_files::table
        .filter(event_files::event_id.eq_any(&ids))
        .filter(event_files::sha256.is_not_null())
        .select(event_files::sha256.assume_not_null())
        .distinct()
        .load(tx.conn)?;
    let gone = diesel::delete(events::table.filter(events::id.eq_any(&ids))).execute(tx.conn)?;
    blobs::delete_unused(tx, &digests)?;
    Ok(gone)
}
