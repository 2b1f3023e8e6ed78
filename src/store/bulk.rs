//! Many rows in one statement, for PostgreSQL, where a round trip costs more than a row. On
//! `SQLite` a prepared statement a row is as good.

use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{Array, BigInt, Binary, Bool, Nullable, Text};

use super::columns::{Id, Micros};
use super::tokens::Live;

/// A consumer, a live token and its node key each.
pub fn insert_tokens(
    conn: &mut PgConnection,
    owner: Id,
    made: &[Live],
    now: Micros,
) -> QueryResult<()> {
    let column = |of: fn(&Live) -> &str| made.iter().map(of).collect::<Vec<&str>>();
    let ids: Vec<Id> = made.iter().map(|made| made.id).collect();
    let sealed: Vec<&[u8]> = made.iter().map(|made| &*made.sealed_secret).collect();
    let nodes = column(|made| &made.system_id);
    sql_query(
        "INSERT INTO consumers (id, user_id, consumer_key) \
         SELECT id, $1, consumer_key FROM unnest($2, $3) AS made (id, consumer_key)",
    )
    .bind::<Binary, _>(owner)
    .bind::<Array<Binary>, _>(&ids)
    .bind::<Array<Text>, _>(column(|made| made.consumer_key.as_str()))
    .execute(conn)?;
    sql_query(
        "INSERT INTO tokens (id, token_key, sealed_secret, made_for, created_at) \
         SELECT id, token_key, sealed_secret, made_for, $1 \
         FROM unnest($2, $3, $4, $5) AS made (id, token_key, sealed_secret, made_for)",
    )
    .bind::<BigInt, _>(now)
    .bind::<Array<Binary>, _>(&ids)
    .bind::<Array<Text>, _>(column(|made| made.token_key.as_str()))
    .bind::<Array<Binary>, _>(sealed)
    .bind::<Array<Text>, _>(&nodes)
    .execute(conn)?;
    sql_query(
        "INSERT INTO node_keys (token_id, system_id, state) \
         SELECT token_id, system_id, 'live' FROM unnest($1, $2) AS made (token_id, system_id)",
    )
    .bind::<Array<Binary>, _>(&ids)
    .bind::<Array<Text>, _>(&nodes)
    .execute(conn)
    .map(drop)
}

/// The columns of a new node.
pub struct NodeRow<'n> {
    pub system_id: &'n str,
    pub hostname: &'n str,
    pub hostname_folded: String,
    pub macs: String,
    pub ssh_keys: String,
    pub labels: String,
    pub netboot: bool,
}

pub fn insert_nodes(
    conn: &mut PgConnection,
    project: Id,
    rows: &[NodeRow],
    now: Micros,
) -> QueryResult<()> {
    let column = |of: fn(&NodeRow) -> String| rows.iter().map(of).collect::<Vec<String>>();
    let netboot: Vec<bool> = rows.iter().map(|row| row.netboot).collect();
    sql_query(
        "INSERT INTO nodes (system_id, project_id, hostname, hostname_folded, macs, ssh_keys, \
         labels, netboot, reprovisions, created_at) \
         SELECT system_id, $1, hostname, hostname_folded, macs, ssh_keys, labels, netboot, 0, $2 \
         FROM unnest($3, $4, $5, $6, $7, $8, $9) \
         AS new (system_id, hostname, hostname_folded, macs, ssh_keys, labels, netboot)",
    )
    .bind::<Binary, _>(project)
    .bind::<BigInt, _>(now)
    .bind::<Array<Text>, _>(rows.iter().map(|row| row.system_id).collect::<Vec<_>>())
    .bind::<Array<Text>, _>(rows.iter().map(|row| row.hostname).collect::<Vec<_>>())
    .bind::<Array<Text>, _>(column(|row| row.hostname_folded.clone()))
    .bind::<Array<Text>, _>(column(|row| row.macs.clone()))
    .bind::<Array<Text>, _>(column(|row| row.ssh_keys.clone()))
    .bind::<Array<Text>, _>(column(|row| row.labels.clone()))
    .bind::<Array<Bool>, _>(netboot)
    .execute(conn)
    .map(drop)
}

/// Labels as system id, name and value.
pub fn insert_labels(conn: &mut PgConnection, labels: &[(&str, &str, &str)]) -> QueryResult<()> {
    sql_query(
        "INSERT INTO node_labels (system_id, name, value) \
         SELECT system_id, name, value FROM unnest($1, $2, $3) AS new (system_id, name, value)",
    )
    .bind::<Array<Text>, _>(labels.iter().map(|(id, ..)| *id).collect::<Vec<_>>())
    .bind::<Array<Text>, _>(labels.iter().map(|(_, name, _)| *name).collect::<Vec<_>>())
    .bind::<Array<Text>, _>(labels.iter().map(|(.., value)| *value).collect::<Vec<_>>())
    .execute(conn)
    .map(drop)
}

/// The columns of a first version of a node's content.
pub struct ContentRow<'c> {
    pub system_id: &'c str,
    pub kind: &'static str,
    pub sha256: &'c [u8; 32],
    pub size: i64,
}

pub fn insert_contents(
    conn: &mut PgConnection,
    rows: &[ContentRow],
    now: Micros,
) -> QueryResult<()> {
    let digests: Vec<Option<&[u8]>> = rows.iter().map(|row| Some(row.sha256.as_slice())).collect();
    sql_query(
        "INSERT INTO contents (system_id, kind, version, sha256, size, created_at) \
         SELECT system_id, kind, 1, sha256, size, $1 \
         FROM unnest($2, $3, $4, $5) AS new (system_id, kind, sha256, size)",
    )
    .bind::<BigInt, _>(now)
    .bind::<Array<Text>, _>(rows.iter().map(|row| row.system_id).collect::<Vec<_>>())
    .bind::<Array<Text>, _>(rows.iter().map(|row| row.kind).collect::<Vec<_>>())
    .bind::<Array<Nullable<Binary>>, _>(digests)
    .bind::<Array<BigInt>, _>(rows.iter().map(|row| row.size).collect::<Vec<_>>())
    .execute(conn)
    .map(drop)
}
