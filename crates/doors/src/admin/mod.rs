//! The admin listener: health, metrics and the snapshot, which no listener for users serves.
//!
//! Its own policy decides about requests. That policy is in no snapshot of the doors, so no door reaches it, and
//! policies that users write have no effect here.

mod policy;

pub use policy::{AdminPolicy, AdminPolicyError};

use crate::answer::{HttpAnswer, response};
use axum::extract::{Extension, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use durward_api::ownership::ADMIN_AUDIENCE;
use durward_authn::Credentials;
use durward_core::request;
use durward_core::request::{Call, ServiceTarget};
use durward_engine::Engine;
use durward_engine::metrics::Metrics;
use durward_runtime::peers::Peer;
use durward_runtime::readiness::{ManifestHealth, Readiness};
use serde::Serialize;
use std::path::PathBuf;
use std::sync::Arc;

/// Settings of the admin listener.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct AdminSettings {
    /// File with the AccessPolicy of the admin listener, instead of the built-in one
    #[arg(long = "admin-policy", value_name = "FILE")]
    pub policy: Option<PathBuf>,
    /// Apply the admin listener's policy to metrics too. Without this flag, anyone who can reach the listener can read
    /// them
    #[arg(long)]
    pub closed_metrics: bool,
}

/// State of the admin listener.
#[derive(Debug, Clone)]
pub struct AdminEndpoint {
    /// Its snapshot is listed, and it answers requests by the admin policy.
    pub engine: Arc<Engine>,
    pub metrics: Arc<Metrics>,
    /// Reported by `/readyz`.
    pub readiness: Arc<Readiness>,
    pub policy: AdminPolicy,
    /// Whether metrics are served without asking the policy.
    pub open_metrics: bool,
}

/// The admin listener as a router. Its policy covers everything but health, and metrics if they are open.
pub fn router(admin: AdminEndpoint) -> Router {
    let metrics = metrics_router(Arc::clone(&admin.metrics));
    let snapshot = Router::new().route("/snapshot", get(snapshot)).with_state(admin.clone());
    let enforce_policy = from_fn_with_state(admin.clone(), enforce_policy);
    let routes = if admin.open_metrics {
        snapshot.route_layer(enforce_policy).merge(metrics)
    } else {
        snapshot.merge(metrics).route_layer(enforce_policy)
    };
    health_router(admin.readiness).merge(routes)
}

/// Health and metrics of a gate.
pub fn gate_router(metrics: Arc<Metrics>, readiness: Arc<Readiness>) -> Router {
    health_router(readiness).merge(metrics_router(metrics))
}

fn metrics_router(metrics: Arc<Metrics>) -> Router {
    Router::new().route("/metrics", get(self::metrics)).with_state(metrics)
}

fn health_router(readiness: Arc<Readiness>) -> Router {
    Router::new().route("/healthz", get(|| async { "ok\n" })).route("/readyz", get(ready)).with_state(readiness)
}

/// Passes requests on that the policy allows.
async fn enforce_policy(
    State(admin): State<AdminEndpoint>,
    Extension(peer): Extension<Peer>,
    request: Request,
    next: Next,
) -> Response {
    let call = Call::Http { method: request.method().as_str(), path: request.uri().path() };
    let admin_request = request::Request {
        target: ServiceTarget::Audience(ADMIN_AUDIENCE),
        call,
        source: Some(peer.address.ip()),
        evidence: &(),
    };
    let credentials = Credentials {
        headers: request.headers(),
        // no proxy is in between: a certificate is the caller's own
        certificate: peer.certificate.as_deref(),
        client_cert_header_trusted: false,
    };
    let answer = admin.engine.authorize_admin(&admin.policy.0, &admin_request, credentials).await;
    if answer.passes() { next.run(request).await } else { response(HttpAnswer::new(&answer, None)) }
}

async fn ready(State(readiness): State<Arc<Readiness>>) -> impl IntoResponse {
    let manifests = readiness.manifest_health();
    let count = manifests.problems.len();
    if manifests.all_closed {
        let text = format!("every request is denied: {count} mistakes in the manifests; see /snapshot or the log\n");
        (StatusCode::SERVICE_UNAVAILABLE, text)
    } else if !readiness.is_ready() {
        let text = "policies are not loaded yet, or the process is shutting down\n";
        (StatusCode::SERVICE_UNAVAILABLE, text.to_owned())
    } else if count > 0 {
        (StatusCode::OK, format!("ready, with {count} mistakes in the manifests; see /snapshot or the log\n"))
    } else {
        (StatusCode::OK, "ready\n".to_owned())
    }
}

async fn metrics(State(metrics): State<Arc<Metrics>>) -> impl IntoResponse {
    let format = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, format)], metrics.text())
}

#[derive(Debug, Serialize)]
struct SnapshotView {
    revision: String,
    services: Vec<ServiceView>,
    /// The state of the manifests in files, if any of them is invalid or skipped.
    #[serde(skip_serializing_if = "Option::is_none")]
    manifests: Option<ManifestView>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ManifestView {
    problems: Vec<String>,
    notices: Vec<String>,
    all_closed: bool,
}

impl ManifestView {
    fn of(health: &ManifestHealth) -> Option<Self> {
        let ManifestHealth { problems, notices, all_closed } = health.clone();
        let view = Self { problems, notices, all_closed };
        (*health != ManifestHealth::default()).then_some(view)
    }
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
struct ServiceView {
    namespace: String,
    audience: String,
    hosts: Vec<String>,
    operations: usize,
    /// Policies that close the service: their valid versions are unknown.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    closed_by: Vec<String>,
}

async fn snapshot(State(admin): State<AdminEndpoint>) -> impl IntoResponse {
    let snapshot = admin.engine.snapshot();
    let mut services: Vec<ServiceView> = snapshot
        .services()
        .map(|service| ServiceView {
            namespace: service.key().namespace.to_string(),
            audience: service.key().audience.to_string(),
            hosts: service.hosts().iter().map(ToString::to_string).collect(),
            operations: service.operations(),
            closed_by: service.closed_by().iter().map(ToString::to_string).collect(),
        })
        .collect();
    services.sort_unstable();
    let manifests = ManifestView::of(&admin.readiness.manifest_health());
    Json(SnapshotView { revision: snapshot.revision().to_string(), services, manifests })
}
