//! What a node reads: its listings, its values, its user-data.

use actix_web::HttpResponse;
use actix_web::http::{StatusCode, header};
use bytes::Bytes;

use super::{Read, not_allowed, not_found, shown};
use crate::actions::App;
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

/// Answers a signed GET. The node comes from the signature; no path names one.
///
/// # Errors
/// When the store does not answer.
pub async fn read(app: &App, node: NodeRow, target: Target<'_>) -> Read {
    match target {
        Target::Index => Ok(ok(TEXT, VERSIONS.join("\n"))),
        Target::Version => {
            let user_data = exists(app, &node, ContentKind::UserData).await?;
            let names = if user_data { "meta-data\nuser-data" } else { "meta-data" };
            Ok(ok(TEXT, names))
        }
        Target::MetaData => {
            let vendor_data = exists(app, &node, ContentKind::VendorData).await?;
            Ok(ok(TEXT, metadata(node)?.listing(vendor_data)))
        }
        Target::Item(MetadataKey::VendorData) => {
            let bytes = bytes(app, node, ContentKind::VendorData).await?;
            Ok(bytes.map_or_else(|| absent(app, YAML), |bytes| ok(YAML, bytes)))
        }
        // No keys are an empty list in MAAS too (test_public_keys_for_node_without_…).
        Target::Item(key) => Ok(ok(TEXT, metadata(node)?.value(key).unwrap_or_default())),
        Target::UnknownItem(name) => {
            Ok(not_found(&format!("Unknown metadata attribute: {}", shown(name))))
        }
        Target::Status(_) => Ok(not_allowed(target)),
        Target::UserData => {
            let bytes = bytes(app, node, ContentKind::UserData).await?;
            Ok(bytes.map_or_else(|| absent(app, OCTETS), |bytes| ok(OCTETS, bytes)))
        }
    }
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

async fn bytes(app: &App, node: NodeRow, kind: ContentKind) -> Result<Option<Vec<u8>>, DbError> {
    app.db.read(move |conn| contents::find_bytes(conn, &node.system_id, kind)).await
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
