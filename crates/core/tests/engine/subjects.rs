//! Subjects of rules: callers that each kind of subject matches, and near misses.

use crate::support::*;
use durward_core::labels::{LabelMatcher, LabelRequirement, Labels};
use durward_core::policy::{CompiledGrant, Policy};
use durward_core::principal::Identity;
use durward_core::risk::Assurance;
use durward_core::subject::{SpiffePattern, SubjectMatcher};
use serde_json::json;

fn payments() -> Labels {
    [("team".to_owned(), "payments".to_owned())].into()
}

/// Whether a grant to this subject allows the caller to list orders. Namespace `billing` has the label
/// `team=payments`.
fn lets_in(subject: &SubjectMatcher, caller: &Identity) -> bool {
    let grants =
        vec![CompiledGrant { to: [subject.clone()].into(), ..grant("g", &["key:partners/nobody"], &["read"]) }];
    let federated = durward_core::authentication::AuthenticationMethod::Provider("federated".into());
    let authentication_methods = orders().authentication_methods.iter().cloned().chain([federated]).collect();
    let mut snapshot = world([Policy { grants: each(grants), authentication_methods, ..orders() }]);
    snapshot.put_namespace_labels("billing", Some(payments()));
    snapshot.put_namespace_labels("shop", Some(Labels::new()));
    let allowed = ask(&snapshot, Some(caller), "GET /orders").allowed();
    let id = caller.id.to_string();
    let known = [("/ns/billing/", payments()), ("/ns/shop/", Labels::new())];
    let labels = known.into_iter().find(|(namespace, _)| id.contains(namespace)).map(|(_, labels)| labels);
    assert_eq!(allowed, subject.includes(caller, labels.as_ref()), "the index agrees with the subject");
    allowed
}

fn workload(id: &str) -> Identity {
    caller(id, Assurance::ProofOfPossession)
}

/// A workload that another trust domain vouches for.
fn foreign(id: &str) -> Identity {
    Identity { federation: Some("federated".into()), ..workload(id) }
}

#[test]
fn every_service_account_of_a_namespace() {
    let billing = SubjectMatcher::Namespace { trust_domain: "cluster.local".into(), namespace: "billing".into() };
    assert!(lets_in(&billing, &workload("spiffe://cluster.local/ns/billing/sa/a")));
    assert!(lets_in(&billing, &workload("spiffe://cluster.local/ns/billing/sa/b")));
    assert!(!lets_in(&billing, &workload("spiffe://cluster.local/ns/billing2/sa/a")));
    assert!(!lets_in(&billing, &workload("spiffe://other.local/ns/billing/sa/a")));
    assert!(!lets_in(&billing, &foreign("spiffe://cluster.local/ns/billing/sa/a")));
    assert!(!lets_in(&billing, &caller("user:corporate/billing", Assurance::Bearer)));
}

#[test]
fn namespaces_by_label() {
    let requirements = vec![LabelRequirement::In("team".into(), ["payments".into()].into())];
    let labelled =
        SubjectMatcher::Namespaces { trust_domain: "cluster.local".into(), labels: LabelMatcher { requirements } };
    assert!(lets_in(&labelled, &workload("spiffe://cluster.local/ns/billing/sa/a")));
    assert!(!lets_in(&labelled, &workload("spiffe://cluster.local/ns/shop/sa/a")));
    assert!(!lets_in(&labelled, &workload("spiffe://cluster.local/ns/unknown/sa/a")));
    assert!(!lets_in(&labelled, &foreign("spiffe://partner.example/ns/billing/sa/a")));
    // the labels of an unknown Namespace are unknown: no selector matches it, not even by a missing label
    let requirements = vec![LabelRequirement::DoesNotExist("team".into())];
    let unlabelled =
        SubjectMatcher::Namespaces { trust_domain: "cluster.local".into(), labels: LabelMatcher { requirements } };
    assert!(lets_in(&unlabelled, &workload("spiffe://cluster.local/ns/shop/sa/a")));
    assert!(!lets_in(&unlabelled, &workload("spiffe://cluster.local/ns/unknown/sa/a")));
}

#[test]
fn spiffe_ids_segment_by_segment() {
    let is = |pattern: &str, id: &str| {
        let subject = SubjectMatcher::Spiffe(pattern.parse::<SpiffePattern>().expect(pattern));
        let one = if id.contains("cluster.local") { workload(id) } else { foreign(id) };
        lets_in(&subject, &one)
    };
    assert!(is("spiffe://cluster.local/ns/*/sa/billing", "spiffe://cluster.local/ns/a/sa/billing"));
    assert!(is("spiffe://cluster.local/ns/*/sa/*", "spiffe://cluster.local/ns/a/sa/b"));
    assert!(is("spiffe://partner.example/prod/*", "spiffe://partner.example/prod/web"));
    assert!(!is("spiffe://cluster.local/ns/*/sa/billing", "spiffe://cluster.local/ns/a/sa/billing-2"));
    assert!(!is("spiffe://cluster.local/ns/*/sa/billing", "spiffe://partner.example/ns/a/sa/billing"));
    assert!(!is("spiffe://partner.example/*", "spiffe://partner.example/prod/web"), "one segment, not several");
    assert!(!is("spiffe://partner.example/prod/*", "spiffe://partner.example/prod"));
    assert!(!is("spiffe://partner.example/prod/*", "spiffe://partner.example/prod/web/1"));
    for mistake in [
        "spiffe://*/ns/a/sa/b",
        "spiffe://cluster.local",
        "spiffe://cluster.local/ns/a*/sa/b",
        "spiffe://cluster.local/ns/**/sa/b",
        "spiffe://cluster.local//sa/b",
        "spiffe://cluster.local/ns/../sa/b",
        "cluster.local/ns/*/sa/b",
        "user:corporate/*",
    ] {
        assert!(mistake.parse::<SpiffePattern>().is_err(), "{mistake}");
    }
}

#[test]
fn every_claim_has_to_match() {
    let known = |attributes: serde_json::Value| {
        let attributes = attributes.as_object().unwrap().clone();
        Identity { attributes, groups: ["staff".into()].into(), ..alice() }
    };
    let claims = |group: Option<&str>| SubjectMatcher::Claims {
        provider: "corporate".into(),
        group: group.map(Into::into),
        claims: [("department".into(), "finance".into()), ("site".into(), "berlin".into())].into(),
    };
    let both = known(json!({"department": "finance", "site": "berlin", "x": 1}));
    assert!(lets_in(&claims(None), &both) && lets_in(&claims(Some("staff")), &both));
    assert!(!lets_in(&claims(Some("admins")), &both));
    for attributes in [
        json!({"department": "finance"}),
        json!({"department": "finance", "site": "Berlin"}),
        json!({"department": ["finance"], "site": "berlin"}),
        json!({"department": "finance ", "site": "berlin"}),
        json!({}),
    ] {
        assert!(!lets_in(&claims(None), &known(attributes.clone())), "{attributes}");
    }
    let other = Identity { id: id("user:partners/alice"), ..both };
    assert!(!lets_in(&claims(None), &other), "another provider's claims do not match");
}

#[test]
fn rights_cover_subjects_that_match_many() {
    use durward_core::rights::{CallerSet, Permission};
    let namespace = || SubjectMatcher::Namespace { trust_domain: "cluster.local".into(), namespace: "billing".into() };
    let labels = LabelMatcher { requirements: vec![LabelRequirement::Exists("team".into())] };
    let labelled = || SubjectMatcher::Namespaces { trust_domain: "cluster.local".into(), labels: labels.clone() };
    let pattern = || SubjectMatcher::Spiffe("spiffe://cluster.local/ns/*/sa/b".parse().unwrap());
    let claims = || SubjectMatcher::Claims {
        provider: "corporate".into(),
        group: Some("staff".into()),
        claims: [("department".into(), "finance".into())].into(),
    };
    let one = |text: &str| CallerSet::Subject(SubjectMatcher::Principal(id(text)));
    let known = |groups: &[&str]| {
        CallerSet::Principal(id("user:corporate/alice"), groups.iter().map(|group| (*group).to_owned()).collect())
    };
    for (to, who, can) in [
        (namespace(), one("spiffe://cluster.local/ns/billing/sa/b"), Permission::Always),
        (namespace(), one("spiffe://cluster.local/ns/shop/sa/b"), Permission::Never),
        (namespace(), CallerSet::Subject(namespace()), Permission::Always),
        (namespace(), CallerSet::Subject(SubjectMatcher::Provider("corporate".into())), Permission::Never),
        (labelled(), one("spiffe://cluster.local/ns/billing/sa/b"), Permission::Conditional),
        (labelled(), one("user:corporate/alice"), Permission::Never),
        (labelled(), CallerSet::Subject(namespace()), Permission::Conditional),
        (pattern(), one("spiffe://cluster.local/ns/shop/sa/b"), Permission::Always),
        (pattern(), one("spiffe://cluster.local/ns/shop/sa/c"), Permission::Never),
        (claims(), one("user:corporate/alice"), Permission::Conditional),
        (claims(), known(&["staff"]), Permission::Conditional),
        (claims(), known(&["others"]), Permission::Never),
        (claims(), one("user:partners/alice"), Permission::Never),
        (claims(), CallerSet::Subject(SubjectMatcher::Authenticated), Permission::Conditional),
        (SubjectMatcher::Provider("corporate".into()), CallerSet::Subject(claims()), Permission::Always),
        (SubjectMatcher::Provider("partners".into()), CallerSet::Subject(claims()), Permission::Never),
    ] {
        let grants = vec![CompiledGrant { to: [to.clone()].into(), ..grant("g", &["*"], &["read"]) }];
        let snapshot = world([Policy { grants: each(grants), ..orders() }]);
        let rights = snapshot.rights(&who, "cluster.local");
        let right = rights.iter().find(|right| &*right.operation == "list").unwrap();
        assert_eq!(right.permission, can, "{to} for {who}");
    }
}

#[test]
fn labels_of_a_namespace_apply_to_access_tokens() {
    use durward_core::principal::Principal;
    let requirements = vec![LabelRequirement::In("team".into(), ["payments".into()].into())];
    let labelled = || {
        let labels = LabelMatcher { requirements: requirements.clone() };
        [SubjectMatcher::Namespaces { trust_domain: "cluster.local".into(), labels }].into()
    };
    let caller = Principal::assumed(workload("spiffe://cluster.local/ns/billing/sa/a"));
    let scopes = |policy: Policy| {
        let mut snapshot = world([policy]);
        snapshot.put_namespace_labels("billing", Some(payments()));
        let service = snapshot.service(&service_key()).unwrap();
        service.token_scopes(&caller, snapshot.labels_of(caller.identity()), None, now()).scopes.len()
    };
    let granted = vec![CompiledGrant { to: labelled(), ..grant("g", &["*"], &["read"]) }];
    assert_eq!(scopes(Policy { grants: each(granted), ..orders() }), 1);
    let denied = vec![durward_core::policy::CompiledDenial { to: labelled(), ..denial("d", &["*"]) }];
    let grants = vec![grant("g", &["*"], &["read"])];
    assert_eq!(scopes(Policy { denials: each(denied), grants: each(grants), ..orders() }), 0);
}
