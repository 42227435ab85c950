//! The watches and the resource index: changes come in, snapshots and reports go out.

use super::context::Context;
use crate::resource_index::{BatchSender, Outputs, ResourceIndex, StatusBatch};
use crate::settings::ControllerSettings;
use crate::watches::{WatchSource, watch_all};
use durward_approvals::{ApprovalObjects, ApprovalSeal};
use durward_authn::api_key;
use durward_core::digest::Digest;
use durward_doors::admission::Reviewer;
use durward_doors::snapshots::PublishedResources;
use durward_runtime::supervisor::Supervisor;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};

/// Reviews that may wait for their turn.
const PENDING_REVIEWS: usize = 64;

/// What the resource index offers to other parts.
pub(super) struct ResourceFeeds {
    /// Takes resources that the API server asks to review.
    pub reviews: Reviewer,
    /// Reports for the status writer, in numbered batches.
    pub batches: mpsc::UnboundedReceiver<(u64, StatusBatch)>,
    /// The revision that each batch led to.
    pub revisions: mpsc::UnboundedReceiver<(u64, Digest)>,
    /// Whether all resources were read once.
    pub synced: watch::Receiver<bool>,
    /// Resources that gates receive.
    pub gates: watch::Receiver<PublishedResources>,
    /// The stored approvals.
    pub approvals: watch::Receiver<ApprovalObjects>,
}

/// Starts the watches and the index.
pub(super) fn start(
    supervisor: &mut Supervisor,
    context: &Context,
    settings: &ControllerSettings,
    seal: &ApprovalSeal,
) -> ResourceFeeds {
    let (reviews, pending_reviews) = mpsc::channel(PENDING_REVIEWS);
    let (batch_sender, batches) = mpsc::unbounded_channel();
    let (revision_sender, revisions) = mpsc::unbounded_channel();
    let (synced_sender, synced) = watch::channel(false);
    let (gates_sender, gates) = watch::channel(PublishedResources::default());
    let (approvals_sender, approvals) = watch::channel(ApprovalObjects::default());

    let mut api_key_namespaces = settings.api_key_namespaces.clone();
    if !api_key_namespaces.contains(&context.namespace) {
        api_key_namespaces.push(context.namespace.clone());
    }
    let events = watch_all(&context.client, &api_key_namespaces, api_key::LABEL);
    let outputs = Outputs {
        engine: Arc::clone(&context.engine.engine),
        authenticator: Arc::clone(&context.engine.authenticator),
        metrics: Arc::clone(&context.engine.metrics),
        readiness: Arc::clone(&context.readiness),
        batches: BatchSender { batches: batch_sender, revisions: revision_sender, number: 0 },
        synced: synced_sender,
        gates: gates_sender,
        approvals: approvals_sender,
    };
    let index = ResourceIndex::new(context.domains.clone(), WatchSource::all(&api_key_namespaces), seal.clone());
    supervisor.spawn(|stop| index.run(events, pending_reviews, outputs, stop));
    ResourceFeeds { reviews, batches, revisions, synced, gates, approvals }
}
