//! What a client says of itself beside its token counts for nothing: the cases H.. of
//! `tests/data/identity`.

use serde_json::{Value, json};

use crate::support::Reply;
use crate::support::plane::without_names;
use crate::support::realm::{Caller, Realm, refused, roles};

/// Whatever the middlewares of the field set for the services behind them, and their kin.
pub const SPOOFED: [(&str, &str); 22] = [
    ("X-Identity-Status", "Confirmed"),
    ("X-Service-Identity-Status", "Confirmed"),
    ("X-Roles", "admin"),
    ("X-Role", "admin"),
    ("X-Service-Roles", "admin,service"),
    ("X-User-Id", "root"),
    ("X-User-Name", "root"),
    ("X-User", "root"),
    ("X-User-Domain-Id", "default"),
    ("X-Tenant-Id", "default"),
    ("X-Tenant-Name", "default"),
    ("X-Tenant", "default"),
    ("X-Project-Id", "default"),
    ("X-Project-Name", "default"),
    ("X-Domain-Id", "default"),
    ("X-Is-Admin-Project", "True"),
    ("X-Is-Admin", "True"),
    ("X-Service-User-Name", "deployd"),
    ("X-Service-Project-Id", "default"),
    ("X-Service-Catalog", "[]"),
    ("OpenStack-System-Scope", "all"),
    ("X-Authorization", "Proxy root"),
];

/// The same in every spelling that a gateway might take for the same.
pub fn spoofed_in_every_spelling() -> Vec<(String, &'static str)> {
    let mut all = Vec::new();
    for (name, value) in SPOOFED {
        let names = [name.to_owned(), name.replace('-', "_"), name.to_lowercase()];
        all.extend(names.into_iter().map(|name| (name, value)));
        all.push((name.to_uppercase().replace('-', "_"), value));
    }
    all
}

fn with_all(caller: &Caller, path: &str) -> Reply {
    let all = spoofed_in_every_spelling();
    let headers: Vec<(&str, &str)> = all.iter().map(|(name, value)| (&**name, *value)).collect();
    // In two halves, to stay within what a request's headers may weigh.
    let (first, second) = headers.split_at(headers.len() / 2);
    let replies = [first, second].map(|half| without_names(caller.send("GET", path, half, b"")));
    assert_eq!(replies[0], replies[1]);
    let [reply, _] = replies;
    reply
}

fn alice_is(project: &str) -> Value {
    json!({
        "user": "alice",
        "project": project,
        "roles": ["reader"],
        "service": null,
        "expires_at": "2027-01-15T09:00:00Z",
    })
}

#[test]
fn h01_identity_headers_with_a_valid_token() {
    let realm = Realm::start();
    let alice = realm.admin.person("alice", "reader", &realm.t1).caller;
    assert_eq!(alice.whoami().json(), alice_is("t1"));
    for (name, value) in SPOOFED {
        let reply = alice.send("GET", "/v1/whoami", &[(name, value)], b"");
        assert_eq!((reply.status, reply.json()), (200, alice_is("t1")), "{name}");
    }
    let reply = with_all(&alice, "/v1/whoami");
    assert_eq!((reply.status, reply.json()), (200, alice_is("t1")));
    assert_eq!(with_all(&alice, "/v2.0/users").status, 403);
    assert_eq!(with_all(&alice, "/v1/t1/nodes").status, 200);
    assert_eq!(with_all(&alice, "/v1/default/nodes").status, 400);
    assert_eq!(with_all(&alice, "/v1/tokens").status, 403);
}

#[test]
fn h02_identity_headers_without_a_token() {
    let realm = Realm::start();
    for path in ["/v1/whoami", "/v2.0/users", "/v2.0/tenants", "/v1/default/nodes", "/v1/tokens"] {
        let reply = with_all(&realm.nobody(), path);
        assert_eq!(reply.status, 401, "{path}: {}", String::from_utf8_lossy(&reply.body));
        assert_eq!(reply, without_names(realm.nobody().get(path)), "{path}");
    }
}

#[test]
fn h03_identity_headers_on_an_anonymous_route() {
    let realm = Realm::start();
    for path in ["/healthz", "/readyz", "/version"] {
        let reply = with_all(&realm.nobody(), path);
        assert_eq!(reply.status, 200, "{path}");
        assert_eq!(reply, without_names(realm.nobody().get(path)), "{path}");
        assert_eq!(reply, without_names(realm.admin.get(path)), "{path}");
    }
    let node = realm.server.node("n1");
    let spoofed: Vec<(&str, &str)> =
        SPOOFED.into_iter().chain([("X-Auth-Token", realm.admin.token())]).collect();
    let reply = node.send("GET", "/latest/meta-data/instance-id", &spoofed, b"");
    assert_eq!(reply.brief(), (401, "credentials_missing".into()), "the node plane");
}

#[test]
fn h04_the_underscore_spelling() {
    let realm = Realm::start();
    let alice = realm.admin.person("alice", "reader", &realm.t1).caller;
    for (name, value) in SPOOFED {
        let name = name.replace('-', "_");
        let reply = alice.send("GET", "/v1/whoami", &[(&name, value)], b"");
        assert_eq!((reply.status, reply.json()), (200, alice_is("t1")), "{name}");
    }
    // Nor is a token one in that spelling, or in the CGI one.
    for name in ["X_Auth_Token", "HTTP_X_AUTH_TOKEN", "X-Auth_Token"] {
        let reply = realm.nobody().send("GET", "/v1/whoami", &[(name, alice.token())], b"");
        assert_eq!(reply.status, 401, "{name}");
    }
}

#[test]
fn h06_x_storage_token() {
    let realm = Realm::start();
    let token = realm.admin.token();
    for path in ["/v1/whoami", "/v2.0/users"] {
        let reply = realm.nobody().send("GET", path, &[("X-Storage-Token", token)], b"");
        assert_eq!(reply.status, 401, "{path}");
    }
    let beside = realm.admin.send("GET", "/v1/whoami", &[("X-Storage-Token", "garbage")], b"");
    assert_eq!(beside.status, 200, "it is not looked at");
}

/// The `auth_token` middleware of Essex, as far as the identity service sees it.
struct AuthToken {
    door: Caller,
    user: &'static str,
    password: String,
    admin_token: Option<String>,
    logins: usize,
}

/// What it sets for the service behind it.
#[derive(Debug, PartialEq, Eq)]
struct Confirmed {
    user_id: String,
    user_name: String,
    tenant_id: String,
    tenant_name: String,
    roles: String,
}

impl AuthToken {
    const HEADERS: [(&str, &str); 2] =
        [("Content-type", "application/json"), ("Accept", "application/json")];

    fn admin_token(&mut self) -> String {
        if self.admin_token.is_none() {
            let credentials = json!({"username": self.user, "password": self.password});
            let body = json!({"auth": {"passwordCredentials": credentials, "tenantName": "t2"}});
            let body = body.to_string();
            let reply = self.door.send("POST", "/v2.0/tokens", &Self::HEADERS, body.as_bytes());
            let access = reply.json();
            let token = access["access"]["token"]["id"].as_str().expect("a token").to_owned();
            self.logins += 1;
            self.admin_token = Some(token);
        }
        self.admin_token.clone().unwrap()
    }

    fn validate(&mut self, token: &str, belongs_to: &str) -> Option<Confirmed> {
        for _ in 0..2 {
            let token_of_its_own = self.admin_token();
            let admin = self.door.with(&token_of_its_own);
            let path = format!("/v2.0/tokens/{token}{belongs_to}");
            let reply = admin.send("GET", &path, &Self::HEADERS, b"");
            match reply.status {
                200 => return Some(Self::confirmed(&reply)),
                404 => return None,
                401 => self.admin_token = None,
                other => panic!("{other}: {}", reply.text()),
            }
        }
        None
    }

    fn confirmed(reply: &Reply) -> Confirmed {
        let access = reply.json()["access"].clone();
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        let (token, user) = (&access["token"], &access["user"]);
        let expires = text(&token["expires"]);
        jiff::civil::DateTime::strptime("%Y-%m-%dT%H:%M:%SZ", &expires).expect("its one format");
        Confirmed {
            user_id: text(&user["id"]),
            user_name: text(&user["name"]),
            tenant_id: text(&token["tenant"]["id"]),
            tenant_name: text(&token["tenant"]["name"]),
            roles: roles(reply).join(","),
        }
    }
}

#[test]
fn h07_the_essex_middleware_against_our_tokens() {
    let realm = Realm::start();
    let alice = realm.admin.person("alice", "provisioner", &realm.t1);
    let nova = realm.admin.person("nova", "service", &realm.t2);
    let mut middleware = AuthToken {
        door: realm.nobody(),
        user: "nova",
        password: nova.password.clone(),
        admin_token: None,
        logins: 0,
    };
    let confirmed = Confirmed {
        user_id: alice.id.clone(),
        user_name: "alice".into(),
        tenant_id: realm.t1.clone(),
        tenant_name: "t1".into(),
        roles: "provisioner".into(),
    };
    let own = format!("?belongsTo={}", realm.t1);
    let validated = middleware.validate(alice.token(), "");
    assert_eq!(validated.as_ref(), Some(&confirmed));
    assert_eq!(middleware.validate(alice.token(), &own), validated);
    assert_eq!(middleware.validate("garbage", ""), None);
    assert_eq!(middleware.logins, 1);

    // Its own token ends: it takes another, once, and the user notices nothing.
    assert_eq!(realm.admin.revoke(&middleware.admin_token()).status, 204);
    assert_eq!(middleware.validate(alice.token(), &own), validated);
    assert_eq!(middleware.logins, 2);

    assert_eq!(realm.admin.revoke(alice.token()).status, 204);
    assert_eq!(middleware.validate(alice.token(), &own), None);
    assert_eq!(middleware.logins, 2);
}

#[test]
fn h09_the_identity_store_is_down() {
    let realm = Realm::start();
    let alice = realm.admin.person("alice", "reader", &realm.t1);
    assert_eq!(alice.caller.whoami().status, 200, "its answer is in memory");
    for table in ["users", "operator_tokens", "grants", "meta"] {
        realm.server.database.execute(&format!("ALTER TABLE {table} RENAME TO {table}_away"));
    }
    for path in ["/v1/whoami", "/v1/t1/nodes", "/v2.0/tenants", "/v1/tokens"] {
        let stranger = format!("nit_{}", "A".repeat(43));
        for caller in [&alice.caller, &realm.admin, &realm.nobody().with(&stranger)] {
            let reply = caller.get(path);
            assert_eq!(reply.status, 503, "{path}: {}", reply.text());
            assert!(reply.header("retry-after").is_some(), "{path}");
        }
        assert_eq!(realm.nobody().get(path).status, 401, "what needs no store: {path}");
    }
    refused(&alice.login_again(), 503);
    refused(&realm.nobody().login("mallory", "some password", None), 503);
}

#[test]
fn h10_the_project_in_the_url_is_not_the_tokens() {
    let realm = Realm::start();
    let alice = realm.admin.person("alice", "provisioner", &realm.t1).caller;
    let node = json!({"system_id": "n1", "hostname": "n1.example.com"});
    assert_eq!(alice.post("/v1/t1/nodes", &node).status, 201);
    let malformed = |caller: &Caller, path: &str| {
        let reply = caller.get(path);
        assert_eq!(reply.status, 400, "{path}: {}", reply.text());
        assert_eq!(reply.header("content-type"), Some("application/problem+json"));
        assert_eq!(reply.json()["detail"], "Malformed request url", "{path}");
    };
    let t2 = &realm.t2;
    for path in ["/v1/t2/nodes", &format!("/v1/{t2}/nodes"), "/v1/nope/nodes", "/v1/T1/nodes"] {
        malformed(&alice, path);
        malformed(&realm.admin, path);
    }
    malformed(&realm.admin, "/v1/t1/nodes/n1");
    malformed(&realm.admin, "/v1/t1/nodes/nope");
    malformed(&realm.admin, "/v1/t1/nodes/n1/user-data");
    for path in ["/v1/t1/nodes", &format!("/v1/{}/nodes", realm.t1)] {
        assert_eq!(alice.get(path).status, 200, "by name and by id");
    }
    assert_eq!(realm.admin.get("/v1/default/nodes").status, 200);
    let there = realm.nobody();
    assert_eq!(there.get("/v1/t2/nodes").status, 401, "401 comes first");
    assert_eq!(realm.server.operator().session.get("/v1/t1/nodes/n1").unwrap()["system_id"], "n1");
}

#[test]
fn headers_of_more_than_8_kib_are_431_on_the_operator_plane_too() {
    let realm = Realm::start();
    let long = "x".repeat(8 << 10);
    for path in ["/v1/whoami", "/v2.0/users", "/v1/openapi.json", "/healthz", "/nowhere"] {
        let reply = realm.admin.send("GET", path, &[("X-Long", &long)], b"");
        assert_eq!(reply.status, 431, "{path}: {}", reply.text());
        assert!(!reply.text().contains("xxxx"), "{path}");
    }
    let reply = realm.admin.send("GET", "/v1/whoami", &[("X-Long", &long[..7000])], b"");
    assert_eq!(reply.status, 200, "{}", reply.text());
}
