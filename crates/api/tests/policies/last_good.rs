//! An invalid policy changes nothing: its last good version stays in force, or the service denies.

use crate::support::*;
use durward_api::catalog::CatalogChange;

#[test]
fn the_last_good_version_stays_until_the_policy_is_fixed() {
    let mut world = World::of([serving("shop/a", 0, "one", "a.shop.svc")]);
    for change in [CatalogChange::PolicyApplied(Box::new(invalid("shop/a", 0))), undecodable("shop/a")] {
        let revision = world.revision();
        assert_eq!(world.apply([change]), ["shop/a: Invalid, an earlier version in force"]);
        assert_eq!((world.answers("a.shop.svc/one"), world.revision()), ("shop/a".into(), revision));
        assert_eq!(world.put([serving("shop/a", 0, "one", "a.shop.svc")]), ["shop/a: in force"]);
    }
    assert_eq!(world.errors("shop/a"), Vec::<String>::new());
    world.put([invalid("shop/a", 0)]);
    assert_eq!(world.put([serving("shop/a", 0, "two", "a.shop.svc")]), ["shop/a: in force"]);
    assert_eq!(
        (world.answers("a.shop.svc/one"), world.answers("a.shop.svc/two")),
        ("OperationUndeclared".into(), "shop/a".into())
    );
}

#[test]
fn a_service_with_no_good_version_denies() {
    for change in [CatalogChange::PolicyApplied(Box::new(invalid("shop/a", 0))), undecodable("shop/a")] {
        let mut world = World::new();
        assert_eq!(world.apply([change]), ["shop/a: Invalid, nothing in force"]);
        assert_eq!(world.answers("a.shop.svc/one"), "NoPolicy");
        assert_eq!(world.put([serving("shop/a", 0, "one", "a.shop.svc")]), ["shop/a: in force"]);
    }
}

#[test]
fn each_mistake_is_reported_once() {
    let mut world = World::of([]);
    assert_eq!(world.put([invalid("shop/a", 0)]).len(), 1);
    assert_eq!(world.put([invalid("shop/a", 0)]), Vec::<String>::new());
    assert_eq!(
        world.errors("shop/a"),
        ["spec.operations[0]: the operation matches no requests: set `http`, `grpc` or `kubernetes`"]
    );
    world.apply([undecodable("shop/a")]);
    assert_eq!(world.errors("shop/a"), ["spec: can't be read"]);
}

#[test]
fn a_deleted_policy_leaves_nothing_behind() {
    let empty = World::of([]).revision();
    let mut world = World::new();
    world.put([serving("shop/a", 0, "one", "a.shop.svc")]);
    world.put([invalid("shop/a", 0)]);
    assert_eq!(world.take("shop/a"), Vec::<String>::new());
    assert_eq!((world.answers("a.shop.svc/one"), world.statuses()), ("NoPolicy".into(), Vec::new()));
    assert_eq!(world.revision(), empty);
    world.take("shop/a");
    world.take("shop/never-was");
    assert_eq!(world.put([invalid("shop/a", 0)]), ["shop/a: Invalid, nothing in force"]);
    assert_eq!(world.answers("a.shop.svc/one"), "NoPolicy");
    world.take("shop/a");
    assert!(world.snapshot().services().next().is_none());
}

#[test]
fn an_invalid_policy_does_not_affect_others_of_its_service() {
    let mut world = World::new();
    world.annotate("shop", "", "p");
    let one = serving_as("shop/a", 0, "one", "p");
    let two = serving_as("shop/b", 1, "two", "p");
    let host = named("shop/c", 2, "service: {audience: p, hosts: [p.shop.svc]}");
    world.put([one, two, host]);
    world.put([invalid("shop/a", 0), invalid("shop/c", 2)]);
    assert_eq!((world.answers("p.shop.svc/one"), world.answers("p.shop.svc/two")), ("shop/a".into(), "shop/b".into()));
    world.take("shop/a");
    assert_eq!(
        (world.answers("p.shop.svc/one"), world.answers("p.shop.svc/two")),
        ("OperationUndeclared".into(), "shop/b".into())
    );
    world.take("shop/c");
    assert_eq!(world.answers("p.shop.svc/two"), "NoPolicy");
}

#[test]
fn an_unowned_version_keeps_the_last_good_one_in_force() {
    let mut world = World::of([serving("shop/a", 0, "one", "a.shop.svc")]);
    assert_eq!(
        world.put([serving("shop/a", 0, "two", "a.example.com")]),
        ["shop/a: NotOwned, an earlier version in force"]
    );
    assert_eq!(
        (world.answers("a.shop.svc/one"), world.answers("a.example.com/two")),
        ("shop/a".into(), "NoPolicy".into())
    );
    assert_eq!(world.annotate("shop", "a.example.com", ""), ["shop/a: in force"]);
    assert_eq!(
        (world.answers("a.shop.svc/one"), world.answers("a.example.com/two")),
        ("NoPolicy".into(), "shop/a".into())
    );
}

#[test]
fn a_conflict_keeps_the_last_good_version_and_its_names() {
    let mut world = World::new();
    world.annotate("shop", "*.example.com", "");
    world.annotate("mall", "*.example.com", "");
    world.put([serving("shop/older", 0, "a", "x.example.com"), serving("mall/younger", 1, "a", "y.example.com")]);
    let statuses = world.put([serving("mall/younger", 1, "b", "x.example.com")]);
    assert_eq!(statuses, ["mall/younger: HostConflict, an earlier version in force"]);
    assert_eq!(
        (world.answers("x.example.com/a"), world.answers("y.example.com/a")),
        ("shop/older".into(), "mall/younger".into())
    );
    let statuses = world.put([serving("shop/third", 2, "a", "y.example.com")]);
    assert_eq!(statuses, ["shop/third: HostConflict, nothing in force"]);
    assert_eq!(world.take("shop/older"), ["mall/younger: in force", "shop/third: in force"]);
}

#[test]
fn a_version_corrected_within_its_batch_is_never_in_force() {
    let mut world = World::new();
    let statuses = world.put([serving("shop/a", 0, "one", "a.shop.svc"), serving("shop/a", 0, "two", "b.shop.svc")]);
    assert_eq!(statuses, ["shop/a: in force"]);
    assert_eq!(
        (world.answers("a.shop.svc/one"), world.answers("b.shop.svc/two")),
        ("NoPolicy".into(), "shop/a".into())
    );
}
