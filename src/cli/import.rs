//! `nodeinit node import`: a file cut into batches, each of which the server takes whole or not at
//! all.

use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal as _};
use std::path::Path;

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressFinish, ProgressStyle};
use serde_json::{Value, json};
use ureq::http::Method;

use super::{Common, output, take_stdin};
use crate::client::{ClientError, Session};

/// Lines and bytes of one request, which is one transaction: enough to be worth a commit, few
/// enough that nobody waits for it.
const BATCH_LINES: usize = 2000;
const BATCH_BYTES: usize = 8 << 20;

pub fn run(common: &Common, session: &Session, file: &Path, path: &str) -> anyhow::Result<()> {
    let (reader, size) = open(file)?;
    let mut lines = Lines { reader, number: 0 };
    let bar = bar(size);
    let (mut created, mut unchanged) = (0, 0);
    let mut batch = Vec::new();
    loop {
        let before = lines.number;
        let more = lines.read(&mut batch).with_context(|| file.display().to_string())?;
        // An empty file is asked about as well: whether there is a server, and whether it allows.
        if batch.is_empty() && before > 0 {
            break;
        }
        let headers = [("content-type", "application/x-ndjson")];
        let answer = session
            .call(Method::POST, path, &headers, Some(&batch))
            .map_err(|error| moved(error, before))
            .with_context(|| {
                format!(
                    "node import: {created} nodes were added before line {}; of the lines from \
                     there on, none",
                    before + 1
                )
            })?;
        let done: Value = serde_json::from_slice(&answer.body)?;
        created += done["created"].as_u64().unwrap_or(0);
        unchanged += done["unchanged"].as_u64().unwrap_or(0);
        for warning in done["warnings"].as_array().into_iter().flatten() {
            let line = warning["line"].as_u64().unwrap_or(0) + before as u64;
            let message = output::plain(warning["message"].as_str().unwrap_or_default());
            bar.suspend(|| eprintln!("nodeinit: warning: line {line}: {message}"));
        }
        bar.inc(batch.len() as u64);
        bar.set_message(format!("{} nodes", created + unchanged));
        if !more {
            break;
        }
    }
    bar.finish();
    output::object(common.output, &json!({"created": created, "unchanged": unchanged}))
}

/// The file or standard input, and how long it is where that is known.
fn open(file: &Path) -> anyhow::Result<(Box<dyn BufRead>, Option<u64>)> {
    if file == Path::new("-") {
        take_stdin()?;
        return Ok((Box::new(std::io::stdin().lock()), None));
    }
    let shown = || file.display().to_string();
    let file = File::open(file).with_context(shown)?;
    let about = file.metadata().with_context(shown)?;
    let size = about.is_file().then_some(about.len());
    Ok((Box::new(BufReader::with_capacity(1 << 16, file)), size))
}

struct Lines {
    reader: Box<dyn BufRead>,
    /// How many were read.
    number: usize,
}

impl Lines {
    /// Reads the next batch; says whether there may be another.
    fn read(&mut self, batch: &mut Vec<u8>) -> std::io::Result<bool> {
        batch.clear();
        let first = self.number;
        while self.number - first < BATCH_LINES && batch.len() < BATCH_BYTES {
            if self.reader.read_until(b'\n', batch)? == 0 {
                return Ok(false);
            }
            self.number += 1;
        }
        Ok(true)
    }
}

/// What a person who waits sees; a program that reads our stderr sees nothing of it.
fn bar(size: Option<u64>) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let look = match size {
        Some(_) => "{bar:30} {percent:>3} %  {msg}  {elapsed}, {eta} to go",
        None => "{spinner}  {msg}  {elapsed}",
    };
    let style = ProgressStyle::with_template(look).expect("the templates above are well-formed");
    ProgressBar::with_draw_target(size, ProgressDrawTarget::stderr())
        .with_style(style)
        .with_finish(ProgressFinish::AndClear)
}

/// The server counts the lines of a batch, a person those of the file.
fn moved(error: ClientError, by: usize) -> ClientError {
    match error {
        ClientError::Refused { status, detail, mut problems } => {
            for line in problems.iter_mut().filter_map(|problem| problem.line.as_mut()) {
                *line += by;
            }
            ClientError::Refused { status, detail, problems }
        }
        other => other,
    }
}
