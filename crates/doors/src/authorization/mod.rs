//! Authorization webhook of the Kubernetes API server (`SubjectAccessReview`, `authorization.k8s.io/v1`).
//!
//! It denies a request that a policy of the namespace declares and refuses. Otherwise it has no opinion and leaves the
//! request to the cluster's own authorizers, unless cluster admins let policies allow requests as well.

use crate::answer::refusal_message;
use crate::body_limit::with_body_limit;
use axum::body::Bytes;
use axum::extract::Extension;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use durward_authn::kubernetes_user;
use durward_core::kubernetes::{ApiCall, Verb};
use durward_engine::audit::ReviewPeer;
use durward_engine::{Door, Engine, KubernetesReview, Purpose};
use k8s_openapi::api::authentication::v1::UserInfo;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec, SubjectAccessReviewStatus,
};
use std::sync::Arc;

/// Path of the webhook.
pub(crate) const ACCESS_PATH: &str = "/review/access";
/// Largest review, in bytes: a user with a thousand groups fits.
const MAX_REVIEW: usize = 256 * 1024;
/// Namespace that must work for the cluster to recover.
const KUBE_SYSTEM: &str = "kube-system";

/// State of the webhook.
#[derive(Debug, Clone)]
pub struct AuthorizationWebhook {
    pub engine: Arc<Engine>,
    /// SPIFFE trust domain of the cluster's workloads.
    pub trust_domain: Arc<str>,
    /// Namespace of this installation.
    pub namespace: Arc<str>,
    /// Whether the API server refuses requests when the admission webhook is down (`failurePolicy: Fail`).
    pub admission_fails_closed: bool,
    /// Whether a request that policies allow is allowed without asking the cluster's own authorizers.
    pub allows: bool,
}

/// The webhook as a router.
pub fn router(webhook: AuthorizationWebhook) -> Router {
    let review = async move |Extension(peer): Extension<ReviewPeer>, body: Bytes| review(&webhook, &peer, &body).await;
    let router = Router::new().route(ACCESS_PATH, post(review));
    with_body_limit(router, MAX_REVIEW)
}

async fn review(webhook: &AuthorizationWebhook, peer: &ReviewPeer, body: &[u8]) -> Response {
    let Ok(mut review) = serde_json::from_slice::<SubjectAccessReview>(body) else {
        return (StatusCode::BAD_REQUEST, "not a SubjectAccessReview of authorization.k8s.io/v1\n").into_response();
    };
    review.status = Some(status(webhook, peer, &review.spec).await);
    Json(review).into_response()
}

/// The status of a review: denied, allowed, or no opinion.
async fn status(
    this: &AuthorizationWebhook,
    peer: &ReviewPeer,
    spec: &SubjectAccessReviewSpec,
) -> SubjectAccessReviewStatus {
    let no_opinion = SubjectAccessReviewStatus::default();
    let Some(resource) = &spec.resource_attributes else { return no_opinion };
    let namespace = resource.namespace.as_deref().unwrap_or_default();
    let Some(call) = call(resource) else { return no_opinion };
    // the admission webhook skips these too, so that no policy keeps a cluster from recovering
    if namespace.is_empty() || namespace == KUBE_SYSTEM || namespace == &*this.namespace || is_control_plane(spec) {
        return no_opinion;
    }
    let user = UserInfo {
        username: spec.user.clone(),
        groups: spec.groups.clone(),
        uid: spec.uid.clone(),
        extra: spec.extra.clone(),
    };
    let caller = kubernetes_user(&this.trust_domain, &user).map(Arc::new);
    let review = KubernetesReview {
        door: Door::Authorization,
        // `kubectl auth can-i` sends the same review as a request
        purpose: Purpose::Question,
        peer,
        namespace,
        call,
        caller: caller.as_ref(),
        evidence: &(),
    };
    let answers = this.engine.authorize_kubernetes(&review).await;
    // admission sees the object that a refusal depends on, and requests the approval that a caller lacks
    let admission_decides = this.admission_fails_closed && is_admitted(&call);
    let refused = answers.iter().find(|answer| !(answer.passes() || answer.awaits_admission() && admission_decides));
    match (refused, answers.first()) {
        (Some(refused), _) => {
            SubjectAccessReviewStatus { denied: Some(true), reason: Some(refusal_message(refused)), ..no_opinion }
        }
        (None, Some(_)) if this.allows && answers.iter().all(|answer| answer.decision.allowed()) => {
            SubjectAccessReviewStatus { allowed: true, reason: Some("policies allow it".to_owned()), ..no_opinion }
        }
        _ => no_opinion,
    }
}

/// Whether the admission webhook is also asked about a request. It is for every [`call`] but those on Namespaces, which
/// are in no namespace themselves.
fn is_admitted(call: &ApiCall<'_>) -> bool {
    !(call.group.is_empty() && call.resource == "namespaces")
}

/// Nodes and control plane, as the match conditions of the admission webhook exclude them.
fn is_control_plane(spec: &SubjectAccessReviewSpec) -> bool {
    let user = spec.user.as_deref().unwrap_or_default();
    let is_in = |groups: &[&str]| spec.groups.iter().flatten().any(|group| groups.contains(&group.as_str()));
    user.starts_with("system:kube-")
        || user == "system:apiserver"
        || user.starts_with("system:serviceaccount:kube-system:")
        || is_in(&["system:nodes", "system:masters"])
}

/// The request as policies describe it. Policies don't cover reads, unknown verbs, or wildcards for resources and
/// verbs.
fn call(resource: &ResourceAttributes) -> Option<ApiCall<'_>> {
    fn text(text: &Option<String>) -> &str {
        text.as_deref().unwrap_or_default()
    }
    let group = text(&resource.group);
    let name = text(&resource.resource);
    let subresource = text(&resource.subresource);
    let is_connection = matches!(
        (name, subresource),
        ("pods", "exec" | "attach" | "portforward" | "proxy") | ("services" | "nodes", "proxy")
    );
    let verb = match text(&resource.verb) {
        // a websocket begins with a GET
        "get" | "create" | "update" | "patch" | "delete" | "connect" if is_connection => Verb::Connect,
        "create" => Verb::Create,
        "update" | "patch" => Verb::Update,
        "delete" | "deletecollection" => Verb::Delete,
        _ => return None,
    };
    let has_wildcard = [group, name, subresource].contains(&"*");
    (!has_wildcard && !name.is_empty()).then_some(ApiCall {
        group,
        resource: name,
        subresource,
        verb,
        name: text(&resource.name),
    })
}

#[cfg(test)]
mod tests;
