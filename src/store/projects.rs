//! Projects: what a node belongs to and an operator works in. `default` always exists.

use diesel::prelude::*;
use uuid::Uuid;

use super::columns::Id;
use super::schema::{nodes, projects};
use super::{DbConnection, Tx};
use crate::domain::identity::Name;

/// The project every node is in unless another is named: it stays, and stays enabled.
pub const DEFAULT: Id = Id(Uuid::from_u128(0x019a_0000_0000_7000_8000_0000_0000_00f1));

#[derive(Clone, Debug, PartialEq, Eq, Queryable)]
pub struct Project {
    pub id: Id,
    pub name: String,
    pub description: Option<String>,
    pub enabled: bool,
}

macro_rules! rows {
    () => {
        projects::table.select((
            projects::id,
            projects::name,
            projects::description,
            projects::enabled,
        ))
    };
}

/// By name or by id, as a URL may have either.
pub fn find(conn: &mut DbConnection, name_or_id: &str) -> QueryResult<Option<Project>> {
    if name_or_id.contains('\0') {
        return Ok(None); // PostgreSQL refuses to look for it
    }
    let named = rows!().filter(projects::name.eq(name_or_id)).first(conn).optional()?;
    match (named, Uuid::try_parse(name_or_id)) {
        (None, Ok(id)) => find_by_id(conn, Id(id)),
        (named, _) => Ok(named),
    }
}

pub fn find_by_id(conn: &mut DbConnection, id: Id) -> QueryResult<Option<Project>> {
    rows!().filter(projects::id.eq(id)).first(conn).optional()
}

/// However the letters of its name are written.
pub fn find_by_name(conn: &mut DbConnection, name: &Name) -> QueryResult<Option<Project>> {
    rows!().filter(projects::name_folded.eq(name.folded())).first(conn).optional()
}

/// All of them by name, or those of `only`.
pub fn list(conn: &mut DbConnection, only: Option<&[Id]>) -> QueryResult<Vec<Project>> {
    let all = rows!().order(projects::name_folded);
    match only {
        None => all.load(conn),
        Some(ids) => all.filter(projects::id.eq_any(ids)).load(conn),
    }
}

/// A unique violation means that the name is taken.
pub fn insert(tx: &mut Tx, new: &Project) -> QueryResult<()> {
    diesel::insert_into(projects::table)
        .values((
            projects::id.eq(new.id),
            projects::name.eq(&new.name),
            projects::name_folded.eq(new.name.to_ascii_lowercase()),
            projects::description.eq(&new.description),
            projects::enabled.eq(new.enabled),
        ))
        .execute(tx.conn)
        .map(drop)
}

/// What a change of a project may name.
#[derive(Clone, Debug, Default)]
pub struct Change {
    pub name: Option<Name>,
    pub description: Option<String>,
    pub enabled: Option<bool>,
}

#[derive(AsChangeset)]
#[diesel(table_name = projects)]
struct Columns {
    name: Option<String>,
    name_folded: Option<String>,
    description: Option<String>,
    enabled: Option<bool>,
}

/// A unique violation means that the name is taken.
pub fn update(tx: &mut Tx, id: Id, change: &Change) -> QueryResult<()> {
    let columns = Columns {
        name: change.name.as_ref().map(|name| name.as_str().to_owned()),
        name_folded: change.name.as_ref().map(Name::folded),
        description: change.description.clone(),
        enabled: change.enabled,
    };
    diesel::update(projects::table.find(id))
        .set(&columns)
        .execute(tx.conn)
        .optional_empty_changeset()
        .map(drop)
}

/// Removes a project, with the grants and tokens in it, unless it has nodes.
pub fn delete(tx: &mut Tx, id: Id) -> QueryResult<usize> {
    let empty =
        diesel::dsl::not(diesel::dsl::exists(nodes::table.filter(nodes::project_id.eq(id))));
    diesel::delete(projects::table.filter(projects::id.eq(id)).filter(empty)).execute(tx.conn)
}
