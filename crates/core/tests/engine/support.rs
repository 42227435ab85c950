//! Helpers for policies, callers and requests.

use chrono::{DateTime, TimeDelta, Utc};
use durward_core::authentication::AuthenticationMethod;
use durward_core::condition::Condition;
use durward_core::decision::Decision;
use durward_core::digest::Digest;
use durward_core::host::Host;
use durward_core::namespaced_name::NamespacedName;
use durward_core::path::{HttpPattern, Method, PathPattern};
use durward_core::policy::{CompiledDenial, CompiledGrant, CompiledOperation, EnforcementMode, Policy, TokenSettings};
use durward_core::principal::{Identity, Principal, PrincipalId};
use durward_core::relations::RelationModel;
use durward_core::request::{Call, Request, ServiceTarget};
use durward_core::risk::{Assurance, RiskLevel};
use durward_core::scope::Scope;
use durward_core::service::{CompiledService, ServiceKey};
use durward_core::snapshot::Snapshot;
use durward_core::subject::SubjectMatcher;
use std::collections::BTreeMap;
use std::sync::Arc;

pub const HOST: &str = "orders.shop.svc";

/// A policy of service `orders.shop` without any operations.
pub fn policy(name: &str) -> Policy {
    Policy {
        key: NamespacedName { namespace: "shop".into(), name: name.into() },
        audience: "orders.shop".into(),
        hosts: vec![Host::parse(HOST).unwrap()],
        pods: None,
        tokens: TokenSettings::default(),
        authentication_methods: [
            AuthenticationMethod::Workload,
            AuthenticationMethod::Provider("corporate".into()),
            AuthenticationMethod::Provider("partners".into()),
        ]
        .into(),
        operations: Vec::new(),
        relations: RelationModel::default(),
        relation_engine: Default::default(),
        headers: Vec::new(),
        grants: Vec::new(),
        denials: Vec::new(),
        mode: EnforcementMode::Enforce,
        generation: Some(1),
        digest: Digest::of([name.as_bytes()]),
        forgotten: None,
    }
}

/// The policy of most tables: `list` needs `read`, `refund` needs `read` and `refund`, `health` is public.
pub fn orders() -> Policy {
    Policy {
        operations: each([
            operation("list", &["GET /orders", "GET /orders/{id}"], &["read"]),
            operation("refund", &["POST /orders/{id}/refund"], &["read", "refund"]),
            CompiledOperation { public: true, ..operation("health", &["GET /healthz"], &[]) },
        ]),
        grants: each([grant("staff", &["user:corporate/alice"], &["read"])]),
        ..policy("orders")
    }
}

/// Parts of a policy, as it contains them.
pub fn each<T>(parts: impl IntoIterator<Item = T>) -> Vec<Arc<T>> {
    parts.into_iter().map(Arc::new).collect()
}

/// An operation of standard risk; `requests` are `METHOD /pattern`, with `*` for any method.
pub fn operation(name: &str, requests: &[&str], needs: &[&str]) -> CompiledOperation {
    CompiledOperation {
        name: name.into(),
        matches: requests.iter().map(|request| pattern(request)).collect(),
        kubernetes: Vec::new(),
        scopes: needs.iter().map(|scope| Scope::parse(scope).unwrap()).collect(),
        risk: RiskLevel::Standard,
        max_age: TimeDelta::minutes(5),
        approval: None,
        public: false,
    }
}

pub fn pattern(request: &str) -> HttpPattern {
    let (method, path) = request.split_once(' ').unwrap();
    HttpPattern {
        method: (method != "*").then(|| Method::parse(method).unwrap()),
        path: PathPattern::parse(path).expect(path),
    }
}

/// `*` for every caller, `@provider` for a provider, `group@provider` for a group, otherwise a principal.
pub fn subject(text: &str) -> SubjectMatcher {
    match text.split_once('@') {
        _ if text == "*" => SubjectMatcher::Authenticated,
        Some(("", provider)) => SubjectMatcher::Provider(provider.into()),
        Some((group, provider)) => SubjectMatcher::Group { provider: provider.into(), group: group.into() },
        None => SubjectMatcher::Principal(id(text)),
    }
}

pub fn grant(name: &str, to: &[&str], gives: &[&str]) -> CompiledGrant {
    CompiledGrant {
        rule: format!("shop/orders/grants/{name}").into(),
        to: to.iter().map(|text| subject(text)).collect(),
        scopes: gives.iter().map(|scope| Scope::parse(scope).unwrap()).collect(),
        from_token: false,
        when: None,
        relation: None,
    }
}

pub fn grant_when(name: &str, to: &[&str], gives: &[&str], when: &str) -> CompiledGrant {
    CompiledGrant { when: Some(condition(when)), ..grant(name, to, gives) }
}

pub fn denial(name: &str, to: &[&str]) -> CompiledDenial {
    CompiledDenial {
        rule: format!("shop/orders/denials/{name}").into(),
        to: to.iter().map(|text| subject(text)).collect(),
        when: None,
        reason: None,
        mode: EnforcementMode::Enforce,
    }
}

pub fn denial_when(name: &str, to: &[&str], when: &str) -> CompiledDenial {
    CompiledDenial { when: Some(condition(when)), ..denial(name, to) }
}

pub fn condition(source: &str) -> Arc<Condition> {
    Arc::new(Condition::compile(source).expect(source))
}

pub fn id(text: &str) -> PrincipalId {
    text.parse().expect(text)
}

/// Alice of the corporate issuer, with a bearer token.
pub fn alice() -> Identity {
    caller("user:corporate/alice", Assurance::Bearer)
}

pub fn caller(name: &str, assurance: Assurance) -> Identity {
    Identity::new(id(name), assurance)
}

pub fn now() -> DateTime<Utc> {
    "2026-07-01T06:30:00Z".parse().unwrap()
}

/// A snapshot of these policies, the oldest first in each service.
pub fn world(policies: impl IntoIterator<Item = Policy>) -> Snapshot {
    let mut services: BTreeMap<ServiceKey, Vec<Arc<Policy>>> = BTreeMap::new();
    let mut snapshot = Snapshot::default();
    for policy in policies {
        snapshot.record(&policy.key.to_string(), Some(policy.digest));
        let key = ServiceKey { namespace: Arc::clone(&policy.key.namespace), audience: Arc::clone(&policy.audience) };
        services.entry(key).or_default().push(Arc::new(policy));
    }
    for policies in services.values() {
        let (service, conflicts) = CompiledService::unite(policies);
        assert!(conflicts.is_empty(), "{conflicts:?}");
        snapshot.put(service.unwrap());
    }
    snapshot.update_revision();
    snapshot
}

/// `METHOD /path` to the host of service `orders.shop`.
pub fn http(request: &str) -> Request<'_> {
    let (method, path) = request.split_once(' ').unwrap();
    Request { target: ServiceTarget::Host(HOST), call: Call::Http { method, path }, source: None, evidence: &() }
}

pub fn ask(snapshot: &Snapshot, caller: Option<&Identity>, request: &str) -> Decision {
    decide(snapshot, caller, &http(request), now())
}

pub fn decide(snapshot: &Snapshot, caller: Option<&Identity>, request: &Request<'_>, now: DateTime<Utc>) -> Decision {
    snapshot.decide(caller.cloned().map(Principal::assumed).as_ref(), request, now)
}

/// The operation of a request, for any caller.
pub fn operation_of(snapshot: &Snapshot, request: &str) -> Option<String> {
    ask(snapshot, None, request).operation.map(|name| name.to_string())
}

pub fn service_key() -> ServiceKey {
    ServiceKey { namespace: "shop".into(), audience: "orders.shop".into() }
}

pub fn scopes(names: &[&str]) -> Vec<Scope> {
    names.iter().map(|name| Scope::parse(name).unwrap()).collect()
}
