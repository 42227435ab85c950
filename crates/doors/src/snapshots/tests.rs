//! The resources that each pod receives.

#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a failed expectation fails the test")]

use super::*;
use durward_api::catalog::{Catalog, CatalogChange};
use durward_api::compile::ClusterDomains;
use durward_api::resources::AccessPolicy;
use durward_api::resources::{Approval, IdentityProvider};
use durward_approvals::ApprovalIndex;
use durward_approvals::samples::{approved, named, seal};
use k8s_openapi::api::core::v1::Secret;
use serde_json::{Value, json};
use std::collections::BTreeMap;

fn policy(namespace: &str, name: &str, audience: &str, app: Option<&str>, methods: &Value) -> AccessPolicy {
    let mut service = json!({"hosts": [format!("{name}.{namespace}.svc")]});
    if let (Some(app), Some(service)) = (app, service.as_object_mut()) {
        service.insert("podSelector".to_owned(), json!({"matchLabels": {"app": app}}));
        service.insert("audience".to_owned(), audience.into());
    }
    let operations = json!([
        {"name": "open", "http": [{"methods": ["GET"], "paths": ["/"]}]},
        {
            "name": "purge", "http": [{"methods": ["DELETE"], "paths": ["/"]}], "risk": "High",
            "approval": {"by": [{"provider": "corporate", "group": "oncall"}]},
        },
    ]);
    serde_json::from_value(json!({
        "apiVersion": "durward.dev/v1alpha1", "kind": "AccessPolicy",
        "metadata": {"name": name, "namespace": namespace, "uid": format!("of-{name}")},
        "spec": {"service": service, "authentication": methods, "operations": operations},
    }))
    .expect("a policy")
}

fn keys(provider: &str) -> (IdentityProvider, Secret) {
    let labels = json!({"durward.dev/api-keys": provider});
    let resource = json!({
        "apiVersion": "durward.dev/v1alpha1", "kind": "IdentityProvider", "metadata": {"name": provider},
        "spec": {"apiKey": {"selector": {"matchLabels": labels}}},
    });
    let secret = json!({
        "metadata": {"name": format!("of-{provider}"), "namespace": "keys", "labels": labels, "annotations": {"by": "an operator"}},
        "data": {"hash": "eA=="},
    });
    (serde_json::from_value(resource).expect("a provider"), serde_json::from_value(secret).expect("a Secret"))
}

/// An approval for the operation `purge` of a policy, signed with `seal` if given.
fn approval(namespace: &str, policy: &str, seal: Option<&ApprovalSeal>) -> Approval {
    let mut approval = approved();
    approval.metadata.namespace = Some(namespace.to_owned());
    approval.metadata.resource_version = Some("7".to_owned());
    (approval.spec.policy, approval.spec.policy_uid) = (policy.to_owned(), format!("of-{policy}"));
    let mut approval = named(approval);
    if let Some(seal) = seal {
        seal.sign(&mut approval).expect("signed");
    }
    approval
}

#[test]
fn a_pod_receives_only_the_resources_of_its_own_services() {
    let all = [
        policy("shop", "orders", "orders.shop", Some("orders"), &json!([{"provider": "partners"}])),
        policy("shop", "web", "web.shop", Some("web"), &json!([{"provider": "others"}])),
        policy("bank", "orders", "orders.bank", Some("orders"), &json!([{"workload": {}}])),
    ];
    let mut catalog =
        Catalog::new(ClusterDomains { trust_domain: "cluster.local".into(), cluster_domain: "cluster.local".into() });
    catalog.apply(all.iter().cloned().map(|policy| CatalogChange::PolicyApplied(Box::new(policy))));
    let in_force = all.iter().map(|policy| {
        let key = durward_api::resources::namespaced_name(&policy.metadata).expect("a name");
        let compiled = catalog.in_force(&key).expect("in force");
        let providers = policy.spec.providers().into_iter().map(|(_, name)| name.into()).collect();
        let json = serde_json::value::to_raw_value(policy).expect("JSON").into();
        (key, PublishedPolicy { in_force: true, audience: Arc::clone(&compiled.audience), providers, json })
    });
    let (providers, secrets): (Vec<_>, Vec<_>) = ["partners", "others"].map(keys).into_iter().unzip();
    let seal = seal();
    let mut index = ApprovalIndex::new(seal.clone());
    let mut forged = approval("shop", "orders", None);
    forged.spec.principal = "spiffe://cluster.local/ns/ops/sa/thief".to_owned();
    index.replace(vec![
        approval("shop", "orders", Some(&seal)),
        approval("shop", "web", Some(&seal)),
        approval("bank", "orders", Some(&seal)),
        named(forged),
    ]);
    let resources = PublishedResources {
        snapshot: catalog.snapshot().clone(),
        policies: in_force.collect(),
        providers: Arc::new(providers),
        secrets: Arc::new(secrets),
        approvals: index.grants().clone(),
        ..PublishedResources::default()
    };
    let pod = |namespace: &str, app: &str| LabelledPod {
        namespace: namespace.to_owned(),
        labels: BTreeMap::from([("app".to_owned(), app.to_owned())]),
    };
    let received =
        |namespace: &str, app: &str| serde_json::to_value(resources.for_pod(&pod(namespace, app))).expect("JSON");
    let orders = received("shop", "orders");
    let names = |received: &Value, kind: &str| -> Vec<String> {
        let all = received[kind].as_array().expect("a list");
        all.iter().map(|one| format!("{}/{}", one["metadata"]["namespace"], one["metadata"]["name"])).collect()
    };
    assert_eq!(names(&orders, "policies"), [r#""shop"/"orders""#]);
    assert_eq!(names(&orders, "providers"), [r#"null/"partners""#]);
    assert_eq!(names(&orders, "secrets"), [r#""keys"/"of-partners""#]);
    assert_eq!(
        orders["secrets"][0]["metadata"].get("annotations"),
        None,
        "only the fields of a Secret that authentication reads"
    );
    assert_eq!(names(&received("bank", "orders"), "policies"), [r#""bank"/"orders""#]);
    // the approval of its own policy, with the fields that the signature covers
    let [approval_json] = orders["approvals"].as_array().expect("a list").as_slice() else { panic!("{orders}") };
    let received_approval: Approval = serde_json::from_value(approval_json.clone()).expect("an Approval");
    assert_eq!(
        (received_approval.spec.policy.as_str(), &received_approval.metadata.resource_version),
        ("orders", &None)
    );
    assert!(durward_approvals::verified_grant(&seal.public_keys(), &received_approval).is_some());
    for (namespace, app) in [("shop", "other"), ("elsewhere", "orders"), ("sho", "orders"), ("shop2", "orders")] {
        let resources = received(namespace, app);
        assert!(
            ["policies", "providers", "secrets", "approvals"].iter().all(|kind| names(&resources, kind).is_empty()),
            "{resources}"
        );
    }
    // the pod can report past uses of keys that its services accept
    let now = 1_800_000_000;
    let used = |provider: &str, at: i64| (provider.to_owned(), "acme".to_owned(), at);
    let all = vec![used("partners", now), used("others", now), used("unknown", now), used("partners", now + 1)];
    assert_eq!(resources.credible_key_uses(&pod("shop", "orders"), all.clone(), now), [used("partners", now)]);
    assert_eq!(resources.credible_key_uses(&pod("shop", "web"), all.clone(), now), [used("others", now)]);
    assert_eq!(resources.credible_key_uses(&pod("elsewhere", "orders"), all, now), []);
    // the pod can request approvals for its own services
    let may_request = |namespace: &str, app: &str, spec: &ApprovalSpec| {
        own_approval_subject(catalog.snapshot(), &pod(namespace, app), spec).is_some()
    };
    let purge = approval("shop", "orders", None).spec;
    assert!(may_request("shop", "orders", &purge));
    for (namespace, app) in [("shop", "web"), ("shop", "other"), ("elsewhere", "orders")] {
        assert!(!may_request(namespace, app, &purge), "{namespace}/{app}");
    }
    for (case, spec) in [
        ("another service", approval("shop", "web", None).spec),
        ("an operation without approval", ApprovalSpec { operation: "open".to_owned(), ..purge.clone() }),
        ("a policy that was created again", ApprovalSpec { policy_uid: "before".to_owned(), ..purge.clone() }),
        ("an invalid principal", ApprovalSpec { principal: "root".to_owned(), ..purge.clone() }),
    ] {
        assert!(!may_request("shop", "orders", &spec), "{case}");
    }
}
