//! Metrics in the OpenMetrics format. Every label has few values, and none is the name of an object.

use crate::Door;
use crate::outcome::{IssuanceOutcome, IssuedBy, SecondFactorOutcome};
use chrono::{DateTime, TimeDelta, Utc};
use durward_authn::Factor;
use durward_core::decision::{Decision, Reason};
use durward_core::digest::Digest;
use durward_pki::rotation::RotationStep;
use prometheus_client::encoding::{EncodeLabelSet, text::encode};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Metric, Registry};
use std::collections::BTreeMap;
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DecisionLabels {
    door: &'static str,
    reason: &'static str,
    passed: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DoorLabels {
    door: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AuthenticationFailureLabels {
    credential: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RevisionLabels {
    revision: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct IssuanceLabels {
    by: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RelationLabels {
    answer: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SecondFactorLabels {
    outcome: &'static str,
    factor: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ExpiryLabels {
    within: &'static str,
}

/// Periods within which certificates expire: those whose refresh is late, those of the shortest lifetime that Kubernetes
/// issues, and all.
const EXPIRY_PERIODS: [(&str, TimeDelta); 3] =
    [("5m", TimeDelta::minutes(5)), ("1h", TimeDelta::hours(1)), ("24h", TimeDelta::hours(24))];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RotationStepLabels {
    step: &'static str,
}

/// The metrics of a door, so that a decision need not look them up by their labels.
#[derive(Debug, Default)]
struct DoorMetrics {
    duration: OnceLock<Histogram>,
    /// By reason: refused requests, and requests that passed.
    decisions: [[OnceLock<Counter>; 2]; Reason::ALL.len()],
}

/// All metrics of the process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    decisions: Family<DecisionLabels, Counter>,
    duration: Family<DoorLabels, Histogram, fn() -> Histogram>,
    doors: [DoorMetrics; Door::ALL.len()],
    authentication_failures: Family<AuthenticationFailureLabels, Counter>,
    audit_records_lost: Counter,
    relations: Family<RelationLabels, Counter>,
    services: Gauge,
    policies_rejected: Gauge,
    api_server_seen: Gauge,
    api_server_failures: Counter,
    controller_seen: Gauge,
    leader: Gauge,
    replicas_behind: Gauge,
    listener_certificate_expiry: Gauge,
    /// Expiry of the certificates of this process's own listeners.
    listener_expiries: Mutex<BTreeMap<&'static str, i64>>,
    issuances: Family<IssuanceLabels, Histogram, fn() -> Histogram>,
    second_factors: Family<SecondFactorLabels, Counter>,
    pod_certificates_waiting: Gauge,
    certificates_expiring: Family<ExpiryLabels, Gauge>,
    /// Number of issued certificates by the minute since 1970 in which they expire.
    issued_expiries: Mutex<BTreeMap<i64, i64>>,
    ca_issued: Gauge,
    ca_expiry: Gauge,
    ca_rotation_step: Family<RotationStepLabels, Gauge>,
    revision: Family<RevisionLabels, Gauge>,
    current_revision: Mutex<Option<RevisionLabels>>,
}

/// From 1 µs, a decision on a cached token, to about 4 s, a decision that waited for the keys of an issuer.
fn decision_buckets() -> Histogram {
    Histogram::new(exponential_buckets(0.000_001, 4.0, 12))
}

/// From 1 ms, a token of the mint, to about a minute, a pod that waited for its policy.
fn issuance_buckets() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.5, 13))
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("durward");
        let r = &mut registry;
        Self {
            decisions: registered(
                r,
                "decisions",
                "Decisions, by door, reason and whether the request passed",
                Family::default(),
            ),
            duration: registered(
                r,
                "decision_duration_seconds",
                "Time from a request at a door to its decision",
                Family::new_with_constructor(decision_buckets),
            ),
            doors: Default::default(),
            authentication_failures: registered(
                r,
                "authentication_failures",
                "Failed authentications, by whether the credential was missing or refused",
                Family::default(),
            ),
            audit_records_lost: registered(
                r,
                "audit_records_lost",
                "Records that could not be written to the audit log",
                Counter::default(),
            ),
            relations: registered(
                r,
                "openfga_checks",
                "Relation checks of decisions: asked of OpenFGA, remembered from an earlier answer, or failed",
                Family::default(),
            ),
            services: registered(r, "services", "Services in the snapshot", Gauge::default()),
            policies_rejected: registered(
                r,
                "policies_rejected",
                "Policies whose newest version is not in force",
                Gauge::default(),
            ),
            api_server_seen: registered(
                r,
                "api_server_last_seen_timestamp_seconds",
                "Time of the last answer of the API server, in seconds since 1970; 0 without a cluster",
                Gauge::default(),
            ),
            api_server_failures: registered(
                r,
                "api_server_failures",
                "Watches of the API server that failed",
                Counter::default(),
            ),
            controller_seen: registered(
                r,
                "controller_last_seen_timestamp_seconds",
                "Time of the last message of the controller to a gate, in seconds since 1970; 0 elsewhere",
                Gauge::default(),
            ),
            leader: registered(
                r,
                "leader",
                "1 if this replica leads: it writes statuses and webhooks",
                Gauge::default(),
            ),
            replicas_behind: registered(
                r,
                "replicas_behind",
                "Ready replicas without the newest snapshot in force; reported by the leader",
                Gauge::default(),
            ),
            listener_certificate_expiry: registered(
                r,
                "webhook_certificate_expiry_timestamp_seconds",
                "Expiry of the certificate of doors and webhooks, the earlier one if there are two, in seconds since 1970",
                Gauge::default(),
            ),
            issuances: registered(
                r,
                "issuance_duration_seconds",
                "Time from a request for a certificate or token to its answer, by component and outcome",
                Family::new_with_constructor(issuance_buckets),
            ),
            second_factors: registered(
                r,
                "second_factors",
                "Events of second factors, by outcome and kind of factor",
                second_factors(),
            ),
            pod_certificates_waiting: registered(
                r,
                "pod_certificates_waiting",
                "Certificate requests of pods that no policy selects; reported by the leader",
                Gauge::default(),
            ),
            certificates_expiring: registered(
                r,
                "certificates_expiring",
                "Certificates that this replica issued since its start and that expire within a period, including renewed ones",
                Family::default(),
            ),
            listener_expiries: Mutex::default(),
            issued_expiries: Mutex::default(),
            ca_issued: registered(
                r,
                "ca_issued_timestamp_seconds",
                "Issue time of the certificate of the signing CA, in seconds since 1970",
                Gauge::default(),
            ),
            ca_expiry: registered(
                r,
                "ca_expiry_timestamp_seconds",
                "Expiry of the certificate of the signing CA, in seconds since 1970",
                Gauge::default(),
            ),
            ca_rotation_step: registered(
                r,
                "ca_rotation_step",
                "1 for the current step of the CA rotation",
                Family::default(),
            ),
            revision: registered(
                r,
                "snapshot_revision",
                "Always 1; the label is the revision of the snapshot in force",
                Family::default(),
            ),
            current_revision: Mutex::default(),
            registry,
        }
    }
}

/// The counters of pauses start at 0, because an alert watches their increase.
fn second_factors() -> Family<SecondFactorLabels, Counter> {
    let family = Family::default();
    for factor in [Factor::Totp, Factor::RecoveryCode, Factor::Passkey] {
        let labels = SecondFactorLabels { outcome: SecondFactorOutcome::Paused.as_str(), factor: factor.as_str() };
        drop(family.get_or_create(&labels));
    }
    family
}

/// Registers a metric under a name.
fn registered<M: Metric + Clone>(registry: &mut Registry, name: &str, help: &str, metric: M) -> M {
    registry.register(name, help, metric.clone());
    metric
}

impl Metrics {
    /// Counts a decision of a door.
    pub(crate) fn decision(&self, door: Door, decision: &Decision, latency: Duration) {
        let Some(metrics) = self.doors.get(door as usize) else { return };
        let name = door.as_str();
        let duration = metrics.duration.get_or_init(|| self.duration.get_or_create(&DoorLabels { door: name }).clone());
        duration.observe(latency.as_secs_f64());
        let passes = decision.passes();
        let by_reason = metrics.decisions.get(decision.reason as usize);
        if let Some(counter) = by_reason.and_then(|counters| counters.get(usize::from(passes))) {
            let labels = || DecisionLabels {
                door: name,
                reason: decision.reason.as_str(),
                passed: if passes { "true" } else { "false" },
            };
            counter.get_or_init(|| self.decisions.get_or_create(&labels()).clone()).inc();
        }
    }

    /// Counts a failed authentication; `missing` if there was no credential.
    pub fn authentication_failure(&self, missing: bool) {
        let credential = if missing { "missing" } else { "refused" };
        self.authentication_failures.get_or_create(&AuthenticationFailureLabels { credential }).inc();
    }

    pub(crate) fn audit_record_lost(&self) {
        self.audit_records_lost.inc();
    }

    /// Sets the snapshot in force.
    pub(crate) fn snapshot(&self, revision: Digest, services: usize) {
        self.services.set(gauge_value(services));
        let labels = RevisionLabels { revision: revision.to_string() };
        if let Ok(mut current) = self.current_revision.lock() {
            // without this each revision would stay as a label value
            if let Some(old) = current.replace(labels.clone()) {
                self.revision.remove(&old);
            }
            self.revision.get_or_create(&labels).set(1);
        }
    }

    /// Sets the number of policies whose newest version is not in force.
    pub fn policies_rejected(&self, count: usize) {
        self.policies_rejected.set(gauge_value(count));
    }

    /// Records that the API server answered just now.
    pub fn api_server_seen(&self) {
        self.api_server_seen.set(Utc::now().timestamp());
    }

    /// Records that the controller sent a message just now.
    pub fn controller_seen(&self) {
        self.controller_seen.set(Utc::now().timestamp());
    }

    /// Counts a failed watch of the API server.
    pub fn api_server_failed(&self) {
        self.api_server_failures.inc();
    }

    /// Counts relation checks.
    pub(crate) fn relations(&self, answer: &'static str, count: usize) {
        if count > 0 {
            let count = u64::try_from(count).unwrap_or(u64::MAX);
            self.relations.get_or_create(&RelationLabels { answer }).inc_by(count);
        }
    }

    /// Sets whether this replica leads.
    pub fn leader(&self, leads: bool) {
        self.leader.set(leads.into());
    }

    /// Sets the number of replicas without the newest snapshot.
    pub fn replicas_behind(&self, count: usize) {
        self.replicas_behind.set(gauge_value(count));
    }

    /// Sets the expiry of a listener certificate, in seconds since 1970. The metric is the earliest of all of them.
    pub fn listener_certificate_expiry(&self, listener: &'static str, expiry: i64) {
        let Ok(mut expiries) = self.listener_expiries.lock() else { return };
        expiries.insert(listener, expiry);
        self.listener_certificate_expiry.set(expiries.values().copied().min().unwrap_or_default());
    }

    pub(crate) fn issuance(&self, by: IssuedBy, outcome: IssuanceOutcome, duration: TimeDelta) {
        let labels = IssuanceLabels { by: by.as_str(), outcome: outcome.as_str() };
        self.issuances.get_or_create(&labels).observe(duration.to_std().unwrap_or_default().as_secs_f64());
    }

    pub(crate) fn second_factor(&self, outcome: SecondFactorOutcome, factor: Option<Factor>) {
        let factor = factor.map_or("none", Factor::as_str);
        self.second_factors.get_or_create(&SecondFactorLabels { outcome: outcome.as_str(), factor }).inc();
    }

    /// Counts a certificate that was issued and expires at `expiry`.
    pub(crate) fn certificate_issued(&self, expiry: DateTime<Utc>) {
        if let Ok(mut expiries) = self.issued_expiries.lock() {
            *expiries.entry(expiry.timestamp() / 60).or_default() += 1;
        }
    }

    /// Counts the certificates that expire soon, and removes those that have expired.
    fn update_expiring(&self, now: DateTime<Utc>) {
        let Ok(mut expiries) = self.issued_expiries.lock() else { return };
        *expiries = expiries.split_off(&(now.timestamp() / 60));
        for (within, period) in EXPIRY_PERIODS {
            let count = expiries.range(..=(now + period).timestamp() / 60).map(|(_, count)| count).sum();
            self.certificates_expiring.get_or_create(&ExpiryLabels { within }).set(count);
        }
    }

    /// Sets the number of certificate requests that wait for a policy.
    pub fn pod_certificates_waiting(&self, count: usize) {
        self.pod_certificates_waiting.set(gauge_value(count));
    }

    /// Sets the validity of the signing CA, in seconds since 1970, and the step of its rotation.
    pub fn certificate_authority(&self, not_before: i64, not_after: i64, step: RotationStep) {
        self.ca_issued.set(not_before);
        self.ca_expiry.set(not_after);
        for each in RotationStep::ALL {
            let labels = RotationStepLabels { step: each.as_str() };
            self.ca_rotation_step.get_or_create(&labels).set((each == step).into());
        }
    }

    /// All metrics as OpenMetrics text.
    #[must_use]
    pub fn text(&self) -> String {
        self.update_expiring(Utc::now());
        let mut text = String::new();
        // writing to a String can't fail
        let _ = encode(&mut text, &self.registry);
        text
    }
}

fn gauge_value(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_listener_certificate_that_expires_first_is_reported() {
        let metrics = Metrics::default();
        let expiries = [("doors", 20, 20), ("webhooks", 90, 20), ("doors", 120, 90), ("webhooks", 200, 120)];
        for (listener, expiry, reported) in expiries {
            metrics.listener_certificate_expiry(listener, expiry);
            assert_eq!(metrics.listener_certificate_expiry.get(), reported);
        }
    }

    #[test]
    fn certificates_are_counted_until_they_expire() {
        let metrics = Metrics::default();
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap_or_default();
        for minutes in [2, 2, 30, 90, 60 * 48] {
            metrics.certificate_issued(now + TimeDelta::minutes(minutes));
        }
        let counts = |after: i64| {
            metrics.update_expiring(now + TimeDelta::minutes(after));
            EXPIRY_PERIODS
                .map(|(within, _)| metrics.certificates_expiring.get_or_create(&ExpiryLabels { within }).get())
        };
        assert_eq!(counts(0), [2, 3, 4]);
        assert_eq!(counts(10), [0, 1, 2]);
        assert_eq!(counts(60 * 72), [0, 0, 0]);
        let all_removed = metrics.issued_expiries.lock().is_ok_and(|expiries| expiries.is_empty());
        assert!(all_removed, "expired certificates are removed");
    }
}
