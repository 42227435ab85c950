//! Durward's own resources, reviewed before the API server stores them.

use crate::admission::{Request, Webhooks, refuse};
use axum::http::StatusCode;
use durward_api::field_error::FieldError;
use kube::core::DynamicObject;
use kube::core::admission::AdmissionResponse;
use tokio::sync::{mpsc, oneshot};

/// A resource to be looked at, and where the outcome goes.
#[derive(Debug)]
pub struct Review {
    /// Its kind.
    pub kind: String,
    /// The resource as it is to be stored.
    pub object: Box<DynamicObject>,
    /// Where the outcome goes.
    pub reply: oneshot::Sender<Reviewed>,
}

/// What became of a review.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reviewed {
    /// Mistakes: the resource is refused for any of them.
    pub errors: Vec<FieldError>,
    /// What is allowed and still seems wrong.
    pub warnings: Vec<FieldError>,
}

/// Hands resources to the task that knows all others.
pub type Reviewer = mpsc::Sender<Review>;

/// Reviews one resource. What does not change what is decided goes through: a deletion, a change of metadata, the last
/// steps of an object that is being deleted.
pub(super) async fn admit(webhooks: &Webhooks, request: &Request) -> AdmissionResponse {
    let Some(object) = &request.object else { return AdmissionResponse::from(request) };
    let spec = |object: &DynamicObject| object.data.get("spec").cloned();
    let unchanged = request.old_object.as_ref().is_some_and(|old| spec(old) == spec(object));
    if unchanged || object.metadata.deletion_timestamp.is_some() {
        return AdmissionResponse::from(request);
    }
    let (reply, reviewed) = oneshot::channel();
    let mut object = Box::new(object.clone());
    // a name that the API server is still to make up is as good as any
    object.metadata.name =
        object.metadata.name.or_else(|| object.metadata.generate_name.as_ref().map(|name| format!("{name}x")));
    let review = Review { kind: request.kind.kind.clone(), object, reply };
    let reviewed = match webhooks.reviewer.send(review).await {
        Ok(()) => reviewed.await.ok(),
        Err(_) => None,
    };
    let Some(Reviewed { errors, warnings }) = reviewed else {
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
