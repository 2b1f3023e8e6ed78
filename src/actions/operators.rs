//! Who is calling: operators' tokens verified on every use, and service tokens beside them.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::App;
use crate::domain::identity::{Caller, Role, Service};
use crate::domain::password::OperatorToken;
use crate::live::identities::Identities;
use crate::store::operator_tokens::{self, Hash, Known};
use crate::store::{DbConnection, DbError, meta};

/// Why nobody is recognised. The caller is told that it is so; which of these, the log.
#[derive(Debug, thiserror::Error)]
pub enum Stranger {
    #[error("{0}")]
    Refused(&'static str),
    #[error(transparent)]
    Store(#[from] DbError),
}

/// A token under the current epoch: from memory, or read.
///
/// # Errors
/// Only the store's.
pub fn find_known(
    identities: &Identities,
    conn: &mut DbConnection,
    hash: &Hash,
) -> diesel::QueryResult<Option<Arc<Known>>> {
    // Read first: what is read afterwards is at least as new as this epoch.
    let epoch = meta::find_auth_epoch(conn)?;
    let there = operator_tokens::find_audit_id(conn, hash)?.is_some();
    if let Some(known) = identities.find(&epoch, hash) {
        // A row that is gone without the epoch having moved is gone all the same.
        return Ok(Some(known).filter(|_| there));
    }
    let known = operator_tokens::find(conn, hash)?.map(Arc::new);
    if let Some(known) = &known {
        identities.keep(&epoch, *hash, known.clone());
    }
    Ok(known)
}

/// The operator whose token this is, and the service whose token came with it, if one did.
///
/// # Errors
/// [`Stranger`]: a bad service token spoils a good user token.
pub async fn authenticate(
    app: &App,
    token: &str,
    service: Option<&str>,
) -> Result<Caller, Stranger> {
    let token = OperatorToken::parse(token).ok_or(Stranger::Refused("no token of ours"))?.hash();
    let service = match service {
        None => None,
        Some(text) => {
            let parsed = OperatorToken::parse(text);
            Some(parsed.ok_or(Stranger::Refused("no service token of ours"))?.hash())
        }
    };
    let sent_service = service.is_some();
    let identities = app.identities.clone();
    let (known, service) = app
        .db
        .read(move |conn| {
            let known = find_known(&identities, conn, &token)?;
            let service = match service {
                None => None,
                Some(hash) => find_known(&identities, conn, &hash)?,
            };
            Ok((known, service))
        })
        .await?;
    if sent_service && service.is_none() {
        return Err(Stranger::Refused("the service token is unknown or ended"));
    }
    recognise(known, service, app.service_token_window, app.clock.now())
}

/// Expiry is judged here, on every use, whatever came from memory.
fn recognise(
    known: Option<Arc<Known>>,
    service: Option<Arc<Known>>,
    window: SignedDuration,
    now: Timestamp,
) -> Result<Caller, Stranger> {
    let service = match service {
        None => None,
        Some(known) => {
            let identity = &known.identity;
            if now >= identity.expires_at {
                return Err(Stranger::Refused("the service token has expired"));
            }
            if !identity.roles.contains(&Role::Service) {
                return Err(Stranger::Refused("the service token has no role service"));
            }
            Some((identity.user.clone(), identity.roles.clone()))
        }
    };
    let known = known.ok_or(Stranger::Refused("the token is unknown or ended"))?;
    let past = now.duration_since(known.identity.expires_at);
    let overrun = match (past.is_negative(), &service) {
        (true, _) => None,
        (false, None) => return Err(Stranger::Refused("the token has expired")),
        (false, Some(_)) if past >= window => {
            return Err(Stranger::Refused("the token is past the window of service tokens"));
        }
        (false, Some(_)) => Some(past),
    };
    Ok(Caller::Operator {
        identity: Arc::new(known.identity.clone()),
        service: service.map(|(user, roles)| Service { user, roles, overrun }),
    })
}
