//! Two policies with the same claim: the older policy keeps the name, and the younger one gets it after a release.

use crate::support::*;
use durward_api::catalog::{AuthenticationResource, CatalogChange};

/// A world in which every namespace may claim `x.example.com` to `z.example.com` and the audiences `p` and `q`.
fn permissive_world(policies: impl IntoIterator<Item = durward_api::resources::AccessPolicy>) -> World {
    let mut world = World::new();
    for namespace in ["shop", "mall", "zoo"] {
        world.annotate(namespace, "*.example.com", "p,q");
    }
    world.put(policies);
    world
}

/// A policy with an audience and hosts.
fn claiming(name: &str, age: i64, path: &str, audience: &str, hosts: &str) -> durward_api::resources::AccessPolicy {
    let operation = format!("{{name: {path}, http: [{{methods: [GET], paths: [/{path}]}}], public: true}}");
    named(name, age, &format!("service: {{audience: {audience}, hosts: [{hosts}]}}\noperations: [{operation}]"))
}

const X: &str = "x.example.com";

#[test]
fn the_older_policy_keeps_a_host() {
    for younger_first in [false, true] {
        let mut pair = vec![serving("zoo/older", 1, "a", X), serving("mall/younger", 2, "a", X)];
        if younger_first {
            pair.reverse();
        }
        let mut world = permissive_world([]);
        for policy in pair {
            world.put([policy]);
        }
        assert_eq!(world.statuses(), ["mall/younger: HostConflict, nothing in force", "zoo/older: in force"]);
        assert_eq!(world.answers("x.example.com/a"), "zoo/older");
        assert_eq!(
            world.errors("mall/younger"),
            [
                "spec.service.hosts[0]: `x.example.com` is held by the older policy zoo/older; each name belongs to one service"
            ]
        );
        assert_eq!(world.take("zoo/older"), ["mall/younger: in force"]);
        assert_eq!(world.answers("x.example.com/a"), "mall/younger");
    }
}

#[test]
fn the_name_decides_between_policies_of_the_same_second() {
    let world =
        permissive_world([serving("shop/a", 5, "a", X), serving("mall/b", 5, "a", X), serving("mall/a", 5, "a", X)]);
    assert_eq!(world.answers("x.example.com/a"), "mall/a");
}

#[test]
fn a_policy_without_creation_time_is_the_youngest() {
    let mut timeless = serving("mall/a", 0, "a", X);
    timeless.metadata.creation_timestamp = None;
    let world = permissive_world([timeless, serving("shop/z", 1_000_000, "a", X)]);
    assert_eq!(world.answers("x.example.com/a"), "shop/z");
}

#[test]
fn the_older_policy_keeps_an_audience() {
    let mut world = permissive_world([serving_as("mall/younger", 2, "a", "p"), serving_as("shop/older", 1, "a", "p")]);
    assert_eq!(world.statuses(), ["mall/younger: HostConflict, nothing in force", "shop/older: in force"]);
    assert_eq!(
        world.errors("mall/younger"),
        ["spec.service.audience: `p` is held by the older policy shop/older; each name belongs to one service"]
    );
    let audience = |world: &World| world.snapshot().by_audience("p").map(|service| service.key().namespace.to_string());
    assert_eq!(audience(&world).as_deref(), Some("shop"));
    world.take("shop/older");
    assert_eq!(audience(&world).as_deref(), Some("mall"));
}

#[test]
fn one_host_in_one_namespace_belongs_to_one_audience() {
    let world = permissive_world([
        claiming("shop/older", 1, "a", "p", "x.shop.svc"),
        claiming("shop/younger", 2, "b", "q", "x.shop.svc"),
    ]);
    assert_eq!(world.statuses(), ["shop/older: in force", "shop/younger: HostConflict, nothing in force"]);
    let world = permissive_world([
        claiming("shop/older", 1, "a", "p", "x.shop.svc"),
        claiming("shop/younger", 2, "b", "p", "x.shop.svc"),
    ]);
    assert_eq!(world.statuses(), ["shop/older: in force", "shop/younger: in force"]);
    assert_eq!(
        (world.answers("x.shop.svc/a"), world.answers("x.shop.svc/b")),
        ("shop/older".into(), "shop/younger".into())
    );
}

#[test]
fn a_policy_that_changes_its_names_releases_the_old_ones() {
    let mut world = permissive_world([
        claiming("shop/a", 1, "a", "p", X),
        claiming("mall/b", 2, "a", "p", X),
        claiming("zoo/c", 3, "a", "q", X),
    ]);
    assert_eq!(world.answers("x.example.com/a"), "shop/a");
    assert_eq!(
        world.put([claiming("shop/a", 1, "a", "a.shop", "y.example.com")]),
        ["mall/b: in force", "zoo/c: HostConflict, nothing in force"]
    );
    assert_eq!(
        (world.answers("x.example.com/a"), world.answers("y.example.com/a")),
        ("mall/b".into(), "shop/a".into())
    );
    assert_eq!(world.put([claiming("mall/b", 2, "a", "p", "")]), ["zoo/c: in force"]);
    assert_eq!(world.answers("x.example.com/a"), "zoo/c");
}

#[test]
fn a_policy_with_one_conflict_is_in_force_for_no_host() {
    let world = permissive_world([
        serving("shop/older", 1, "a", X),
        serving("mall/younger", 2, "a", "x.example.com, y.example.com"),
    ]);
    assert_eq!(world.answers("y.example.com/a"), "NoPolicy");
}

#[test]
fn a_policy_holds_only_names_that_it_owns() {
    let mut world = World::new();
    world.annotate("mall", "*.example.com", "p");
    world.put([serving("shop/older", 1, "a", X), serving("mall/younger", 2, "a", X)]);
    assert_eq!(world.statuses(), ["mall/younger: in force", "shop/older: NotOwned, nothing in force"]);
}

#[test]
fn an_older_policy_that_never_compiled_holds_nothing() {
    let world = permissive_world([invalid("shop/older", 1), serving("mall/younger", 2, "a", X)]);
    assert_eq!(world.answers("x.example.com/a"), "mall/younger");
}

#[test]
fn the_older_policy_of_a_service_keeps_an_operation() {
    for (name, path, error) in [
        ("a", "other", "spec.operations: operation `a` is already declared by policy shop/older"),
        (
            "b",
            "a",
            "spec.operations: operation `b` matches `GET /a`, which operation `a` of policy shop/older already claims",
        ),
    ] {
        let younger = named(
            "shop/younger",
            2,
            &format!(
                "service: {{audience: p}}\noperations: [{{name: {name}, http: [{{methods: [GET], paths: [/{path}]}}], public: true}}]"
            ),
        );
        let mut world = permissive_world([younger, claiming("shop/older", 1, "a", "p", X)]);
        assert_eq!(world.statuses(), ["shop/older: in force", "shop/younger: OperationConflict, nothing in force"]);
        assert_eq!(world.errors("shop/younger"), [error]);
        assert_eq!(world.take("shop/older"), ["shop/younger: in force"]);
    }
}

#[test]
fn a_conflict_over_operations_falls_back_to_the_last_good_version() {
    let mut world =
        permissive_world([claiming("shop/older", 1, "a", "p", X), claiming("shop/younger", 2, "b", "p", "")]);
    let statuses = world.put([claiming("shop/younger", 2, "a", "p", "")]);
    assert_eq!(statuses, ["shop/younger: OperationConflict, an earlier version in force"]);
    assert_eq!(
        (world.answers("x.example.com/a"), world.answers("x.example.com/b")),
        ("shop/older".into(), "shop/younger".into())
    );
    assert_eq!(world.put([claiming("shop/older", 1, "c", "p", X)]), ["shop/younger: in force"]);
    assert_eq!(
        (world.answers("x.example.com/a"), world.answers("x.example.com/b")),
        ("shop/younger".into(), "OperationUndeclared".into())
    );
}

#[test]
fn a_policy_that_cannot_join_another_service_stays_in_its_own() {
    let mut world =
        permissive_world([claiming("shop/older", 1, "a", "p", ""), claiming("shop/younger", 2, "b", "q", X)]);
    let statuses = world.put([claiming("shop/younger", 2, "a", "p", X)]);
    assert_eq!(statuses, ["shop/younger: OperationConflict, an earlier version in force"]);
    assert_eq!(world.answers("x.example.com/b"), "shop/younger");
}

#[test]
fn a_version_in_force_holds_its_hosts() {
    // the newer version would share a service with the younger policy, but is not in force
    let mut world = World::new();
    world.annotate("shop", X, "p");
    world.put([claiming("shop/older", 1, "a", "p", X)]);
    world.put([claiming("shop/older", 1, "a", "q", X)]);
    assert_eq!(world.statuses(), ["shop/older: NotOwned, an earlier version in force"]);
    let statuses = world.put([claiming("shop/q", 2, "b", "q.shop", X)]);
    assert_eq!(statuses, ["shop/q: HostConflict, nothing in force"]);
    world.annotate("shop", X, "p,q.shop");
    world.put([claiming("shop/older", 1, "a", "q.shop", "'*'")]);
    assert_eq!(
        (world.answers("x.example.com/a"), world.answers("x.example.com/b")),
        ("shop/older".into(), "OperationUndeclared".into())
    );
}

#[test]
fn a_newer_version_that_is_not_in_force_shares_no_host() {
    let mut world = World::new();
    world.annotate("shop", X, "p");
    world.put([claiming("shop/older", 1, "a", "p", X)]);
    // not allowed to join the service of `q`, so it stays in its own
    world.put([claiming("shop/older", 1, "a", "q.shop", X)]);
    let statuses = world.put([claiming("shop/q", 2, "b", "q.shop", X)]);
    assert_eq!(statuses, ["shop/q: HostConflict, nothing in force"]);
    assert_eq!(world.answers("x.example.com/a"), "shop/older");
}

#[test]
fn losing_a_host_ends_conflicts_within_the_service() {
    // `y` loses its host to an older policy elsewhere, so `z` no longer conflicts with it
    let y = claiming("shop/y", 2, "same", "p", X);
    let z = claiming("shop/z", 3, "same", "p", "z.example.com");
    let w = serving("mall/w", 1, "a", X);
    let mut world = permissive_world([y.clone(), z.clone()]);
    assert_eq!(world.statuses(), ["shop/y: in force", "shop/z: OperationConflict, nothing in force"]);
    let expected = ["mall/w: in force", "shop/y: HostConflict, nothing in force", "shop/z: in force"];
    assert_eq!(world.put([w.clone()]), expected);
    let at_once = permissive_world([y, z, w]);
    assert_eq!(at_once.statuses(), expected);
    assert_eq!(at_once.revision(), world.revision());
    assert_eq!(world.take("mall/w"), ["shop/y: in force", "shop/z: OperationConflict, nothing in force"]);
}

#[test]
fn conditions_cannot_read_a_header_with_api_keys() {
    let reading = named(
        "shop/reading",
        1,
        "headers: [x-other, x-tenant]\noperations: [{name: a, http: [{methods: [GET], paths: [/a]}]}]",
    );
    let keys = |header: Option<&str>| CatalogChange::KeyHeader("partners".into(), header.map(Into::into));
    let refused = [
        "spec.headers[1]: `x-tenant` carries the API keys of IdentityProvider/partners; conditions can't read credentials",
    ];
    for provider_first in [false, true] {
        let mut world = World::new();
        let policy = CatalogChange::PolicyApplied(Box::new(reading.clone()));
        world.apply(if provider_first { [keys(Some("x-tenant")), policy] } else { [policy, keys(Some("x-tenant"))] });
        assert_eq!(world.statuses(), ["shop/reading: Invalid, nothing in force"]);
        assert_eq!(world.errors("shop/reading"), refused);
        assert!(world.0.review(&reading).is_err());
        // another header, no header, no provider
        for change in [
            keys(Some("x-key")),
            keys(None),
            CatalogChange::Authentication(AuthenticationResource::IdentityProvider("partners".into()), None),
        ] {
            world.apply([change]);
            assert_eq!(world.statuses(), ["shop/reading: in force"]);
            world.apply([keys(Some("x-tenant"))]);
            assert_eq!(world.errors("shop/reading"), refused);
        }
    }
}
