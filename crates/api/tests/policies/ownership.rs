//! Names that a namespace may claim.

use crate::support::*;

fn not_owned(host: &str, field: &str) -> String {
    format!(
        "{field}: namespace `shop` does not own host `{host}`: use a name of its own (`NAME.shop.svc`), or have a cluster admin \
         annotate the Namespace with `durward.dev/allowed-hosts: {host}`"
    )
}

#[test]
fn a_namespace_owns_the_names_of_its_services() {
    for host in ["orders.shop.svc", "orders.shop.svc.cluster.local", "ORDERS.Shop.SVC."] {
        let world = World::of([serving("shop/a", 0, "a", host)]);
        assert_eq!(world.statuses(), ["shop/a: in force"], "{host}");
    }
}

#[test]
fn a_namespace_owns_no_other_name() {
    for host in [
        "orders.example.com",
        "orders.shop",
        "orders.other.svc",
        "orders.shop.svc.other.local",
        "orders.shop.svc.cluster.local.evil.com",
        "a.orders.shop.svc",
        "shop",
        "shop.svc",
        "orders.shop.svcx",
        "orders.xshop",
        "orders.shop.com",
        "10.0.0.1",
    ] {
        let world = World::of([serving("shop/a", 0, "a", host)]);
        assert_eq!(world.statuses(), ["shop/a: NotOwned, nothing in force"], "{host}");
        assert_eq!(world.errors("shop/a"), [not_owned(host, "spec.service.hosts[0]")]);
        assert_eq!(world.answers(&format!("{host}/a")), "NoPolicy");
    }
}

#[test]
fn a_namespace_owns_the_default_audience_of_each_policy_only() {
    let world = World::of([serving_as("shop/a", 0, "a", "a.shop"), serving_as("shop/b", 0, "b", "orders-api")]);
    assert_eq!(world.statuses(), ["shop/a: in force", "shop/b: NotOwned, nothing in force"]);
    assert_eq!(
        world.errors("shop/b"),
        [
            "spec.service.audience: namespace `shop` does not own audience `orders-api`: remove it to get `b.shop`, or have a cluster \
          admin annotate the Namespace with `durward.dev/allowed-audiences: orders-api`"
        ]
    );
    for audience in ["a.other", "b.shop", "A.shop"] {
        let world = World::of([serving_as("shop/a", 0, "a", audience)]);
        assert_eq!(world.statuses(), ["shop/a: NotOwned, nothing in force"], "{audience}");
    }
}

#[test]
fn an_annotation_allows_exactly_what_it_lists() {
    for (allowed, host, owned) in [
        ("a.example.com", "a.example.com", true),
        (" b.example.com , A.Example.Com. ", "a.example.com", true),
        ("*.example.com", "a.example.com", true),
        ("*.example.com", "example.com", false),
        ("*.example.com", "b.a.example.com", false),
        ("*", "a.example.com", false),
        ("*.*", "example.com", false),
        ("example.com", "a.example.com", false),
        ("a.example.*", "a.example.com", false),
        ("", "a.example.com", false),
        (",,", "a.example.com", false),
        ("a.example.com b.example.com", "a.example.com", false),
    ] {
        let mut world = World::new();
        world.annotate("shop", allowed, "");
        world.put([serving("shop/a", 0, "a", host)]);
        assert_eq!(world.answers(&format!("{host}/a")) == "shop/a", owned, "{allowed:?} for {host}");
    }
    for (allowed, audience, owned) in
        [("orders-api", "orders-api", true), ("Orders-API", "orders-api", false), ("*", "orders-api", false)]
    {
        let mut world = World::new();
        world.annotate("shop", "", allowed);
        let statuses = world.put([serving_as("shop/a", 0, "a", audience)]);
        assert_eq!(statuses == ["shop/a: in force"], owned, "{allowed:?} for {audience}");
    }
}

#[test]
fn an_annotation_of_another_namespace_allows_nothing() {
    let mut world = World::new();
    world.annotate("other", "a.example.com", "");
    world.put([serving("shop/a", 0, "a", "a.example.com")]);
    assert_eq!(world.statuses(), ["shop/a: NotOwned, nothing in force"]);
}

#[test]
fn a_policy_follows_the_annotation_of_its_namespace() {
    let mut world = World::of([serving("shop/a", 0, "a", "a.shop.svc, a.example.com")]);
    assert_eq!(world.errors("shop/a"), [not_owned("a.example.com", "spec.service.hosts[1]")]);
    assert_eq!(world.answers("a.shop.svc/a"), "NoPolicy");
    assert_eq!(world.annotate("shop", "a.example.com", ""), ["shop/a: in force"]);
    assert_eq!(world.answers("a.example.com/a"), "shop/a");
    for withdraw in [
        annotated("shop", "b.example.com", ""),
        durward_api::catalog::CatalogChange::NamespaceAnnotations("shop".into(), None),
    ] {
        assert_eq!(world.apply([withdraw]), ["shop/a: NotOwned, nothing in force"]);
        assert_eq!(
            (world.answers("a.example.com/a"), world.answers("a.shop.svc/a")),
            ("NoPolicy".into(), "NoPolicy".into())
        );
        assert_eq!(world.annotate("shop", "a.example.com", ""), ["shop/a: in force"]);
    }
}

#[test]
fn another_policy_can_claim_a_withdrawn_name() {
    let mut world = World::new();
    world.annotate("shop", "a.example.com", "");
    world.annotate("mall", "a.example.com", "");
    world.put([serving("shop/a", 0, "a", "a.example.com"), serving("mall/b", 1, "a", "a.example.com")]);
    assert_eq!(world.answers("a.example.com/a"), "shop/a");
    let statuses = world.annotate("shop", "", "");
    assert_eq!(statuses, ["mall/b: in force", "shop/a: NotOwned, nothing in force"]);
    assert_eq!(world.answers("a.example.com/a"), "mall/b");
}

#[test]
fn a_version_that_lost_its_names_stays_out_of_force() {
    let mut world = World::new();
    world.annotate("shop", "a.example.com", "api");
    world.put([serving_as("shop/older", 0, "taken", "api")]);
    let spec = |path: &str, hosts: &str| {
        let operation = format!("{{name: {path}, http: [{{methods: [GET], paths: [/{path}]}}], public: true}}");
        named("shop/younger", 1, &format!("service: {{audience: api, hosts: [{hosts}]}}\noperations: [{operation}]"))
    };
    assert_eq!(world.put([spec("mine", "a.example.com")]), ["shop/younger: in force"]);
    assert_eq!(world.put([spec("taken", "")]), ["shop/younger: OperationConflict, an earlier version in force"]);
    assert_eq!(world.answers("a.example.com/mine"), "shop/younger");
    world.annotate("shop", "", "api");
    assert_eq!(world.answers("a.example.com/mine"), "NoPolicy");
    assert_eq!(world.statuses(), ["shop/older: in force", "shop/younger: OperationConflict, nothing in force"]);
}

#[test]
fn certificates_contain_only_names_that_the_namespace_owns() {
    let minted = |names: &str| {
        named("shop/web", 1, &format!("service: {{podSelector: {{}}}}\nidentity: {{dnsNames: [{names}]}}"))
    };
    let mut catalog = durward_api::catalog::Catalog::new(settings());
    let change = |names: &str| durward_api::catalog::CatalogChange::PolicyApplied(Box::new(minted(names)));
    let status = |catalog: &durward_api::catalog::Catalog| catalog.policy_status(&key("shop/web")).unwrap();
    catalog.apply([change("web.shop.svc, web.shop.svc.cluster.local")]);
    assert!(status(&catalog).rejected.is_none());
    catalog.apply([change("web.shop.svc, bank.example.com")]);
    let rejected = status(&catalog).rejected.unwrap();
    assert_eq!(
        (rejected.reason.as_str(), rejected.errors[0].field.as_str()),
        ("NotOwned", "spec.identity.dnsNames[1]")
    );
    let allowed = [("durward.dev/allowed-hosts".to_owned(), "bank.example.com".to_owned())].into();
    catalog.apply([durward_api::catalog::CatalogChange::NamespaceAnnotations("shop".to_owned(), Some(allowed))]);
    assert!(status(&catalog).rejected.is_none());
}
