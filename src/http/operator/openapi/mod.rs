//! The OpenAPI page of `/v1`: paths, methods and rights from the table of routes, shapes from the
//! types that are answered, and the rest from `docs`.

mod docs;

use actix_web::HttpResponse;
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::Page;
use super::guard::{Operation, Takes};
use crate::actions::Problem;

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
    answers: Vec<(u16, Option<Content>)>,
}

impl Doc {
    /// Answered with 200.
    fn answered(content: Content) -> Doc {
        Doc { answers: vec![(200, Some(content))], ..Doc::default() }
    }

    /// Answered with 201 where something is new, and 200 where it was there.
    fn made<T: JsonSchema>() -> Doc {
        Doc::answered(Content::json::<T>()).or(201, Content::json::<T>())
    }

    /// Answered with 201.
    fn created(content: Content) -> Doc {
        Doc { answers: vec![(201, Some(content))], ..Doc::default() }
    }

    /// Answered with 204.
    fn gone() -> Doc {
        Doc { answers: vec![(204, None)], ..Doc::default() }
    }

    fn or(mut self, status: u16, content: Content) -> Doc {
        self.answers.push((status, Some(content)));
        self
    }

    fn query(self, query: &'static [(&'static str, &'static str)]) -> Doc {
        Doc { query, ..self }
    }

    fn headers(self, headers: &'static [(&'static str, &'static str)]) -> Doc {
        Doc { headers, ..self }
    }

    fn taking(mut self, content: Content) -> Doc {
        self.body.push(content);
        self
    }
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
            if let Some(doc) = docs::of(operation.method, path) {
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
    for (status, content) in &doc.answers {
        let mut answer = json!({"description": "done"});
        if let Some(content) = content {
            answer["content"] = Content::write(std::slice::from_ref(content), types);
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
