//! Decisions that depend on objects.

use super::*;
use axum::body::{Body, to_bytes};
use durward_api::catalog::{Catalog, CatalogChange};
use durward_api::compile::ClusterDomains;
use durward_authn::{Authenticator, FACTOR, FACTOR_TIME, TrustDomain};
use durward_core::condition::MAX_PARTS;
use durward_engine::Engine;
use durward_engine::audit::{AuditSink, AuditWriter, LogSigner, OnLoss};
use durward_engine::metrics::Metrics;
use serde_json::{Value, json};
use std::sync::Arc;
use tower::ServiceExt;

/// Ada may scale down, connect with `ls`, and create and delete deployments that are not labelled `keep`.
const POLICY: &str = r#"{
  "apiVersion": "durward.dev/v1alpha1", "kind": "AccessPolicy", "metadata": {"name": "web", "namespace": "shop"},
  "spec": {
    "operations": [
      {"name": "change", "kubernetes": [{"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["UPDATE"]}]},
      {"name": "exec", "kubernetes": [{"apiGroups": [""], "resources": ["pods/exec"], "verbs": ["CONNECT"]}]},
      {"name": "keep", "kubernetes": [{"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["CREATE", "DELETE"]}]}
    ],
    "grants": [
      {"name": "down", "to": [{"principal": "kube:ada"}], "scopes": ["change"],
       "when": "kubernetes.object.spec.replicas <= kubernetes.oldObject.spec.replicas"},
      {"name": "ls", "to": [{"principal": "kube:ada"}], "scopes": ["exec"], "when": "kubernetes.object.command == ['ls']"},
      {"name": "all", "to": [{"principal": "kube:ada"}], "scopes": ["keep"]}
    ],
    "denials": [
      {"name": "kept", "to": [{"authenticated": true}],
       "when": "[has(kubernetes.object), has(kubernetes.oldObject)] == [false, true] && has(kubernetes.oldObject.metadata.labels) && has(kubernetes.oldObject.metadata.labels.keep)"},
      {"name": "managed", "to": [{"authenticated": true}],
       "when": "has(kubernetes.object) && has(kubernetes.object.metadata) && has(kubernetes.object.metadata.managedFields)"}
    ]
  }
}"#;

/// The webhooks, with the client that authentication finds.
fn webhooks() -> Router {
    webhooks_of(&serde_json::from_str(POLICY).expect("JSON"), AuditWriter::nowhere()).0
}

fn webhooks_of(policy: &Value, log: AuditWriter) -> (Router, Arc<Engine>) {
    let mut catalog =
        Catalog::new(ClusterDomains { trust_domain: "cluster.local".into(), cluster_domain: "cluster.local".into() });
    let policy = serde_json::from_value(policy.clone()).expect("a policy");
    let statuses = catalog.apply([CatalogChange::PolicyApplied(Box::new(policy))]);
    assert!(statuses.iter().all(|(_, status)| status.rejected.is_none()), "{statuses:?}");
    let authenticator = Arc::new(Authenticator::new(TrustDomain::default(), Arc::default()));
    let engine = Arc::new(Engine::new(authenticator, log, Arc::new(Metrics::default()), 1));
    engine.replace_snapshot(catalog.snapshot().clone());
    let domains =
        ClusterDomains { trust_domain: "cluster.local".to_owned(), cluster_domain: "cluster.local".to_owned() };
    let sidecars = SidecarSettings { image: String::new(), controller: String::new(), domains };
    let (reviewer, _) = tokio::sync::mpsc::channel(1);
    let webhooks =
        AdmissionWebhooks { engine: Arc::clone(&engine), trust_domain: "cluster.local".into(), reviewer, sidecars };
    let peer = ReviewPeer { address: [10, 0, 0, 7].into(), authenticated: Some("token".into()) };
    (router(webhooks).layer(Extension(peer)), engine)
}

/// Whether a request of ada is allowed, and the message.
async fn allowed(operation: &str, resource: &str, object: Value, old: Value) -> (bool, String) {
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    let group = if resource == "deployments" { "apps" } else { "" };
    let kind = json!({"group": group, "version": "v1", "kind": "Any"});
    let mut request = json!({
        "uid": "1", "kind": kind, "resource": {"group": group, "version": "v1", "resource": resource},
        "name": "web", "namespace": "shop", "operation": operation, "userInfo": {"username": "ada"},
        "object": object, "oldObject": old, "dryRun": false, "options": null,
    });
    if !subresource.is_empty() {
        request["subResource"] = subresource.into();
    }
    let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request});
    let request = axum::http::Request::post(OPERATIONS_PATH).body(Body::from(review.to_string())).expect("a request");
    let answer = webhooks().oneshot(request).await.expect("an answer");
    let body = to_bytes(answer.into_body(), MAX_REVIEW).await.expect("a body");
    let answer: Value = serde_json::from_slice(&body).expect("JSON");
    let message = answer["response"]["status"]["message"].as_str().unwrap_or_default().to_owned();
    (answer["response"]["allowed"] == true, message)
}

fn deployment(replicas: u32) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {"replicas": replicas}})
}

#[tokio::test]
async fn conditions_read_the_objects_of_the_api_server() {
    let kept = json!({"metadata": {"name": "web", "labels": {"keep": "yes"}}, "spec": {"replicas": 1}});
    let options =
        |command: Value| json!({"kind": "PodExecOptions", "apiVersion": "v1", "command": command, "container": "a"});
    let none = Value::Null;
    for (operation, resource, object, old, expected) in [
        ("UPDATE", "deployments", deployment(2), deployment(3), true),
        ("UPDATE", "deployments", deployment(4), deployment(3), false),
        // a missing field grants nothing
        ("UPDATE", "deployments", json!({"metadata": {}, "spec": {}}), deployment(3), false),
        ("UPDATE", "deployments", deployment(2), none.clone(), false),
        ("CONNECT", "pods/exec", options(json!(["ls"])), none.clone(), true),
        ("CONNECT", "pods/exec", options(json!(["sh"])), none.clone(), false),
        ("CONNECT", "pods/exec", options(json!("ls")), none.clone(), false),
        // a deletion has the old object, a creation the new one
        ("DELETE", "deployments", none.clone(), deployment(1), true),
        ("DELETE", "deployments", none.clone(), kept.clone(), false),
        ("CREATE", "deployments", kept.clone(), none.clone(), true),
    ] {
        let (is_allowed, message) = allowed(operation, resource, object.clone(), old.clone()).await;
        assert_eq!(is_allowed, expected, "{operation} {resource} {object} {old}: {message}");
    }
}

#[tokio::test]
async fn too_large_objects_are_refused_and_managed_fields_are_not_read() {
    let mut large = deployment(2);
    large["spec"]["list"] = vec![0; MAX_PARTS].into();
    let (is_allowed, message) = allowed("UPDATE", "deployments", large, deployment(3)).await;
    assert!(!is_allowed && message.contains("/denials/kept` applies"), "{message}");
    let mut managed = deployment(2);
    managed["metadata"]["managedFields"] = json!([{"manager": "kubectl", "fieldsV1": {"f:spec": {}}}]);
    assert!(allowed("UPDATE", "deployments", managed, deployment(3)).await.0);
}

/// A dry run is a question: it requests no approval and counts nothing for a status. The record says so, and names the
/// client of the webhook.
#[tokio::test]
async fn a_dry_run_has_no_effect_but_a_record() {
    let review = |dry_run: bool| {
        let kind = json!({"group": "apps", "version": "v1", "kind": "Deployment"});
        let now = chrono::Utc::now().timestamp().to_string();
        let request = json!({
            "uid": "1", "kind": kind, "resource": {"group": "apps", "version": "v1", "resource": "deployments"},
            "name": "web", "namespace": "shop", "operation": "DELETE", "dryRun": dry_run, "options": null,
            "userInfo": {"username": "ada", "extra": {FACTOR: ["MultiFactor"], FACTOR_TIME: [now]}},
        });
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}).to_string()
    };
    for (mode, allowed) in [("Enforce", false), ("Audit", true)] {
        let policy = json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": {
            "mode": mode,
            "operations": [{
                "name": "delete", "risk": "High", "approval": {"by": [{"provider": "corporate"}]},
                "kubernetes": [{"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["DELETE"]}],
            }],
            "grants": [{"name": "ada", "to": [{"principal": "kube:ada"}], "scopes": ["delete"]}],
        }});
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("audit.log");
        let signer = LogSigner::new(|_, _| Ok("x".to_owned()));
        let log = AuditWriter::open(&AuditSink::File(file.clone()), OnLoss::default(), signer).expect("a log");
        let (router, engine) = webhooks_of(&policy, log);
        let (sender, mut requests) = tokio::sync::mpsc::channel(4);
        engine.send_approval_requests_to(sender);
        for dry_run in [true, false] {
            let body = Body::from(review(dry_run));
            let request = axum::http::Request::post(OPERATIONS_PATH).body(body).expect("a request");
            let answer = router.clone().oneshot(request).await.expect("an answer");
            let body = to_bytes(answer.into_body(), MAX_REVIEW).await.expect("a body");
            let answer: Value = serde_json::from_slice(&body).expect("JSON");
            assert_eq!(answer["response"]["allowed"], allowed, "{answer}");
            let effect = !dry_run;
            assert_eq!(requests.try_recv().is_ok(), effect && !allowed, "{mode} {dry_run}");
            assert_eq!(!engine.policy_counts().1.is_empty(), effect && allowed, "{mode} {dry_run}");
        }
        drop((router, engine));
        let log = std::fs::read_to_string(file).expect("a log");
        let records: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        let decisions: Vec<&Value> = records.iter().filter(|record| record["verdict"] == "deny").collect();
        assert_eq!(decisions.len(), 2, "{log}");
        assert_eq!((&decisions[0]["question"], decisions[1].get("question")), (&json!(true), None));
        for decision in decisions {
            assert_eq!(decision["peer"], json!({"address": "10.0.0.7", "authenticated": "token"}));
        }
    }
}
