//! Explains the outcome of every rule.

use super::facts::RequestFacts;
use super::route::Route;
use super::rules::{evaluate_condition, given_scopes, membership, missing_scopes, unknown_membership};
use crate::condition::{FactCache, Truth};
use crate::principal::Principal;
use crate::relations::{ProofStep, RelationBackend, RelationCheck, RelationTarget};
use crate::scope::Scope;
use crate::subject::Membership;
use crate::work::WorkBudget;
use chrono::{DateTime, Utc};
use std::sync::Arc;

impl Route<'_, '_> {
    /// Every denial of the service and every grant that gives scopes of the operation, with its outcome for this
    /// caller. It is for explanations; [`Route::decide`] does not need it.
    #[must_use]
    pub fn explain(&self, principal: &Principal, now: DateTime<Utc>) -> Vec<ExplainedRule> {
        let (Some(service), Ok(matched)) = (self.service, &self.matched) else { return Vec::new() };
        let caller = principal.identity().at_operation(&matched.operation.operation.name);
        let facts = RequestFacts { route: self, matched, caller, now, in_favour: false, cache: FactCache::default() };
        let work = &WorkBudget::default();
        let denials = service.denials.iter().map(|denial| {
            let condition = || evaluate_condition(&denial.rule, denial.when.as_deref(), &facts, work);
            let outcome = match membership(&denial.to, &facts) {
                Membership::Outside => RuleOutcome::OtherCallers,
                membership => match (membership, condition()) {
                    (_, Truth::False) => RuleOutcome::ConditionDoesNotHold,
                    (_, Truth::Failed(why)) => RuleOutcome::ConditionFailed(why),
                    (Membership::Unknown, Truth::True) => RuleOutcome::MembershipUnknown(unknown_membership(&facts)),
                    (_, Truth::True) => RuleOutcome::Applies(Vec::new()),
                },
            };
            ExplainedRule { rule: Arc::clone(&denial.rule), outcome, relation: Vec::new() }
        });
        let required = &matched.operation.operation.scopes;
        let grants = matched.operation.grants.all().into_iter().filter_map(|candidate| {
            let grant = service.grants.get(candidate.grant)?;
            let given = given_scopes(grant, candidate, required, &facts.caller);
            let membership = membership(&grant.to, &facts);
            let outcome = if membership == Membership::Outside {
                RuleOutcome::OtherCallers
            } else if membership == Membership::Unknown {
                RuleOutcome::MembershipUnknown(unknown_membership(&facts))
            } else if given == 0 {
                RuleOutcome::TokenLacksScope(missing_scopes(required, candidate.gives))
            } else {
                match evaluate_condition(&grant.rule, grant.when.as_deref(), &facts, work) {
                    Truth::True => RuleOutcome::Applies(missing_scopes(required, given)),
                    Truth::False => RuleOutcome::ConditionDoesNotHold,
                    Truth::Failed(why) => RuleOutcome::ConditionFailed(why),
                }
            };
            let rule = Arc::clone(&grant.rule);
            Some(match (&grant.relation, outcome) {
                (Some(to), RuleOutcome::Applies(scopes)) => self.explain_relation(rule, to, &facts, scopes, work),
                (_, outcome) => ExplainedRule { rule, outcome, relation: Vec::new() },
            })
        });
        denials.chain(grants).collect()
    }

    fn explain_relation(
        &self,
        rule: Arc<str>,
        to: &RelationTarget,
        facts: &RequestFacts<'_, '_>,
        scopes: Vec<Scope>,
        work: &WorkBudget,
    ) -> ExplainedRule {
        let question = match facts.question(to) {
            Ok(question) => question,
            Err(capture) => {
                let outcome = RuleOutcome::NoObject { object: to.to_string(), capture: capture.to_owned() };
                return ExplainedRule { rule, outcome, relation: Vec::new() };
            }
        };
        let checked = self.service.map(|service| match service.relation_engine {
            RelationBackend::BuiltIn => {
                let tuples = self.snapshot.tuples(&service.key);
                tuples.explain_within(&service.relations, &question.object, &to.relation, &facts.caller, work)
            }
            RelationBackend::OpenFga(_) => RelationCheck { truth: self.answers.answer(&question), proof: Vec::new() },
        });
        let RelationCheck { truth, proof } =
            checked.unwrap_or(RelationCheck { truth: Truth::False, proof: Vec::new() });
        let relation = format!("{}#{}", question.object, to.relation);
        let outcome = match truth {
            Truth::True => RuleOutcome::Applies(scopes),
            Truth::False => RuleOutcome::NotRelated(relation),
            Truth::Failed(why) => RuleOutcome::RelationFailed { relation, why },
        };
        ExplainedRule { rule, outcome, relation: proof }
    }
}

/// The outcome of one rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExplainedRule {
    /// `<namespace>/<policy>/grants/<name>` or `<namespace>/<policy>/denials/<name>`.
    pub rule: Arc<str>,
    /// The outcome.
    pub outcome: RuleOutcome,
    /// The proof of the relation that a grant requires, from the object to the caller. Empty if the grant requires
    /// none, or if the relation does not hold.
    pub relation: Vec<ProofStep>,
}

/// The outcome of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RuleOutcome {
    /// It applies; a grant gives these scopes.
    Applies(Vec<Scope>),
    /// It does not match the caller.
    OtherCallers,
    /// Whether it is for the caller is unknown: a denial applies, a grant gives nothing.
    MembershipUnknown(String),
    /// Its condition does not hold.
    ConditionDoesNotHold,
    /// Its condition could not be evaluated: a denial applies, a grant gives nothing.
    ConditionFailed(String),
    /// The caller does not have this relation, `object#relation`.
    NotRelated(String),
    /// The relation could not be evaluated: the grant gives nothing.
    RelationFailed {
        /// `object#relation`.
        relation: String,
        /// The reason.
        why: String,
    },
    /// The request does not contain the object of the grant's relation: the grant gives nothing.
    NoObject {
        /// The object and the relation, in the form of the policy.
        object: String,
        /// The capture that the request lacks.
        capture: String,
    },
    /// The grant gives scopes of the token only, and the caller's token lacks these.
    TokenLacksScope(Vec<Scope>),
}
