//! User-data and vendor-data: every version, the bytes stored once each.

use diesel::prelude::*;
use diesel::result::DatabaseErrorKind;
use diesel::result::Error::DatabaseError;
use jiff::Timestamp;

use super::columns::Micros;
use super::schema::{blobs, contents};
use super::{DbConnection, Tx, is_unique_violation};
use crate::domain::metadata::ContentKind;

/// One version of a node's content; no digest means that it was cleared then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    pub version: i32,
    pub sha256: Option<Vec<u8>>,
    pub size: i64,
    pub created_at: Timestamp,
}

type Row = (i32, Option<Vec<u8>>, i64, Micros);

fn version((version, sha256, size, created_at): Row) -> Version {
    Version { version, sha256, size, created_at: created_at.into() }
}

macro_rules! versions {
    ($system_id:expr, $kind:expr) => {
        contents::table
            .filter(contents::system_id.eq($system_id))
            .filter(contents::kind.eq($kind.as_str()))
    };
}

/// The newest version, a cleared one too.
pub fn find_newest(
    conn: &mut DbConnection,
    system_id: &str,
    kind: ContentKind,
) -> QueryResult<Option<Version>> {
    let row: Option<Row> = versions!(system_id, kind)
        .order(contents::version.desc())
        .select((contents::version, contents::sha256, contents::size, contents::created_at))
        .first(conn)
        .optional()?;
    Ok(row.map(version))
}

/// The bytes of the newest version; `None` when there is none or it was cleared.
pub fn find_bytes(
    conn: &mut DbConnection,
    system_id: &str,
    kind: ContentKind,
) -> QueryResult<Option<Vec<u8>>> {
    let newest: Option<Option<Vec<u8>>> = versions!(system_id, kind)
        .left_join(blobs::table)
        .order(contents::version.desc())
        .select(blobs::bytes.nullable())
        .first(conn)
        .optional()?;
    Ok(newest.flatten())
}

/// One version and its bytes.
pub fn find_version(
    conn: &mut DbConnection,
    system_id: &str,
    kind: ContentKind,
    number: i32,
) -> QueryResult<Option<Vec<u8>>> {
    let bytes: Option<Option<Vec<u8>>> = versions!(system_id, kind)
        .filter(contents::version.eq(number))
        .left_join(blobs::table)
        .select(blobs::bytes.nullable())
        .first(conn)
        .optional()?;
    Ok(bytes.flatten())
}

/// Every version, the oldest first.
pub fn list(
    conn: &mut DbConnection,
    system_id: &str,
    kind: ContentKind,
) -> QueryResult<Vec<Version>> {
    let rows: Vec<Row> = versions!(system_id, kind)
        .order(contents::version)
        .select((contents::version, contents::sha256, contents::size, contents::created_at))
        .load(conn)?;
    Ok(rows.into_iter().map(version).collect())
}

/// Adds version `number`. A unique violation means that somebody else did first.
pub fn append(
    tx: &mut Tx,
    system_id: &str,
    kind: ContentKind,
    number: i32,
    content: Option<(&[u8], &[u8; 32])>,
) -> QueryResult<()> {
    if let Some((bytes, sha256)) = content {
        insert_blob(tx, bytes, sha256)?;
    }
    let size = content.map_or(0, |(bytes, _)| i64::try_from(bytes.len()).unwrap_or(i64::MAX));
    diesel::insert_into(contents::table)
        .values((
            contents::system_id.eq(system_id),
            contents::kind.eq(kind.as_str()),
            contents::version.eq(number),
            contents::sha256.eq(content.map(|(_, sha256)| sha256.as_slice())),
            contents::size.eq(size),
            contents::created_at.eq(Micros::from(tx.now)),
        ))
        .execute(tx.conn)
        .map(drop)
}

fn insert_blob(tx: &mut Tx, bytes: &[u8], sha256: &[u8; 32]) -> QueryResult<()> {
    // On PostgreSQL this waits for a transaction that is deleting the same bytes, and keeps others
    // from it until this one ends.
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
    if there.optional()?.is_some() {
        return Ok(());
    }
    // In a savepoint: on PostgreSQL the violation would end the whole transaction.
    let inserted = tx.conn.transaction(|conn| {
        diesel::insert_into(blobs::table)
            .values((blobs::sha256.eq(sha256.as_slice()), blobs::bytes.eq(bytes)))
            .execute(conn)
    });
    match inserted {
        Err(error) if !is_unique_violation(&error) => Err(error),
        _ => Ok(()),
    }
}

/// The digests a node's contents use, to be given to [`delete_unused`] once the node is gone.
pub fn list_digests(conn: &mut DbConnection, system_id: &str) -> QueryResult<Vec<Vec<u8>>> {
    contents::table
        .filter(contents::system_id.eq(system_id))
        .filter(contents::sha256.is_not_null())
        .select(contents::sha256.assume_not_null())
        .distinct()
        .load(conn)
}

/// Deletes those of these blobs that no version uses any more.
pub fn delete_unused(tx: &mut Tx, digests: &[Vec<u8>]) -> QueryResult<()> {
    for digest in digests {
        let used: i64 =
            contents::table.filter(contents::sha256.eq(digest)).count().get_result(tx.conn)?;
        if used > 0 {
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
