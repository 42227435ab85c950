//! Random policies, callers and requests: effects of changed rules on decisions.

use crate::support::*;
use chrono::TimeDelta;
use durward_core::authentication::AuthenticationMethod;
use durward_core::decide::{ExplainedRule, RuleOutcome};
use durward_core::decision::Reason;
use durward_core::policy::{CompiledDenial, CompiledGrant, CompiledOperation, EnforcementMode, Policy};
use durward_core::principal::{Identity, Principal};
use durward_core::risk::{Assurance, RiskLevel};
use durward_core::scope::Scope;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const SUBJECTS: [&str; 7] = [
    "*",
    "@corporate",
    "@partners",
    "dev@corporate",
    "ops@corporate",
    "user:corporate/alice",
    "spiffe://cluster.local/ns/shop/sa/cart",
];

/// Conditions that hold, don't hold, depend on the caller, and fail.
const CONDITIONS: [&str; 8] = [
    "true",
    "false",
    "principal.attributes.level > 2",
    "'dev' in principal.groups",
    "request.captures.x == 'a'",
    "request.operation == 'p0-1'",
    "request.time > timestamp('2026-07-01T06:00:00Z')",
    "principal.attributes.level.startsWith('3')",
];

pub const REQUESTS: [&str; 10] = [
    "GET /",
    "GET /a",
    "GET /b",
    "POST /a",
    "GET /a/b",
    "POST /b/a",
    "GET /a/a/a",
    "GET /A",
    "GET /a//b",
    "POST /b/b/b/b",
];

const PATTERNS: [&str; 14] = [
    "GET /",
    "GET /a",
    "* /a",
    "GET /{x}",
    "POST /{x}",
    "GET /a/b",
    "GET /{x}/b",
    "* /{x}/{y}",
    "POST /b/a",
    "GET /a/*",
    "* /*",
    "GET /{x}/a/*",
    "POST /b/*",
    "GET /b",
];

fn mode() -> impl Strategy<Value = EnforcementMode> {
    prop_oneof![2 => Just(EnforcementMode::Enforce), 1 => Just(EnforcementMode::Audit)]
}

fn to() -> impl Strategy<Value = Vec<&'static str>> {
    subsequence(SUBJECTS.to_vec(), 1..3)
}

fn when() -> impl Strategy<Value = Option<Arc<durward_core::condition::Condition>>> {
    proptest::option::of(select(CONDITIONS.to_vec()).prop_map(condition))
}

fn some_scopes(range: std::ops::Range<usize>) -> impl Strategy<Value = Vec<&'static str>> {
    subsequence(vec!["r", "s", "t"], range)
}

fn any_grant() -> impl Strategy<Value = CompiledGrant> {
    (to(), some_scopes(1..4), any::<bool>(), when()).prop_map(|(to, gives, from_token, when)| CompiledGrant {
        from_token,
        when,
        ..grant("", &to, &gives)
    })
}

pub fn any_denial() -> impl Strategy<Value = CompiledDenial> {
    (to(), when(), mode()).prop_map(|(to, when, mode)| CompiledDenial { when, mode, ..denial("", &to) })
}

fn any_operation() -> impl Strategy<Value = CompiledOperation> {
    let risk = prop_oneof![1 => Just(RiskLevel::Low), 4 => Just(RiskLevel::Standard), 1 => Just(RiskLevel::High)];
    (subsequence(PATTERNS.to_vec(), 1..4), some_scopes(0..4), risk, prop::bool::weighted(0.1)).prop_map(
        |(requests, needs, risk, public)| CompiledOperation { risk, public, ..operation("", &requests, &needs) },
    )
}

fn any_policy() -> impl Strategy<Value = Policy> {
    let authentication_methods = vec![
        AuthenticationMethod::Workload,
        AuthenticationMethod::Provider("corporate".into()),
        AuthenticationMethod::Provider("partners".into()),
    ];
    (
        proptest::collection::vec(any_operation(), 0..4),
        proptest::collection::vec(any_grant(), 0..5),
        proptest::collection::vec(any_denial(), 0..3),
        subsequence(authentication_methods, 1..4),
        mode(),
    )
        .prop_map(|(operations, grants, denials, authentication_methods, mode)| Policy {
            operations: each(operations),
            grants: each(grants),
            denials: each(denials.into_iter().map(|denial| CompiledDenial { mode, ..denial })),
            authentication_methods: authentication_methods.into(),
            mode,
            ..policy("p")
        })
}

/// Policies of one service with distinct names, in which no request is declared twice.
pub fn any_policies() -> impl Strategy<Value = Vec<Policy>> {
    proptest::collection::vec(any_policy(), 1..4).prop_map(|mut policies| {
        let mut seen = BTreeSet::new();
        for (p, policy) in policies.iter_mut().enumerate() {
            policy.key.name = format!("p{p}").into();
            for (i, operation) in policy.operations.iter_mut().map(Arc::make_mut).enumerate() {
                operation.name = format!("p{p}-{i}").into();
                operation.matches.retain(|one| {
                    let shape = one.path.to_string().replace("{y}", "{x}");
                    seen.insert(format!("{:?} {shape}", one.method))
                });
            }
            let named = |kind: &str, i: usize| format!("shop/p{p}/{kind}/{i}").into();
            policy
                .grants
                .iter_mut()
                .map(Arc::make_mut)
                .enumerate()
                .for_each(|(i, grant)| grant.rule = named("grants", i));
            policy
                .denials
                .iter_mut()
                .map(Arc::make_mut)
                .enumerate()
                .for_each(|(i, denial)| denial.rule = named("denials", i));
        }
        policies
    })
}

pub fn any_known_caller() -> impl Strategy<Value = Identity> {
    let assurance = select(vec![
        Assurance::SharedSecret,
        Assurance::Bearer,
        Assurance::Bearer,
        Assurance::ProofOfPossession,
        Assurance::MultiFactor,
    ]);
    let ids = vec![
        "user:corporate/alice",
        "user:corporate/alice",
        "user:corporate/bob",
        "key:partners/acme",
        "spiffe://cluster.local/ns/shop/sa/cart",
    ];
    let attributes = select(vec!["{}", r#"{"level": 1}"#, r#"{"level": 3}"#, r#"{"level": "3"}"#]);
    (
        select(ids),
        assurance,
        subsequence(vec!["dev", "ops"], 0..3),
        attributes,
        proptest::option::of(some_scopes(0..4)),
        proptest::option::of(-100..600i64),
        prop_oneof![9 => Just(None), 1 => Just(Some(now()))],
    )
        .prop_map(|(id, assurance, groups, attributes, own, age, expires_at)| Identity {
            groups: groups.into_iter().map(ToOwned::to_owned).collect(),
            attributes: serde_json::from_str(attributes).unwrap(),
            scopes: own.map(|own| scopes(&own).into_iter().collect()),
            authenticated_at: age.map(|age| now() - TimeDelta::seconds(age)),
            expires_at,
            ..caller(id, assurance)
        })
}

pub fn any_caller() -> impl Strategy<Value = Option<Identity>> {
    prop_oneof![1 => Just(None), 9 => any_known_caller().prop_map(Some)]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(192) })]

    #[test]
    fn adding_a_denial_never_allows_more(
        policies in any_policies(),
        caller in any_caller(),
        denial in any_denial(),
        name in "[0-9a-z]",
        index in any::<prop::sample::Index>(),
    ) {
        let before = world(policies.clone());
        let mut more = policies;
        let policy = index.get(&more).clone();
        let slot = more.iter_mut().find(|other| other.key == policy.key).unwrap();
        let rule = format!("shop/{}/denials/{name}", policy.key.name).into();
        slot.denials.extend(each([CompiledDenial { rule, mode: policy.mode, ..denial }]));
        let after = world(more);
        for request in REQUESTS {
            let (before, after) = (ask(&before, caller.as_ref(), request), ask(&after, caller.as_ref(), request));
            prop_assert!(before.allowed() || !after.allowed(), "{request}\nbefore {before:#?}\nafter {after:#?}");
            prop_assert!(before.passes() || !after.passes(), "{request}\nbefore {before:#?}\nafter {after:#?}");
        }
    }

    #[test]
    fn removing_a_grant_never_allows_more(policies in any_policies(), caller in any_caller()) {
        let before = world(policies.clone());
        for p in 0..policies.len() {
            for g in 0..policies[p].grants.len() {
                let mut fewer = policies.clone();
                fewer[p].grants.remove(g);
                let after = world(fewer);
                for request in REQUESTS {
                    let (before, after) =
                        (ask(&before, caller.as_ref(), request), ask(&after, caller.as_ref(), request));
                    prop_assert!(before.passes() || !after.passes(), "{request}\nbefore {before:#?}\nafter {after:#?}");
                    prop_assert!(
                        before.allowed() || !after.allowed(),
                        "{request}\nbefore {before:#?}\nafter {after:#?}"
                    );
                }
            }
        }
    }

    #[test]
    fn an_explanation_agrees_with_the_decision(policies in any_policies(), caller in any_known_caller()) {
        let snapshot = world(policies);
        for request in REQUESTS {
            let decision = ask(&snapshot, Some(&caller), request);
            let request = http(request);
            let considered = snapshot.route(&request).explain(&Principal::assumed(caller.clone()), now());
            let of: BTreeMap<&str, &RuleOutcome> =
                considered.iter().map(|ExplainedRule { rule, outcome, .. }| (&**rule, outcome)).collect();
            prop_assert_eq!(of.len(), considered.len(), "each rule once");
            let given: BTreeSet<&Scope> = considered
                .iter()
                .filter(|one| one.rule.contains("/grants/"))
                .filter_map(|one| match &one.outcome {
                    RuleOutcome::Applies(scopes) => Some(scopes),
                    _ => None,
                })
                .flatten()
                .collect();
            match decision.reason {
                Reason::Granted => {
                    for rule in &decision.rules {
                        prop_assert!(matches!(of[&**rule], RuleOutcome::Applies(_)), "{rule}: {:?}", of[&**rule]);
                    }
                    prop_assert!(decision.required.iter().all(|scope| given.contains(scope)));
                    let denied = considered.iter().find(|one| {
                        one.rule.contains("/denials/")
                            && matches!(one.outcome, RuleOutcome::Applies(_) | RuleOutcome::ConditionFailed(_))
                    });
                    prop_assert_eq!(denied, None);
                }
                Reason::Denied => {
                    let outcome = of[&*decision.rules[0]];
                    prop_assert!(
                        matches!(outcome, RuleOutcome::Applies(_) | RuleOutcome::ConditionFailed(_)),
                        "{outcome:?}"
                    );
                }
                Reason::InsufficientScope => {
                    prop_assert!(decision.missing.iter().all(|scope| !given.contains(scope)));
                    prop_assert!(
                        decision.required.iter().all(|scope| given.contains(scope) || decision.missing.contains(scope))
                    );
                }
                _ => {}
            }
        }
    }

    #[test]
    fn equal_input_gives_an_equal_decision(policies in any_policies(), caller in any_caller()) {
        let (snapshot, again) = (world(policies.clone()), world(policies));
        for request in REQUESTS {
            let first = ask(&snapshot, caller.as_ref(), request);
            for snapshot in [&snapshot, &snapshot.clone(), &again] {
                prop_assert_eq!(&first, &ask(snapshot, caller.as_ref(), request));
            }
            prop_assert_eq!(format!("{first:?}"), format!("{:?}", ask(&again, caller.as_ref(), request)));
        }
    }
}
