//! A replica that starts while a `Relationship` is invalid does not know the tuples in force. It denies every caller that
//! these tuples may exclude.

use crate::support::*;
use durward_api::catalog::CatalogChange;
use durward_api::resources::{LastGoodTuples, Relationship};
use durward_core::condition::Truth;
use durward_core::namespaced_name::NamespacedName;
use durward_core::principal::{Identity, PrincipalId};
use durward_core::risk::Assurance;
use serde_json::json;

/// Members read, unless they are banned; viewers come from tuples only.
const MODEL: &str = "relations: [{object: doc, relations: {member: {}, banned: {}, viewer: {}, \
                     reader: {exclusion: [{relation: member}, {relation: banned}]}}}]\n";

fn relationship(key: &str, generation: i64, service: &str, tuples: &[(&str, &str)]) -> CatalogChange {
    let (namespace, name) = key.split_once('/').unwrap();
    let tuples =
        tuples.iter().map(|(relation, subject)| json!({"object": "doc:1", "relation": relation, "subject": subject}));
    let resource: Relationship = serde_json::from_value(json!({
        "apiVersion": "durward.dev/v1alpha1", "kind": "Relationship",
        "metadata": {"name": name, "namespace": namespace, "generation": generation},
        "spec": {"service": service, "tuples": tuples.collect::<Vec<_>>()},
    }))
    .unwrap();
    CatalogChange::RelationshipApplied(Box::new(resource))
}

/// A `Relationship` that does not compile.
fn invalid(key: &str, generation: i64) -> CatalogChange {
    relationship(key, generation, "orders.shop", &[("no relation", "*")])
}

fn of(key: &str) -> NamespacedName {
    let (namespace, name) = key.split_once('/').unwrap();
    NamespacedName { namespace: namespace.into(), name: name.into() }
}

fn last_good_tuples_record(key: &str, good: LastGoodTuples) -> CatalogChange {
    CatalogChange::RelationshipLastGood(of(key), good)
}

/// The record of another replica.
fn recorded(world: &World, key: &str) -> CatalogChange {
    last_good_tuples_record(key, world.0.last_good_tuples(&of(key)).unwrap())
}

fn policies() -> [CatalogChange; 2] {
    ["shop/orders", "mall/orders"].map(|name| CatalogChange::PolicyApplied(Box::new(named(name, 0, MODEL))))
}

/// Whether alice has a relation to `doc:1` of the service in a namespace.
fn has_relation(world: &World, namespace: &str, relation: &str) -> Truth {
    let service = world.snapshot().by_audience(&format!("orders.{namespace}")).unwrap();
    let alice = Identity::new(PrincipalId::user("corporate", "alice").unwrap(), Assurance::Bearer);
    world.snapshot().tuples(service.key()).check(service.relations(), "doc:1", relation, &alice)
}

/// Reason, whether a version is in force, and whether exclusions are closed.
fn status(world: &World, key: &str) -> (Option<&'static str>, bool, bool) {
    let status = world.0.relationship_status(&of(key)).unwrap();
    (status.rejected.map(|rejection| rejection.reason.as_str()), status.in_force, status.closed)
}

fn before() -> World {
    let mut world = World::new();
    world.apply(policies());
    world.apply([
        relationship("shop/members", 1, "orders.shop", &[("member", "*"), ("viewer", "*")]),
        relationship("shop/bans", 3, "orders.shop", &[("banned", "user:corporate/alice")]),
        relationship("mall/members", 1, "orders.mall", &[("member", "*")]),
    ]);
    world
}

fn start(changes: impl IntoIterator<Item = CatalogChange>) -> World {
    let mut world = World::new();
    world.apply(policies());
    world.apply([
        relationship("shop/members", 1, "orders.shop", &[("member", "*"), ("viewer", "*")]),
        relationship("mall/members", 1, "orders.mall", &[("member", "*")]),
    ]);
    world.apply(changes);
    world
}

fn failed(truth: &Truth) -> bool {
    matches!(truth, Truth::Failed(why) if why.contains("Relationship shop/bans is invalid"))
}

#[test]
fn exclusions_fail_until_the_relationship_is_fixed_or_deleted() {
    let before = before();
    assert_eq!(has_relation(&before, "shop", "reader"), Truth::False);
    assert_eq!(
        before.0.last_good_tuples(&of("shop/bans")),
        Some(LastGoodTuples { generation: Some(3), service: "orders.shop".into() })
    );
    let undecodable = || {
        let error = durward_api::field_error::FieldError { field: "spec".to_owned(), message: "no".to_owned() };
        CatalogChange::RelationshipUndecodable(of("shop/bans"), error)
    };
    for change in [|| invalid("shop/bans", 4), undecodable] {
        let mut world = start([change(), recorded(&before, "shop/bans")]);
        assert!(failed(&has_relation(&world, "shop", "reader")), "{:?}", has_relation(&world, "shop", "reader"));
        assert_eq!(has_relation(&world, "shop", "viewer"), Truth::True, "a relation without exclusions still holds");
        assert_eq!(has_relation(&world, "mall", "reader"), Truth::True, "other services are not affected");
        assert_eq!(status(&world, "shop/bans"), (Some("LastGoodUnknown"), false, true));
        let message = world.0.relationship_status(&of("shop/bans")).unwrap().rejected.unwrap().errors[0].to_string();
        assert!(message.contains("generation 3 was in force") && message.contains("fix or delete"), "{message}");
        assert_ne!(world.revision(), before.revision());
        assert_eq!(
            world.0.last_good_tuples(&of("shop/bans")),
            before.0.last_good_tuples(&of("shop/bans")),
            "the record stays"
        );
        // the fixed version is in force
        world.apply([relationship("shop/bans", 5, "orders.shop", &[("banned", "user:corporate/bob")])]);
        assert_eq!(
            (has_relation(&world, "shop", "reader"), status(&world, "shop/bans")),
            (Truth::True, (None, true, false))
        );
        // also if it names another service now
        let mut world = start([change(), recorded(&before, "shop/bans")]);
        world.apply([relationship("shop/bans", 5, "carts.shop", &[])]);
        assert_eq!(has_relation(&world, "shop", "reader"), Truth::True);
        let mut world = start([change(), recorded(&before, "shop/bans")]);
        world.apply([CatalogChange::RelationshipDeleted(of("shop/bans"))]);
        assert_eq!((has_relation(&world, "shop", "reader"), world.revision()), (Truth::True, start([]).revision()));
    }
    // the status arrives after the Relationship
    let mut world = start([invalid("shop/bans", 4)]);
    assert_eq!(has_relation(&world, "shop", "reader"), Truth::True);
    world.0.take_touched_relationships();
    world.apply([recorded(&before, "shop/bans")]);
    assert!(failed(&has_relation(&world, "shop", "reader")));
    assert_eq!(world.0.take_touched_relationships(), [of("shop/bans")].into());
}

#[test]
fn a_replica_that_knows_the_last_good_tuples_keeps_them() {
    let mut world = before();
    let good = recorded(&world, "shop/members");
    let revision = world.revision();
    world.apply([invalid("shop/members", 5), good]);
    assert_eq!((has_relation(&world, "shop", "viewer"), world.revision()), (Truth::True, revision));
    assert_eq!(status(&world, "shop/members"), (Some("Invalid"), true, false));
    // a valid version does not need the record
    let world = start([relationship("shop/bans", 3, "orders.shop", &[]), recorded(&before(), "shop/bans")]);
    assert_eq!(
        (has_relation(&world, "shop", "reader"), status(&world, "shop/bans")),
        (Truth::True, (None, true, false))
    );
}

#[test]
fn a_never_valid_or_foreign_relationship_affects_no_caller() {
    let world = start([invalid("shop/bans", 1)]);
    assert_eq!(
        (has_relation(&world, "shop", "reader"), status(&world, "shop/bans")),
        (Truth::True, (Some("Invalid"), false, false))
    );
    assert_eq!(world.0.last_good_tuples(&of("shop/bans")), None);
    // a forged status closes nothing outside its own namespace, and no Relationship that does not exist
    let forged = LastGoodTuples { generation: None, service: "orders.mall".to_owned() };
    let world = start([invalid("shop/bans", 1), last_good_tuples_record("shop/bans", forged.clone())]);
    assert_eq!(
        (has_relation(&world, "shop", "reader"), has_relation(&world, "mall", "reader")),
        (Truth::True, Truth::True)
    );
    let world = start([last_good_tuples_record("shop/nothing", forged)]);
    assert!(world.0.relationship_status(&of("shop/nothing")).is_none());
}
