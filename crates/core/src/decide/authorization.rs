//! The second half of a decision: whether the caller may do the operation.

use super::facts::RequestFacts;
use super::route::{MatchedOperation, Route};
use super::rules::{
    all_scopes, carried_scopes, check_credential, evaluate_rule, membership, missing_scopes, unknown_membership,
};
use super::trace::DecisionTrace;
use crate::approval::ApprovalSubject;
use crate::condition::{FactCache, Truth};
use crate::decision::{Decision, Reason, RequiredApproval};
use crate::policy::{CompiledDenial, EnforcementMode, MAX_SCOPES};
use crate::principal::Principal;
use crate::relations::{RelationBackend, RelationQuestions, RelationTarget};
use crate::request::{Call, Request};
use crate::scope::Scope;
use crate::snapshot::Snapshot;
use crate::subject::Membership;
use crate::work::{WORK_EXHAUSTED, WorkBudget};
use chrono::{DateTime, Utc};
use std::cell::LazyCell;
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;

/// The detail of a denial by a closed service.
const CLOSED: &str = "its service is closed, because the version that was in force is not known here";

impl Snapshot {
    /// The whole decision: finds the operation, then decides about the caller.
    #[must_use]
    pub fn decide(&self, principal: Option<&Principal>, request: &Request<'_>, now: DateTime<Utc>) -> Decision {
        self.route(request).decide(principal, now)
    }
}

impl<'s> Route<'s, '_> {
    /// The relations that an external engine has to evaluate before this can be decided: those of grants that would
    /// otherwise apply. `None` if no relation matters for this caller.
    #[must_use]
    pub fn questions(&self, principal: Option<&Principal>, now: DateTime<Utc>) -> Option<RelationQuestions<'s>> {
        let service = self.service?;
        let RelationBackend::OpenFga(store) = &service.relation_engine else { return None };
        let work = WorkBudget::default();
        let mut trace = DecisionTrace::new(&work);
        // collects every relation that the decision may need
        let admitted = self.check_caller(principal, now, true, &mut trace);
        let ControlFlow::Continue((facts, _)) = admitted else { return None };
        let mut questions = BTreeSet::new();
        self.collect_grants(&facts, &mut trace, |to| {
            questions.extend(facts.question(to).ok());
            false
        });
        (!questions.is_empty()).then_some(RelationQuestions { store, model: &service.relations, questions })
    }

    /// Steps 3 to 8 of a decision. Takes no lock and does no I/O.
    #[must_use]
    pub fn decide(&self, principal: Option<&Principal>, now: DateTime<Utc>) -> Decision {
        self.decide_within(principal, now, &self.request.evidence.budget())
    }

    /// As [`Self::decide`], with a budget of work that the caller can read afterwards.
    #[must_use]
    pub fn decide_within(&self, principal: Option<&Principal>, now: DateTime<Utc>, work: &WorkBudget) -> Decision {
        let mut trace = DecisionTrace::new(work);
        let mut decision = self.decide_with(principal, now, false, &mut trace);
        decision.evaluated = trace.evaluated;
        decision.exhausted = trace.exhausted;
        decision
    }

    /// Whether a denial depends on conditions that read the object of a request to the Kubernetes API, while the
    /// object is still unknown. With the object, the request could pass.
    #[must_use]
    pub fn awaits_object(&self, principal: Option<&Principal>, now: DateTime<Utc>) -> bool {
        matches!(self.request.call, Call::Kubernetes(_))
            && !self.decide(principal, now).passes()
            && self.decide_with(principal, now, true, &mut DecisionTrace::new(&WorkBudget::default())).passes()
    }

    fn decide_with(
        &self,
        principal: Option<&Principal>,
        now: DateTime<Utc>,
        in_favour: bool,
        trace: &mut DecisionTrace<'_>,
    ) -> Decision {
        let (facts, denied) = match self.check_caller(principal, now, in_favour, trace) {
            ControlFlow::Continue(admitted) => admitted,
            ControlFlow::Break(decision) => return decision,
        };
        let work = trace.work;
        let (rules, missing) = self.collect_grants(&facts, trace, |to| self.has_relation(to, &facts, work));
        if !missing.is_empty() {
            let detail = trace.exhausted.as_ref().map(|rule| format!("{WORK_EXHAUSTED}, at {rule}"));
            return Decision { missing, detail, ..self.decision(Reason::InsufficientScope) };
        }
        // approval comes last: it replaces no other requirement
        let approval = self.approval(&facts);
        if approval.as_ref().is_some_and(|approval| approval.granted.is_none()) {
            return Decision { approval, ..self.decision(Reason::ApprovalRequired) };
        }
        let decision = denied.unwrap_or_else(|| Decision { rules, ..self.decision(Reason::Granted) });
        Decision { approval, ..decision }
    }

    /// Steps 3 to 6. Returns either the decision, or the facts for the grants with a denial that is only audited.
    fn check_caller<'f>(
        &'f self,
        principal: Option<&'f Principal>,
        now: DateTime<Utc>,
        in_favour: bool,
        trace: &mut DecisionTrace<'_>,
    ) -> ControlFlow<Decision, (RequestFacts<'f, 's>, Option<Decision>)> {
        let matched = match &self.matched {
            Ok(matched) => matched,
            Err((reason, ambiguity)) => {
                let closed = || self.closed_by().map(|policy| format!("{CLOSED}: fix or remove policy {policy}"));
                let detail = ambiguity.map(|why| why.to_string()).or_else(closed);
                return ControlFlow::Break(Decision { detail, ..self.decision(*reason) });
            }
        };
        let operation = matched.operation;
        if operation.operation.public {
            return ControlFlow::Break(self.decision(Reason::Public));
        }
        let caller = match principal.map(Principal::identity) {
            None => return ControlFlow::Break(self.decision(Reason::Unauthenticated)),
            Some(caller) if caller.expires_at.is_some_and(|end| end <= now) => {
                let detail = Some("the credential has ended".to_owned());
                return ControlFlow::Break(Decision { detail, ..self.decision(Reason::Unauthenticated) });
            }
            Some(caller) => caller.at_operation(&operation.operation.name),
        };
        // the first enforced refusal decides: an audited one must not let a request pass that another one stops
        let too_low = match check_credential(operation, &caller, &self.request.call, now) {
            Ok(()) => None,
            Err((challenge, detail)) => {
                let challenge = Some(challenge);
                let refusal = Decision { challenge, detail: Some(detail), ..self.decision(Reason::AssuranceTooLow) };
                if operation.mode == EnforcementMode::Enforce {
                    return ControlFlow::Break(refusal);
                }
                Some(refusal)
            }
        };
        let facts = RequestFacts { route: self, matched, caller, now, in_favour, cache: FactCache::default() };
        let denied = self.find_denial(&facts, trace).map(|(denial, detail)| Decision {
            mode: denial.mode,
            rules: vec![Arc::clone(&denial.rule)],
            detail,
            ..self.decision(Reason::Denied)
        });
        match (too_low, denied) {
            (_, Some(denied)) if denied.mode == EnforcementMode::Enforce => ControlFlow::Break(denied),
            (Some(too_low), _) => ControlFlow::Break(too_low),
            (None, Some(denied)) if operation.mode == EnforcementMode::Audit => ControlFlow::Break(denied),
            (None, denied) => ControlFlow::Continue((facts, denied)),
        }
    }

    /// The approval that the operation requires, with the one that is valid now, if any.
    fn approval(&self, facts: &RequestFacts<'_, '_>) -> Option<Box<RequiredApproval>> {
        let RequestFacts { matched: MatchedOperation { operation, .. }, caller, now, .. } = facts;
        let approvers = operation.operation.approval.as_ref()?;
        let subject = ApprovalSubject {
            policy: operation.policy.clone(),
            policy_uid: Arc::clone(&approvers.policy_uid),
            operation: Arc::clone(&operation.operation.name),
            principal: caller.id.clone(),
        };
        let granted =
            self.snapshot.approval(&subject).filter(|granted| granted.is_valid(approvers.valid_for, *now)).cloned();
        Some(Box::new(RequiredApproval { subject, granted }))
    }

    /// A decision with everything that the route determines.
    fn decision(&self, reason: Reason) -> Decision {
        let operation = self.matched.as_ref().ok().map(|matched| matched.operation);
        Decision {
            reason,
            mode: operation
                .map(|o| o.mode)
                .or_else(|| self.service.map(|s| s.mode))
                .unwrap_or(EnforcementMode::Enforce),
            service: self.service.map(|service| service.key.clone()),
            policy: operation.map(|o| &o.policy).or(self.closed_by()).cloned(),
            operation: operation.map(|o| Arc::clone(&o.operation.name)),
            rules: Vec::new(),
            required: operation.map(|o| Arc::clone(&o.operation.scopes)).unwrap_or_default(),
            missing: Vec::new(),
            challenge: None,
            approval: None,
            detail: None,
            evaluated: Vec::new(),
            exhausted: None,
            revision: self.snapshot.revision(),
        }
    }

    /// The first denial that applies, or whose condition can't be evaluated. An audited denial is returned only if no
    /// enforced one applies.
    fn find_denial(
        &self,
        facts: &RequestFacts<'_, '_>,
        trace: &mut DecisionTrace<'_>,
    ) -> Option<(&'s CompiledDenial, Option<String>)> {
        let service = self.service?;
        let mut audited = None;
        for number in service.denial_index.possibly_matching(&facts.caller, facts.labels()) {
            let Some(denial) = service.denials.get(number).map(|denial| &**denial) else { continue };
            if denial.mode == EnforcementMode::Audit && audited.is_some() {
                continue;
            }
            let detail = match evaluate_rule(&denial.rule, denial.when.as_ref(), facts, Truth::False, trace) {
                Truth::False => continue,
                Truth::True if membership(&denial.to, facts) == Membership::Unknown => Some(unknown_membership(facts)),
                Truth::True => denial.reason.as_ref().map(ToString::to_string),
                Truth::Failed(why) => Some(format!("its condition could not be evaluated: {why}")),
            };
            match denial.mode {
                EnforcementMode::Enforce => return Some((denial, detail)),
                EnforcementMode::Audit => audited = Some((denial, detail)),
            }
        }
        audited
    }

    /// The grants that allow the request, and the scopes that are missing.
    fn collect_grants(
        &self,
        facts: &RequestFacts<'_, '_>,
        trace: &mut DecisionTrace<'_>,
        mut related: impl FnMut(&RelationTarget) -> bool,
    ) -> (Vec<Arc<str>>, Vec<Scope>) {
        let required = &facts.matched.operation.operation.scopes;
        let grants = self.service.map(|service| &*service.grants).unwrap_or_default();
        if required.len() > MAX_SCOPES {
            // the bits can't represent further scopes; the compiler refuses such an operation anyway
            return (Vec::new(), required.to_vec());
        }
        let carried = LazyCell::new(|| carried_scopes(required, &facts.caller));
        let mut needed = all_scopes(required);
        let mut rules = Vec::new();
        for candidate in facts.matched.operation.grants.matching(&facts.caller, facts.labels()) {
            if needed == 0 {
                break;
            }
            let Some(grant) = grants.get(candidate.grant) else { continue };
            let by_token = grant.from_token || facts.caller.narrowed;
            let gives = candidate.gives & needed & if by_token { *carried } else { u64::MAX };
            // condition and relation come last, since they cost most
            let applies = gives != 0
                && evaluate_rule(&grant.rule, grant.when.as_ref(), facts, Truth::True, trace) == Truth::True
                && grant.relation.as_ref().is_none_or(&mut related);
            trace.note(&grant.rule);
            if applies {
                needed &= !gives;
                rules.push(Arc::clone(&grant.rule));
            }
        }
        (if needed == 0 { rules } else { Vec::new() }, missing_scopes(required, needed))
    }

    /// Whether the caller has the relation that a grant requires.
    fn has_relation(&self, to: &RelationTarget, facts: &RequestFacts<'_, '_>, work: &WorkBudget) -> bool {
        let (Some(service), Ok(question)) = (self.service, facts.question(to)) else { return false };
        let truth = match service.relation_engine {
            RelationBackend::BuiltIn => {
                let tuples = self.snapshot.tuples(&service.key);
                tuples.check_within(&service.relations, &question.object, &to.relation, &facts.caller, work)
            }
            RelationBackend::OpenFga(_) => self.answers.answer(&question),
        };
        truth == Truth::True
    }
}
