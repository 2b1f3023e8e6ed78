//! Consumers, tokens and node keys: who a token key speaks for, and how that ends.

use std::collections::HashMap;

use diesel::prelude::*;
use diesel::sql_types::{BigInt, Binary};
use jiff::Timestamp;

use super::columns::{Id, Micros};
use super::counts::{TokenChange, changed};
use super::fixed::{Bind as _, fixed};
use super::schema::{boots, consumers, node_keys, nodes, tokens};
use super::{DbConnection, Tx, bulk, claims};
use crate::domain::credentials::{ConsumerKey, EndedBy, TokenKey, TokenState, TokenSummary};
use crate::domain::cull::Staleness;

/// The user that owns every node's token, made by the migration.
const NODE_INIT: Id = Id(uuid::uuid!("019a0000-0000-7000-8000-0000000000a1"));

const LIVE: &str = "live";
const RETIRING: &str = "retiring";

/// What authentication needs to know of a token, ended ones too.
pub struct Known {
    pub id: Id,
    pub consumer_key: ConsumerKey,
    pub token_key: TokenKey,
    pub sealed_secret: Vec<u8>,
    pub last_used_at: Option<Timestamp>,
    pub ended: bool,
    /// When a superseded token's time is up.
    pub retires_at: Option<Timestamp>,
    /// The node it was made for, which may be gone.
    pub made_for: Option<String>,
    /// The node it speaks for. A token that has not ended and has none belongs to no node.
    pub node: Option<NodeRow>,
}

impl Known {
    /// Whether it has ended: a superseded one at its deadline, swept or not.
    #[must_use]
    pub fn has_ended(&self, now: Timestamp) -> bool {
        self.ended || self.retires_at.is_some_and(|at| at <= now)
    }
}

/// What a node's own requests need of its row.
#[derive(Clone, Debug, Queryable)]
pub struct NodeRow {
    pub system_id: String,
    pub hostname: String,
    pub ssh_keys: String,
    pub reprovisions: i32,
}

macro_rules! by_key {
    ($is_wanted:expr) => {
        tokens::table
            .inner_join(consumers::table)
            // Two plain joins: around a nested one SQLite builds the whole inner join first, for
            // every look-up.
            .left_join(node_keys::table)
            .left_join(
                nodes::table.on(nodes::system_id.nullable().eq(node_keys::system_id.nullable())),
            )
            .filter($is_wanted)
            .select((
                tokens::id,
                consumers::consumer_key,
                tokens::token_key,
                tokens::sealed_secret,
                tokens::last_used_at,
                tokens::ended_at,
                node_keys::retires_at.nullable(),
                tokens::made_for,
                (nodes::system_id, nodes::hostname, nodes::ssh_keys, nodes::reprovisions)
                    .nullable(),
            ))
    };
}

type KnownRow = (
    Id,
    String,
    String,
    Vec<u8>,
    Option<Micros>,
    Option<Micros>,
    Option<Micros>,
    Option<String>,
    Option<NodeRow>,
);

fn known(row: KnownRow) -> Known {
    let (id, consumer_key, token_key, sealed_secret, used, ended_at, retires_at, made_for, node) =
        row;
    Known {
        id,
        made_for,
        consumer_key: ConsumerKey::trusted(consumer_key),
        token_key: TokenKey::trusted(token_key),
        sealed_secret,
        last_used_at: used.map(Timestamp::from),
        ended: ended_at.is_some(),
        retires_at: retires_at.map(Timestamp::from),
        node,
    }
}

/// `get_node_for_key`, and what it takes to believe the key.
pub fn find_by_key(conn: &mut DbConnection, key: &TokenKey) -> QueryResult<Option<Known>> {
    let wanted = tokens::token_key.eq(key.as_str());
    let row: Option<KnownRow> = by_key!(wanted).get_result(conn).optional()?;
    Ok(row.map(known))
}

/// The same for many keys, in any order; those that there are.
pub fn find_by_keys(conn: &mut DbConnection, keys: &[TokenKey]) -> QueryResult<Vec<Known>> {
    let rows: Vec<KnownRow> = match conn {
        // A list is another statement for each of its lengths there, and not kept.
        DbConnection::Sqlite(_) => {
            let found = keys.iter().map(|key| find_by_key(conn, key));
            return found.filter_map(Result::transpose).collect();
        }
        DbConnection::Postgres(conn) => {
            let keys: Vec<&str> = keys.iter().map(TokenKey::as_str).collect();
            by_key!(tokens::token_key.eq_any(keys)).load(conn)?
        }
    };
    Ok(rows.into_iter().map(known).collect())
}

/// Whether a token speaks for this node still. To be sure of the answer, hold the node first.
pub fn speaks_for(tx: &mut Tx, token: Id, system_id: &str) -> QueryResult<bool> {
    let count: i64 = node_keys::table
        .filter(node_keys::token_id.eq(token))
        .filter(node_keys::system_id.eq(system_id))
        .count()
        .get_result(tx.conn)?;
    Ok(count > 0)
}

/// The nodes that these tokens speak for; one that has ended speaks for none.
pub fn list_speakers(
    conn: &mut DbConnection,
    ids: impl IntoIterator<Item = Id>,
) -> QueryResult<HashMap<Id, String>> {
    match conn {
        DbConnection::Postgres(conn) => {
            let ids: Vec<Id> = ids.into_iter().collect();
            let rows: Vec<(Id, String)> = node_keys::table
                .filter(node_keys::token_id.eq_any(ids))
                .select((node_keys::token_id, node_keys::system_id))
                .load(conn)?;
            Ok(rows.into_iter().collect())
        }
        // One by one, and not `first`: SQLite prepares lists and a bound LIMIT anew each time.
        DbConnection::Sqlite(conn) => {
            let mut speakers = HashMap::new();
            for id in ids {
                let of = node_keys::table.find(id).select(node_keys::system_id);
                speakers.extend(of.get_result(conn).optional()?.map(|system_id| (id, system_id)));
            }
            Ok(speakers)
        }
    }
}

/// A token that is accepted and its sealed secret, as `get_token_for_node` finds it.
pub struct Live {
    pub id: Id,
    pub system_id: String,
    pub consumer_key: ConsumerKey,
    pub token_key: TokenKey,
    pub sealed_secret: Vec<u8>,
}

type LiveRow = (Id, String, String, String, Vec<u8>);

fn live((id, system_id, consumer_key, token_key, sealed_secret): LiveRow) -> Live {
    Live {
        id,
        system_id,
        consumer_key: ConsumerKey::trusted(consumer_key),
        token_key: TokenKey::trusted(token_key),
        sealed_secret,
    }
}

macro_rules! accepted {
    () => {
        node_keys::table
            .inner_join(nodes::table)
            .inner_join(tokens::table.inner_join(consumers::table))
            .select(live_columns!())
    };
}

macro_rules! live_columns {
    () => {
        (
            tokens::id,
            node_keys::system_id,
            consumers::consumer_key,
            tokens::token_key,
            tokens::sealed_secret,
        )
    };
}

/// The live tokens of those of these nodes that are in the project, in any order.
pub fn find_live(
    conn: &mut DbConnection,
    project: Id,
    system_ids: &[String],
) -> QueryResult<Vec<Live>> {
    let rows: Vec<(Id, LiveRow)> = accepted!()
        .filter(node_keys::system_id.eq_any(system_ids))
        .filter(node_keys::state.eq(LIVE))
        .select((nodes::project_id, live_columns!()))
        .load(conn)?;
    let mine = rows.into_iter().filter(|(of, _)| *of == project);
    Ok(mine.map(|(_, row)| live(row)).collect())
}

/// A token that is accepted at `now`, live or retiring.
pub fn find_accepted(conn: &mut DbConnection, id: Id, now: Timestamp) -> QueryResult<Option<Live>> {
    let in_time = node_keys::retires_at.gt(Micros::from(now)).assume_not_null();
    let row: Option<LiveRow> = accepted!()
        .filter(node_keys::token_id.eq(id))
        .filter(node_keys::retires_at.is_null().or(in_time))
        .first(conn)
        .optional()?;
    Ok(row.map(live))
}

/// Makes live tokens for nodes that have none: a consumer, its token, and the node key each.
/// A unique violation means that a node got one in between.
pub fn insert(tx: &mut Tx, made: &[Live]) -> QueryResult<()> {
    let now = Micros::from(tx.now);
    match tx.conn {
        DbConnection::Postgres(conn) => bulk::insert_tokens(conn, NODE_INIT, made, now),
        DbConnection::Sqlite(conn) => made.iter().try_for_each(|one| insert_one(conn, one, now)),
    }?;
    changed(TokenChange::Made, made.len());
    Ok(())
}

fn insert_one(conn: &mut SqliteConnection, made: &Live, now: Micros) -> QueryResult<()> {
    let id = made.id;
    diesel::insert_into(consumers::table)
        .values((
            consumers::id.eq(id),
            consumers::user_id.eq(NODE_INIT),
            consumers::consumer_key.eq(made.consumer_key.as_str()),
        ))
        .execute(conn)?;
    diesel::insert_into(tokens::table)
        .values((
            tokens::id.eq(id),
            tokens::token_key.eq(made.token_key.as_str()),
            tokens::sealed_secret.eq(&made.sealed_secret),
            tokens::made_for.eq(&made.system_id),
            tokens::created_at.eq(now),
        ))
        .execute(conn)?;
    diesel::insert_into(node_keys::table)
        .values((
            node_keys::token_id.eq(id),
            node_keys::system_id.eq(&made.system_id),
            node_keys::state.eq(LIVE),
        ))
        .execute(conn)
        .map(drop)
}

/// Ends every token that speaks for the node. Returns how many there were.
pub fn end_for_node(tx: &mut Tx, system_id: &str, by: EndedBy) -> QueryResult<usize> {
    let ids: Vec<Id> = node_keys::table
        .filter(node_keys::system_id.eq(system_id))
        .select(node_keys::token_id)
        .load(tx.conn)?;
    end(tx, &ids, by)
}

/// Ends these tokens, those of them that have not ended yet, and their claims with them.
pub fn end(tx: &mut Tx, ids: &[Id], by: EndedBy) -> QueryResult<usize> {
    if ids.is_empty() {
        return Ok(0);
    }
    tx.has_logged = true;
    claims::close_for_tokens(tx, ids)?;
    diesel::delete(node_keys::table.filter(node_keys::token_id.eq_any(ids))).execute(tx.conn)?;
    diesel::update(tokens::table.filter(tokens::id.eq_any(ids)).filter(tokens::ended_at.is_null()))
        .set((tokens::ended_at.eq(Micros::from(tx.now)), tokens::ended_by.eq(by.as_str())))
        .execute(tx.conn)
        .inspect(|ended| changed(TokenChange::Ended(by), *ended))
}

/// Keeps a token from being culled until this transaction ends. Says whether it is still accepted.
pub fn hold(tx: &mut Tx, id: Id) -> QueryResult<bool> {
    match tx.conn {
        DbConnection::Sqlite(_) => Ok(true), // it was found under the write lock
        DbConnection::Postgres(conn) => node_keys::table
            .find(id)
            .select(node_keys::token_id)
            .for_share()
            .first::<Id>(conn)
            .optional()
            .map(|held| held.is_some()),
    }
}

/// The node's superseded token that is still accepted.
pub fn find_retiring(conn: &mut DbConnection, system_id: &str) -> QueryResult<Option<Id>> {
    node_keys::table
        .filter(node_keys::system_id.eq(system_id))
        .filter(node_keys::state.eq(RETIRING))
        .select(node_keys::token_id)
        .first(conn)
        .optional()
}

/// From now on a token is superseded, and accepted until `until`.
pub fn retire(tx: &mut Tx, id: Id, until: Timestamp) -> QueryResult<usize> {
    tx.has_logged = true;
    let until = Micros::from(until);
    let superseded = diesel::update(node_keys::table.find(id).filter(node_keys::state.eq(LIVE)))
        .set((node_keys::state.eq(RETIRING), node_keys::retires_at.eq(until)))
        .execute(tx.conn)?;
    changed(TokenChange::Superseded, superseded);
    if superseded > 0 {
        return Ok(superseded);
    }
    // One that is retiring already gets another deadline.
    diesel::update(node_keys::table.find(id)).set(node_keys::retires_at.eq(until)).execute(tx.conn)
}

/// The nodes that use one of these tokens as their live one and still have another retiring.
pub fn list_taken_up(conn: &mut DbConnection, used: &[Id]) -> QueryResult<Vec<String>> {
    let retiring = diesel::alias!(node_keys as retiring);
    node_keys::table
        .inner_join(
            retiring.on(retiring
                .field(node_keys::system_id)
                .eq(node_keys::system_id)
                .and(retiring.field(node_keys::state).eq(RETIRING))),
        )
        .filter(node_keys::token_id.eq_any(used))
        .filter(node_keys::state.eq(LIVE))
        .order(node_keys::system_id)
        .select(node_keys::system_id)
        .load(conn)
}

/// Ends the retiring tokens of these nodes, whose rows are held, where one of `used` is still the
/// live one.
pub fn end_taken_over(tx: &mut Tx, nodes: &[String], used: &[Id]) -> QueryResult<usize> {
    let taken_up: Vec<String> = list_taken_up(tx.conn, used)?;
    let ids: Vec<Id> = node_keys::table
        .filter(node_keys::state.eq(RETIRING))
        .filter(node_keys::system_id.eq_any(nodes))
        .filter(node_keys::system_id.eq_any(&taken_up))
        .select(node_keys::token_id)
        .load(tx.conn)?;
    end(tx, &ids, EndedBy::Reissue)
}

/// Nodes with a retiring token whose deadline has passed, at most `limit` of them.
pub fn list_overdue(
    conn: &mut DbConnection,
    now: Timestamp,
    limit: i64,
) -> QueryResult<Vec<String>> {
    node_keys::table
        .filter(node_keys::retires_at.le(Micros::from(now)))
        .order(node_keys::retires_at)
        .limit(limit)
        .select(node_keys::system_id)
        .load(conn)
}

/// Ends the retiring tokens of these nodes, whose rows are held, whose deadline has passed.
pub fn end_overdue(tx: &mut Tx, nodes: &[String]) -> QueryResult<usize> {
    let ids: Vec<Id> = node_keys::table
        .filter(node_keys::system_id.eq_any(nodes))
        .filter(node_keys::retires_at.le(Micros::from(tx.now)))
        .select(node_keys::token_id)
        .load(tx.conn)?;
    end(tx, &ids, EndedBy::Reissue)
}

type SummaryRow =
    (Id, Option<String>, String, Option<String>, Micros, Option<Micros>, Option<Micros>);

fn summary(row: SummaryRow) -> (Id, TokenSummary) {
    let (id, system_id, token_key, state, created_at, last_used_at, ended_at) = row;
    let state = match (ended_at, state.as_deref()) {
        (Some(_), _) => TokenState::Ended,
        (None, Some(RETIRING)) => TokenState::Retiring,
        (None, _) => TokenState::Live,
    };
    let summary = TokenSummary {
        system_id,
        token_key,
        state,
        created_at: created_at.into(),
        last_used_at: last_used_at.map(Timestamp::from),
    };
    (id, summary)
}

macro_rules! summary_columns {
    () => {
        (
            tokens::id,
            tokens::made_for,
            tokens::token_key,
            node_keys::state.nullable(),
            tokens::created_at,
            tokens::last_used_at,
            tokens::ended_at,
        )
    };
}

macro_rules! summaries {
    () => {
        tokens::table.left_join(node_keys::table).select(summary_columns!())
    };
}

/// A node's live token, without its secret.
pub fn find_summary(conn: &mut DbConnection, system_id: &str) -> QueryResult<Option<TokenSummary>> {
    let row: Option<SummaryRow> = summaries!()
        .filter(node_keys::system_id.eq(system_id))
        .filter(node_keys::state.eq(LIVE))
        .first(conn)
        .optional()?;
    Ok(row.map(|row| summary(row).1))
}

/// Tokens in the order they were made, ended ones too; `after` is the last id of the page before,
/// `key` the only one wanted.
pub fn list(
    conn: &mut DbConnection,
    key: Option<&TokenKey>,
    after: Option<Id>,
    limit: i64,
) -> QueryResult<Vec<(Id, TokenSummary)>> {
    let after = after.unwrap_or(Id(uuid::Uuid::nil()));
    let page = summaries!().filter(tokens::id.gt(after)).order(tokens::id).limit(limit);
    let rows: Vec<SummaryRow> = match key {
        None => page.load(conn)?,
        Some(key) => page.filter(tokens::token_key.eq(key.as_str())).load(conn)?,
    };
    Ok(rows.into_iter().map(summary).collect())
}

/// The instants before which a token is stale, `None` where a rule was not asked for.
#[derive(Clone, Copy)]
pub struct StaleBefore {
    made: Option<Micros>,
    used: Option<Micros>,
    now: Micros,
}

impl StaleBefore {
    #[must_use]
    pub fn new(rule: Staleness, now: Timestamp) -> StaleBefore {
        let before = |age: std::time::Duration| {
            // Longer ago than there is time: nothing is that old.
            Micros::from(now.checked_sub(age).unwrap_or(Timestamp::MIN))
        };
        StaleBefore {
            made: rule.unused_for.map(before),
            used: rule.idle_for.map(before),
            now: now.into(),
        }
    }
}

macro_rules! is_stale {
    ($before:expr) => {{
        // An instant that nothing was made or used before stands for a rule not asked for.
        let never = Micros::from(Timestamp::MIN);
        let unused = tokens::last_used_at
            .is_null()
            .and(tokens::created_at.lt($before.made.unwrap_or(never)));
        let idle = tokens::last_used_at.lt($before.used.unwrap_or(never)).assume_not_null();
        // Nodes on their way are passed over; one whose deadline has passed has failed.
        let late =
            boots::fails_at.is_not_null().and(boots::fails_at.le($before.now).assume_not_null());
        let on_its_way = boots::table
            .filter(boots::system_id.nullable().eq(tokens::made_for))
            .filter(boots::state.eq_any(["claimed", "contacted", "booting"]))
            .filter(diesel::dsl::not(late));
        tokens::ended_at
            .is_null()
            .and(unused.or(tokens::last_used_at.is_not_null().and(idle)))
            .and(diesel::dsl::not(diesel::dsl::exists(on_its_way)))
    }};
}

/// The tokens that speak for a node, a stretch of them in the order of their keys.
macro_rules! stretch {
    ($after:expr, $until:expr) => {
        node_keys::table
            .inner_join(tokens::table)
            .filter(node_keys::token_id.gt($after))
            .filter(node_keys::token_id.le($until))
    };
}

/// Behind every uuid v7.
const LAST: Id = Id(uuid::Uuid::max());

/// The last of the next `keys` tokens, or none when there are not so many: a look goes through
/// so many and no more, however few of them it is for.
fn find_end(conn: &mut DbConnection, after: Id, keys: i64) -> QueryResult<Option<Id>> {
    node_keys::table
        .filter(node_keys::token_id.gt(after))
        .order(node_keys::token_id)
        .offset(keys - 1)
        .limit(1)
        .select(node_keys::token_id)
        .first(conn)
        .optional()
}

/// What a stretch of tokens holds.
pub struct Counted {
    pub live: u64,
    pub stale: u64,
    /// Where the next stretch begins; none when this was the last.
    pub last: Option<Id>,
}

/// How many of the next `keys` tokens are live, and how many stale.
pub fn count_stale(
    conn: &mut DbConnection,
    before: StaleBefore,
    after: Id,
    keys: i64,
) -> QueryResult<Counted> {
    let last = find_end(conn, after, keys)?;
    let until = last.unwrap_or(LAST);
    let live: i64 =
        stretch!(after, until).filter(node_keys::state.eq(LIVE)).count().get_result(conn)?;
    let stale: i64 = stretch!(after, until).filter(is_stale!(before)).count().get_result(conn)?;
    let number = |count| u64::try_from(count).unwrap_or(0);
    Ok(Counted { live: number(live), stale: number(stale), last })
}

/// The tokens of a stretch that were asked for, and where the next begins; none when this was the
/// last.
pub struct Stretch {
    pub tokens: Vec<(Id, TokenSummary)>,
    pub last: Option<Id>,
}

/// The stale ones of the next `keys` tokens, at most `limit` of them.
pub fn list_stale(
    conn: &mut DbConnection,
    before: StaleBefore,
    after: Id,
    keys: i64,
    limit: i64,
) -> QueryResult<Stretch> {
    let last = find_end(conn, after, keys)?;
    let rows: Vec<SummaryRow> = stretch!(after, last.unwrap_or(LAST))
        .filter(is_stale!(before))
        .order(node_keys::token_id)
        .limit(limit)
        .select(summary_columns!())
        .load(conn)?;
    let page: Vec<_> = rows.into_iter().map(summary).collect();
    let is_full = i64::try_from(page.len()).is_ok_and(|rows| rows == limit);
    let last = if is_full { page.last().map(|(id, _)| *id) } else { last };
    Ok(Stretch { tokens: page, last })
}

/// Ends those of these tokens that are still stale now, and says which they were.
pub fn end_stale(tx: &mut Tx, ids: &[Id], before: StaleBefore) -> QueryResult<Vec<Id>> {
    // Held, so that a node that begins to boot now waits or is seen.
    let held: Vec<String> = node_keys::table
        .filter(node_keys::token_id.eq_any(ids))
        .select(node_keys::system_id)
        .load(tx.conn)?;
    super::nodes::hold(tx, &held.iter().map(String::as_str).collect::<Vec<_>>())?;
    tx.has_logged = true;
    // The rule stands in the statement that ends them: a token used since it was listed stays.
    diesel::update(tokens::table.filter(tokens::id.eq_any(ids)).filter(is_stale!(before)))
        .set((
            tokens::ended_at.eq(Micros::from(tx.now)),
            tokens::ended_by.eq(EndedBy::Cull.as_str()),
        ))
        .execute(tx.conn)
        .inspect(|culled| changed(TokenChange::Ended(EndedBy::Cull), *culled))?;
    let listed: Vec<(Id, Option<Micros>)> = node_keys::table
        .inner_join(tokens::table)
        .filter(node_keys::token_id.eq_any(ids))
        .select((node_keys::token_id, tokens::ended_at))
        .load(tx.conn)?;
    // Picked here: PostgreSQL would look for them among all that have ever ended.
    let ended = listed.into_iter().filter_map(|(id, ended_at)| ended_at.map(|_| id));
    let ended: Vec<Id> = ended.collect();
    diesel::delete(node_keys::table.filter(node_keys::token_id.eq_any(&ended))).execute(tx.conn)?;
    claims::close_for_tokens(tx, &ended)?;
    Ok(ended)
}

/// Moves a token's last use forward; an older instant changes nothing.
pub fn update_last_used(tx: &mut Tx, id: Id, at: Timestamp) -> QueryResult<usize> {
    let at = Micros::from(at);
    let query = fixed::<UpdateLastUsed>("UPDATE tokens SET last_used_at = ")
        .bind::<BigInt, _>(at, " WHERE id = ")
        .bind::<Binary, _>(id, " AND (last_used_at IS NULL OR last_used_at < ")
        .bind::<BigInt, _>(at, ")");
    match tx.conn {
        DbConnection::Postgres(conn) => query.execute(conn),
        DbConnection::Sqlite(conn) => query.execute(conn),
    }
}

enum UpdateLastUsed {}

/// Deletes at most `limit` tokens that ended before `before`, with their consumers.
pub fn delete_ended(tx: &mut Tx, before: Timestamp, limit: i64) -> QueryResult<usize> {
    let ids: Vec<Id> = tokens::table
        .filter(tokens::ended_at.lt(Micros::from(before)))
        .order(tokens::ended_at)
        .limit(limit)
        .select(tokens::id)
        .load(tx.conn)?;
    // The token goes with its consumer.
    diesel::delete(consumers::table.filter(consumers::id.eq_any(&ids))).execute(tx.conn)
}

#[cfg(test)]
mod tests {
    use diesel::sql_types::Text;
    use diesel::sqlite::Sqlite;

    use super::*;
    use crate::store::{DatabaseUrl, migrations, pool};

    #[derive(QueryableByName)]
    struct Step {
        #[diesel(sql_type = Text)]
        detail: String,
    }

    #[test]
    fn a_key_is_looked_up_by_indexes_alone() {
        let dir = tempfile::tempdir().unwrap();
        let url = DatabaseUrl::Sqlite(dir.path().join("nodeinit.db"));
        migrations::run(&url).unwrap();
        let query =
            diesel::debug_query::<Sqlite, _>(&by_key!(tokens::token_key.eq("k"))).to_string();
        let query = query.split(" -- binds").next().unwrap().replace('?', "'k'");
        let DbConnection::Sqlite(mut conn) = pool::Manager::new(url).open().unwrap() else {
            panic!("the URL names SQLite");
        };
        let plan: Vec<Step> =
            diesel::sql_query(format!("EXPLAIN QUERY PLAN {query}")).load(&mut conn).unwrap();
        assert!(plan.len() >= 4, "one step a table");
        for Step { detail } in plan {
            assert!(detail.starts_with("SEARCH"), "{detail}");
        }
    }
}
