//! The fold against recordings of Debian's own cloud-init, in order and out of it.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const T0: i64 = 1_800_000_000;
const YEAR: i64 = 365 * 86_400;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// A report as it was recorded, or a read that was answered.
#[derive(Clone, Debug)]
enum Seen {
    Read { item: Item, at: f64 },
    Post { event: serde_json::Value, at: f64 },
}

fn read(at: f64, item: Item) -> Seen {
    Seen::Read { item, at }
}

fn post(at: f64, name: &str, kind: &str, description: &str, result: Option<&str>) -> Seen {
    let event = serde_json::json!({
        "name": name, "event_type": kind, "origin": "cloudinit", "description": description,
        "result": result, "timestamp": 1_000.0 + at,
    });
    Seen::Post { event, at }
}

/// What was recorded of one boot.
fn recorded(name: &str) -> Vec<Seen> {
    let path = format!("{}/tests/data/boot/{name}.jsonl", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap();
    let seen = text.lines().filter_map(|line| {
        let mut line: serde_json::Value = serde_json::from_str(line).unwrap();
        let at = line["at"].as_f64().unwrap();
        if line.get("post").is_some() {
            return Some(Seen::Post { event: line["post"].take(), at });
        }
        let item = line["get"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
        let item = Item::ALL.into_iter().find(|known| known.as_str() == item)?;
        (line["status"] == 200).then_some(Seen::Read { item, at })
    });
    seen.collect()
}

const SUITES: [&str; 3] = ["bookworm", "trixie", "sid"];

/// A node as the server sees it: our clock, and how far off the node's own is.
struct Node {
    fold: Fold,
    now: f64,
    clock: f64,
    /// Whether our clock stands still, as a test's does.
    frozen: bool,
    token: &'static str,
}

impl Node {
    fn new() -> Node {
        let mut node =
            Node { fold: Fold::default(), now: 0.0, clock: 0.0, frozen: false, token: "t1" };
        node.step(&Step::TokenChanged { at: at(T0) });
        node
    }

    fn step(&mut self, step: &Step) {
        self.fold.advance(Some(self.token), step);
    }

    fn time(seconds: f64) -> Timestamp {
        let span = SignedDuration::from_secs_f64(seconds);
        Timestamp::from_second(0).unwrap() + span
    }

    /// One boot, in the order given.
    fn boot(&mut self, seen: &[Seen]) -> &mut Node {
        let now = self.now;
        for seen in seen {
            let (Seen::Read { at, .. } | Seen::Post { at, .. }) = seen;
            #[expect(clippy::cast_precision_loss, reason = "seconds")]
            let at = Node::time(T0 as f64 + now + if self.frozen { 0.0 } else { *at });
            match seen {
                Seen::Read { item, .. } => {
                    self.step(&Step::Served { item: *item, digest: [7; 32], at });
                }
                Seen::Post { event, .. } => {
                    let sent = event["timestamp"].as_f64();
                    let said = Said {
                        origin: event["origin"].as_str().unwrap(),
                        name: event["name"].as_str().unwrap(),
                        kind: EventType::parse(event["event_type"].as_str().unwrap()).unwrap(),
                        result: event["result"].as_str().and_then(Outcome::parse),
                        description: event["description"].as_str().unwrap(),
                        timestamp: sent.map(|sent| Node::time(sent + self.clock)),
                        duration: event["duration"].as_f64(),
                    };
                    self.step(&Step::Reported { said, received_at: at });
                }
            }
        }
        if !self.frozen {
            self.now += 60.0;
        }
        self
    }

    fn is(&self) -> (BootState, &'static str) {
        (self.fold.state(), self.fold.stage())
    }
}

#[test]
fn a_normal_boot_is_ready_at_its_end_and_no_sooner() {
    for suite in SUITES {
        for case in ["normal", "cloud-config-url", "init-local"] {
            if (suite, case) == ("bookworm", "init-local") {
                continue; // whose cloud-init never asks before the network is up
            }
            let seen = recorded(&format!("{suite}-{case}"));
            let (last, rest) = seen.split_last().unwrap();
            let mut node = Node::new();
            let mut way = vec![node.fold.state()];
            for one in rest {
                let state = node.boot(std::slice::from_ref(one)).fold.state();
                assert_ne!(state, BootState::Ready, "{suite} {case}: too soon at {one:?}");
                if *way.last().unwrap() != state {
                    way.push(state);
                }
            }
            node.boot(std::slice::from_ref(last));
            assert_eq!(node.is(), (BootState::Ready, "modules-final"), "{suite} {case}");
            // Whether the first read or the first report comes first depends on the boot.
            assert_eq!(way.first(), Some(&BootState::Issued));
            assert_eq!(way.last(), Some(&BootState::Booting));
            assert_eq!(node.fold.fails_at(), None);
        }
    }
}

#[test]
fn a_reboot_never_regresses_a_ready_node() {
    for suite in SUITES {
        let mut node = Node::new();
        node.boot(&recorded(&format!("{suite}-normal")));
        for round in 0..3 {
            node.clock += 60.0;
            for one in recorded(&format!("{suite}-reboot")) {
                node.boot(&[one]);
                assert_eq!(node.fold.state(), BootState::Ready, "{suite} {round}");
            }
        }
    }
}

#[test]
fn metadata_that_only_fails_is_a_failed_node_whatever_cloud_init_says() {
    for suite in SUITES {
        let mut node = Node::new();
        node.boot(&recorded(&format!("{suite}-metadata-500")));
        assert_eq!(node.is(), (BootState::Failed, "init-network"), "{suite}");
        let why = node.fold.why(at(T0)).unwrap();
        assert_eq!(why, "no network data found from DataSourceMAAS", "{suite}");
        // The same machine with the metadata mended.
        node.clock += 60.0;
        node.boot(&recorded(&format!("{suite}-metadata-mended")));
        assert_eq!(node.is(), (BootState::Ready, "modules-final"), "{suite}");
        assert_eq!(node.fold.why(at(T0)), None);
    }
}

#[test]
fn a_failed_script_is_a_failed_node_and_a_reboot_that_skips_it_mends_nothing() {
    for suite in SUITES {
        let mut node = Node::new();
        node.boot(&recorded(&format!("{suite}-script-fails")));
        assert_eq!(node.is(), (BootState::Failed, "modules-final"), "{suite}");
        let why = node.fold.why(at(T0)).unwrap();
        assert!(why.starts_with("modules-final/config-scripts-user: "), "{why}");
        node.clock += 60.0;
        node.boot(&recorded(&format!("{suite}-script-failed-reboot")));
        assert_eq!(node.is(), (BootState::Failed, "modules-final"), "{suite}");
        assert!(node.fold.why(at(T0)).unwrap().contains("did not run again"));
        // Installed anew, it is what the new boot says.
        node.step(&Step::Reprovisioned { at: at(T0) });
        assert_eq!(node.fold.state(), BootState::Issued);
        (node.token, node.clock) = ("t2", 120.0);
        node.boot(&recorded(&format!("{suite}-reprovisioned")));
        assert_eq!(node.is(), (BootState::Ready, "modules-final"), "{suite}");
    }
}

/// The reports of a recording, without its reads.
fn reports(name: &str) -> Vec<Seen> {
    recorded(name).into_iter().filter(|seen| matches!(seen, Seen::Post { .. })).collect()
}

#[test]
fn without_its_user_data_a_finished_boot_is_neither_ready_nor_failed() {
    for suite in SUITES {
        let mut node = Node::new();
        node.boot(&reports(&format!("{suite}-normal")));
        assert_eq!(node.is(), (BootState::Booting, "modules-final"), "{suite}");
        assert_eq!(node.fold.state_at(Timestamp::MAX), BootState::Booting, "a mark may be lost");
        // A cached reboot of a node that never was ready is no better.
        node.clock += 60.0;
        node.boot(&recorded(&format!("{suite}-reboot")));
        assert_eq!(node.is(), (BootState::Booting, "modules-final"), "{suite}");
    }
}

#[test]
fn user_data_served_to_another_token_counts_for_nothing() {
    let mut node = Node::new();
    node.boot(&[read(0.0, Item::UserData)]);
    node.token = "t2";
    node.boot(&reports("sid-normal"));
    assert_eq!(node.fold.state(), BootState::Booting);
}

#[test]
fn a_cached_reboot_of_a_ready_node_needs_no_reads_even_after_a_claim() {
    let mut node = Node::new();
    node.boot(&recorded("sid-normal"));
    node.step(&Step::ClaimMade { at: at(T0 + 100) });
    assert_eq!(node.is(), (BootState::Claimed, "claim"));
    node.step(&Step::PreseedFetched { at: at(T0 + 101) });
    assert_eq!(node.is(), (BootState::Claimed, "preseed"));
    node.fold.served.clear();
    (node.now, node.clock) = (200.0, 200.0);
    let reboot = recorded("sid-reboot");
    node.boot(&reboot[..5]);
    assert_eq!(node.is(), (BootState::Booting, "init-network"));
    node.now = 200.0;
    node.boot(&reboot[5..]);
    assert_eq!(node.is(), (BootState::Ready, "modules-final"));
}

#[test]
fn a_first_read_without_the_others_fails_after_120_seconds_until_the_next_boot() {
    let mut node = Node::new();
    node.boot(&[read(0.0, Item::InstanceId), read(1.0, Item::InstanceId)]);
    assert_eq!(node.is(), (BootState::Contacted, "instance-id"));
    assert_eq!(node.fold.fails_at(), Some(at(T0 + 121)), "of the last of them");
    assert_eq!(node.fold.state_at(at(T0 + 120)), BootState::Contacted);
    assert_eq!(node.fold.state_at(at(T0 + 121)), BootState::Failed);
    assert!(node.fold.why(at(T0 + 121)).unwrap().contains("120 s"));
    node.now = 500.0;
    node.boot(&[read(0.0, Item::InstanceId)]);
    assert_eq!(node.fold.state_at(at(T0 + 501)), BootState::Contacted);
    node.boot(&[read(0.0, Item::UserData)]);
    assert_eq!(node.fold.state_at(Timestamp::MAX), BootState::Contacted);
    assert_eq!(node.fold.stage(), "user-data");
}

#[test]
fn a_lost_mark_alone_fails_nobody() {
    // The server was killed in the second after the first read.
    let mut node = Node::new();
    node.boot(&[read(0.0, Item::InstanceId)]);
    node.step(&Step::MarksLost { at: at(T0 + 30) });
    assert_eq!(node.fold.state_at(Timestamp::MAX), BootState::Contacted);
    // A read after that has its deadline again.
    node.now = 40.0;
    node.boot(&[read(0.0, Item::InstanceId)]);
    assert_eq!(node.fold.fails_at(), Some(at(T0 + 160)));
    // A node that goes on to use its data has read it, whatever we know.
    let mut node = Node::new();
    let mut seen = recorded("bookworm-normal");
    seen.retain(|seen| !matches!(seen, Seen::Read { item, .. } if *item != Item::InstanceId));
    for one in seen {
        node.boot(&[one]);
    }
    assert_eq!(node.fold.state_at(Timestamp::MAX), BootState::Booting);
}

#[test]
fn a_poll_by_hand_never_moves_a_ready_node() {
    let mut node = Node::new();
    node.boot(&recorded("trixie-normal")).boot(&[read(0.0, Item::InstanceId)]);
    assert_eq!(node.fold.state_at(Timestamp::MAX), BootState::Ready);
}

#[test]
fn curtin_and_signals_are_shown_and_make_nothing_ready_or_failed() {
    let report = |origin: &str, name: &str, kind: &str, result: &str| {
        let event = serde_json::json!({
            "name": name, "event_type": kind, "origin": origin, "description": "d",
            "result": result, "timestamp": 5.0,
        });
        Seen::Post { event, at: 1.0 }
    };
    for (one, stage) in [
        (report("curtin", "cmd-install", "finish", "SUCCESS"), "curtin"),
        (report("curtin", "cmd-install", "finish", "FAIL"), "curtin"),
        (report("curtin", "modules-final", "finish", "SUCCESS"), "curtin"),
        (report("signal", "FAILED", "signal", "FAIL"), "signal"),
        (report("signal", "OK", "signal", "SUCCESS"), "signal"),
        (report("other", "modules-final", "finish", "FAIL"), "other"),
        (report("cloudinit", "single/config-x", "finish", "FAIL"), "other"),
    ] {
        let mut node = Node::new();
        node.boot(&[read(0.0, Item::UserData), one]);
        assert_eq!(node.is(), (BootState::Booting, stage));
        node.boot(&recorded("sid-normal"));
        assert_eq!(node.is(), (BootState::Ready, "modules-final"));
        let shown = node.fold.timeline("n1", node.fold.state(), at(T0)).entries;
        assert!(shown.iter().any(|entry| entry.what.starts_with(stage)), "{shown:?}");
    }
}

#[test]
fn what_makes_a_boot_fail_is_a_table() {
    let end = |result| post(9.0, "modules-final", "finish", "running modules for final", result);
    let search = |stage: &str, source: &str, description: &str| {
        post(1.0, &format!("{stage}/search-{source}"), "finish", description, Some("SUCCESS"))
    };
    let script = |name: &str, result| {
        post(8.0, &format!("modules-final/config-scripts{name}"), "finish", "failed", Some(result))
    };
    let missing = search("init-network", "MAAS", "no network data found from DataSourceMAAS");
    let found = search("init-network", "MAAS", "found network data from DataSourceMAAS");
    let no_local =
        search("init-local", "MAASLocal", "no local data found from DataSourceMAASLocal");
    let local = search("init-local", "MAASLocal", "found local data from DataSourceMAASLocal");
    let fell_back = search("init-network", "None", "found network data from DataSourceNone");
    let thrown = post(1.0, "init-network/search-MAAS", "finish", "searching", Some("FAIL"));
    let module = |result| post(5.0, "modules-config", "finish", "running", Some(result));
    let ok = Some("SUCCESS");
    for (seen, expected) in [
        (vec![end(ok)], BootState::Ready),
        (vec![end(Some("WARN"))], BootState::Ready),
        (vec![end(Some("FAIL"))], BootState::Failed),
        (vec![end(None)], BootState::Booting),
        (vec![missing.clone(), end(ok)], BootState::Failed),
        (vec![missing.clone()], BootState::Failed),
        (vec![thrown, end(ok)], BootState::Failed),
        (vec![fell_back.clone(), end(ok)], BootState::Failed),
        (vec![no_local.clone(), end(ok)], BootState::Ready),
        (vec![no_local.clone()], BootState::Booting),
        (vec![no_local.clone(), found.clone(), end(ok)], BootState::Ready),
        (vec![no_local, missing.clone(), fell_back, end(ok)], BootState::Failed),
        (vec![local, missing, end(ok)], BootState::Ready),
        (vec![found, end(ok)], BootState::Ready),
        (vec![script("-user", "FAIL"), end(ok)], BootState::Failed),
        (vec![script("_user", "FAIL"), end(ok)], BootState::Failed),
        (vec![script("-per-boot", "FAIL"), end(ok)], BootState::Failed),
        (vec![script("-vendor", "FAIL")], BootState::Failed),
        (vec![script("-user", "WARN"), end(ok)], BootState::Ready),
        (vec![module("FAIL"), end(ok)], BootState::Ready),
    ] {
        let mut node = Node::new();
        node.boot(&[read(0.0, Item::UserData)]).boot(&seen);
        assert_eq!(node.fold.state(), expected, "{seen:?}");
    }
}

/// The boot of a machine as systemd runs it: current versions report that a stage starts.
fn with_stage_starts(mut seen: Vec<Seen>) -> Vec<Seen> {
    for stage in ["init-local", "init-network", "modules-config", "modules-final"] {
        let within = |seen: &Seen| {
            matches!(seen, Seen::Post { event, .. }
            if event["name"].as_str().unwrap().starts_with(stage))
        };
        let Some(first) = seen.iter().position(within) else { continue };
        let Seen::Post { mut event, at } = seen[first].clone() else { unreachable!() };
        let sent = event["timestamp"].as_f64().unwrap();
        event["timestamp"] = (sent - 0.001).into();
        event["name"] = stage.into();
        event["event_type"] = "start".into();
        seen.insert(first, Seen::Post { event, at });
    }
    seen
}

/// What a node shows that had no network until its preseed told it where to report.
fn from_activation(seen: Vec<Seen>) -> Vec<Seen> {
    let begins = |seen: &Seen| {
        matches!(seen, Seen::Post { event, .. }
        if event["name"] == "init-network/activate-datasource")
    };
    let first = seen.iter().position(begins).unwrap();
    let early = |(i, seen): (usize, Seen)| {
        (i >= first || matches!(seen, Seen::Read { .. })).then_some(seen)
    };
    seen.into_iter().enumerate().filter_map(early).collect()
}

/// Boots that follow one another on one machine, and where each leaves it.
fn histories() -> &'static [Vec<Vec<Seen>>] {
    static READ: std::sync::LazyLock<Vec<Vec<Vec<Seen>>>> = std::sync::LazyLock::new(read_all);
    &READ
}

fn read_all() -> Vec<Vec<Vec<Seen>>> {
    let mut all = Vec::new();
    for suite in SUITES {
        let of = |case: &str| recorded(&format!("{suite}-{case}"));
        all.push(vec![of("normal"), of("reboot")]);
        all.push(vec![of("metadata-500"), of("metadata-mended")]);
        all.push(vec![of("script-fails"), of("script-failed-reboot")]);
        all.push(vec![of("cloud-config-url")]);
        all.push(vec![from_activation(of("cloud-config-url"))]);
        all.push(vec![from_activation(of("cloud-config-url")), of("metadata-500")]);
        all.push(vec![with_stage_starts(of("normal")), with_stage_starts(of("reboot"))]);
        all.push(vec![with_stage_starts(of("metadata-500")), of("metadata-mended")]);
        if suite != "bookworm" {
            all.push(vec![of("init-local"), of("normal")]);
        }
        // Power was lost on the way.
        for cut in [6, 13, 30, 60] {
            let first = of("normal");
            let cut = cut.min(first.len());
            all.push(vec![first[..cut].to_vec(), of("reprovisioned"), of("reboot")]);
            all.push(vec![first[..cut].to_vec(), of("script-fails")]);
            all.push(vec![first[..cut].to_vec(), of("metadata-500")]);
        }
    }
    all
}

/// How the node's clock goes from boot to boot.
#[derive(Clone, Copy, Debug)]
enum Clock {
    Right,
    /// Off by years, and always by as many.
    Off(i64),
    /// It starts at the same instant in every boot: no battery.
    Reset,
    /// It was off by years and then set right.
    Mended,
    /// Ours stands still, the node's goes on.
    Frozen,
}

fn clock() -> impl Strategy<Value = Clock> {
    prop_oneof![
        Just(Clock::Right),
        prop_oneof![Just(10 * YEAR), Just(-50 * YEAR)].prop_map(Clock::Off),
        Just(Clock::Reset),
        Just(Clock::Mended),
        Just(Clock::Frozen),
    ]
}

#[expect(clippy::cast_precision_loss, reason = "seconds")]
fn run(history: &[Vec<Seen>], clock: Clock) -> Vec<(BootState, &'static str)> {
    let mut node = Node::new();
    node.frozen = matches!(clock, Clock::Frozen);
    let mut ends = Vec::new();
    for (round, boot) in history.iter().enumerate() {
        let first = boot.iter().filter_map(|seen| match seen {
            Seen::Post { event, .. } => event["timestamp"].as_f64(),
            Seen::Read { .. } => None,
        });
        let first = first.fold(f64::MAX, f64::min);
        let began = T0 as f64 + 60.0 * round as f64;
        node.clock = match clock {
            Clock::Off(by) => began - first + by as f64,
            // Not quite the same: one machine is never as fast twice.
            Clock::Reset => 1_000.0 - first + if round % 2 == 0 { 0.0 } else { 0.3 },
            Clock::Mended if round == 0 => 1_000.0 - first,
            Clock::Right | Clock::Frozen | Clock::Mended => began - first,
        };
        node.boot(boot);
        ends.push(node.is());
    }
    ends
}

fn shuffled() -> impl Strategy<Value = (usize, Vec<Vec<Seen>>)> {
    let all = histories();
    (0..all.len()).prop_flat_map(move |which| {
        let boots: Vec<_> =
            all[which].iter().map(|boot| Just(boot.clone()).prop_shuffle()).collect();
        (Just(which), boots)
    })
}

#[test]
fn the_histories_end_as_they_should() {
    use BootState::{Booting, Failed, Ready};
    let ends: BTreeSet<_> = histories()
        .iter()
        .map(|history| {
            run(history, Clock::Right).iter().map(|(state, _)| *state).collect::<Vec<_>>()
        })
        .collect();
    let expected = [
        vec![Ready],
        vec![Ready, Ready],
        vec![Failed, Ready],
        vec![Failed, Failed],
        vec![Booting, Ready, Ready],
        vec![Booting, Failed],
        vec![Ready, Failed],
    ];
    assert_eq!(ends, expected.into_iter().collect());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn within_a_boot_any_order_gives_the_same_state((which, history) in shuffled(), clock in clock()) {
        let in_order = run(&histories()[which], clock);
        prop_assert_eq!(&run(&histories()[which], Clock::Right), &in_order, "the clock is not believed");
        prop_assert_eq!(run(&history, clock), in_order);
    }

    #[test]
    fn the_fold_is_bounded_whatever_is_reported(
        names in proptest::collection::vec("(init-network|modules-final|x)?/?[a-z\u{0}-\u{ff}]{0,300}", 40),
    ) {
        let mut node = Node::new();
        for (i, name) in names.iter().enumerate() {
            #[expect(clippy::cast_precision_loss, reason = "seconds")]
            let at = i as f64;
            node.boot(&[post(at, name, "finish", &"y".repeat(5000), Some("FAIL"))]);
        }
        for (name, _) in marks::names() {
            for kind in ["start", "finish"] {
                node.boot(&[post(1.0, name, kind, &"\u{1f4a5}".repeat(5000), Some("FAIL"))]);
            }
        }
        let kept = serde_json::to_string(&node.fold).unwrap();
        prop_assert!(kept.len() < 24_000, "{} bytes", kept.len());
        prop_assert_eq!(&Fold::unpack(&kept).unwrap(), &node.fold);
        let packed = node.fold.pack().unwrap();
        prop_assert!(packed.len() < kept.len());
        prop_assert_eq!(Fold::unpack(&packed).unwrap(), node.fold);
    }
}

#[test]
fn a_packed_fold_comes_back_and_is_half_as_long_or_less() {
    for suite in SUITES {
        let mut node = Node::new();
        for boot in ["normal", "reboot", "script-fails", "script-failed-reboot"] {
            node.boot(&recorded(&format!("{suite}-{boot}")));
            let (written, packed) =
                (serde_json::to_string(&node.fold).unwrap(), node.fold.pack().unwrap());
            assert_eq!(Fold::unpack(&packed).unwrap(), node.fold);
            assert!(packed.len() * 2 < written.len(), "{} of {}", packed.len(), written.len());
        }
    }
    for bad in ["", "[]", "[2,[null,null,null,null],0,[false,false,[]],[],[null,false],[],[]]"] {
        assert!(Fold::unpack(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_report_sent_twice_is_one() {
    let mut node = Node::new();
    node.boot(&recorded("sid-normal"));
    let kept = node.fold.clone();
    (node.now, node.clock) = (0.0, 0.0);
    node.boot(&reports("sid-normal"));
    assert_eq!((kept.boot, kept.before), (node.fold.boot.clone(), node.fold.before.clone()));
}

#[test]
fn a_claim_leaves_a_boot_that_is_under_way_and_gives_up_a_silent_one() {
    let mut node = Node::new();
    let seen = recorded("sid-normal");
    node.boot(&seen[..20]);
    node.step(&Step::ClaimMade { at: at(T0 + 20) });
    assert_eq!(node.fold.state(), BootState::Booting);
    node.step(&Step::ClaimMade { at: at(T0 + 4000) });
    assert_eq!(node.fold.state(), BootState::Claimed);
}

#[test]
fn the_timeline_tells_what_came_when() {
    let mut node = Node::new();
    node.step(&Step::ClaimMade { at: at(T0 - 20) });
    node.step(&Step::PreseedFetched { at: at(T0 - 10) });
    node.clock = f64::from(10 * 365 * 86_400);
    node.boot(&recorded("bookworm-normal"));
    let shown = node.fold.timeline("n1", node.fold.state(), at(T0 + 100));
    let told: Vec<&str> = shown.entries.iter().map(|entry| entry.what.as_str()).collect();
    let expected = [
        "claim made",
        "preseed fetched",
        "init-local started",
        "init-local finished",
        "first signed GET",
        "init-network started",
        "instance-id read",
        "local-hostname read",
        "public-keys read",
        "vendor-data read",
        "user-data read",
        "init-network finished",
        "modules-config started",
        "modules-config finished",
        "modules-final started",
        "modules-final finished",
        "ready",
    ];
    assert_eq!(told, expected);
    assert_eq!((shown.boot_state, shown.stage), (BootState::Ready, Some("modules-final")));
    let finished = &shown.entries[15];
    assert_eq!(finished.result, Some("SUCCESS"));
    // bookworm's cloud-init measures nothing; its clock does.
    assert!(finished.duration.unwrap() > 0.0);
    assert!(finished.node_time.unwrap() > at(T0 + 9 * YEAR), "the node's own time is kept");
    assert_eq!(shown.entries[10].digest.as_deref(), Some("07".repeat(32).as_str()));
    assert_eq!(shown.last_report.as_deref(), Some("modules-final"));
}
