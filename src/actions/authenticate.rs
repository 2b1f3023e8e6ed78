//! Who signed a request: the only source of a node's identity.

use std::time::{Duration, Instant};

use super::App;
use crate::domain::credentials::{PlaintextReplay, TokenKey};
use crate::live::{self, Stale};
use crate::oauth::{Claim, Method, SignedRequest, verify};
use crate::store::columns::Id;
use crate::store::nonces::WriteNonce;
use crate::store::tokens::{Known, NodeRow};
use crate::store::{DbError, tokens};

/// How long a post of a node that is too fast is held back before it is refused.
const POST_PATIENCE: Duration = Duration::from_secs(2);

/// A node whose signature was good. Handlers of the node plane take this and nothing else.
pub struct SignedNode {
    pub node: NodeRow,
    /// The token that signed.
    pub token: Id,
    /// What a write spends in its own transaction too.
    pub nonce: Option<WriteNonce>,
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
    Store(DbError),
    /// The stored secret does not open.
    Seal,
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
    let key = TokenKey::trusted(claim.token_key.clone().into_owned());
    let known =
        app.db.read(move |conn| tokens::find_by_key(conn, &key)).await.map_err(Refusal::Store)?;
    let system_id = known.as_ref().and_then(|known| known.made_for.clone());
    let judged = judge(app, claim, request, known).await;
    if let Some(system_id) = system_id {
        let now = app.clock.now();
        match &judged {
            Err(refusal) => app.observed.refused(&system_id, refusal.reason(), now),
            Ok(_) => app.observed.signed(&system_id, claim.timestamp, now),
        }
    }
    judged
}

async fn judge(
    app: &App,
    claim: &Claim<'_>,
    request: &SignedRequest<'_>,
    known: Option<Known>,
) -> Result<SignedNode, Refusal> {
    // An unknown token is verified too, against a secret nobody has: every refusal has done the
    // same work.
    let (consumer_key, token_key, sealed) = match &known {
        Some(known) => (&known.consumer_key, &known.token_key, &known.sealed_secret),
        None => (&app.nobody.consumer_key, &app.nobody.token_key, &app.nobody.sealed_secret),
    };
    let secret = app.sealer.open(sealed, token_key).map_err(|_| Refusal::Seal)?;
    let consumer_is_its_own = consumer_key.is(&claim.consumer_key);
    let signature_is_good = verify(claim, request, "", secret.expose());
    let now = app.clock.now();
    let known = match known {
        None => return Err(Refusal::Refused { reason: "unknown_token" }),
        Some(_) if !consumer_is_its_own => {
            return Err(Refusal::Refused { reason: "wrong_consumer" });
        }
        Some(_) if !signature_is_good => {
            return Err(Refusal::Refused { reason: "wrong_signature" });
        }
        Some(known) if known.has_ended(now) => {
            return Err(Refusal::Refused { reason: "ended_token" });
        }
        Some(known) => known,
    };

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
            Stale::Full => Refusal::Store(DbError::Busy),
        })?;
        write_nonce = Some(live::write_nonce(&claim.token_key, timestamp, nonce));
    }

    let Some(node) = known.node else { return Err(Refusal::NotANode) };
    let patience = if request.method == "POST" { POST_PATIENCE } else { Duration::ZERO };
    keep_pace(app, &node.system_id, patience).await?;
    app.learnt.used(known.id, known.last_used_at, now);
    Ok(SignedNode { node, token: known.id, nonce: write_nonce })
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
