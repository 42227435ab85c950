//! Valid policies and their compiled form.

use crate::support::*;
use chrono::TimeDelta;
use durward_core::authentication::AuthenticationMethod;
use durward_core::policy::{EnforcementMode, TokenSettings, TokenSignature};
use durward_core::risk::RiskLevel;
use durward_core::scope::Scope;
use durward_core::subject::SubjectMatcher;

fn names<'s>(scopes: impl IntoIterator<Item = &'s Scope>) -> Vec<&'s str> {
    scopes.into_iter().map(Scope::as_str).collect()
}

#[test]
fn an_empty_policy_is_a_service_that_denies_everything() {
    let policy = compiled("");
    assert_eq!(&*policy.audience, "orders.shop");
    assert_eq!(policy.mode, EnforcementMode::Enforce);
    assert!(policy.operations.is_empty() && policy.hosts.is_empty() && policy.authentication_methods.is_empty());
    let world = World::of([resource("service: {hosts: [orders.shop.svc]}")]);
    assert_eq!(world.answers("orders.shop.svc/"), "OperationUndeclared");
}

#[test]
fn a_policy_sets_the_algorithm_and_the_lifetime_of_tokens() {
    assert_eq!(compiled("").tokens, TokenSettings::default());
    let tokens = compiled("tokens: {algorithm: ES256, ttl: 90s}").tokens;
    assert_eq!(tokens, TokenSettings { signature: Some(TokenSignature::Es256), ttl: Some(TimeDelta::seconds(90)) });
    assert_eq!(compiled("tokens: {algorithm: RS256, ttl: 1h}").tokens.signature, Some(TokenSignature::Rs256));
}

#[test]
fn a_policy_without_a_namespace_is_in_the_default_one() {
    let mut policy = resource("");
    policy.metadata.namespace = None;
    let policy = durward_api::compile::compile(&policy, &settings()).unwrap();
    assert_eq!(policy.key.to_string(), "default/orders");
    assert_eq!(&*policy.audience, "orders.default");
}

/// The example of the documentation.
const DOCUMENTED: &str = r#"
service:
  audience: orders-api
  hosts: [orders.shop.svc, ORDERS.example.com.]
authentication:
- workload: {}
- provider: corporate
operations:
- name: list-orders
  http: [{methods: [GET], paths: ["/orders", "/orders/{id}"]}]
  scopes: [orders.read]
- name: refund-order
  http: [{methods: [POST], paths: ["/orders/{id}/refund"]}]
  scopes: [orders.refund]
  risk: High
  stepUp: {maxAge: 10m}
- name: watch-orders
  grpc: [{service: shop.v1.Orders, methods: [Watch]}]
  scopes: [orders.read]
- name: health
  http: [{methods: [GET], paths: [/healthz]}]
  public: true
roles:
- {name: clerk, scopes: [orders.read, orders.refund]}
grants:
- name: billing-reads
  to: [{serviceAccount: {namespace: billing, name: billing}}]
  scopes: [orders.read]
- name: scopes-of-corporate-tokens
  to: [{provider: corporate}]
  scopes: [orders.read, orders.refund]
  fromToken: true
- name: support-in-office-hours
  to: [{group: support, provider: corporate}]
  roles: [clerk]
  when: request.time.getHours("Europe/Berlin") >= 8 && request.time.getHours("Europe/Berlin") < 18
denials:
- name: suspended
  to: [{authenticated: true}]
  when: has(principal.attributes.suspended) && principal.attributes.suspended
  reason: account suspended
mode: Audit
"#;

#[test]
fn the_example_of_the_documentation_compiles() {
    let policy = compiled(DOCUMENTED);
    assert_eq!(
        policy.hosts.iter().map(|host| host.as_str()).collect::<Vec<_>>(),
        ["orders.shop.svc", "orders.example.com"]
    );
    assert_eq!(
        *policy.authentication_methods,
        [AuthenticationMethod::Workload, AuthenticationMethod::Provider("corporate".into())]
    );
    let operations: Vec<_> = policy
        .operations
        .iter()
        .map(|o| {
            let matches: Vec<_> =
                o.matches.iter().map(|m| format!("{} {}", m.method.as_ref().unwrap().as_str(), m.path)).collect();
            (&*o.name, matches.join(", "), names(o.scopes.iter()).join(" "), o.risk, o.max_age, o.public)
        })
        .collect();
    let five = TimeDelta::minutes(5);
    let expected = [
        ("list-orders", "GET /orders, GET /orders/{id}", "orders.read", RiskLevel::Standard, five, false),
        ("refund-order", "POST /orders/{id}/refund", "orders.refund", RiskLevel::High, TimeDelta::minutes(10), false),
        ("watch-orders", "POST /shop.v1.Orders/Watch", "orders.read", RiskLevel::Standard, five, false),
        ("health", "GET /healthz", "", RiskLevel::Standard, five, true),
    ]
    .map(|(name, matches, scopes, risk, age, public)| (name, matches.to_owned(), scopes.to_owned(), risk, age, public));
    assert_eq!(operations, expected);
    let grants: Vec<_> =
        policy.grants.iter().map(|g| (&*g.rule, names(g.scopes.iter()), g.from_token, g.when.is_some())).collect();
    assert_eq!(
        grants,
        [
            ("shop/orders/grants/billing-reads", vec!["orders.read"], false, false),
            ("shop/orders/grants/scopes-of-corporate-tokens", vec!["orders.read", "orders.refund"], true, false),
            ("shop/orders/grants/support-in-office-hours", vec!["orders.read", "orders.refund"], false, true),
        ]
    );
    assert_eq!(
        *policy.grants[0].to,
        [SubjectMatcher::Principal("spiffe://td.example/ns/billing/sa/billing".parse().unwrap())]
    );
    assert_eq!(*policy.grants[1].to, [SubjectMatcher::Provider("corporate".into())]);
    assert_eq!(*policy.grants[2].to, [SubjectMatcher::Group { provider: "corporate".into(), group: "support".into() }]);
    let denial = &policy.denials[0];
    assert_eq!(
        (&*denial.rule, denial.reason.as_deref(), denial.mode),
        ("shop/orders/denials/suspended", Some("account suspended"), EnforcementMode::Audit)
    );
    assert_eq!(*denial.to, [SubjectMatcher::Authenticated]);
}

#[test]
fn an_operation_without_scopes_requires_its_own_name() {
    let policy = compiled("operations: [{name: list-orders, http: [{methods: [GET], paths: [/]}]}]");
    assert_eq!(names(policy.operations[0].scopes.iter()), ["list-orders"]);
}

#[test]
fn scopes_are_a_set() {
    let policy = compiled("operations: [{name: a, scopes: [z, a, z], http: [{methods: [GET], paths: [/]}]}]");
    assert_eq!(names(policy.operations[0].scopes.iter()), ["a", "z"]);
}

#[test]
fn a_role_adds_to_the_scopes_of_a_grant() {
    let policy = compiled(
        "roles: [{name: r, scopes: [b, c]}, {name: s, scopes: [d]}]\n\
         grants: [{name: a, to: [{principal: 'kube:x'}], scopes: [a, b], roles: [r]}]",
    );
    assert_eq!(names(policy.grants[0].scopes.iter()), ["a", "b", "c"]);
}

#[test]
fn a_step_up_has_a_maximum_age_from_a_second_to_a_day() {
    for (age, expected) in [("1s", 1), ("5m", 300), ("24h", 86_400), ("1h30m", 5_400), ("90s", 90)] {
        let spec = format!(
            "operations: [{{name: a, risk: High, stepUp: {{maxAge: {age}}}, http: [{{methods: [GET], paths: [/]}}]}}]"
        );
        assert_eq!(compiled(&spec).operations[0].max_age, TimeDelta::seconds(expected), "{age}");
    }
}

#[test]
fn different_specs_have_different_digests() {
    let specs = [
        "",
        "mode: Audit",
        "service: {audience: a}",
        "authentication: [{workload: {}}]",
        "authentication: [{provider: p}]",
        "grants: [{name: a, to: [{principal: 'kube:x'}], scopes: [a]}]",
        "grants: [{name: a, to: [{principal: 'kube:x'}], scopes: [b]}]",
        "grants: [{name: a, to: [{principal: 'kube:x'}], scopes: [a], fromToken: true}]",
        "grants: [{name: a, to: [{principal: 'kube:x'}], scopes: [a], when: 'true'}]",
    ];
    let digests: std::collections::BTreeSet<_> = specs.iter().map(|spec| compiled(spec).digest).collect();
    assert_eq!(digests.len(), specs.len());
}
