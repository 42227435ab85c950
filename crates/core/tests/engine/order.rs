//! The order of the steps of a decision: each step decides only if no earlier one did.

use crate::support::*;
use durward_core::authentication::{AuthenticationMethod, Challenge};
use durward_core::decision::{Decision, Reason};
use durward_core::policy::{CompiledGrant, CompiledOperation, EnforcementMode, Policy};
use durward_core::principal::Identity;
use durward_core::request::{Call, Request, ServiceTarget};
use durward_core::risk::Assurance;

/// The common fields of every decision about `list`.
fn about_list(reason: Reason) -> Decision {
    Decision {
        reason,
        mode: EnforcementMode::Enforce,
        service: Some(service_key()),
        policy: Some(orders().key),
        operation: Some("list".into()),
        rules: Vec::new(),
        required: scopes(&["read"]).into(),
        missing: Vec::new(),
        challenge: None,
        approval: None,
        detail: None,
        evaluated: Vec::new(),
        exhausted: None,
        revision: world([orders()]).revision(),
    }
}

fn unrouted(reason: Reason) -> Decision {
    Decision { policy: None, operation: None, required: [].into(), ..about_list(reason) }
}

#[test]
fn a_granted_request_names_its_grant() {
    let expected = Decision { rules: vec!["shop/orders/grants/staff".into()], ..about_list(Reason::Granted) };
    assert_eq!(ask(&world([orders()]), Some(&alice()), "GET /orders/42?x=1"), expected);
}

#[test]
fn an_unknown_service_is_denied_first() {
    let snapshot = world([orders()]);
    for target in
        [ServiceTarget::Host("invoices.shop.svc"), ServiceTarget::Host("not a host"), ServiceTarget::Audience("orders")]
    {
        let request = Request { target, ..http("GET /../orders") };
        let expected = Decision { service: None, ..unrouted(Reason::NoPolicy) };
        assert_eq!(decide(&snapshot, None, &request, now()), expected);
    }
}

#[test]
fn an_ambiguous_path_is_denied_before_the_operation() {
    for (request, detail) in [
        ("GET /orders//42", "the path has an empty segment or ends with `/`"),
        ("GET /orders/", "the path has an empty segment or ends with `/`"),
        ("GET /healthz/../orders", "the path has a dot segment, or a segment that ends with a dot or a space"),
        (
            "GET /Orders",
            "some frameworks take the path for a declared one: it differs only in case, spaces, characters that look alike, or a \
             format such as `.json`",
        ),
        ("get /orders", "the method is not a token in upper case"),
    ] {
        let expected = Decision { detail: Some(detail.to_owned()), ..unrouted(Reason::AmbiguousPath) };
        assert_eq!(ask(&world([orders()]), Some(&alice()), request), expected, "{request}");
    }
}

#[test]
fn a_contradictory_request_is_ambiguous() {
    let request = Request { call: Call::Ambiguous, ..http("GET /healthz") };
    let decision = decide(&world([orders()]), Some(&alice()), &request, now());
    let detail = Some("the request is ambiguous".to_owned());
    assert_eq!(decision, Decision { detail, ..unrouted(Reason::AmbiguousPath) });
}

#[test]
fn an_undeclared_operation_is_denied_to_every_caller() {
    let snapshot = world([orders()]);
    for request in ["DELETE /orders/42", "GET /orders/42/refund", "GET /", "POST /healthz", "GET /orders/42/lines"] {
        for caller in [None, Some(&alice())] {
            assert_eq!(ask(&snapshot, caller, request), unrouted(Reason::OperationUndeclared), "{request}");
        }
    }
}

#[test]
fn a_public_operation_needs_no_caller() {
    let every_caller = denial("everybody", &["*"]);
    let snapshot =
        world([Policy { denials: each([every_caller]), authentication_methods: Default::default(), ..orders() }]);
    let expected = Decision { operation: Some("health".into()), required: [].into(), ..about_list(Reason::Public) };
    for caller in [None, Some(&alice())] {
        assert_eq!(ask(&snapshot, caller, "GET /healthz"), expected);
    }
}

#[test]
fn a_missing_caller_is_unauthenticated() {
    let snapshot = world([Policy {
        denials: each([denial("everybody", &["*"])]),
        authentication_methods: Default::default(),
        ..orders()
    }]);
    assert_eq!(ask(&snapshot, None, "GET /orders"), about_list(Reason::Unauthenticated));
}

#[test]
fn an_expired_credential_is_unauthenticated() {
    let snapshot = world([orders()]);
    for (left, reason) in [(-1, Reason::Unauthenticated), (0, Reason::Unauthenticated), (1, Reason::Granted)] {
        let caller = Identity { expires_at: Some(now() + chrono::TimeDelta::seconds(left)), ..alice() };
        let decision = ask(&snapshot, Some(&caller), "GET /orders");
        assert_eq!(decision.reason, reason, "{left} s left");
        assert_eq!(decision.detail.is_some(), reason == Reason::Unauthenticated);
    }
}

#[test]
fn the_authentication_method_is_checked_before_denials_and_grants() {
    let authentication_methods =
        [AuthenticationMethod::Workload, AuthenticationMethod::Provider("partners".into())].into();
    let snapshot = world([Policy { denials: each([denial("everybody", &["*"])]), authentication_methods, ..orders() }]);
    let expected = Decision {
        challenge: Some(Challenge { assurance: Assurance::Bearer, max_age: None }),
        detail: Some("the policy of the operation does not accept this authentication method".to_owned()),
        ..about_list(Reason::AssuranceTooLow)
    };
    assert_eq!(ask(&snapshot, Some(&alice()), "GET /orders"), expected);
}

#[test]
fn a_policy_without_methods_allows_no_caller() {
    let snapshot = world([Policy { authentication_methods: Default::default(), ..orders() }]);
    for caller in [alice(), caller("spiffe://cluster.local/ns/shop/sa/cart", Assurance::ProofOfPossession)] {
        assert_eq!(ask(&snapshot, Some(&caller), "GET /orders").reason, Reason::AssuranceTooLow);
    }
}

#[test]
fn a_denial_wins_over_every_grant() {
    let everything = grant("everything", &["*", "@corporate", "user:corporate/alice"], &["read", "refund"]);
    let denials = vec![durward_core::policy::CompiledDenial {
        reason: Some("on leave".into()),
        ..denial("leave", &["@corporate"])
    }];
    let snapshot = world([Policy { grants: each([everything]), denials: each(denials), ..orders() }]);
    let expected = Decision {
        rules: vec!["shop/orders/denials/leave".into()],
        detail: Some("on leave".to_owned()),
        ..about_list(Reason::Denied)
    };
    assert_eq!(ask(&snapshot, Some(&alice()), "GET /orders"), expected);
}

#[test]
fn missing_and_required_scopes_are_named() {
    let snapshot = world([orders()]);
    let expected = Decision {
        operation: Some("refund".into()),
        required: scopes(&["read", "refund"]).into(),
        missing: scopes(&["refund"]),
        ..about_list(Reason::InsufficientScope)
    };
    assert_eq!(ask(&snapshot, Some(&alice()), "POST /orders/42/refund"), expected);
    let bob = caller("user:corporate/bob", Assurance::Bearer);
    let expected = Decision { missing: scopes(&["read"]), ..about_list(Reason::InsufficientScope) };
    assert_eq!(ask(&snapshot, Some(&bob), "GET /orders"), expected);
}

#[test]
fn an_empty_snapshot_denies() {
    let decision = ask(&durward_core::snapshot::Snapshot::default(), Some(&alice()), "GET /healthz");
    assert_eq!((decision.reason, decision.passes()), (Reason::NoPolicy, false));
}

#[test]
fn an_operation_without_scopes_still_needs_a_caller() {
    let open = CompiledOperation { scopes: [].into(), ..operation("open", &["GET /open"], &[]) };
    let snapshot = world([Policy { operations: each([open]), ..policy("orders") }]);
    assert_eq!(ask(&snapshot, None, "GET /open").reason, Reason::Unauthenticated);
    let decision = ask(&snapshot, Some(&alice()), "GET /open");
    assert_eq!((decision.reason, decision.rules), (Reason::Granted, Vec::new()));
}

#[test]
fn grants_add_up_and_only_needed_ones_are_named() {
    let grants: Vec<CompiledGrant> = vec![
        grant("z-refund", &["@corporate"], &["refund"]),
        grant("a-read", &["user:corporate/alice"], &["read"]),
        grant("b-read-too", &["*"], &["read"]),
        grant("c-other", &["*"], &["other"]),
    ];
    let decision = ask(&world([Policy { grants: each(grants), ..orders() }]), Some(&alice()), "POST /orders/42/refund");
    assert_eq!(decision.reason, Reason::Granted);
    let rules: Vec<&str> = decision.rules.iter().map(AsRef::as_ref).collect();
    assert_eq!(rules, ["shop/orders/grants/a-read", "shop/orders/grants/z-refund"]);
}
