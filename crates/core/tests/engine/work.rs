//! The budget of work: one for all conditions and relations of a decision, with its own reason when it ends.

use crate::support::*;
use durward_core::condition::Condition;
use durward_core::decide::RuleOutcome;
use durward_core::decision::{Decision, Reason};
use durward_core::policy::{CompiledDenial, CompiledGrant, Policy};
use durward_core::principal::{Identity, Principal};
use durward_core::relations::{CompiledRelationRule, RelationModel, RelationTarget};
use durward_core::snapshot::Snapshot;
use durward_core::work::{MAX_WORK, WORK_EXHAUSTED, WorkBudget};

/// Conditions whose work grows with a power of what the caller carries, or with texts that they make themselves.
const HOSTILE: [&str; 14] = [
    "principal.groups.all(x, principal.groups.all(y, x != 'x' && y != 'y'))",
    "principal.groups.all(x, principal.groups.all(y, !y.matches('(a{20}){20}b{20}')))",
    "principal.groups.all(x, principal.groups.all(y, !matches(y, '(a{20}){20}b{20}')))",
    "principal.groups.exists(x, principal.groups.exists(y, [x, 'x'].join() == y))",
    "principal.groups.exists_one(x, principal.groups.exists_one(y, x == y))",
    "principal.groups.map(x, principal.groups).size() == 200 && principal.groups.map(x, principal.groups).size() == 200",
    "principal.groups.filter(x, principal.groups.filter(y, y == x).size() == 1).size() == 200",
    "principal.groups.all(x, principal.groups == principal.groups && principal.groups == principal.groups)",
    "principal.groups.all(x, principal.groups.join(',').contains('nothing') || principal.groups.join('.').size() > 0)",
    "principal.groups.all(x, principal.groups.join(',').split('').size() > 0)",
    "principal.groups.all(x, principal.groups.join(',').replace('g', 'gggggggg').size() > 0)",
    "principal.groups.all(x, principal.groups.join(',').lastIndexOf('nothing') < 0)",
    "principal.groups.all(x, principal.groups.all(y, dyn(1) < dyn(principal.groups) || x != y || true))",
    "principal.groups.all(x, [principal.groups, principal.groups, [principal.groups]].size() == 3)",
];

fn member_of(groups: usize) -> Identity {
    let mut member = alice();
    member.groups = (0..groups).map(|number| format!("group-{number}-{}", "a".repeat(40))).collect();
    member
}

fn asked(grants: Vec<CompiledGrant>, denials: Vec<CompiledDenial>, caller: &Identity) -> Decision {
    ask(&world([Policy { grants: each(grants), denials: each(denials), ..orders() }]), Some(caller), "GET /orders")
}

#[test]
fn an_exhausted_budget_is_a_failed_condition_with_its_own_reason() {
    for when in HOSTILE {
        let caller = member_of(200);
        let granted = asked(vec![grant_when("slow", &["*"], &["read"], when)], vec![], &caller);
        assert_eq!(granted.reason, Reason::InsufficientScope, "{when}: {granted:?}");
        assert_eq!(granted.detail, Some(format!("{WORK_EXHAUSTED}, at shop/orders/grants/slow")), "{when}");
        assert_eq!(granted.exhausted.as_deref(), Some("shop/orders/grants/slow"), "{when}");
        let inverted = format!("!({when})");
        let denied =
            asked(vec![grant("all", &["*"], &["read"])], vec![denial_when("slow", &["*"], &inverted)], &caller);
        assert_eq!(denied.reason, Reason::Denied, "{when}: {denied:?}");
        assert!(denied.detail.is_some_and(|detail| detail.contains(WORK_EXHAUSTED)), "{when}");
        assert_eq!(denied.exhausted.as_deref(), Some("shop/orders/denials/slow"), "{when}");
    }
}

#[test]
fn errors_that_an_operator_absorbs_do_not_hide_the_end_of_the_budget() {
    for when in ["true || (HOSTILE)", "(HOSTILE) || true", "[1, 2].all(n, (HOSTILE) || true)", "!(false && (HOSTILE))"]
    {
        let when = when.replace("HOSTILE", HOSTILE[8]);
        let decision = asked(vec![grant_when("slow", &["*"], &["read"], &when)], vec![], &member_of(200));
        // what is never evaluated costs nothing that grows
        let absorbed = when.starts_with("true") || when.starts_with("!(false");
        assert_eq!(decision.allowed(), absorbed, "{when}: {decision:?}");
    }
}

#[test]
fn useful_conditions_fit_into_the_budget() {
    let mut caller = member_of(200);
    caller.attributes.insert("level".to_owned(), 3.into());
    for when in [
        "principal.groups.exists(g, g.startsWith('group-199-'))",
        "principal.groups.exists(g, g.matches('^group-199-a+$'))",
        "principal.groups.filter(g, g.endsWith('a')).map(g, g.size()).size() == 200",
        "['group-1-x', 'group-2-x'].all(x, principal.groups.exists(g, g.startsWith(x.replace('x', 'a'))))",
        "request.path.matches('^/orders(/[0-9]+)?$') && request.time.getHours('Europe/Berlin') >= 8",
        "principal.attributes.level >= 3 && !('x' in principal.groups)",
    ] {
        let decision = asked(vec![grant_when("useful", &["*"], &["read"], when)], vec![], &caller);
        assert!(decision.allowed(), "{when}: {decision:?}");
        assert_eq!(decision.exhausted, None, "{when}");
    }
}

#[test]
fn all_rules_of_a_decision_draw_on_one_budget() {
    let some = "principal.groups.exists(g, g == 'nothing')";
    let grants = |count: usize| {
        let slow = (0..count).map(|number| grant_when(&format!("a-{number}"), &["*"], &["read"], some));
        slow.chain([grant_when("z-last", &["*"], &["read"], "principal.groups.exists(g, g != '')")]).collect()
    };
    let caller = member_of(200);
    assert!(asked(grants(3), vec![], &caller).allowed());
    let exhausted = asked(grants(900), vec![], &caller);
    assert_eq!(exhausted.reason, Reason::InsufficientScope);
    assert!(exhausted.exhausted.is_some(), "{exhausted:?}");
    // denials draw on the same budget, and are evaluated first
    let denials = (0..900).map(|number| denial_when(&format!("d-{number}"), &["*"], some)).collect();
    let denied = asked(vec![grant("all", &["*"], &["read"])], denials, &caller);
    assert_eq!(denied.reason, Reason::Denied, "a denial that could not be evaluated applies");
}

#[test]
fn many_conditions_on_the_same_facts_read_them_once() {
    let grants = (0..900)
        .map(|number| grant_when(&format!("g-{number}"), &["*"], &["read"], "principal.groups.size() == 7 || false"))
        .chain([grant_when("z", &["*"], &["read"], "principal.provider == 'corporate'")])
        .collect();
    assert!(asked(grants, vec![], &member_of(20)).allowed());
}

fn related(snapshot: &mut Snapshot) {
    let stated: Vec<String> = (0..90)
        .flat_map(|n| (0..90).map(move |m| format!("group:{n}#member@group:{n}-{m}#member")))
        .chain((0..90).map(|n| format!("doc:1#viewer@group:{n}#member")))
        .collect();
    let stated: Vec<_> = stated.iter().map(|text| crate::relations::tuple(text)).collect();
    snapshot.put_relationship(&service_key(), "shop/all", &stated);
}

#[test]
fn relations_and_conditions_draw_on_one_budget() {
    let viewer = |name: &str, when: &str| CompiledGrant {
        relation: Some(RelationTarget::new("doc:1", "viewer").expect("a target")),
        ..grant_when(name, &["*"], &["read"], when)
    };
    let relations = RelationModel::new([crate::relations::kind("doc", [("viewer", CompiledRelationRule::This)])]);
    let world_with = |grants: Vec<CompiledGrant>| {
        let mut snapshot = world([Policy { relations: relations.clone(), grants: each(grants), ..orders() }]);
        related(&mut snapshot);
        snapshot
    };
    let snapshot = world_with(vec![viewer("a", "true"), grant_when("b", &["*"], &["read"], "true")]);
    let decision = ask(&snapshot, Some(&member_of(1)), "GET /orders");
    assert_eq!(decision.reason, Reason::InsufficientScope, "the condition of the second grant finds no budget left");
    assert_eq!(decision.exhausted.as_deref(), Some("shop/orders/grants/a"));
    let request = http("GET /orders");
    let explained = snapshot.route(&request).explain(&Principal::assumed(member_of(1)), now());
    for rule in explained {
        let why = match rule.outcome {
            RuleOutcome::ConditionFailed(why) | RuleOutcome::RelationFailed { why, .. } => why,
            other => panic!("{}: {other:?}", rule.rule),
        };
        assert_eq!(why, WORK_EXHAUSTED, "{}", rule.rule);
    }
}

#[test]
fn patterns_are_literals_within_limits() {
    for (source, message) in [
        ("principal.id.matches(principal.provider)", "must be a literal string"),
        ("matches(principal.id, principal.provider)", "must be a literal string"),
        ("principal.groups.all(g, g.matches(g))", "must be a literal string"),
        ("principal.id.matches('a' + 'b')", "must be a literal string"),
        ("principal.id.matches('(')", "the pattern of `matches` is invalid: unclosed group"),
        ("matches(principal.id, '[')", "the pattern of `matches` is invalid"),
        ("true || principal.id.matches('(a{50}){50}b{50}')", "describes 2653 characters"),
        ("principal.groups.all(g, !matches('y', '(a{50}){50}b{50}'))", "describes 2653 characters"),
        (&format!("principal.id.matches('{}')", r"\\w\\W".repeat(200)), "bytes when compiled"),
        (&["principal.id.matches('a')"; 9].join(" || "), "occurs more than 8 times"),
    ] {
        let error = Condition::compile(source).expect_err(source);
        assert!(error.message.contains(message), "{source}: {error}");
    }
    let caller = alice();
    for (when, holds) in [
        ("principal.id.matches('^user:.*alice$')", true),
        ("matches(principal.id, '^user:.*alice$')", true),
        ("principal.id.matches('^alice$')", false),
        ("principal.id.matches('ali') && principal.id.matches('corp') && !principal.id.matches('bob')", true),
        ("dyn(1).matches('1')", false),
    ] {
        let decision = asked(vec![grant_when("matches", &["*"], &["read"], when)], vec![], &caller);
        assert_eq!(decision.allowed(), holds, "{when}: {decision:?}");
    }
}

#[test]
fn the_same_input_spends_the_same_work() {
    for when in HOSTILE.into_iter().chain(["principal.groups.exists(g, g.matches('a$'))"]) {
        let snapshot = world([Policy { grants: each([grant_when("g", &["*"], &["read"], when)]), ..orders() }]);
        let spent = |groups: usize| {
            let work = WorkBudget::default();
            let request = http("GET /orders");
            let caller = Principal::assumed(member_of(groups));
            let decision = snapshot.route(&request).decide_within(Some(&caller), now(), &work);
            (decision, work.spent())
        };
        for groups in [1, 5, 200] {
            assert_eq!(spent(groups), spent(groups), "{when}");
            assert!(spent(groups).1 <= MAX_WORK);
        }
        assert!(spent(1).1 < spent(5).1, "{when}: {} {}", spent(1).1, spent(5).1);
    }
}
