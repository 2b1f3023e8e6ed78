//! What PostgreSQL's planner knows of tables that have just grown: until it is told, it takes a
//! fleet that was imported a moment ago for an empty one, and its plans are for that.

use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::Text;

use super::DbConnection;

/// Tables that have grown by half, each at most once in ten seconds: autovacuum looks at them too,
/// but only each minute (`autovacuum_naptime`). Only their owner may.
const GROWN: &str = "SELECT quote_ident(relname) AS name FROM pg_stat_user_tables \
    WHERE schemaname = current_schema() AND n_mod_since_analyze > 1000 + n_live_tup / 3 \
    AND (SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = relid) \
    AND coalesce(greatest(last_analyze, last_autoanalyze), '-infinity') < now() - interval '10 s'";

#[derive(QueryableByName)]
struct Table {
    #[diesel(sql_type = Text)]
    name: String,
}

/// Has the statistics of such tables made anew; whoever else is at it is not waited for.
pub fn renew(conn: &mut DbConnection) -> QueryResult<()> {
    let DbConnection::Postgres(conn) = conn else { return Ok(()) };
    let tables: Vec<Table> = sql_query(GROWN).load(conn)?;
    for Table { name } in tables {
        sql_query(format!("ANALYZE (SKIP_LOCKED) {name}")).execute(conn)?;
    }
    Ok(())
}
