//! The only changes, and what they share: the app they change and the ways they fail.

pub mod audit;
pub mod authenticate;
pub mod claims;
pub mod contents;
pub mod cull;
pub mod logins;
pub mod nodes;
pub mod operators;
pub mod projects;
pub mod reports;
pub mod tokens;
pub mod users;

use std::sync::Arc;

use std::time::Duration;

use jiff::SignedDuration;
use tokio::sync::Semaphore;

use crate::clock::Clock;
use crate::domain::audit::AuditKey;
use crate::domain::credentials::{Mint, PlaintextReplay};
use crate::domain::limits::Limits;
use crate::domain::metadata::AbsentItems;
use crate::domain::metadata_url::MetadataUrl;
use crate::domain::network::TrustedProxies;
use crate::domain::password::Password;
use crate::domain::preseed::Templates;
use crate::domain::seal::{SealBroken, Sealer};
use crate::live::identities::Identities;
use crate::live::policy::PolicySource;
use crate::live::strangers::Strangers;
use crate::live::view::{Entry, View};
use crate::live::{Learnt, Nonces, Observed, Pace};
use crate::store::columns::Id;
use crate::store::{self, Db, DbError};
use crate::telemetry::metrics::Metrics;

/// How long a login waits for its turn to be hashed.
const PATIENCE: Duration = Duration::from_secs(5);

/// What every door of the service stands on.
pub struct App {
    pub db: Db,
    pub clock: Clock,
    pub metrics: Metrics,
    pub mint: Mint,
    pub sealer: Sealer,
    /// What the audit is chained with.
    pub audit_key: Arc<AuditKey>,
    /// Refusals of callers nobody knows, until the audit is told.
    pub strangers: Strangers,
    /// Tokens and what their nodes are served.
    pub view: Arc<View>,
    /// A token nobody has: what an unknown one is verified against, so that refusing it takes the
    /// same steps.
    pub nobody: Entry,
    pub nonces: Nonces,
    pub learnt: Learnt,
    /// What this process has seen of nodes' signatures, for `explain`.
    pub observed: Observed,
    /// Events on their way to the disk.
    pub reports: reports::Reports,
    /// How fast each node asks.
    pub pace: Pace,
    /// What is known of operators' tokens.
    pub identities: Arc<Identities>,
    /// How fast each source and name fail to log in.
    pub logins: Pace,
    /// The same whatever the name: each try costs a core for a while.
    pub login_sources: Pace,
    /// What a password is tried against when there is none.
    pub nobodys_password: String,
    /// Passwords hashed at once: each takes 19 MiB and a core.
    pub hashing: Semaphore,
    /// Who may do what.
    pub policy: Arc<PolicySource>,
    /// How long past its end a token is good beside a service's.
    pub service_token_window: SignedDuration,
    /// How fast each source address is refused.
    pub refused: Pace,
    /// How often the audit is told of a source that misuses a claim.
    pub misused_claims: Pace,
    pub limits: Limits,
    pub absent_items: AbsentItems,
    pub plaintext_replay: PlaintextReplay,
    /// What is written into preseeds; `None` until a wildcard listener is given its name.
    pub metadata_url: Option<MetadataUrl>,
    /// `http` or `https`: what nodes speak to the node listener itself.
    pub node_scheme: &'static str,
    /// What preseeds are made of.
    pub templates: Templates,
    /// Whose word about a client's address is taken.
    pub proxies: TrustedProxies,
}

/// One thing wrong with what a caller sent. It never repeats what was sent.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, schemars::JsonSchema)]
pub struct Problem {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<&'static str>,
    pub message: String,
}

impl Problem {
    #[must_use]
    pub fn new(message: impl Into<String>) -> Problem {
        Problem { line: None, field: None, code: None, message: message.into() }
    }

    #[must_use]
    pub fn field(field: &'static str, message: impl Into<String>) -> Problem {
        Problem { field: Some(field), ..Problem::new(message) }
    }

    #[must_use]
    pub fn line(line: usize, message: impl Into<String>) -> Problem {
        Problem { line: Some(line), ..Problem::new(message) }
    }

    #[must_use]
    pub fn at_line(self, line: usize) -> Problem {
        Problem { line: Some(line), ..self }
    }
}

impl From<crate::domain::content::Finding> for Problem {
    fn from(finding: crate::domain::content::Finding) -> Problem {
        Problem {
            line: finding.line,
            field: None,
            code: Some(finding.code),
            message: finding.message,
        }
    }
}

/// Why a change was not made. `http/error.rs` gives each its status.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("{0}")]
    NotFound(&'static str),
    #[error("what was sent cannot be taken")]
    Invalid(Vec<Problem>),
    #[error("{0}")]
    Conflict(String),
    #[error("{0}")]
    PreconditionFailed(&'static str),
    #[error("{0}")]
    PreconditionRequired(&'static str),
    /// Nobody is recognised, in words that are the same whatever was wrong.
    #[error("{0}")]
    Unauthenticated(&'static str),
    /// Too many tries; the next is looked at after so many seconds.
    #[error("too many tries")]
    Throttled(u64),
    #[error(transparent)]
    Store(#[from] DbError),
    #[error(transparent)]
    Seal(#[from] SealBroken),
}

impl From<diesel::result::Error> for Failure {
    fn from(error: diesel::result::Error) -> Failure {
        Failure::Store(DbError::Query(error))
    }
}

pub const NO_SUCH_NODE: Failure = Failure::NotFound("there is no such node");

impl App {
    /// A name for a new epoch of identities: no other ever had it.
    #[must_use]
    pub fn epoch(&self) -> Vec<u8> {
        self.mint.id(self.clock.now()).as_bytes().to_vec()
    }

    /// Forgets what the change log names by now.
    ///
    /// # Errors
    /// Only the store's.
    pub async fn catch_up(&self) -> Result<(), DbError> {
        let view = self.view.clone();
        self.db.read(move |conn| view.catch_up(conn)).await
    }

    /// What is stored of a password.
    ///
    /// # Errors
    /// [`DbError::Busy`] when too many are being hashed.
    pub async fn hash(&self, password: Password) -> Result<String, Failure> {
        let salt = self.mint.bytes();
        let hash = self.hashing(move || password.hash(salt)).await?;
        // There is no memory for it; a little later there may be.
        hash.map_err(|_| Failure::Store(DbError::Busy))
    }

    /// Hashes off the async threads, a few at a time.
    async fn hashing<T: Send + 'static>(
        &self,
        f: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Failure> {
        let turn = tokio::time::timeout(PATIENCE, self.hashing.acquire()).await;
        let Ok(Ok(_turn)) = turn else { return Err(DbError::Busy.into()) };
        Ok(tokio::task::spawn_blocking(f).await.map_err(|_| DbError::Ended)?)
    }

    /// The project that a change names.
    ///
    /// # Errors
    /// [`Failure::NotFound`] when there is none.
    pub async fn project(&self, name_or_id: String) -> Result<Id, Failure> {
        let found = self.db.read(move |conn| store::projects::find(conn, &name_or_id)).await?;
        found.map(|project| project.id).ok_or(projects::NO_SUCH_PROJECT)
    }
}
