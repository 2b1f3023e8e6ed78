//! The cull, which an operator asks for, and the sweep, which nobody does.

use std::collections::HashSet;
use std::time::Duration;

use uuid::Uuid;

use super::{App, Failure, Problem, audit};
use crate::domain::audit::Object;
use crate::domain::boot::Learned;
use crate::domain::cull::{Cap, Culled, Staleness};
use crate::domain::identity::By;
use crate::domain::policy::Action;
use crate::live::Learnt;
use crate::store::columns::Id;
use crate::store::tokens::{self, StaleBefore};
use crate::store::{Tx, boots, claims};

/// Tokens ended, or rows deleted, by one transaction: the write lock is never held through a
/// boot storm.
const BATCH: i64 = 400;

/// Ends the stale tokens, in the order they were made. The nodes stay; their next preseed makes
/// them new ones. Running it twice changes nothing more.
///
/// # Errors
/// [`Failure::Invalid`] without a rule, [`Failure::Conflict`] when more would go than `cap` allows.
pub async fn cull(
    app: &App,
    by: &By,
    rule: Staleness,
    cap: Cap,
    dry_run: bool,
    force: bool,
) -> Result<Culled, Failure> {
    if rule.unused_for.is_none() && rule.idle_for.is_none() {
        return Err(Failure::Invalid(vec![Problem::new(
            "say which tokens are stale: unused_for, idle_for or both",
        )]));
    }
    // What this process has seen and not yet committed counts.
    flush(app).await?;
    let before = StaleBefore::new(rule, app.clock.now());

    let mut stale = Vec::new();
    let mut after = Id(Uuid::nil());
    loop {
        let page = app.db.read(move |conn| tokens::list_stale(conn, before, after, BATCH)).await?;
        let Some((last, _)) = page.last() else { break };
        after = *last;
        stale.extend(page);
    }
    let live = app.db.read(tokens::count_live).await?;
    let most = cap.of(u64::try_from(live).unwrap_or(0));
    if !dry_run && !force && stale.len() as u64 > most {
        return Err(Failure::Conflict(format!(
            "{} of {live} live tokens are stale, and at most {most} may go at once: look at them \
             with a dry run, then raise the cap or force it",
            stale.len(),
        )));
    }
    if !dry_run {
        let mut ended = HashSet::new();
        for batch in stale.chunks(usize::try_from(BATCH).unwrap_or(1)) {
            let batch: Vec<(Id, String)> =
                batch.iter().map(|(id, token)| (*id, token.token_key.clone())).collect();
            let auditor = app.auditor(by);
            let gone: Vec<Id> = app
                .db
                .write("cull tokens", move |tx| {
                    let ids: Vec<Id> = batch.iter().map(|(id, _)| *id).collect();
                    let ended = tokens::end_stale(tx, &ids, before)?;
                    if !ended.is_empty() {
                        let gone: HashSet<Id> = ended.iter().copied().collect();
                        let keys = batch.iter().filter(|(id, _)| gone.contains(id));
                        let detail = audit::batch(keys.map(|(_, key)| key.as_str()));
                        auditor.note(tx, Action::TokenCull, &Object::Fleet, &detail)?;
                    }
                    Ok::<_, Failure>(ended)
                })
                .await?;
            ended.extend(gone);
        }
        stale.retain(|(id, _)| ended.contains(id));
    }
    Ok(Culled { dry_run, tokens: stale.into_iter().map(|(_, summary)| summary).collect() })
}

/// Commits what reads have taught. The first use of a reissued token ends the one before it.
///
/// # Errors
/// Only the store's; nothing learnt is lost then.
pub async fn flush(app: &App) -> Result<usize, Failure> {
    let mut flushed = 0;
    let mut taken = Taken(&app.learnt, app.learnt.take());
    while !taken.1.is_empty() {
        let some = taken.1.len().min(1000);
        let uses = taken.1[..some].to_vec();
        let note = move |tx: &mut Tx| Ok::<_, Failure>(boots::learn(tx, &uses)?);
        app.db.write("note reads", note).await?;
        taken.1.drain(..some);
        flushed += some;
    }
    Ok(flushed)
}

/// What was taken out to be committed: what is left of it goes back, also when whoever asked for
/// the flush has left meanwhile. Taken in twice it does no harm.
struct Taken<'a>(&'a Learnt, Vec<(Id, Learned)>);

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.0.put_back(std::mem::take(&mut self.1));
    }
}

/// Ends superseded tokens at their deadline, and deletes the tokens that ended longer ago than
/// `keep`, with their consumers, and claims that old.
///
/// # Errors
/// Only the store's.
pub async fn sweep(app: &App, keep: Duration) -> Result<usize, Failure> {
    super::tokens::end_overdue(app).await?;
    let Ok(before) = app.clock.now().checked_sub(keep) else { return Ok(0) };
    let mut swept = 0;
    loop {
        let gone = app
            .db
            .write("sweep tokens", move |tx| {
                let gone = tokens::delete_ended(tx, before, BATCH)?;
                Ok::<_, Failure>(gone + claims::delete_expired(tx, before, BATCH)?)
            })
            .await?;
        swept += gone;
        if gone == 0 {
            return Ok(swept);
        }
    }
}
