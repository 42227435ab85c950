//! Records of approvals.

use crate::audit::AuditRecord;
use crate::metrics::Metrics;
use chrono::{DateTime, Utc};
use durward_api::resources::Approval;
use serde::Serialize;
use std::net::IpAddr;

/// Longest name of an object, in characters (RFC 1123, as Kubernetes takes it).
const MAX_NAME: usize = 253;
/// Distinguishes these records from decisions.
pub(super) const EVENT: &str = "approval";

/// An event in the life of an approval. Decisions that it allows refer to it too.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ApprovalRecord {
    /// Always `approval`.
    event: &'static str,
    /// RFC 3339 in UTC.
    time: DateTime<Utc>,
    outcome: ApprovalOutcome,
    namespace: String,
    /// Name of the object.
    name: String,
    policy: String,
    operation: String,
    /// The caller that the approval is for.
    principal: String,
    /// The person who decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<String>,
    /// End of its validity, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<String>,
    /// Why a decision is refused or forged. Callers never see it.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// Address of the client whose decision is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<IpAddr>,
}

/// A decision that is refused.
#[derive(Debug, Clone)]
pub struct RefusedDecision<'a> {
    /// Namespace and name, as the client states them.
    pub name: (&'a str, &'a str),
    /// The approval, if it exists.
    pub approval: Option<&'a Approval>,
    /// The client, if authenticated.
    pub by: Option<String>,
    /// Why it is refused.
    pub reason: String,
    /// Address of the client.
    pub source: IpAddr,
}

/// What happened to an approval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum ApprovalOutcome {
    /// A caller lacks it.
    Requested,
    /// A person approved.
    Approved,
    /// A person denied.
    Denied,
    /// The decision in the record before could not be stored: it has no effect.
    Failed,
    /// Its validity ended.
    Expired,
    /// A client may not decide: nothing changed.
    Refused,
    /// The object states a decision without a valid signature: it has no effect.
    Forged,
}

impl ApprovalRecord {
    /// A record of an event that just happened.
    pub fn new(approval: &Approval, outcome: ApprovalOutcome) -> Self {
        let meta = &approval.metadata;
        let spec = &approval.spec;
        let status = approval.status.clone().unwrap_or_default();
        Self {
            event: EVENT,
            time: Utc::now(),
            outcome,
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            policy: spec.policy.clone(),
            operation: spec.operation.clone(),
            principal: spec.principal.clone(),
            by: status.by,
            until: status.expires_at,
            reason: None,
            source: None,
        }
    }

    /// A record of a decision that is refused.
    pub fn refused(refused: RefusedDecision<'_>) -> Self {
        let (namespace, name) = refused.name;
        let spec = refused.approval.map(|approval| &approval.spec);
        let text = |text: &str| text.chars().take(MAX_NAME).collect::<String>();
        Self {
            event: EVENT,
            time: Utc::now(),
            outcome: ApprovalOutcome::Refused,
            namespace: text(namespace),
            name: text(name),
            policy: spec.map(|spec| spec.policy.clone()).unwrap_or_default(),
            operation: spec.map(|spec| spec.operation.clone()).unwrap_or_default(),
            principal: spec.map(|spec| spec.principal.clone()).unwrap_or_default(),
            by: refused.by,
            until: None,
            reason: Some(refused.reason),
            source: Some(refused.source),
        }
    }
}

impl AuditRecord for ApprovalRecord {
    /// No metric counts approvals.
    fn count(&self, _metrics: &Metrics) {}
}
