//! Users: the operators, and node-init, which owns the nodes' tokens and never logs in.

use diesel::prelude::*;
use uuid::Uuid;

use super::columns::Id;
use super::schema::users;
use super::{DbConnection, Tx};
use crate::domain::identity::Name;

/// Whose tokens the nodes' are.
pub const NODE_INIT: Id = Id(Uuid::from_u128(0x019a_0000_0000_7000_8000_0000_0000_00a1));

#[derive(Clone, Debug, PartialEq, Eq, Queryable)]
pub struct User {
    pub id: Id,
    pub name: String,
    pub email: Option<String>,
    pub enabled: bool,
    pub default_project: Option<Id>,
}

macro_rules! rows {
    () => {
        users::table.select((
            users::id,
            users::name,
            users::email,
            users::enabled,
            users::default_project,
        ))
    };
}

pub fn find(conn: &mut DbConnection, id: Id) -> QueryResult<Option<User>> {
    rows!().filter(users::id.eq(id)).first(conn).optional()
}

/// However the letters of its name are written.
pub fn find_by_name(conn: &mut DbConnection, name: &Name) -> QueryResult<Option<User>> {
    rows!().filter(users::name_folded.eq(name.folded())).first(conn).optional()
}

/// The argon2id hash of a user's password, if there is such a user and it has one.
pub fn find_password_hash(conn: &mut DbConnection, id: Id) -> QueryResult<Option<String>> {
    users::table.find(id).select(users::password_hash).first(conn).optional().map(Option::flatten)
}

/// All of them by name.
pub fn list(conn: &mut DbConnection) -> QueryResult<Vec<User>> {
    rows!().order(users::name_folded).load(conn)
}

/// A unique violation means that the name is taken.
pub fn insert(tx: &mut Tx, new: &User, password_hash: Option<&str>) -> QueryResult<()> {
    diesel::insert_into(users::table)
        .values((
            users::id.eq(new.id),
            users::name.eq(&new.name),
            users::name_folded.eq(new.name.to_ascii_lowercase()),
            users::email.eq(&new.email),
            users::enabled.eq(new.enabled),
            users::default_project.eq(new.default_project),
            users::password_hash.eq(password_hash),
        ))
        .execute(tx.conn)
        .map(drop)
}

/// What a change of a user may name.
#[derive(Clone, Debug, Default)]
pub struct Change {
    pub name: Option<Name>,
    pub email: Option<String>,
    pub enabled: Option<bool>,
    pub default_project: Option<Id>,
    pub password_hash: Option<String>,
}

#[derive(AsChangeset)]
#[diesel(table_name = users)]
struct Columns {
    name: Option<String>,
    name_folded: Option<String>,
    email: Option<String>,
    enabled: Option<bool>,
    default_project: Option<Id>,
    password_hash: Option<String>,
}

/// A unique violation means that the name is taken.
pub fn update(tx: &mut Tx, id: Id, change: &Change) -> QueryResult<()> {
    let columns = Columns {
        name: change.name.as_ref().map(|name| name.as_str().to_owned()),
        name_folded: change.name.as_ref().map(Name::folded),
        email: change.email.clone(),
        enabled: change.enabled,
        default_project: change.default_project,
        password_hash: change.password_hash.clone(),
    };
    diesel::update(users::table.find(id))
        .set(&columns)
        .execute(tx.conn)
        .optional_empty_changeset()
        .map(drop)
}

/// Removes a user with its grants and tokens.
pub fn delete(tx: &mut Tx, id: Id) -> QueryResult<usize> {
    diesel::delete(users::table.find(id)).execute(tx.conn)
}
