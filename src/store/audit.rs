//! The rows of the audit and the head that counts them. Rows are added at one end and cut at the
//! other.

use diesel::prelude::*;
use jiff::Timestamp;

use super::columns::Micros;
use super::schema::{audit, audit_head};
use super::{DbConnection, Tx};
use crate::domain::audit::{Entry, Head};

/// An entry in its place in the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub seq: i64,
    pub entry: Entry,
    pub mac: Vec<u8>,
}

type Columns = (i64, Micros, String, String, String, String, String, String, Vec<u8>);

fn row(columns: Columns) -> Row {
    let (seq, at, actor, verb, object, outcome, detail, request_id, mac) = columns;
    let entry = Entry { at: at.into(), actor, verb, object, outcome, detail, request_id };
    Row { seq, entry, mac }
}

/// The head and its seal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    pub head: Head,
    pub seal: Vec<u8>,
}

macro_rules! head {
    () => {
        audit_head::table.select((
            audit_head::base,
            audit_head::base_mac,
            audit_head::count,
            audit_head::mac,
            audit_head::seal,
        ))
    };
}

fn sealed((base, base_mac, count, mac, seal): (i64, Vec<u8>, i64, Vec<u8>, Vec<u8>)) -> Sealed {
    Sealed { head: Head { base, base_mac, count, mac }, seal }
}

pub fn find_head(conn: &mut DbConnection) -> QueryResult<Option<Sealed>> {
    Ok(head!().first(conn).optional()?.map(sealed))
}

/// The head, held until the transaction ends: those who add rows take turns by it. On `SQLite` the
/// writer has the whole database already.
pub fn lock_head(tx: &mut Tx) -> QueryResult<Sealed> {
    match tx.conn {
        DbConnection::Sqlite(_) => head!().first(tx.conn),
        DbConnection::Postgres(conn) => head!().for_no_key_update().first(conn),
    }
    .map(sealed)
}

pub fn update_head(tx: &mut Tx, to: &Sealed) -> QueryResult<()> {
    diesel::update(audit_head::table)
        .set((
            audit_head::base.eq(to.head.base),
            audit_head::base_mac.eq(&to.head.base_mac),
            audit_head::count.eq(to.head.count),
            audit_head::mac.eq(&to.head.mac),
            audit_head::seal.eq(&to.seal),
        ))
        .execute(tx.conn)
        .map(drop)
}

pub fn append(tx: &mut Tx, row: &Row) -> QueryResult<()> {
    let entry = &row.entry;
    diesel::insert_into(audit::table)
        .values((
            audit::seq.eq(row.seq),
            audit::at.eq(Micros::from(entry.at)),
            audit::actor.eq(&entry.actor),
            audit::verb.eq(&entry.verb),
            audit::object.eq(&entry.object),
            audit::outcome.eq(&entry.outcome),
            audit::detail.eq(&entry.detail),
            audit::request_id.eq(&entry.request_id),
            audit::mac.eq(&row.mac),
        ))
        .execute(tx.conn)
        .map(drop)
}

/// Which rows a list has.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Words of the actor, in their order, whatever the case of their letters.
    pub actor: Option<String>,
    pub verb: Option<String>,
    pub object: Option<String>,
    pub since: Option<Timestamp>,
}

diesel::define_sql_function!(fn lower(text: diesel::sql_types::Text) -> diesel::sql_types::Text);

/// Rows in the order they were written; `after` is the last one of the page before.
pub fn list(
    conn: &mut DbConnection,
    filter: &Filter,
    after: i64,
    limit: i64,
) -> QueryResult<Vec<Row>> {
    let mut query =
        audit::table.filter(audit::seq.gt(after)).order(audit::seq).limit(limit).into_boxed();
    if let Some(words) = &filter.actor {
        let mut pattern = String::from("% ");
        for c in words.to_lowercase().chars() {
            if matches!(c, '%' | '_' | '\\') {
                pattern.push('\\');
            }
            pattern.push(c);
        }
        pattern.push_str(" %");
        let actor = " ".into_sql::<diesel::sql_types::Text>().concat(audit::actor).concat(" ");
        query = query.filter(lower(actor).like(pattern).escape('\\'));
    }
    if let Some(verb) = &filter.verb {
        query = query.filter(audit::verb.eq(verb));
    }
    if let Some(object) = &filter.object {
        query = query.filter(audit::object.eq(object));
    }
    if let Some(since) = filter.since {
        query = query.filter(audit::at.ge(Micros::from(since)));
    }
    Ok(query.load::<Columns>(conn)?.into_iter().map(row).collect())
}

/// The number of the newest row.
pub fn find_newest(conn: &mut DbConnection) -> QueryResult<Option<i64>> {
    audit::table.select(diesel::dsl::max(audit::seq)).first(conn)
}

/// The number of the oldest row.
pub fn find_oldest(conn: &mut DbConnection) -> QueryResult<Option<i64>> {
    audit::table.select(diesel::dsl::min(audit::seq)).first(conn)
}

/// Cuts the rows up to this one.
pub fn delete_until(tx: &mut Tx, seq: i64) -> QueryResult<usize> {
    diesel::delete(audit::table.filter(audit::seq.le(seq))).execute(tx.conn)
}
