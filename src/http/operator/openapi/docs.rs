//! What each operation takes and answers beyond what the table of routes says. What a body may hold
//! stands here, and a test holds the handlers to it.

use std::collections::BTreeMap;

use schemars::{JsonSchema, SchemaGenerator};
use serde_json::Value;

use super::super::{Page, audit, boots, contents, events, identity, policy, preseeds, tokens};
use super::{Content, Doc};
use crate::actions::audit::Verified;
use crate::actions::contents::Stored;
use crate::actions::nodes::Imported;
use crate::domain::boot::Timeline;
use crate::domain::credentials::TokenSummary;
use crate::domain::cull::Culled;
use crate::domain::identity::Role;
use crate::domain::node::Node;
use crate::domain::preseed::Format;

const PAGING: [(&str, &str); 2] =
    [("limit", "rows on the page"), ("cursor", "`next` of the page before")];
const EVENTS: &[(&str, &str)] = &[
    PAGING[0],
    PAGING[1],
    ("type", "start, progress, finish or signal"),
    ("name", "such as modules-final"),
    ("since", "received since: an instant, or an age such as 24h"),
    ("newest", "so many of the newest, still the oldest of them first"),
];
const STRICT: &[(&str, &str)] =
    &[("strict", "true: refuse what cloud-init would silently ignore, instead of warning")];
const IF_MATCH: &[(&str, &str)] = &[
    ("If-Match", "the ETag of the version to replace; required where there is one"),
    ("If-None-Match", "`*`: only where there is none"),
];

/// `None` for an operation that nobody has written down.
pub(super) fn of(method: &str, path: &str) -> Option<Doc> {
    match path.strip_prefix("/v1/{project}") {
        None => of_fleet(method, path),
        Some(within) => match within.strip_prefix("/nodes/{system_id}") {
            None => of_project(method, within),
            Some(below) => of_node(method, below),
        },
    }
}

fn of_project(method: &str, within: &str) -> Option<Doc> {
    Some(match (method, within) {
        ("GET", "/nodes") => Doc::answered(Content::json::<Page<Node>>()).query(&[
            PAGING[0],
            PAGING[1],
            ("label", "NAME=VALUE; more than one may be asked for"),
            ("state", "a boot state"),
        ]),
        ("POST", "/nodes") => Doc::answered(Content::json::<Imported>())
            .or(201, Content::json::<Node>())
            .query(STRICT)
            .taking(Content::json::<NewNode>())
            .taking(Content::lines::<ImportLine>()),
        ("POST", "/tokens") => {
            Doc::answered(Content::lines::<tokens::Issued>()).taking(Content::lines::<String>())
        }
        _ => return None,
    })
}

fn of_node(method: &str, below: &str) -> Option<Doc> {
    Some(match (method, below) {
        ("GET", "") => Doc::answered(Content::json::<Node>()),
        ("PATCH", "") => {
            Doc::answered(Content::json::<Node>()).taking(Content::json::<NodeChange>())
        }
        ("DELETE", "" | "/token") => Doc::gone(),
        ("GET", "/user-data" | "/vendor-data") => {
            Doc::answered(Content::bytes()).query(&[("version", "an earlier version's number")])
        }
        ("PUT", "/user-data" | "/vendor-data") => {
            Doc::made::<Stored>().query(STRICT).headers(IF_MATCH).taking(Content::bytes())
        }
        ("DELETE", "/user-data" | "/vendor-data") => Doc::gone().headers(IF_MATCH),
        ("GET", "/user-data/versions" | "/vendor-data/versions") => {
            Doc::answered(Content::json::<Page<contents::Row>>())
        }
        ("POST", "/token") => Doc::answered(Content::json::<tokens::Issued>()),
        ("GET", "/token") => Doc::answered(Content::json::<TokenSummary>()),
        ("GET", "/events") => Doc::answered(Content::json::<Page<events::Row>>()).query(EVENTS),
        ("GET", "/timeline") => Doc::answered(Content::json::<Timeline>()),
        ("GET", "/explain") => Doc::answered(Content::json::<boots::Explained>()),
        ("GET", "/events/{event}/files/{ordinal}") => Doc::answered(Content::bytes()),
        ("POST", "/preseed") => {
            Doc::answered(Content::text()).taking(Content::json::<PreseedRequest>())
        }
        ("POST", "/token/reissue") => Doc::answered(Content::json::<tokens::Issued>())
            .taking(Content::json::<ReissueRequest>()),
        ("POST", "/reprovision") => {
            Doc::answered(Content::json::<Node>()).taking(Content::json::<Nothing>())
        }
        ("POST", "/claims") => {
            Doc::created(Content::json::<preseeds::Claim>()).taking(Content::json::<ClaimRequest>())
        }
        _ => return None,
    })
}

fn of_fleet(method: &str, path: &str) -> Option<Doc> {
    Some(match (method, path) {
        ("GET", "/v1/tokens") => Doc::answered(Content::json::<Page<TokenSummary>>()).query(&[
            PAGING[0],
            PAGING[1],
            ("token_key", "only this one"),
        ]),
        ("POST", "/v1/tokens/cull") => {
            Doc::answered(Content::json::<Culled>()).taking(Content::json::<CullRequest>())
        }
        ("GET", "/v1/whoami") => Doc::answered(Content::json::<identity::tokens::Whoami>()),
        ("POST", "/v1/bootstrap") => {
            Doc::made::<identity::users::Enveloped>().taking(Content::json::<BootstrapRequest>())
        }
        ("GET", "/v1/events") => Doc::answered(Content::json::<Page<events::Row>>()).query(EVENTS),
        ("GET", "/v1/stuck") => Doc::answered(Content::json::<boots::StuckPage>()).query(&[
            PAGING[0],
            PAGING[1],
            ("after", "such as 20m, the default: for longer than this"),
        ]),
        ("GET", "/v1/audit") => Doc::answered(Content::json::<Page<audit::Shown>>()).query(&[
            PAGING[0],
            PAGING[1],
            ("actor", "a word of the actor's description"),
            ("verb", "an action"),
            ("object", "such as node/SYSTEM_ID"),
            ("since", "an instant, or an age such as 24h"),
        ]),
        ("GET", "/v1/audit/verify") => Doc::answered(Content::json::<Verified>())
            .query(&[("head", "COUNT:MAC, as it was seen earlier")]),
        ("GET", "/v1/policy") => Doc::answered(Content::json::<policy::Shown>()),
        ("POST", "/v1/policy/explain") => Doc::answered(Content::json::<policy::Explained>())
            .taking(Content::json::<ExplainRequest>()),
        ("GET", "/v1/openapi.json") => Doc::answered(Content::json::<Value>()),
        _ => return None,
    })
}

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
    #[schemars(schema_with = "claimed_formats")]
    format: Option<String>,
}

fn claimed_formats(_: &mut SchemaGenerator) -> schemars::Schema {
    let claimed = Format::ALL.iter().filter(|format| format.holds_credentials());
    let names: Vec<&str> = claimed.map(|format| format.name()).collect();
    schemars::json_schema!({"type": "string", "enum": names})
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

#[derive(JsonSchema)]
#[expect(dead_code, reason = "read by the derive alone")]
struct ExplainRequest {
    /// An action, or a rule that actions are written with.
    action: String,
    /// By name or id, as the project and the targets are.
    user: String,
    /// The user's own, where it is left out.
    project: Option<String>,
    /// Instead of those that the user has.
    roles: Option<Vec<Role>>,
    /// The system id of the node acted on.
    node: Option<String>,
    /// The user acted on, or whose token is.
    target_user: Option<String>,
    /// The project that is itself acted on.
    target_project: Option<String>,
}
