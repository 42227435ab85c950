//! Comparing two sets of policies.

use crate::any_world::{REQUESTS, any_caller, any_policies};
use crate::support::*;
use chrono::TimeDelta;
use durward_core::authentication::AuthenticationMethod;
use durward_core::compare::{Effect, compare};
use durward_core::decision::Reason;
use durward_core::policy::{CompiledDenial, CompiledGrant, CompiledOperation, EnforcementMode, Policy};
use durward_core::risk::RiskLevel;
use proptest::prelude::*;

const OWN: &str = "cluster.local";

/// Kind, callers and operations of each change.
fn changes(old: Policy, new: Policy) -> Vec<String> {
    let comparison = compare(&world([old]), &world([new]), OWN);
    let name = |name: &Option<std::sync::Arc<str>>| name.as_deref().unwrap_or("-").to_owned();
    let listed = comparison
        .changes
        .iter()
        .map(|change| format!("{:?} {}: {} → {}", change.effect, change.callers, name(&change.old), name(&change.new)));
    listed.collect()
}

#[test]
fn grants_and_denials_are_compared() {
    let with = |grants: Vec<CompiledGrant>, denials: Vec<CompiledDenial>| Policy {
        grants: each(grants),
        denials: each(denials),
        ..orders()
    };
    let read = || grant("read", &["user:corporate/alice"], &["read"]);
    let nothing = || with(vec![], vec![]);
    assert_eq!(changes(nothing(), nothing()), Vec::<String>::new());
    let alice = "user:corporate/alice: list → list";
    let every_caller = "every authenticated caller: list → list";
    assert_eq!(
        changes(nothing(), with(vec![read()], vec![])),
        [format!("Gains {every_caller}"), format!("Gains {alice}")],
        "a grant with a condition"
    );
    assert_eq!(
        changes(with(vec![read()], vec![]), nothing()),
        [format!("Loses {every_caller}"), format!("Loses {alice}")]
    );
    let at = |when: &str| CompiledGrant { when: Some(condition(when)), ..read() };
    let narrowed = changes(with(vec![read()], vec![]), with(vec![at("request.method == 'GET'")], vec![]));
    assert!(narrowed.contains(&format!("Narrowed {alice}")), "{narrowed:?}");
    let other = changes(with(vec![at("1 == 1")], vec![]), with(vec![at("2 == 2")], vec![]));
    assert!(other.contains(&format!("Conditions {alice}")), "{other:?}");
    let denied = changes(with(vec![read()], vec![]), with(vec![read()], vec![denial("d", &["@corporate"])]));
    assert!(denied.contains(&format!("Loses {alice}")), "{denied:?}");
    // a change for every caller is listed once
    let all = changes(
        nothing(),
        with(vec![grant("read", &["*"], &["read"])], vec![denial_when("d", &["user:corporate/eve"], "true")]),
    );
    assert_eq!(all.iter().filter(|change| change.starts_with("Gains")).count(), 2, "{all:?}");
}

#[test]
fn operations_are_compared_by_their_requests() {
    let of = |operations: Vec<CompiledOperation>| Policy {
        operations: each(operations),
        grants: each([grant("r", &["@corporate"], &["read"]), grant("w", &["@partners"], &["write"])]),
        ..policy("orders")
    };
    let list = || operation("list", &["GET /orders/{id}"], &["read"]);
    // a more specific pattern takes requests from the general one
    let special = operation("special", &["GET /orders/special"], &["write"]);
    let listed = changes(of(vec![list()]), of(vec![list(), special]));
    for expected in [
        "Loses every caller of provider corporate: list → special",
        "Gains every caller of provider partners: list → special",
    ] {
        assert!(listed.contains(&expected.to_owned()), "{listed:?}");
    }
    assert!(!listed.iter().any(|change| change.contains("list → list")), "{listed:?}");
    // patterns of which neither is more specific overlap
    let crossing = |path: &str, needs: &str| of(vec![operation("x", &[&format!("GET {path}")], &[needs])]);
    let listed = changes(crossing("/a/{y}", "read"), crossing("/{x}/b", "write"));
    assert!(listed.contains(&"Loses every caller of provider corporate: x → x".to_owned()), "{listed:?}");
    // public, risk, step-up, authentication methods and mode
    let one = |change: &dyn Fn(&mut CompiledOperation, &mut Policy)| {
        let mut operation = list();
        let mut policy = of(vec![]);
        change(&mut operation, &mut policy);
        Policy { operations: each([operation]), ..policy }
    };
    let plain = || one(&|_, _| {});
    let public = changes(plain(), one(&|o, _| o.public = true));
    assert!(public.contains(&"Gains callers without a credential: list → list".to_owned()), "{public:?}");
    let corporate = "every caller of provider corporate: list → list";
    for (new, expected) in [
        (one(&|o, _| o.risk = RiskLevel::High), format!("Conditions {corporate}")),
        (one(&|_, p| p.authentication_methods = [AuthenticationMethod::Workload].into()), format!("Loses {corporate}")),
        (one(&|_, p| p.mode = EnforcementMode::Audit), "Gains callers without a credential: list → list".to_owned()),
    ] {
        let listed = changes(plain(), new);
        assert!(listed.contains(&expected), "{expected}: {listed:?}");
    }
    let high = |minutes: i64| one(&move |o, _| (o.risk, o.max_age) = (RiskLevel::High, TimeDelta::minutes(minutes)));
    assert!(changes(high(5), high(50)).contains(&format!("Conditions {corporate}")));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(192) })]

    /// Every caller who gains or loses access appears in the comparison, for the operations of the request.
    #[test]
    fn every_change_of_access_is_listed(old in any_policies(), new in any_policies(), caller in any_caller()) {
        let (old, new) = (world(old), world(new));
        let comparison = compare(&old, &new, OWN);
        for request in REQUESTS {
            let (was, is) = (ask(&old, caller.as_ref(), request), ask(&new, caller.as_ref(), request));
            let listed =
                comparison.changes.iter().any(|change| (&change.old, &change.new) == (&was.operation, &is.operation));
            // a path that differs from a declared one only in case is refused, so the comparison omits it
            let clear = was.reason != Reason::AmbiguousPath && is.reason != Reason::AmbiguousPath;
            if clear && was.passes() != is.passes() && (was.operation.is_some() || is.operation.is_some()) {
                prop_assert!(listed, "{request}\n{was:#?}\n{is:#?}");
            }
        }
    }

    /// Equal policies have no changes.
    #[test]
    fn equal_policies_have_no_changes(policies in any_policies()) {
        let comparison = compare(&world(policies.clone()), &world(policies), OWN);
        prop_assert!(comparison.changes.is_empty(), "{:#?}", comparison.changes);
    }
}

#[test]
fn effects_are_ordered_from_more_to_less() {
    assert!(Effect::Gains < Effect::Widened && Effect::Narrowed < Effect::Loses);
}
