//! The rotation of the authorities. The leader takes each step when it is due, and writes the progress to a ConfigMap.

use crate::ca::authorities::{Authorities, TrustState};
use crate::ca::secret::RotationRequest;
use crate::ca::store::{CaSecretState, CaStore, CaStoreError};
use chrono::{DateTime, Utc};
use durward_core::digest::Digest;
use durward_engine::metrics::Metrics;
use durward_kubernetes::requests::apply;
use durward_kubernetes::work_queue::WorkQueue;
use durward_pki::authority::CertificateAuthority;
use durward_pki::rotation::{RotationAction, RotationSchedule, RotationState, RotationStep, next_action};
use durward_runtime::Failure;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Client;
use kube::api::{Api, ObjectMeta};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// Longest pause between two checks whether a step is due.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Checks between two reads of the Secret in which an authority is provided.
const CHECKS_PER_PROVIDED_READ: u64 = 10;

/// The digests of the roots that have reached each part of the installation.
#[derive(Debug, Clone)]
pub struct PropagationWatchers {
    /// Roots of every ready replica.
    pub replicas: watch::Receiver<Option<Digest>>,
    /// Roots in the trust bundles of the cluster.
    pub bundles: watch::Receiver<Option<Digest>>,
    /// Roots in the webhook configurations.
    pub webhooks: watch::Receiver<Option<Digest>>,
}

impl PropagationWatchers {
    /// The parts of the installation that these roots have not reached.
    fn missing(&self, roots: Digest) -> Vec<&'static str> {
        let parts = [
            ("a replica", &self.replicas),
            ("the trust bundles", &self.bundles),
            ("the webhook configurations", &self.webhooks),
        ];
        parts.into_iter().filter(|(_, reached)| *reached.borrow() != Some(roots)).map(|(name, _)| name).collect()
    }
}

/// Rotates the authorities.
#[derive(Debug)]
pub struct CaRotation {
    pub store: CaStore,
    pub authorities: Authorities,
    pub schedule: RotationSchedule,
    pub watchers: PropagationWatchers,
    pub metrics: Arc<Metrics>,
    /// Namespace of the status ConfigMap.
    pub namespace: String,
    /// Name of the status ConfigMap.
    pub status_config_map: String,
}

impl CaRotation {
    /// Takes steps while `leading`, until `shutdown`.
    pub async fn run(
        self,
        client: Client,
        mut secret_state: watch::Receiver<CaSecretState>,
        mut leading: watch::Receiver<bool>,
        shutdown: CancellationToken,
    ) -> Result<(), Failure> {
        let statuses: Api<ConfigMap> = Api::namespaced(client, &self.namespace);
        let mut written = None;
        let mut queue = WorkQueue::new();
        let mut checks = 0_u64;
        let mut changes = self.authorities.changes();
        loop {
            tokio::select! {
                () = sleep(CHECK_INTERVAL) => {}
                Ok(()) = secret_state.changed() => {}
                Ok(()) = changes.changed() => {}
                Ok(()) = leading.changed() => written = None,
                () = queue.next() => {
                    let status = self.status();
                    match apply(&statuses, &self.status_config_map, &status).await {
                        Ok(()) => {
                            queue.done(&());
                            written = Some(status);
                        }
                        Err(error) => {
                            tracing::warn!(%error, "writing the CA status failed; trying again");
                            queue.failed(());
                        }
                    }
                }
                () = shutdown.cancelled() => return Ok(()),
            }
            self.measure();
            let secret_state = secret_state.borrow_and_update().clone();
            if !*leading.borrow_and_update() {
                continue;
            }
            checks += 1;
            if let Err(error) = self.take_step(&secret_state, checks).await {
                tracing::warn!(%error, "the CA rotation step failed; trying again");
            }
            if written.as_ref() != Some(&self.status()) {
                queue.push((), Duration::ZERO);
            }
        }
    }

    fn measure(&self) {
        let state = self.authorities.current();
        let (not_before, not_after) = state.active.validity();
        self.metrics.certificate_authority(not_before, not_after, state.step);
    }

    /// Takes the step that is due, if any.
    async fn take_step(&self, secret_state: &CaSecretState, checks: u64) -> Result<(), CaStoreError> {
        let state = self.authorities.current();
        if !secret_state.exists {
            return ignore_conflict(self.store.create(&state).await.map(drop));
        }
        if secret_state.rotation_request == Some(RotationRequest::Compromised) {
            return self.replace_compromised(&state).await;
        }
        // the administrator decides when a provided authority changes, so read its Secret from time to time
        let read_provided = self.store.is_provided() && state.step == RotationStep::Steady;
        if read_provided && !checks.is_multiple_of(CHECKS_PER_PROVIDED_READ) {
            return Ok(());
        }
        let rotation = RotationState {
            step: state.step,
            since: state.since,
            active: state.active.validity(),
            requested: secret_state.rotation_request == Some(RotationRequest::Planned) || read_provided,
            everywhere: self.watchers.missing(state.digest()).is_empty(),
        };
        let now = Utc::now().timestamp();
        let Some(action) = next_action(&rotation, &self.schedule, now) else { return Ok(()) };
        let next = if action == RotationAction::Prepare { self.replacement(&state).await? } else { None };
        if action == RotationAction::Prepare && next.is_none() {
            return Ok(());
        }
        tracing::info!(?action, "a CA rotation step is due; writing the Secret");
        self.change(|stored, _| (stored.step == state.step).then(|| stored.after(action, next, now))).await
    }

    async fn replace_compromised(&self, state: &TrustState) -> Result<(), CaStoreError> {
        let Some(replacement) = self.replacement(state).await? else { return Err(self.store.no_replacement()) };
        self.change(|_, request| {
            (request == Some(RotationRequest::Compromised)).then(|| TrustState::steady(replacement))
        })
        .await
    }

    /// An authority other than the active one. `None` if it has to be provided and is not.
    async fn replacement(&self, state: &TrustState) -> Result<Option<Arc<CertificateAuthority>>, CaStoreError> {
        let authority = self.store.new_authority().await?;
        Ok(authority.filter(|authority| authority.certificate() != state.active.certificate()))
    }

    async fn change(
        &self,
        change: impl FnOnce(&TrustState, Option<RotationRequest>) -> Option<TrustState>,
    ) -> Result<(), CaStoreError> {
        ignore_conflict(self.store.change(change).await)
    }

    /// The status for people. It contains no running time, so it changes only when the rotation does.
    fn status(&self) -> ConfigMap {
        let state = self.authorities.current();
        let mut data = BTreeMap::from([
            ("step", state.step.as_str().to_owned()),
            ("since", rfc3339(state.since)),
            ("active", fingerprint(&state.active)),
            ("activeUntil", rfc3339(state.active.validity().1)),
            ("roots", state.roots().len().to_string()),
            ("waitsFor", self.waits_for(&state)),
        ]);
        if let Some(next) = &state.next {
            data.insert("next", fingerprint(next));
        }
        ConfigMap {
            metadata: ObjectMeta { name: Some(self.status_config_map.clone()), ..ObjectMeta::default() },
            data: Some(data.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()),
            ..ConfigMap::default()
        }
    }

    fn waits_for(&self, state: &TrustState) -> String {
        let missing = self.watchers.missing(state.digest());
        let until = |duration: Duration| {
            rfc3339(state.since.saturating_add(i64::try_from(duration.as_secs()).unwrap_or(i64::MAX / 4)))
        };
        match state.step {
            RotationStep::Steady => "nothing".to_owned(),
            RotationStep::Prepared | RotationStep::Published if !missing.is_empty() => {
                format!("{} to have the next root", missing.join(", "))
            }
            RotationStep::Prepared => "the next look".to_owned(),
            RotationStep::Published => format!("pods to get the next root, until {}", until(self.schedule.spread)),
            RotationStep::Activated => {
                format!("certificates of the old root to end, until {}", until(self.schedule.overlap))
            }
        }
    }
}

/// Accepts a conflict: the watch soon reports the change of the other replica.
fn ignore_conflict(result: Result<(), CaStoreError>) -> Result<(), CaStoreError> {
    match result {
        Err(CaStoreError::Conflict) => Ok(()),
        result => result,
    }
}

impl TrustState {
    /// The state after an action. `next` is the authority that [`RotationAction::Prepare`] adds.
    fn after(&self, action: RotationAction, next: Option<Arc<CertificateAuthority>>, now: i64) -> Self {
        let state = Self { step: action.leads_to(), since: now, ..self.clone() };
        match (action, &self.next) {
            (RotationAction::Prepare, _) => Self { next, ..state },
            (RotationAction::Activate, Some(next)) => {
                let old = self.active.roots().iter().chain(&self.retiring).cloned();
                Self { active: Arc::clone(next), next: None, retiring: old.collect(), ..state }
            }
            (RotationAction::Retire, _) => Self { retiring: Vec::new(), ..state },
            (RotationAction::Publish | RotationAction::Activate, _) => state,
        }
    }
}

fn rfc3339(seconds: i64) -> String {
    DateTime::from_timestamp(seconds, 0).unwrap_or_default().to_rfc3339()
}

/// SHA-256 of the certificate, in the format of `openssl x509 -fingerprint -sha256`.
fn fingerprint(authority: &CertificateAuthority) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, authority.certificate());
    digest.as_ref().iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":")
}
