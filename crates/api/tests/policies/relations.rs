//! Relation models and `Relationship`s: valid and invalid ones, and their status as policies change.

use crate::support::*;
use durward_api::catalog::{Catalog, CatalogChange};
use durward_api::resources::{ALLOWED_AUDIENCES, ALLOWED_OPENFGA_STORES, Relationship};
use durward_core::namespaced_name::NamespacedName;
use durward_core::relations::CompiledRelationRule;
use durward_core::service::ServiceKey;

const MODEL: &str = "relations: [{object: order, relations: {owner: {}, parent: {}, viewer: {union: [{this: {}}, {relation: owner}, \
                     {from: parent, relation: viewer}]}, editor: {exclusion: [{relation: owner}, {intersection: [{relation: viewer}]}]}}}]\n";

fn relationship(name: &str, service: &str, tuples: &[(&str, &str, &str)]) -> Relationship {
    let tuples: Vec<_> = tuples
        .iter()
        .map(|(object, relation, subject)| serde_json::json!({"object": object, "relation": relation, "subject": subject}))
        .collect();
    serde_json::from_value(serde_json::json!({
        "apiVersion": "durward.dev/v1alpha1", "kind": "Relationship", "metadata": {"name": name, "namespace": "shop"},
        "spec": {"service": service, "tuples": tuples},
    }))
    .unwrap()
}

fn put(resource: Relationship) -> CatalogChange {
    CatalogChange::RelationshipApplied(Box::new(resource))
}

fn key_of(name: &str) -> NamespacedName {
    NamespacedName { namespace: "shop".into(), name: name.into() }
}

/// Reason and messages of a rejection, and whether a version is in force.
fn status(catalog: &Catalog, name: &str) -> (String, bool) {
    let status = catalog.relationship_status(&key_of(name)).unwrap();
    let rejected = status.rejected.map(|rejection| {
        let errors: Vec<String> = rejection.errors.iter().map(ToString::to_string).collect();
        format!("{}: {}", rejection.reason.as_str(), errors.join("; "))
    });
    (rejected.unwrap_or_default(), status.in_force)
}

#[test]
fn a_model_compiles_to_its_rules() {
    let policy = compiled(MODEL);
    let rule = |name: &str| policy.relations.rule("order", name).unwrap().to_string();
    assert_eq!(policy.relations.rule("order", "owner"), Some(&CompiledRelationRule::This));
    assert_eq!(rule("viewer"), "(this or owner or viewer from parent)");
    assert_eq!(rule("editor"), "(owner but not (viewer))");
    assert_eq!(policy.relations.rule("group", "member"), Some(&CompiledRelationRule::This), "every model has groups");
}

#[test]
fn mistakes_in_a_model_name_their_field() {
    let of =
        |relations: &str| mistakes(&resource(&format!("relations: [{{object: order, relations: {{{relations}}}}}]")));
    for (relations, mistake) in [
        ("a: {relation: b}", "spec.relations[0].relations.a.relation: `order` has no relation `b`; there is a"),
        ("a: {from: p, relation: a}", "spec.relations[0].relations.a.from: `order` has no relation `p`; there is a"),
        (
            "p: {relation: q}, q: {}, a: {from: p, relation: q}",
            "spec.relations[0].relations.a.from: `p` has a rule, and `from` follows stated tuples only: make it `p: {}`",
        ),
        (
            "p: {}, a: {from: p, relation: z}",
            "spec.relations[0].relations.a.relation: no object of this policy has a relation `z`",
        ),
        (
            "p: {}, a: {from: p}",
            "spec.relations[0].relations.a.from: `from` needs `relation`: the relation of the other object",
        ),
        (
            "a: {union: [{relation: b}], this: {}}, b: {}",
            "spec.relations[0].relations.a: set at most one of `union`, `intersection`, `exclusion`, `this` and `relation`",
        ),
        ("a: {exclusion: [{this: {}}]}", "spec.relations[0].relations.a.exclusion: `exclusion` needs 2 to 16 rules"),
        ("a: {union: []}", "spec.relations[0].relations.a.union: `union` needs 1 to 16 rules"),
        (
            "a: {union: [{this: {}}, {onion: []}]}",
            "spec.relations[0].relations.a.union[1]: unknown field `onion`, expected one of `union`, `intersection`, `exclusion`, \
             `this`, `relation`, `from`",
        ),
        (
            "a: {union: [{union: [{union: [{union: [{union: [{this: {}}]}]}]}]}]}",
            "spec.relations[0].relations.a.union[0].union[0].union[0].union[0].union: rules are nested deeper than 4; declare the inner rule as a relation of its own",
        ),
        ("'9a': {}", "spec.relations[0].relations.9a: `9a` is not a valid relation name"),
        ("", "spec.relations[0].relations: a type needs 1 to 64 relations"),
    ] {
        assert_eq!(of(relations), [mistake], "{relations}");
    }
    let hopeless = of(
        "a: {relation: b}, b: {union: [{relation: a}, {from: p, relation: a}]}, p: {}, c: {intersection: [{relation: p}, {relation: a}]}",
    );
    assert_eq!(hopeless.len(), 3, "{hopeless:#?}");
    assert!(hopeless[0].starts_with("spec.relations[0].relations.a: the relation can never hold"), "{hopeless:#?}");
    assert!(
        mistakes(&resource("relations: [{object: user, relations: {a: {}}}]"))[0]
            .starts_with("spec.relations[0].object: `user` is reserved for")
    );
}

#[test]
fn mistakes_in_a_grant_by_relation_name_their_field() {
    for (to, mistake) in [
        (
            "object: 'order:{id}', relation: boss",
            "spec.grants[0].relation.relation: `order` has no relation `boss`; there is editor, owner, parent, viewer",
        ),
        (
            "object: 'cart:{id}', relation: owner",
            "spec.grants[0].relation.object: `relations` has no object `cart`; there is order",
        ),
        (
            "object: 'order:{id', relation: owner",
            "spec.grants[0].relation.object: `order:{id` is not a valid object: a `{` is not closed; write `type:id` or `type:{capture}`",
        ),
    ] {
        let spec =
            format!("{MODEL}grants: [{{name: g, to: [{{authenticated: true}}], scopes: [a], relation: {{{to}}}}}]");
        assert_eq!(mistakes(&resource(&spec)), [mistake]);
    }
    let group = "grants: [{name: g, to: [{authenticated: true}], scopes: [a], relation: {object: 'group:corporate/eng', relation: member}}]";
    assert!(mistakes(&resource(group)).is_empty());
}

#[test]
fn policies_of_one_service_declare_each_type_once() {
    let mut world = World::of([
        named("shop/a", 0, &format!("service: {{audience: orders.shop}}\n{MODEL}")),
        named("shop/b", 1, "service: {audience: orders.shop}\nrelations: [{object: cart, relations: {owner: {}}}]"),
        named("shop/c", 2, "service: {audience: orders.shop}\nrelations: [{object: order, relations: {owner: {}}}]"),
    ]);
    world.annotate("shop", "", "orders.shop");
    assert_eq!(
        world.errors("shop/c"),
        ["spec.operations: the relations of `order` are already declared by policy shop/a"]
    );
    let key = ServiceKey { namespace: "shop".into(), audience: "orders.shop".into() };
    let service = world.snapshot().service(&key).unwrap();
    assert!(
        service.relations().rule("cart", "owner").is_some() && service.relations().rule("order", "viewer").is_some()
    );
}

#[test]
fn a_relationship_with_one_invalid_tuple_is_refused_as_a_whole() {
    let mut catalog = Catalog::new(settings());
    catalog.apply([put(relationship("r", "orders.shop", &[("order:1", "owner", "user:corporate/alice")]))]);
    let first = catalog.snapshot().revision();
    catalog.apply([put(relationship("r", "orders.shop", &[("order:1", "owner", "*"), ("order", "a b", "alice\n")]))]);
    let (why, in_force) = status(&catalog, "r");
    assert!(
        in_force && why.starts_with("Invalid: spec.tuples[1].object: `order` is not a valid object: write `type:id`"),
        "{why}"
    );
    assert!(why.contains("spec.tuples[1].relation: ") && why.contains("spec.tuples[1].subject: `alice\\n`"), "{why}");
    assert_eq!(catalog.snapshot().revision(), first, "the last good version stays");
    assert_eq!(catalog.snapshot().tuples(&orders()).len(), 1);
}

fn orders() -> ServiceKey {
    ServiceKey { namespace: "shop".into(), audience: "orders.shop".into() }
}

#[test]
fn undeclared_tuples_are_reported_after_each_policy_change() {
    let tuples = [
        ("order:1", "viewer", "group:eng#member"),
        ("order:1", "editor", "*"),
        ("cart:1", "owner", "*"),
        ("order:1", "parent", "cart:1"),
        ("order:1", "viewer", "order:1#boss"),
    ];
    let mut catalog = Catalog::new(settings());
    catalog.apply([put(relationship("r", "orders.shop", &tuples))]);
    assert_eq!(
        status(&catalog, "r"),
        (
            "NoService: spec.service: no policy in force in namespace `shop` declares service `orders.shop`".to_owned(),
            true
        )
    );
    catalog.take_touched_relationships();
    catalog.apply([CatalogChange::PolicyApplied(Box::new(resource(MODEL)))]);
    assert_eq!(catalog.take_touched_relationships(), [key_of("r")].into());
    let (why, _) = status(&catalog, "r");
    for part in [
        "UnknownRelation: spec.tuples[1].relation: `editor` of `order` follows from its rule only: the rule has no `this`",
        "spec.tuples[2].object: `relations` has no object `cart`; there is order; the tuple has no effect",
        "spec.tuples[3].subject: `relations` has no object `cart`",
        "spec.tuples[4].subject: `order` has no relation `boss`",
    ] {
        assert!(why.contains(part), "{part}: {why}");
    }
    catalog.apply([put(relationship("r", "orders.shop", &tuples[..1]))]);
    assert_eq!(status(&catalog, "r"), (String::new(), true));
    catalog.take_touched_relationships();
    catalog.apply([CatalogChange::PolicyDeleted(key("shop/orders"))]);
    assert_eq!(catalog.take_touched_relationships(), [key_of("r")].into());
    assert!(status(&catalog, "r").0.starts_with("NoService"));
}

#[test]
fn the_revision_depends_on_the_tuples_in_force_only() {
    let one = relationship("a", "orders.shop", &[("order:1", "owner", "*")]);
    let two = relationship("b", "orders.shop", &[("order:2", "owner", "*")]);
    let mut forth = Catalog::new(settings());
    forth.apply([put(one.clone()), put(two.clone())]);
    let mut back = Catalog::new(settings());
    back.apply([put(relationship("a", "carts.shop", &[("order:9", "owner", "*")]))]);
    back.apply([put(two.clone())]);
    assert_ne!(forth.snapshot().revision(), back.snapshot().revision());
    back.apply([put(one)]);
    assert_eq!(forth.snapshot().revision(), back.snapshot().revision());
    assert_eq!(back.snapshot().tuples(&orders()).len(), 2);
    let carts = ServiceKey { namespace: "shop".into(), audience: "carts.shop".into() };
    assert!(back.snapshot().tuples(&carts).is_empty(), "the Relationship moved to another service");
    back.apply([CatalogChange::RelationshipDeleted(key_of("a")), CatalogChange::RelationshipDeleted(key_of("b"))]);
    assert_eq!(back.snapshot().revision(), {
        let mut empty = Catalog::new(settings());
        empty.apply([]);
        empty.snapshot().revision()
    });
}

#[test]
fn a_review_refuses_invalid_tuples_and_warns_of_useless_ones() {
    let mut catalog = Catalog::new(settings());
    catalog.apply([CatalogChange::PolicyApplied(Box::new(resource(MODEL)))]);
    let review = |tuples: &[(&str, &str, &str)]| catalog.review_relationship(&relationship("r", "orders.shop", tuples));
    assert_eq!(review(&[("order:1", "owner", "*")]), Ok(vec![]));
    assert_eq!(review(&[("order:1", "boss", "*")]).unwrap()[0].field, "spec.tuples[0].relation");
    assert_eq!(review(&[("order:1", "owner", "alice")]).unwrap_err()[0].field, "spec.tuples[0].subject");
    let many = vec![("order:1", "owner", "*"); 5001];
    assert_eq!(review(&many).unwrap_err()[0].field, "spec.tuples");
}

const STORE: &str = "01JB4ZXK5T1Q8M6W3N9R7C2V0D";

fn allowed(stores: &str) -> CatalogChange {
    CatalogChange::NamespaceAnnotations(
        "shop".into(),
        Some([(ALLOWED_OPENFGA_STORES.to_owned(), stores.to_owned())].into()),
    )
}

#[test]
fn a_service_has_one_relation_engine_and_an_allowed_store() {
    let engine = |store: &str| format!("relationEngine: {{openfga: {{store: {store}, model: {STORE}}}}}\n");
    assert_eq!(
        mistakes(&resource(&(engine("x") + MODEL))),
        [
            "spec.relationEngine.openfga.store: `x` is not an OpenFGA id: an id has 26 digits and capital letters, such as 01JB4ZXK5T1Q8M6W3N9R7C2V0D"
        ]
    );
    assert_eq!(
        mistakes(&resource(&engine(STORE))),
        ["spec.relationEngine: declare the relations of the engine: set `spec.relations`"]
    );

    let mut catalog = Catalog::new(settings());
    let orders_policy = || CatalogChange::PolicyApplied(Box::new(named("shop/orders", 0, &(engine(STORE) + MODEL))));
    let rejected = |catalog: &Catalog, name: &str| {
        let status = catalog.policy_status(&key(name)).expect("a status");
        status.rejected.map(|rejection| rejection.reason.as_str())
    };
    catalog.apply([orders_policy()]);
    assert_eq!(rejected(&catalog, "shop/orders"), Some("NotOwned"));
    catalog.apply([allowed("other"), put(relationship("r", "orders.shop", &[("order:1", "owner", "*")]))]);
    assert_eq!(rejected(&catalog, "shop/orders"), Some("NotOwned"));
    catalog.apply([allowed(&format!("other, {STORE}"))]);
    assert_eq!(rejected(&catalog, "shop/orders"), None);
    assert!(
        status(&catalog, "r")
            .0
            .starts_with("OtherRelationEngine: spec.service: the service looks its relations up in OpenFGA")
    );

    // another policy of the service may have no engine, or the same one
    let second = |more: &str| {
        let spec = format!(
            "service: {{audience: orders.shop}}\n{more}relations: [{{object: cart, relations: {{owner: {{}}}}}}]\n"
        );
        CatalogChange::PolicyApplied(Box::new(named("shop/more", 1, &spec)))
    };
    let audiences = [
        (ALLOWED_OPENFGA_STORES.to_owned(), STORE.to_owned()),
        (ALLOWED_AUDIENCES.to_owned(), "orders.shop".to_owned()),
    ];
    catalog.apply([CatalogChange::NamespaceAnnotations("shop".into(), Some(audiences.into())), second("")]);
    assert_eq!(rejected(&catalog, "shop/more"), Some("OperationConflict"));
    catalog.apply([second(&engine(STORE))]);
    assert_eq!(rejected(&catalog, "shop/more"), None);
}
