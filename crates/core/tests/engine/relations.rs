//! Relations between callers and objects: the meaning of each rule, the limits of the search, and grants by relation.

use crate::support::*;
use durward_core::condition::Truth;
use durward_core::decide::RuleOutcome;
use durward_core::decision::Reason;
use durward_core::policy::{CompiledGrant, Policy};
use durward_core::principal::{Identity, Principal};
use durward_core::relations::{
    CompiledRelationRule, OpenFgaStore, RelationBackend, RelationModel, RelationQuestion, RelationTuple, TupleIndex,
    TypeRelations,
};
use durward_core::request::{Call, Request, ServiceTarget};
use durward_core::risk::Assurance;
use durward_core::snapshot::Snapshot;
use durward_core::work::WORK_EXHAUSTED;

pub fn computed(relation: &str) -> CompiledRelationRule {
    CompiledRelationRule::Computed(relation.into())
}

pub fn from(from: &str, relation: &str) -> CompiledRelationRule {
    CompiledRelationRule::From { from: from.into(), relation: relation.into() }
}

pub fn but_not(base: CompiledRelationRule, other: CompiledRelationRule) -> CompiledRelationRule {
    CompiledRelationRule::Exclusion(Box::new(base), vec![other])
}

pub fn kind(
    name: &str,
    relations: impl IntoIterator<Item = (&'static str, CompiledRelationRule)>,
) -> (std::sync::Arc<str>, TypeRelations) {
    (name.into(), relations.into_iter().map(|(name, rule)| (name.into(), rule)).collect())
}

/// `object#relation@subject`.
pub fn tuple(text: &str) -> RelationTuple {
    let (object, rest) = text.split_once('#').expect(text);
    let (relation, subject) = rest.split_once('@').expect(text);
    RelationTuple {
        object: object.parse().expect(text),
        relation: relation.into(),
        subject: subject.parse().expect(text),
    }
}

pub fn tuples(texts: &[&str]) -> TupleIndex {
    let mut tuples = TupleIndex::default();
    tuples.put("shop/all", &texts.iter().map(|text| tuple(text)).collect::<Vec<_>>());
    tuples
}

fn documents() -> RelationModel {
    RelationModel::new([
        kind("folder", [("viewer", CompiledRelationRule::This), ("parent", CompiledRelationRule::This)]),
        kind(
            "doc",
            [
                ("owner", CompiledRelationRule::This),
                ("parent", CompiledRelationRule::This),
                ("banned", CompiledRelationRule::This),
                ("auditor", CompiledRelationRule::This),
                (
                    "viewer",
                    CompiledRelationRule::Union(vec![
                        CompiledRelationRule::This,
                        computed("owner"),
                        from("parent", "viewer"),
                    ]),
                ),
                ("reader", but_not(computed("viewer"), computed("banned"))),
                ("checked", CompiledRelationRule::Intersection(vec![computed("viewer"), computed("auditor")])),
            ],
        ),
    ])
}

/// Whether Alice has `object#relation`; her token has the groups `eng` and `ops`.
fn alice_is(stated: &[&str], what: &str) -> Truth {
    let (object, relation) = what.split_once('#').expect(what);
    let caller = Identity { groups: ["eng".into(), "ops".into()].into(), ..alice() };
    tuples(stated).check(&documents(), object, relation, &caller)
}

#[test]
fn each_relation_rule_has_its_meaning() {
    const ALICE: &str = "doc:1#owner@user:corporate/alice";
    for (stated, what, holds) in [
        (&["doc:1#viewer@user:corporate/alice"][..], "doc:1#viewer", true),
        (&["doc:1#viewer@user:corporate/bob"], "doc:1#viewer", false),
        (&["doc:1#viewer@user:corporate/alice"], "doc:2#viewer", false),
        (&["doc:1#viewer@user:corporate/alice"], "doc:1#owner", false),
        (&[ALICE], "doc:1#viewer", true),
        (&["doc:1#viewer@*"], "doc:1#viewer", true),
        (&["doc:1#parent@folder:a", "folder:a#viewer@user:corporate/alice"], "doc:1#viewer", true),
        (&["doc:1#parent@folder:a", "folder:b#viewer@user:corporate/alice"], "doc:1#viewer", false),
        (&["doc:1#viewer@folder:a", "folder:a#viewer@user:corporate/alice"], "doc:1#viewer", false),
        (&["doc:1#viewer@folder:a#viewer", "folder:a#viewer@user:corporate/alice"], "doc:1#viewer", true),
        (&["doc:1#parent@folder:a#viewer", "folder:a#viewer@user:corporate/alice"], "doc:1#viewer", false),
        (&["doc:1#viewer@group:staff#member", "group:staff#member@user:corporate/alice"], "doc:1#viewer", true),
        (&["doc:1#viewer@group:corporate/eng#member"], "doc:1#viewer", true),
        (&["doc:1#viewer@group:partners/eng#member"], "doc:1#viewer", false),
        (&["doc:1#viewer@group:eng#member"], "doc:1#viewer", false),
        (&["doc:1#viewer@group:all#member", "group:all#member@group:corporate/ops#member"], "doc:1#viewer", true),
        (&[ALICE], "doc:1#reader", true),
        (&[ALICE, "doc:1#banned@user:corporate/alice"], "doc:1#reader", false),
        (&[ALICE, "doc:1#banned@group:corporate/eng#member"], "doc:1#reader", false),
        (&[ALICE, "doc:1#banned@*"], "doc:1#reader", false),
        (&[ALICE], "doc:1#checked", false),
        (&[ALICE, "doc:1#auditor@user:corporate/alice"], "doc:1#checked", true),
        (&[ALICE], "doc:1#unknown", false),
        (&[ALICE], "unknown:1#owner", false),
        (&["doc:1#unknown@user:corporate/alice"], "doc:1#unknown", false),
        (&[], "doc:1#viewer", false),
    ] {
        assert_eq!(alice_is(stated, what), if holds { Truth::True } else { Truth::False }, "{what} by {stated:?}");
    }
}

#[test]
fn cycles_end_and_hide_no_relation() {
    let circle = [
        "doc:1#viewer@group:a#member",
        "group:a#member@group:b#member",
        "group:b#member@group:c#member",
        "group:c#member@group:a#member",
        "doc:1#parent@folder:a",
        "folder:a#viewer@folder:a#viewer",
    ];
    assert_eq!(alice_is(&circle, "doc:1#viewer"), Truth::False);
    let found: Vec<&str> = circle.into_iter().chain(["group:c#member@user:corporate/alice"]).collect();
    assert_eq!(alice_is(&found, "doc:1#viewer"), Truth::True);
    // a ban by groups that contain each other is found
    let banned = ["doc:1#owner@user:corporate/alice", "doc:1#banned@group:a#member"];
    let banned: Vec<&str> = circle.into_iter().chain(banned).collect();
    assert_eq!(alice_is(&banned, "doc:1#reader"), Truth::True);
    let banned: Vec<&str> = banned.into_iter().chain(["group:b#member@user:corporate/alice"]).collect();
    assert_eq!(alice_is(&banned, "doc:1#reader"), Truth::False);
}

#[test]
fn a_relation_that_excludes_itself_fails() {
    let model = RelationModel::new([kind(
        "doc",
        [
            ("viewer", but_not(CompiledRelationRule::This, from("parent", "viewer"))),
            ("parent", CompiledRelationRule::This),
        ],
    )]);
    let stated = tuples(&["doc:1#viewer@*", "doc:1#parent@doc:2", "doc:2#viewer@*", "doc:2#parent@doc:1"]);
    let truth = stated.check(&model, "doc:1", "viewer", &alice());
    assert!(matches!(&truth, Truth::Failed(why) if why.contains("excluded by itself")), "{truth:?}");
    let chain = tuples(&["doc:1#viewer@*", "doc:1#parent@doc:2", "doc:2#viewer@*"]);
    assert_eq!(chain.check(&model, "doc:1", "viewer", &alice()), Truth::False);
    assert_eq!(chain.check(&model, "doc:2", "viewer", &alice()), Truth::True);
}

/// A chain of groups, each within the one before; Alice is in the last.
fn nested(groups: usize) -> Vec<String> {
    let mut stated: Vec<String> = (1..groups).map(|n| format!("group:{n}#member@group:{}#member", n + 1)).collect();
    stated.push("doc:1#viewer@group:1#member".to_owned());
    stated.push("doc:1#owner@*".to_owned());
    stated.push(format!("group:{groups}#member@user:corporate/alice"));
    stated
}

#[test]
fn limits_fail_and_never_allow() {
    let model = RelationModel::new([kind(
        "doc",
        [
            ("owner", CompiledRelationRule::This),
            ("viewer", CompiledRelationRule::This),
            ("others", but_not(computed("owner"), computed("viewer"))),
        ],
    )]);
    let ask = |stated: &[String], relation: &str| {
        let stated: Vec<&str> = stated.iter().map(String::as_str).collect();
        tuples(&stated).check(&model, "doc:1", relation, &alice())
    };
    assert_eq!(ask(&nested(31), "viewer"), Truth::True);
    assert!(matches!(ask(&nested(32), "viewer"), Truth::Failed(why) if why.contains("more than 32")));
    // a failed exclusion does not allow
    assert!(matches!(ask(&nested(200), "others"), Truth::Failed(_)));
    let wide: Vec<String> = (0..1001).map(|n| format!("doc:1#viewer@group:{n}#member")).collect();
    assert!(matches!(ask(&wide, "viewer"), Truth::Failed(why) if why.contains("more than 1000")));
    let direct: Vec<String> = wide.iter().cloned().chain(["doc:1#viewer@user:corporate/alice".to_owned()]).collect();
    assert_eq!(ask(&direct, "viewer"), Truth::True, "a direct tuple needs no search");
    // 90 groups that contain 90 groups each
    let many: Vec<String> = (0..90)
        .flat_map(|n| (0..90).map(move |m| format!("group:{n}#member@group:{n}-{m}#member")))
        .chain((0..90).map(|n| format!("doc:1#viewer@group:{n}#member")))
        .collect();
    assert!(matches!(ask(&many, "viewer"), Truth::Failed(why) if why == WORK_EXHAUSTED));
}

#[test]
fn groups_that_all_contain_each_other_are_searched_once() {
    let all: Vec<String> = (0..60)
        .flat_map(|n| (0..60).map(move |m| format!("group:{n}#member@group:{m}#member")))
        .chain(["doc:1#viewer@group:0#member".to_owned()])
        .collect();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    let truth = tuples(&all).check(&documents(), "doc:1", "viewer", &alice());
    assert!(matches!(truth, Truth::False | Truth::Failed(_)), "{truth:?}");
    let found = ["group:40#member@user:corporate/alice"];
    let found: Vec<&str> = all.into_iter().chain(found).collect();
    assert_eq!(tuples(&found).check(&documents(), "doc:1", "viewer", &alice()), Truth::True);
}

#[test]
fn the_proof_leads_from_the_object_to_the_caller() {
    let stated = tuples(&[
        "doc:1#parent@folder:a",
        "doc:1#banned@group:thieves#member",
        "folder:a#viewer@group:corporate/eng#member",
    ]);
    let caller = Identity { groups: ["eng".into()].into(), ..alice() };
    let checked = stated.explain(&documents(), "doc:1", "reader", &caller);
    assert_eq!(checked.truth, Truth::True);
    let proof: Vec<String> = checked.proof.iter().map(ToString::to_string).collect();
    assert_eq!(
        proof,
        [
            "doc:1#reader: as doc:1#viewer",
            "doc:1#reader: and not by banned",
            "doc:1#viewer: by doc:1#parent@folder:a, as folder:a#viewer",
            "folder:a#viewer: by folder:a#viewer@group:corporate/eng#member, as group:corporate/eng#member",
            "group:corporate/eng#member: by the caller's token",
        ]
    );
}

#[test]
fn a_tuple_of_two_resources_stays_until_both_are_deleted() {
    let (model, stated) = (documents(), [tuple("doc:1#owner@user:corporate/alice")]);
    let mut tuples = TupleIndex::default();
    let is_owner = |tuples: &TupleIndex| tuples.check(&model, "doc:1", "owner", &alice()) == Truth::True;
    tuples.put("shop/a", &stated);
    tuples.put("shop/b", &[stated[0].clone(), stated[0].clone()]);
    assert_eq!(tuples.len(), 1);
    let before = tuples.clone();
    tuples.put("shop/a", &[tuple("doc:2#owner@*")]);
    assert!(is_owner(&tuples));
    tuples.remove("shop/b");
    assert!(!is_owner(&tuples) && is_owner(&before), "an older snapshot does not change");
    tuples.remove("shop/a");
    assert!(tuples.is_empty());
}

#[test]
fn an_exclusion_fails_if_tuples_are_unknown() {
    let model = documents();
    let mut tuples =
        tuples(&["doc:1#owner@user:corporate/alice", "doc:2#owner@*", "doc:2#banned@*", "doc:3#auditor@*"]);
    let check = |tuples: &TupleIndex, object: &str, relation: &str| tuples.check(&model, object, relation, &alice());
    assert_eq!(check(&tuples, "doc:1", "reader"), Truth::True);
    tuples.mark_unknown("shop/bans");
    let truth = check(&tuples, "doc:1", "reader");
    assert!(matches!(&truth, Truth::Failed(why) if why.contains("Relationship shop/bans is invalid")), "{truth:?}");
    // unknown tuples do not change results that they can't affect
    assert_eq!(check(&tuples, "doc:1", "viewer"), Truth::True);
    assert_eq!(check(&tuples, "doc:2", "reader"), Truth::False, "banned by a known tuple");
    assert_eq!(check(&tuples, "doc:3", "reader"), Truth::False, "not a viewer");
    let known = tuples.clone();
    for found in [&["doc:9#owner@*"][..], &[]] {
        let mut tuples = known.clone();
        tuples.put("shop/bans", &found.iter().map(|text| tuple(text)).collect::<Vec<_>>());
        assert_eq!(check(&tuples, "doc:1", "reader"), Truth::True, "fixed, or removed");
    }
}

/// Viewers of an order may read it.
fn orders_by_relation() -> Policy {
    let relation = |text: &str| Some(text.parse().expect(text));
    Policy {
        relations: RelationModel::new([kind("order", [("viewer", CompiledRelationRule::This)])]),
        relation_engine: Default::default(),
        operations: each([
            operation("get", &["GET /orders/{id}"], &["read"]),
            operation("list", &["GET /orders"], &["read"]),
        ]),
        grants: each([CompiledGrant {
            relation: relation("order:{id}#viewer"),
            ..grant("viewers", &["*"], &["read"])
        }]),
        ..policy("orders")
    }
}

fn related(stated: &[&str]) -> Snapshot {
    let mut snapshot = world([orders_by_relation()]);
    let stated: Vec<RelationTuple> = stated.iter().map(|text| tuple(text)).collect();
    snapshot.put_relationship(&service_key(), "shop/orders", &stated);
    snapshot.update_revision();
    snapshot
}

#[test]
fn a_grant_by_relation_is_for_the_object_of_the_path() {
    let snapshot = related(&["order:42#viewer@user:corporate/alice", "order:other#viewer@*"]);
    let reason = |caller: &Identity, request: &str| ask(&snapshot, Some(caller), request).reason;
    assert_eq!(reason(&alice(), "GET /orders/42"), Reason::Granted);
    assert_eq!(reason(&alice(), "GET /orders/43"), Reason::InsufficientScope);
    assert_eq!(reason(&caller("user:corporate/bob", Assurance::Bearer), "GET /orders/42"), Reason::InsufficientScope);
    // without the capture there is no object, and the grant does not apply
    assert_eq!(reason(&alice(), "GET /orders"), Reason::InsufficientScope);
    assert_eq!(ask(&snapshot, None, "GET /orders/42").reason, Reason::Unauthenticated);
    let named = Request {
        target: ServiceTarget::Audience("orders.shop"),
        call: Call::Named { operation: "get", captures: [("id".into(), "42".into())].into() },
        source: None,
        evidence: &(),
    };
    assert_eq!(decide(&snapshot, Some(&alice()), &named, now()).reason, Reason::Granted);
}

#[test]
fn a_capture_can_not_name_another_object() {
    let snapshot = related(&["order:42#viewer@user:corporate/alice", "order:1#viewer@order:42#viewer"]);
    for path in
        ["/orders/42%23viewer", "/orders/*", "/orders/42%20", "/orders/order:42", "/orders/%34%32%00", "/orders/1%40x"]
    {
        let decision = ask(&snapshot, Some(&alice()), &format!("GET {path}"));
        assert!(!decision.allowed(), "{path}: {decision:?}");
    }
    assert!(ask(&snapshot, Some(&alice()), "GET /orders/1").allowed());
}

#[test]
fn tuples_of_another_service_or_namespace_have_no_effect() {
    let mut snapshot = related(&[]);
    let stated = [tuple("order:42#viewer@user:corporate/alice")];
    let mut other = service_key();
    other.namespace = "farm".into();
    snapshot.put_relationship(&other, "farm/orders", &stated);
    let mut other = service_key();
    other.audience = "carts.shop".into();
    snapshot.put_relationship(&other, "shop/carts", &stated);
    assert!(!ask(&snapshot, Some(&alice()), "GET /orders/42").allowed());
    snapshot.put_relationship(&service_key(), "shop/orders", &stated);
    assert!(ask(&snapshot, Some(&alice()), "GET /orders/42").allowed());
    snapshot.put_relationship(&service_key(), "shop/orders", &[]);
    assert!(!ask(&snapshot, Some(&alice()), "GET /orders/42").allowed());
}

#[test]
fn an_explanation_contains_the_proof_of_the_relation() {
    let snapshot = related(&["order:42#viewer@group:corporate/eng#member"]);
    let caller = Principal::assumed(Identity { groups: ["eng".into()].into(), ..alice() });
    let considered = |request: &str| {
        let request = http(request);
        snapshot.route(&request).explain(&caller, now()).remove(0)
    };
    let found = considered("GET /orders/42");
    assert_eq!(found.outcome, RuleOutcome::Applies(scopes(&["read"])));
    assert_eq!(found.relation.len(), 2, "{found:?}");
    assert_eq!(considered("GET /orders/43").outcome, RuleOutcome::NotRelated("order:43#viewer".to_owned()));
    let missing = RuleOutcome::NoObject { object: "order:{id}#viewer".to_owned(), capture: "id".to_owned() };
    assert_eq!(considered("GET /orders").outcome, missing);
}

/// The same service with relations in OpenFGA, a grant for bob and a denial of mallory.
fn orders_with_openfga() -> Snapshot {
    let ulid = || "01JB4ZXK5T1Q8M6W3N9R7C2V0D".parse().expect("an id");
    let orders = orders_by_relation();
    let bob = each([grant("bob", &["user:corporate/bob"], &["read"])]);
    let grants = bob.into_iter().chain(orders.grants.clone()).collect();
    let mut snapshot = world([Policy {
        relation_engine: RelationBackend::OpenFga(OpenFgaStore { store: ulid(), model: ulid() }),
        grants,
        denials: each([denial("mallory", &["user:corporate/mallory"])]),
        ..orders
    }]);
    // tuples of `Relationship`s have no effect there
    snapshot.put_relationship(&service_key(), "shop/orders", &[tuple("order:42#viewer@*")]);
    snapshot
}

#[test]
fn answers_of_openfga_decide() {
    let snapshot = orders_with_openfga();
    let of = |name: &str| Principal::assumed(caller(&format!("user:corporate/{name}"), Assurance::Bearer));
    let questions_of = |who: Option<&Principal>, request: &str| {
        let request = http(request);
        let questions = snapshot.route(&request).questions(who, now());
        questions.map(|questions| {
            questions
                .questions
                .into_iter()
                .map(|question| format!("{}#{}", question.object, question.relation))
                .collect::<Vec<_>>()
        })
    };
    assert_eq!(questions_of(Some(&of("alice")), "GET /orders/42"), Some(vec!["order:42#viewer".to_owned()]));
    // there are no questions if the answers can't change the decision
    assert_eq!(questions_of(None, "GET /orders/42"), None);
    assert_eq!(questions_of(Some(&of("bob")), "GET /orders/42"), None, "another grant gives every scope");
    assert_eq!(questions_of(Some(&of("mallory")), "GET /orders/42"), None, "denied");
    assert_eq!(questions_of(Some(&of("alice")), "GET /orders"), None, "no object");
    assert_eq!(questions_of(Some(&of("alice")), "DELETE /orders/42"), None, "no operation");

    let decided = |truth: Option<Truth>| {
        let (request, alice) = (http("GET /orders/42"), of("alice"));
        let question = RelationQuestion { object: "order:42".into(), relation: "viewer".into() };
        let answers = truth.into_iter().map(|truth| (question.clone(), truth)).collect();
        snapshot.route(&request).with_answers(answers).decide(Some(&alice), now()).reason
    };
    assert_eq!(decided(Some(Truth::True)), Reason::Granted);
    for truth in [Some(Truth::False), Some(Truth::Failed("late".to_owned())), None] {
        assert_eq!(decided(truth), Reason::InsufficientScope);
    }
}
