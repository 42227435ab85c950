//! What became of approvals, in the same log as decisions.

use chrono::{DateTime, Utc};
use durward_api::resources::Approval;
use serde::Serialize;

/// Tells such a line from a decision.
pub(super) const EVENT: &str = "approval";

/// One line about an approval. Each decision that it carries names it too.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// Always `approval`.
    event: &'static str,
    /// RFC 3339 in UTC.
    time: DateTime<Utc>,
    outcome: Outcome,
    namespace: String,
    /// Of the object.
    name: String,
    policy: String,
    operation: String,
    /// Who is to do it.
    principal: String,
    /// Who decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<String>,
    /// Until when it holds, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<String>,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// A caller lacks it.
    Requested,
    /// Somebody agreed.
    Approved,
    /// Somebody refused.
    Denied,
    /// What was recorded before could not be written: it does not count.
    Failed,
    /// It is over.
    Expired,
}

impl Event {
    /// What became of an object just now.
    pub fn of(approval: &Approval, outcome: Outcome) -> Self {
        let (meta, spec, status) = (&approval.metadata, &approval.spec, approval.status.clone().unwrap_or_default());
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
