//! Approvals as objects of the cluster, and the task that requests those that callers lack.

use super::context::Context;
use durward_approvals::{ApprovalObjects, ApprovalRequester, ApprovalSeal, ApprovalStore, REQUEST_QUEUE};
use durward_doors::assembly::ApprovalAccess;
use durward_runtime::supervisor::Supervisor;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};

/// Starts the requester; returns what the approvals endpoint works with.
pub(super) fn start(
    supervisor: &mut Supervisor,
    context: &Context,
    seal: &ApprovalSeal,
    stored: watch::Receiver<ApprovalObjects>,
    leading: watch::Receiver<bool>,
) -> ApprovalAccess {
    let (missing_sender, missing) = mpsc::channel(REQUEST_QUEUE);
    context.engine.engine.send_approval_requests_to(missing_sender);
    let store = || ApprovalStore::Cluster(context.client.clone());
    let requester = ApprovalRequester {
        store: store(),
        seal: seal.clone(),
        objects: stored.clone(),
        engine: Arc::clone(&context.engine.engine),
        leading,
    };
    supervisor.spawn(|stop| requester.run(missing, stop));
    ApprovalAccess { store: store(), seal: seal.clone(), stored }
}
