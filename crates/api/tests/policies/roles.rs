//! Roles that include roles, and selectors that match many callers.

use crate::support::*;
use durward_api::catalog::{Catalog, CatalogChange};
use durward_core::subject::SubjectMatcher;

/// The scopes that a grant of role `a` gives.
fn scopes_of(roles: &str) -> String {
    let grants = "grants: [{name: g, to: [{authenticated: true}], roles: [a]}]";
    let policy = compiled(&format!("roles: {roles}\n{grants}"));
    policy.grants[0].scopes.iter().map(|scope| scope.as_str()).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_role_gives_the_scopes_of_the_roles_it_includes() {
    assert_eq!(scopes_of("[{name: a, includes: [b]}, {name: b, scopes: [x]}]"), "x");
    assert_eq!(
        scopes_of(
            "[{name: a, scopes: [w], includes: [b, c]}, {name: b, scopes: [x], includes: [c]}, {name: c, scopes: [y]}]"
        ),
        "w x y"
    );
    assert_eq!(
        scopes_of("[{name: b, scopes: [x], includes: [a]}, {name: a, scopes: [w]}]"),
        "w",
        "inclusion has one direction"
    );
}

#[test]
fn circular_and_unknown_roles_are_refused() {
    for (roles, expected) in [
        (
            "[{name: a, scopes: [x], includes: [a]}]",
            "spec.roles[0].includes[0]: `a` includes `a` itself; roles can't include each other",
        ),
        ("[{name: a, scopes: [x], includes: [z]}]", "spec.roles[0].includes[0]: this policy has no role `z`; it has a"),
        ("[{name: a}]", "spec.roles[0].scopes: the role has no scopes: set `scopes` or `includes`, or remove the role"),
    ] {
        assert_eq!(mistakes(&resource(&format!("roles: {roles}"))), [expected]);
    }
    let circle = "roles: [{name: a, includes: [b]}, {name: b, includes: [c]}, {name: c, scopes: [x], includes: [a]}]";
    assert_eq!(mistakes(&resource(circle)).len(), 3);
}

#[test]
fn selectors_that_match_many_callers() {
    let to = |subject: &str| format!("grants: [{{name: g, to: [{subject}], scopes: [a]}}]");
    let subject = |text: &str| compiled(&to(text)).grants[0].to[0].clone();
    let namespace = SubjectMatcher::Namespace { trust_domain: "td.example".into(), namespace: "billing".into() };
    assert_eq!(subject("{namespace: billing}"), namespace);
    assert!(matches!(subject("{namespaceSelector: {matchLabels: {team: a}}}"), SubjectMatcher::Namespaces { .. }));
    assert!(matches!(subject("{spiffe: 'spiffe://td.example/ns/*/sa/billing'}"), SubjectMatcher::Spiffe(_)));
    assert!(matches!(
        subject("{provider: corporate, group: g, claims: {d: f}}"),
        SubjectMatcher::Claims { group: Some(_), .. }
    ));
    for (text, expected) in [
        ("{namespace: Billing}", "spec.grants[0].to[0].namespace: `Billing` is not a valid Namespace name"),
        (
            "{namespaceSelector: {}}",
            "spec.grants[0].to[0].namespaceSelector: an empty selector would match every Namespace: add labels",
        ),
        (
            "{provider: corporate, claims: {}}",
            "spec.grants[0].to[0].claims: list at least one claim, or remove `claims`",
        ),
        ("{claims: {d: f}}", "spec.grants[0].to[0].claims: claims need their `provider`"),
        (
            "{spiffe: 'spiffe://td.example/ns/a*/sa/b'}",
            "spec.grants[0].to[0].spiffe: `spiffe://td.example/ns/a*/sa/b` is not a pattern of SPIFFE IDs: `*` matches a whole segment, \
             not a part of one",
        ),
    ] {
        assert_eq!(mistakes(&resource(&to(text))), [expected]);
    }
    assert!(
        mistakes(&resource(&to("{namespace: a, serviceAccount: {namespace: a, name: b}}")))[0]
            .contains("set exactly one of")
    );
}

#[test]
fn namespace_selectors_follow_the_labels_of_a_namespace() {
    let spec = "service: {hosts: [orders.shop.svc]}\nauthentication: [{workload: {}}]\n\
                operations: [{name: get, http: [{methods: [GET], paths: [/]}]}]\n\
                grants: [{name: g, to: [{namespaceSelector: {matchLabels: {team: a}}}], scopes: [get]}]";
    let mut catalog = Catalog::new(settings());
    catalog.apply([CatalogChange::PolicyApplied(Box::new(resource(spec)))]);
    let allowed = |catalog: &Catalog| {
        use durward_core::principal::{Identity, Principal, PrincipalId};
        use durward_core::request::{Call, Request, ServiceTarget};
        let id = PrincipalId::workload("td.example", "billing", "b").unwrap();
        let caller = Principal::assumed(Identity::new(id, durward_core::risk::Assurance::Bearer));
        let request = Request {
            target: ServiceTarget::Host("orders.shop.svc"),
            call: Call::Http { method: "GET", path: "/" },
            source: None,
            evidence: &(),
        };
        catalog.snapshot().decide(Some(&caller), &request, chrono::DateTime::UNIX_EPOCH).allowed()
    };
    let label = |value: &str| {
        CatalogChange::NamespaceLabels("billing".into(), Some([("team".to_owned(), value.to_owned())].into()))
    };
    assert!(!allowed(&catalog));
    catalog.apply([label("a")]);
    let labelled = catalog.snapshot().revision();
    assert!(allowed(&catalog));
    catalog.apply([label("b")]);
    assert!(!allowed(&catalog) && catalog.snapshot().revision() != labelled);
    catalog.apply([label("a")]);
    assert_eq!(catalog.snapshot().revision(), labelled);
    catalog.apply([CatalogChange::NamespaceLabels("billing".into(), None)]);
    assert!(!allowed(&catalog));
}
