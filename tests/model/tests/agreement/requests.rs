//! Random callers and requests.

use chrono::{DateTime, TimeDelta, Utc};
use durward_core::principal::{CompletedStepUp, Identity};
use durward_core::risk::Assurance;
use durward_core::scope::Scope;
use durward_core::unknown_facts::UnknownCause;
use durward_model::conditions::{HEADERS, HeaderCase};
use durward_model::operations::audience;
use durward_model::world::{KubernetesCall, ModelCall, ModelRequest, ModelTarget, ModelWorld, PathSegment};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// The instant of all decisions.
pub fn now() -> DateTime<Utc> {
    "2026-07-01T06:30:00Z".parse().unwrap()
}

pub const PRINCIPALS: [&str; 10] = [
    "user:corporate/alice",
    "user:corporate/alice",
    "user:corporate/bob",
    "key:partners/acme",
    "spiffe://cluster.local/ns/shop/sa/cart",
    "spiffe://cluster.local/ns/shop/sa/cart",
    "spiffe://cluster.local/ns/bill/sa/bill",
    "spiffe://partner.example/ns/shop/sa/cart",
    "spiffe://partner.example/x/y",
    "kube:admin",
];

/// Names of operations that may exist.
pub const OPERATIONS: [&str; 7] = ["orders-0", "orders-1", "orders-2", "extra-0", "extra-1", "other-0", "nothing"];

fn any_attributes() -> impl Strategy<Value = (Value, Vec<&'static str>)> {
    let many: Vec<u32> = (0..400).collect();
    select(vec![
        (json!({}), vec![]),
        (json!({"level": 1, "department": "finance"}), vec![]),
        (json!({"level": 3, "department": "sales"}), vec![]),
        (json!({"level": "3", "department": "finance", "many": [1, 2]}), vec![]),
        (json!({"level": "3"}), vec!["department"]),
        (json!({"department": ["finance"], "many": []}), vec!["level"]),
        (json!({"many": many}), vec!["department", "other"]),
    ])
}

pub fn any_known_caller() -> impl Strategy<Value = Identity> {
    let assurance = select(vec![
        Assurance::SharedSecret,
        Assurance::Bearer,
        Assurance::Bearer,
        Assurance::ProofOfPossession,
        Assurance::ProofOfPossession,
        Assurance::MultiFactor,
        Assurance::MultiFactor,
        Assurance::MultiFactor,
        Assurance::PhishingResistant,
    ]);
    let factor = proptest::option::weighted(0.8, -100..600i64);
    let end = prop_oneof![8 => Just(None), 1 => Just(Some(0)), 1 => Just(Some(60))];
    let step_up = proptest::option::weighted(0.15, (select(&OPERATIONS[..]), -10..400i64));
    let credential = (
        proptest::option::of(subsequence(vec!["r", "s", "t", "orders-0"], 0..5)),
        prop::bool::weighted(0.15),
        proptest::option::weighted(0.15, Just(UnknownCause::LeftOut)),
    );
    let facts = (subsequence(vec!["dev", "ops"], 0..3), any_attributes());
    (select(&PRINCIPALS[..]), assurance, facts, credential, factor, end, step_up).prop_map(
        |(id, assurance, (groups, (attributes, unknown)), (scopes, narrowed, unknown_groups), factor, end, step_up)| {
            // the authenticator gives nothing else: a key is a shared secret, and only providers state attributes
            let assurance = if id.starts_with("key:") { Assurance::SharedSecret } else { assurance };
            let mut caller = Identity::new(id.parse().unwrap(), assurance);
            caller.federation = id.starts_with("spiffe://partner.example/").then(|| "partner".into());
            caller.groups = groups.into_iter().map(ToOwned::to_owned).collect();
            caller.attributes = attributes.as_object().unwrap().clone();
            caller.unknown.groups = unknown_groups;
            let unknown = unknown.into_iter().map(|name| (name.to_owned(), UnknownCause::WrongType));
            caller.unknown.attributes = unknown.collect();
            caller.narrowed = narrowed && scopes.is_some();
            caller.scopes = scopes.map(|all| all.into_iter().map(|text| Scope::parse(text).unwrap()).collect());
            let ago = |seconds| now() - TimeDelta::seconds(seconds);
            caller.authenticated_at = factor.map(ago);
            caller.expires_at = end.map(|seconds| now() + TimeDelta::seconds(seconds));
            caller.step_up = step_up.filter(|_| id.starts_with("user:")).map(|(operation, age)| CompletedStepUp {
                operation: operation.into(),
                assurance: Assurance::MultiFactor,
                authenticated_at: ago(age),
            });
            caller
        },
    )
}

pub fn any_caller() -> impl Strategy<Value = Option<Identity>> {
    proptest::option::weighted(0.9, any_known_caller())
}

/// A segment as sent, and decoded; none for an ambiguous one.
fn any_segment() -> impl Strategy<Value = PathSegment> {
    prop_oneof![
        12 => select(vec!["a", "b", "c", "doc", "1"]).prop_map(|text| (text, Some(text))),
        2 => select(vec!["A", "B", "DOC"]).prop_map(|text| (text, Some(text))),
        1 => select(vec![
            ("caf%C3%A9", Some("café")), ("CAF%C3%89", Some("CAFÉ")), ("a:b", Some("a:b")), ("%20c", Some(" c")),
            ("", None), (".", None), ("..", None), ("x.", None), ("%61", None), ("a%2Fb", None), ("a;x", None),
            ("a\\b", None), ("%zz", None), ("%00", None), ("caf\u{e9}", None), ("%C3", None), ("{x}", None),
            ("%EF%BC%8F", None),
        ]),
    ]
}

fn any_http() -> impl Strategy<Value = ModelCall> {
    let method = prop_oneof![
        8 => Just("GET"), 5 => Just("POST"), 1 => Just("X-ANY"), 1 => select(vec!["get", "", "G T"]),
    ];
    let path = prop_oneof![
        10 => proptest::collection::vec(any_segment(), 0..4),
        1 => Just(vec![("shop.v1.Orders", Some("shop.v1.Orders")), ("Get", Some("Get"))]),
        1 => Just(vec![("shop.v1.Orders", Some("shop.v1.Orders")), ("Put", Some("Put"))]),
    ];
    (method, path, any::<bool>()).prop_map(|(method, path, query)| {
        // `/` alone is the root
        let path = if path == [("", None)] { Vec::new() } else { path };
        ModelCall::Http(method, path, query)
    })
}

fn any_named() -> impl Strategy<Value = ModelCall> {
    let captures = select(vec![vec![], vec![("x", "a")], vec![("x", "a"), ("y", "b")], vec![("x", "a:b"), ("y", "")]]);
    (select(&OPERATIONS[..]), captures).prop_map(|(operation, captures)| {
        let captures: BTreeMap<String, String> =
            captures.into_iter().map(|(name, text)| (name.to_owned(), text.to_owned())).collect();
        ModelCall::Named(operation.to_owned(), captures)
    })
}

pub fn any_kubernetes_call() -> impl Strategy<Value = KubernetesCall> {
    let resource = select(vec![
        ("apps", "deployments", ""),
        ("apps", "deployments", "scale"),
        ("", "pods", ""),
        ("", "pods", "exec"),
    ]);
    (resource, select(vec!["CREATE", "UPDATE", "DELETE", "CONNECT"]), select(vec!["web", "a", ""])).prop_map(
        |((group, resource, subresource), verb, name)| KubernetesCall { group, resource, subresource, verb, name },
    )
}

pub fn any_target() -> impl Strategy<Value = ModelTarget> {
    prop_oneof![
        5 => Just(ModelTarget::Audience("orders.shop".to_owned())),
        2 => select(vec!["orders-api", "extra.shop", "other.shop", "orders.bill", "durward-admin"])
            .prop_map(|audience| ModelTarget::Audience(audience.to_owned())),
        5 => select(vec![
            ("orders.shop.svc", Some("orders.shop.svc")),
            ("orders.shop.svc", Some("orders.shop.svc")),
            ("ORDERS.shop.svc:8443", Some("orders.shop.svc")),
            ("orders.bill.svc.cluster.local", Some("orders.bill.svc.cluster.local")),
            ("api.example.com.", Some("api.example.com")),
            ("www.example.com:80", Some("www.example.com")),
            ("example.com", Some("example.com")),
            ("orders.shop.svc:x", None),
            ("a b", None),
        ]).prop_map(|(sent, host)| ModelTarget::Host(sent, host)),
    ]
}

fn object(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

fn any_objects() -> impl Strategy<Value = Fields> {
    select(vec![
        None,
        Some(object(json!({}))),
        Some(object(json!({"object": {"spec": {"replicas": 3}}}))),
        Some(object(json!({"object": {"spec": {"replicas": 9}}, "oldObject": {"spec": {}}}))),
        Some(object(json!({"object": {"spec": {}}}))),
    ])
}

fn any_resource() -> impl Strategy<Value = Fields> {
    select(vec![
        None,
        Some(object(json!({"type": "orders.shop", "id": "1", "properties": {"total": 5}}))),
        Some(object(json!({"type": "orders.shop", "id": "1", "properties": {"total": 50}}))),
        Some(object(json!({"type": "orders.shop", "id": "1", "properties": {}}))),
    ])
}

type Fields = Option<Map<String, Value>>;

fn evidence() -> impl Strategy<Value = (Option<&'static HeaderCase>, Fields, Fields)> {
    let headers = proptest::option::weighted(
        0.8,
        (0..HEADERS.len()).prop_map(|i| {
            static ALL: [HeaderCase; HEADERS.len()] = HEADERS;
            &ALL[i]
        }),
    );
    (headers, any_objects(), any_resource())
}

pub fn any_request() -> impl Strategy<Value = ModelRequest> {
    let call = prop_oneof![
        12 => any_http(),
        3 => any_named(),
        4 => any_kubernetes_call().prop_map(ModelCall::Kubernetes),
        1 => Just(ModelCall::Ambiguous),
    ];
    let source = select(vec![None, Some("10.1.2.3"), Some("192.0.2.1"), Some("::1")]);
    (any_target(), call, source, evidence()).prop_map(|(service, call, source, (headers, objects, resource))| {
        let source = source.map(|text| text.parse().unwrap());
        ModelRequest { service, call, source, headers, objects, resource }
    })
}

/// Requests, and calls of every operation by name.
pub fn with_named(world: &ModelWorld, requests: &[ModelRequest]) -> Vec<ModelRequest> {
    let mut all = requests.to_vec();
    for policy in &world.policies {
        for (operation, like) in policy.spec.operations.iter().zip(requests.iter().cycle()) {
            all.push(ModelRequest {
                service: ModelTarget::Audience(audience(policy)),
                call: ModelCall::Named(operation.name.clone(), [("x".to_owned(), "a".to_owned())].into()),
                ..like.clone()
            });
        }
    }
    all
}

/// Callers whose credential has ended are none: what rules say of them does not matter.
pub fn any_present_caller() -> impl Strategy<Value = Option<Identity>> {
    any_caller().prop_map(|caller| caller.filter(|caller| caller.expires_at.is_none_or(|end| now() < end)))
}
