//! SQL of a fixed shape: prepared once a connection, where `sql_query` and every `UPDATE` of diesel's
//! are prepared at each use.

use std::marker::PhantomData;

use diesel::QueryResult;
use diesel::backend::Backend;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::query_dsl::RunQueryDsl;
use diesel::serialize::ToSql;
use diesel::sql_types::{HasSqlType, Untyped};

/// The text up to the first value, of the statement that `Name` is a type of its own for.
pub struct Fixed<Name>(&'static str, PhantomData<Name>);

/// A value, and the text after it.
pub struct Bound<Q, ST, U> {
    before: Q,
    value: U,
    after: &'static str,
    kind: PhantomData<ST>,
}

#[must_use]
pub fn fixed<Name>(sql: &'static str) -> Fixed<Name> {
    Fixed(sql, PhantomData)
}

/// What a value can be put behind.
pub trait Bind: Sized {
    fn bind<ST, U>(self, value: U, after: &'static str) -> Bound<Self, ST, U> {
        Bound { before: self, value, after, kind: PhantomData }
    }
}

impl<Name> Bind for Fixed<Name> {}
impl<Q, ST, U> Bind for Bound<Q, ST, U> {}

/// One column of many rows, as PostgreSQL's `unnest` takes it.
pub fn column<'r, R, T>(rows: &'r [R], of: impl Fn(&'r R) -> T) -> Vec<T> {
    rows.iter().map(of).collect()
}

impl<DB: Backend, Name> QueryFragment<DB> for Fixed<Name> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, DB>) -> QueryResult<()> {
        out.push_sql(self.0);
        Ok(())
    }
}

impl<DB, Q, ST, U> QueryFragment<DB> for Bound<Q, ST, U>
where
    DB: Backend + HasSqlType<ST>,
    Q: QueryFragment<DB>,
    U: ToSql<ST, DB>,
{
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, DB>) -> QueryResult<()> {
        self.before.walk_ast(out.reborrow())?;
        out.push_bind_param::<ST, U>(&self.value)?;
        out.push_sql(self.after);
        Ok(())
    }
}

impl<Name: 'static> QueryId for Fixed<Name> {
    type QueryId = Name;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl<Q: QueryId, ST, U> QueryId for Bound<Q, ST, U> {
    type QueryId = Q::QueryId;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl<Q, ST, U> Query for Bound<Q, ST, U> {
    type SqlType = Untyped;
}

impl<Q, ST, U, Conn> RunQueryDsl<Conn> for Bound<Q, ST, U> {}
