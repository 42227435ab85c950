//! The state of the other replicas. The leader queries each ready replica for its revision and roots, in long polls.

mod endpoint;
mod monitor;
mod peers;

pub use endpoint::router;
pub use monitor::{ReplicaMonitor, ReplicaOutputs};

use durward_core::digest::Digest;
use std::time::Duration;

/// Path on which a replica answers with its revision and roots.
const PATH: &str = "/replica/revision";
/// How long a replica holds a request while its answer has not changed.
const LONG_POLL: Duration = Duration::from_secs(20);

/// The last batch that every ready replica has in force, and the revision that it led to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ConfirmedBatch {
    number: u64,
    revision: Option<Digest>,
}

impl ConfirmedBatch {
    /// A batch that every ready replica has in force.
    pub const fn new(number: u64, revision: Digest) -> Self {
        Self { number, revision: Some(revision) }
    }

    /// The revision in which every ready replica has this batch in force; `None` while a replica is behind.
    pub fn revision_with(&self, batch: u64) -> Option<Digest> {
        if batch <= self.number { self.revision } else { None }
    }

    /// Whether `newer` confirms more. A batch that was in force everywhere stays confirmed: a replica that is ahead of
    /// this one, or does not answer for a moment, takes nothing back.
    fn is_superseded_by(&self, newer: &Self) -> bool {
        newer.number > self.number
    }
}

#[cfg(test)]
mod tests;
