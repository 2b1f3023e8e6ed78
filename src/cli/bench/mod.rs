//! `nodeinit bench`: what a server can do, measured on this machine beside something known.

mod generator;
mod histogram;
mod issue;
mod nginx;
mod postgres;
mod process;
mod read;
mod scrape;
mod server;
mod sign;
mod storm;
mod tls;
mod told;
mod wire;

use anyhow::Context as _;
use clap::Subcommand;
use serde_json::Value;

use super::Common;

#[derive(Subcommand)]
pub enum Bench {
    /// Read instance-id as cloud-init does, beside nginx serving a static file without
    /// authentication
    Read(read::Read),
    /// Boot many machines at once, as cloud-init does: its reads, its events, its retries
    Storm(storm::Storm),
    /// Import a fleet, give every node its token, look through them, and cull half of the tokens
    /// while nodes read
    Issue(issue::Issue),
}

pub fn run(common: &Common, command: Bench) -> anyhow::Result<()> {
    match command {
        Bench::Read(flags) => read::run(common, &flags).context("bench read"),
        Bench::Storm(flags) => storm::run(common, &flags).context("bench storm"),
        Bench::Issue(flags) => issue::run(common, &flags).context("bench issue"),
    }
}

/// With so many digits; `null` for what could not be measured.
fn rounded(figure: Option<f64>, digits: usize) -> Value {
    let text = figure.map(|figure| format!("{figure:.digits$}"));
    text.and_then(|text| text.parse().ok()).unwrap_or_default()
}

fn merge(into: &mut Value, fields: Value) {
    if let (Value::Object(into), Value::Object(fields)) = (into, fields) {
        into.extend(fields);
    }
}

fn as_f64(count: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "counts of requests and bytes are no more")]
    let count = count as f64;
    count
}
