//! Unknown is not none: groups and attributes that a credential does not show give no grant, and each denial that
//! depends on them applies.

use crate::relations::{but_not, computed, kind, tuples};
use crate::support::*;
use durward_core::condition::Truth;
use durward_core::decide::RuleOutcome;
use durward_core::decision::Reason;
use durward_core::policy::{CompiledDenial, CompiledGrant, Policy};
use durward_core::principal::{Identity, Principal};
use durward_core::relations::{CompiledRelationRule, RelationModel};
use durward_core::snapshot::Snapshot;
use durward_core::subject::{Membership, SubjectMatcher};
use durward_core::unknown_facts::{UnknownCause, UnknownFacts};
use serde_json::{Value, json};

fn group(name: &str) -> SubjectMatcher {
    SubjectMatcher::Group { provider: "corporate".into(), group: name.into() }
}

fn claims(group: Option<&str>, claims: &[(&str, &str)]) -> SubjectMatcher {
    SubjectMatcher::Claims {
        provider: "corporate".into(),
        group: group.map(Into::into),
        claims: claims.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
    }
}

/// Alice with these attributes and unknown facts.
fn alice_with(attributes: Value, groups: Option<UnknownCause>, unknown: &[&str]) -> Identity {
    let unknown = unknown.iter().map(|name| ((*name).to_owned(), UnknownCause::TooLarge)).collect();
    Identity {
        attributes: attributes.as_object().expect("an object").clone(),
        unknown: UnknownFacts { groups, attributes: unknown },
        ..alice()
    }
}

/// Whether a grant to the subject gives `GET /orders`, and whether a denial of it denies what another grant gives.
fn grants_and_denies(subject: &SubjectMatcher, caller: &Identity) -> (bool, bool) {
    let to = [subject.clone()];
    let granted = CompiledGrant { to: to.clone().into(), ..grant("g", &["*"], &["read"]) };
    let granted = world([Policy { grants: each([granted]), ..orders() }]);
    let denied = CompiledDenial { to: to.into(), ..denial("d", &["*"]) };
    let everyone = grant("g", &["*"], &["read"]);
    let denied = world([Policy { grants: each([everyone]), denials: each([denied]), ..orders() }]);
    let decision = ask(&denied, Some(caller), "GET /orders");
    (ask(&granted, Some(caller), "GET /orders").allowed(), !decision.allowed())
}

#[test]
fn unknown_membership_gives_nothing_and_does_not_escape_a_denial() {
    let left_out = Some(UnknownCause::LeftOut);
    let some_group = || Identity { groups: ["dev".to_owned()].into(), ..alice_with(json!({}), left_out, &[]) };
    for (subject, caller, membership) in [
        (group("dev"), alice(), Membership::Outside),
        (group("dev"), alice_with(json!({}), left_out, &[]), Membership::Unknown),
        (group("dev"), some_group(), Membership::Member),
        (group("ops"), some_group(), Membership::Unknown),
        (SubjectMatcher::Group { provider: "other".into(), group: "ops".into() }, some_group(), Membership::Outside),
        (claims(None, &[("team", "a")]), alice_with(json!({"team": "a"}), left_out, &[]), Membership::Member),
        (claims(None, &[("team", "a")]), alice_with(json!({"team": "b"}), left_out, &[]), Membership::Outside),
        (claims(None, &[("team", "a")]), alice_with(json!({"team": ["a"]}), None, &[]), Membership::Unknown),
        (claims(None, &[("team", "a")]), alice_with(json!({"team": ["b"]}), None, &[]), Membership::Unknown),
        (claims(None, &[("team", "a")]), alice_with(json!({"team": {"name": "a"}}), None, &[]), Membership::Unknown),
        (claims(None, &[("team", "a")]), alice_with(json!({"team": null}), None, &[]), Membership::Unknown),
        (claims(None, &[("team", "true")]), alice_with(json!({"team": true}), None, &[]), Membership::Unknown),
        (claims(None, &[("team", "3")]), alice_with(json!({"team": 3}), None, &[]), Membership::Unknown),
        (claims(None, &[("team", "a")]), alice_with(json!({}), None, &["team"]), Membership::Unknown),
        (claims(None, &[("team", "a")]), alice_with(json!({}), None, &["level"]), Membership::Outside),
        (claims(None, &[("a", "1"), ("b", "1")]), alice_with(json!({"a": "2"}), None, &["b"]), Membership::Outside),
        (claims(None, &[("a", "1"), ("b", "1")]), alice_with(json!({"a": "1"}), None, &["b"]), Membership::Unknown),
        (claims(Some("dev"), &[("a", "1")]), alice_with(json!({"a": "1"}), left_out, &[]), Membership::Unknown),
        (claims(Some("dev"), &[("a", "1")]), alice_with(json!({"a": "2"}), left_out, &[]), Membership::Outside),
    ] {
        assert_eq!(subject.membership(&caller, None), membership, "{subject} of {caller:?}");
        let expected = match membership {
            Membership::Member => (true, true),
            Membership::Outside => (false, false),
            Membership::Unknown => (false, true),
        };
        assert_eq!(grants_and_denies(&subject, &caller), expected, "{subject} of {caller:?}");
    }
}

#[test]
fn the_decision_and_its_explanation_say_that_the_membership_is_unknown() {
    let to = [group("suspended")];
    let denied = CompiledDenial { to: to.clone().into(), ..denial("d", &["*"]) };
    let grants = each([grant("all", &["*"], &["read"]), CompiledGrant { to: to.into(), ..grant("g", &[], &["read"]) }]);
    let snapshot = world([Policy { grants, denials: each([denied]), ..orders() }]);
    let caller = alice_with(json!({}), Some(UnknownCause::LeftOut), &[]);
    let why = "whether the rule is for the caller is unknown: groups (left out by the issuer)";
    assert_eq!(ask(&snapshot, Some(&caller), "GET /orders").detail.as_deref(), Some(why));
    let request = http("GET /orders");
    let explained = snapshot.route(&request).explain(&Principal::assumed(caller), now());
    let unknown = explained.iter().filter(|rule| rule.outcome == RuleOutcome::MembershipUnknown(why.to_owned()));
    assert_eq!(unknown.count(), 2, "{explained:?}");
}

#[test]
fn conditions_that_read_unknown_facts_fail() {
    let groups = alice_with(json!({"team": "a"}), Some(UnknownCause::WrongType), &[]);
    let attribute = alice_with(json!({"team": "a"}), None, &["big"]);
    let (needs_groups, needs_big, needs_neither) = (0, 1, 2);
    for (condition, needs) in [
        ("'dev' in principal.groups", needs_groups),
        ("!('dev' in principal.groups)", needs_groups),
        ("principal.groups == []", needs_groups),
        ("!has(principal.groups) || true", needs_groups),
        ("principal.groups.all(group, group == 'dev')", needs_groups),
        ("!has(principal.attributes.big)", needs_big),
        ("!('big' in principal.attributes)", needs_big),
        ("principal.attributes['big'] != 'x' || true", needs_big),
        ("principal.attributes == {'team': 'a'}", needs_big),
        ("principal.attributes.all(name, name == 'team')", needs_big),
        ("principal.attributes[request.method.lowerAscii()] != 'x' || true", needs_big),
        ("principal.attributes.team == 'a'", needs_neither),
        ("principal.attributes['team'] == 'a' && has(principal.attributes.team)", needs_neither),
        ("'team' in principal.attributes", needs_neither),
        ("principal.id != ''", needs_neither),
    ] {
        for (number, caller) in [&groups, &attribute].into_iter().enumerate() {
            let unknown = |snapshot: &Snapshot| {
                let request = http("GET /orders");
                let explained = snapshot.route(&request).explain(&Principal::assumed(caller.clone()), now());
                let last = explained.last().expect("a rule").outcome.clone();
                let is_unknown = |why: &str| why.contains("which are unknown") || why.contains("which is unknown");
                matches!(last, RuleOutcome::ConditionFailed(why) if is_unknown(&why))
            };
            let granted = world([Policy { grants: each([grant_when("g", &["*"], &["read"], condition)]), ..orders() }]);
            let denied = world([Policy { denials: each([denial_when("d", &["*"], condition)]), ..orders() }]);
            let expected = needs == number;
            assert_eq!(unknown(&granted), expected, "{condition} of {caller:?}");
            if expected {
                assert!(!ask(&granted, Some(caller), "GET /orders").allowed(), "{condition}");
                assert_eq!(ask(&denied, Some(caller), "GET /orders").reason, Reason::Denied, "{condition}");
            }
        }
    }
}

#[test]
fn relations_by_unknown_groups_fail() {
    let relations = [
        ("viewer", CompiledRelationRule::This),
        ("banned", CompiledRelationRule::This),
        ("reader", but_not(computed("viewer"), computed("banned"))),
    ];
    let model = RelationModel::new([kind("doc", relations)]);
    let caller = alice_with(json!({}), Some(UnknownCause::LeftOut), &[]);
    const ALICE: &str = "doc:1#viewer@user:corporate/alice";
    const BANNED: &str = "doc:1#banned@group:corporate/banned#member";
    for (stated, relation, holds) in [
        (&[ALICE][..], "viewer", Some(true)),
        (&[ALICE], "reader", Some(true)),
        (&[ALICE, BANNED], "viewer", Some(true)),
        (&[ALICE, BANNED], "reader", None),
        (&[BANNED], "reader", Some(false)),
        (&["doc:1#viewer@group:corporate/dev#member"], "viewer", None),
        (&["doc:1#viewer@group:other/dev#member"], "viewer", Some(false)),
        (&["doc:1#viewer@group:corporate/dev#member", ALICE], "viewer", Some(true)),
        (
            &["doc:1#viewer@group:corporate/dev#member", "group:corporate/dev#member@user:corporate/alice"],
            "viewer",
            Some(true),
        ),
    ] {
        let truth = tuples(stated).check(&model, "doc:1", relation, &caller);
        let found = match truth {
            Truth::True => Some(true),
            Truth::False => Some(false),
            Truth::Failed(_) => None,
        };
        assert_eq!(found, holds, "{relation} by {stated:?}");
    }
}
