//! Time of a relation check at depth five among a million tuples, and the memory of the tuples.
//!
//! Targets: a check of depth five under 50 µs, a million tuples under 300 MB.

#![allow(missing_docs, clippy::expect_used, reason = "a failed expectation ends the benchmark")]

use criterion::{Criterion, criterion_group, criterion_main};
use durward_core::condition::Truth;
use durward_core::principal::Identity;
use durward_core::relations::{CompiledRelationRule, RelationModel, RelationTuple, TupleIndex};
use durward_core::risk::Assurance;
use std::hint::black_box;

/// Number of tuples of one `Relationship`.
const BATCH: usize = 5_000;
const MILLION: usize = 1_000_000;

fn tuple(object: String, relation: &str, subject: String) -> RelationTuple {
    let object = object.parse().expect("an object");
    let subject = subject.parse().expect("a subject");
    RelationTuple { object, relation: relation.into(), subject }
}

/// Documents in folders at depth five; each tuple has its own object, and every fifth one its own person.
fn tuples(number: usize) -> RelationTuple {
    let tree = number / 5;
    match number % 5 {
        0 => tuple(format!("doc:{tree}"), "parent", format!("folder:{tree}-1")),
        4 => tuple(format!("folder:{tree}-4"), "viewer", format!("user:corporate/person-{tree}@example.com")),
        depth => tuple(format!("folder:{tree}-{depth}"), "parent", format!("folder:{tree}-{}", depth + 1)),
    }
}

fn model() -> RelationModel {
    let inherited = CompiledRelationRule::From { from: "parent".into(), relation: "viewer".into() };
    let viewer = CompiledRelationRule::Union(vec![CompiledRelationRule::This, inherited]);
    let relations = || [("parent".into(), CompiledRelationRule::This), ("viewer".into(), viewer.clone())].into();
    RelationModel::new([("doc".into(), relations()), ("folder".into(), relations())])
}

/// Resident memory of this process, in kB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).unwrap_or_default()
}

fn relations(criterion: &mut Criterion) {
    let before = resident();
    let mut all = TupleIndex::default();
    for batch in 0..MILLION / BATCH {
        let stated: Vec<RelationTuple> = (batch * BATCH..(batch + 1) * BATCH).map(tuples).collect();
        all.put(&format!("shop/part-{batch}"), &stated);
    }
    println!("relations/memory: {} tuples take {} MB", all.len(), (resident() - before) / 1024);
    let model = model();
    let identity = |name: &str| Identity::new(name.parse().expect("a principal"), Assurance::Bearer);
    let viewer = identity("user:corporate/person-77@example.com");
    let other = identity("user:corporate/person-78@example.com");
    assert_eq!(all.check(&model, "doc:77", "viewer", &viewer), Truth::True);
    assert_eq!(all.check(&model, "doc:77", "viewer", &other), Truth::False);
    let mut group = criterion.benchmark_group("relations");
    group.bench_function("check-5-deep-yes", |bench| {
        bench.iter(|| all.check(&model, black_box("doc:77"), "viewer", &viewer));
    });
    group.bench_function("check-5-deep-no", |bench| {
        bench.iter(|| all.check(&model, black_box("doc:77"), "viewer", &other));
    });
    let stated: Vec<RelationTuple> = (0..100).map(tuples).collect();
    group.bench_function("replace-100-tuples", |bench| {
        bench.iter(|| {
            let mut changed = all.clone();
            changed.put("shop/one", &stated);
            changed
        });
    });
    group.finish();
}

criterion_group!(benches, relations);
criterion_main!(benches);
