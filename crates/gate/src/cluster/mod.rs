//! A gate in a cluster: certificate, trust and policies come from the controller, to which the pod's own token is the proof.

use crate::identity::{Material, Shown};
use chrono::Utc;
use durward_api::catalog::{AuthenticationResource, Catalog, CatalogChange};
use durward_api::compile::ClusterDomains;
use durward_api::field_error::FieldError;
use durward_api::resources::namespaced_name;
use durward_api::resources::{AccessPolicy, IdentityProvider, Relationship};
use durward_api::translation::{self, ObjectVersion};
use durward_approvals as approval;
use durward_approvals::{Lately, QUEUE};
use durward_authn::liveness::BoundObjectKind;
use durward_authn::{KeySource, KeyUses, LivenessIndex, ServiceAccountIssuer};
use durward_controller_client::controller::Controller;
use durward_controller_client::source::{PAUSES, Source, State, pauses};
use durward_core::approval::ApprovalSubject;
use durward_core::namespaced_name::NamespacedName;
use durward_core::snapshot::Snapshot;
use durward_engine::Engine;
use durward_pki::authority::pem;
use durward_protocol::snapshot::{Heard, Line, Told, USES, Used};
use durward_runtime::Failure;
use durward_runtime::readiness::Readiness;
use durward_runtime::supervisor::Parts;
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

/// How often it is looked for uses of API keys that are to be told, and how much later they are to be, in seconds.
const LOOK: Duration = Duration::from_secs(20);
const STEP: i64 = 3600;
/// Longest line, in bytes: some thousand policies.
const MAX_LINE: usize = 16 * 1024 * 1024;

/// What a gate in a cluster works with.
#[derive(Debug)]
pub struct Remote {
    /// The controller's token listener.
    pub controller: Url,
    /// The pod's service-account token for it.
    pub token: PathBuf,
    /// Roots of its certificate.
    pub roots: PathBuf,
    /// For how long policies count after the controller was last heard of.
    pub max_age: Duration,
}

impl Remote {
    /// Adds the parts that follow the controller.
    pub(super) fn begin(
        self,
        domain: &ClusterDomains,
        engine: &Arc<Engine>,
        living: Arc<LivenessIndex>,
        shown: &Shown,
        readiness: &Arc<Readiness>,
        parts: &mut Parts,
    ) {
        let controller = Controller { url: self.controller, token: self.token, roots: self.roots };
        let source = Source::new(controller.clone(), None);
        let (certificates, bundles, state) = (source.clone(), source.clone(), source.state());
        parts.add(|stop| certificates.certificates(stop));
        parts.add(|stop| bundles.bundles(stop));
        let (shown, ready) = (shown.clone(), Arc::clone(readiness));
        parts.add(|stop| show(state, shown, ready, stop));
        let (wanted, lacking) = mpsc::channel(QUEUE);
        engine.ask_for_approvals(wanted);
        let clerk = controller.clone();
        parts.add(|stop| ask(clerk, lacking, stop));
        let (clerk, here) = (controller.clone(), Arc::clone(engine));
        parts.add(|stop| tell_uses(clerk, here, stop));
        let follower = Follower {
            controller,
            catalog: Catalog::new(domain.clone()),
            known: Known::default(),
            engine: Arc::clone(engine),
            living,
            readiness: Arc::clone(readiness),
            max_age: self.max_age,
            heard: None,
        };
        parts.add(|stop| follower.run(stop));
    }
}

/// Shows each certificate and believes each bundle that comes, until `shutdown`.
async fn show(
    mut state: watch::Receiver<State>,
    shown: Shown,
    readiness: Arc<Readiness>,
    shutdown: CancellationToken,
) -> Result<(), Failure> {
    loop {
        let material = material(&state.borrow_and_update());
        match material.map(|material| shown.show(&material?)) {
            Some(Ok(())) => readiness.living(),
            Some(Err(error)) => tracing::warn!(%error, "a certificate can't be used; what was shown before stays"),
            None => {}
        }
        tokio::select! {
            changed = state.changed() => changed?,
            () = shutdown.cancelled() => return Ok(()),
        }
    }
}

/// Asks the controller for the approvals that callers lack, until `shutdown`.
async fn ask(
    controller: Controller,
    mut lacking: mpsc::Receiver<ApprovalSubject>,
    shutdown: CancellationToken,
) -> Result<(), Failure> {
    let mut lately = Lately::default();
    let asking = async {
        while let Some(matter) = lacking.recv().await {
            if lately.is_new(&matter)
                && let Err(error) = controller.ask_for_approval(&approval::spec(&matter)).await
            {
                tracing::warn!(operation = &*matter.operation, %error, "an approval can't be asked for");
            }
        }
    };
    tokio::select! {
        () = asking => {}
        () = shutdown.cancelled() => {}
    }
    Ok(())
}

/// Tells the controller when API keys were used here, until `shutdown`.
async fn tell_uses(controller: Controller, engine: Arc<Engine>, shutdown: CancellationToken) -> Result<(), Failure> {
    let mut told = KeyUses::new();
    loop {
        tokio::select! {
            () = sleep(LOOK) => {}
            () = shutdown.cancelled() => return Ok(()),
        }
        for uses in due(&engine.authenticator().key_uses(), &told).chunks(USES) {
            if let Err(error) = controller.tell_uses(uses).await {
                tracing::debug!(%error, "when API keys were used can't be told");
                break;
            }
            told.extend(uses.iter().map(|(provider, name, at)| ((provider.clone(), name.clone()), *at)));
        }
    }
}

/// Uses that are an hour later than what was told: it is written to the hour.
fn due(uses: &KeyUses, told: &KeyUses) -> Vec<Used> {
    let new = |key, used: &i64| *used > 0 && told.get(key).is_none_or(|before| used - before >= STEP);
    let due = uses.iter().filter(|(key, used)| new(*key, used));
    due.map(|((provider, name), used)| (provider.clone(), name.clone(), *used)).collect()
}

/// What there is to show, once there is anything.
fn material(state: &State) -> Option<Result<Material, Failure>> {
    let (svid, _, bundle) = state.ready()?;
    let chain = svid.chain.iter().map(|der| pem(&CertificateDer::from(der.as_slice())));
    let material = svid.id.parse().map_err(Failure::from).map(|id| Material {
        id,
        chain_pem: chain.collect(),
        key_pem: Zeroizing::new(svid.key_pem.to_string()),
        roots: bundle.roots.clone(),
        jwks: Some(bundle.jwks.clone()),
    });
    Some(material)
}

/// Names of what was told last.
#[derive(Default)]
struct Known {
    policies: BTreeSet<NamespacedName>,
    relationships: BTreeSet<NamespacedName>,
    namespaces: BTreeSet<String>,
    labelled: BTreeSet<String>,
    authentication: BTreeSet<AuthenticationResource>,
    approvals: BTreeSet<ApprovalSubject>,
}

/// Follows the snapshot stream.
struct Follower {
    controller: Controller,
    catalog: Catalog,
    known: Known,
    engine: Arc<Engine>,
    living: Arc<LivenessIndex>,
    readiness: Arc<Readiness>,
    max_age: Duration,
    /// When the controller was last heard of, while what it told counts.
    heard: Option<Instant>,
}

impl Follower {
    async fn run(mut self, shutdown: CancellationToken) -> Result<(), Failure> {
        let mut pauses = pauses();
        loop {
            let before = self.heard;
            let ended = tokio::select! {
                ended = self.follow() => ended,
                () = shutdown.cancelled() => return Ok(()),
            };
            if self.heard != before {
                pauses = self::pauses();
            }
            let Err(why) = ended else { continue };
            tracing::warn!(why, "the controller does not tell what to decide by");
            let pause = Instant::now() + pauses.next().unwrap_or(PAUSES[1]);
            tokio::select! {
                () = self.patiently(sleep_until(pause)) => {}
                () = shutdown.cancelled() => return Ok(()),
            }
        }
    }

    /// One stream, to its end.
    async fn follow(&mut self) -> Result<(), String> {
        let opening = self.controller.clone();
        let opened = self.patiently(opening.snapshots()).await;
        let (mut stream, mut line) = (opened.map_err(|refusal| refusal.to_string())?, Vec::new());
        loop {
            let chunk = self.patiently(stream.chunk()).await;
            let Some(chunk) = chunk.map_err(|error| error.without_url().to_string())? else { return Ok(()) };
            for piece in chunk.split_inclusive(|byte| *byte == b'\n') {
                if line.len() + piece.len() > MAX_LINE {
                    return Err("a line is too long".to_owned());
                }
                line.extend_from_slice(piece);
                if line.ends_with(b"\n") {
                    let heard: Heard = serde_json::from_slice(&line).map_err(|error| format!("a line: {error}"))?;
                    line.clear();
                    self.hear(heard)?;
                }
            }
        }
    }

    /// Waits for the controller, and lets go of what is too old meanwhile.
    async fn patiently<T>(&mut self, answer: impl Future<Output = T>) -> T {
        let mut answer = std::pin::pin!(answer);
        loop {
            let Some(old) = self.heard.map(|heard| heard + self.max_age) else { return answer.await };
            tokio::select! {
                answer = &mut answer => return answer,
                () = sleep_until(old) => self.forget(),
            }
        }
    }

    fn hear(&mut self, line: Heard) -> Result<(), String> {
        match line {
            Line::Resources(told) => self.take_in(*told),
            // what was let go of comes anew with another stream
            _ if self.heard.is_none() => return Err("policies were let go of; they are asked for anew".to_owned()),
            Line::Gone(tags) => {
                // a tag is of one of both kinds
                let now = Utc::now();
                tags.into_iter().for_each(|tag| self.living.remove(BoundObjectKind::Pod, tag, now));
            }
            Line::Beat => {}
        }
        self.heard = Some(Instant::now());
        self.engine.metrics().controller_seen();
        Ok(())
    }

    fn take_in(&mut self, told: Told<AccessPolicy, Relationship>) {
        let authenticator = self.engine.authenticator();
        if let Some((issuer, jwks)) = told.service_accounts {
            let issuer = ServiceAccountIssuer { issuer, keys: KeySource::Inline(jwks) };
            authenticator.change_domain(|domain| domain.service_accounts = Some(issuer.clone()));
        }
        let problems = authenticator.replace_providers(&told.providers, &told.secrets);
        problems.iter().for_each(|(provider, problem)| tracing::warn!(provider, %problem, "a provider can't be used"));

        self.engine.step_up_at(told.step_up);

        let mut now = Known::default();
        let mut changes = Vec::new();
        for (name, annotations) in told.namespaces {
            now.namespaces.insert(name.clone());
            changes.push(CatalogChange::NamespaceAnnotations(name, Some(annotations)));
        }
        for (name, labels) in told.namespace_labels {
            now.labelled.insert(name.clone());
            changes.push(CatalogChange::NamespaceLabels(name, Some(labels)));
        }
        for provider in &told.providers {
            let name = provider.metadata.name.as_deref().unwrap_or_default();
            now.authentication.insert(AuthenticationResource::IdentityProvider(name.into()));
            changes.extend(
                ObjectVersion::from_resource(provider.clone()).into_iter().flat_map(ObjectVersion::into_changes),
            );
        }
        for secret in &told.secrets {
            now.authentication.extend(namespaced_name(&secret.metadata).map(AuthenticationResource::Secret));
            changes.extend(translation::api_keys(secret));
        }
        for policy in told.policies {
            let Some(version) = ObjectVersion::from_resource(policy) else { continue };
            now.policies.insert(version.name().clone());
            changes.extend(version.into_changes());
        }
        for relationship in told.relationships {
            let Some(version) = ObjectVersion::from_resource(relationship) else { continue };
            now.relationships.insert(version.name().clone());
            changes.extend(version.into_changes());
        }
        for (namespace, name, last) in told.lost_relationships {
            let key = NamespacedName::new(namespace, name);
            now.relationships.insert(key.clone());
            let error = FieldError { field: "spec".to_owned(), message: "the controller can't read it".to_owned() };
            changes.extend(ObjectVersion::<Relationship>::undecodable(key, error).with_last_good(last).into_changes());
        }
        for approval in &told.approvals {
            // the API server's word is not enough, here as little as at the doors
            let Some((matter, given)) = approval::given(&told.approval_keys, approval) else {
                let name = approval.metadata.name.as_deref();
                tracing::warn!(name, "an approval is not signed as it should be; it counts for nothing");
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
            // an older gate does not know all that a newer controller accepts; what it can't read it does not decide by
            let errors = fate.rejected.into_iter().flat_map(|rejection| rejection.errors);
            errors.for_each(|error| tracing::warn!(%policy, %error, "a policy can't be put in force here"));
        }
        let snapshot = self.catalog.snapshot();
        tracing::info!(revision = %snapshot.revision(), services = snapshot.services().count(), "in force");
        self.engine.replace_snapshot(snapshot.clone());
        self.engine.metrics().policies_rejected(self.catalog.rejected_count());
        self.readiness.loaded();
    }

    /// What the controller told is too old: nothing is allowed any more.
    fn forget(&mut self) {
        tracing::error!("the controller is away for too long; everything is refused until it is back");
        self.heard = None;
        self.readiness.unloaded();
        self.engine.replace_snapshot(Snapshot::default());
    }
}

#[cfg(test)]
mod tests;
