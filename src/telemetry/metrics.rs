//! The metrics of this process. Counters of the hot path are looked up by array index, never by
//! hashing labels; labels are bounded, and none names a node.

use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use prometheus::core::Collector;
use prometheus::{
    Encoder as _, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec,
    Opts, Registry, TextEncoder,
};

/// From a read out of memory to the deadline of an answer, in seconds.
const DURATIONS: [f64; 14] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.0,
    10.0,
];
/// From a clock that is right to one that was never set, in seconds.
const SKEWS: [f64; 8] = [1.0, 2.0, 5.0, 30.0, 300.0, 3600.0, 86_400.0, 31_536_000.0];

/// Statuses that are answered; any other counts as `other`.
const CODES: [(u16, &str); 22] = [
    (200, "200"),
    (204, "204"),
    (401, "401"),
    (201, "201"),
    (400, "400"),
    (403, "403"),
    (404, "404"),
    (405, "405"),
    (408, "408"),
    (409, "409"),
    (410, "410"),
    (412, "412"),
    (413, "413"),
    (415, "415"),
    (422, "422"),
    (428, "428"),
    (429, "429"),
    (431, "431"),
    (500, "500"),
    (503, "503"),
    (304, "304"),
    (0, "other"),
];
const METHODS: [&str; 7] = ["GET", "POST", "HEAD", "PUT", "PATCH", "DELETE", "other"];
/// Routes of one plane whose counters are kept at hand; `unmatched` is among them.
const ROUTES: usize = 96;

/// Who a request was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plane {
    Node,
    Operator,
}

impl Plane {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Plane::Node => "node",
            Plane::Operator => "operator",
        }
    }
}

/// What is known elsewhere and only told here when somebody asks.
#[derive(Debug, Default)]
pub struct Figures {
    pub pool: [(&'static str, i64); 2],
    pub database_errors: u64,
    /// Whom statements were for, their kind, and how many.
    pub statements: [(&'static str, &'static str, u64); 4],
    pub token_changes: Vec<(&'static str, u64)>,
    /// Look-ups of tokens that memory answered, and those that it did not.
    pub look_ups: [(&'static str, u64); 2],
}

/// How many of what there are, by state.
pub type States = Vec<(&'static str, i64)>;

/// A route's counters, made when it is first asked.
struct Route {
    name: String,
    durations: Histogram,
    codes: [[OnceLock<IntCounter>; CODES.len()]; METHODS.len()],
}

pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    durations: HistogramVec,
    routes: [[OnceLock<Box<Route>>; ROUTES]; 2],
    authenticated: IntCounter,
    auth: IntCounterVec,
    tokens: IntGaugeVec,
    nodes: IntGaugeVec,
    token_changes: IntCounterVec,
    events: IntCounterVec,
    skew: Histogram,
    cache: IntCounterVec,
    pool: IntGaugeVec,
    database_errors: IntCounter,
    statements: IntCounterVec,
    /// Only one scrape at a time brings counters up to what is known elsewhere.
    telling: Mutex<()>,
    census: Mutex<Census>,
}

/// When nodes and tokens were counted last, and how long it took.
#[derive(Default)]
struct Census {
    last: Option<(Instant, Duration)>,
    is_under_way: bool,
}

/// How long a count of nodes and tokens is good for, and how much of the time may go into it.
const CENSUS: Duration = Duration::from_secs(15);
const CENSUS_SHARE: u32 = 20;

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new()
    }
}

impl Metrics {
    /// # Panics
    /// Never: the names are ours, and each is registered once.
    #[must_use]
    pub fn new() -> Metrics {
        let registry = Registry::new();
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let made = IntCounterVec::new(options(name, help), labels);
            register(&registry, made.expect("the names are ours and well formed"))
        };
        let gauges = |name: &str, help: &str, labels: &[&str]| {
            let made = IntGaugeVec::new(options(name, help), labels);
            register(&registry, made.expect("the names are ours and well formed"))
        };
        let histogram = |name: &str, help: &str, buckets: &[f64]| {
            HistogramOpts::from(options(name, help)).buckets(buckets.to_vec())
        };
        let durations = histogram(
            "http_request_duration_seconds",
            "From a request's headers to its answer, by plane and route.",
            &DURATIONS,
        );
        let durations = HistogramVec::new(durations, &["plane", "route"])
            .expect("the names are ours and well formed");
        let skew = histogram(
            "clock_skew_seconds",
            "How far the clocks of nodes are off, as their signed requests say, either way.",
            &SKEWS,
        );
        let skew = Histogram::with_opts(skew).expect("the names are ours and well formed");
        let errors = IntCounter::with_opts(options(
            "db_errors_total",
            "Statements that failed, and connections and turns to write that were not had in time.",
        ));
        let auth = counters("auth_total", "Signatures judged, by what came of it.", &["result"]);
        let build = gauges("build_info", "1, with the version of this program.", &["version"]);
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        Metrics {
            requests: counters(
                "http_requests_total",
                "Requests answered.",
                &["plane", "route", "method", "code"],
            ),
            durations: register(&registry, durations),
            routes: std::array::from_fn(|_| std::array::from_fn(|_| OnceLock::new())),
            authenticated: auth.with_label_values(&["ok"]),
            auth,
            tokens: gauges("tokens", "Tokens, by state.", &["state"]),
            nodes: gauges("nodes", "Nodes, by boot state.", &["state"]),
            token_changes: counters(
                "token_changes_total",
                "Tokens made, superseded and ended by this process, by what was done.",
                &["change"],
            ),
            events: counters("events_total", "Events acknowledged, by type.", &["type"]),
            skew: register(&registry, skew),
            cache: counters(
                "cache_requests_total",
                "Look-ups of signed requests in memory, by what came of it.",
                &["result"],
            ),
            pool: gauges("db_pool_connections", "Connections to the database.", &["state"]),
            database_errors: register(
                &registry,
                errors.expect("the names are ours and well formed"),
            ),
            statements: counters(
                "db_statements_total",
                "Database statements, by whom they ran for and by which door.",
                &["for", "kind"],
            ),
            telling: Mutex::default(),
            census: Mutex::default(),
            registry,
        }
    }

    /// Counts an answered request. `route` is the table's own text, never a path.
    pub fn request(&self, plane: Plane, route: &str, method: &str, code: u16, elapsed: Duration) {
        let Some(route) = self.route(plane, route) else { return };
        route.durations.observe(elapsed.as_secs_f64());
        let method = METHODS.iter().position(|one| *one == method).unwrap_or(METHODS.len() - 1);
        let code = CODES.iter().position(|(one, _)| *one == code).unwrap_or(CODES.len() - 1);
        route.codes[method][code]
            .get_or_init(|| {
                let labels = [plane.as_str(), &route.name, METHODS[method], CODES[code].1];
                self.requests.with_label_values(&labels)
            })
            .inc();
    }

    /// A route's counters. There are fewer routes than places; a table that outgrows them fails
    /// its test.
    fn route(&self, plane: Plane, name: &str) -> Option<&Route> {
        for place in &self.routes[plane as usize] {
            let route = place.get_or_init(|| {
                Box::new(Route {
                    name: name.to_owned(),
                    durations: self.durations.with_label_values(&[plane.as_str(), name]),
                    codes: std::array::from_fn(|_| std::array::from_fn(|_| OnceLock::new())),
                })
            });
            if route.name == name {
                return Some(route);
            }
        }
        None
    }

    /// Counts a good signature.
    pub fn authenticated(&self) {
        self.authenticated.inc();
    }

    /// A node's clock is off by so many seconds; told once in a while of each node.
    pub fn skewed(&self, seconds: u64) {
        #[expect(clippy::cast_precision_loss, reason = "seconds between dates are few")]
        self.skew.observe(seconds as f64);
    }

    /// Counts a refusal by its bounded reason.
    pub fn refused(&self, reason: &str) {
        self.auth.with_label_values(&[reason]).inc();
    }

    /// Counts an event that was acknowledged.
    pub fn event(&self, kind: &str) {
        self.events.with_label_values(&[kind]).inc();
    }

    /// Whether nodes and tokens are to be counted again. Whoever is told so has to tell
    /// [`Metrics::counted`].
    #[must_use]
    pub fn is_time_to_count(&self) -> bool {
        let mut census = self.census.lock().unwrap_or_else(PoisonError::into_inner);
        let is_fresh = census
            .last
            .is_some_and(|(at, took)| at.elapsed() < CENSUS.max(took.saturating_mul(CENSUS_SHARE)));
        if is_fresh || census.is_under_way {
            return false;
        }
        census.is_under_way = true;
        true
    }

    /// Takes a count of nodes and tokens; without one, the last is not shown any longer.
    pub fn counted(&self, took: Duration, states: Option<(States, States)>) {
        let mut census = self.census.lock().unwrap_or_else(PoisonError::into_inner);
        *census = Census { last: Some((Instant::now(), took)), is_under_way: false };
        let Some((tokens, nodes)) = states else {
            self.tokens.reset();
            self.nodes.reset();
            return;
        };
        for (gauges, states) in [(&self.tokens, tokens), (&self.nodes, nodes)] {
            for (state, count) in states {
                gauges.with_label_values(&[state]).set(count);
            }
        }
    }

    /// Everything, in Prometheus's text format.
    #[must_use]
    pub fn text(&self, figures: &Figures) -> Vec<u8> {
        let telling = self.telling.lock().unwrap_or_else(PoisonError::into_inner);
        for (state, count) in figures.pool {
            self.pool.with_label_values(&[state]).set(count);
        }
        let catch_up = |counter: &IntCounter, to: u64| {
            counter.inc_by(to.saturating_sub(counter.get()));
        };
        catch_up(&self.database_errors, figures.database_errors);
        for (behalf, kind, count) in figures.statements {
            catch_up(&self.statements.with_label_values(&[behalf, kind]), count);
        }
        for (result, count) in figures.look_ups {
            catch_up(&self.cache.with_label_values(&[result]), count);
        }
        for (change, count) in &figures.token_changes {
            catch_up(&self.token_changes.with_label_values(&[*change]), *count);
        }
        drop(telling);
        let mut text = Vec::with_capacity(16 << 10);
        // Writing to memory cannot fail, and no metric is registered twice.
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut text);
        text
    }
}

fn options(name: &str, help: &str) -> Opts {
    Opts::new(name, help).namespace("nodeinit")
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, made: C) -> C {
    registry.register(Box::new(made.clone())).expect("each name is registered once");
    made
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(metrics: &Metrics) -> String {
        String::from_utf8(metrics.text(&Figures::default())).unwrap()
    }

    #[test]
    fn a_request_is_counted_by_plane_route_method_and_code() {
        let metrics = Metrics::new();
        let took = Duration::from_micros(70);
        for _ in 0..3 {
            metrics.request(Plane::Node, "/MAAS/metadata/", "GET", 200, took);
        }
        metrics.request(Plane::Node, "unmatched", "BREW", 299, took);
        metrics.request(Plane::Operator, "/v1/tokens", "GET", 503, took);
        let text = text(&metrics);
        for line in [
            r#"nodeinit_http_requests_total{code="200",method="GET",plane="node",route="/MAAS/metadata/"} 3"#,
            r#"nodeinit_http_requests_total{code="other",method="other",plane="node",route="unmatched"} 1"#,
            r#"nodeinit_http_requests_total{code="503",method="GET",plane="operator",route="/v1/tokens"} 1"#,
            r#"nodeinit_http_request_duration_seconds_bucket{plane="node",route="/MAAS/metadata/",le="0.0001"} 3"#,
            r#"nodeinit_http_request_duration_seconds_bucket{plane="node",route="/MAAS/metadata/",le="0.00005"} 0"#,
        ] {
            assert!(text.lines().any(|one| one == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn counters_follow_what_is_known_elsewhere() {
        let metrics = Metrics::new();
        let figures = |errors| Figures {
            look_ups: [("hit", 0), ("miss", 0)],
            database_errors: errors,
            statements: [
                ("node_read", "read", 1),
                ("node_read", "write", 0),
                ("other", "read", 2),
                ("other", "write", 3),
            ],
            pool: [("idle", 1), ("busy", 7)],
            token_changes: vec![("made", 5)],
        };
        assert!(!metrics.text(&figures(2)).is_empty());
        let text = String::from_utf8(metrics.text(&figures(3))).unwrap();
        for line in [
            "nodeinit_db_errors_total 3",
            r#"nodeinit_db_statements_total{for="node_read",kind="write"} 0"#,
            r#"nodeinit_db_statements_total{for="other",kind="write"} 3"#,
            r#"nodeinit_db_pool_connections{state="busy"} 7"#,
            r#"nodeinit_token_changes_total{change="made"} 5"#,
        ] {
            assert!(text.lines().any(|one| one == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn nodes_are_counted_once_for_many_who_ask() {
        let metrics = Metrics::new();
        assert!(metrics.is_time_to_count());
        assert!(!metrics.is_time_to_count(), "somebody is counting");
        metrics.counted(Duration::ZERO, Some((vec![("live", 2)], vec![("ready", 1)])));
        assert!(!metrics.is_time_to_count(), "it was just done");
        assert!(text(&metrics).contains("nodeinit_tokens{state=\"live\"} 2\n"));
        metrics.counted(Duration::ZERO, None);
        assert!(!text(&metrics).contains("nodeinit_tokens{"), "what is not known is not said");
    }
}
