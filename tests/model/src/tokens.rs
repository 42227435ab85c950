//! The scopes of access tokens: `docs/tokens.md`, "Which scopes".

use crate::conditions::{ConditionInput, ConditionScope, condition, holds};
use crate::decision::{ReferenceModel, accepts, at_operation, given, grants_in_order, is_strong_enough, needed};
use crate::subjects::{Belongs, belongs};
use chrono::{DateTime, Utc};
use durward_api::resources::{AccessPolicy, Operation};
use durward_core::principal::Identity;
use std::collections::{BTreeMap, BTreeSet};

/// Whether an operation declares other requests than those to the Kubernetes API.
#[must_use]
pub const fn is_called_by_http(operation: &Operation) -> bool {
    !operation.http.is_empty() || !operation.grpc.is_empty()
}

impl ReferenceModel<'_> {
    /// The scopes of all operations that are open to the caller, without those that would open one that is closed.
    #[must_use]
    pub fn token_scopes(
        &self,
        audience: &str,
        caller: &Identity,
        requested: Option<&BTreeSet<String>>,
        now: DateTime<Utc>,
    ) -> BTreeSet<String> {
        let service = self.service(audience);
        let declared = service.iter().flat_map(|policy| policy.spec.operations.iter().map(move |one| (*policy, one)));
        let by_token = declared.filter(|(_, one)| !one.public && is_called_by_http(one));
        let (open, closed): (Vec<_>, Vec<_>) =
            by_token.partition(|(policy, operation)| self.is_open(&service, policy, operation, caller, now));
        let mut scopes: BTreeSet<String> = open.iter().flat_map(|(_, operation)| needed(operation)).collect();
        scopes.retain(|scope| requested.is_none_or(|requested| requested.contains(scope)));
        let opened = closed.iter().map(|(_, operation)| needed(operation)).filter(|needed| needed.is_subset(&scopes));
        let confused: BTreeSet<String> = opened.flatten().collect();
        scopes.difference(&confused).cloned().collect()
    }

    /// Whether a decision would allow the operation now, whatever else the request says.
    fn is_open(
        &self,
        service: &[&AccessPolicy],
        policy: &AccessPolicy,
        operation: &Operation,
        caller: &Identity,
        now: DateTime<Utc>,
    ) -> bool {
        let caller = &at_operation(caller, &operation.name);
        let captures = BTreeMap::new();
        let input = ConditionInput { caller, operation: &operation.name, captures: &captures, request: None, now };
        // what depends on more of the request is not known here
        let known = |when: Option<&str>| match when {
            Some(text) if condition(text).scope == ConditionScope::Request => None,
            when => holds(when, &input),
        };
        let denied = service.iter().flat_map(|policy| &policy.spec.denials).any(|denial| {
            belongs(self.world, &denial.to, caller) != Belongs::No && known(denial.when.as_deref()) != Some(false)
        });
        let mut missing = needed(operation);
        for (_, policy, grant) in grants_in_order(service) {
            if grant.relation.is_none()
                && belongs(self.world, &grant.to, caller) == Belongs::Yes
                && known(grant.when.as_deref()) == Some(true)
            {
                missing = missing.difference(&given(policy, grant, caller)).cloned().collect();
            }
        }
        caller.expires_at.is_none_or(|end| now < end)
            && operation.approval.is_none()
            && accepts(policy, caller)
            && is_strong_enough(operation, caller, now)
            && !denied
            && missing.is_empty()
    }
}
