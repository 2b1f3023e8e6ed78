//! The log of keys that are to be forgotten: written by the database's own triggers, read by every
//! process that has tokens in memory.

use std::collections::HashSet;

use diesel::prelude::*;
use diesel::sql_types::{BigInt, Nullable, Text};

use super::schema::changes;
use super::{DbConnection, Tx};

/// How far a process has read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// `SQLite`: the last row that was read. PostgreSQL: the oldest transaction that was not over;
    /// rows of it and of later ones are still to come, in whatever order they commit.
    from: i64,
    /// Rows at or after `from` that were read already (PostgreSQL).
    seen: HashSet<i64>,
}

impl Position {
    /// Whether the database has gone back since: another server, or a restored one.
    #[must_use]
    pub fn is_after(&self, later: &Position) -> bool {
        self.from > later.from
    }
}

#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = BigInt)]
    horizon: i64,
    #[diesel(sql_type = Nullable<BigInt>)]
    seq: Option<i64>,
    #[diesel(sql_type = Nullable<Text>)]
    token_key: Option<String>,
}

/// Where the log ends now. Whoever begins with nothing in memory reads on from here.
pub fn find_end(conn: &mut DbConnection) -> QueryResult<Position> {
    // A position from which nothing has to be read yields nothing but the next one.
    let end = match conn {
        DbConnection::Sqlite(_) => {
            changes::table.select(diesel::dsl::max(changes::seq)).first(conn)?
        }
        DbConnection::Postgres(_) => None::<i64>,
    };
    match conn {
        DbConnection::Sqlite(_) => Ok(Position { from: end.unwrap_or(0), ..Position::default() }),
        DbConnection::Postgres(_) => {
            let start = Position { from: i64::MAX, ..Position::default() };
            let (_, end) = list_since(conn, &start)?;
            // What commits from now on, and what had committed at or after the horizon: it is read
            // once for nothing.
            Ok(end)
        }
    }
}

/// The keys logged since a position, and the position after them.
pub fn list_since(
    conn: &mut DbConnection,
    since: &Position,
) -> QueryResult<(Vec<String>, Position)> {
    match conn {
        DbConnection::Sqlite(_) => {
            let rows: Vec<(i64, String)> = changes::table
                .filter(changes::seq.gt(since.from))
                .order(changes::seq)
                .select((changes::seq, changes::token_key))
                .load(conn)?;
            let from = rows.last().map_or(since.from, |(seq, _)| *seq);
            let keys = rows.into_iter().map(|(_, key)| key).collect();
            Ok((keys, Position { from, ..Position::default() }))
        }
        DbConnection::Postgres(conn) => {
            // One statement, one snapshot: what it does not see is not over before its horizon.
            let rows: Vec<Row> = diesel::sql_query(
                "SELECT now.horizon, c.seq, c.token_key \
                 FROM (SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS horizon) now \
                 LEFT JOIN changes c ON c.tx >= $1",
            )
            .bind::<BigInt, _>(since.from)
            .load(conn)?;
            let from = rows.first().map_or(since.from, |row| row.horizon);
            let mut seen = HashSet::new();
            let mut keys = Vec::new();
            for row in rows {
                let (Some(seq), Some(key)) = (row.seq, row.token_key) else { continue };
                if !since.seen.contains(&seq) {
                    keys.push(key);
                }
                seen.insert(seq);
            }
            Ok((keys, Position { from, seen }))
        }
    }
}

/// The newest row, for the sweep.
pub fn find_newest(conn: &mut DbConnection) -> QueryResult<Option<i64>> {
    changes::table.select(diesel::dsl::max(changes::seq)).first(conn)
}

/// Deletes at most `limit` rows up to `seq`, which every process has read or never will.
pub fn delete_until(tx: &mut Tx, seq: i64, limit: i64) -> QueryResult<usize> {
    let old: Vec<i64> = changes::table
        .filter(changes::seq.le(seq))
        .order(changes::seq)
        .limit(limit)
        .select(changes::seq)
        .load(tx.conn)?;
    let Some(last) = old.last() else { return Ok(0) };
    diesel::delete(changes::table.filter(changes::seq.le(*last))).execute(tx.conn)
}
