//! Who signed a request: the only source of a node's identity.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::App;
use crate::domain::credentials::PlaintextReplay;
use crate::live::view::{Entry, Standing, Unfilled};
use crate::live::{self, Stale};
use crate::oauth::{Claim, Method, SignedRequest};
use crate::store::DbError;
use crate::store::nonces::WriteNonce;

/// How long a post of a node that is too fast is held back before it is refused.
const POST_PATIENCE: Duration = Duration::from_secs(2);

/// A node whose signature was good. Handlers of the node plane take this and nothing else.
pub struct SignedNode {
    /// The token that signed, and the node it speaks for.
    pub entry: Arc<Entry>,
    /// What a write spends in its own transaction too.
    pub nonce: Option<WriteNonce>,
}

impl SignedNode {
    #[must_use]
    pub fn system_id(&self) -> &str {
        &self.entry.system_id
    }
}

/// Why a request was refused: `reason` for the log and the metric, the variant for the caller.
#[derive(Debug)]
pub enum Refusal {
    /// No OAuth credentials at all.
    Missing {
        reason: &'static str,
    },
    /// Credentials that cannot be read.
    Malformed {
        reason: &'static str,
    },
    /// Unknown token, unknown consumer, wrong secret, ended token: one answer for all.
    Refused {
        reason: &'static str,
    },
    Timestamp {
        reason: &'static str,
    },
    Nonce {
        reason: &'static str,
    },
    /// Signed well, by a token that belongs to no node.
    NotANode,
    /// Signed well, too often.
    TooMany {
        retry_after: Duration,
    },
    Store(String),
    /// The stored secret does not open.
    Seal,
}

impl From<Unfilled> for Refusal {
    fn from(unfilled: Unfilled) -> Refusal {
        match unfilled {
            Unfilled::Store(why) => Refusal::Store(why),
            Unfilled::Seal => Refusal::Seal,
        }
    }
}

impl Refusal {
    /// The precise reason, a bounded label. It never reaches the caller.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Refusal::Missing { reason }
            | Refusal::Malformed { reason }
            | Refusal::Refused { reason }
            | Refusal::Timestamp { reason }
            | Refusal::Nonce { reason } => reason,
            Refusal::NotANode => "no_node",
            Refusal::TooMany { .. } => "too_many_requests",
            Refusal::Store(_) => "store",
            Refusal::Seal => "seal_broken",
        }
    }
}

/// Reads the claim out of the `Authorization` headers of a request. This is the one parse.
///
/// # Errors
/// [`Refusal::Missing`] or [`Refusal::Malformed`].
pub fn claim<'h>(mut headers: impl Iterator<Item = &'h [u8]>) -> Result<Claim<'h>, Refusal> {
    let Some(header) = headers.next() else {
        return Err(Refusal::Missing { reason: "no_header" });
    };
    if headers.next().is_some() {
        // Which of the two was signed, and which is believed, is not to be a question.
        return Err(Refusal::Malformed { reason: "several_headers" });
    }
    Claim::parse(header).map_err(|malformed| {
        let reason = malformed.reason();
        if malformed.is_missing() {
            Refusal::Missing { reason }
        } else {
            Refusal::Malformed { reason }
        }
    })
}

/// Verifies a claim and finds the node it speaks for.
///
/// # Errors
/// [`Refusal`]; a nonce is spent only by a good signature.
pub async fn authenticate(
    app: &App,
    claim: &Claim<'_>,
    request: &SignedRequest<'_>,
) -> Result<SignedNode, Refusal> {
    let entry = app.view.find(&claim.token_key).await?;
    let signed = judge(app, claim, request, entry, app.clock.now())?;
    let patience = if request.method == "POST" { POST_PATIENCE } else { Duration::ZERO };
    keep_pace(app, signed.system_id(), patience).await?;
    Ok(signed)
}

/// The same for a token that has been found, or for one that there is not, and for a request that
/// waits for nothing. `now` and `at` are the same instant.
///
/// # Errors
/// [`Refusal`].
pub fn judge_read(
    app: &App,
    claim: &Claim<'_>,
    request: &SignedRequest<'_>,
    entry: Option<Arc<Entry>>,
    (now, at): (Timestamp, Instant),
) -> Result<SignedNode, Refusal> {
    let signed = judge(app, claim, request, entry, now)?;
    let too_many = |retry_after| Refusal::TooMany { retry_after };
    app.pace.take(signed.system_id(), at).map_err(too_many)?;
    Ok(signed)
}

fn judge(
    app: &App,
    claim: &Claim<'_>,
    request: &SignedRequest<'_>,
    entry: Option<Arc<Entry>>,
    now: Timestamp,
) -> Result<SignedNode, Refusal> {
    // An unknown token is verified too, against a secret nobody has: every refusal has done the
    // same work.
    let Some(entry) = entry else {
        let nobody = &app.nobody;
        let _ = nobody.consumer_key().is(&claim.consumer_key);
        let _ = nobody.signed(claim, request);
        return Err(Refusal::Refused { reason: "unknown_token" });
    };
    match believe(app, claim, request, &entry, now) {
        Ok(nonce) => {
            if let Some(stamp) = claim.timestamp.and_then(|stamp| i64::try_from(stamp).ok()) {
                let seconds = stamp.saturating_sub(now.as_second());
                if entry.notes_skew(seconds, now) {
                    app.observed.signed(&entry.system_id, claim.timestamp, now);
                    app.metrics.skewed(seconds.unsigned_abs());
                }
            }
            app.learnt.used(&entry, now);
            Ok(SignedNode { entry, nonce })
        }
        Err(refusal) => {
            if !entry.system_id.is_empty() {
                app.observed.refused(&entry.system_id, refusal.reason(), now);
            }
            Err(refusal)
        }
    }
}

fn believe(
    app: &App,
    claim: &Claim<'_>,
    request: &SignedRequest<'_>,
    entry: &Entry,
    now: Timestamp,
) -> Result<Option<WriteNonce>, Refusal> {
    let consumer_is_its_own = entry.consumer_key().is(&claim.consumer_key);
    let signature_is_good = entry.signed(claim, request);
    if !consumer_is_its_own {
        return Err(Refusal::Refused { reason: "wrong_consumer" });
    }
    if !signature_is_good {
        return Err(Refusal::Refused { reason: "wrong_signature" });
    }
    if entry.has_ended(now) {
        return Err(Refusal::Refused { reason: "ended_token" });
    }

    let judged =
        claim.method != Method::Plaintext || app.plaintext_replay == PlaintextReplay::Refuse;
    let mut write_nonce = None;
    if judged {
        let (Some(timestamp), Some(nonce)) = (claim.timestamp, claim.nonce.as_deref()) else {
            return Err(Refusal::Malformed { reason: "timestamp_or_nonce_missing" });
        };
        app.nonces.spend(&claim.token_key, timestamp, nonce, now).map_err(|stale| match stale {
            Stale::TooOld => Refusal::Timestamp { reason: "timestamp_too_old" },
            Stale::TooNew => Refusal::Timestamp { reason: "timestamp_too_new" },
            Stale::BeforeStart => Refusal::Timestamp { reason: "timestamp_before_start" },
            Stale::Spent => Refusal::Nonce { reason: "nonce_spent" },
            Stale::Full => Refusal::Store(DbError::Busy.to_string()),
        })?;
        if request.method == "POST" {
            write_nonce = Some(live::write_nonce(&claim.token_key, timestamp, nonce));
        }
    }
    if entry.standing == Standing::NoNode { Err(Refusal::NotANode) } else { Ok(write_nonce) }
}

/// Counts a request of a node. One that may wait does so until it is its turn: an event that is
/// refused is lost.
async fn keep_pace(app: &App, system_id: &str, patience: Duration) -> Result<(), Refusal> {
    let until = Instant::now() + patience;
    loop {
        let now = Instant::now();
        match app.pace.take(system_id, now) {
            Ok(()) => return Ok(()),
            Err(retry_after) if now + retry_after > until => {
                return Err(Refusal::TooMany { retry_after });
            }
            Err(wait) => tokio::time::sleep(wait).await,
        }
    }
}
