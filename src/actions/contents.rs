//! Storing user-data and vendor-data: checked at the door, every write a new version.

use serde_json::json;
use sha2::{Digest, Sha256};

use super::{App, Failure, NO_SUCH_NODE};
use crate::domain::audit::Object;
use crate::domain::content::{self, Finding};
use crate::domain::identity::By;
use crate::domain::metadata::ContentKind;
use crate::domain::policy::Action;
use crate::store::columns::Id;
use crate::store::{DbError, Tx, contents, is_unique_violation, nodes};

/// Vendor-data in the form in which it is served.
pub struct Checked(pub Vec<u8>);

impl Checked {
    /// # Errors
    /// Every reason why cloud-init would trip over it.
    pub fn vendor_data(bytes: &[u8]) -> Result<Checked, Vec<Finding>> {
        content::vendor_data(bytes).map(Checked)
    }
}

/// What a caller says it is overwriting (RFC 9110 §13.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Precondition {
    /// Nothing: fine where there is nothing.
    None,
    /// `If-Match: *`.
    Exists,
    /// `If-Match` with these versions.
    Versions(Vec<i32>),
    /// `If-None-Match: *`.
    Absent,
}

/// A write of content that was stored.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, schemars::JsonSchema)]
pub struct Stored {
    pub version: i32,
    pub size: usize,
    pub sha256: String,
    pub warnings: Vec<Finding>,
    /// Whether there was none before.
    #[serde(skip)]
    pub created: bool,
}

fn verb(kind: ContentKind) -> Action {
    match kind {
        ContentKind::UserData => Action::UserDataSet,
        ContentKind::VendorData => Action::VendorDataSet,
    }
}

/// Stores content as the node's next version.
///
/// # Errors
/// [`Failure::Invalid`] with every finding (for user-data only when `strict`), or a precondition
/// that does not hold.
#[expect(clippy::too_many_arguments, reason = "who, where, what, and on which conditions")]
pub async fn set(
    app: &App,
    by: &By,
    project: Id,
    system_id: String,
    kind: ContentKind,
    bytes: Vec<u8>,
    precondition: Precondition,
    strict: bool,
) -> Result<Stored, Failure> {
    let refused =
        |findings: Vec<Finding>| Failure::Invalid(findings.into_iter().map(Into::into).collect());
    // Checking and hashing tens of megabytes takes a while, so it is done off the async threads.
    let (bytes, sha256, warnings) = tokio::task::spawn_blocking(move || {
        let (bytes, warnings) = match kind {
            ContentKind::UserData => {
                let findings = content::user_data(&bytes);
                if strict && !findings.is_empty() { Err(findings) } else { Ok((bytes, findings)) }
            }
            ContentKind::VendorData => {
                content::vendor_data(&bytes).map(|served| (served, Vec::new()))
            }
        }?;
        let sha256: [u8; 32] = Sha256::digest(&bytes).into();
        Ok((bytes, sha256, warnings))
    })
    .await
    .map_err(|_| DbError::Ended)?
    .map_err(refused)?;

    let size = bytes.len();
    let auditor = app.auditor(by);
    let (version, created) = app
        .db
        .write("set content", move |tx| {
            let (number, current) = next(tx, project, &system_id, kind)?;
            holds(&precondition, current)?;
            let stored = contents::append(tx, &system_id, kind, number, Some((&bytes, &sha256)));
            lost_race(stored)?;
            let detail = json!({"version": number, "size": size, "sha256": hex(&sha256)});
            auditor.note(tx, verb(kind), &Object::Node(system_id), &detail)?;
            Ok::<_, Failure>((number, current.is_none()))
        })
        .await?;
    Ok(Stored { version, size, sha256: hex(&sha256), warnings, created })
}

/// Clears content; its history stays. Nothing happens where there is none.
///
/// # Errors
/// [`Failure::NotFound`] for the node, or a precondition that does not hold.
pub async fn clear(
    app: &App,
    by: &By,
    project: Id,
    system_id: String,
    kind: ContentKind,
    precondition: Precondition,
) -> Result<(), Failure> {
    let auditor = app.auditor(by);
    app.db
        .write("clear content", move |tx| {
            let (number, current) = next(tx, project, &system_id, kind)?;
            // A version cleared by mistake is still in the history, so none has to be named.
            if precondition != Precondition::None {
                holds(&precondition, current)?;
            }
            if current.is_some() {
                lost_race(contents::append(tx, &system_id, kind, number, None))?;
                let detail = json!({"version": number, "cleared": true});
                auditor.note(tx, verb(kind), &Object::Node(system_id), &detail)?;
            }
            Ok(())
        })
        .await
}

/// The number of the next version, and of the current one if there is content now.
fn next(
    tx: &mut Tx,
    project: Id,
    system_id: &str,
    kind: ContentKind,
) -> Result<(i32, Option<i32>), Failure> {
    if nodes::lock(tx, project, &[system_id.to_owned()])?.is_empty() {
        return Err(NO_SUCH_NODE);
    }
    let newest = contents::find_newest(tx.conn, system_id, kind)?;
    let number = newest.as_ref().map_or(0, |version| version.version) + 1;
    Ok((number, newest.filter(|version| version.sha256.is_some()).map(|version| version.version)))
}

fn holds(precondition: &Precondition, current: Option<i32>) -> Result<(), Failure> {
    let changed = Failure::PreconditionFailed("it was changed since: read it again, then write");
    match (precondition, current) {
        (Precondition::None | Precondition::Absent, None) | (Precondition::Exists, Some(_)) => {
            Ok(())
        }
        (Precondition::Versions(named), Some(current)) if named.contains(&current) => Ok(()),
        (Precondition::None, Some(_)) => Err(Failure::PreconditionRequired(
            "there is content already: name the version that is overwritten in If-Match",
        )),
        _ => Err(changed),
    }
}

fn lost_race(stored: diesel::QueryResult<()>) -> Result<(), Failure> {
    match stored {
        Err(error) if is_unique_violation(&error) => {
            Err(Failure::PreconditionFailed("it was changed since: read it again, then write"))
        }
        stored => Ok(stored?),
    }
}

#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
