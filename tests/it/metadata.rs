//! What a node reads: the index, the listings, its values, its user-data (CONTRACT §3).
//!
//! The ids are those of the conformance cases: L index and listings, M meta-data, U user-data; D are
//! the checks of the real client.

use serde_json::json;

use crate::support::plane::assert_refused;
use crate::support::{Method, Node, Options, Reply, TestServer};

const KEY_1: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJqFCIs1WIxOzFRO0Pt8gfLwQh3LMrVJ7uAaT5xsSFM9 z@a";
const KEY_2: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHa9xsSFM9JqFCIs1WIxOzFRO0Pt8gfLwQh3LMrVJ7u0 a@z";

const VENDOR_DATA: &[u8] = b"cloud-init: |\n  #cloud-config\n  bootcmd: [true]\n";

/// A server and its node `n1`, which has whatever `fields` says.
fn node_with(fields: serde_json::Value) -> (TestServer, Node) {
    let server = TestServer::start();
    server.operator().add("n1", fields);
    let node = server.credentials("n1");
    (server, node)
}

fn bare_node() -> (TestServer, Node) {
    node_with(json!({}))
}

/// A server that answers an absent item as MAAS does.
fn maas_like() -> (TestServer, Node) {
    let server = TestServer::start_with(Options::default().flag("absent-items", "not-found"));
    let node = server.node("n1");
    (server, node)
}

fn clear(server: &TestServer, what: &str) -> Reply {
    let path = format!("/v1/default/nodes/n1/{what}");
    server.operator().send(Method::DELETE, &path, &[], b"")
}

#[track_caller]
fn assert_item(reply: &Reply, content_type: &str, body: &[u8]) {
    assert_eq!((reply.status, reply.header("content-type")), (200, Some(content_type)));
    assert_eq!(reply.header("content-length"), Some(body.len().to_string().as_str()));
    assert!(reply.body == body, "{}", reply.text());
}

#[track_caller]
fn assert_text(reply: &Reply, body: &str) {
    assert_item(reply, "text/plain", body.as_bytes());
}

#[track_caller]
fn assert_not_found(reply: &Reply, message: &str) {
    assert_eq!(reply.brief(), (404, message.to_owned()));
}

#[test]
fn l01_l02_the_index_asks_for_a_signature() {
    let (server, _) = bare_node();
    for path in ["/MAAS/metadata/", "/MAAS/metadata", "/MAAS/metadata/curtin/"] {
        assert_refused(&server.stranger().get(path), "credentials_missing");
    }
}

#[test]
fn l03_the_index_lists_both_versions() {
    let (_server, node) = bare_node();
    assert_text(&node.get("/"), "2012-03-01\nlatest");
    assert_text(&node.get("/curtin/"), "2012-03-01\nlatest");
}

#[test]
fn l04_every_version_of_the_index_can_be_read() {
    let (_server, node) = bare_node();
    for version in node.get("/").text().lines() {
        assert_text(&node.get(&format!("/{version}/")), "meta-data");
    }
}

#[test]
fn l05_without_user_data_a_version_lists_meta_data_alone() {
    let (_server, node) = bare_node();
    assert_text(&node.get("/latest/"), "meta-data");
}

#[test]
fn l06_with_user_data_a_version_lists_it_too() {
    let (server, node) = bare_node();
    server.operator().set("n1", "user-data", b"#!/bin/sh\n");
    assert_text(&node.get("/latest/"), "meta-data\nuser-data");
}

#[test]
fn l07_d16_both_versions_serve_the_same() {
    let (server, node) = node_with(json!({"ssh_keys": [KEY_1]}));
    server.operator().set("n1", "user-data", b"#!/bin/sh\n");
    server.operator().set("n1", "vendor-data", VENDOR_DATA);
    for item in ["", "meta-data/", "meta-data/public-keys", "meta-data/vendor-data", "user-data"] {
        let dated = node.get(&format!("/2012-03-01/{item}"));
        let latest = node.get(&format!("/latest/{item}"));
        assert_eq!(dated.brief(), latest.brief());
        assert_eq!(dated.header("content-type"), latest.header("content-type"));
        assert_ne!(dated.text(), "", "{item}");
    }
}

#[test]
fn l08_m18_an_unknown_version_is_named() {
    let (_server, node) = bare_node();
    assert_not_found(&node.get("/2.0/"), "Unknown metadata version: 2.0");
    let deep = node.get("/bogus/meta-data/instance-id");
    assert_not_found(&deep, "Unknown metadata version: bogus");
    assert_not_found(&node.get("/bogus/user-data"), "Unknown metadata version: bogus");
}

#[test]
fn l09_l10_an_unknown_version_is_not_the_index() {
    let (_server, node) = bare_node();
    assert_not_found(&node.get("/2009-04-04"), "Unknown metadata version: 2009-04-04");
    assert_not_found(&node.get("/junk"), "Unknown metadata version: junk");
}

#[test]
fn l11_an_unknown_path_is_not_its_parent() {
    let (_server, node) = bare_node();
    for path in ["/latest/no-such", "/latest/user-data/extra", "/latest/meta-data/a/b/c"] {
        assert_eq!(node.get(path).status, 404, "{path}");
    }
}

#[test]
fn l12_a_trailing_slash_is_optional() {
    let (_server, node) = bare_node();
    assert_text(&node.get("/latest"), "meta-data");
    assert_text(&node.get(""), "2012-03-01\nlatest");
}

#[test]
fn l13_d15_any_run_of_slashes_counts_as_one() {
    let (server, node) = bare_node();
    assert_text(&node.get("//latest///meta-data//instance-id"), "n1");
    // cloud-init strips one slash of a configured URL and adds one of its own.
    for base in ["/MAAS/metadata", "/MAAS/metadata/", "/MAAS/metadata//", "//MAAS///metadata////"] {
        let header = node.header();
        let path = format!("{base}/2012-03-01/meta-data/instance-id");
        let reply = server.stranger().send("GET", &path, &[("Authorization", &header)], b"");
        assert_text(&reply, "n1");
    }
}

#[test]
fn l14_listings_are_lines_joined_without_a_final_newline() {
    let (server, node) = node_with(json!({"ssh_keys": [KEY_1]}));
    server.operator().set("n1", "user-data", b"#!/bin/sh\n");
    server.operator().set("n1", "vendor-data", VENDOR_DATA);
    for (path, body) in [
        ("/", "2012-03-01\nlatest"),
        ("/latest/", "meta-data\nuser-data"),
        ("/latest/meta-data/", "instance-id\nlocal-hostname\npublic-keys\nvendor-data"),
    ] {
        assert_text(&node.get(path), body);
    }
}

#[test]
fn l15_every_answer_varies_by_authorization() {
    let (server, node) = bare_node();
    for path in crate::support::plane::READS {
        let reply = node.get(path);
        assert_eq!((reply.status, reply.header("vary")), (200, Some("Authorization")), "{path}");
        let refused = server.stranger().get(&format!("/MAAS/metadata{path}"));
        assert_eq!((refused.status, refused.header("vary")), (401, Some("Authorization")));
    }
}

#[test]
fn m01_the_meta_data_listing_is_what_there_is_sorted_and_no_x509() {
    let (server, node) = node_with(json!({"ssh_keys": [KEY_1]}));
    server.operator().set("n1", "vendor-data", VENDOR_DATA);
    let listing = "instance-id\nlocal-hostname\npublic-keys\nvendor-data";
    assert_text(&node.get("/latest/meta-data/"), listing);
    let x509 = node.get("/latest/meta-data/x509");
    assert_not_found(&x509, "Unknown metadata attribute: x509");
}

#[test]
fn m02_without_keys_the_listing_has_no_public_keys() {
    let (server, node) = bare_node();
    assert_text(&node.get("/latest/meta-data/"), "instance-id\nlocal-hostname");
    server.operator().set("n1", "vendor-data", VENDOR_DATA);
    assert_text(&node.get("/latest/meta-data/"), "instance-id\nlocal-hostname\nvendor-data");
}

#[test]
fn m05_m12_d02_the_instance_id_is_the_system_id() {
    let (_server, node) = bare_node();
    assert_text(&node.get("/latest/meta-data/instance-id"), "n1");
    assert_text(&node.get("/latest/meta-data/instance-id/"), "n1");
    assert_text(&node.get("/curtin/latest/meta-data/instance-id"), "n1");
}

#[test]
fn m06_m07_d02_the_hostname_is_the_fqdn_as_it_was_given() {
    let (server, node) = bare_node();
    assert_text(&node.get("/latest/meta-data/local-hostname"), "n1.example.com");
    for (system_id, hostname) in [("n2", "Deep.Sub.Example.COM"), ("n3", "single")] {
        server.operator().add(system_id, json!({"hostname": hostname}));
        let node = server.credentials(system_id);
        assert_text(&node.get("/latest/meta-data/local-hostname"), hostname);
    }
}

#[test]
fn m08_d21_no_public_keys_are_an_empty_200_under_either_setting() {
    for (_server, node) in [bare_node(), maas_like()] {
        assert_text(&node.get("/latest/meta-data/public-keys"), "");
    }
}

#[test]
fn m09_d36_public_keys_are_one_a_line_in_their_order() {
    let fifty: Vec<String> = (0..50).map(|i| format!("{KEY_1}-{i:02}")).collect();
    let odd = format!("no-pty,command=\"echo, hi\" {KEY_2} schlüssel");
    for keys in [vec![KEY_2.to_owned(), KEY_1.to_owned()], vec![odd], fifty] {
        let (_server, node) = node_with(json!({"ssh_keys": keys}));
        for _ in 0..2 {
            assert_text(&node.get("/latest/meta-data/public-keys"), &keys.join("\n"));
        }
    }
}

#[test]
fn m10_an_unknown_item_is_named() {
    let (_server, node) = bare_node();
    let reply = node.get("/latest/meta-data/UNKNOWN-ITEM");
    assert_not_found(&reply, "Unknown metadata attribute: UNKNOWN-ITEM");
    // Names are exact.
    let reply = node.get("/latest/meta-data/Instance-Id");
    assert_not_found(&reply, "Unknown metadata attribute: Instance-Id");
}

#[test]
fn m11_m13_there_is_nothing_below_an_item() {
    let (_server, node) = node_with(json!({"ssh_keys": [KEY_1]}));
    for path in
        ["/latest/meta-data/instance-id/extra", "/latest/meta-data/public-keys/0/openssh-key"]
    {
        let reply = node.get(path);
        assert_eq!(reply.status, 404, "{path}");
        assert!(!reply.text().contains("ssh-ed25519"));
    }
}

#[test]
fn m14_every_listed_field_can_be_read() {
    let (server, node) = node_with(json!({"ssh_keys": [KEY_1]}));
    server.operator().set("n1", "vendor-data", VENDOR_DATA);
    let listing = node.get("/latest/meta-data/").text();
    assert_eq!(listing.lines().count(), 4);
    for field in listing.lines() {
        let reply = node.get(&format!("/latest/meta-data/{field}"));
        assert_eq!(reply.status, 200, "{field}");
        assert_ne!(reply.text(), "", "{field}");
    }
}

#[test]
fn m15_d34_vendor_data_is_a_yaml_map_with_the_key_cloud_init() {
    let (server, node) = bare_node();
    server.operator().set("n1", "vendor-data", VENDOR_DATA);
    let yaml = "application/x-yaml; charset=utf-8";
    assert_item(&node.get("/latest/meta-data/vendor-data"), yaml, VENDOR_DATA);

    // A bare cloud-config is put under the key.
    server.operator().set("n1", "vendor-data", b"#cloud-config\nbootcmd: [true]\n");
    let reply = node.get("/latest/meta-data/vendor-data");
    let read: serde_json::Value = serde_yaml(&reply.body);
    assert_eq!(read, json!({"cloud-init": "#cloud-config\nbootcmd: [true]\n"}));
    assert_eq!(reply.header("content-type"), Some(yaml));
}

fn serde_yaml(bytes: &[u8]) -> serde_json::Value {
    ::serde_yaml::from_str(str::from_utf8(bytes).unwrap()).unwrap()
}

#[test]
fn m17_d21_absent_vendor_data_is_an_empty_200() {
    let (_server, node) = bare_node();
    let reply = node.get("/latest/meta-data/vendor-data");
    assert_item(&reply, "application/x-yaml; charset=utf-8", b"");
}

#[test]
fn m17_absent_vendor_data_is_404_when_absent_items_are_not_found() {
    let (server, node) = maas_like();
    assert_eq!(node.get("/latest/meta-data/vendor-data").status, 404);
    assert_text(&node.get("/latest/meta-data/"), "instance-id\nlocal-hostname");
    server.operator().set("n1", "vendor-data", VENDOR_DATA);
    assert_eq!(node.get("/latest/meta-data/vendor-data").body, VENDOR_DATA);
}

#[test]
fn m19_meta_data_is_listed_without_its_slash_too() {
    let (_server, node) = bare_node();
    assert_text(&node.get("/latest/meta-data"), "instance-id\nlocal-hostname");
}

#[test]
fn u01_d29_d30_user_data_is_the_bytes_as_they_were_stored() {
    let (server, node) = bare_node();
    let every_byte: Vec<u8> = (0..=255).collect();
    let gzip = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\x03\x00\x00\x00\x00\x00\x00\x00\x00\x00";
    let contents: [&[u8]; 6] = [
        b"\x00\xff\xff\xfe\xff",
        &every_byte,
        gzip,
        b"\r\n\r\n",
        b"\xef\xbb\xbf#cloud-config\r\n{}\r\n",
        b"Content-Type: multipart/mixed; boundary=\"b\"\r\nMIME-Version: 1.0\r\n\r\n--b--\r\n",
    ];
    for bytes in contents {
        server.operator().set("n1", "user-data", bytes);
        for encoding in ["identity", "gzip, deflate, br, zstd"] {
            let headers = [("Authorization", &*node.header()), ("Accept-Encoding", encoding)];
            let reply = node.send("GET", "/latest/user-data", &headers, b"");
            assert_item(&reply, "application/octet-stream", bytes);
            assert_eq!(reply.header("content-encoding"), None);
        }
    }
}

#[test]
fn u02_d21_absent_user_data_is_an_empty_200() {
    let (_server, node) = bare_node();
    assert_item(&node.get("/latest/user-data"), "application/octet-stream", b"");
}

#[test]
fn u02_absent_user_data_is_404_when_absent_items_are_not_found() {
    let (_server, node) = maas_like();
    assert_eq!(node.get("/latest/user-data").status, 404);
}

#[test]
fn u03_the_newest_user_data_is_served() {
    let (server, node) = bare_node();
    for bytes in [b"#!/bin/sh\n# one\n", b"#!/bin/sh\n# two\n"] {
        server.operator().set("n1", "user-data", bytes);
        assert_eq!(node.get("/latest/user-data").body, bytes);
    }
}

#[test]
fn u04_each_node_has_its_own_user_data() {
    let (server, first) = bare_node();
    let second = server.node("n2");
    let third = server.node("n3");
    server.operator().set("n1", "user-data", b"#!/bin/sh\n# first\n");
    server.operator().set("n2", "user-data", b"#!/bin/sh\n# second\n");
    assert_eq!(first.get("/latest/user-data").text(), "#!/bin/sh\n# first\n");
    assert_eq!(second.get("/latest/user-data").text(), "#!/bin/sh\n# second\n");
    assert_eq!(third.get("/latest/user-data").text(), "");
    assert_text(&third.get("/latest/"), "meta-data");
}

#[test]
fn u05_removed_user_data_is_absent_and_off_the_listing() {
    let (server, node) = bare_node();
    server.operator().set("n1", "user-data", b"#!/bin/sh\n");
    assert_eq!(clear(&server, "user-data").status, 204);
    assert_item(&node.get("/latest/user-data"), "application/octet-stream", b"");
    assert_text(&node.get("/latest/"), "meta-data");
}

#[test]
fn u05_removed_user_data_is_404_when_absent_items_are_not_found() {
    let (server, node) = maas_like();
    server.operator().set("n1", "user-data", b"#!/bin/sh\n");
    assert_eq!(node.get("/latest/user-data").text(), "#!/bin/sh\n");
    assert_eq!(clear(&server, "user-data").status, 204);
    assert_eq!(node.get("/latest/user-data").status, 404);
    assert_text(&node.get("/latest/"), "meta-data");
}

#[test]
fn u06_removing_what_is_not_there_is_no_error() {
    let (server, _) = bare_node();
    assert_eq!(clear(&server, "user-data").status, 204);
    assert_eq!(clear(&server, "user-data").status, 204);
}

#[test]
fn u07_u08_u09_d32_what_looks_like_base64_is_served_as_it_was_stored() {
    let (server, node) = bare_node();
    for text in ["test", "IyEvYmluL3NoCg==", "IyEvYmlu\nL3NoCg==\n"] {
        let path = "/v1/default/nodes/n1/user-data";
        let stored = server.operator();
        let current = stored.send(Method::GET, path, &[], b"");
        let tag = current.header("etag").map(|tag| ("if-match", tag));
        let reply = stored.send(Method::PUT, path, tag.as_slice(), text.as_bytes());
        assert!(matches!(reply.status, 200 | 201), "{}", reply.text());
        assert_ne!(reply.json()["warnings"], json!([]), "cloud-init would ignore {text}");
        assert_eq!(node.get("/latest/user-data").text(), text);
    }
}

#[test]
fn u10_empty_user_data_is_not_absent() {
    let server = TestServer::start_with(Options::default().flag("absent-items", "not-found"));
    let node = server.node("n1");
    server.operator().send(Method::PUT, "/v1/default/nodes/n1/user-data", &[], b"");
    assert_item(&node.get("/latest/user-data"), "application/octet-stream", b"");
    assert_text(&node.get("/latest/"), "meta-data\nuser-data");
}

#[test]
fn u11_reading_changes_nothing_of_what_is_read() {
    let (server, node) = bare_node();
    server.operator().set("n1", "user-data", b"#!/bin/sh\n");
    let path = "/v1/default/nodes/n1";
    let mut before = server.operator().session.get(path).unwrap();
    let first = node.get("/latest/user-data");
    assert_eq!(first.brief(), node.get("/latest/user-data").brief());
    // A stop writes whatever a read taught; that the node was heard of is all.
    let server = server.restart();
    before["boot_state"] = json!("contacted");
    assert_eq!(server.operator().session.get(path).unwrap(), before);
    let versions = server.operator().session.get(&format!("{path}/user-data/versions")).unwrap();
    assert_eq!(versions["items"].as_array().unwrap().len(), 1);
}

#[test]
fn u13_user_data_cannot_be_posted() {
    let (_server, node) = bare_node();
    let header = node.header();
    let reply = node.send("POST", "/latest/user-data", &[("Authorization", &header)], b"x=1");
    assert_eq!((reply.status, reply.header("allow")), (405, Some("GET, HEAD")));
    assert_eq!(node.get("/latest/user-data").text(), "");
}

#[test]
fn u14_the_curtin_tree_is_the_same_tree() {
    let (server, node) = bare_node();
    assert_item(&node.get("/curtin/latest/user-data"), "application/octet-stream", b"");
    server.operator().set("n1", "user-data", b"#!/bin/sh\n");
    assert_eq!(node.get("/curtin/latest/user-data").text(), "#!/bin/sh\n");
    assert_text(&node.get("/curtin/2012-03-01/"), "meta-data\nuser-data");
}

#[test]
fn u14_the_curtin_tree_has_404_for_absent_items_too() {
    let (_server, node) = maas_like();
    assert_eq!(node.get("/curtin/latest/user-data").status, 404);
}

#[test]
fn d14_no_path_redirects() {
    let (server, node) = bare_node();
    for path in crate::support::plane::READS {
        for path in [path.to_owned(), format!("{path}/"), path.trim_end_matches('/').to_owned()] {
            let reply = node.get(&path);
            assert_eq!((reply.status, reply.header("location")), (200, None), "{path}");
            let refused = server.stranger().get(&format!("/MAAS/metadata{path}"));
            assert_eq!((refused.status, refused.header("location")), (401, None), "{path}");
        }
    }
}

#[test]
fn d37_a_renamed_node_reads_its_new_name_and_keeps_its_instance_id() {
    let (server, node) = bare_node();
    let change = json!({"hostname": "renamed.example.com"});
    let path = "/v1/default/nodes/n1";
    server.operator().session.send_json(Method::PATCH, path, &change).unwrap();
    assert_text(&node.get("/latest/meta-data/local-hostname"), "renamed.example.com");
    assert_text(&node.get("/latest/meta-data/instance-id"), "n1");
}

#[test]
fn m05_the_nth_reprovision_is_part_of_the_instance_id() {
    let (server, node) = bare_node();
    // Until reprovisioning has a door, the count is set past the server.
    server.database.execute("UPDATE nodes SET reprovisions = 2");
    assert_text(&node.get("/latest/meta-data/instance-id"), "n1.r2");
}
