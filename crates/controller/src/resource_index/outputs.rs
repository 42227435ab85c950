//! What the index writes to: engine, readiness and the channels of other tasks.

use crate::status::{StatusReport, StatusTarget};
use durward_approvals::ApprovalObjects;
use durward_authn::Authenticator;
use durward_core::digest::Digest;
use durward_doors::snapshots::PublishedResources;
use durward_engine::Engine;
use durward_engine::metrics::Metrics;
use durward_runtime::readiness::Readiness;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};

/// Reports of one batch of changes, for the status writer.
#[derive(Debug)]
pub struct StatusBatch {
    pub reports: Vec<StatusReport>,
    pub deleted: Vec<StatusTarget>,
    /// Revision of the snapshot that the batch led to.
    pub revision: Digest,
}

/// Numbers the batches and sends them to the status writer and to the replica monitor.
pub struct BatchSender {
    pub batches: mpsc::UnboundedSender<(u64, StatusBatch)>,
    pub revisions: mpsc::UnboundedSender<(u64, Digest)>,
    /// Number of the last batch.
    pub number: u64,
}

impl BatchSender {
    pub(super) fn send(&mut self, batch: StatusBatch) {
        self.number += 1;
        // the receivers end only with the process
        let _ = self.revisions.send((self.number, batch.revision));
        let _ = self.batches.send((self.number, batch));
    }
}

/// Destinations of the index.
pub struct Outputs {
    pub engine: Arc<Engine>,
    pub authenticator: Arc<Authenticator>,
    pub metrics: Arc<Metrics>,
    pub readiness: Arc<Readiness>,
    pub batches: BatchSender,
    /// Set once all resources were read.
    pub synced: watch::Sender<bool>,
    /// Resources that gates receive.
    pub gates: watch::Sender<PublishedResources>,
    /// The stored approvals.
    pub approvals: watch::Sender<ApprovalObjects>,
}
