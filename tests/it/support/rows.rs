//! What is in a database, looked at past the server.

use diesel::RunQueryDsl as _;
use diesel::dsl::sql;
use diesel::sql_types::{BigInt, Text};
use nodeinit::store::pool::Manager;
use nodeinit::store::{DatabaseUrl, DbConnection};

use super::TestDatabase;

pub fn open(database: &TestDatabase) -> DbConnection {
    Manager::new(DatabaseUrl::parse(database.url()).unwrap()).open().unwrap()
}

/// The number that an SQL expression gives.
pub fn number(database: &TestDatabase, expression: &str) -> i64 {
    let expression = sql::<BigInt>(&format!("({expression})"));
    diesel::select(expression).get_result(&mut open(database)).unwrap()
}

/// How many rows a table has.
pub fn count(database: &TestDatabase, table: &str) -> i64 {
    number(database, &format!("SELECT count(*) FROM {table}"))
}

/// The text that an SQL expression gives.
pub fn text(database: &TestDatabase, expression: &str) -> String {
    let expression = sql::<Text>(&format!("({expression})"));
    diesel::select(expression).get_result(&mut open(database)).unwrap()
}

/// Every byte of every table: the file and what lies beside it, or every row as text, in which
/// bytes are hexadecimal.
pub fn dump(database: &TestDatabase) -> Vec<u8> {
    if !database.is_postgres() {
        let path = database.url().strip_prefix("sqlite:").unwrap();
        return ["", "-wal", "-shm", "-journal"]
            .iter()
            .filter_map(|end| std::fs::read(format!("{path}{end}")).ok())
            .flatten()
            .collect();
    }
    let tables = text(
        database,
        "SELECT string_agg(table_name, ',') FROM information_schema.tables \
         WHERE table_schema = current_schema()",
    );
    let rows = |table: &str| {
        text(database, &format!("SELECT coalesce(string_agg(t::text, ' '), '') FROM {table} t"))
    };
    tables.split(',').map(rows).collect::<String>().into_bytes()
}

/// Whether the bytes hold this text: plain, in hexadecimal or in base64.
pub fn holds(bytes: &[u8], text: &str) -> bool {
    use base64::Engine as _;
    let hex: String = text.bytes().map(|b| format!("{b:02x}")).collect();
    // The last group of base64 depends on what follows.
    let base64 = base64::engine::general_purpose::STANDARD.encode(&text[..text.len() / 3 * 3]);
    [text, &hex, &hex.to_uppercase(), &base64]
        .iter()
        .any(|form| bytes.windows(form.len()).any(|window| window == form.as_bytes()))
}

/// A transaction that holds every row of these tables, or all of the database, until it is
/// dropped.
pub struct Held(DbConnection);

pub fn hold(database: &TestDatabase, tables: &[&str]) -> Held {
    let mut conn = open(database);
    let statements: Vec<String> = match &conn {
        DbConnection::Sqlite(_) => vec!["BEGIN IMMEDIATE".into()],
        DbConnection::Postgres(_) => {
            let lock = |table: &&str| format!("LOCK TABLE {table} IN EXCLUSIVE MODE");
            std::iter::once("BEGIN".into()).chain(tables.iter().map(lock)).collect()
        }
    };
    for statement in statements {
        diesel::sql_query(statement).execute(&mut conn).unwrap();
    }
    Held(conn)
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = diesel::sql_query("ROLLBACK").execute(&mut self.0);
    }
}

/// Runs statements on a connection that somebody keeps.
pub fn run(conn: &mut DbConnection, sql: &str) {
    use diesel::connection::SimpleConnection as _;
    match conn {
        DbConnection::Sqlite(conn) => conn.batch_execute(sql).unwrap(),
        DbConnection::Postgres(conn) => conn.batch_execute(sql).unwrap(),
    }
}
