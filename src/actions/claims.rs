//! Claims: making one, and fetching the preseed it is for.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use serde_json::json;

use super::tokens::{fresh, open};
use super::{App, Failure, NO_SUCH_NODE, audit};
use crate::domain::audit::Object;
use crate::domain::boot::Step;
use crate::domain::claim::ClaimSecret;
use crate::domain::identity::{By, id_text};
use crate::domain::network::Network;
use crate::domain::policy::Action;
use crate::domain::preseed::Format;
use crate::store::boots::{self, Move};
use crate::store::claims::NewClaim;
use crate::store::columns::Id;
use crate::store::{DbError, claims, nodes, tokens};

/// What a claim is asked for with.
#[derive(Clone, Copy)]
pub struct Wanted {
    pub format: Format,
    pub ttl: Duration,
    pub from: Option<Network>,
}

/// A claim that was made: its URL is the secret.
pub struct Made {
    pub secret: ClaimSecret,
    pub expires_at: Timestamp,
}

/// Makes a claim on a node's preseed, with the node's live token, made if there is none. It closes
/// the node's older one.
///
/// # Errors
/// [`Failure::NotFound`] when the project has no such node.
pub async fn make(
    app: &App,
    by: &By,
    project: Id,
    system_id: String,
    wanted: Wanted,
) -> Result<Made, Failure> {
    let secret = ClaimSecret::new(app.mint.bytes());
    let hash = secret.hash();
    let auditor = app.auditor(by);
    let spare = fresh(app, system_id.clone());
    let expires_at = app
        .db
        .write("make claim", move |tx| {
            let ids = std::slice::from_ref(&system_id);
            if nodes::lock(tx, project, ids)?.is_empty() {
                return Err(NO_SUCH_NODE);
            }
            let live = tokens::find_live(tx.conn, project, ids)?.pop();
            let mut steps = Vec::new();
            let token = match live {
                Some(live) if tokens::hold(tx, live.id)? => live,
                _ => {
                    tokens::insert(tx, std::slice::from_ref(&spare))?;
                    steps.push(Step::TokenChanged { at: tx.now });
                    spare
                }
            };
            steps.push(Step::ClaimMade { at: tx.now });
            let one = |step| Move { system_id: &system_id, token: None, step };
            boots::advance(tx, &steps.into_iter().map(one).collect::<Vec<_>>())?;
            claims::close_for_node(tx, &system_id)?;
            let expires_at = tx.now.checked_add(wanted.ttl).unwrap_or(Timestamp::MAX);
            let format = wanted.format.name();
            let source_network = wanted.from.map(|network| network.to_string());
            let detail = json!({
                "project": id_text(project.0),
                "token_key": token.token_key.as_str(),
                "format": format,
                "source_network": source_network,
                "expires_at": expires_at,
            });
            let object = Object::Node(system_id.clone());
            let token_id = token.id;
            let new = NewClaim { hash, system_id, token_id, format, source_network, expires_at };
            claims::insert(tx, &new)?;
            auditor.note(tx, Action::ClaimCreate, &object, &detail)?;
            Ok(expires_at)
        })
        .await?;
    Ok(Made { secret, expires_at })
}

/// Why a claim was not honoured: `reason` for the log, the variant for the caller.
#[derive(Debug)]
pub enum Refusal {
    /// There is no such claim.
    Unknown,
    /// It is not this caller's to fetch, or not any more.
    Gone {
        reason: &'static str,
        system_id: String,
    },
    /// A wildcard listener was given no name, so there is nothing to write into a preseed.
    Nameless,
    Store(DbError),
    /// The stored secret does not open.
    Seal,
}

impl From<DbError> for Refusal {
    fn from(error: DbError) -> Refusal {
        Refusal::Store(error)
    }
}

impl From<diesel::result::Error> for Refusal {
    fn from(error: diesel::result::Error) -> Refusal {
        Refusal::Store(error.into())
    }
}

/// A preseed that was claimed, and the node it is for.
pub struct Claimed {
    pub system_id: String,
    pub preseed: String,
}

/// Fetches the preseed of a claim for whoever asks from `source`. That it was fetched, and by whom,
/// is committed before it is given away; who may not have it is noted in the audit.
///
/// # Errors
/// [`Refusal`]; an unknown claim costs one look-up and no write.
pub async fn fetch(
    app: &App,
    secret: &ClaimSecret,
    source: IpAddr,
    request_id: &str,
) -> Result<Claimed, Refusal> {
    let source = source.to_canonical();
    let fetched = fetch_from(app, secret, source).await;
    if let Err(Refusal::Gone { reason, system_id }) = &fetched {
        let of = format!("{source} {system_id} {reason}");
        // A machine that keeps asking is told of once a minute; each of its requests is in the log.
        if app.misused_claims.take(&of, Instant::now()).is_ok() {
            audit::refused_claim(app, source, system_id, reason, request_id).await;
        }
    }
    fetched
}

async fn fetch_from(app: &App, secret: &ClaimSecret, source: IpAddr) -> Result<Claimed, Refusal> {
    let bound_to = source.to_string();
    let hash = secret.hash();
    let key = hash.clone();
    let found = app.db.read(move |conn| claims::find(conn, &key)).await?;
    let Some(claim) = found else { return Err(Refusal::Unknown) };
    let system_id = claim.system_id.clone();
    let gone = |reason| Refusal::Gone { reason, system_id: system_id.clone() };
    if let Some(reason) = claim.is_over_for(&bound_to, app.clock.now()) {
        return Err(gone(reason));
    }
    let network = claim.source_network.as_deref().map(Network::parse).transpose();
    let network = network.map_err(|why| Refusal::Store(broken(why)))?;
    if network.is_some_and(|network| !network.contains(source)) {
        return Err(gone("claim_from_elsewhere"));
    }
    let format = Format::parse_claimed(&claim.format).map_err(|why| Refusal::Store(broken(why)))?;
    let Some(metadata_url) = &app.metadata_url else { return Err(Refusal::Nameless) };

    let token = app
        .db
        .write("fetch claim", move |tx| {
            nodes::hold(tx, &[claim.system_id.as_str()])?;
            let gone = |reason| Refusal::Gone { reason, system_id: claim.system_id.clone() };
            let token = tokens::find_accepted(tx.conn, claim.token_id, tx.now)?;
            let token = token.ok_or_else(|| gone("claim_token_ended"))?;
            if claims::update_fetched(tx, &hash, &bound_to)? {
                let step = Step::PreseedFetched { at: tx.now };
                let system_id = claim.system_id.as_str();
                boots::advance(tx, &[Move { system_id, token: Some(claim.token_id), step }])?;
                return Ok::<_, Refusal>(token);
            }
            // Somebody came in between.
            let now = claims::find(tx.conn, &hash)?;
            let why = now.and_then(|claim| claim.is_over_for(&bound_to, tx.now));
            Err(gone(why.unwrap_or("claim_superseded")))
        })
        .await?;
    let issued = open(app, &token).map_err(|_| Refusal::Seal)?;
    let preseed = app.templates.render(format, metadata_url, issued);
    Ok(Claimed { system_id: token.system_id, preseed })
}

/// A row that breaks its word is our trouble.
fn broken(why: String) -> DbError {
    DbError::Query(diesel::result::Error::DeserializationError(why.into()))
}
