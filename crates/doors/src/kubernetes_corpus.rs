//! Requests to the Kubernetes API from `tests/corpus`, about which admission and authorization must agree.

#![allow(clippy::expect_used, reason = "a failed expectation fails the test")]

use crate::admission;
use crate::admission::{AdmissionWebhooks, OPERATIONS_PATH, SidecarSettings};
use crate::authorization;
use crate::authorization::{ACCESS_PATH, AuthorizationWebhook};
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode};
use durward_api::catalog::{Catalog, CatalogChange};
use durward_api::compile::ClusterDomains;
use durward_api::resources::AccessPolicy;
use durward_authn::{Authenticator, TrustDomain};
use durward_engine::Engine;
use durward_engine::audit::{AuditWriter, ReviewPeer};
use durward_engine::metrics::Metrics;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;
use tower::ServiceExt;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CorpusCase {
    /// The request to authorization: verb, resource and group.
    #[serde(rename = "asked")]
    access_request: Option<String>,
    /// The operation at admission.
    #[serde(rename = "admitted")]
    admitted_operation: Option<String>,
    /// Resource and group, if there is no request to authorization.
    resource: Option<String>,
    #[serde(default = "eve")]
    by: String,
    #[serde(default = "shop")]
    namespace: String,
    #[serde(default)]
    review: serde_json::Map<String, Value>,
    outcome: CorpusOutcome,
}

fn eve() -> String {
    "eve".to_owned()
}

fn shop() -> String {
    "shop".to_owned()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum CorpusOutcome {
    Refused,
    Allowed,
    Ungoverned,
}

/// Both webhooks, with one engine. Policies allow requests here, so that an allow differs from no opinion.
fn webhooks() -> (Router, Router) {
    let policy: AccessPolicy =
        serde_saphyr::from_str(include_str!("../../../tests/corpus/kubernetes-policy.yaml")).expect("a policy");
    let domains =
        ClusterDomains { trust_domain: "cluster.local".to_owned(), cluster_domain: "cluster.local".to_owned() };
    let mut catalog = Catalog::new(domains.clone());
    let statuses = catalog.apply([CatalogChange::PolicyApplied(Box::new(policy))]);
    assert!(statuses.iter().all(|(_, status)| status.in_force), "{statuses:?}");
    let authenticator = Arc::new(Authenticator::new(TrustDomain::default(), Arc::default()));
    let engine = Arc::new(Engine::new(authenticator, AuditWriter::nowhere(), Arc::new(Metrics::default()), 1));
    engine.replace_snapshot(catalog.snapshot().clone());
    let (reviewer, _) = tokio::sync::mpsc::channel(1);
    let sidecars = SidecarSettings { image: String::new(), controller: String::new(), domains };
    let trust_domain: Arc<str> = "cluster.local".into();
    let admission =
        AdmissionWebhooks { engine: Arc::clone(&engine), trust_domain: Arc::clone(&trust_domain), reviewer, sidecars };
    let namespace = "durward-system".into();
    let peer = axum::Extension(ReviewPeer { address: [10, 0, 0, 7].into(), authenticated: None });
    (
        admission::router(admission).layer(peer.clone()),
        authorization::router(AuthorizationWebhook {
            engine,
            trust_domain,
            namespace,
            allows: true,
            admission_fails_closed: true,
        })
        .layer(peer),
    )
}

async fn post(router: &Router, path: &str, review: &Value) -> Value {
    let body = Body::from(review.to_string());
    let request = Request::post(path).header("content-type", "application/json").body(body).expect("a request");
    let answer = router.clone().oneshot(request).await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::OK, "{review}");
    serde_json::from_slice(&to_bytes(answer.into_body(), 1 << 20).await.expect("a body")).expect("JSON")
}

/// Resource, subresource and group.
fn resource(text: &str) -> (&str, &str, &str) {
    let (resources, group) = text.split_once(' ').unwrap_or((text, ""));
    let (resource, subresource) = resources.split_once('/').unwrap_or((resources, ""));
    (resource, subresource, group)
}

impl CorpusCase {
    /// The review that the authorization webhook gets.
    fn access(&self) -> Option<Value> {
        let (verb, rest) = self.access_request.as_deref()?.split_once(' ').expect("a verb");
        let (resource, subresource, group) = resource(rest);
        let attributes = json!({
            "verb": verb, "resource": resource, "subresource": subresource, "group": group, "version": "v1",
            "namespace": self.namespace, "name": "web",
        });
        let spec = json!({"user": self.by, "groups": ["system:authenticated"], "resourceAttributes": attributes});
        Some(json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}))
    }

    /// The review that the admission webhook gets.
    fn admission(&self) -> Option<Value> {
        let operation = self.admitted_operation.as_deref()?;
        let text =
            self.resource.as_deref().or_else(|| self.access_request.as_deref()?.split_once(' ').map(|(_, rest)| rest));
        let (resource, subresource, group) = resource(text.expect("a resource"));
        let mut request = json!({
            "uid": "1", "kind": {"group": group, "version": "v1", "kind": "Thing"},
            "resource": {"group": group, "version": "v1", "resource": resource},
            "name": "web", "namespace": self.namespace, "operation": operation,
            "userInfo": {"username": self.by, "groups": ["system:authenticated"]},
            "object": {"apiVersion": "v1", "kind": "Thing", "metadata": {"name": "web"}}, "dryRun": false,
        });
        let fields = request.as_object_mut().expect("an object");
        if !subresource.is_empty() {
            fields.insert("subResource".to_owned(), subresource.into());
        }
        fields.extend(self.review.clone());
        Some(json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}))
    }
}

#[tokio::test]
async fn both_webhooks_agree_with_the_corpus() {
    let cases: Vec<CorpusCase> =
        serde_saphyr::from_str(include_str!("../../../tests/corpus/kubernetes.yaml")).expect("the corpus");
    let (admission, authorization) = webhooks();
    let mut wrong = Vec::new();
    for case in &cases {
        if let Some(review) = case.access() {
            let status = &post(&authorization, ACCESS_PATH, &review).await["status"];
            let outcome = match (&status["allowed"], &status["denied"]) {
                (Value::Bool(true), Value::Null) => CorpusOutcome::Allowed,
                (Value::Bool(false), Value::Bool(true)) => CorpusOutcome::Refused,
                _ => CorpusOutcome::Ungoverned,
            };
            if outcome != case.outcome {
                wrong.push(format!("{case:?} at authorization: {status}"));
            }
        }
        if let Some(review) = case.admission() {
            let response = &post(&admission, OPERATIONS_PATH, &review).await["response"];
            let expected = case.outcome != CorpusOutcome::Refused;
            if response["allowed"] != expected || !response["patch"].is_null() {
                wrong.push(format!("{case:?} at admission: {response}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
