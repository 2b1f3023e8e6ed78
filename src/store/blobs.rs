//! The bytes of contents and of reported files, once each.

use diesel::prelude::*;
use diesel::result::DatabaseErrorKind;
use diesel::result::Error::DatabaseError;

use super::schema::{blobs, contents, event_files, events};
use super::{DbConnection, Tx, is_unique_violation};

/// Keeps these bytes, if they are not kept already.
pub fn insert(tx: &mut Tx, bytes: &[u8], sha256: &[u8; 32]) -> QueryResult<()> {
    // Who finds them taken has still to hold them, and by then they may be gone again.
    for _ in 0..TRIES {
        if hold(tx, sha256)? {
            return Ok(());
        }
        // In a savepoint: on PostgreSQL the violation would end the whole transaction.
        let inserted = tx.conn.transaction(|conn| {
            diesel::insert_into(blobs::table)
                .values((blobs::sha256.eq(sha256.as_slice()), blobs::bytes.eq(bytes)))
                .execute(conn)
        });
        match inserted {
            Err(error) if is_unique_violation(&error) => {}
            inserted => return inserted.map(drop),
        }
    }
    Err(diesel::result::Error::RollbackTransaction)
}

/// How often bytes may come and go under one who wants to keep them.
const TRIES: usize = 20;

/// Whether these bytes are kept. On PostgreSQL this waits for a transaction that is deleting them,
/// and keeps others from it until this one ends.
fn hold(tx: &mut Tx, sha256: &[u8; 32]) -> QueryResult<bool> {
    let there = match tx.conn {
        DbConnection::Sqlite(conn) => {
            blobs::table.find(sha256.as_slice()).select(blobs::sha256).first::<Vec<u8>>(conn)
        }
        DbConnection::Postgres(conn) => blobs::table
            .find(sha256.as_slice())
            .select(blobs::sha256)
            .for_key_share()
            .first::<Vec<u8>>(conn),
    };
    Ok(there.optional()?.is_some())
}

/// The digests that a node uses, to be given to [`delete_unused`] once the node is gone.
pub fn list_digests(conn: &mut DbConnection, system_id: &str) -> QueryResult<Vec<Vec<u8>>> {
    let mut digests: Vec<Vec<u8>> = contents::table
        .filter(contents::system_id.eq(system_id))
        .filter(contents::sha256.is_not_null())
        .select(contents::sha256.assume_not_null())
        .distinct()
        .load(conn)?;
    let reported: Vec<Vec<u8>> = event_files::table
        .inner_join(events::table)
        .filter(events::system_id.eq(system_id))
        .filter(event_files::sha256.is_not_null())
        .select(event_files::sha256.assume_not_null())
        .distinct()
        .load(conn)?;
    digests.extend(reported);
    Ok(digests)
}

/// Deletes those of these blobs that nothing uses any more.
pub fn delete_unused(tx: &mut Tx, digests: &[Vec<u8>]) -> QueryResult<()> {
    let mut digests: Vec<&Vec<u8>> = digests.iter().collect();
    digests.sort_unstable();
    for digest in digests {
        // On PostgreSQL two who let go of the same bytes take turns, or each would see the other's
        // use of them.
        if let DbConnection::Postgres(conn) = tx.conn {
            let held = blobs::table.find(digest).select(blobs::sha256).for_update();
            held.first::<Vec<u8>>(conn).optional()?;
        }
        let used: i64 =
            contents::table.filter(contents::sha256.eq(digest)).count().get_result(tx.conn)?;
        let reported: i64 = event_files::table
            .filter(event_files::sha256.eq(digest))
            .count()
            .get_result(tx.conn)?;
        if used + reported > 0 {
            continue;
        }
        // Another transaction may have taken to these bytes since: then the constraint keeps them.
        let deleted = tx.conn.transaction(|conn| {
            diesel::delete(blobs::table.filter(blobs::sha256.eq(digest))).execute(conn)
        });
        match deleted {
            Err(DatabaseError(DatabaseErrorKind::ForeignKeyViolation, _)) => {}
            deleted => drop(deleted?),
        }
    }
    Ok(())
}
