//! Random models and tuples, with cycles: compares the search with a reference that applies rules to a fixed point.

use crate::relations::{but_not, computed, from, kind, tuple};
use crate::support::*;
use durward_core::condition::Truth;
use durward_core::principal::Identity;
use durward_core::relations::{CompiledRelationRule, RelationModel, RelationTuple, TupleIndex, TupleSubject};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use std::collections::BTreeSet;

/// Relations `a` and `b` can have any rule; tuples state `parent`.
const RELATIONS: [&str; 4] = ["a", "b", "x", "parent"];
const OBJECTS: [&str; 6] = ["doc:1", "doc:2", "folder:1", "folder:2", "group:eng", "group:corporate/ops"];

fn leaf(names: &'static [&'static str]) -> impl Strategy<Value = CompiledRelationRule> + Clone {
    prop_oneof![
        3 => Just(CompiledRelationRule::This),
        2 => select(names).prop_map(computed),
        2 => select(names).prop_map(|relation| from("parent", relation)),
    ]
}

/// Rules over these relations, with or without exclusions.
fn rule(names: &'static [&'static str], exclusions: bool) -> impl Strategy<Value = CompiledRelationRule> + Clone {
    leaf(names).prop_recursive(2, 6, 3, move |inner| {
        let parts = || proptest::collection::vec(inner.clone(), 1..4);
        let excluding = (inner.clone(), inner.clone()).prop_map(move |(base, other)| {
            if exclusions { but_not(base, other) } else { CompiledRelationRule::Union(vec![base, other]) }
        });
        prop_oneof![2 => parts().prop_map(CompiledRelationRule::Union), 1 => parts().prop_map(CompiledRelationRule::Intersection), 1 => excluding]
    })
}

fn types(
    a: impl Strategy<Value = CompiledRelationRule> + Clone,
    x: impl Strategy<Value = CompiledRelationRule> + Clone,
) -> impl Strategy<Value = RelationModel> {
    let one = || (a.clone(), a.clone(), x.clone());
    (one(), one()).prop_map(|(doc, folder)| {
        let of = |name, (a, b, x)| kind(name, [("a", a), ("b", b), ("x", x), ("parent", CompiledRelationRule::This)]);
        RelationModel::new([of("doc", doc), of("folder", folder)])
    })
}

fn without_exclusions() -> impl Strategy<Value = RelationModel> {
    types(rule(&["a", "b", "x"], false), rule(&["a", "b", "x"], false))
}

/// No relation is excluded by itself: only `x` excludes, and only relations that do not depend on `x`.
fn layered() -> impl Strategy<Value = RelationModel> {
    let excluding =
        (rule(&["a", "b", "x"], false), rule(&["a", "b"], false)).prop_map(|(base, other)| but_not(base, other));
    types(rule(&["a", "b"], false), excluding)
}

fn any_model() -> impl Strategy<Value = RelationModel> {
    types(rule(&["a", "b", "x"], true), rule(&["a", "b", "x"], true))
}

fn any_tuple() -> impl Strategy<Value = RelationTuple> {
    let subject = prop_oneof![
        1 => Just("*".to_owned()),
        3 => select(vec!["user:corporate/alice", "user:corporate/bob"]).prop_map(ToOwned::to_owned),
        3 => (select(&OBJECTS[..]), select(&["a", "b", "x", "member"][..])).prop_map(|(object, set)| format!("{object}#{set}")),
    ];
    let parent = (select(&OBJECTS[..]), select(&OBJECTS[..])).prop_map(|(of, object)| format!("{of}#parent@{object}"));
    let stated = (select(&OBJECTS[..]), select(&["a", "b", "x", "member"][..]), subject)
        .prop_map(|(object, relation, subject)| format!("{object}#{relation}@{subject}"));
    prop_oneof![1 => parent, 3 => stated].prop_map(|text| tuple(&text))
}

fn any_tuples() -> impl Strategy<Value = Vec<RelationTuple>> {
    proptest::collection::vec(any_tuple(), 0..16)
}

fn alice_in_groups() -> Identity {
    Identity { groups: ["ops".into()].into(), ..alice() }
}

fn store(tuples: &[RelationTuple]) -> TupleIndex {
    let mut store = TupleIndex::default();
    store.put("all", tuples);
    store
}

/// Every pair of object and relation.
fn questions() -> impl Iterator<Item = (&'static str, &'static str)> {
    let relations = RELATIONS.into_iter().chain(["member"]);
    OBJECTS.into_iter().flat_map(move |object| relations.clone().map(move |relation| (object, relation)))
}

type RelationFacts = BTreeSet<(String, String)>;

/// The reference: every fact that follows about the caller, computed by applying all rules to all objects until
/// nothing changes. Facts in `excluded` are excluded, which separates the certain facts from the possible ones.
fn closure(
    model: &RelationModel,
    tuples: &[RelationTuple],
    caller: &Identity,
    excluded: &RelationFacts,
) -> RelationFacts {
    let mut facts = RelationFacts::new();
    loop {
        let next: RelationFacts = questions()
            .filter(|(object, relation)| {
                let kind = object.split(':').next().unwrap();
                model.rule(kind, relation).is_some_and(|rule| {
                    holds(rule, object, relation, &RelationWorld { tuples, caller }, &facts, excluded)
                })
            })
            .map(|(object, relation)| (object.to_owned(), relation.to_owned()))
            .collect();
        if next == facts {
            return facts;
        }
        facts = next;
    }
}

struct RelationWorld<'w> {
    tuples: &'w [RelationTuple],
    caller: &'w Identity,
}

fn holds(
    rule: &CompiledRelationRule,
    object: &str,
    relation: &str,
    world: &RelationWorld<'_>,
    facts: &RelationFacts,
    excluded: &RelationFacts,
) -> bool {
    let fact = |object: &str, relation: &str| facts.contains(&(object.to_owned(), relation.to_owned()));
    match rule {
        CompiledRelationRule::This => {
            let token = object == "group:corporate/ops" && relation == "member" && world.caller.groups.contains("ops");
            token
                || world.tuples.iter().any(|tuple| {
                    tuple.object.as_str() == object
                        && *tuple.relation == *relation
                        && match &tuple.subject {
                            TupleSubject::Everybody => true,
                            TupleSubject::Principal(id) => *id == world.caller.id,
                            TupleSubject::Set(other, set) => fact(other.as_str(), set),
                            TupleSubject::Object(_) => false,
                        }
                })
        }
        CompiledRelationRule::Computed(other) => fact(object, other),
        CompiledRelationRule::From { from, relation } => world.tuples.iter().any(|tuple| {
            tuple.object.as_str() == object
                && tuple.relation == *from
                && matches!(&tuple.subject, TupleSubject::Object(other) if fact(other.as_str(), relation))
        }),
        CompiledRelationRule::Union(parts) => {
            parts.iter().any(|part| holds(part, object, relation, world, facts, excluded))
        }
        CompiledRelationRule::Intersection(parts) => {
            parts.iter().all(|part| holds(part, object, relation, world, facts, excluded))
        }
        CompiledRelationRule::Exclusion(base, others) => {
            holds(base, object, relation, world, facts, excluded)
                && !others.iter().any(|other| holds(other, object, relation, world, excluded, facts))
        }
    }
}

/// The certain and the possible facts: the well-founded model (Van Gelder, Ross, Schlipf 1991).
fn reference(model: &RelationModel, tuples: &[RelationTuple], caller: &Identity) -> (RelationFacts, RelationFacts) {
    let mut certain = RelationFacts::new();
    loop {
        let possible = closure(model, tuples, caller, &certain);
        let next = closure(model, tuples, caller, &possible);
        if next == certain {
            return (certain, possible);
        }
        certain = next;
    }
}

/// Compares the search with the reference for each question. With `exact` the search must not fail.
fn agrees(model: &RelationModel, stated: &[RelationTuple], exact: bool) {
    let (caller, tuples) = (alice_in_groups(), store(stated));
    let (certain, possible) = reference(model, stated, &caller);
    for (object, relation) in questions() {
        let fact = (object.to_owned(), relation.to_owned());
        match tuples.check(model, object, relation, &caller) {
            Truth::True => assert!(certain.contains(&fact), "{fact:?} must not hold"),
            Truth::False => assert!(!possible.contains(&fact), "{fact:?} must hold"),
            Truth::Failed(why) => assert!(!exact, "{fact:?}: {why}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn without_exclusions_the_search_is_exact(model in without_exclusions(), stated in any_tuples()) {
        agrees(&model, &stated, true);
    }

    #[test]
    fn with_layered_exclusions_the_search_is_exact(model in layered(), stated in any_tuples()) {
        // with any rules, a tuple can lead from a relation that `x` excludes to `x`
        let leads_up = |tuple: &RelationTuple| matches!(&tuple.subject, TupleSubject::Set(_, set) if **set == *"x");
        let stated: Vec<RelationTuple> = stated.into_iter().filter(|tuple| !leads_up(tuple)).collect();
        agrees(&model, &stated, true);
    }

    #[test]
    fn with_any_exclusions_the_search_is_right_or_fails(model in any_model(), stated in any_tuples()) {
        agrees(&model, &stated, false);
    }

    #[test]
    fn the_order_of_tuples_does_not_matter(
        model in any_model(),
        stated in any_tuples(),
        shuffled in any::<Vec<Index>>(),
        passing in any_tuples(),
    ) {
        let (caller, first) = (alice_in_groups(), store(&stated));
        let mut second = TupleIndex::default();
        second.put("passing", &passing);
        let mut rest = stated.clone();
        for (n, index) in shuffled.iter().enumerate() {
            if !rest.is_empty() {
                let one = rest.swap_remove(index.index(rest.len()));
                second.put(&format!("part-{n}"), &[one]);
            }
        }
        second.put("rest", &rest);
        second.remove("passing");
        prop_assert_eq!(first.len(), second.len());
        for (object, relation) in questions() {
            let answers = [&first, &second].map(|tuples| tuples.explain(&model, object, relation, &caller));
            prop_assert_eq!(&answers[0], &answers[1], "{}#{}", object, relation);
            prop_assert_eq!(&answers[0].truth, &first.check(&model, object, relation, &caller));
        }
    }

    #[test]
    fn without_exclusions_a_further_tuple_removes_no_relation(
        model in without_exclusions(),
        stated in any_tuples(),
        more in any_tuple(),
    ) {
        let caller = alice_in_groups();
        let (fewer, all) = (store(&stated), store(&[stated.clone(), vec![more]].concat()));
        for (object, relation) in questions() {
            if fewer.check(&model, object, relation, &caller) == Truth::True {
                prop_assert_eq!(all.check(&model, object, relation, &caller), Truth::True, "{}#{}", object, relation);
            }
        }
    }

    #[test]
    fn unknown_tuples_never_yield_a_relation_that_they_could_exclude(
        model in any_model(),
        stated in any_tuples(),
        unknown in any_tuples(),
    ) {
        let (caller, mut here) = (alice_in_groups(), store(&stated));
        here.mark_unknown("lost");
        let (certain, _) = reference(&model, &[stated, unknown].concat(), &caller);
        for (object, relation) in questions() {
            if here.check(&model, object, relation, &caller) == Truth::True {
                prop_assert!(certain.contains(&(object.to_owned(), relation.to_owned())), "{object}#{relation}");
            }
        }
    }

    #[test]
    fn without_exclusions_unknown_tuples_do_not_matter(model in without_exclusions(), stated in any_tuples()) {
        let (caller, known) = (alice_in_groups(), store(&stated));
        let mut here = known.clone();
        here.mark_unknown("lost");
        for (object, relation) in questions() {
            let both = [&known, &here].map(|tuples| tuples.explain(&model, object, relation, &caller));
            prop_assert_eq!(&both[0], &both[1], "{}#{}", object, relation);
        }
    }

    #[test]
    fn the_tuples_of_a_proof_are_sufficient(model in without_exclusions(), stated in any_tuples()) {
        let (caller, tuples) = (alice_in_groups(), store(&stated));
        for (object, relation) in questions() {
            let checked = tuples.explain(&model, object, relation, &caller);
            prop_assert_eq!(checked.truth == Truth::True, !checked.proof.is_empty());
            let used: Vec<RelationTuple> =
                checked.proof.iter().filter_map(|step| step.tuple.as_deref()).map(tuple).collect();
            prop_assert!(used.iter().all(|tuple| stated.contains(tuple)));
            prop_assert_eq!(
                store(&used).check(&model, object, relation, &caller) == Truth::True,
                !checked.proof.is_empty()
            );
        }
    }
}
