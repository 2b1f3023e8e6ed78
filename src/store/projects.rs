//! Projects: what a node belongs to. `default` always exists.

use diesel::prelude::*;
use uuid::Uuid;

use super::columns::Id;
use super::schema::projects;
use super::{DbConnection, Tx};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Project {
    pub id: Id,
    pub name: String,
}

/// By name or by id, as a URL may have either.
pub fn find(conn: &mut DbConnection, name_or_id: &str) -> QueryResult<Option<Project>> {
    let found = projects::table
        .filter(projects::name.eq(name_or_id))
        .select((projects::id, projects::name))
        .first::<(Id, String)>(conn)
        .optional()?;
    let found = match (found, Uuid::try_parse(name_or_id)) {
        (None, Ok(id)) => projects::table
            .find(Id(id))
            .select((projects::id, projects::name))
            .first::<(Id, String)>(conn)
            .optional()?,
        (found, _) => found,
    };
    Ok(found.map(|(id, name)| Project { id, name }))
}

pub fn insert(tx: &mut Tx, id: Id, name: &str) -> QueryResult<()> {
    diesel::insert_into(projects::table)
        .values((projects::id.eq(id), projects::name.eq(name)))
        .execute(tx.conn)
        .map(drop)
}
