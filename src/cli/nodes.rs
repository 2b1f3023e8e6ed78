//! `nodeinit node …`.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};
use ureq::http::Method;

use super::{Common, InProject, import, output, segment};
use crate::client::Session;

const COLUMNS: [&str; 5] = ["system_id", "hostname", "boot_state", "labels", "created_at"];

#[derive(Subcommand)]
pub enum Node {
    /// Add a node
    Add(Add),
    /// List nodes
    List(List),
    /// Show a node
    Show {
        system_id: String,
        #[command(flatten)]
        project: InProject,
    },
    /// Change a node; what is not named stays
    Set(Set),
    /// Remove a node; its token ends
    Remove {
        system_id: String,
        #[command(flatten)]
        project: InProject,
    },
    /// Have a node installed anew: its token ends, and its instance-id changes
    Reprovision {
        system_id: String,
        #[command(flatten)]
        project: InProject,
    },
    /// Add many nodes: one JSON object a line, with the fields of `node add -o json` that can be
    /// set, and `user_data` and `vendor_data` in base64
    Import {
        /// A path, or - for standard input
        file: PathBuf,
        /// Refuse user-data that cloud-init would silently ignore, instead of warning of it
        #[arg(long)]
        strict: bool,
        #[command(flatten)]
        project: InProject,
    },
}

#[derive(Args)]
pub struct Add {
    /// 1 to 63 letters, digits, '.', '_' or '-'
    #[arg(required_unless_present = "generate", conflicts_with = "generate")]
    system_id: Option<String>,
    /// Make a system id up
    #[arg(long)]
    generate: bool,
    /// The fully qualified name
    #[arg(long)]
    hostname: String,
    /// A hardware address; repeat for more
    #[arg(long = "mac", value_name = "M")]
    macs: Vec<String>,
    /// A line of `authorized_keys`; repeat for more
    #[arg(long = "ssh-key", value_name = "K")]
    ssh_keys: Vec<String>,
    /// NAME=VALUE; repeat for more
    #[arg(long = "label", value_name = "K=V", value_parser = label)]
    labels: Vec<(String, String)>,
    #[command(flatten)]
    project: InProject,
}

#[derive(Args)]
pub struct List {
    /// Only nodes with this label; repeat to narrow
    #[arg(long = "label", value_name = "K=V", value_parser = label)]
    labels: Vec<(String, String)>,
    /// Only nodes in this boot state
    #[arg(long)]
    state: Option<String>,
    /// At most this many
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    #[command(flatten)]
    project: InProject,
}

#[derive(Args)]
pub struct Set {
    system_id: String,
    #[arg(long)]
    hostname: Option<String>,
    /// Replaces the hardware addresses; repeat for more, once empty for none
    #[arg(long = "mac", value_name = "M")]
    macs: Option<Vec<String>>,
    /// Replaces the SSH keys; repeat for more, once empty for none
    #[arg(long = "ssh-key", value_name = "K")]
    ssh_keys: Option<Vec<String>>,
    /// Replaces the labels; repeat for more, once empty for none
    #[arg(long = "label", value_name = "K=V")]
    labels: Option<Vec<String>>,
    #[arg(long, value_name = "true|false")]
    netboot: Option<bool>,
    /// Move it to this project; its token ends
    #[arg(long, value_name = "P")]
    project: Option<String>,
    /// The project it is in now, if not the session's
    #[arg(long, value_name = "P")]
    in_project: Option<String>,
}

fn label(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("a label is NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn labels(pairs: Vec<(String, String)>) -> Value {
    pairs.into_iter().map(|(name, value)| (name, Value::from(value))).collect::<Map<_, _>>().into()
}

pub fn run(common: &Common, command: Node) -> anyhow::Result<()> {
    let session = common.session()?;
    match command {
        Node::Add(add) => {
            let mut body = json!({
                "hostname": add.hostname,
                "macs": add.macs,
                "ssh_keys": add.ssh_keys,
                "labels": labels(add.labels),
            });
            if let Some(id) = add.system_id {
                body["system_id"] = id.into();
            }
            let node = session.send_json(Method::POST, &add.project.nodes(&session)?, &body);
            output::object(common.output, &node.context("node add")?)
        }
        Node::List(list) => {
            let mut parameters = Vec::new();
            if let Some(limit) = list.limit {
                parameters.push(format!("limit={}", limit.clamp(1, 1000)));
            }
            for (name, value) in &list.labels {
                parameters.push(format!("label={}", segment(&format!("{name}={value}"))));
            }
            if let Some(state) = &list.state {
                parameters.push(format!("state={}", segment(state)));
            }
            let path = format!("{}?{}", list.project.nodes(&session)?, parameters.join("&"));
            let nodes = session.list(&path, list.limit).context("node list")?;
            output::list(common.output, &COLUMNS, &nodes)
        }
        Node::Show { system_id, project } => {
            let node = session.get(&project.node(&session, &system_id)?);
            output::object(common.output, &node.with_context(|| format!("node show {system_id}"))?)
        }
        Node::Set(set) => change(common, &session, set),
        Node::Remove { system_id, project } => session
            .delete(&project.node(&session, &system_id)?)
            .with_context(|| format!("node remove {system_id}")),
        Node::Reprovision { system_id, project } => {
            let path = format!("{}/reprovision", project.node(&session, &system_id)?);
            let node = session.send_json(Method::POST, &path, &json!({}));
            let node = node.with_context(|| format!("node reprovision {system_id}"))?;
            output::object(common.output, &node)
        }
        Node::Import { file, strict, project } => {
            let path = if strict { "?strict=true" } else { "" };
            let path = format!("{}{path}", project.nodes(&session)?);
            import::run(common, &session, &file, &path)
        }
    }
}

fn change(common: &Common, session: &Session, set: Set) -> anyhow::Result<()> {
    // `--mac ''` says "none", which leaving the flag out does not.
    let given =
        |values: Vec<String>| values.into_iter().filter(|v| !v.is_empty()).collect::<Vec<_>>();
    let mut body = Map::new();
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            body.insert(name.to_owned(), value);
        }
    };
    put("hostname", set.hostname.map(Value::from));
    put("macs", set.macs.map(|values| given(values).into()));
    put("ssh_keys", set.ssh_keys.map(|values| given(values).into()));
    let pairs = set
        .labels
        .map(|texts| given(texts).iter().map(|text| label(text)).collect::<Result<Vec<_>, _>>());
    let pairs = pairs.transpose().map_err(anyhow::Error::msg).context("--label")?;
    put("labels", pairs.map(labels));
    put("netboot", set.netboot.map(Value::from));
    put("project", set.project.map(Value::from));

    let path = InProject { project: set.in_project }.node(session, &set.system_id)?;
    let node = session.send_json(Method::PATCH, &path, &Value::from(body));
    output::object(common.output, &node.with_context(|| format!("node set {}", set.system_id))?)
}
