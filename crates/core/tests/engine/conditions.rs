//! Conditions within a decision: the facts that they read, and robustness.

use crate::support::*;
use durward_core::condition::Condition;
use durward_core::decision::{Decision, Reason};
use durward_core::policy::Policy;
use durward_core::principal::Identity;
use durward_core::request::{Call, Request, ServiceTarget};
use durward_core::risk::Assurance;
use serde_json::json;

/// The decision about `GET /orders/{id}`, with a grant that requires this condition.
fn when(condition: &str, caller: &Identity, request: &Request<'_>) -> Decision {
    let grants = vec![grant_when("when", &["*"], &["read"], condition)];
    decide(&world([Policy { grants: each(grants), ..orders() }]), Some(caller), request, now())
}

fn holds(condition: &str, caller: &Identity, request: &Request<'_>) -> bool {
    when(condition, caller, request).allowed()
}

fn request() -> Request<'static> {
    Request {
        source: Some("2001:db8::7".parse().unwrap()),
        target: ServiceTarget::Host("ORDERS.shop.svc:80"),
        ..http("GET /orders/4%C3%A4?q=1")
    }
}

fn caller_with_all_facts() -> Identity {
    let mut alice = alice();
    alice.groups = ["dev".to_owned(), "support".to_owned()].into();
    alice.scopes = Some(scopes(&["read", "x"]).into_iter().collect());
    alice.authenticated_at = Some(now() - chrono::TimeDelta::minutes(3));
    let attributes = json!({
        "level": 3, "ratio": 0.5, "big": u64::MAX, "suspended": false, "nothing": null, "name": "Alice",
        "teams": ["a", "b"], "address": {"city": "Berlin", "lines": [1, 2]},
    });
    alice.attributes = attributes.as_object().unwrap().clone();
    alice
}

#[test]
fn conditions_read_every_fact_of_a_request() {
    for condition in [
        "principal.id == 'user:corporate/alice'",
        "principal.provider == 'corporate' && principal.subject == 'alice'",
        "!has(principal.namespace) && !has(principal.serviceAccount)",
        "principal.groups == ['dev', 'support'] && 'support' in principal.groups",
        "principal.scopes == ['read', 'x']",
        "principal.assurance == 'Bearer'",
        "principal.authenticatedAt < request.time",
        "request.time - principal.authenticatedAt == duration('3m')",
        "principal.attributes.level == 3 && principal.attributes.ratio == 0.5",
        "principal.attributes.big > 1.8e19 && principal.attributes.nothing == null",
        "!principal.attributes.suspended && principal.attributes.name == 'Alice'",
        "principal.attributes.teams[1] == 'b' && size(principal.attributes.teams) == 2",
        "principal.attributes.address.city == 'Berlin' && principal.attributes.address.lines[0] == 1",
        "principal.attributes['address']['city'] == 'Berlin'",
        "!has(principal.attributes.missing)",
        "request.method == 'GET' && request.path == '/orders/4%C3%A4'",
        "request.host == 'orders.shop.svc' && request.operation == 'list'",
        "request.captures.id == '4ä' && request.captures == {'id': '4ä'}",
        "request.sourceAddress == '2001:db8::7'",
        "request.time == timestamp('2026-07-01T06:30:00Z') && request.time.getHours('Europe/Berlin') == 8",
    ] {
        let decision = when(condition, &caller_with_all_facts(), &request());
        assert!(decision.allowed(), "{condition}");
    }
}

#[test]
fn each_kind_of_principal_has_its_own_facts() {
    let workload = "spiffe://cluster.local/ns/shop/sa/cart";
    for (who, condition) in [
        (workload, "principal.namespace == 'shop' && principal.serviceAccount == 'cart' && !has(principal.provider)"),
        (workload, "principal.id == 'spiffe://cluster.local/ns/shop/sa/cart' && !has(principal.subject)"),
        ("key:partners/acme", "principal.provider == 'partners' && principal.subject == 'acme'"),
        (workload, "principal.groups == [] && principal.scopes == [] && principal.attributes == {}"),
        (workload, "!has(principal.authenticatedAt) && principal.assurance == 'MultiFactor'"),
    ] {
        assert!(holds(condition, &caller(who, Assurance::MultiFactor), &request()), "{condition}");
    }
}

#[test]
fn namespaces_of_another_trust_domain_are_not_read() {
    for (who, subject) in
        [("spiffe://partner.example/ns/shop/sa/cart", "/ns/shop/sa/cart"), ("spiffe://partner.example/a/b", "/a/b")]
    {
        let mut foreign = caller(who, Assurance::ProofOfPossession);
        foreign.federation = Some("partners".into());
        let own = "!has(principal.namespace) && !has(principal.serviceAccount)";
        let named = format!(
            "principal.provider == 'partners' && principal.trustDomain == 'partner.example' && principal.subject == '{subject}'"
        );
        for condition in [own, &named] {
            assert!(holds(condition, &foreign, &request()), "{who}: {condition}");
        }
    }
}

#[test]
fn a_request_by_name_and_audience_has_no_method_path_or_host() {
    let call = Call::Named { operation: "list", captures: [("id".into(), "7".into())].into() };
    let request = Request { target: ServiceTarget::Audience("orders.shop"), call, source: None, evidence: &() };
    let condition = "!has(request.method) && !has(request.path) && !has(request.host) && !has(request.sourceAddress) \
                     && request.captures.id == '7'";
    assert!(holds(condition, &caller_with_all_facts(), &request));
    assert!(
        !holds("request.method != 'GET'", &caller_with_all_facts(), &request),
        "a condition on a missing fact fails"
    );
}

#[test]
fn attributes_can_not_forge_facts() {
    let mut mallory = alice();
    mallory.attributes = json!({"id": "user:corporate/root", "groups": ["admins"]}).as_object().unwrap().clone();
    assert!(!holds("principal.id == 'user:corporate/root'", &mallory, &request()));
    assert!(!holds("'admins' in principal.groups", &mallory, &request()));
}

#[test]
fn limits_of_arithmetic_and_conversions_cause_no_panic() {
    for source in [
        "9223372036854775807 + 1 > 0",
        "-9223372036854775807 - 2 < 0",
        "9223372036854775807 * 2 > 0",
        "(-9223372036854775807 - 1) / -1 > 0",
        "(-9223372036854775807 - 1) % -1 == 0",
        "-(-9223372036854775807 - 1) > 0",
        "1 / 0 == 1",
        "1 % 0 == 1",
        "1u - 2u == 0u",
        "18446744073709551615u + 1u == 0u",
        "int(1e300) > 0",
        "int(0.0 / 0.0) == 0",
        "uint(-1) > 0u",
        "int('x') == 1",
        "double('x') == 1.0",
        "duration('1000000000000h') > duration('1s')",
        "duration('x') > duration('1s')",
        "request.time + duration('8760000000h') > request.time",
        "request.time - duration('8760000000h') < request.time",
        "timestamp('9999-12-31T23:59:59Z') + duration('2562047h') > request.time",
        "timestamp('x') > request.time",
        "timestamp('2026-13-01T00:00:00Z') > request.time",
        "request.time.getHours('') == 1",
        "request.time.getHours('+99:99') == 1",
        "[1, 2][-1] == 1",
        "[1, 2][9223372036854775807] == 1",
        "'ä'[0] == 'x'",
        "{'a': 1}['b'] == 1",
        "principal.groups[0] == 'x'",
        "'x'.matches('(') || true && 'x'.matches('[')",
        "'x'.matches('(((a{100}){100}){100}){100}')",
        "string(1) + 1 == '11'",
        "principal == request",
        "principal < request",
        "principal.attributes < 3",
        "size(1) == 1",
        "dyn(1) == 'x'",
        "type(1) == 2",
        "bytes('a') == b'\\xff'",
        "string(b'\\xff') == 'x'",
        "max(1, 'a') == 1",
        "request.time.getFullYear('Europe/Berlin', 1) == 1",
        "principal.id.startsWith(1)",
        "principal.id.contains() == 1",
        "[1, 'a', null].all(x, x > 0)",
        "{1: 1, 1: 2}[1] == 1",
        "principal.id ? true : false",
        "1 < 2 < 3",
        "null && null",
        "has(principal.attributes.a.b)",
    ] {
        // the policy is refused or the condition grants nothing; neither panics
        if let Ok(condition) = Condition::compile(source) {
            let policy = Policy {
                grants: each([durward_core::policy::CompiledGrant {
                    when: Some(condition.into()),
                    ..grant("when", &["*"], &["read"])
                }]),
                ..orders()
            };
            let decision = decide(&world([policy]), Some(&alice()), &request(), now());
            assert!(matches!(decision.reason, Reason::Granted | Reason::InsufficientScope), "{source}");
        }
    }
}

#[test]
fn the_time_is_the_instant_passed_in() {
    let office = "request.time.getHours('Europe/Berlin') >= 8 && request.time.getHours('Europe/Berlin') < 18";
    let policy = Policy { grants: each([grant_when("office", &["*"], &["read"], office)]), ..orders() };
    let snapshot = world([policy]);
    for (at, open) in [
        ("2026-07-01T05:59:59Z", false),
        ("2026-07-01T06:00:00Z", true),
        ("2026-07-01T15:59:59Z", true),
        ("2026-07-01T16:00:00Z", false),
        ("2026-01-01T06:59:59Z", false),
        ("2026-01-01T07:00:00Z", true),
    ] {
        let decision = decide(&snapshot, Some(&alice()), &http("GET /orders"), at.parse().unwrap());
        assert_eq!(decision.allowed(), open, "{at}");
    }
}

#[test]
fn nesting_in_texts_and_comments_is_not_counted() {
    let within_strings = |n| format!("{}true{}", "(')'==')'&&".repeat(n), ")".repeat(n));
    let within_comments = |n| format!("{}true{}", "(//)\n".repeat(n), ")".repeat(n));
    let raw = |n| format!("{}true{}", r"(r')\'==''||".repeat(n), ")".repeat(n));
    let long = |n| format!("{}true{}", "('''\n')'''==''||".repeat(n), ")".repeat(n));
    for nested in [&within_strings as &dyn Fn(usize) -> String, &within_comments, &raw, &long] {
        assert!(Condition::compile(&nested(8)).is_ok(), "{}", nested(8));
        let error = Condition::compile(&nested(90)).expect_err("too deep");
        assert!(error.message.contains("nested deeper"), "{error}");
    }
    for deep in [
        "!".repeat(2000) + "true",
        "-".repeat(2000) + "1",
        "principal".to_owned() + &".id".repeat(600),
        "principal".to_owned() + &"['a']".repeat(400),
        "true?".repeat(200) + "true" + &":true".repeat(200),
        "true?true:".repeat(200) + "true",
        "1".to_owned() + &"+1".repeat(1000),
        "true".to_owned() + &"&&true".repeat(330),
        "true".to_owned() + &"||true".repeat(330),
        "1".to_owned() + &"<1".repeat(1000),
        "!(".repeat(30) + "true" + &")".repeat(30),
        "[".repeat(32) + &"]".repeat(32),
        "{1:".repeat(30) + "1" + &"}".repeat(30),
        "principal.id".to_owned() + &".contains('a')".repeat(140),
    ] {
        if let Ok(condition) = Condition::compile(&deep) {
            let grants = vec![durward_core::policy::CompiledGrant {
                when: Some(condition.into()),
                ..grant("g", &["*"], &["read"])
            }];
            let _ = ask(&world([Policy { grants: each(grants), ..orders() }]), Some(&alice()), "GET /orders");
        }
    }
}
