//! The scopes of access tokens.
//!
//! A service that verifies tokens itself sees nothing but scopes: no path, no source address, no risk. So a token
//! carries the scopes of operations that are open to the caller whatever the request is. It never carries a set of
//! scopes that would open an operation that is closed to the caller. `docs/tokens.md` has examples.

use crate::condition::{Condition, ConditionDependency, ConditionFacts, FactCache, Truth};
use crate::decide::{all_scopes, check_credential, given_scopes, principal_fact};
use crate::labels::Labels;
use crate::path::Captures;
use crate::policy::{CompiledGrant, MAX_SCOPES, TokenSettings};
use crate::principal::{Identity, Principal};
use crate::request::Call;
use crate::risk::RiskLevel;
use crate::scope::Scope;
use crate::service::{CompiledService, ServiceOperation};
use crate::unknown_facts::UnknownFacts;
use crate::work::WorkBudget;
use cel::Value;
use chrono::{DateTime, TimeDelta, Utc};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

/// Scopes that a token may carry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenScopes {
    /// The scopes; empty if the caller gets no token.
    pub scopes: BTreeSet<Scope>,
    /// The latest expiry: the moment at which a person's second factor is too old for an operation that the scopes
    /// open.
    pub valid_until: Option<DateTime<Utc>>,
}

impl CompiledService {
    /// The settings of access tokens for the service.
    #[must_use]
    pub const fn token_settings(&self) -> TokenSettings {
        self.tokens
    }

    /// Maximum age of a second factor at an operation, or at the strictest operation if none is named. `None` if there
    /// is no such operation.
    #[must_use]
    pub fn step_up_age(&self, operation: Option<&str>) -> Option<TimeDelta> {
        let all = self.operations.iter().map(|one| &one.operation);
        match operation {
            Some(name) => self.operation_named(name).map(|one| one.operation.max_age),
            None => all.filter(|one| one.risk == RiskLevel::High).map(|one| one.max_age).min(),
        }
    }

    /// The scopes of an access token for this caller, limited to those `asked` for. Deterministic; takes no lock and
    /// does no I/O.
    ///
    /// An operation is open if [`Snapshot::decide`](crate::snapshot::Snapshot::decide) would allow it at this instant,
    /// whatever else the request contains. Rules that depend on more than the caller, the operation and the time are
    /// unknown here: such a grant gives nothing, and such a denial applies. `Audit` mode adds no scopes. `labels` are
    /// those of the caller's Namespace ([`Snapshot::labels_of`](crate::snapshot::Snapshot::labels_of)).
    #[must_use]
    pub fn token_scopes(
        &self,
        principal: &Principal,
        labels: Option<&Labels>,
        requested: Option<&BTreeSet<Scope>>,
        now: DateTime<Utc>,
    ) -> TokenScopes {
        let caller = principal.identity();
        let Some(rules) = Rules::of(self, caller, labels, now) else { return TokenScopes::default() };
        // requests to the Kubernetes API carry no access token
        let by_token = self.operations.iter().filter(|one| {
            let operation = &one.operation;
            !operation.public && !operation.matches.is_empty() && !operation.scopes.is_empty()
        });
        let (open, closed): (Vec<_>, Vec<_>) = by_token.partition(|operation| rules.open(operation));
        let scopes = |operations: &[&ServiceOperation]| -> BTreeSet<Scope> {
            operations.iter().flat_map(|one| one.operation.scopes.iter().cloned()).collect()
        };
        let mut carried = scopes(&open);
        carried.retain(|scope| requested.is_none_or(|requested| requested.contains(scope)));
        let opens = |carried: &BTreeSet<Scope>, one: &ServiceOperation| {
            one.operation.scopes.iter().all(|scope| carried.contains(scope))
        };
        // scopes alone do not distinguish these operations from open ones
        let confused: Vec<_> = closed.into_iter().filter(|one| opens(&carried, one)).collect();
        let confused = scopes(&confused);
        carried.retain(|scope| !confused.contains(scope));
        let valid_until =
            open.into_iter().filter(|one| opens(&carried, one)).filter_map(|one| factor_expiry(one, caller)).min();
        TokenScopes { scopes: carried, valid_until }
    }
}

/// When a person's second factor becomes too old for an operation.
fn factor_expiry(operation: &ServiceOperation, caller: &Identity) -> Option<DateTime<Utc>> {
    if operation.operation.risk != RiskLevel::High || caller.id.is_workload() {
        return None;
    }
    let caller = caller.at_operation(&operation.operation.name);
    caller.authenticated_at?.checked_add_signed(operation.operation.max_age)
}

/// The rules that apply to a caller, as far as they don't depend on the operation.
struct Rules<'s> {
    service: &'s CompiledService,
    caller: &'s Identity,
    labels: Option<&'s Labels>,
    now: DateTime<Utc>,
    /// Conditions of denials that depend on the operation.
    denials: Vec<&'s Condition>,
    /// Whether a grant applies. Grants that depend on the operation are missing.
    grants: BTreeMap<usize, bool>,
    /// The budget of the whole token.
    work: WorkBudget,
}

impl<'s> Rules<'s> {
    /// `None` if a denial applies, or may apply, to every operation.
    fn of(
        service: &'s CompiledService,
        caller: &'s Identity,
        labels: Option<&'s Labels>,
        now: DateTime<Utc>,
    ) -> Option<Self> {
        if caller.expires_at.is_some_and(|end| end <= now) {
            return None;
        }
        let mut rules = Self {
            service,
            caller,
            labels,
            now,
            denials: Vec::new(),
            grants: BTreeMap::new(),
            work: WorkBudget::default(),
        };
        for number in service.denial_index.possibly_matching(caller, labels) {
            let when = service.denials.get(number)?.when.as_deref()?;
            match when.dependency() {
                ConditionDependency::Operation => rules.denials.push(when),
                ConditionDependency::Caller if rules.holds(when, None) == Truth::False => {}
                ConditionDependency::Caller | ConditionDependency::Request => return None,
            }
        }
        for (number, grant) in service.grants.iter().enumerate() {
            // the pattern is exhaustive: every new field of a grant has to be considered for tokens
            let CompiledGrant { rule: _, to, scopes: _, from_token: _, when, relation } = &**grant;
            // only a request says which object a relation is about
            let applies = relation.is_none() && to.iter().any(|subject| subject.includes(caller, labels));
            match when.as_deref().map(|when| (when, when.dependency())) {
                Some((when, ConditionDependency::Caller)) if applies => {
                    rules.grants.insert(number, rules.holds(when, None) == Truth::True);
                }
                Some((_, ConditionDependency::Operation)) if applies => {}
                Some((_, ConditionDependency::Request)) => drop(rules.grants.insert(number, false)),
                _ => drop(rules.grants.insert(number, applies)),
            }
        }
        Some(rules)
    }

    /// Whether an operation is open to the caller, whatever else the request contains.
    fn open(&self, operation: &ServiceOperation) -> bool {
        let required = &operation.operation.scopes;
        let name = &operation.operation.name;
        let call = Call::Named { operation: name, captures: Captures::new() };
        let caller = &*self.caller.at_operation(name);
        // a token outlives an approval, and a service that reads scopes alone does not see approvals
        if operation.operation.approval.is_some()
            || required.len() > MAX_SCOPES
            || check_credential(operation, caller, &call, self.now).is_err()
            || self.denials.iter().any(|when| self.holds(when, Some(name)) != Truth::False)
        {
            return false;
        }
        let mut needed = all_scopes(required);
        for candidate in operation.grants.matching(self.caller, self.labels) {
            let Some(grant) = self.service.grants.get(candidate.grant) else { continue };
            let applies = self.grants.get(&candidate.grant).copied().unwrap_or_else(|| {
                grant.when.as_deref().is_some_and(|when| self.holds(when, Some(name)) == Truth::True)
            });
            if applies {
                needed &= !given_scopes(grant, candidate, required, caller);
            }
        }
        needed == 0
    }

    fn holds(&self, when: &Condition, operation: Option<&str>) -> Truth {
        let caller = operation.map_or(Cow::Borrowed(self.caller), |operation| self.caller.at_operation(operation));
        let facts = TokenFacts { caller: &caller, operation, now: self.now, cache: FactCache::default() };
        when.evaluate(&facts, &self.work)
    }
}

/// The facts that are known without a request.
struct TokenFacts<'f> {
    caller: &'f Identity,
    operation: Option<&'f str>,
    now: DateTime<Utc>,
    cache: FactCache,
}

impl ConditionFacts for TokenFacts<'_> {
    fn cache(&self) -> &FactCache {
        &self.cache
    }

    fn principal(&self, field: &str) -> Option<Value> {
        principal_fact(self.caller, field)
    }

    fn unknown(&self) -> Option<&UnknownFacts> {
        Some(&self.caller.unknown)
    }

    fn request(&self, field: &str) -> Option<Value> {
        match field {
            "operation" => self.operation.map(Value::from),
            "time" => Some(Value::Timestamp(self.now.fixed_offset())),
            _ => None,
        }
    }
}
