//! Grants: what a user is in a project.

use std::collections::BTreeSet;

use diesel::prelude::*;

use super::columns::Id;
use super::schema::grants;
use super::{DbConnection, Tx};
use crate::domain::identity::Role;

/// The roles of a user in a project.
pub fn list_roles(conn: &mut DbConnection, user: Id, project: Id) -> QueryResult<BTreeSet<Role>> {
    let roles: Vec<String> = grants::table
        .filter(grants::user_id.eq(user))
        .filter(grants::project_id.eq(project))
        .select(grants::role)
        .load(conn)?;
    // The database holds no other.
    Ok(roles.iter().filter_map(|role| Role::parse(role)).collect())
}

/// The projects in which a user is anything.
pub fn list_projects(conn: &mut DbConnection, user: Id) -> QueryResult<Vec<Id>> {
    grants::table.filter(grants::user_id.eq(user)).select(grants::project_id).distinct().load(conn)
}

/// A unique violation means that the user has the role already.
pub fn insert(tx: &mut Tx, user: Id, project: Id, role: Role) -> QueryResult<()> {
    diesel::insert_into(grants::table)
        .values((
            grants::user_id.eq(user),
            grants::project_id.eq(project),
            grants::role.eq(role.as_str()),
        ))
        .execute(tx.conn)
        .map(drop)
}

pub fn delete(tx: &mut Tx, user: Id, project: Id, role: Role) -> QueryResult<usize> {
    diesel::delete(grants::table.find((user, project, role.as_str()))).execute(tx.conn)
}
