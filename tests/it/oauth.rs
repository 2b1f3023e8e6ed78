//! Who is taken for a node and who is refused (CONTRACT §4). The ids are those of the conformance
//! cases: A accepted, R refused; D are the checks of the real client.
//!
//! By default PLAINTEXT's timestamp and nonce are not judged; MAAS's own answers are tested under
//! `--plaintext-replay refuse`, which restores them.

use std::collections::HashSet;
use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use nodeinit::client::oauth1::{self, NodeCredentials};
use nodeinit::domain::credentials::{Secret, TokenKey};
use serde_json::Value;
use sha1::Sha1;
use sha2::Sha256;

use crate::support::plane::{READS, assert_refused, date, without_names};
use crate::support::{NOW, Node, Options, Reply, TestServer, wire};

const ID: &str = "/latest/meta-data/instance-id";
const ID_PATH: &str = "/MAAS/metadata/latest/meta-data/instance-id";

/// A server whose start is long past, so that every timestamp in the window is its own.
fn started(options: Options) -> (TestServer, Node) {
    let server = TestServer::start_with(options);
    server.clock.advance(1000);
    let node = server.node("n1");
    (server, node)
}

fn by_default() -> (TestServer, Node) {
    started(Options::default())
}

fn refusing_replays() -> (TestServer, Node) {
    started(Options::default().flag("plaintext-replay", "refuse"))
}

fn now(node: &Node) -> i64 {
    node.clock.now().as_second()
}

#[track_caller]
fn assert_accepted(reply: &Reply) {
    assert_eq!(reply.brief(), (200, "n1".to_owned()));
}

/// The parameters of a PLAINTEXT header, to be changed one by one.
fn parameters(node: &Node) -> Vec<(&'static str, String)> {
    vec![
        ("oauth_nonce", wire::nonce()),
        ("oauth_timestamp", now(node).to_string()),
        ("oauth_version", "1.0".into()),
        ("oauth_signature_method", "PLAINTEXT".into()),
        ("oauth_consumer_key", node.consumer_key.clone()),
        ("oauth_token", node.token_key.clone()),
        ("oauth_signature", format!("%26{}", node.token_secret)),
    ]
}

fn joined(parameters: &[(&str, String)], comma: &str) -> String {
    let pairs: Vec<String> =
        parameters.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
    format!("OAuth {}", pairs.join(comma))
}

/// A PLAINTEXT header with one parameter changed.
fn with(node: &Node, name: &str, value: &str) -> String {
    let mut parameters = parameters(node);
    let at = parameters.iter().position(|(n, _)| *n == name).unwrap();
    value.clone_into(&mut parameters[at].1);
    joined(&parameters, ", ")
}

fn without(node: &Node, name: &str) -> String {
    let mut parameters = parameters(node);
    parameters.retain(|(n, _)| *n != name);
    joined(&parameters, ", ")
}

fn escape(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        let _ = match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                write!(out, "{}", char::from(byte))
            }
            _ => write!(out, "%{byte:02X}"),
        };
        out
    })
}

fn mac<M: Mac + KeyInit>(key: &str, text: &str) -> String {
    let mac = <M as KeyInit>::new_from_slice(key.as_bytes()).unwrap();
    STANDARD.encode(mac.chain_update(text).finalize().into_bytes())
}

/// A request signed by HMAC, worked out here from RFC 5849 §3.4 alone.
struct Signed<'a> {
    hash: &'a str,
    method: &'a str,
    /// Scheme, authority and path as the base string has them.
    uri: &'a str,
    /// Parameters of the query and the form, decoded.
    covered: &'a [(&'a str, &'a str)],
    timestamp: i64,
    nonce: String,
}

impl<'a> Signed<'a> {
    fn get(node: &Node, hash: &'a str, uri: &'a str) -> Signed<'a> {
        Signed {
            hash,
            method: "GET",
            uri,
            covered: &[],
            timestamp: now(node),
            nonce: wire::nonce(),
        }
    }

    fn header(&self, node: &Node) -> String {
        let mut oauth = parameters(node);
        oauth.retain(|(name, _)| *name != "oauth_signature");
        for (name, value) in &mut oauth {
            match *name {
                "oauth_nonce" => value.clone_from(&self.nonce),
                "oauth_timestamp" => *value = self.timestamp.to_string(),
                "oauth_signature_method" => self.hash.clone_into(value),
                _ => {}
            }
        }
        let mut pairs: Vec<(String, String)> = oauth
            .iter()
            .map(|(name, value)| (escape(name), escape(value)))
            .chain(self.covered.iter().map(|(name, value)| (escape(name), escape(value))))
            .collect();
        pairs.sort();
        let pairs: Vec<String> = pairs.iter().map(|(n, v)| format!("{n}={v}")).collect();
        let text = format!("{}&{}&{}", self.method, escape(self.uri), escape(&pairs.join("&")));
        let key = format!("&{}", escape(&node.token_secret));
        let signature = match self.hash {
            "HMAC-SHA1" => mac::<Hmac<Sha1>>(&key, &text),
            "HMAC-SHA256" => mac::<Hmac<Sha256>>(&key, &text),
            other => panic!("{other}"),
        };
        oauth.push(("oauth_signature", escape(&signature)));
        joined(&oauth, ", ")
    }
}

const HASHES: [&str; 2] = ["HMAC-SHA1", "HMAC-SHA256"];

fn url(node: &Node) -> String {
    format!("http://{}{ID_PATH}", node.address)
}

/// A signed GET of the instance-id at `timestamp`.
fn hmac_at(node: &Node, hash: &str, timestamp: i64, nonce: &str) -> String {
    let uri = url(node);
    Signed { timestamp, nonce: nonce.to_owned(), ..Signed::get(node, hash, &uri) }.header(node)
}

/// A request signed in each of the three ways, all with this nonce.
fn three_ways(node: &Node, timestamp: i64, nonce: &str) -> [String; 3] {
    let [sha1, sha256] = HASHES.map(|hash| hmac_at(node, hash, timestamp, nonce));
    [node.header_at(timestamp, nonce), sha1, sha256]
}

/// The same with a fresh nonce each.
fn judged(node: &Node, timestamp: i64) -> [String; 3] {
    let [sha1, sha256] = HASHES.map(|hash| hmac_at(node, hash, timestamp, &wire::nonce()));
    [node.header_at(timestamp, &wire::nonce()), sha1, sha256]
}

#[test]
fn a01_a_header_as_oauthlib_writes_it_is_accepted() {
    let (_server, node) = by_default();
    let header = joined(&parameters(&node), ", ");
    assert!(header.contains("oauth_signature=\"%26"));
    assert_accepted(&node.get_with(ID, &header));
}

#[test]
fn a02_d04_commas_need_no_spaces() {
    let (_server, node) = by_default();
    for comma in [",", " , ", ",\t", ",  "] {
        assert_accepted(&node.get_with(ID, &joined(&parameters(&node), comma)));
    }
}

#[test]
fn a03_d04_a_realm_is_ignored_wherever_it_stands() {
    let (_server, node) = by_default();
    let rest = joined(&parameters(&node), ", ")["OAuth ".len()..].to_owned();
    for header in [
        format!("OAuth realm=\"\", {rest}"),
        format!("OAuth {rest}, realm=\"\""),
        format!("OAuth realm=\"a, oauth_token=x\", {rest}"),
        format!("OAuth realm=\"MAAS%\",{rest}"),
    ] {
        assert_accepted(&node.get_with(ID, &header));
    }
}

#[test]
fn a04_values_may_be_bare_and_the_signature_raw() {
    let (_server, node) = by_default();
    let mut parameters = parameters(&node);
    parameters.last_mut().unwrap().1 = format!("&{}", node.token_secret);
    let pairs: Vec<String> = parameters.iter().map(|(n, v)| format!("{n}={v}")).collect();
    for comma in [", ", ","] {
        assert_accepted(&node.get_with(ID, &format!("OAuth {}", pairs.join(comma))));
    }
}

#[test]
fn a05_the_version_may_be_absent() {
    let (_server, node) = by_default();
    assert_accepted(&node.get_with(ID, &without(&node, "oauth_version")));
}

#[test]
fn a06_a07_d12_a_wrong_clock_keeps_no_node_out() {
    let (_server, node) = by_default();
    let decade = 10 * 365 * 86_400;
    for skew in [-decade, -86_400, -3600, -301, -300, 0, 2, 3, 60, 3600, 86_400, decade] {
        assert_accepted(&node.get_with(ID, &node.header_at(now(&node) + skew, &wire::nonce())));
    }
    for timestamp in [0, 1, i64::MAX] {
        assert_accepted(&node.get_with(ID, &node.header_at(timestamp, &wire::nonce())));
    }
}

#[test]
fn a06_a07_r10_r11_where_freshness_is_judged_the_window_is_300_back_and_2_ahead() {
    let (_server, node) = refusing_replays();
    for skew in [-300, -1, 0, 2] {
        for header in judged(&node, now(&node) + skew) {
            assert_accepted(&node.get_with(ID, &header));
        }
    }
    // MAAS takes any timestamp ahead; then what was recorded once could be replayed for ever.
    for skew in [-86_400, -301, 3, 60, 86_400] {
        for header in judged(&node, now(&node) + skew) {
            assert_refused(&node.get_with(ID, &header), "timestamp_refused");
        }
    }
}

#[test]
fn r10_r11_hmac_timestamps_are_judged_by_default_too() {
    let (_server, node) = by_default();
    for hash in HASHES {
        for skew in [-300, 0, 2] {
            let header = hmac_at(&node, hash, now(&node) + skew, &wire::nonce());
            assert_accepted(&node.get_with(ID, &header));
        }
        for skew in [-301, 3, 86_400] {
            let header = hmac_at(&node, hash, now(&node) + skew, &wire::nonce());
            assert_refused(&node.get_with(ID, &header), "timestamp_refused");
        }
    }
}

#[test]
fn a08_d05_hmac_covers_method_host_port_path_and_query() {
    let (_server, node) = by_default();
    let target = format!("{ID}?b5=%3D%253D&a3=a&c%40=&a2=r%20b&c2&a3=2+q");
    let covered =
        [("b5", "=%3D"), ("a3", "a"), ("c@", ""), ("a2", "r b"), ("c2", ""), ("a3", "2 q")];
    let uri = url(&node);
    for hash in HASHES {
        let signed =
            |nonce: String| Signed { covered: &covered, nonce, ..Signed::get(&node, hash, &uri) };
        assert_accepted(&node.get_with(&target, &signed(wire::nonce()).header(&node)));

        let refused = |method: &str, path: &str, header: &str| {
            let reply = node.send(method, path, &[("Authorization", header)], b"");
            let public = if method == "HEAD" { "" } else { "credentials_refused" };
            assert_eq!(reply.brief(), (401, public.to_owned()), "{hash} {method} {path}");
        };
        refused("HEAD", &target, &signed(wire::nonce()).header(&node));
        refused("GET", &format!("{target}&x=1"), &signed(wire::nonce()).header(&node));
        refused("GET", ID, &signed(wire::nonce()).header(&node));
        let elsewhere = target.replace("instance-id", "local-hostname");
        refused("GET", &elsewhere, &signed(wire::nonce()).header(&node));
    }
}

#[test]
fn a08_d05_a_request_signed_by_oauth1_request_is_accepted() {
    let (_server, node) = by_default();
    let credentials = NodeCredentials {
        consumer_key: node.consumer_key.clone(),
        token_key: node.token_key.clone(),
        token_secret: node.token_secret.clone(),
    };
    let now = u64::try_from(now(&node)).unwrap();
    let sha1 = oauth1::hmac_sha1(&credentials, now, &wire::nonce(), "GET", &url(&node));
    assert_accepted(&node.get_with(ID, &sha1));
    let plaintext = oauth1::plaintext(&credentials, now, &wire::nonce(), &url(&node));
    assert_accepted(&node.get_with(ID, &plaintext));
    let another = oauth1::hmac_sha1(&credentials, now, &wire::nonce(), "PUT", &url(&node));
    assert_refused(&node.get_with(ID, &another), "credentials_refused");
}

#[test]
fn a09_a_default_port_and_the_hosts_letter_case_are_not_signed() {
    let (_server, node) = by_default();
    let uri = format!("http://metadata.example.com{ID_PATH}");
    for hash in HASHES {
        for host in ["metadata.example.com:80", "metadata.example.com", "Metadata.EXAMPLE.com:80"] {
            let header = Signed::get(&node, hash, &uri).header(&node);
            let headers = [("Host", host), ("Authorization", &header)];
            assert_accepted(&node.send("GET", ID, &headers, b""));
        }
        let header = Signed::get(&node, hash, &uri).header(&node);
        let headers = [("Host", "metadata.example.com:443"), ("Authorization", &header)];
        assert_refused(&node.send("GET", ID, &headers, b""), "credentials_refused");
    }
}

#[test]
fn a09_behind_a_proxy_the_scheme_is_that_of_the_metadata_url() {
    let options =
        Options::default().flag("metadata-url", "https://metadata.example.com/MAAS/metadata/");
    let (_server, node) = started(options);
    for hash in HASHES {
        let get = |scheme: &str, host: &str| {
            let uri = format!("{scheme}://{host}{ID_PATH}");
            let header = Signed::get(&node, hash, &uri).header(&node);
            node.send("GET", ID, &[("Host", host), ("Authorization", &header)], b"")
        };
        assert_accepted(&get("https", "metadata.example.com"));
        assert_refused(&get("http", "metadata.example.com"), "credentials_refused");
        // Any other name is the listener's own.
        assert_accepted(&get("http", "other.example.com"));
        assert_refused(&get("https", "other.example.com"), "credentials_refused");
    }
}

#[test]
fn a10_a_form_body_is_signed_and_any_other_is_not() {
    let (_server, node) = by_default();
    let path = "/latest/user-data";
    let uri = format!("http://{}/MAAS/metadata{path}", node.address);
    let post = |hash: &str, covered: &[(&str, &str)], content_type: &str, body: &[u8]| {
        let signed = Signed { method: "POST", covered, ..Signed::get(&node, hash, &uri) };
        let header = signed.header(&node);
        let headers = [("Authorization", &*header), ("Content-Type", content_type)];
        node.send("POST", path, &headers, body)
    };
    let multipart =
        b"--b\r\nContent-Disposition: form-data; name=\"op\"\r\n\r\nsignal\r\n--b--\r\n";
    let form = "application/x-www-form-urlencoded";
    for hash in HASHES {
        // 405 is for those who signed well: nothing can be posted to this path.
        assert_eq!(post(hash, &[], "multipart/form-data; boundary=b", multipart).status, 405);
        assert_eq!(post(hash, &[], "application/json", b"{\"op\": 1}").status, 405);
        let covered = [("op", "signal"), ("error", "a b&c")];
        for body in ["op=signal&error=a+b%26c", "error=a%20b%26c&op=signal"] {
            assert_eq!(post(hash, &covered, form, body.as_bytes()).status, 405);
        }
        let charset = "application/x-www-form-urlencoded; charset=UTF-8";
        assert_eq!(post(hash, &covered, charset, b"op=signal&error=a+b%26c").status, 405);
        let changed = post(hash, &covered, form, b"op=signal&error=a+b%26d");
        assert_refused(&changed, "credentials_refused");
        assert_refused(&post(hash, &[], form, b"op=signal"), "credentials_refused");
    }
}

#[test]
fn a11_d04_parameters_come_in_any_order_and_with_others() {
    let (_server, node) = by_default();
    for turn in 0..7 {
        let mut parameters = parameters(&node);
        parameters.rotate_left(turn);
        parameters.insert(3, ("oauth_callback", "oob".into()));
        parameters.push(("oauth_frobnicate", "x%20y".into()));
        assert_accepted(&node.get_with(ID, &joined(&parameters, ", ")));
    }
}

#[test]
fn r01_r02_r03_without_oauth_credentials_nothing_is_answered() {
    let (_server, node) = by_default();
    let reply = node.send("GET", ID, &[], b"");
    assert_refused(&reply, "credentials_missing");
    for header in
        ["", " ", "OAuth", "OAuth ", "Basic dXNlcjpwYXNz", "Bearer x", "Digest oauth_token=x"]
    {
        assert_refused(&node.get_with(ID, header), "credentials_missing");
    }
}

#[test]
fn r04_plaintext_needs_no_timestamp_or_nonce_but_all_the_rest() {
    let (_server, node) = by_default();
    for name in ["oauth_nonce", "oauth_timestamp"] {
        assert_accepted(&node.get_with(ID, &without(&node, name)));
    }
    let mut neither = parameters(&node);
    neither.retain(|(name, _)| !matches!(*name, "oauth_nonce" | "oauth_timestamp"));
    assert_accepted(&node.get_with(ID, &joined(&neither, ", ")));
    for name in ["oauth_consumer_key", "oauth_token", "oauth_signature_method", "oauth_signature"] {
        assert_refused(&node.get_with(ID, &without(&node, name)), "credentials_malformed");
    }
}

#[test]
fn r04_where_freshness_is_judged_all_six_are_needed() {
    let (_server, node) = refusing_replays();
    for (name, _) in parameters(&node) {
        let reply = node.get_with(ID, &without(&node, name));
        match name {
            "oauth_version" => assert_accepted(&reply),
            _ => assert_refused(&reply, "credentials_malformed"),
        }
    }
    for hash in HASHES {
        for (name, _) in parameters(&node) {
            let header = hmac_at(&node, hash, now(&node), &wire::nonce());
            let left: Vec<&str> = header["OAuth ".len()..]
                .split(", ")
                .filter(|pair| !pair.starts_with(&format!("{name}=")))
                .collect();
            let code = match name {
                // It was signed, so taking it away is a change.
                "oauth_version" => "credentials_refused",
                _ => "credentials_malformed",
            };
            let header = format!("OAuth {}", left.join(", "));
            assert_refused(&node.get_with(ID, &header), code);
        }
    }
}

#[test]
fn r05_d03_a_wrong_secret_is_refused_and_none_is_named() {
    let (_server, node) = by_default();
    let secret = &node.token_secret;
    let flipped: String = secret
        .chars()
        .map(|c| if c.is_lowercase() { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() })
        .collect();
    for signature in [
        "%26wrong".to_owned(),
        format!("%26{}", &secret[1..]),
        format!("%26{}", &secret[..31]),
        format!("%26{flipped}"),
        format!("%26{secret}x"),
        format!("{secret}%26"),
        format!("x%26{secret}"),
        secret.clone(),
        "%26".to_owned(),
        String::new(),
    ] {
        let reply = node.get_with(ID, &with(&node, "oauth_signature", &signature));
        assert_refused(&reply, "credentials_refused");
        assert!(!format!("{reply:?}").contains(secret));
    }
}

#[test]
fn r06_r07_r08_d06_which_part_was_wrong_cannot_be_told() {
    let (server, node) = by_default();
    let ended = server.node("n2");
    let path = "/v1/default/nodes/n2/token";
    server.operator().session.delete(path).unwrap();
    let unknown_consumer = with(&node, "oauth_consumer_key", &"x".repeat(18));
    let unknown_token = with(&node, "oauth_token", &"x".repeat(18));
    let wrong_secret = with(&node, "oauth_signature", &format!("%26{}", "x".repeat(32)));
    let replies: HashSet<String> =
        [&unknown_consumer, &unknown_token, &wrong_secret, &ended.header()]
            .into_iter()
            .map(|header| {
                let reply = node.get_with(ID, header);
                assert_refused(&reply, "credentials_refused");
                format!("{:?}", without_names(reply))
            })
            .collect();
    assert_eq!(replies.len(), 1, "{replies:?}");
}

#[test]
fn r09_a_token_goes_with_its_own_consumer() {
    let (server, node) = by_default();
    let other = server.node("n2");
    let header = with(&node, "oauth_consumer_key", &other.consumer_key);
    assert_refused(&node.get_with(ID, &header), "credentials_refused");
    let mixed = Node { consumer_key: other.consumer_key, ..node.clone() };
    for hash in HASHES {
        let header = hmac_at(&mixed, hash, now(&node), &wire::nonce());
        assert_refused(&node.get_with(ID, &header), "credentials_refused");
    }
}

#[test]
fn r12_d08_d09_the_date_of_a_refusal_mends_the_clients_clock() {
    let options = Options::default().flag("plaintext-replay", "refuse").system_clock();
    let server = TestServer::start_with(options);
    let node = server.node("n1");
    for wrong in [-315_360_000, 315_360_000, -3600] {
        for way in 0..3 {
            let asked = judged(&node, now(&node) + wrong);
            let refused = node.get_with(ID, &asked[way]);
            assert_refused(&refused, "timestamp_refused");
            let asked = judged(&node, date(&refused));
            assert_accepted(&node.get_with(ID, &asked[way]));
        }
    }
}

#[test]
fn r13_r14_a_timestamp_is_a_whole_number_or_the_request_is_malformed() {
    for (_server, node) in [by_default(), refusing_replays()] {
        let long = "1".repeat(256);
        for timestamp in ["abc", "", "1.5e9", "1800000000.5", "-1", "+1", "0x10", "1 2", "١", &long]
        {
            let header = with(&node, "oauth_timestamp", timestamp);
            assert_refused(&node.get_with(ID, &header), "credentials_malformed");
            let timestamp = format!("oauth_timestamp=\"{timestamp}\"");
            let now = format!("oauth_timestamp=\"{}\"", now(&node));
            for hash in HASHES {
                let header = hmac_at(&node, hash, self::now(&node), &wire::nonce());
                let header = header.replace(&now, &timestamp);
                assert_refused(&node.get_with(ID, &header), "credentials_malformed");
            }
        }
    }
}

#[test]
fn r15_a_plaintext_header_may_come_again() {
    let (_server, node) = by_default();
    let header = node.header();
    for _ in 0..3 {
        assert_accepted(&node.get_with(ID, &header));
    }
}

#[test]
fn r15_where_freshness_is_judged_a_header_is_good_once() {
    let (_server, node) = refusing_replays();
    for header in judged(&node, now(&node)) {
        assert_accepted(&node.get_with(ID, &header));
        assert_refused(&node.get_with(ID, &header), "nonce_refused");
    }
    let header = node.header();
    assert_accepted(&node.get_with(ID, &header));
    assert_refused(&node.get_with("/", &header), "nonce_refused");
}

#[test]
fn r15_an_hmac_header_is_good_once_by_default_too() {
    let (_server, node) = by_default();
    for hash in HASHES {
        let header = hmac_at(&node, hash, now(&node), &wire::nonce());
        assert_accepted(&node.get_with(ID, &header));
        assert_refused(&node.get_with(ID, &header), "nonce_refused");
    }
}

#[test]
fn r16_d13_a_nonce_counts_with_its_timestamp() {
    let (_server, node) = refusing_replays();
    for nonce in ["7", "131496922343931431784791316231321", "a b", &"é".repeat(100)] {
        for earlier in 0..3 {
            let header = node.header_at(now(&node) - earlier, &escape(nonce));
            assert_accepted(&node.get_with(ID, &header));
            assert_refused(&node.get_with(ID, &header), "nonce_refused");
        }
    }
}

#[test]
fn r17_a_refused_request_spends_no_nonce() {
    let (server, node) = refusing_replays();
    let other = server.node("n2");
    let nonce = wire::nonce();
    let forged = Node { token_secret: "x".repeat(32), ..node.clone() };
    let mixed = Node { consumer_key: other.consumer_key, ..node.clone() };
    for liar in [&forged, &mixed] {
        for header in three_ways(liar, now(&node), &nonce) {
            assert_refused(&node.get_with(ID, &header), "credentials_refused");
        }
    }
    assert_accepted(&node.get_with(ID, &node.header_at(now(&node), &nonce)));
    assert_refused(&node.get_with(ID, &node.header_at(now(&node), &nonce)), "nonce_refused");
}

#[test]
fn r18_two_tokens_may_use_the_same_nonce() {
    let (server, node) = refusing_replays();
    let other = server.node("n2");
    let (at, nonce) = (now(&node), wire::nonce());
    assert_eq!(node.get_with(ID, &node.header_at(at, &nonce)).brief(), (200, "n1".to_owned()));
    assert_eq!(other.get_with(ID, &other.header_at(at, &nonce)).brief(), (200, "n2".to_owned()));
}

/// How many of 50 identical requests at once were answered, and how many refused.
fn fifty_at_once(node: &Node, header: &str) -> (usize, usize) {
    let replies: Vec<Reply> = std::thread::scope(|scope| {
        let asked: Vec<_> = (0..50).map(|_| scope.spawn(|| node.get_with(ID, header))).collect();
        asked.into_iter().map(|reply| reply.join().unwrap()).collect()
    });
    let good = replies.iter().filter(|reply| reply.brief() == (200, "n1".to_owned())).count();
    let refused = (401, "nonce_refused".to_owned());
    (good, replies.iter().filter(|reply| reply.brief() == refused).count())
}

#[test]
fn r19_of_50_identical_requests_at_once_one_spends_the_nonce() {
    let (_server, node) = by_default();
    assert_eq!(fifty_at_once(&node, &node.header()), (50, 0));
    for hash in HASHES {
        let header = hmac_at(&node, hash, now(&node), &wire::nonce());
        assert_eq!(fifty_at_once(&node, &header), (1, 49), "{hash}");
    }
    let (_server, node) = refusing_replays();
    assert_eq!(fifty_at_once(&node, &node.header()), (1, 49));
}

#[test]
fn r20_hmac_sha256_is_accepted_and_other_methods_are_not() {
    let (_server, node) = by_default();
    assert_accepted(&node.get_with(ID, &hmac_at(&node, "HMAC-SHA256", now(&node), "n20")));
    for method in ["RSA-SHA1", "HMAC-SHA512", "plaintext", "bogus", "", "PLAINTEXT%20"] {
        let header = with(&node, "oauth_signature_method", method);
        assert_refused(&node.get_with(ID, &header), "credentials_malformed");
    }
    // The other hash's signature, or the plain secret, under this name.
    for hash in HASHES {
        let other = HASHES.into_iter().find(|other| *other != hash).unwrap();
        let header = hmac_at(&node, hash, now(&node), &wire::nonce()).replace(hash, other);
        assert_refused(&node.get_with(ID, &header), "credentials_refused");
        let header = with(&node, "oauth_signature_method", hash);
        assert_refused(&node.get_with(ID, &header), "credentials_refused");
    }
}

#[test]
fn r21_there_is_one_version_of_oauth_here() {
    let (_server, node) = by_default();
    for version in ["2.0", "1.0a", "", "1"] {
        let header = with(&node, "oauth_version", version);
        assert_refused(&node.get_with(ID, &header), "credentials_malformed");
    }
}

#[test]
fn r22_r23_r27_r28_a_header_that_cannot_be_read_is_malformed() {
    let (_server, node) = by_default();
    let good = joined(&parameters(&node), ", ");
    for header in [
        format!("{good}, junk"),
        format!("{good}, =junk"),
        format!("{good} junk"),
        format!("{good}, oauth_x=\"unclosed"),
        format!("{good}, x=\"%zz\""),
        format!("{good}, x=\"%f\""),
        format!("{good}, x=\"%ff\""),
        format!("{good}, x=\"%c3%28\""),
        format!("{good}, x=\"%00\""),
        with(&node, "oauth_token", "%ff%fe"),
        with(&node, "oauth_token", "%zz"),
        with(&node, "oauth_nonce", &"n".repeat(256)),
        with(&node, "oauth_nonce", &"n".repeat(4000)),
    ] {
        assert_refused(&node.get_with(ID, &header), "credentials_malformed");
    }
    for nonce in [&*"n".repeat(255), &"%C3%A9".repeat(255)] {
        assert_accepted(&node.get_with(ID, &with(&node, "oauth_nonce", nonce)));
    }
    // Without its space the scheme is another one.
    let glued = good.replacen("OAuth ", "OAuth", 1);
    assert_refused(&node.get_with(ID, &glued), "credentials_missing");
}

#[test]
fn r24_d04_the_scheme_is_read_in_any_letter_case() {
    let (_server, node) = by_default();
    for scheme in ["oauth", "OAUTH", "oAuth"] {
        let header = joined(&parameters(&node), ", ").replacen("OAuth", scheme, 1);
        assert_accepted(&node.get_with(ID, &header));
    }
}

fn as_form(node: &Node) -> String {
    let mut parameters = parameters(node);
    parameters.last_mut().unwrap().1 = format!("%26{}", node.token_secret);
    let pairs: Vec<String> = parameters.iter().map(|(n, v)| format!("{n}={v}")).collect();
    pairs.join("&")
}

#[test]
fn r25_credentials_in_the_query_are_none() {
    let (_server, node) = by_default();
    let reply = node.send("GET", &format!("{ID}?{}", as_form(&node)), &[], b"");
    assert_refused(&reply, "credentials_missing");
}

#[test]
fn r26_credentials_in_the_form_are_none() {
    let (_server, node) = by_default();
    let headers = [("Content-Type", "application/x-www-form-urlencoded")];
    for method in ["POST", "GET"] {
        let reply = node.send(method, ID, &headers, as_form(&node).as_bytes());
        assert_refused(&reply, "credentials_missing");
    }
}

#[test]
fn r27_a_header_past_its_limit_is_431_and_a_nul_is_400() {
    let (_server, node) = by_default();
    let long = format!("{}, x=\"{}\"", node.header(), "x".repeat(8 << 10));
    assert_eq!(node.get_with(ID, &long).status, 431);
    assert_eq!(node.get_with(ID, &format!("{}\0", node.header())).status, 400);
}

#[test]
fn r29_keys_and_secrets_keep_their_letter_case() {
    let (_server, node) = by_default();
    for (name, key) in
        [("oauth_token", &node.token_key), ("oauth_consumer_key", &node.consumer_key)]
    {
        for key in [key.to_ascii_lowercase(), key.to_ascii_uppercase()] {
            let header = with(&node, name, &key);
            assert_refused(&node.get_with(ID, &header), "credentials_refused");
        }
    }
}

#[test]
fn d03_a_secret_of_any_characters_is_encoded_twice_in_the_header() {
    let (server, node) = by_default();
    let secret = "a& %=+/b\"'~é";
    let key = node.token_key.clone();
    let app = &server.app;
    let sealed =
        app.sealer.seal(&Secret::new(secret.into()), &TokenKey::trusted(key.clone()), &app.mint);
    let hex = sealed.iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    });
    let literal =
        if server.database.is_postgres() { format!("'\\x{hex}'") } else { format!("x'{hex}'") };
    server
        .database
        .execute(&format!("UPDATE tokens SET sealed_secret = {literal} WHERE token_key = '{key}'"));
    let node = Node { token_secret: secret.into(), ..node };
    let twice = escape(&format!("&{}", escape(secret)));
    assert_accepted(&node.get_with(ID, &with(&node, "oauth_signature", &twice)));
    // The hexadecimal digits of an escape are read in either case.
    let lower = twice.to_lowercase();
    assert_ne!(lower, twice);
    assert_accepted(&node.get_with(ID, &with(&node, "oauth_signature", &lower)));
    for hash in HASHES {
        assert_accepted(&node.get_with(ID, &hmac_at(&node, hash, now(&node), &wire::nonce())));
    }
    let once = escape(&format!("&{secret}"));
    let reply = node.get_with(ID, &with(&node, "oauth_signature", &once));
    assert_refused(&reply, "credentials_refused");
}

#[test]
fn d03_the_consumers_secret_is_empty() {
    let (_server, node) = by_default();
    let header = with(&node, "oauth_signature", &format!("consumer%26{}", node.token_secret));
    assert_refused(&node.get_with(ID, &header), "credentials_refused");
}

#[test]
fn d04_a_parameter_given_twice_is_malformed() {
    let (_server, node) = by_default();
    for (name, value) in parameters(&node) {
        for again in [value.as_str(), "x"] {
            let header = format!("{}, {name}=\"{again}\"", node.header());
            assert_refused(&node.get_with(ID, &header), "credentials_malformed");
        }
    }
    let header = node.header();
    let twice = [("Authorization", &*header), ("Authorization", &header)];
    assert_refused(&node.send("GET", ID, &twice, b""), "credentials_malformed");
}

#[test]
fn every_path_refuses_alike() {
    let (_server, node) = by_default();
    for path in READS {
        let reply = node.send("GET", path, &[], b"");
        assert_refused(&reply, "credentials_missing");
        let reply = node.get_with(path, &without(&node, "oauth_token"));
        assert_refused(&reply, "credentials_malformed");
        let reply = node.get_with(path, &with(&node, "oauth_token", "nobody"));
        assert_refused(&reply, "credentials_refused");
        let reply = node.get_with(path, &hmac_at(&node, "HMAC-SHA1", NOW, &wire::nonce()));
        assert_refused(&reply, "credentials_refused");
    }
}

#[test]
fn a_refusal_leaves_no_trace_at_the_token() {
    let (server, node) = refusing_replays();
    node.get_with(ID, "OAuth junk");
    node.get_with(ID, &with(&node, "oauth_signature", "%26wrong"));
    node.get_with(ID, &with(&node, "oauth_consumer_key", "wrong"));
    node.get_with(ID, &node.header_at(now(&node) - 301, "1"));
    // A stop writes whatever was learnt.
    let server = server.restart();
    let path = "/v1/default/nodes/n1/token";
    let token = server.operator().session.get(path).unwrap();
    assert_eq!(token["last_used_at"], Value::Null);
    assert_eq!(token["state"], "live");
    let all = server.operator().session.get("/v1/tokens").unwrap();
    assert_eq!(all["items"].as_array().unwrap().len(), 1);

    // Whereas a good one shows.
    server.clock.advance(1000);
    let node = server.credentials("n1");
    assert_accepted(&node.get(ID));
    let server = server.restart();
    assert_ne!(server.operator().session.get(path).unwrap()["last_used_at"], Value::Null);
}
