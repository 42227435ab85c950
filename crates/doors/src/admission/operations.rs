//! Requests to the Kubernetes API that policies declare as operations.

use crate::admission::webhook::{AdmissionWebhooks, ReviewRequest, refuse};
use crate::answer::refusal_message;
use axum::http::StatusCode;
use durward_authn::kubernetes_user;
use durward_core::evidence::Evidence;
use durward_core::kubernetes::{ApiCall, Verb};
use durward_engine::audit::ReviewPeer;
use durward_engine::{Door, KubernetesReview, Purpose};
use kube::core::admission::{AdmissionResponse, Operation};
use serde_json::{Map, Value};
use std::sync::Arc;

/// The objects of a review, which is parsed completely only if a condition reads them.
#[derive(Debug)]
struct ReviewEvidence<'b>(&'b [u8]);

impl Evidence for ReviewEvidence<'_> {
    fn objects(&self) -> Option<Map<String, Value>> {
        let mut review: Value = serde_json::from_slice(self.0).ok()?;
        let request = review.get_mut("request")?;
        let mut objects = Map::new();
        for name in ["object", "oldObject"] {
            let object = request.get_mut(name).map(Value::take).filter(|object| !object.is_null());
            objects.extend(object.map(|object| (name.to_owned(), without_managed_fields(object))));
        }
        Some(objects)
    }
}

/// An object without `managedFields`, which are longer than the rest, and which every client can write.
fn without_managed_fields(mut object: Value) -> Value {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    object
}

/// Answers one request. Requests outside namespaces, or that no policy of the namespace declares, pass.
pub(super) async fn admit(
    webhooks: &AdmissionWebhooks,
    peer: &ReviewPeer,
    request: &ReviewRequest,
    review: &[u8],
) -> AdmissionResponse {
    let Some(namespace) = request.namespace.as_deref().filter(|namespace| !namespace.is_empty()) else {
        return AdmissionResponse::from(request);
    };
    let call = ApiCall {
        group: &request.resource.group,
        resource: &request.resource.resource,
        subresource: request.sub_resource.as_deref().unwrap_or_default(),
        verb: match request.operation {
            Operation::Create => Verb::Create,
            Operation::Update => Verb::Update,
            Operation::Delete => Verb::Delete,
            Operation::Connect => Verb::Connect,
        },
        name: &request.name,
    };
    let caller = kubernetes_user(&webhooks.trust_domain, &request.user_info).map(Arc::new);
    let review = KubernetesReview {
        door: Door::Admission,
        purpose: if request.dry_run { Purpose::Question } else { Purpose::Enforcement },
        peer,
        namespace,
        call,
        caller: caller.as_ref(),
        evidence: &ReviewEvidence(review),
    };
    let answers = webhooks.engine.authorize_kubernetes(&review).await;
    match answers.iter().find(|answer| !answer.passes()) {
        Some(answer) => refuse(request, StatusCode::FORBIDDEN, "Forbidden", refusal_message(answer)),
        None => {
            let mut response = AdmissionResponse::from(request);
            let audited = answers.iter().filter(|answer| !answer.decision.allowed());
            let warnings: Vec<String> = audited
                .map(|answer| format!("durward would refuse this, but only audits: {}", refusal_message(answer)))
                .collect();
            response.warnings = (!warnings.is_empty()).then_some(warnings);
            response
        }
    }
}
