//! All that is to be said of one decision.

use super::recorded::Recorded;
use super::remedy::{Remedy, remedy};
use crate::cli::approvals::AskedFor;
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

/// What is asked, by whom and when.
pub(super) struct Question<'q> {
    pub(super) request: Request<'q>,
    pub(super) principal: Option<Principal>,
    pub(super) at: DateTime<Utc>,
    /// What OpenFGA said of the caller's relations.
    pub(super) answers: RelationAnswers,
}

/// A decision with its explanation.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Explained {
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
    pub(super) approval: Option<Awaited>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) enough: Option<String>,
    pub(super) rules: Vec<Rule>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) near: Vec<Near>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) remedy: Option<Remedy>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) recorded: Option<Recorded>,
    pub(super) revision: String,
}

/// The approval that the operation asks for.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Awaited {
    #[serde(flatten)]
    pub(super) asked: AskedFor,
    /// Its name, once the caller lacks nothing else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) given: Option<Given>,
}

/// An approval that counts now, if it is signed as it should be.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Given {
    pub(super) by: PrincipalId,
    pub(super) until: DateTime<Utc>,
}

#[derive(Debug, Serialize)]
pub(super) struct Rule {
    pub(super) rule: String,
    pub(super) outcome: String,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub(super) relation: Vec<ProofStep>,
}

/// An operation that the request nearly is.
#[derive(Debug, Serialize)]
pub(super) struct Near {
    pub(super) service: String,
    pub(super) policy: String,
    pub(super) operation: String,
    pub(super) pattern: String,
    pub(super) difference: String,
}

pub(super) fn explain(snapshot: &Snapshot, question: &Question<'_>, trust_domain: &str) -> Explained {
    let Question { request, principal, at, answers } = question;
    let route = snapshot.route(request).with_answers(answers.clone());
    let decision = route.decide(principal.as_ref(), *at);
    let considered = principal.as_ref().map(|principal| route.explain(principal, *at)).unwrap_or_default();
    let enough = decision.challenge.map(|challenge| match challenge.max_age {
        Some(age) => format!("{} or better, not older than {} s", challenge.assurance, age.num_seconds()),
        None => format!("{} or better", challenge.assurance),
    });
    let approval = awaited(&route, &decision);
    let remedy = remedy(&decision, request, principal.as_ref().map(Principal::identity), &considered, trust_domain);
    Explained {
        allowed: decision.allowed(),
        reason: decision.reason,
        mode: decision.mode,
        detail: decision.detail.clone(),
        request: asked(request),
        service: decision.service.as_ref().map(|service| service.audience.to_string()),
        policy: decision.policy.as_ref().map(ToString::to_string),
        operation: decision.operation.as_ref().map(ToString::to_string),
        risk: route.operation().filter(|operation| !operation.public).map(|operation| format!("{:?}", operation.risk)),
        captures: route.captures().cloned().unwrap_or_default(),
        principal: principal.as_ref().map(|principal| principal.identity().clone()),
        required: decision.required.to_vec(),
        missing: decision.missing.clone(),
        approval,
        enough,
        rules: considered.iter().map(rule).collect(),
        near: near(&route, snapshot, request),
        remedy,
        recorded: None,
        revision: decision.revision.to_string(),
    }
}

fn awaited(route: &Route<'_, '_>, decision: &Decision) -> Option<Awaited> {
    let asked = AskedFor::of(route.operation()?.approval.as_deref()?);
    let about = decision.approval.as_deref();
    let given = about.and_then(|about| about.granted.as_ref());
    Some(Awaited {
        asked,
        name: about.map(|about| approval_name(&about.subject)),
        given: given.map(|given| Given { by: given.approved_by.clone(), until: given.until }),
    })
}

fn rule(considered: &ExplainedRule) -> Rule {
    let outcome = match &considered.outcome {
        RuleOutcome::Applies(scopes) if scopes.is_empty() => "applies".to_owned(),
        RuleOutcome::Applies(scopes) => format!("applies: gives {}", list(scopes)),
        RuleOutcome::OtherCallers => "is for other callers".to_owned(),
        RuleOutcome::ConditionDoesNotHold => "its condition does not hold".to_owned(),
        RuleOutcome::ConditionFailed(why) => format!("its condition could not be evaluated: {why}"),
        RuleOutcome::NotRelated(relation) => format!("the caller is not {relation}"),
        RuleOutcome::RelationFailed { relation, why } => {
            format!("nobody can tell whether the caller is {relation}: {why}")
        }
        RuleOutcome::NoObject { object, capture } => format!("the request has no `{capture}` for {object}"),
        RuleOutcome::TokenLacksScope(scopes) => format!("the caller's token does not carry {}", list(scopes)),
    };
    Rule { rule: considered.rule.to_string(), outcome, relation: considered.relation.clone() }
}

pub(super) fn list(scopes: &[Scope]) -> String {
    scopes.iter().map(Scope::as_str).collect::<Vec<_>>().join(", ")
}

fn asked(request: &Request<'_>) -> String {
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

/// Operations that the request nearly is, and names that are nearly the ones that were asked for.
fn near(route: &Route<'_, '_>, snapshot: &Snapshot, request: &Request<'_>) -> Vec<Near> {
    let mut near: Vec<Near> = route.near_misses().into_iter().map(told).collect();
    if let (None, ServiceTarget::Host(asked)) = (route.audience(), request.target) {
        near.extend(near_hosts(snapshot, asked));
    }
    if let (None, Call::Named { operation, .. }) = (route.operation(), &request.call) {
        near.extend(near_names(snapshot, route.audience(), operation));
    }
    near
}

fn told(miss: NearMiss) -> Near {
    let difference = match &miss.how {
        Mismatch::Method => "the same path, another method".to_owned(),
        Mismatch::Segment { number, declared, requested } if declared.is_empty() => {
            format!("segment {number} `{requested}` is one more than declared")
        }
        Mismatch::Segment { number, declared, requested } if requested.is_empty() => {
            format!("segment {number} `{declared}` is missing")
        }
        Mismatch::Segment { number, declared, requested } => {
            format!("segment {number} is `{requested}` and declared as `{declared}`")
        }
        Mismatch::Host(hosts) => {
            format!("under host {}", hosts.iter().map(Host::as_str).collect::<Vec<_>>().join(", "))
        }
    };
    Near {
        service: miss.audience.to_string(),
        policy: miss.policy.to_string(),
        operation: miss.operation.to_string(),
        pattern: miss.pattern,
        difference,
    }
}

/// Hosts that differ from the one that was asked for in a letter or two.
fn near_hosts(snapshot: &Snapshot, asked: &str) -> Vec<Near> {
    const MOST: usize = 4;
    let asked = asked.rsplit_once(':').map_or(asked, |(host, _)| host).to_ascii_lowercase();
    let mut found: Vec<(usize, Near)> = Vec::new();
    for service in snapshot.services() {
        for host in service.hosts() {
            let distance = strsim::damerau_levenshtein(&asked, host.as_str());
            if distance <= 2 {
                let difference = format!("host `{host}` is spelled nearly so");
                let (service, nothing) = (service.key().audience.to_string(), String::new);
                let near =
                    Near { service, policy: nothing(), operation: nothing(), pattern: host.to_string(), difference };
                found.push((distance, near));
            }
        }
    }
    found.sort_by(|a, b| (a.0, &a.1.pattern).cmp(&(b.0, &b.1.pattern)));
    found.into_iter().take(MOST).map(|(_, near)| near).collect()
}

/// Operations of the service that are called nearly so.
fn near_names(snapshot: &Snapshot, audience: Option<&str>, asked: &str) -> Vec<Near> {
    let service = audience.and_then(|audience| snapshot.by_audience(audience));
    let declared = service.iter().flat_map(|service| service.declared_operations());
    let near = declared.filter(|(_, name)| strsim::damerau_levenshtein(asked, name) <= 2).map(|(policy, name)| Near {
        service: audience.unwrap_or_default().to_owned(),
        policy: policy.to_string(),
        operation: name.to_string(),
        pattern: name.to_string(),
        difference: "it is called nearly so".to_owned(),
    });
    near.collect()
}
