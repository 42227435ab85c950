//! Access evaluation (sections 6 and 7).

use crate::answer::approval_name;
use crate::authzen::messages::{
    BatchSemantic, EvaluatedAction, EvaluatedResource, EvaluationBatch, EvaluationEvidence, EvaluationRequest,
    EvaluationResponse, MalformedRequest, parse, with_request_id,
};
use crate::doors::Doors;
use axum::Json;
use axum::body::Bytes;
use axum::extract::{Extension, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use durward_core::path::Captures;
use durward_core::request::{Call, Request, ServiceTarget};
use durward_engine::{Door, EngineAnswer, EngineCaller};
use durward_runtime::peers::Peer;
use serde_json::{Value, json};
use std::sync::Arc;
use url::Url;

/// Most evaluations of one request.
const MAX_EVALUATIONS: usize = 100;

pub(super) async fn evaluation(
    State(doors): State<Doors>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let response = match parse(&body) {
        Ok(request) => evaluate(&doors, &peer, &request, &EvaluationRequest::default()).await,
        Err(malformed) => Err(malformed),
    };
    let response = response.map(|response| Json(response).into_response());
    with_request_id(&headers, response.unwrap_or_else(IntoResponse::into_response))
}

pub(super) async fn evaluations(
    State(doors): State<Doors>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let response = match parse(&body) {
        Ok(batch) => evaluate_batch(&doors, &peer, batch).await,
        Err(malformed) => Err(malformed),
    };
    with_request_id(&headers, response.unwrap_or_else(IntoResponse::into_response))
}

async fn evaluate_batch(doors: &Doors, peer: &Peer, batch: EvaluationBatch) -> Result<Response, MalformedRequest> {
    if batch.evaluations.len() > MAX_EVALUATIONS {
        return Err(MalformedRequest(format!("at most {MAX_EVALUATIONS} evaluations are possible in one request")));
    }
    if batch.evaluations.is_empty() {
        // without `evaluations` the request is a single evaluation (section 7.1)
        let response = evaluate(doors, peer, &batch.defaults, &EvaluationRequest::default()).await?;
        return Ok(Json(response).into_response());
    }
    let mut responses = Vec::with_capacity(batch.evaluations.len());
    for request in &batch.evaluations {
        let response = match evaluate(doors, peer, request, &batch.defaults).await {
            Ok(response) => response,
            // a malformed evaluation is denied; the others are evaluated
            Err(MalformedRequest(message)) => {
                let context = json!({"error": {"status": 400, "message": message}});
                EvaluationResponse { decision: false, context: Some(context) }
            }
        };
        let is_last = match batch.options.evaluations_semantic {
            BatchSemantic::ExecuteAll => false,
            BatchSemantic::DenyOnFirstDeny => !response.decision,
            BatchSemantic::PermitOnFirstPermit => response.decision,
        };
        responses.push(response);
        if is_last {
            break;
        }
    }
    Ok(Json(json!({"evaluations": responses})).into_response())
}

async fn evaluate(
    doors: &Doors,
    peer: &Peer,
    request: &EvaluationRequest,
    defaults: &EvaluationRequest,
) -> Result<EvaluationResponse, MalformedRequest> {
    let missing = MalformedRequest::missing;
    let subject = request.subject.as_ref().or(defaults.subject.as_ref()).ok_or_else(|| missing("subject"))?;
    let action = request.action.as_ref().or(defaults.action.as_ref()).ok_or_else(|| missing("action"))?;
    let resource = request.resource.as_ref().or(defaults.resource.as_ref()).ok_or_else(|| missing("resource"))?;
    let context = request.context.as_ref().or(defaults.context.as_ref());

    let principal = subject.principal(&doors.authenticator)?;
    let (target, call) = target_and_call(action, resource)?;
    let evidence = &EvaluationEvidence::new(context, resource)?;
    let request = Request { target, call, source: Some(peer.address.ip()), evidence };
    let caller = principal.map_or(EngineCaller::Anonymous, |principal| EngineCaller::Vouched(Arc::new(principal)));
    let answer = doors.engine.authorize(Door::AuthZen, &request, caller).await;
    // reasons only on request: the interoperability tests compare whole batches
    let explain = context.and_then(|context| context.get("explain")).and_then(Value::as_bool).unwrap_or(false);
    Ok(EvaluationResponse {
        decision: answer.passes(),
        context: if explain { Some(explanation(&answer)) } else { obligation(&answer) },
    })
}

/// The service and the operation of an evaluation.
pub(super) fn target_and_call<'a>(
    action: &'a EvaluatedAction,
    resource: &'a EvaluatedResource,
) -> Result<(ServiceTarget<'a>, Call<'a>), MalformedRequest> {
    if resource.kind == "http" {
        let rest = resource.id.split_once("//").map(|(_, rest)| rest);
        let slash = rest.and_then(|rest| rest.find('/').map(|slash| rest.split_at(slash)));
        let (host, path) = slash.ok_or_else(|| {
            MalformedRequest("`resource.id` of type `http` must be a URL with host and path".to_owned())
        })?;
        return Ok((ServiceTarget::Host(host), Call::Http { method: &action.name, path }));
    }
    let mut captures: Captures = resource
        .properties
        .iter()
        .filter_map(|(name, value)| value.as_str().map(|value| (name.as_str().into(), value.into())))
        .collect();
    captures.insert("id".into(), resource.id.as_str().into());
    Ok((ServiceTarget::Audience(&resource.kind), Call::Named { operation: &action.name, captures }))
}

fn explanation(answer: &EngineAnswer) -> Value {
    let decision = &answer.decision;
    let missing_approval = decision.approval.as_ref().filter(|approval| approval.granted.is_none());
    json!({
        "id": answer.id.to_string(),
        "reason": decision.reason,
        "policy": decision.policy.as_ref().map(ToString::to_string),
        "operation": decision.operation,
        "rules": decision.rules,
        "missing": decision.missing,
        "approval": missing_approval.map(|approval| approval_name(&approval.subject)),
        "acr_values": decision.challenge.map(|challenge| challenge.assurance.acr()),
        "max_age": decision.challenge.and_then(|challenge| challenge.max_age).map(|age| age.num_seconds()),
        "step_up_uri": answer.step_up.as_ref().map(Url::as_str),
        "revision": decision.revision.to_string(),
    })
}

/// What the enforcement point has to request from the subject, if that suffices for an allow (RFC 9470).
fn obligation(answer: &EngineAnswer) -> Option<Value> {
    if answer.passes() {
        return None;
    }
    let challenge = answer.decision.challenge?;
    let mut obligation = json!({"acr_values": challenge.assurance.acr()});
    if let Some(members) = obligation.as_object_mut() {
        members.extend(challenge.max_age.map(|age| ("max_age".to_owned(), age.num_seconds().into())));
        members.extend(answer.step_up.as_ref().map(|page| ("step_up_uri".to_owned(), page.as_str().into())));
    }
    Some(obligation)
}
