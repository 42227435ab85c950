//! What the admission webhooks share.

use crate::admission::review::Reviewer;
use axum::http::StatusCode;
use durward_api::compile::ClusterDomains;
use durward_engine::Engine;
use kube::core::DynamicObject;
use kube::core::admission::{AdmissionRequest, AdmissionResponse};
use std::sync::Arc;

/// The request of an AdmissionReview.
pub(super) type ReviewRequest = AdmissionRequest<DynamicObject>;

/// State of the webhooks.
#[derive(Debug, Clone)]
pub struct AdmissionWebhooks {
    pub engine: Arc<Engine>,
    /// SPIFFE trust domain of the cluster's workloads.
    pub trust_domain: Arc<str>,
    /// Reviews Durward's own resources.
    pub reviewer: Reviewer,
    /// Settings of injected sidecars.
    pub sidecars: SidecarSettings,
}

/// Settings of the sidecars that pods get.
#[derive(Debug, Clone)]
pub struct SidecarSettings {
    /// Image of Durward.
    pub image: String,
    /// URL of the controller's token listener.
    pub controller: String,
    /// Domains that policies are compiled for.
    pub domains: ClusterDomains,
}

/// A refusal with the status that `kubectl` shows.
pub(super) fn refuse(request: &ReviewRequest, code: StatusCode, reason: &str, message: String) -> AdmissionResponse {
    let mut response = AdmissionResponse::from(request).deny(message);
    response.result.code = code.as_u16();
    reason.clone_into(&mut response.result.reason);
    response
}
