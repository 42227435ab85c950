//! Random policies, tuples, Namespaces and approvals.

use crate::requests::{PRINCIPALS, now};
use chrono::TimeDelta;
use durward_api::resources::{AccessPolicy, Operation, Relationship};
use durward_model::conditions::CONDITIONS;
use durward_model::operations::{audience, claims, name};
use durward_model::world::{ModelApproval, ModelNamespace, ModelWorld};
use proptest::prelude::*;
use proptest::sample::{Index, select, subsequence};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

const PATHS: [&str; 15] = [
    "/", "/a", "/b", "/A", "/{x}", "/a/b", "/{x}/b", "/{x}/{y}", "/{y}/A", "/a/*", "/*", "/{x}/a/*", "/b/a", "/café",
    "/doc/{x}",
];

/// One of these values, as JSON.
fn one_of(values: &[Value]) -> impl Strategy<Value = Value> + use<> {
    select(values.to_vec())
}

fn some(from: &[&str], size: std::ops::Range<usize>) -> impl Strategy<Value = Vec<String>> + use<> {
    let from: Vec<String> = from.iter().map(ToString::to_string).collect();
    subsequence(from, size)
}

fn everybody() -> Value {
    json!({"authenticated": true})
}

/// A caller selector.
fn any_selector() -> impl Strategy<Value = Value> {
    one_of(&[
        everybody(),
        json!({"serviceAccount": {"namespace": "shop", "name": "cart"}}),
        json!({"namespace": "shop"}),
        json!({"namespaceSelector": {"matchLabels": {"team": "payments"}}}),
        json!({"namespaceSelector": {"matchExpressions": [{"key": "team", "operator": "NotIn", "values": ["sales"]}]}}),
        json!({"namespaceSelector": {"matchExpressions": [{"key": "tier", "operator": "Exists"}]}}),
        json!({"spiffe": "spiffe://cluster.local/ns/*/sa/cart"}),
        json!({"spiffe": "spiffe://partner.example/*/shop/sa/*"}),
        json!({"spiffe": "spiffe://partner.example/x/y"}),
        json!({"principal": "user:corporate/alice"}),
        json!({"principal": "key:partners/acme"}),
        json!({"principal": "kube:admin"}),
        json!({"principal": "spiffe://partner.example/ns/shop/sa/cart"}),
        json!({"provider": "corporate"}),
        json!({"provider": "partner"}),
        json!({"provider": "corporate", "group": "dev"}),
        json!({"provider": "corporate", "group": "ops"}),
        json!({"provider": "kubernetes", "group": "dev"}),
        json!({"provider": "partner", "group": "dev"}),
        json!({"provider": "corporate", "claims": {"department": "finance"}}),
        json!({"provider": "corporate", "claims": {"department": "finance", "level": "3"}}),
        json!({"provider": "corporate", "group": "dev", "claims": {"department": "finance"}}),
        json!({"provider": "kubernetes"}),
    ])
}

/// Some callers; `wide` of ten lists begin with everybody.
fn to(wide: u32) -> impl Strategy<Value = Vec<Value>> {
    let first = prop_oneof![wide => Just(everybody()), 10 - wide => any_selector()];
    (first, proptest::option::of(any_selector())).prop_map(|(first, more)| [first].into_iter().chain(more).collect())
}

fn when() -> impl Strategy<Value = Option<&'static str>> {
    let texts: Vec<&str> = CONDITIONS.iter().map(|one| one.text).collect();
    proptest::option::weighted(0.4, select(texts))
}

fn put<T: Into<Value>>(object: &mut Value, key: &str, value: Option<T>) {
    if let Some(value) = value {
        object[key] = value.into();
    }
}

fn any_http() -> impl Strategy<Value = Value> {
    let methods = one_of(&[json!(["GET"]), json!(["GET"]), json!(["POST"]), json!(["*"]), json!(["GET", "POST"])]);
    (methods, some(&PATHS, 1..3)).prop_map(|(methods, paths)| json!({"methods": methods, "paths": paths}))
}

fn any_grpc() -> impl Strategy<Value = Value> {
    let methods = one_of(&[json!(["Get"]), json!(["Get", "List"]), json!(["*"])]);
    methods.prop_map(|methods| json!({"service": "shop.v1.Orders", "methods": methods}))
}

fn any_kubernetes() -> impl Strategy<Value = Value> {
    let groups = one_of(&[json!(["apps"]), json!(["", "apps"]), json!(["*"])]);
    let resources = one_of(&[
        json!(["deployments"]),
        json!(["pods", "pods/exec"]),
        json!(["deployments/*"]),
        json!(["*"]),
        json!(["*/*"]),
        json!(["*/exec"]),
    ]);
    let verbs = one_of(&[json!(["CREATE"]), json!(["UPDATE", "DELETE"]), json!(["CONNECT"]), json!(["*"])]);
    (groups, resources, verbs)
        .prop_map(|(groups, resources, verbs)| json!({"apiGroups": groups, "resources": resources, "verbs": verbs}))
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Public,
    Plain,
    Low,
    High,
    Approved,
}

fn any_operation() -> impl Strategy<Value = Value> {
    let kind = prop_oneof![
        1 => Just(Kind::Public), 8 => Just(Kind::Plain), 2 => Just(Kind::Low), 2 => Just(Kind::High),
        3 => Just(Kind::Approved),
    ];
    let requests = (
        proptest::collection::vec(any_http(), 1..3),
        proptest::option::weighted(0.15, any_grpc()),
        proptest::option::weighted(0.3, any_kubernetes()),
    );
    let age = proptest::option::of(select(vec!["1m", "10m"]));
    (kind, requests, some(&["r", "s", "t"], 0..3), age, any::<bool>()).prop_map(
        |(kind, (http, grpc, kubernetes), scopes, age, only_kubernetes)| {
            // a policy is refused if only service accounts could use an approval at the API server
            let only_kubernetes =
                only_kubernetes && kubernetes.is_some() && !matches!(kind, Kind::Public | Kind::Approved);
            let mut operation = json!({});
            put(&mut operation, "http", (!only_kubernetes).then_some(http));
            put(&mut operation, "grpc", grpc.map(|grpc| json!([grpc])));
            if kind == Kind::Public {
                operation["public"] = json!(true);
                return operation;
            }
            put(&mut operation, "kubernetes", kubernetes.map(|one| json!([one])));
            put(&mut operation, "scopes", (!scopes.is_empty()).then_some(scopes));
            let risk = match kind {
                Kind::Low => Some("Low"),
                Kind::High | Kind::Approved => Some("High"),
                Kind::Public | Kind::Plain => None,
            };
            put(&mut operation, "risk", risk);
            if risk == Some("High") {
                put(&mut operation, "stepUp", age.map(|age| json!({"maxAge": age})));
            }
            if kind == Kind::Approved {
                operation["approval"] = json!({"by": [{"provider": "corporate", "group": "ops"}], "for": "20m"});
            }
            operation
        },
    )
}

fn any_grant() -> impl Strategy<Value = Value> {
    let relation = proptest::option::weighted(
        0.4,
        one_of(&[
            json!({"object": "doc:{x}", "relation": "viewer"}),
            json!({"object": "doc:{x}", "relation": "reader"}),
            json!({"object": "doc:{x}/{y}", "relation": "owner"}),
            json!({"object": "doc:a", "relation": "both"}),
            json!({"object": "doc:{name}", "relation": "viewer"}),
        ]),
    );
    let gives = prop_oneof![
        3 => some(&["r", "s", "t"], 1..4).prop_map(|scopes| json!({"scopes": scopes})),
        1 => one_of(&[json!({"roles": ["clerk"]}), json!({"roles": ["reader"], "scopes": ["t"]})]),
        1 => some(&["orders-0", "orders-1", "extra-0", "r"], 1..3).prop_map(|scopes| json!({"scopes": scopes})),
    ];
    (to(4), gives, prop::bool::weighted(0.15), when(), relation).prop_map(
        |(to, mut grant, from_token, when, relation)| {
            grant["to"] = to.into();
            put(&mut grant, "fromToken", from_token.then_some(true));
            put(&mut grant, "when", when);
            put(&mut grant, "relation", relation);
            grant
        },
    )
}

fn any_denial() -> impl Strategy<Value = Value> {
    (to(1), when()).prop_map(|(to, when)| {
        let mut denial = json!({"to": to});
        put(&mut denial, "when", when);
        denial
    })
}

fn relations() -> [Value; 3] {
    let doc = json!({"object": "doc", "relations": {
        "owner": {}, "parent": {}, "blocked": {},
        "viewer": {"union": [{"this": {}}, {"relation": "owner"}, {"from": "parent", "relation": "viewer"}]},
        "reader": {"exclusion": [{"relation": "viewer"}, {"relation": "blocked"}]},
        "both": {"intersection": [{"relation": "owner"}, {"relation": "viewer"}]},
    }});
    let folder = json!({"object": "folder", "relations": {"viewer": {}}});
    [json!([]), json!([folder.clone()]), json!([doc, folder])]
}

fn named(policy: &str, mut rules: Vec<Value>) -> Vec<Value> {
    for (i, rule) in rules.iter_mut().enumerate() {
        rule["name"] = json!(format!("{policy}{i}"));
    }
    rules
}

/// What a policy says, as JSON.
fn any_spec() -> impl Strategy<Value = Value> {
    let authentication = subsequence(
        vec![
            json!({"workload": {}}),
            json!({"provider": "corporate"}),
            json!({"provider": "partners"}),
            json!({"provider": "partner"}),
        ],
        2..5,
    );
    let mode = prop_oneof![3 => Just("Enforce"), 1 => Just("Audit")];
    let rules = (
        proptest::collection::vec(any_operation(), 1..4),
        proptest::collection::vec(any_grant(), 1..5),
        proptest::collection::vec(any_denial(), 0..3),
    );
    (authentication, mode, one_of(&relations()), rules).prop_map(
        |(authentication, mode, relations, (operations, mut grants, denials))| {
            if relations.as_array().is_none_or(|types| types.len() < 2) {
                // a grant speaks of types of its own policy
                grants.iter_mut().for_each(|grant| drop(grant.as_object_mut().unwrap().remove("relation")));
            }
            json!({
                "authentication": authentication, "mode": mode, "relations": relations,
                "headers": ["x-tenant", "x-region"],
                "operations": named("-", operations), "grants": named("g", grants), "denials": named("d", denials),
                "roles": [{"name": "reader", "scopes": ["r"]}, {"name": "clerk", "scopes": ["s"], "includes": ["reader"]}],
            })
        },
    )
}

fn any_service() -> impl Strategy<Value = Value> {
    let audience = prop_oneof![2 => Just(json!(null)), 5 => Just(json!("orders.shop")), 1 => Just(json!("orders-api"))];
    let hosts = prop_oneof![
        1 => Just(vec![]),
        5 => some(&["orders.shop.svc", "api.example.com", "www.example.com"], 1..3),
        1 => some(&["orders.bill.svc.cluster.local", "api.example.com"], 1..3),
    ];
    (audience, hosts).prop_map(|(audience, hosts)| match audience {
        Value::Null => json!({"hosts": hosts}),
        audience => json!({"audience": audience, "hosts": hosts}),
    })
}

pub fn any_policy() -> impl Strategy<Value = AccessPolicy> {
    let key = prop_oneof![
        4 => Just(("shop", "orders")), 3 => Just(("shop", "extra")), 2 => Just(("shop", "other")), 1 => Just(("bill", "orders")),
    ];
    let uid = proptest::option::of(select(vec!["u1", "u2"]));
    let created = proptest::option::weighted(0.9, 0..4);
    (key, uid, created, any_service(), any_spec()).prop_map(|((namespace, name), uid, created, service, mut spec)| {
        for operation in spec["operations"].as_array_mut().unwrap() {
            operation["name"] = json!(format!("{name}{}", operation["name"].as_str().unwrap()));
        }
        spec["service"] = service;
        let mut metadata = json!({"namespace": namespace, "name": name});
        put(&mut metadata, "uid", uid);
        put(&mut metadata, "creationTimestamp", created.map(|second| format!("2026-01-01T00:00:0{second}Z")));
        from_json(
            json!({"apiVersion": "durward.dev/v1alpha1", "kind": "AccessPolicy", "metadata": metadata, "spec": spec}),
        )
    })
}

fn from_json<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("a resource")
}

fn any_tuple() -> impl Strategy<Value = Value> {
    let object =
        select(vec!["doc:a", "doc:b", "doc:1", "doc:a/b", "doc:web", "folder:f", "group:eng", "group:corporate/dev"]);
    let relation = select(vec!["owner", "parent", "blocked", "viewer", "viewer", "member", "reader"]);
    let subject = select(vec![
        "*",
        "user:corporate/alice",
        "spiffe://cluster.local/ns/shop/sa/cart",
        "kube:admin",
        "doc:a",
        "doc:b",
        "folder:f",
        "doc:b#viewer",
        "doc:1#owner",
        "folder:f#viewer",
        "group:eng#member",
        "group:corporate/dev#member",
    ]);
    (object, relation, subject)
        .prop_map(|(object, relation, subject)| json!({"object": object, "relation": relation, "subject": subject}))
}

fn any_relationship() -> impl Strategy<Value = Relationship> {
    let service = select(vec!["orders.shop", "orders.shop", "orders-api"]);
    let tuples = proptest::collection::vec(any_tuple(), 1..14);
    (select(vec!["one", "two"]), service, tuples).prop_map(|(name, service, tuples)| {
        from_json(json!({
            "apiVersion": "durward.dev/v1alpha1", "kind": "Relationship",
            "metadata": {"namespace": "shop", "name": name}, "spec": {"service": service, "tuples": tuples},
        }))
    })
}

fn any_namespaces() -> impl Strategy<Value = Vec<ModelNamespace>> {
    let one = |name: &'static str, hosts: Vec<&'static str>, audiences: Vec<&'static str>| {
        let labels = select(vec![vec![], vec![("team", "payments")], vec![("team", "sales"), ("tier", "1")]]);
        (select(hosts), select(audiences), labels).prop_map(move |(hosts, audiences, labels)| ModelNamespace {
            name: name.to_owned(),
            annotations: texts([("durward.dev/allowed-hosts", hosts), ("durward.dev/allowed-audiences", audiences)]),
            labels: texts(labels),
        })
    };
    let shop = one(
        "shop",
        vec!["*.example.com", "*.example.com", "*.example.com", "*.example.com", "api.example.com", ""],
        vec!["orders.shop, orders-api"],
    );
    let bill = one("bill", vec!["api.example.com", ""], vec!["orders-api", "orders-api,orders.shop", ""]);
    (shop, proptest::option::weighted(0.8, bill)).prop_map(|(shop, bill)| [shop].into_iter().chain(bill).collect())
}

fn texts<'t>(pairs: impl IntoIterator<Item = (&'t str, &'t str)>) -> BTreeMap<String, String> {
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

type ApprovalSeed = (Index, &'static str, &'static str, i64, i64);

fn approval(
    policies: &[AccessPolicy],
    (which, principal, other_uid, age, left): ApprovalSeed,
) -> Option<ModelApproval> {
    let needing: Vec<_> = policies
        .iter()
        .flat_map(|policy| policy.spec.operations.iter().map(move |one| (policy, one)))
        .filter(|(_, operation)| operation.approval.is_some())
        .collect();
    let (policy, operation) = needing.get(which.index(needing.len().max(1)))?;
    let (namespace, name) = name(policy);
    let own = policy.metadata.uid.clone().unwrap_or_default();
    Some(ModelApproval {
        policy: (namespace.to_owned(), name.to_owned()),
        policy_uid: if other_uid.is_empty() { own } else { other_uid.to_owned() },
        operation: operation.name.clone(),
        principal: principal.to_owned(),
        from: now() - TimeDelta::minutes(age),
        until: now() + TimeDelta::minutes(left),
    })
}

/// Leaves out what conflicts with an earlier policy, so that most policies are in force.
fn without_conflicts(policies: &mut [AccessPolicy]) {
    let mut claimed = BTreeSet::new();
    let mut hosts: BTreeMap<String, String> = BTreeMap::new();
    let mut requests = BTreeSet::new();
    for policy in policies {
        let service = audience(policy);
        let namespace = name(policy).0.to_owned();
        policy.spec.service.hosts.retain(|host| {
            let holder = hosts.entry(host.clone()).or_insert_with(|| service.clone());
            *holder == service && (host.contains(&namespace) || host.ends_with(".example.com"))
        });
        if !policy.spec.relations.is_empty() && !claimed.insert(service.clone()) {
            policy.spec.relations.clear();
            policy.spec.grants.iter_mut().for_each(|grant| grant.relation = None);
        }
        for operation in &mut policy.spec.operations {
            let mut free = |claims: Vec<String>| {
                let new: BTreeSet<String> = claims.iter().map(|claim| format!("{service} {claim}")).collect();
                let free = new.len() == claims.len() && new.is_disjoint(&requests);
                requests.extend(if free { new } else { BTreeSet::new() });
                free
            };
            let empty = || Operation { name: operation.name.clone(), ..Operation::default() };
            let (http, grpc, kubernetes) =
                (operation.http.clone(), operation.grpc.clone(), operation.kubernetes.clone());
            let http: Vec<_> = http
                .into_iter()
                .filter(|one| free(claims(&Operation { http: vec![one.clone()], ..empty() })))
                .collect();
            let grpc: Vec<_> = grpc
                .into_iter()
                .filter(|one| free(claims(&Operation { grpc: vec![one.clone()], ..empty() })))
                .collect();
            let kubernetes: Vec<_> = kubernetes
                .into_iter()
                .filter(|one| free(claims(&Operation { kubernetes: vec![one.clone()], ..empty() })))
                .collect();
            if http.is_empty() && grpc.is_empty() {
                operation.approval = None;
            }
            (operation.http, operation.grpc, operation.kubernetes) = (http, grpc, kubernetes);
        }
        let declares = |one: &Operation| !(one.http.is_empty() && one.grpc.is_empty() && one.kubernetes.is_empty());
        policy.spec.operations.retain(declares);
    }
}

pub fn any_world() -> impl Strategy<Value = ModelWorld> {
    let seed = (any::<Index>(), select(&PRINCIPALS[..]), select(vec!["", "", "", "u9"]), -1..25i64, -1..30i64);
    (
        proptest::collection::vec(any_policy(), 1..5),
        proptest::collection::vec(any_relationship(), 0..3),
        any_namespaces(),
        proptest::collection::vec(seed, 0..6),
        prop::bool::weighted(0.85),
    )
        .prop_map(|(mut policies, mut relationships, namespaces, seeds, tidy)| {
            let mut seen = BTreeSet::new();
            policies.retain(|policy| seen.insert(format!("{:?}", name(policy))));
            if tidy {
                without_conflicts(&mut policies);
            }
            relationships.retain(|one| seen.insert(one.metadata.name.clone().unwrap()));
            let mut of: BTreeSet<(String, String)> = BTreeSet::new();
            let approvals = seeds.into_iter().filter_map(|seed| approval(&policies, seed));
            // one approval for each operation and principal
            let approvals = approvals
                .filter(|one| of.insert((format!("{:?} {}", one.policy, one.operation), one.principal.clone())));
            ModelWorld { approvals: approvals.collect(), policies, relationships, namespaces }
        })
}
