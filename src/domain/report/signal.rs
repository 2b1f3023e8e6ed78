//! A signal: the short report by form, from MAAS's scripts and from curtin's old reporter.

use serde_json::{Map, Value};

use super::{EventType, Form, Outcome, Report};

/// Every status of a signal (MAAS `SIGNAL_STATUS`).
pub const SIGNALS: [&str; 10] = [
    "OK",
    "FAILED",
    "WORKING",
    "COMMISSIONING",
    "TESTING",
    "TIMEDOUT",
    "INSTALLING",
    "APPLYING_NETCONF",
    "RELEASING",
    "DEPLOYING",
];

/// Why a form is no signal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unsignalled {
    NoStatus,
    /// A status there is none of.
    Unknown(String),
}

/// Reads a signal. What it says beside its status is kept.
///
/// # Errors
/// [`Unsignalled`].
pub fn from_form(form: Form) -> Result<Report, Unsignalled> {
    let status = form.last("status").unwrap_or_default().to_owned();
    if status.is_empty() {
        return Err(Unsignalled::NoStatus);
    }
    if !SIGNALS.contains(&status.as_str()) {
        return Err(Unsignalled::Unknown(status));
    }
    let description = form.last("error").unwrap_or_default().to_owned();
    let mut extra = Map::new();
    for (name, value) in form.fields {
        if !matches!(name.as_str(), "op" | "status" | "error") {
            extra.insert(name, Value::from(value));
        }
    }
    Ok(Report {
        event_type: EventType::Signal,
        origin: "signal".into(),
        result: match status.as_str() {
            "OK" => Some(Outcome::Success),
            "FAILED" | "TIMEDOUT" => Some(Outcome::Fail),
            _ => None,
        },
        name: status,
        description,
        timestamp: None,
        files: form.files,
        extra,
    })
}
