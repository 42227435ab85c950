//! Certificates for pods and the trust bundle, as the API server's certificates API offers them.

use super::context::Context;
use super::identity::ControllerIdentity;
use durward_core::digest::Digest;
use durward_identity::{CertificatesApi, PodCertificateSigner, TrustBundlePublisher};
use durward_runtime::supervisor::Supervisor;
use std::sync::Arc;
use tokio::sync::watch;

/// Starts the signer and the publisher; returns the digest of the roots that every published bundle has.
pub(super) fn start(
    supervisor: &mut Supervisor,
    context: &Context,
    identity: &ControllerIdentity,
    api: CertificatesApi,
    leading: &watch::Receiver<bool>,
    synced: &watch::Receiver<bool>,
) -> watch::Receiver<Option<Digest>> {
    let (roots_sender, roots) = watch::channel(None);
    let trust_domain = &context.domains.trust_domain;
    let signer = PodCertificateSigner::new(
        context.client.clone(),
        Arc::clone(&context.engine.engine),
        Arc::clone(&context.engine.metrics),
        identity.authorities.clone(),
        api.requests,
        trust_domain,
        &context.pod,
    );
    let leading_signer = leading.clone();
    supervisor.spawn(|stop| signer.run(leading_signer, stop));
    let publisher = TrustBundlePublisher {
        client: context.client.clone(),
        trust_domain: trust_domain.clone(),
        bundle_resource: api.bundles,
        engine: Arc::clone(&context.engine.engine),
        authorities: identity.authorities.clone(),
        propagated: roots_sender,
    };
    let leading_publisher = leading.clone();
    let synced = synced.clone();
    supervisor.spawn(|stop| publisher.run(leading_publisher, synced, stop));
    roots
}
