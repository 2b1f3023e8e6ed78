//! Results on stdout: a table for people, JSON or YAML for programs.

use std::io::Write as _;

use comfy_table::{ContentArrangement, Table, presets};
use serde_json::Value;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    Table,
    Json,
    Yaml,
}

/// One object, with its fields in the server's order.
pub fn object(format: Format, value: &Value) -> anyhow::Result<()> {
    match (format, value) {
        (Format::Table, Value::Object(fields)) => {
            let mut table = empty();
            for (name, value) in fields {
                table.add_row([name.clone(), cell(value)]);
            }
            print_table(&table)
        }
        _ => document(format, value),
    }
}

/// A list: a row each, with these columns.
pub fn list(format: Format, columns: &[&str], items: &[Value]) -> anyhow::Result<()> {
    if format != Format::Table {
        return document(format, &Value::from(items.to_vec()));
    }
    let mut table = empty();
    table.set_header(columns.iter().map(|name| name.to_uppercase()));
    for item in items {
        table.add_row(columns.iter().map(|name| cell(&item[*name])));
    }
    print_table(&table)
}

/// One row of a table that has no end: its cells with two spaces between.
pub fn row(columns: &[&str], item: &Value) -> anyhow::Result<()> {
    let cells: Vec<String> = columns.iter().map(|name| cell(&item[*name])).collect();
    Ok(writeln!(std::io::stdout(), "{}", cells.join("  ").trim())?)
}

/// One JSON object a line, for results that have no end worth waiting for.
pub fn line(value: &Value) -> anyhow::Result<()> {
    Ok(writeln!(std::io::stdout(), "{value}")?)
}

/// The same of many, which leave together.
pub fn lines(values: &[Value]) -> anyhow::Result<()> {
    let mut text = Vec::new();
    for value in values {
        writeln!(text, "{value}")?;
    }
    bytes(&text)
}

/// A line for people.
pub fn text(line: &str) -> anyhow::Result<()> {
    Ok(writeln!(std::io::stdout(), "{}", plain(line))?)
}

/// Bytes as they are.
pub fn bytes(bytes: &[u8]) -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    out.write_all(bytes)?;
    Ok(out.flush()?)
}

fn document(format: Format, value: &Value) -> anyhow::Result<()> {
    let text = match format {
        Format::Yaml => serde_yaml::to_string(value)?,
        Format::Json | Format::Table => serde_json::to_string_pretty(value)?,
    };
    Ok(writeln!(std::io::stdout(), "{}", text.trim_end())?)
}

fn empty() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table
}

fn print_table(table: &Table) -> anyhow::Result<()> {
    let text = table.to_string();
    let mut out = std::io::stdout();
    for line in text.lines() {
        writeln!(out, "{}", line.trim())?;
    }
    Ok(())
}

fn cell(value: &Value) -> String {
    let text = match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(" "),
        Value::Object(pairs) => pairs
            .iter()
            .map(|(name, value)| format!("{name}={}", cell(value)))
            .collect::<Vec<_>>()
            .join(" "),
        other => other.to_string(),
    };
    plain(&text)
}

/// Text that others wrote, without what a terminal would obey.
#[must_use]
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
