//! Nonces of what nodes wrote, for every process that shares the database and every start of it.

use std::collections::HashSet;

use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Binary};

use super::fixed::{Bind as _, fixed};
use super::schema::node_nonces;
use super::{DbConnection, Tx};

/// A nonce that a good signature spends, once for all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteNonce {
    /// Of token key, timestamp and nonce.
    pub digest: [u8; 32],
    /// The timestamp, in seconds since the epoch.
    pub timestamp: u64,
}

/// Spends nonces with what is written in this transaction; `false` for each that was spent before.
pub fn spend(tx: &mut Tx, spending: &[&WriteNonce]) -> QueryResult<Vec<bool>> {
    if spending.is_empty() {
        return Ok(Vec::new());
    }
    let mut fresh: HashSet<Vec<u8>> = match tx.conn {
        DbConnection::Postgres(conn) => {
            let digests: Vec<&[u8]> =
                spending.iter().map(|nonce| nonce.digest.as_slice()).collect();
            let timestamps: Vec<i64> = spending.iter().map(|nonce| seconds(nonce)).collect();
            fixed::<InsertMany>("INSERT INTO node_nonces (digest, timestamp) SELECT * FROM unnest(")
                .bind::<Array<Binary>, _>(digests, ", ")
                .bind::<Array<BigInt>, _>(
                    timestamps,
                    ") ON CONFLICT (digest) DO NOTHING RETURNING digest",
                )
                .load::<Spent>(conn)?
                .into_iter()
                .map(|spent| spent.digest)
                .collect()
        }
        DbConnection::Sqlite(conn) => {
            let mut fresh = HashSet::new();
            for nonce in spending {
                let inserted = diesel::insert_into(node_nonces::table)
                    .values((
                        node_nonces::digest.eq(nonce.digest.as_slice()),
                        node_nonces::timestamp.eq(seconds(nonce)),
                    ))
                    .on_conflict(node_nonces::digest)
                    .do_nothing()
                    .execute(conn)?;
                if inserted == 1 {
                    fresh.insert(nonce.digest.to_vec());
                }
            }
            fresh
        }
    };
    // Of two that are the same, the first has it.
    Ok(spending.iter().map(|nonce| fresh.remove(nonce.digest.as_slice())).collect())
}

fn seconds(nonce: &WriteNonce) -> i64 {
    i64::try_from(nonce.timestamp).unwrap_or(i64::MAX)
}

enum InsertMany {}

#[derive(QueryableByName)]
struct Spent {
    #[diesel(sql_type = Binary)]
    digest: Vec<u8>,
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
