//! The decision itself: find the operation, then ask what the caller may.
//!
//! The two halves are apart because a door needs the first to know which ways in the service accepts, before it
//! can authenticate anybody for the second.

mod considered;
mod facts;

pub use considered::{ExplainedRule, RuleOutcome};
pub(crate) use facts::principal_fact;

use crate::approval::ApprovalSubject;
use crate::authentication::{AuthenticationMethod, CLOCK_SKEW, Challenge};
use crate::condition::{Condition, ConditionFacts, JsonFields, Truth};
use crate::decision::{Decision, EvaluatedCondition, Reason, RequiredApproval};
use crate::evidence::HeaderValues;
use crate::namespaced_name::NamespacedName;
use crate::path::{Ambiguity, Captures, PathPattern, RequestPath};
use crate::policy::{CompiledDenial, CompiledGrant, CompiledOperation, EnforcementMode, MAX_SCOPES};
use crate::principal::{Identity, Principal};
use crate::relations::{RelationAnswers, RelationBackend, RelationQuestions, RelationTarget};
use crate::request::{Call, Request, ServiceTarget};
use crate::risk::{Assurance, RiskLevel};
use crate::scope::Scope;
use crate::service::{CompiledService, GrantCandidate, ServiceOperation};
use crate::snapshot::Snapshot;
use crate::subject::SubjectMatcher;
use chrono::{DateTime, Utc};
use facts::{RequestFacts, kubernetes_captures};
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::{Arc, OnceLock};

/// Why a closed service denies.
const CLOSED: &str = "its service is closed, because the version that was in force is not known here";

/// A request with its service and operation found, or the reason why not.
#[derive(Debug)]
pub struct Route<'s, 'r> {
    pub(crate) snapshot: &'s Snapshot,
    pub(crate) request: &'r Request<'r>,
    pub(crate) service: Option<&'s CompiledService>,
    found: Result<Found<'s, 'r>, (Reason, Option<Ambiguity>)>,
    /// What another engine said of the caller's relations.
    answers: RelationAnswers,
}

#[derive(Debug)]
struct Found<'s, 'r> {
    operation: &'s ServiceOperation,
    /// The path and the pattern that it matched.
    matched: Option<(RequestPath<'r>, &'s PathPattern)>,
    /// Taken from the path when somebody asks.
    captures: OnceLock<Captures>,
    /// Read when a condition asks for one; nothing where nobody knows them.
    headers: OnceLock<Option<HeaderValues>>,
    /// The same of the object of a request to the Kubernetes API.
    objects: OnceLock<Option<JsonFields>>,
    /// And of the resource.
    resource: OnceLock<Option<JsonFields>>,
}

impl<'s, 'r> Found<'s, 'r> {
    fn new(operation: &'s ServiceOperation, captures: OnceLock<Captures>) -> Self {
        let (headers, objects, resource) = (OnceLock::new(), OnceLock::new(), OnceLock::new());
        Self { operation, matched: None, captures, headers, objects, resource }
    }

    fn captures(&self) -> &Captures {
        self.captures
            .get_or_init(|| self.matched.as_ref().map(|(path, pattern)| pattern.captured(path)).unwrap_or_default())
    }
}

impl Snapshot {
    /// Steps 1 and 2 of a decision: the service and its operation. Takes no lock and does no I/O.
    #[must_use]
    pub fn route<'s, 'r>(&'s self, request: &'r Request<'r>) -> Route<'s, 'r> {
        let service = match request.target {
            ServiceTarget::Host(authority) => self.by_authority(authority),
            ServiceTarget::Audience(audience) => self.by_audience(audience),
        };
        let service = service.map(Arc::as_ref);
        let found = match service {
            Some(service) => find(service, &request.call),
            None if request.call == Call::Unclear => Err((Reason::AmbiguousPath, Some(Ambiguity::Request))),
            None => Err((Reason::NoPolicy, None)),
        };
        Route { snapshot: self, request, service, found, answers: RelationAnswers::default() }
    }

    /// The whole decision.
    #[must_use]
    pub fn decide(&self, principal: Option<&Principal>, request: &Request<'_>, now: DateTime<Utc>) -> Decision {
        self.route(request).decide(principal, now)
    }
}

fn find<'s, 'r>(
    service: &'s CompiledService,
    call: &'r Call<'r>,
) -> Result<Found<'s, 'r>, (Reason, Option<Ambiguity>)> {
    if !service.closed_by().is_empty() {
        return Err((Reason::NoPolicy, None));
    }
    let found = match call {
        Call::Http { method, path } => service.find(method, path).map(|found| {
            let (operation, path, pattern) = found?;
            Some(Found { matched: Some((path, pattern)), ..Found::new(operation, OnceLock::new()) })
        }),
        Call::Named { operation, captures } => {
            Ok(service.named(operation).map(|operation| Found::new(operation, captures.clone().into())))
        }
        Call::Kubernetes(call) => {
            Ok(service.find_kubernetes(call).map(|operation| Found::new(operation, kubernetes_captures(call).into())))
        }
        Call::Unclear => Err(Ambiguity::Request),
    };
    match found {
        Ok(Some(found)) => Ok(found),
        Ok(None) => Err((Reason::OperationUndeclared, None)),
        Err(ambiguity) => Err((Reason::AmbiguousPath, Some(ambiguity))),
    }
}

impl<'s> Route<'s, '_> {
    /// Audience and accepted ways in, when who is asking matters: not for a public operation, nor for a request
    /// that is refused whoever asks.
    #[must_use]
    pub fn expects(&self) -> Option<(&'s str, &'s [AuthenticationMethod])> {
        let service = self.service?;
        let found = self.found.as_ref().ok()?;
        (!found.operation.operation.public).then_some((&*service.key.audience, &*service.ways))
    }

    /// Audience of the service, once found; the realm of challenges.
    #[must_use]
    pub fn audience(&self) -> Option<&'s str> {
        self.service.map(|service| &*service.key.audience)
    }

    /// The first policy that closes the service.
    fn closed_by(&self) -> Option<&'s NamespacedName> {
        self.service?.closed_by().first()
    }

    /// The operation, once found.
    #[must_use]
    pub fn operation(&self) -> Option<&'s CompiledOperation> {
        self.found.as_ref().ok().map(|found| &*found.operation.operation)
    }

    /// What the path captured.
    #[must_use]
    pub fn captures(&self) -> Option<&Captures> {
        self.found.as_ref().ok().map(Found::captures)
    }

    /// What another engine has to be asked before this is decided: relations of grants that would otherwise apply. None
    /// where nothing of it matters, whoever is asking.
    #[must_use]
    pub fn questions(&self, principal: Option<&Principal>, now: DateTime<Utc>) -> Option<RelationQuestions<'s>> {
        let service = self.service?;
        let RelationBackend::OpenFga(store) = &service.relation_engine else { return None };
        let mut judged = Vec::new();
        // whatever may have to be known in the end
        let admitted = self.admitted(principal, now, true, &mut judged);
        let ControlFlow::Continue((facts, _)) = admitted else { return None };
        let mut of = BTreeSet::new();
        self.granted(&facts, &mut judged, |to| {
            of.extend(facts.question(to).ok());
            false
        });
        (!of.is_empty()).then_some(RelationQuestions { store, model: &service.relations, of })
    }

    /// The same request, to be decided by what was said to its [`questions`](Self::questions).
    #[must_use]
    pub fn answered(self, answers: RelationAnswers) -> Self {
        Self { answers, ..self }
    }

    /// What another engine said, by which this is decided.
    #[must_use]
    pub fn answers(&self) -> &RelationAnswers {
        &self.answers
    }

    /// Steps 3 to 8 of a decision. Takes no lock and does no I/O.
    #[must_use]
    pub fn decide(&self, principal: Option<&Principal>, now: DateTime<Utc>) -> Decision {
        let mut judged = Vec::new();
        let mut decision = self.decided(principal, now, false, &mut judged);
        decision.judged = judged;
        decision
    }

    /// Whether a refusal hangs on conditions that read the object of a request to the Kubernetes API, where nobody knows it
    /// yet: with it, the request could go through.
    #[must_use]
    pub fn awaits_object(&self, principal: Option<&Principal>, now: DateTime<Utc>) -> bool {
        matches!(self.request.call, Call::Kubernetes(_))
            && !self.decide(principal, now).passes()
            && self.decided(principal, now, true, &mut Vec::new()).passes()
    }

    fn decided(
        &self,
        principal: Option<&Principal>,
        now: DateTime<Utc>,
        in_favour: bool,
        judged: &mut Vec<EvaluatedCondition>,
    ) -> Decision {
        let (facts, denied) = match self.admitted(principal, now, in_favour, judged) {
            ControlFlow::Continue(admitted) => admitted,
            ControlFlow::Break(decision) => return decision,
        };
        let (rules, missing) = self.granted(&facts, judged, |to| self.related(to, &facts));
        if !missing.is_empty() {
            return Decision { missing, ..self.decision(Reason::InsufficientScope) };
        }
        // the last that is asked: it makes up for nothing before
        let approval = self.approval(&facts);
        if approval.as_ref().is_some_and(|approval| approval.given.is_none()) {
            return Decision { approval, ..self.decision(Reason::ApprovalRequired) };
        }
        let decision = denied.unwrap_or_else(|| Decision { rules, ..self.decision(Reason::Granted) });
        Decision { approval, ..decision }
    }

    /// Steps 3 to 6: the decision, or else what grants are to be looked at for, with a denial that is only audited.
    fn admitted<'f>(
        &'f self,
        principal: Option<&'f Principal>,
        now: DateTime<Utc>,
        in_favour: bool,
        judged: &mut Vec<EvaluatedCondition>,
    ) -> ControlFlow<Decision, (RequestFacts<'f, 's>, Option<Decision>)> {
        let found = match &self.found {
            Ok(found) => found,
            Err((reason, ambiguity)) => {
                let closed = || self.closed_by().map(|policy| format!("{CLOSED}: mend or remove policy {policy}"));
                let detail = ambiguity.map(|why| why.to_string()).or_else(closed);
                return ControlFlow::Break(Decision { detail, ..self.decision(*reason) });
            }
        };
        let operation = found.operation;
        if operation.operation.public {
            return ControlFlow::Break(self.decision(Reason::Public));
        }
        let caller = match principal.map(Principal::identity) {
            None => return ControlFlow::Break(self.decision(Reason::Unauthenticated)),
            Some(caller) if caller.expires_at.is_some_and(|end| end <= now) => {
                let detail = Some("the credential has ended".to_owned());
                return ControlFlow::Break(Decision { detail, ..self.decision(Reason::Unauthenticated) });
            }
            Some(caller) => caller.at(&operation.operation.name),
        };
        // the first refusal that is enforced counts: one that is only audited must not let pass what another stops
        let too_low = match good_enough(operation, &caller, &self.request.call, now) {
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
        let facts = RequestFacts { route: self, found, caller, now, in_favour };
        let denied = self.denied(&facts, judged).map(|(denial, detail)| Decision {
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

    /// The approval that the operation asks for, with the one that counts now, if there is one.
    fn approval(&self, facts: &RequestFacts<'_, '_>) -> Option<Box<RequiredApproval>> {
        let RequestFacts { found: Found { operation, .. }, caller, now, .. } = facts;
        let approvers = operation.operation.approval.as_ref()?;
        let matter = ApprovalSubject {
            policy: operation.policy.clone(),
            policy_uid: Arc::clone(&approvers.policy_uid),
            operation: Arc::clone(&operation.operation.name),
            principal: caller.id.clone(),
        };
        let given = self.snapshot.approval(&matter).filter(|given| given.counts(approvers.lasts, *now)).cloned();
        Some(Box::new(RequiredApproval { matter, given }))
    }

    /// A decision as far as the route says it.
    fn decision(&self, reason: Reason) -> Decision {
        let operation = self.found.as_ref().ok().map(|found| found.operation);
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
            judged: Vec::new(),
            revision: self.snapshot.revision(),
        }
    }

    /// The first denial that applies, or whose condition can't be evaluated; one that is only audited counts if none
    /// that is enforced does.
    fn denied(
        &self,
        facts: &RequestFacts<'_, '_>,
        judged: &mut Vec<EvaluatedCondition>,
    ) -> Option<(&'s CompiledDenial, Option<String>)> {
        let service = self.service?;
        let mut audited = None;
        for number in service.denial_index.concerning(&facts.caller, facts.labels()) {
            let Some(denial) = service.denials.get(number).map(|denial| &**denial) else { continue };
            if denial.mode == EnforcementMode::Audit && audited.is_some() {
                continue;
            }
            let detail = match judge(&denial.rule, denial.when.as_ref(), facts, Truth::False, judged) {
                Truth::False => continue,
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

    /// The grants that carry the request, and the scopes that stay missing.
    fn granted(
        &self,
        facts: &RequestFacts<'_, '_>,
        judged: &mut Vec<EvaluatedCondition>,
        mut related: impl FnMut(&RelationTarget) -> bool,
    ) -> (Vec<Arc<str>>, Vec<Scope>) {
        let required = &facts.found.operation.operation.scopes;
        let grants = self.service.map(|service| &*service.grants).unwrap_or_default();
        if required.len() > MAX_SCOPES {
            // no bit stands for the scopes beyond; the compiler refuses such an operation anyway
            return (Vec::new(), required.to_vec());
        }
        let (mut wanted, mut rules) = (all_of(required), Vec::new());
        for candidate in facts.found.operation.grants.concerning(&facts.caller, facts.labels()) {
            if wanted == 0 {
                break;
            }
            let Some(grant) = grants.get(candidate.grant) else { continue };
            let gives = gives(grant, candidate, required, &facts.caller) & wanted;
            // condition and relation come last, they are the dearest
            if gives != 0
                && judge(&grant.rule, grant.when.as_ref(), facts, Truth::True, judged) == Truth::True
                && grant.relation.as_ref().is_none_or(&mut related)
            {
                wanted &= !gives;
                rules.push(Arc::clone(&grant.rule));
            }
        }
        (if wanted == 0 { rules } else { Vec::new() }, missing(required, wanted))
    }

    /// Whether the caller stands in a relation that a grant asks for.
    fn related(&self, to: &RelationTarget, facts: &RequestFacts<'_, '_>) -> bool {
        let (Some(service), Ok(asked)) = (self.service, facts.question(to)) else { return false };
        let truth = match service.relation_engine {
            RelationBackend::Own => {
                let tuples = self.snapshot.tuples(&service.key);
                tuples.check(&service.relations, &asked.object, &to.relation, &facts.caller)
            }
            RelationBackend::OpenFga(_) => self.answers.to(&asked),
        };
        truth == Truth::True
    }
}

/// Step 5: whether the way in is accepted, and proves enough for the risk.
pub(crate) fn good_enough(
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
    // who calls the Kubernetes API came in by the API server's own ways
    let accepted = matches!(call, Call::Kubernetes(_)) || operation.ways.iter().any(|way| way.admits(caller));
    if !accepted {
        return Err((challenge, "the policy of the operation does not accept this way in".to_owned()));
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

/// What the condition of a rule comes to, noted if it reads what no record holds. `best` is what it would best come to.
fn judge(
    rule: &Arc<str>,
    when: Option<&Arc<Condition>>,
    facts: &RequestFacts<'_, '_>,
    best: Truth,
    judged: &mut Vec<EvaluatedCondition>,
) -> Truth {
    if facts.in_favour && when.is_some_and(|when| when.awaits_object()) && facts.objects().is_none() {
        return best;
    }
    let truth = condition(rule, when.map(AsRef::as_ref), facts);
    if let Some(when) = when.filter(|when| when.reads_evidence()) {
        judged.push(EvaluatedCondition { rule: Arc::clone(rule), condition: Arc::clone(when), truth: truth.clone() });
    }
    truth
}

fn condition(rule: &str, when: Option<&Condition>, facts: &RequestFacts<'_, '_>) -> Truth {
    let Some(when) = when else { return Truth::True };
    let recorded = when.reads_evidence().then(|| facts.route.request.evidence.recorded(rule, when)).flatten();
    recorded.unwrap_or_else(|| when.evaluate(facts))
}

fn subject(to: &[SubjectMatcher], facts: &RequestFacts<'_, '_>) -> bool {
    to.iter().any(|subject| subject.includes(&facts.caller, facts.labels()))
}

/// The scopes of an operation that a grant gives this caller, as bits.
pub(crate) fn gives(grant: &CompiledGrant, candidate: GrantCandidate, required: &[Scope], caller: &Identity) -> u64 {
    if !grant.from_token && !caller.narrowed {
        return candidate.gives;
    }
    let Some(own) = &caller.scopes else { return 0 };
    let carried = required.iter().enumerate().take(64).filter(|(_, scope)| own.contains(*scope));
    candidate.gives & carried.fold(0, |bits, (bit, _)| bits | 1 << bit)
}

pub(crate) fn all_of(required: &[Scope]) -> u64 {
    u32::try_from(required.len()).ok().and_then(|n| 1u64.checked_shl(n)).map_or(u64::MAX, |bit| bit - 1)
}

fn missing(required: &[Scope], bits: u64) -> Vec<Scope> {
    required
        .iter()
        .enumerate()
        .take(64)
        .filter(|(bit, _)| bits >> bit & 1 == 1)
        .map(|(_, scope)| scope.clone())
        .collect()
}
