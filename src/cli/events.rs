//! `nodeinit event …`.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::Context as _;
use clap::Subcommand;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::{Common, InProject, output, segment};
use crate::client::Session;
use crate::clock::Clock;
use crate::domain::audit::parse_since;

const COLUMNS: [&str; 7] =
    ["received_at", "system_id", "origin", "event_type", "name", "result", "description"];

/// How often it is looked what is new.
const POLL: Duration = Duration::from_secs(1);
/// Replicas commit in no order: what was received this long before the newest may still turn up.
const LATE: SignedDuration = SignedDuration::from_secs(15);

#[derive(Subcommand)]
pub enum Event {
    /// List what was reported, the oldest first
    List {
        /// Of this node only
        #[arg(long, value_name = "NODE")]
        node: Option<String>,
        #[command(flatten)]
        project: InProject,
        /// Only these: start, progress, finish or signal
        #[arg(long, value_name = "TYPE")]
        r#type: Option<String>,
        /// Only those of this name, such as modules-final
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
        /// Only those received since: an instant, or an age such as 24h
        #[arg(long, value_name = "T", value_parser = since)]
        since: Option<String>,
        /// At most this many
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
    },
    /// Print the newest and then what comes, until interrupted; -o json prints one object a line
    Tail {
        /// Of this node only
        #[arg(long, value_name = "NODE")]
        node: Option<String>,
        #[command(flatten)]
        project: InProject,
        /// Begin with this many that are there already
        #[arg(long, value_name = "N", default_value_t = 10)]
        limit: usize,
    },
}

/// The server reads it; what it would refuse is wrong use here.
fn since(text: &str) -> Result<String, String> {
    parse_since(text, Clock::System.now()).map(|_| text.to_owned())
}

pub fn run(common: &Common, command: Event) -> anyhow::Result<()> {
    let session = common.session()?;
    match command {
        Event::List { node, project, r#type, name, since, limit } => {
            let mut path = events_of(&session, node.as_deref(), &project)?;
            for (parameter, value) in [("type", r#type), ("name", name), ("since", since)] {
                if let Some(value) = value {
                    path.push(if path.contains('?') { '&' } else { '?' });
                    path.extend([parameter, "=", &segment(&value)]);
                }
            }
            let events = session.list(&path, limit).context("event list")?;
            output::list(common.output, &COLUMNS, &events)
        }
        Event::Tail { node, project, limit } => {
            let path = events_of(&session, node.as_deref(), &project)?;
            tail(&session, &path, limit, common.output).context("event tail")
        }
    }
}

fn events_of(session: &Session, node: Option<&str>, project: &InProject) -> anyhow::Result<String> {
    match node {
        Some(node) => Ok(format!("{}/events", project.node(session, node)?)),
        None => Ok("/v1/events".into()),
    }
}

fn tail(session: &Session, path: &str, limit: usize, format: output::Format) -> anyhow::Result<()> {
    // One is asked for even if none is to be printed: it says where to begin.
    let newest = session.get(&format!("{path}?newest={}", limit.max(1)))?;
    let newest = newest["items"].as_array().cloned().unwrap_or_default();
    let mut seen = Seen::default();
    for event in &newest {
        if seen.is_new(event) && limit > 0 {
            print(event, format)?;
        }
    }
    // What had been received before the first of all was looked for is not news.
    let begun = seen.newest;
    loop {
        let path = match seen.since() {
            Some(since) => format!("{path}?since={}", segment(&since.to_string())),
            None => path.to_owned(),
        };
        for event in session.list(&path, None)? {
            if seen.is_new(&event) && begun.is_none_or(|begun| received(&event) > begun) {
                print(&event, format)?;
            }
        }
        seen.forget();
        std::thread::sleep(POLL);
    }
}

/// What a tail has printed of late.
#[derive(Default)]
struct Seen {
    /// By id, with the time of receipt.
    events: HashSet<(String, Timestamp)>,
    newest: Option<Timestamp>,
}

impl Seen {
    fn is_new(&mut self, event: &Value) -> bool {
        let received = received(event);
        self.newest = self.newest.max(Some(received));
        self.events.insert((event["id"].as_str().unwrap_or_default().to_owned(), received))
    }

    fn since(&self) -> Option<Timestamp> {
        self.newest?.checked_sub(LATE).ok()
    }

    fn forget(&mut self) {
        if let Some(since) = self.since() {
            self.events.retain(|(_, received)| *received >= since);
        }
    }
}

fn received(event: &Value) -> Timestamp {
    event["received_at"].as_str().and_then(|text| text.parse().ok()).unwrap_or(Timestamp::MIN)
}

fn print(event: &Value, format: output::Format) -> anyhow::Result<()> {
    match format {
        output::Format::Table => output::row(&COLUMNS, event),
        output::Format::Json | output::Format::Yaml => output::line(event),
    }
}
