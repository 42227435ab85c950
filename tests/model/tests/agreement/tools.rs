//! What the tools say about a world, beside what the doors decide in it.

use crate::config;
use crate::engine::{api_call, decide, snapshot};
use crate::policies::{any_policy, any_world};
use crate::requests::{
    OPERATIONS, any_caller, any_known_caller, any_kubernetes_call, any_present_caller, any_request, now, with_named,
};
use durward_core::compare::{Comparison, compare};
use durward_core::decision::{Decision, Reason};
use durward_core::principal::{Identity, Principal};
use durward_core::rights::{AccessRight, CallerSet, Permission};
use durward_core::scope::Scope;
use durward_core::snapshot::Snapshot;
use durward_core::subject::Membership;
use durward_core::who_can::{OperationHolders, ScopeHolder};
use durward_model::decision::{
    ReferenceModel, accepts, at_operation, given, grants_in_order, is_strong_enough, named, needed,
};
use durward_model::operations::{audience, name};
use durward_model::tokens::is_called_by_http;
use durward_model::world::{ModelCall, ModelRequest, ModelTarget, ModelWorld, TRUST_DOMAIN};
use proptest::prelude::*;
use proptest::sample::subsequence;
use std::collections::BTreeSet;

/// The sets of callers that hold this caller.
fn sets_of(snapshot: &Snapshot, caller: Option<&Identity>) -> Vec<CallerSet> {
    let Some(caller) = caller else { return vec![CallerSet::Anonymous] };
    let labels = snapshot.labels_of(caller);
    let subjects = snapshot.subjects().into_iter().filter(|subject| subject.includes(caller, labels));
    let principal = CallerSet::Principal(caller.id.clone(), caller.groups.clone());
    subjects.map(CallerSet::Subject).chain([principal]).collect()
}

/// Checks one right against one decision about a caller of its set.
fn check_right(
    world: &ModelWorld,
    set: &CallerSet,
    right: &AccessRight,
    caller: Option<&Identity>,
    decision: &Decision,
) {
    let said = format!("{set}: {right:?}\n{caller:?}\n{decision:?}");
    if right.audited {
        assert_eq!(decision.passes() && right.denied, decision.allowed() && right.denied, "{said}");
        assert!(decision.passes() || right.denied || !right.unless.is_empty(), "it is only recorded: {said}");
    } else if right.permission == Permission::Never {
        assert!(!decision.allowed() && !decision.passes(), "it must be refused: {said}");
    }
    if decision.reason == Reason::Granted {
        assert!(decision.rules.iter().all(|rule| right.grants.contains(rule)), "a grant is missing: {said}");
    }
    if decision.reason == Reason::Denied && !decision.passes() && right.permission != Permission::Never {
        let listed = right.unless.iter().any(|text| text.starts_with(&format!("{}:", decision.rules[0])));
        let unknown = caller.is_some_and(|caller| caller.unknown.groups.is_some());
        assert!(listed || (unknown && matches!(set, CallerSet::Principal(..))), "a denial is missing: {said}");
    }
    if right.permission == Permission::Always && right.unless.is_empty() {
        assert!(
            right.public || is_hindered(world, caller, decision) || decision.allowed(),
            "it must be allowed: {said}"
        );
    }
}

/// Whether something stands in the way that rights leave out: the credential, an approval, or what is unknown.
fn is_hindered(world: &ModelWorld, caller: Option<&Identity>, decision: &Decision) -> bool {
    let Some(caller) = caller else { return true };
    let model = ReferenceModel::of(world);
    let service = model.service(&decision.service.as_ref().unwrap().audience);
    let (policy, operation) = named(&service, decision.operation.as_ref().unwrap()).unwrap();
    let caller_there = at_operation(caller, &operation.name);
    caller.expires_at.is_some_and(|end| end <= now())
        || caller.narrowed
        || caller.unknown.groups.is_some()
        || !accepts(policy, caller)
        || !is_strong_enough(operation, &caller_there, now())
        || operation.approval.is_some()
        // denials that are only recorded are no denials
        || decision.passes() && decision.reason == Reason::Denied
}

fn has_subject(snapshot: &Snapshot, holder: &ScopeHolder, caller: &Identity) -> bool {
    let labels = snapshot.labels_of(caller);
    snapshot.subjects().iter().any(|one| one.to_string() == holder.subject && one.includes(caller, labels))
}

/// Checks who may call an operation against a decision about one caller.
fn check_holders(
    world: &ModelWorld,
    snapshot: &Snapshot,
    said: &OperationHolders,
    caller: &Identity,
    decision: &Decision,
) {
    let text = format!("{said:?}\n{caller:?}\n{decision:?}");
    let holders: Vec<&ScopeHolder> =
        said.holders.iter().filter(|holder| has_subject(snapshot, holder, caller)).collect();
    let listed: BTreeSet<_> = holders.iter().flat_map(|holder| &holder.grants).map(|(rule, _)| rule).collect();
    match decision.reason {
        Reason::Granted => {
            assert!(decision.rules.iter().all(|rule| listed.contains(rule)), "a grant is missing: {text}");
            let had = |scope: &Scope| holders.iter().any(|holder| !holder.missing.contains(scope));
            assert!(said.required.iter().all(had), "a holder is missing: {text}");
        }
        Reason::Denied => {
            let denial = &decision.rules[0];
            assert!(said.denials.iter().any(|(rule, _)| rule == denial), "a denial is missing: {text}");
        }
        Reason::InsufficientScope if !caller.narrowed => {
            let model = ReferenceModel::of(world);
            let service = model.service(&said.audience);
            let (_, operation) = named(&service, &said.operation).unwrap();
            for holder in holders {
                let sure = holder.grants.iter().filter(|(_, terms)| terms.is_empty()).map(|(rule, _)| rule.to_string());
                let sure: BTreeSet<String> = sure.collect();
                let grants = grants_in_order(&service).into_iter().filter(|(rule, ..)| sure.contains(rule));
                let gives: BTreeSet<String> =
                    grants.flat_map(|(_, policy, grant)| given(policy, grant, caller)).collect();
                assert!(!needed(operation).is_subset(&gives), "{} can: {text}", holder.subject);
            }
        }
        _ => {}
    }
}

/// Whether a comparison lists a change of these callers between these operations.
fn lists(
    compared: &Comparison,
    snapshots: [&Snapshot; 2],
    caller: Option<&Identity>,
    operations: [&Option<std::sync::Arc<str>>; 2],
) -> bool {
    compared.changes.iter().any(|change| {
        let holds_caller = match (&change.callers, caller) {
            (CallerSet::Anonymous, None) => true,
            // a denial may be for a caller whose groups are unknown
            (CallerSet::Subject(subject), Some(caller)) => snapshots
                .iter()
                .any(|snapshot| subject.membership(caller, snapshot.labels_of(caller)) != Membership::Outside),
            _ => false,
        };
        holds_caller && [&change.old, &change.new] == operations
    })
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn what_can_agrees_with_the_doors(
        world in any_world(),
        caller in any_present_caller(),
        requests in proptest::collection::vec(any_request(), 3),
    ) {
        let snapshot = snapshot(&world);
        let sets = sets_of(&snapshot, caller.as_ref());
        let rights: Vec<_> = sets.into_iter().map(|set| (snapshot.rights(&set, TRUST_DOMAIN), set)).collect();
        for request in with_named(&world, &requests) {
            let decision = decide(&snapshot, caller.as_ref(), &request);
            let (Some(service), Some(operation)) = (&decision.service, &decision.operation) else { continue };
            for (rights, set) in &rights {
                let right = rights.iter().find(|one| one.audience == service.audience && one.operation == *operation);
                check_right(&world, set, right.expect("a right to each operation"), caller.as_ref(), &decision);
            }
        }
    }

    #[test]
    fn who_can_agrees_with_the_doors(
        world in any_world(),
        caller in any_known_caller(),
        requests in proptest::collection::vec(any_request(), 3),
    ) {
        let snapshot = snapshot(&world);
        let said: Vec<_> = OPERATIONS.iter().flat_map(|operation| snapshot.who_can(operation, None)).collect();
        for request in with_named(&world, &requests) {
            let decision = decide(&snapshot, Some(&caller), &request);
            let (Some(service), Some(operation)) = (&decision.service, &decision.operation) else { continue };
            let of = said.iter().find(|one| one.audience == service.audience && one.operation == *operation);
            if let Some(said) = of {
                check_holders(&world, &snapshot, said, &caller, &decision);
            }
        }
    }

    #[test]
    fn diff_lists_each_change_of_a_decision(
        old in any_world(),
        changed in any_policy(),
        callers in proptest::collection::vec(any_present_caller(), 3),
        requests in proptest::collection::vec(any_request(), 4),
        call in any_kubernetes_call(),
    ) {
        let mut new = old.clone();
        let Some(policy) = new.policies.iter_mut().find(|policy| name(policy) == name(&changed)) else { return Ok(()) };
        // tuples and the types of objects are not compared
        let relations = std::mem::take(&mut policy.spec.relations);
        policy.spec = changed.spec.clone();
        if !relations.iter().any(|one| one.object == "doc") {
            policy.spec.grants.iter_mut().for_each(|grant| grant.relation = None);
        }
        policy.spec.relations = relations;
        let (before, after) = (snapshot(&old), snapshot(&new));
        let compared = compare(&before, &after, TRUST_DOMAIN);
        let models = [&old, &new].map(ReferenceModel::of);
        let types = models.each_ref().map(|model| {
            let types = model.in_force.iter().flat_map(|policy| policy.spec.relations.iter().map(|one| (audience(policy), one)));
            types.map(|(audience, one)| format!("{audience} {}", one.object)).collect::<BTreeSet<_>>()
        });
        if types[0] != types[1] {
            return Ok(());
        }
        for request in with_named(&old, &requests) {
            let ModelTarget::Audience(of) = &request.service else { continue };
            // a call by name of an operation of the Kubernetes API alone is not compared
            if models.iter().any(|model| is_named_for_kubernetes(model, &request)) {
                continue;
            }
            if matches!(request.call, ModelCall::Kubernetes(_)) {
                continue;
            }
            for caller in &callers {
                let decisions = [&before, &after].map(|snapshot| decide(snapshot, caller.as_ref(), &request));
                let [was, is] = &decisions;
                let same_service = was.service == is.service || was.service.is_none() || is.service.is_none();
                let ambiguous = decisions.iter().any(|one| one.reason == Reason::AmbiguousPath);
                if !same_service || ambiguous || (was.passes(), was.allowed()) == (is.passes(), is.allowed()) {
                    continue;
                }
                // a service without operations has no requests to compare
                let declared = was.operation.is_some() || is.operation.is_some();
                let listed = lists(&compared, [&before, &after], caller.as_ref(), [&was.operation, &is.operation]);
                prop_assert!(!declared || was.passes() == is.passes() || listed, "{of} {request:?}\n{caller:?}\n{was:?}\n{is:?}\n{compared:?}");
            }
        }
        for caller in callers.iter().flatten() {
            for service in before.governing("shop", &api_call(&call)).chain(after.governing("shop", &api_call(&call))) {
                let of = ModelTarget::Audience(service.key().audience.to_string());
                let request = ModelRequest { service: of, call: ModelCall::Kubernetes(call.clone()), ..requests[0].clone() };
                let [was, is] = [&before, &after].map(|snapshot| decide(snapshot, Some(caller), &request));
                // a request that no operation declares is not governed
                let passes = |one: &Decision| one.operation.is_none() || one.passes();
                let listed = lists(&compared, [&before, &after], Some(caller), [&was.operation, &is.operation]);
                let gone = was.service != is.service;
                prop_assert!(gone || passes(&was) == passes(&is) || listed, "{request:?}\n{caller:?}\n{was:?}\n{is:?}\n{compared:?}");
            }
        }
    }

    #[test]
    fn tokens_carry_the_scopes_of_the_model(
        world in any_world(),
        caller in any_known_caller(),
        requested in proptest::option::of(subsequence(vec!["r", "s", "t", "orders-0"], 0..5)),
        requests in proptest::collection::vec(any_request(), 3),
    ) {
        let (model, snapshot) = (ReferenceModel::of(&world), snapshot(&world));
        let requested: Option<BTreeSet<String>> = requested.map(|all| all.into_iter().map(ToOwned::to_owned).collect());
        let as_scopes = |all: &BTreeSet<String>| all.iter().map(|scope| Scope::parse(scope).unwrap()).collect();
        let wanted: Option<BTreeSet<Scope>> = requested.as_ref().map(as_scopes);
        for service in snapshot.services() {
            let principal = Principal::assumed(caller.clone());
            let token = service.token_scopes(&principal, snapshot.labels_of(&caller), wanted.as_ref(), now());
            let expected = model.token_scopes(&service.key().audience, &caller, requested.as_ref(), now());
            // which rule uses up the budget depends on the order, which is not that of a decision
            let short = |list: &serde_json::Value| list.as_array().is_none_or(|items| items.len() < 10);
            if caller.attributes.values().all(short) {
                prop_assert_eq!(&token.scopes, &as_scopes(&expected), "{}", service.key().audience);
            }
            for request in with_named(&world, &requests) {
                let decision = decide(&snapshot, Some(&caller), &request);
                let opened = decision.service.as_ref() == Some(service.key())
                    && !decision.required.is_empty()
                    && !matches!(request.call, ModelCall::Kubernetes(_))
                    && !is_for_kubernetes_alone(&model, &decision)
                    && decision.required.iter().all(|scope| token.scopes.contains(scope));
                prop_assert!(!opened || decision.allowed(), "{:?} opens {request:?}: {decision:?}", token);
            }
        }
    }
}

/// Whether the request names an operation that only the Kubernetes API has.
fn is_named_for_kubernetes(model: &ReferenceModel<'_>, request: &ModelRequest) -> bool {
    let (ModelTarget::Audience(of), ModelCall::Named(wanted, _)) = (&request.service, &request.call) else {
        return false;
    };
    named(&model.service(of), wanted).is_some_and(|(_, one)| !is_called_by_http(one))
}

/// Tokens leave out operations that only the Kubernetes API has.
fn is_for_kubernetes_alone(model: &ReferenceModel<'_>, decision: &Decision) -> bool {
    let service = model.service(&decision.service.as_ref().unwrap().audience);
    let (_, operation) = named(&service, decision.operation.as_ref().unwrap()).unwrap();
    !is_called_by_http(operation)
}

/// The worlds are of use only if they reach every reason.
#[test]
fn the_worlds_reach_every_reason() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let mut reasons: std::collections::BTreeMap<&str, u32> = std::collections::BTreeMap::new();
    for _ in 0..300 {
        let strategy = (any_world(), any_caller(), proptest::collection::vec(any_request(), 6));
        let (world, caller, requests) = strategy.new_tree(&mut runner).unwrap().current();
        let model = ReferenceModel::of(&world);
        for request in with_named(&world, &requests) {
            *reasons.entry(model.decide(caller.as_ref(), &request, now()).reason).or_default() += 1;
        }
    }
    for reason in [
        "NoPolicy",
        "AmbiguousPath",
        "OperationUndeclared",
        "Public",
        "Unauthenticated",
        "AssuranceTooLow",
        "Denied",
        "InsufficientScope",
        "ApprovalRequired",
        "Granted",
    ] {
        assert!(reasons.get(reason).is_some_and(|times| *times >= 5), "{reason}: {reasons:?}");
    }
}
