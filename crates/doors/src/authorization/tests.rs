//! The answers to access reviews of the API server.

use super::*;
use axum::body::{Body, to_bytes};
use durward_api::catalog::{Catalog, CatalogChange};
use durward_api::compile::ClusterDomains;
use durward_authn::{Authenticator, FACTOR, FACTOR_TIME, TrustDomain};
use durward_engine::audit::AuditWriter;
use durward_engine::metrics::Metrics;
use serde_json::{Value, json};
use tower::ServiceExt;

const POLICY: &str = r#"{
  "apiVersion": "durward.dev/v1alpha1", "kind": "AccessPolicy", "metadata": {"name": "orders", "namespace": "shop"},
  "spec": {
    "operations": [
      {"name": "exec", "kubernetes": [{"apiGroups": [""], "resources": ["pods/exec"], "verbs": ["CONNECT"]}], "risk": "High"},
      {"name": "scale", "kubernetes": [{"apiGroups": ["apps"], "resources": ["deployments", "deployments/scale"], "verbs": ["*"]}]}
    ],
    "grants": [
      {"name": "ops", "to": [{"principal": "kube:ada"}], "scopes": ["exec", "scale"]},
      {"name": "deployer", "to": [{"serviceAccount": {"namespace": "ci", "name": "deployer"}}], "scopes": ["scale"]}
    ]
  }
}"#;

fn catalog(change: impl FnOnce(&mut Value)) -> Catalog {
    let mut policy: Value = serde_json::from_str(POLICY).expect("JSON");
    change(&mut policy);
    let mut catalog =
        Catalog::new(ClusterDomains { trust_domain: "cluster.local".into(), cluster_domain: "cluster.local".into() });
    let statuses =
        catalog.apply([CatalogChange::PolicyApplied(Box::new(serde_json::from_value(policy).expect("a policy")))]);
    assert!(statuses.iter().all(|(_, status)| status.in_force), "{statuses:?}");
    catalog
}

fn webhook_of(catalog: &Catalog, allows: bool) -> AuthorizationWebhook {
    let authenticator = Arc::new(Authenticator::new(TrustDomain::default(), Arc::default()));
    let engine = Arc::new(Engine::new(authenticator, AuditWriter::nowhere(), Arc::new(Metrics::default()), 1));
    engine.replace_snapshot(catalog.snapshot().clone());
    let trust_domain = "cluster.local".into();
    let namespace = "durward-system".into();
    AuthorizationWebhook { engine, trust_domain, namespace, admission_fails_closed: true, allows }
}

fn authorization(change: impl FnOnce(&mut Value), allows: bool) -> AuthorizationWebhook {
    webhook_of(&catalog(change), allows)
}

fn webhook(change: impl FnOnce(&mut Value), allows: bool) -> Router {
    served(authorization(change, allows))
}

/// The router, with the client that authentication finds.
fn served(webhook: AuthorizationWebhook) -> Router {
    let peer = ReviewPeer { address: [10, 0, 0, 7].into(), authenticated: Some("token".into()) };
    router(webhook).layer(Extension(peer))
}

async fn post(router: &Router, body: String) -> (StatusCode, String) {
    let request = axum::http::Request::post(ACCESS_PATH).body(Body::from(body)).expect("a request");
    let answer = router.clone().oneshot(request).await.expect("an answer");
    let status = answer.status();
    let body = to_bytes(answer.into_body(), MAX_REVIEW).await.expect("a body");
    (status, String::from_utf8(body.to_vec()).expect("text"))
}

/// `VERB RESOURCE[/SUBRESOURCE][.GROUP]` in a namespace, by a user with groups and extra attributes.
async fn ask(router: &Router, request: &str, namespace: &str, mut spec: Value) -> Value {
    let (verb, resource) = request.split_once(' ').expect(request);
    let (resource, group) = resource.split_once('.').unwrap_or((resource, ""));
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    spec["resourceAttributes"] = json!({
        "verb": verb, "resource": resource, "subresource": subresource, "group": group, "version": "v1", "namespace": namespace, "name": "web",
    });
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec});
    let (status, body) = post(router, review.to_string()).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    let review: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(
        (&review["kind"], &review["apiVersion"]),
        (&json!("SubjectAccessReview"), &json!("authorization.k8s.io/v1"))
    );
    review["status"].clone()
}

/// `deny`, `allow`, or no opinion.
async fn opinion(router: &Router, request: &str, namespace: &str, spec: Value) -> &'static str {
    let status = ask(router, request, namespace, spec).await;
    match (&status["allowed"], status.get("denied")) {
        (Value::Bool(true), None) => "allow",
        (Value::Bool(false), Some(Value::Bool(true))) => "deny",
        (Value::Bool(false), None) => "none",
        _ => "nonsense",
    }
}

fn user(name: &str) -> Value {
    json!({"user": name})
}

fn ada() -> Value {
    let now = chrono::Utc::now().timestamp().to_string();
    json!({"user": "ada", "extra": {FACTOR: ["MultiFactor"], FACTOR_TIME: [now]}})
}

#[tokio::test]
async fn only_requests_that_policies_refuse_are_denied() {
    let router = webhook(|_| {}, false);
    for (request, namespace, who, expected) in [
        ("create pods/exec", "shop", user("eve"), "deny"),
        ("get pods/exec", "shop", user("eve"), "deny"),
        ("create pods/exec", "shop", user("ada"), "deny"),
        ("create pods/exec", "shop", ada(), "none"),
        ("patch deployments.apps", "shop", user("eve"), "deny"),
        ("update deployments/scale.apps", "shop", user("eve"), "deny"),
        ("create deployments.apps", "shop", user("eve"), "deny"),
        ("delete deployments.apps", "shop", user("eve"), "deny"),
        ("deletecollection deployments.apps", "shop", user("eve"), "deny"),
        ("patch deployments.apps", "shop", user("system:serviceaccount:ci:deployer"), "none"),
        ("patch deployments.apps", "shop", user("system:serviceaccount:ci:other"), "deny"),
        ("patch deployments.apps", "shop", user("system:anonymous"), "deny"),
        ("patch deployments.apps", "shop", json!({}), "deny"),
        // reads, other verbs, and wildcards
        ("get deployments.apps", "shop", user("eve"), "none"),
        ("list deployments.apps", "shop", user("eve"), "none"),
        ("watch deployments.apps", "shop", user("eve"), "none"),
        ("get pods/log", "shop", user("eve"), "none"),
        ("escalate deployments.apps", "shop", user("eve"), "none"),
        ("* deployments.apps", "shop", user("eve"), "none"),
        ("create *.apps", "shop", user("eve"), "none"),
        ("create deployments/*.apps", "shop", user("eve"), "none"),
        ("create pods/*", "shop", user("eve"), "none"),
        // requests that no policy declares
        ("create pods/attach", "shop", user("eve"), "none"),
        ("create deployments", "shop", user("eve"), "none"),
        ("patch deployments.apps", "other", user("eve"), "none"),
        ("patch deployments.apps", "", user("eve"), "none"),
    ] {
        assert_eq!(
            opinion(&router, request, namespace, who.clone()).await,
            expected,
            "{request} in {namespace} by {who}"
        );
    }
    let denied = ask(&router, "create pods/exec", "shop", user("eve")).await;
    let reason = denied["reason"].as_str().unwrap_or_default();
    assert!(reason.starts_with("operation `exec` of policy shop/orders is refused for kube:eve"), "{reason}");
}

#[tokio::test]
async fn policies_never_lock_out_the_control_plane() {
    let everything = |namespace: &'static str| {
        move |policy: &mut Value| {
            policy["metadata"]["namespace"] = namespace.into();
            policy["spec"]["grants"] = json!([]);
        }
    };
    for who in [
        json!({"user": "root", "groups": ["system:masters", "system:authenticated"]}),
        json!({"user": "system:node:worker", "groups": ["system:nodes"]}),
        user("system:kube-controller-manager"),
        user("system:kube-scheduler"),
        user("system:apiserver"),
        user("system:serviceaccount:kube-system:deployment-controller"),
    ] {
        let router = webhook(everything("shop"), false);
        assert_eq!(opinion(&router, "patch deployments.apps", "shop", who.clone()).await, "none", "{who}");
    }
    for namespace in ["kube-system", "durward-system"] {
        let router = webhook(everything(namespace), false);
        assert_eq!(opinion(&router, "patch deployments.apps", namespace, user("eve")).await, "none", "{namespace}");
    }
    let router = webhook(everything("shop"), false);
    for lookalike in ["system:masters", "system:serviceaccount:kube-system", "kube-scheduler", "System:kube-scheduler"]
    {
        assert_eq!(opinion(&router, "patch deployments.apps", "shop", user(lookalike)).await, "deny", "{lookalike}");
    }
}

#[tokio::test]
async fn policies_allow_only_if_the_cluster_admin_enables_it() {
    let audit = |policy: &mut Value| policy["spec"]["mode"] = "Audit".into();
    let router = webhook(|_| {}, true);
    assert_eq!(opinion(&router, "create pods/exec", "shop", ada()).await, "allow");
    assert_eq!(opinion(&router, "create pods/exec", "shop", user("eve")).await, "deny");
    assert_eq!(opinion(&router, "create pods/attach", "shop", ada()).await, "none");
    let router = webhook(audit, true);
    assert_eq!(opinion(&router, "create pods/exec", "shop", ada()).await, "allow");
    assert_eq!(
        opinion(&router, "create pods/exec", "shop", user("eve")).await,
        "none",
        "an audited denial must not become an allow"
    );
}

#[tokio::test]
async fn bodies_that_are_not_reviews_are_refused() {
    let router = webhook(|_| {}, true);
    for body in [
        "",
        "null",
        "[]",
        "{",
        r#"{"apiVersion": "authorization.k8s.io/v1beta1", "kind": "SubjectAccessReview", "spec": {}}"#,
        r#"{"apiVersion": "v1", "kind": "Pod", "spec": {}}"#,
    ] {
        assert_eq!(post(&router, body.to_owned()).await.0, StatusCode::BAD_REQUEST, "{body}");
    }
    assert_eq!(post(&router, " ".repeat(MAX_REVIEW + 1)).await.0, StatusCode::PAYLOAD_TOO_LARGE);
    let paths = json!({"user": "eve", "nonResourceAttributes": {"path": "/metrics", "verb": "get"}});
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": paths});
    let (status, body) = post(&router, review.to_string()).await;
    assert_eq!(status, StatusCode::OK);
    assert!(body.contains(r#""status":{"allowed":false}"#), "{body}");
}

/// A policy with conditions on objects: ada may create small deployments, and bob may not delete those labelled `keep`.
fn by_object(policy: &mut Value) {
    policy["spec"]["operations"][1]["kubernetes"] = json!([
        {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["*"]},
        {"apiGroups": [""], "resources": ["namespaces", "pods/exec"], "verbs": ["*"]},
    ]);
    policy["spec"]["operations"][0]["kubernetes"] =
        json!([{"apiGroups": ["x"], "resources": ["y"], "verbs": ["CREATE"]}]);
    policy["spec"]["grants"] = json!([
        {"name": "few", "to": [{"principal": "kube:ada"}], "scopes": ["scale"], "when": "kubernetes.object.spec.replicas < 3"},
        {"name": "all", "to": [{"principal": "kube:bob"}], "scopes": ["scale"]},
    ]);
    policy["spec"]["denials"] = json!([
        {"name": "gone", "to": [{"principal": "kube:mallory"}, {"principal": "kube:eve"}], "when": "request.captures.verb == 'DELETE'"},
        {"name": "kept", "to": [{"principal": "kube:bob"}], "when": "has(kubernetes.oldObject) && has(kubernetes.oldObject.metadata.labels.keep)"},
    ]);
}

#[tokio::test]
async fn object_dependent_refusals_are_left_to_admission() {
    let router = webhook(by_object, false);
    for (request, who, expected) in [
        // admission will see the object
        ("create deployments.apps", "ada", "none"),
        ("update deployments.apps", "ada", "none"),
        ("patch deployments.apps", "ada", "none"),
        ("delete deployments.apps", "ada", "none"),
        ("deletecollection deployments.apps", "ada", "none"),
        ("create pods/exec", "ada", "none"),
        ("get pods/exec", "ada", "none"),
        ("delete deployments.apps", "bob", "none"),
        // refused for every object
        ("create deployments.apps", "eve", "deny"),
        ("delete deployments.apps", "eve", "deny"),
        ("delete deployments.apps", "mallory", "deny"),
        // the admission webhook does not cover Namespaces themselves
        ("delete namespaces", "ada", "deny"),
        ("update namespaces", "ada", "deny"),
        ("update namespaces", "bob", "deny"),
    ] {
        assert_eq!(opinion(&router, request, "shop", user(who)).await, expected, "{request} by {who}");
    }
    // here an allow needs the object
    let router = webhook(by_object, true);
    assert_eq!(opinion(&router, "create deployments.apps", "shop", user("ada")).await, "none");
    assert_eq!(opinion(&router, "delete deployments.apps", "shop", user("bob")).await, "none");
}

#[tokio::test]
async fn refusals_are_final_if_admission_may_be_skipped() {
    let mut webhook = authorization(by_object, false);
    webhook.admission_fails_closed = false;
    let router = served(webhook);
    for (request, who) in
        [("create deployments.apps", "ada"), ("delete deployments.apps", "bob"), ("create pods/exec", "ada")]
    {
        assert_eq!(opinion(&router, request, "shop", user(who)).await, "deny", "{request} by {who}");
    }
}

#[tokio::test]
async fn a_refusal_of_one_service_denies_even_if_another_needs_the_object() {
    let mut catalog = catalog(by_object);
    let other = json!({"metadata": {"name": "z-other", "namespace": "shop"}, "spec": {
        "operations": [{"name": "z", "kubernetes": [{"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["CREATE"]}]}],
    }});
    catalog.apply([CatalogChange::PolicyApplied(Box::new(serde_json::from_value(other).expect("a policy")))]);
    let router = served(webhook_of(&catalog, false));
    assert_eq!(opinion(&router, "create deployments.apps", "shop", user("ada")).await, "deny");
    assert_eq!(opinion(&router, "update deployments.apps", "shop", user("ada")).await, "none");
}

/// A review is a question: it requests no approval and counts nothing for a status.
#[tokio::test]
async fn a_review_has_no_effect() {
    let change = |mode: &'static str| {
        move |policy: &mut Value| {
            policy["spec"]["mode"] = mode.into();
            policy["spec"]["operations"][0]["approval"] = json!({"by": [{"provider": "corporate"}]});
        }
    };
    let webhook = authorization(change("Enforce"), false);
    let (sender, mut requests) = tokio::sync::mpsc::channel(4);
    webhook.engine.send_approval_requests_to(sender);
    // admission requests the approval
    assert_eq!(opinion(&served(webhook.clone()), "create pods/exec", "shop", ada()).await, "none");
    assert!(requests.try_recv().is_err());
    let mut alone = webhook;
    alone.admission_fails_closed = false;
    assert_eq!(opinion(&served(alone), "create pods/exec", "shop", ada()).await, "deny");
    assert!(requests.try_recv().is_err());
    let audited = authorization(change("Audit"), false);
    let engine = Arc::clone(&audited.engine);
    assert_eq!(opinion(&served(audited), "create pods/exec", "shop", user("eve")).await, "none");
    assert!(engine.policy_counts().1.is_empty());
}
