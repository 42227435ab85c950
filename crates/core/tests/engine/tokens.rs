//! Scopes of access tokens: those of operations that are open whatever the request is.

use crate::support::*;
use chrono::TimeDelta;
use durward_core::authentication::AuthenticationMethod;
use durward_core::policy::{
    CompiledDenial, CompiledGrant, CompiledOperation, EnforcementMode, Policy, TokenSettings, TokenSignature,
};
use durward_core::principal::{Identity, Principal};
use durward_core::relations::RelationTarget;
use durward_core::risk::{Assurance, RiskLevel};
use durward_core::scope::Scope;
use durward_core::token::TokenScopes;
use std::collections::BTreeSet;

const CART: &str = "spiffe://cluster.local/ns/shop/sa/cart";

fn token(policies: impl IntoIterator<Item = Policy>, caller: &Identity, requested: Option<&[&str]>) -> TokenScopes {
    let snapshot = world(policies);
    let requested: Option<BTreeSet<Scope>> = requested.map(|requested| scopes(requested).into_iter().collect());
    let service = snapshot.by_audience("orders.shop").unwrap();
    service.token_scopes(&Principal::assumed(caller.clone()), None, requested.as_ref(), now())
}

fn carried(policies: impl IntoIterator<Item = Policy>, caller: &Identity, requested: Option<&[&str]>) -> String {
    let token = token(policies, caller, requested);
    token.scopes.iter().map(Scope::as_str).collect::<Vec<_>>().join(" ")
}

/// `list` needs `read`, `refund` needs `read` and `refund`; the grants are these.
fn granting(grants: Vec<CompiledGrant>) -> Policy {
    Policy { grants: each(grants), ..orders() }
}

#[test]
fn a_token_carries_granted_scopes_narrowed_to_the_requested_ones() {
    let both = || [granting(vec![grant("all", &["@corporate"], &["read", "refund", "unknown"])])];
    for (requested, expected) in [
        (None, "read refund"),
        (Some(&["read"] as &[&str]), "read"),
        (Some(&["refund"]), "refund"),
        (Some(&["read", "admin"]), "read"),
        (Some(&["admin", "unknown"]), ""),
        (Some(&[]), ""),
    ] {
        assert_eq!(carried(both(), &alice(), requested), expected, "{requested:?}");
    }
    let other = caller("user:partners/alice", Assurance::Bearer);
    assert_eq!(carried(both(), &other, None), "", "granted to others");
}

#[test]
fn a_scope_that_opens_nothing_is_left_out() {
    assert_eq!(carried([granting(vec![grant("half", &["*"], &["refund"])])], &alice(), None), "");
    assert_eq!(carried([granting(vec![grant("list", &["*"], &["read"])])], &alice(), None), "read");
}

#[test]
fn a_grant_applies_if_its_condition_holds_for_every_request() {
    for (when, expected) in [
        ("true", "read"),
        ("false", ""),
        ("principal.id == 'user:corporate/alice'", "read"),
        ("'dev' in principal.groups", ""),
        ("principal.attributes.level > 2", ""),
        ("request.time < timestamp('2026-07-01T07:00:00Z')", "read"),
        ("request.time > timestamp('2026-07-01T07:00:00Z')", ""),
        ("request.operation == 'list'", "read"),
        ("request.operation == 'refund'", ""),
        ("request.sourceAddress == '10.0.0.1' || true", ""),
        ("request.method == 'GET'", ""),
        ("!has(request.captures.id)", ""),
    ] {
        assert_eq!(
            carried([granting(vec![grant_when("it", &["*"], &["read"], when)])], &alice(), None),
            expected,
            "{when}"
        );
    }
}

#[test]
fn a_grant_by_relation_gives_no_token_scopes() {
    for object in ["order:{id}", "order:7"] {
        let relation = Some(RelationTarget::new(object, "viewer").unwrap());
        let by_relation = CompiledGrant { relation, ..grant("viewers", &["*"], &["read"]) };
        assert_eq!(carried([granting(vec![by_relation.clone()])], &alice(), None), "", "{object}");
        let also = grant("staff", &["*"], &["read"]);
        assert_eq!(carried([granting(vec![by_relation, also])], &alice(), None), "read", "{object}");
    }
}

#[test]
fn a_denial_applies_unless_it_can_never_hold() {
    let all = || vec![grant("all", &["*"], &["read", "refund"])];
    for (when, expected) in [
        ("true", ""),
        ("false", "read refund"),
        ("principal.attributes.suspended", ""),
        ("has(principal.attributes.suspended)", "read refund"),
        ("request.operation == 'refund'", "read"),
        ("request.time > timestamp('2026-07-01T07:00:00Z')", "read refund"),
        ("request.sourceAddress == '10.0.0.1'", ""),
        ("request.method == 'DELETE' && false", ""),
    ] {
        for mode in [EnforcementMode::Enforce, EnforcementMode::Audit] {
            let denials = vec![CompiledDenial { mode, ..denial_when("it", &["@corporate"], when) }];
            let policy = Policy { denials: each(denials), mode, ..granting(all()) };
            assert_eq!(carried([policy], &alice(), None), expected, "{when} in {mode:?} mode");
        }
    }
    let denials = vec![denial("others", &["@partners"])];
    assert_eq!(carried([Policy { denials: each(denials), ..granting(all()) }], &alice(), None), "read refund");
}

#[test]
fn a_token_requires_the_same_assurance_as_a_request() {
    let risky = |risk| {
        let operations = vec![
            operation("list", &["GET /orders"], &["read"]),
            CompiledOperation { risk, ..operation("refund", &["POST /refund"], &["refund"]) },
        ];
        [Policy { operations: each(operations), ..granting(vec![grant("all", &["*"], &["read", "refund"])]) }]
    };
    for (who, assurance, risk, expected) in [
        (CART, Assurance::Bearer, RiskLevel::Standard, "read refund"),
        (CART, Assurance::Bearer, RiskLevel::High, "read"),
        (CART, Assurance::ProofOfPossession, RiskLevel::High, "read refund"),
        ("key:partners/acme", Assurance::SharedSecret, RiskLevel::Low, "refund"),
        ("user:corporate/alice", Assurance::MultiFactor, RiskLevel::High, "read"),
    ] {
        assert_eq!(carried(risky(risk), &caller(who, assurance), None), expected, "{who} {assurance} {risk:?}");
    }
    let fresh = |age| Identity {
        authenticated_at: Some(now() - age),
        ..caller("user:corporate/alice", Assurance::MultiFactor)
    };
    let good = token(risky(RiskLevel::High), &fresh(TimeDelta::minutes(2)), None);
    assert_eq!(
        (good.scopes.len(), good.valid_until),
        (2, Some(now() + TimeDelta::minutes(3))),
        "not after the factor is too old"
    );
    let narrow = token(risky(RiskLevel::High), &fresh(TimeDelta::minutes(2)), Some(&["read"]));
    assert_eq!((narrow.scopes.len(), narrow.valid_until), (1, None));
    assert_eq!(carried(risky(RiskLevel::High), &fresh(TimeDelta::minutes(6)), None), "read");
}

#[test]
fn no_token_opens_closed_operations_with_the_same_scopes() {
    let operations = vec![
        operation("list", &["GET /orders"], &["read"]),
        CompiledOperation { risk: RiskLevel::High, ..operation("export", &["POST /export"], &["read"]) },
        operation("write", &["POST /orders"], &["write"]),
    ];
    let policy =
        || Policy { operations: each(operations.clone()), ..granting(vec![grant("all", &["*"], &["read", "write"])]) };
    assert_eq!(carried([policy()], &alice(), None), "write");
    assert_eq!(carried([policy()], &caller(CART, Assurance::ProofOfPossession), None), "read write");

    let operations = vec![
        operation("list", &["GET /orders"], &["read"]),
        operation("write", &["POST /orders"], &["write"]),
        CompiledOperation { risk: RiskLevel::High, ..operation("export", &["POST /export"], &["read", "write"]) },
    ];
    let policy =
        || Policy { operations: each(operations.clone()), ..granting(vec![grant("all", &["*"], &["read", "write"])]) };
    assert_eq!(carried([policy()], &alice(), None), "", "both at once would open the export");
    assert_eq!(carried([policy()], &alice(), Some(&["read"])), "read", "one at a time does not");
}

#[test]
fn each_method_opens_only_its_own_policies() {
    let operations = |name: &str, scope: &str| vec![operation(name, &[&format!("GET /{name}")], &[scope])];
    let grants = vec![grant("all", &["*"], &["read", "write"])];
    let mine = Policy { operations: each(operations("a", "read")), grants: each(grants), ..policy("a") };
    let theirs = Policy {
        operations: each(operations("b", "write")),
        authentication_methods: [AuthenticationMethod::Workload].into(),
        ..policy("b")
    };
    assert_eq!(carried([mine.clone(), theirs.clone()], &alice(), None), "read");
    assert_eq!(carried([mine, theirs], &caller(CART, Assurance::Bearer), None), "read write");
}

#[test]
fn the_callers_own_token_limits_grants_from_the_token() {
    let own = |own: Option<&[&str]>, narrowed| Identity {
        scopes: own.map(|own| scopes(own).into_iter().collect()),
        narrowed,
        ..alice()
    };
    let plain = || [granting(vec![grant("all", &["*"], &["read", "refund"])])];
    let from_token =
        || [granting(vec![CompiledGrant { from_token: true, ..grant("all", &["*"], &["read", "refund"]) }])];
    assert_eq!(carried(from_token(), &own(None, false), None), "");
    assert_eq!(carried(from_token(), &own(Some(&["read", "admin"]), false), None), "read");
    assert_eq!(carried(plain(), &own(Some(&["read"]), false), None), "read refund");
    assert_eq!(carried(plain(), &own(Some(&["read"]), true), None), "read", "a narrowed token stays narrow");
    assert_eq!(carried(plain(), &own(None, true), None), "");
}

#[test]
fn expired_credentials_and_operations_without_tokens_give_nothing() {
    let all = || [granting(vec![grant("all", &["*"], &["read"])])];
    assert_eq!(carried(all(), &Identity { expires_at: Some(now()), ..alice() }, None), "");
    let kubernetes = CompiledOperation { matches: Vec::new(), ..operation("exec", &[], &["admin"]) };
    let policy = Policy { operations: each([kubernetes]), ..granting(vec![grant("all", &["*"], &["admin"])]) };
    assert_eq!(carried([policy], &alice(), None), "");
}

#[test]
fn the_shortest_lifetime_and_the_first_algorithm_win() {
    let with = |name: &str, signature, minutes: Option<i64>| Policy {
        tokens: TokenSettings { signature, ttl: minutes.map(TimeDelta::minutes) },
        ..policy(name)
    };
    let snapshot = world([
        with("b", Some(TokenSignature::Rs256), Some(5)),
        with("a", None, Some(9)),
        with("c", Some(TokenSignature::Es256), None),
    ]);
    let tokens = snapshot.by_audience("orders.shop").unwrap().token_settings();
    assert_eq!(tokens, TokenSettings { signature: Some(TokenSignature::Rs256), ttl: Some(TimeDelta::minutes(5)) });
}

#[test]
fn a_narrowed_token_yields_no_further_scopes() {
    let snapshot = world([granting(vec![grant("all", &["*"], &["read", "refund"])])]);
    let narrowed = Identity { scopes: Some(scopes(&["read"]).into_iter().collect()), narrowed: true, ..alice() };
    assert!(ask(&snapshot, Some(&narrowed), "GET /orders").allowed());
    let refused = ask(&snapshot, Some(&narrowed), "POST /orders/1/refund");
    assert_eq!(refused.missing, scopes(&["refund"]));
}
