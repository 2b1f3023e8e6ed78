//! `get_token_for_node`, `get_node_for_key` and their end.

use std::collections::{HashMap, HashSet};

use super::{App, Failure, NO_SUCH_NODE};
use crate::domain::boot::Step;
use crate::domain::credentials::{Credentials, EndedBy, IssuedToken, TokenKey};
use crate::store::boots::{self, Move};
use crate::store::columns::Id;
use crate::store::{nodes, tokens};

/// How many tokens one transaction makes: long enough to be worth a commit, short enough that
/// nobody waits for it.
const BATCH: usize = 500;

/// `get_token_for_node`: the node's live token, made if there is none; the same one for everybody
/// who asks at once.
///
/// # Errors
/// [`Failure::NotFound`] when the project has no such node.
pub async fn get(app: &App, project: Id, system_id: String) -> Result<IssuedToken, Failure> {
    let mut issued = get_batch(app, project, vec![system_id]).await?;
    issued.pop().flatten().ok_or(NO_SUCH_NODE)
}

/// The same for many nodes, in their order; `None` where the project has no such node.
///
/// # Errors
/// Only the store's.
pub async fn get_many(
    app: &App,
    project: Id,
    system_ids: Vec<String>,
) -> Result<Vec<Option<IssuedToken>>, Failure> {
    let mut issued = Vec::with_capacity(system_ids.len());
    for ids in system_ids.chunks(BATCH) {
        issued.extend(get_batch(app, project, ids.to_vec()).await?);
    }
    Ok(issued)
}

async fn get_batch(
    app: &App,
    project: Id,
    system_ids: Vec<String>,
) -> Result<Vec<Option<IssuedToken>>, Failure> {
    let wanted = system_ids.clone();
    let live = app.db.read(move |conn| tokens::find_live(conn, project, &wanted)).await?;
    let mut live: HashMap<String, tokens::Live> =
        live.into_iter().map(|token| (token.system_id.clone(), token)).collect();

    let mut missing: Vec<String> = Vec::new();
    let mut seen = HashSet::new();
    for id in &system_ids {
        if !live.contains_key(id) && seen.insert(id) {
            missing.push(id.clone());
        }
    }
    if !missing.is_empty() {
        for token in make(app, project, missing).await? {
            live.insert(token.system_id.clone(), token);
        }
    }

    let mut opened = Vec::with_capacity(system_ids.len());
    for id in system_ids {
        opened.push(match live.get(&id) {
            None => None,
            Some(token) => Some(open(app, token)?),
        });
    }
    Ok(opened)
}

fn open(app: &App, token: &tokens::Live) -> Result<IssuedToken, Failure> {
    let credentials = Credentials {
        secret: app.sealer.open(&token.sealed_secret, &token.token_key)?,
        consumer_key: token.consumer_key.clone(),
        token_key: token.token_key.clone(),
    };
    Ok(IssuedToken::new(token.system_id.clone(), credentials))
}

/// Makes the tokens of those of these nodes that exist and still have none.
async fn make(app: &App, project: Id, missing: Vec<String>) -> Result<Vec<tokens::Live>, Failure> {
    let now = app.clock.now();
    let fresh: Vec<(Id, tokens::Live)> = missing
        .iter()
        .map(|system_id| {
            let made = app.mint.credentials();
            let live = tokens::Live {
                system_id: system_id.clone(),
                sealed_secret: app.sealer.seal(&made.secret, &made.token_key, &app.mint),
                consumer_key: made.consumer_key,
                token_key: made.token_key,
            };
            (Id(app.mint.id(now)), live)
        })
        .collect();
    let step = Step::TokenChanged { at: now };
    app.db
        .write("get token", move |tx| {
            // The rows are held, so the loser of a race finds the winner's token here; the unique
            // index stands behind.
            let known = nodes::lock(tx, project, &missing)?;
            let mut live = tokens::find_live(tx.conn, project, &known)?;
            let had: HashSet<String> = live.iter().map(|token| token.system_id.clone()).collect();
            for (id, made) in fresh {
                if known.contains(&made.system_id) && !had.contains(&made.system_id) {
                    tokens::insert(tx, id, &made)?;
                    live.push(made);
                }
            }
            let new = live.iter().map(|token| token.system_id.as_str());
            let new: Vec<Move> = new
                .filter(|id| !had.contains(*id))
                .map(|system_id| Move { system_id, token: None, step })
                .collect();
            boots::advance(tx, &new)?;
            Ok(live)
        })
        .await
}

/// `get_node_for_key`: the node that a live or retiring token speaks for.
///
/// # Errors
/// Only the store's.
pub async fn get_node_for_key(app: &App, key: TokenKey) -> Result<Option<String>, Failure> {
    let known = app.db.read(move |conn| tokens::find_by_key(conn, &key)).await?;
    Ok(known.filter(|known| !known.ended).and_then(|known| known.node).map(|node| node.system_id))
}

/// Ends the node's tokens now. A node without one is left as it is.
///
/// # Errors
/// [`Failure::NotFound`] when the project has no such node.
pub async fn revoke(app: &App, project: Id, system_id: String) -> Result<(), Failure> {
    app.db
        .write("revoke token", move |tx| {
            if nodes::lock(tx, project, std::slice::from_ref(&system_id))?.is_empty() {
                return Err(NO_SUCH_NODE);
            }
            tokens::end_for_node(tx, &system_id, EndedBy::Revoke)?;
            Ok(())
        })
        .await
}
