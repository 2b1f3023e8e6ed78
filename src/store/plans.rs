//! Whether the pages people look at are ranges of indexes: what they run is caught and explained.

use std::sync::{Arc, Mutex};

use diesel::connection::{Instrumentation, InstrumentationEvent};
use diesel::prelude::*;
use diesel::sql_types::Text;
use jiff::Timestamp;

use super::columns::Id;
use super::tokens::StaleBefore;
use super::{DatabaseUrl, DbConnection, Tx, boots, events, migrations, nodes, pool, tokens};
use crate::domain::credentials::TokenKey;
use crate::domain::cull::Staleness;
use crate::domain::node::BootState;

#[derive(Default)]
struct Caught(Arc<Mutex<Vec<String>>>);

impl Instrumentation for Caught {
    fn on_connection_event(&mut self, event: InstrumentationEvent<'_>) {
        if let InstrumentationEvent::StartQuery { query, .. } = event {
            self.0.lock().unwrap().push(query.to_string());
        }
    }
}

#[derive(QueryableByName)]
struct Step {
    #[diesel(sql_type = Text)]
    detail: String,
}

/// Runs queries on an empty database, where nothing but the indexes speaks for a plan.
fn goes_by_index<T>(name: &str, run: impl FnOnce(&mut DbConnection) -> QueryResult<T>) {
    let dir = tempfile::tempdir().unwrap();
    let url = DatabaseUrl::Sqlite(dir.path().join("nodeinit.db"));
    migrations::run(&url).unwrap();
    let mut conn = pool::Manager::new(url).open().unwrap();
    let caught = Caught::default();
    let queries = caught.0.clone();
    conn.set_instrumentation(caught);
    run(&mut conn).unwrap();
    conn.set_instrumentation(Caught::default());
    let queries = queries.lock().unwrap().clone();
    assert!(!queries.is_empty(), "{name} runs nothing");
    // What is asked of no rows at all has no plan worth looking at.
    for query in queries.into_iter().filter(|query| !query.contains("(1=0)")) {
        let text = query.split(" -- binds").next().unwrap().replace('?', "'k'");
        let DbConnection::Sqlite(conn) = &mut conn else { panic!("the URL names SQLite") };
        let plan: Vec<Step> =
            diesel::sql_query(format!("EXPLAIN QUERY PLAN {text}")).load(conn).unwrap();
        for Step { detail } in plan {
            let whole = detail.starts_with("SCAN") && detail != "SCAN CONSTANT ROW";
            assert!(!whole && !detail.contains("TEMP B-TREE"), "{name}: {detail}: {text}");
        }
    }
}

#[test]
fn a_page_of_nodes_is_a_range_whatever_is_asked_for() {
    let (project, now) = (Id(uuid::Uuid::nil()), Timestamp::UNIX_EPOCH);
    let states = BootState::ALL.into_iter().map(Some).chain([None]);
    let label = |name: &str| (name.to_owned(), "v".to_owned());
    for state in states {
        for labels in [vec![], vec![label("a")], vec![label("a"), label("b")]] {
            let filter = nodes::Filter { labels, state };
            goes_by_index(&format!("{filter:?}"), |conn| {
                nodes::list(conn, project, &filter, "n", 1000, now)
            });
        }
    }
    goes_by_index("show", |conn| nodes::find(conn, project, "n", now));
    goes_by_index("hostname", |conn| {
        nodes::find_by_hostnames(conn, project, &["h".to_owned()], now)
    });
}

#[test]
fn a_page_of_tokens_is_a_range_and_so_is_a_step_of_a_cull() {
    let after = Id(uuid::Uuid::nil());
    let key = TokenKey::trusted("k".repeat(18));
    goes_by_index("tokens", |conn| tokens::list(conn, None, Some(after), 1000));
    goes_by_index("one token", |conn| tokens::list(conn, Some(&key), None, 1000));
    let day = Some(std::time::Duration::from_hours(24));
    let rule = Staleness { unused_for: day, idle_for: day };
    let before = StaleBefore::new(rule, Timestamp::UNIX_EPOCH);
    goes_by_index("stale", |conn| tokens::list_stale(conn, before, after, 2000, 400));
    goes_by_index("how many stale", |conn| tokens::count_stale(conn, before, after, 2000));
    goes_by_index("end", |conn| {
        let now = Timestamp::UNIX_EPOCH;
        tokens::end_stale(&mut Tx { conn, now, has_logged: false }, &[after], before)
    });
}

#[test]
fn pages_of_events_and_of_stuck_nodes_are_ranges() {
    goes_by_index("stuck", |conn| boots::list_stuck(conn, Timestamp::UNIX_EPOCH, "n", 1000));
    goes_by_index("events", |conn| {
        let filter = events::Filter { system_id: Some("n".into()), ..events::Filter::default() };
        events::list(conn, &filter, None, false, 1000)
    });
}
