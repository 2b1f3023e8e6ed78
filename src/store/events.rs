//! What nodes reported: appended in batches, listed in the order of their ids, never changed.

use std::collections::{BTreeSet, HashMap, HashSet};

use diesel::prelude::*;
use diesel::sql_types::{Array, Binary, Nullable, Text};
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::boots::{self, Move};
use super::columns::{Id, Micros};
use super::nonces::{self, WriteNonce};
use super::schema::{blobs as blobs_table, event_files, events, node_keys, nodes as nodes_table};
use super::{DbConnection, Tx, blobs, claims, nodes};
use crate::domain::boot::{Said, Step};
use crate::domain::report::{Outcome, Report, Stamp};

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
    Stored,
    /// The same event was stored before.
    Repeat,
    /// Its token has ended since it was signed.
    Ended,
    /// Its nonce was spent before.
    Replayed,
}

/// Holds the rows of the nodes of a batch: whoever ends a token holds its node's too, so that what
/// is live now stays so until the commit.
pub fn hold(tx: &mut Tx, batch: &[NewEvent]) -> QueryResult<()> {
    nodes::hold(tx, &distinct(batch))
}

fn distinct(batch: &[NewEvent]) -> Vec<&str> {
    let distinct: BTreeSet<&str> = batch.iter().map(|new| new.system_id.as_str()).collect();
    distinct.into_iter().collect()
}

/// Stores a batch of events, each on its own merits, and says what became of each. Its nodes must
/// be held ([`hold`]).
pub fn append(tx: &mut Tx, batch: &[NewEvent]) -> QueryResult<Vec<Appended>> {
    let system_ids = distinct(batch);
    let tokens: HashSet<Id> = batch.iter().map(|new| new.token).collect();
    let live: HashSet<(Id, String)> = node_keys::table
        .filter(node_keys::token_id.eq_any(tokens))
        .select((node_keys::token_id, node_keys::system_id))
        .load(tx.conn)?
        .into_iter()
        .collect();
    let mut last = find_last(tx, &system_ids)?;
    let appended: Vec<Appended> = batch
        .iter()
        .map(|new| append_one(tx, new, &live, &mut last))
        .collect::<QueryResult<_>>()?;
    let stored = batch.iter().zip(&appended).filter(|(_, became)| **became == Appended::Stored);
    let moves: Vec<Move> = stored
        .map(|(new, _)| Move {
            system_id: &new.system_id,
            token: Some(new.token),
            step: Step::Reported { said: Said::of(&new.report), received_at: new.received_at },
        })
        .collect();
    boots::advance(tx, &moves)?;
    Ok(appended)
}

fn append_one<'b>(
    tx: &mut Tx,
    new: &'b NewEvent,
    live: &HashSet<(Id, String)>,
    last: &mut HashMap<&'b str, Uuid>,
) -> QueryResult<Appended> {
    if !live.contains(&(new.token, new.system_id.clone())) {
        return Ok(Appended::Ended);
    }
    if let Some(nonce) = &new.nonce
        && !nonces::spend(tx, nonce)?
    {
        return Ok(Appended::Replayed);
    }
    let last = last.entry(&new.system_id).or_insert(Uuid::nil());
    let id = if new.id > *last { new.id } else { Uuid::from_u128(last.as_u128() + 1) };
    if !insert(tx, Id(id), new)? {
        return Ok(Appended::Repeat);
    }
    *last = id;
    for (file, ordinal) in new.report.files.iter().zip(0..) {
        insert_file(tx, Id(id), ordinal, &file.path, file.content.as_deref())?;
    }
    claims::close_for_progress(tx, &new.system_id, new.token, &new.report.name)?;
    Ok(Appended::Stored)
}

fn insert(tx: &mut Tx, id: Id, new: &NewEvent) -> QueryResult<bool> {
    let report = &new.report;
    let extra = serde_json::to_string(&report.extra)
        .map_err(|e| diesel::result::Error::SerializationError(e.into()))?;
    let node_time = report.timestamp.as_ref().and_then(Stamp::instant).map(Micros::from);
    let repeat_of = repeat_of(new);
    let row = (
        events::id.eq(id),
        events::system_id.eq(&new.system_id),
        events::token_id.eq(new.token),
        events::origin.eq(&report.origin),
        events::name.eq(&report.name),
        events::event_type.eq(report.event_type.as_str()),
        events::result.eq(report.result.map(Outcome::as_str)),
        events::description.eq(&report.description),
        events::node_time.eq(node_time),
        events::received_at.eq(Micros::from(new.received_at)),
        events::extra.eq(extra),
        events::repeat_of.eq(repeat_of.as_ref().map(<[u8; 32]>::as_slice)),
    );
    let inserted = on_either!(tx.conn, conn => diesel::insert_into(events::table)
        .values(row)
        .on_conflict(events::repeat_of)
        .do_nothing()
        .execute(conn))?;
    Ok(inserted == 1)
}

/// What makes two events one: same node, origin, name, type and time. A digest, since PostgreSQL
/// indexes no name of 64 KiB.
fn repeat_of(new: &NewEvent) -> Option<[u8; 32]> {
    let report = &new.report;
    let timestamp = report.timestamp.as_ref()?.as_str();
    let mut hash = Sha256::new();
    for part in
        [&new.system_id, &report.origin, &report.name, report.event_type.as_str(), timestamp]
    {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    Some(hash.finalize().into())
}

fn insert_file(
    tx: &mut Tx,
    event: Id,
    ordinal: i32,
    path: &str,
    content: Option<&[u8]>,
) -> QueryResult<()> {
    let sha256: Option<[u8; 32]> = content.map(|bytes| Sha256::digest(bytes).into());
    if let (Some(bytes), Some(sha256)) = (content, &sha256) {
        blobs::insert(tx, bytes, sha256)?;
    }
    let size = content.map_or(0, |bytes| i64::try_from(bytes.len()).unwrap_or(i64::MAX));
    diesel::insert_into(event_files::table)
        .values((
            event_files::event_id.eq(event),
            event_files::ordinal.eq(ordinal),
            event_files::path.eq(path),
            event_files::sha256.eq(sha256.as_ref().map(<[u8; 32]>::as_slice)),
            event_files::size.eq(size),
        ))
        .execute(tx.conn)
        .map(drop)
}

#[derive(QueryableByName)]
struct Last {
    #[diesel(sql_type = Text)]
    system_id: String,
    #[diesel(sql_type = Nullable<Binary>)]
    id: Option<Id>,
}

/// The last event of each of these nodes: the next is after it, whatever the clocks of replicas say.
fn find_last<'s>(tx: &mut Tx, system_ids: &[&'s str]) -> QueryResult<HashMap<&'s str, Uuid>> {
    let rows: Vec<(String, Uuid)> = match tx.conn {
        DbConnection::Postgres(conn) => diesel::sql_query(
            "SELECT n.system_id, (SELECT e.id FROM events e WHERE e.system_id = n.system_id \
             ORDER BY e.id DESC LIMIT 1) AS id FROM unnest($1) AS n (system_id)",
        )
        .bind::<Array<Text>, _>(system_ids)
        .load::<Last>(conn)?
        .into_iter()
        .filter_map(|last| Some((last.system_id, last.id?.0)))
        .collect(),
        DbConnection::Sqlite(conn) => {
            let mut rows = Vec::new();
            for system_id in system_ids {
                let last: Option<Id> = events::table
                    .filter(events::system_id.eq(system_id))
                    .order(events::id.desc())
                    .select(events::id)
                    .first(conn)
                    .optional()?;
                rows.extend(last.map(|last| ((*system_id).to_owned(), last.0)));
            }
            rows
        }
    };
    let last: HashMap<String, Uuid> = rows.into_iter().collect();
    Ok(system_ids.iter().filter_map(|id| Some((*id, *last.get(*id)?))).collect())
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
