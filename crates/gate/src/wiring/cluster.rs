//! A gate in a cluster: certificate, trust and policies come from the controller, which authenticates the pod by its
//! token.

use crate::approval_requests::request_approvals;
use crate::identity::{IdentityPublisher, follow_controller};
use crate::key_use_reporter::report_key_uses;
use crate::snapshot::SnapshotFollower;
use durward_api::compile::ClusterDomains;
use durward_approvals::REQUEST_QUEUE;
use durward_authn::LivenessIndex;
use durward_controller_client::client::ControllerClient;
use durward_controller_client::identity::IdentitySource;
use durward_engine::EngineContext;
use durward_runtime::readiness::Readiness;
use durward_runtime::supervisor::Supervisor;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use url::Url;

/// The settings of a gate in a cluster.
#[derive(Debug)]
pub struct ClusterGate {
    /// The controller's token listener.
    pub controller: Url,
    /// The pod's service-account token for it.
    pub token: PathBuf,
    /// Roots of its certificate.
    pub roots: PathBuf,
    /// How long policies stay in force after the last message of the controller.
    pub max_age: Duration,
}

impl ClusterGate {
    /// Starts the tasks that follow the controller.
    pub(super) fn start(
        self,
        domain: &ClusterDomains,
        context: &EngineContext,
        liveness: Arc<LivenessIndex>,
        publisher: &IdentityPublisher,
        readiness: &Arc<Readiness>,
        supervisor: &mut Supervisor,
    ) {
        let controller = ControllerClient { url: self.controller, token: self.token, roots: self.roots };

        let source = IdentitySource::new(controller.clone(), None);
        let identities = source.state();
        let bundle_source = source.clone();
        supervisor.spawn(|stop| source.renew_certificate(stop));
        supervisor.spawn(|stop| bundle_source.follow_bundles(stop));
        supervisor.spawn(|stop| follow_controller(identities, publisher.clone(), stop));

        let (missing_approvals, requests) = mpsc::channel(REQUEST_QUEUE);
        context.engine.send_approval_requests_to(missing_approvals);
        supervisor.spawn(|stop| request_approvals(controller.clone(), requests, stop));

        let authenticator = Arc::clone(&context.authenticator);
        supervisor.spawn(|stop| report_key_uses(controller.clone(), authenticator, stop));

        let readiness = Arc::clone(readiness);
        let follower = SnapshotFollower::new(controller, self.max_age, domain.clone(), context, liveness, readiness);
        supervisor.spawn(|stop| follower.run(stop));
    }
}
