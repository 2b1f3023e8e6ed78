//! Nonces of what nodes wrote, for every process that shares the database and every start of it.

use diesel::prelude::*;

use super::Tx;
use super::schema::node_nonces;

/// A nonce that a good signature spends, once for all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteNonce {
    /// Of token key, timestamp and nonce.
    pub digest: [u8; 32],
    /// The timestamp, in seconds since the epoch.
    pub timestamp: u64,
}

/// Spends a nonce with what is written in this transaction; `false` if it was spent before.
pub fn spend(tx: &mut Tx, nonce: &WriteNonce) -> QueryResult<bool> {
    let row = (
        node_nonces::digest.eq(nonce.digest.as_slice()),
        node_nonces::timestamp.eq(i64::try_from(nonce.timestamp).unwrap_or(i64::MAX)),
    );
    let inserted = on_either!(tx.conn, conn => diesel::insert_into(node_nonces::table)
        .values(row)
        .on_conflict(node_nonces::digest)
        .do_nothing()
        .execute(conn))?;
    Ok(inserted == 1)
}

/// Deletes at most `limit` nonces stamped before `before`, in seconds since the epoch.
pub fn delete_old(tx: &mut Tx, before: i64, limit: i64) -> QueryResult<usize> {
    let old: Vec<Vec<u8>> = node_nonces::table
        .filter(node_nonces::timestamp.lt(before))
        .order(node_nonces::timestamp)
        .limit(limit)
        .select(node_nonces::digest)
        .load(tx.conn)?;
    diesel::delete(node_nonces::table.filter(node_nonces::digest.eq_any(&old))).execute(tx.conn)
}
