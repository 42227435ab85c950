//! A closed service: the version of one of its policies is unknown. Every request is denied, regardless of the other
//! policies.

use crate::support::*;
use durward_core::decision::Reason;
use durward_core::digest::Digest;
use durward_core::kubernetes::{ApiCall, ApiPattern, Verb};
use durward_core::labels::LabelMatcher;
use durward_core::path::Captures;
use durward_core::pods::NotEntitled;
use durward_core::policy::{CompiledOperation, EnforcementMode, Policy, ServicePods};
use durward_core::principal::Principal;
use durward_core::request::{Call, Request, ServiceTarget};
use durward_core::rights::CallerSet;
use durward_core::risk::Assurance;
use durward_core::snapshot::Snapshot;
use std::collections::BTreeMap;

fn pattern(resource: &str, subresource: &str) -> ApiPattern {
    let (resource, subresource) = (Some(resource.into()), Some(subresource.into()));
    ApiPattern { group: Some("".into()), resource, subresource, verb: None }
}

/// A placeholder for a version of `shop/lost`, which governed `pods/exec` and policies.
fn placeholder() -> Policy {
    let policies = ApiPattern { group: None, resource: None, subresource: None, verb: None };
    Policy {
        forgotten: Some(vec![pattern("pods", "exec"), policies]),
        digest: Digest::of([b"lost".as_slice()]),
        ..policy("lost")
    }
}

fn call<'c>(group: &'c str, resource: &'c str, subresource: &'c str, name: &'c str) -> ApiCall<'c> {
    ApiCall { group, resource, subresource, verb: Verb::Update, name }
}

#[test]
fn every_request_is_denied_and_the_detail_names_the_policy() {
    let open = world([orders()]);
    assert!(ask(&open, Some(&alice()), "GET /orders").allowed() && ask(&open, None, "GET /healthz").allowed());
    let closed = world([orders(), placeholder()]);
    for (caller, request) in [
        (Some(alice()), "GET /orders"),
        (None, "GET /orders"),
        (None, "GET /healthz"),
        (Some(alice()), "GET /other"),
        (Some(alice()), "GET /a//b"),
    ] {
        let decision = ask(&closed, caller.as_ref(), request);
        assert_eq!((decision.reason, decision.passes()), (Reason::NoPolicy, false), "{request}");
        assert_eq!(decision.policy.as_ref().map(ToString::to_string).as_deref(), Some("shop/lost"));
        assert_eq!(decision.service, Some(service_key()), "the service is known");
        assert!(
            decision.detail.as_ref().is_some_and(|why| why.contains("fix or remove policy shop/lost")),
            "{decision:?}"
        );
        assert_eq!(decision, ask(&closed, caller.as_ref(), request), "the same again");
    }
    let named = Call::Named { operation: "list", captures: Captures::new() };
    let request = Request { target: ServiceTarget::Audience("orders.shop"), call: named, source: None, evidence: &() };
    assert_eq!(decide(&closed, Some(&alice()), &request, now()).reason, Reason::NoPolicy);
    assert_ne!(open.revision(), closed.revision(), "another content has another revision");
}

#[test]
fn other_policies_in_audit_mode_let_no_request_through() {
    let audits = Policy { mode: EnforcementMode::Audit, ..orders() };
    assert!(ask(&world([audits.clone()]), None, "GET /orders").passes());
    let left = Policy { mode: EnforcementMode::Audit, ..placeholder() };
    for closed in [world([audits.clone(), placeholder()]), world([audits, left])] {
        assert!(!ask(&closed, None, "GET /orders").passes() && !ask(&closed, None, "GET /nowhere").passes());
    }
}

#[test]
fn a_closed_service_has_no_tokens_and_no_operations() {
    let closed = world([orders(), placeholder()]);
    let service = closed.by_audience("orders.shop").unwrap();
    assert_eq!(service.closed_by().iter().map(ToString::to_string).collect::<Vec<_>>(), ["shop/lost"]);
    let alice = Principal::assumed(alice());
    assert!(service.token_scopes(&alice, None, None, now()).scopes.is_empty());
    assert!(closed.rights(&CallerSet::Anonymous, "cluster.local").is_empty());
    assert!(closed.who_can("list", None).is_empty());
    assert_eq!((service.operations(), service.declared_operations().count()), (0, 0));
}

#[test]
fn governed_kubernetes_requests_stay_governed_and_are_denied() {
    let shells =
        CompiledOperation { kubernetes: vec![pattern("pods", "attach")], ..operation("attach", &[], &["read"]) };
    let shells = Policy { operations: each([shells]), ..orders() };
    let narrow = Policy { forgotten: Some(vec![pattern("pods", "exec")]), ..placeholder() };
    let closed = world([shells, narrow]);
    let governing =
        |snapshot: &Snapshot, namespace: &str, call: ApiCall<'_>| snapshot.governing(namespace, &call).count();
    for subresource in ["exec", "attach"] {
        let call = call("", "pods", subresource, "web");
        assert_eq!(governing(&closed, "shop", call), 1, "{subresource}");
        let caller = Principal::assumed(caller("user:corporate/alice", Assurance::PhishingResistant));
        let request = Request {
            target: ServiceTarget::Audience("orders.shop"),
            call: Call::Kubernetes(call),
            source: None,
            evidence: &(),
        };
        let decision = closed.decide(Some(&caller), &request, now());
        assert_eq!((decision.reason, decision.passes()), (Reason::NoPolicy, false), "{subresource}");
    }
    // other requests and other namespaces are not governed
    assert_eq!(governing(&closed, "shop", call("", "pods", "portforward", "web")), 0);
    assert_eq!(governing(&closed, "farm", call("", "pods", "exec", "web")), 0);
    assert_eq!(closed.governed_namespaces().map(|(namespace, _)| &**namespace).collect::<Vec<_>>(), ["shop"]);
}

#[test]
fn only_the_policy_that_closes_a_service_can_be_changed() {
    let closed = world([orders(), placeholder()]);
    let governed = |group: &str, resource: &str, name: &str| {
        closed.governing("shop", &call(group, resource, "", name)).next().is_some()
    };
    assert!(!governed("durward.dev", "accesspolicies", "lost"), "a fixed policy must be able to open the service");
    assert!(governed("durward.dev", "accesspolicies", "orders"));
    assert!(governed("durward.dev", "accesspolicies", ""), "a collection, or a generated name");
    assert!(governed("durward.dev", "relationships", "lost"));
    assert!(governed("other.dev", "accesspolicies", "lost"));
    assert!(governed("", "configmaps", "lost"));
}

#[test]
fn pods_stay_entitled_unless_denied_by_name() {
    const CART: &str = "spiffe://cluster.local/ns/shop/sa/cart";
    let pods =
        ServicePods { selector: LabelMatcher::default(), ttl: durward_core::pods::DEFAULT_TTL, dns_names: Vec::new() };
    let orders = Policy { pods: Some(pods), ..orders() };
    let minted = |lost: Policy| {
        let snapshot = world([orders.clone(), lost]);
        snapshot
            .certificate_entitlement(&id(CART), "shop", &BTreeMap::new())
            .map(|entitlement| entitlement.policy_names())
    };
    assert_eq!(minted(placeholder()), Ok("shop/orders".to_owned()), "an identity does not depend on rights");
    let denied = Policy { denials: each([denial("stop", &[CART])]), ..placeholder() };
    assert_eq!(minted(denied), Err(NotEntitled::Denied("shop/orders/denials/stop".into())));
}

#[test]
fn the_service_opens_again_without_the_unknown_policy() {
    let mut snapshot = world([orders(), placeholder()]);
    snapshot.put(durward_core::service::CompiledService::unite(&[std::sync::Arc::new(orders())]).0.unwrap());
    assert!(ask(&snapshot, Some(&alice()), "GET /orders").allowed());
    assert_eq!(snapshot.governed_namespaces().count(), 0);
}
