//! Operators' tokens in memory. What was read under another epoch is never served, and whether a
//! token has expired is judged outside.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use super::locked;
use crate::store::operator_tokens::{Hash, Known};

/// More than ever call at once; past it the memory begins anew.
const MOST: usize = 10_000;

/// What is known of tokens in the epoch it was read in. Only tokens that are good are kept: a token
/// made a moment ago must not meet the memory of its absence.
#[derive(Default)]
pub struct Identities(Mutex<Epoch>);

#[derive(Default)]
struct Epoch {
    name: Vec<u8>,
    known: HashMap<Hash, Arc<Known>>,
}

impl Identities {
    /// What is known of a token, if it was read in this epoch.
    #[must_use]
    pub fn find(&self, epoch: &[u8], hash: &Hash) -> Option<Arc<Known>> {
        let memory = locked(&self.0);
        memory.known.get(hash).filter(|_| memory.name == epoch).cloned()
    }

    /// Keeps what was read after this epoch was.
    pub fn keep(&self, epoch: &[u8], hash: Hash, known: Arc<Known>) {
        let mut memory = locked(&self.0);
        if memory.name != epoch || memory.known.len() >= MOST {
            epoch.clone_into(&mut memory.name);
            memory.known.clear();
        }
        memory.known.insert(hash, known);
    }
}
