//! Records of approvals.

use crate::audit::AuditRecord;
use crate::metrics::Metrics;
use chrono::{DateTime, Utc};
use durward_api::resources::Approval;
use serde::Serialize;

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
        }
    }
}

impl AuditRecord for ApprovalRecord {
    /// No metric counts approvals.
    fn count(&self, _metrics: &Metrics) {}
}
