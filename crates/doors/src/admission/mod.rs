//! Admission webhooks of the Kubernetes API server (`admission.k8s.io/v1`).
//!
//! One path decides requests that policies declare as `kubernetes` operations, one reviews Durward's own resources
//! before they are stored, and one injects identities, agents and gates into pods.

mod injection;
mod operations;
mod resources;
mod review;
mod webhook;

pub use injection::{INJECTION_LABEL, InjectionMode};
pub use review::{ResourceReview, ReviewFindings, Reviewer};
pub use webhook::{AdmissionWebhooks, SidecarSettings};

use crate::body_limit::with_body_limit;
use axum::Router;
use axum::body::Bytes;
use axum::extract::Extension;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use durward_engine::audit::ReviewPeer;
use kube::core::DynamicObject;
use kube::core::admission::{AdmissionResponse, AdmissionReview};
use webhook::ReviewRequest;

/// Path for operations that policies declare.
pub const OPERATIONS_PATH: &str = "/admit/operations";
/// Path for Durward's own resources.
pub const RESOURCES_PATH: &str = "/admit/resources";
/// Path for pods with a label of their own.
pub const INJECTION_PATH: &str = "/admit/injection";
/// Prefix of the paths for pods in a namespace with a label; the label's value follows.
pub const NAMESPACE_INJECTION_PATH: &str = "/admit/injection/namespace/";
/// Largest review, in bytes: etcd takes objects of 1.5 MiB, and a review holds two of them.
const MAX_REVIEW: usize = 8 * 1024 * 1024;

/// The webhooks as a router.
pub fn router(webhooks: AdmissionWebhooks) -> Router {
    let mut router = Router::new();
    for mode in InjectionMode::INJECTING {
        let webhooks = webhooks.clone();
        let path = format!("{NAMESPACE_INJECTION_PATH}{}", mode.as_str());
        let admit = async move |request| injection::admit(&webhooks, &request, Some(mode));
        router = router.route(&path, post(move |body| answer(body, admit)));
    }
    let pod_webhooks = webhooks.clone();
    let operation_webhooks = webhooks.clone();
    let router = router
        .route(
            INJECTION_PATH,
            post(move |body| answer(body, async move |request| injection::admit(&pod_webhooks, &request, None))),
        )
        .route(
            OPERATIONS_PATH,
            post(move |Extension(peer): Extension<ReviewPeer>, body: Bytes| {
                let review = body.clone();
                let admit = async move |request| operations::admit(&operation_webhooks, &peer, &request, &review).await;
                answer(body, admit)
            }),
        )
        .route(
            RESOURCES_PATH,
            post(move |body| answer(body, async move |request| resources::admit(&webhooks, &request).await)),
        );
    with_body_limit(router, MAX_REVIEW)
}

/// Parses and answers a review. For an unreadable one, the API server applies its failure policy.
async fn answer(body: Bytes, admit: impl AsyncFnOnce(ReviewRequest) -> AdmissionResponse) -> Response {
    let review = serde_json::from_slice::<AdmissionReview<DynamicObject>>(&body).ok();
    let Some(request): Option<ReviewRequest> = review.and_then(|review| review.try_into().ok()) else {
        return (StatusCode::BAD_REQUEST, "not an AdmissionReview of admission.k8s.io/v1 with a request\n")
            .into_response();
    };
    axum::Json(admit(request).await.into_review()).into_response()
}

#[cfg(test)]
mod tests;
