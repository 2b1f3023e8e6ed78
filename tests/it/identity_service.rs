//! Service tokens and the window they open: the cases S.. of `tests/data/identity`.

use serde_json::{Value, json};

use crate::support::realm::{JSON, Person, Realm, refused, roles};
use crate::support::{Options, Reply};

const HOUR: i64 = 3600;
const WINDOW: i64 = 172_800;

/// Alice provisions in `t1`; deployd works for her from `t2`, once it has logged in.
struct Deploy {
    realm: Realm,
    alice: Person,
    deployd: Person,
}

impl Deploy {
    fn start() -> Deploy {
        Deploy::start_with(Options::default())
    }

    fn start_with(options: Options) -> Deploy {
        let realm = Realm::start_with(options);
        let alice = realm.admin.person("alice", "provisioner", &realm.t1);
        let deployd = realm.admin.person("deployd", "service", &realm.t2);
        Deploy { realm, alice, deployd }
    }

    fn advance(&self, seconds: i64) {
        self.realm.server.clock.advance(seconds);
    }

    /// A service token that is live now.
    fn service(&self) -> String {
        self.deployd.enter_again().token().to_owned()
    }

    fn whoami(&self, user: &str, service: &str) -> Reply {
        let headers = [("X-Service-Token", service)];
        self.realm.nobody().with(user).send("GET", "/v1/whoami", &headers, b"")
    }

    /// Refused, and on the nodes' routes too, where it is of use.
    #[track_caller]
    fn assert_refused(&self, user: &str, service: &str) {
        let headers = [("X-Service-Token", service)];
        for path in ["/v1/whoami", "/v1/t1/nodes", "/v2.0/tenants"] {
            let reply = self.realm.nobody().with(user).send("GET", path, &headers, b"");
            assert_eq!(reply.status, 401, "{path}: {}", reply.text());
            assert!(reply.header("www-authenticate").is_some());
            assert!(!reply.text().contains("nit_"), "{}", reply.text());
        }
    }
}

fn alice(service: Value) -> Value {
    json!({
        "user": "alice",
        "project": "t1",
        "roles": ["provisioner"],
        "service": service,
        "expires_at": "2027-01-15T09:00:00Z",
    })
}

#[test]
fn s01_a_user_token_with_a_service_token() {
    let deploy = Deploy::start();
    let reply = deploy.whoami(deploy.alice.token(), deploy.deployd.token());
    assert_eq!((reply.status, reply.json()), (200, alice(json!("deployd"))));
}

#[test]
fn s02_a_service_token_without_the_role() {
    let deploy = Deploy::start();
    for role in ["reader", "provisioner", "admin"] {
        let other = deploy.realm.admin.person(&format!("no-{role}"), role, &deploy.realm.t2);
        deploy.assert_refused(deploy.alice.token(), other.token());
    }
    deploy.assert_refused(deploy.alice.token(), deploy.alice.token());
}

#[test]
fn s03_a_garbage_service_token_with_a_good_user_token() {
    let deploy = Deploy::start();
    let well_shaped = format!("nit_{}", "A".repeat(43));
    for garbage in ["garbage", "nit_", &well_shaped] {
        deploy.assert_refused(deploy.alice.token(), garbage);
    }
    assert_eq!(deploy.alice.caller.whoami().status, 200);
    // Never one picked of two.
    let good = deploy.deployd.token();
    for pair in [[good, "garbage"], ["garbage", good], [good, good]] {
        let headers = pair.map(|token| ("X-Service-Token", token));
        let reply = deploy.alice.caller.send("GET", "/v1/whoami", &headers, b"");
        assert_eq!(reply.status, 400, "{}", reply.text());
    }
}

#[test]
fn s04_an_expired_service_token_with_a_good_user_token() {
    let deploy = Deploy::start();
    deploy.advance(HOUR);
    let fresh = deploy.alice.enter_again();
    assert_eq!(fresh.whoami().status, 200);
    deploy.assert_refused(fresh.token(), deploy.deployd.token());
}

#[test]
fn s05_a_service_token_alone() {
    let deploy = Deploy::start();
    let headers = [("X-Service-Token", deploy.deployd.token())];
    for path in ["/v1/whoami", "/v1/t2/nodes", "/v2.0/tenants"] {
        let reply = deploy.realm.nobody().send("GET", path, &headers, b"");
        assert_eq!(reply.status, 401, "{path}: {}", reply.text());
    }
    deploy.assert_refused("", deploy.deployd.token());
    assert_eq!(deploy.deployd.caller.whoami().json()["service"], json!(null), "as a user");
}

#[test]
fn s06_an_empty_service_token() {
    let deploy = Deploy::start();
    let reply = deploy.whoami(deploy.alice.token(), "");
    assert_eq!((reply.status, reply.json()), (200, alice(json!(null))));
    deploy.advance(HOUR);
    deploy.assert_refused(deploy.alice.token(), "");
}

#[test]
fn s07_an_expired_user_token_alone() {
    let deploy = Deploy::start();
    deploy.advance(HOUR);
    assert_eq!(deploy.alice.caller.whoami().status, 401);
    assert_eq!(deploy.deployd.caller.whoami().status, 401);
}

#[test]
fn s08_an_expired_user_token_inside_the_window() {
    let deploy = Deploy::start();
    let node = json!({"system_id": "n1", "hostname": "n1.example.com"});
    deploy.advance(HOUR);
    let service = deploy.service();
    let reply = deploy.whoami(deploy.alice.token(), &service);
    assert_eq!((reply.status, reply.json()), (200, alice(json!("deployd"))));
    // As the user: what she may, what she may not, and in her project.
    let send = |method: &str, path: &str, body: &Value| {
        let headers = [JSON, ("X-Service-Token", &*service)];
        deploy.alice.caller.send(method, path, &headers, body.to_string().as_bytes()).status
    };
    assert_eq!(send("POST", "/v1/t1/nodes", &node), 201);
    assert_eq!(send("POST", "/v1/t1/nodes/n1/token", &json!({})), 200);
    assert_eq!(send("POST", "/v1/t2/nodes", &node), 400);
    assert_eq!(send("GET", "/v1/tokens", &json!({})), 403);
}

#[test]
fn s09_an_expired_user_token_with_a_token_without_the_role() {
    let deploy = Deploy::start();
    deploy.advance(HOUR);
    for role in ["reader", "provisioner", "admin"] {
        let other =
            deploy.realm.admin_again().person(&format!("no-{role}"), role, &deploy.realm.t2);
        deploy.assert_refused(deploy.alice.token(), other.token());
    }
}

#[test]
fn s10_an_expired_user_token_with_an_expired_service_token() {
    let deploy = Deploy::start();
    deploy.advance(HOUR);
    deploy.assert_refused(deploy.alice.token(), deploy.deployd.token());
    deploy.assert_refused(deploy.deployd.token(), deploy.deployd.token());
}

#[test]
fn s11_past_the_window() {
    let deploy = Deploy::start();
    deploy.advance(HOUR + WINDOW - 1);
    let service = deploy.service();
    assert_eq!(deploy.whoami(deploy.alice.token(), &service).status, 200, "its last second");
    deploy.advance(1);
    deploy.assert_refused(deploy.alice.token(), &service);
    deploy.advance(HOUR * 24 * 365);
    deploy.assert_refused(deploy.alice.token(), &deploy.service());
}

#[test]
fn s12_past_the_window_but_seen_before() {
    let deploy = Deploy::start();
    assert_eq!(deploy.alice.caller.whoami().status, 200, "seen while live");
    deploy.advance(HOUR + WINDOW - 60);
    let service = deploy.service();
    for _ in 0..3 {
        assert_eq!(deploy.whoami(deploy.alice.token(), &service).status, 200, "and in the window");
    }
    deploy.advance(60);
    deploy.assert_refused(deploy.alice.token(), &service);
}

#[test]
fn s13_revoked_before_its_expiry() {
    let deploy = Deploy::start();
    let other = deploy.alice.enter_again();
    assert_eq!(deploy.realm.admin.revoke(deploy.alice.token()).status, 204);
    deploy.advance(HOUR);
    let service = deploy.service();
    deploy.assert_refused(deploy.alice.token(), &service);
    assert_eq!(deploy.whoami(other.token(), &service).status, 200);
    // Nor is one past its expiry past being revoked.
    assert_eq!(deploy.realm.admin_again().revoke(other.token()).status, 204);
    deploy.assert_refused(other.token(), &service);
}

#[test]
fn s14_the_user_is_disabled_in_the_window() {
    let deploy = Deploy::start();
    deploy.advance(HOUR);
    let service = deploy.service();
    assert_eq!(deploy.whoami(deploy.alice.token(), &service).status, 200);
    let admin = deploy.realm.admin_again();
    assert_eq!(admin.change_user(&deploy.alice.id, json!({"enabled": false})).status, 200);
    deploy.assert_refused(deploy.alice.token(), &service);
    assert_eq!(admin.change_user(&deploy.alice.id, json!({"enabled": true})).status, 200);
    deploy.assert_refused(deploy.alice.token(), &service);
}

#[test]
fn s15_a_role_is_removed_in_the_window() {
    let deploy = Deploy::start();
    deploy.advance(HOUR);
    let service = deploy.service();
    assert_eq!(deploy.whoami(deploy.alice.token(), &service).status, 200);
    let admin = deploy.realm.admin_again();
    admin.take_role(&deploy.realm.t1, &deploy.alice.id, "provisioner");
    deploy.assert_refused(deploy.alice.token(), &service);
    admin.grant(&deploy.realm.t1, &deploy.alice.id, "provisioner");
    deploy.assert_refused(deploy.alice.token(), &service);
    // The service's own role is as live.
    let fresh = deploy.alice.enter_again();
    assert_eq!(deploy.whoami(fresh.token(), &service).status, 200);
    admin.take_role(&deploy.realm.t2, &deploy.deployd.id, "service");
    deploy.assert_refused(fresh.token(), &service);
}

#[test]
fn s16_a_garbage_user_token_with_a_service_token() {
    let deploy = Deploy::start();
    let well_shaped = format!("nit_{}", "A".repeat(43));
    for garbage in ["garbage", "nit_", &well_shaped] {
        deploy.assert_refused(garbage, deploy.deployd.token());
    }
}

#[test]
fn s17_allow_expired_on_validation() {
    let deploy = Deploy::start();
    let token = deploy.alice.token();
    deploy.advance(HOUR);
    let admin = deploy.realm.admin_again();
    let service = deploy.deployd.enter_again();
    let path = |query: &str| format!("/v2.0/tokens/{token}{query}");
    for caller in [&admin, &service] {
        for yes in ["?allow_expired=1", "?allow_expired=true"] {
            let reply = caller.get(&path(yes));
            assert_eq!(reply.status, 200, "{yes}: {}", reply.text());
            let access = &reply.json()["access"];
            assert_eq!(access["user"]["name"], "alice");
            assert_eq!(access["token"]["expires"], "2027-01-15T09:00:00Z");
            assert_eq!(roles(&reply), ["provisioner"]);
        }
        for no in ["?allow_expired=0", "?allow_expired=", "?allow_expired=false", ""] {
            refused(&caller.get(&path(no)), 404);
        }
    }
    refused(&deploy.alice.caller.get(&path("?allow_expired=1")), 401);
    // Nor may an admin whose own token a service carries on.
    let headers = [("X-Service-Token", service.token())];
    let carried = deploy.realm.admin.send("GET", &path("?allow_expired=1"), &headers, b"");
    refused(&carried, 404);
    // Fresh again, she may ask for her own, but not for this.
    let fresh = deploy.alice.enter_again().get(&path("?allow_expired=1"));
    assert!(matches!(fresh.status, 403 | 404), "{}", fresh.text());
    deploy.advance(WINDOW - 1);
    let late = deploy.realm.admin_again();
    assert_eq!(late.get(&path("?allow_expired=1")).status, 200);
    deploy.advance(1);
    refused(&late.get(&path("?allow_expired=1")), 404);
}

#[test]
fn s18_what_the_window_may_not_do() {
    let deploy = Deploy::start();
    let realm = &deploy.realm;
    realm.admin.grant(&realm.t2, &deploy.alice.id, "reader");
    let chief = realm.admin.person("chief", "admin", &realm.t1);
    deploy.advance(HOUR);
    let service = deploy.service();
    let send = |who: &str, method: &str, path: &str, body: &Value| {
        let headers = [JSON, ("X-Service-Token", &*service)];
        let body = if body.is_null() { String::new() } else { body.to_string() };
        realm.nobody().with(who).send(method, path, &headers, body.as_bytes())
    };
    let (user, admin) = (deploy.alice.token(), chief.token());
    assert_eq!(send(admin, "GET", "/v1/whoami", &json!(null)).status, 200, "in the window");
    assert_eq!(send(admin, "GET", "/v2.0/users", &json!(null)).status, 200, "to look is no change");

    let rescope = json!({"auth": {"token": {"id": user}, "tenantName": "t2"}});
    refused(&send(user, "POST", "/v2.0/tokens", &rescope), 401);
    refused(&realm.nobody().post("/v2.0/tokens", &rescope), 401);
    let made = json!({"user": {"name": "mallory"}});
    refused(&send(admin, "POST", "/v2.0/users", &made), 403);
    let password = json!({"user": {"id": deploy.alice.id, "password": "stolen password"}});
    let own = format!("/v2.0/users/{}/OS-KSADM/password", deploy.alice.id);
    for who in [user, admin] {
        refused(&send(who, "PUT", &own, &password), 403);
    }
    // Nor any other change of identity.
    let alice = format!("/v2.0/users/{}", deploy.alice.id);
    let role = format!("/v2.0/tenants/{}/users/{}/roles/OS-KSADM", realm.t1, deploy.alice.id);
    let tenant = format!("/v2.0/tenants/{}", realm.t2);
    for (method, path, body) in [
        ("PUT", &*alice, json!({"user": {"enabled": false}})),
        ("DELETE", &*alice, json!(null)),
        ("POST", "/v2.0/tenants", json!({"tenant": {"name": "t3"}})),
        ("POST", &*tenant, json!({"tenant": {"enabled": false}})),
        ("DELETE", &*tenant, json!(null)),
        ("PUT", &*format!("{role}/admin"), json!(null)),
        ("DELETE", &*format!("{role}/provisioner"), json!(null)),
    ] {
        refused(&send(admin, method, path, &body), 403);
    }
    assert_eq!(deploy.alice.login_again().status, 200);
    assert_eq!(realm.admin_again().user_names(), ["alice", "chief", "deployd", "root"]);
}

#[test]
fn s19_a_window_of_0() {
    for zero in ["0", "0s"] {
        let deploy = Deploy::start_with(Options::default().flag("service-token-window", zero));
        assert_eq!(deploy.whoami(deploy.alice.token(), deploy.deployd.token()).status, 200);
        deploy.advance(HOUR);
        let service = deploy.service();
        deploy.assert_refused(deploy.alice.token(), &service);
        let path = format!("/v2.0/tokens/{}?allow_expired=1", deploy.alice.token());
        refused(&deploy.realm.admin_again().get(&path), 404);
    }
    let deploy = Deploy::start_with(Options::default().flag("service-token-window", "10m"));
    deploy.advance(HOUR + 599);
    let service = deploy.service();
    assert_eq!(deploy.whoami(deploy.alice.token(), &service).status, 200);
    deploy.advance(1);
    deploy.assert_refused(deploy.alice.token(), &service);
}

#[test]
fn s20_what_the_service_may_does_not_colour_the_user() {
    let deploy = Deploy::start();
    let realm = &deploy.realm;
    realm.admin.grant(&realm.t2, &deploy.deployd.id, "admin");
    let headers = [("X-Service-Token", deploy.deployd.token()), ("OpenStack-System-Scope", "all")];
    let reply = deploy.alice.caller.send("GET", "/v1/whoami", &headers, b"");
    assert_eq!((reply.status, reply.json()), (200, alice(json!("deployd"))));
    refused(&deploy.alice.caller.send("GET", "/v2.0/users", &headers, b""), 403);
    let reply = deploy.alice.caller.send("GET", "/v1/t2/nodes", &headers, b"");
    assert_eq!(reply.status, 400, "{}", reply.text());
    deploy.advance(HOUR);
    let service = deploy.service();
    assert_eq!(deploy.whoami(deploy.alice.token(), &service).json(), alice(json!("deployd")));
}
