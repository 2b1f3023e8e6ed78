//! What a database says of itself: that it answers, which secret key it belongs to, and the epoch
//! of its identities.

use diesel::prelude::*;

use super::schema::meta;
use super::{DbConnection, Tx};

const KEY_CHECK: &str = "secret-key-check";
const AUTH_EPOCH: &str = "auth-epoch";
const SERVES_SINCE: &str = "serves-since";

/// Reads a table: a bare `SELECT 1` does not touch the file of a broken `SQLite` database.
pub fn ping(conn: &mut DbConnection) -> QueryResult<()> {
    meta::table.count().get_result::<i64>(conn).map(drop)
}

/// The check value of the key this database was first used with.
pub fn find_key_check(conn: &mut DbConnection) -> QueryResult<Option<Vec<u8>>> {
    meta::table.find(KEY_CHECK).select(meta::value).first(conn).optional()
}

/// The oldest migration whose programs may still serve this database; `None` where only those that
/// know all of it may.
pub fn find_serves_since(conn: &mut DbConnection) -> QueryResult<Option<String>> {
    let value: Option<Vec<u8>> =
        meta::table.find(SERVES_SINCE).select(meta::value).first(conn).optional()?;
    Ok(value.and_then(|value| String::from_utf8(value).ok()))
}

pub fn insert_key_check(tx: &mut Tx, check: &[u8]) -> QueryResult<()> {
    diesel::insert_into(meta::table)
        .values((meta::name.eq(KEY_CHECK), meta::value.eq(check)))
        .execute(tx.conn)
        .map(drop)
}

/// What was read of identities under another epoch is read again.
pub fn find_auth_epoch(conn: &mut DbConnection) -> QueryResult<Vec<u8>> {
    meta::table.find(AUTH_EPOCH).select(meta::value).first(conn)
}

/// Begins a new epoch: the first statement of every change that may take something away from a
/// token. On PostgreSQL such changes, and the logins that would race them, take turns by its row.
pub fn update_auth_epoch(tx: &mut Tx, epoch: &[u8]) -> QueryResult<()> {
    diesel::update(meta::table.find(AUTH_EPOCH))
        .set(meta::value.eq(epoch))
        .execute(tx.conn)
        .map(drop)
}

/// Holds the epoch until the transaction ends, beside others who do: the first statement of a
/// login, so that nothing it relies on is taken away before its token is there.
pub fn hold_auth_epoch(tx: &mut Tx) -> QueryResult<()> {
    match tx.conn {
        // The writer has the whole database already.
        DbConnection::Sqlite(_) => Ok(()),
        DbConnection::Postgres(conn) => meta::table
            .find(AUTH_EPOCH)
            .select(meta::value)
            .for_share()
            .first::<Vec<u8>>(conn)
            .map(drop),
    }
}
