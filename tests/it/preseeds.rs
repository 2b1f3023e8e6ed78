//! Preseeds: each format as it is written, and what its consumer makes of it.

use std::process::{Command, Stdio};

use nodeinit::domain::credentials::{IssuedToken, Mint};
use nodeinit::domain::metadata_url::MetadataUrl;
use nodeinit::domain::preseed::{Format, Templates};
use serde_json::{Value, json};

use crate::support::process::Home;
use crate::support::{Method, Options, TestServer, socket};

const URL: &str = "http://[fd00::2]:5240/MAAS/metadata/";
const STATUS: &str = "http://[fd00::2]:5240/MAAS/metadata/status/node-7f3a";
const CONSUMER: &str = "f95Y152V0wZ0Hk10gu";
const TOKEN: &str = "cHjwuwkCQnt5V4GEYL";
const SECRET: &str = "pQYN92xh8oZ6VMlar0hix6pAuayQBsTu";

/// A format with the credentials above.
fn shown(format: &str) -> String {
    let format = Format::parse(format).unwrap();
    if !format.holds_credentials() {
        return Templates::built_in().render_claim(format, "http://h/MAAS/metadata/claim/AAAA_-b");
    }
    let issued = IssuedToken::new("node-7f3a".into(), Mint::seeded([3; 32]).credentials());
    Templates::built_in().render(format, &MetadataUrl::parse(URL).unwrap(), issued)
}

fn yaml(text: &str) -> Value {
    serde_yaml::from_str(text).unwrap()
}

/// `datasource.MAAS`: these four and nothing else.
fn datasource() -> Value {
    json!({"MAAS": {
        "metadata_url": URL, "consumer_key": CONSUMER, "token_key": TOKEN, "token_secret": SECRET,
    }})
}

/// `reporting`: the webhook with the same credentials.
fn reporting() -> Value {
    json!({"maas": {
        "type": "webhook", "endpoint": STATUS,
        "consumer_key": CONSUMER, "token_key": TOKEN, "token_secret": SECRET,
    }})
}

#[test]
fn cloud_config_is_written_like_this() {
    insta::assert_snapshot!(shown("cloud-config"), @r#"
    #cloud-config
    datasource_list: [ MAAS ]
    datasource:
      MAAS:
        metadata_url: "http://[fd00::2]:5240/MAAS/metadata/"
        consumer_key: "f95Y152V0wZ0Hk10gu"
        token_key: "cHjwuwkCQnt5V4GEYL"
        token_secret: "pQYN92xh8oZ6VMlar0hix6pAuayQBsTu"
    reporting:
      maas:
        type: webhook
        endpoint: "http://[fd00::2]:5240/MAAS/metadata/status/node-7f3a"
        consumer_key: "f95Y152V0wZ0Hk10gu"
        token_key: "cHjwuwkCQnt5V4GEYL"
        token_secret: "pQYN92xh8oZ6VMlar0hix6pAuayQBsTu"
    "#);
}

#[test]
fn cloud_cfg_d_is_written_like_this() {
    insta::assert_snapshot!(shown("cloud-cfg-d"), @r#"
    #cloud-config
    # /etc/cloud/cloud.cfg.d/90_maas.cfg: mode 0600, it holds this node's secret
    datasource_list: [ MAAS ]
    datasource:
      MAAS:
        metadata_url: "http://[fd00::2]:5240/MAAS/metadata/"
        consumer_key: "f95Y152V0wZ0Hk10gu"
        token_key: "cHjwuwkCQnt5V4GEYL"
        token_secret: "pQYN92xh8oZ6VMlar0hix6pAuayQBsTu"
    reporting:
      maas:
        type: webhook
        endpoint: "http://[fd00::2]:5240/MAAS/metadata/status/node-7f3a"
        consumer_key: "f95Y152V0wZ0Hk10gu"
        token_key: "cHjwuwkCQnt5V4GEYL"
        token_secret: "pQYN92xh8oZ6VMlar0hix6pAuayQBsTu"
    "#);
}

#[test]
fn cmdline_is_written_like_this() {
    insta::assert_snapshot!(shown("cmdline"), @r#"
    cc:{'datasource_list': ['MAAS']}end_cc cloud-config-url=http://h/MAAS/metadata/claim/AAAA_-b
    "#);
}

#[test]
fn curtin_is_written_like_this() {
    insta::assert_snapshot!(shown("curtin"), @r#"
    #cloud-config
    # What curtin reports to, and what it leaves in the system it installs.
    reporting:
      maas:
        type: webhook
        endpoint: "http://[fd00::2]:5240/MAAS/metadata/status/node-7f3a"
        consumer_key: "f95Y152V0wZ0Hk10gu"
        token_key: "cHjwuwkCQnt5V4GEYL"
        token_secret: "pQYN92xh8oZ6VMlar0hix6pAuayQBsTu"
    install:
      log_file: /tmp/install.log
      error_tarfile: /tmp/curtin-logs.tar
      post_files: [ /tmp/install.log, /tmp/curtin-logs.tar ]
    cloudconfig:
      maas-datasource:
        path: /etc/cloud/cloud.cfg.d/90_maas_datasource.cfg
        content: |
          datasource_list: [ MAAS ]
      maas-cloud-config:
        path: /etc/cloud/cloud.cfg.d/90_maas_cloud_config.cfg
        content: |
          #cloud-config
          datasource:
            MAAS:
              metadata_url: "http://[fd00::2]:5240/MAAS/metadata/"
              consumer_key: "f95Y152V0wZ0Hk10gu"
              token_key: "cHjwuwkCQnt5V4GEYL"
              token_secret: "pQYN92xh8oZ6VMlar0hix6pAuayQBsTu"
      maas-reporting:
        path: /etc/cloud/cloud.cfg.d/90_maas_cloud_init_reporting.cfg
        content: |
          #cloud-config
          reporting:
            maas:
              type: webhook
              endpoint: "http://[fd00::2]:5240/MAAS/metadata/status/node-7f3a"
              consumer_key: "f95Y152V0wZ0Hk10gu"
              token_key: "cHjwuwkCQnt5V4GEYL"
              token_secret: "pQYN92xh8oZ6VMlar0hix6pAuayQBsTu"
    "#);
}

#[test]
fn debconf_is_written_like_this() {
    insta::assert_snapshot!(shown("debconf"), @r#"
    # For debconf-set-selections; releases differ in which package asks.
    cloud-init cloud-init/datasources multiselect MAAS
    cloud-init cloud-init/maas-metadata-url string http://[fd00::2]:5240/MAAS/metadata/
    cloud-init cloud-init/maas-metadata-credentials string oauth_consumer_key=f95Y152V0wZ0Hk10gu&oauth_token_key=cHjwuwkCQnt5V4GEYL&oauth_token_secret=pQYN92xh8oZ6VMlar0hix6pAuayQBsTu
    cloud-init cloud-init/local-cloud-config string reporting:\n  maas:\n    type: webhook\n    endpoint: 'http://[fd00::2]:5240/MAAS/metadata/status/node-7f3a'\n    consumer_key: 'f95Y152V0wZ0Hk10gu'\n    token_key: 'cHjwuwkCQnt5V4GEYL'\n    token_secret: 'pQYN92xh8oZ6VMlar0hix6pAuayQBsTu'\n
    cloud-init-base cloud-init/datasources multiselect MAAS
    cloud-init-base cloud-init/maas-metadata-url string http://[fd00::2]:5240/MAAS/metadata/
    cloud-init-base cloud-init/maas-metadata-credentials string oauth_consumer_key=f95Y152V0wZ0Hk10gu&oauth_token_key=cHjwuwkCQnt5V4GEYL&oauth_token_secret=pQYN92xh8oZ6VMlar0hix6pAuayQBsTu
    cloud-init-base cloud-init/local-cloud-config string reporting:\n  maas:\n    type: webhook\n    endpoint: 'http://[fd00::2]:5240/MAAS/metadata/status/node-7f3a'\n    consumer_key: 'f95Y152V0wZ0Hk10gu'\n    token_key: 'cHjwuwkCQnt5V4GEYL'\n    token_secret: 'pQYN92xh8oZ6VMlar0hix6pAuayQBsTu'\n
    "#);
}

#[test]
fn autoinstall_is_written_like_this() {
    insta::assert_snapshot!(shown("autoinstall"), @r#"
    #cloud-config
    # subiquity: what the installer reports to, and what it leaves in the system it installs. The file's
    # name sorts behind subiquity's own 99-installer.cfg, which chooses another datasource.
    autoinstall:
      version: 1
      reporting:
        maas:
          type: webhook
          endpoint: "http://[fd00::2]:5240/MAAS/metadata/status/node-7f3a"
          consumer_key: "f95Y152V0wZ0Hk10gu"
          token_key: "cHjwuwkCQnt5V4GEYL"
          token_secret: "pQYN92xh8oZ6VMlar0hix6pAuayQBsTu"
      user-data:
        preserve_hostname: false
      late-commands:
        - |
          umask 077
          cat >/target/etc/cloud/cloud.cfg.d/99_maas.cfg <<'END'
          #cloud-config
          datasource_list: [ MAAS ]
          datasource:
            MAAS:
              metadata_url: "http://[fd00::2]:5240/MAAS/metadata/"
              consumer_key: "f95Y152V0wZ0Hk10gu"
              token_key: "cHjwuwkCQnt5V4GEYL"
              token_secret: "pQYN92xh8oZ6VMlar0hix6pAuayQBsTu"
          reporting:
            maas:
              type: webhook
              endpoint: "http://[fd00::2]:5240/MAAS/metadata/status/node-7f3a"
              consumer_key: "f95Y152V0wZ0Hk10gu"
              token_key: "cHjwuwkCQnt5V4GEYL"
              token_secret: "pQYN92xh8oZ6VMlar0hix6pAuayQBsTu"
          END
    "#);
}

#[test]
fn curl_is_written_like_this() {
    insta::assert_snapshot!(shown("curl"), @r#"
    printf 'Authorization: OAuth oauth_consumer_key="%s", oauth_token="%s", oauth_signature_method="PLAINTEXT", oauth_signature="%%26%s", oauth_timestamp="%s", oauth_nonce="%s"\n' 'f95Y152V0wZ0Hk10gu' 'cHjwuwkCQnt5V4GEYL' 'pQYN92xh8oZ6VMlar0hix6pAuayQBsTu' "$(date +%s)" "$(date +%s%N)$$" |
      curl --fail --silent --show-error --header @- 'http://[fd00::2]:5240/MAAS/metadata/'2012-03-01/meta-data/instance-id
    "#);
}

#[test]
fn cloud_init_finds_its_datasource_and_its_webhook() {
    for format in ["cloud-config", "cloud-cfg-d"] {
        let text = shown(format);
        let read = yaml(&text);
        let expected = json!({
            "datasource_list": ["MAAS"], "datasource": datasource(), "reporting": reporting(),
        });
        assert_eq!(read, expected, "{format}");
        // ds-identify reads the list with a shell: it has to be on one line.
        assert!(text.contains("\ndatasource_list: [ MAAS ]\n"), "{format}");
    }
}

#[test]
fn curtin_reports_and_leaves_three_files_in_the_system_it_installs() {
    let text = shown("curtin");
    let read = yaml(&text);
    assert_eq!(read["reporting"], reporting());
    assert_eq!(read["install"]["post_files"], json!(["/tmp/install.log", "/tmp/curtin-logs.tar"]));
    let files = read["cloudconfig"].as_object().unwrap();
    let of = |name: &str| {
        let path = format!("/etc/cloud/cloud.cfg.d/{name}");
        let file = files.values().find(|file| file["path"] == path.as_str()).expect(name);
        file["content"].as_str().unwrap().to_owned()
    };
    assert_eq!(files.len(), 3);
    assert_eq!(of("90_maas_datasource.cfg"), "datasource_list: [ MAAS ]\n");
    let datasources = yaml(&of("90_maas_cloud_config.cfg"));
    assert_eq!(datasources, json!({"datasource": datasource()}));
    let reports = yaml(&of("90_maas_cloud_init_reporting.cfg"));
    assert_eq!(reports, json!({"reporting": reporting()}));
}

/// The keys that subiquity publishes, with the types of those that are used here
/// (canonical/subiquity, autoinstall-schema.json at 03ec3a15, without the time zones).
fn subiquitys_schema() -> Value {
    let commands = json!({
        "type": "array",
        "items": {"type": ["string", "array"], "items": {"type": "string"}},
    });
    let mut properties = serde_json::Map::new();
    for key in [
        "packages",
        "debconf-selections",
        "locale",
        "refresh-installer",
        "kernel",
        "keyboard",
        "network",
        "proxy",
        "apt",
        "storage",
        "identity",
        "ssh",
        "snaps",
        "timezone",
        "source",
        "drivers",
        "oem",
        "codecs",
        "active-directory",
        "ubuntu-pro",
        "updates",
        "shutdown",
        "kernel-crash-dumps",
        "zdevs",
        "interactive-sections",
    ] {
        properties.insert(key.to_owned(), json!({}));
    }
    properties.insert("version".into(), json!({"type": "integer", "minimum": 1, "maximum": 1}));
    properties.insert("user-data".into(), json!({"type": "object"}));
    for key in ["early-commands", "late-commands", "error-commands"] {
        properties.insert(key.into(), commands.clone());
    }
    properties.insert(
        "reporting".into(),
        json!({
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "properties": {"type": {"type": "string"}},
                "required": ["type"],
                "additionalProperties": true,
            },
        }),
    );
    // The published one lets other keys pass; a later version is to refuse them.
    json!({
        "type": "object", "properties": properties, "required": ["version"],
        "additionalProperties": false,
    })
}

#[test]
fn subiquity_knows_every_key_and_its_late_command_writes_the_systems_preseed() {
    let read = yaml(&shown("autoinstall"));
    let autoinstall = &read["autoinstall"];
    assert_eq!(read.as_object().unwrap().len(), 1, "no key beside `autoinstall` is allowed");
    let validator = jsonschema::validator_for(&subiquitys_schema()).unwrap();
    let wrong: Vec<String> = validator.iter_errors(autoinstall).map(|e| e.to_string()).collect();
    assert_eq!(wrong, Vec::<String>::new());
    assert_eq!(autoinstall["reporting"], reporting());

    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("etc/cloud/cloud.cfg.d")).unwrap();
    for command in autoinstall["late-commands"].as_array().unwrap() {
        // subiquity runs a text with `sh -c`.
        let command = command.as_str().unwrap();
        let command = command.replace("/target/", &format!("{}/", dir.path().display()));
        assert!(Command::new("sh").args(["-ec", &command]).status().unwrap().success());
    }
    let written = dir.path().join("etc/cloud/cloud.cfg.d/99_maas.cfg");
    assert_eq!(crate::support::process::mode(&written), 0o600);
    let expected = json!({
        "datasource_list": ["MAAS"], "datasource": datasource(), "reporting": reporting(),
    });
    assert_eq!(yaml(&std::fs::read_to_string(written).unwrap()), expected);
    // Files of the directory are merged by name, and the last one's list of datasources holds.
    assert!("99_maas.cfg" > "99-installer.cfg");
}

/// `application/x-www-form-urlencoded`, back to its pairs.
fn pairs(form: &str) -> Vec<(String, String)> {
    let decoded = |text: &str| {
        let mut parts = text.split('%');
        let first = parts.next().unwrap().to_owned();
        parts.fold(first, |mut out, part| {
            out.push(char::from(u8::from_str_radix(&part[..2], 16).unwrap()));
            out + &part[2..]
        })
    };
    let pair =
        |pair: &str| pair.split_once('=').map(|(name, value)| (decoded(name), decoded(value)));
    form.split('&').filter_map(pair).collect()
}

#[test]
fn debconf_is_told_of_the_url_and_the_credentials_for_either_package() {
    let text = shown("debconf");
    let answer = |package: &str, question: &str| {
        let start = format!("{package} cloud-init/{question} ");
        let line = text.lines().find(|line| line.starts_with(&start)).expect(question);
        line[start.len()..].split_once(' ').map(|(kind, value)| (kind.to_owned(), value.to_owned()))
    };
    for package in ["cloud-init", "cloud-init-base"] {
        let string = |value: &str| Some(("string".to_owned(), value.to_owned()));
        assert_eq!(answer(package, "datasources"), Some(("multiselect".into(), "MAAS".into())));
        assert_eq!(answer(package, "maas-metadata-url"), string(URL));
        let (_, credentials) = answer(package, "maas-metadata-credentials").unwrap();
        let expected = [
            ("oauth_consumer_key", CONSUMER),
            ("oauth_token_key", TOKEN),
            ("oauth_token_secret", SECRET),
        ];
        assert_eq!(pairs(&credentials), expected.map(|(n, v)| (n.to_owned(), v.to_owned())));
        // cloud-init's postinst writes it with `printf %b`.
        let (_, config) = answer(package, "local-cloud-config").unwrap();
        assert_eq!(yaml(&config.replace("\\n", "\n")), json!({"reporting": reporting()}));
    }
    let checked = Command::new("debconf-set-selections")
        .arg("--checkonly")
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    // Where there is no debconf, scripts/real-client asks that of a Debian root.
    if let Ok(mut child) = checked {
        use std::io::Write as _;
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let checked = child.wait_with_output().unwrap();
        assert!(checked.status.success() && checked.stderr.is_empty(), "{checked:?}");
    }
}

#[test]
fn the_kernels_arguments_hold_a_claim_and_no_secret() {
    let server = TestServer::start();
    let node = server.node("n1");
    let path = "/v1/default/nodes/n1/preseed";
    let headers = [("content-type", "application/json")];
    let body = br#"{"format": "cmdline"}"#;
    let printed = socket::send(&server.socket, "POST", path, &headers, body);
    assert_eq!(printed.status, 200, "{}", printed.text());
    let text = printed.text();
    let start = format!(
        "cc:{{'datasource_list': ['MAAS']}}end_cc cloud-config-url=http://{}/MAAS/metadata/claim/",
        server.node
    );
    assert!(text.starts_with(&start) && text.ends_with('\n'), "{text}");
    for secret in [&node.token_secret, &node.token_key, &node.consumer_key] {
        assert!(!text.contains(secret.as_str()), "{text}");
    }
    let url = text.trim_end().split("cloud-config-url=").nth(1).unwrap();
    let claimed = server.stranger().get(&url[url.find("/MAAS").unwrap()..]);
    assert_eq!(claimed.status, 200);
    assert!(claimed.body.starts_with(b"#cloud-config\n"));
    let read = yaml(&claimed.text());
    assert_eq!(read["datasource"]["MAAS"]["token_secret"], node.token_secret.as_str());
}

#[test]
fn an_operators_templates_replace_ours_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let ours = "#cloud-config\nmine: {{ token_key }}\nid: {{ system_id }}\n";
    std::fs::write(dir.path().join("cloud-config"), ours).unwrap();
    let options = Options::default().flag("preseed-dir", dir.path().to_str().unwrap());
    let server = TestServer::start_with(options);
    let node = server.node("n1");
    let preseed = |format: &str| {
        let body = json!({"format": format}).to_string();
        let headers = [("content-type", "application/json")];
        server
            .operator()
            .send(Method::POST, "/v1/default/nodes/n1/preseed", &headers, body.as_bytes())
            .text()
    };
    assert_eq!(
        preseed("cloud-config"),
        format!("#cloud-config\nmine: \"{}\"\nid: \"n1\"\n", node.token_key)
    );
    assert!(preseed("cloud-cfg-d").contains("datasource_list: [ MAAS ]"));
}

#[test]
fn a_template_with_a_mistake_refuses_the_start_and_the_check_tells_of_all() {
    let home = Home::new();
    let dir = home.path("templates");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("curl"), "curl {{ token }}\ncurl {{ \n").unwrap();
    std::fs::write(dir.join("debconf"), b"\xff").unwrap();
    let flags = ["--preseed-dir", dir.to_str().unwrap()];
    for command in [vec!["config", "check"], vec!["serve", "--listen", "127.0.0.1:0"]] {
        let ran = home.run(&[command.as_slice(), &flags].concat());
        assert_eq!(ran.code, 1, "{ran:?}");
        for problem in [
            "curl:1: unknown name \"token\": there are metadata_url, status_url",
            "curl:2: `{{` is not closed on its line",
            "debconf: cannot be read: line 1 is not UTF-8",
        ] {
            assert!(ran.err.contains(problem), "{problem}: {}", ran.err);
        }
    }
    std::fs::remove_file(dir.join("curl")).unwrap();
    std::fs::remove_file(dir.join("debconf")).unwrap();
    home.run(&["config", "check", flags[0], flags[1]]).done();
    let missing = home.run(&["config", "check", "--preseed-dir", "/no/such/directory"]);
    assert!(missing.code == 1 && missing.err.contains("cannot be read"), "{missing:?}");
}
