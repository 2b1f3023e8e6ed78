//! The log of keys that are to be forgotten: written by the database's own triggers, read by every
//! process that has tokens in memory.

use std::collections::HashSet;

use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Binary, Bool, Nullable, Text};

use super::schema::{changes, meta};
use super::{DbConnection, Tx};

/// How far a process has read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// `SQLite`: the last row that was read. PostgreSQL: the oldest transaction that was not over;
    /// rows of it and of later ones are still to come, in whatever order they commit.
    from: i64,
    /// Rows at or after `from` that were read already (PostgreSQL).
    seen: HashSet<i64>,
    /// Which server said so, and since when it is up (PostgreSQL).
    server: String,
}

/// What was logged since a position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    pub keys: Vec<String>,
    pub now: Position,
    /// What else was logged cannot be known: rows were swept since, the server is another one or
    /// was started anew, or its transactions have gone back.
    pub has_gap: bool,
}

#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = BigInt)]
    horizon: i64,
    #[diesel(sql_type = Text)]
    server: String,
    #[diesel(sql_type = Bool)]
    is_standby: bool,
    #[diesel(sql_type = Nullable<Binary>)]
    swept: Option<Vec<u8>>,
    #[diesel(sql_type = Nullable<BigInt>)]
    seq: Option<i64>,
    #[diesel(sql_type = Nullable<Text>)]
    token_key: Option<String>,
}

/// Up to where the log was swept: a row's number on `SQLite`, a transaction on PostgreSQL.
const SWEPT: &str = "changes-swept";

/// Nothing was swept where there is no such mark.
fn number(value: Option<&[u8]>) -> Option<i64> {
    let Some(value) = value else { return Some(-1) };
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// Where the log ends now. Whoever begins with nothing in memory reads on from here.
pub fn find_end(conn: &mut DbConnection) -> QueryResult<Position> {
    let from = match conn {
        DbConnection::Sqlite(_) => {
            let last: Option<i64> =
                changes::table.select(diesel::dsl::max(changes::seq)).first(conn)?;
            last.unwrap_or(0)
        }
        // Later than any transaction: nothing is listed, and the position after it is now.
        DbConnection::Postgres(_) => i64::MAX,
    };
    let start = Position { from, ..Position::default() };
    Ok(list_since(conn, &start)?.now)
}

/// The keys logged since a position, and the position after them.
///
/// # Errors
/// Also when the server is a standby: what it has not heard yet it cannot tell.
pub fn list_since(conn: &mut DbConnection, since: &Position) -> QueryResult<News> {
    match conn {
        DbConnection::Sqlite(_) => conn.transaction(|conn| {
            let rows: Vec<(i64, String)> = changes::table
                .filter(changes::seq.gt(since.from))
                .order(changes::seq)
                .select((changes::seq, changes::token_key))
                .load(conn)?;
            let swept: Option<Vec<u8>> =
                meta::table.find(SWEPT).select(meta::value).first(conn).optional()?;
            let from = rows.last().map_or(since.from, |(seq, _)| *seq);
            Ok(News {
                keys: rows.into_iter().map(|(_, key)| key).collect(),
                now: Position { from, ..Position::default() },
                has_gap: number(swept.as_deref()).is_none_or(|swept| swept > since.from),
            })
        }),
        DbConnection::Postgres(conn) => {
            // One statement, one snapshot: what it does not see is not over before its horizon.
            let rows: Vec<Row> = diesel::sql_query(format!(
                "SELECT now.*, c.seq, c.token_key FROM (SELECT \
                 pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS horizon, \
                 pg_postmaster_start_time()::text AS server, pg_is_in_recovery() AS is_standby, \
                 (SELECT value FROM meta WHERE name = '{SWEPT}') AS swept) now \
                 LEFT JOIN changes c ON c.tx >= $1",
            ))
            .bind::<BigInt, _>(since.from)
            .load(conn)?;
            let Some(first) = rows.first() else { return Err(diesel::NotFound) };
            if first.is_standby {
                let why = "the database is a standby: the change log is the primary's";
                return Err(diesel::result::Error::DeserializationError(why.into()));
            }
            let swept = number(first.swept.as_deref());
            let (from, server) = (first.horizon, first.server.clone());
            let has_gap = since.from > from
                || since.server != server
                // One that is still to come was made by another cluster, and came here in a dump.
                || swept.is_none_or(|swept| (since.from..from).contains(&swept));
            let mut seen = HashSet::new();
            let mut keys = Vec::new();
            for row in rows {
                let (Some(seq), Some(key)) = (row.seq, row.token_key) else { continue };
                if !since.seen.contains(&seq) {
                    keys.push(key);
                }
                seen.insert(seq);
            }
            Ok(News { keys, now: Position { from, seen, server }, has_gap })
        }
    }
}

/// The newest row, for the sweep.
pub fn find_newest(conn: &mut DbConnection) -> QueryResult<Option<i64>> {
    changes::table.select(diesel::dsl::max(changes::seq)).first(conn)
}

/// Deletes at most `limit` rows up to `seq` whose transactions have long been over, and notes how
/// far that goes: whoever had not read so far has to forget everything.
pub fn delete_until(tx: &mut Tx, seq: i64, limit: i64) -> QueryResult<usize> {
    let is_over = match tx.conn {
        DbConnection::Sqlite(_) => i64::MAX,
        DbConnection::Postgres(conn) => {
            diesel::select(sql::<BigInt>("pg_snapshot_xmin(pg_current_snapshot())::text::bigint"))
                .get_result(conn)?
        }
    };
    let old: Vec<(i64, i64)> = changes::table
        .filter(changes::seq.le(seq))
        .filter(changes::tx.lt(is_over))
        .order(changes::seq)
        .limit(limit)
        .select((changes::seq, changes::tx))
        .load(tx.conn)?;
    let mark = match tx.conn {
        DbConnection::Sqlite(_) => old.iter().map(|(seq, _)| *seq).max(),
        DbConnection::Postgres(_) => old.iter().map(|(_, tx)| *tx).max(),
    };
    let Some(mark) = mark else { return Ok(0) };
    let swept = meta::table.find(SWEPT).select(meta::value);
    let before: Option<Vec<u8>> = match tx.conn {
        DbConnection::Sqlite(conn) => swept.first(conn).optional()?,
        // Sweeps of other processes take turns, so that the mark never goes back.
        DbConnection::Postgres(conn) => swept.for_update().first(conn).optional()?,
    };
    let mark = mark.max(number(before.as_deref()).unwrap_or(mark)).to_string();
    let value = meta::value.eq(mark.as_bytes());
    if diesel::update(meta::table.find(SWEPT)).set(value).execute(tx.conn)? == 0 {
        let row = (meta::name.eq(SWEPT), value);
        diesel::insert_into(meta::table).values(row).execute(tx.conn)?;
    }
    let seqs: Vec<i64> = old.into_iter().map(|(seq, _)| seq).collect();
    diesel::delete(changes::table.filter(changes::seq.eq_any(seqs))).execute(tx.conn)
}
