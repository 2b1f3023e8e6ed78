//! Whether what was acknowledged is kept: every event that was answered 204, exactly once.

use std::collections::HashMap;

use serde::Deserialize;
use ureq::http::Method;

use super::boot::{Boot, Event};
use crate::cli::bench::wire::Signer;
use crate::client::Session;

/// What a look into the database found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Kept {
    pub acknowledged: u64,
    /// Acknowledged and not there.
    pub lost: u64,
    /// There more than once.
    pub twice: u64,
    /// There, and the answer never came.
    pub unacknowledged: u64,
}

#[derive(Deserialize)]
struct Page {
    items: Vec<Row>,
    next: Option<String>,
}

#[derive(Deserialize)]
struct Row {
    system_id: String,
    event_type: String,
    name: String,
}

/// Asks for every event that there is, and holds it against what the machines know.
pub fn compare(
    session: &Session,
    signers: &[Signer],
    events: &[Event],
    boots: &[Boot],
) -> anyhow::Result<Kept> {
    let numbers: HashMap<&str, usize> =
        signers.iter().enumerate().map(|(n, signer)| (signer.system_id.as_str(), n)).collect();
    let places: HashMap<(&str, &str), usize> =
        events.iter().enumerate().map(|(at, event)| ((event.kind, event.name), at)).collect();
    let mut seen = vec![0_u128; signers.len()];
    let mut kept = Kept::default();
    let mut cursor = None::<String>;
    loop {
        let path = match &cursor {
            None => "/v1/events?limit=1000".to_owned(),
            Some(cursor) => format!("/v1/events?limit=1000&cursor={cursor}"),
        };
        let answer = session.call(Method::GET, &path, &[], None)?;
        let page: Page = serde_json::from_slice(&answer.body)?;
        for row in page.items {
            let number = numbers.get(&*row.system_id);
            let place = places.get(&(row.event_type.as_str(), row.name.as_str()));
            if let Some((number, place)) = number.zip(place) {
                let bit = 1 << place;
                kept.twice += u64::from(seen[*number] & bit != 0);
                seen[*number] |= bit;
            }
        }
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    for boot in boots {
        let seen = seen[boot.number];
        kept.acknowledged += u64::from(boot.acknowledged.count_ones());
        kept.lost += u64::from((boot.acknowledged & !seen).count_ones());
        kept.unacknowledged += u64::from((seen & !boot.acknowledged).count_ones());
    }
    Ok(kept)
}
