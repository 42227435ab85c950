//! Step 5: the authentication method, and the assurance that the risk requires.

use crate::support::*;
use chrono::TimeDelta;
use durward_core::authentication::{AuthenticationMethod, Challenge};
use durward_core::decision::Reason;
use durward_core::policy::{CompiledOperation, Policy};
use durward_core::principal::{CompletedStepUp, Identity};
use durward_core::risk::Assurance::{self, *};
use durward_core::risk::RiskLevel::{self, *};
use durward_core::snapshot::Snapshot;

const WORKLOAD: &str = "spiffe://cluster.local/ns/shop/sa/cart";
const USER: &str = "user:corporate/alice";
const KEY: &str = "key:partners/acme";

fn at_risk(risk: RiskLevel) -> Snapshot {
    let operation = CompiledOperation { risk, ..operation("list", &["GET /orders"], &["read"]) };
    let grants = vec![grant("all", &["*"], &["read"])];
    world([Policy { operations: each([operation]), grants: each(grants), ..policy("orders") }])
}

#[test]
fn each_risk_requires_an_assurance() {
    // the weakest sufficient assurance; a person's second factor is fresh here
    for (risk, who, enough) in [
        (Low, WORKLOAD, SharedSecret),
        (Low, USER, SharedSecret),
        (Low, KEY, SharedSecret),
        (Standard, WORKLOAD, Bearer),
        (Standard, USER, Bearer),
        (Standard, KEY, Bearer),
        (High, WORKLOAD, ProofOfPossession),
        (High, USER, MultiFactor),
        (High, KEY, MultiFactor),
    ] {
        let snapshot = at_risk(risk);
        for assurance in [SharedSecret, Bearer, ProofOfPossession, MultiFactor, PhishingResistant] {
            let caller = Identity { authenticated_at: Some(now()), ..caller(who, assurance) };
            let decision = ask(&snapshot, Some(&caller), "GET /orders");
            let expected = if assurance >= enough { Reason::Granted } else { Reason::AssuranceTooLow };
            assert_eq!(decision.reason, expected, "{who} with {assurance} at {risk:?} risk");
            let max_age = (risk == High && who != WORKLOAD).then(|| TimeDelta::minutes(5));
            let challenge = (assurance < enough).then_some(Challenge { assurance: enough, max_age });
            assert_eq!(decision.challenge, challenge, "{who} with {assurance} at {risk:?} risk");
        }
    }
}

fn with_second_factor(age: Option<TimeDelta>) -> Identity {
    Identity { authenticated_at: age.map(|age| now() - age), ..caller(USER, MultiFactor) }
}

#[test]
fn a_second_factor_is_accepted_up_to_the_maximum_age() {
    let snapshot = at_risk(High);
    for (age, good) in [
        (TimeDelta::zero(), true),
        (TimeDelta::seconds(300), true),
        (TimeDelta::milliseconds(300_001), false),
        (TimeDelta::seconds(301), false),
        (TimeDelta::days(400), false),
        (TimeDelta::seconds(-59), true),
        (TimeDelta::seconds(-60), true),
        (TimeDelta::milliseconds(-60_001), false),
        (TimeDelta::days(-400), false),
    ] {
        let decision = ask(&snapshot, Some(&with_second_factor(Some(age))), "GET /orders");
        assert_eq!(decision.allowed(), good, "{age}: {decision:?}");
    }
}

#[test]
fn the_maximum_age_is_that_of_the_operation() {
    let quick = CompiledOperation {
        risk: High,
        max_age: TimeDelta::seconds(1),
        ..operation("quick", &["GET /quick"], &["read"])
    };
    let slow =
        CompiledOperation { risk: High, max_age: TimeDelta::hours(24), ..operation("slow", &["GET /slow"], &["read"]) };
    let grants = vec![grant("all", &["*"], &["read"])];
    let snapshot = world([Policy { operations: each([quick, slow]), grants: each(grants), ..policy("orders") }]);
    let caller = with_second_factor(Some(TimeDelta::minutes(2)));
    assert!(ask(&snapshot, Some(&caller), "GET /slow").allowed());
    let decision = ask(&snapshot, Some(&caller), "GET /quick");
    let challenge = Challenge { assurance: MultiFactor, max_age: Some(TimeDelta::seconds(1)) };
    assert_eq!(decision.challenge, Some(challenge));
    assert_eq!(decision.detail.as_deref(), Some("the second factor is 120 s old, 1 s are accepted"));
}

#[test]
fn a_second_factor_of_unknown_age_is_too_old() {
    let decision = ask(&at_risk(High), Some(&with_second_factor(None)), "GET /orders");
    assert_eq!(decision.reason, Reason::AssuranceTooLow);
    let detail = "the credential does not say when the second factor was used";
    assert_eq!(decision.detail.as_deref(), Some(detail));
}

#[test]
fn extreme_times_are_refused_without_a_panic() {
    for at in [chrono::DateTime::<chrono::Utc>::MIN_UTC, chrono::DateTime::<chrono::Utc>::MAX_UTC] {
        let caller = Identity { authenticated_at: Some(at), ..caller(USER, PhishingResistant) };
        assert_eq!(ask(&at_risk(High), Some(&caller), "GET /orders").reason, Reason::AssuranceTooLow);
    }
}

#[test]
fn only_people_at_high_risk_need_a_fresh_factor() {
    let stale =
        |who, assurance| Identity { authenticated_at: Some(now() - TimeDelta::days(9)), ..caller(who, assurance) };
    assert!(ask(&at_risk(Standard), Some(&stale(USER, Bearer)), "GET /orders").allowed());
    assert!(ask(&at_risk(High), Some(&stale(WORKLOAD, ProofOfPossession)), "GET /orders").allowed());
    assert!(!ask(&at_risk(High), Some(&stale(USER, PhishingResistant)), "GET /orders").allowed());
}

#[test]
fn only_listed_authentication_methods_are_accepted() {
    let corporate = AuthenticationMethod::Provider("corporate".into());
    for (authentication_methods, accepted) in [
        (vec![], [false, false, false, false]),
        (vec![AuthenticationMethod::Workload], [true, false, false, false]),
        (vec![corporate.clone()], [false, true, false, false]),
        (vec![AuthenticationMethod::Provider("partners".into())], [false, false, true, false]),
        (vec![AuthenticationMethod::Workload, corporate], [true, true, false, false]),
    ] {
        let operations = vec![CompiledOperation { risk: Low, ..operation("list", &["GET /orders"], &["read"]) }];
        let grants = vec![grant("all", &["*"], &["read"])];
        let snapshot = world([Policy {
            operations: each(operations),
            grants: each(grants),
            authentication_methods: authentication_methods.clone().into(),
            ..policy("orders")
        }]);
        for (who, accepted) in [WORKLOAD, USER, KEY, "kube:admin"].into_iter().zip(accepted) {
            let decision = ask(&snapshot, Some(&caller(who, PhishingResistant)), "GET /orders");
            assert_eq!(decision.allowed(), accepted, "{who} by {authentication_methods:?}");
        }
    }
}

#[test]
fn each_operation_accepts_the_methods_of_its_own_policy() {
    let grants = vec![grant("all", &["*"], &["read"])];
    let mine = Policy {
        operations: each([operation("mine", &["GET /mine"], &["read"])]),
        authentication_methods: [AuthenticationMethod::Workload].into(),
        grants: each(grants),
        ..policy("a")
    };
    let theirs = Policy {
        operations: each([operation("theirs", &["GET /theirs"], &["read"])]),
        authentication_methods: [AuthenticationMethod::Provider("corporate".into())].into(),
        ..policy("b")
    };
    let snapshot = world([mine, theirs]);
    for (request, user, workload) in [("GET /mine", false, true), ("GET /theirs", true, false)] {
        assert_eq!(ask(&snapshot, Some(&alice()), request).allowed(), user, "{request}");
        let cart = caller(WORKLOAD, Assurance::ProofOfPossession);
        assert_eq!(ask(&snapshot, Some(&cart), request).allowed(), workload, "{request}");
    }
}

#[test]
fn a_second_factor_for_one_operation_is_valid_at_no_other() {
    let high = |name: &str, routes| CompiledOperation { risk: High, ..operation(name, routes, &["read"]) };
    let grants = vec![grant("all", &["*"], &["read"])];
    let operations = vec![high("pay", &["GET /pay"]), high("refund", &["GET /refund"])];
    let snapshot = world([Policy { operations: each(operations), grants: each(grants), ..policy("orders") }]);
    let step_up =
        |age| CompletedStepUp { operation: "refund".into(), assurance: MultiFactor, authenticated_at: now() - age };
    let caller = |age| Identity { step_up: Some(step_up(age)), ..caller(USER, Bearer) };
    let fresh = caller(TimeDelta::minutes(1));
    assert!(ask(&snapshot, Some(&fresh), "GET /refund").allowed());
    let elsewhere = ask(&snapshot, Some(&fresh), "GET /pay");
    assert_eq!(elsewhere.reason, Reason::AssuranceTooLow);
    assert_eq!(elsewhere.detail.as_deref(), Some("High risk asks for MultiFactor, the caller has Bearer"));
    assert!(!ask(&snapshot, Some(&caller(TimeDelta::minutes(6))), "GET /refund").allowed());
}
