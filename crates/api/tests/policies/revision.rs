//! The revision is a digest of the content, and the cost of a change is proportional to its effect.

use crate::support::*;
use durward_api::catalog::{AuthenticationResource, CatalogChange};
use durward_core::digest::Digest;
use std::collections::HashMap;
use std::sync::Arc;

#[test]
fn equal_content_has_an_equal_revision_in_any_order() {
    let policies: Vec<_> =
        (0..20).map(|i| serving(&format!("shop/p{i}"), 20 - i, "a", &format!("p{i}.shop.svc"))).collect();
    let whole = World::of(policies.clone()).revision();
    assert_eq!(World::of(policies.iter().rev().cloned()).revision(), whole);
    let mut one_by_one = World::new();
    for policy in policies {
        one_by_one.put([policy]);
    }
    assert_eq!(one_by_one.revision(), whole);
}

#[test]
fn undoing_a_change_restores_the_revision() {
    let mut world = World::of([serving("shop/a", 0, "one", "a.shop.svc"), serving("shop/b", 0, "two", "b.shop.svc")]);
    let revision = world.revision();
    let mut revisions = std::collections::BTreeSet::from([revision.clone()]);
    for (there, back) in [
        (
            CatalogChange::PolicyApplied(Box::new(serving("shop/a", 0, "two", "a.shop.svc"))),
            CatalogChange::PolicyApplied(Box::new(serving("shop/a", 0, "one", "a.shop.svc"))),
        ),
        (
            CatalogChange::PolicyDeleted(key("shop/b")),
            CatalogChange::PolicyApplied(Box::new(serving("shop/b", 0, "two", "b.shop.svc"))),
        ),
        (
            CatalogChange::PolicyApplied(Box::new(serving("shop/c", 0, "one", "c.shop.svc"))),
            CatalogChange::PolicyDeleted(key("shop/c")),
        ),
        (
            CatalogChange::Authentication(
                AuthenticationResource::IdentityProvider("x".into()),
                Some(Digest::of([b"1".as_slice()])),
            ),
            CatalogChange::Authentication(AuthenticationResource::IdentityProvider("x".into()), None),
        ),
    ] {
        world.apply([there]);
        assert!(revisions.insert(world.revision()));
        world.apply([back]);
        assert_eq!(world.revision(), revision);
    }
}

#[test]
fn a_rejected_policy_is_not_part_of_the_content() {
    let mut world = World::of([serving("shop/a", 0, "one", "a.shop.svc")]);
    let revision = world.revision();
    world.put([
        invalid("shop/a", 0),
        invalid("shop/b", 0),
        serving("shop/c", 0, "one", "a.example.com"),
        serving("shop/d", 9, "one", "a.shop.svc"),
    ]);
    world.annotate("elsewhere", "b.example.com", "");
    assert_eq!(world.revision(), revision);
}

#[test]
fn the_trust_domain_is_part_of_the_content() {
    let of = |trust_domain: &str| {
        let settings = durward_api::compile::ClusterDomains { trust_domain: trust_domain.into(), ..settings() };
        let mut catalog = durward_api::catalog::Catalog::new(settings);
        catalog.apply([CatalogChange::PolicyApplied(Box::new(serving("shop/a", 0, "one", "a.shop.svc")))]);
        catalog.snapshot().revision()
    };
    assert_ne!(of("one.example"), of("other.example"));
}

#[test]
fn a_cloned_snapshot_does_not_change() {
    let mut world = World::of([serving("shop/a", 0, "one", "a.shop.svc")]);
    let before = world.snapshot().clone();
    let revision = world.revision();
    world.take("shop/a");
    assert_eq!((before.revision().to_string(), before.services().count()), (revision, 1));
}

#[test]
fn replacing_one_of_ten_thousand_policies_rebuilds_one_service() {
    let [one, two] = ["one", "two"].map(|path| serving("shop/p", 0, path, ""));
    let policy = |i: usize, path: &str| {
        let mut policy = if path == "one" { one.clone() } else { two.clone() };
        policy.metadata.name = Some(format!("p{i}"));
        policy.spec.service.hosts = vec![format!("p{i}.shop.svc")];
        policy
    };
    let mut world = World::of((0..10_000).map(|i| policy(i, "one")));
    let services = |world: &World| -> HashMap<String, Arc<durward_core::service::CompiledService>> {
        world.snapshot().services().map(|service| (service.key().audience.to_string(), Arc::clone(service))).collect()
    };
    let before = services(&world);
    world.put([policy(4_711, "two")]);
    let after = services(&world);
    assert_eq!((before.len(), after.len()), (10_000, 10_000));
    let rebuilt: Vec<&String> =
        before.iter().filter(|(name, old)| !Arc::ptr_eq(old, &after[*name])).map(|(name, _)| name).collect();
    assert_eq!(rebuilt, ["p4711.shop"]);
    assert_eq!(
        (world.answers("p4711.shop.svc/two"), world.answers("p4712.shop.svc/one")),
        ("shop/p4711".into(), "shop/p4712".into())
    );
}
