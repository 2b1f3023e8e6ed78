//! The client as a library: plugins, renewals, redirects, skew, retries, TLS. Tests that begin
//! with a number are cases of what keystoneauth1 and cloud-init do, and of where we differ.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use nodeinit::client::oauth1::{NodeCredentials, SignBy};
use nodeinit::client::plugins::{NoAuth, OAuth1, Password, Service, Token};
use nodeinit::client::{
    AuthHeaders, AuthPlugin, Body, ClientError, Generation, Outgoing, PLUGINS, PluginKind,
    Provides, RequestHead, ResponseHead, Retries, ServerUrl, Session, Surroundings, Transport,
    Values, Verdict, identity,
};
use nodeinit::clock::Clock;
use nodeinit::domain::credentials::Secret;
use serde_json::{Value, json};

use crate::support::stub::{Asked, Ca, Stub, Told, told};
use crate::support::{Method, NOW, Node, TestServer, on_the_machines_clock, wire};

const ISSUED: &str = "2027-01-15T09:00:00Z";

fn secret(text: &str) -> Secret {
    Secret::new(text.to_owned())
}

fn clock(second: i64) -> Clock {
    Clock::fixed(Timestamp::from_second(second).unwrap())
}

fn around(clock: &Clock) -> Surroundings {
    let clock = clock.clone();
    Surroundings { now: Arc::new(move || clock.now()), nonce: Arc::new(wire::nonce) }
}

fn password(user: &str, clock: &Clock) -> Password {
    Password::new(user.to_owned(), secret("sesame"), Some("p1".to_owned()), around(clock).now)
}

/// Keystone as the plugins see it: every login makes `token-N`, and any live one is let in.
#[derive(Default)]
struct Keystone {
    logins: AtomicUsize,
    live: Mutex<BTreeSet<String>>,
    expires: Mutex<Option<String>>,
}

impl Keystone {
    fn answer(&self, asked: &Asked) -> Told {
        if asked.target == "/v2.0/tokens" {
            assert_eq!(asked.method, "POST");
            assert_eq!(asked.header("x-auth-token"), None, "a login needs no token");
            let number = self.logins.fetch_add(1, Ordering::SeqCst) + 1;
            let id = format!("token-{number}");
            self.live.lock().unwrap().insert(id.clone());
            let expires = self.expires.lock().unwrap().clone().unwrap_or(ISSUED.to_owned());
            return told(200).json(json!({"access": {
                "token": {"id": id, "expires": expires, "tenant": {"id": "t1", "name": "p1"}},
                "user": {"id": "u1", "name": asked.json()["auth"]["passwordCredentials"]["username"]},
            }}));
        }
        match asked.header("x-auth-token") {
            Some(token) if self.live.lock().unwrap().contains(token) => {
                told(200).json(json!({"said": String::from_utf8_lossy(&asked.body)}))
            }
            _ => told(401).json(json!({"detail": "who are you?"})),
        }
    }

    fn revoke(&self) {
        self.live.lock().unwrap().clear();
    }

    fn logins(&self) -> usize {
        self.logins.load(Ordering::SeqCst)
    }
}

fn keystone() -> (Stub, Arc<Keystone>) {
    let keystone = Arc::new(Keystone::default());
    let answers = keystone.clone();
    (Stub::new(move |asked| answers.answer(asked)), keystone)
}

fn with(stub: &Stub, plugin: impl Into<Box<dyn AuthPlugin>>) -> Session {
    Session::builder(stub.url()).plugin(plugin).build()
}

/// How it failed.
#[track_caller]
fn error<T>(result: Result<T, ClientError>) -> String {
    match result {
        Ok(_) => panic!("it did not fail"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn every_plugin_says_what_it_needs() {
    let names: Vec<&str> = PLUGINS.iter().map(|kind| kind.name).collect();
    assert_eq!(names, ["none", "token", "password", "service", "oauth1"]);
    for kind in PLUGINS {
        for option in kind.options {
            assert!(option.variable.starts_with("NODEINIT_"), "{}", option.variable);
            assert!(!option.help.is_empty(), "{}", option.name);
            let is_secret = option.name.ends_with("token") || option.name.ends_with("password");
            assert_eq!(
                option.secret,
                is_secret || option.name == "token-secret",
                "{}",
                option.name
            );
        }
    }
    assert!(PluginKind::find("nope").is_none());
}

#[test]
fn missing_options_are_told_all_at_once() {
    let missing = |name: &str, given: &[&'static str]| {
        let values: Values = given.iter().map(|name| (*name, secret("x"))).collect();
        error(PluginKind::find(name).unwrap().build(values, &around(&clock(NOW))))
    };
    assert_eq!(
        missing("oauth1", &[]),
        "the oauth1 plugin needs consumer-key (NODEINIT_CONSUMER_KEY), \
         token-key (NODEINIT_TOKEN_KEY), token-secret (NODEINIT_TOKEN_SECRET)"
    );
    assert_eq!(
        missing("password", &["project"]),
        "the password plugin needs user (NODEINIT_USER), password (NODEINIT_PASSWORD)"
    );
    assert_eq!(missing("token", &[]), "the token plugin needs token (NODEINIT_TOKEN)");
    assert_eq!(
        missing("service", &["user"]),
        "the service plugin needs password (NODEINIT_PASSWORD), service-token \
         (NODEINIT_SERVICE_TOKEN) or service-user (NODEINIT_SERVICE_USER) and service-password \
         (NODEINIT_SERVICE_PASSWORD)"
    );
    let empty = Values::from([("token", secret(""))]);
    let token = PluginKind::find("token").unwrap();
    assert!(token.build(empty, &around(&clock(NOW))).is_err(), "empty is missing");
    let whole = [("token", secret("x")), ("service-token", secret("y"))];
    let service = PluginKind::find("service").unwrap();
    assert!(service.build(Values::from(whole), &around(&clock(NOW))).is_ok());
}

#[test]
fn c04_one_call_logs_in_once_and_then_asks_once() {
    let (stub, keystone) = keystone();
    let session = with(&stub, password("alice", &clock(NOW)));
    assert_eq!(stub.lines(), [""; 0], "nothing before it is needed");
    session.get("/v1/whoami").unwrap();
    assert_eq!(stub.lines(), ["POST /v2.0/tokens", "GET /v1/whoami"]);
    assert_eq!(keystone.logins(), 1);
    let asked = stub.asked();
    assert_eq!(
        asked[0].json(),
        json!({"auth": {
            "passwordCredentials": {"username": "alice", "password": "sesame"},
            "tenantName": "p1",
        }})
    );
    assert_eq!(asked[1].header("x-auth-token"), Some("token-1"));
}

#[test]
fn c05_two_calls_share_one_login() {
    let (stub, keystone) = keystone();
    let session = with(&stub, password("alice", &clock(NOW)));
    session.get("/v1/whoami").unwrap();
    session.get("/v1/whoami").unwrap();
    assert_eq!(stub.lines().len(), 3);
    assert_eq!(keystone.logins(), 1);
}

#[test]
fn c06_a_401_is_answered_by_one_login_and_the_same_body_again() {
    let (stub, keystone) = keystone();
    let session = with(&stub, password("alice", &clock(NOW)));
    session.get("/v1/whoami").unwrap();
    keystone.revoke();
    let said = session.send_json(Method::POST, "/v1/p1/nodes", &json!({"hostname": "h"})).unwrap();
    assert_eq!(said["said"], r#"{"hostname":"h"}"#);
    let asked = stub.asked();
    assert_eq!(stub.lines()[2..], ["POST /v1/p1/nodes", "POST /v2.0/tokens", "POST /v1/p1/nodes"]);
    assert_eq!(asked[2].body, asked[4].body);
    assert_eq!(asked[4].header("x-auth-token"), Some("token-2"));
    assert_eq!(keystone.logins(), 2);
}

#[test]
fn a_401_that_stays_is_two_attempts_and_one_login_more() {
    let stub = Stub::new(|asked| match asked.target.as_str() {
        "/v2.0/tokens" => {
            told(200).json(json!({"access": {"token": {"id": "t", "expires": ISSUED}}}))
        }
        _ => told(401).json(json!({"detail": "no"})),
    });
    let session = with(&stub, password("alice", &clock(NOW)));
    assert_eq!(error(session.get("/v1/x")), "no");
    let login = "POST /v2.0/tokens";
    assert_eq!(stub.lines(), [login, "GET /v1/x", login, "GET /v1/x"]);
}

#[test]
fn a_403_is_one_attempt_whatever_the_plugin() {
    let stub = Stub::new(|asked| match asked.target.as_str() {
        "/v2.0/tokens" => {
            told(200).json(json!({"access": {"token": {"id": "t", "expires": ISSUED}}}))
        }
        _ => told(403).header("date", "Fri, 15 Jan 2027 08:00:00 GMT"),
    });
    let clock = clock(NOW);
    let plugins: [Box<dyn AuthPlugin>; 5] = [
        NoAuth.into(),
        Token::new(secret("t"), None).into(),
        password("alice", &clock).into(),
        Service::new(password("alice", &clock), password("deployd", &clock)).into(),
        OAuth1::new(node_credentials(), SignBy::HmacSha1, around(&clock)).into(),
    ];
    for plugin in plugins {
        let session = Session::builder(stub.url()).plugin(plugin).build();
        let before = stub.lines().iter().filter(|line| line.starts_with("GET")).count();
        assert_eq!(session.send(Method::GET, "/v1/x", &[], None).unwrap().status, 403);
        let after = stub.lines().iter().filter(|line| line.starts_with("GET")).count();
        assert_eq!(after - before, 1, "{}", session.plugin());
    }
}

#[test]
fn a_token_is_renewed_when_less_than_120_s_are_left() {
    let (stub, keystone) = keystone();
    let clock = clock(NOW);
    let session = with(&stub, password("alice", &clock));
    session.get("/v1/x").unwrap();
    // 3600 s of life: 121 s left, then 119.
    clock.advance(3600 - 121);
    session.get("/v1/x").unwrap();
    assert_eq!(keystone.logins(), 1);
    clock.advance(2);
    session.get("/v1/x").unwrap();
    assert_eq!(keystone.logins(), 2);
    assert_eq!(stub.asked().last().unwrap().header("x-auth-token"), Some("token-2"));
}

#[test]
fn when_an_early_renewal_fails_the_old_token_serves_while_it_lives() {
    let is_down = Arc::new(AtomicUsize::new(0));
    let down = is_down.clone();
    let stub = Stub::new(move |asked| match asked.target.as_str() {
        "/v2.0/tokens" if down.load(Ordering::SeqCst) == 1 => told(503),
        "/v2.0/tokens" => {
            told(200).json(json!({"access": {"token": {"id": "t", "expires": ISSUED}}}))
        }
        _ => told(200).json(json!({})),
    });
    let clock = clock(NOW);
    let session = with(&stub, password("alice", &clock));
    session.get("/v1/x").unwrap();
    is_down.store(1, Ordering::SeqCst);
    clock.advance(3600 - 60);
    session.get("/v1/x").unwrap();
    clock.advance(60);
    assert_eq!(error(session.get("/v1/x")), "login: the server answered 503 Service Unavailable");
}

#[test]
fn a_refused_login_is_told_in_the_servers_words_and_nothing_else_is_sent() {
    let stub = Stub::new(|_| {
        told(401).json(json!({"error": {
            "code": 401, "title": "Unauthorized", "message": "Invalid user / password",
        }}))
    });
    let session = with(&stub, password("alice", &clock(NOW)));
    assert_eq!(error(session.get("/v1/x")), "login: Invalid user / password");
    assert_eq!(stub.lines(), ["POST /v2.0/tokens"]);
}

#[test]
fn c08_a_static_token_and_none_are_one_attempt() {
    let stub = Stub::new(|_| told(401).json(json!({"detail": "no"})));
    for session in [
        with(&stub, Token::new(secret("nit_x"), None)),
        with(&stub, NoAuth),
        Session::new(stub.url()),
    ] {
        let before = stub.lines().len();
        assert_eq!(error(session.get("/v1/x")), "no");
        assert_eq!(stub.lines().len() - before, 1, "{}", session.plugin());
    }
    assert_eq!(stub.asked()[0].header("x-auth-token"), Some("nit_x"));
    assert_eq!(stub.asked()[1].header("x-auth-token"), None);
}

/// Something that can be read once.
fn stream(text: &'static str) -> Body<'static> {
    Body::stream(text.as_bytes())
}

fn put(session: &Session, body: Body<'_>) -> Result<u16, ClientError> {
    let request = Outgoing { method: Method::PUT, path: "/v1/x", headers: &[], body };
    session.request(request).map(|answer| answer.status.as_u16())
}

#[test]
fn c11_a_stream_is_never_sent_again_and_never_empty() {
    let (stub, keystone) = keystone();
    let session = with(&stub, password("alice", &clock(NOW)));
    assert_eq!(put(&session, stream("first")).unwrap(), 200);
    assert_eq!(stub.asked()[1].body, b"first");
    keystone.revoke();
    let told = error(put(&session, stream("second")));
    assert!(told.contains("the body cannot be replayed"), "{told}");
    let puts: Vec<Vec<u8>> =
        stub.asked().into_iter().filter(|a| a.method == "PUT").map(|a| a.body).collect();
    assert_eq!(puts, [b"first".to_vec(), b"second".to_vec()]);
    // The credentials were renewed meanwhile: the caller's next try is a good one.
    assert_eq!(put(&session, stream("third")).unwrap(), 200);
    // Bytes are sent again.
    keystone.revoke();
    assert_eq!(put(&session, Body::Bytes(b"fourth")).unwrap(), 200);
    assert_eq!(stub.asked().last().unwrap().body, b"fourth");
}

#[test]
fn c12_eight_threads_one_revoked_token_one_login() {
    let barrier = Arc::new(Barrier::new(8));
    let keystone = Arc::new(Keystone::default());
    let (answers, together) = (keystone.clone(), barrier.clone());
    let stub = Stub::new(move |asked| {
        let answer = answers.answer(asked);
        // All eight are refused before any of them can renew.
        if answer.status == 401 {
            together.wait();
        }
        answer
    });
    let session = with(&stub, password("alice", &clock(NOW)));
    session.get("/v1/x").unwrap();
    keystone.revoke();
    let results: Vec<Result<Value, ClientError>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| session.get("/v1/x"))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    assert_eq!(keystone.logins(), 2, "one to begin with, and one for all eight");
    assert_eq!(stub.lines().len(), 1 + 1 + 8 + 1 + 8);
}

#[test]
fn eight_threads_that_begin_together_log_in_once_and_fail_once() {
    let (stub, keystone) = keystone();
    let session = with(&stub, password("alice", &clock(NOW)));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| session.get("/v1/x").unwrap());
        }
    });
    assert_eq!(keystone.logins(), 1);

    // The server takes its time, so that all of them come while the first is logging in.
    let barrier = Barrier::new(8);
    let refusing = Stub::new(|_| {
        std::thread::sleep(Duration::from_secs(2));
        told(401)
    });
    let session = with(&refusing, password("alice", &clock(NOW)));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                barrier.wait();
                session.get("/v1/x").unwrap_err()
            });
        }
    });
    assert_eq!(refusing.lines(), ["POST /v2.0/tokens"], "one refusal is enough for all");
}

#[test]
fn c13_a_redirect_to_another_origin_is_not_followed_and_nothing_leaves() {
    let elsewhere = Stub::new(|_| told(200));
    for status in [301, 302, 303, 307, 308] {
        let to = format!("{}/v1/x", elsewhere.text());
        let stub = Stub::new(move |_| told(status).header("location", to.clone()));
        let session = with(&stub, Token::new(secret("nit_x"), None));
        for (method, body) in [(Method::GET, None), (Method::POST, Some(b"{}".as_slice()))] {
            let told = error(session.call(method, "/v1/x", &[], body));
            assert!(told.contains("another origin: not followed"), "{told}");
            assert!(told.contains(&elsewhere.text()), "{told}");
        }
        assert_eq!(stub.lines().len(), 2);
    }
    // The same host by another scheme, and by another name.
    for to in ["https://127.0.0.1:PORT/x", "http://localhost:PORT/x", "//localhost:PORT/x"] {
        let stub = Stub::new(move |asked| {
            let port = asked.header("host").unwrap().rsplit(':').next().unwrap().to_owned();
            told(307).header("location", to.replace("PORT", &port))
        });
        let told = error(with(&stub, Token::new(secret("t"), None)).get("/v1/x"));
        assert!(told.contains("another origin"), "{told}");
        assert_eq!(stub.lines().len(), 1);
    }
    assert_eq!(elsewhere.lines(), [""; 0]);
}

#[test]
fn a_redirect_within_the_origin_is_followed_where_it_changes_nothing() {
    let stub = Stub::new(|asked| {
        let path = asked.target.clone();
        match path.strip_prefix("/from/") {
            Some(status) => told(status.parse().unwrap()).header("location", "/to?x=1"),
            None => told(200).json(json!({"body": String::from_utf8_lossy(&asked.body)})),
        }
    });
    let session = with(&stub, Token::new(secret("nit_x"), None));
    for status in [301, 302, 303, 307, 308] {
        let answer = session.send(Method::GET, &format!("/from/{status}"), &[], None).unwrap();
        assert_eq!(answer.status, 200, "{status}");
        let last = stub.asked().pop().unwrap();
        assert_eq!(last.line(), "GET /to?x=1");
        assert_eq!(last.header("x-auth-token"), Some("nit_x"));
    }
    for status in [307, 308] {
        let path = format!("/from/{status}");
        session.call(Method::POST, &path, &[], Some(b"whole")).unwrap();
        let last = stub.asked().pop().unwrap();
        assert_eq!(
            (last.line().as_str(), last.body.as_slice()),
            ("POST /to?x=1", b"whole".as_slice())
        );
        let request =
            Outgoing { method: Method::PUT, path: &path, headers: &[], body: stream("once") };
        assert!(error(session.request(request)).contains("cannot be replayed"));
    }
    // A POST that is to become a GET is handed back as it is.
    for status in [301, 302, 303] {
        let answer = session.send(Method::POST, &format!("/from/{status}"), &[], Some(b"x"));
        assert_eq!(answer.unwrap().status, status);
        assert_eq!(stub.lines().pop().unwrap(), format!("POST /from/{status}"));
    }
}

#[test]
fn c14_a_redirect_loop_stops_after_five() {
    let stub = Stub::new(|_| told(302).header("location", "/v1/x"));
    let told = error(with(&stub, NoAuth).get("/v1/x"));
    assert!(told.contains("redirects more than 5 times"), "{told}");
    assert_eq!(stub.lines().len(), 6, "the request and five hops");
}

#[test]
fn a_path_cannot_name_another_host() {
    let elsewhere = Stub::new(|_| told(200).json(json!({})));
    let stub = Stub::new(|_| told(200).json(json!({})));
    let session = with(&stub, Token::new(secret("nit_x"), None));
    for path in [format!("@{}/x", elsewhere.address), ":1@x/".to_owned(), String::new()] {
        assert!(error(session.get(&path)).contains("not sent"), "{path}");
    }
    assert_eq!(elsewhere.lines().len() + stub.lines().len(), 0);
}

/// Answers as it is told to.
struct Fake {
    headers: Option<Vec<(&'static str, &'static str)>>,
    base: Option<ServerUrl>,
}

impl AuthPlugin for Fake {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn base_url(&self) -> Option<ServerUrl> {
        self.base.clone()
    }

    fn provides(&self, _: &dyn Transport) -> Result<Provides, ClientError> {
        Ok(Provides { project: Some("p9".into()), ..Provides::default() })
    }

    fn headers(
        &self,
        _: &dyn Transport,
        request: &RequestHead<'_>,
    ) -> Result<Option<AuthHeaders>, ClientError> {
        assert_eq!((request.method.as_str(), request.body), ("GET", Some(b"".as_slice())));
        let Some(headers) = &self.headers else { return Ok(None) };
        let fields = headers.iter().map(|(name, value)| (*name, secret(value))).collect();
        Ok(Some(AuthHeaders { fields, generation: Generation::default() }))
    }

    fn verdict(&self, _: &dyn Transport, _: Generation, _: &ResponseHead<'_>) -> Verdict {
        // Heeded for a 401 alone, and once.
        Verdict::Resend
    }
}

fn fake(headers: Option<Vec<(&'static str, &'static str)>>) -> Box<dyn AuthPlugin> {
    Box::new(Fake { headers, base: None })
}

#[test]
fn no_headers_fail_before_anything_is_sent_and_empty_ones_do_not() {
    let stub = Stub::new(|_| told(200).json(json!({})));
    let session = Session::builder(stub.url()).plugin(fake(None)).build();
    assert!(error(session.get("/v1/x")).contains("the fake plugin has no credentials"));
    assert_eq!(stub.lines().len(), 0);
    let session = Session::builder(stub.url()).plugin(fake(Some(vec![]))).build();
    session.get("/v1/x").unwrap();
    assert_eq!(stub.lines().len(), 1);
}

#[test]
fn a_plugin_of_ones_own_gives_headers_a_base_url_and_a_project() {
    let stub = Stub::new(|asked| told(asked.target[4..].parse().unwrap()));
    let plugin = Fake { headers: Some(vec![("x-proof", "own")]), base: Some(stub.url()) };
    let boxed: Box<dyn AuthPlugin> = Box::new(plugin);
    let nowhere = ServerUrl::parse("http://127.0.0.1:1").unwrap();
    let session = Session::builder(nowhere).plugin(boxed).build();
    let given = [("x-proof", "forged"), ("x-other", "kept")];
    session.send(Method::GET, "/v1/200", &given, None).unwrap();
    let asked = stub.asked().pop().unwrap();
    let proofs: Vec<_> = asked.headers.iter().filter(|(name, _)| name == "x-proof").collect();
    assert_eq!(proofs.len(), 1, "the plugin's alone: {proofs:?}");
    assert_eq!(asked.header("x-proof"), Some("own"));
    assert_eq!(asked.header("x-other"), Some("kept"));
    assert_eq!(session.provides().unwrap().project.as_deref(), Some("p9"));
    for (status, attempts) in [(200, 1), (401, 2), (403, 1), (500, 1), (503, 1)] {
        let before = stub.lines().len();
        session.send(Method::GET, &format!("/v1/{status}"), &[], None).unwrap();
        assert_eq!(stub.lines().len() - before, attempts, "{status}");
    }
}

#[test]
fn a_token_with_a_line_break_is_not_sent_and_not_told() {
    let stub = Stub::new(|_| told(200));
    let session = with(&stub, Token::new(secret("nit_\r\nx-admin: 1"), None));
    let told = error(session.get("/v1/x"));
    assert!(told.contains("x-auth-token") && !told.contains("nit_"), "{told}");
    assert_eq!(stub.lines().len(), 0);
}

#[test]
fn the_service_plugin_sends_both_tokens_and_renews_the_half_that_can() {
    let keystone = Arc::new(Keystone::default());
    let answers = keystone.clone();
    let stub = Stub::new(move |asked| {
        if asked.target == "/v2.0/tokens" || asked.header("x-auth-token") != Some("alices") {
            return answers.answer(asked);
        }
        // Alice's token is static; the service's is judged.
        let service = asked.header("x-service-token").unwrap();
        told(if answers.live.lock().unwrap().contains(service) { 200 } else { 401 }).json(json!({}))
    });
    let alice = Token::new(secret("alices"), Some("p1".into()));
    let session = with(&stub, Service::new(alice, password("deployd", &clock(NOW))));
    session.get("/v1/x").unwrap();
    keystone.revoke();
    session.get("/v1/x").unwrap();
    assert_eq!(keystone.logins(), 2);
    let last = stub.asked().pop().unwrap();
    assert_eq!(last.header("x-auth-token"), Some("alices"), "kept");
    assert_eq!(last.header("x-service-token"), Some("token-2"));
    assert_eq!(session.provides().unwrap().project.as_deref(), Some("p1"), "the user's");

    // Two static halves: nothing to renew, one attempt.
    let stub = Stub::new(|_| told(401));
    let halves = (Token::new(secret("a"), None), Token::new(secret("b"), None));
    let session = with(&stub, Service::new(halves.0, halves.1));
    assert_eq!(session.send(Method::GET, "/v1/x", &[], None).unwrap().status, 401);
    assert_eq!(stub.lines().len(), 1);
}

#[test]
fn without_a_user_half_the_service_plugin_sends_nothing() {
    let (stub, _) = keystone();
    let service = || password("deployd", &clock(NOW));
    let empty: [Box<dyn AuthPlugin>; 4] =
        [fake(None), fake(Some(vec![])), NoAuth.into(), Token::new(secret(""), None).into()];
    for user in empty {
        let session = with(&stub, Service::new(user, service()));
        assert!(error(session.get("/v1/x")).contains("has no credentials"));
    }
    let session = with(&stub, Service::new(Token::new(secret("a"), None), NoAuth));
    assert!(error(session.get("/v1/x")).contains("has no credentials"));
    assert_eq!(stub.lines(), [""; 0], "not even a login of the service");
}

fn node_credentials() -> NodeCredentials {
    let text = str::to_owned;
    NodeCredentials {
        consumer_key: text("ck"),
        token_key: text("tk"),
        token_secret: text("seCret"),
    }
}

fn credentials(node: &Node) -> NodeCredentials {
    NodeCredentials {
        consumer_key: node.consumer_key.clone(),
        token_key: node.token_key.clone(),
        token_secret: node.token_secret.clone(),
    }
}

/// A session with the node plane, by a clock of its own.
fn signing(server: &TestServer, node: &Node, by: SignBy, clock: &Clock) -> Session {
    let url = ServerUrl::parse(&format!("http://{}", server.node)).unwrap();
    let plugin = OAuth1::new(credentials(node), by, around(clock));
    Session::builder(url).plugin(plugin).build()
}

fn nonce_of(header: &str) -> &str {
    header.split("oauth_nonce=\"").nth(1).unwrap().split('"').next().unwrap()
}

#[test]
fn c20_every_request_is_signed_with_a_fresh_nonce_and_timestamp() {
    let stub = Stub::new(|_| told(200));
    for (by, named) in [(SignBy::Plaintext, "PLAINTEXT"), (SignBy::HmacSha1, "HMAC-SHA1")] {
        let clock = clock(NOW);
        let session = with(&stub, OAuth1::new(node_credentials(), by, around(&clock)));
        let mut signed = Vec::new();
        for _ in 0..3 {
            session.send(Method::GET, "/MAAS/metadata/", &[], None).unwrap();
            clock.advance(1);
            signed.push(stub.asked().pop().unwrap().header("authorization").unwrap().to_owned());
        }
        for (at, header) in signed.iter().enumerate() {
            assert!(header.starts_with("OAuth "), "{header}");
            assert!(header.contains(&format!("oauth_signature_method=\"{named}\"")), "{header}");
            let timestamp = format!("oauth_timestamp=\"{}\"", NOW + i64::try_from(at).unwrap());
            assert!(header.contains(&timestamp), "{header}");
            assert!(header.contains("oauth_token=\"tk\""), "{header}");
        }
        assert_eq!(signed.iter().map(|header| nonce_of(header)).collect::<BTreeSet<_>>().len(), 3);
        let is_plain = signed[0].contains("oauth_signature=\"%26seCret\"");
        assert_eq!(is_plain, by == SignBy::Plaintext, "{}", signed[0]);
    }
}

#[test]
fn the_node_plane_takes_both_signatures_with_queries_and_forms() {
    let server = TestServer::start();
    let node = server.node("n1");
    // A start that has no nonces of an earlier one refuses HMAC up to 2 s after it.
    server.clock.advance(60);
    let form = [("content-type", "application/x-www-form-urlencoded")];
    for by in [SignBy::Plaintext, SignBy::HmacSha1] {
        let session = signing(&server, &node, by, &server.clock);
        for path in [
            "/MAAS/metadata/latest/meta-data/instance-id",
            "/MAAS/metadata/latest/meta-data/instance-id?b=x+y&a=%26&a=%2f",
        ] {
            let answer = session.call(Method::GET, path, &[], None).expect(path);
            assert_eq!(answer.body, b"n1", "{path}");
        }
        // Its signature is good: what is wrong is looked at only then.
        let path = "/MAAS/metadata/latest/nothing?z=1";
        let answer = session.send(Method::POST, path, &form, Some(b"op=a+b&c")).unwrap();
        assert_eq!(answer.status, 404, "{}", String::from_utf8_lossy(&answer.body));
    }
    let me = identity::node(&signing(&server, &node, SignBy::HmacSha1, &server.clock)).unwrap();
    assert_eq!(me, json!({"instance_id": "n1", "hostname": "n1.example.com"}));
    // What HMAC cannot put in order, or cannot see, is not sent.
    let session = signing(&server, &node, SignBy::HmacSha1, &server.clock);
    let told = error(session.call(Method::GET, "/MAAS/metadata/?a%3A=1&a0=2", &[], None));
    assert!(told.contains("PLAINTEXT"), "{told}");
    let body = stream("op=signal");
    let request = Outgoing { method: Method::POST, path: "/MAAS/metadata/", headers: &form, body };
    assert!(error(session.request(request)).contains("streamed"));
}

/// What the stub was asked, by the timestamps of the signatures.
fn timestamps(stub: &Stub) -> Vec<i64> {
    let of = |asked: &Asked| {
        let header = asked.header("authorization").unwrap();
        let rest = header.split("oauth_timestamp=\"").nth(1).unwrap();
        rest.split('"').next().unwrap().parse().unwrap()
    };
    stub.asked().iter().map(of).collect()
}

/// Judges timestamps by a clock of its own, and says what that is.
fn judging(second: i64, date: &str) -> Stub {
    let date = date.to_owned();
    Stub::new(move |asked| {
        let header = asked.header("authorization").unwrap();
        let is_near = header.contains(&format!("oauth_timestamp=\"{second}\""));
        told(if is_near { 200 } else { 401 }).header("date", date.clone())
    })
}

#[test]
fn c21_a_clock_two_hours_off_costs_one_401_for_each_host_and_port() {
    let server = on_the_machines_clock();
    let node = server.node("n1");
    // The server is two hours ahead of us, by the machine's clock.
    let behind = clock(Clock::System.now().as_second() - 7200);
    let session = signing(&server, &node, SignBy::HmacSha1, &behind);
    let path = "/MAAS/metadata/latest/meta-data/instance-id";
    assert_eq!(session.call(Method::GET, path, &[], None).unwrap().body, b"n1");

    let ours = clock(NOW - 7200);
    let date = "Fri, 15 Jan 2027 08:00:00 GMT";
    let (one, other) = (judging(NOW, date), judging(NOW, date));
    let session = with(&one, OAuth1::new(node_credentials(), SignBy::HmacSha1, around(&ours)));
    for _ in 0..3 {
        session.call(Method::GET, "/x", &[], None).unwrap();
    }
    let late = NOW - 7200;
    assert_eq!(timestamps(&one), [late, NOW, NOW, NOW], "learnt once");
    let asked = one.asked();
    let nonces = asked.iter().map(|asked| nonce_of(asked.header("authorization").unwrap()));
    assert_eq!(nonces.collect::<BTreeSet<_>>().len(), 4, "a nonce each");
    // What one host says is nothing to another.
    let shared = Arc::new(OAuth1::new(node_credentials(), SignBy::Plaintext, around(&ours)));
    for stub in [&one, &other] {
        let session = Session::builder(stub.url()).plugin(Shared(shared.clone())).build();
        session.call(Method::GET, "/x", &[], None).unwrap();
    }
    assert_eq!(timestamps(&one)[4..], [late, NOW]);
    assert_eq!(timestamps(&other), [late, NOW]);
}

/// One plugin for two sessions.
struct Shared(Arc<OAuth1>);

impl From<Shared> for Box<dyn AuthPlugin> {
    fn from(shared: Shared) -> Self {
        Box::new(shared)
    }
}

impl AuthPlugin for Shared {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn provides(&self, transport: &dyn Transport) -> Result<Provides, ClientError> {
        self.0.provides(transport)
    }

    fn headers(
        &self,
        transport: &dyn Transport,
        request: &RequestHead<'_>,
    ) -> Result<Option<AuthHeaders>, ClientError> {
        self.0.headers(transport, request)
    }

    fn verdict(
        &self,
        transport: &dyn Transport,
        sent: Generation,
        response: &ResponseHead<'_>,
    ) -> Verdict {
        self.0.verdict(transport, sent, response)
    }
}

#[test]
fn c23_a_clock_of_1970_works_after_one_401() {
    let server = on_the_machines_clock();
    let node = server.node("n1");
    for second in [0, 1, -3600, 3_000_000_000] {
        let session = signing(&server, &node, SignBy::HmacSha1, &clock(second));
        let path = "/MAAS/metadata/latest/meta-data/instance-id";
        assert_eq!(session.call(Method::GET, path, &[], None).unwrap().body, b"n1", "{second}");
    }
    let stub = judging(NOW, "Fri, 15 Jan 2027 08:00:00 GMT");
    let session = with(&stub, OAuth1::new(node_credentials(), SignBy::HmacSha1, around(&clock(0))));
    session.call(Method::GET, "/x", &[], None).unwrap();
    assert_eq!(timestamps(&stub), [1, NOW]);
}

#[test]
fn c24_a_401_without_a_date_is_one_attempt_and_the_error_says_so() {
    for date in [None, Some("soon")] {
        let stub = Stub::new(move |_| {
            let told = told(401).header("content-type", "text/plain");
            let mut told = match date {
                Some(date) => told.header("date", date),
                None => told,
            };
            told.body = "timestamp_refused".into();
            told
        });
        let plugin = OAuth1::new(node_credentials(), SignBy::HmacSha1, around(&clock(NOW)));
        let told = error(with(&stub, plugin).call(Method::GET, "/x", &[], None));
        assert!(told.contains("401 without a Date"), "{told}");
        assert!(told.contains("timestamp_refused"), "{told}");
        assert_eq!(stub.lines().len(), 1);
    }
}

#[test]
fn a_wrong_secret_is_two_attempts_and_told_as_it_is() {
    let server = TestServer::start();
    let node = Node { token_secret: "wrong".into(), ..server.node("n1") };
    let session = signing(&server, &node, SignBy::Plaintext, &clock(NOW));
    let told = error(session.call(Method::GET, "/MAAS/metadata/", &[], None));
    assert_eq!(told, "the server answered 401 Unauthorized: credentials_refused");
}

#[test]
fn c25_a_503_is_tried_again_when_asked_for_and_harmless() {
    let failures = Arc::new(AtomicUsize::new(0));
    let left = failures.clone();
    let stub = Stub::new(move |_| {
        let fails = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
        if fails.is_ok() { told(503).header("retry-after", "0") } else { told(200).json(json!({})) }
    });
    let attempts = |session: &Session, method: Method, body: Body<'_>| {
        failures.store(2, Ordering::SeqCst);
        let before = stub.lines().len();
        let request = Outgoing { method, path: "/v1/x", headers: &[], body };
        let status = session.request(request).unwrap().status.as_u16();
        (status, stub.lines().len() - before)
    };
    let session = with(&stub, NoAuth);
    assert_eq!(attempts(&session, Method::GET, Body::Empty), (503, 1), "not asked for");
    let asked = |most| {
        let retries = Retries { most, first_wait: Duration::from_millis(10) };
        Session::builder(stub.url()).retries(retries).build()
    };
    assert_eq!(attempts(&asked(1), Method::GET, Body::Empty), (503, 2));
    let session = asked(3);
    for method in [Method::GET, Method::HEAD, Method::DELETE] {
        assert_eq!(attempts(&session, method, Body::Empty), (200, 3));
    }
    assert_eq!(attempts(&session, Method::PUT, Body::Bytes(b"x")), (200, 3));
    assert_eq!(attempts(&session, Method::PUT, stream("x")), (503, 1), "a stream");
    for method in [Method::POST, Method::PATCH] {
        assert_eq!(attempts(&session, method, Body::Bytes(b"x")), (503, 1));
    }
}

#[test]
fn a_retry_waits_as_long_as_it_is_told_or_a_little_longer_each_time() {
    let timed = |answer: fn() -> Told, most: u32| {
        let stub = Stub::new(move |_| answer());
        let retries = Retries { most, first_wait: Duration::from_millis(100) };
        let session = Session::builder(stub.url()).retries(retries).build();
        let began = Instant::now();
        assert_eq!(session.send(Method::GET, "/x", &[], None).unwrap().status, 503);
        (began.elapsed(), stub.lines().len())
    };
    let (took, attempts) = timed(|| told(503).header("retry-after", "1"), 1);
    assert!(took >= Duration::from_secs(1) && attempts == 2, "{took:?}");
    let (took, attempts) = timed(|| told(503), 3);
    assert!(took >= Duration::from_millis(100 + 200 + 400) && attempts == 4, "{took:?}");
    let dated = || {
        told(503)
            .header("date", "Fri, 15 Jan 2027 08:00:00 GMT")
            .header("retry-after", "Fri, 15 Jan 2027 08:00:01 GMT")
    };
    let (took, attempts) = timed(dated, 1);
    assert!(took >= Duration::from_secs(1) && attempts == 2, "{took:?}");
    let (took, attempts) = timed(|| told(503).header("retry-after", "86400"), 5);
    assert!(took < Duration::from_secs(10) && attempts == 1, "a day is not waited for: {took:?}");
}

#[test]
fn errors_of_both_wires_are_told_in_the_servers_words() {
    let stub = Stub::new(|asked| match asked.target.as_str() {
        "/v2.0/x" => told(409).json(json!({"error": {
            "code": 409, "title": "Conflict", "message": "the name is taken\u{1b}[31m",
        }})),
        "/v2.0/y" => told(403).json(json!({"error": {"code": 403, "title": "Forbidden"}})),
        "/v1/x" => told(400).json(json!({
            "type": "about:blank", "title": "Bad Request", "status": 400, "detail": "not a node",
            "errors": [{"field": "hostname", "message": "too\nlong"}],
        })),
        _ => told(502).header("content-type", "text/html"),
    });
    let session = with(&stub, NoAuth);
    let get = |path: &str| session.get(path).unwrap_err();
    assert_eq!(get("/v2.0/x").to_string(), "the name is taken\u{fffd}[31m");
    assert_eq!(get("/v2.0/x").status(), Some(409));
    assert_eq!(get("/v2.0/y").to_string(), "Forbidden");
    assert_eq!(get("/v1/x").to_string(), "not a node\n  hostname: too\u{fffd}long");
    assert_eq!(get("/other").to_string(), "the server answered 502 Bad Gateway");
}

#[test]
fn the_token_plugin_asks_for_its_project_once_and_only_if_it_must() {
    for project in [json!("p7"), json!({"id": "t7", "name": "p7"})] {
        let stub = Stub::new(move |asked| {
            assert_eq!(asked.header("x-auth-token"), Some("nit_x"));
            told(200).json(json!({"user": "alice", "project": project, "expires_at": ISSUED}))
        });
        let session = with(&stub, Token::new(secret("nit_x"), None));
        for _ in 0..2 {
            let provides = session.provides().unwrap();
            assert_eq!(provides.user.as_deref(), Some("alice"));
            assert_eq!(provides.project.as_deref(), Some("p7"));
            assert_eq!(provides.expires_at, Some(ISSUED.parse().unwrap()));
        }
        assert_eq!(stub.lines(), ["GET /v1/whoami"]);
        let session = with(&stub, Token::new(secret("nit_x"), Some("p8".into())));
        assert_eq!(session.provides().unwrap().project.as_deref(), Some("p8"));
        assert_eq!(stub.lines().len(), 1);
    }
}

#[test]
fn the_password_plugin_knows_who_it_is_from_its_login() {
    let (stub, keystone) = keystone();
    let session = with(&stub, password("alice", &clock(NOW)));
    let provides = session.provides().unwrap();
    assert_eq!(provides.user.as_deref(), Some("alice"));
    assert_eq!(provides.project.as_deref(), Some("p1"));
    assert_eq!(provides.expires_at, Some(ISSUED.parse().unwrap()));
    session.get("/v1/x").unwrap();
    assert_eq!(keystone.logins(), 1);
}

fn greeting(_: &Asked) -> Told {
    told(200).json(json!({"hello": true}))
}

#[test]
fn a_private_ca_is_trusted_and_no_other_and_no_other_name() {
    let (ours, theirs) = (Ca::new(), Ca::new());
    let stub = Stub::tls(ours.server("127.0.0.1"), greeting);
    let trusting = |stub: &Stub, ca: &Ca| {
        let plugin = Token::new(secret("nit_x"), None);
        let builder = Session::builder(stub.url()).plugin(plugin);
        builder.ca(ca.pem.as_bytes()).unwrap().build()
    };
    assert_eq!(trusting(&stub, &ours).get("/v1/x").unwrap(), json!({"hello": true}));
    assert_eq!(stub.lines(), ["GET /v1/x"]);
    // Both CAs in one file.
    let both = format!("{}{}", theirs.pem, ours.pem);
    let session = Session::builder(stub.url()).ca(both.as_bytes()).unwrap().build();
    session.get("/v1/x").unwrap();

    let told = error(trusting(&stub, &theirs).get("/v1/x"));
    assert!(told.contains("UnknownIssuer"), "{told}");
    // The system's CAs do not know ours.
    let told = error(Session::new(stub.url()).get("/v1/x"));
    assert!(told.contains("UnknownIssuer"), "{told}");
    let misnamed = Stub::tls(ours.server("elsewhere.example.com"), greeting);
    let told = error(trusting(&misnamed, &ours).get("/v1/x"));
    assert!(told.contains("not valid for name"), "{told}");
    assert_eq!(stub.lines().len() + misnamed.lines().len(), 2, "nothing was sent to a stranger");

    for (pem, why) in [("", "no certificate"), ("hello", "no certificate")] {
        let refused = error(Session::builder(stub.url()).ca(pem.as_bytes()));
        assert!(refused.contains(why), "{pem}: {refused}");
    }
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    assert!(error(Session::builder(stub.url()).ca(broken.as_bytes())).contains("the CA file"));
}

#[test]
fn a_large_body_that_is_refused_early_is_told_as_refused() {
    let server = TestServer::start();
    let url = ServerUrl::parse(&format!("http://{}", server.admin)).unwrap();
    let session = Session::builder(url).plugin(Token::new(secret("nit_x"), None)).build();
    let large = vec![b'x'; 32 << 20];
    for _ in 0..5 {
        let path = "/v1/default/nodes/n1/user-data";
        let answer = session.send(Method::PUT, path, &[], Some(&large)).unwrap();
        assert_eq!(answer.status, 401);
    }
}
