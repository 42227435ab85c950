//! Admission webhooks of the Kubernetes API server (`admission.k8s.io/v1`).
//!
//! One path decides requests that policies declare as `kubernetes` operations, one reviews Durward's own resources before
//! they are stored, and one gives pods the volume with their identity.

mod injection;
mod operations;
mod resources;

pub use injection::{Agent, LABEL as INJECT, Mode};
pub use operations::message;
pub use resources::{Review, Reviewed, Reviewer};

use axum::Router;
use axum::body::Bytes;
use axum::extract::DefaultBodyLimit;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use durward_engine::Engine;
use kube::core::DynamicObject;
use kube::core::admission::{AdmissionRequest, AdmissionResponse, AdmissionReview};
use std::sync::Arc;

/// Where operations are decided.
pub const OPERATIONS_PATH: &str = "/admit/operations";
/// Where Durward's own resources are reviewed.
pub const RESOURCES_PATH: &str = "/admit/resources";
/// Where pods are given what their own label asks for.
pub const INJECTION_PATH: &str = "/admit/injection";
/// Where pods are given what their namespace's label asks for; its value follows.
pub const NAMESPACE_INJECTION_PATH: &str = "/admit/injection/namespace/";
/// Largest review, in bytes: etcd takes objects of 1.5 MiB, and a review holds two of them.
const MAX_REVIEW: usize = 8 * 1024 * 1024;

/// What the webhooks need.
#[derive(Debug, Clone)]
pub struct Webhooks {
    /// Decides.
    pub engine: Arc<Engine>,
    /// SPIFFE trust domain of the cluster's workloads.
    pub trust_domain: Arc<str>,
    /// Reviews Durward's own resources.
    pub reviewer: Reviewer,
    /// What is put beside pods that ask for the agent.
    pub agent: Agent,
}

/// The webhooks as a router.
pub fn router(webhooks: Webhooks) -> Router {
    let (operations, own) = (webhooks.clone(), webhooks.clone());
    let mut router = Router::new().route(
        INJECTION_PATH,
        post(move |body| answer(body, async move |request| injection::admit(&own, &request, None))),
    );
    for mode in Mode::ASKED {
        let of_namespace = webhooks.clone();
        router = router.route(
            &format!("{NAMESPACE_INJECTION_PATH}{}", mode.as_str()),
            post(move |body| answer(body, async move |request| injection::admit(&of_namespace, &request, Some(mode)))),
        );
    }
    router
        .route(
            OPERATIONS_PATH,
            post(move |body: Bytes| {
                let whole = body.clone();
                answer(body, async move |request| operations::admit(&operations, &request, &whole).await)
            }),
        )
        .route(
            RESOURCES_PATH,
            post(move |body| answer(body, async move |request| resources::admit(&webhooks, &request).await)),
        )
        .layer(DefaultBodyLimit::max(MAX_REVIEW))
}

type Request = AdmissionRequest<DynamicObject>;

/// Reads a review and answers it. One that can't be read is refused; the API server then goes by its failure policy.
async fn answer(body: Bytes, admit: impl AsyncFnOnce(Request) -> AdmissionResponse) -> Response {
    let review = serde_json::from_slice::<AdmissionReview<DynamicObject>>(&body).ok();
    let Some(request): Option<Request> = review.and_then(|review| review.try_into().ok()) else {
        return (StatusCode::BAD_REQUEST, "no AdmissionReview of admission.k8s.io/v1 with a request\n").into_response();
    };
    axum::Json(admit(request).await.into_review()).into_response()
}

/// A refusal with the status that `kubectl` shows.
fn refuse(request: &Request, code: StatusCode, reason: &str, message: String) -> AdmissionResponse {
    let mut response = AdmissionResponse::from(request).deny(message);
    response.result.code = code.as_u16();
    reason.clone_into(&mut response.result.reason);
    response
}

#[cfg(test)]
mod tests;
