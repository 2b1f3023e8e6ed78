//! The embedded migrations of both backends: forward-only in use, under the same names.

use diesel::connection::SimpleConnection;
use diesel::migration::MigrationSource;
use diesel::prelude::*;
use diesel::sql_types::Text;
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};

use super::{DatabaseUrl, DbConnection, DbError, meta, pool};

const SQLITE: EmbeddedMigrations = embed_migrations!("migrations/sqlite");
const POSTGRES: EmbeddedMigrations = embed_migrations!("migrations/postgres");

/// Held while migrating PostgreSQL, so that replicas that start together take turns.
const ADVISORY_LOCK: i64 = 0x6e6f_6465_696e_6974;

/// One migration and whether this database has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub name: String,
    pub applied: bool,
}

/// A migration that cannot be applied, or a database from a later version.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    #[error(transparent)]
    Db(#[from] DbError),
    #[error("migrating failed: {0}")]
    Step(String),
    #[error(
        "the database was migrated by a later nodeinit (it has {0}): run that version, or restore a backup"
    )]
    FromTheFuture(String),
}

/// Applies what is missing, in order. Says which were applied.
///
/// # Errors
/// When the database cannot be reached, a step fails, or it is newer than this program.
pub fn run(url: &DatabaseUrl) -> Result<Vec<String>, MigrateError> {
    let mut conn = connect(url)?;
    if let DbConnection::Postgres(conn) = &mut conn {
        conn.batch_execute(&format!("SET lock_timeout = 0; SET statement_timeout = 0; SELECT pg_advisory_lock({ADVISORY_LOCK})"))
            .map_err(DbError::from)?;
    }
    let known = status_on(&mut conn)?;
    refuse_the_future(&mut conn, &known)?;
    let done = match &mut conn {
        DbConnection::Sqlite(conn) => apply(conn, SQLITE),
        DbConnection::Postgres(conn) => apply(conn, POSTGRES),
    };
    // The lock goes with the connection.
    done
}

/// Every migration this program knows, and whether the database has it.
///
/// # Errors
/// When the database cannot be reached.
pub fn status(url: &DatabaseUrl) -> Result<Vec<Step>, MigrateError> {
    match url {
        // Opening it would make it.
        DatabaseUrl::Sqlite(path) if !path.exists() => {
            let names = names::<diesel::sqlite::Sqlite>(&SQLITE)?;
            Ok(names.into_iter().map(|name| Step { name, applied: false }).collect())
        }
        _ => status_on(&mut connect(url)?),
    }
}

fn connect(url: &DatabaseUrl) -> Result<DbConnection, DbError> {
    pool::Manager::new(url.clone()).open().map_err(|e| DbError::NoConnection(e.to_string()))
}

fn apply<DB, C>(conn: &mut C, source: EmbeddedMigrations) -> Result<Vec<String>, MigrateError>
where
    DB: diesel::backend::Backend,
    C: MigrationHarness<DB>,
    EmbeddedMigrations: MigrationSource<DB>,
{
    let done =
        conn.run_pending_migrations(source).map_err(|e| MigrateError::Step(e.to_string()))?;
    Ok(done.iter().map(ToString::to_string).collect())
}

fn status_on(conn: &mut DbConnection) -> Result<Vec<Step>, MigrateError> {
    let applied = applied(conn)?;
    let names = match conn {
        DbConnection::Sqlite(_) => names::<diesel::sqlite::Sqlite>(&SQLITE),
        DbConnection::Postgres(_) => names::<diesel::pg::Pg>(&POSTGRES),
    }?;
    Ok(names
        .into_iter()
        .map(|name| Step { applied: applied.contains(&version(&name)), name })
        .collect())
}

fn names<DB: diesel::backend::Backend>(
    source: &EmbeddedMigrations,
) -> Result<Vec<String>, MigrateError>
where
    EmbeddedMigrations: MigrationSource<DB>,
{
    let mut names: Vec<String> = MigrationSource::<DB>::migrations(source)
        .map_err(|e| MigrateError::Step(e.to_string()))?
        .iter()
        .map(|migration| migration.name().to_string())
        .collect();
    names.sort();
    Ok(names)
}

/// `2026-11-22-000001_nodes` is kept as `20261122000001`.
fn version(name: &str) -> String {
    name.split('_').next().unwrap_or_default().replace('-', "")
}

#[derive(QueryableByName)]
struct Version {
    #[diesel(sql_type = Text)]
    version: String,
}

fn applied(conn: &mut DbConnection) -> Result<Vec<String>, DbError> {
    let there = match conn {
        DbConnection::Sqlite(conn) => diesel::sql_query(
            "SELECT CAST(COUNT(*) AS TEXT) AS version FROM sqlite_master \
             WHERE name = '__diesel_schema_migrations'",
        )
        .get_result::<Version>(conn),
        DbConnection::Postgres(conn) => diesel::sql_query(
            "SELECT (to_regclass('__diesel_schema_migrations') IS NOT NULL)::int::text AS version",
        )
        .get_result::<Version>(conn),
    }?;
    if there.version == "0" {
        return Ok(Vec::new());
    }
    let rows = match conn {
        DbConnection::Sqlite(conn) => {
            diesel::sql_query("SELECT version FROM __diesel_schema_migrations")
                .load::<Version>(conn)
        }
        DbConnection::Postgres(conn) => {
            diesel::sql_query("SELECT version FROM __diesel_schema_migrations")
                .load::<Version>(conn)
        }
    }?;
    Ok(rows.into_iter().map(|row| row.version).collect())
}

fn refuse_the_future(conn: &mut DbConnection, known: &[Step]) -> Result<(), MigrateError> {
    let versions: Vec<String> = known.iter().map(|step| version(&step.name)).collect();
    let unknown = applied(conn)?.into_iter().filter(|v| !versions.contains(v)).max();
    let Some(unknown) = unknown else { return Ok(()) };
    // A step that only adds leaves this program what it needs: that is how replicas are upgraded
    // one after another. One that takes away raises the mark.
    let since = meta::find_serves_since(conn).map_err(DbError::from)?;
    if since.is_some() && since.as_ref() <= versions.iter().max() {
        return Ok(());
    }
    Err(MigrateError::FromTheFuture(unknown))
}
