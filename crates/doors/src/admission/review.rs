//! Messages between the admission webhook and the task that reviews resources.

use durward_api::field_error::FieldError;
use kube::core::DynamicObject;
use tokio::sync::{mpsc, oneshot};

/// A resource to review.
#[derive(Debug)]
pub struct ResourceReview {
    /// Kind of the resource.
    pub kind: String,
    /// The resource as it would be stored.
    pub object: Box<DynamicObject>,
    /// Receives the findings.
    pub reply: oneshot::Sender<ReviewFindings>,
}

/// The findings of a review.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReviewFindings {
    /// Errors, any of which refuses the resource.
    pub errors: Vec<FieldError>,
    /// Likely mistakes in a valid resource.
    pub warnings: Vec<FieldError>,
}

/// Sends resources to the task that holds all others.
pub type Reviewer = mpsc::Sender<ResourceReview>;
