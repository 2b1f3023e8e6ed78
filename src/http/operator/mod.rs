//! The operator plane under `/v1`.

pub mod audit;
pub mod boots;
pub mod contents;
pub mod events;
pub mod guard;
pub mod identity;
pub mod nodes;
pub mod openapi;
pub mod policy;
pub mod preseeds;
mod refusals;
pub mod target;
pub mod tokens;

use actix_web::web;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;

use super::error::HttpError;
use crate::actions::Problem;

/// The parameters of a URL's query, in their order.
pub type Query = web::Query<Vec<(String, String)>>;

/// One page of a list, and where the next begins.
#[derive(Serialize)]
pub struct Page<T: Serialize> {
    pub items: Vec<T>,
    pub next: Option<String>,
}

/// Which page of a list is asked for.
pub struct Paging {
    /// The last key of the page before; empty at the start.
    pub after: String,
    pub limit: usize,
}

impl Paging {
    /// Takes `limit` and `cursor`; what is left over is for the caller.
    fn take(
        query: Query,
        most: usize,
        problems: &mut Vec<Problem>,
    ) -> (Paging, Vec<(String, String)>) {
        let mut paging = Paging { after: String::new(), limit: most };
        let mut rest = Vec::new();
        for (name, value) in query.into_inner() {
            match name.as_str() {
                "limit" => match value.parse() {
                    Ok(0) | Err(_) => problems.push(Problem::field("limit", "a number from 1")),
                    Ok(limit) => paging.limit = usize::min(limit, most),
                },
                "cursor" => match URL_SAFE_NO_PAD.decode(&value).map(String::from_utf8) {
                    Ok(Ok(after)) if !after.contains(char::is_control) => paging.after = after,
                    _ => problems.push(Problem::field("cursor", "no cursor of this list")),
                },
                _ => rest.push((name, value)),
            }
        }
        (paging, rest)
    }

    /// The page made of `rows`, of which one more than the limit was asked for.
    fn page<T: Serialize>(&self, mut rows: Vec<T>, key: impl Fn(&T) -> String) -> Page<T> {
        let more = rows.len() > self.limit;
        rows.truncate(self.limit);
        let next = rows.last().filter(|_| more).map(|last| URL_SAFE_NO_PAD.encode(key(last)));
        Page { items: rows, next }
    }

    /// The same of rows that were looked for up to `until` and no further: there may be more of
    /// them behind it.
    fn page_until<T: Serialize>(
        &self,
        rows: Vec<T>,
        key: impl Fn(&T) -> String,
        until: Option<String>,
    ) -> Page<T> {
        let page = self.page(rows, key);
        let next = page.next.or(until.map(|until| URL_SAFE_NO_PAD.encode(until)));
        Page { next, ..page }
    }

    fn limit_and_one(&self) -> i64 {
        i64::try_from(self.limit).unwrap_or(i64::MAX - 1) + 1
    }
}

/// `?strict=true`: refuse what cloud-init would silently ignore, instead of warning of it.
fn is_strict(query: Query) -> Result<bool, HttpError> {
    let mut strict = false;
    for (name, value) in query.into_inner() {
        match (name.as_str(), value.parse()) {
            ("strict", Ok(given)) => strict = given,
            ("strict", Err(_)) => {
                return Err(HttpError::invalid(vec![Problem::field("strict", "true or false")]));
            }
            _ => return Err(HttpError::invalid(vec![unknown_parameter("strict")])),
        }
    }
    Ok(strict)
}

fn unknown_parameter(known: &str) -> Problem {
    Problem::new(format!("there is a query parameter that is not known; known are {known}"))
}

fn refuse_if(problems: Vec<Problem>) -> Result<(), HttpError> {
    if problems.is_empty() { Ok(()) } else { Err(HttpError::invalid(problems)) }
}
