//! The work of any decision is at most the budget: no loop takes a turn that is not paid for, and no condition is
//! evaluated after the end of the budget.

use crate::support::*;
use durward_core::policy::{CompiledDenial, CompiledGrant, Policy};
use durward_core::principal::{Identity, Principal};
use durward_core::work::{MAX_WORK, WorkBudget};
use proptest::prelude::*;
use proptest::sample::select;

/// A value that a turn computes from the item `x`: the cost of each grows with something else.
fn any_body() -> impl Strategy<Value = String> {
    let text = select(vec!["ITEM", "principal.id", "request.path", "principal.groups.join('-')", "'text'"])
        .prop_map(str::to_owned);
    let text = text.prop_recursive(3, 8, 3, |inner| {
        prop_oneof![
            inner.clone().prop_map(|text| format!("{text}.replace('a', 'aa')")),
            inner.clone().prop_map(|text| format!("{text}.lowerAscii()")),
            inner.clone().prop_map(|text| format!("{text}.split('-').join('a')")),
            inner.clone().prop_map(|text| format!("[{text}, {text}][0]")),
            inner.prop_map(|text| format!("(true ? {text} : 'other')")),
        ]
    });
    (
        text,
        select(vec![
            "contains('zz')",
            "startsWith('zz')",
            "matches('z{3,9}[a-z]+z$')",
            "size() == 0",
            "indexOf('z') == 0",
        ]),
    )
        .prop_map(|(text, test)| format!("{text}.{test}"))
}

/// A condition with loops over all groups, which never end early. Returns the power of the number of groups.
fn any_condition() -> impl Strategy<Value = (String, u32)> {
    let single = any_body().prop_map(|body| (format!("!principal.groups.exists(x, {})", body.replace("ITEM", "x")), 1));
    let nested = any_body().prop_map(|body| {
        (format!("!principal.groups.exists(x, principal.groups.exists(y, {}))", body.replace("ITEM", "y")), 2)
    });
    let mapped = any_body().prop_map(|body| {
        (format!("principal.groups.map(x, principal.groups.filter(y, {})).size() >= 0", body.replace("ITEM", "y")), 2)
    });
    let plain = any_body().prop_map(|body| (format!("!({})", body.replace("ITEM", "principal.id")), 0));
    prop_oneof![single, nested, mapped, plain]
}

fn member_of(groups: usize, length: usize) -> Identity {
    let mut member = alice();
    member.groups = (0..groups).map(|number| format!("{number}-{}", "a".repeat(length))).collect();
    member
}

fn decided(grants: Vec<CompiledGrant>, denials: Vec<CompiledDenial>, caller: &Identity) -> (Option<String>, u64) {
    let snapshot = world([Policy { grants: each(grants), denials: each(denials), ..orders() }]);
    let (request, work) = (http("GET /orders"), WorkBudget::default());
    let caller = Principal::assumed(caller.clone());
    let decision = snapshot.route(&request).decide_within(Some(&caller), now(), &work);
    (decision.exhausted.map(|rule| rule.to_string()), work.spent())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_work_of_any_decision_is_at_most_the_budget(
        conditions in proptest::collection::vec(any_condition(), 1..6),
        groups in 0..220usize,
        length in 0..20usize,
    ) {
        let caller = member_of(groups, length);
        // denials whose conditions do not hold: all of them are evaluated
        let denials = conditions.iter().enumerate().map(|(n, (when, _))| {
            denial_when(&format!("d-{n}"), &["*"], &format!("!({when})"))
        });
        let (exhausted, spent) = decided(vec![grant("all", &["*"], &["read"])], denials.collect(), &caller);
        prop_assert!(spent <= MAX_WORK);
        let turns: u64 = conditions.iter().map(|(_, power)| (groups as u64).pow(*power)).sum();
        prop_assert_eq!(exhausted.is_some(), spent == MAX_WORK);
        // a turn costs more than its cheapest part
        prop_assert!(exhausted.is_some() || spent >= turns * 20, "{turns} turns, {spent} units");
    }

    #[test]
    fn no_condition_holds_after_the_end_of_the_budget(
        conditions in proptest::collection::vec(any_condition(), 1..6),
        groups in 150..220usize,
    ) {
        let endless = "principal.groups.all(x, principal.groups.all(y, x != 'x' && y != 'y'))";
        let rules = conditions.iter().map(|(when, _)| format!("({when}) || true"));
        let rules = [endless.to_owned()].into_iter().chain(rules);
        let grants: Vec<CompiledGrant> =
            rules.enumerate().map(|(n, when)| grant_when(&format!("g-{n}"), &["*"], &["read"], &when)).collect();
        let snapshot = world([Policy { grants: each(grants), ..orders() }]);
        let decision = ask(&snapshot, Some(&member_of(groups, 40)), "GET /orders");
        prop_assert!(!decision.allowed(), "{decision:?}");
        prop_assert_eq!(decision.exhausted.as_deref(), Some("shop/orders/grants/g-0"));
    }
}
