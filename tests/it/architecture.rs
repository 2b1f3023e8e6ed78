//! Which way the arrows point, and that both databases are migrated to the same tables.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use diesel::sql_types::{Bool, Text};
use diesel_migrations::{FileBasedMigrations, MigrationHarness};
use nodeinit::store::pool::Manager;
use nodeinit::store::{DatabaseUrl, DbConnection, migrations};

use crate::support::TestDatabase;

/// What each module may use: the table at the head of `src/lib.rs`.
const ARROWS: [(&str, &[&str]); 13] = [
    ("domain", &[]),
    ("oauth", &["domain"]),
    ("clock", &[]),
    ("telemetry", &["clock"]),
    ("store", &["domain", "clock"]),
    ("live", &["domain", "oauth", "store", "clock"]),
    ("actions", &["domain", "oauth", "clock", "store", "live", "telemetry"]),
    ("config", &["domain", "store", "telemetry"]),
    ("maintenance", &["domain", "store", "config"]),
    ("http", &["domain", "oauth", "clock", "store", "live", "actions", "telemetry"]),
    (
        "server",
        &[
            "domain",
            "oauth",
            "clock",
            "telemetry",
            "store",
            "live",
            "actions",
            "config",
            "maintenance",
            "http",
        ],
    ),
    ("client", &["domain", "oauth"]),
    (
        "cli",
        &["client", "config", "server", "maintenance", "domain", "store", "clock", "telemetry"],
    ),
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn files(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, out);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            out.push(path);
        }
    }
}

/// The code of a file without its comments: a doc link is no arrow.
fn code(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .map(|line| line.split(" // ").next().unwrap_or(line))
        .collect::<Vec<_>>()
        .join("\n")
}

/// The module names that follow each `prefix` in the code, alone or in braces.
fn heads<'c>(code: &'c str, prefix: &str) -> Vec<&'c str> {
    let name = |text: &'c str| {
        let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
        &text[..end]
    };
    let mut found = Vec::new();
    for (at, _) in code.match_indices(prefix) {
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let rest = &code[at + prefix.len()..];
        let Some(inside) = rest.strip_prefix('{') else {
            found.push(name(rest));
            continue;
        };
        // Names at the first level of the braces.
        let (mut depth, mut start) = (0, true);
        for (at, c) in inside.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => start = true,
                c if c.is_whitespace() => {}
                _ if start => {
                    found.push(name(&inside[at..]));
                    start = false;
                }
                _ => {}
            }
        }
    }
    found
}

/// `(module, module it uses, file)`, once for every path in the code.
fn arrows() -> Vec<(String, String, String)> {
    let src = root().join("src");
    let mut all = Vec::new();
    files(&src, &mut all);
    let mut arrows = Vec::new();
    for path in all {
        let within = path.strip_prefix(&src).unwrap().with_extension("");
        let mut place: Vec<String> =
            within.iter().map(|part| part.to_string_lossy().into_owned()).collect();
        if place.last().is_some_and(|last| last == "mod") {
            place.pop();
        }
        let file = path.display().to_string();
        let code = code(&path);
        let mut used = heads(&code, "crate::");
        used.extend(heads(&code, "nodeinit::"));
        // As many `super` as there are levels lead out of the top module.
        used.extend(
            heads(&code, &"super::".repeat(place.len()))
                .into_iter()
                .filter(|head| *head != "super" && ARROWS.iter().any(|(module, _)| module == head)),
        );
        for used in used {
            arrows.push((place[0].clone(), used.to_owned(), file.clone()));
        }
    }
    arrows
}

#[test]
fn every_path_points_the_way_the_table_says() {
    let allowed: BTreeMap<&str, &[&str]> = ARROWS.into_iter().collect();
    let arrows = arrows();
    assert!(arrows.len() > 100, "the sources were not found");
    let mut wrong = BTreeSet::new();
    for (from, to, file) in &arrows {
        let may = match from.as_str() {
            "lib" => true,
            "main" => to == "cli",
            module => {
                to == module || allowed.get(module).is_some_and(|may| may.contains(&to.as_str()))
            }
        };
        if !may {
            wrong.insert(format!("{from} uses {to} ({file})"));
        }
    }
    assert_eq!(wrong, BTreeSet::new());
}

#[test]
fn the_table_is_the_one_that_the_crate_shows() {
    let modules: BTreeSet<String> = std::fs::read_dir(root().join("src"))
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
        .filter(|name| name != "lib" && name != "main")
        .collect();
    let listed: BTreeSet<String> = ARROWS.iter().map(|(module, _)| (*module).to_owned()).collect();
    assert_eq!(modules, listed);

    let names = |cell: &str| -> BTreeSet<String> {
        cell.split('`').skip(1).step_by(2).map(ToOwned::to_owned).collect()
    };
    let text = std::fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let mut shown = BTreeMap::new();
    let mut above = BTreeSet::new();
    for row in text.lines().filter_map(|line| line.strip_prefix("//! | [")) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let uses = match cells[2] {
            "all of the above" => above.clone(),
            cell => names(cell),
        };
        for module in names(cells[0]) {
            above.insert(module.clone());
            shown.insert(module, uses.clone());
        }
    }
    let table: BTreeMap<String, BTreeSet<String>> = ARROWS
        .iter()
        .map(|(module, uses)| {
            ((*module).to_owned(), uses.iter().map(|used| (*used).to_owned()).collect())
        })
        .collect();
    assert_eq!(shown, table);
}

#[test]
fn only_the_store_and_the_migrations_speak_sql() {
    let src = root().join("src");
    let mut all = Vec::new();
    files(&src, &mut all);
    let speakers: BTreeSet<String> = all
        .iter()
        .filter(|path| code(path).contains("sql_query") || code(path).contains("batch_execute"))
        .map(|path| path.strip_prefix(&src).unwrap().display().to_string())
        .filter(|path| !path.starts_with("store/"))
        .collect();
    assert_eq!(speakers, BTreeSet::new());
}

#[test]
fn both_databases_have_the_same_migrations() {
    let names = |backend: &str| -> BTreeSet<String> {
        std::fs::read_dir(root().join("migrations").join(backend))
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| {
                for file in ["up.sql", "down.sql"] {
                    let sql = std::fs::read_to_string(entry.path().join(file)).unwrap();
                    assert_ne!(sql.trim(), "", "{}/{file}", entry.path().display());
                }
                entry.file_name().to_string_lossy().into_owned()
            })
            .collect()
    };
    let sqlite = names("sqlite");
    assert_eq!(sqlite, names("postgres"));
    assert!(!sqlite.is_empty());
}

/// A column as the database declares it.
#[derive(QueryableByName, Debug, PartialEq, Eq, PartialOrd, Ord, Clone)]
struct Shape {
    #[diesel(sql_type = Text)]
    table_name: String,
    #[diesel(sql_type = Text)]
    column_name: String,
    #[diesel(sql_type = Text)]
    kind: String,
    #[diesel(sql_type = Bool)]
    nullable: bool,
}

/// A type under the name that `store/schema.rs` has for it.
fn kind(declared: &str) -> String {
    match declared.to_ascii_lowercase().as_str() {
        "blob" | "bytea" => "Binary",
        "text" => "Text",
        "boolean" => "Bool",
        "integer" => "Integer",
        "bigint" => "BigInt",
        other => panic!("{other} is no type that both databases have"),
    }
    .to_owned()
}

fn columns(conn: &mut DbConnection) -> BTreeSet<Shape> {
    let rows: Vec<Shape> = match conn {
        DbConnection::Sqlite(conn) => diesel::sql_query(
            // A row id that is counted is called INTEGER there, and is 64 bits wide.
            "SELECT m.name AS table_name, c.name AS column_name, \
             CASE WHEN c.pk = 1 AND m.sql LIKE '%AUTOINCREMENT%' THEN 'BIGINT' ELSE c.type END \
             AS kind, c.\"notnull\" = 0 AS nullable \
             FROM sqlite_master m, pragma_table_info(m.name) c \
             WHERE m.type = 'table' AND m.name <> '__diesel_schema_migrations' \
             AND m.name NOT LIKE 'sqlite_%'",
        )
        .load(conn),
        DbConnection::Postgres(conn) => diesel::sql_query(
            "SELECT table_name::text, column_name::text, data_type::text AS kind, \
             is_nullable = 'YES' AS nullable FROM information_schema.columns \
             WHERE table_schema = current_schema() AND table_name <> '__diesel_schema_migrations'",
        )
        .load(conn),
    }
    .unwrap();
    rows.into_iter().map(|column| Shape { kind: kind(&column.kind), ..column }).collect()
}

/// The columns that the code believes in: `diesel::table!` in `src/store/schema.rs`.
fn believed() -> BTreeSet<Shape> {
    let text = std::fs::read_to_string(root().join("src/store/schema.rs")).unwrap();
    let mut columns = BTreeSet::new();
    for block in text.split("diesel::table!").skip(1) {
        let mut lines =
            block.lines().map(str::trim).filter(|line| !line.is_empty() && *line != "{");
        let table_name = lines.next().unwrap().split(' ').next().unwrap().to_owned();
        for line in lines.take_while(|line| *line != "}") {
            let (column_name, kind) = line.trim_end_matches(',').split_once(" -> ").unwrap();
            let inner = kind.strip_prefix("Nullable<").and_then(|kind| kind.strip_suffix('>'));
            columns.insert(Shape {
                table_name: table_name.clone(),
                column_name: column_name.to_owned(),
                kind: inner.unwrap_or(kind).to_owned(),
                nullable: inner.is_some(),
            });
        }
    }
    columns
}

fn open(url: &str) -> DbConnection {
    Manager::new(DatabaseUrl::parse(url).unwrap()).open().unwrap()
}

/// Every database that this run can reach: `SQLite` always, PostgreSQL when it is named.
fn databases(dir: &Path) -> Vec<(String, Option<TestDatabase>)> {
    let sqlite = format!("sqlite:{}", dir.join("architecture.db").display());
    let chosen = TestDatabase::new(dir);
    if chosen.is_postgres() {
        vec![(sqlite, None), (chosen.url().to_owned(), Some(chosen))]
    } else {
        vec![(sqlite, None)]
    }
}

#[test]
fn after_up_the_tables_are_what_the_code_believes_on_every_database() {
    let dir = tempfile::Builder::new().prefix("up").tempdir().unwrap();
    let believed = believed();
    assert!(believed.len() > 30);
    for (url, _kept) in &databases(dir.path()) {
        let url = DatabaseUrl::parse(url).unwrap();
        assert!(!migrations::run(&url).unwrap().is_empty());
        let found = columns(&mut Manager::new(url).open().unwrap());
        let missing: Vec<_> = believed.difference(&found).collect();
        let extra: Vec<_> = found.difference(&believed).collect();
        assert!(missing.is_empty() && extra.is_empty(), "missing {missing:?}, extra {extra:?}");
    }
}

#[derive(QueryableByName)]
struct Name {
    #[diesel(sql_type = Text)]
    name: String,
}

/// Every table, index and trigger that is there, with its definition where the database keeps one.
fn objects(conn: &mut DbConnection) -> BTreeSet<String> {
    let rows: Vec<Name> = match conn {
        DbConnection::Sqlite(conn) => diesel::sql_query(
            "SELECT type || ' ' || name || ' ' || coalesce(sql, '') AS name FROM sqlite_master \
             WHERE tbl_name <> '__diesel_schema_migrations' AND name <> 'sqlite_sequence'",
        )
        .load(conn),
        DbConnection::Postgres(conn) => diesel::sql_query(
            "SELECT c.relkind::text || ' ' || c.relname::text || ' ' || \
             coalesce(pg_get_indexdef(i.indexrelid), '') AS name FROM pg_class c \
             LEFT JOIN pg_index i ON i.indexrelid = c.oid \
             WHERE c.relnamespace = current_schema()::regnamespace \
             AND c.relname NOT LIKE '\\_\\_diesel%' \
             UNION ALL SELECT 'constraint ' || conname::text || ' ' || \
             pg_get_constraintdef(oid) FROM pg_constraint \
             WHERE connamespace = current_schema()::regnamespace \
             AND conname NOT LIKE '\\_\\_diesel%' \
             UNION ALL SELECT 'function ' || proname::text FROM pg_proc \
             WHERE pronamespace = current_schema()::regnamespace",
        )
        .load(conn),
    }
    .unwrap();
    rows.into_iter().map(|row| row.name).collect()
}

fn revert_all(conn: &mut DbConnection) -> usize {
    let folder =
        |name: &str| FileBasedMigrations::from_path(root().join("migrations").join(name)).unwrap();
    match conn {
        DbConnection::Sqlite(conn) => conn.revert_all_migrations(folder("sqlite")).unwrap().len(),
        DbConnection::Postgres(conn) => {
            conn.revert_all_migrations(folder("postgres")).unwrap().len()
        }
    }
}

#[test]
fn down_leaves_nothing_and_up_again_makes_the_same() {
    let dir = tempfile::Builder::new().prefix("down").tempdir().unwrap();
    for (url, _kept) in &databases(dir.path()) {
        let parsed = DatabaseUrl::parse(url).unwrap();
        let done = migrations::run(&parsed).unwrap().len();
        let before = objects(&mut open(url));
        assert!(before.len() > 10, "{before:?}");

        assert_eq!(revert_all(&mut open(url)), done);
        assert_eq!(objects(&mut open(url)), BTreeSet::new());

        assert_eq!(migrations::run(&parsed).unwrap().len(), done);
        assert_eq!(objects(&mut open(url)), before);
        assert_eq!(migrations::run(&parsed).unwrap().len(), 0, "up is done once");
    }
}

/// Replicas are upgraded one after another: a step that only adds leaves the older program what it
/// needs, and the step that takes it away says so.
#[test]
fn a_database_of_a_later_version_is_served_until_it_is_marked_as_too_new() {
    let dir = tempfile::Builder::new().prefix("later").tempdir().unwrap();
    for (url, _kept) in &databases(dir.path()) {
        let parsed = DatabaseUrl::parse(url).unwrap();
        migrations::run(&parsed).unwrap();
        let later = "INSERT INTO __diesel_schema_migrations (version) VALUES ('29990101000001')";
        match &mut open(url) {
            DbConnection::Sqlite(conn) => conn.batch_execute(later).unwrap(),
            DbConnection::Postgres(conn) => conn.batch_execute(later).unwrap(),
        }
        assert_eq!(migrations::run(&parsed).unwrap(), Vec::<String>::new());
        for mark in [
            "UPDATE meta SET value = CAST('29990101000001' AS BLOB) WHERE name = 'serves-since'",
            "DELETE FROM meta WHERE name = 'serves-since'",
        ] {
            match &mut open(url) {
                DbConnection::Sqlite(conn) => conn.batch_execute(mark).unwrap(),
                DbConnection::Postgres(conn) => {
                    conn.batch_execute(&mark.replace("BLOB", "BYTEA")).unwrap();
                }
            }
            let refused = migrations::run(&parsed).unwrap_err().to_string();
            assert!(refused.contains("29990101000001"), "{refused}");
        }
    }
}
