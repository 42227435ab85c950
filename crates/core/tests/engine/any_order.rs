//! The order of rules and operations never changes a decision.

use crate::any_world::{REQUESTS, any_caller, any_policies};
use crate::support::*;
use durward_core::policy::Policy;
use proptest::prelude::*;
use std::sync::Arc;

fn shuffled(policies: Vec<Policy>) -> impl Strategy<Value = (Vec<Policy>, Vec<Policy>)> {
    let each: Vec<_> = policies
        .iter()
        .cloned()
        .map(|policy| {
            let parts = (
                Just(policy.operations.clone()).prop_shuffle(),
                Just(policy.grants.clone()).prop_shuffle(),
                Just(policy.denials.clone()).prop_shuffle(),
            );
            parts.prop_map(move |(mut operations, mut grants, denials)| {
                operations.iter_mut().for_each(|operation| Arc::make_mut(operation).matches.reverse());
                grants.iter_mut().for_each(|grant| Arc::make_mut(&mut Arc::make_mut(grant).to).reverse());
                Policy { operations, grants, denials, ..policy.clone() }
            })
        })
        .collect();
    each.prop_flat_map(|policies| Just(policies).prop_shuffle()).prop_map(move |other| (policies.clone(), other))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(192) })]

    #[test]
    fn order_never_changes_a_decision(
        (policies, other) in any_policies().prop_flat_map(shuffled),
        caller in any_caller(),
    ) {
        let (one, other) = (world(policies), world(other));
        for request in REQUESTS {
            let (one, other) = (ask(&one, caller.as_ref(), request), ask(&other, caller.as_ref(), request));
            prop_assert_eq!(one, other, "{}", request);
        }
    }
}
