//! Projects over Keystone's v2.0, tokens without a project, and what the admin socket says of
//! itself.

use serde_json::{Value, json};

use crate::support::realm::{Caller, JSON, Realm, refused, role_path};
use crate::support::{Reply, socket};

fn project_names(caller: &Caller) -> Vec<String> {
    let reply = caller.get("/v2.0/tenants");
    assert_eq!(reply.status, 200, "{}", reply.text());
    let tenants = reply.json()["tenants"].as_array().unwrap().clone();
    tenants.iter().map(|t| t["name"].as_str().unwrap().to_owned()).collect()
}

fn create(caller: &Caller, tenant: Value) -> Reply {
    caller.post("/v2.0/tenants", &json!({"tenant": tenant}))
}

#[test]
fn a_project_is_made_shown_changed_and_removed() {
    let realm = Realm::start();
    let admin = &realm.admin;
    let made = create(admin, json!({"name": "blue", "description": "the blue one"}));
    assert_eq!(made.status, 200, "{}", made.text());
    let id = made.json()["tenant"]["id"].as_str().unwrap().to_owned();
    let whole = json!({
        "id": id, "name": "blue", "description": "the blue one", "enabled": true,
    });
    assert_eq!(made.json(), json!({"tenant": whole}));
    let path = format!("/v2.0/tenants/{id}");
    assert_eq!(admin.get(&path).json(), json!({"tenant": whole}));
    assert_eq!(project_names(admin), ["blue", "default", "t1", "t2"]);

    let changed = admin.change_project(&id, json!({"name": "navy", "description": null}));
    assert_eq!(changed.status, 200, "{}", changed.text());
    assert_eq!(changed.json()["tenant"]["name"], "navy");
    assert_eq!(changed.json()["tenant"]["id"], id);

    let gone = admin.delete(&path);
    assert_eq!((gone.status, gone.body.len()), (204, 0));
    refused(&admin.get(&path), 404);
    refused(&admin.delete(&path), 404);
    refused(&admin.change_project(&id, json!({"enabled": false})), 404);
    assert_eq!(project_names(admin), ["default", "t1", "t2"]);
}

#[test]
fn a_project_that_cannot_be_is_refused() {
    let realm = Realm::start();
    for wrong in [
        json!({}),
        json!({"name": ""}),
        json!({"name": "  "}),
        json!({"name": 1}),
        json!({"name": "a/b"}),
        json!({"name": "x".repeat(256)}),
        json!({"name": "x", "enabled": "true"}),
        json!({"name": "x", "enabled": null}),
        json!({"name": "x", "description": 1}),
        json!({"name": "x", "id": "abc"}),
        json!({"name": "x", "hunter2": "hunter2"}),
    ] {
        let reply = create(&realm.admin, wrong.clone());
        let message = refused(&reply, 400);
        assert!(!message.contains("hunter2"), "{message}");
    }
    for taken in ["t1", "T1", "default", "Default"] {
        refused(&create(&realm.admin, json!({"name": taken})), 409);
    }
    refused(&realm.admin.change_project(&realm.t1, json!({"name": "T2"})), 409);
    assert_eq!(project_names(&realm.admin), ["default", "t1", "t2"]);
}

#[test]
fn the_project_default_always_exists_and_one_with_nodes_is_not_removed() {
    let realm = Realm::start();
    let tenants = realm.admin.get("/v2.0/tenants").json();
    let tenants = tenants["tenants"].as_array().unwrap();
    let default = tenants.iter().find(|t| t["name"] == "default").unwrap();
    let default = default["id"].as_str().unwrap();
    refused(&realm.admin.delete(&format!("/v2.0/tenants/{default}")), 409);
    refused(&realm.admin.change_project(default, json!({"name": "other"})), 409);

    let alice = realm.admin.person("alice", "provisioner", &realm.t1).caller;
    let node = json!({"system_id": "n1", "hostname": "n1.example.com"});
    assert_eq!(alice.post("/v1/t1/nodes", &node).status, 201);
    let path = format!("/v2.0/tenants/{}", realm.t1);
    refused(&realm.admin.delete(&path), 409);
    assert_eq!(alice.whoami().status, 200, "nothing happened");
    assert_eq!(alice.delete("/v1/t1/nodes/n1").status, 204);
    assert_eq!(realm.admin.delete(&path).status, 204);
    assert_eq!(alice.whoami().status, 401);
    refused(&realm.admin.validate(alice.token()), 404);
}

#[test]
fn everybody_sees_the_projects_they_are_in_and_an_admin_all() {
    let realm = Realm::start();
    let alice = realm.admin.person("alice", "reader", &realm.t1);
    assert_eq!(project_names(&alice.caller), ["t1"]);
    realm.admin.grant(&realm.t2, &alice.id, "provisioner");
    assert_eq!(project_names(&alice.caller), ["t1", "t2"]);
    assert_eq!(project_names(&realm.admin), ["default", "t1", "t2"]);
    let unscoped = realm.nobody().enter("alice", &alice.password, None);
    assert_eq!(project_names(&unscoped), ["t1", "t2"]);
}

#[test]
fn a_token_without_a_project_is_good_for_little() {
    let realm = Realm::start();
    realm.admin.made(json!({"name": "chief", "password": "password of chief"}));
    let chief = realm.admin.get("/v2.0/users").json();
    let chief = chief["users"].as_array().unwrap().iter().find(|u| u["name"] == "chief").unwrap();
    realm.admin.grant(&realm.t1, chief["id"].as_str().unwrap(), "admin");
    let unscoped = realm.nobody().enter("chief", "password of chief", None);
    let who = unscoped.whoami();
    let expected = json!({
        "user": "chief", "project": null, "roles": [], "service": null,
        "expires_at": "2027-01-15T09:00:00Z",
    });
    assert_eq!((who.status, who.json()), (200, expected));
    assert_eq!(unscoped.validate(unscoped.token()).status, 200);
    let user = format!("/v2.0/users/{}", chief["id"].as_str().unwrap());
    for path in ["/v2.0/users", &user, "/v1/t1/nodes", "/v1/default/nodes", "/v1/tokens"] {
        let reply = unscoped.get(path);
        assert_eq!(reply.status, 401, "{path}: {}", reply.text());
    }
    refused(&unscoped.create_user(json!({"name": "mallory"})), 401);
    refused(&unscoped.change_password(chief["id"].as_str().unwrap(), "other password"), 401);
    let auth = json!({"auth": {"token": {"id": unscoped.token()}, "tenantId": realm.t1}});
    let scoped = realm.nobody().post("/v2.0/tokens", &auth);
    assert_eq!(scoped.status, 200, "{}", scoped.text());
    let scoped = unscoped.with(scoped.json()["access"]["token"]["id"].as_str().unwrap());
    assert_eq!(scoped.get("/v2.0/users").status, 200);
    // The end of one leaves the other.
    assert_eq!(unscoped.revoke(unscoped.token()).status, 204);
    assert_eq!((unscoped.whoami().status, scoped.whoami().status), (401, 200));
}

#[test]
fn a_login_says_how_in_exactly_one_way() {
    let realm = Realm::start();
    let alice = realm.admin.person("alice", "reader", &realm.t1);
    let password = json!({"username": "alice", "password": alice.password});
    for wrong in [
        json!({}),
        json!({"auth": {}}),
        json!({"auth": []}),
        json!({"auth": null}),
        json!({"auth": {"passwordCredentials": password, "token": {"id": alice.token()}}}),
        json!({"auth": {"passwordCredentials": {"username": "alice"}}}),
        json!({"auth": {"passwordCredentials": {"password": alice.password}}}),
        json!({"auth": {"passwordCredentials": {"username": 1, "password": alice.password}}}),
        json!({"auth": {"passwordCredentials": {"username": "alice", "password": ["x"]}}}),
        json!({"auth": {"passwordCredentials": "alice"}}),
        json!({"auth": {"token": {}}}),
        json!({"auth": {"token": alice.token()}}),
        json!({"auth": {"passwordCredentials": password, "tenantName": 1}}),
        json!({"auth": {"passwordCredentials": password, "tenantId": ["x"]}}),
    ] {
        let reply = realm.nobody().post("/v2.0/tokens", &wrong);
        refused(&reply, 400);
        assert!(!reply.text().contains("alice") && !reply.text().contains("nit_"), "{wrong}");
    }
    // By user id as by name.
    let by_id = json!({"userId": alice.id, "password": alice.password});
    let reply = realm.nobody().post(
        "/v2.0/tokens",
        &json!({"auth": {
            "passwordCredentials": by_id, "tenantId": realm.t1,
        }}),
    );
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.header("cache-control"), Some("no-store"));
}

#[test]
fn the_socket_is_the_admin_and_bootstrap_is_its_alone() {
    let realm = Realm::start();
    let who = socket::send(&realm.server.socket, "GET", "/v1/whoami", &[], b"");
    assert_eq!(who.status, 200, "{}", who.text());
    let who = who.json();
    let user = who["user"].as_str().unwrap();
    assert!(user.starts_with("socket uid="), "{user}");
    assert_eq!((&who["project"], &who["roles"]), (&json!(null), &json!(["admin"])));
    assert_eq!((&who["service"], &who["expires_at"]), (&json!(null), &json!(null)));

    let body = br#"{"name": "mallory", "password": "password of mallory"}"#;
    let reply = realm.admin.send("POST", "/v1/bootstrap", &[JSON], body);
    assert_eq!(reply.status, 403, "{}", reply.text());
    let reply = realm.nobody().send("POST", "/v1/bootstrap", &[JSON], body);
    assert_eq!(reply.status, 401, "{}", reply.text());
    let reply = realm.server.stranger().send("POST", "/v1/bootstrap", &[JSON], body);
    assert_eq!(reply.status, 404, "{}", reply.text());
    assert_eq!(realm.admin.user_names(), ["root"]);
}

#[test]
fn a_user_is_changed_within_the_rules_of_one_that_is_made() {
    let realm = Realm::start();
    let alice = realm.admin.person("alice", "reader", &realm.t1);
    realm.admin.made(json!({"name": "bob"}));
    let change = |user: Value| realm.admin.change_user(&alice.id, user);
    let changed = change(json!({"name": " alicia ", "email": "a@example.com"}));
    assert_eq!(changed.status, 200, "{}", changed.text());
    let user = &changed.json()["user"];
    assert_eq!((&user["name"], &user["username"]), (&json!("alicia"), &json!("alicia")));
    assert_eq!((&user["email"], &user["enabled"]), (&json!("a@example.com"), &json!(true)));
    assert_eq!(alice.caller.whoami().json()["user"], "alicia", "a new name ends nothing");
    for wrong in [
        json!({"name": ""}),
        json!({"name": "a b"}),
        json!({"enabled": "false"}),
        json!({"enabled": null}),
        json!({"id": "0123456789abcdef0123456789abcdef"}),
        json!({"hunter2": 1}),
        json!({"tenantId": ""}),
        json!({"password": "short"}),
    ] {
        refused(&change(wrong), 400);
    }
    refused(&change(json!({"name": "BOB"})), 409);
    refused(&change(json!({"tenantId": "nope"})), 404);
    let unharmed = realm.admin.get(&format!("/v2.0/users/{}", alice.id)).json();
    assert_eq!(unharmed["user"]["name"], "alicia");
    assert_eq!(alice.caller.whoami().status, 200);
    // A password may be among it, and ends the tokens as by its own route.
    assert_eq!(change(json!({"password": "password by PUT"})).status, 200);
    assert_eq!(alice.caller.whoami().status, 401);
    refused(&alice.login_again(), 401);
    assert_eq!(realm.nobody().login("alicia", "password by PUT", Some("t1")).status, 200);
}

#[test]
fn the_owner_of_the_nodes_tokens_is_nobody_who_logs_in() {
    let realm = Realm::start();
    let users = realm.admin.get("/v2.0/users").json();
    let users = users["users"].as_array().unwrap().clone();
    let owner = users.iter().find(|user| user["name"] == "node-init").unwrap();
    assert_eq!(owner["enabled"], false);
    let id = owner["id"].as_str().unwrap();
    for password in ["", "node-init", "password"] {
        refused(&realm.nobody().login("node-init", password, None), 401);
        refused(&realm.nobody().login("node-init", password, Some("default")), 401);
    }
    refused(&realm.admin.change_user(id, json!({"enabled": true})), 409);
    refused(&realm.admin.change_password(id, "good password"), 409);
    refused(&realm.admin.delete(&format!("/v2.0/users/{id}")), 409);
    let grant = realm.admin.send("PUT", &role_path(&realm.t1, id, "admin"), &[], b"");
    refused(&grant, 409);
    refused(&realm.admin.create_user(json!({"name": "Node-Init"})), 409);
    let body = br#"{"name": "node-init", "password": "good password"}"#;
    let reply = socket::send(&realm.server.socket, "POST", "/v1/bootstrap", &[JSON], body);
    assert_eq!(reply.status, 409, "{}", reply.text());
    refused(&realm.nobody().login("node-init", "good password", Some("default")), 401);
}

#[test]
fn a_name_that_a_url_would_lose_is_no_projects_name() {
    let realm = Realm::start();
    for name in [".", ".."] {
        let reply = realm.admin.post("/v2.0/tenants", &json!({"tenant": {"name": name}}));
        refused(&reply, 400);
        refused(&realm.admin.change_project(&realm.t1, json!({"name": name})), 400);
    }
    realm.admin.made_project("...");
    realm.admin.made_project(".t");
}
