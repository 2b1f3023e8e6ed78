//! How far nodes have come: each one's fold, advanced in the transaction that has the news.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Nullable, Text};
use jiff::Timestamp;

use super::columns::{Id, Micros};
use super::fixed::{Bind as _, column, fixed};
use super::schema::{boots, nodes as nodes_table, projects, tokens as tokens_table};
use super::{DbConnection, Tx, nodes, tokens};
use crate::domain::boot::{Fold, Learned, Step};
use crate::domain::node::BootState;

/// One step of one node, and the token it came with.
#[derive(Clone, Copy, Debug)]
pub struct Move<'m> {
    pub system_id: &'m str,
    pub token: Option<Id>,
    pub step: Step<'m>,
}

/// A fold that cannot be read begins anew: better than to refuse its node's reports for ever.
fn read(column: &str) -> Fold {
    Fold::unpack(column).unwrap_or_default()
}

pub fn find(conn: &mut DbConnection, system_id: &str) -> QueryResult<Option<Fold>> {
    let row: Option<String> =
        boots::table.find(system_id).select(boots::fold).first(conn).optional()?;
    Ok(row.map(|column| read(&column)))
}

/// The folds of these nodes, as far as they have any.
fn find_many<'s>(
    conn: &mut DbConnection,
    system_ids: impl IntoIterator<Item = &'s str>,
) -> QueryResult<HashMap<String, Fold>> {
    match conn {
        DbConnection::Postgres(conn) => {
            let rows: Vec<(String, String)> = boots::table
                .filter(boots::system_id.eq_any(system_ids.into_iter().collect::<Vec<_>>()))
                .select((boots::system_id, boots::fold))
                .load(conn)?;
            Ok(rows.into_iter().map(|(id, column)| (id, read(&column))).collect())
        }
        // One by one: a list would be prepared anew for each length.
        DbConnection::Sqlite(conn) => {
            let mut folds = HashMap::new();
            for system_id in system_ids {
                let found = boots::table.find(system_id).select(boots::fold);
                // No `first`: SQLite prepares its bound LIMIT anew each time.
                let column: Option<String> = found.get_result(conn).optional()?;
                folds.extend(column.map(|column| (system_id.to_owned(), read(&column))));
            }
            Ok(folds)
        }
    }
}

/// Takes the steps, in their order. The nodes' rows must be held ([`nodes::hold`]), so that two
/// who advance one node take turns.
pub fn advance(tx: &mut Tx, moves: &[Move]) -> QueryResult<()> {
    let mut by_node: BTreeMap<&str, Vec<&Move>> = BTreeMap::new();
    for one in moves {
        by_node.entry(one.system_id).or_default().push(one);
    }
    let mut known = find_many(tx.conn, by_node.keys().copied())?;
    let mut rows = Vec::new();
    for (system_id, moves) in by_node {
        let there = known.remove(system_id);
        let was = there.as_ref().map(Shown::of);
        let mut fold = there.unwrap_or_default();
        let mut is_new = false;
        for one in moves {
            is_new |= advanced(&mut fold, one);
        }
        if is_new {
            let text = match tx.conn {
                // A replica of the version before may read it.
                DbConnection::Postgres(_) => serde_json::to_string(&fold),
                DbConnection::Sqlite(_) => fold.pack(),
            };
            let text = text.map_err(|e| diesel::result::Error::SerializationError(e.into()))?;
            rows.push(Row::new(system_id, &fold, text, was));
        }
    }
    write(tx, &rows)
}

/// Whether it changed the fold.
fn advanced(fold: &mut Fold, one: &Move) -> bool {
    let token = one.token.map(|token| token.0.simple().to_string());
    fold.advance(token.as_deref(), &one.step)
}

/// What is indexed of a fold.
#[derive(PartialEq, Eq)]
struct Shown {
    state: &'static str,
    stage: &'static str,
    since: Micros,
}

impl Shown {
    fn of(fold: &Fold) -> Shown {
        Shown {
            state: fold.state().as_str(),
            stage: fold.stage(),
            since: Micros::from(fold.since()),
        }
    }
}

struct Row<'r> {
    system_id: &'r str,
    fold: String,
    shown: Shown,
    was: Option<Shown>,
    fails_at: Option<Micros>,
}

impl<'r> Row<'r> {
    fn new(system_id: &'r str, fold: &Fold, text: String, was: Option<Shown>) -> Row<'r> {
        let fails_at = fold.fails_at().map(Micros::from);
        Row { system_id, fold: text, shown: Shown::of(fold), was, fails_at }
    }
}

fn write(tx: &mut Tx, rows: &[Row]) -> QueryResult<()> {
    if rows.is_empty() {
        return Ok(());
    }
    match tx.conn {
        DbConnection::Postgres(conn) => {
            fixed::<Upsert>("INSERT INTO boots (system_id, fold, state, stage, since, fails_at) SELECT * FROM unnest(")
                .bind::<Array<Text>, _>(column(rows, |row| row.system_id), ", ")
                .bind::<Array<Text>, _>(column(rows, |row| row.fold.as_str()), ", ")
                .bind::<Array<Text>, _>(column(rows, |row| row.shown.state), ", ")
                .bind::<Array<Text>, _>(column(rows, |row| row.shown.stage), ", ")
                .bind::<Array<BigInt>, _>(column(rows, |row| row.shown.since), ", ")
                .bind::<Array<Nullable<BigInt>>, _>(
                    column(rows, |row| row.fails_at),
                    ") ON CONFLICT (system_id) DO UPDATE SET fold = excluded.fold, \
                     state = excluded.state, stage = excluded.stage, since = excluded.since, \
                     fails_at = excluded.fails_at",
                )
                .execute(conn)?;
        }
        DbConnection::Sqlite(conn) => {
            for row in rows {
                write_row(conn, row)?;
            }
        }
    }
    Ok(())
}

fn write_row(conn: &mut SqliteConnection, row: &Row) -> QueryResult<()> {
    let fold = row.fold.as_str();
    match &row.was {
        // Most reports change nothing that is indexed.
        Some(was) if *was == row.shown => fixed::<UpdateKept>("UPDATE boots SET fold = ")
            .bind::<Text, _>(fold, ", fails_at = ")
            .bind::<Nullable<BigInt>, _>(row.fails_at, " WHERE system_id = ")
            .bind::<Text, _>(row.system_id, "")
            .execute(conn)?,
        Some(_) => fixed::<Update>("UPDATE boots SET fold = ")
            .bind::<Text, _>(fold, ", fails_at = ")
            .bind::<Nullable<BigInt>, _>(row.fails_at, ", state = ")
            .bind::<Text, _>(row.shown.state, ", stage = ")
            .bind::<Text, _>(row.shown.stage, ", since = ")
            .bind::<BigInt, _>(row.shown.since, " WHERE system_id = ")
            .bind::<Text, _>(row.system_id, "")
            .execute(conn)?,
        None => diesel::insert_into(boots::table)
            .values((
                boots::system_id.eq(row.system_id),
                boots::fold.eq(fold),
                boots::state.eq(row.shown.state),
                boots::stage.eq(row.shown.stage),
                boots::since.eq(row.shown.since),
                boots::fails_at.eq(row.fails_at),
            ))
            .execute(conn)?,
    };
    Ok(())
}

enum Upsert {}
enum Update {}
enum UpdateKept {}

/// Takes what reads taught of tokens that still speak for a node: their last use, and how far their
/// nodes have come. The first use of a reissued token ends the one before it. Most polls teach
/// nothing new, and take no lock.
pub fn learn(tx: &mut Tx, learned: &[(Id, Learned)]) -> QueryResult<()> {
    if learned.is_empty() {
        return Ok(());
    }
    let ids: Vec<Id> = learned.iter().map(|(token, _)| *token).collect();
    let speakers = tokens::list_speakers(tx.conn, ids.iter().copied())?;
    let mut moves = Vec::new();
    for (token, learned) in learned {
        if let Some(system_id) = speakers.get(token) {
            moves.extend(learned.steps().map(|step| Move { system_id, token: Some(*token), step }));
        }
    }
    let known: BTreeSet<&str> = moves.iter().map(|one| one.system_id).collect();
    let known = find_many(tx.conn, known)?;
    let news = |one: &Move| {
        let mut fold = known.get(one.system_id).cloned().unwrap_or_default();
        advanced(&mut fold, one)
    };
    moves.retain(news);
    let used: Vec<Id> =
        learned.iter().filter(|(_, learned)| learned.used.is_some()).map(|(id, _)| *id).collect();
    let taken_up = tokens::list_taken_up(tx.conn, &used)?;
    if !moves.is_empty() || !taken_up.is_empty() {
        let held = moves.iter().map(|one| one.system_id);
        let held: BTreeSet<&str> = held.chain(taken_up.iter().map(String::as_str)).collect();
        nodes::hold(tx, &held.into_iter().collect::<Vec<_>>())?;
        // Whoever was ended or removed before the rows were held has nothing to tell any more.
        let speaking = tokens::list_speakers(tx.conn, ids)?;
        moves.retain(|one| one.token.is_some_and(|token| speaking.contains_key(&token)));
        // Another reissue may have come in between: with the nodes held, it is looked at again.
        tokens::end_taken_over(tx, &taken_up, &used)?;
        advance(tx, &moves)?;
    }
    for (token, learned) in learned {
        if let Some(used) = learned.used {
            tokens::update_last_used(tx, *token, used)?;
        }
    }
    Ok(())
}

/// What may have been read and not written down when a server was killed fails nobody. A deadline
/// that passed before the last read that was written down was not missed.
pub fn forget_deadlines(tx: &mut Tx) -> QueryResult<usize> {
    let last: Option<Micros> =
        tokens_table::table.select(diesel::dsl::max(tokens_table::last_used_at)).first(tx.conn)?;
    let last = last.unwrap_or(Micros::from(Timestamp::MIN));
    let waiting: Vec<String> = boots::table
        .filter(boots::fails_at.gt(last).assume_not_null())
        .order(boots::system_id)
        .select(boots::system_id)
        .load(tx.conn)?;
    let step = Step::MarksLost { at: tx.now };
    for some in waiting.chunks(500) {
        let ids: Vec<&str> = some.iter().map(String::as_str).collect();
        nodes::hold(tx, &ids)?;
        let moves: Vec<Move> =
            ids.iter().map(|system_id| Move { system_id, token: None, step }).collect();
        advance(tx, &moves)?;
    }
    Ok(waiting.len())
}

/// A state as the columns say it.
pub fn state(
    has_token: bool,
    row: Option<(String, Option<Micros>)>,
    now: Timestamp,
) -> QueryResult<BootState> {
    let Some((state, fails_at)) = row else { return Ok(unused(has_token)) };
    if fails_at.is_some_and(|at| Timestamp::from(at) <= now) {
        return Ok(BootState::Failed);
    }
    match BootState::parse(&state) {
        Ok(BootState::Issued | BootState::New) => Ok(unused(has_token)),
        Ok(state) => Ok(state),
        Err(why) => Err(diesel::result::Error::DeserializationError(why.into())),
    }
}

fn unused(has_token: bool) -> BootState {
    if has_token { BootState::Issued } else { BootState::New }
}

/// A node that has stopped on its way.
#[derive(Clone, Debug)]
pub struct Stuck {
    pub system_id: String,
    pub hostname: String,
    pub project: String,
    pub fold: Fold,
}

/// Where a node may be stuck.
const UNSETTLED: [&str; 4] = ["claimed", "contacted", "booting", "failed"];

/// Nodes that are on their way, or failed, and have been where they are since `before` or earlier.
pub fn list_stuck(
    conn: &mut DbConnection,
    before: Timestamp,
    after: &str,
    limit: i64,
) -> QueryResult<Vec<Stuck>> {
    let mut rows: Vec<(String, String, String, String)> = Vec::new();
    // State by state, since a page of each is a range of the index and a page of all is not.
    for state in UNSETTLED {
        let page: Vec<(String, String, String, String)> = boots::table
            .inner_join(nodes_table::table.inner_join(projects::table))
            .filter(boots::state.eq(state))
            .filter(boots::since.le(Micros::from(before)))
            .filter(boots::system_id.gt(after))
            .order(boots::system_id)
            .limit(limit)
            .select((boots::system_id, nodes_table::hostname, projects::name, boots::fold))
            .load(conn)?;
        rows.extend(page);
    }
    rows.sort_unstable_by(|(one, ..), (other, ..)| one.cmp(other));
    rows.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    Ok(rows
        .into_iter()
        .map(|(system_id, hostname, project, fold)| Stuck {
            system_id,
            hostname,
            project,
            fold: read(&fold),
        })
        .collect())
}

macro_rules! stuck {
    ($before:expr) => {
        boots::table
            .filter(boots::state.eq_any(UNSETTLED))
            .filter(boots::since.le(Micros::from($before)))
    };
}

/// How many of them there are in each state and stage, those whose deadline has passed as failed.
pub fn count_stuck(
    conn: &mut DbConnection,
    before: Timestamp,
    now: Timestamp,
) -> QueryResult<BTreeMap<(String, String), i64>> {
    let now = Micros::from(now);
    let late = boots::fails_at.is_not_null().and(boots::fails_at.le(now).assume_not_null());
    let waits = boots::fails_at.is_null().or(boots::fails_at.gt(now).assume_not_null());
    let failed: Vec<(String, i64)> = stuck!(before)
        .filter(late)
        .group_by(boots::stage)
        .select((boots::stage, diesel::dsl::count_star()))
        .load(conn)?;
    let others: Vec<(String, String, i64)> = stuck!(before)
        .filter(waits)
        .group_by((boots::state, boots::stage))
        .select((boots::state, boots::stage, diesel::dsl::count_star()))
        .load(conn)?;
    let failed = failed.into_iter().map(|(stage, count)| ("failed".to_owned(), stage, count));
    let mut counts = BTreeMap::new();
    for (state, stage, count) in others.into_iter().chain(failed) {
        *counts.entry((state, stage)).or_default() += count;
    }
    Ok(counts)
}
