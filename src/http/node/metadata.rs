//! What a node reads: its listings, its values, its user-data.

use actix_web::HttpResponse;
use actix_web::http::{Method, StatusCode, header};
use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::{Read, not_allowed, not_found, shown};
use crate::actions::App;
use crate::actions::authenticate::SignedNode;
use crate::domain::boot::Item;
use crate::domain::metadata::{AbsentItems, ContentKind, MetadataKey, NodeMetadata, VERSIONS};
use crate::domain::node::SystemId;
use crate::store::tokens::NodeRow;
use crate::store::{DbError, contents, nodes};

use super::paced::Paced;
use super::route::Target;

const TEXT: &str = "text/plain";
/// MAAS `vendor_data`: the type that is registered nowhere and expected everywhere.
const YAML: &str = "application/x-yaml; charset=utf-8";
const OCTETS: &str = "application/octet-stream";

/// Answers a signed read, and remembers what was read: a HEAD is a contact and nothing more. The
/// node comes from the signature; no path names one.
///
/// # Errors
/// When the store does not answer.
pub async fn read(app: &App, signed: SignedNode, target: Target<'_>, method: &Method) -> Read {
    let token = signed.token;
    let (response, item) = answer(app, signed.node, target).await?;
    let item = item.filter(|_| *method == Method::GET);
    app.learnt.read(token, item, app.clock.now());
    Ok(response)
}

/// An answer, and the item it holds with its digest.
type Answered = (HttpResponse, Option<(Item, [u8; 32])>);

async fn answer(app: &App, node: NodeRow, target: Target<'_>) -> Result<Answered, DbError> {
    let response = match target {
        Target::Index => ok(TEXT, VERSIONS.join("\n")),
        Target::Version => {
            let user_data = exists(app, &node, ContentKind::UserData).await?;
            let names = if user_data { "meta-data\nuser-data" } else { "meta-data" };
            ok(TEXT, names)
        }
        Target::MetaData => {
            let vendor_data = exists(app, &node, ContentKind::VendorData).await?;
            ok(TEXT, metadata(node)?.listing(vendor_data))
        }
        Target::Item(MetadataKey::VendorData) => {
            return content(app, node, ContentKind::VendorData, YAML).await;
        }
        Target::Item(key) => {
            // No keys are an empty list in MAAS too (test_public_keys_for_node_without_…).
            let value = metadata(node)?.value(key).unwrap_or_default();
            let digest = Sha256::digest(&value).into();
            return Ok((ok(TEXT, value), Some((key.into(), digest))));
        }
        Target::UnknownItem(name) => {
            not_found(&format!("Unknown metadata attribute: {}", shown(name)))
        }
        Target::Status(_) => not_allowed(target),
        Target::UserData => return content(app, node, ContentKind::UserData, OCTETS).await,
    };
    Ok((response, None))
}

/// User-data or vendor-data; that there is none is an answer like any other.
async fn content(
    app: &App,
    node: NodeRow,
    kind: ContentKind,
    content_type: &'static str,
) -> Result<Answered, DbError> {
    let item = match kind {
        ContentKind::UserData => Item::UserData,
        ContentKind::VendorData => Item::VendorData,
    };
    let found = app.db.read(move |conn| contents::find_bytes(conn, &node.system_id, kind)).await?;
    let (response, digest) = match found {
        // What is stored once each has its digest for a name.
        Some((bytes, sha256)) => (ok(content_type, bytes), sha256.try_into().unwrap_or_default()),
        None => (absent(app, content_type), Sha256::digest([]).into()),
    };
    Ok((response, Some((item, digest))))
}

fn metadata(node: NodeRow) -> Result<NodeMetadata, DbError> {
    let broken =
        |why: String| DbError::Query(diesel::result::Error::DeserializationError(why.into()));
    Ok(NodeMetadata {
        system_id: SystemId::parse(&node.system_id).map_err(broken)?,
        reprovisions: node.reprovisions,
        hostname: node.hostname,
        ssh_keys: nodes::ssh_keys(&node.ssh_keys)?,
    })
}

async fn exists(app: &App, node: &NodeRow, kind: ContentKind) -> Result<bool, DbError> {
    let id = node.system_id.clone();
    let newest = app.db.read(move |conn| contents::find_newest(conn, &id, kind)).await?;
    Ok(newest.is_some_and(|version| version.sha256.is_some()))
}

fn absent(app: &App, content_type: &'static str) -> HttpResponse {
    match app.absent_items {
        AbsentItems::Empty => ok(content_type, ""),
        AbsentItems::NotFound => not_found("There is none for this node."),
    }
}

/// Bodies up to this size go out in one write.
const SMALL: usize = 64 << 10;

fn ok(content_type: &'static str, body: impl Into<Bytes>) -> HttpResponse {
    let body = body.into();
    let mut response = HttpResponse::build(StatusCode::OK);
    response.insert_header((header::CONTENT_TYPE, content_type));
    if body.len() <= SMALL { response.body(body) } else { response.body(Paced::new(body)) }
}
