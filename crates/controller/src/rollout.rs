//! Where a policy is in force: on every ready replica, and at the API server if it governs Kubernetes operations.

use crate::replicas::ConfirmedBatch;
use crate::webhooks::WebhookStatus;
use durward_core::digest::Digest;
use std::collections::VecDeque;

/// Batches that are remembered. A webhook configuration for an older batch is treated as outdated.
const REMEMBERED_BATCHES: usize = 256;

/// Where a resource is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rollout {
    /// Not everywhere, or not known yet.
    Unknown,
    /// On every ready replica, in this revision.
    Everywhere(Digest),
    /// The API server does not send the governed operations to the webhook.
    NotAsked,
}

/// The rollout of all batches.
#[derive(Debug, Default)]
pub struct RolloutTracker {
    /// The last batch that every ready replica has in force.
    pub confirmed: ConfirmedBatch,
    pub webhook_status: WebhookStatus,
    /// Recent batches, and the revisions that they led to.
    recent: VecDeque<(u64, Digest)>,
}

impl RolloutTracker {
    /// Records the revision that a batch led to.
    pub fn batch_applied(&mut self, number: u64, revision: Digest) {
        self.recent.push_back((number, revision));
        while self.recent.len() > REMEMBERED_BATCHES {
            self.recent.pop_front();
        }
    }

    /// The rollout of what a batch brought; `governs` if the API server has to send operations to the webhook.
    pub fn of(&self, batch: u64, governs: bool) -> Rollout {
        let confirmed = self.confirmed.revision_with(batch);
        match (self.webhook_status, confirmed) {
            (WebhookStatus::Incomplete, _) if governs => Rollout::NotAsked,
            (_, None) => Rollout::Unknown,
            (WebhookStatus::Unknown, Some(_)) if governs => Rollout::Unknown,
            (WebhookStatus::Complete(revision), Some(_)) if governs && !self.contains(revision, batch) => {
                Rollout::NotAsked
            }
            (_, Some(revision)) => Rollout::Everywhere(revision),
        }
    }

    /// Whether a revision contains what a batch brought.
    fn contains(&self, revision: Digest, batch: u64) -> bool {
        self.recent.iter().any(|(number, recent)| *number >= batch && *recent == revision)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_governing_policy_waits_for_the_webhook_configuration() {
        let revision = |text: &str| Digest::of([text.as_bytes()]);
        let one = revision("one");
        let two = revision("two");
        let mut rollout = RolloutTracker::default();
        rollout.batch_applied(1, one);
        assert_eq!([false, true].map(|governs| rollout.of(1, governs)), [Rollout::Unknown; 2], "no replica answered");
        rollout.confirmed = ConfirmedBatch::new(1, one);
        assert_eq!(rollout.of(1, false), Rollout::Everywhere(one));
        assert_eq!(rollout.of(1, true), Rollout::Unknown, "the configuration was not read yet");
        rollout.webhook_status = WebhookStatus::Complete(one);
        assert_eq!(rollout.of(1, true), Rollout::Everywhere(one));
        // another batch: the configuration still covers the first one
        rollout.batch_applied(2, two);
        rollout.confirmed = ConfirmedBatch::new(2, two);
        assert_eq!([1, 2].map(|batch| rollout.of(batch, true)), [Rollout::Everywhere(two), Rollout::NotAsked]);
        assert_eq!(rollout.of(2, false), Rollout::Everywhere(two));
        rollout.webhook_status = WebhookStatus::Complete(two);
        assert_eq!([1, 2].map(|batch| rollout.of(batch, true)), [Rollout::Everywhere(two); 2]);
        // another client changed the configuration
        rollout.webhook_status = WebhookStatus::Incomplete;
        assert_eq!([1, 2].map(|batch| rollout.of(batch, true)), [Rollout::NotAsked; 2]);
        assert_eq!(rollout.of(2, false), Rollout::Everywhere(two));
        // an unknown revision covers nothing
        rollout.webhook_status = WebhookStatus::Complete(revision("three"));
        assert_eq!(rollout.of(1, true), Rollout::NotAsked);
    }
}
