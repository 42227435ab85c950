//! Durward's own resources, reviewed before the API server stores them.

use crate::admission::review::{ResourceReview, ReviewFindings};
use crate::admission::webhook::{AdmissionWebhooks, ReviewRequest, refuse};
use axum::http::StatusCode;
use durward_api::field_error::FieldError;
use kube::core::DynamicObject;
use kube::core::admission::AdmissionResponse;
use tokio::sync::oneshot;

/// Reviews one resource. Requests that leave the `spec` unchanged pass without a review: deletions, changes of
/// metadata, and the last updates of an object that is being deleted.
pub(super) async fn admit(webhooks: &AdmissionWebhooks, request: &ReviewRequest) -> AdmissionResponse {
    let Some(object) = &request.object else { return AdmissionResponse::from(request) };
    let spec = |object: &DynamicObject| object.data.get("spec").cloned();
    let is_unchanged = request.old_object.as_ref().is_some_and(|old| spec(old) == spec(object));
    if is_unchanged || object.metadata.deletion_timestamp.is_some() {
        return AdmissionResponse::from(request);
    }
    let (reply, findings) = oneshot::channel();
    let mut object = Box::new(object.clone());
    // the API server has not generated the name yet; the review only needs one that is possible
    object.metadata.name =
        object.metadata.name.or_else(|| object.metadata.generate_name.as_ref().map(|name| format!("{name}x")));
    let review = ResourceReview { kind: request.kind.kind.clone(), object, reply };
    let findings = match webhooks.reviewer.send(review).await {
        Ok(()) => findings.await.ok(),
        Err(_) => None,
    };
    let Some(ReviewFindings { errors, warnings }) = findings else {
        let message = "durward is not ready to review resources; try again".to_owned();
        return refuse(request, StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", message);
    };
    let lines = |errors: &[FieldError]| errors.iter().map(ToString::to_string).collect::<Vec<_>>();
    let mut response = match errors.as_slice() {
        [] => AdmissionResponse::from(request),
        errors => refuse(request, StatusCode::UNPROCESSABLE_ENTITY, "Invalid", lines(errors).join("; ")),
    };
    response.warnings = (!warnings.is_empty()).then(|| lines(&warnings));
    response
}
