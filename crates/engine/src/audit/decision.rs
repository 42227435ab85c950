//! Records of decisions.

use crate::audit::AuditRecord;
use crate::door::{Door, Purpose};
use crate::metrics::Metrics;
use durward_authn::AuthenticationFailure;
use durward_core::approval::GrantedApproval;
use durward_core::condition::{Condition, Truth};
use durward_core::decision::{Decision, EvaluatedCondition, Reason, RequiredApproval};
use durward_core::evidence::Evidence;
use durward_core::kubernetes::Verb;
use durward_core::path::{Captures, overrides_method};
use durward_core::policy::EnforcementMode;
use durward_core::principal::{Identity, Principal, PrincipalId};
use durward_core::relations::{RelationAnswers, RelationQuestion};
use durward_core::request::{Call, Request, ServiceTarget};
use durward_core::scope::Scope;
use durward_core::work::WorkBudget;
use serde::ser::Error;
use serde::{Deserialize, Serialize, Serializer};
use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// Longest path in a record, in bytes. It exceeds what a decision reads, so a replay refuses a cut path for its length,
/// as the decision did.
const MAX_PATH: usize = 8 * 1024 + 64;
/// Longest other text from a request.
const MAX_TEXT: usize = 512;

/// Identifies a decision: the process and a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecisionId {
    pub(crate) process: u64,
    pub(crate) number: u64,
}

impl fmt::Display for DecisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{:x}", self.process, self.number)
    }
}

/// A decision and its inputs, before they become a [`DecisionRecord`].
#[derive(Debug)]
pub struct DecisionEvent<'a> {
    pub id: DecisionId,
    pub door: Door,
    pub purpose: Purpose,
    /// The client of a webhook.
    pub peer: Option<&'a ReviewPeer>,
    pub request: &'a Request<'a>,
    pub principal: Option<&'a Principal>,
    pub failure: Option<&'a AuthenticationFailure>,
    pub captures: Option<&'a Captures>,
    pub answers: &'a RelationAnswers,
    pub decision: &'a Decision,
    pub time: chrono::DateTime<chrono::Utc>,
    /// From the request at the door to the decision.
    pub latency: Duration,
}

impl Serialize for DecisionEvent<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        DecisionRecord::from(self).serialize(serializer)
    }
}

impl AuditRecord for DecisionEvent<'_> {
    fn count(&self, metrics: &Metrics) {
        metrics.decision(self.door, self.decision, self.latency);
        if let Some(principal) = self.principal {
            metrics.unknown_facts(&principal.identity().unknown);
        }
        if self.decision.reason == Reason::Unauthenticated {
            metrics.authentication_failure(self.failure.is_some_and(AuthenticationFailure::is_missing));
        }
    }
}

/// The client of a webhook, which speaks for the caller: the API server, or another process where it is not
/// authenticated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReviewPeer {
    /// Its address.
    pub address: IpAddr,
    /// How it is authenticated; absent if it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authenticated: Option<Arc<str>>,
}

/// A decision in the audit log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DecisionRecord<'a> {
    /// Time of the decision, RFC 3339 in UTC.
    #[serde(serialize_with = "rfc3339")]
    pub time: chrono::DateTime<chrono::Utc>,
    /// Id of the decision.
    pub id: String,
    /// The door.
    pub door: Cow<'a, str>,
    /// Whether the answer is for a dry run or an access review, and changes nothing.
    #[serde(default, skip_serializing_if = "is_false")]
    pub question: bool,
    /// The client of the webhook.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<Cow<'a, ReviewPeer>>,
    /// `allow` or `deny`, by the policy.
    pub verdict: Cow<'a, str>,
    /// Whether a denial was enforced.
    pub mode: EnforcementMode,
    /// The reason.
    pub reason: Reason,
    /// Details of the reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<Cow<'a, str>>,
    /// Cause of a failed authentication; callers never see it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// Audience of the service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<Cow<'a, str>>,
    /// Policy of the operation, `namespace/name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// The operation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<Cow<'a, str>>,
    /// The grants that allowed the request, or the denial that applied.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Cow<'a, str>>,
    /// The scopes that the operation needs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub required: Vec<Scope>,
    /// The needed scopes that no grant gave.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<Scope>,
    /// The approval that the operation requires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<RecordedApproval>,
    /// The request.
    pub request: RequestRecord<'a>,
    /// The caller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principal: Option<Cow<'a, Identity>>,
    /// The relations that OpenFGA was asked for, and its answers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub relations: Vec<RelationRecord<'a>>,
    /// Outcomes of the conditions that read evidence, which records don't hold: `true`, `false` or `failed`, and a
    /// digest of the condition's text.
    #[serde(default, skip_serializing_if = "Captures::is_empty")]
    pub conditions: Captures,
    /// The rule at which the budget of work ended, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exhausted: Option<Cow<'a, str>>,
    /// Revision of the snapshot.
    pub revision: String,
    /// From the request at the door to the decision, in microseconds.
    pub(crate) latency_us: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_false(value: &bool) -> bool {
    !*value
}

/// Formats with jiff: chrono writes each part of a time through the formatter, which costs every decision more.
fn rfc3339<S: Serializer>(time: &chrono::DateTime<chrono::Utc>, to: S) -> Result<S::Ok, S::Error> {
    let (seconds, nanoseconds) = (time.timestamp(), time.timestamp_subsec_nanos());
    let time =
        jiff::Timestamp::new(seconds, i32::try_from(nanoseconds).unwrap_or_default()).map_err(S::Error::custom)?;
    to.collect_str(&time)
}

/// The approval that an operation requires, in a record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedApproval {
    /// Name of the `Approval`, in the namespace of the policy.
    pub name: String,
    /// The approval that allowed the request, if there was one.
    #[serde(flatten)]
    pub grant: Option<RecordedGrant>,
}

/// An approval that allowed a request, in a record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedGrant {
    /// The person who approved.
    pub by: PrincipalId,
    /// Begin of its validity.
    pub from: chrono::DateTime<chrono::Utc>,
    /// End of its validity.
    pub until: chrono::DateTime<chrono::Utc>,
}

impl RecordedApproval {
    fn new(approval: &RequiredApproval) -> Self {
        let grant = approval.granted.clone().map(|GrantedApproval { approved_by, from, until }| RecordedGrant {
            by: approved_by,
            from,
            until,
        });
        Self { name: approval.subject.approval_name(), grant }
    }
}

impl From<RecordedGrant> for GrantedApproval {
    fn from(RecordedGrant { by, from, until }: RecordedGrant) -> Self {
        Self { approved_by: by, from, until }
    }
}

/// A request in a record, as far as decisions read it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RequestRecord<'a> {
    /// Host of the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<Cow<'a, str>>,
    /// Audience, if the request names one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audience: Option<Cow<'a, str>>,
    /// HTTP method.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<Cow<'a, str>>,
    /// Path, without query.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<Cow<'a, str>>,
    /// Operation, if the request names one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<Cow<'a, str>>,
    /// Request to the Kubernetes API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubernetes: Option<KubernetesRequestRecord<'a>>,
    /// Captures of the path, or those that the request names.
    #[serde(default, skip_serializing_if = "Captures::is_empty")]
    pub captures: Captures,
    /// Address of the caller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
}

/// A request to the Kubernetes API in a record, in the namespace of the policy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KubernetesRequestRecord<'a> {
    /// API group; empty for the core group.
    pub group: Cow<'a, str>,
    /// Resource.
    pub resource: Cow<'a, str>,
    /// Subresource; empty for the resource itself.
    pub subresource: Cow<'a, str>,
    /// Verb.
    pub verb: Verb,
    /// Name of the object, if known.
    pub name: Cow<'a, str>,
}

/// A relation that OpenFGA was asked for, and its answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RelationRecord<'a> {
    /// The object, `type:id`.
    pub object: Cow<'a, str>,
    /// The relation.
    pub relation: Cow<'a, str>,
    /// Whether the caller has the relation; absent if the check failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holds: Option<bool>,
    /// Why the check failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Cow<'a, str>>,
}

impl<'a> RelationRecord<'a> {
    fn new((question, truth): (&'a RelationQuestion, &'a Truth)) -> Self {
        let (holds, failure) = match truth {
            Truth::True => (Some(true), None),
            Truth::False => (Some(false), None),
            Truth::Failed(why) => (None, Some(why.as_str().into())),
        };
        Self { object: question.object.as_ref().into(), relation: question.relation.as_ref().into(), holds, failure }
    }
}

impl DecisionRecord<'_> {
    /// The recorded answers of OpenFGA.
    #[must_use]
    pub fn answers(&self) -> RelationAnswers {
        let answer = |related: &RelationRecord<'_>| {
            let question =
                RelationQuestion { object: related.object.as_ref().into(), relation: related.relation.as_ref().into() };
            let truth = match related.holds {
                Some(true) => Truth::True,
                Some(false) => Truth::False,
                None => Truth::Failed(related.failure.as_deref().unwrap_or_default().to_owned()),
            };
            (question, truth)
        };
        self.relations.iter().map(answer).collect()
    }
}

/// A rule and the outcome of its condition. The cause of a failure is in `detail` if it matters.
fn recorded_outcome(evaluated: &EvaluatedCondition) -> (Arc<str>, Arc<str>) {
    let outcome = match evaluated.truth {
        Truth::True => "true",
        Truth::False => "false",
        Truth::Failed(_) => "failed",
    };
    (Arc::clone(&evaluated.rule), format!("{outcome} {}", evaluated.condition.digest()).into())
}

impl Evidence for DecisionRecord<'_> {
    fn budget(&self) -> WorkBudget {
        WorkBudget::of_record(self.exhausted.as_deref().map(Into::into))
    }

    fn recorded(&self, rule: &str, condition: &Condition) -> Option<Truth> {
        let (outcome, digest) = self.conditions.get(rule)?.split_once(' ')?;
        match outcome {
            _ if digest != condition.digest().to_string() => None,
            "true" => Some(Truth::True),
            "false" => Some(Truth::False),
            "failed" => Some(Truth::Failed("it could not be evaluated then".to_owned())),
            _ => None,
        }
    }
}

impl<'a> From<&DecisionEvent<'a>> for DecisionRecord<'a> {
    fn from(event: &DecisionEvent<'a>) -> Self {
        let decision: &'a Decision = event.decision;
        Self {
            time: event.time,
            id: event.id.to_string(),
            door: event.door.as_str().into(),
            question: event.purpose == Purpose::Question,
            peer: event.peer.map(Cow::Borrowed),
            verdict: if decision.allowed() { "allow" } else { "deny" }.into(),
            mode: decision.mode,
            reason: decision.reason,
            detail: decision.detail.as_deref().map(Into::into),
            cause: event.failure.map(ToString::to_string),
            service: decision.service.as_ref().map(|service| (&*service.audience).into()),
            policy: decision.policy.as_ref().map(ToString::to_string),
            operation: decision.operation.as_deref().map(Into::into),
            rules: decision.rules.iter().map(|rule| rule.as_ref().into()).collect(),
            required: decision.required.to_vec(),
            missing: decision.missing.clone(),
            approval: decision.approval.as_deref().map(RecordedApproval::new),
            request: RequestRecord::new(event),
            principal: event.principal.map(Principal::identity).map(Cow::Borrowed),
            relations: event.answers.iter().map(RelationRecord::new).collect(),
            conditions: decision.evaluated.iter().map(recorded_outcome).collect(),
            exhausted: decision.exhausted.as_deref().map(Into::into),
            revision: decision.revision.to_string(),
            latency_us: u64::try_from(event.latency.as_micros()).unwrap_or(u64::MAX),
        }
    }
}

impl<'a> RequestRecord<'a> {
    fn new(event: &DecisionEvent<'a>) -> Self {
        let request = event.request;
        let (host, audience) = match request.target {
            ServiceTarget::Host(host) => (Some(cut(host, MAX_TEXT)), None),
            ServiceTarget::Audience(audience) => (None, Some(cut(audience, MAX_TEXT))),
        };
        let (method, path, operation) = match &request.call {
            Call::Http { method, path } => (Some(cut(method, MAX_TEXT)), Some(recorded_path(method, path)), None),
            Call::Named { operation, .. } => (None, None, Some(cut(operation, MAX_TEXT))),
            Call::Kubernetes(_) | Call::Ambiguous => (None, None, None),
        };
        let kubernetes = match &request.call {
            Call::Kubernetes(call) => Some(KubernetesRequestRecord {
                group: cut(call.group, MAX_TEXT),
                resource: cut(call.resource, MAX_TEXT),
                subresource: cut(call.subresource, MAX_TEXT),
                verb: call.verb,
                name: cut(call.name, MAX_TEXT),
            }),
            _ => None,
        };
        let captures = event.captures.cloned().unwrap_or_default();
        Self { host, audience, method, path, operation, kubernetes, captures, source: request.source }
    }
}

/// A path without its query. That a parameter names another method is part of the decision, so it stays, without its
/// value.
fn recorded_path<'a>(method: &str, target: &'a str) -> Cow<'a, str> {
    let path = cut(target.split_once('?').map_or(target, |(path, _)| path), MAX_PATH);
    if overrides_method(target, method) { format!("{path}?_method").into() } else { path }
}

fn cut(text: &str, max: usize) -> Cow<'_, str> {
    let end = (0..=max.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text.get(..end).unwrap_or_default().into()
}
