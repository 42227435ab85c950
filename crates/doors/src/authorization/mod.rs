//! Authorization webhook of the Kubernetes API server (`SubjectAccessReview`, `authorization.k8s.io/v1`).
//!
//! It says no where a policy of the namespace declares the request and refuses it, and otherwise has no opinion: who may is
//! for the cluster's own authorizers to say, unless cluster admins let policies allow, too.

use crate::admission::message;
use axum::body::Bytes;
use axum::extract::DefaultBodyLimit;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use durward_authn::kubernetes_user;
use durward_core::kubernetes::{ApiCall, Verb};
use durward_engine::{Door, Engine};
use k8s_openapi::api::authentication::v1::UserInfo;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec, SubjectAccessReviewStatus,
};
use std::sync::Arc;

/// Where access is reviewed.
pub(crate) const ACCESS_PATH: &str = "/review/access";
/// Largest review, in bytes: a user with a thousand groups fits.
const MAX_REVIEW: usize = 256 * 1024;
/// Namespace that has to work for the cluster to recover.
const KUBE_SYSTEM: &str = "kube-system";

/// What the webhook needs.
#[derive(Debug, Clone)]
pub struct Authorization {
    /// Decides.
    pub engine: Arc<Engine>,
    /// SPIFFE trust domain of the cluster's workloads.
    pub trust_domain: Arc<str>,
    /// Namespace of this installation.
    pub namespace: Arc<str>,
    /// Whether admission refuses what it can't ask about (`failurePolicy: Fail`).
    pub admission_fails_closed: bool,
    /// Whether what policies allow is allowed, whatever the cluster's own authorizers would say.
    pub allows: bool,
}

/// The webhook as a router.
pub fn router(authorization: Authorization) -> Router {
    Router::new()
        .route(ACCESS_PATH, post(async move |body: Bytes| review(&authorization, &body).await))
        .layer(DefaultBodyLimit::max(MAX_REVIEW))
}

async fn review(authorization: &Authorization, body: &[u8]) -> Response {
    let Ok(mut review) = serde_json::from_slice::<SubjectAccessReview>(body) else {
        return (StatusCode::BAD_REQUEST, "no SubjectAccessReview of authorization.k8s.io/v1\n").into_response();
    };
    review.status = Some(answer(authorization, &review.spec).await);
    Json(review).into_response()
}

/// No opinion, where nothing is refused.
async fn answer(this: &Authorization, spec: &SubjectAccessReviewSpec) -> SubjectAccessReviewStatus {
    let none = SubjectAccessReviewStatus::default();
    let Some(resource) = &spec.resource_attributes else { return none };
    let namespace = resource.namespace.as_deref().unwrap_or_default();
    let Some(call) = call(resource) else { return none };
    // the same that the admission webhook is never asked about, so that nothing here keeps a cluster from recovering
    if namespace.is_empty() || namespace == KUBE_SYSTEM || namespace == &*this.namespace || is_control_plane(spec) {
        return none;
    }
    let user = UserInfo {
        username: spec.user.clone(),
        groups: spec.groups.clone(),
        uid: spec.uid.clone(),
        extra: spec.extra.clone(),
    };
    let caller = kubernetes_user(&this.trust_domain, &user).map(Arc::new);
    let answers = this.engine.ask_kubernetes(Door::Authorization, namespace, call, caller.as_ref(), &()).await;
    // what hangs on the object alone is for admission to say, which will have it
    let admission = this.admission_fails_closed && is_admitted(&call);
    let refused = answers.iter().find(|answer| !(answer.passes() || answer.awaits_object && admission));
    match (refused, answers.first()) {
        (Some(refused), _) => SubjectAccessReviewStatus { denied: Some(true), reason: Some(message(refused)), ..none },
        (None, Some(_)) if this.allows && answers.iter().all(|answer| answer.decision.allowed()) => {
            SubjectAccessReviewStatus { allowed: true, reason: Some("policies allow it".to_owned()), ..none }
        }
        _ => none,
    }
}

/// Whether our admission webhook is asked about a request that a policy declares: it is for all that changes or connects,
/// which is all there is a [`call`] for, but not for Namespaces themselves, which are in none.
fn is_admitted(call: &ApiCall<'_>) -> bool {
    !(call.group.is_empty() && call.resource == "namespaces")
}

/// Nodes and what runs the cluster, as in the admission webhook's conditions.
fn is_control_plane(spec: &SubjectAccessReviewSpec) -> bool {
    let user = spec.user.as_deref().unwrap_or_default();
    let one_of = |wanted: &[&str]| spec.groups.iter().flatten().any(|group| wanted.contains(&group.as_str()));
    user.starts_with("system:kube-")
        || user == "system:apiserver"
        || user.starts_with("system:serviceaccount:kube-system:")
        || one_of(&["system:nodes", "system:masters"])
}

/// The request in the words of policies. What only reads, and what they have no word for, is nothing to them; nor is a
/// question about all resources or verbs at once.
fn call(resource: &ResourceAttributes) -> Option<ApiCall<'_>> {
    fn text(text: &Option<String>) -> &str {
        text.as_deref().unwrap_or_default()
    }
    let (group, name, subresource) = (text(&resource.group), text(&resource.resource), text(&resource.subresource));
    let connects = matches!(
        (name, subresource),
        ("pods", "exec" | "attach" | "portforward" | "proxy") | ("services" | "nodes", "proxy")
    );
    let verb = match text(&resource.verb) {
        // a websocket begins with a GET
        "get" | "create" | "update" | "patch" | "delete" | "connect" if connects => Verb::Connect,
        "create" => Verb::Create,
        "update" | "patch" => Verb::Update,
        "delete" | "deletecollection" => Verb::Delete,
        _ => return None,
    };
    let all = [group, name, subresource].contains(&"*");
    (!all && !name.is_empty()).then_some(ApiCall {
        group,
        resource: name,
        subresource,
        verb,
        name: text(&resource.name),
    })
}

#[cfg(test)]
mod tests;
