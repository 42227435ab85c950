//! Kubernetes objects, and the exact catalog changes they translate to.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failed expectation fails the test"
)]

use durward_api::catalog::{AuthenticationResource, Catalog, CatalogChange, RejectionReason};
use durward_api::compile::ClusterDomains;
use durward_api::field_error::FieldError;
use durward_api::resources::{
    AccessPolicy, Approval, IdentityProvider, LastGood, LastGoodTuples, Relationship, created, namespaced_name,
};
use durward_api::translation::{
    CatalogResource, ObjectVersion, api_keys, api_keys_deleted, approval, deleted, namespace, namespace_deleted,
    status_changes, unverified_grant,
};
use durward_core::approval::{ApprovalSubject, GrantedApproval};
use durward_core::digest::Digest;
use durward_core::namespaced_name::NamespacedName;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::core::DynamicObject;
use serde_json::{Value, json};
use std::collections::BTreeMap;

fn dynamic(object: &Value) -> DynamicObject {
    serde_json::from_value(object.clone()).unwrap()
}

/// The changes for an object of the API server.
fn changes<R: CatalogResource>(object: &Value) -> Vec<CatalogChange> {
    ObjectVersion::<R>::from_dynamic(dynamic(object)).expect("a name").into_changes()
}

fn orders() -> NamespacedName {
    NamespacedName::new("shop", "orders")
}

fn digest(content: &Value) -> Option<Digest> {
    Some(Digest::of([content.to_string().as_bytes()]))
}

fn error(field: &str, message: &str) -> FieldError {
    FieldError { field: field.to_owned(), message: message.to_owned() }
}

fn policy(spec: &Value, status: &Value) -> Value {
    json!({
        "apiVersion": "durward.dev/v1alpha1", "kind": "AccessPolicy",
        "metadata": {"namespace": "shop", "name": "orders", "uid": "u", "generation": 3, "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": spec, "status": status,
    })
}

fn relationship(spec: &Value, status: &Value) -> Value {
    json!({
        "apiVersion": "durward.dev/v1alpha1", "kind": "Relationship",
        "metadata": {"namespace": "shop", "name": "orders"}, "spec": spec, "status": status,
    })
}

fn provider(spec: &Value) -> Value {
    json!({
        "apiVersion": "durward.dev/v1alpha1", "kind": "IdentityProvider",
        "metadata": {"name": "partners"}, "spec": spec,
    })
}

/// The resource of an object, without its status.
fn typed<R: serde::de::DeserializeOwned>(mut object: Value) -> R {
    object.as_object_mut().unwrap().remove("status");
    serde_json::from_value(object).unwrap()
}

#[test]
fn an_access_policy() {
    let spec = json!({"service": {"hosts": ["orders.shop.svc"]}});
    let applied = || CatalogChange::PolicyApplied(Box::new(typed::<AccessPolicy>(policy(&spec, &Value::Null))));
    assert_eq!(changes::<AccessPolicy>(&policy(&spec, &Value::Null)), [applied()]);
    let from_resource = ObjectVersion::from_resource(typed::<AccessPolicy>(policy(&spec, &Value::Null))).unwrap();
    assert_eq!(from_resource.name(), &orders());
    assert_eq!(from_resource.into_changes(), [applied()]);

    let undecodable = || {
        let message = "unknown field `operation`, expected one of `service`, `identity`, `authentication`, `tokens`, \
                       `operations`, `roles`, `relations`, `relationEngine`, `headers`, `grants`, `denials`, `mode`";
        CatalogChange::PolicyUndecodable(orders(), error("spec.operation", message))
    };
    assert_eq!(changes::<AccessPolicy>(&policy(&json!({"operation": []}), &Value::Null)), [undecodable()]);
    let manifest = ObjectVersion::<AccessPolicy>::undecodable(orders(), error("spec", "line 3"));
    assert_eq!(manifest.into_changes(), [CatalogChange::PolicyUndecodable(orders(), error("spec", "line 3"))]);

    // the status records the last good version; the catalog applies the record after the version
    let status = json!({"lastGood": {"generation": 2, "audience": "orders.shop"}});
    let last_good = || {
        let good = LastGood { generation: Some(2), audience: "orders.shop".to_owned(), ..LastGood::default() };
        CatalogChange::PolicyLastGood(orders(), 1_767_225_600, Box::new(good))
    };
    assert_eq!(changes::<AccessPolicy>(&policy(&spec, &status)), [applied(), last_good()]);
    assert_eq!(changes::<AccessPolicy>(&policy(&json!({"operation": []}), &status)), [undecodable(), last_good()]);
    assert_eq!(status_changes::<AccessPolicy>(&dynamic(&policy(&spec, &status))), [last_good()]);
    assert_eq!(status_changes::<AccessPolicy>(&dynamic(&policy(&spec, &Value::Null))), []);

    assert_eq!(deleted::<AccessPolicy>(orders()), [CatalogChange::PolicyDeleted(orders())]);
}

#[test]
fn a_relationship() {
    let spec = json!({"service": "orders.shop", "tuples": []});
    let applied =
        || CatalogChange::RelationshipApplied(Box::new(typed::<Relationship>(relationship(&spec, &Value::Null))));
    assert_eq!(changes::<Relationship>(&relationship(&spec, &Value::Null)), [applied()]);
    let from_resource = ObjectVersion::from_resource(typed::<Relationship>(relationship(&spec, &Value::Null))).unwrap();
    assert_eq!(from_resource.into_changes(), [applied()]);

    let bad = json!({"service": "orders.shop", "tuples": [{"object": "doc:1", "relation": 7, "subject": "user:a/b"}]});
    let undecodable = || {
        let message = "invalid type: integer `7`, expected a string";
        CatalogChange::RelationshipUndecodable(orders(), error("spec.tuples[0].relation", message))
    };
    assert_eq!(changes::<Relationship>(&relationship(&bad, &Value::Null)), [undecodable()]);

    let status = json!({"lastGood": {"generation": 2, "service": "orders.shop"}});
    let good = || LastGoodTuples { generation: Some(2), service: "orders.shop".to_owned() };
    let last_good = || CatalogChange::RelationshipLastGood(orders(), good());
    assert_eq!(changes::<Relationship>(&relationship(&spec, &status)), [applied(), last_good()]);
    assert_eq!(changes::<Relationship>(&relationship(&bad, &status)), [undecodable(), last_good()]);
    assert_eq!(status_changes::<Relationship>(&dynamic(&relationship(&bad, &status))), [last_good()]);

    // a gate gets the record without the object
    let lost = error("spec", "lost");
    let version = ObjectVersion::<Relationship>::undecodable(orders(), lost.clone()).with_last_good(good());
    assert_eq!(version.into_changes(), [CatalogChange::RelationshipUndecodable(orders(), lost), last_good()]);

    assert_eq!(deleted::<Relationship>(orders()), [CatalogChange::RelationshipDeleted(orders())]);
}

#[test]
fn an_identity_provider() {
    let partners = || AuthenticationResource::IdentityProvider("partners".into());
    let withdrawn =
        || [CatalogChange::Authentication(partners(), None), CatalogChange::KeyHeader("partners".into(), None)];
    for (spec, header) in [
        (json!({"apiKey": {"selector": {}, "header": "X-Key"}}), Some("x-key")),
        (json!({"apiKey": {"selector": {}}}), Some("x-api-key")),
        (json!({"jwt": {"issuer": "https://id.example", "claims": {}}}), None),
    ] {
        let resource: IdentityProvider = typed(provider(&spec));
        let content = serde_json::to_vec(&resource.spec).unwrap();
        let expected = [
            CatalogChange::Authentication(partners(), Some(Digest::of([content.as_slice()]))),
            CatalogChange::KeyHeader("partners".into(), header.map(ToOwned::to_owned)),
        ];
        assert_eq!(changes::<IdentityProvider>(&provider(&spec)), expected, "{spec}");
        assert_eq!(ObjectVersion::from_resource(resource).unwrap().into_changes(), expected, "{spec}");
    }
    assert_eq!(changes::<IdentityProvider>(&provider(&json!({"saml": {}}))), withdrawn());
    assert_eq!(deleted::<IdentityProvider>("partners".into()), withdrawn());
}

#[test]
fn a_namespace() {
    let texts = |key: &str| BTreeMap::from([(key.to_owned(), "v".to_owned())]);
    let of = |labels, annotations| {
        [
            CatalogChange::NamespaceLabels("shop".to_owned(), labels),
            CatalogChange::NamespaceAnnotations("shop".to_owned(), annotations),
        ]
    };
    for (metadata, labels, annotations) in [
        (json!({"name": "shop", "labels": {"l": "v"}, "annotations": {"a": "v"}}), texts("l"), texts("a")),
        // without annotations, the Namespace still exists
        (json!({"name": "shop"}), BTreeMap::new(), BTreeMap::new()),
    ] {
        let object: Namespace = serde_json::from_value(json!({"metadata": metadata})).unwrap();
        assert_eq!(namespace(&object.metadata), of(Some(labels), Some(annotations)), "{metadata}");
    }
    assert_eq!(namespace_deleted("shop"), of(None, None));
}

#[test]
fn a_secret_with_api_keys() {
    let resource = || AuthenticationResource::Secret(NamespacedName::new("shop", "keys"));
    let metadata = json!({"namespace": "shop", "name": "keys", "resourceVersion": "7"});
    for (content, expected) in [
        (json!({"data": {"hash": "YWJj"}}), json!({"hash": "YWJj"})),
        (json!({}), Value::Null),
        (json!({"data": {"hash": "YWJj"}, "stringData": {"a": "b"}}), json!([{"hash": "YWJj"}, {"a": "b"}])),
    ] {
        let mut object = content.clone();
        object.as_object_mut().unwrap().insert("metadata".to_owned(), metadata.clone());
        let secret: Secret = serde_json::from_value(object).unwrap();
        assert_eq!(api_keys(&secret), [CatalogChange::Authentication(resource(), digest(&expected))], "{content}");
    }
    assert_eq!(
        api_keys_deleted(NamespacedName::new("shop", "keys")),
        [CatalogChange::Authentication(resource(), None)]
    );
}

#[test]
fn an_approval() {
    let subject = |operation: &str| ApprovalSubject {
        policy: orders(),
        policy_uid: "u".into(),
        operation: operation.into(),
        principal: "user:corporate/alice".parse().unwrap(),
    };
    let granted = || GrantedApproval {
        approved_by: "user:corporate/bob".parse().unwrap(),
        from: "2026-01-01T10:00:00Z".parse().unwrap(),
        until: "2026-01-01T10:30:00Z".parse().unwrap(),
    };
    let object = |name: &str, state: &str| -> Approval {
        serde_json::from_value(json!({
            "apiVersion": "durward.dev/v1alpha1", "kind": "Approval",
            "metadata": {"namespace": "shop", "name": name},
            "spec": {"policy": "orders", "policyUid": "u", "operation": "refund", "principal": "user:corporate/alice"},
            "status": {"state": state, "by": "user:corporate/bob", "decidedAt": "2026-01-01T10:00:00Z", "expiresAt": "2026-01-01T10:30:00Z"},
        }))
        .unwrap()
    };
    let name = subject("refund").approval_name();
    let grant = unverified_grant(&object(&name, "Approved"));
    assert_eq!(grant, Some((subject("refund"), granted())));
    for (name, state) in [(name.as_str(), "Pending"), (&name, "Denied"), ("another-name", "Approved")] {
        assert_eq!(unverified_grant(&object(name, state)), None, "{name} {state}");
    }

    let approved = || CatalogChange::Approval(subject("refund"), Some(granted()));
    let withdrawn = |operation: &str| CatalogChange::Approval(subject(operation), None);
    assert_eq!(approval(None, grant.clone()), [approved()]);
    assert_eq!(approval(Some(&subject("refund")), grant.clone()), [approved()], "the same grant, or a longer one");
    assert_eq!(approval(Some(&subject("export")), grant), [withdrawn("export"), approved()], "another subject");
    assert_eq!(
        approval(Some(&subject("refund")), None),
        [withdrawn("refund")],
        "denied, forged, undecodable or deleted"
    );
    assert_eq!(approval(None, None), [], "pending");
}

#[test]
fn an_object_without_a_name_translates_to_no_change() {
    let nameless = json!({"metadata": {"namespace": "shop"}, "spec": {}, "status": {"lastGood": {"audience": "a"}}});
    assert!(ObjectVersion::<AccessPolicy>::from_dynamic(dynamic(&nameless)).is_none());
    assert!(ObjectVersion::<IdentityProvider>::from_dynamic(dynamic(&nameless)).is_none());
    assert_eq!(status_changes::<AccessPolicy>(&dynamic(&nameless)), []);
    assert_eq!(namespace(&dynamic(&nameless).metadata), []);
    assert_eq!(api_keys(&Secret::default()), []);
}

#[test]
fn an_object_without_a_namespace_is_in_the_default_one() {
    let metadata = dynamic(&json!({"metadata": {"name": "orders"}})).metadata;
    assert_eq!(namespaced_name(&metadata), Some(NamespacedName::new("default", "orders")));
    assert_eq!(created(&metadata), i64::MAX, "the youngest");
}

/// A source that translates a provider can't forget its header: every way to translate it rejects a policy whose
/// conditions read the header with the API keys.
#[test]
fn every_source_rejects_conditions_that_read_api_keys() {
    let spec = json!({"apiKey": {"selector": {}, "header": "X-Tenant"}});
    let reading: AccessPolicy = typed(policy(
        &json!({
            "service": {"hosts": ["orders.shop.svc"]},
            "headers": ["x-tenant"],
            "operations": [{"name": "list", "http": [{"methods": ["GET"], "paths": ["/"]}]}],
            "grants": [{
                "name": "all", "to": [{"authenticated": true}], "scopes": ["list"],
                "when": "request.headers['x-tenant'] == 'a'",
            }],
        }),
        &Value::Null,
    ));
    let from_resource = ObjectVersion::from_resource(typed::<IdentityProvider>(provider(&spec))).unwrap();
    for provider_changes in [changes::<IdentityProvider>(&provider(&spec)), from_resource.into_changes()] {
        let domains = ClusterDomains { trust_domain: "td.example".into(), cluster_domain: "cluster.local".into() };
        let mut catalog = Catalog::new(domains);
        let policy_changes = || ObjectVersion::from_resource(reading.clone()).unwrap().into_changes();
        catalog.apply(policy_changes());
        assert_eq!(catalog.policy_status(&orders()).unwrap().rejected, None, "in force without the provider");
        catalog.apply(provider_changes);
        let rejected = catalog.policy_status(&orders()).unwrap().rejected.expect("a rejection");
        assert_eq!((rejected.reason, rejected.errors[0].field.as_str()), (RejectionReason::Invalid, "spec.headers[0]"));
        catalog.apply(deleted::<IdentityProvider>("partners".into()));
        assert_eq!(catalog.policy_status(&orders()).unwrap().rejected, None, "in force again");
    }
}

#[test]
fn texts_that_enter_the_revision_do_not_change() {
    let secret = AuthenticationResource::Secret(NamespacedName::new("shop", "keys"));
    let provider = AuthenticationResource::IdentityProvider("partners".into());
    assert_eq!([secret.to_string(), provider.to_string()], ["Secret/shop/keys", "IdentityProvider/partners"]);
}

#[test]
fn a_compacted_change_has_the_same_effect() {
    let spec = json!({"service": {"hosts": ["orders.shop.svc"]}});
    let domains = ClusterDomains { trust_domain: "td.example".into(), cluster_domain: "cluster.local".into() };
    let mut plain = Catalog::new(domains.clone());
    let mut compacted = Catalog::new(domains);
    plain.apply(changes::<AccessPolicy>(&policy(&spec, &Value::Null)));
    let changes: Vec<_> = changes::<AccessPolicy>(&policy(&spec, &Value::Null))
        .into_iter()
        .map(|change| compacted.compact(change))
        .collect();
    assert!(matches!(changes[0], CatalogChange::PolicyCompiled(..)));
    compacted.apply(changes);
    assert_eq!(plain.snapshot().revision(), compacted.snapshot().revision());
}
