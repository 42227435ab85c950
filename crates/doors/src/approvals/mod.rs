//! Approvals on the token listener: people approve or deny, and callers request an approval.
//!
//! An approver authenticates with a token for the audience of the service and a fresh second factor. Anyone else gets
//! the same response whether the approval exists or not.

use crate::answer::{HttpAnswer, response};
use crate::body_limit::with_body_limit;
use crate::headers::is_forwarded;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Extension, Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use chrono::Utc;
use durward_api::resources::{Approval, ApprovalState, ApprovalStatus};
use durward_api::translation::requested_subject;
use durward_approvals::{ApprovalObjects, ApprovalSeal, ApprovalStore, DecisionWrite, format_time};
use durward_authn::{Authenticator, Credentials, Expectation};
use durward_core::approval::ApproverRejection;
use durward_core::path::Captures;
use durward_core::request::{Call, Request, ServiceTarget};
use durward_engine::audit::approval::{ApprovalOutcome, ApprovalRecord, RefusedDecision};
use durward_engine::{Door, Engine, EngineCaller};
use durward_runtime::peers::{Peer, TrustedPeers};
use durward_runtime::slots::SourceSlots;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::net::IpAddr;
use std::sync::Arc;
use tokio::sync::watch;

/// Path of the endpoint; a decision adds namespace and name.
pub const PATH: &str = "/approvals";
/// Largest request, in bytes.
const MAX_BODY: usize = 4 * 1024;
/// Most decisions that are stored at once: approvers are few, and slow.
const CONCURRENCY: usize = 32;
/// Realm of challenges. It names no service, so it doesn't reveal which one an approval is about.
const REALM: &str = "durward";

/// State of the endpoint.
#[derive(Debug, Clone)]
pub struct ApprovalsEndpoint {
    pub engine: Arc<Engine>,
    pub authenticator: Arc<Authenticator>,
    pub store: ApprovalStore,
    pub seal: ApprovalSeal,
    /// The approvals that are stored now.
    pub stored: watch::Receiver<ApprovalObjects>,
    pub trust: Arc<TrustedPeers>,
    /// Limits the decisions that are stored at once.
    pub slots: SourceSlots,
}

impl ApprovalsEndpoint {
    /// The limit of an endpoint.
    pub fn slots(engine: &Engine) -> SourceSlots {
        SourceSlots::new("approvals", CONCURRENCY, engine.metrics().listeners().clone())
    }
}

/// The door as a router.
pub fn router(endpoint: ApprovalsEndpoint) -> Router {
    let router = Router::new().route(PATH, post(request_approval)).route("/approvals/{namespace}/{name}", post(decide));
    with_body_limit(router, MAX_BODY).with_state(endpoint)
}

/// The decision of an approver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ApprovalVerdict {
    Approve,
    Deny,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DecisionBody {
    decision: ApprovalVerdict,
}

async fn decide(
    State(endpoint): State<ApprovalsEndpoint>,
    Extension(peer): Extension<Peer>,
    Path(name): Path<(String, String)>,
    headers: HeaderMap,
    body: Result<Json<DecisionBody>, JsonRejection>,
) -> Response {
    let Ok(Json(DecisionBody { decision })) = body else {
        return no_store(StatusCode::BAD_REQUEST, json!({"error": "invalid_request"}));
    };
    let approval = endpoint.stored.borrow().get(&name).cloned();
    let credentials = credentials(&endpoint, &peer, &headers);
    let source = peer.address.ip();
    match endpoint.record_verdict(approval.as_deref(), &credentials, source, decision).await {
        Ok(body) => no_store(StatusCode::OK, body),
        Err(VerdictError::Refused { by, reason, response }) => {
            let (namespace, name) = &name;
            let refused =
                RefusedDecision { name: (namespace, name), approval: approval.as_deref(), by, reason, source };
            endpoint.engine.record(&ApprovalRecord::refused(refused));
            *response
        }
        Err(VerdictError::NotStored(response)) => *response,
    }
}

/// Why a verdict has no effect.
#[derive(Debug)]
enum VerdictError {
    /// The client may not decide.
    Refused { by: Option<String>, reason: String, response: Box<Response> },
    /// It may, and the decision can't be stored.
    NotStored(Box<Response>),
}

impl VerdictError {
    fn not_stored(response: Response) -> Self {
        Self::NotStored(Box::new(response))
    }
}

impl ApprovalsEndpoint {
    /// Authenticates the approver, records the verdict, and stores it signed.
    async fn record_verdict(
        &self,
        approval: Option<&Approval>,
        credentials: &Credentials<'_>,
        source: IpAddr,
        verdict: ApprovalVerdict,
    ) -> Result<Value, VerdictError> {
        let now = Utc::now();
        let snapshot = self.engine.snapshot();
        let found = approval.and_then(|approval| {
            let subject = requested_subject(approval)?;
            let (service, requirement) = snapshot.approval_requirement(&subject)?;
            Some((approval, subject, service, requirement))
        });
        // without an approval no credential is accepted
        let (audience, methods) = match &found {
            Some((_, _, service, requirement)) => (&*service.key().audience, requirement.authentication_methods()),
            None => ("", Vec::new()),
        };
        // the same response to all who may not decide, whether the approval exists or not
        let stranger = |by: Option<String>, reason: String| {
            let response = response(HttpAnswer::unauthenticated(REALM, is_presented(credentials)));
            VerdictError::Refused { by, reason, response: Box::new(response) }
        };
        let expect = Expectation { audience, methods: &methods };
        let authenticated = self.authenticator.authenticate(credentials, &expect, now).await;
        let Some((approval, subject, _, requirement)) = found else {
            return Err(stranger(None, "there is no such approval".to_owned()));
        };
        let approver = authenticated.map_err(|failure| stranger(None, failure.to_string()))?;
        requirement.may_decide(&approver, &subject.principal, now).map_err(|rejection| {
            let (by, reason) = (Some(approver.identity().id.to_string()), rejection.to_string());
            let answer = match rejection {
                ApproverRejection::NotNamed => return stranger(by, reason),
                ApproverRejection::Requester => HttpAnswer::forbidden(),
                ApproverRejection::NotFresh(challenge) => HttpAnswer::challenge(REALM, Some(challenge)),
            };
            VerdictError::Refused { by, reason, response: Box::new(response(answer)) }
        })?;
        // only who may decide takes a slot
        let Some(_slot) = self.slots.try_acquire(source) else {
            return Err(VerdictError::not_stored(unavailable()));
        };
        let decided_before = approval.status.as_ref().is_some_and(|status| status.state != ApprovalState::Pending);
        if decided_before && self.seal.verifies(approval) {
            return Err(VerdictError::not_stored(conflict()));
        }
        let mut decided = approval.clone();
        let (state, outcome) = match verdict {
            ApprovalVerdict::Approve => (ApprovalState::Approved, ApprovalOutcome::Approved),
            ApprovalVerdict::Deny => (ApprovalState::Denied, ApprovalOutcome::Denied),
        };
        decided.status = Some(ApprovalStatus {
            state,
            by: Some(approver.identity().id.to_string()),
            decided_at: Some(format_time(now)),
            expires_at: Some(format_time(now + requirement.valid_for)),
            signature: None,
        });
        let failed = |error: &dyn std::fmt::Display| {
            tracing::warn!(%error, "approval verdict can't be recorded or stored; asking the approver to try again");
            VerdictError::not_stored(unavailable())
        };
        self.seal.sign(&mut decided).map_err(|error| failed(&error))?;
        // recorded before it is valid
        if !self.engine.record(&ApprovalRecord::new(&decided, outcome)) {
            return Err(failed(&"the audit record could not be written"));
        }
        let written = self.store.record_decision(approval, &decided).await;
        if !matches!(written, Ok(DecisionWrite::Done)) {
            self.engine.record(&ApprovalRecord::new(&decided, ApprovalOutcome::Failed));
        }
        match written {
            Ok(DecisionWrite::Done) => {}
            Ok(DecisionWrite::Conflict) => return Err(VerdictError::not_stored(conflict())),
            Err(error) => return Err(failed(&error)),
        }
        let status = decided.status.unwrap_or_default();
        Ok(json!({
            "namespace": decided.metadata.namespace, "name": decided.metadata.name, "state": status.state,
            "principal": decided.spec.principal, "operation": decided.spec.operation,
            "by": status.by, "expiresAt": status.expires_at,
        }))
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ApprovalRequestBody {
    audience: String,
    operation: String,
}

/// Requests an approval for the caller, by asking the engine for the same decision that the gate has refused.
async fn request_approval(
    State(endpoint): State<ApprovalsEndpoint>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    body: Result<Json<ApprovalRequestBody>, JsonRejection>,
) -> Response {
    let Ok(Json(requested)) = body else {
        return no_store(StatusCode::BAD_REQUEST, json!({"error": "invalid_request"}));
    };
    let call = Call::Named { operation: &requested.operation, captures: Captures::new() };
    let request = Request {
        target: ServiceTarget::Audience(&requested.audience),
        call,
        source: Some(peer.address.ip()),
        evidence: &(),
    };
    let credentials = credentials(&endpoint, &peer, &headers);
    let presented = is_presented(&credentials);
    let answer = endpoint.engine.authorize(Door::Approvals, &request, EngineCaller::Credentials(credentials)).await;
    // strangers don't learn which services and operations exist
    if answer.principal.is_none() {
        return response(HttpAnswer::unauthenticated(REALM, presented));
    }
    response(HttpAnswer::new(&answer, None))
}

/// Whether a request has a credential, of any kind.
fn is_presented(credentials: &Credentials<'_>) -> bool {
    credentials.certificate.is_some() || credentials.headers.contains_key(header::AUTHORIZATION)
}

fn credentials<'c>(endpoint: &ApprovalsEndpoint, peer: &'c Peer, headers: &'c HeaderMap) -> Credentials<'c> {
    let certificate = endpoint.trust.caller_certificate(peer, is_forwarded(headers));
    Credentials { headers, certificate, client_cert_header_trusted: false }
}

fn unavailable() -> Response {
    no_store(StatusCode::SERVICE_UNAVAILABLE, json!({"error": "temporarily_unavailable"}))
}

/// The approval has been decided, or changed, in the meantime.
fn conflict() -> Response {
    no_store(StatusCode::CONFLICT, json!({"error": "already_decided"}))
}

fn no_store(status: StatusCode, body: Value) -> Response {
    (status, [(header::CACHE_CONTROL, "no-store")], Json(body)).into_response()
}
