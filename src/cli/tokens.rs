//! `nodeinit token …`, `nodeinit preseed` and `nodeinit claim`.

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use ureq::http::Method;

use super::{Common, InProject, output};
use crate::client::{ClientError, Session};
use crate::domain::cull::{Cap, parse_duration};

const COLUMNS: [&str; 5] = ["token_key", "system_id", "state", "created_at", "last_used_at"];
const CREDENTIALS: [&str; 4] = ["system_id", "consumer_key", "token_key", "token_secret"];

#[derive(Subcommand)]
pub enum Token {
    /// Print the credentials of nodes; a node without a token gets one
    Get {
        #[arg(required_unless_present = "all", value_name = "NODE")]
        nodes: Vec<String>,
        /// Of every node of the project
        #[arg(long, conflicts_with = "nodes")]
        all: bool,
        #[command(flatten)]
        project: InProject,
    },
    /// Show a node's token, without its secret
    Show {
        #[arg(value_name = "NODE")]
        system_id: String,
        #[command(flatten)]
        project: InProject,
    },
    /// List the tokens of every project in the order they were made
    List {
        /// Only the token with this key
        #[arg(long, value_name = "KEY")]
        key: Option<String>,
        /// At most this many
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
    },
    /// End a node's token now; the next get makes another
    Revoke {
        #[arg(value_name = "NODE")]
        system_id: String,
        #[command(flatten)]
        project: InProject,
    },
    /// Print new credentials; the old ones stay good until the new ones are used
    Reissue {
        #[arg(value_name = "NODE")]
        system_id: String,
        /// End the old ones after this long in any case
        #[arg(long, value_name = "D", default_value = "24h", value_parser = duration)]
        retire_after: String,
        #[command(flatten)]
        project: InProject,
    },
    /// End stale tokens; their nodes stay
    Cull(Cull),
}

#[derive(Args)]
pub struct Cull {
    /// Made longer ago than this and never used, such as 7d
    #[arg(long, value_name = "D", value_parser = duration, required_unless_present = "idle_for")]
    unused_for: Option<String>,
    /// Last used longer ago than this, such as 90d
    #[arg(long, value_name = "D", value_parser = duration)]
    idle_for: Option<String>,
    /// Print exactly what would go, and leave it
    #[arg(long)]
    dry_run: bool,
    /// Refuse to end more than this many, or this share of the live ones (at least 10)
    #[arg(long, value_name = "N|N%", default_value = "5%", value_parser = cap)]
    max: String,
    /// End them however many there are
    #[arg(long)]
    force: bool,
}

#[derive(Args)]
pub struct Preseed {
    #[arg(value_name = "NODE")]
    system_id: String,
    /// cloud-config, cloud-cfg-d, cmdline, curtin, debconf, autoinstall or curl
    #[arg(long, value_name = "F")]
    format: String,
    #[command(flatten)]
    project: InProject,
}

#[derive(Args)]
pub struct Claim {
    #[arg(value_name = "NODE")]
    system_id: String,
    /// How long it waits to be fetched, up to 24h
    #[arg(long, value_name = "D", default_value = "15m", value_parser = duration)]
    ttl: String,
    /// The network that it can be fetched from
    #[arg(long, value_name = "CIDR")]
    from: Option<String>,
    /// The preseed it is for; any format but cmdline
    #[arg(long, value_name = "F", default_value = "cloud-config")]
    format: String,
    #[command(flatten)]
    project: InProject,
}

/// The server reads these; what it would refuse is wrong use here.
fn duration(text: &str) -> Result<String, String> {
    parse_duration(text).map(|_| text.to_owned())
}

fn cap(text: &str) -> Result<String, String> {
    Cap::parse(text).map(|_| text.to_owned())
}

pub fn run(common: &Common, command: Token) -> anyhow::Result<()> {
    let session = common.session()?;
    match command {
        Token::Get { nodes, all, project } => match nodes.as_slice() {
            [node] if !all => {
                let path = format!("{}/token", project.node(&session, node)?);
                let credentials = session.send_json(Method::POST, &path, &json!({}));
                let credentials = credentials.with_context(|| format!("token get {node}"))?;
                output::object(common.output, &credentials)
            }
            _ => get_many(common, &session, &nodes, all, &project).context("token get"),
        },
        Token::Show { system_id, project } => {
            let token = session.get(&format!("{}/token", project.node(&session, &system_id)?));
            output::object(
                common.output,
                &token.with_context(|| format!("token show {system_id}"))?,
            )
        }
        Token::List { key, limit } => {
            let path = match key {
                Some(key) => format!("/v1/tokens?token_key={}", super::segment(&key)),
                None => "/v1/tokens".to_owned(),
            };
            let tokens = session.list(&path, limit).context("token list")?;
            output::list(common.output, &COLUMNS, &tokens)
        }
        Token::Revoke { system_id, project } => session
            .delete(&format!("{}/token", project.node(&session, &system_id)?))
            .with_context(|| format!("token revoke {system_id}")),
        Token::Reissue { system_id, retire_after, project } => {
            let path = format!("{}/token/reissue", project.node(&session, &system_id)?);
            let body = json!({"retire_after": retire_after});
            let credentials = session.send_json(Method::POST, &path, &body);
            let credentials = credentials.with_context(|| format!("token reissue {system_id}"))?;
            output::object(common.output, &credentials)
        }
        Token::Cull(cull) => {
            let body = json!({
                "unused_for": cull.unused_for,
                "idle_for": cull.idle_for,
                "dry_run": cull.dry_run,
                "max": cull.max,
                "force": cull.force,
            });
            let culled = session.send_json(Method::POST, "/v1/tokens/cull", &body);
            let culled = culled.context("token cull")?;
            let tokens = culled["tokens"].as_array().cloned().unwrap_or_default();
            let done = if cull.dry_run { "would end" } else { "ended" };
            eprintln!("nodeinit: {} tokens {done}", tokens.len());
            output::list(common.output, &COLUMNS, &tokens)
        }
    }
}

/// Nodes of one request.
const BATCH: usize = 5000;

fn get_many(
    common: &Common,
    session: &Session,
    nodes: &[String],
    all: bool,
    project: &InProject,
) -> anyhow::Result<()> {
    let path = format!("/v1/{}/tokens", super::segment(&project.name(session)?));
    let mut rows = Vec::new();
    for batch in nodes.chunks(BATCH) {
        get_batch(common, session, &path, batch, &mut rows)?;
    }
    if all {
        // A fleet is gone through as it is listed, and never held whole.
        for page in session.pages(&project.nodes(session)?) {
            let id = |node: &Value| node["system_id"].as_str().map(str::to_owned);
            let batch: Vec<String> = page?.iter().filter_map(id).collect();
            get_batch(common, session, &path, &batch, &mut rows)?;
        }
    }
    if common.output == output::Format::Json {
        return Ok(());
    }
    output::list(common.output, &CREDENTIALS, &rows)
}

/// Prints what it gets, or adds it to `rows` when that has to wait for the rest.
fn get_batch(
    common: &Common,
    session: &Session,
    path: &str,
    batch: &[String],
    rows: &mut Vec<Value>,
) -> anyhow::Result<()> {
    let lines: Vec<String> = batch.iter().map(|id| Value::from(id.as_str()).to_string()).collect();
    let body = lines.join("\n");
    let headers = [("content-type", "application/x-ndjson")];
    let answer = session
        .call(Method::POST, path, &headers, Some(body.as_bytes()))
        .map_err(|error| name_missing(error, batch))?;
    let lines = answer.body.split(|b| *b == b'\n').filter(|line| !line.is_empty());
    let mut got = lines.map(serde_json::from_slice).collect::<Result<Vec<Value>, _>>()?;
    if common.output == output::Format::Json {
        return output::lines(&got);
    }
    rows.append(&mut got);
    Ok(())
}

/// The server counts lines; a person named nodes.
fn name_missing(error: ClientError, nodes: &[String]) -> anyhow::Error {
    let ClientError::Refused { status: 400, problems, .. } = &error else { return error.into() };
    let names: Option<Vec<&str>> = problems
        .iter()
        .map(|problem| nodes.get(problem.line?.checked_sub(1)?).map(String::as_str))
        .collect();
    match names {
        Some(names) if !names.is_empty() => {
            anyhow::anyhow!("{}: there is no such node", output::plain(&names.join(" ")))
        }
        _ => error.into(),
    }
}

pub fn claim(common: &Common, command: &Claim) -> anyhow::Result<()> {
    let session = common.session()?;
    let body = json!({"ttl": command.ttl, "from": command.from, "format": command.format});
    let path = format!("{}/claims", command.project.node(&session, &command.system_id)?);
    let claim = session
        .send_json(Method::POST, &path, &body)
        .with_context(|| format!("claim {}", command.system_id))?;
    output::object(common.output, &claim)
}

pub fn preseed(common: &Common, command: &Preseed) -> anyhow::Result<()> {
    let session = common.session()?;
    let body = json!({"format": command.format}).to_string();
    let headers = [("content-type", "application/json")];
    let path = format!("{}/preseed", command.project.node(&session, &command.system_id)?);
    let answer = session
        .call(Method::POST, &path, &headers, Some(body.as_bytes()))
        .with_context(|| format!("preseed {}", command.system_id))?;
    output::bytes(&answer.body)
}
