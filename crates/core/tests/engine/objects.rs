//! Conditions on objects of Kubernetes API requests: values, limits, and requests with an unknown object.

use crate::support::*;
use durward_core::condition::{Condition, MAX_LEVELS, MAX_PARTS};
use durward_core::decision::{Decision, Reason};
use durward_core::evidence::{Evidence, StatedEvidence};
use durward_core::kubernetes::{ApiCall, ApiPattern, Verb};
use durward_core::policy::{CompiledDenial, CompiledGrant, CompiledOperation, Policy};
use durward_core::principal::Principal;
use durward_core::request::{Call, Request, ServiceTarget};
use durward_core::risk::Assurance;
use durward_core::work::WORK_EXHAUSTED;
use serde_json::{Value, json};

const CALL: ApiCall<'static> =
    ApiCall { group: "", resource: "pods", subresource: "", verb: Verb::Create, name: "web" };

fn world_of(grants: Vec<CompiledGrant>, denials: Vec<CompiledDenial>) -> durward_core::snapshot::Snapshot {
    let pattern = ApiPattern { group: None, resource: Some("pods".into()), subresource: None, verb: None };
    let make = CompiledOperation { kubernetes: vec![pattern], ..operation("make", &["GET /pods"], &["admin"]) };
    world([Policy { operations: each([make]), grants: each(grants), denials: each(denials), ..policy("guard") }])
}

fn gives(when: &str) -> CompiledGrant {
    grant_when("ada", &["*"], &["admin"], when)
}

fn always() -> CompiledGrant {
    grant("always", &["*"], &["admin"])
}

fn decision_on(snapshot: &durward_core::snapshot::Snapshot, evidence: &dyn Evidence) -> (Decision, bool) {
    let ada = Principal::assumed(caller("kube:ada", Assurance::Bearer));
    let request = Request {
        target: ServiceTarget::Audience("orders.shop"),
        call: Call::Kubernetes(CALL),
        source: None,
        evidence,
    };
    let route = snapshot.route(&request);
    (route.decide(Some(&ada), now()), route.awaits_object(Some(&ada), now()))
}

fn evidence_of(objects: &Value) -> StatedEvidence {
    StatedEvidence { objects: objects.as_object().cloned(), ..StatedEvidence::default() }
}

fn holds(when: &str, objects: &Value) -> bool {
    decision_on(&world_of(vec![gives(when)], vec![]), &evidence_of(objects)).0.allowed()
}

fn pod() -> Value {
    json!({"object": {
        "metadata": {"name": "web", "labels": {"app": "web", "a.b/c": "d"}},
        "spec": {"replicas": 3, "weight": 0.5, "hostNetwork": false, "nothing": null, "containers": [
            {"name": "a", "image": "registry.example/a:1", "resources": {"limits": {"memory": "1Gi"}}},
            {"name": "b", "image": "registry.example/b:1"},
        ]},
    }})
}

#[test]
fn conditions_read_objects() {
    for when in [
        "kubernetes.object.metadata.name == 'web' && kubernetes.object.metadata.labels['a.b/c'] == 'd'",
        "kubernetes.object.spec.replicas == 3 && kubernetes.object.spec.weight == 0.5 && !kubernetes.object.spec.hostNetwork",
        "kubernetes.object.spec.containers.all(c, c.image.startsWith('registry.example/'))",
        "kubernetes.object.spec.containers.exists_one(c, has(c.resources) && quantity(c.resources.limits.memory).isLessThan(quantity('2Gi')))",
        "kubernetes.object.spec.containers.map(c, c.name) == ['a', 'b']",
        "kubernetes.object.spec.containers.filter(c, c.name == 'b')[0].image == 'registry.example/b:1'",
        "has(kubernetes.object) && !has(kubernetes.oldObject) && !has(kubernetes.object.status)",
        "kubernetes.object.spec.nothing == null && request.captures.resource == 'pods'",
    ] {
        assert!(holds(when, &pod()), "{when}");
    }
    let scaled = json!({"object": {"spec": {"replicas": 3}}, "oldObject": {"spec": {"replicas": 2}}});
    assert!(holds("kubernetes.object.spec.replicas > kubernetes.oldObject.spec.replicas", &scaled));
    // a deletion has an old object only
    assert!(holds("!has(kubernetes.object) && has(kubernetes.oldObject)", &json!({"oldObject": {}})));
    // every condition on a missing value fails
    for when in [
        "kubernetes.oldObject.spec.replicas != 2",
        "kubernetes.object.spec.missing != 1",
        "kubernetes.object.spec.replicas.x == 1",
    ] {
        assert!(!holds(when, &pod()) && !holds(&format!("!({when})"), &pod()), "{when}");
    }
    for (when, message) in [
        ("kubernetes.object == 3", "values of type map and int are never equal"),
        ("kubernetes.oldObject == null", "use `has(…)`"),
        ("kubernetes.objct.x == 1", "`kubernetes` has no field `objct`; its fields are object, oldObject"),
    ] {
        assert!(Condition::compile(when).expect_err(when).to_string().contains(message), "{when}");
    }
}

#[test]
fn conditions_read_stated_resources() {
    let resource =
        json!({"type": "order", "id": "42", "properties": {"owner": "alice", "total": 12.5, "lines": [1, 2]}});
    let stated = StatedEvidence { resource: resource.as_object().cloned(), ..StatedEvidence::default() };
    let holds =
        |when: &str, evidence: &dyn Evidence| decision_on(&world_of(vec![gives(when)], vec![]), evidence).0.allowed();
    for when in [
        "resource.type == 'order' && resource.id == '42'",
        "resource.properties.owner == 'alice' && resource.properties.total > 12.0 && resource.properties.lines.size() == 2",
        "has(resource.properties) && !has(resource.properties.missing)",
    ] {
        assert!(holds(when, &stated), "{when}");
    }
    for when in ["resource.properties.missing != 1", "resource.properties.owner.x == 1"] {
        assert!(!holds(when, &stated) && !holds(&format!("!({when})"), &stated), "{when}");
    }
    for when in ["resource.type != 'x'", "!has(resource.id)", "resource == resource"] {
        assert!(!holds(when, &()), "{when}: the resource is unknown");
        let denied =
            decision_on(&world_of(vec![always()], vec![denial_when("no", &["*"], &format!("!({when})"))]), &());
        assert_eq!((denied.0.reason, denied.1), (Reason::Denied, false), "{when}");
    }
    for (when, message) in [
        ("resource.owner == 'x'", "`resource` has no field `owner`; its fields are type, id, properties"),
        ("resource.id == 42", "values of type string and int are never equal"),
        ("resource.properties == 1", "values of type map and int are never equal"),
    ] {
        assert!(Condition::compile(when).expect_err(when).to_string().contains(message), "{when}");
    }
}

#[test]
fn requests_without_an_object_have_empty_fields() {
    let snapshot = world_of(vec![always()], vec![denial_when("no", &["*"], "has(kubernetes.object)")]);
    let request = Request { call: Call::Http { method: "GET", path: "/pods" }, ..http("GET /pods") };
    assert!(decide(&snapshot, Some(&alice()), &request, now()).allowed());
    let snapshot = world_of(vec![always()], vec![denial_when("no", &["*"], "kubernetes.object.spec.x == 1")]);
    assert_eq!(decide(&snapshot, Some(&alice()), &request, now()).reason, Reason::Denied, "reading it fails");
}

#[test]
fn objects_beyond_the_limits_fail() {
    let long = |parts: usize| json!({"object": {"list": vec![0; parts]}});
    assert!(holds("has(kubernetes.object)", &long(MAX_PARTS - 10)));
    assert!(!holds("has(kubernetes.object)", &long(MAX_PARTS)));
    assert!(holds("has(kubernetes.object)", &json!({"object": {"a": "x".repeat(64 * (MAX_PARTS - 10))}})));
    assert!(!holds("has(kubernetes.object)", &json!({"object": {"a": "x".repeat(64 * MAX_PARTS)}})));
    let deep = |levels: usize| (0..levels).fold(json!(1), |inner, _| json!([inner]));
    assert!(holds("has(kubernetes.object)", &json!({"object": deep(MAX_LEVELS - 1)})));
    assert!(!holds("has(kubernetes.object)", &json!({"object": deep(MAX_LEVELS)})));
    let denied = decision_on(
        &world_of(vec![always()], vec![denial_when("no", &["*"], "!has(kubernetes.object)")]),
        &evidence_of(&long(MAX_PARTS)),
    );
    assert_eq!(denied.0.reason, Reason::Denied);
    assert!(denied.0.detail.unwrap_or_default().contains("`kubernetes.object` has more than 32768 parts"));
    // fields that no condition reads are not limited
    assert!(holds("has(kubernetes.object)", &json!({"object": {}, "oldObject": vec![0; MAX_PARTS + 1]})));
}

#[test]
fn the_budget_of_loops_is_limited() {
    let list = json!({"object": {"list": (0..3_000).collect::<Vec<_>>()}});
    for when in [
        "kubernetes.object.list.all(x, x >= 0)",
        "kubernetes.object.list.exists(x, x == 2999)",
        "kubernetes.object.list.map(x, 1).size() == 3000 || true",
    ] {
        assert!(holds(when, &list) || when.ends_with("true"), "{when}");
    }
    for when in [
        "kubernetes.object.list.all(x, kubernetes.object.list.all(y, x >= 0 && y >= 0))",
        "kubernetes.object.list.all(x, kubernetes.object.list.exists(y, y == 2999))",
        "kubernetes.object.list.map(x, kubernetes.object.list).size() == 3000",
        "kubernetes.object.list.map(x, kubernetes.object.list.filter(y, y > x)).size() == 3000",
        "true || kubernetes.object.list.map(x, kubernetes.object.list).size() == 3000 || true",
    ] {
        let (decision, _) = decision_on(
            &world_of(vec![always()], vec![denial_when("no", &["*"], &format!("!({when})"))]),
            &evidence_of(&list),
        );
        let detail = decision.detail.clone().unwrap_or_default();
        assert!(
            decision.allowed() && when.starts_with("true") || detail.contains(WORK_EXHAUSTED),
            "{when}: {decision:?}"
        );
    }
    // a loop that exceeds the budget fails the whole condition
    let denied = "!(kubernetes.object.list.map(x, kubernetes.object.list).size() == 3000 || true)";
    let (decision, _) =
        decision_on(&world_of(vec![always()], vec![denial_when("no", &["*"], denied)]), &evidence_of(&list));
    assert_eq!(decision.reason, Reason::Denied, "{decision:?}");
    // a loop over many groups fits the budget
    let mut member = caller("kube:ada", Assurance::Bearer);
    member.groups = (0..2_000).map(|i| format!("group-{i}")).collect();
    let snapshot = world_of(vec![gives("principal.groups.exists(g, g == 'group-1999')")], vec![]);
    let request = Request {
        target: ServiceTarget::Audience("orders.shop"),
        call: Call::Kubernetes(CALL),
        source: None,
        evidence: &(),
    };
    assert!(snapshot.decide(Some(&Principal::assumed(member)), &request, now()).allowed());
}

#[test]
fn only_conditions_on_the_object_await_an_unknown_object() {
    const READS: &str = "kubernetes.object.metadata.name == 'x'";
    let denies = |when: &str| denial_when("no", &["*"], when);
    let cases = [
        ("a grant that may hold", vec![gives(READS)], vec![], Reason::InsufficientScope, true),
        ("a denial that may not apply", vec![always()], vec![denies(READS)], Reason::Denied, true),
        ("a check for presence", vec![gives("!has(kubernetes.oldObject)")], vec![], Reason::InsufficientScope, true),
        ("both", vec![gives(READS)], vec![denies(READS)], Reason::Denied, true),
        ("no grant without the object", vec![], vec![denies(READS)], Reason::Denied, false),
        ("a denial that applies anyway", vec![gives(READS)], vec![denial("no", &["*"])], Reason::Denied, false),
        (
            "the same in the other order",
            vec![always()],
            vec![denies(READS), denial("yes", &["*"])],
            Reason::Denied,
            false,
        ),
        ("a denial that fails otherwise", vec![gives(READS)], vec![denies("1 / 0 == 1")], Reason::Denied, false),
        (
            "another scope is missing",
            vec![grant_when("x", &["*"], &["other"], READS)],
            vec![],
            Reason::InsufficientScope,
            false,
        ),
        (
            "for another caller",
            vec![grant_when("x", &["kube:eve"], &["admin"], READS)],
            vec![],
            Reason::InsufficientScope,
            false,
        ),
        ("nothing", vec![], vec![], Reason::InsufficientScope, false),
        ("allowed anyway", vec![always(), gives(READS)], vec![], Reason::Granted, false),
    ];
    for (what, grants, denials, reason, awaits) in cases {
        let (decision, open) = decision_on(&world_of(grants, denials), &());
        assert_eq!((decision.reason, open), (reason, awaits), "{what}");
    }
    // once the object is known, no request waits for it
    let (decision, open) = decision_on(&world_of(vec![gives(READS)], vec![]), &evidence_of(&json!({"object": {}})));
    assert_eq!((decision.reason, open), (Reason::InsufficientScope, false));
    // headers stay unknown, and an object does not raise the assurance
    let listed = ["x-a".into()];
    let both = Condition::compile_reading("request.headers['x-a'] == 'a' && has(kubernetes.object)", &listed).unwrap();
    let grant = CompiledGrant { when: Some(both.into()), ..always() };
    assert!(!decision_on(&world_of(vec![grant], vec![]), &()).1);
}
