//! Preseeds, which tell a node where we are and with which credentials, and claims on them.

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;

use super::refuse_if;
use crate::actions::claims::{self, Made, Wanted};
use crate::actions::{self, App, Failure};
use crate::domain::claim::{self, parse_ttl};
use crate::domain::identity::By;
use crate::domain::metadata_url::MetadataUrl;
use crate::domain::network::Network;
use crate::domain::policy::Action;
use crate::domain::preseed::Format;
use crate::http::Shared;
use crate::http::body;
use crate::http::error::HttpError;
use crate::http::extract::OnNode;
use crate::store::columns::Id;

/// A preseed: the other place where a secret leaves.
pub async fn preseed(
    shared: web::Data<Shared>,
    scope: OnNode,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, HttpError> {
    let app = &shared.app;
    let mut fields = body::fields(&request, payload, &app.limits).await?;
    let format = fields.required("format", Format::parse);
    refuse_if(fields.finish())?;
    let format = format.ok_or_else(|| HttpError::invalid(Vec::new()))?;
    let (project, system_id) = scope.node()?;
    let metadata_url = metadata_url(app)?;
    let text = if format.holds_credentials() {
        let token =
            actions::tokens::get(app, &scope.by, Action::Preseed, project, system_id).await?;
        app.templates.render(format, metadata_url, token)
    } else {
        let wanted = Wanted { format: Format::CloudConfig, ttl: claim::TTL, from: None };
        let Claim { url, .. } = make(app, &scope.by, project, system_id, wanted).await?;
        app.templates.render_claim(format, &url)
    };
    Ok(HttpResponse::Ok().content_type("text/plain; charset=utf-8").body(text))
}

/// The URL is the secret.
#[derive(Serialize, schemars::JsonSchema)]
pub(super) struct Claim {
    url: String,
    #[schemars(with = "String")]
    expires_at: jiff::Timestamp,
}

/// A claim on a preseed, good for one boot.
pub async fn claim(
    shared: web::Data<Shared>,
    scope: OnNode,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, HttpError> {
    let mut fields = body::optional_fields(&request, payload, &shared.app.limits).await?;
    let wanted = Wanted {
        format: fields.parsed("format", Format::parse_claimed).unwrap_or(Format::CloudConfig),
        ttl: fields.parsed("ttl", parse_ttl).unwrap_or(claim::TTL),
        from: fields.parsed("from", Network::parse),
    };
    refuse_if(fields.finish())?;
    let (project, system_id) = scope.node()?;
    let made = make(&shared.app, &scope.by, project, system_id, wanted).await?;
    let location = (header::LOCATION, made.url.clone());
    Ok(HttpResponse::Created().insert_header(location).json(made))
}

async fn make(
    app: &App,
    by: &By,
    project: Id,
    system_id: String,
    wanted: Wanted,
) -> Result<Claim, HttpError> {
    let metadata_url = metadata_url(app)?;
    let Made { secret, expires_at } = claims::make(app, by, project, system_id, wanted).await?;
    Ok(Claim { url: secret.url(metadata_url.as_str()), expires_at })
}

fn metadata_url(app: &App) -> Result<&MetadataUrl, Failure> {
    app.metadata_url.as_ref().ok_or_else(|| {
        Failure::Conflict(
            "--listen is a wildcard, so nodes cannot be told where we are: set --metadata-url"
                .into(),
        )
    })
}
