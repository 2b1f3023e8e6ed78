//! How many nodes and tokens there are in each state. Index scans, but of everything: asked for
//! seldom.

use std::collections::BTreeMap;

use diesel::prelude::*;
use jiff::Timestamp;

use super::DbConnection;
use super::columns::Micros;
use super::schema::{boots, node_keys, nodes, tokens};
use crate::domain::node::BootState;

/// The two counts, by the names of the states.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    pub tokens: BTreeMap<&'static str, i64>,
    pub nodes: BTreeMap<&'static str, i64>,
}

/// Counts what there is at `now`.
pub fn count(conn: &mut DbConnection, now: Timestamp) -> QueryResult<Census> {
    let accepted: i64 = node_keys::table.count().get_result(conn)?;
    let retiring: i64 =
        node_keys::table.filter(node_keys::retires_at.is_not_null()).count().get_result(conn)?;
    let ended: i64 =
        tokens::table.filter(tokens::ended_at.is_not_null()).count().get_result(conn)?;
    let tokens =
        BTreeMap::from([("live", accepted - retiring), ("retiring", retiring), ("ended", ended)]);

    let all: i64 = nodes::table.count().get_result(conn)?;
    let by_state: Vec<(String, i64)> = boots::table
        .group_by(boots::state)
        .select((boots::state, diesel::dsl::count_star()))
        .load(conn)?;
    // Those whose deadline has passed have failed, whatever their row says.
    let late: Vec<(String, i64)> = boots::table
        .filter(boots::state.eq_any(["claimed", "contacted", "booting"]))
        .filter(boots::fails_at.is_not_null())
        .filter(boots::fails_at.assume_not_null().le(Micros::from(now)))
        .group_by(boots::state)
        .select((boots::state, diesel::dsl::count_star()))
        .load(conn)?;
    let is_on_its_way = boots::table
        .filter(boots::system_id.eq(node_keys::system_id))
        .filter(boots::state.ne_all(["new", "issued"]));
    let issued: i64 = node_keys::table
        .filter(node_keys::state.eq("live"))
        .filter(diesel::dsl::not(diesel::dsl::exists(is_on_its_way)))
        .count()
        .get_result(conn)?;

    let mut nodes: BTreeMap<&'static str, i64> =
        BootState::ALL.into_iter().map(|state| (state.as_str(), 0)).collect();
    for (state, count) in by_state {
        if let Ok(state) = BootState::parse(&state) {
            nodes.insert(state.as_str(), count);
        }
    }
    for (state, count) in late {
        if let Ok(state) = BootState::parse(&state) {
            *nodes.entry(state.as_str()).or_default() -= count;
            *nodes.entry("failed").or_default() += count;
        }
    }
    nodes.insert("issued", issued);
    nodes.insert("new", 0);
    let others: i64 = nodes.values().sum();
    nodes.insert("new", (all - others).max(0));
    Ok(Census { tokens, nodes })
}
