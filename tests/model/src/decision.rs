//! The decision: the order of checks is that of the contract.

use crate::conditions::{ConditionInput, exhausts, holds};
use crate::operations::{FoundOperation, audience, find_http, find_kubernetes, governing, in_force, name, service};
use crate::relations::{RelationFacts, object};
use crate::subjects::{Belongs, belongs};
use crate::world::{KubernetesCall, ModelCall, ModelRequest, ModelTarget, ModelWorld, is_workload, provider};
use chrono::{DateTime, TimeDelta, Utc};
use durward_api::resources::{AccessPolicy, DenialRule, GrantRule, Operation, PolicyMode, Risk};
use durward_core::principal::Identity;
use durward_core::risk::Assurance;
use std::cell::Cell;
use std::collections::BTreeSet;

/// What a decision says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelDecision {
    pub reason: &'static str,
    /// Whether the request goes through: it is allowed, or its denial is only recorded.
    pub passes: bool,
    /// `NAMESPACE/POLICY` and the name of the operation.
    pub operation: Option<(String, String)>,
    /// The grants that carried it, or the denial.
    pub rules: Vec<String>,
    pub missing: Vec<String>,
}

/// A world, read as the documents say.
#[derive(Debug)]
pub struct ReferenceModel<'w> {
    pub world: &'w ModelWorld,
    /// The oldest first.
    pub in_force: Vec<&'w AccessPolicy>,
}

/// A refusal that a policy only records lets the request through, unless another one is enforced.
#[derive(Debug)]
struct Refusal {
    mode: PolicyMode,
    reason: &'static str,
    rules: Vec<String>,
    missing: Vec<String>,
}

/// A decision on its way: the operation, and the caller as the operation sees it.
struct Question<'q> {
    service: &'q [&'q AccessPolicy],
    policy: &'q AccessPolicy,
    operation: &'q Operation,
    caller: &'q Identity,
    input: ConditionInput<'q>,
    /// Whether the budget of the decision has ended.
    exhausted: Cell<bool>,
}

impl Question<'_> {
    /// Whether a condition holds, within the budget of the decision.
    fn holds(&self, when: Option<&str>) -> Option<bool> {
        self.exhausted.set(self.exhausted.get() || exhausts(when, &self.input));
        if self.exhausted.get() && when.is_some() { None } else { holds(when, &self.input) }
    }
}

impl<'w> ReferenceModel<'w> {
    #[must_use]
    pub fn of(world: &'w ModelWorld) -> Self {
        Self { world, in_force: in_force(world) }
    }

    /// The audiences of the services that govern a request to the Kubernetes API.
    #[must_use]
    pub fn governing(&self, namespace: &str, call: &KubernetesCall) -> BTreeSet<String> {
        governing(&self.in_force, namespace, call)
    }

    /// The policies of the service of this audience.
    #[must_use]
    pub fn service(&self, audience: &str) -> Vec<&'w AccessPolicy> {
        service(&self.in_force, &ModelTarget::Audience(audience.to_owned()))
    }

    #[must_use]
    pub fn decide(&self, caller: Option<&Identity>, request: &ModelRequest, now: DateTime<Utc>) -> ModelDecision {
        let service = service(&self.in_force, &request.service);
        let only_recorded = !service.is_empty() && service.iter().all(|policy| policy.spec.mode == PolicyMode::Audit);
        let unfound =
            |reason| ModelDecision { reason, passes: only_recorded, operation: None, rules: vec![], missing: vec![] };
        if service.is_empty() {
            return unfound(if matches!(request.call, ModelCall::Ambiguous) { "AmbiguousPath" } else { "NoPolicy" });
        }
        let found = match &request.call {
            ModelCall::Http(method, path, _) => find_http(&service, method, path),
            ModelCall::Named(wanted, captures) => Ok(named(&service, wanted).map(|(p, o)| (p, o, captures.clone()))),
            ModelCall::Kubernetes(call) => Ok(find_kubernetes(&service, call)),
            ModelCall::Ambiguous => return unfound("AmbiguousPath"),
        };
        match found {
            Err(_) => unfound("AmbiguousPath"),
            Ok(None) => unfound("OperationUndeclared"),
            Ok(Some(found)) => self.decide_operation(&service, &found, caller, request, now),
        }
    }

    fn decide_operation(
        &self,
        service: &[&AccessPolicy],
        (policy, operation, captures): &FoundOperation<'_>,
        caller: Option<&Identity>,
        request: &ModelRequest,
        now: DateTime<Utc>,
    ) -> ModelDecision {
        let (namespace, policy_name) = name(policy);
        let decision = |reason, passes, rules, missing| ModelDecision {
            reason,
            passes,
            operation: Some((format!("{namespace}/{policy_name}"), operation.name.clone())),
            rules,
            missing,
        };
        let audited = policy.spec.mode == PolicyMode::Audit;
        if operation.public {
            return decision("Public", true, vec![], vec![]);
        }
        let Some(caller) = caller.filter(|caller| caller.expires_at.is_none_or(|end| now < end)) else {
            return decision("Unauthenticated", audited, vec![], vec![]);
        };
        let caller = &at_operation(caller, &operation.name);
        let input = ConditionInput { caller, operation: &operation.name, captures, request: Some(request), now };
        let question = Question { service, policy, operation, caller, input, exhausted: Cell::new(false) };
        let is_kubernetes = matches!(request.call, ModelCall::Kubernetes(_));
        let mut refusals = Vec::new();
        let refusal = |mode, reason| Refusal { mode, reason, rules: vec![], missing: vec![] };
        let accepted = is_kubernetes || accepts(policy, caller);
        if !accepted || !is_strong_enough(operation, caller, now) {
            refusals.push(refusal(policy.spec.mode, "AssuranceTooLow"));
        }
        refusals.extend(self.denials(&question));
        let (rules, missing) = self.grants(&question);
        if !missing.is_empty() {
            refusals.push(Refusal { missing, ..refusal(policy.spec.mode, "InsufficientScope") });
        } else if operation.approval.is_some() && !self.is_approved(&question) {
            refusals.push(refusal(policy.spec.mode, "ApprovalRequired"));
        }
        let enforced = refusals.iter().position(|one| one.mode == PolicyMode::Enforce);
        match refusals.into_iter().nth(enforced.unwrap_or(0)) {
            None => decision("Granted", true, rules, vec![]),
            Some(first) => decision(first.reason, enforced.is_none(), first.rules, first.missing),
        }
    }

    /// Denials apply unless they certainly are for others, or their condition certainly does not hold. The first that
    /// is enforced decides; of those that are only recorded, the first counts.
    fn denials(&self, question: &Question<'_>) -> Vec<Refusal> {
        let mut all = Vec::new();
        for policy in question.service {
            let (namespace, name) = name(policy);
            let rule = |denial: &DenialRule| format!("{namespace}/{name}/denials/{}", denial.name);
            all.extend(policy.spec.denials.iter().map(|denial| (rule(denial), policy.spec.mode, denial)));
        }
        all.sort_by(|a, b| a.0.cmp(&b.0));
        let mut refusals: Vec<Refusal> = Vec::new();
        for (rule, mode, denial) in all {
            let decided = refusals.iter().any(|other| other.mode == PolicyMode::Enforce || other.mode == mode);
            if !decided
                && belongs(self.world, &denial.to, question.caller) != Belongs::No
                && question.holds(denial.when.as_deref()) != Some(false)
            {
                refusals.push(Refusal { mode, reason: "Denied", rules: vec![rule], missing: vec![] });
            }
        }
        refusals
    }

    /// The grants that give the needed scopes, each only if it gives one that is still missing; and what is missing in
    /// the end. Without all of them, no grant carries anything.
    fn grants(&self, question: &Question<'_>) -> (Vec<String>, Vec<String>) {
        let mut missing = needed(question.operation);
        let mut rules = Vec::new();
        for (rule, policy, grant) in grants_in_order(question.service) {
            let gives: BTreeSet<String> =
                given(policy, grant, question.caller).intersection(&missing).cloned().collect();
            if !gives.is_empty()
                && belongs(self.world, &grant.to, question.caller) == Belongs::Yes
                && question.holds(grant.when.as_deref()) == Some(true)
                && self.is_related(grant, question)
            {
                missing.retain(|scope| !gives.contains(scope));
                rules.push(rule);
            }
        }
        (if missing.is_empty() { rules } else { vec![] }, missing.into_iter().collect())
    }

    fn is_related(&self, grant: &GrantRule, question: &Question<'_>) -> bool {
        let Some(to) = &grant.relation else { return true };
        if question.exhausted.get() {
            return false;
        }
        let Some(object) = object(&to.object, question.input.captures) else { return false };
        let (namespace, audience) = (name(question.policy).0, audience(question.policy));
        let about_it = self
            .world
            .relationships
            .iter()
            .filter(|one| one.metadata.namespace.as_deref() == Some(namespace) && one.spec.service == audience);
        let facts = RelationFacts {
            types: question.service.iter().flat_map(|policy| &policy.spec.relations).collect(),
            tuples: about_it.flat_map(|one| &one.spec.tuples).collect(),
            caller: question.caller,
        };
        facts.holds(&object, &to.relation)
    }

    /// An approval is for one operation and one principal, and lasts as long as the policy says now.
    fn is_approved(&self, question: &Question<'_>) -> bool {
        let lasts = question.operation.approval.as_ref().and_then(|rule| rule.lasts.as_deref()).map_or(30, minutes);
        let (namespace, policy) = name(question.policy);
        let now = question.input.now;
        self.world.approvals.iter().any(|one| {
            one.policy == (namespace.to_owned(), policy.to_owned())
                && one.policy_uid == question.policy.metadata.uid.as_deref().unwrap_or_default()
                && one.operation == question.operation.name
                && one.principal == question.caller.id.to_string()
                && one.from <= now
                && now < one.until
                && now < one.from + TimeDelta::minutes(lasts)
        })
    }
}

fn minutes(text: &str) -> i64 {
    text.strip_suffix('m').unwrap().parse().unwrap()
}

/// The operation of a name.
#[must_use]
pub fn named<'w>(service: &[&'w AccessPolicy], wanted: &str) -> Option<(&'w AccessPolicy, &'w Operation)> {
    service.iter().find_map(|policy| Some((*policy, policy.spec.operations.iter().find(|one| one.name == wanted)?)))
}

/// The caller at an operation: a step-up for it, and for it alone, sets assurance and time.
#[must_use]
pub fn at_operation(caller: &Identity, operation: &str) -> Identity {
    let mut caller = caller.clone();
    if let Some(step_up) = caller.step_up.clone().filter(|step_up| *step_up.operation == *operation) {
        caller.assurance = step_up.assurance;
        caller.authenticated_at = Some(step_up.authenticated_at);
    }
    caller
}

/// Whether the policy lists the authentication method of the caller.
#[must_use]
pub fn accepts(policy: &AccessPolicy, caller: &Identity) -> bool {
    policy.spec.authentication.iter().any(|entry| match &entry.provider {
        Some(wanted) => provider(caller).as_ref() == Some(wanted),
        None => is_workload(caller) && caller.federation.is_none(),
    })
}

/// Whether the credential suffices for the risk.
#[must_use]
pub fn is_strong_enough(operation: &Operation, caller: &Identity, now: DateTime<Utc>) -> bool {
    match operation.risk.unwrap_or_default() {
        Risk::Low => true,
        Risk::Standard => caller.assurance >= Assurance::Bearer,
        Risk::High if is_workload(caller) => caller.assurance >= Assurance::ProofOfPossession,
        Risk::High => {
            let fresh = caller.authenticated_at.is_some_and(|at| {
                // clocks may differ by a minute
                now <= at + max_age(operation) && at <= now + TimeDelta::minutes(1)
            });
            caller.assurance >= Assurance::MultiFactor && fresh
        }
    }
}

/// How old a second factor may be.
#[must_use]
pub fn max_age(operation: &Operation) -> TimeDelta {
    let stated = operation.step_up.as_ref().and_then(|rule| rule.max_age.as_deref());
    TimeDelta::minutes(stated.map_or(5, minutes))
}

/// The scopes that an operation needs; without any, one of its own name.
#[must_use]
pub fn needed(operation: &Operation) -> BTreeSet<String> {
    match &operation.scopes[..] {
        [] => [operation.name.clone()].into(),
        scopes => scopes.iter().cloned().collect(),
    }
}

/// Grants by the names of their rules.
#[must_use]
pub fn grants_in_order<'w>(service: &[&'w AccessPolicy]) -> Vec<(String, &'w AccessPolicy, &'w GrantRule)> {
    let mut all = Vec::new();
    for policy in service {
        let (namespace, name) = name(policy);
        all.extend(
            policy.spec.grants.iter().map(|one| (format!("{namespace}/{name}/grants/{}", one.name), *policy, one)),
        );
    }
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

/// The scopes that a grant gives a caller: its own and those of its roles; with `fromToken` or a narrowed credential
/// only those that the credential carries.
#[must_use]
pub fn given(policy: &AccessPolicy, grant: &GrantRule, caller: &Identity) -> BTreeSet<String> {
    let mut scopes: BTreeSet<String> = grant.scopes.iter().cloned().collect();
    let mut roles = grant.roles.clone();
    while let Some(role) = roles.pop() {
        let role = policy.spec.roles.iter().find(|other| other.name == role).unwrap();
        scopes.extend(role.scopes.iter().cloned());
        roles.extend(role.includes.iter().cloned());
    }
    if grant.from_token || caller.narrowed {
        scopes.retain(|scope| caller.scopes.iter().flatten().any(|own| own.as_str() == scope));
    }
    scopes
}
