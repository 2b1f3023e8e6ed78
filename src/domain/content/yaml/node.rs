//! What is kept of a YAML document: its nodes, in the order in which they end.

use std::borrow::Cow;

use super::Fault;
use super::scalar::Kind;
use super::scanner::Style;

/// `PyYAML` builds some ten thousand nodes a second, so more than this holds a boot up for long.
const MAX_NODES: usize = 100_000;

/// `root` is `None` when there is not even a value, as in a lone comment, or when reading stopped
/// at a fault.
#[derive(Debug, Default)]
pub struct Document<'a> {
    pub root: Option<NodeId>,
    pub faults: Vec<Fault>,
    nodes: Vec<Node<'a>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeId(usize);

#[derive(Debug)]
pub struct Node<'a> {
    pub line: usize,
    pub body: Body<'a>,
    /// Bytes of it and all below, with aliases written out.
    pub weight: u64,
}

#[derive(Debug)]
pub enum Body<'a> {
    Scalar { text: Cow<'a, str>, kind: Kind, style: Style },
    Sequence(Vec<NodeId>),
    Mapping(Vec<(NodeId, NodeId)>),
}

impl<'a> Document<'a> {
    pub fn node(&self, id: NodeId) -> &Node<'a> {
        &self.nodes[id.0]
    }

    pub fn add(&mut self, line: usize, body: Body<'a>) -> Result<NodeId, Fault> {
        if self.nodes.len() >= MAX_NODES {
            return Err(Fault::at(
                line,
                "yaml_size",
                "the YAML has more than 100000 values, which cloud-init takes very long to read",
                "move bulk data into a block of text or a file",
            ));
        }
        let below = |id: &NodeId| self.node(*id).weight;
        let weight = match &body {
            Body::Scalar { text, .. } => text.len() as u64,
            Body::Sequence(items) => items.iter().map(below).sum(),
            Body::Mapping(entries) => entries.iter().map(|(k, v)| below(k) + below(v)).sum(),
        };
        self.nodes.push(Node { line, body, weight: weight + 1 });
        Ok(NodeId(self.nodes.len() - 1))
    }
}
