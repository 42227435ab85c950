//! The monitor of the other replicas: which revision and which roots they have in force.

use super::context::Context;
use crate::replicas::{ConfirmedBatch, ReplicaMonitor, ReplicaOutputs};
use durward_core::digest::Digest;
use durward_engine::audit::policy_counts::PolicyCounts;
use durward_identity::Authorities;
use durward_runtime::supervisor::Supervisor;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};

pub(super) struct ReplicaInputs {
    pub authorities: Authorities,
    /// Port of the Service on which replicas query each other.
    pub port: &'static str,
    /// Digest of the roots that this replica verifies with.
    pub roots_in_force: watch::Receiver<Option<Digest>>,
    /// The revision that each batch led to.
    pub revisions: mpsc::UnboundedReceiver<(u64, Digest)>,
    pub leading: watch::Receiver<bool>,
}

/// What the leader learns from all replicas.
pub(super) struct ReplicaFeeds {
    /// The last batch that every ready replica has in force.
    pub confirmed: watch::Receiver<ConfirmedBatch>,
    /// Digest of the roots that every ready replica verifies with.
    pub roots: watch::Receiver<Option<Digest>>,
    /// Requests that policies in `mode: Audit` would have denied.
    pub policy_counts: mpsc::UnboundedReceiver<PolicyCounts>,
}

/// Starts the monitor.
pub(super) fn start(supervisor: &mut Supervisor, context: &Context, inputs: ReplicaInputs) -> ReplicaFeeds {
    let (confirmed_sender, confirmed) = watch::channel(ConfirmedBatch::default());
    let (roots_sender, roots) = watch::channel(None);
    let (counts_sender, policy_counts) = mpsc::unbounded_channel();
    let monitor = ReplicaMonitor {
        client: context.client.clone(),
        namespace: context.namespace.clone(),
        service: context.service.clone(),
        pod: context.pod.clone(),
        host: context.host(),
        port: inputs.port,
        authorities: inputs.authorities,
        roots_in_force: inputs.roots_in_force,
        engine: Arc::clone(&context.engine.engine),
        metrics: Arc::clone(&context.engine.metrics),
    };
    let outputs = ReplicaOutputs { confirmed: confirmed_sender, roots: roots_sender, policy_counts: counts_sender };
    let ReplicaInputs { revisions, leading, .. } = inputs;
    supervisor.spawn(|stop| monitor.run(revisions, leading, outputs, stop));
    ReplicaFeeds { confirmed, roots, policy_counts }
}
