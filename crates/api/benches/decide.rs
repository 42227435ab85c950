//! Time of a decision and of a change, by the number of policies.
//!
//! Targets: a decision by scopes under 1 µs, with one condition under 5 µs, neither growing with the number of
//! policies.

#![allow(missing_docs, clippy::expect_used, reason = "a failed expectation ends the benchmark")]

use chrono::{DateTime, Utc};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use durward_api::catalog::{Catalog, CatalogChange};
use durward_api::compile::ClusterDomains;
use durward_api::resources::AccessPolicy;
use durward_core::principal::{Identity, Principal, PrincipalId};
use durward_core::request::{Call, Request, ServiceTarget};
use durward_core::risk::Assurance;
use durward_core::snapshot::Snapshot;
use serde_json::{Value, json};
use std::hint::black_box;

const SIZES: [usize; 3] = [10, 1_000, 10_000];

/// A policy as in the documentation: a few operations, a few grants, a denial.
fn policy(number: usize, denials: Value, grants: Value) -> AccessPolicy {
    serde_json::from_value(json!({
        "apiVersion": "durward.dev/v1alpha1",
        "kind": "AccessPolicy",
        "metadata": {"name": format!("orders-{number}"), "namespace": "shop"},
        "spec": {
            "service": {"hosts": [format!("orders-{number}.shop.svc")]},
            "authentication": [{"workload": {}}, {"provider": "corporate"}],
            "operations": [
                {"name": "list", "http": [{"methods": ["GET"], "paths": ["/orders", "/orders/{id}"]}], "scopes": ["orders.read"]},
                {"name": "refund", "http": [{"methods": ["POST"], "paths": ["/orders/{id}/refund"]}], "scopes": ["orders.refund"]},
                {"name": "watch", "grpc": [{"service": "shop.v1.Orders", "methods": ["Watch"]}], "scopes": ["orders.read"]},
                {"name": "health", "http": [{"methods": ["GET"], "paths": ["/healthz"]}], "public": true},
            ],
            "denials": denials,
            "grants": grants,
        },
    }))
    .expect("a policy")
}

fn scopes(number: usize) -> AccessPolicy {
    let denials = json!([{"name": "mallory", "to": [{"principal": "user:corporate/mallory"}]}]);
    policy(number, denials, json!([support()]))
}

fn conditional(number: usize) -> AccessPolicy {
    let when = r#"request.time.getHours("Europe/Berlin") >= 8 && request.time.getHours("Europe/Berlin") < 18"#;
    let grant = json!({"name": "support", "to": [{"provider": "corporate", "group": "support"}], "scopes": ["orders.read"],
                       "when": when});
    policy(number, json!([]), json!([grant]))
}

fn support() -> Value {
    json!({"name": "support", "to": [{"provider": "corporate", "group": "support"}], "scopes": ["orders.read"]})
}

fn catalog(policies: impl Iterator<Item = AccessPolicy>) -> Catalog {
    let mut catalog =
        Catalog::new(ClusterDomains { trust_domain: "cluster.local".into(), cluster_domain: "cluster.local".into() });
    let statuses = catalog.apply(policies.map(|policy| CatalogChange::PolicyApplied(Box::new(policy))));
    assert!(statuses.iter().all(|(_, status)| status.rejected.is_none()), "{:?}", statuses.first());
    catalog
}

fn alice() -> Principal {
    let mut identity = Identity::new(PrincipalId::user("corporate", "alice").expect("an id"), Assurance::Bearer);
    identity.groups = ["dev", "support", "berlin"].map(ToOwned::to_owned).into();
    identity.attributes =
        [("department".to_owned(), json!("sales")), ("level".to_owned(), json!(3))].into_iter().collect();
    Principal::assumed(identity)
}

fn noon() -> DateTime<Utc> {
    "2026-07-01T10:00:00Z".parse().expect("an instant")
}

fn decide(bench: &mut criterion::Bencher<'_>, snapshot: &Snapshot, host: &str) {
    let alice = alice();
    let now = noon();
    let request = Request {
        target: ServiceTarget::Host(host),
        call: Call::Http { method: "GET", path: "/orders/4711?expand=lines" },
        source: Some([10, 0, 0, 7].into()),
        evidence: &(),
    };
    let decision = snapshot.decide(Some(&alice), &request, now);
    assert!(decision.allowed(), "{decision:?}");
    bench.iter(|| snapshot.decide(Some(black_box(&alice)), black_box(&request), now));
}

fn decisions(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decide");
    for (kind, make) in [("scopes", scopes as fn(usize) -> AccessPolicy), ("condition", conditional)] {
        for size in SIZES {
            let catalog = catalog((0..size).map(make));
            let host = format!("orders-{}.shop.svc:8080", size / 2);
            group.bench_function(BenchmarkId::new(format!("{kind}/policies"), size), |bench| {
                decide(bench, catalog.snapshot(), &host);
            });
        }
    }
    for size in [1, 10, 100, 1_000] {
        let others = (1..size).map(|i| {
            json!({"name": format!("team-{i}"), "to": [{"serviceAccount": {"namespace": "teams", "name": format!("team-{i}")}}],
                   "scopes": ["orders.read"]})
        });
        let grants: Vec<Value> = others.chain([support()]).collect();
        let catalog = catalog([policy(0, json!([]), Value::Array(grants))].into_iter());
        group.bench_function(BenchmarkId::new("scopes/grants", size), |bench| {
            decide(bench, catalog.snapshot(), "orders-0.shop.svc");
        });
    }
    group.finish();
}

fn changes(criterion: &mut Criterion) {
    let size = 10_000;
    let policies: Vec<AccessPolicy> = (0..size).map(scopes).collect();
    let mut group = criterion.benchmark_group("change");
    group.sample_size(10);
    group.throughput(Throughput::Elements(size as u64));
    group.bench_function(BenchmarkId::new("load", size), |bench| {
        bench.iter_batched(
            || policies.clone(),
            |policies| catalog(policies.into_iter()),
            criterion::BatchSize::PerIteration,
        );
    });
    group.throughput(Throughput::Elements(1));
    group.sample_size(50);
    let mut whole = catalog(policies.into_iter());
    let versions = [scopes(4_711), conditional(4_711)];
    let mut turn = versions.iter().cycle();
    group.bench_function(BenchmarkId::new("replace-one-of", size), |bench| {
        bench.iter(|| {
            let before = whole.snapshot().clone();
            whole.apply(turn.next().cloned().map(|policy| CatalogChange::PolicyApplied(Box::new(policy))));
            before
        });
    });
    group.finish();
}

criterion_group!(benches, decisions, changes);
criterion_main!(benches);
