//! What a database says of itself: that it answers, and which secret key it belongs to.

use diesel::prelude::*;

use super::schema::meta;
use super::{DbConnection, Tx};

const KEY_CHECK: &str = "secret-key-check";

/// Reads a table: a bare `SELECT 1` does not touch the file of a broken `SQLite` database.
pub fn ping(conn: &mut DbConnection) -> QueryResult<()> {
    meta::table.count().get_result::<i64>(conn).map(drop)
}

/// The check value of the key this database was first used with.
pub fn find_key_check(conn: &mut DbConnection) -> QueryResult<Option<Vec<u8>>> {
    meta::table.find(KEY_CHECK).select(meta::value).first(conn).optional()
}

pub fn insert_key_check(tx: &mut Tx, check: &[u8]) -> QueryResult<()> {
    diesel::insert_into(meta::table)
        .values((meta::name.eq(KEY_CHECK), meta::value.eq(check)))
        .execute(tx.conn)
        .map(drop)
}
