//! `nodeinit bench`: stub until the generator lands.

use clap::Subcommand;

use super::Common;

#[derive(Subcommand)]
pub enum Bench {
    /// Measure reads
    Read,
}

pub fn run(_: &Common, _: Bench) -> anyhow::Result<()> {
    anyhow::bail!("not yet")
}
