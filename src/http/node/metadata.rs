//! What a node reads: its listings, its values, its user-data.

use actix_web::HttpResponse;
use actix_web::http::{Method, StatusCode, header};
use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::paced::Paced;
use super::route::Target;
use super::{Read, not_allowed, not_found, shown};
use crate::actions::App;
use crate::actions::authenticate::SignedNode;
use crate::domain::boot::Item;
use crate::domain::metadata::AbsentItems;
use crate::live::view::{Content, Entry};
use crate::store::DbError;

pub const TEXT: &str = "text/plain";
/// MAAS `vendor_data`: the type that is registered nowhere and expected everywhere.
const YAML: &str = "application/x-yaml; charset=utf-8";
const OCTETS: &str = "application/octet-stream";

/// What a signed read is answered with.
pub enum Served<'e> {
    /// A listing or a value of the node, with the item it is and its digest.
    Text(&'e str, Option<(Item, [u8; 32])>),
    /// Content, by its digest.
    Content(&'static str, Item, Content),
    /// An item that this node does not have.
    Absent(&'static str, Item),
    UnknownItem,
    NotAllowed,
}

/// The one table of what there is to read. The node comes from the signature; no path names one.
pub fn served<'e>(entry: &'e Entry, target: &Target<'_>) -> Served<'e> {
    let content = |content: Option<Content>, content_type, item| match content {
        Some(content) => Served::Content(content_type, item, content),
        None => Served::Absent(content_type, item),
    };
    match target {
        Target::Index => Served::Text(INDEX, None),
        Target::Version if entry.user_data.is_some() => Served::Text("meta-data\nuser-data", None),
        Target::Version => Served::Text("meta-data", None),
        Target::MetaData => Served::Text(entry.listing(), None),
        Target::Item(key) => match entry.value(*key) {
            Some((value, digest)) => Served::Text(value, Some(((*key).into(), digest))),
            None => content(entry.vendor_data, YAML, Item::VendorData),
        },
        Target::UserData => content(entry.user_data, OCTETS, Item::UserData),
        Target::UnknownItem(_) => Served::UnknownItem,
        Target::Status(_) => Served::NotAllowed,
    }
}

/// The listing of `/`.
const INDEX: &str = "2012-03-01\nlatest";

/// Answers a signed read, and remembers what was read: a HEAD is a contact and nothing more.
///
/// # Errors
/// When the store does not answer.
pub async fn read(app: &App, signed: &SignedNode, target: Target<'_>, method: &Method) -> Read {
    let (response, item) = answer(app, &signed.entry, target).await?;
    let item = item.filter(|_| *method == Method::GET);
    app.learnt.read(&signed.entry, item, app.clock.now());
    Ok(response)
}

/// An answer, and the item it holds with its digest.
type Answered = (HttpResponse, Option<(Item, [u8; 32])>);

async fn answer(app: &App, entry: &Entry, target: Target<'_>) -> Result<Answered, DbError> {
    match served(entry, &target) {
        Served::Text(text, item) => Ok((ok(TEXT, text.to_owned()), item)),
        Served::Content(content_type, item, content) => {
            match app.view.find_content(&app.db, content).await? {
                Some(bytes) => Ok((ok(content_type, bytes), Some((item, content.sha256)))),
                None => changed_meanwhile(app, entry, target, content).await,
            }
        }
        Served::Absent(content_type, item) => {
            Ok((absent(app, content_type), Some((item, Sha256::digest([]).into()))))
        }
        Served::UnknownItem => {
            let name = if let Target::UnknownItem(name) = target { name } else { "" };
            let message = format!("Unknown metadata attribute: {}", shown(name));
            Ok((not_found(&message), None))
        }
        Served::NotAllowed => Ok((not_allowed(target), None)),
    }
}

/// Bytes that are gone were replaced by others: the token is read anew, and they are looked up.
async fn changed_meanwhile(
    app: &App,
    entry: &Entry,
    target: Target<'_>,
    gone: Content,
) -> Result<Answered, DbError> {
    app.catch_up().await?;
    let fresh = app.view.find(entry.token_key()).await.ok().flatten();
    match fresh.as_ref().map(|fresh| served(fresh, &target)) {
        Some(Served::Content(content_type, item, content)) if content != gone => {
            let bytes = app.view.find_content(&app.db, content).await?.ok_or(DbError::Busy)?;
            Ok((ok(content_type, bytes), Some((item, content.sha256))))
        }
        Some(Served::Absent(content_type, item)) => {
            Ok((absent(app, content_type), Some((item, Sha256::digest([]).into()))))
        }
        _ => Err(DbError::Busy),
    }
}

fn absent(app: &App, content_type: &'static str) -> HttpResponse {
    let (status, content_type, body) = absent_item(app, content_type);
    HttpResponse::build(status).content_type(content_type).body(body)
}

/// Status, type and body for an item that a node does not have.
pub fn absent_item(
    app: &App,
    content_type: &'static str,
) -> (StatusCode, &'static str, &'static str) {
    match app.absent_items {
        AbsentItems::Empty => (StatusCode::OK, content_type, ""),
        AbsentItems::NotFound => {
            (StatusCode::NOT_FOUND, "text/plain; charset=utf-8", "There is none for this node.")
        }
    }
}

/// Bodies up to this size go out in one write.
pub const SMALL: usize = 64 << 10;

fn ok(content_type: &'static str, body: impl Into<Bytes>) -> HttpResponse {
    let body = body.into();
    let mut response = HttpResponse::build(StatusCode::OK);
    response.insert_header((header::CONTENT_TYPE, content_type));
    if body.len() <= SMALL { response.body(body) } else { response.body(Paced::new(body)) }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_index_lists_the_versions() {
        assert_eq!(super::INDEX, crate::domain::metadata::VERSIONS.join("\n"));
    }
}
