//! What one request, one node and one process may ask for (CONTRACT §12).

use std::time::Duration;

/// All of them settings; these are the defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of request headers.
    pub header_bytes: usize,
    /// Bytes of one user-data or vendor-data.
    pub content_bytes: usize,
    /// Bytes of a JSON request body on the operator plane.
    pub json_bytes: usize,
    /// Bytes of what a node reports at once.
    pub report_bytes: usize,
    /// Bytes of one reported file, decoded.
    pub report_file_bytes: usize,
    /// Files of one report.
    pub report_files: usize,
    /// Nesting of JSON.
    pub json_depth: usize,
    /// How long a connection may take to send a request's headers.
    pub header_time: Duration,
    /// Connections at once on the node listener.
    pub connections: usize,
    /// Requests a second of one node, counted after a good signature.
    pub node_rate: u32,
    /// How many of them may come at once.
    pub node_burst: u32,
    /// Refused requests a second of one source address.
    pub refused_rate: u32,
    /// How many of them may come at once.
    pub refused_burst: u32,
    /// Bytes of tokens and content in memory.
    pub live_bytes: usize,
    /// Rows on one page of a list.
    pub page: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            header_bytes: 8 << 10,
            content_bytes: 64 << 20,
            json_bytes: 1 << 20,
            report_bytes: 16 << 20,
            report_file_bytes: 8 << 20,
            report_files: 16,
            json_depth: 32,
            header_time: Duration::from_secs(5),
            connections: 20_000,
            node_rate: 50,
            node_burst: 200,
            refused_rate: 1000,
            refused_burst: 10_000,
            live_bytes: 512 << 20,
            page: 1000,
        }
    }
}
