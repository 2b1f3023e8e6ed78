//! `get_token_for_node`, `get_node_for_key` and their end.

use std::collections::{HashMap, HashSet};

use serde_json::json;

use super::{App, Failure, NO_SUCH_NODE, audit};
use crate::domain::audit::Object;
use crate::domain::boot::Step;
use crate::domain::credentials::{Credentials, EndedBy, IssuedToken, TokenKey};
use crate::domain::identity::{By, id_text};
use crate::domain::policy::Action;
use crate::store::boots::{self, Move};
use crate::store::columns::Id;
use crate::store::{nodes, tokens};

/// How many tokens one transaction makes: long enough to be worth a commit, short enough that
/// nobody waits for it.
const BATCH: usize = 500;

/// `get_token_for_node`: the node's live token, made if there is none; the same one for everybody
/// who asks at once. `verb` is what the caller asked for it by.
///
/// # Errors
/// [`Failure::NotFound`] when the project has no such node.
pub async fn get(
    app: &App,
    by: &By,
    verb: Action,
    project: Id,
    system_id: String,
) -> Result<IssuedToken, Failure> {
    let object = Object::Node(system_id.clone());
    let mut issued = get_batch(app, by, (verb, object), project, vec![system_id]).await?;
    issued.pop().flatten().ok_or(NO_SUCH_NODE)
}

/// The same for many nodes, in their order; `None` where the project has no such node.
///
/// # Errors
/// Only the store's.
pub async fn get_many(
    app: &App,
    by: &By,
    project: Id,
    system_ids: Vec<String>,
) -> Result<Vec<Option<IssuedToken>>, Failure> {
    let mut issued = Vec::with_capacity(system_ids.len());
    for ids in system_ids.chunks(BATCH) {
        let what = (Action::TokenGet, Object::Project(project.0));
        issued.extend(get_batch(app, by, what, project, ids.to_vec()).await?);
    }
    Ok(issued)
}

async fn get_batch(
    app: &App,
    by: &By,
    what: (Action, Object),
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
        for token in make(app, by, what, project, missing).await? {
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
async fn make(
    app: &App,
    by: &By,
    (verb, object): (Action, Object),
    project: Id,
    missing: Vec<String>,
) -> Result<Vec<tokens::Live>, Failure> {
    let auditor = app.auditor(by);
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
            let first = live.len();
            for (id, made) in fresh {
                if known.contains(&made.system_id) && !had.contains(&made.system_id) {
                    tokens::insert(tx, id, &made)?;
                    live.push(made);
                }
            }
            let moves: Vec<Move> = live[first..]
                .iter()
                .map(|made| Move { system_id: &made.system_id, token: None, step })
                .collect();
            boots::advance(tx, &moves)?;
            let detail = match (&object, &live[first..]) {
                (_, []) => return Ok(live),
                (Object::Node(_), [made]) => json!({
                    "project": id_text(project.0), "token_key": made.token_key.as_str(),
                }),
                (_, made) => audit::batch(made.iter().map(|made| made.system_id.as_str())),
            };
            auditor.note(tx, verb, &object, &detail)?;
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
pub async fn revoke(app: &App, by: &By, project: Id, system_id: String) -> Result<(), Failure> {
    let auditor = app.auditor(by);
    app.db
        .write("revoke token", move |tx| {
            if nodes::lock(tx, project, std::slice::from_ref(&system_id))?.is_empty() {
                return Err(NO_SUCH_NODE);
            }
            let ended = tokens::end_for_node(tx, &system_id, EndedBy::Revoke)?;
            if ended > 0 {
                let detail = json!({"project": id_text(project.0), "tokens_ended": ended});
                auditor.note(tx, Action::TokenRevoke, &Object::Node(system_id), &detail)?;
            }
            Ok(())
        })
        .await
}
