//! Records of issued and refused certificates and tokens.

use crate::audit::AuditRecord;
use crate::audit::{approval, second_factor};
use crate::metrics::Metrics;
use crate::outcome::{IssuanceOutcome, IssuedBy};
use chrono::{DateTime, TimeDelta, Utc};
use durward_core::pods::CertificateEntitlement;
use durward_core::scope::Scope;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// Distinguishes these records from decisions.
const EVENT: &str = "issuance";

/// A request for a certificate or token, and its outcome.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct IssuanceRecord<'i> {
    /// Always `issuance`.
    pub event: &'static str,
    /// RFC 3339 in UTC.
    pub time: DateTime<Utc>,
    /// When the request arrived; not in the record.
    #[serde(skip)]
    pub requested_at: DateTime<Utc>,
    /// The component that answered.
    pub by: IssuedBy,
    /// What was requested.
    pub kind: CredentialKind,
    /// The outcome.
    pub outcome: IssuanceOutcome,
    /// Reason of a refusal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Cow<'i, str>>,
    /// The identity in the credential.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub principal: Option<String>,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub namespace: &'i str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub service_account: &'i str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub pod: &'i str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub pod_uid: &'i str,
    /// Serial number of a certificate, key id of a token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Seconds from now on for which it is valid.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lifetime: Option<i64>,
    /// Id of the token (`jti`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<&'i str>,
    /// The client that requested it, unless it is the identity itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// Scopes of an access token.
    #[serde(skip_serializing_if = "<[Scope]>::is_empty")]
    pub scopes: &'i [Scope],
    /// Audiences of a token.
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    pub audiences: &'i [String],
    /// The policies that select the pod.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<PodPolicy>,
    /// Revision of the policies.
    pub revision: String,
}

/// A policy that selects a pod.
#[derive(Debug, Clone, Serialize)]
pub struct PodPolicy {
    /// `namespace/name`.
    name: String,
    /// Its `metadata.generation`.
    #[serde(skip_serializing_if = "Option::is_none")]
    generation: Option<i64>,
}

impl PodPolicy {
    /// The policies that entitle a pod to a certificate.
    pub fn all(entitlement: &CertificateEntitlement) -> Vec<Self> {
        let policies = entitlement.policies.iter();
        policies.map(|(policy, generation)| Self { name: policy.to_string(), generation: *generation }).collect()
    }
}

/// What is issued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum CredentialKind {
    Certificate,
    Token,
}

impl IssuanceRecord<'_> {
    /// A record with the outcome alone. The metrics measure the time since `requested_at`.
    pub fn new(
        by: IssuedBy,
        kind: CredentialKind,
        outcome: IssuanceOutcome,
        revision: String,
        requested_at: DateTime<Utc>,
    ) -> Self {
        Self {
            event: EVENT,
            time: Utc::now(),
            requested_at,
            by,
            kind,
            outcome,
            reason: None,
            principal: None,
            namespace: "",
            service_account: "",
            pod: "",
            pod_uid: "",
            serial: None,
            lifetime: None,
            token: None,
            client: None,
            scopes: &[],
            audiences: &[],
            policies: Vec::new(),
            revision,
        }
    }

    /// Seconds from the time of the record until `end`.
    pub fn seconds_until(&self, end: DateTime<Utc>) -> i64 {
        (end - self.time).max(TimeDelta::zero()).num_seconds()
    }
}

impl AuditRecord for IssuanceRecord<'_> {
    fn count(&self, metrics: &Metrics) {
        metrics.issuance(self.by, self.outcome, Utc::now() - self.requested_at);
    }

    fn count_effect(&self, metrics: &Metrics) {
        let issued_certificate = self.kind == CredentialKind::Certificate && self.outcome == IssuanceOutcome::Issued;
        if let Some(lifetime) = self.lifetime
            && issued_certificate
        {
            metrics.certificate_issued(self.time + TimeDelta::seconds(lifetime));
        }
    }
}

/// Whether a line of the log is about an issuance, a second factor or an approval.
pub(super) fn is_no_decision(line: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct EventName<'l> {
        event: Option<Cow<'l, str>>,
    }
    serde_json::from_slice::<EventName<'_>>(line)
        .is_ok_and(|line| matches!(line.event.as_deref(), Some(EVENT | second_factor::EVENT | approval::EVENT)))
}
