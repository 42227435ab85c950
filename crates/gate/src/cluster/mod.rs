//! A gate in a cluster: certificate, trust and policies come from the controller, which authenticates the pod by its token.

use crate::identity::{IdentityMaterial, IdentityPublisher};
use chrono::Utc;
use durward_api::catalog::{AuthenticationResource, Catalog, CatalogChange};
use durward_api::compile::ClusterDomains;
use durward_api::field_error::FieldError;
use durward_api::resources::namespaced_name;
use durward_api::resources::{AccessPolicy, IdentityProvider, Relationship};
use durward_api::translation::{self, ObjectVersion};
use durward_approvals::{REQUEST_QUEUE, RecentRequests, approval_spec, verified_grant};
use durward_authn::liveness::BoundObjectKind;
use durward_authn::{Authenticator, KeySource, KeyUses, LivenessIndex, ServiceAccountIssuer};
use durward_controller_client::client::ControllerClient;
use durward_controller_client::identity::{IdentitySource, IdentityState};
use durward_controller_client::retry::RetryPauses;
use durward_core::approval::ApprovalSubject;
use durward_core::namespaced_name::NamespacedName;
use durward_core::snapshot::Snapshot;
use durward_engine::metrics::Metrics;
use durward_engine::{Engine, EngineContext};
use durward_pki::authority::pem;
use durward_protocol::snapshot::{KeyUse, MAX_KEY_USES, ReceivedSnapshotLine, SnapshotLine, SnapshotResources};
use durward_runtime::Failure;
use durward_runtime::readiness::Readiness;
use durward_runtime::supervisor::Supervisor;
use rustls_pki_types::CertificateDer;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use url::Url;
use zeroize::Zeroizing;

/// Interval between reports of used API keys.
const LOOK: Duration = Duration::from_secs(20);
/// Resolution of a reported use, in seconds: the controller records hours.
const STEP: i64 = 3600;
/// Longest line, in bytes: some thousand policies.
const MAX_LINE: usize = 16 * 1024 * 1024;

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
        living: Arc<LivenessIndex>,
        publisher: &IdentityPublisher,
        readiness: &Arc<Readiness>,
        supervisor: &mut Supervisor,
    ) {
        let controller = ControllerClient { url: self.controller, token: self.token, roots: self.roots };
        let source = IdentitySource::new(controller.clone(), None);
        let (certificates, bundles, state) = (source.clone(), source.clone(), source.state());
        supervisor.spawn(|stop| certificates.renew_certificate(stop));
        supervisor.spawn(|stop| bundles.follow_bundles(stop));
        let publisher = publisher.clone();
        let ready = Arc::clone(readiness);
        supervisor.spawn(|stop| publish_identities(state, publisher, ready, stop));
        let (wanted, lacking) = mpsc::channel(REQUEST_QUEUE);
        context.engine.send_approval_requests_to(wanted);
        let approvals_client = controller.clone();
        supervisor.spawn(|stop| request_approvals(approvals_client, lacking, stop));
        let client = controller.clone();
        let authenticator = Arc::clone(&context.authenticator);
        supervisor.spawn(|stop| report_key_uses(client, authenticator, stop));
        let follower = SnapshotFollower {
            controller,
            catalog: Catalog::new(domain.clone()),
            known: AppliedResources::default(),
            engine: Arc::clone(&context.engine),
            authenticator: Arc::clone(&context.authenticator),
            metrics: Arc::clone(&context.metrics),
            living,
            readiness: Arc::clone(readiness),
            max_age: self.max_age,
            heard: None,
        };
        supervisor.spawn(|stop| follower.run(stop));
    }
}

/// Publishes each new certificate and bundle, until `shutdown`.
async fn publish_identities(
    mut state: watch::Receiver<IdentityState>,
    publisher: IdentityPublisher,
    readiness: Arc<Readiness>,
    shutdown: CancellationToken,
) -> Result<(), Failure> {
    loop {
        let material = material(&state.borrow_and_update());
        match material.map(|material| publisher.publish(&material?)) {
            Some(Ok(())) => readiness.mark_identities_ready(),
            Some(Err(error)) => tracing::warn!(%error, "a certificate can't be used; keeping the previous one"),
            None => {}
        }
        tokio::select! {
            changed = state.changed() => changed?,
            () = shutdown.cancelled() => return Ok(()),
        }
    }
}

/// Requests the approvals that callers lack from the controller, until `shutdown`.
async fn request_approvals(
    controller: ControllerClient,
    mut lacking: mpsc::Receiver<ApprovalSubject>,
    shutdown: CancellationToken,
) -> Result<(), Failure> {
    let mut recent = RecentRequests::default();
    let asking = async {
        while let Some(subject) = lacking.recv().await {
            if recent.insert(&subject)
                && let Err(error) = controller.request_approval(&approval_spec(&subject)).await
            {
                tracing::warn!(operation = &*subject.operation, %error, "an approval can't be requested");
            }
        }
    };
    tokio::select! {
        () = asking => {}
        () = shutdown.cancelled() => {}
    }
    Ok(())
}

/// Reports uses of API keys to the controller, until `shutdown`.
async fn report_key_uses(
    controller: ControllerClient,
    authenticator: Arc<Authenticator>,
    shutdown: CancellationToken,
) -> Result<(), Failure> {
    let mut reported = KeyUses::new();
    loop {
        tokio::select! {
            () = sleep(LOOK) => {}
            () = shutdown.cancelled() => return Ok(()),
        }
        for uses in due(&authenticator.key_uses(), &reported).chunks(MAX_KEY_USES) {
            if let Err(error) = controller.report_key_uses(uses).await {
                tracing::debug!(%error, "uses of API keys can't be reported; trying again");
                break;
            }
            reported.extend(uses.iter().map(|(provider, name, at)| ((provider.clone(), name.clone()), *at)));
        }
    }
}

/// Uses that are at least [`STEP`] later than the reported ones.
fn due(uses: &KeyUses, reported: &KeyUses) -> Vec<KeyUse> {
    let new = |key, used: &i64| *used > 0 && reported.get(key).is_none_or(|before| used - before >= STEP);
    let due = uses.iter().filter(|(key, used)| new(*key, used));
    due.map(|((provider, name), used)| (provider.clone(), name.clone(), *used)).collect()
}

/// The current certificate and roots, once there are any.
fn material(state: &IdentityState) -> Option<Result<IdentityMaterial, Failure>> {
    let (issued, _, bundle) = state.ready()?;
    let chain = issued.chain.iter().map(|der| pem(&CertificateDer::from(der.as_slice())));
    let material = issued.id.parse().map_err(Failure::from).map(|id| IdentityMaterial {
        id,
        chain_pem: chain.collect(),
        key_pem: Zeroizing::new(issued.key_pem.to_string()),
        roots: bundle.roots.clone(),
        jwks: Some(bundle.jwks.clone()),
    });
    Some(material)
}

/// The names of the resources in force.
#[derive(Default)]
struct AppliedResources {
    policies: BTreeSet<NamespacedName>,
    relationships: BTreeSet<NamespacedName>,
    namespaces: BTreeSet<String>,
    labelled: BTreeSet<String>,
    authentication: BTreeSet<AuthenticationResource>,
    approvals: BTreeSet<ApprovalSubject>,
}

/// Follows the snapshot stream.
struct SnapshotFollower {
    controller: ControllerClient,
    catalog: Catalog,
    known: AppliedResources,
    engine: Arc<Engine>,
    authenticator: Arc<Authenticator>,
    metrics: Arc<Metrics>,
    living: Arc<LivenessIndex>,
    readiness: Arc<Readiness>,
    max_age: Duration,
    /// Time of the last message of the controller, while its policies are in force.
    heard: Option<Instant>,
}

impl SnapshotFollower {
    async fn run(mut self, shutdown: CancellationToken) -> Result<(), Failure> {
        let mut pauses = RetryPauses::new();
        loop {
            let before = self.heard;
            let ended = tokio::select! {
                ended = self.follow() => ended,
                () = shutdown.cancelled() => return Ok(()),
            };
            if self.heard != before {
                pauses.reset();
            }
            let Err(why) = ended else { continue };
            tracing::warn!(why, "the snapshot stream ended; connecting again");
            let pause = Instant::now() + pauses.next_pause();
            tokio::select! {
                () = self.wait_while_valid(sleep_until(pause)) => {}
                () = shutdown.cancelled() => return Ok(()),
            }
        }
    }

    /// Follows one stream to its end.
    async fn follow(&mut self) -> Result<(), String> {
        let opening = self.controller.clone();
        let opened = self.wait_while_valid(opening.open_snapshot_stream()).await;
        let (mut stream, mut line) = (opened.map_err(|refusal| refusal.to_string())?, Vec::new());
        loop {
            let chunk = self.wait_while_valid(stream.chunk()).await;
            let Some(chunk) = chunk.map_err(|error| error.without_url().to_string())? else { return Ok(()) };
            for piece in chunk.split_inclusive(|byte| *byte == b'\n') {
                if line.len() + piece.len() > MAX_LINE {
                    return Err("a line is too long".to_owned());
                }
                line.extend_from_slice(piece);
                if line.ends_with(b"\n") {
                    let heard: ReceivedSnapshotLine =
                        serde_json::from_slice(&line).map_err(|error| format!("a line: {error}"))?;
                    line.clear();
                    self.hear(heard)?;
                }
            }
        }
    }

    /// Waits for the controller, and drops the policies when they become too old meanwhile.
    async fn wait_while_valid<T>(&mut self, answer: impl Future<Output = T>) -> T {
        let mut answer = std::pin::pin!(answer);
        loop {
            let Some(old) = self.heard.map(|heard| heard + self.max_age) else { return answer.await };
            tokio::select! {
                answer = &mut answer => return answer,
                () = sleep_until(old) => self.forget(),
            }
        }
    }

    fn hear(&mut self, line: ReceivedSnapshotLine) -> Result<(), String> {
        match line {
            SnapshotLine::Resources(received) => self.take_in(*received),
            // policies that were dropped come again with another stream
            _ if self.heard.is_none() => return Err("policies were dropped; requesting them again".to_owned()),
            SnapshotLine::Revoked(tags) => {
                // a tag belongs to a pod or to a service account
                let now = Utc::now();
                tags.into_iter().for_each(|tag| self.living.remove(BoundObjectKind::Pod, tag, now));
            }
            SnapshotLine::Heartbeat => {}
        }
        self.heard = Some(Instant::now());
        self.metrics.controller_seen();
        Ok(())
    }

    fn take_in(&mut self, received: SnapshotResources<AccessPolicy, Relationship>) {
        let authenticator = &self.authenticator;
        if let Some((issuer, jwks)) = received.service_accounts {
            let issuer = ServiceAccountIssuer { issuer, keys: KeySource::Inline(jwks) };
            authenticator.change_domain(|domain| domain.service_accounts = Some(issuer.clone()));
        }
        let problems = authenticator.replace_providers(&received.providers, &received.secrets);
        problems.iter().for_each(|(provider, problem)| tracing::warn!(provider, %problem, "a provider can't be used; its credentials are refused"));

        self.engine.set_step_up_page(received.step_up);

        let mut now = AppliedResources::default();
        let mut changes = Vec::new();
        for (name, annotations) in received.namespaces {
            now.namespaces.insert(name.clone());
            changes.push(CatalogChange::NamespaceAnnotations(name, Some(annotations)));
        }
        for (name, labels) in received.namespace_labels {
            now.labelled.insert(name.clone());
            changes.push(CatalogChange::NamespaceLabels(name, Some(labels)));
        }
        for provider in &received.providers {
            let name = provider.metadata.name.as_deref().unwrap_or_default();
            now.authentication.insert(AuthenticationResource::IdentityProvider(name.into()));
            changes.extend(
                ObjectVersion::from_resource(provider.clone()).into_iter().flat_map(ObjectVersion::into_changes),
            );
        }
        for secret in &received.secrets {
            now.authentication.extend(namespaced_name(&secret.metadata).map(AuthenticationResource::Secret));
            changes.extend(translation::api_keys(secret));
        }
        for policy in received.policies {
            let Some(version) = ObjectVersion::from_resource(policy) else { continue };
            now.policies.insert(version.name().clone());
            changes.extend(version.into_changes());
        }
        for relationship in received.relationships {
            let Some(version) = ObjectVersion::from_resource(relationship) else { continue };
            now.relationships.insert(version.name().clone());
            changes.extend(version.into_changes());
        }
        for (namespace, name, last) in received.unknown_relationships {
            let key = NamespacedName::new(namespace, name);
            now.relationships.insert(key.clone());
            let error = FieldError { field: "spec".to_owned(), message: "the controller can't read it".to_owned() };
            changes.extend(ObjectVersion::<Relationship>::undecodable(key, error).with_last_good(last).into_changes());
        }
        for approval in &received.approvals {
            // the API server alone does not make an approval valid; the signature does
            let Some((matter, given)) = verified_grant(&received.approval_keys, approval) else {
                let name = approval.metadata.name.as_deref();
                tracing::warn!(name, "an approval has no valid signature; ignoring it");
                continue;
            };
            now.approvals.insert(matter.clone());
            changes.extend(translation::approval(None, Some((matter, given))));
        }
        let known = std::mem::replace(&mut self.known, now);
        let over = known.approvals.difference(&self.known.approvals).cloned();
        changes.extend(over.flat_map(|subject| translation::approval(Some(&subject), None)));
        let unrelated = known.relationships.difference(&self.known.relationships).cloned();
        changes.extend(unrelated.flat_map(translation::deleted::<Relationship>));
        let deleted = known.policies.difference(&self.known.policies).cloned();
        changes.extend(deleted.flat_map(translation::deleted::<AccessPolicy>));
        changes.extend(
            known
                .labelled
                .difference(&self.known.labelled)
                .map(|name| CatalogChange::NamespaceLabels(name.clone(), None)),
        );
        changes.extend(
            known
                .namespaces
                .difference(&self.known.namespaces)
                .map(|name| CatalogChange::NamespaceAnnotations(name.clone(), None)),
        );
        for resource in known.authentication.difference(&self.known.authentication) {
            changes.extend(match resource {
                AuthenticationResource::IdentityProvider(name) => {
                    translation::deleted::<IdentityProvider>(Arc::clone(name))
                }
                AuthenticationResource::Secret(name) => translation::api_keys_deleted(name.clone()),
            });
        }
        for (policy, fate) in self.catalog.apply(changes) {
            // an older gate can reject what a newer controller accepts; it does not decide by such a policy
            let errors = fate.rejected.into_iter().flat_map(|rejection| rejection.errors);
            errors.for_each(|error| tracing::warn!(%policy, %error, "a policy can't be put in force here; its service stays closed"));
        }
        let snapshot = self.catalog.snapshot();
        tracing::info!(revision = %snapshot.revision(), services = snapshot.services().count(), "in force");
        self.engine.replace_snapshot(snapshot.clone());
        self.metrics.policies_rejected(self.catalog.rejected_count());
        self.readiness.mark_policies_loaded();
    }

    /// The policies are too old: deny everything.
    fn forget(&mut self) {
        tracing::error!("the controller has been unreachable for too long; denying every request until it is back");
        self.heard = None;
        self.readiness.mark_policies_unloaded();
        self.engine.replace_snapshot(Snapshot::default());
    }
}

#[cfg(test)]
mod tests;
