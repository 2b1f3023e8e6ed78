//! The OpenAPI page of `/v1`: paths, methods and rights from the table of routes, shapes from the
//! types that are answered. What a body may hold stands here, and a test holds the handlers to it.

use std::collections::BTreeMap;

use actix_web::HttpResponse;
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::guard::{Operation, Takes};
use super::{Page, contents, preseeds, tokens};
use crate::actions::Problem;
use crate::actions::contents::Stored;
use crate::actions::nodes::Imported;
use crate::domain::credentials::TokenSummary;
use crate::domain::cull::Culled;
use crate::domain::node::Node;
use crate::domain::preseed::Format;

/// `GET /v1/openapi.json`.
pub async fn show() -> HttpResponse {
    HttpResponse::Ok().json(page())
}

type Shape = fn(&mut SchemaGenerator) -> Value;

fn shape<T: JsonSchema>(types: &mut SchemaGenerator) -> Value {
    types.subschema_for::<T>().to_value()
}

/// A body or an answer: its media type, and its shape where it has one.
struct Content {
    media_type: &'static str,
    shape: Option<Shape>,
}

impl Content {
    fn json<T: JsonSchema>() -> Content {
        Content { media_type: "application/json", shape: Some(shape::<T>) }
    }

    /// One object a line.
    fn lines<T: JsonSchema>() -> Content {
        Content { media_type: "application/x-ndjson", shape: Some(shape::<T>) }
    }

    fn bytes() -> Content {
        Content { media_type: "application/octet-stream", shape: None }
    }

    fn text() -> Content {
        Content { media_type: "text/plain", shape: None }
    }

    fn write(contents: &[Content], types: &mut SchemaGenerator) -> Value {
        let of = |content: &Content, types: &mut SchemaGenerator| match content.shape {
            Some(shape) => json!({"schema": shape(types)}),
            None => json!({}),
        };
        let map: Map<String, Value> = contents
            .iter()
            .map(|content| (content.media_type.to_owned(), of(content, types)))
            .collect();
        map.into()
    }
}

/// What the table of routes does not say of an operation.
#[derive(Default)]
struct Doc {
    /// Parameters of the query, with what they are.
    query: &'static [(&'static str, &'static str)],
    /// Request headers.
    headers: &'static [(&'static str, &'static str)],
    body: Vec<Content>,
    /// Statuses of success, with what comes with them.
    answers: Vec<(u16, Vec<Content>)>,
}

const PAGING: [(&str, &str); 2] =
    [("limit", "rows on the page"), ("cursor", "`next` of the page before")];
const STRICT: &[(&str, &str)] =
    &[("strict", "true: refuse what cloud-init would silently ignore, instead of warning")];
const IF_MATCH: &[(&str, &str)] = &[
    ("If-Match", "the ETag of the version to replace; required where there is one"),
    ("If-None-Match", "`*`: only where there is none"),
];

/// What `POST /v1/{project}/nodes` takes: one node, or one a line.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "read by the derive alone")]
struct NewNode {
    /// Made up where it is left out.
    system_id: Option<String>,
    hostname: String,
    macs: Option<Vec<String>>,
    ssh_keys: Option<Vec<String>>,
    labels: Option<BTreeMap<String, String>>,
    netboot: Option<bool>,
}

/// One line of an import.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "read by the derive alone")]
struct ImportLine {
    #[serde(flatten)]
    node: NewNode,
    /// In base64.
    user_data: Option<String>,
    /// In base64.
    vendor_data: Option<String>,
}

/// What `PATCH …/nodes/{system_id}` takes; what is left out stays.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "read by the derive alone")]
struct NodeChange {
    hostname: Option<String>,
    macs: Option<Vec<String>>,
    ssh_keys: Option<Vec<String>>,
    labels: Option<BTreeMap<String, String>>,
    netboot: Option<bool>,
    /// Moves the node; its tokens end.
    project: Option<String>,
}

#[derive(JsonSchema)]
#[expect(dead_code, reason = "read by the derive alone")]
struct PreseedRequest {
    #[schemars(schema_with = "formats")]
    format: String,
}

fn formats(_: &mut SchemaGenerator) -> schemars::Schema {
    let names: Vec<&str> = Format::ALL.iter().map(|format| format.name()).collect();
    schemars::json_schema!({"type": "string", "enum": names})
}

#[derive(JsonSchema)]
#[expect(dead_code, reason = "read by the derive alone")]
struct ReissueRequest {
    /// `24h`: how long the old token is accepted if the new one is not used.
    retire_after: Option<String>,
}

#[derive(JsonSchema)]
#[expect(dead_code, reason = "read by the derive alone")]
struct ClaimRequest {
    /// `15m`: how long it waits to be fetched.
    ttl: Option<String>,
    /// `10.0.0.0/8`: where it can be fetched from.
    from: Option<String>,
    /// What it gives; `cmdline` holds a claim itself.
    #[schemars(schema_with = "optional_formats")]
    format: Option<String>,
}

fn optional_formats(_: &mut SchemaGenerator) -> schemars::Schema {
    let claimed = Format::ALL.iter().filter(|format| format.holds_credentials());
    let names: Vec<&str> = claimed.map(|format| format.name()).collect();
    schemars::json_schema!({"type": ["string", "null"], "enum": names})
}

#[derive(JsonSchema)]
struct Nothing {}

#[derive(JsonSchema)]
#[expect(dead_code, reason = "read by the derive alone")]
struct CullRequest {
    /// `7d`: made longer ago, never used.
    unused_for: Option<String>,
    /// `90d`: last used longer ago.
    idle_for: Option<String>,
    /// `5%` or a number.
    max: Option<String>,
    dry_run: Option<bool>,
    force: Option<bool>,
}

#[derive(JsonSchema)]
#[expect(dead_code, reason = "read by the derive alone")]
struct BootstrapRequest {
    name: String,
    password: String,
}

/// What a refusal says (RFC 9457).
#[derive(JsonSchema)]
#[expect(dead_code, reason = "read by the derive alone")]
struct Refusal {
    r#type: String,
    title: String,
    status: u16,
    detail: String,
    errors: Option<Vec<Problem>>,
}

/// What an operation takes and answers; `None` for one that nobody has written down.
fn doc(method: &str, path: &str) -> Option<Doc> {
    let answers = |status, content| vec![(status, content)];
    let gone = || Doc { answers: vec![(204, Vec::new())], ..Doc::default() };
    let listed =
        |content| Doc { query: &PAGING, answers: vec![(200, vec![content])], ..Doc::default() };
    let below = path.strip_prefix("/v1/{project}/nodes/{system_id}");
    Some(match (method, below.unwrap_or(path)) {
        ("GET", "/v1/{project}/nodes") => Doc {
            query: &[
                PAGING[0],
                PAGING[1],
                ("label", "NAME=VALUE; more than one may be asked for"),
                ("state", "a boot state"),
            ],
            ..listed(Content::json::<Page<Node>>())
        },
        ("POST", "/v1/{project}/nodes") => Doc {
            query: STRICT,
            body: vec![Content::json::<NewNode>(), Content::lines::<ImportLine>()],
            answers: vec![
                (201, vec![Content::json::<Node>()]),
                (200, vec![Content::json::<Imported>()]),
            ],
            ..Doc::default()
        },
        ("GET", "") => {
            Doc { answers: answers(200, vec![Content::json::<Node>()]), ..Doc::default() }
        }
        ("PATCH", "") => Doc {
            body: vec![Content::json::<NodeChange>()],
            answers: answers(200, vec![Content::json::<Node>()]),
            ..Doc::default()
        },
        ("DELETE", "" | "/token") => gone(),
        ("GET", "/user-data" | "/vendor-data") => Doc {
            query: &[("version", "an earlier version's number")],
            answers: answers(200, vec![Content::bytes()]),
            ..Doc::default()
        },
        ("PUT", "/user-data" | "/vendor-data") => Doc {
            query: STRICT,
            headers: IF_MATCH,
            body: vec![Content::bytes()],
            answers: vec![
                (201, vec![Content::json::<Stored>()]),
                (200, vec![Content::json::<Stored>()]),
            ],
        },
        ("DELETE", "/user-data" | "/vendor-data") => Doc { headers: IF_MATCH, ..gone() },
        ("GET", "/user-data/versions" | "/vendor-data/versions") => Doc {
            answers: answers(200, vec![Content::json::<Page<contents::Row>>()]),
            ..Doc::default()
        },
        ("POST", "/token") => {
            Doc { answers: answers(200, vec![Content::json::<tokens::Issued>()]), ..Doc::default() }
        }
        ("GET", "/token") => {
            Doc { answers: answers(200, vec![Content::json::<TokenSummary>()]), ..Doc::default() }
        }
        ("POST", "/preseed") => Doc {
            body: vec![Content::json::<PreseedRequest>()],
            answers: answers(200, vec![Content::text()]),
            ..Doc::default()
        },
        ("POST", "/token/reissue") => Doc {
            body: vec![Content::json::<ReissueRequest>()],
            answers: answers(200, vec![Content::json::<tokens::Issued>()]),
            ..Doc::default()
        },
        ("POST", "/reprovision") => Doc {
            body: vec![Content::json::<Nothing>()],
            answers: answers(200, vec![Content::json::<Node>()]),
            ..Doc::default()
        },
        ("POST", "/claims") => Doc {
            body: vec![Content::json::<ClaimRequest>()],
            answers: answers(201, vec![Content::json::<preseeds::Claim>()]),
            ..Doc::default()
        },
        ("POST", "/v1/{project}/tokens") => Doc {
            body: vec![Content::lines::<String>()],
            answers: answers(200, vec![Content::lines::<tokens::Issued>()]),
            ..Doc::default()
        },
        ("GET", "/v1/tokens") => Doc {
            query: &[PAGING[0], PAGING[1], ("token_key", "only this one")],
            ..listed(Content::json::<Page<TokenSummary>>())
        },
        ("POST", "/v1/tokens/cull") => Doc {
            body: vec![Content::json::<CullRequest>()],
            answers: answers(200, vec![Content::json::<Culled>()]),
            ..Doc::default()
        },
        ("GET", "/v1/whoami") => Doc {
            answers: answers(200, vec![Content::json::<super::identity::tokens::Whoami>()]),
            ..Doc::default()
        },
        ("POST", "/v1/bootstrap") => Doc {
            body: vec![Content::json::<BootstrapRequest>()],
            answers: vec![
                (201, vec![Content::json::<super::identity::users::Enveloped>()]),
                (200, vec![Content::json::<super::identity::users::Enveloped>()]),
            ],
            ..Doc::default()
        },
        ("GET", "/v1/openapi.json") => {
            Doc { answers: answers(200, vec![Content::json::<Value>()]), ..Doc::default() }
        }
        _ => return None,
    })
}

/// The whole page. Operations that nobody has written down are missing from it, which a test sees.
#[must_use]
pub fn page() -> Value {
    let settings = SchemaSettings::draft2020_12()
        .with(|settings| settings.definitions_path = "/components/schemas".into());
    let mut types = settings.into_generator();
    let mut paths = Map::new();
    for (path, operations) in crate::http::operator_routes() {
        if !path.starts_with("/v1/") {
            continue;
        }
        let mut methods = Map::new();
        for operation in operations {
            if let Some(doc) = doc(operation.method, path) {
                let written = write(&operation, path, &doc, &mut types);
                methods.insert(operation.method.to_ascii_lowercase(), written);
            }
        }
        paths.insert(path.to_owned(), methods.into());
    }
    let refusal = shape::<Refusal>(&mut types);
    let refused = json!({
        "description": "refused; `errors` names every problem, and nothing that was sent is repeated",
        "content": {"application/problem+json": {"schema": refusal}},
    });
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "nodeinit",
            "description": "The operator plane. Identity (/v2.0) is the subset of Keystone's v2.0 API that its clients need.",
            "version": env!("CARGO_PKG_VERSION"),
        },
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": types.take_definitions(true),
            "responses": {"Refusal": refused},
            "securitySchemes": {"token": {"type": "apiKey", "in": "header", "name": "X-Auth-Token"}},
        },
    })
}

fn write(operation: &Operation, path: &str, doc: &Doc, types: &mut SchemaGenerator) -> Value {
    let named = path.split('{').skip(1).filter_map(|part| part.split('}').next());
    let text = json!({"type": "string"});
    let mut parameters: Vec<Value> = named
        .map(|name| json!({"name": name, "in": "path", "required": true, "schema": text}))
        .collect();
    let optional = |(name, help): &(&str, &str), place: &str| json!({"name": name, "in": place, "description": help, "schema": text});
    parameters.extend(doc.query.iter().map(|parameter| optional(parameter, "query")));
    parameters.extend(doc.headers.iter().map(|header| optional(header, "header")));

    let mut responses = Map::new();
    for (status, contents) in &doc.answers {
        let mut answer = json!({"description": "done"});
        if !contents.is_empty() {
            answer["content"] = Content::write(contents, types);
        }
        responses.insert(status.to_string(), answer);
    }
    responses.insert("default".into(), json!({"$ref": "#/components/responses/Refusal"}));

    let id = path.trim_start_matches("/v1/").replace(['{', '}'], "").replace(['/', '-', '.'], "_");
    let mut written = json!({
        "operationId": format!("{}_{id}", operation.method.to_ascii_lowercase()),
        "parameters": parameters,
        "responses": responses,
    });
    match operation.action {
        Some(action) => {
            written["summary"] = action.help().into();
            written["x-policy-action"] = action.name().into();
        }
        None => written["security"] = json!([]),
    }
    if operation.takes != Takes::Nothing {
        let content = Content::write(&doc.body, types);
        written["requestBody"] =
            json!({"required": operation.takes != Takes::Options, "content": content});
    }
    written
}

/// Lists of a shape are shapes too.
impl<T: Serialize + JsonSchema> JsonSchema for Page<T> {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        format!("PageOf{}", T::schema_name()).into()
    }

    fn json_schema(types: &mut SchemaGenerator) -> schemars::Schema {
        let items = types.subschema_for::<T>();
        schemars::json_schema!({
            "type": "object",
            "properties": {
                "items": {"type": "array", "items": items},
                "next": {"type": ["string", "null"], "description": "the cursor of the next page"},
            },
            "required": ["items", "next"],
        })
    }
}
