//! A cache of recent answers. Failures are not cached.

use durward_core::digest::Digest;
use durward_core::relations::{OpenFgaStore, RelationQuestion};
use quick_cache::sync::Cache;
use std::time::Duration;
use tokio::time::Instant;

/// Limit of cached answers: a few megabytes.
const CAPACITY: usize = 10_000;

/// Everything that an answer depends on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct AnswerKey {
    /// Revision of the policies that the question comes from.
    pub(super) revision: Digest,
    pub(super) store: OpenFgaStore,
    /// Digest of the caller's id and of the groups of its token.
    pub(super) caller: Digest,
    pub(super) question: RelationQuestion,
}

#[derive(Debug)]
pub(super) struct AnswerCache {
    period: Duration,
    answers: Cache<AnswerKey, (bool, Instant)>,
}

impl AnswerCache {
    pub(super) fn new(period: Duration) -> Self {
        Self { period, answers: Cache::new(CAPACITY) }
    }

    pub(super) fn get(&self, key: &AnswerKey) -> Option<bool> {
        let (holds, asked_at) = self.answers.get(key)?;
        (asked_at.elapsed() < self.period).then_some(holds)
    }

    pub(super) fn put(&self, key: AnswerKey, holds: bool, asked_at: Instant) {
        if !self.period.is_zero() {
            self.answers.insert(key, (holds, asked_at));
        }
    }
}
