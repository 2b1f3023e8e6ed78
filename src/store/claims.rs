//! Claims: who fetched a preseed, and until when anybody may.

use std::collections::BTreeSet;

use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Binary, Text};
use jiff::Timestamp;

use super::columns::{Id, Micros};
use super::fixed::{Bind as _, fixed};
use super::schema::claims;
use super::{DbConnection, Tx};
use crate::domain::claim::{FETCHES, WINDOW};

/// What closed a claim before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClosedBy {
    /// Its token ended.
    Token,
    /// The node was given a newer one.
    Newer,
    /// The boot that fetched it has got on.
    Progress,
}

impl ClosedBy {
    fn as_str(self) -> &'static str {
        match self {
            ClosedBy::Token => "token",
            ClosedBy::Newer => "newer",
            ClosedBy::Progress => "progress",
        }
    }
}

/// A claim as it stands.
#[derive(Clone, Debug, Queryable)]
pub struct Claim {
    pub system_id: String,
    pub token_id: Id,
    pub format: String,
    pub source_network: Option<String>,
    expires_at: Micros,
    first_fetched_at: Option<Micros>,
    bound_to: Option<String>,
    fetches: i32,
    closed_by: Option<String>,
}

impl Claim {
    /// Why `source` cannot fetch it now; a label for logs.
    #[must_use]
    pub fn is_over_for(&self, source: &str, now: Timestamp) -> Option<&'static str> {
        match (self.closed_by.as_deref(), self.first_fetched_at, self.bound_to.as_deref()) {
            (Some("token"), ..) => Some("claim_token_ended"),
            (Some("newer"), ..) => Some("claim_superseded"),
            (Some(_), ..) => Some("claim_boot_went_on"),
            (None, None, _) => (Timestamp::from(self.expires_at) <= now).then_some("claim_expired"),
            (None, Some(_), bound_to) if bound_to != Some(source) => Some("claim_bound_elsewhere"),
            (None, Some(first), _) if Timestamp::from(first) <= window(now) => {
                Some("claim_window_over")
            }
            (None, Some(_), _) => (self.fetches >= FETCHES).then_some("claim_fetched_too_often"),
        }
    }
}

/// What was first fetched up to here cannot be fetched any more.
fn window(now: Timestamp) -> Timestamp {
    now.checked_sub(WINDOW).unwrap_or(Timestamp::MIN)
}

/// A claim that has just been made.
pub struct NewClaim {
    pub hash: Vec<u8>,
    pub system_id: String,
    pub token_id: Id,
    pub format: &'static str,
    pub source_network: Option<String>,
    pub expires_at: Timestamp,
}

/// The node must have no open claim any more: see [`close_for_node`].
pub fn insert(tx: &mut Tx, new: &NewClaim) -> QueryResult<()> {
    diesel::insert_into(claims::table)
        .values((
            claims::hash.eq(&new.hash),
            claims::system_id.eq(&new.system_id),
            claims::token_id.eq(new.token_id),
            claims::format.eq(new.format),
            claims::source_network.eq(&new.source_network),
            claims::made_at.eq(Micros::from(tx.now)),
            claims::expires_at.eq(Micros::from(new.expires_at)),
            claims::fetches.eq(0),
        ))
        .execute(tx.conn)
        .map(drop)
}

macro_rules! by_hash {
    ($hash:expr) => {
        claims::table.find($hash).select((
            claims::system_id,
            claims::token_id,
            claims::format,
            claims::source_network,
            claims::expires_at,
            claims::first_fetched_at,
            claims::bound_to,
            claims::fetches,
            claims::closed_by,
        ))
    };
}

pub fn find(conn: &mut DbConnection, hash: &[u8]) -> QueryResult<Option<Claim>> {
    by_hash!(hash).first(conn).optional()
}

/// Counts a fetch by `source`, if it may: the statements decide, so of two that come at once one
/// is bound. The first of all binds the claim to its source.
pub fn update_fetched(tx: &mut Tx, hash: &[u8], source: &str) -> QueryResult<bool> {
    let now = Micros::from(tx.now);
    let first = diesel::update(
        claims::table
            .find(hash)
            .filter(claims::closed_at.is_null())
            .filter(claims::first_fetched_at.is_null())
            .filter(claims::expires_at.gt(now)),
    )
    .set((claims::first_fetched_at.eq(now), claims::bound_to.eq(source), claims::fetches.eq(1)))
    .execute(tx.conn)?;
    if first == 1 {
        return Ok(true);
    }
    let again = diesel::update(
        claims::table
            .find(hash)
            .filter(claims::closed_at.is_null())
            .filter(claims::bound_to.eq(source))
            .filter(claims::first_fetched_at.gt(Micros::from(window(tx.now))))
            .filter(claims::fetches.lt(FETCHES)),
    )
    .set(claims::fetches.eq(claims::fetches + 1))
    .execute(tx.conn)?;
    Ok(again == 1)
}

macro_rules! close {
    ($tx:expr, $which:expr, $by:expr) => {
        diesel::update(claims::table.filter(claims::closed_at.is_null()).filter($which))
            .set((claims::closed_at.eq(Micros::from($tx.now)), claims::closed_by.eq($by.as_str())))
            .execute($tx.conn)
    };
}

/// Closes the node's claim to make way for a newer one. The node's row must be held.
pub fn close_for_node(tx: &mut Tx, system_id: &str) -> QueryResult<usize> {
    close!(tx, claims::system_id.eq(system_id), ClosedBy::Newer)
}

/// Closes the claims of tokens that end in this transaction.
pub fn close_for_tokens(tx: &mut Tx, tokens: &[Id]) -> QueryResult<usize> {
    close!(tx, claims::token_id.eq_any(tokens), ClosedBy::Token)
}

/// Closes the claims that boots fetched, once events of theirs, signed with those claims' tokens,
/// say that they have got past that: for the transaction that stores the events. A claim that
/// nobody has fetched is for the next boot, and stays.
pub fn close_for_progress(tx: &mut Tx, boots: &BTreeSet<(&str, Id)>) -> QueryResult<()> {
    if boots.is_empty() {
        return Ok(());
    }
    if let DbConnection::Postgres(conn) = tx.conn {
        let (system_ids, tokens): (Vec<&str>, Vec<Id>) = boots.iter().copied().unzip();
        fixed::<CloseMany>("UPDATE claims SET closed_at = ")
            .bind::<BigInt, _>(Micros::from(tx.now), ", closed_by = ")
            .bind::<Text, _>(ClosedBy::Progress.as_str(), " FROM unnest(")
            .bind::<Array<Text>, _>(system_ids, ", ")
            .bind::<Array<Binary>, _>(
                tokens,
                ") AS b (system_id, token_id) WHERE claims.system_id = b.system_id \
                 AND claims.token_id = b.token_id AND closed_at IS NULL \
                 AND first_fetched_at IS NOT NULL",
            )
            .execute(conn)?;
    }
    if let DbConnection::Sqlite(conn) = tx.conn {
        for (system_id, token) in boots {
            fixed::<CloseOne>("UPDATE claims SET closed_at = ")
                .bind::<BigInt, _>(Micros::from(tx.now), ", closed_by = ")
                .bind::<Text, _>(ClosedBy::Progress.as_str(), " WHERE system_id = ")
                .bind::<Text, _>(*system_id, " AND token_id = ")
                .bind::<Binary, _>(
                    *token,
                    " AND closed_at IS NULL AND first_fetched_at IS NOT NULL",
                )
                .execute(conn)?;
        }
    }
    Ok(())
}

enum CloseMany {}
enum CloseOne {}

/// Deletes at most `limit` claims that expired before `before`.
pub fn delete_expired(tx: &mut Tx, before: Timestamp, limit: i64) -> QueryResult<usize> {
    let hashes: Vec<Vec<u8>> = claims::table
        .filter(claims::expires_at.lt(Micros::from(before)))
        .order(claims::expires_at)
        .limit(limit)
        .select(claims::hash)
        .load(tx.conn)?;
    diesel::delete(claims::table.filter(claims::hash.eq_any(&hashes))).execute(tx.conn)
}
