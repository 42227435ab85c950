//! What a record says.

use crate::Made;
use durward_core::approval::GrantedApproval;
use durward_core::condition::{Condition, Truth};
use durward_core::decision::{Decision, EvaluatedCondition, Reason, RequiredApproval};
use durward_core::evidence::Evidence;
use durward_core::kubernetes::Verb;
use durward_core::path::Captures;
use durward_core::policy::EnforcementMode;
use durward_core::principal::{Identity, Principal, PrincipalId};
use durward_core::relations::{RelationAnswers, RelationQuestion};
use durward_core::request::{Call, ServiceTarget};
use durward_core::scope::Scope;
use serde::ser::Error;
use serde::{Deserialize, Serialize, Serializer};
use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// Longest path in a record, in bytes: more than a decision reads, so that a cut path is refused for its length
/// when it is replayed, as the whole one was.
const MAX_PATH: usize = 8 * 1024 + 64;
/// Longest other text from a request.
const MAX_TEXT: usize = 512;

/// One line of the audit log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record<'a> {
    /// When it was decided, RFC 3339 in UTC.
    #[serde(serialize_with = "rfc3339")]
    pub time: chrono::DateTime<chrono::Utc>,
    /// Names the decision.
    pub id: String,
    /// Where the request came in.
    pub door: Cow<'a, str>,
    /// `allow` or `deny`, as the policy has it.
    pub verdict: Cow<'a, str>,
    /// Whether a denial was enforced.
    pub mode: EnforcementMode,
    /// Why.
    pub reason: Reason,
    /// More about the reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<Cow<'a, str>>,
    /// True cause of a failed authentication.
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
    /// The grants or the denial.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Cow<'a, str>>,
    /// Scopes that the operation needs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub required: Vec<Scope>,
    /// Those that nobody granted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<Scope>,
    /// The approval that the operation asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<Approved>,
    /// What was asked.
    pub request: Asked<'a>,
    /// Who asked, and what was known of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principal: Option<Cow<'a, Identity>>,
    /// What OpenFGA was asked of the caller, and said.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub relations: Vec<Related<'a>>,
    /// What the conditions of rules came to that read what is not recorded: `true`, `false` or `failed`, and a digest of
    /// the condition's text.
    #[serde(default, skip_serializing_if = "Captures::is_empty")]
    pub conditions: Captures,
    /// Revision of the snapshot.
    pub revision: String,
    /// From the request at the door to the decision, in microseconds.
    pub(crate) latency_us: u64,
}

/// By jiff: chrono writes a time piece by piece, each through the formatter, and every decision has one.
fn rfc3339<S: Serializer>(time: &chrono::DateTime<chrono::Utc>, to: S) -> Result<S::Ok, S::Error> {
    let (seconds, nanoseconds) = (time.timestamp(), time.timestamp_subsec_nanos());
    let time =
        jiff::Timestamp::new(seconds, i32::try_from(nanoseconds).unwrap_or_default()).map_err(S::Error::custom)?;
    to.collect_str(&time)
}

/// The approval that an operation asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approved {
    /// Name of the `RequiredApproval`, in the namespace of the policy.
    pub name: String,
    /// The one that carried the decision, if there was one.
    #[serde(flatten)]
    pub given: Option<GivenBy>,
}

/// An approval that carried a decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GivenBy {
    /// Who approved.
    pub by: PrincipalId,
    /// When it began to count.
    pub from: chrono::DateTime<chrono::Utc>,
    /// When it counts no more.
    pub until: chrono::DateTime<chrono::Utc>,
}

impl Approved {
    fn of(approval: &RequiredApproval) -> Self {
        let given = approval.granted.clone().map(|GrantedApproval { approved_by, from, until }| GivenBy {
            by: approved_by,
            from,
            until,
        });
        Self { name: approval.subject.approval_name(), given }
    }
}

impl From<GivenBy> for GrantedApproval {
    fn from(GivenBy { by, from, until }: GivenBy) -> Self {
        Self { approved_by: by, from, until }
    }
}

/// What was asked, as far as a decision looks at it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Asked<'a> {
    /// Host of the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<Cow<'a, str>>,
    /// Audience that was asked for by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audience: Option<Cow<'a, str>>,
    /// HTTP method.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<Cow<'a, str>>,
    /// Path, without query.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<Cow<'a, str>>,
    /// Operation that was asked for by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<Cow<'a, str>>,
    /// Request to the Kubernetes API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubernetes: Option<AskedApi<'a>>,
    /// What the path captured, or what was given in its place.
    #[serde(default, skip_serializing_if = "Captures::is_empty")]
    pub captures: Captures,
    /// Address of the caller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
}

/// A request to the Kubernetes API, in the namespace of the policy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AskedApi<'a> {
    /// API group; empty for the core group.
    pub group: Cow<'a, str>,
    /// Resource.
    pub resource: Cow<'a, str>,
    /// Subresource; empty for the resource itself.
    pub subresource: Cow<'a, str>,
    /// What is done.
    pub verb: Verb,
    /// Name of the object, once known.
    pub name: Cow<'a, str>,
}

/// A relation that was asked for, and the answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Related<'a> {
    /// The object, `type:id`.
    pub object: Cow<'a, str>,
    /// The relation.
    pub relation: Cow<'a, str>,
    /// Whether the caller stands in it; nothing where nobody could tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holds: Option<bool>,
    /// Why nobody could tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Cow<'a, str>>,
}

impl<'a> Related<'a> {
    fn of((question, truth): (&'a RelationQuestion, &'a Truth)) -> Self {
        let (holds, failure) = match truth {
            Truth::True => (Some(true), None),
            Truth::False => (Some(false), None),
            Truth::Failed(why) => (None, Some(why.as_str().into())),
        };
        Self { object: question.object.as_ref().into(), relation: question.relation.as_ref().into(), holds, failure }
    }
}

impl Record<'_> {
    /// What was said to the questions that were asked.
    #[must_use]
    pub fn answers(&self) -> RelationAnswers {
        let of = |related: &Related<'_>| {
            let question =
                RelationQuestion { object: related.object.as_ref().into(), relation: related.relation.as_ref().into() };
            let truth = match related.holds {
                Some(true) => Truth::True,
                Some(false) => Truth::False,
                None => Truth::Failed(related.failure.as_deref().unwrap_or_default().to_owned()),
            };
            (question, truth)
        };
        self.relations.iter().map(of).collect()
    }
}

/// A rule, and what its condition came to. Why it failed stands in the detail, where it matters.
fn outcome(judged: &EvaluatedCondition) -> (Arc<str>, Arc<str>) {
    let came_to = match judged.truth {
        Truth::True => "true",
        Truth::False => "false",
        Truth::Failed(_) => "failed",
    };
    (Arc::clone(&judged.rule), format!("{came_to} {}", judged.condition.digest()).into())
}

impl Evidence for Record<'_> {
    fn recorded(&self, rule: &str, condition: &Condition) -> Option<Truth> {
        let (came_to, digest) = self.conditions.get(rule)?.split_once(' ')?;
        match came_to {
            _ if digest != condition.digest().to_string() => None,
            "true" => Some(Truth::True),
            "false" => Some(Truth::False),
            "failed" => Some(Truth::Failed("it could not be evaluated then".to_owned())),
            _ => None,
        }
    }
}

impl<'a> Record<'a> {
    pub fn of(made: &Made<'a>, latency: Duration) -> Self {
        let decision: &'a Decision = made.decision;
        Self {
            time: made.now,
            id: made.id.to_string(),
            door: made.door.as_str().into(),
            verdict: if decision.allowed() { "allow" } else { "deny" }.into(),
            mode: decision.mode,
            reason: decision.reason,
            detail: decision.detail.as_deref().map(Into::into),
            cause: made.failure.map(ToString::to_string),
            service: decision.service.as_ref().map(|service| (&*service.audience).into()),
            policy: decision.policy.as_ref().map(ToString::to_string),
            operation: decision.operation.as_deref().map(Into::into),
            rules: decision.rules.iter().map(|rule| rule.as_ref().into()).collect(),
            required: decision.required.to_vec(),
            missing: decision.missing.clone(),
            approval: decision.approval.as_deref().map(Approved::of),
            request: Asked::of(made),
            principal: made.principal.map(Principal::identity).map(Cow::Borrowed),
            relations: made.answers.iter().map(Related::of).collect(),
            conditions: decision.evaluated.iter().map(outcome).collect(),
            revision: decision.revision.to_string(),
            latency_us: u64::try_from(latency.as_micros()).unwrap_or(u64::MAX),
        }
    }
}

impl<'a> Asked<'a> {
    fn of(made: &Made<'a>) -> Self {
        let request = made.request;
        let (host, audience) = match request.target {
            ServiceTarget::Host(host) => (Some(cut(host, MAX_TEXT)), None),
            ServiceTarget::Audience(audience) => (None, Some(cut(audience, MAX_TEXT))),
        };
        let (method, path, operation) = match &request.call {
            Call::Http { method, path } => {
                let path = path.split_once('?').map_or(*path, |(path, _)| path);
                (Some(cut(method, MAX_TEXT)), Some(cut(path, MAX_PATH)), None)
            }
            Call::Named { operation, .. } => (None, None, Some(cut(operation, MAX_TEXT))),
            Call::Kubernetes(_) | Call::Ambiguous => (None, None, None),
        };
        let kubernetes = match &request.call {
            Call::Kubernetes(call) => Some(AskedApi {
                group: cut(call.group, MAX_TEXT),
                resource: cut(call.resource, MAX_TEXT),
                subresource: cut(call.subresource, MAX_TEXT),
                verb: call.verb,
                name: cut(call.name, MAX_TEXT),
            }),
            _ => None,
        };
        let captures = made.captures.cloned().unwrap_or_default();
        Self { host, audience, method, path, operation, kubernetes, captures, source: request.source }
    }
}

fn cut(text: &str, max: usize) -> Cow<'_, str> {
    let end = (0..=max.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text.get(..end).unwrap_or_default().into()
}
