//! `nodeinit audit …`.

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde_json::json;

use super::{Common, output, segment};
use crate::clock::Clock;
use crate::domain::audit::{Noted, parse_since};

const COLUMNS: [&str; 8] =
    ["seq", "at", "actor", "verb", "object", "outcome", "detail", "request_id"];

#[derive(Subcommand)]
pub enum Audit {
    /// List what was changed and what was refused, oldest first
    List(List),
    /// Check that no row was changed, put in or cut, and print the head of the chain
    Verify {
        /// The head that an earlier verify printed: whatever was cut since is missed
        #[arg(long, value_name = "COUNT:MAC", value_parser = head)]
        head: Option<String>,
    },
}

#[derive(Args)]
pub struct List {
    /// Only by this actor: a word or more of it, such as a user's name, id=ID or uid=0
    #[arg(long, value_name = "A")]
    actor: Option<String>,
    /// Only this action, such as node:create
    #[arg(long, value_name = "V")]
    verb: Option<String>,
    /// Only to this object, such as node/n1
    #[arg(long, value_name = "O")]
    object: Option<String>,
    /// Not before this instant (2027-01-15T08:00:00Z), or this long ago (24h)
    #[arg(long, value_name = "T", value_parser = since)]
    since: Option<String>,
    /// At most this many
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
}

/// The server reads these; what it would refuse is wrong use here.
fn head(text: &str) -> Result<String, String> {
    Noted::parse(text).map(|_| text.to_owned())
}

fn since(text: &str) -> Result<String, String> {
    parse_since(text, Clock::System.now()).map(|_| text.to_owned())
}

pub fn run(common: &Common, command: Audit) -> anyhow::Result<()> {
    let session = common.session()?;
    match command {
        Audit::List(List { actor, verb, object, since, limit }) => {
            let filters = [("actor", actor), ("verb", verb), ("object", object), ("since", since)];
            let query: Vec<String> = filters
                .into_iter()
                .filter_map(|(name, value)| Some(format!("{name}={}", segment(&value?))))
                .collect();
            let path = if query.is_empty() {
                "/v1/audit".to_owned()
            } else {
                format!("/v1/audit?{}", query.join("&"))
            };
            let rows = session.list(&path, limit).context("audit list")?;
            output::list(common.output, &COLUMNS, &rows)
        }
        Audit::Verify { head } => {
            let path = match head {
                Some(head) => format!("/v1/audit/verify?head={}", segment(&head)),
                None => "/v1/audit/verify".to_owned(),
            };
            let mut verified = session.get(&path).context("audit verify")?;
            let mac = verified["mac"].as_str().unwrap_or_default();
            verified["head"] = json!(format!("{}:{mac}", verified["count"]));
            output::object(common.output, &verified)?;
            match verified["problem"].as_str() {
                None if verified["ok"] == true => Ok(()),
                problem => {
                    let problem = output::plain(problem.unwrap_or("no reason is given"));
                    anyhow::bail!("audit verify: the audit is not whole: {problem}")
                }
            }
        }
    }
}
