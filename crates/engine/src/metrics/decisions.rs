//! Metrics of decisions.

use super::{gauge_value, register};
use crate::door::Door;
use durward_core::decision::{Decision, Reason};
use durward_core::digest::Digest;
use durward_core::unknown_facts::UnknownFacts;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
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
pub(super) struct AuthenticationFailureLabels {
    pub(super) credential: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct UnknownFactLabels {
    fact: &'static str,
    cause: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct RelationLabels {
    pub(super) answer: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RevisionLabels {
    revision: String,
}

/// The metrics of a door, so that a decision need not look them up by their labels.
#[derive(Debug, Default)]
struct DoorMetrics {
    duration: OnceLock<Histogram>,
    /// By reason: refused requests, and requests that passed.
    decisions: [[OnceLock<Counter>; 2]; Reason::ALL.len()],
}

/// Metrics of decisions and their inputs.
#[derive(Debug)]
pub(super) struct DecisionMetrics {
    decisions: Family<DecisionLabels, Counter>,
    exhausted: Family<DoorLabels, Counter>,
    duration: Family<DoorLabels, Histogram, fn() -> Histogram>,
    doors: [DoorMetrics; Door::ALL.len()],
    pub(super) authentication_failures: Family<AuthenticationFailureLabels, Counter>,
    unknown_facts: Family<UnknownFactLabels, Counter>,
    pub(super) audit_records_lost: Counter,
    pub(super) relations: Family<RelationLabels, Counter>,
}

/// Metrics of the snapshot in force.
#[derive(Debug)]
pub(super) struct SnapshotMetrics {
    services: Gauge,
    pub(super) policies_rejected: Gauge,
    pub(super) manifest_problems: Gauge,
    pub(super) all_closed: Gauge,
    revision: Family<RevisionLabels, Gauge>,
    current_revision: Mutex<Option<RevisionLabels>>,
}

/// From 1 µs, a decision on a cached token, to about 4 s, a decision that waited for the keys of an issuer.
fn decision_buckets() -> Histogram {
    Histogram::new(exponential_buckets(0.000_001, 4.0, 12))
}

impl DecisionMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        Self {
            decisions: register(
                registry,
                "decisions",
                "Decisions, by door, reason and whether the request passed",
                Family::default(),
            ),
            exhausted: register(
                registry,
                "decisions_exhausted",
                "Decisions that used up their budget of work, by door",
                Family::default(),
            ),
            duration: register(
                registry,
                "decision_duration_seconds",
                "Time from a request at a door to its decision",
                Family::new_with_constructor(decision_buckets),
            ),
            doors: Default::default(),
            authentication_failures: register(
                registry,
                "authentication_failures",
                "Failed authentications, by whether the credential was missing or refused",
                Family::default(),
            ),
            unknown_facts: register(
                registry,
                "unknown_facts",
                "Decisions about callers whose groups or attributes are unknown, by cause",
                Family::default(),
            ),
            audit_records_lost: register(
                registry,
                "audit_records_lost",
                "Records that could not be written to the audit log",
                Counter::default(),
            ),
            relations: register(
                registry,
                "openfga_checks",
                "Relation checks of decisions: fetched from OpenFGA, cached, or failed",
                Family::default(),
            ),
        }
    }

    /// Counts the facts about a caller that its credential did not show.
    pub(super) fn unknown_facts(&self, unknown: &UnknownFacts) {
        let groups = unknown.groups.map(|cause| ("groups", cause));
        let attributes = unknown.attributes.values().map(|cause| ("attribute", *cause));
        for (fact, cause) in groups.into_iter().chain(attributes) {
            self.unknown_facts.get_or_create(&UnknownFactLabels { fact, cause: cause.as_str() }).inc();
        }
    }

    pub(super) fn decision(&self, door: Door, decision: &Decision, latency: Duration) {
        let Some(metrics) = self.doors.get(door as usize) else { return };
        let name = door.as_str();
        let duration = metrics.duration.get_or_init(|| self.duration.get_or_create(&DoorLabels { door: name }).clone());
        duration.observe(latency.as_secs_f64());
        if decision.exhausted.is_some() {
            self.exhausted.get_or_create(&DoorLabels { door: name }).inc();
        }
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
}

impl SnapshotMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        Self {
            services: register(registry, "services", "Services in the snapshot", Gauge::default()),
            policies_rejected: register(
                registry,
                "policies_rejected",
                "Policies whose newest version is not in force",
                Gauge::default(),
            ),
            manifest_problems: register(
                registry,
                "manifest_problems",
                "Mistakes in the directory of manifests",
                Gauge::default(),
            ),
            all_closed: register(
                registry,
                "all_closed",
                "1 if every request is denied, because a manifest that can't be read may concern any service",
                Gauge::default(),
            ),
            revision: register(
                registry,
                "snapshot_revision",
                "Always 1; the label is the revision of the snapshot in force",
                Family::default(),
            ),
            current_revision: Mutex::default(),
        }
    }

    pub(super) fn set(&self, revision: Digest, services: usize) {
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
}
