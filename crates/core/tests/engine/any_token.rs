//! Random policies and callers: a token never allows a request that a decision denies.

use crate::any_world::{REQUESTS, any_known_caller, any_policies};
use crate::support::*;
use durward_core::principal::{Identity, Principal};
use durward_core::scope::Scope;
use durward_core::token::TokenScopes;
use proptest::prelude::*;
use std::collections::BTreeSet;

/// The scopes of a token for this caller; empty without a service.
fn token(
    snapshot: &durward_core::snapshot::Snapshot,
    caller: &Identity,
    requested: Option<&BTreeSet<Scope>>,
) -> TokenScopes {
    let service = snapshot.by_audience("orders.shop").expect("a service");
    service.token_scopes(&Principal::assumed(caller.clone()), None, requested, now())
}

fn any_requested_scopes() -> impl Strategy<Value = Option<BTreeSet<Scope>>> {
    let requested = proptest::sample::subsequence(vec!["r", "s", "t", "u"], 0..5);
    proptest::option::of(requested.prop_map(|requested| scopes(&requested).into_iter().collect()))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(384) })]

    #[test]
    fn a_token_opens_only_what_a_decision_allows(
        policies in any_policies(),
        caller in any_known_caller(),
        requested in any_requested_scopes(),
    ) {
        let snapshot = world(policies);
        let token = token(&snapshot, &caller, requested.as_ref());
        prop_assert!(requested.is_none_or(|requested| token.scopes.is_subset(&requested)));
        // the decision of Durward's own enforcement points for the token
        let narrowed = Identity { scopes: Some(token.scopes.clone()), narrowed: true, ..caller.clone() };
        for request in REQUESTS {
            let decision = ask(&snapshot, Some(&caller), request);
            let opened =
                !decision.required.is_empty() && decision.required.iter().all(|scope| token.scopes.contains(scope));
            prop_assert!(!opened || decision.allowed(), "{request} with {token:?}: {decision:#?}");
            let through = ask(&snapshot, Some(&narrowed), request);
            prop_assert!(
                !through.allowed() || decision.allowed() || decision.required.is_empty(),
                "{request}: {through:#?}"
            );
        }
    }

    #[test]
    fn a_token_exchanged_again_carries_no_more(
        policies in any_policies(),
        caller in any_known_caller(),
        requested in any_requested_scopes(),
        again in any_requested_scopes(),
    ) {
        let snapshot = world(policies);
        let first = token(&snapshot, &caller, requested.as_ref());
        let narrowed = Identity { scopes: Some(first.scopes.clone()), narrowed: true, ..caller };
        let second = token(&snapshot, &narrowed, again.as_ref());
        prop_assert!(second.scopes.is_subset(&first.scopes), "{first:?} was exchanged for {second:?}");
    }

    #[test]
    fn equal_input_gives_an_equal_token(
        policies in any_policies(),
        caller in any_known_caller(),
        requested in any_requested_scopes(),
    ) {
        let (snapshot, again) = (world(policies.clone()), world(policies));
        prop_assert_eq!(token(&snapshot, &caller, requested.as_ref()), token(&again, &caller, requested.as_ref()));
    }
}
