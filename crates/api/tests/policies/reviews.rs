//! Reviews of a policy before it is stored: mistakes for which it would be rejected, and warnings.

use crate::support::*;
use durward_api::catalog::{Catalog, CatalogChange};
use durward_api::lint::lint;

fn catalog(policies: &[durward_api::resources::AccessPolicy]) -> Catalog {
    let mut catalog = Catalog::new(settings());
    catalog.apply(policies.iter().map(|policy| CatalogChange::PolicyApplied(Box::new(policy.clone()))));
    catalog
}

fn review(catalog: &Catalog, policy: &durward_api::resources::AccessPolicy) -> Vec<String> {
    catalog.review(policy).err().map(|r| r.errors).unwrap_or_default().iter().map(ToString::to_string).collect()
}

#[test]
fn a_review_reports_what_applying_would_report() {
    let catalog = catalog(&[serving("shop/a", 1, "one", "one.shop.svc"), serving_as("shop/b", 2, "two", "b.shop")]);
    // a valid policy, new or unchanged
    assert!(review(&catalog, &serving("shop/c", 3, "three", "three.shop.svc")).is_empty());
    assert!(review(&catalog, &serving("shop/a", 1, "one", "one.shop.svc")).is_empty(), "its own host is no conflict");
    // a policy that does not compile, one that is not owned, one whose host another policy holds
    assert_eq!(review(&catalog, &invalid("shop/c", 3)).len(), 1);
    assert!(
        review(&catalog, &serving("shop/c", 3, "three", "elsewhere.example")).concat().contains("does not own host")
    );
    assert!(
        review(&catalog, &serving("shop/c", 3, "three", "one.shop.svc"))
            .concat()
            .contains("held by the older policy shop/a")
    );
    // a review changes nothing
    assert!(catalog.policy_statuses().all(|(_, status)| status.rejected.is_none() && status.in_force));
}

#[test]
fn a_review_reports_conflicts_within_a_service() {
    let policy = |name: &str, age, operation: &str| {
        let spec = format!(
            "service: {{audience: api}}\noperations:\n- {{name: {operation}, public: true, http: [{{methods: [GET], paths: [/x]}}]}}\n"
        );
        named(name, age, &spec)
    };
    let mut catalog = Catalog::new(settings());
    let allowed = [("durward.dev/allowed-audiences".to_owned(), "api".to_owned())].into();
    catalog.apply([
        CatalogChange::NamespaceAnnotations("shop".to_owned(), Some(allowed)),
        CatalogChange::PolicyApplied(Box::new(policy("shop/a", 1, "first"))),
    ]);
    let errors = review(&catalog, &policy("shop/b", 2, "second"));
    assert_eq!(
        errors,
        [
            "spec.operations: operation `second` matches `GET /x`, which operation `first` of policy shop/a already claims"
        ]
    );
    assert!(review(&catalog, &policy("shop/a", 1, "renamed")).is_empty(), "the older one may change");
}

fn warned(spec: &str) -> Vec<String> {
    lint(&resource(spec), &[]).iter().map(ToString::to_string).collect()
}

const GOOD: &str = "
authentication: [{workload: {}}]
operations:
- {name: list, scopes: [read], http: [{methods: [GET], paths: [/]}]}
grants:
- {name: all, to: [{authenticated: true}], scopes: [read]}
";

#[test]
fn a_good_policy_has_no_warnings() {
    assert!(warned(GOOD).is_empty(), "{:?}", warned(GOOD));
    assert!(warned("operations: [{name: health, public: true, http: [{methods: [DELETE], paths: [/]}]}]").is_empty());
}

#[test]
fn high_risk_without_a_scope_of_its_own_is_reported() {
    let with = |scopes: &str| {
        let export = format!(
            "operations:\n- {{name: export, risk: High, scopes: [{scopes}], http: [{{methods: [POST], paths: [/export]}}]}}"
        );
        let grants = GOOD.replace("scopes: [read]}\n", "scopes: [read, export]}\n");
        warned(&grants.replacen("operations:", &export, 1))
    };
    let warnings = with("read");
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(
        warnings[0].starts_with("spec.operations[0].scopes: `export` has high risk and no scope of its own"),
        "{warnings:?}"
    );
    assert!(with("read, export").is_empty(), "{:?}", with("read, export"));
}

#[test]
fn a_scope_without_a_grant_is_reported() {
    let spec = GOOD.replace("scopes: [read], http", "scopes: [read, write], http");
    assert_eq!(
        warned(&spec),
        [
            "spec.operations[0].scopes: no grant of this policy gives `write`; unless another policy of the service does, no caller can `list` (DW001)"
        ]
    );
    let by_role = "
authentication: [{workload: {}}]
operations: [{name: list, http: [{methods: [GET], paths: [/]}]}]
roles: [{name: reader, scopes: [list]}]
grants: [{name: all, to: [{authenticated: true}], roles: [reader]}]
";
    assert!(warned(by_role).is_empty());
}

#[test]
fn a_grant_that_never_applies_is_reported() {
    let spec = GOOD.replace(
        "to: [{authenticated: true}]",
        "to: [{provider: corporate}, {principal: 'key:partners/acme'}, {serviceAccount: {namespace: a, name: b}}]",
    );
    assert_eq!(
        warned(&spec),
        [
            "spec.grants[0].to[0]: `all` can never apply to callers of provider `corporate`: `spec.authentication` accepts no credential of theirs (DW003)",
            "spec.grants[0].to[1]: `all` can never apply to `key:partners/acme`: `spec.authentication` accepts no credential of theirs (DW003)",
        ]
    );
    let spec = format!("{GOOD}- {{name: more, to: [{{authenticated: true}}], scopes: [other]}}\n");
    assert_eq!(warned(&spec), ["spec.grants[1].scopes: no operation of this policy needs a scope of `more` (DW002)"]);
}

#[test]
fn a_deletion_without_a_risk_is_reported() {
    let spec = GOOD.replace("methods: [GET]", "methods: [DELETE]");
    assert_eq!(
        warned(&spec),
        [
            "spec.operations[0].risk: `list` deletes and states no risk; set `risk: High`, or `risk: Standard` if that is intended (DW004)"
        ]
    );
    assert!(warned(&spec.replace("scopes: [read], http", "risk: Standard, scopes: [read], http")).is_empty());
}

#[test]
fn a_bypass_of_a_governed_request_is_reported() {
    let governed = |resources: &str| {
        format!(
            "operations: [{{name: shell, risk: Standard, scopes: [a], kubernetes: [{{apiGroups: [''], resources: {resources}, verbs: ['*']}}]}}]\n\
             grants: [{{name: ops, to: [{{principal: 'kube:ada'}}], scopes: [a]}}]\n"
        )
    };
    let warnings = warned(&governed("[pods/exec]"));
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].contains("`pods/attach` has the same effect"), "{warnings:?}");
    assert!(warned(&governed("[pods/exec, pods/attach, pods/ephemeralcontainers]")).is_empty());
    assert!(warned(&governed("[pods/*]")).is_empty());
}

/// Codes of a policy's findings, each with the operation, grant or denial.
fn codes(spec: &str) -> Vec<(&'static str, String)> {
    lint(&resource(spec), &[]).into_iter().map(|finding| (finding.code.as_str(), finding.about)).collect()
}

#[test]
fn each_code_has_a_finding() {
    let op = |name: &str, more: &str, path: &str| {
        format!("- {{name: {name}, {more} http: [{{methods: [GET], paths: [\"{path}\"]}}]}}\n")
    };
    let all = |scopes: &str| format!("grants: [{{name: all, to: [{{authenticated: true}}], scopes: {scopes}}}]\n");
    let head = "authentication: [{workload: {}}]\noperations:\n";
    let three = head.to_owned() + &op("a", "", "/a") + &op("b", "", "/b") + &op("c", "", "/c");
    assert_eq!(codes(&(three.clone() + &all("[a, b, c]"))), [("DW006", "all".to_owned())]);
    let two = three.clone()
        + "grants: [{name: one, to: [{authenticated: true}], scopes: [a, b]}, {name: two, to: [{authenticated: true}], scopes: [c]}]\n";
    assert_eq!(codes(&two), []);
    // longer paths match another operation
    let hidden = head.to_owned()
        + &op("any", "scopes: [a],", "/x/*")
        + &op("one", "scopes: [a],", "/x/{id}")
        + &op("more", "scopes: [a],", "/x/{id}/*")
        + &all("[a]");
    assert_eq!(codes(&hidden), [("DW007", "any".to_owned())]);
    assert_eq!(codes(&hidden.replace("/x/{id}/*", "/x/{id}/y")), []);
    let when = |when: &str| {
        head.to_owned()
            + &op("a", "", "/a")
            + &format!("grants: [{{name: g, to: [{{authenticated: true}}], scopes: [a], when: \"{when}\"}}]\n")
    };
    for (source, constant) in [
        ("true", true),
        ("false && principal.id == 'x'", true),
        ("principal.id == 'x' || !false", true),
        ("'a' == 'b'", true),
        ("principal.id == 'x'", false),
        ("true && principal.id == 'x'", false),
    ] {
        assert_eq!(codes(&when(source)).iter().any(|(code, _)| *code == "DW008"), constant, "{source}");
    }
    for (name, found) in
        [("refund-order", true), ("export.orders", true), ("list-orders", false), ("readminder", false)]
    {
        let spec = head.to_owned() + &op(name, "", "/a") + &all(&format!("[{name}]"));
        assert_eq!(codes(&spec).iter().any(|(code, _)| *code == "DW004"), found, "{name}");
        assert_eq!(codes(&spec.replace(" http:", " risk: Standard, http:")), []);
    }
    let admin = |host: &str| {
        format!("service: {{hosts: [{host}]}}\n{head}")
            + &op("reindex", "scopes: [admin],", "/reindex")
            + &all("[admin]")
    };
    assert_eq!(codes(&admin("orders.example.com")), [("DW009", "reindex".to_owned())]);
    assert_eq!(codes(&admin("orders.shop.svc")), []);
}

#[test]
fn silencing_a_finding_needs_a_reason() {
    let mut policy = resource(&GOOD.replace("methods: [GET]", "methods: [DELETE]"));
    let findings = |annotations: &[(&str, &str)], policy: &mut durward_api::resources::AccessPolicy| {
        let annotations =
            annotations.iter().map(|(key, value)| (format!("lint.durward.dev/{key}"), (*value).to_owned()));
        policy.metadata.annotations = Some(annotations.collect());
        let findings = lint(policy, &[]);
        findings.into_iter().map(|finding| (finding.code.as_str(), finding.silenced)).collect::<Vec<_>>()
    };
    let silent = Some("drafts only".to_owned());
    assert_eq!(findings(&[], &mut policy), [("DW004", None)]);
    assert_eq!(findings(&[("DW004", "drafts only")], &mut policy), [("DW004", silent.clone())]);
    assert_eq!(findings(&[("DW004.list", "drafts only")], &mut policy), [("DW004", silent)]);
    assert_eq!(findings(&[("DW004.other", "drafts only")], &mut policy), [("DW004", None), ("DW000", None)]);
    assert_eq!(findings(&[("DW004", " ")], &mut policy), [("DW004", None), ("DW000", None)]);
    assert_eq!(findings(&[("DW999", "why")], &mut policy), [("DW004", None), ("DW000", None)]);
    assert_eq!(findings(&[("DW000", "why")], &mut policy), [("DW004", None), ("DW000", None)]);
}
