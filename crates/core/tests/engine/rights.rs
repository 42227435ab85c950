//! Rights of callers from policies alone, and near misses of requests.

use crate::any_world::{REQUESTS, any_caller, any_policies};
use crate::support::*;
use durward_core::authentication::AuthenticationMethod;
use durward_core::decision::Reason;
use durward_core::near_miss::Mismatch;
use durward_core::policy::{CompiledGrant, CompiledOperation, Policy};
use durward_core::principal::{Identity, PrincipalId};
use durward_core::rights::{AccessRight, CallerSet, Permission};
use durward_core::risk::{Assurance, RiskLevel};
use proptest::prelude::*;

/// The trust domain of the cluster's own workloads.
const OWN: &str = "cluster.local";

fn named(text: &str) -> CallerSet {
    CallerSet::Subject(subject(text))
}

fn right(policy: Policy, who: &CallerSet) -> AccessRight {
    world([policy]).rights(who, OWN).into_iter().find(|right| &*right.operation == "refund").unwrap()
}

#[test]
fn rights_follow_from_rules() {
    let with = |grants: Vec<CompiledGrant>| Policy { grants: each(grants), ..orders() };
    let both = ["read", "refund"];
    let alice = named("user:corporate/alice");
    for (policy, who, can) in [
        (with(vec![grant("a", &["*"], &both)]), named("*"), Permission::Always),
        (with(vec![grant("a", &["*"], &both)]), CallerSet::Anonymous, Permission::Never),
        (with(vec![grant("a", &["*"], &["read"])]), alice.clone(), Permission::Never),
        (
            with(vec![grant("a", &["*"], &["read"]), grant("b", &["@corporate"], &["refund"])]),
            alice.clone(),
            Permission::Always,
        ),
        (with(vec![grant("a", &["user:corporate/alice"], &both)]), named("@corporate"), Permission::Conditional),
        (with(vec![grant("a", &["user:corporate/alice"], &both)]), named("@partners"), Permission::Never),
        (with(vec![grant("a", &["clerks@corporate"], &both)]), alice.clone(), Permission::Conditional),
        (with(vec![grant("a", &["clerks@corporate"], &both)]), named("clerks@corporate"), Permission::Always),
        (with(vec![grant("a", &["@corporate"], &both)]), named("clerks@corporate"), Permission::Always),
        (with(vec![grant_when("a", &["*"], &both, "true")]), alice.clone(), Permission::Conditional),
        (
            with(vec![CompiledGrant { from_token: true, ..grant("a", &["*"], &both) }]),
            alice.clone(),
            Permission::Conditional,
        ),
        (with(vec![grant("a", &["*"], &both)]), named("key:partners/acme"), Permission::Never),
        (
            Policy {
                authentication_methods: [AuthenticationMethod::Workload].into(),
                ..with(vec![grant("a", &["*"], &both)])
            },
            alice.clone(),
            Permission::Never,
        ),
        (
            Policy { denials: each([denial("d", &["@corporate"])]), ..with(vec![grant("a", &["*"], &both)]) },
            alice.clone(),
            Permission::Never,
        ),
    ] {
        let right = right(policy, &who);
        assert_eq!(right.permission, can, "{who}: {right:?}");
    }
    let known = |groups: &[&str]| {
        CallerSet::Principal(id("user:corporate/alice"), groups.iter().map(|g| (*g).to_owned()).collect())
    };
    let clerks = || with(vec![grant("a", &["clerks@corporate"], &both)]);
    assert_eq!(right(clerks(), &known(&["clerks"])).permission, Permission::Always);
    assert_eq!(right(clerks(), &known(&["others"])).permission, Permission::Never);
    let suspended = Policy {
        denials: each([denial_when("d", &["*"], "principal.attributes.suspended"), denial("e", &["clerks@corporate"])]),
        ..with(vec![grant("a", &["*"], &both)])
    };
    assert_eq!(
        right(suspended, &alice).unless.into_iter().collect::<Vec<_>>(),
        [
            "shop/orders/denials/d: principal.attributes.suspended",
            "shop/orders/denials/e: the caller is group clerks of provider corporate"
        ]
    );
}

fn near(request: &str) -> Vec<(String, String)> {
    let policy = Policy {
        operations: each([
            operation("list", &["GET /orders", "GET /orders/{id}"], &["read"]),
            operation("refund", &["POST /orders/{id}/refund"], &["refund"]),
            operation("files", &["* /files/*"], &["read"]),
        ]),
        ..policy("orders")
    };
    let snapshot = world([policy]);
    let request = http(request);
    let misses = snapshot.route(&request).near_misses().into_iter();
    misses
        .map(|miss| {
            let how = match miss.how {
                Mismatch::Method => "method".to_owned(),
                Mismatch::Segment { number, declared, requested } => format!("{number}: {declared}/{requested}"),
                Mismatch::Host(_) => "host".to_owned(),
            };
            (miss.pattern, how)
        })
        .collect()
}

#[test]
fn near_misses_differ_in_one_place() {
    let one = |pattern: &str, how: &str| vec![(pattern.to_owned(), how.to_owned())];
    assert_eq!(near("GET /orders/1"), []);
    assert_eq!(near("DELETE /orders"), one("GET /orders", "method"));
    assert_eq!(near("GET /ordrs/1"), one("GET /orders/{id}", "1: orders/ordrs"));
    assert_eq!(near("POST /orders/1/refnd"), one("POST /orders/{id}/refund", "3: refund/refnd"));
    let two = [one("GET /orders/{id}", "method"), one("POST /orders/{id}/refund", "3: refund/")].concat();
    assert_eq!(near("POST /orders/refund"), two);
    assert_eq!(near("POST /v1/orders/1/refund"), one("POST /orders/{id}/refund", "1: /v1"));
    assert_eq!(near("GET /files"), one("* /files/*", "2: */"));
    assert_eq!(near("GET /a/b/c"), []);
    assert_eq!(near("GET /orders//1"), [], "an ambiguous path has no near miss");
}

#[test]
fn a_near_miss_names_the_other_host() {
    let snapshot = world([orders()]);
    let mut request = http("GET /orders");
    request.target = durward_core::request::ServiceTarget::Host("elsewhere.example.com");
    let misses = snapshot.route(&request).near_misses();
    assert_eq!(misses.len(), 1);
    assert!(matches!(&misses[0].how, Mismatch::Host(hosts) if hosts[0].as_str() == HOST), "{misses:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(192) })]

    /// Callers without a right are never allowed, and callers with an unconditional right never lack a scope.
    #[test]
    fn a_right_agrees_with_every_decision(policies in any_policies(), caller in any_caller()) {
        let snapshot = world(policies);
        // API keys never prove more than a shared secret
        let caller = caller.map(|caller| match caller.id {
            PrincipalId::Key { .. } => Identity { assurance: Assurance::SharedSecret, ..caller },
            _ => caller,
        });
        let whos = match &caller {
            None => vec![CallerSet::Anonymous],
            Some(caller) => {
                vec![CallerSet::Principal(caller.id.clone(), caller.groups.clone()), named(&caller.id.to_string())]
            }
        };
        for who in whos {
            let rights = snapshot.rights(&who, OWN);
            for request in REQUESTS {
                let decision = ask(&snapshot, caller.as_ref(), request);
                let Some(operation) = &decision.operation else { continue };
                let right = rights.iter().find(|right| right.operation == *operation).unwrap();
                match right.permission {
                    Permission::Never => prop_assert!(!decision.allowed(), "{right:#?}\n{decision:#?}"),
                    Permission::Conditional => {}
                    Permission::Always => {
                        let surely = matches!(decision.reason, Reason::Public | Reason::Granted);
                        let proven_too_little =
                            matches!(decision.reason, Reason::AssuranceTooLow | Reason::Unauthenticated);
                        let denied =
                            decision.reason == Reason::Denied && (!right.unless.is_empty() || decision.passes());
                        prop_assert!(surely || proven_too_little || denied, "{right:#?}\n{decision:#?}");
                    }
                }
            }
        }
    }
}

#[test]
fn rights_contain_risk_and_public() {
    let policy = Policy {
        operations: each([
            CompiledOperation { risk: RiskLevel::High, ..operation("refund", &["POST /refund"], &["refund"]) },
            CompiledOperation { public: true, ..operation("health", &["GET /healthz"], &[]) },
        ]),
        ..policy("orders")
    };
    let rights = world([policy]).rights(&CallerSet::Anonymous, OWN);
    assert_eq!(
        rights.iter().map(|right| (right.permission, right.risk, right.public)).collect::<Vec<_>>(),
        [(Permission::Never, RiskLevel::High, false), (Permission::Always, RiskLevel::Standard, true)]
    );
}
