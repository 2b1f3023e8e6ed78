//! The cull, which an operator asks for, and the sweep, which nobody does.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::{App, Failure, Problem, audit};
use crate::domain::audit::Object;
use crate::domain::boot::Learned;
use crate::domain::credentials::TokenSummary;
use crate::domain::cull::{Cap, Staleness};
use crate::domain::identity::By;
use crate::domain::policy::Action;
use crate::live::Learnt;
use crate::store::columns::Id;
use crate::store::tokens::{self, StaleBefore, Stretch};
use crate::store::{Tx, boots, changes, claims};

/// Tokens ended, or rows deleted, by one transaction: the write lock is never held through a
/// boot storm.
const BATCH: i64 = 400;

/// Keys that one look goes through, however few of them are stale.
const KEYS: i64 = 2000;

/// How long a cull works before it begins to rest. Then it rests so many times as long as it
/// works, to take at most a tenth of a core from those who read and write meanwhile.
const WORKS: Duration = Duration::from_millis(100);
const RESTS: u32 = 9;
const LONGEST_REST: Duration = Duration::from_millis(200);

/// A cull under way, in the order in which the tokens were made. The nodes stay; their next
/// preseed makes them new ones. Running it twice changes nothing more.
pub struct Cull {
    by: By,
    dry_run: bool,
    before: StaleBefore,
    after: Id,
    /// How many more may go.
    left: u64,
    is_through: bool,
    /// How long it has worked in all, and since its last rest.
    worked: Duration,
    tired: Duration,
}

/// Begins a cull: nothing has ended yet.
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
) -> Result<Cull, Failure> {
    if rule.unused_for.is_none() && rule.idle_for.is_none() {
        return Err(Failure::Invalid(vec![Problem::new(
            "say which tokens are stale: unused_for, idle_for or both",
        )]));
    }
    // What this process has seen and not yet committed counts.
    flush(app).await?;
    let mut cull = Cull {
        by: by.clone(),
        dry_run,
        before: StaleBefore::new(rule, app.clock.now()),
        after: FIRST,
        left: u64::MAX,
        is_through: false,
        worked: Duration::ZERO,
        tired: Duration::ZERO,
    };
    if !dry_run && !force {
        let (live, stale) = cull.count(app).await?;
        cull.left = cap.of(live);
        if stale > cull.left {
            return Err(Failure::Conflict(format!(
                "{stale} of {live} live tokens are stale, and at most {} may go at once: look at \
                 them with a dry run, then raise the cap or force it",
                cull.left,
            )));
        }
    }
    Ok(cull)
}

const FIRST: Id = Id(Uuid::nil());

impl Cull {
    /// How many tokens are live, and how many stale, page by page: a statement over all of them
    /// would keep `SQLite` from cutting its log, and take longer than PostgreSQL lets one.
    async fn count(&mut self, app: &App) -> Result<(u64, u64), Failure> {
        let (mut live, mut stale, mut after) = (0, 0, FIRST);
        loop {
            self.rest().await;
            let (before, started) = (self.before, Instant::now());
            let counted = app.db.read(move |conn| tokens::count_stale(conn, before, after, KEYS));
            let counted = counted.await?;
            self.has_worked(started);
            live += counted.live;
            stale += counted.stale;
            match counted.last {
                Some(last) => after = last,
                None => return Ok((live, stale)),
            }
        }
    }

    /// Ends the next of them, or, in a dry run, only tells which they are; `None` when it is
    /// through.
    ///
    /// # Errors
    /// Only the store's: what ended before stays so.
    pub async fn next(&mut self, app: &App) -> Result<Option<Vec<TokenSummary>>, Failure> {
        if self.is_through || self.left == 0 {
            return Ok(None);
        }
        self.rest().await;
        let (before, after, started) = (self.before, self.after, Instant::now());
        let page = move |conn: &mut _| tokens::list_stale(conn, before, after, KEYS, BATCH);
        let Stretch { tokens: mut page, last } = app.db.read(page).await?;
        match last {
            Some(last) => self.after = last,
            None => self.is_through = true,
        }
        page.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
        if !self.dry_run && !page.is_empty() {
            page = self.end(app, page).await?;
        }
        self.left = self.left.saturating_sub(page.len() as u64);
        self.has_worked(started);
        Ok(Some(page.into_iter().map(|(_, summary)| summary).collect()))
    }

    /// Ends those of a page that are stale still.
    async fn end(
        &self,
        app: &App,
        mut page: Vec<(Id, TokenSummary)>,
    ) -> Result<Vec<(Id, TokenSummary)>, Failure> {
        let (before, auditor) = (self.before, app.auditor(&self.by));
        app.db
            .write("cull tokens", move |tx| {
                let ids: Vec<Id> = page.iter().map(|(id, _)| *id).collect();
                let ended: HashSet<Id> = tokens::end_stale(tx, &ids, before)?.into_iter().collect();
                page.retain(|(id, _)| ended.contains(id));
                if !page.is_empty() {
                    let detail = audit::batch(page.iter().map(|(_, token)| &*token.token_key));
                    auditor.note(tx, Action::TokenCull, &Object::Fleet, &detail)?;
                }
                Ok(page)
            })
            .await
    }

    fn has_worked(&mut self, since: Instant) {
        self.tired += since.elapsed();
        self.worked += self.tired;
    }

    /// Gives the others their turn.
    async fn rest(&mut self) {
        let tired = std::mem::take(&mut self.tired);
        if self.worked > WORKS {
            tokio::time::sleep((tired * RESTS).min(LONGEST_REST)).await;
        }
    }
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

/// Deletes what every process has read of the change log.
///
/// # Errors
/// Only the store's.
pub async fn sweep_changes(app: &App) -> Result<usize, Failure> {
    let end = app.db.read(changes::find_newest).await?;
    let Some(until) = app.view.swept_until(end, Instant::now()) else { return Ok(0) };
    let mut swept = 0;
    loop {
        let sweep = move |tx: &mut Tx| Ok::<_, Failure>(changes::delete_until(tx, until, BATCH)?);
        match app.db.write("sweep changes", sweep).await? {
            0 => return Ok(swept),
            some => swept += some,
        }
    }
}
