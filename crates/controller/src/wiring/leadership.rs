//! The election: one replica holds the Lease and writes.

use super::context::Context;
use durward_engine::metrics::Metrics;
use durward_kubernetes::lease::{LeaseCandidate, LeaseObserver};
use durward_runtime::supervisor::Supervisor;
use std::sync::Arc;
use tokio::sync::watch;

/// Starts the election; returns whether this replica leads.
pub(super) fn start(supervisor: &mut Supervisor, context: &Context) -> watch::Receiver<bool> {
    let (leading_sender, leading) = watch::channel(false);
    let candidate = LeaseCandidate {
        leases: context.namespaced(),
        lease: context.service.clone(),
        identity: context.pod.clone(),
        closing: context.closing.clone(),
    };
    let observer = Arc::new(LeaseMetrics(Arc::clone(&context.engine.metrics)));
    supervisor.spawn(|stop| candidate.run(leading_sender, observer, stop));
    leading
}

/// Counts what the election reports.
struct LeaseMetrics(Arc<Metrics>);

impl LeaseObserver for LeaseMetrics {
    fn api_server_answered(&self) {
        self.0.api_server_seen();
    }

    fn leadership_changed(&self, leads: bool) {
        self.0.leader(leads);
    }
}
