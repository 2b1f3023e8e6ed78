//! The people of the operator plane: the admin whom `bootstrap` made, and whoever that admin makes.

use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Value, json};

use super::{Options, Reply, TestServer, socket, wire};

pub const JSON: (&str, &str) = ("Content-Type", "application/json");

/// Whoever calls the admin listener: with a token, or with none.
#[derive(Clone)]
pub struct Caller {
    pub address: SocketAddr,
    pub token: Option<String>,
}

impl Caller {
    pub fn nobody(address: SocketAddr) -> Caller {
        Caller { address, token: None }
    }

    pub fn with(&self, token: &str) -> Caller {
        Caller { address: self.address, token: Some(token.to_owned()) }
    }

    /// The same caller at another server.
    pub fn at(&self, address: SocketAddr) -> Caller {
        Caller { address, token: self.token.clone() }
    }

    #[track_caller]
    pub fn token(&self) -> &str {
        self.token.as_deref().expect("somebody with a token")
    }

    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        let mut all: Vec<(&str, &str)> = Vec::new();
        all.extend(self.token.as_deref().map(|token| ("X-Auth-Token", token)));
        all.extend_from_slice(headers);
        wire::send(self.address, method, path, &all, body)
    }

    pub fn get(&self, path: &str) -> Reply {
        self.send("GET", path, &[], b"")
    }

    pub fn delete(&self, path: &str) -> Reply {
        self.send("DELETE", path, &[], b"")
    }

    pub fn post(&self, path: &str, body: &Value) -> Reply {
        self.send("POST", path, &[JSON], body.to_string().as_bytes())
    }

    pub fn put(&self, path: &str, body: &Value) -> Reply {
        self.send("PUT", path, &[JSON], body.to_string().as_bytes())
    }

    pub fn whoami(&self) -> Reply {
        self.get("/v1/whoami")
    }

    /// Asks whether a token is good.
    pub fn validate(&self, token: &str) -> Reply {
        self.get(&format!("/v2.0/tokens/{token}"))
    }

    pub fn revoke(&self, token: &str) -> Reply {
        self.delete(&format!("/v2.0/tokens/{token}"))
    }

    /// Logs in by name and password, to a project by its name or to none.
    pub fn login(&self, name: &str, password: &str, project: Option<&str>) -> Reply {
        let mut auth = json!({"passwordCredentials": {"username": name, "password": password}});
        if let Some(project) = project {
            auth["tenantName"] = project.into();
        }
        Caller::nobody(self.address).post("/v2.0/tokens", &json!({"auth": auth}))
    }

    /// The same, which must be let in.
    #[track_caller]
    pub fn enter(&self, name: &str, password: &str, project: Option<&str>) -> Caller {
        let reply = self.login(name, password, project);
        assert_eq!(reply.status, 200, "{}", reply.text());
        self.with(reply.json()["access"]["token"]["id"].as_str().unwrap())
    }

    pub fn create_user(&self, user: Value) -> Reply {
        self.post("/v2.0/users", &json!({"user": user}))
    }

    /// The id of a user who is made with these fields.
    #[track_caller]
    pub fn made(&self, user: Value) -> String {
        let reply = self.create_user(user);
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.json()["user"]["id"].as_str().unwrap().to_owned()
    }

    pub fn change_user(&self, id: &str, user: Value) -> Reply {
        self.put(&format!("/v2.0/users/{id}"), &json!({"user": user}))
    }

    pub fn change_password(&self, id: &str, password: &str) -> Reply {
        let path = format!("/v2.0/users/{id}/OS-KSADM/password");
        self.put(&path, &json!({"user": {"id": id, "password": password}}))
    }

    /// The id of a project that is made.
    #[track_caller]
    pub fn made_project(&self, name: &str) -> String {
        let reply = self.post("/v2.0/tenants", &json!({"tenant": {"name": name}}));
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.json()["tenant"]["id"].as_str().unwrap().to_owned()
    }

    pub fn change_project(&self, id: &str, tenant: Value) -> Reply {
        self.post(&format!("/v2.0/tenants/{id}"), &json!({"tenant": tenant}))
    }

    #[track_caller]
    pub fn grant(&self, project: &str, user: &str, role: &str) {
        let reply = self.send("PUT", &role_path(project, user, role), &[], b"");
        assert_eq!(reply.status, 204, "{}", reply.text());
    }

    #[track_caller]
    pub fn take_role(&self, project: &str, user: &str, role: &str) {
        let reply = self.delete(&role_path(project, user, role));
        assert_eq!(reply.status, 204, "{}", reply.text());
    }

    /// Somebody with this role in this project and no other, who has logged in to it.
    #[track_caller]
    pub fn person(&self, name: &str, role: &str, project: &str) -> Person {
        let password = format!("password of {name}");
        let id = self.made(json!({"name": name, "password": password}));
        self.grant(project, &id, role);
        let person = Person {
            id,
            name: name.to_owned(),
            password,
            project: project.to_owned(),
            caller: self.clone(),
        };
        Person { caller: person.enter_again(), ..person }
    }

    /// The names of all people, sorted: every user but the one that owns the nodes' tokens.
    pub fn user_names(&self) -> Vec<String> {
        let users = self.get("/v2.0/users").json();
        let users = users["users"].as_array().unwrap().iter();
        let mut names: Vec<_> = users.map(|u| u["name"].as_str().unwrap().to_owned()).collect();
        names.sort();
        let before = names.len();
        names.retain(|name| name != "node-init");
        assert_eq!(names.len(), before - 1, "node-init always exists");
        names
    }
}

pub fn role_path(project: &str, user: &str, role: &str) -> String {
    format!("/v2.0/tenants/{project}/users/{user}/roles/OS-KSADM/{role}")
}

/// A user with a password, logged in.
#[derive(Clone)]
pub struct Person {
    pub id: String,
    pub name: String,
    pub password: String,
    /// The id of the project logged in to.
    pub project: String,
    pub caller: Caller,
}

impl Person {
    pub fn login_again(&self) -> Reply {
        let credentials = json!({"username": self.name, "password": self.password});
        let auth = json!({"passwordCredentials": credentials, "tenantId": self.project});
        Caller::nobody(self.caller.address).post("/v2.0/tokens", &json!({"auth": auth}))
    }

    /// Another token of the same person.
    #[track_caller]
    pub fn enter_again(&self) -> Caller {
        let reply = self.login_again();
        assert_eq!(reply.status, 200, "{}", reply.text());
        self.caller.with(reply.json()["access"]["token"]["id"].as_str().unwrap())
    }

    pub fn token(&self) -> &str {
        self.caller.token()
    }
}

pub const ADMIN_PASSWORD: &str = "password of the admin";

/// Makes or resets the first admin, as `nodeinit bootstrap` does.
#[track_caller]
pub fn bootstrap(socket: &Path, name: &str, password: &str) {
    let body = json!({"name": name, "password": password}).to_string();
    let reply = socket::send(socket, "POST", "/v1/bootstrap", &[JSON], body.as_bytes());
    assert!(matches!(reply.status, 200 | 201), "{}", reply.text());
}

/// A server with the admin `root` in project `default`, and the projects `t1` and `t2`.
pub struct Realm {
    pub server: TestServer,
    pub admin: Caller,
    pub t1: String,
    pub t2: String,
}

impl Realm {
    pub fn start() -> Realm {
        Realm::start_with(Options::default())
    }

    pub fn start_with(options: Options) -> Realm {
        let server = TestServer::start_with(options);
        bootstrap(&server.socket, "root", ADMIN_PASSWORD);
        let admin = Caller::nobody(server.admin).enter("root", ADMIN_PASSWORD, None);
        let (t1, t2) = (admin.made_project("t1"), admin.made_project("t2"));
        Realm { server, admin, t1, t2 }
    }

    pub fn nobody(&self) -> Caller {
        Caller::nobody(self.server.admin)
    }

    /// The admin again, when the clock has moved past the first token.
    pub fn admin_again(&self) -> Caller {
        self.nobody().enter("root", ADMIN_PASSWORD, None)
    }
}

/// A refusal as Keystone has it, and nothing else in it: its message.
#[track_caller]
pub fn refused(reply: &Reply, code: u16) -> String {
    assert_eq!(reply.status, code, "{}", reply.text());
    assert_eq!(reply.header("content-type"), Some("application/json"));
    assert_eq!(reply.header("www-authenticate").is_some(), code == 401, "{reply:?}");
    let body = reply.json();
    let message = body["error"]["message"].as_str().expect("a message").to_owned();
    let title = body["error"]["title"].as_str().expect("a title");
    let whole = json!({"error": {"code": code, "title": title, "message": message}});
    assert_eq!(body, whole);
    message
}

/// The names of the roles that a token answer lists.
pub fn roles(reply: &Reply) -> Vec<String> {
    let access = reply.json();
    let roles = access["access"]["user"]["roles"].as_array().expect("roles").iter();
    roles.map(|role| role["name"].as_str().unwrap().to_owned()).collect()
}
