//! Approvals: each allows only one operation to one principal for a limited time.

use crate::any_world::{REQUESTS, any_known_caller, any_policies};
use crate::support::*;
use chrono::TimeDelta;
use durward_core::approval::{
    ApprovalRequirement, ApprovalSubject, ApproverRejection, GrantedApproval, MAX_FACTOR_AGE,
};
use durward_core::decision::{Decision, Reason};
use durward_core::namespaced_name::NamespacedName;
use durward_core::policy::{CompiledOperation, EnforcementMode, Policy};
use durward_core::principal::{Identity, Principal};
use durward_core::risk::{Assurance, RiskLevel};
use durward_core::snapshot::Snapshot;
use proptest::prelude::*;
use proptest::sample::select;
use std::sync::Arc;

const CART: &str = "spiffe://cluster.local/ns/shop/sa/cart";
const ONCALL: &str = "user:corporate/oncall";

fn approvers() -> ApprovalRequirement {
    ApprovalRequirement {
        approvers: vec![subject("oncall@corporate")],
        valid_for: TimeDelta::minutes(30),
        policy_uid: "u1".into(),
    }
}

/// `purge` requires an approval, `list` does not. The cart service has the scopes of both.
fn purging(mode: EnforcementMode) -> Policy {
    let purge = CompiledOperation {
        risk: RiskLevel::High,
        approval: Some(Arc::new(approvers())),
        ..operation("purge", &["DELETE /orders"], &["purge"])
    };
    let grants = vec![grant("cart", &[CART], &["purge", "read"])];
    Policy {
        operations: each([purge, operation("list", &["GET /orders"], &["read"])]),
        grants: each(grants),
        mode,
        ..policy("orders")
    }
}

fn cart() -> Identity {
    caller(CART, Assurance::ProofOfPossession)
}

fn approval_subject(operation: &str, principal: &str) -> ApprovalSubject {
    ApprovalSubject {
        policy: NamespacedName { namespace: "shop".into(), name: "orders".into() },
        policy_uid: "u1".into(),
        operation: operation.into(),
        principal: id(principal),
    }
}

fn granted_for(from: i64, until: i64) -> GrantedApproval {
    let at = |seconds| now() + TimeDelta::seconds(seconds);
    GrantedApproval { approved_by: id(ONCALL), from: at(from), until: at(until) }
}

fn approved(mut snapshot: Snapshot, all: impl IntoIterator<Item = (ApprovalSubject, GrantedApproval)>) -> Snapshot {
    all.into_iter().for_each(|(approval_subject, granted)| snapshot.put_approval(approval_subject, Some(granted)));
    snapshot.update_revision();
    snapshot
}

#[test]
fn a_request_that_lacks_only_an_approval_gets_that_reason() {
    let snapshot = world([purging(EnforcementMode::Enforce)]);
    let refused = ask(&snapshot, Some(&cart()), "DELETE /orders");
    assert_eq!((refused.reason, refused.passes()), (Reason::ApprovalRequired, false));
    let required = refused.approval.expect("the decision contains the approval");
    assert_eq!((&required.subject, &required.granted), (&approval_subject("purge", CART), &None));
    // a caller without the scope gets that reason, and no hint of the approval
    let other = caller("spiffe://cluster.local/ns/shop/sa/other", Assurance::ProofOfPossession);
    let weak = caller(CART, Assurance::Bearer);
    for (who, reason) in [
        (Some(&other), Reason::InsufficientScope),
        (Some(&weak), Reason::AssuranceTooLow),
        (None, Reason::Unauthenticated),
    ] {
        let decision = ask(&snapshot, who, "DELETE /orders");
        assert_eq!((decision.reason, decision.approval), (reason, None));
    }
    assert_eq!(ask(&snapshot, Some(&cart()), "GET /orders").approval, None);
    let audited = ask(&world([purging(EnforcementMode::Audit)]), Some(&cart()), "DELETE /orders");
    assert_eq!((audited.reason, audited.passes()), (Reason::ApprovalRequired, true));
}

#[test]
fn an_approval_is_valid_within_its_time_and_the_policys_limit() {
    let is_valid = |from: i64, until: i64| {
        let snapshot = approved(
            world([purging(EnforcementMode::Enforce)]),
            [(approval_subject("purge", CART), granted_for(from, until))],
        );
        let decision = ask(&snapshot, Some(&cart()), "DELETE /orders");
        let carried = decision.approval.and_then(|approval| approval.granted);
        assert_eq!(decision.reason == Reason::Granted, carried == Some(granted_for(from, until)));
        decision.reason == Reason::Granted
    };
    for (from, until, expected) in [
        (-1, 1, true),
        (0, 1, true),
        (1, 60, false),
        (-60, 0, false),
        (-1799, 1, true),
        // the policy now limits approvals to half an hour; an earlier limit does not matter
        (-1800, 3600, false),
    ] {
        assert_eq!(is_valid(from, until), expected, "{from} to {until}");
    }
}

#[test]
fn an_approval_is_part_of_the_revision() {
    let plain = world([purging(EnforcementMode::Enforce)]);
    let (first, other) = (
        approved(plain.clone(), [(approval_subject("purge", CART), granted_for(0, 60))]),
        world([purging(EnforcementMode::Enforce)]),
    );
    assert_ne!(first.revision(), plain.revision());
    assert_eq!(approved(other, [(approval_subject("purge", CART), granted_for(0, 60))]).revision(), first.revision());
    let mut withdrawn = first.clone();
    withdrawn.put_approval(approval_subject("purge", CART), None);
    withdrawn.update_revision();
    assert_eq!(withdrawn.revision(), plain.revision());
}

#[test]
fn approval_names_are_valid_and_distinct() {
    let name = approval_subject("purge", CART).approval_name();
    assert!(name.starts_with("purge-") && name.len() == "purge-".len() + 32, "{name}");
    assert_eq!(name, approval_subject("purge", CART).approval_name());
    let policy = |name: &str, namespace: &str| ApprovalSubject {
        policy: NamespacedName { namespace: namespace.into(), name: name.into() },
        ..approval_subject("purge", CART)
    };
    for other in [
        approval_subject("purge", ONCALL),
        approval_subject("list", CART),
        policy("other", "shop"),
        policy("orders", "bank"),
        ApprovalSubject { policy_uid: "u2".into(), ..approval_subject("purge", CART) },
    ] {
        assert_ne!(other.approval_name(), name, "{other:?}");
    }
    for operation in ["_", "Purge_Everything.now-that-is-a-very-long-name-for-an-operation", "..."] {
        let name = approval_subject(operation, CART).approval_name();
        let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        assert!(name.len() <= 63 && name.bytes().all(good) && !name.starts_with('-'), "{name}");
    }
}

#[test]
fn approvers_need_a_fresh_second_factor_and_another_requester() {
    let person = |name: &str, groups: &[&str], assurance, age: Option<i64>| {
        Principal::assumed(Identity {
            groups: groups.iter().map(|group| (*group).to_owned()).collect(),
            authenticated_at: age.map(|age| now() - TimeDelta::seconds(age)),
            ..caller(name, assurance)
        })
    };
    let oncall = |assurance, age| person(ONCALL, &["oncall"], assurance, age);
    let decide = |who: &Principal, requester: &str| approvers().may_decide(who, &id(requester), now());
    let old = MAX_FACTOR_AGE.num_seconds() + 1;
    let multi = Assurance::MultiFactor;
    for assurance in [multi, Assurance::PhishingResistant] {
        assert_eq!(decide(&oncall(assurance, Some(10)), CART), Ok(()));
    }
    for (who, requester) in [
        (person(ONCALL, &[], multi, Some(10)), CART),
        (person("user:partners/oncall", &["oncall"], multi, Some(10)), CART),
        (person(CART, &["oncall"], multi, Some(10)), ONCALL),
        (person("key:corporate/oncall", &["oncall"], multi, Some(10)), CART),
    ] {
        assert_eq!(decide(&who, requester), Err(ApproverRejection::NotNamed), "{who:?}");
    }
    assert_eq!(decide(&oncall(multi, Some(10)), ONCALL), Err(ApproverRejection::Requester));
    for stale in [
        oncall(multi, Some(old)),
        oncall(multi, None),
        oncall(multi, Some(-3600)),
        oncall(Assurance::Bearer, Some(1)),
        oncall(Assurance::ProofOfPossession, Some(1)),
    ] {
        assert!(matches!(decide(&stale, CART), Err(ApproverRejection::NotFresh(_))), "{stale:?}");
    }
}

#[test]
fn no_token_carries_scopes_of_operations_that_require_an_approval() {
    let snapshot =
        approved(world([purging(EnforcementMode::Enforce)]), [(approval_subject("purge", CART), granted_for(0, 600))]);
    let service = snapshot.service(&service_key()).expect("a service");
    let carried = service.token_scopes(&Principal::assumed(cart()), None, None, now());
    assert_eq!(carried.scopes, scopes(&["read"]).into_iter().collect());
}

/// Approvals of any operation of these policies, for any of these callers.
fn any_approvals() -> impl Strategy<Value = Vec<(usize, usize, &'static str, i64, i64)>> {
    let ids = vec!["user:corporate/alice", "user:corporate/bob", "key:partners/acme", CART];
    proptest::collection::vec((0..3usize, 0..4usize, select(ids), -900..900i64, 1..1800i64), 0..8)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(192) })]

    /// An approval allows exactly its operation, for its principal and within its time, if nothing else is missing.
    #[test]
    fn an_approval_allows_exactly_its_subject(
        policies in any_policies(),
        caller in any_known_caller(),
        approvals in any_approvals(),
    ) {
        let without = world(policies.clone());
        let mut requiring = policies;
        for operation in requiring.iter_mut().flat_map(|policy| &mut policy.operations) {
            let operation = Arc::make_mut(operation);
            operation.approval = (!operation.public).then(|| Arc::new(approvers()));
        }
        let approval_subject = |p: usize, i: usize, who: &str| ApprovalSubject {
            policy: NamespacedName { namespace: "shop".into(), name: format!("p{p}").into() },
            ..approval_subject(&format!("p{p}-{i}"), who)
        };
        let all: Vec<(ApprovalSubject, GrantedApproval)> = approvals
            .into_iter()
            .map(|(p, i, who, from, length)| (approval_subject(p, i, who), granted_for(from, from + length)))
            .collect();
        let with = approved(world(requiring), all.clone());
        for request in REQUESTS {
            let (before, after) = (ask(&without, Some(&caller), request), ask(&with, Some(&caller), request));
            if before.reason != Reason::Granted && !(before.reason == Reason::Denied && before.passes()) {
                let expected = Decision { revision: after.revision, ..before };
                prop_assert_eq!(&after, &expected, "{}", request);
                continue;
            }
            let (policy, operation) = (before.policy.clone().unwrap(), before.operation.clone().unwrap());
            // of several approvals with one subject the last is in force, as after a change of one object
            let latest = all.iter().rev().find(|(approval_subject, _)| {
                approval_subject.policy == policy
                    && approval_subject.operation == operation
                    && approval_subject.principal == caller.id
            });
            let is_valid = latest.is_some_and(|(_, granted)| {
                granted.from <= now() && now() < granted.until && now() - granted.from < approvers().valid_for
            });
            if before.reason == Reason::Granted {
                prop_assert_eq!(after.allowed(), is_valid, "{}: {:?}", request, after);
                prop_assert!(is_valid || after.reason == Reason::ApprovalRequired, "{}: {:?}", request, after);
            }
            prop_assert!(after.rules.iter().all(|rule| before.rules.contains(rule)));
        }
    }
}
