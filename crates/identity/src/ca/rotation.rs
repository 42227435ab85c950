//! The leader's hand on the authorities: takes each step of a change when its time has come, and says how far it is.

use crate::ca::authorities::{Authorities, TrustState};
use crate::ca::secret::RotationRequest;
use crate::ca::store::{CaSecretState, CaStore, CaStoreError};
use durward_core::digest::Digest;
use durward_engine::metrics::Metrics;
use durward_kubernetes::requests::{apply, redacted};
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

/// How often it is looked whether a step is due, while nothing changes.
const PERIOD: Duration = Duration::from_secs(1);
/// How often it is looked whether somebody else has provided another authority.
const PROVIDED_PERIOD: u64 = 10;

/// Whoever has to have the roots: the digest of those that each has.
#[derive(Debug, Clone)]
pub struct PropagationWatchers {
    /// Every ready replica.
    pub replicas: watch::Receiver<Option<Digest>>,
    /// TrustState bundles in the cluster.
    pub bundles: watch::Receiver<Option<Digest>>,
    /// Webhook configurations.
    pub webhooks: watch::Receiver<Option<Digest>>,
}

impl PropagationWatchers {
    /// Who does not have these roots yet.
    fn lacking(&self, roots: Digest) -> Vec<&'static str> {
        let all = [
            ("a replica", &self.replicas),
            ("the trust bundles", &self.bundles),
            ("the webhook configurations", &self.webhooks),
        ];
        all.into_iter().filter(|(_, has)| *has.borrow() != Some(roots)).map(|(name, _)| name).collect()
    }
}

/// Changes authorities.
#[derive(Debug)]
pub struct CaRotation {
    pub store: CaStore,
    pub authorities: Authorities,
    pub schedule: RotationSchedule,
    pub watchers: PropagationWatchers,
    pub metrics: Arc<Metrics>,
    /// Where the status is written, and the name of its ConfigMap.
    pub namespace: String,
    pub status_config_map: String,
}

impl CaRotation {
    /// Takes steps while `leading`, until `shutdown`.
    pub async fn run(
        self,
        client: Client,
        mut seen: watch::Receiver<CaSecretState>,
        mut leading: watch::Receiver<bool>,
        shutdown: CancellationToken,
    ) -> Result<(), Failure> {
        let statuses: Api<ConfigMap> = Api::namespaced(client, &self.namespace);
        let (mut told, mut queue, mut rounds) = (None, WorkQueue::new(), 0u64);
        let mut changes = self.authorities.changes();
        loop {
            tokio::select! {
                () = sleep(PERIOD) => {}
                Ok(()) = seen.changed() => {}
                Ok(()) = changes.changed() => {}
                Ok(()) = leading.changed() => told = None,
                () = queue.next() => {
                    let wanted = self.report();
                    match apply(&statuses, &self.status_config_map, &wanted).await {
                        Ok(()) => {
                            queue.done(&());
                            told = Some(wanted);
                        }
                        Err(error) => {
                            tracing::warn!(error = %redacted(&error), "the status of the CA could not be written");
                            queue.failed(());
                        }
                    }
                }
                () = shutdown.cancelled() => return Ok(()),
            }
            self.measure();
            let seen = seen.borrow_and_update().clone();
            if !*leading.borrow_and_update() {
                continue;
            }
            rounds += 1;
            if let Err(error) = self.step(&seen, rounds).await {
                tracing::warn!(%error, "the CA could not be changed");
            }
            if told.as_ref() != Some(&self.report()) {
                queue.push((), Duration::ZERO);
            }
        }
    }

    fn measure(&self) {
        let trust = self.authorities.current();
        let (from, until) = trust.active.validity();
        self.metrics.authority(from, until, trust.step);
    }

    /// Does what is due, if anything is.
    async fn step(&self, seen: &CaSecretState, rounds: u64) -> Result<(), Failure> {
        let trust = self.authorities.current();
        if !seen.there {
            return match self.store.create(&trust).await {
                Ok(_) | Err(CaStoreError::Conflict) => Ok(()),
                Err(CaStoreError::Other(error)) => Err(error),
            };
        }
        if seen.wish == Some(RotationRequest::Compromised) {
            let Some(fresh) = self.another(&trust).await? else {
                return Err("the CA is to be replaced at once: put another one into the Secret first".into());
            };
            return self
                .change(|_, wish| (wish == Some(RotationRequest::Compromised)).then(|| TrustState::steady(fresh)))
                .await;
        }
        // when somebody else decides, it is looked from time to time whether they have
        let looks = self.store.is_provided() && trust.step == RotationStep::Steady;
        if looks && !rounds.is_multiple_of(PROVIDED_PERIOD) {
            return Ok(());
        }
        let standing = RotationState {
            step: trust.step,
            since: trust.since,
            active: trust.active.validity(),
            requested: seen.wish == Some(RotationRequest::Planned) || looks,
            everywhere: self.watchers.lacking(trust.digest()).is_empty(),
        };
        let now = chrono::Utc::now().timestamp();
        let Some(action) = next_action(&standing, &self.schedule, now) else { return Ok(()) };
        let fresh = if action == RotationAction::Prepare { self.another(&trust).await? } else { None };
        if action == RotationAction::Prepare && fresh.is_none() {
            return Ok(());
        }
        tracing::info!(?action, "the CA changes");
        self.change(|stored, _| (stored.step == trust.step).then(|| stored.after(action, fresh, now))).await
    }

    /// Another authority than the active one; none when somebody else has to provide it and has not.
    async fn another(&self, trust: &TrustState) -> Result<Option<Arc<CertificateAuthority>>, Failure> {
        let fresh = self.store.fresh().await?;
        Ok(fresh.filter(|fresh| fresh.certificate() != trust.active.certificate()))
    }

    async fn change(
        &self,
        change: impl FnOnce(&TrustState, Option<RotationRequest>) -> Option<TrustState>,
    ) -> Result<(), Failure> {
        match self.store.change(change).await {
            // what the other one did is seen soon
            Ok(()) | Err(CaStoreError::Conflict) => Ok(()),
            Err(CaStoreError::Other(error)) => Err(error),
        }
    }

    /// What people are told: no time that passes, so that it changes only when something happens.
    fn report(&self) -> ConfigMap {
        let trust = self.authorities.current();
        let time = |seconds: i64| chrono::DateTime::from_timestamp(seconds, 0).unwrap_or_default().to_rfc3339();
        let mut data = BTreeMap::from([
            ("step", trust.step.as_str().to_owned()),
            ("since", time(trust.since)),
            ("active", fingerprint(&trust.active)),
            ("activeUntil", time(trust.active.validity().1)),
            ("roots", trust.roots().len().to_string()),
            ("waitsFor", self.waits_for(&trust)),
        ]);
        if let Some(next) = &trust.next {
            data.insert("next", fingerprint(next));
        }
        ConfigMap {
            metadata: ObjectMeta { name: Some(self.status_config_map.clone()), ..ObjectMeta::default() },
            data: Some(data.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()),
            ..ConfigMap::default()
        }
    }

    fn waits_for(&self, trust: &TrustState) -> String {
        let lacking = self.watchers.lacking(trust.digest());
        let until = |long: Duration| {
            let at = trust.since.saturating_add(i64::try_from(long.as_secs()).unwrap_or(i64::MAX / 4));
            chrono::DateTime::from_timestamp(at, 0).unwrap_or_default().to_rfc3339()
        };
        match trust.step {
            RotationStep::Steady => "nothing".to_owned(),
            RotationStep::Prepared | RotationStep::Published if !lacking.is_empty() => {
                format!("{} to have the next root", lacking.join(", "))
            }
            RotationStep::Prepared => "the next look".to_owned(),
            RotationStep::Published => format!("pods to get the next root, until {}", until(self.schedule.spread)),
            RotationStep::Activated => {
                format!("certificates of the old root to end, until {}", until(self.schedule.overlap))
            }
        }
    }
}

impl TrustState {
    /// What an action makes of it.
    fn after(&self, action: RotationAction, fresh: Option<Arc<CertificateAuthority>>, now: i64) -> Self {
        let trust = Self { step: action.leads_to(), since: now, ..self.clone() };
        match (action, &self.next) {
            (RotationAction::Prepare, _) => Self { next: fresh, ..trust },
            (RotationAction::Activate, Some(next)) => {
                let old = self.active.roots().iter().chain(&self.retiring).cloned();
                Self { active: Arc::clone(next), next: None, retiring: old.collect(), ..trust }
            }
            (RotationAction::Retire, _) => Self { retiring: Vec::new(), ..trust },
            (RotationAction::Publish | RotationAction::Activate, _) => trust,
        }
    }
}

/// SHA-256 of the certificate, as `openssl x509 -fingerprint -sha256` prints it.
fn fingerprint(authority: &CertificateAuthority) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, authority.certificate());
    digest.as_ref().iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":")
}
