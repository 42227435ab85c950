//! The decision itself: find the operation, then ask what the caller may.
//!
//! The two halves are apart because a door needs the first to know which ways in the service accepts, before it
//! can authenticate anybody for the second.

use crate::condition::{Facts, Truth, map};
use crate::decision::{Challenge, Decision, Reason};
use crate::host::Host;
use crate::path::Ambiguity;
use crate::policy::{Denial, Grant, MAX_SCOPES, Mode, Subject, Way};
use crate::principal::{Identity, Principal, PrincipalId};
use crate::request::{Call, Request, Target};
use crate::risk::{Assurance, Risk};
use crate::scope::Scope;
use crate::service::{Candidate, Captures, Service, ServiceOperation};
use crate::snapshot::Snapshot;
use cel::Value;
use chrono::{DateTime, TimeDelta, Utc};
use std::sync::Arc;

/// Clock difference up to which an authentication "in the future" counts as just now.
const SKEW: TimeDelta = TimeDelta::seconds(60);

/// A request with its service and operation found, or the reason why not.
#[derive(Debug)]
pub struct Route<'s, 'r> {
    snapshot: &'s Snapshot,
    request: &'r Request<'r>,
    service: Option<&'s Service>,
    found: Result<Found<'s>, (Reason, Option<Ambiguity>)>,
}

#[derive(Debug)]
struct Found<'s> {
    operation: &'s ServiceOperation,
    captures: Captures,
}

impl Snapshot {
    /// Steps 1 and 2 of a decision: the service and its operation. Takes no lock and does no I/O.
    #[must_use]
    pub fn route<'s, 'r>(&'s self, request: &'r Request<'r>) -> Route<'s, 'r> {
        let service = match request.target {
            Target::Host(authority) => Host::of_authority(authority).ok().and_then(|host| self.by_host(&host)),
            Target::Audience(audience) => self.by_audience(audience),
        };
        let service = service.map(Arc::as_ref);
        let found = match service {
            Some(service) => find(service, &request.call),
            None => Err((Reason::NoPolicy, None)),
        };
        Route { snapshot: self, request, service, found }
    }

    /// The whole decision.
    #[must_use]
    pub fn decide(&self, principal: Option<&Principal>, request: &Request<'_>, now: DateTime<Utc>) -> Decision {
        self.route(request).decide(principal, now)
    }
}

fn find<'s>(service: &'s Service, call: &Call<'_>) -> Result<Found<'s>, (Reason, Option<Ambiguity>)> {
    let found = match call {
        Call::Http { method, path } => service.find(method, path),
        Call::Named { operation, captures } => Ok(service.named(operation).map(|found| (found, captures.clone()))),
        Call::Unclear => Err(Ambiguity::Request),
    };
    match found {
        Ok(Some((operation, captures))) => Ok(Found { operation, captures }),
        Ok(None) => Err((Reason::OperationUndeclared, None)),
        Err(ambiguity) => Err((Reason::AmbiguousPath, Some(ambiguity))),
    }
}

impl<'s> Route<'s, '_> {
    /// Audience and accepted ways in, when who is asking matters: not for a public operation, nor for a request
    /// that is refused whoever asks.
    #[must_use]
    pub fn expects(&self) -> Option<(&'s str, &'s [Way])> {
        let service = self.service?;
        let found = self.found.as_ref().ok()?;
        (!found.operation.operation.public).then_some((&*service.key.audience, &*service.ways))
    }

    /// Audience of the service, once found; the realm of challenges.
    #[must_use]
    pub fn audience(&self) -> Option<&'s str> {
        self.service.map(|service| &*service.key.audience)
    }

    /// What the path captured.
    #[must_use]
    pub fn captures(&self) -> Option<&Captures> {
        self.found.as_ref().ok().map(|found| &found.captures)
    }

    /// Steps 3 to 8 of a decision. Takes no lock and does no I/O.
    #[must_use]
    pub fn decide(&self, principal: Option<&Principal>, now: DateTime<Utc>) -> Decision {
        let found = match &self.found {
            Ok(found) => found,
            Err((reason, ambiguity)) => {
                return Decision { detail: ambiguity.map(|why| why.to_string()), ..self.decision(*reason) };
            }
        };
        let operation = found.operation;
        if operation.operation.public {
            return self.decision(Reason::Public);
        }
        let caller = match principal.map(Principal::identity) {
            None => return self.decision(Reason::Unauthenticated),
            Some(caller) if caller.expires_at.is_some_and(|end| end <= now) => {
                let detail = Some("the credential has ended".to_owned());
                return Decision { detail, ..self.decision(Reason::Unauthenticated) };
            }
            Some(caller) => caller,
        };
        // the first refusal that is enforced counts: one that is only audited must not let pass what another stops
        let too_low = match good_enough(operation, caller, now) {
            Ok(()) => None,
            Err((challenge, detail)) => {
                let challenge = Some(challenge);
                let refusal = Decision { challenge, detail: Some(detail), ..self.decision(Reason::AssuranceTooLow) };
                if operation.mode == Mode::Enforce {
                    return refusal;
                }
                Some(refusal)
            }
        };
        let facts = RequestFacts { route: self, found, caller, now };
        let denied = self.denied(&facts).map(|(denial, detail)| Decision {
            mode: denial.mode,
            rules: vec![Arc::clone(&denial.rule)],
            detail,
            ..self.decision(Reason::Denied)
        });
        match (too_low, denied) {
            (_, Some(denied)) if denied.mode == Mode::Enforce => denied,
            (Some(too_low), _) => too_low,
            (None, Some(denied)) if operation.mode == Mode::Audit => denied,
            (None, denied) => {
                let (rules, missing) = self.granted(&facts);
                if !missing.is_empty() {
                    return Decision { missing, ..self.decision(Reason::InsufficientScope) };
                }
                denied.unwrap_or_else(|| Decision { rules, ..self.decision(Reason::Granted) })
            }
        }
    }

    /// A decision as far as the route says it.
    fn decision(&self, reason: Reason) -> Decision {
        let operation = self.found.as_ref().ok().map(|found| found.operation);
        Decision {
            reason,
            mode: operation.map(|o| o.mode).or_else(|| self.service.map(|s| s.mode)).unwrap_or(Mode::Enforce),
            service: self.service.map(|service| service.key.clone()),
            policy: operation.map(|o| o.policy.clone()),
            operation: operation.map(|o| Arc::clone(&o.operation.name)),
            rules: Vec::new(),
            required: operation.map(|o| Arc::clone(&o.operation.scopes)).unwrap_or_default(),
            missing: Vec::new(),
            challenge: None,
            detail: None,
            revision: self.snapshot.revision(),
        }
    }

    /// The first denial that applies, or whose condition can't be evaluated; one that is only audited counts if none
    /// that is enforced does.
    fn denied(&self, facts: &RequestFacts<'_, '_>) -> Option<(&'s Denial, Option<String>)> {
        let service = self.service?;
        let mut audited = None;
        for number in service.denial_index.concerning(facts.caller) {
            let Some(denial) = service.denials.get(number) else { continue };
            if denial.mode == Mode::Audit && audited.is_some() {
                continue;
            }
            let detail = match condition(denial.when.as_deref(), facts) {
                Truth::False => continue,
                Truth::True => denial.reason.as_ref().map(ToString::to_string),
                Truth::Failed(why) => Some(format!("its condition could not be evaluated: {why}")),
            };
            match denial.mode {
                Mode::Enforce => return Some((denial, detail)),
                Mode::Audit => audited = Some((denial, detail)),
            }
        }
        audited
    }

    /// The grants that carry the request, and the scopes that stay missing.
    fn granted(&self, facts: &RequestFacts<'_, '_>) -> (Vec<Arc<str>>, Vec<Scope>) {
        let required = &facts.found.operation.operation.scopes;
        let grants = self.service.map(|service| service.grants.as_slice()).unwrap_or_default();
        if required.len() > MAX_SCOPES {
            // no bit stands for the scopes beyond; the compiler refuses such an operation anyway
            return (Vec::new(), required.to_vec());
        }
        let (mut wanted, mut rules) = (all_of(required), Vec::new());
        for candidate in facts.found.operation.grants.concerning(facts.caller) {
            if wanted == 0 {
                break;
            }
            let Some(grant) = grants.get(candidate.grant) else { continue };
            let gives = gives(grant, candidate, required, facts.caller) & wanted;
            // the condition comes last, it is the dearest
            if gives != 0 && condition(grant.when.as_deref(), facts) == Truth::True {
                wanted &= !gives;
                rules.push(Arc::clone(&grant.rule));
            }
        }
        (if wanted == 0 { rules } else { Vec::new() }, missing(required, wanted))
    }

    /// Every denial of the service and every grant that could matter to the operation, with what came of it for this
    /// caller. For people who ask why; [`Route::decide`] does not need it.
    #[must_use]
    pub fn considered(&self, principal: &Principal, now: DateTime<Utc>) -> Vec<Considered> {
        let (Some(service), Ok(found)) = (self.service, &self.found) else { return Vec::new() };
        let caller = principal.identity();
        let facts = RequestFacts { route: self, found, caller, now };
        let denials = service.denials.iter().map(|denial| {
            let outcome = match (subject(&denial.to, caller), condition(denial.when.as_deref(), &facts)) {
                (false, _) => Outcome::OtherCallers,
                (true, Truth::False) => Outcome::ConditionDoesNotHold,
                (true, Truth::True) => Outcome::Applies(Vec::new()),
                (true, Truth::Failed(why)) => Outcome::ConditionFailed(why),
            };
            Considered { rule: Arc::clone(&denial.rule), outcome }
        });
        let required = &found.operation.operation.scopes;
        let grants = found.operation.grants.all().into_iter().filter_map(|candidate| {
            let grant = service.grants.get(candidate.grant)?;
            let given = gives(grant, candidate, required, caller);
            let outcome = if !subject(&grant.to, caller) {
                Outcome::OtherCallers
            } else if given == 0 {
                Outcome::TokenLacksScope(missing(required, candidate.gives))
            } else {
                match condition(grant.when.as_deref(), &facts) {
                    Truth::True => Outcome::Applies(missing(required, given)),
                    Truth::False => Outcome::ConditionDoesNotHold,
                    Truth::Failed(why) => Outcome::ConditionFailed(why),
                }
            };
            Some(Considered { rule: Arc::clone(&grant.rule), outcome })
        });
        denials.chain(grants).collect()
    }
}

/// A rule that was looked at for an explanation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Considered {
    /// `<namespace>/<policy>/grants/<name>` or `<namespace>/<policy>/denials/<name>`.
    pub rule: Arc<str>,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It applies; a grant gives these scopes.
    Applies(Vec<Scope>),
    /// It is for other callers.
    OtherCallers,
    /// Its condition does not hold.
    ConditionDoesNotHold,
    /// Its condition could not be evaluated: a denial applies, a grant gives nothing.
    ConditionFailed(String),
    /// The caller's token does not carry these scopes itself, as the grant asks.
    TokenLacksScope(Vec<Scope>),
}

/// Step 5: whether the way in is accepted, and proves enough for the risk.
fn good_enough(operation: &ServiceOperation, caller: &Identity, now: DateTime<Utc>) -> Result<(), (Challenge, String)> {
    let risk = operation.operation.risk;
    let (assurance, max_age) = match risk {
        Risk::Low => (Assurance::SharedSecret, None),
        Risk::Standard => (Assurance::Bearer, None),
        Risk::High if caller.id.is_workload() => (Assurance::ProofOfPossession, None),
        Risk::High => (Assurance::MultiFactor, Some(operation.operation.max_age)),
    };
    let challenge = Challenge { assurance, max_age };
    if !operation.ways.iter().any(|way| way.admits(&caller.id)) {
        return Err((challenge, "the policy of the operation does not accept this way in".to_owned()));
    }
    if caller.assurance < assurance {
        let detail = format!("{risk:?} risk asks for {assurance}, the caller has {}", caller.assurance);
        return Err((challenge, detail));
    }
    let Some(max_age) = max_age else { return Ok(()) };
    match caller.authenticated_at.map(|at| now - at) {
        Some(age) if age <= max_age && age >= -SKEW => Ok(()),
        Some(age) => Err((
            challenge,
            format!("the second factor is {} s old, {} s are accepted", age.num_seconds(), max_age.num_seconds()),
        )),
        None => Err((challenge, "the credential does not say when the second factor was used".to_owned())),
    }
}

fn condition(when: Option<&crate::condition::Condition>, facts: &RequestFacts<'_, '_>) -> Truth {
    when.map_or(Truth::True, |condition| condition.evaluate(facts))
}

fn subject(to: &[Subject], caller: &Identity) -> bool {
    to.iter().any(|subject| subject.includes(caller))
}

/// The scopes of an operation that a grant gives this caller, as bits.
fn gives(grant: &Grant, candidate: Candidate, required: &[Scope], caller: &Identity) -> u64 {
    if !grant.from_token {
        return candidate.gives;
    }
    let Some(own) = &caller.scopes else { return 0 };
    let carried = required.iter().enumerate().take(64).filter(|(_, scope)| own.contains(*scope));
    candidate.gives & carried.fold(0, |bits, (bit, _)| bits | 1 << bit)
}

fn all_of(required: &[Scope]) -> u64 {
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

/// What conditions can see.
struct RequestFacts<'f, 's> {
    route: &'f Route<'s, 'f>,
    found: &'f Found<'s>,
    caller: &'f Identity,
    now: DateTime<Utc>,
}

impl Facts for RequestFacts<'_, '_> {
    fn principal(&self) -> Value {
        let caller = self.caller;
        let (namespace, service_account, subject) = match &caller.id {
            PrincipalId::Workload { namespace, service_account, .. } => (Some(namespace), Some(service_account), None),
            PrincipalId::User { subject, .. } => (None, None, Some(subject)),
            PrincipalId::Key { name, .. } => (None, None, Some(name)),
            PrincipalId::Kube { username } => (None, None, Some(username)),
        };
        let text = |text: &Arc<str>| Value::from(text.as_ref());
        let scopes = caller.scopes.iter().flatten().map(|scope| Value::from(scope.as_str())).collect::<Vec<_>>();
        map([
            ("id", Some(caller.id.to_string().into())),
            ("provider", caller.id.provider().map(Value::from)),
            ("namespace", namespace.map(text)),
            ("serviceAccount", service_account.map(text)),
            ("subject", subject.map(text)),
            ("groups", Some(caller.groups.iter().map(|g| Value::from(g.as_str())).collect::<Vec<_>>().into())),
            ("attributes", Some(json_object(&caller.attributes))),
            ("scopes", Some(scopes.into())),
            ("assurance", Some(caller.assurance.as_str().into())),
            ("authenticatedAt", caller.authenticated_at.map(|at| Value::Timestamp(at.fixed_offset()))),
        ])
    }

    fn request(&self) -> Value {
        let request = self.route.request;
        let (method, path) = match &request.call {
            Call::Http { method, path } => (Some(*method), Some(path.split_once('?').map_or(*path, |(path, _)| path))),
            Call::Named { .. } | Call::Unclear => (None, None),
        };
        let host = match request.target {
            Target::Host(authority) => Host::of_authority(authority).ok().map(|host| Value::from(host.as_str())),
            Target::Audience(_) => None,
        };
        let captures = self.found.captures.iter().map(|(name, text)| (name.as_ref().into(), text.as_ref().into()));
        map([
            ("method", method.map(Value::from)),
            ("path", path.map(Value::from)),
            ("host", host),
            ("operation", Some(self.found.operation.operation.name.as_ref().into())),
            ("captures", Some(cel_map(captures))),
            ("time", Some(Value::Timestamp(self.now.fixed_offset()))),
            ("sourceAddress", request.source.map(|address| address.to_string().into())),
        ])
    }
}

fn cel_map(entries: impl Iterator<Item = (cel::objects::Key, Value)>) -> Value {
    Value::Map(cel::objects::Map { map: Arc::new(entries.collect()) })
}

fn json_object(object: &serde_json::Map<String, serde_json::Value>) -> Value {
    cel_map(object.iter().map(|(name, value)| (name.as_str().into(), json(value))))
}

/// A JSON value in CEL: whole numbers are `int`, others `double`, as CEL's own conversion from JSON has it for the
/// numbers that policies compare.
fn json(value: &serde_json::Value) -> Value {
    match value {
        serde_json::Value::Null => Value::Null,
        serde_json::Value::Bool(truth) => Value::Bool(*truth),
        serde_json::Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => Value::Int(whole),
            (None, Some(real)) => Value::Float(real),
            (None, None) => Value::Null,
        },
        serde_json::Value::String(text) => text.as_str().into(),
        serde_json::Value::Array(items) => items.iter().map(json).collect::<Vec<_>>().into(),
        serde_json::Value::Object(object) => json_object(object),
    }
}
