//! What a server says of itself under `/metrics`.

use std::collections::HashMap;

use ureq::http::Method;

use crate::client::Session;

/// Every series by its name and labels.
#[derive(Default)]
pub struct Scrape(HashMap<String, f64>);

impl Scrape {
    /// Asks the server behind `session`.
    pub fn take(session: &Session) -> anyhow::Result<Scrape> {
        let answer = session.call(Method::GET, "/metrics", &[], None)?;
        Ok(Scrape::parse(&String::from_utf8_lossy(&answer.body)))
    }

    fn parse(text: &str) -> Scrape {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let series = lines.filter_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        });
        Scrape(series.collect())
    }

    fn value(&self, series: &str) -> Option<f64> {
        self.0.get(series).copied()
    }

    /// Statements that reads waited for, up to now: `read` or `write`.
    pub fn for_node_reads(&self, kind: &str) -> Option<f64> {
        self.value(&format!("nodeinit_db_statements_total{{for=\"node_read\",kind=\"{kind}\"}}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_is_found_by_its_name_and_labels() {
        let scrape = Scrape::parse(
            "# HELP a b\n# TYPE a counter\n\
             nodeinit_db_statements_total{for=\"node_read\",kind=\"read\"} 7\n\
             nodeinit_db_statements_total{for=\"other\",kind=\"read\"} 9\n",
        );
        assert_eq!(scrape.for_node_reads("read"), Some(7.0));
        assert_eq!(scrape.for_node_reads("write"), None);
    }
}
