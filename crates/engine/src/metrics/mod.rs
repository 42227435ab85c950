//! Metrics in the OpenMetrics format. Every label has few values, and none is the name of an object.

mod cluster;
mod credentials;
mod decisions;

use self::cluster::ClusterMetrics;
use self::credentials::{CaMetrics, CredentialMetrics, SecondFactorMetrics};
use self::decisions::{AuthenticationFailureLabels, DecisionMetrics, RelationLabels, SnapshotMetrics};
use crate::door::Door;
use crate::outcome::{IssuanceOutcome, IssuedBy, SecondFactorOutcome};
use chrono::{DateTime, TimeDelta, Utc};
use durward_authn::Factor;
use durward_core::decision::Decision;
use durward_core::digest::Digest;
use durward_core::unknown_facts::UnknownFacts;
use durward_pki::rotation::RotationStep;
use durward_runtime::listener_metrics::ListenerMetrics;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::{Metric, Registry};
use std::time::Duration;

/// All metrics of the process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    decisions: DecisionMetrics,
    snapshot: SnapshotMetrics,
    cluster: ClusterMetrics,
    credentials: CredentialMetrics,
    ca: CaMetrics,
    second_factors: SecondFactorMetrics,
    listeners: ListenerMetrics,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("durward");
        let listeners = ListenerMetrics::default();
        listeners.register(&mut registry);
        Self {
            decisions: DecisionMetrics::register(&mut registry),
            snapshot: SnapshotMetrics::register(&mut registry),
            cluster: ClusterMetrics::register(&mut registry),
            credentials: CredentialMetrics::register(&mut registry),
            ca: CaMetrics::register(&mut registry),
            second_factors: SecondFactorMetrics::register(&mut registry),
            listeners,
            registry,
        }
    }
}

impl Metrics {
    /// Counts a decision of a door.
    pub(crate) fn decision(&self, door: Door, decision: &Decision, latency: Duration) {
        self.decisions.decision(door, decision, latency);
    }

    /// The metrics of connections, request bodies and slots.
    #[must_use]
    pub const fn listeners(&self) -> &ListenerMetrics {
        &self.listeners
    }

    /// Counts a failed authentication; `missing` if there was no credential.
    pub fn authentication_failure(&self, missing: bool) {
        let credential = if missing { "missing" } else { "refused" };
        self.decisions.authentication_failures.get_or_create(&AuthenticationFailureLabels { credential }).inc();
    }

    /// Counts the facts about a caller that its credential did not show.
    pub(crate) fn unknown_facts(&self, unknown: &UnknownFacts) {
        self.decisions.unknown_facts(unknown);
    }

    pub(crate) fn audit_record_lost(&self) {
        self.decisions.audit_records_lost.inc();
    }

    /// Sets the snapshot in force.
    pub(crate) fn snapshot(&self, revision: Digest, services: usize) {
        self.snapshot.set(revision, services);
    }

    /// Sets the number of policies whose newest version is not in force.
    pub fn policies_rejected(&self, count: usize) {
        self.snapshot.policies_rejected.set(gauge_value(count));
    }

    /// Sets the number of mistakes in the directory of manifests, and whether they close everything.
    pub fn manifests(&self, problems: usize, all_closed: bool) {
        self.snapshot.manifest_problems.set(gauge_value(problems));
        self.snapshot.all_closed.set(all_closed.into());
    }

    /// Records that the API server answered just now.
    pub fn api_server_seen(&self) {
        self.cluster.api_server_seen.set(Utc::now().timestamp());
    }

    /// Records that the controller sent a message just now.
    pub fn controller_seen(&self) {
        self.cluster.controller_seen.set(Utc::now().timestamp());
    }

    /// Counts a failed watch of the API server.
    pub fn api_server_failed(&self) {
        self.cluster.api_server_failures.inc();
    }

    /// Counts relation checks.
    pub(crate) fn relations(&self, answer: &'static str, count: usize) {
        if count > 0 {
            let count = u64::try_from(count).unwrap_or(u64::MAX);
            self.decisions.relations.get_or_create(&RelationLabels { answer }).inc_by(count);
        }
    }

    /// Sets whether this replica leads.
    pub fn leader(&self, leads: bool) {
        self.cluster.leader.set(leads.into());
    }

    /// Sets the number of replicas without the newest snapshot.
    pub fn replicas_behind(&self, count: usize) {
        self.cluster.replicas_behind.set(gauge_value(count));
    }

    /// Sets the expiry of a listener certificate, in seconds since 1970. The metric is the earliest of all of them.
    pub fn listener_certificate_expiry(&self, listener: &'static str, expiry: i64) {
        self.credentials.listener_certificate_expiry(listener, expiry);
    }

    pub(crate) fn issuance(&self, by: IssuedBy, outcome: IssuanceOutcome, duration: TimeDelta) {
        self.credentials.issuance(by, outcome, duration);
    }

    pub(crate) fn second_factor(&self, outcome: SecondFactorOutcome, factor: Option<Factor>) {
        self.second_factors.count(outcome, factor);
    }

    /// Counts a certificate that was issued and expires at `expiry`.
    pub(crate) fn certificate_issued(&self, expiry: DateTime<Utc>) {
        self.credentials.certificate_issued(expiry);
    }

    /// Sets the number of certificate requests that wait for a policy.
    pub fn pod_certificates_waiting(&self, count: usize) {
        self.credentials.pod_certificates_waiting.set(gauge_value(count));
    }

    /// Sets the validity of the signing CA, in seconds since 1970, and the step of its rotation.
    pub fn certificate_authority(&self, not_before: i64, not_after: i64, step: RotationStep) {
        self.ca.set(not_before, not_after, step);
    }

    /// All metrics as OpenMetrics text.
    #[must_use]
    pub fn text(&self) -> String {
        self.credentials.update_expiring(Utc::now());
        let mut text = String::new();
        // writing to a String can't fail
        let _ = encode(&mut text, &self.registry);
        text
    }
}

/// Registers a metric under a name.
fn register<M: Metric + Clone>(registry: &mut Registry, name: &str, help: &str, metric: M) -> M {
    registry.register(name, help, metric.clone());
    metric
}

fn gauge_value(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
