//! A replica that starts while a policy is invalid does not know the version that was in force. It closes the service
//! that the status of the policy records.

use crate::support::*;
use durward_api::catalog::CatalogChange;
use durward_api::resources::{AccessPolicy, LastGood};
use durward_core::kubernetes::{ApiCall, Verb};
use serde_json::{Value, json};

fn at(generation: i64, mut policy: AccessPolicy) -> CatalogChange {
    policy.metadata.generation = Some(generation);
    CatalogChange::PolicyApplied(Box::new(policy))
}

/// The record of another replica that has the policy in force.
fn recorded(world: &World, name: &str) -> CatalogChange {
    last_good_record(name, 0, world.0.last_good(&key(name)).unwrap())
}

/// A policy that allows every caller at `/<path>` of `shop.shop`, except for the denied ones.
fn sharing(name: &str, age: i64, path: &str, denials: &str) -> AccessPolicy {
    let operation = format!("{{name: {path}, http: [{{methods: [GET], paths: [/{path}]}}], public: true}}");
    let spec = format!("service: {{audience: p, hosts: [p.shop.svc]}}\noperations: [{operation}]\ndenials: {denials}");
    named(name, age, &spec)
}

const SUSPENDED: &str = "[{name: suspended, to: [{authenticated: true}]}]";

fn shared() -> World {
    let mut world = World::new();
    world.annotate("shop", "", "p");
    world.apply([at(4, sharing("shop/a", 0, "one", SUSPENDED)), at(1, sharing("shop/b", 1, "two", "[]"))]);
    world
}

#[test]
fn the_service_is_closed_until_the_policy_is_fixed_or_deleted() {
    let before = shared();
    let good = before.0.last_good(&key("shop/a")).unwrap();
    assert_eq!(
        serde_json::to_value(&good).unwrap(),
        json!({"generation": 4, "audience": "p", "hosts": ["p.shop.svc"]})
    );
    let start = |change: CatalogChange| {
        let mut world = World::new();
        world.apply([
            annotated("shop", "", "p"),
            change,
            recorded(&before, "shop/a"),
            at(1, sharing("shop/b", 1, "two", "[]")),
            recorded(&before, "shop/b"),
        ]);
        world
    };
    for change in [|| at(5, invalid("shop/a", 0)), || undecodable("shop/a")] {
        let mut world = start(change());
        assert_eq!(world.statuses(), ["shop/a: Invalid, closed", "shop/b: in a closed service"]);
        // without the denial, the other policy would allow every caller
        assert_eq!(world.reason("p.shop.svc/two"), "NoPolicy");
        assert_ne!(world.revision(), before.revision());
        assert_eq!(world.0.last_good(&key("shop/a")), Some(good.clone()), "the record stays");
        assert_eq!(world.apply([at(6, sharing("shop/a", 0, "three", "[]"))]), ["shop/a: in force", "shop/b: in force"]);
        assert_eq!(
            (world.answers("p.shop.svc/two"), world.answers("p.shop.svc/three")),
            ("shop/b".into(), "shop/a".into())
        );
        let mut world = start(change());
        assert_eq!(world.take("shop/a"), ["shop/b: in force"]);
        assert_eq!(world.answers("p.shop.svc/two"), "shop/b");
        assert!(world.0.last_good(&key("shop/a")).is_none());
    }
    // the status arrives after the policy
    let mut world = World::new();
    world.apply([
        annotated("shop", "", "p"),
        undecodable("shop/a"),
        at(1, sharing("shop/b", 1, "two", "[]")),
        recorded(&before, "shop/b"),
    ]);
    assert_eq!(world.answers("p.shop.svc/two"), "shop/b");
    assert_eq!(world.apply([recorded(&before, "shop/a")]), ["shop/a: Invalid, closed", "shop/b: in a closed service"]);
    assert_eq!(world.reason("p.shop.svc/two"), "NoPolicy");
}

#[test]
fn a_replica_that_knows_the_last_good_version_keeps_it() {
    let mut world = shared();
    let good = recorded(&world, "shop/a");
    let revision = world.revision();
    world.apply([at(5, invalid("shop/a", 0)), good]);
    assert_eq!((world.answers("p.shop.svc/two"), world.revision()), ("shop/b".into(), revision));
    assert_eq!(world.0.last_good(&key("shop/a")).unwrap().generation, Some(4));
}

#[test]
fn a_version_that_is_accepted_again_replaces_the_placeholder() {
    // the generation of the record, and a newer one
    for generation in [4, 5] {
        let mut world = World::new();
        world.apply([
            annotated("shop", "", "p"),
            at(generation, sharing("shop/a", 0, "one", SUSPENDED)),
            recorded(&shared(), "shop/a"),
        ]);
        assert_eq!(world.statuses(), ["shop/a: in force"]);
        assert_eq!(world.answers("p.shop.svc/one"), "shop/a");
        assert_eq!(world.0.last_good(&key("shop/a")).unwrap().generation, Some(generation));
    }
    // a newer release refuses a version that an older one accepted
    let mut world = World::new();
    world.apply([annotated("shop", "", "p"), at(4, invalid("shop/a", 0)), recorded(&shared(), "shop/a")]);
    assert_eq!(world.statuses(), ["shop/a: Invalid, closed"]);
}

#[test]
fn a_newer_version_that_is_rejected_closes_the_service_too() {
    let before = shared();
    let elsewhere = named("shop/a", 0, "service: {audience: p, hosts: [bank.example.com]}");
    let mut world = World::new();
    world.apply([
        annotated("shop", "", "p"),
        at(5, elsewhere),
        recorded(&before, "shop/a"),
        at(1, sharing("shop/b", 1, "two", "[]")),
        recorded(&before, "shop/b"),
    ]);
    assert_eq!(world.statuses(), ["shop/a: NotOwned, closed", "shop/b: in a closed service"]);
    assert_eq!(world.reason("p.shop.svc/two"), "NoPolicy");
    // the newest version moved to another service, and does not affect the one that it left
    assert_eq!(world.annotate("shop", "bank.example.com", "p"), ["shop/a: in force", "shop/b: in force"]);
    assert_eq!(world.answers("p.shop.svc/two"), "shop/b");
}

#[test]
fn a_policy_that_was_never_valid_affects_no_other_policy() {
    let mut world = World::new();
    world.apply([
        annotated("shop", "", "p"),
        at(1, named("shop/a", 0, "service: {audience: p, hosts: [p.shop.svc]}\noperations: [{name: nothing}]")),
        at(1, sharing("shop/b", 1, "two", "[]")),
    ]);
    assert_eq!(world.statuses(), ["shop/a: Invalid, nothing in force", "shop/b: in force"]);
    assert_eq!(world.answers("p.shop.svc/two"), "shop/b");
    assert!(world.0.last_good(&key("shop/a")).is_none());
    // without the other policy, the service denies every request
    world.take("shop/b");
    assert_eq!(world.answers("p.shop.svc/two"), "NoPolicy");
}

#[test]
fn a_placeholder_holds_the_names_of_the_unknown_version() {
    let placeholder_record = |world: &World, host: &str| {
        let mut good = world.0.last_good(&key("shop/a")).unwrap();
        good.hosts = vec![host.to_owned()];
        last_good_record("shop/a", 1, good)
    };
    let before = shared();
    let start = |record: CatalogChange, others: Vec<AccessPolicy>| {
        let mut world = World::new();
        world.annotate("shop", "x.example.com", "p");
        world.annotate("mall", "x.example.com,y.example.com", "");
        world.apply([at(5, invalid("shop/a", 1)), record].into_iter().chain(others.into_iter().map(|one| at(1, one))));
        world
    };
    // the placeholder holds its names: a younger policy elsewhere can't take them over after the restart
    let younger = || serving("mall/younger", 2, "open", "x.example.com");
    let mut world = start(placeholder_record(&before, "x.example.com"), vec![younger()]);
    assert_eq!(world.statuses(), ["mall/younger: HostConflict, nothing in force", "shop/a: Invalid, closed"]);
    assert_eq!(world.reason("x.example.com/open"), "NoPolicy");
    assert_eq!(world.take("shop/a"), ["mall/younger: in force"]);
    // an older policy keeps its names, and the service of the unknown version has no good version
    let world =
        start(placeholder_record(&before, "x.example.com"), vec![serving("mall/older", 0, "open", "x.example.com")]);
    assert_eq!(world.statuses(), ["mall/older: in force", "shop/a: Invalid, nothing in force"]);
    assert_eq!(world.answers("x.example.com/open"), "mall/older");
    // a forged status closes nothing that its namespace does not own
    let world =
        start(placeholder_record(&before, "y.example.com"), vec![serving("mall/younger", 2, "open", "y.example.com")]);
    assert_eq!(world.statuses(), ["mall/younger: in force", "shop/a: Invalid, nothing in force"]);
    assert_eq!(world.answers("y.example.com/open"), "mall/younger");
    let mut forged = before.0.last_good(&key("shop/a")).unwrap();
    forged.audience = "younger.mall".to_owned();
    let forged = last_good_record("shop/a", 1, forged);
    let world = start(forged, vec![serving("mall/younger", 2, "open", "y.example.com")]);
    assert_eq!(world.answers("y.example.com/open"), "mall/younger");
    // a Namespace that loses its allowance loses the service with it
    let mut world = start(placeholder_record(&before, "x.example.com"), vec![younger()]);
    assert_eq!(world.annotate("shop", "", "p"), ["mall/younger: in force", "shop/a: Invalid, nothing in force"]);
}

#[test]
fn no_policy_joins_a_closed_service() {
    let before = shared();
    let start = |others: Vec<CatalogChange>| {
        let mut world = World::new();
        world.apply([annotated("shop", "", "p"), at(5, invalid("shop/a", 0)), recorded(&before, "shop/a")]);
        world.apply(others);
        world
    };
    // no check can find conflicts with the operations of an unknown version
    let joins = || at(2, sharing("shop/c", 2, "one", "[]"));
    let mut world = start(vec![joins()]);
    assert_eq!(world.statuses(), ["shop/a: Invalid, closed", "shop/c: ServiceClosed, nothing in force"]);
    assert!(world.errors("shop/c")[0].contains("fix or delete shop/a first"), "{:?}", world.errors("shop/c"));
    assert_eq!(world.apply([at(6, sharing("shop/a", 0, "three", "[]"))]), ["shop/a: in force", "shop/c: in force"]);
    // the previous service is closed as well, since the policies that stay in it would lose the denials
    let mut elsewhere = World::new();
    elsewhere.apply([at(1, serving("shop/c", 2, "one", "c.shop.svc"))]);
    let world = start(vec![joins(), recorded(&elsewhere, "shop/c")]);
    assert_eq!(world.statuses(), ["shop/a: Invalid, closed", "shop/c: ServiceClosed, closed"]);
    assert_eq!(world.reason("c.shop.svc/one"), "NoPolicy");
    // the version in force there stays in force
    let world = start(vec![at(1, sharing("shop/b", 1, "two", "[]")), recorded(&before, "shop/b")]);
    assert_eq!(world.statuses(), ["shop/a: Invalid, closed", "shop/b: in a closed service"]);
}

fn governing(world: &World, group: &str, resource: &str, subresource: &str, verb: Verb) -> bool {
    let call = ApiCall { group, resource, subresource, verb, name: "x" };
    world.snapshot().governing("shop", &call).next().is_some()
}

#[test]
fn governed_api_requests_stay_governed() {
    let spec = |mode: &str| {
        format!(
            "mode: {mode}\noperations:\n- {{name: shell, kubernetes: [{{apiGroups: [''], resources: [pods/exec, pods/attach], verbs: [CONNECT]}}]}}\n\
             - {{name: scale, kubernetes: [{{apiGroups: [apps, batch], resources: [deployments/scale], verbs: [UPDATE, CREATE]}}]}}\n\
             - {{name: all, kubernetes: [{{apiGroups: ['*'], resources: ['widgets/*'], verbs: ['*']}}]}}\n"
        )
    };
    let before = |mode: &str| {
        let mut world = World::new();
        world.apply([at(2, named("shop/guard", 0, &spec(mode)))]);
        world
    };
    let good = before("Enforce").0.last_good(&key("shop/guard")).unwrap();
    assert_eq!(
        serde_json::to_value(&good.kubernetes).unwrap(),
        json!([
            {"apiGroups": ["apps", "batch"], "resources": ["deployments/scale"], "verbs": ["CREATE", "UPDATE"]},
            {"apiGroups": [""], "resources": ["pods/attach", "pods/exec"], "verbs": ["CONNECT"]},
            {"apiGroups": ["*"], "resources": ["widgets/*"], "verbs": ["*"]},
        ])
    );
    let restarted = |record: CatalogChange| {
        let mut world = World::new();
        world.apply([at(3, invalid("shop/guard", 0)), record]);
        world
    };
    let world = restarted(recorded(&before("Enforce"), "shop/guard"));
    for (group, resource, subresource, verb) in [
        ("", "pods", "exec", Verb::Connect),
        ("", "pods", "attach", Verb::Connect),
        ("batch", "deployments", "scale", Verb::Create),
        ("example.com", "widgets", "", Verb::Delete),
        ("example.com", "widgets", "status", Verb::Update),
    ] {
        assert!(governing(&world, group, resource, subresource, verb), "{verb} {resource}/{subresource}");
    }
    for (group, resource, subresource, verb) in [
        ("", "pods", "portforward", Verb::Connect),
        ("", "pods", "", Verb::Delete),
        ("apps", "deployments", "scale", Verb::Delete),
        ("apps", "deployments", "", Verb::Update),
    ] {
        assert!(!governing(&world, group, resource, subresource, verb), "{verb} {resource}/{subresource}");
    }
    assert_eq!(world.0.last_good(&key("shop/guard")), Some(good), "the record of an unknown version stays");
    // `mode: Audit` refused nothing
    let world = restarted(recorded(&before("Audit"), "shop/guard"));
    assert!(!governing(&world, "", "pods", "exec", Verb::Connect));
    assert_eq!(world.statuses(), ["shop/guard: Invalid, closed"]);
}

#[test]
fn too_many_rules_are_recorded_as_all_requests() {
    let operations: Vec<Value> = (0..24)
        .map(|operation| {
            let name = |n: usize| format!("resource-with-a-name-of-quite-some-length-{operation}-{n}");
            let resources: Vec<String> = (0..64).map(name).collect();
            json!({"name": format!("o{operation}"), "kubernetes": [{"apiGroups": [""], "resources": resources, "verbs": ["*"]}]})
        })
        .collect();
    let mut world = World::new();
    world.apply([at(2, named("shop/guard", 0, &json!({ "operations": operations }).to_string()))]);
    assert_eq!(world.errors("shop/guard"), Vec::<String>::new());
    let good = world.0.last_good(&key("shop/guard")).unwrap();
    assert_eq!(
        serde_json::to_value(&good.kubernetes).unwrap(),
        json!([{"apiGroups": ["*"], "resources": ["*/*"], "verbs": ["*"]}])
    );
}

#[test]
fn workloads_denied_by_name_get_no_credentials() {
    let account = "serviceAccount: {namespace: shop, name: cart}";
    let before = World::of([named(
        "shop/a",
        0,
        &format!(
            "denials:\n- {{name: stop, to: [{{{account}}}, {{authenticated: true}}]}}\n- {{name: sometimes, to: [{{{account}}}], when: 'true'}}"
        ),
    )]);
    let good = before.0.last_good(&key("shop/a")).unwrap();
    let cart = "spiffe://td.example/ns/shop/sa/cart";
    assert_eq!(serde_json::to_value(&good.denials).unwrap(), json!([{"name": "stop", "workloads": [cart]}]));
    let mut world = World::of([named("shop/pods", 1, "service: {podSelector: {}}")]);
    let minted = |world: &World| {
        let minted = world.snapshot().certificate_entitlement(&cart.parse().unwrap(), "shop", &Default::default());
        minted.map(|entitlement| entitlement.policy_names()).map_err(|why| why.to_string())
    };
    assert_eq!(minted(&world), Ok("shop/pods".to_owned()));
    world.apply([undecodable("shop/a"), recorded(&before, "shop/a")]);
    let refused = "shop/a/denials/stop denies this workload; it gets nothing new while that stands";
    assert_eq!(minted(&world), Err(refused.to_owned()));
    assert_eq!(world.0.last_good(&key("shop/a")), Some(good));
}

#[test]
fn the_record_is_read_from_the_status() {
    let recorded_in = |object: &Value| LastGood::of_object(object["metadata"]["generation"].as_i64(), object);
    let good = json!({"generation": 4, "audience": "p", "hosts": ["p.shop.svc"]});
    let status = json!({"service": "other", "lastGood": good});
    let object = json!({"metadata": {"generation": 7}, "spec": 5, "status": status});
    assert_eq!(serde_json::to_value(recorded_in(&object)).unwrap(), good);
    assert_eq!(recorded_in(&json!({"metadata": {}, "spec": {}})), None);
    assert_eq!(recorded_in(&json!({"status": {"conditions": []}})), None, "no version was ever in force");
    // older releases recorded the service only
    let rule = json!({"apiGroups": [""], "resources": ["pods/exec"], "verbs": ["CONNECT"]});
    let spec = json!({
        "service": {"hosts": ["p.shop.svc", 7]},
        "operations": [{"name": "odd", "kubernetes": [rule, {"resources": 3}]}, "nonsense", {"kubernetes": {}}],
    });
    let accepted = |status: &str| json!([{"type": "Accepted", "status": status}]);
    let older = |conditions: Value, observed: i64| {
        let status = json!({"service": "p", "observedGeneration": observed, "conditions": conditions});
        serde_json::to_value(recorded_in(&json!({"metadata": {"generation": 7}, "spec": spec, "status": status})))
            .unwrap()
    };
    let unknown = json!({"audience": "p", "hosts": ["p.shop.svc"], "kubernetes": [rule]});
    assert_eq!(older(accepted("False"), 7), unknown);
    assert_eq!(older(accepted("True"), 6), unknown);
    let mut known = unknown;
    known["generation"] = json!(7);
    assert_eq!(older(accepted("True"), 7), known);
    assert_eq!(older(json!("nonsense"), 7)["generation"], Value::Null);
}
