//! Requests to the Kubernetes API that policies declare as operations.

use crate::admission::{Request, Webhooks, refuse};
use crate::answer::approval_name;
use axum::http::StatusCode;
use durward_authn::kubernetes_user;
use durward_core::decision::{Decision, Reason};
use durward_core::evidence::Evidence;
use durward_core::kubernetes::{ApiCall, Verb};
use durward_engine::{Answer, Door};
use kube::core::admission::{AdmissionResponse, Operation};
use serde_json::{Map, Value};
use std::sync::Arc;

/// What conditions read of a review: only then is it read as a whole.
#[derive(Debug)]
struct Reviewed<'b>(&'b [u8]);

impl Evidence for Reviewed<'_> {
    fn objects(&self) -> Option<Map<String, Value>> {
        let mut review: Value = serde_json::from_slice(self.0).ok()?;
        let request = review.get_mut("request")?;
        let mut objects = Map::new();
        for name in ["object", "oldObject"] {
            let object = request.get_mut(name).map(Value::take).filter(|object| !object.is_null());
            objects.extend(object.map(|object| (name.to_owned(), without_managers(object))));
        }
        Some(objects)
    }
}

/// An object without the list of who set which field: it is longer than all the rest, and anybody's to write.
fn without_managers(mut object: Value) -> Value {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    object
}

/// Decides one request. A request in no namespace, or that no policy of its namespace declares, goes through.
pub(super) async fn admit(webhooks: &Webhooks, request: &Request, review: &[u8]) -> AdmissionResponse {
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
    let (engine, evidence) = (&webhooks.engine, Reviewed(review));
    let answers = engine.ask_kubernetes(Door::Admission, namespace, call, caller.as_ref(), &evidence).await;
    match answers.iter().find(|answer| !answer.passes()) {
        Some(answer) => refuse(request, StatusCode::FORBIDDEN, "Forbidden", message(answer)),
        None => {
            let mut response = AdmissionResponse::from(request);
            let audited = answers.iter().filter(|answer| !answer.decision.allowed());
            let warnings: Vec<String> = audited
                .map(|answer| format!("durward would refuse this, but only audits: {}", message(answer)))
                .collect();
            response.warnings = (!warnings.is_empty()).then_some(warnings);
            response
        }
    }
}

/// What a person sees in `kubectl`: the operation, what is missing, and where the record is.
pub fn message(answer: &Answer) -> String {
    let decision = &answer.decision;
    let operation = decision.operation.as_deref().unwrap_or_default();
    let policy = decision.policy.as_ref().map(ToString::to_string).unwrap_or_default();
    let caller = answer.principal.as_ref().map_or_else(|| "nobody known".to_owned(), |p| p.identity().id.to_string());
    if decision.reason == Reason::NoPolicy {
        let service = answer.audience.as_deref().unwrap_or_default();
        return format!(
            "service `{service}` is closed, so what its policies governed is refused until policy {policy} is mended or removed \
             (decision {})",
            answer.id
        );
    }
    let why = if answer.unrecorded { "the decision could not be recorded".to_owned() } else { why(decision) };
    format!("operation `{operation}` of policy {policy} is refused for {caller}: {why} (decision {})", answer.id)
}

fn why(decision: &Decision) -> String {
    match (decision.reason, &decision.challenge) {
        (Reason::InsufficientScope, _) => {
            let missing: Vec<_> = decision.missing.iter().map(|scope| format!("`{scope}`")).collect();
            format!("missing scope {}", missing.join(" and "))
        }
        (Reason::AssuranceTooLow, Some(challenge)) => {
            let fresh = challenge.max_age.map(|age| format!(" not older than {} s", age.num_seconds()));
            format!("its risk asks for {}{}", challenge.assurance, fresh.unwrap_or_default())
        }
        (Reason::ApprovalRequired, _) => {
            let name = decision.approval.as_ref().map(|approval| approval_name(&approval.subject)).unwrap_or_default();
            format!("it asks for somebody's approval: `durward approve {name}`, and try again")
        }
        (Reason::Denied, _) => {
            let denials: Vec<_> = decision.rules.iter().map(|rule| format!("`{rule}`")).collect();
            format!("{} applies", denials.join(" and "))
        }
        (reason, _) => format!("{reason}"),
    }
}
