//! What was said a moment ago. Failures are asked again.

use durward_core::digest::Digest;
use durward_core::relations::{OpenFgaStore, RelationQuestion};
use quick_cache::sync::Cache;
use std::time::Duration;
use tokio::time::Instant;

/// Most answers that are remembered: a few megabytes.
const CAPACITY: usize = 10_000;

/// Everything that an answer depends on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    /// Revision of the policies, by which the question came about.
    pub(super) revision: Digest,
    pub(super) store: OpenFgaStore,
    /// Digest of the caller's id and of the groups of its token.
    pub(super) caller: Digest,
    pub(super) question: RelationQuestion,
}

#[derive(Debug)]
pub(super) struct Answered {
    lasts: Duration,
    known: Cache<Key, (bool, Instant)>,
}

impl Answered {
    pub(super) fn new(lasts: Duration) -> Self {
        Self { lasts, known: Cache::new(CAPACITY) }
    }

    pub(super) fn get(&self, key: &Key) -> Option<bool> {
        let (holds, said) = self.known.get(key)?;
        (said.elapsed() < self.lasts).then_some(holds)
    }

    pub(super) fn put(&self, key: Key, holds: bool, asked: Instant) {
        if !self.lasts.is_zero() {
            self.known.insert(key, (holds, asked));
        }
    }
}
