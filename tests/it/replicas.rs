//! What one server process takes away, the next request to any other is refused. Where only one
//! may serve a database (SQLite), that one is both, and its successor after a `kill -9` a third.

use serde_json::json;

use crate::support::process::{Home, Process};
use crate::support::realm::{Caller, Person, bootstrap, refused};

const LISTEN: [&str; 4] = ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];

/// Two processes over one database, or one where the database takes no second.
struct Replicas {
    // Dropped in this order.
    first: Process,
    second: Option<Process>,
    admin: Caller,
    t1: String,
    t2: String,
    home: Home,
    other: Home,
}

impl Replicas {
    fn start() -> Replicas {
        let (home, other) = (Home::new(), Home::without_key());
        let first = home.serve();
        let second =
            home.database.is_postgres().then(|| other.serve_beside(&home, home.database.url()));
        bootstrap(&first.socket, "root", "password of root");
        let admin = Caller::nobody(first.admin.unwrap());
        let admin = admin.enter("root", "password of root", None);
        let (t1, t2) = (admin.made_project("t1"), admin.made_project("t2"));
        Replicas { first, second, admin, t1, t2, home, other }
    }

    /// The caller at the other process.
    fn there(&self, caller: &Caller) -> Caller {
        caller.at(self.second.as_ref().unwrap_or(&self.first).admin.unwrap())
    }

    fn alice(&self) -> Person {
        self.admin.person("alice", "provisioner", &self.t1)
    }

    /// Both know the token and have it in memory.
    #[track_caller]
    fn use_on_both(&self, caller: &Caller) {
        for _ in 0..3 {
            for caller in [caller, &self.there(caller)] {
                let reply = caller.whoami();
                assert_eq!(reply.status, 200, "{}", reply.text());
                assert_eq!(caller.get("/v1/t1/nodes").status, 200);
            }
        }
    }

    /// Neither takes it, nor does one that starts anew.
    #[track_caller]
    fn assert_dead(mut self, caller: &Caller) {
        // The other first, without a moment in between.
        for caller in [&self.there(caller), caller] {
            assert_eq!(caller.whoami().status, 401);
            assert_eq!(caller.get("/v1/t1/nodes").status, 401);
            refused(&self.admin.at(caller.address).validate(caller.token()), 404);
        }
        let admin = self.admin.clone();
        if let Some(second) = self.second.take() {
            second.kill();
            let again = self.other.serve_beside(&self.home, self.home.database.url());
            self.second = Some(again);
        } else {
            self.first.signal(rustix::process::Signal::KILL);
            assert_eq!(self.first.wait(), -1);
            self.first = self.home.serve();
        }
        assert_eq!(self.there(caller).whoami().status, 401, "after a kill -9");
        assert_eq!(self.there(&admin).whoami().status, 200, "which others outlive");
    }
}

#[test]
fn a_login_on_one_is_good_on_both() {
    let replicas = Replicas::start();
    let alice = replicas.alice();
    replicas.use_on_both(&alice.caller);
    let elsewhere = replicas.there(&alice.caller).enter("alice", &alice.password, Some("t1"));
    replicas.use_on_both(&elsewhere.at(replicas.first.admin.unwrap()));
    // What is granted on one is seen on the other, in tokens that exist.
    replicas.admin.grant(&replicas.t1, &alice.id, "reader");
    let seen = replicas.there(&alice.caller).whoami().json();
    assert_eq!(seen["roles"], json!(["provisioner", "reader"]));
}

#[test]
fn a_second_server_on_one_sqlite_file_does_not_start_and_on_postgresql_does() {
    let home = Home::new();
    let first = home.serve();
    let other = Home::without_key();
    if home.database.is_postgres() {
        let second = other.serve_beside(&home, home.database.url());
        assert_eq!(second.observer().get("/readyz").status, 200);
        return;
    }
    let mut command = other.command(&["serve"]);
    command.env("NODEINIT_DATABASE_URL", home.database.url());
    command.env("NODEINIT_SECRET_KEY_FILE", home.path("secret.key"));
    command.args(LISTEN);
    let ran = crate::support::process::run(command, b"");
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains("in use by another nodeinit"), "{}", ran.err);
    assert_eq!(first.observer().get("/readyz").status, 200);
}

#[test]
fn a_revoked_token_is_refused_on_the_other_at_once() {
    let replicas = Replicas::start();
    let alice = replicas.alice().caller;
    replicas.use_on_both(&alice);
    assert_eq!(replicas.admin.revoke(alice.token()).status, 204);
    replicas.assert_dead(&alice);
}

#[test]
fn the_tokens_of_a_disabled_user_are_refused_on_the_other_at_once() {
    let replicas = Replicas::start();
    let alice = replicas.alice();
    replicas.use_on_both(&alice.caller);
    assert_eq!(replicas.admin.change_user(&alice.id, json!({"enabled": false})).status, 200);
    assert_eq!(replicas.there(&alice.caller).whoami().status, 401);
    let login = replicas.there(&alice.caller).login("alice", &alice.password, Some("t1"));
    refused(&login, 401);
    // Nor does it come back, whoever enables her.
    let there = replicas.there(&replicas.admin);
    assert_eq!(there.change_user(&alice.id, json!({"enabled": true})).status, 200);
    replicas.assert_dead(&alice.caller);
}

#[test]
fn the_tokens_of_the_demoted_are_refused_on_the_other_at_once() {
    let replicas = Replicas::start();
    let alice = replicas.alice();
    replicas.admin.grant(&replicas.t1, &alice.id, "reader");
    replicas.use_on_both(&alice.caller);
    replicas.admin.take_role(&replicas.t1, &alice.id, "provisioner");
    assert_eq!(replicas.there(&alice.caller).whoami().status, 401);
    replicas.there(&replicas.admin).grant(&replicas.t1, &alice.id, "provisioner");
    replicas.assert_dead(&alice.caller);
}

#[test]
fn tokens_from_before_a_password_change_are_refused_on_the_other_at_once() {
    let replicas = Replicas::start();
    let alice = replicas.alice();
    replicas.use_on_both(&alice.caller);
    let changed = replicas.admin.change_password(&alice.id, "another password");
    assert_eq!(changed.status, 200, "{}", changed.text());
    let there = replicas.there(&alice.caller);
    assert_eq!(there.whoami().status, 401);
    refused(&there.login("alice", &alice.password, Some("t1")), 401);
    let fresh = there.enter("alice", "another password", Some("t1"));
    replicas.use_on_both(&fresh.at(replicas.first.admin.unwrap()));
    replicas.assert_dead(&alice.caller);
}

#[test]
fn the_tokens_of_a_disabled_project_are_refused_on_the_other_at_once() {
    let replicas = Replicas::start();
    let alice = replicas.alice();
    replicas.admin.grant(&replicas.t2, &alice.id, "reader");
    let elsewhere = replicas.admin.enter("alice", &alice.password, Some("t2"));
    replicas.use_on_both(&alice.caller);
    let off = replicas.admin.change_project(&replicas.t1, json!({"enabled": false}));
    assert_eq!(off.status, 200, "{}", off.text());
    assert_eq!(replicas.there(&alice.caller).whoami().status, 401);
    assert_eq!(replicas.there(&elsewhere).whoami().status, 200, "another project");
    let there = replicas.there(&replicas.admin);
    assert_eq!(there.change_project(&replicas.t1, json!({"enabled": true})).status, 200);
    replicas.assert_dead(&alice.caller);
}

#[test]
fn the_tokens_of_a_deleted_user_are_refused_on_the_other_at_once() {
    let replicas = Replicas::start();
    let alice = replicas.alice();
    replicas.use_on_both(&alice.caller);
    assert_eq!(replicas.admin.delete(&format!("/v2.0/users/{}", alice.id)).status, 204);
    assert_eq!(replicas.there(&alice.caller).whoami().status, 401);
    refused(&replicas.there(&alice.caller).login("alice", &alice.password, Some("t1")), 401);
    replicas.assert_dead(&alice.caller);
}

#[test]
fn a_row_that_another_process_deletes_is_gone_at_the_next_request() {
    let replicas = Replicas::start();
    let alice = replicas.alice();
    replicas.use_on_both(&alice.caller);
    let delete = format!("DELETE FROM operator_tokens WHERE {}", "hash IS NOT NULL");
    replicas.home.database.execute(&delete);
    for caller in [&alice.caller, &replicas.there(&alice.caller), &replicas.admin] {
        assert_eq!(caller.whoami().status, 401);
    }
}

#[test]
fn the_bootstrap_of_one_ends_the_tokens_on_the_other() {
    let replicas = Replicas::start();
    let there = replicas.there(&replicas.admin);
    assert_eq!(there.whoami().status, 200);
    bootstrap(&replicas.first.socket, "root", "another password");
    assert_eq!(there.whoami().status, 401);
    refused(&there.login("root", "password of root", None), 401);
    assert_eq!(there.enter("root", "another password", None).whoami().status, 200);
}

#[test]
fn a_service_that_loses_its_role_opens_no_window_on_the_other() {
    let replicas = Replicas::start();
    let alice = replicas.alice();
    let deployd = replicas.admin.person("deployd", "service", &replicas.t2);
    let whoami = |caller: &Caller| {
        let headers = [("X-Service-Token", deployd.token())];
        caller.send("GET", "/v1/whoami", &headers, b"").status
    };
    let there = replicas.there(&alice.caller);
    assert_eq!((whoami(&alice.caller), whoami(&there)), (200, 200));
    replicas.admin.take_role(&replicas.t2, &deployd.id, "service");
    assert_eq!((whoami(&there), whoami(&alice.caller)), (401, 401));
}
