//! Time of a decision and of a change, by the number of policies.
//!
//! Targets: a decision by scopes under 1 µs, with one condition under 5 µs, neither growing with the number of
//! policies. No decision takes more than 5 ms, whatever its policy and its caller contain.

#![allow(
    missing_docs,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a failed expectation ends the benchmark"
)]

use chrono::{DateTime, Utc};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use durward_api::catalog::{Catalog, CatalogChange};
use durward_api::compile::ClusterDomains;
use durward_api::resources::AccessPolicy;
use durward_core::condition::Condition;
use durward_core::principal::{Identity, Principal, PrincipalId};
use durward_core::request::{Call, Request, ServiceTarget};
use durward_core::risk::Assurance;
use durward_core::snapshot::Snapshot;
use serde_json::{Value, json};
use std::hint::black_box;
use std::time::{Duration, Instant};

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

/// Conditions whose work grows with a power of what the caller carries, or with values that they make themselves.
const HOSTILE: [(&str, &str); 10] = [
    ("nested-loops", "principal.groups.all(x, principal.groups.all(y, x != 'x' && y != 'y'))"),
    ("patterns", "principal.groups.all(x, principal.groups.all(y, !y.matches('(a{20}){20}b{20}')))"),
    ("unicode-patterns", r"principal.groups.all(x, !x.matches('(\\w|\\W){2}b\\w{3}$'))"),
    ("new-lists", "principal.groups.map(x, principal.groups.filter(y, y != x)).size() > 0"),
    ("copies", "principal.groups.all(x, [principal.groups, principal.groups, principal.groups].size() == 3)"),
    ("searches", "principal.groups.all(x, !principal.groups.join('a').contains('aaaaaaaaaaaaaaaaab'))"),
    ("splits", "principal.groups.all(x, principal.groups.join('').split('').size() > 0)"),
    ("replacements", "principal.groups.all(x, principal.groups.join('').replace('a', 'bbbb').size() > 0)"),
    ("comparisons", "principal.groups.all(x, !(principal.groups == principal.groups) || true)"),
    (
        "parsers",
        "principal.groups.all(x, principal.groups.all(y, isURL(['https://a.example/', x].join()) || isQuantity(y)))",
    ),
];

/// A caller with as many groups as doors accept.
fn member_of_many() -> Principal {
    let mut identity = Identity::new(PrincipalId::user("corporate", "alice").expect("an id"), Assurance::Bearer);
    identity.groups = (0..200).map(|number| format!("group-{number}-{}", "a".repeat(30))).collect();
    Principal::assumed(identity)
}

/// As many grants or denials as one policy may have, each as expensive as it can be.
fn hostile(criterion: &mut Criterion) {
    const LIMIT: Duration = Duration::from_millis(5);
    let mut group = criterion.benchmark_group("hostile");
    group.sample_size(20);
    let caller = member_of_many();
    for (kind, when) in HOSTILE {
        Condition::compile(when).expect(when);
        let rules = |key: &str| -> Vec<Value> {
            let to = json!([{"authenticated": true}]);
            let rule = |number: usize| match key {
                "grants" => json!({"name": format!("g-{number}"), "to": to, "scopes": ["orders.read"], "when": when}),
                _ => json!({"name": format!("d-{number}"), "to": to, "when": format!("!({when})")}),
            };
            (0..if key == "grants" { 990 } else { 256 }).map(rule).collect()
        };
        for (key, policy) in [
            ("grants", policy(0, json!([]), Value::Array(rules("grants")))),
            ("denials", policy(0, Value::Array(rules("denials")), json!([support()]))),
        ] {
            let catalog = catalog([policy].into_iter());
            let request = Request {
                target: ServiceTarget::Host("orders-0.shop.svc"),
                call: Call::Http { method: "GET", path: "/orders/4711?expand=lines" },
                source: None,
                evidence: &(),
            };
            let decide = || catalog.snapshot().decide(Some(black_box(&caller)), black_box(&request), noon());
            let mut times: Vec<Duration> = (0..21)
                .map(|_| {
                    let start = Instant::now();
                    black_box(decide());
                    start.elapsed()
                })
                .collect();
            times.sort_unstable();
            let median = times[times.len() / 2];
            println!("hostile/{kind}/{key}: {median:?} of {LIMIT:?}, by rule {:?}", decide().exhausted);
            assert!(cfg!(debug_assertions) || median < LIMIT, "{kind}/{key}: a decision takes {median:?}");
            group.bench_function(BenchmarkId::new(kind, key), |bench| bench.iter(decide));
        }
    }
    group.finish();
}

criterion_group!(benches, decisions, hostile, changes);
criterion_main!(benches);
