//! The loaded resources don't depend on the file that a manifest is in, or on the order of the files.

use super::*;
use proptest::prelude::*;
use std::fs;

fn domains() -> ClusterDomains {
    ClusterDomains { trust_domain: "cluster.local".to_owned(), cluster_domain: "cluster.local".to_owned() }
}

/// Policies that share a service, compete for a host, need an annotation or are invalid, and the resources that they
/// use.
fn manifests() -> Vec<String> {
    let policy = |name: &str, spec: &str| {
        format!(
            "apiVersion: durward.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n{spec}\n"
        )
    };
    let operation = |name: &str, path: &str| format!("{{name: {name}, http: [{{methods: [GET], paths: ['{path}']}}]}}");
    let grant = "[{name: g, to: [{authenticated: true}], scopes: [read]}]";
    vec![
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, annotations: {durward.dev/allowed-hosts: orders.example.com, durward.dev/allowed-audiences: orders-api}}\n".to_owned(),
        "apiVersion: durward.dev/v1alpha1\nkind: IdentityProvider\nmetadata: {name: partners}\nspec: {apiKey: {selector: {matchLabels: {a: b}}}}\n".to_owned(),
        policy("a", &format!("  service: {{audience: orders-api, hosts: [orders.example.com]}}\n  authentication: [{{workload: {{}}}}]\n  operations: [{}]\n  grants: {grant}", operation("read", "/a"))),
        policy("b", &format!("  service: {{audience: orders-api, hosts: [orders.example.com]}}\n  operations: [{}]", operation("write", "/b"))),
        policy("c", &format!("  service: {{audience: orders-api, hosts: [orders.example.com]}}\n  operations: [{}]", operation("other", "/a"))),
        policy("d", &format!("  service: {{hosts: [d.shop.svc]}}\n  operations: [{}]\n  relations: [{{object: order, relations: {{owner: {{}}}}}}]", operation("read", "/{id}"))),
        policy("e", &format!("  service: {{hosts: [d.shop.svc]}}\n  operations: [{}]", operation("read", "/e"))),
        policy("f", &format!("  service: {{hosts: [f.shop.svc]}}\n  operations: [{}]\n  grants: [{{name: g, to: [{{provider: partners}}], scopes: [read], when: nonsense}}]", operation("read", "/f"))),
        policy("h", "  service: {hosts: [bank.example.com]}"),
        "apiVersion: durward.dev/v1alpha1\nkind: Relationship\nmetadata: {name: r, namespace: shop}\nspec: {service: d.shop, tuples: [{object: 'order:1', relation: owner, subject: 'user:x/y'}]}\n".to_owned(),
    ]
}

/// An assignment of the manifests to files, in some order.
fn layout() -> impl Strategy<Value = Vec<(usize, String)>> {
    let all = manifests();
    let files = proptest::collection::vec(0..4_usize, all.len());
    (files, Just(all).prop_shuffle()).prop_map(|(files, all)| files.into_iter().zip(all).collect())
}

/// The loaded policies and the problems, without locations.
#[derive(Debug, PartialEq)]
struct LoadedState {
    revision: String,
    in_force: BTreeMap<String, bool>,
    problems: BTreeSet<(Option<String>, String)>,
}

fn load_layout(layout: &[(usize, String)]) -> LoadedState {
    let root = tempfile::tempdir().expect("a folder");
    for file in 0..4 {
        let documents: Vec<&str> = layout.iter().filter(|(at, _)| *at == file).map(|(_, text)| text.as_str()).collect();
        fs::write(root.path().join(format!("{file}.yaml")), documents.join("---\n")).expect("written");
    }
    let directory = load(root.path(), &domains()).expect("loaded");
    LoadedState {
        revision: directory.catalog.snapshot().revision().to_string(),
        in_force: directory.catalog.policy_statuses().map(|(key, status)| (key.to_string(), status.in_force)).collect(),
        problems: directory.problems().into_iter().map(|problem| (problem.field, problem.message)).collect(),
    }
}

#[test]
fn some_manifests_of_these_tests_are_valid() {
    let LoadedState { in_force, problems, .. } =
        load_layout(&manifests().into_iter().map(|text| (0, text)).collect::<Vec<_>>());
    let in_force: Vec<&str> = in_force.iter().filter(|(_, yes)| **yes).map(|(name, _)| name.as_str()).collect();
    assert_eq!(in_force, ["shop/a", "shop/b", "shop/d"], "{problems:#?}");
    assert_eq!(problems.len(), 4, "{problems:#?}");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(48) })]

    #[test]
    fn files_and_their_order_make_no_difference(one in layout(), other in layout()) {
        prop_assert_eq!(load_layout(&one), load_layout(&other));
    }
}
