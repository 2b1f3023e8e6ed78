//! What the real cloud-init makes of user-data and vendor-data, told when they are stored.
//!
//! cloud-init says nothing to anyone when it drops content: every event still reports SUCCESS. So
//! each check here answers one question: what would 22.4 to 26.2 do with these bytes?

mod mime;
mod part;
mod user_data;
mod vendor_data;
mod wrap;
mod yaml;

use serde::Serialize;

pub use user_data::user_data;
pub use vendor_data::vendor_data;

/// One thing wrong, or suspicious, with a piece of content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct Finding {
    /// Stable, in `snake_case`.
    pub code: &'static str,
    /// From 1.
    pub line: Option<usize>,
    /// What is wrong, what cloud-init would do with it, what to do instead. Never the content.
    pub message: String,
}

/// More findings than this are not listed; nobody reads them, and content may hold a million.
const MOST: usize = 50;

impl Finding {
    fn new(code: &'static str, line: Option<usize>, message: impl Into<String>) -> Self {
        Self { code, line, message: message.into() }
    }
}

fn listed(mut findings: Vec<Finding>) -> Vec<Finding> {
    if findings.len() >= MOST {
        findings.truncate(MOST - 1);
        findings.push(Finding::new(
            "more",
            None,
            "there may be more problems than are listed; correct these and store it again",
        ));
    }
    findings
}

/// Where the bytes stop being UTF-8.
fn invalid_utf8_line(bytes: &[u8], error: std::str::Utf8Error) -> usize {
    bytes[..error.valid_up_to()].split(|byte| *byte == b'\n').count()
}
