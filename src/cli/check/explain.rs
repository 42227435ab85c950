//! The explanation of one decision.

use super::recorded::RecordedDecision;
use super::remedy::{Remedy, remedy, scope_list};
use crate::cli::permissions::ApprovalTerms;
use chrono::{DateTime, Utc};
use durward_core::decide::{ExplainedRule, Route, RuleOutcome};
use durward_core::decision::{Decision, Reason};
use durward_core::host::Host;
use durward_core::near_miss::{Mismatch, NearMiss};
use durward_core::path::Captures;
use durward_core::policy::EnforcementMode;
use durward_core::principal::{Identity, Principal, PrincipalId};
use durward_core::relations::{ProofStep, RelationAnswers};
use durward_core::request::{Call, Request, ServiceTarget};
use durward_core::scope::Scope;
use durward_core::snapshot::Snapshot;
use durward_doors::answer::approval_name;
use serde::Serialize;

/// A request, its caller, and the time of the decision.
pub(super) struct CheckQuestion<'q> {
    pub(super) request: Request<'q>,
    pub(super) principal: Option<Principal>,
    pub(super) at: DateTime<Utc>,
    /// OpenFGA's answers about the caller's relations.
    pub(super) answers: RelationAnswers,
}

/// A decision with its explanation.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ExplainedDecision {
    pub(super) allowed: bool,
    pub(super) reason: Reason,
    pub(super) mode: EnforcementMode,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) detail: Option<String>,
    pub(super) request: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) service: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) policy: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) operation: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) risk: Option<String>,
    #[serde(skip_serializing_if = "Captures::is_empty")]
    pub(super) captures: Captures,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) principal: Option<Identity>,
    pub(super) required: Vec<Scope>,
    pub(super) missing: Vec<Scope>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) approval: Option<AwaitedApproval>,
    /// The assurance that the operation accepts.
    #[serde(rename = "enough", skip_serializing_if = "Option::is_none")]
    pub(super) sufficient: Option<String>,
    pub(super) rules: Vec<ConsideredRule>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) near: Vec<NearOperation>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) remedy: Option<Remedy>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) recorded: Option<RecordedDecision>,
    pub(super) revision: String,
}

/// The approval that the operation requires.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AwaitedApproval {
    #[serde(flatten)]
    pub(super) required: ApprovalTerms,
    /// Name of the approval, if nothing else is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<String>,
    #[serde(rename = "given", skip_serializing_if = "Option::is_none")]
    pub(super) current: Option<CurrentApproval>,
}

/// An approval that is in force now. Its signature is not verified here.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CurrentApproval {
    pub(super) by: PrincipalId,
    pub(super) until: DateTime<Utc>,
}

#[derive(Debug, Serialize)]
pub(super) struct ConsideredRule {
    pub(super) rule: String,
    pub(super) outcome: String,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub(super) relation: Vec<ProofStep>,
}

/// An operation that the request nearly matches.
#[derive(Debug, Serialize)]
pub(super) struct NearOperation {
    pub(super) service: String,
    pub(super) policy: String,
    pub(super) operation: String,
    pub(super) pattern: String,
    pub(super) difference: String,
}

pub(super) fn explain(snapshot: &Snapshot, question: &CheckQuestion<'_>, trust_domain: &str) -> ExplainedDecision {
    let CheckQuestion { request, principal, at, answers } = question;
    let route = snapshot.route(request).with_answers(answers.clone());
    let decision = route.decide(principal.as_ref(), *at);
    let considered = principal.as_ref().map(|principal| route.explain(principal, *at)).unwrap_or_default();
    let sufficient = decision.challenge.map(|challenge| match challenge.max_age {
        Some(age) => format!("{} or better, not older than {} s", challenge.assurance, age.num_seconds()),
        None => format!("{} or better", challenge.assurance),
    });
    let approval = awaited_approval(&route, &decision);
    let remedy = remedy(&decision, request, principal.as_ref().map(Principal::identity), &considered, trust_domain);
    ExplainedDecision {
        allowed: decision.allowed(),
        reason: decision.reason,
        mode: decision.mode,
        detail: decision.detail.clone(),
        request: request_text(request),
        service: decision.service.as_ref().map(|service| service.audience.to_string()),
        policy: decision.policy.as_ref().map(ToString::to_string),
        operation: decision.operation.as_ref().map(ToString::to_string),
        risk: route.operation().filter(|operation| !operation.public).map(|operation| format!("{:?}", operation.risk)),
        captures: route.captures().cloned().unwrap_or_default(),
        principal: principal.as_ref().map(|principal| principal.identity().clone()),
        required: decision.required.to_vec(),
        missing: decision.missing.clone(),
        approval,
        sufficient,
        rules: considered.iter().map(considered_rule).collect(),
        near: near_operations(&route, snapshot, request),
        remedy,
        recorded: None,
        revision: decision.revision.to_string(),
    }
}

fn awaited_approval(route: &Route<'_, '_>, decision: &Decision) -> Option<AwaitedApproval> {
    let required = ApprovalTerms::from(route.operation()?.approval.as_deref()?);
    let approval = decision.approval.as_deref();
    let granted = approval.and_then(|approval| approval.granted.as_ref());
    Some(AwaitedApproval {
        required,
        name: approval.map(|approval| approval_name(&approval.subject)),
        current: granted.map(|granted| CurrentApproval { by: granted.approved_by.clone(), until: granted.until }),
    })
}

fn considered_rule(considered: &ExplainedRule) -> ConsideredRule {
    let outcome = match &considered.outcome {
        RuleOutcome::Applies(scopes) if scopes.is_empty() => "applies".to_owned(),
        RuleOutcome::Applies(scopes) => format!("applies: gives {}", scope_list(scopes)),
        RuleOutcome::OtherCallers => "is for other callers".to_owned(),
        RuleOutcome::MembershipUnknown(why) => why.clone(),
        RuleOutcome::ConditionDoesNotHold => "its condition does not hold".to_owned(),
        RuleOutcome::ConditionFailed(why) => format!("its condition could not be evaluated: {why}"),
        RuleOutcome::NotRelated(relation) => format!("the caller is not {relation}"),
        RuleOutcome::RelationFailed { relation, why } => {
            format!("cannot determine whether the caller is {relation}: {why}")
        }
        RuleOutcome::NoObject { object, capture } => format!("the request has no `{capture}` for {object}"),
        RuleOutcome::TokenLacksScope(scopes) => format!("the caller's token does not carry {}", scope_list(scopes)),
    };
    ConsideredRule { rule: considered.rule.to_string(), outcome, relation: considered.relation.clone() }
}

fn request_text(request: &Request<'_>) -> String {
    let of = match request.target {
        ServiceTarget::Host(host) => format!("host {host}"),
        ServiceTarget::Audience(audience) => format!("audience {audience}"),
    };
    match &request.call {
        Call::Http { method, path } => match request.target {
            ServiceTarget::Host(host) => format!("{method} http://{host}{path}"),
            ServiceTarget::Audience(_) => format!("{method} {path} of {of}"),
        },
        Call::Named { operation, .. } => format!("operation {operation} of {of}"),
        Call::Kubernetes(call) => {
            let (slash, name) = if call.subresource.is_empty() { ("", "") } else { ("/", call.subresource) };
            format!("{} {}{slash}{name} `{}` of {of}", call.verb, call.resource, call.name)
        }
        Call::Ambiguous => format!("a request to {of} that contradicts itself"),
    }
}

/// Operations that the request nearly matches, and services and operations with a similar name.
fn near_operations(route: &Route<'_, '_>, snapshot: &Snapshot, request: &Request<'_>) -> Vec<NearOperation> {
    let mut near: Vec<NearOperation> = route.near_misses().into_iter().map(near_operation).collect();
    if let (None, ServiceTarget::Host(host)) = (route.audience(), request.target) {
        near.extend(similar_hosts(snapshot, host));
    }
    if let (None, Call::Named { operation, .. }) = (route.operation(), &request.call) {
        near.extend(similar_names(snapshot, route.audience(), operation));
    }
    near
}

fn near_operation(miss: NearMiss) -> NearOperation {
    let difference = match &miss.how {
        Mismatch::Method => "the same path, another method".to_owned(),
        Mismatch::Segment { number, declared, requested } if declared.is_empty() => {
            format!("segment {number} `{requested}` is not declared")
        }
        Mismatch::Segment { number, declared, requested } if requested.is_empty() => {
            format!("segment {number} `{declared}` is missing")
        }
        Mismatch::Segment { number, declared, requested } => {
            format!("segment {number} is `{requested}`, declared is `{declared}`")
        }
        Mismatch::Host(hosts) => {
            format!("under host {}", hosts.iter().map(Host::as_str).collect::<Vec<_>>().join(", "))
        }
    };
    NearOperation {
        service: miss.audience.to_string(),
        policy: miss.policy.to_string(),
        operation: miss.operation.to_string(),
        pattern: miss.pattern,
        difference,
    }
}

/// Most hosts that `similar_hosts` returns.
const MAX_SIMILAR_HOSTS: usize = 4;
/// Most edits between two similar names.
const MAX_EDITS: usize = 2;

/// Services with a host similar to the requested one.
fn similar_hosts(snapshot: &Snapshot, requested: &str) -> Vec<NearOperation> {
    let requested = requested.rsplit_once(':').map_or(requested, |(host, _)| host).to_ascii_lowercase();
    let mut found: Vec<(usize, NearOperation)> = Vec::new();
    for service in snapshot.services() {
        for host in service.hosts() {
            let distance = strsim::damerau_levenshtein(&requested, host.as_str());
            if distance <= MAX_EDITS {
                let near = NearOperation {
                    service: service.key().audience.to_string(),
                    policy: String::new(),
                    operation: String::new(),
                    pattern: host.to_string(),
                    difference: format!("host `{host}` is similar"),
                };
                found.push((distance, near));
            }
        }
    }
    found.sort_by(|a, b| (a.0, &a.1.pattern).cmp(&(b.0, &b.1.pattern)));
    found.into_iter().take(MAX_SIMILAR_HOSTS).map(|(_, near)| near).collect()
}

/// Operations of the service with a name similar to the requested one.
fn similar_names(snapshot: &Snapshot, audience: Option<&str>, requested: &str) -> Vec<NearOperation> {
    let service = audience.and_then(|audience| snapshot.by_audience(audience));
    let declared = service.iter().flat_map(|service| service.declared_operations());
    let similar = declared.filter(|(_, name)| strsim::damerau_levenshtein(requested, name) <= MAX_EDITS);
    let near = similar.map(|(policy, name)| NearOperation {
        service: audience.unwrap_or_default().to_owned(),
        policy: policy.to_string(),
        operation: name.to_string(),
        pattern: name.to_string(),
        difference: "the name is similar".to_owned(),
    });
    near.collect()
}
