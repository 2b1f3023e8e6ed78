//! Operators' bearer tokens, by their SHA-256. A token that was ended has no row.

use std::collections::BTreeSet;

use diesel::prelude::*;
use jiff::Timestamp;

use super::columns::{Id, Micros};
use super::schema::{operator_tokens, projects, users};
use super::{DbConnection, Tx, grants};
use crate::domain::identity::{Identity, Named, Role};

/// SHA-256 of a token's text.
pub type Hash = [u8; 32];

/// A token to be stored.
pub struct New {
    pub hash: Hash,
    pub audit_id: String,
    pub user: Id,
    pub project: Option<Id>,
    pub issued_at: Timestamp,
    pub expires_at: Timestamp,
}

pub fn insert(tx: &mut Tx, new: &New) -> QueryResult<()> {
    diesel::insert_into(operator_tokens::table)
        .values((
            operator_tokens::hash.eq(&new.hash[..]),
            operator_tokens::audit_id.eq(&new.audit_id),
            operator_tokens::user_id.eq(new.user),
            operator_tokens::project_id.eq(new.project),
            operator_tokens::issued_at.eq(Micros::from(new.issued_at)),
            operator_tokens::expires_at.eq(Micros::from(new.expires_at)),
        ))
        .execute(tx.conn)
        .map(drop)
}

/// A token that is on record, and when it was issued. Whether it has expired is the caller's to
/// judge, on every use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    pub identity: Identity,
    pub issued_at: Timestamp,
}

type Row = (Id, String, bool, Option<Id>, Option<String>, Option<bool>, String, Micros, Micros);

/// `None` for a token that was never issued or has been ended, and for one whose user or project
/// is disabled or who is nothing in the project any more.
pub fn find(conn: &mut DbConnection, hash: &Hash) -> QueryResult<Option<Known>> {
    let row: Option<Row> = operator_tokens::table
        .inner_join(users::table)
        .left_join(projects::table)
        .filter(operator_tokens::hash.eq(&hash[..]))
        .select((
            users::id,
            users::name,
            users::enabled,
            projects::id.nullable(),
            projects::name.nullable(),
            projects::enabled.nullable(),
            operator_tokens::audit_id,
            operator_tokens::issued_at,
            operator_tokens::expires_at,
        ))
        .first(conn)
        .optional()?;
    let Some((user, name, enabled, project, project_name, open, audit_id, issued, expires)) = row
    else {
        return Ok(None);
    };
    if !enabled || open == Some(false) {
        return Ok(None);
    }
    let project = project.zip(project_name).map(|(id, name)| Named { id: id.0, name });
    let roles: BTreeSet<Role> = match &project {
        None => BTreeSet::new(),
        Some(project) => grants::list_roles(conn, user, Id(project.id))?,
    };
    if project.is_some() && roles.is_empty() {
        return Ok(None);
    }
    let user = Named { id: user.0, name };
    let identity = Identity { user, project, roles, expires_at: expires.into(), audit_id };
    Ok(Some(Known { identity, issued_at: issued.into() }))
}

/// The public name of a token, whatever has become of its user.
pub fn find_audit_id(conn: &mut DbConnection, hash: &Hash) -> QueryResult<Option<String>> {
    operator_tokens::table.find(&hash[..]).select(operator_tokens::audit_id).first(conn).optional()
}

pub fn delete(tx: &mut Tx, hash: &Hash) -> QueryResult<usize> {
    diesel::delete(operator_tokens::table.find(&hash[..])).execute(tx.conn)
}

/// Ends every token of a user, or those in one project.
pub fn delete_for_user(tx: &mut Tx, user: Id, project: Option<Id>) -> QueryResult<usize> {
    let theirs = operator_tokens::table.filter(operator_tokens::user_id.eq(user));
    match project {
        None => diesel::delete(theirs).execute(tx.conn),
        Some(id) => {
            diesel::delete(theirs.filter(operator_tokens::project_id.eq(id))).execute(tx.conn)
        }
    }
}

pub fn delete_for_project(tx: &mut Tx, project: Id) -> QueryResult<usize> {
    diesel::delete(operator_tokens::table.filter(operator_tokens::project_id.eq(project)))
        .execute(tx.conn)
}

/// Deletes at most `limit` tokens that expired before `before`.
pub fn delete_expired(tx: &mut Tx, before: Timestamp, limit: i64) -> QueryResult<usize> {
    let hashes: Vec<Vec<u8>> = operator_tokens::table
        .filter(operator_tokens::expires_at.lt(Micros::from(before)))
        .order(operator_tokens::expires_at)
        .limit(limit)
        .select(operator_tokens::hash)
        .load(tx.conn)?;
    diesel::delete(operator_tokens::table.filter(operator_tokens::hash.eq_any(hashes)))
        .execute(tx.conn)
}
