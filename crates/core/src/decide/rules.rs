//! Parts of a decision: credentials, conditions, subjects and scopes.

use super::facts::RequestFacts;
use super::trace::DecisionTrace;
use crate::authentication::{CLOCK_SKEW, Challenge};
use crate::condition::{Condition, ConditionFacts, Truth};
use crate::decision::EvaluatedCondition;
use crate::policy::CompiledGrant;
use crate::principal::Identity;
use crate::request::Call;
use crate::risk::{Assurance, RiskLevel};
use crate::scope::Scope;
use crate::service::{GrantCandidate, ServiceOperation};
use crate::subject::{Membership, SubjectMatcher};
use crate::work::WorkBudget;
use chrono::{DateTime, Utc};
use std::sync::Arc;

/// The detail of a decision about a caller whose authentication method the operation does not accept.
pub const METHOD_NOT_ACCEPTED: &str = "the policy of the operation does not accept this authentication method";

/// Step 5: whether the authentication method is accepted, and proves enough for the risk.
pub(crate) fn check_credential(
    operation: &ServiceOperation,
    caller: &Identity,
    call: &Call<'_>,
    now: DateTime<Utc>,
) -> Result<(), (Challenge, String)> {
    let risk = operation.operation.risk;
    let (assurance, max_age) = match risk {
        RiskLevel::Low => (Assurance::SharedSecret, None),
        RiskLevel::Standard => (Assurance::Bearer, None),
        RiskLevel::High if caller.id.is_workload() => (Assurance::ProofOfPossession, None),
        RiskLevel::High => (Assurance::MultiFactor, Some(operation.operation.max_age)),
    };
    let challenge = Challenge { assurance, max_age };
    // the API server has authenticated callers of the Kubernetes API by its own methods
    let accepted = matches!(call, Call::Kubernetes(_))
        || operation.authentication_methods.iter().any(|method| method.admits(caller));
    if !accepted {
        return Err((challenge, METHOD_NOT_ACCEPTED.to_owned()));
    }
    if caller.assurance < assurance {
        let detail = format!("{risk:?} risk asks for {assurance}, the caller has {}", caller.assurance);
        return Err((challenge, detail));
    }
    let Some(max_age) = max_age else { return Ok(()) };
    match caller.authenticated_at.map(|at| now - at) {
        Some(age) if age <= max_age && age >= -CLOCK_SKEW => Ok(()),
        Some(age) => Err((
            challenge,
            format!("the second factor is {} s old, {} s are accepted", age.num_seconds(), max_age.num_seconds()),
        )),
        None => Err((challenge, "the credential does not say when the second factor was used".to_owned())),
    }
}

/// The outcome of a rule's condition. It is added to the trace if the condition reads evidence. `best` is the
/// outcome most favourable to the caller.
pub(super) fn evaluate_rule(
    rule: &Arc<str>,
    when: Option<&Arc<Condition>>,
    facts: &RequestFacts<'_, '_>,
    best: Truth,
    trace: &mut DecisionTrace<'_>,
) -> Truth {
    if facts.in_favour && when.is_some_and(|when| when.awaits_object()) && facts.objects().is_none() {
        return best;
    }
    let truth = evaluate_condition(rule, when.map(AsRef::as_ref), facts, trace.work);
    trace.note(rule);
    if let Some(when) = when.filter(|when| when.reads_evidence()) {
        trace.evaluated.push(EvaluatedCondition {
            rule: Arc::clone(rule),
            condition: Arc::clone(when),
            truth: truth.clone(),
        });
    }
    truth
}

pub(super) fn evaluate_condition(
    rule: &str,
    when: Option<&Condition>,
    facts: &RequestFacts<'_, '_>,
    work: &WorkBudget,
) -> Truth {
    let Some(when) = when else { return Truth::True };
    work.begin(rule);
    let recorded = when.reads_evidence().then(|| facts.route.request.evidence.recorded(rule, when)).flatten();
    recorded.unwrap_or_else(|| when.evaluate(facts, work))
}

/// Whether the caller is one of these subjects.
pub(super) fn membership(to: &[SubjectMatcher], facts: &RequestFacts<'_, '_>) -> Membership {
    let all = to.iter().map(|subject| subject.membership(&facts.caller, facts.labels()));
    all.max().unwrap_or(Membership::Outside)
}

/// The detail of a decision by a denial that applies because the caller may be one of its subjects.
pub(super) fn unknown_membership(facts: &RequestFacts<'_, '_>) -> String {
    let unknown = &facts.caller.unknown;
    let what = if unknown.is_empty() { "an attribute has the wrong type".to_owned() } else { unknown.to_string() };
    format!("whether the rule is for the caller is unknown: {what}")
}

/// The scopes of an operation that a grant gives this caller, as bits.
pub(crate) fn given_scopes(
    grant: &CompiledGrant,
    candidate: GrantCandidate,
    required: &[Scope],
    caller: &Identity,
) -> u64 {
    if !grant.from_token && !caller.narrowed {
        return candidate.gives;
    }
    candidate.gives & carried_scopes(required, caller)
}

/// The scopes of an operation that the caller's token contains, as bits.
pub(super) fn carried_scopes(required: &[Scope], caller: &Identity) -> u64 {
    let Some(own) = &caller.scopes else { return 0 };
    let carried = required.iter().enumerate().take(64).filter(|(_, scope)| own.contains(*scope));
    carried.fold(0, |bits, (bit, _)| bits | 1 << bit)
}

pub(crate) fn all_scopes(required: &[Scope]) -> u64 {
    u32::try_from(required.len()).ok().and_then(|n| 1u64.checked_shl(n)).map_or(u64::MAX, |bit| bit - 1)
}

pub(super) fn missing_scopes(required: &[Scope], bits: u64) -> Vec<Scope> {
    required
        .iter()
        .enumerate()
        .take(64)
        .filter(|(bit, _)| bits >> bit & 1 == 1)
        .map(|(_, scope)| scope.clone())
        .collect()
}
