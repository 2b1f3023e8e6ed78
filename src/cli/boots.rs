//! `nodeinit timeline`, `stuck` and `explain`: how far nodes have come, and why no further.

use std::collections::BTreeMap;

use anyhow::Context as _;
use clap::Args;
use serde_json::{Value, json};

use super::{Common, InProject, output, segment};
use crate::domain::cull::parse_duration;

const STUCK: [&str; 7] =
    ["system_id", "project", "boot_state", "stage", "since", "last_report", "why"];

#[derive(Args)]
pub struct OfNode {
    #[arg(value_name = "NODE")]
    system_id: String,
    #[command(flatten)]
    project: InProject,
}

#[derive(Args)]
#[command(
    after_help = "Exit code, for cron: 0 nobody is stuck; 1 somebody is, and standard error \
                        counts them by state and stage (also 1, as ever: the server cannot be \
                        asked); 2 wrong use."
)]
pub struct Stuck {
    /// Be patient with a node for so long at one place, such as 20m
    #[arg(long, value_name = "D", default_value = "20m", value_parser = duration)]
    after: String,
    /// Print at most this many
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
}

/// The server reads it; what it would refuse is wrong use here.
fn duration(text: &str) -> Result<String, String> {
    parse_duration(text).map(|_| text.to_owned())
}

pub fn timeline(common: &Common, of: &OfNode) -> anyhow::Result<()> {
    let session = common.session()?;
    let path = format!("{}/timeline", of.project.node(&session, &of.system_id)?);
    let timeline = session.get(&path).with_context(|| format!("timeline {}", of.system_id))?;
    if common.output != output::Format::Table {
        return output::object(common.output, &timeline);
    }
    output::text(&summary(&timeline))?;
    let entries = timeline["entries"].as_array().map(Vec::as_slice).unwrap_or_default();
    let rows: Vec<Value> = entries.iter().map(row).collect();
    output::list(common.output, &["at", "what", "result", "took", "detail"], &rows)
}

/// `node-7f3a is failed in init-network since 2027-01-15T08:00:00Z: no network data found…`
fn summary(timeline: &Value) -> String {
    let said = |name: &str| timeline[name].as_str().unwrap_or_default().to_owned();
    let mut line = format!("{} is {}", said("system_id"), said("boot_state"));
    for (before, name) in
        [(" in ", "stage"), (" since ", "since"), (": ", "why"), ("; last report: ", "last_report")]
    {
        if let Some(text) = timeline[name].as_str() {
            line.extend([before, text]);
        }
    }
    line
}

fn row(entry: &Value) -> Value {
    let digest = entry["digest"].as_str().map(|digest| format!("sha256:{digest}"));
    let took = entry["duration"].as_f64().map(|seconds| format!("{seconds:.3} s"));
    json!({
        "at": entry["at"],
        "what": entry["what"],
        "result": entry["result"],
        "took": took,
        "detail": digest.map_or_else(|| entry["why"].clone(), Value::from),
    })
}

pub fn explain(common: &Common, of: &OfNode) -> anyhow::Result<()> {
    let session = common.session()?;
    let path = format!("{}/explain", of.project.node(&session, &of.system_id)?);
    let explained = session.get(&path);
    output::object(common.output, &explained.with_context(|| format!("explain {}", of.system_id))?)
}

pub fn stuck(common: &Common, stuck: &Stuck) -> anyhow::Result<()> {
    let session = common.session()?;
    let path = format!("/v1/stuck?after={}", segment(&stuck.after));
    let mut nodes = session.list(&path, None).context("stuck")?;
    let (all, counts) = (nodes.len(), counted(&nodes));
    nodes.truncate(stuck.limit.unwrap_or(all));
    output::list(common.output, &STUCK, &nodes)?;
    match all {
        0 => Ok(()),
        1 => anyhow::bail!("1 node is stuck: {counts}"),
        many => anyhow::bail!("{many} nodes are stuck: {counts}"),
    }
}

/// `2 failed in init-network, 1 contacted in instance-id`
fn counted(nodes: &[Value]) -> String {
    let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for node in nodes {
        let said = |name: &str| node[name].as_str().unwrap_or("-");
        *counts.entry((said("boot_state"), said("stage"))).or_default() += 1;
    }
    let counts = counts.into_iter().map(|((state, stage), n)| format!("{n} {state} in {stage}"));
    output::plain(&counts.collect::<Vec<_>>().join(", "))
}
