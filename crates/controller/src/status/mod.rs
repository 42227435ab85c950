//! The status that a resource should have. Nothing here talks to the API server; the status writer does.

use crate::rollout::Rollout;
use durward_api::field_error::FieldError;
use durward_engine::audit::policy_counts::PolicyCount;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::sync::Arc;

/// Kinds that have a status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResourceKind {
    Policy,
    Provider,
    Relationship,
}

/// The resource that a status belongs to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StatusTarget {
    pub kind: ResourceKind,
    pub namespace: Option<Arc<str>>,
    pub name: Arc<str>,
}

/// The outcome for one version of a resource, and the status that the resource has now.
#[derive(Debug, Clone)]
pub struct StatusReport {
    pub target: StatusTarget,
    pub uid: Arc<str>,
    pub generation: i64,
    /// The stored status, in JSON: thousands are kept, and few are parsed.
    pub stored: Arc<str>,
    pub outcome: ResourceOutcome,
}

impl StatusReport {
    /// What this generation counted, according to the stored status.
    pub fn stored_count(&self) -> PolicyCount {
        let stored: Value = serde_json::from_str(&self.stored).unwrap_or_default();
        if stored.get("observedGeneration").and_then(Value::as_i64) != Some(self.generation) {
            return PolicyCount::default();
        }
        let count = |field: &str| stored.get(field).and_then(Value::as_u64).unwrap_or_default();
        PolicyCount { audited: count("auditedDenials"), exhausted: count("exhaustedDecisions") }
    }
}

/// What became of a resource.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResourceOutcome {
    /// Reason and errors, if the newest version is not in force.
    pub rejected: Option<(&'static str, Vec<FieldError>)>,
    /// Whether any version is in force.
    pub in_force: bool,
    /// Names of the policies that close the service, because their last good versions are unknown. This policy may be one.
    pub closed: Option<String>,
    pub summary: Option<PolicySummary>,
    /// The record of the version that was last in force, in JSON.
    pub last_good: Option<Arc<str>>,
}

/// What the version in force contains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicySummary {
    pub service: Arc<str>,
    pub operations: usize,
    pub grants: usize,
    /// Whether the policy governs Kubernetes operations, which the API server sends to the webhook.
    pub governs: bool,
}

/// Condition: the resource is valid and owns what it claims.
pub const ACCEPTED: &str = "Accepted";
/// Condition: the newest version is in force on every ready replica.
const PROGRAMMED: &str = "Programmed";
/// Reason of `Accepted=True`.
const VALID: &str = "Valid";
/// Reason of `Programmed=True`.
const IN_FORCE: &str = "InForce";
/// Reason of `Programmed=False`: not in force on every ready replica yet.
const PENDING: &str = "Pending";
/// Reason of `Programmed=False`: the API server does not send the governed Kubernetes operations to the webhook.
const NOT_ASKED: &str = "NotAsked";
/// Reason of `Programmed=False`: the previous version stays in force.
const LAST_GOOD: &str = "LastGoodInForce";
/// Reason of `Programmed=False`: the previous version is unknown, so the service is closed.
pub const CLOSED: &str = "ServiceClosed";
/// Reason of `Programmed=False`: no version is in force.
const NOT_ACCEPTED: &str = "NotAccepted";
/// Reason of `Accepted=False`: it does not compile.
const INVALID: &str = durward_api::catalog::RejectionReason::Invalid.as_str();
/// Shown for a Relationship that does not compile while a previous version is known.
const LAST_GOOD_TUPLES: &str = "replicas that know the last good version keep it in force; after a restart, relations \
                                that exclude anyone hold for no one: fix or remove the Relationship";
/// Longest message, in bytes. The API server accepts 32,768.
const MAX_MESSAGE: usize = 1024;

/// A status that differs from the stored one.
#[derive(Debug, Clone, PartialEq)]
pub struct StatusChange {
    pub status: Value,
    pub transitions: Vec<StatusCondition>,
}

/// A condition of a status.
#[derive(Debug, Clone, PartialEq)]
pub struct StatusCondition {
    pub kind: &'static str,
    pub holds: bool,
    pub reason: &'static str,
    pub message: String,
}

/// The status that a resource should have; `None` if the stored one is up to date.
///
/// `rollout` says where the resource is in force. `counted` is what its decisions counted, if more is known than the
/// stored status says.
pub fn status_change(
    report: &StatusReport,
    rollout: Rollout,
    counted: Option<PolicyCount>,
    now: Timestamp,
) -> Option<StatusChange> {
    let stored: Value = serde_json::from_str(&report.stored).unwrap_or_default();
    let was_programmed = was_programmed(report, &stored);
    let last_good: Option<Value> = report.outcome.last_good.as_deref().and_then(|good| serde_json::from_str(good).ok());
    let mut wanted = vec![accepted(report)];
    if report.target.kind == ResourceKind::Policy {
        wanted.push(programmed(report, last_good.as_ref(), rollout, was_programmed));
    }
    let conditions: Vec<Value> =
        wanted.iter().map(|condition| condition.to_json(&stored, report.generation, now)).collect();
    let transitions = wanted.into_iter().filter(|condition| condition.is_transition(&stored)).collect();
    let summary = report.outcome.summary.as_ref();
    let closed = last_good.as_ref().filter(|_| report.outcome.closed.is_some());
    let stored_revision = if was_programmed { stored.get("revision") } else { None };
    let stored_count = report.stored_count();
    let shown =
        |of: fn(PolicyCount) -> u64| Some(counted.map_or(0, of).max(of(stored_count))).filter(|count| *count > 0);
    let mut status = json!({
        "conditions": conditions,
        "observedGeneration": report.generation,
        "service": summary.map(|summary| &*summary.service).or_else(|| closed?.get("audience")?.as_str()),
        "operations": summary.map(|summary| summary.operations),
        "grants": summary.map(|summary| summary.grants),
        "auditedDenials": shown(|count| count.audited),
        "exhaustedDecisions": shown(|count| count.exhausted),
        "revision": revision(report, stored_revision, rollout),
        "lastGood": last_good,
    });
    if let Value::Object(fields) = &mut status {
        fields.retain(|_, value| !value.is_null());
    }
    (status != stored).then_some(StatusChange { status, transitions })
}

impl StatusCondition {
    const fn status(&self) -> &'static str {
        if self.holds { "True" } else { "False" }
    }

    /// Whether status or reason differ from the stored condition.
    fn is_transition(&self, stored: &Value) -> bool {
        !(self.equals_stored(stored, "status", self.status()) && self.equals_stored(stored, "reason", self.reason))
    }

    fn equals_stored(&self, stored: &Value, field: &str, value: &str) -> bool {
        stored_condition(stored, self.kind).and_then(|old| old.get(field)?.as_str()) == Some(value)
    }

    fn to_json(&self, stored: &Value, generation: i64, now: Timestamp) -> Value {
        let unchanged = self.equals_stored(stored, "status", self.status());
        let old = if unchanged { stored_condition(stored, self.kind) } else { None };
        let since = old.and_then(|old| old.get("lastTransitionTime").cloned());
        json!({
            "type": self.kind, "status": self.status(), "reason": self.reason, "message": self.message,
            "observedGeneration": generation,
            "lastTransitionTime": since.unwrap_or_else(|| json!(rfc3339_seconds(now))),
        })
    }
}

fn accepted(report: &StatusReport) -> StatusCondition {
    let ResourceOutcome { rejected, in_force, .. } = &report.outcome;
    let (holds, reason, message) = match rejected {
        None => (true, VALID, "valid, and it owns what it claims".to_owned()),
        Some((reason, errors)) => {
            let mut texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
            if report.target.kind == ResourceKind::Relationship && *in_force && *reason == INVALID {
                texts.insert(0, LAST_GOOD_TUPLES.to_owned());
            }
            (false, *reason, truncate(texts.join("; ")))
        }
    };
    StatusCondition { kind: ACCEPTED, holds, reason, message }
}

fn programmed(
    report: &StatusReport,
    last_good: Option<&Value>,
    rollout: Rollout,
    was_programmed: bool,
) -> StatusCondition {
    let not =
        |reason, message: &str| StatusCondition { kind: PROGRAMMED, holds: false, reason, message: message.to_owned() };
    if let Some(closing_policies) = &report.outcome.closed {
        let own = if report.outcome.in_force { None } else { last_good.map(closed_message) };
        let message = own.unwrap_or_else(|| {
            format!("the service is closed, and every request is denied, until {closing_policies} is fixed or removed")
        });
        return not(CLOSED, &truncate(message));
    }
    match (&report.outcome.rejected, report.outcome.in_force) {
        (Some(_), true) => not(
            LAST_GOOD,
            "replicas that know the last good version keep it in force; a replica that restarts closes the service: \
             fix or remove the policy",
        ),
        (Some(_), false) | (None, false) => not(NOT_ACCEPTED, "no version is in force: the service denies requests"),
        (None, true) => match rollout {
            Rollout::NotAsked => not(
                NOT_ASKED,
                "the API server does not send the governed Kubernetes operations to the webhook: the \
                 ValidatingWebhookConfiguration lacks the rules or the roots in force; Durward restores them, if it \
                 may write the configuration",
            ),
            Rollout::Unknown if !was_programmed => not(PENDING, "not yet in force on every ready replica"),
            Rollout::Unknown | Rollout::Everywhere(_) => {
                let message = "in force on every ready replica".to_owned();
                StatusCondition { kind: PROGRAMMED, holds: true, reason: IN_FORCE, message }
            }
        },
    }
}

/// Explains why the service of a policy is closed.
fn closed_message(good: &Value) -> String {
    let service = good.get("audience").and_then(Value::as_str).unwrap_or_default();
    let generation = good.get("generation").and_then(Value::as_i64);
    let version = generation.map_or_else(|| "an earlier version".to_owned(), |number| format!("generation {number}"));
    let governed =
        if good.get("kubernetes").is_some() { ", and so are the Kubernetes operations that it governed" } else { "" };
    format!(
        "service `{service}` is closed: {version} was in force, but a replica that restarts can't know it, so every \
         request to the service is denied{governed}; fix or remove the policy"
    )
}

/// The revision in which this generation came into force. It stays as other policies change.
fn revision(report: &StatusReport, stored: Option<&Value>, rollout: Rollout) -> Option<String> {
    let ResourceOutcome { rejected, in_force, closed, .. } = &report.outcome;
    if report.target.kind != ResourceKind::Policy || rejected.is_some() || !in_force || closed.is_some() {
        return None;
    }
    let stored = stored.and_then(Value::as_str).map(ToOwned::to_owned);
    match rollout {
        Rollout::NotAsked => None,
        Rollout::Unknown => stored,
        Rollout::Everywhere(revision) => stored.or_else(|| Some(revision.to_string())),
    }
}

/// Whether the stored status already says that this generation is in force everywhere.
fn was_programmed(report: &StatusReport, stored: &Value) -> bool {
    stored_condition(stored, PROGRAMMED).is_some_and(|condition| {
        condition.get("status").and_then(Value::as_str) == Some("True")
            && condition.get("observedGeneration").and_then(Value::as_i64) == Some(report.generation)
    })
}

fn stored_condition<'v>(status: &'v Value, kind: &str) -> Option<&'v Value> {
    let has_kind = |condition: &&Value| condition.get("type").and_then(Value::as_str) == Some(kind);
    status.get("conditions")?.as_array()?.iter().find(has_kind)
}

/// RFC 3339 in whole seconds, as the API server stores it.
fn rfc3339_seconds(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn truncate(mut text: String) -> String {
    if text.len() > MAX_MESSAGE {
        let end = (0..=MAX_MESSAGE - 4).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
        text.push_str(" …");
    }
    text
}

#[cfg(test)]
mod tests;
