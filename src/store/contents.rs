//! User-data and vendor-data: every version, the bytes stored once each.

use std::collections::{BTreeMap, HashMap};

use diesel::prelude::*;
use diesel::sql_types::{Array, Binary, Text};
use jiff::Timestamp;

use super::bulk::{self, ContentRow};
use super::columns::Micros;
use super::schema::{blobs as blobs_table, contents};
use super::{DbConnection, Tx, blobs};
use crate::domain::metadata::ContentKind;

/// One version of a node's content; no digest means that it was cleared then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    pub version: i32,
    pub sha256: Option<Vec<u8>>,
    pub size: i64,
    pub created_at: Timestamp,
}

type Row = (i32, Option<Vec<u8>>, i64, Micros);

fn version((version, sha256, size, created_at): Row) -> Version {
    Version { version, sha256, size, created_at: created_at.into() }
}

macro_rules! versions {
    ($system_id:expr, $kind:expr) => {
        contents::table
            .filter(contents::system_id.eq($system_id))
            .filter(contents::kind.eq($kind.as_str()))
    };
}

/// The newest version, a cleared one too.
pub fn find_newest(
    conn: &mut DbConnection,
    system_id: &str,
    kind: ContentKind,
) -> QueryResult<Option<Version>> {
    let row: Option<Row> = versions!(system_id, kind)
        .order(contents::version.desc())
        .select((contents::version, contents::sha256, contents::size, contents::created_at))
        .first(conn)
        .optional()?;
    Ok(row.map(version))
}

/// The digests of the newest versions of these nodes, by system id; none for a cleared one.
pub fn find_newest_digests(
    conn: &mut DbConnection,
    system_ids: &[&str],
    kind: ContentKind,
) -> QueryResult<HashMap<String, Option<Vec<u8>>>> {
    let versions = contents::table
        .filter(contents::system_id.eq_any(system_ids))
        .filter(contents::kind.eq(kind.as_str()))
        .order(contents::version)
        .select((contents::system_id, contents::sha256))
        .load(conn)?;
    // Of each node the last one stays.
    Ok(versions.into_iter().collect())
}

/// What a node has now, by digest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    pub user_data: Option<[u8; 32]>,
    pub vendor_data: Option<[u8; 32]>,
}

impl Held {
    fn set(&mut self, kind: &str, sha256: &[u8]) {
        let sha256 = sha256.try_into().ok();
        if kind == ContentKind::UserData.as_str() {
            self.user_data = sha256;
        } else {
            self.vendor_data = sha256;
        }
    }
}

#[derive(QueryableByName)]
struct Newest {
    #[diesel(sql_type = Text)]
    system_id: String,
    #[diesel(sql_type = Text)]
    kind: String,
    #[diesel(sql_type = Binary)]
    sha256: Vec<u8>,
}

/// What these nodes have; those that have nothing are left out.
pub fn find_held(
    conn: &mut DbConnection,
    system_ids: &[&str],
) -> QueryResult<HashMap<String, Held>> {
    let mut all: HashMap<String, Held> = HashMap::new();
    match conn {
        DbConnection::Sqlite(_) => {
            for system_id in system_ids {
                for kind in [ContentKind::UserData, ContentKind::VendorData] {
                    let newest = find_newest(conn, system_id, kind)?;
                    if let Some(sha256) = newest.and_then(|version| version.sha256) {
                        all.entry((*system_id).into()).or_default().set(kind.as_str(), &sha256);
                    }
                }
            }
        }
        DbConnection::Postgres(conn) => {
            let newest: Vec<Newest> = diesel::sql_query(
                "SELECT n.system_id, k.kind, c.sha256 FROM unnest($1) AS n (system_id) \
                 CROSS JOIN (VALUES ('user-data'), ('vendor-data')) AS k (kind) \
                 JOIN LATERAL (SELECT sha256 FROM contents c WHERE c.system_id = n.system_id \
                 AND c.kind = k.kind ORDER BY version DESC LIMIT 1) c ON c.sha256 IS NOT NULL",
            )
            .bind::<Array<Text>, _>(system_ids)
            .load(conn)?;
            for one in newest {
                all.entry(one.system_id).or_default().set(&one.kind, &one.sha256);
            }
        }
    }
    Ok(all)
}

/// The bytes of a digest; `None` when nobody has them any more.
pub fn find_blob(conn: &mut DbConnection, sha256: &[u8]) -> QueryResult<Option<Vec<u8>>> {
    blobs_table::table.find(sha256).select(blobs_table::bytes).first(conn).optional()
}

/// One version and its bytes.
pub fn find_version(
    conn: &mut DbConnection,
    system_id: &str,
    kind: ContentKind,
    number: i32,
) -> QueryResult<Option<Vec<u8>>> {
    let bytes: Option<Option<Vec<u8>>> = versions!(system_id, kind)
        .filter(contents::version.eq(number))
        .left_join(blobs_table::table)
        .select(blobs_table::bytes.nullable())
        .first(conn)
        .optional()?;
    Ok(bytes.flatten())
}

/// Every version, the oldest first.
pub fn list(
    conn: &mut DbConnection,
    system_id: &str,
    kind: ContentKind,
) -> QueryResult<Vec<Version>> {
    let rows: Vec<Row> = versions!(system_id, kind)
        .order(contents::version)
        .select((contents::version, contents::sha256, contents::size, contents::created_at))
        .load(conn)?;
    Ok(rows.into_iter().map(version).collect())
}

/// Adds version `number`. A unique violation means that somebody else did first.
pub fn append(
    tx: &mut Tx,
    system_id: &str,
    kind: ContentKind,
    number: i32,
    content: Option<(&[u8], &[u8; 32])>,
) -> QueryResult<()> {
    tx.has_logged = true;
    if let Some((bytes, sha256)) = content {
        blobs::insert(tx, bytes, sha256)?;
    }
    let size = content.map_or(0, |(bytes, _)| i64::try_from(bytes.len()).unwrap_or(i64::MAX));
    diesel::insert_into(contents::table)
        .values((
            contents::system_id.eq(system_id),
            contents::kind.eq(kind.as_str()),
            contents::version.eq(number),
            contents::sha256.eq(content.map(|(_, sha256)| sha256.as_slice())),
            contents::size.eq(size),
            contents::created_at.eq(Micros::from(tx.now)),
        ))
        .execute(tx.conn)
        .map(drop)
}

/// The first version of a content of a node that was just added.
pub struct First<'c> {
    pub system_id: &'c str,
    pub kind: ContentKind,
    pub bytes: &'c [u8],
    pub sha256: &'c [u8; 32],
}

/// Adds first versions; what many of them share is kept once.
pub fn append_first(tx: &mut Tx, firsts: &[First]) -> QueryResult<()> {
    // In the order of their digests, so that two who keep the same bytes wait in no ring.
    let distinct: BTreeMap<&[u8; 32], &[u8]> =
        firsts.iter().map(|first| (first.sha256, first.bytes)).collect();
    for (sha256, bytes) in distinct {
        blobs::insert(tx, bytes, sha256)?;
    }
    let now = Micros::from(tx.now);
    let size = |first: &First| i64::try_from(first.bytes.len()).unwrap_or(i64::MAX);
    match tx.conn {
        DbConnection::Postgres(_) if firsts.is_empty() => Ok(()),
        DbConnection::Postgres(conn) => {
            let rows = firsts.iter().map(|first| ContentRow {
                system_id: first.system_id,
                kind: first.kind.as_str(),
                sha256: first.sha256,
                size: size(first),
            });
            bulk::insert_contents(conn, &rows.collect::<Vec<_>>(), now)
        }
        DbConnection::Sqlite(conn) => firsts.iter().try_for_each(|first| {
            diesel::insert_into(contents::table)
                .values((
                    contents::system_id.eq(first.system_id),
                    contents::kind.eq(first.kind.as_str()),
                    contents::version.eq(1),
                    contents::sha256.eq(Some(first.sha256.as_slice())),
                    contents::size.eq(size(first)),
                    contents::created_at.eq(now),
                ))
                .execute(conn)
                .map(drop)
        }),
    }
}
