//! Metrics of issued credentials, the CA and second factors.

use super::register;
use crate::outcome::{IssuanceOutcome, IssuedBy, SecondFactorOutcome};
use chrono::{DateTime, TimeDelta, Utc};
use durward_authn::Factor;
use durward_pki::rotation::RotationStep;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use std::collections::BTreeMap;
use std::sync::Mutex;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct IssuanceLabels {
    by: &'static str,
    outcome: &'static str,
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

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RotationStepLabels {
    step: &'static str,
}

/// Periods within which certificates expire: those whose refresh is late, those of the shortest lifetime that
/// Kubernetes issues, and all.
const EXPIRY_PERIODS: [(&str, TimeDelta); 3] =
    [("5m", TimeDelta::minutes(5)), ("1h", TimeDelta::hours(1)), ("24h", TimeDelta::hours(24))];

/// Metrics of certificates and tokens.
#[derive(Debug)]
pub(super) struct CredentialMetrics {
    listener_certificate_expiry: Gauge,
    /// Expiry of the certificates of this process's own listeners.
    listener_expiries: Mutex<BTreeMap<&'static str, i64>>,
    issuances: Family<IssuanceLabels, Histogram, fn() -> Histogram>,
    pub(super) pod_certificates_waiting: Gauge,
    certificates_expiring: Family<ExpiryLabels, Gauge>,
    /// Number of issued certificates by the minute since 1970 in which they expire.
    issued_expiries: Mutex<BTreeMap<i64, i64>>,
}

/// Metrics of the CA and its rotation.
#[derive(Debug)]
pub(super) struct CaMetrics {
    issued: Gauge,
    expiry: Gauge,
    rotation_step: Family<RotationStepLabels, Gauge>,
}

/// Metrics of people's second factors.
#[derive(Debug)]
pub(super) struct SecondFactorMetrics(Family<SecondFactorLabels, Counter>);

/// From 1 ms, a token of the mint, to about a minute, a pod that waited for its policy.
fn issuance_buckets() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.5, 13))
}

impl CredentialMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        Self {
            listener_certificate_expiry: register(
                registry,
                "webhook_certificate_expiry_timestamp_seconds",
                "Earliest expiry of the certificates of doors and webhooks, in seconds since 1970",
                Gauge::default(),
            ),
            listener_expiries: Mutex::default(),
            issuances: register(
                registry,
                "issuance_duration_seconds",
                "Time from a request for a certificate or token to its answer, by component and outcome",
                Family::new_with_constructor(issuance_buckets),
            ),
            pod_certificates_waiting: register(
                registry,
                "pod_certificates_waiting",
                "Certificate requests of pods that no policy selects; reported by the leader",
                Gauge::default(),
            ),
            certificates_expiring: register(
                registry,
                "certificates_expiring",
                "Certificates that this replica issued since its start and that expire within a period",
                Family::default(),
            ),
            issued_expiries: Mutex::default(),
        }
    }

    /// Sets the expiry of a listener certificate, in seconds since 1970. The metric is the earliest of all of them.
    pub(super) fn listener_certificate_expiry(&self, listener: &'static str, expiry: i64) {
        let Ok(mut expiries) = self.listener_expiries.lock() else { return };
        expiries.insert(listener, expiry);
        self.listener_certificate_expiry.set(expiries.values().copied().min().unwrap_or_default());
    }

    pub(super) fn issuance(&self, by: IssuedBy, outcome: IssuanceOutcome, duration: TimeDelta) {
        let labels = IssuanceLabels { by: by.as_str(), outcome: outcome.as_str() };
        self.issuances.get_or_create(&labels).observe(duration.to_std().unwrap_or_default().as_secs_f64());
    }

    /// Counts a certificate that was issued and expires at `expiry`.
    pub(super) fn certificate_issued(&self, expiry: DateTime<Utc>) {
        if let Ok(mut expiries) = self.issued_expiries.lock() {
            *expiries.entry(expiry.timestamp() / 60).or_default() += 1;
        }
    }

    /// Counts the certificates that expire soon, and removes those that have expired.
    pub(super) fn update_expiring(&self, now: DateTime<Utc>) {
        let Ok(mut expiries) = self.issued_expiries.lock() else { return };
        *expiries = expiries.split_off(&(now.timestamp() / 60));
        for (within, period) in EXPIRY_PERIODS {
            let count = expiries.range(..=(now + period).timestamp() / 60).map(|(_, count)| count).sum();
            self.certificates_expiring.get_or_create(&ExpiryLabels { within }).set(count);
        }
    }
}

impl CaMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        Self {
            issued: register(
                registry,
                "ca_issued_timestamp_seconds",
                "Issue time of the certificate of the signing CA, in seconds since 1970",
                Gauge::default(),
            ),
            expiry: register(
                registry,
                "ca_expiry_timestamp_seconds",
                "Expiry of the certificate of the signing CA, in seconds since 1970",
                Gauge::default(),
            ),
            rotation_step: register(
                registry,
                "ca_rotation_step",
                "1 for the current step of the CA rotation",
                Family::default(),
            ),
        }
    }

    pub(super) fn set(&self, not_before: i64, not_after: i64, step: RotationStep) {
        self.issued.set(not_before);
        self.expiry.set(not_after);
        for each in RotationStep::ALL {
            let labels = RotationStepLabels { step: each.as_str() };
            self.rotation_step.get_or_create(&labels).set((each == step).into());
        }
    }
}

impl SecondFactorMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let family = register(
            registry,
            "second_factors",
            "Events of second factors, by outcome and kind of factor",
            Family::default(),
        );
        // the counters of pauses start at 0, because an alert watches their increase
        for factor in [Factor::Totp, Factor::RecoveryCode, Factor::Passkey] {
            let labels = SecondFactorLabels { outcome: SecondFactorOutcome::Paused.as_str(), factor: factor.as_str() };
            drop(family.get_or_create(&labels));
        }
        Self(family)
    }

    pub(super) fn count(&self, outcome: SecondFactorOutcome, factor: Option<Factor>) {
        let factor = factor.map_or("none", Factor::as_str);
        self.0.get_or_create(&SecondFactorLabels { outcome: outcome.as_str(), factor }).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registered() -> CredentialMetrics {
        CredentialMetrics::register(&mut Registry::default())
    }

    #[test]
    fn the_earliest_expiry_of_listener_certificates_is_reported() {
        let metrics = registered();
        let expiries = [("doors", 20, 20), ("webhooks", 90, 20), ("doors", 120, 90), ("webhooks", 200, 120)];
        for (listener, expiry, reported) in expiries {
            metrics.listener_certificate_expiry(listener, expiry);
            assert_eq!(metrics.listener_certificate_expiry.get(), reported);
        }
    }

    #[test]
    fn certificates_are_counted_until_they_expire() {
        let metrics = registered();
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap_or_default();
        for minutes in [2, 2, 30, 90, 60 * 48] {
            metrics.certificate_issued(now + TimeDelta::minutes(minutes));
        }
        let expiring = |after: i64| {
            metrics.update_expiring(now + TimeDelta::minutes(after));
            EXPIRY_PERIODS
                .map(|(within, _)| metrics.certificates_expiring.get_or_create(&ExpiryLabels { within }).get())
        };
        assert_eq!(expiring(0), [2, 3, 4]);
        assert_eq!(expiring(10), [0, 1, 2]);
        assert_eq!(expiring(60 * 72), [0, 0, 0]);
        let all_removed = metrics.issued_expiries.lock().is_ok_and(|expiries| expiries.is_empty());
        assert!(all_removed, "expired certificates are removed");
    }
}
