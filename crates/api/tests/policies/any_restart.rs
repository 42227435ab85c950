//! After any history, a restarted replica allows nothing that a running replica denies: each
//! service that it serves has all the policies that the running replica has in force.

use crate::support::*;
use durward_api::catalog::CatalogChange;
use durward_api::field_error::FieldError;
use durward_api::resources::AccessPolicy;
use durward_core::condition::Truth;
use durward_core::kubernetes::{ApiCall, Verb};
use durward_core::namespaced_name::NamespacedName;
use durward_core::principal::{Identity, PrincipalId};
use durward_core::risk::Assurance;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::json;
use std::collections::BTreeMap;

/// The effect of one step of a history on a policy.
#[derive(Debug, Clone)]
enum Step {
    Put(&'static str, i64, String),
    Unreadable(&'static str, i64),
    Namespace(&'static str, &'static str, &'static str),
}

fn any_put(name: &'static str, age: i64) -> impl Strategy<Value = Step> {
    let hosts = subsequence(vec!["x.example.com", "y.example.com", "z.shop.svc", "z.mall.svc"], 0..3);
    let audience = select(vec!["", "audience: p, ", "audience: q, "]);
    (hosts, audience, subsequence(vec!["a", "b", "c"], 0..3), 0..6).prop_map(
        move |(hosts, audience, operations, luck)| {
            if luck == 0 {
                return Step::Unreadable(name, age);
            }
            let operations: Vec<String> = operations
                .iter()
                .map(|it| {
                    format!(
                        "{{name: {it}, http: [{{methods: [GET], paths: [/{it}]}}], \
                     kubernetes: [{{apiGroups: [''], resources: [{it}], verbs: [CREATE]}}]}}"
                    )
                })
                .collect();
            let operations = if luck == 1 { "{name: x}".to_owned() } else { operations.join(", ") };
            let denials = "[{name: everyone, to: [{authenticated: true}]}]";
            let spec = format!(
                "service: {{{audience}hosts: [{}]}}\noperations: [{operations}]\ndenials: {denials}",
                hosts.join(", ")
            );
            Step::Put(name, age, spec)
        },
    )
}

fn any_step() -> impl Strategy<Value = Step> {
    let namespace = |name: &'static str| {
        (select(vec!["", "*.example.com", "x.example.com"]), select(vec!["", "p,q", "p"]))
            .prop_map(move |(hosts, audiences)| Step::Namespace(name, hosts, audiences))
    };
    prop_oneof![
        3 => any_put("shop/a", 1), 3 => any_put("shop/b", 2), 3 => any_put("shop/c", 4), 3 => any_put("mall/a", 0), 3 => any_put("mall/b", 3),
        1 => namespace("shop"), 1 => namespace("mall"),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    #[test]
    fn a_restarted_replica_allows_nothing_more(history in proptest::collection::vec(any_step(), 1..20)) {
        let mut old = World::new();
        let mut objects = BTreeMap::new();
        let mut namespaces = BTreeMap::new();
        for (number, step) in history.iter().enumerate() {
            let change = match step {
                Step::Put(name, age, spec) => {
                    let mut policy: AccessPolicy = named(name, *age, spec);
                    policy.metadata.generation = Some(i64::try_from(number).unwrap());
                    objects.insert(*name, (*age, Some(policy.clone())));
                    CatalogChange::PolicyApplied(Box::new(policy))
                }
                Step::Unreadable(name, age) => {
                    objects.insert(*name, (*age, None));
                    undecodable(name)
                }
                Step::Namespace(name, hosts, audiences) => {
                    namespaces.insert(*name, (*hosts, *audiences));
                    annotated(name, hosts, audiences)
                }
            };
            old.apply([change]);
        }
        let mut new = World::new();
        new.apply(namespaces.iter().map(|(name, (hosts, audiences))| annotated(name, hosts, audiences)));
        new.apply(objects.iter().flat_map(|(name, (age, object))| {
            let policy = object.clone().map_or_else(|| undecodable(name), |policy| CatalogChange::PolicyApplied(Box::new(policy)));
            let record = old.0.last_good(&key(name)).map(|good| last_good_record(name, *age, good));
            [policy].into_iter().chain(record)
        }));
        for service in new.snapshot().services().filter(|service| service.closed_by().is_empty()) {
            for (name, _) in old.0.policy_statuses() {
                let Some(policy) = old.0.in_force(name) else { continue };
                if (&*policy.key.namespace, &*policy.audience) == (&*service.key().namespace, &*service.key().audience) {
                    let restarted = new.0.in_force(name).map(|policy| policy.digest);
                    prop_assert_eq!(restarted, Some(policy.digest), "{} of {:?}", name, service.key());
                }
            }
            for host in service.hosts() {
                let holder = old.snapshot().by_host(host).map(|service| service.key());
                prop_assert!(holder.is_none_or(|holder| holder == service.key()), "{host} belonged to {holder:?}");
            }
        }
        for (namespace, resource) in [("shop", "a"), ("shop", "b"), ("mall", "a"), ("mall", "c")] {
            let call = ApiCall { group: "", resource, subresource: "", verb: Verb::Create, name: "x" };
            let governed = |world: &World| world.snapshot().governing(namespace, &call).next().is_some();
            prop_assert!(!governed(&old) || governed(&new), "{resource} in {namespace}");
        }
        for (name, _) in old.0.policy_statuses() {
            prop_assert_eq!(old.0.last_good(name), new.0.last_good(name), "the next restart has the same record");
        }
    }
}

/// One version of a `Relationship`: its service, members and bans. `None` if it can't be decoded.
type Tuples = Option<(&'static str, Vec<(&'static str, &'static str)>)>;

fn any_tuples() -> impl Strategy<Value = Tuples> {
    let stated = subsequence(
        vec![("member", "*"), ("member", "user:corporate/alice"), ("banned", "user:corporate/alice"), ("banned", "*")],
        0..3,
    );
    (select(vec!["p.shop", "q.shop"]), stated, 0..3)
        .prop_map(|(service, stated, luck)| (luck > 0).then_some((service, stated)))
}

fn related(name: &str, tuples: &Tuples) -> CatalogChange {
    let relationship_key = NamespacedName { namespace: "shop".into(), name: name.into() };
    let Some((service, stated)) = tuples else {
        let error = FieldError { field: "spec".to_owned(), message: "undecodable".to_owned() };
        return CatalogChange::RelationshipUndecodable(relationship_key, error);
    };
    let tuple =
        |(relation, subject): &(&str, &str)| json!({"object": "doc:1", "relation": relation, "subject": subject});
    let resource = json!({
        "apiVersion": "durward.dev/v1alpha1", "kind": "Relationship", "metadata": {"name": name, "namespace": "shop"},
        "spec": {"service": service, "tuples": stated.iter().map(tuple).collect::<Vec<_>>()},
    });
    CatalogChange::RelationshipApplied(Box::new(serde_json::from_value(resource).unwrap()))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    #[test]
    fn a_restart_gives_no_caller_a_new_relation(
        history in proptest::collection::vec((select(vec!["a", "b", "c"]), any_tuples()), 1..12),
    ) {
        let model = "relations: [{object: doc, relations: {member: {}, banned: {}, reader: {exclusion: [{relation: member}, {relation: banned}]}, \
                     trusted: {exclusion: [{relation: member}, {relation: reader}]}}}]";
        let policies = || ["shop/p", "shop/q"].map(|name| CatalogChange::PolicyApplied(Box::new(named(name, 0, model))));
        let mut old = World::new();
        let mut objects = BTreeMap::new();
        old.apply(policies());
        for (name, tuples) in &history {
            objects.insert(*name, tuples);
            old.apply([related(name, tuples)]);
        }
        let of = |name: &str| NamespacedName { namespace: "shop".into(), name: name.into() };
        let mut new = World::new();
        new.apply(policies());
        new.apply(objects.iter().flat_map(|(name, tuples)| {
            let record = old.0.last_good_tuples(&of(name)).map(|good| CatalogChange::RelationshipLastGood(of(name), good));
            [related(name, tuples)].into_iter().chain(record)
        }));
        for user in ["alice", "bob"] {
            let user = Identity::new(PrincipalId::user("corporate", user).unwrap(), Assurance::Bearer);
            for (audience, relation) in ["p.shop", "q.shop"].into_iter().flat_map(|of| [(of, "member"), (of, "reader"), (of, "trusted")]) {
                let holds = |world: &World| {
                    let service = world.snapshot().by_audience(audience).unwrap();
                    world.snapshot().tuples(service.key()).check(service.relations(), "doc:1", relation, &user) == Truth::True
                };
                prop_assert!(holds(&old) || !holds(&new), "{} is {relation} in {audience}", user.id);
            }
        }
        for name in objects.keys() {
            prop_assert_eq!(old.0.last_good_tuples(&of(name)), new.0.last_good_tuples(&of(name)), "the next restart has the same record");
        }
    }
}
