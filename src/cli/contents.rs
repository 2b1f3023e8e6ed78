//! `nodeinit user-data …` and `nodeinit vendor-data …`.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::Subcommand;
use serde_json::Value;
use similar::TextDiff;
use ureq::http::{Method, StatusCode};

use super::{Common, InProject, output, read_file};
use crate::client::Session;
use crate::domain::content::{self, Finding};
use crate::domain::metadata::ContentKind;

#[derive(Subcommand)]
pub enum Content {
    /// Store a file as the node's next version
    Set {
        #[arg(value_name = "NODE")]
        system_id: String,
        /// A path, or - for standard input
        file: PathBuf,
        /// Refuse what cloud-init would silently ignore, instead of warning of it
        #[arg(long)]
        strict: bool,
        #[command(flatten)]
        project: InProject,
    },
    /// Print the bytes
    Get {
        #[arg(value_name = "NODE")]
        system_id: String,
        /// An older version
        #[arg(long, value_name = "N")]
        version: Option<i32>,
        #[command(flatten)]
        project: InProject,
    },
    /// Serve none from now on; the history stays
    Clear {
        #[arg(value_name = "NODE")]
        system_id: String,
        #[command(flatten)]
        project: InProject,
    },
    /// Say what cloud-init would make of a file; needs no server
    Validate {
        /// A path, or - for standard input
        file: PathBuf,
    },
    /// List the versions
    History {
        #[arg(value_name = "NODE")]
        system_id: String,
        #[command(flatten)]
        project: InProject,
    },
    /// Compare two versions, by default the last two
    Diff {
        #[arg(value_name = "NODE")]
        system_id: String,
        #[arg(value_name = "OLD", requires = "new")]
        old: Option<i32>,
        #[arg(value_name = "NEW")]
        new: Option<i32>,
        #[command(flatten)]
        project: InProject,
    },
    /// Store an older version again, as the next one
    Rollback {
        #[arg(value_name = "NODE")]
        system_id: String,
        #[arg(long, value_name = "N")]
        to: i32,
        #[command(flatten)]
        project: InProject,
    },
}

pub fn run(common: &Common, command: Content, kind: ContentKind) -> anyhow::Result<()> {
    if let Content::Validate { file } = &command {
        return validate(&read_file(file)?, kind);
    }
    let session = common.session()?;
    let what = kind.as_str();
    let path = |project: &InProject, id: &str| {
        anyhow::Ok(format!("{}/{what}", project.node(&session, id)?))
    };
    match command {
        Content::Validate { .. } => Ok(()),
        Content::Set { system_id, file, strict, project } => {
            let bytes = read_file(&file)?;
            let stored = store(&session, &path(&project, &system_id)?, &bytes, strict)
                .with_context(|| format!("{what} set {system_id}"))?;
            print_stored(common, stored)
        }
        Content::Get { system_id, version, project } => {
            let bytes = load(&session, &path(&project, &system_id)?, version)
                .with_context(|| format!("{what} get {system_id}"))?;
            output::bytes(&bytes)
        }
        Content::Clear { system_id, project } => session
            .delete(&path(&project, &system_id)?)
            .with_context(|| format!("{what} clear {system_id}")),
        Content::History { system_id, project } => {
            let versions = session
                .list(&format!("{}/versions", path(&project, &system_id)?), None)
                .with_context(|| format!("{what} history {system_id}"))?;
            output::list(common.output, &["version", "size", "sha256", "created_at"], &versions)
        }
        Content::Diff { system_id, old, new, project } => {
            diff(&session, &path(&project, &system_id)?, old.zip(new))
                .with_context(|| format!("{what} diff {system_id}"))
        }
        Content::Rollback { system_id, to, project } => {
            let path = path(&project, &system_id)?;
            let stored = load(&session, &path, Some(to))
                .and_then(|bytes| store(&session, &path, &bytes, false))
                .with_context(|| format!("{what} rollback {system_id}"))?;
            print_stored(common, stored)
        }
    }
}

fn validate(bytes: &[u8], kind: ContentKind) -> anyhow::Result<()> {
    let findings: Vec<Finding> = match kind {
        ContentKind::UserData => content::user_data(bytes),
        ContentKind::VendorData => content::vendor_data(bytes).err().unwrap_or_default(),
    };
    if findings.is_empty() {
        return Ok(());
    }
    for finding in &findings {
        let line = finding.line.map(|line| format!("line {line}: ")).unwrap_or_default();
        eprintln!("nodeinit: {line}{} [{}]", output::plain(&finding.message), finding.code);
    }
    bail!("{} validate: {} found", kind.as_str(), findings.len())
}

/// Overwrites what is there now, and only that.
fn store(session: &Session, path: &str, bytes: &[u8], strict: bool) -> anyhow::Result<Value> {
    let versions = session.list(&format!("{path}/versions"), None)?;
    let current = versions.last().filter(|version| !version["sha256"].is_null());
    let tag = current.map(|version| format!("\"{}\"", version["version"]));
    let condition = match &tag {
        Some(tag) => ("if-match", tag.as_str()),
        None => ("if-none-match", "*"),
    };
    let headers = [("content-type", "application/octet-stream"), condition];
    let path = if strict { format!("{path}?strict=true") } else { path.to_owned() };
    let answer = session.call(Method::PUT, &path, &headers, Some(bytes))?;
    Ok(serde_json::from_slice(&answer.body)?)
}

fn load(session: &Session, path: &str, version: Option<i32>) -> anyhow::Result<Vec<u8>> {
    let path = match version {
        Some(version) => format!("{path}?version={version}"),
        None => path.to_owned(),
    };
    Ok(session.call(Method::GET, &path, &[], None)?.body)
}

/// Warnings are for people and go to stderr; programs find them in the result too.
fn print_stored(common: &Common, mut stored: Value) -> anyhow::Result<()> {
    for warning in stored["warnings"].as_array().into_iter().flatten() {
        let line =
            warning["line"].as_u64().map(|line| format!("line {line}: ")).unwrap_or_default();
        let message = warning["message"].as_str().unwrap_or_default();
        eprintln!("nodeinit: warning: {line}{}", output::plain(message));
    }
    if let (output::Format::Table, Some(fields)) = (common.output, stored.as_object_mut()) {
        fields.remove("warnings");
    }
    output::object(common.output, &stored)
}

fn diff(session: &Session, path: &str, versions: Option<(i32, i32)>) -> anyhow::Result<()> {
    let listed = session.list(&format!("{path}/versions"), None)?;
    let number = |version: &Value| version["version"].as_i64()?.try_into().ok();
    let numbers: Vec<i32> = listed.iter().filter_map(number).collect();
    let (old, new) = match (versions, numbers.as_slice()) {
        (Some((old, new)), _) => (old, new),
        (None, [.., old, new]) => (*old, *new),
        _ => bail!("there are no two versions to compare"),
    };
    if let Some(missing) = [old, new].into_iter().find(|version| !numbers.contains(version)) {
        bail!("there is no version {missing}");
    }
    // A version that cleared the content has no bytes.
    let bytes = |version: i32| -> anyhow::Result<Vec<u8>> {
        let answer = session.send(Method::GET, &format!("{path}?version={version}"), &[], None)?;
        match answer.status {
            StatusCode::OK => Ok(answer.body),
            StatusCode::NOT_FOUND => Ok(Vec::new()),
            status => bail!("the server answered {status}"),
        }
    };
    let (before, after) = (bytes(old)?, bytes(new)?);
    match (String::from_utf8(before), String::from_utf8(after)) {
        (Ok(before), Ok(after)) => {
            let diff = TextDiff::from_lines(&before, &after);
            let names = (format!("version {old}"), format!("version {new}"));
            output::bytes(diff.unified_diff().header(&names.0, &names.1).to_string().as_bytes())
        }
        (before, after) => {
            let size = |text: Result<String, std::string::FromUtf8Error>| match text {
                Ok(text) => text.len(),
                Err(error) => error.as_bytes().len(),
            };
            let text = format!("binary: {} and {} bytes\n", size(before), size(after));
            output::bytes(text.as_bytes())
        }
    }
}
