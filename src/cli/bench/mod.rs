//! `nodeinit bench`: what a server can do, measured on this machine beside something known.

mod generator;
mod issue;
mod nginx;
mod process;
mod read;
mod server;
mod told;

use anyhow::Context as _;
use clap::Subcommand;

use super::Common;

#[derive(Subcommand)]
pub enum Bench {
    /// Read instance-id as cloud-init does, beside nginx serving a static file without
    /// authentication
    Read(read::Read),
    /// Import a fleet, give every node its token, look through them, and cull half of the tokens
    /// while nodes read
    Issue(issue::Issue),
}

pub fn run(common: &Common, command: Bench) -> anyhow::Result<()> {
    match command {
        Bench::Read(flags) => read::run(common, &flags).context("bench read"),
        Bench::Issue(flags) => issue::run(common, &flags).context("bench issue"),
    }
}
