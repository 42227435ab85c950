//! Steps 6 and 7: denials, grants, and `mode: Audit`.

use crate::support::*;
use durward_core::decide::{ExplainedRule, RuleOutcome};
use durward_core::decision::Reason;
use durward_core::policy::{CompiledDenial, CompiledGrant, EnforcementMode, Policy};
use durward_core::principal::{Identity, Principal};
use durward_core::risk::Assurance::Bearer;
use durward_core::scope::Scope;

fn carrying(own: Option<&[&str]>) -> Identity {
    let scopes = own.map(|names| names.iter().map(|name| Scope::parse(name).unwrap()).collect());
    Identity { scopes, ..alice() }
}

#[test]
fn a_grant_from_the_token_gives_only_what_the_token_carries() {
    let grants = vec![CompiledGrant { from_token: true, ..grant("token", &["@corporate"], &["read", "refund"]) }];
    let snapshot = world([Policy { grants: each(grants), ..orders() }]);
    for (own, request, missing) in [
        (None, "GET /orders", &["read"][..]),
        (Some(&[][..]), "GET /orders", &["read"]),
        (Some(&["refund"]), "GET /orders", &["read"]),
        (Some(&["READ"]), "GET /orders", &["read"]),
        (Some(&["read"]), "GET /orders", &[]),
        (Some(&["read"]), "POST /orders/1/refund", &["refund"]),
        (Some(&["read", "refund", "more"]), "POST /orders/1/refund", &[]),
    ] {
        let decision = ask(&snapshot, Some(&carrying(own)), request);
        assert_eq!(decision.missing, scopes(missing), "{own:?} {request}");
        assert_eq!(decision.allowed(), missing.is_empty());
    }
}

#[test]
fn a_token_gives_nothing_that_no_grant_gives() {
    let snapshot = world([Policy { grants: Vec::new(), ..orders() }]);
    let decision = ask(&snapshot, Some(&carrying(Some(&["read"]))), "GET /orders");
    assert_eq!(decision.reason, Reason::InsufficientScope);
    let grants = vec![CompiledGrant { from_token: true, ..grant("token", &["@corporate"], &["refund"]) }];
    let snapshot = world([Policy { grants: each(grants), ..orders() }]);
    assert!(!ask(&snapshot, Some(&carrying(Some(&["read", "refund"]))), "GET /orders").allowed());
}

#[test]
fn a_token_without_scopes_does_not_lessen_other_grants() {
    let grants = vec![
        CompiledGrant { from_token: true, ..grant("token", &["@corporate"], &["refund"]) },
        grant("policy", &["@corporate"], &["read"]),
    ];
    let snapshot = world([Policy { grants: each(grants), ..orders() }]);
    assert!(ask(&snapshot, Some(&carrying(Some(&["refund"]))), "POST /orders/1/refund").allowed());
    assert!(ask(&snapshot, Some(&carrying(None)), "GET /orders").allowed());
}

#[test]
fn a_subject_matches_only_its_callers() {
    let mut member = alice();
    member.groups = ["support".to_owned()].into();
    let others = [
        caller("user:corporate/alice2", Bearer),
        caller("user:partners/alice", Bearer),
        caller("key:corporate/alice", Bearer),
        caller("spiffe://cluster.local/ns/shop/sa/alice", Bearer),
        Identity { groups: ["support".to_owned()].into(), ..caller("user:partners/alice", Bearer) },
        Identity {
            groups: ["Support".to_owned(), "support ".to_owned()].into(),
            ..caller("user:corporate/bob", Bearer)
        },
    ];
    for (to, also) in [
        ("user:corporate/alice", &[][..]),
        ("support@corporate", &[]),
        ("@corporate", &[0, 2, 5]),
        ("*", &[0, 1, 2, 3, 4, 5]),
    ] {
        let snapshot = world([Policy { grants: each([grant("one", &[to], &["read"])]), ..orders() }]);
        assert!(ask(&snapshot, Some(&member), "GET /orders").allowed(), "{to}");
        for (i, other) in others.iter().enumerate() {
            assert_eq!(ask(&snapshot, Some(other), "GET /orders").allowed(), also.contains(&i), "{to}: {}", other.id);
        }
    }
}

#[test]
fn the_first_denial_by_name_is_reported() {
    let denials = vec![denial("c", &["*"]), denial_when("a", &["*"], "false"), denial("b", &["@corporate"])];
    let decision = ask(&world([Policy { denials: each(denials), ..orders() }]), Some(&alice()), "GET /orders");
    assert_eq!(*decision.rules, ["shop/orders/denials/b".into()]);
}

#[test]
fn a_denial_for_others_does_not_matter() {
    let denials = vec![denial("bob", &["user:corporate/bob"]), denial("partners", &["@partners", "x@corporate"])];
    assert!(ask(&world([Policy { denials: each(denials), ..orders() }]), Some(&alice()), "GET /orders").allowed());
}

#[test]
fn a_failing_condition_denies_or_grants_nothing() {
    let fails = "principal.attributes.missing == 1";
    let denials = vec![denial_when("failing", &["*"], fails)];
    let decision = ask(&world([Policy { denials: each(denials), ..orders() }]), Some(&alice()), "GET /orders");
    assert_eq!(decision.reason, Reason::Denied);
    let detail = decision.detail.unwrap();
    assert!(detail.starts_with("its condition could not be evaluated: "), "{detail}");

    let grants = vec![grant_when("failing", &["*"], &["read"], fails)];
    let snapshot = world([Policy { grants: each(grants.clone()), ..orders() }]);
    assert_eq!(ask(&snapshot, Some(&alice()), "GET /orders").reason, Reason::InsufficientScope);

    let both = [grants, vec![grant("z", &["*"], &["read"])]].concat();
    let decision = ask(&world([Policy { grants: each(both), ..orders() }]), Some(&alice()), "GET /orders");
    assert_eq!(*decision.rules, ["shop/orders/grants/z".into()]);
}

/// Two policies of one service: `a` declares `mine`, `b` declares `theirs`.
fn two(a: EnforcementMode, b: EnforcementMode) -> [Policy; 2] {
    let grants = vec![grant("all", &["user:corporate/alice"], &["read"])];
    let mine = vec![operation("mine", &["GET /mine"], &["read"])];
    let theirs = vec![operation("theirs", &["GET /theirs"], &["read"])];
    [
        Policy { operations: each(mine), grants: each(grants), mode: a, ..policy("a") },
        Policy { operations: each(theirs), mode: b, ..policy("b") },
    ]
}

#[test]
fn the_mode_is_that_of_the_declaring_policy() {
    let snapshot = world(two(EnforcementMode::Audit, EnforcementMode::Enforce));
    let bob = caller("user:corporate/bob", Bearer);
    for (caller, reason) in [(None, Reason::Unauthenticated), (Some(&bob), Reason::InsufficientScope)] {
        for (request, passes) in [("GET /mine", true), ("GET /theirs", false)] {
            let decision = ask(&snapshot, caller, request);
            assert_eq!((decision.reason, decision.passes()), (reason, passes), "{request}");
            assert!(!decision.allowed());
        }
    }
}

#[test]
fn undeclared_requests_pass_only_if_all_policies_audit() {
    for (a, b, passes) in [
        (EnforcementMode::Audit, EnforcementMode::Audit, true),
        (EnforcementMode::Audit, EnforcementMode::Enforce, false),
        (EnforcementMode::Enforce, EnforcementMode::Audit, false),
        (EnforcementMode::Enforce, EnforcementMode::Enforce, false),
    ] {
        for request in ["GET /nothing", "GET /mine//", "GET /MINE"] {
            assert_eq!(ask(&world(two(a, b)), Some(&alice()), request).passes(), passes, "{request} {a:?} {b:?}");
        }
    }
}

fn denied_by(name: &str, mode: EnforcementMode) -> CompiledDenial {
    CompiledDenial { rule: format!("shop/{name}/denials/all").into(), mode, ..denial("all", &["*"]) }
}

#[test]
fn a_denial_is_enforced_if_its_own_policy_is() {
    for (denial, operation, passes) in [
        (EnforcementMode::Enforce, EnforcementMode::Enforce, false),
        (EnforcementMode::Enforce, EnforcementMode::Audit, false),
        (EnforcementMode::Audit, EnforcementMode::Enforce, true),
        (EnforcementMode::Audit, EnforcementMode::Audit, true),
    ] {
        let [a, b] = two(operation, denial);
        let snapshot = world([a, Policy { denials: each([denied_by("b", denial)]), ..b }]);
        let decision = ask(&snapshot, Some(&alice()), "GET /mine");
        assert_eq!((decision.reason, decision.passes()), (Reason::Denied, passes), "{denial:?} in {operation:?}");
    }
}

#[test]
fn an_audited_denial_hides_no_enforced_one() {
    let [a, b] = two(EnforcementMode::Audit, EnforcementMode::Enforce);
    let a = Policy { denials: each([denied_by("a", EnforcementMode::Audit)]), ..a };
    let b = Policy { denials: each([denied_by("b", EnforcementMode::Enforce)]), ..b };
    for request in ["GET /mine", "GET /theirs"] {
        let decision = ask(&world([a.clone(), b.clone()]), Some(&alice()), request);
        assert!(!decision.passes(), "{request}: {decision:?}");
        assert_eq!(*decision.rules, ["shop/b/denials/all".into()]);
    }
}

#[test]
fn an_audited_denial_gives_no_scopes() {
    let [a, b] = two(EnforcementMode::Audit, EnforcementMode::Enforce);
    let a = Policy { denials: each([denied_by("a", EnforcementMode::Audit)]), ..a };
    let snapshot = world([a, b]);
    let bob = caller("user:corporate/bob", Bearer);
    let decision = ask(&snapshot, Some(&bob), "GET /theirs");
    assert_eq!((decision.reason, decision.passes()), (Reason::InsufficientScope, false));
    let decision = ask(&snapshot, Some(&alice()), "GET /theirs");
    assert_eq!((decision.reason, decision.passes()), (Reason::Denied, true));
}

#[test]
fn an_enforced_denial_holds_where_the_assurance_is_only_audited() {
    let [a, b] = two(EnforcementMode::Audit, EnforcementMode::Enforce);
    let snapshot = world([a, Policy { denials: each([denied_by("b", EnforcementMode::Enforce)]), ..b }]);
    let weak = caller("user:corporate/alice", durward_core::risk::Assurance::SharedSecret);
    let decision = ask(&snapshot, Some(&weak), "GET /mine");
    assert_eq!((decision.reason, decision.passes()), (Reason::Denied, false));
    assert_eq!(ask(&snapshot, Some(&weak), "GET /theirs").reason, Reason::AssuranceTooLow);
}

#[test]
fn every_relevant_rule_is_explained() {
    let mut from_token = grant("d-token", &["@corporate"], &["read", "refund"]);
    from_token.from_token = true;
    let grants = vec![
        grant("a-others", &["@partners"], &["read"]),
        grant_when("b-never", &["*"], &["read"], "false"),
        grant_when("c-failing", &["*"], &["read"], "principal.attributes.x == 1"),
        from_token,
        grant("e-read", &["*"], &["read", "other"]),
        grant("f-irrelevant", &["*"], &["other"]),
    ];
    let denials = vec![
        denial("a-others", &["@partners"]),
        denial_when("b-never", &["*"], "false"),
        denial_when("c-failing", &["*"], "principal.attributes.x == 1"),
        denial("d-all", &["*"]),
    ];
    let snapshot = world([Policy { grants: each(grants), denials: each(denials), ..orders() }]);
    let request = http("POST /orders/1/refund");
    let considered = snapshot.route(&request).explain(&Principal::assumed(alice()), now());
    let outcomes: Vec<(&str, &RuleOutcome)> = considered
        .iter()
        .map(|ExplainedRule { rule, outcome, .. }| (rule.strip_prefix("shop/orders/").unwrap(), outcome))
        .collect();
    let [
        ("denials/a-others", RuleOutcome::OtherCallers),
        ("denials/b-never", RuleOutcome::ConditionDoesNotHold),
        ("denials/c-failing", RuleOutcome::ConditionFailed(_)),
        ("denials/d-all", RuleOutcome::Applies(nothing)),
        ("grants/a-others", RuleOutcome::OtherCallers),
        ("grants/b-never", RuleOutcome::ConditionDoesNotHold),
        ("grants/c-failing", RuleOutcome::ConditionFailed(_)),
        ("grants/d-token", RuleOutcome::TokenLacksScope(lacking)),
        ("grants/e-read", RuleOutcome::Applies(given)),
    ] = outcomes.as_slice()
    else {
        panic!("{outcomes:#?}")
    };
    assert_eq!((nothing, lacking, given), (&vec![], &scopes(&["read", "refund"]), &scopes(&["read"])));
}
