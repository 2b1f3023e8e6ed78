//! `get_token_for_node`, `get_node_for_key` and their end.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use jiff::Timestamp;
use serde_json::json;

use super::{App, Failure, NO_SUCH_NODE, audit};
use crate::domain::audit::Object;
use crate::domain::boot::Step;
use crate::domain::credentials::{Credentials, EndedBy, IssuedToken, TokenKey};
use crate::domain::cull::parse_duration;
use crate::domain::identity::{By, id_text};
use crate::domain::policy::Action;
use crate::store::boots::{self, Move};
use crate::store::columns::Id;
use crate::store::{nodes, tokens};

/// How many tokens one transaction makes: long enough to be worth a commit, short enough that
/// nobody waits for it.
const BATCH: usize = 500;

/// Batches under way at once: while one waits for the database, the next is minted and sealed.
const AT_ONCE: usize = 2;

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
    let batch = |ids: &[String]| {
        let what = (Action::TokenGet, Object::Project(project.0));
        get_batch(app, by, what, project, ids.to_vec())
    };
    let batches: Vec<_> = system_ids.chunks(BATCH).map(batch).collect();
    let issued = stream::iter(batches).buffered(AT_ONCE).try_concat().await?;
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

/// A token that is not stored yet.
pub(super) fn fresh(app: &App, system_id: String) -> tokens::Live {
    let made = app.mint.credentials();
    tokens::Live {
        id: Id(app.mint.id(app.clock.now())),
        system_id,
        sealed_secret: app.sealer.seal(&made.secret, &made.token_key, &app.mint),
        consumer_key: made.consumer_key,
        token_key: made.token_key,
    }
}

pub(super) fn open(app: &App, token: &tokens::Live) -> Result<IssuedToken, Failure> {
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
    let fresh: Vec<tokens::Live> = missing.iter().map(|id| fresh(app, id.clone())).collect();
    let step = Step::TokenChanged { at: app.clock.now() };
    app.db
        .write("get token", move |tx| {
            // The rows are held, so the loser of a race finds the winner's token here; the unique
            // index stands behind.
            let known = nodes::lock(tx, project, &missing)?;
            let mut live = tokens::find_live(tx.conn, project, &known)?;
            let mut without: HashSet<String> = known.into_iter().collect();
            for token in &live {
                without.remove(&token.system_id);
            }
            let first = live.len();
            live.extend(fresh.into_iter().filter(|made| without.contains(&made.system_id)));
            tokens::insert(tx, &live[first..])?;
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
    let accepted = known.filter(|known| !known.has_ended(app.clock.now()));
    Ok(accepted.and_then(|known| known.node).map(|node| node.system_id))
}

/// Ends the node's tokens now. A node without one is left as it is.
///
/// # Errors
/// [`Failure::NotFound`] when the project has no such node.
pub async fn revoke(app: &App, by: &By, project: Id, system_id: String) -> Result<(), Failure> {
    // What this process has seen of reads is told while the token still speaks for the node.
    if let Err(error) = super::cull::flush(app).await {
        tracing::warn!(%error, "what was read before a revoke may be missing");
    }
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

/// How long a superseded token is accepted, unless the caller says otherwise.
pub const RETIRE_AFTER: Duration = Duration::from_hours(24);
const LONGEST_RETIREMENT: Duration = Duration::from_hours(90 * 24);

/// How long a superseded token is accepted.
///
/// # Errors
/// A sentence that says how long that can be.
pub fn parse_retire_after(text: &str) -> Result<Duration, String> {
    match parse_duration(text) {
        Ok(after) if after <= LONGEST_RETIREMENT => Ok(after),
        _ => Err("a superseded token is accepted for 0s to 90d".into()),
    }
}

/// A new live token. The old one stays accepted until the first use of the new one, or until
/// `retire_after` from now. While that hand-over is under way, the new one is given again: no
/// read waits for a write, so whether somebody is using it just now cannot be known, and ending
/// either of the two could leave the node with none.
///
/// # Errors
/// [`Failure::NotFound`] when the project has no such node.
pub async fn reissue(
    app: &App,
    by: &By,
    project: Id,
    system_id: String,
    retire_after: Duration,
) -> Result<IssuedToken, Failure> {
    // What this process has seen of first uses counts.
    super::cull::flush(app).await?;
    let auditor = app.auditor(by);
    let made = fresh(app, system_id);
    let given = app
        .db
        .write("reissue token", move |tx| {
            let ids = std::slice::from_ref(&made.system_id);
            if nodes::lock(tx, project, ids)?.is_empty() {
                return Err(NO_SUCH_NODE);
            }
            tokens::end_overdue(tx, ids)?;
            let until = tx.now.checked_add(retire_after).unwrap_or(Timestamp::MAX);
            let old = tokens::find_retiring(tx.conn, &made.system_id)?;
            let live = tokens::find_live(tx.conn, project, ids)?.pop();
            let is_under_way = live.is_some() && old.is_some();
            let (retiring, given) = match (live, old) {
                (Some(live), Some(old)) => (Some(old), live),
                // The first of its node, or of one whose live token alone was culled.
                (None, old) => (old, made),
                (Some(live), None) => (Some(live.id), made),
            };
            if let Some(retiring) = retiring {
                tokens::retire(tx, retiring, until)?;
            }
            if !is_under_way {
                tokens::insert(tx, std::slice::from_ref(&given))?;
            }
            if retiring.is_none() {
                let (system_id, step) = (&*given.system_id, Step::TokenChanged { at: tx.now });
                boots::advance(tx, &[Move { system_id, token: None, step }])?;
            }
            let detail = json!({
                "project": id_text(project.0),
                "token_key": given.token_key.as_str(),
                "retires_at": retiring.map(|_| until),
            });
            let object = Object::Node(given.system_id.clone());
            auditor.note(tx, Action::TokenReissue, &object, &detail)?;
            Ok(given)
        })
        .await?;
    open(app, &given)
}

/// Ends the superseded tokens whose deadline has passed; nobody has accepted them since.
///
/// # Errors
/// Only the store's.
pub async fn end_overdue(app: &App) -> Result<usize, Failure> {
    let mut ended = 0;
    loop {
        let now = app.clock.now();
        let nodes = app.db.read(move |conn| tokens::list_overdue(conn, now, OVERDUE)).await?;
        if nodes.is_empty() {
            return Ok(ended);
        }
        ended += app
            .db
            .write("end superseded tokens", move |tx| {
                let ids: Vec<&str> = nodes.iter().map(String::as_str).collect();
                nodes::hold(tx, &ids)?;
                Ok::<_, Failure>(tokens::end_overdue(tx, &nodes)?)
            })
            .await?;
    }
}

/// Superseded tokens that one transaction ends.
const OVERDUE: i64 = 400;
