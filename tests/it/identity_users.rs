//! Create-user, case by case, each test named after its id in `tests/data/identity`.

use serde_json::{Value, json};

use crate::support::realm::{Realm, refused, roles};
use crate::support::{Reply, wire};

/// A create-user body by an admin, given as it goes over the wire.
fn post(realm: &Realm, body: &str) -> Reply {
    let headers = [
        ("Content-Type", "application/json"),
        ("X-Auth-Token", realm.admin.token()),
        ("Accept", "*/*"),
        ("User-Agent", "curl/7.88.1"),
    ];
    wire::send(realm.server.admin, "POST", "/v2.0/users", &headers, body.as_bytes())
}

/// 400 with a message that names these fields and repeats nothing; no user is made.
#[track_caller]
fn assert_invalid(realm: &Realm, user: Value, named: &[&str]) -> String {
    let before = realm.admin.user_names();
    let reply = realm.admin.create_user(user.clone());
    let message = refused(&reply, 400);
    for field in named {
        assert!(message.to_lowercase().contains(&field.to_lowercase()), "{field}: {message}");
    }
    for value in user.as_object().unwrap().values() {
        if let Some(text) = value.as_str().filter(|text| text.len() > 3) {
            assert!(!reply.text().contains(text), "{message}");
        }
    }
    assert_eq!(realm.admin.user_names(), before);
    message
}

#[track_caller]
fn created(reply: &Reply) -> Value {
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.header("content-type"), Some("application/json"));
    reply.json()["user"].clone()
}

#[test]
fn u01_the_sources_own_curl_body() {
    let realm = Realm::start();
    let body = r#"{"user": {"name": "thuanqin", "OS-KSADM:password": "password", "enabled": true, "tenantId": "{t1}", "email": "e@example.com"}}"#;
    let reply = post(&realm, &body.replace("{t1}", &realm.t1));
    let user = created(&reply);
    let id = user["id"].as_str().unwrap();
    assert_eq!(id.len(), 32, "{id}");
    assert!(id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')), "{id}");
    let whole = json!({
        "id": id,
        "name": "thuanqin",
        "username": "thuanqin",
        "enabled": true,
        "tenantId": realm.t1,
        "email": "e@example.com",
    });
    assert_eq!(user, whole);
    assert_eq!(reply.json(), json!({"user": whole}));
    for secret in ["password", "argon2", "hash", "domain_id"] {
        assert!(!reply.text().contains(secret), "{}", reply.text());
    }
    assert_eq!(realm.admin.get(&format!("/v2.0/users/{id}")).json(), json!({"user": whole}));
}

#[test]
fn u02_the_new_user_can_log_in_to_the_default_project() {
    let realm = Realm::start();
    let user = json!({"name": "thuanqin", "OS-KSADM:password": "password", "tenantId": realm.t1});
    let id = realm.admin.made(user);
    for project in [Some("t1"), None] {
        let reply = realm.nobody().login("thuanqin", "password", project);
        assert_eq!(reply.status, 200, "{}", reply.text());
        let access = &reply.json()["access"];
        assert_eq!(access["token"]["tenant"]["id"], realm.t1);
        assert_eq!(access["token"]["tenant"]["name"], "t1");
        assert_eq!(access["token"]["expires"], "2027-01-15T09:00:00Z");
        assert_eq!(access["user"]["id"], id);
        assert_eq!(access["user"]["name"], "thuanqin");
        assert_eq!(roles(&reply), ["reader"]);
    }
}

#[test]
fn u08_both_password_spellings_with_different_values() {
    let realm = Realm::start();
    let user =
        json!({"name": "x", "password": "first password", "OS-KSADM:password": "other password"});
    let message = assert_invalid(&realm, user, &["OS-KSADM:password"]);
    let rest = message.replace("OS-KSADM:password", "");
    assert!(rest.contains("password"), "both fields: {message}");
}

#[test]
fn u09_both_spellings_with_the_same_value() {
    let realm = Realm::start();
    realm.admin.made(json!({
        "name": "x", "password": "same password", "OS-KSADM:password": "same password",
    }));
    assert_eq!(realm.nobody().login("x", "same password", None).status, 200);
}

#[test]
fn u10_username_instead_of_name() {
    let realm = Realm::start();
    let user = created(&post(&realm, r#"{"user": {"username": "x"}}"#));
    assert_eq!((&user["name"], &user["username"]), (&json!("x"), &json!("x")));
}

#[test]
fn u11_name_and_username_differ() {
    let realm = Realm::start();
    assert_invalid(&realm, json!({"name": "a", "username": "b"}), &["name", "username"]);
    let same = json!({"name": "a", "username": "a"});
    assert_eq!(created(&realm.admin.create_user(same))["name"], "a");
}

#[test]
fn u12_an_empty_name_with_a_username() {
    let realm = Realm::start();
    let message = assert_invalid(&realm, json!({"name": "", "username": "b"}), &[]);
    assert!(message.contains("Name field is required and cannot be empty"), "{message}");
}

#[test]
fn u13_an_unknown_field() {
    let realm = Realm::start();
    let user = json!({"name": "x", "foo-bar": 1});
    let reply = realm.admin.create_user(user);
    let message = refused(&reply, 400);
    assert!(message.contains("known"), "{message}");
    assert_eq!(realm.admin.user_names(), ["root"]);
    // Beside those of the user there may be no others either.
    refused(&post(&realm, r#"{"user": {"name": "x"}, "foo-bar": 1}"#), 400);
    assert_eq!(realm.admin.user_names(), ["root"]);
}

#[test]
fn u15_an_empty_name() {
    let realm = Realm::start();
    let message = assert_invalid(&realm, json!({"name": ""}), &["name"]);
    assert!(message.contains("Name field is required and cannot be empty"), "{message}");
    // Missing and null are as empty.
    assert_invalid(&realm, json!({"email": "e@example.com"}), &["name"]);
    assert_invalid(&realm, json!({"name": null}), &["name"]);
}

#[test]
fn u17_a_blank_name() {
    assert_invalid(&Realm::start(), json!({"name": "   "}), &["name"]);
}

#[test]
fn u18_a_number_as_name() {
    assert_invalid(&Realm::start(), json!({"name": 123}), &["name"]);
}

#[test]
fn u19_a_list_as_name() {
    assert_invalid(&Realm::start(), json!({"name": ["a"]}), &["name"]);
}

#[test]
fn u20_a_name_of_256_characters() {
    assert_invalid(&Realm::start(), json!({"name": "x".repeat(256)}), &["name"]);
}

#[test]
fn u21_a_name_of_255_characters() {
    let realm = Realm::start();
    let name = "x".repeat(255);
    assert_eq!(created(&realm.admin.create_user(json!({"name": name})))["name"], name);
}

#[test]
fn u22_a_name_with_blanks_around_it() {
    let realm = Realm::start();
    let user = created(&post(&realm, r#"{"user": {"name": "  bob "}}"#));
    assert_eq!((&user["name"], &user["username"]), (&json!("bob"), &json!("bob")));
    assert_eq!(realm.admin.user_names(), ["bob", "root"]);
    // The blanks are not counted.
    let padded = format!("  {} ", "x".repeat(255));
    assert_eq!(realm.admin.create_user(json!({"name": padded})).status, 200);
}

#[track_caller]
fn assert_no_boolean(enabled: &str) {
    let realm = Realm::start();
    let reply = post(&realm, &format!(r#"{{"user": {{"name": "x", "enabled": {enabled}}}}}"#));
    let message = refused(&reply, 400);
    assert!(message.contains("Enabled field must be a boolean"), "{message}");
    assert_eq!(realm.admin.user_names(), ["root"]);
}

#[test]
fn u23_enabled_as_the_text_true() {
    assert_no_boolean(r#""true""#);
}

#[test]
fn u24_enabled_as_1() {
    assert_no_boolean("1");
}

#[test]
fn u25_enabled_as_0() {
    assert_no_boolean("0");
}

#[test]
fn u26_enabled_as_null() {
    assert_no_boolean("null");
}

#[test]
fn u27_enabled_as_empty_text() {
    assert_no_boolean(r#""""#);
}

#[test]
fn u28_enabled_false() {
    let realm = Realm::start();
    let user =
        json!({"name": "x", "password": "good password", "enabled": false, "tenantId": realm.t1});
    assert_eq!(created(&realm.admin.create_user(user))["enabled"], false);
    refused(&realm.nobody().login("x", "good password", Some("t1")), 401);
}

#[test]
fn u29_enabled_left_out() {
    let realm = Realm::start();
    let user = json!({"name": "x", "password": "good password"});
    assert_eq!(created(&realm.admin.create_user(user))["enabled"], true);
    assert_eq!(realm.nobody().login("x", "good password", None).status, 200);
}

#[test]
fn u31_tenant_id_null() {
    let realm = Realm::start();
    let user = json!({"name": "x", "password": "good password", "tenantId": null});
    let user = created(&realm.admin.create_user(user));
    assert!(user["tenantId"].is_null(), "{user}");
    let access = realm.nobody().login("x", "good password", None).json()["access"].clone();
    assert!(access["token"]["tenant"].is_null(), "{access}");
    refused(&realm.nobody().login("x", "good password", Some("t1")), 401);
}

#[test]
fn u32_tenant_id_as_empty_text() {
    let realm = Realm::start();
    assert_invalid(&realm, json!({"name": "x", "tenantId": ""}), &["tenantId"]);
    // One that nobody has is not found, and nothing is written.
    for unknown in ["nope", "0123456789abcdef0123456789abcdef", "t1"] {
        let reply = realm.admin.create_user(json!({"name": "x", "tenantId": unknown}));
        let message = refused(&reply, 404);
        assert!(!message.contains(unknown), "{message}");
    }
    assert_eq!(realm.admin.user_names(), ["root"]);
}

#[test]
fn u33_a_duplicate_name() {
    let realm = Realm::start();
    let first =
        json!({"name": "thuanqin", "password": "password one", "email": "first@example.com"});
    let id = realm.admin.made(first);
    let second =
        json!({"name": "thuanqin", "password": "password two", "email": "second@example.com"});
    let reply = realm.admin.create_user(second);
    refused(&reply, 409);
    let said = reply.text().to_lowercase();
    for leak in
        ["insert", "unique", "constraint", "users.", "argon2", "$", "example.com", "password"]
    {
        assert!(!said.contains(leak), "{leak}: {said}");
    }
    assert!(!said.contains(&id) && !said.contains("thuanqin"), "{said}");
    assert_eq!(realm.nobody().login("thuanqin", "password one", None).status, 200);
    assert_eq!(realm.nobody().login("thuanqin", "password two", None).status, 401);
}

#[test]
fn u34_a_duplicate_that_differs_only_in_case() {
    let realm = Realm::start();
    realm.admin.made(json!({"name": "thuanqin"}));
    refused(&realm.admin.create_user(json!({"name": "THUANQIN"})), 409);
    assert_eq!(realm.admin.user_names(), ["root", "thuanqin"]);
}

#[test]
fn u35_an_id_chosen_by_the_client() {
    assert_invalid(&Realm::start(), json!({"id": "abc", "name": "x"}), &["id"]);
}

#[test]
fn u36_no_password() {
    let realm = Realm::start();
    realm.admin.made(json!({"name": "x", "tenantId": realm.t1}));
    for password in ["", "password", "null", "None", "x"] {
        refused(&realm.nobody().login("x", password, Some("t1")), 401);
    }
}

#[test]
fn u38_a_password_of_1025_bytes() {
    let realm = Realm::start();
    let password = |n: usize| json!({"name": format!("x{n}"), "password": "p".repeat(n)});
    assert_invalid(&realm, password(1025), &["password"]);
    assert_invalid(&realm, password(7), &["password"]);
    // Bytes are counted, not characters.
    assert_invalid(&realm, json!({"name": "e", "password": "é".repeat(513)}), &["password"]);
    for length in [8, 1024] {
        realm.admin.made(password(length));
        let reply = realm.nobody().login(&format!("x{length}"), &"p".repeat(length), None);
        assert_eq!(reply.status, 200, "{length}: {}", reply.text());
    }
}

#[test]
fn u39_long_passwords_are_compared_whole() {
    let realm = Realm::start();
    realm.admin.made(json!({"name": "x", "password": "x".repeat(80)}));
    let login = |password: String| realm.nobody().login("x", &password, None).status;
    assert_eq!(login("x".repeat(72)), 401);
    assert_eq!(login("x".repeat(72) + "and more"), 401);
    assert_eq!(login("x".repeat(80)), 200);
}

#[test]
fn u40_control_or_bidi_characters_in_a_name() {
    let realm = Realm::start();
    for name in ["a\nb", "a\u{202e}b", "a\u{0}b", "a\u{7f}b", "a b", "a/b", "ünter"] {
        assert_invalid(&realm, json!({"name": name}), &["name"]);
    }
    assert_eq!(realm.admin.create_user(json!({"name": "a.B_c-d@e+9"})).status, 200);
}

#[test]
fn a_name_is_not_to_be_taken_for_the_id_of_somebody_else() {
    let realm = Realm::start();
    let victim = realm.admin.made(json!({"name": "victim"}));
    let other = realm.admin.made(json!({"name": "other"}));
    let dashed = format!("{}-{}", &victim[..8], &victim[8..12])
        + &format!("-{}-{}-{}", &victim[12..16], &victim[16..20], &victim[20..]);
    for name in [victim.clone(), victim.to_uppercase(), dashed] {
        assert_invalid(&realm, json!({"name": name}), &["name"]);
        refused(&realm.admin.change_user(&other, json!({"name": name})), 400);
    }
    realm.admin.made(json!({"name": &victim[1..]}));
}
