//! Events on their way in: a whole batch in a few statements, each event on its own merits.

use std::collections::{BTreeSet, HashMap, HashSet};

use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Binary, Nullable, Text};
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{Appended, NewEvent};
use crate::domain::boot::{Said, Step};
use crate::domain::claim::is_progress;
use crate::domain::report::{Outcome, Stamp};
use crate::store::boots::{self, Move};
use crate::store::columns::{Id, Micros};
use crate::store::fixed::{Bind as _, column, fixed};
use crate::store::schema::{event_files, events};
use crate::store::{DbConnection, Tx, blobs, claims, nodes, nonces, tokens};

/// Holds the rows of the nodes of a batch: whoever ends a token holds its node's too, so that what
/// is live now stays so until the commit.
pub fn hold(tx: &mut Tx, batch: &[NewEvent]) -> QueryResult<()> {
    nodes::hold(tx, &distinct(batch))
}

/// The same for the nodes that nobody else holds; says which the others are.
pub fn hold_free(tx: &mut Tx, batch: &[NewEvent]) -> QueryResult<BTreeSet<String>> {
    nodes::hold_free(tx, &distinct(batch))
}

fn distinct(batch: &[NewEvent]) -> Vec<&str> {
    let distinct: BTreeSet<&str> = batch.iter().map(|new| new.system_id.as_str()).collect();
    distinct.into_iter().collect()
}

/// Stores a batch of events, each on its own merits, and says what became of each. Its nodes must
/// be held ([`hold_free`]), but for those that are `busy`.
pub fn append(
    tx: &mut Tx,
    batch: &[NewEvent],
    busy: &BTreeSet<String>,
) -> QueryResult<Vec<Appended>> {
    let begin = |new: &NewEvent| {
        if busy.contains(&new.system_id) { Appended::Busy } else { Appended::Stored(Id(new.id)) }
    };
    let mut became: Vec<Appended> = batch.iter().map(begin).collect();
    refuse_ended(tx, batch, &mut became)?;
    refuse_replayed(tx, batch, &mut became)?;
    insert(tx, batch, &mut became)?;
    let stored: Vec<&NewEvent> = batch
        .iter()
        .zip(&became)
        .filter_map(|(new, became)| matches!(became, Appended::Stored(_)).then_some(new))
        .collect();
    let on_their_way: BTreeSet<(&str, Id)> = stored
        .iter()
        .filter(|new| is_progress(&new.report.name))
        .map(|new| (new.system_id.as_str(), new.token))
        .collect();
    claims::close_for_progress(tx, &on_their_way)?;
    let moves: Vec<Move> = stored
        .iter()
        .map(|new| Move {
            system_id: &new.system_id,
            token: Some(new.token),
            step: Step::Reported { said: Said::of(&new.report), received_at: new.received_at },
        })
        .collect();
    boots::advance(tx, &moves)?;
    Ok(became)
}

/// Whether a batch whose commit nobody heard of was committed: of its events, all or none are
/// there. Its nodes must be held, so that it is not still on its way.
pub fn are_stored(tx: &mut Tx, became: &[Appended]) -> QueryResult<bool> {
    let stored = became.iter().find_map(|became| match became {
        Appended::Stored(id) => Some(*id),
        _ => None,
    });
    // Where there was nothing to store there is nothing to do again.
    let Some(id) = stored else { return Ok(true) };
    let found: i64 = events::table.filter(events::id.eq(id)).count().get_result(tx.conn)?;
    Ok(found > 0)
}

/// Those whose tokens have ended since they were signed.
fn refuse_ended(tx: &mut Tx, batch: &[NewEvent], became: &mut [Appended]) -> QueryResult<()> {
    let ids: BTreeSet<Id> = batch.iter().map(|new| new.token).collect();
    let speakers = tokens::list_speakers(tx.conn, ids)?;
    for (new, became) in batch.iter().zip(became) {
        if *became != Appended::Busy && speakers.get(&new.token) != Some(&new.system_id) {
            *became = Appended::Ended;
        }
    }
    Ok(())
}

/// Those whose nonces were spent before; the others' are spent with what is stored.
fn refuse_replayed(tx: &mut Tx, batch: &[NewEvent], became: &mut [Appended]) -> QueryResult<()> {
    let mut theirs = Vec::new();
    let mut spending = Vec::new();
    for (new, became) in batch.iter().zip(became) {
        if let (Some(nonce), Appended::Stored(_)) = (&new.nonce, &*became) {
            spending.push(nonce);
            theirs.push(became);
        }
    }
    for (became, fresh) in theirs.into_iter().zip(nonces::spend(tx, &spending)?) {
        if !fresh {
            *became = Appended::Replayed;
        }
    }
    Ok(())
}

// The statements that are kept.
enum InsertMany {}
enum InsertOne {}
enum FindLast {}

/// An event as its row, without what the report itself holds.
struct Row<'e> {
    at: usize,
    id: Id,
    new: &'e NewEvent,
    node_time: Option<Micros>,
    extra: String,
    repeat_of: Option<Vec<u8>>,
}

fn insert(tx: &mut Tx, batch: &[NewEvent], became: &mut [Appended]) -> QueryResult<()> {
    let mut rows = Vec::with_capacity(batch.len());
    for (at, new) in batch.iter().enumerate() {
        if !matches!(became[at], Appended::Stored(_)) {
            continue;
        }
        let node_time = new.report.timestamp.as_ref().and_then(Stamp::instant);
        rows.push(Row {
            at,
            id: Id(new.id),
            new,
            node_time: node_time.map(Micros::from),
            extra: serde_json::to_string(&new.report.extra)
                .map_err(|e| diesel::result::Error::SerializationError(e.into()))?,
            repeat_of: repeat_of(new).map(|digest| match tx.conn {
                // A replica of the version before looks for the digest alone.
                DbConnection::Postgres(_) => digest.to_vec(),
                DbConnection::Sqlite(_) => in_time(node_time, &digest),
            }),
        });
    }
    if rows.is_empty() {
        return Ok(());
    }
    put_after_the_last(tx, &mut rows)?;
    let inserted = insert_rows(tx, &rows)?;
    for row in &rows {
        if !inserted.contains(&row.id) {
            became[row.at] = Appended::Repeat;
            continue;
        }
        became[row.at] = Appended::Stored(row.id);
        for (file, ordinal) in row.new.report.files.iter().zip(0..) {
            insert_file(tx, row.id, ordinal, &file.path, file.content.as_deref())?;
        }
    }
    Ok(())
}

/// Inserts all that are no repeats, and says which those were.
fn insert_rows(tx: &mut Tx, rows: &[Row]) -> QueryResult<HashSet<Id>> {
    let conn = match tx.conn {
        DbConnection::Postgres(conn) => conn,
        DbConnection::Sqlite(conn) => {
            let mut inserted = HashSet::with_capacity(rows.len());
            for row in rows {
                if insert_row(conn, row)? {
                    inserted.insert(row.id);
                }
            }
            return Ok(inserted);
        }
    };
    let query = fixed::<InsertMany>(
        "INSERT INTO events (id, system_id, token_id, origin, name, event_type, result, \
         description, node_time, received_at, extra, repeat_of) SELECT * FROM unnest(",
    )
    .bind::<Array<Binary>, _>(column(rows, |row| row.id), ", ")
    .bind::<Array<Text>, _>(column(rows, |row| row.new.system_id.as_str()), ", ")
    .bind::<Array<Binary>, _>(column(rows, |row| row.new.token), ", ")
    .bind::<Array<Text>, _>(column(rows, |row| row.new.report.origin.as_str()), ", ")
    .bind::<Array<Text>, _>(column(rows, |row| row.new.report.name.as_str()), ", ")
    .bind::<Array<Text>, _>(column(rows, |row| row.new.report.event_type.as_str()), ", ")
    .bind::<Array<Nullable<Text>>, _>(
        column(rows, |row| row.new.report.result.map(Outcome::as_str)),
        ", ",
    )
    .bind::<Array<Text>, _>(column(rows, |row| row.new.report.description.as_str()), ", ")
    .bind::<Array<Nullable<BigInt>>, _>(column(rows, |row| row.node_time), ", ")
    .bind::<Array<BigInt>, _>(column(rows, |row| Micros::from(row.new.received_at)), ", ")
    .bind::<Array<Text>, _>(column(rows, |row| row.extra.as_str()), ", ")
    .bind::<Array<Nullable<Binary>>, _>(
        column(rows, |row| row.repeat_of.as_deref()),
        ") ON CONFLICT (repeat_of) DO NOTHING RETURNING id",
    );
    Ok(query.load::<Inserted>(conn)?.into_iter().map(|row| row.id).collect())
}

#[derive(QueryableByName)]
struct Inserted {
    #[diesel(sql_type = Binary)]
    id: Id,
}

fn insert_row(conn: &mut SqliteConnection, row: &Row) -> QueryResult<bool> {
    let report = &row.new.report;
    let inserted = fixed::<InsertOne>(
        "INSERT INTO events (id, system_id, token_id, origin, name, event_type, result, \
         description, node_time, received_at, extra, repeat_of) VALUES (",
    )
    .bind::<Binary, _>(row.id, ", ")
    .bind::<Text, _>(row.new.system_id.as_str(), ", ")
    .bind::<Binary, _>(row.new.token, ", ")
    .bind::<Text, _>(report.origin.as_str(), ", ")
    .bind::<Text, _>(report.name.as_str(), ", ")
    .bind::<Text, _>(report.event_type.as_str(), ", ")
    .bind::<Nullable<Text>, _>(report.result.map(Outcome::as_str), ", ")
    .bind::<Text, _>(report.description.as_str(), ", ")
    .bind::<Nullable<BigInt>, _>(row.node_time, ", ")
    .bind::<BigInt, _>(Micros::from(row.new.received_at), ", ")
    .bind::<Text, _>(row.extra.as_str(), ", ")
    .bind::<Nullable<Binary>, _>(row.repeat_of.as_deref(), ") ON CONFLICT (repeat_of) DO NOTHING")
    .execute(conn)?;
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

/// The digest behind the time it is of: what is reported together is indexed together, on a few
/// pages that a commit writes, and not on one for each event.
fn in_time(node_time: Option<Timestamp>, digest: &[u8; 32]) -> Vec<u8> {
    let micros = node_time.map_or(0, Timestamp::as_microsecond);
    [&micros.to_be_bytes(), digest.as_slice()].concat()
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

/// An event's id comes after those of its node's earlier ones, whatever the clocks of replicas, or
/// one clock that was set back, say.
fn put_after_the_last(tx: &mut Tx, rows: &mut [Row]) -> QueryResult<()> {
    let conn = match tx.conn {
        DbConnection::Postgres(conn) => conn,
        DbConnection::Sqlite(conn) => {
            // One process writes them all: the last of all is after the last of each.
            let last = sql::<Nullable<Binary>>("max(id)");
            let last: Option<Id> = events::table.select(last).get_result(conn)?;
            let mut last = last.map_or(Uuid::nil(), |last| last.0);
            for row in rows {
                last = after(last, row.id.0);
                row.id = Id(last);
            }
            return Ok(());
        }
    };
    let ids: BTreeSet<&str> = rows.iter().map(|row| row.new.system_id.as_str()).collect();
    let found = fixed::<FindLast>(
        "SELECT n.system_id, (SELECT e.id FROM events e WHERE e.system_id = n.system_id \
         ORDER BY e.id DESC LIMIT 1) AS id FROM unnest(",
    )
    .bind::<Array<Text>, _>(ids.into_iter().collect::<Vec<_>>(), ") AS n (system_id)")
    .load::<Last>(conn)?;
    let found = found.into_iter().filter_map(|last| Some((last.system_id, last.id?.0)));
    let mut lasts: HashMap<String, Uuid> = found.collect();
    for row in rows {
        match lasts.get_mut(&row.new.system_id) {
            Some(last) => {
                *last = after(*last, row.id.0);
                row.id = Id(*last);
            }
            None => drop(lasts.insert(row.new.system_id.clone(), row.id.0)),
        }
    }
    Ok(())
}

fn after(last: Uuid, id: Uuid) -> Uuid {
    if id > last { id } else { Uuid::from_u128(last.as_u128() + 1) }
}
