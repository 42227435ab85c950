//! Records of people's second factors.

use crate::audit::AuditRecord;
use crate::metrics::Metrics;
use crate::outcome::SecondFactorOutcome;
use chrono::{DateTime, Utc};
use durward_authn::Factor;
use durward_core::principal::PrincipalId;
use serde::Serialize;
use std::net::IpAddr;

/// Distinguishes these records from decisions.
pub(super) const EVENT: &str = "second-factor";

/// An event about a second factor. Never holds a code or a secret.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SecondFactorRecord<'s> {
    /// Always `second-factor`.
    event: &'static str,
    /// RFC 3339 in UTC.
    time: DateTime<Utc>,
    /// What happened.
    outcome: SecondFactorOutcome,
    /// The person.
    principal: &'s PrincipalId,
    /// The kind of factor.
    #[serde(skip_serializing_if = "Option::is_none")]
    factor: Option<Factor>,
    /// Reason of a refusal.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// Address of the caller.
    source: IpAddr,
}

impl<'s> SecondFactorRecord<'s> {
    /// A record of an event that just happened.
    pub fn new(
        outcome: SecondFactorOutcome,
        principal: &'s PrincipalId,
        source: IpAddr,
        factor: Option<Factor>,
        reason: Option<String>,
    ) -> Self {
        Self { event: EVENT, time: Utc::now(), outcome, principal, factor, reason, source }
    }
}

impl AuditRecord for SecondFactorRecord<'_> {
    fn count(&self, metrics: &Metrics) {
        metrics.second_factor(self.outcome, self.factor);
    }
}
