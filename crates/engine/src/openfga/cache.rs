//! A cache of recent answers. Failures are not cached.

use durward_core::digest::Digest;
use durward_core::relations::{OpenFgaStore, RelationQuestion};
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use std::time::Duration;
use tokio::time::Instant;

/// Maximum memory of cached answers, in bytes.
const CAPACITY: u64 = 4 * 1024 * 1024;
/// Number of answers for which the cache is prepared.
const ESTIMATED_ANSWERS: usize = 10_000;
/// Memory of an answer beside its texts, in bytes.
const ANSWER: usize = 256;

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

/// Whether the relation holds, and when the question was asked.
type CachedAnswer = (bool, Instant);

/// The memory of an answer, in bytes.
#[derive(Debug, Clone)]
struct AnswerWeight;

impl Weighter<AnswerKey, CachedAnswer> for AnswerWeight {
    fn weight(&self, key: &AnswerKey, _: &CachedAnswer) -> u64 {
        let texts = key.question.object.len() + key.question.relation.len();
        u64::try_from(ANSWER + texts).unwrap_or(u64::MAX)
    }
}

#[derive(Debug)]
pub(super) struct AnswerCache {
    period: Duration,
    answers: Cache<AnswerKey, CachedAnswer, AnswerWeight>,
}

impl AnswerCache {
    pub(super) fn new(period: Duration) -> Self {
        Self { period, answers: Cache::with_weighter(ESTIMATED_ANSWERS, CAPACITY, AnswerWeight) }
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
