//! Who may do what, as calls: logins, users, projects and roles on the Keystone v2.0 wire.

use jiff::Timestamp;
use serde_json::{Map, Value, json};
use ureq::http::Method;
use zeroize::Zeroizing;

use super::answer::plain;
use super::plugin::{Provides, Transport};
use super::plugins::AUTH_TOKEN;
use super::{ClientError, Session};
use crate::domain::credentials::Secret;
use crate::oauth::percent;

/// What a login brings.
pub struct Login {
    pub token: Secret,
    pub expires_at: Option<Timestamp>,
    pub user: Option<String>,
    pub project: Option<String>,
}

/// `POST /v2.0/tokens`: a token for a name and a password.
///
/// # Errors
/// [`ClientError::Refused`] when they are not good, [`ClientError::Strange`] when there is no
/// token in the answer.
pub fn login(
    transport: &dyn Transport,
    user: &str,
    password: &Secret,
    project: Option<&str>,
) -> Result<Login, ClientError> {
    let mut auth = json!({
        "passwordCredentials": {"username": user, "password": password.expose()},
    });
    if let Some(project) = project {
        auth["tenantName"] = project.into();
    }
    let body = Zeroizing::new(json!({"auth": auth}).to_string());
    wipe(auth);
    let headers = [("content-type", "application/json"), ("accept", "application/json")];
    let answer = transport
        .exchange(Method::POST, "/v2.0/tokens", &headers, Some(body.as_bytes()))?
        .succeeded()?;
    let answer = answer.json(transport.server())?;
    let access = &answer["access"];
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let Some(token) = text(&access["token"]["id"]).filter(|token| !token.is_empty()) else {
        let why = "a login without access.token.id".to_owned();
        return Err(ClientError::Strange { server: transport.server().to_string(), why });
    };
    Ok(Login {
        token: Secret::new(token),
        expires_at: access["token"]["expires"].as_str().and_then(|text| text.parse().ok()),
        user: text(&access["user"]["name"]),
        project: text(&access["token"]["tenant"]["name"]),
    })
}

/// Values that a secret went through.
fn wipe(value: Value) {
    match value {
        Value::String(text) => drop(Zeroizing::new(text)),
        Value::Object(fields) => fields.into_iter().for_each(|(_, value)| wipe(value)),
        _ => {}
    }
}

/// `GET /v1/whoami` for a token that the transport does not send itself.
pub(super) fn who(transport: &dyn Transport, token: &Secret) -> Result<Provides, ClientError> {
    let headers = [(AUTH_TOKEN, token.expose())];
    let answer = transport.exchange(Method::GET, "/v1/whoami", &headers, None)?.succeeded()?;
    let answer = answer.json(transport.server())?;
    // A name, or an object with one.
    let name = |field: &str| {
        let value = &answer[field];
        value.as_str().or(value["name"].as_str()).map(str::to_owned)
    };
    Ok(Provides {
        user: name("user"),
        project: name("project"),
        expires_at: answer["expires_at"].as_str().and_then(|text| text.parse().ok()),
    })
}

/// `GET /v1/whoami`.
///
/// # Errors
/// As [`Session::get`].
pub fn whoami(session: &Session) -> Result<Value, ClientError> {
    session.get("/v1/whoami")
}

/// Who a node is, asked on the node plane with its signature.
///
/// # Errors
/// As [`Session::call`].
pub fn node(session: &Session) -> Result<Value, ClientError> {
    let read = |item: &str| {
        let path = format!("/MAAS/metadata/latest/meta-data/{item}");
        let answer = session.call(Method::GET, &path, &[], None)?;
        Ok(String::from_utf8_lossy(&answer.body).into_owned())
    };
    Ok(json!({"instance_id": read("instance-id")?, "hostname": read("local-hostname")?}))
}

/// `POST /v1/bootstrap`, on the socket: makes or resets the first admin.
///
/// # Errors
/// As [`Session::call`].
pub fn bootstrap(session: &Session, name: &str, password: &Secret) -> Result<(), ClientError> {
    let body = Zeroizing::new(json!({"name": name, "password": password.expose()}).to_string());
    post(session, Method::POST, "/v1/bootstrap", &body)
}

fn post(session: &Session, method: Method, path: &str, body: &str) -> Result<(), ClientError> {
    let headers = [("content-type", "application/json")];
    session.call(method, path, &headers, Some(body.as_bytes())).map(drop)
}

/// Users and projects, which are asked for in the same way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    User,
    Project,
}

impl Kind {
    fn one(self) -> &'static str {
        match self {
            Kind::User => "user",
            Kind::Project => "tenant",
        }
    }

    fn many(self) -> &'static str {
        match self {
            Kind::User => "users",
            Kind::Project => "tenants",
        }
    }

    fn word(self) -> &'static str {
        match self {
            Kind::User => "user",
            Kind::Project => "project",
        }
    }

    fn path(self) -> String {
        format!("/v2.0/{}", self.many())
    }
}

/// All of them, as the server sorts them.
///
/// # Errors
/// As [`Session::get`].
pub fn all(session: &Session, kind: Kind) -> Result<Vec<Value>, ClientError> {
    let mut answer = session.get(&kind.path())?;
    match answer[kind.many()].take() {
        Value::Array(items) => Ok(items),
        _ => Err(ClientError::Strange {
            server: session.server().to_string(),
            why: format!("a list without {}", kind.many()),
        }),
    }
}

/// One, by its name or else by its id.
///
/// # Errors
/// [`ClientError::Refused`] with 404 when there is none, and as [`Session::get`].
pub fn find(session: &Session, kind: Kind, name_or_id: &str) -> Result<Value, ClientError> {
    let by_name = format!("{}?name={}", kind.path(), segment(name_or_id));
    if let Some(mut answer) = unless_missing(session.get(&by_name))? {
        // Keystone answers with the one; others with a list.
        let found = match answer[kind.many()].take() {
            Value::Array(items) => items,
            _ => vec![answer[kind.one()].take()],
        };
        // A server that does not know the filter answers with all. Users' names have no case.
        let is_named = |item: &Value| {
            let name = item["name"].as_str().unwrap_or_default();
            name == name_or_id || (kind == Kind::User && name.eq_ignore_ascii_case(name_or_id))
        };
        if let Some(item) = found.into_iter().find(is_named) {
            return Ok(item);
        }
    }
    let by_id = format!("{}/{}", kind.path(), segment(name_or_id));
    if let Some(mut answer) = unless_missing(session.get(&by_id))?
        && answer[kind.one()]["id"].is_string()
    {
        return Ok(answer[kind.one()].take());
    }
    let detail = format!("there is no {} {}", kind.word(), plain(name_or_id));
    Err(ClientError::Refused { status: 404, detail, problems: Vec::new() })
}

/// The id of one that is named by its name or id.
fn id(session: &Session, kind: Kind, name_or_id: &str) -> Result<String, ClientError> {
    let found = find(session, kind, name_or_id)?;
    found["id"].as_str().map(str::to_owned).ok_or_else(|| ClientError::Strange {
        server: session.server().to_string(),
        why: format!("a {} without an id", kind.word()),
    })
}

fn unless_missing(answer: Result<Value, ClientError>) -> Result<Option<Value>, ClientError> {
    match answer {
        Err(ClientError::Refused { status: 404, .. }) => Ok(None),
        answer => answer.map(Some),
    }
}

/// Makes one of these `fields`; `project` of a user is a name or id too.
///
/// # Errors
/// As [`find`] and [`Session::send_json`].
pub fn add(
    session: &Session,
    kind: Kind,
    fields: Map<String, Value>,
    project: Option<&str>,
) -> Result<Value, ClientError> {
    write(session, kind, Method::POST, &kind.path(), fields, project)
}

/// Changes these `fields` of one; what is not named stays.
///
/// # Errors
/// As [`find`] and [`Session::send_json`].
pub fn set(
    session: &Session,
    kind: Kind,
    name_or_id: &str,
    fields: Map<String, Value>,
    project: Option<&str>,
) -> Result<Value, ClientError> {
    let path = format!("{}/{}", kind.path(), segment(&id(session, kind, name_or_id)?));
    let method = match kind {
        Kind::User => Method::PUT,
        Kind::Project => Method::POST,
    };
    write(session, kind, method, &path, fields, project)
}

fn write(
    session: &Session,
    kind: Kind,
    method: Method,
    path: &str,
    mut fields: Map<String, Value>,
    project: Option<&str>,
) -> Result<Value, ClientError> {
    if let Some(project) = project {
        fields.insert("tenantId".into(), id(session, Kind::Project, project)?.into());
    }
    let body = Value::from(Map::from_iter([(kind.one().to_owned(), Value::from(fields))]));
    let answer = session.send_json(method, path, &body);
    wipe(body);
    Ok(answer?[kind.one()].take())
}

/// # Errors
/// As [`find`] and [`Session::delete`].
pub fn remove(session: &Session, kind: Kind, name_or_id: &str) -> Result<(), ClientError> {
    let id = id(session, kind, name_or_id)?;
    session.delete(&format!("{}/{}", kind.path(), segment(&id)))
}

/// Gives a user another password, which ends their tokens.
///
/// # Errors
/// As [`find`] and [`Session::call`].
pub fn set_password(session: &Session, user: &str, password: &Secret) -> Result<(), ClientError> {
    let id = id(session, Kind::User, user)?;
    let path = format!("/v2.0/users/{}/OS-KSADM/password", segment(&id));
    let body = Zeroizing::new(json!({"user": {"password": password.expose()}}).to_string());
    post(session, Method::PUT, &path, &body)
}

/// Gives a user a role in a project, or takes it away.
///
/// # Errors
/// As [`find`] and [`Session::call`].
pub fn role(
    session: &Session,
    is_granted: bool,
    role: &str,
    user: &str,
    project: &str,
) -> Result<(), ClientError> {
    let project = id(session, Kind::Project, project)?;
    let user = id(session, Kind::User, user)?;
    let path = format!(
        "/v2.0/tenants/{}/users/{}/roles/OS-KSADM/{}",
        segment(&project),
        segment(&user),
        segment(role)
    );
    let method = if is_granted { Method::PUT } else { Method::DELETE };
    session.call(method, &path, &[], None).map(drop)
}

/// One segment of a path, or a value of a query, whatever a caller typed.
#[must_use]
pub fn segment(text: &str) -> String {
    if matches!(text, "." | "..") {
        // A path that leads elsewhere, however it is encoded by others.
        return text.replace('.', "%2E");
    }
    let mut out = Vec::with_capacity(text.len());
    percent::encode_into(&mut out, text.as_bytes());
    String::from_utf8_lossy(&out).into_owned()
}
