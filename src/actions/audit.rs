//! Telling the audit: a change in its own transaction, a refusal in one of its own; and checking
//! that the audit is whole.

use std::sync::Arc;
use std::time::Duration;

use diesel::QueryResult;
use diesel::result::Error as QueryError;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq as _;

use super::contents::hex;
use super::{App, Failure};
use crate::domain::audit::{
    AUTHENTICATE, AuditKey, DONE, Entry, Head, LOGIN, Noted, Object, REFUSED, actor,
};
use crate::domain::identity::By;
use crate::domain::policy::Action;
use crate::live::strangers::Refusals;
use crate::store::audit::{self as store, Row, Sealed};
use crate::store::{Db, DbError, Tx};

/// Rows that are looked at, or cut, at once.
const BATCH: i64 = 1000;

/// What a change takes along into its transaction to say who made it.
#[derive(Clone)]
pub struct Auditor {
    key: Arc<AuditKey>,
    by: By,
}

impl App {
    #[must_use]
    pub fn auditor(&self, by: &By) -> Auditor {
        Auditor { key: self.audit_key.clone(), by: by.clone() }
    }
}

impl Auditor {
    /// Writes that the change was made. It is the last thing that a transaction does: those that
    /// change something take turns from here to their commit, and never in a ring.
    ///
    /// # Errors
    /// Only the store's: then there is no change either.
    pub fn note(
        &self,
        tx: &mut Tx,
        verb: Action,
        object: &Object,
        detail: &Value,
    ) -> QueryResult<()> {
        self.append(tx, verb.name(), object, DONE, detail)
    }

    fn append(
        &self,
        tx: &mut Tx,
        verb: &str,
        object: &Object,
        outcome: &str,
        detail: &Value,
    ) -> QueryResult<()> {
        let entry = Entry {
            at: tx.now,
            actor: actor(&self.by.caller),
            verb: verb.to_owned(),
            object: object.to_string(),
            outcome: outcome.to_owned(),
            detail: detail.to_string(),
            request_id: self.by.request_id.clone(),
        };
        append(tx, &self.key, entry)
    }
}

/// Writes that a token was made for whom `by` names, as [`Auditor::note`] does.
///
/// # Errors
/// Only the store's: then there is no token either.
pub fn logged_in(tx: &mut Tx, key: &Arc<AuditKey>, by: By, audit_id: &str) -> QueryResult<()> {
    let object = Object::Token(audit_id.to_owned());
    Auditor { key: key.clone(), by }.append(tx, LOGIN, &object, DONE, &json!({}))
}

fn append(tx: &mut Tx, key: &AuditKey, entry: Entry) -> QueryResult<()> {
    let Sealed { head, seal } = store::lock_head(tx)?;
    let whole = key.holds(&head, &seal);
    let seq = head.count + 1;
    let mac = key.link(&head.mac, seq, &entry);
    store::append(tx, &Row { seq, entry, mac: mac.clone() })?;
    let head = Head { count: seq, mac, ..head };
    // A head that somebody else has changed stays without a seal, for verify to see.
    let seal = if whole { key.seal(&head) } else { Vec::new() };
    if !whole {
        tracing::error!("the audit was changed by hand: see audit verify");
    }
    store::update_head(tx, &Sealed { head, seal })
}

/// How a batch is told of: how many, and a digest of their names, one a line in their order.
#[must_use]
pub fn batch<'a>(names: impl IntoIterator<Item = &'a str>) -> Value {
    let (mut count, mut digest) = (0, Sha256::new());
    for name in names {
        digest.update(name);
        digest.update(b"\n");
        count += 1;
    }
    json!({"count": count, "sha256": hex(&digest.finalize())})
}

/// Writes that a caller was refused a change. The refusal stands whether or not it can be written.
pub async fn refused(app: &App, by: &By, verb: Action, object: Object, status: u16) {
    let auditor = app.auditor(by);
    let written = app.db.write("audit a refusal", move |tx| {
        let detail = json!({"status": status});
        auditor.append(tx, verb.name(), &object, REFUSED, &detail).map_err(DbError::from)
    });
    if let Err(error) = written.await {
        let (request_id, verb) = (&by.request_id, verb.name());
        tracing::error!(%error, request_id, verb, "a refusal is missing from the audit");
    }
}

/// Counts a refusal of somebody unknown, and writes it unless its source was written of within a
/// minute.
pub async fn refused_stranger(app: &App, source: Option<std::net::IpAddr>, request_id: &str) {
    if let Some(refusals) = app.strangers.count(source, app.clock.now()) {
        write_strangers(app, refusals, request_id.to_owned()).await;
    }
}

/// Writes that somebody tried to fetch a claim that is not theirs, or not good any more.
pub async fn refused_claim(
    app: &App,
    source: std::net::IpAddr,
    system_id: &str,
    reason: &'static str,
    request_id: &str,
) {
    let key = app.audit_key.clone();
    let (object, id) = (Object::Node(system_id.to_owned()), request_id.to_owned());
    let written = app.db.write("audit a claim", move |tx| {
        let entry = Entry {
            at: tx.now,
            actor: format!("stranger {source}"),
            verb: "claim:fetch".to_owned(),
            object: object.to_string(),
            outcome: REFUSED.to_owned(),
            detail: json!({"status": 410, "reason": reason}).to_string(),
            request_id: id,
        };
        append(tx, &key, entry).map_err(DbError::from)
    });
    if let Err(error) = written.await {
        tracing::error!(%error, request_id, "a refused claim is missing from the audit");
    }
}

/// Writes of the strangers that were counted and not yet written of.
pub async fn flush_strangers(app: &App) {
    for refusals in app.strangers.due(app.clock.now()) {
        write_strangers(app, refusals, String::new()).await;
    }
}

async fn write_strangers(app: &App, refusals: Refusals, request_id: String) {
    let key = app.audit_key.clone();
    let actor = match refusals.source {
        Some(source) => format!("stranger {source}"),
        None => "stranger elsewhere".to_owned(),
    };
    let written = app.db.write("audit strangers", move |tx| {
        let entry = Entry {
            at: tx.now,
            actor,
            verb: AUTHENTICATE.to_owned(),
            object: Object::None.to_string(),
            outcome: REFUSED.to_owned(),
            detail: json!({"status": 401, "count": refusals.count}).to_string(),
            request_id,
        };
        append(tx, &key, entry).map_err(DbError::from)
    });
    if let Err(error) = written.await {
        tracing::error!(%error, "refusals are not in the audit yet");
        app.strangers.put_back(refusals);
    }
}

/// Cuts the rows older than `keep`, once they are seen to be whole; the head keeps where the chain
/// goes on from.
///
/// # Errors
/// Only the store's.
pub async fn sweep(app: &App, keep: Duration) -> Result<usize, Failure> {
    let Ok(before) = app.clock.now().checked_sub(keep) else { return Ok(0) };
    let mut swept = 0;
    loop {
        let key = app.audit_key.clone();
        let cut = app.db.write("sweep audit", move |tx| {
            let Sealed { head, seal } = store::lock_head(tx)?;
            let rows = store::list(tx.conn, &store::Filter::default(), head.base, BATCH)?;
            let mut chain = Chain::new(&head, None);
            let old = rows.iter().take_while(|row| row.entry.at < before);
            let whole = chain.follow(&key, old, i64::MAX).is_ok() && key.holds(&head, &seal);
            if !whole {
                // What somebody has changed is evidence.
                tracing::error!("the audit was changed by hand and is not cut: see audit verify");
            }
            if !whole || chain.seq == head.base {
                return Ok::<_, Failure>(0);
            }
            let cut = store::delete_until(tx, chain.seq)?;
            let head = Head { base: chain.seq, base_mac: chain.mac, ..head };
            store::update_head(tx, &Sealed { seal: key.seal(&head), head })?;
            Ok(cut)
        });
        match cut.await? {
            0 => return Ok(swept),
            cut => swept += cut,
        }
    }
}

/// What `audit verify` found: the head, to be noted elsewhere, and what is wrong first.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, schemars::JsonSchema)]
pub struct Verified {
    pub count: i64,
    pub mac: String,
    pub ok: bool,
    pub problem: Option<String>,
}

/// The chain as far as it has been followed.
#[derive(Clone)]
struct Chain {
    seq: i64,
    mac: Vec<u8>,
    noted: Option<Noted>,
}

impl Chain {
    fn new(head: &Head, noted: Option<Noted>) -> Chain {
        Chain { seq: head.base, mac: head.base_mac.clone(), noted }
    }

    /// Follows the chain over `rows`, which come next, no further than row `last`.
    fn follow<'r>(
        &mut self,
        key: &AuditKey,
        rows: impl IntoIterator<Item = &'r Row>,
        last: i64,
    ) -> Result<(), String> {
        self.meet_noted()?;
        for row in rows.into_iter().take_while(|row| row.seq <= last) {
            let next = self.seq + 1;
            if row.seq != next {
                return Err(format!("row {next} is gone"));
            }
            if !key.follows(&self.mac, next, &row.entry, &row.mac) {
                return Err(format!("row {next} was changed, put in or moved"));
            }
            self.seq = next;
            self.mac.clone_from(&row.mac);
            self.meet_noted()?;
        }
        Ok(())
    }

    fn meet_noted(&self) -> Result<(), String> {
        match &self.noted {
            Some(noted) if noted.count == self.seq && !bool::from(noted.mac.ct_eq(&self.mac)) => {
                Err(format!("row {} is not the one whose MAC was noted", self.seq))
            }
            _ => Ok(()),
        }
    }
}

/// Checks every row against the chain, the rows against the head, and both against a head that
/// was noted earlier. Rows written meanwhile are left for the next time.
///
/// # Errors
/// Only the store's.
pub async fn verify(app: &App, noted: Option<Noted>) -> Result<Verified, Failure> {
    // In this order: rows that come or go in between are not taken for somebody's.
    let (newest, sealed, oldest) = app
        .db
        .read(|conn| {
            let newest = store::find_newest(conn)?;
            Ok((newest, store::find_head(conn)?, store::find_oldest(conn)?))
        })
        .await?;
    let Some(Sealed { head, seal }) = sealed else {
        let problem = Some("the head is gone".to_owned());
        return Ok(Verified { count: 0, mac: String::new(), ok: false, problem });
    };
    let outside = [oldest.filter(|seq| *seq <= head.base), newest.filter(|seq| *seq > head.count)];
    let outside = outside.into_iter().flatten().next();
    let mut problem = follow(&app.db, &app.audit_key, &head, noted.clone()).await?.err();
    if let Some(seq) = outside {
        problem = problem.or(Some(format!("row {seq} was put in")));
    }
    if !app.audit_key.holds(&head, &seal) {
        problem = problem.or(Some("the head, which counts the rows, was changed".to_owned()));
    }
    if let Some(noted) = noted {
        if noted.count > head.count {
            let (rows, were) = (head.count, noted.count);
            problem = problem
                .or(Some(format!("the tail was cut: there are {rows} rows, and were {were}")));
        } else if noted.count < head.base {
            problem = problem.or(Some(
                "the noted head is older than the rows that are kept: note a later one".to_owned(),
            ));
        }
    }
    Ok(Verified { count: head.count, mac: hex(&head.mac), ok: problem.is_none(), problem })
}

/// Follows the whole chain, page by page.
async fn follow(
    db: &Db,
    key: &Arc<AuditKey>,
    head: &Head,
    noted: Option<Noted>,
) -> Result<Result<(), String>, Failure> {
    let last = head.count;
    let mut chain = Chain::new(head, noted);
    let mut limit = BATCH;
    loop {
        let (mut next, mine) = (chain.clone(), key.clone());
        let read = db.read(move |conn| {
            let rows = store::list(conn, &store::Filter::default(), next.seq, limit)?;
            let empty = rows.is_empty();
            Ok((next.follow(&mine, &rows, last), next, empty))
        });
        let problem = match read.await {
            Ok((Ok(()), next, _)) if next.seq >= last => return Ok(Ok(())),
            Ok((Ok(()), next, false)) if next.seq > chain.seq => {
                chain = next;
                continue;
            }
            Ok((Ok(()), next, _)) => format!("row {} is gone: the tail was cut", next.seq + 1),
            Ok((Err(problem), ..)) => problem,
            // Somebody wrote what is no text there. Which row it is, one at a time will tell.
            Err(DbError::Query(QueryError::DeserializationError(_))) if limit > 1 => {
                limit = 1;
                continue;
            }
            Err(DbError::Query(QueryError::DeserializationError(_))) => {
                format!("row {} cannot be read", chain.seq + 1)
            }
            Err(error) => return Err(error.into()),
        };
        // The sweep may have cut rows that were to come.
        match db.read(store::find_head).await? {
            Some(Sealed { head, seal }) if head.base > chain.seq && key.holds(&head, &seal) => {
                if head.base >= last {
                    return Ok(Ok(()));
                }
                chain = Chain { seq: head.base, mac: head.base_mac, ..chain };
            }
            _ => return Ok(Err(problem)),
        }
    }
}
