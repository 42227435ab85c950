//! Metrics in the OpenMetrics format. Every label has a handful of values, none comes from a name of a thing.

use crate::Door;
use crate::audit::second_factor::Event;
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
struct FailureLabels {
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
struct AnswerLabels {
    answer: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FactorLabels {
    outcome: &'static str,
    factor: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WithinLabels {
    within: &'static str,
}

/// Times within which certificates end: those that a refresh is late for, those of the shortest lifetime that Kubernetes
/// issues, and all.
const WITHIN: [(&str, TimeDelta); 3] =
    [("5m", TimeDelta::minutes(5)), ("1h", TimeDelta::hours(1)), ("24h", TimeDelta::hours(24))];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StepLabels {
    step: &'static str,
}

/// Doors, and reasons of decisions.
const DOORS: usize = Door::Approvals as usize + 1;
const REASONS: usize = Reason::Granted as usize + 1;

/// What a door counts its decisions by, found once rather than by each of them.
#[derive(Debug, Default)]
struct DoorMetrics {
    duration: OnceLock<Histogram>,
    /// By reason, those that were refused and those that went through.
    decisions: [[OnceLock<Counter>; 2]; REASONS],
}

/// All metrics of the process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    decisions: Family<DecisionLabels, Counter>,
    duration: Family<DoorLabels, Histogram, fn() -> Histogram>,
    doors: [DoorMetrics; DOORS],
    failures: Family<FailureLabels, Counter>,
    audit_lost: Counter,
    relations: Family<AnswerLabels, Counter>,
    services: Gauge,
    rejected: Gauge,
    api_server_seen: Gauge,
    api_server_failures: Counter,
    controller_seen: Gauge,
    leader: Gauge,
    replicas_behind: Gauge,
    certificate_ends: Gauge,
    /// When the certificates of this process's own listeners end.
    own_ends: Mutex<BTreeMap<&'static str, i64>>,
    issuances: Family<IssuanceLabels, Histogram, fn() -> Histogram>,
    second_factors: Family<FactorLabels, Counter>,
    waiting: Gauge,
    expiring: Family<WithinLabels, Gauge>,
    /// How many of the certificates that were given out end in each minute since 1970.
    ends: Mutex<BTreeMap<i64, i64>>,
    authority_begins: Gauge,
    authority_ends: Gauge,
    authority_step: Family<StepLabels, Gauge>,
    revision: Family<RevisionLabels, Gauge>,
    current: Mutex<Option<RevisionLabels>>,
}

/// From 1 µs, a decision on a remembered token, to about 4 s, one that waited for an issuer's keys.
fn decision_buckets() -> Histogram {
    Histogram::new(exponential_buckets(0.000_001, 4.0, 12))
}

/// From 1 ms, a token from the mint, to about a minute, a pod that waited for its policy.
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
                "Decisions, by door, reason and whether the request went through",
                Family::default(),
            ),
            duration: registered(
                r,
                "decision_duration_seconds",
                "Time from a request at a door to its decision",
                Family::new_with_constructor(decision_buckets),
            ),
            doors: Default::default(),
            failures: registered(
                r,
                "authentication_failures",
                "Failed authentications, without or with a credential",
                Family::default(),
            ),
            audit_lost: registered(r, "audit_records_lost", "Decisions that could not be recorded", Counter::default()),
            relations: registered(
                r,
                "openfga_checks",
                "Relations that decisions asked OpenFGA for: asked, remembered or failed",
                Family::default(),
            ),
            services: registered(r, "services", "Services in the snapshot", Gauge::default()),
            rejected: registered(
                r,
                "policies_rejected",
                "Policies whose newest version is not in force",
                Gauge::default(),
            ),
            api_server_seen: registered(
                r,
                "api_server_last_seen_seconds",
                "When the API server was last heard of, in seconds since 1970; 0 without a cluster",
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
                "controller_last_seen_seconds",
                "When a gate last heard of its controller, in seconds since 1970; 0 elsewhere",
                Gauge::default(),
            ),
            leader: registered(r, "leader", "Whether this replica writes statuses and webhooks", Gauge::default()),
            replicas_behind: registered(
                r,
                "replicas_behind",
                "Ready replicas that have not the newest snapshot in force, as the leader knows",
                Gauge::default(),
            ),
            certificate_ends: registered(
                r,
                "webhook_certificate_expiry_seconds",
                "When the certificate of the cluster's doors and webhooks ends, the first of them if there are two, in seconds since 1970",
                Gauge::default(),
            ),
            issuances: registered(
                r,
                "issuance_duration_seconds",
                "Time from a wish for an identity to its answer, by who gave it and what became of it",
                Family::new_with_constructor(issuance_buckets),
            ),
            second_factors: registered(
                r,
                "second_factors",
                "What became of people's second factors, by outcome and kind",
                second_factors(),
            ),
            waiting: registered(
                r,
                "pod_certificates_waiting",
                "Certificate requests of pods that no policy is about, as the leader knows",
                Gauge::default(),
            ),
            expiring: registered(
                r,
                "certificates_expiring",
                "Certificates given out by this replica since it began that end within a time, renewed ones too",
                Family::default(),
            ),
            own_ends: Mutex::default(),
            ends: Mutex::default(),
            authority_begins: registered(
                r,
                "ca_issued_seconds",
                "When the certificate of the CA that signs was issued, in seconds since 1970",
                Gauge::default(),
            ),
            authority_ends: registered(
                r,
                "ca_expiry_seconds",
                "When the certificate of the CA that signs ends, in seconds since 1970",
                Gauge::default(),
            ),
            authority_step: registered(
                r,
                "ca_rotation_step",
                "1 for the step at which the change from one CA to the next is",
                Family::default(),
            ),
            revision: registered(
                r,
                "snapshot_revision",
                "Always 1; its label is the revision of the snapshot in force",
                Family::default(),
            ),
            current: Mutex::default(),
            registry,
        }
    }
}

/// Pauses are counted from nought: what an alert goes by is how they grow.
fn second_factors() -> Family<FactorLabels, Counter> {
    let family = Family::default();
    for factor in [Factor::Totp, Factor::RecoveryCode, Factor::Passkey] {
        let labels = FactorLabels { outcome: Event::Paused.as_str(), factor: factor.as_str() };
        drop(family.get_or_create(&labels));
    }
    family
}

/// A metric that is served under this name.
fn registered<M: Metric + Clone>(registry: &mut Registry, name: &str, help: &str, metric: M) -> M {
    registry.register(name, help, metric.clone());
    metric
}

impl Metrics {
    pub fn decision(&self, door: Door, decision: &Decision, latency: Duration) {
        let Some(of) = self.doors.get(door as usize) else { return };
        let name = door.as_str();
        let duration = of.duration.get_or_init(|| self.duration.get_or_create(&DoorLabels { door: name }).clone());
        duration.observe(latency.as_secs_f64());
        let passes = decision.passes();
        let counter = of.decisions.get(decision.reason as usize).and_then(|of| of.get(usize::from(passes)));
        if let Some(counter) = counter {
            let labels = || DecisionLabels {
                door: name,
                reason: decision.reason.as_str(),
                passed: if passes { "true" } else { "false" },
            };
            counter.get_or_init(|| self.decisions.get_or_create(&labels()).clone()).inc();
        }
    }

    pub fn authentication_failure(&self, missing: bool) {
        let credential = if missing { "missing" } else { "refused" };
        self.failures.get_or_create(&FailureLabels { credential }).inc();
    }

    pub(crate) fn audit_lost(&self) {
        self.audit_lost.inc();
    }

    pub fn snapshot(&self, revision: Digest, services: usize) {
        self.services.set(i64::try_from(services).unwrap_or(i64::MAX));
        let labels = RevisionLabels { revision: revision.to_string() };
        if let Ok(mut current) = self.current.lock() {
            // one revision at a time, or the label would grow without end
            if let Some(old) = current.replace(labels.clone()) {
                self.revision.remove(&old);
            }
            self.revision.get_or_create(&labels).set(1);
        }
    }

    /// Sets the number of policies whose newest version is not in force.
    pub fn policies_rejected(&self, count: usize) {
        self.rejected.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub fn api_server_seen(&self) {
        self.api_server_seen.set(Utc::now().timestamp());
    }

    pub fn controller_seen(&self) {
        self.controller_seen.set(chrono::Utc::now().timestamp());
    }

    pub fn api_server_failed(&self) {
        self.api_server_failures.inc();
    }

    pub fn relations(&self, answer: &'static str, count: usize) {
        if count > 0 {
            self.relations.get_or_create(&AnswerLabels { answer }).inc_by(u64::try_from(count).unwrap_or(u64::MAX));
        }
    }

    pub fn leader(&self, leads: bool) {
        self.leader.set(leads.into());
    }

    pub fn replicas_behind(&self, count: usize) {
        self.replicas_behind.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Tells when the certificate of some listeners ends; the one that does so first is what counts.
    pub fn certificate_ends(&self, of: &'static str, at: i64) {
        let Ok(mut ends) = self.own_ends.lock() else { return };
        ends.insert(of, at);
        self.certificate_ends.set(ends.values().copied().min().unwrap_or_default());
    }

    pub fn issuance(&self, by: &'static str, outcome: &'static str, took: TimeDelta) {
        let seconds = took.to_std().unwrap_or_default().as_secs_f64();
        self.issuances.get_or_create(&IssuanceLabels { by, outcome }).observe(seconds);
    }

    pub fn second_factor(&self, outcome: &'static str, factor: &'static str) {
        self.second_factors.get_or_create(&FactorLabels { outcome, factor }).inc();
    }

    /// A certificate was given out.
    pub(crate) fn certificate_until(&self, end: DateTime<Utc>) {
        if let Ok(mut ends) = self.ends.lock() {
            *ends.entry(end.timestamp() / 60).or_default() += 1;
        }
    }

    /// Counts the certificates that end soon, and forgets those that have ended.
    fn count_expiring(&self, now: DateTime<Utc>) {
        let Ok(mut ends) = self.ends.lock() else { return };
        *ends = ends.split_off(&(now.timestamp() / 60));
        for (name, within) in WITHIN {
            let count = ends.range(..=(now + within).timestamp() / 60).map(|(_, count)| count).sum();
            self.expiring.get_or_create(&WithinLabels { within: name }).set(count);
        }
    }

    pub fn waiting(&self, count: usize) {
        self.waiting.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub fn authority(&self, begins: i64, ends: i64, step: RotationStep) {
        self.authority_begins.set(begins);
        self.authority_ends.set(ends);
        for one in RotationStep::ALL {
            self.authority_step.get_or_create(&StepLabels { step: one.as_str() }).set((one == step).into());
        }
    }

    /// All metrics as OpenMetrics text.
    #[must_use]
    pub fn text(&self) -> String {
        self.count_expiring(Utc::now());
        let mut text = String::new();
        // writing to a String can't fail
        let _ = encode(&mut text, &self.registry);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_certificates_the_one_that_ends_first_is_told() {
        let metrics = Metrics::default();
        for (of, at, told) in [("doors", 20, 20), ("webhooks", 90, 20), ("doors", 120, 90), ("webhooks", 200, 120)] {
            metrics.certificate_ends(of, at);
            assert_eq!(metrics.certificate_ends.get(), told);
        }
    }

    #[test]
    fn certificates_are_counted_until_they_end() {
        let (metrics, now) = (Metrics::default(), DateTime::from_timestamp(1_800_000_000, 0).unwrap_or_default());
        for minutes in [2, 2, 30, 90, 60 * 48] {
            metrics.certificate_until(now + TimeDelta::minutes(minutes));
        }
        let counts = |after: i64| {
            metrics.count_expiring(now + TimeDelta::minutes(after));
            WITHIN.map(|(within, _)| metrics.expiring.get_or_create(&WithinLabels { within }).get())
        };
        assert_eq!(counts(0), [2, 3, 4]);
        assert_eq!(counts(10), [0, 1, 2]);
        assert_eq!(counts(60 * 72), [0, 0, 0]);
        assert!(metrics.ends.lock().is_ok_and(|ends| ends.is_empty()), "nothing is remembered without end");
    }
}
