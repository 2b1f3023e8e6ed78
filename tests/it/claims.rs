//! Claims: a URL that one machine may fetch for one boot, and nobody else, and not for long.

use std::sync::Barrier;

use serde_json::{Value, json};

use crate::support::process::Home;
use crate::support::{Method, Node, Options, Reply, TestServer, rows, socket, wire};

const JSON: (&str, &str) = ("content-type", "application/json");

/// Makes a claim on a node's preseed and returns its path.
fn claim_with(server: &TestServer, system_id: &str, wanted: &Value) -> String {
    let path = format!("/v1/default/nodes/{system_id}/claims");
    let body = wanted.to_string();
    let made = socket::send(&server.socket, "POST", &path, &[JSON], body.as_bytes());
    assert_eq!(made.status, 201, "{}", made.text());
    let url = made.json()["url"].as_str().unwrap().to_owned();
    url[url.find("/MAAS").unwrap()..].to_owned()
}

fn claim(server: &TestServer, system_id: &str) -> String {
    claim_with(server, system_id, &json!({}))
}

fn fetch(server: &TestServer, path: &str) -> Reply {
    server.stranger().get(path)
}

fn fetch_from(server: &TestServer, source: &str, path: &str) -> Reply {
    wire::get_from(source, server.node, path, &[])
}

fn post(server: &TestServer, path: &str) -> u16 {
    server.operator().send(Method::POST, path, &[JSON], b"{}").status
}

#[track_caller]
fn assert_gone(reply: &Reply) {
    let expected = (410, "This claim is no longer good: make another".to_owned());
    assert_eq!(reply.brief(), expected);
    assert_eq!(reply.header("cache-control"), Some("no-store"));
}

/// What the audit says of misused claims: who, of which node, and why.
fn misuses(server: &TestServer) -> Vec<(String, String, String)> {
    let rows = server.operator().session.get("/v1/audit?limit=1000").unwrap();
    let rows = rows["items"].as_array().unwrap().clone();
    let text = |row: &Value, name: &str| row[name].as_str().unwrap().to_owned();
    rows.iter()
        .filter(|row| row["verb"] == "claim:fetch")
        .map(|row| {
            assert_eq!(row["outcome"], "refused");
            let reason = row["detail"]["reason"].as_str().map(str::to_owned);
            let reason = reason.unwrap_or_else(|| row["detail"].to_string());
            (text(row, "actor"), text(row, "object"), reason)
        })
        .collect()
}

#[test]
fn a_claim_is_a_url_and_an_end() {
    let server = TestServer::start();
    server.operator().add("n1", json!({}));
    let made = socket::send(&server.socket, "POST", "/v1/default/nodes/n1/claims", &[], b"");
    assert_eq!(made.status, 201, "{}", made.text());
    let body = made.json();
    assert_eq!(body.as_object().unwrap().keys().collect::<Vec<_>>(), ["url", "expires_at"]);
    assert_eq!(body["expires_at"], "2027-01-15T08:15:00Z");
    let url = body["url"].as_str().unwrap();
    assert_eq!(made.header("location"), Some(url));
    let start = format!("http://{}/MAAS/metadata/claim/", server.node);
    let secret = url.strip_prefix(&start).expect("it leads to the node listener");
    assert_eq!(secret.len(), 22, "128 bits in base64");
    assert_eq!(rows::count(&server.database, "tokens"), 1, "a token is made with it");
    assert!(!rows::holds(&rows::dump(&server.database), secret), "only its digest is stored");

    let other = socket::send(
        &server.socket,
        "POST",
        "/v1/default/nodes/n1/claims",
        &[JSON],
        br#"{"ttl": "90s", "from": "10.0.0.0/8", "format": "curtin"}"#,
    );
    assert_eq!(other.json()["expires_at"], "2027-01-15T08:01:30Z");
    assert_eq!(rows::count(&server.database, "tokens"), 1, "the token stays the same");
    for bad in [
        json!({"ttl": "0s"}),
        json!({"ttl": "25h"}),
        json!({"from": "hunter2"}),
        json!({"from": "10.0.0.1/8"}),
        json!({"format": "cmdline"}),
        json!({"hunter2": 1}),
    ] {
        let path = "/v1/default/nodes/n1/claims";
        let body = bad.to_string();
        let reply = socket::send(&server.socket, "POST", path, &[JSON], body.as_bytes());
        assert_eq!(reply.status, 400, "{bad}");
        assert!(!reply.text().contains("hunter2"), "{}", reply.text());
    }
}

#[test]
fn a_claim_gives_its_preseed_without_a_signature() {
    let server = TestServer::start();
    let node = server.node("n1");
    let reply = fetch(&server, &claim(&server, "n1"));
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert!(reply.body.starts_with(b"#cloud-config\n"));
    assert_eq!(reply.header("cache-control"), Some("no-store"));
    assert_eq!(reply.header("content-type"), Some("text/plain; charset=utf-8"));
    for text in [&node.consumer_key, &node.token_key, &node.token_secret] {
        assert!(reply.text().contains(text.as_str()));
    }
    assert_eq!(node.get("/latest/meta-data/instance-id").status, 200);
    for format in ["cloud-config", "cloud-cfg-d", "curtin", "autoinstall"] {
        let reply = fetch(&server, &claim_with(&server, "n1", &json!({"format": format})));
        assert!(reply.body.starts_with(b"#cloud-config\n"), "{format}: {}", reply.text());
    }
    let reply = fetch(&server, &claim_with(&server, "n1", &json!({"format": "debconf"})));
    assert!(reply.text().contains("oauth_token_secret="), "{}", reply.text());
}

#[test]
fn from_the_first_fetch_on_it_belongs_to_one_address() {
    let server = TestServer::start();
    server.node("n1");
    let path = claim(&server, "n1");
    assert_eq!(fetch_from(&server, "127.0.0.2", &path).status, 200);
    assert_gone(&fetch_from(&server, "127.0.0.3", &path));
    // The intruder has taken nothing away.
    for fetched in 2..=8 {
        assert_eq!(fetch_from(&server, "127.0.0.2", &path).status, 200, "{fetched}");
    }
    assert_gone(&fetch_from(&server, "127.0.0.2", &path));
    // A header says nothing about an address, unless a proxy of ours sends it.
    let forged = [("X-Forwarded-For", "127.0.0.2"), ("Forwarded", "for=127.0.0.2")];
    let path = claim(&server, "n1");
    assert_eq!(fetch_from(&server, "127.0.0.2", &path).status, 200);
    assert_gone(&wire::get_from("127.0.0.3", server.node, &path, &forged));
    let told = misuses(&server);
    let expected = [
        ("stranger 127.0.0.3", "node/n1", "claim_bound_elsewhere"),
        ("stranger 127.0.0.2", "node/n1", "claim_fetched_too_often"),
    ];
    for (actor, object, reason) in expected {
        let event = (actor.to_owned(), object.to_owned(), reason.to_owned());
        assert!(told.contains(&event), "{event:?} is not in {told:?}");
    }
}

#[test]
fn it_waits_for_its_first_fetch_and_then_ten_minutes() {
    let server = TestServer::start();
    server.node("n1");
    let in_time = claim(&server, "n1");
    server.clock.advance(15 * 60 - 1);
    assert_eq!(fetch(&server, &in_time).status, 200);
    // Its time to wait is over, which is all the same now.
    server.clock.advance(10 * 60 - 1);
    assert_eq!(fetch(&server, &in_time).status, 200);
    server.clock.advance(1);
    assert_gone(&fetch(&server, &in_time));

    let late = claim(&server, "n1");
    server.clock.advance(15 * 60);
    assert_gone(&fetch(&server, &late));
    let short = claim_with(&server, "n1", &json!({"ttl": "30s"}));
    server.clock.advance(30);
    assert_gone(&fetch(&server, &short));
    let reasons: Vec<String> = misuses(&server).into_iter().map(|(_, _, why)| why).collect();
    for reason in ["claim_window_over", "claim_expired"] {
        assert!(reasons.iter().any(|why| why == reason), "{reason}: {reasons:?}");
    }
}

#[test]
fn it_may_be_bound_to_a_network_before_anybody_has_fetched_it() {
    let server = TestServer::start();
    server.node("n1");
    let path = claim_with(&server, "n1", &json!({"from": "127.0.0.64/26"}));
    assert_gone(&fetch_from(&server, "127.0.0.63", &path));
    assert_eq!(fetch_from(&server, "127.0.0.65", &path).status, 200);
    assert_gone(&fetch_from(&server, "127.0.0.66", &path));
    let event = ("stranger 127.0.0.63".into(), "node/n1".into(), "claim_from_elsewhere".into());
    assert!(misuses(&server).contains(&event));
}

#[test]
fn a_claim_nobody_made_is_not_found_and_only_get_fetches() {
    let server = TestServer::start();
    server.node("n1");
    let path = claim(&server, "n1");
    for method in ["HEAD", "POST", "PUT", "DELETE", "OPTIONS"] {
        for path in [path.as_str(), "/MAAS/metadata/claim/AAAAAAAAAAAAAAAAAAAAAA"] {
            let reply = server.stranger().send(method, path, &[], b"");
            assert_eq!((reply.status, reply.header("allow")), (405, Some("GET")), "{method}");
        }
    }
    let secret = path.rsplit('/').next().unwrap();
    let swapped: String = secret.chars().rev().collect();
    for unknown in [
        "AAAAAAAAAAAAAAAAAAAAAA",
        &swapped,
        &secret[1..],
        &format!("{secret}A"),
        "%00",
        "..",
        "x'--",
    ] {
        let reply = fetch(&server, &format!("/MAAS/metadata/claim/{unknown}"));
        assert_eq!(reply.brief(), (404, "Not found".into()), "{unknown}");
        assert_eq!(reply.header("cache-control"), Some("no-store"));
    }
    assert_eq!(misuses(&server), [], "whoever guesses is nobody's business");
    assert_eq!(fetch(&server, &path).status, 200, "nothing of this has used it up");
    for folded in [path.replace("/claim/", "//claim//"), format!("{path}/")] {
        assert_eq!(fetch(&server, &folded).status, 200, "{folded}");
    }
}

/// Why the newest claim of a node was closed, as the database has it.
fn closed_by(server: &TestServer, system_id: &str) -> String {
    let newest = format!(
        "SELECT coalesce(closed_by, '-') FROM claims WHERE system_id = '{system_id}' \
         ORDER BY made_at DESC LIMIT 1"
    );
    rows::text(&server.database, &newest)
}

#[test]
fn whatever_ends_its_token_ends_a_claim() {
    let server = TestServer::start();
    server.project("alpha");
    let cull = json!({"idle_for": "0s", "unused_for": "0s", "max": "100%"}).to_string();
    let move_away = json!({"project": "alpha"}).to_string();
    let ends: [(&str, &str, &str, &str); 5] = [
        ("revoked", "DELETE", "/token", ""),
        ("reprovisioned", "POST", "/reprovision", ""),
        ("moved", "PATCH", "", &move_away),
        ("removed", "DELETE", "", ""),
        ("culled", "POST", "/v1/tokens/cull", &cull),
    ];
    for fetched in [false, true] {
        for (how, method, below, body) in ends {
            let id = format!("{how}-{fetched}");
            server.node(&id);
            let path = claim(&server, &id);
            if fetched {
                assert_eq!(fetch(&server, &path).status, 200);
            }
            server.clock.advance(1);
            if how == "culled" {
                // A node that is claimed is passed over; one that nothing is known of is not.
                server.database.execute(&format!("DELETE FROM boots WHERE system_id = '{id}'"));
            }
            let at = match below.strip_prefix("/v1") {
                Some(_) => below.to_owned(),
                None => format!("/v1/default/nodes/{id}{below}"),
            };
            let reply = socket::send(&server.socket, method, &at, &[JSON], body.as_bytes());
            assert!(reply.status < 300, "{how}: {}", reply.text());
            assert_eq!(closed_by(&server, &id), "token", "{how}: in the same transaction");
            assert_gone(&fetch(&server, &path));
        }
    }
}

#[test]
fn a_superseded_tokens_claim_is_good_until_the_token_ends() {
    let server = TestServer::start();
    server.node("n1");
    let path = claim(&server, "n1");
    let reissue = "/v1/default/nodes/n1/token/reissue";
    let body = br#"{"retire_after": "5m"}"#;
    let renewed = socket::send(&server.socket, "POST", reissue, &[JSON], body);
    assert_eq!(renewed.status, 200, "{}", renewed.text());
    let fetched = fetch(&server, &path);
    assert_eq!(fetched.status, 200);
    let new_key = renewed.json()["token_key"].as_str().unwrap().to_owned();
    assert!(!fetched.text().contains(&new_key), "a claim is for the token it was made with");
    server.clock.advance(5 * 60);
    assert_gone(&fetch(&server, &path));
}

#[test]
fn a_new_claim_ends_the_nodes_older_ones() {
    let server = TestServer::start();
    server.node("n1");
    server.node("n2");
    let others = claim(&server, "n2");
    let (unfetched, fetched) = (claim(&server, "n1"), claim(&server, "n1"));
    assert_gone(&fetch(&server, &unfetched));
    assert_eq!(fetch(&server, &fetched).status, 200);
    let newest = claim(&server, "n1");
    assert_gone(&fetch(&server, &fetched));
    assert_eq!(fetch(&server, &newest).status, 200);
    assert_eq!(fetch(&server, &others).status, 200, "another node's stays");
}

#[test]
fn a_boot_that_goes_on_closes_what_it_fetched() {
    let server = TestServer::start();
    let node = server.node("n1");
    let other = server.node("n2");
    let report = |node: &Node, name: &str| {
        let body = json!({
            "event_type": "start", "origin": "cloudinit", "name": name, "description": "",
        });
        let header = node.header();
        let signed = [("Authorization", header.as_str())];
        let path = format!("/status/{}", node.system_id);
        assert_eq!(node.send("POST", &path, &signed, body.to_string().as_bytes()).status, 204);
    };
    let path = claim(&server, "n1");
    report(&node, "modules-final");
    assert_eq!(fetch(&server, &path).status, 200, "a claim for the next boot stays");
    report(&node, "init-network/search-MAAS");
    report(&other, "modules-config");
    assert_eq!(fetch(&server, &path).status, 200);
    report(&node, "modules-config/config-locale");
    assert_gone(&fetch(&server, &path));
    assert_eq!(closed_by(&server, "n1"), "progress");
}

#[test]
fn of_two_addresses_at_once_one_is_given_the_preseed() {
    let server = TestServer::start();
    server.node("n1");
    for round in 0..12 {
        let path = claim(&server, "n1");
        let barrier = Barrier::new(6);
        let won: Vec<(usize, u16)> = std::thread::scope(|scope| {
            let racers: Vec<_> = (0..6)
                .map(|racer| {
                    let (server, path, barrier) = (&server, &path, &barrier);
                    let source = format!("127.0.0.{}", 2 + racer % 3);
                    scope.spawn(move || {
                        barrier.wait();
                        (racer % 3, fetch_from(server, &source, path).status)
                    })
                })
                .collect();
            racers.into_iter().map(|racer| racer.join().unwrap()).collect()
        });
        let winners: Vec<usize> =
            won.iter().filter(|(_, status)| *status == 200).map(|(racer, _)| *racer).collect();
        assert!(won.iter().all(|(_, status)| matches!(status, 200 | 410)), "{won:?}");
        assert_eq!(winners.len(), 2, "round {round}: both requests of one address: {won:?}");
        assert_eq!(winners[0], winners[1], "round {round}: {won:?}");
    }
}

#[test]
fn however_many_come_at_once_eight_are_served() {
    let server = TestServer::start();
    server.node("n1");
    let path = claim(&server, "n1");
    let barrier = Barrier::new(24);
    let given: usize = std::thread::scope(|scope| {
        let callers: Vec<_> = (0..24)
            .map(|_| {
                scope.spawn(|| {
                    barrier.wait();
                    usize::from(fetch(&server, &path).status == 200)
                })
            })
            .collect();
        callers.into_iter().map(|caller| caller.join().unwrap()).sum()
    });
    assert_eq!(given, 8);
}

#[test]
fn makers_and_revokers_at_once_leave_no_claim_without_its_token() {
    let server = TestServer::start();
    server.operator().add("n1", json!({}));
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let server = &server;
            scope.spawn(move || {
                for _ in 0..8 {
                    let status = match worker {
                        0 | 1 => post(server, "/v1/default/nodes/n1/claims"),
                        2 => {
                            let path = "/v1/default/nodes/n1/token";
                            server.operator().send(Method::DELETE, path, &[], b"").status
                        }
                        _ => {
                            let rule = json!({"unused_for": "0s", "force": true}).to_string();
                            let path = "/v1/tokens/cull";
                            server
                                .operator()
                                .send(Method::POST, path, &[JSON], rule.as_bytes())
                                .status
                        }
                    };
                    assert!(status < 300, "{worker}: {status}");
                }
            });
        }
    });
    let orphans = "SELECT count(*) FROM claims WHERE closed_at IS NULL AND token_id NOT IN \
                   (SELECT token_id FROM node_keys)";
    assert_eq!(rows::number(&server.database, orphans), 0);
    let open = "SELECT count(*) FROM claims WHERE closed_at IS NULL";
    assert!(rows::number(&server.database, open) <= 1);
}

#[test]
fn who_it_is_bound_to_is_written_before_the_answer() {
    let server = TestServer::start();
    server.node("n1");
    let path = claim(&server, "n1");
    let held = rows::hold(&server.database, &["claims"]);
    let reply = fetch_from(&server, "127.0.0.2", &path);
    assert_eq!(reply.status, 503, "nothing is given away that is not committed");
    assert!(reply.header("retry-after").is_some());
    // What nobody made is looked up and costs no write.
    let unknown = fetch(&server, "/MAAS/metadata/claim/AAAAAAAAAAAAAAAAAAAAAA");
    assert_eq!(unknown.status, 404);
    drop(held);
    let fetches = "SELECT count(*) FROM claims WHERE first_fetched_at IS NOT NULL";
    assert_eq!(rows::number(&server.database, fetches), 0);
    assert_eq!(fetch_from(&server, "127.0.0.3", &path).status, 200);
    let server = server.restart();
    assert_gone(&fetch_from(&server, "127.0.0.2", &path));
    assert_eq!(fetch_from(&server, "127.0.0.3", &path).status, 200, "a restart forgets nothing");
}

#[test]
fn whoever_guesses_is_slowed_down_by_address() {
    let options = Options::default().flag("refused-rate", "1").flag("refused-burst", "5");
    let server = TestServer::start_with(options);
    server.node("n1");
    let path = claim(&server, "n1");
    let guess = "/MAAS/metadata/claim/AAAAAAAAAAAAAAAAAAAAAA";
    let statuses: Vec<u16> =
        (0..8).map(|_| fetch_from(&server, "127.0.0.2", guess).status).collect();
    assert_eq!(statuses[..5], [404; 5]);
    assert!(statuses[5..].contains(&429), "{statuses:?}");
    let slowed = fetch_from(&server, "127.0.0.2", guess);
    assert!(slowed.status == 404 || slowed.header("retry-after").is_some());
    // Who has a claim is served, whoever shares its address.
    assert_eq!(fetch_from(&server, "127.0.0.2", &path).status, 200);
    assert_eq!(fetch_from(&server, "127.0.0.3", guess).status, 404);
}

#[test]
fn the_secret_of_a_claim_is_in_no_log_audit_or_error() {
    let home = Home::new();
    let server = home.serve();
    let node = server.node("n1");
    let made = home.run(&["claim", "n1", "--ttl", "5m", "--from", "127.0.0.0/8", "-o", "json"]);
    let made = made.done().json();
    let url = made["url"].as_str().unwrap().to_owned();
    let secret = url.rsplit('/').next().unwrap().to_owned();
    let path = &url[url.find("/MAAS").unwrap()..];
    assert_eq!(wire::send(server.node, "GET", path, &[], b"").status, 200);
    for bad in [format!("{path}x"), format!("{path}/x"), format!("{path}?{secret}")] {
        let reply = wire::send(server.node, "GET", &bad, &[], b"");
        assert!(!reply.text().contains(&secret), "{}", reply.text());
    }
    let refused = [
        wire::get_from("127.0.0.9", server.node, path, &[]),
        wire::send(server.node, "HEAD", path, &[], b""),
        wire::send(server.node, "POST", path, &[("content-type", "text/plain")], b"x"),
        node.get(&path["/MAAS/metadata".len()..].replace("/claim", "/latest/claim")),
    ];
    for reply in refused {
        let all = format!("{:?}{}", reply.headers, reply.text());
        assert!(!all.contains(&secret), "{all}");
    }
    let cmdline = home.run(&["preseed", "n1", "--format", "cmdline"]).done().out;
    let second = cmdline.trim_end().rsplit('/').next().unwrap().to_owned();
    let audit = server.operator().session.get("/v1/audit?limit=1000").unwrap().to_string();
    assert!(audit.contains("claim:create") && audit.contains("claim:fetch"), "{audit}");
    let stored = rows::dump(&home.database);
    let said = server.stop();
    assert!(said.contains("\"route\":\"/MAAS/metadata/claim/{secret}\""), "{said}");
    for secret in [&secret, &second] {
        assert!(!rows::holds(said.as_bytes(), secret), "{said}");
        assert!(!audit.contains(secret.as_str()) && !rows::holds(&stored, secret));
    }
}

#[test]
fn old_claims_are_swept() {
    let server = TestServer::start();
    server.node("n1");
    let old = claim(&server, "n1");
    server.clock.advance(31 * 86_400);
    let newer = claim(&server, "n1");
    let keep = std::time::Duration::from_hours(24 * 30);
    crate::support::wait(nodeinit::actions::cull::sweep(&server.app, keep)).unwrap();
    assert_eq!(rows::count(&server.database, "claims"), 1);
    assert_eq!(fetch(&server, &old).status, 404);
    assert_eq!(fetch(&server, &newer).status, 200);
}
