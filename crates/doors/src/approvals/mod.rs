//! Where people approve, on the token listener, and where callers ask for it.
//!
//! Whoever may decide proves it anew, with a token for the audience of the service and a fresh second factor. Somebody who
//! can't is told nothing, not even whether there is such an approval.

use crate::answer::HttpAnswer;
use crate::answer::response;
use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, Extension, Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use chrono::Utc;
use durward_api::resources::{Approval, ApprovalState, ApprovalStatus};
use durward_api::translation::requested_subject;
use durward_approvals::{ApprovalObjects, ApprovalSeal, ApprovalStore, SettleOutcome, format_time};
use durward_authn::{Authenticator, Credentials, Expectation};
use durward_core::approval::ApproverRejection;
use durward_core::path::Captures;
use durward_core::request::{Call, Request, ServiceTarget};
use durward_engine::audit::approval::{Event, Outcome};
use durward_engine::{Caller, Door, Engine};
use durward_runtime::peers::{Peer, TrustedPeers};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::sync::{Semaphore, watch};

/// Where everything about approvals is.
pub const PATH: &str = "/approvals";
/// Largest request, in bytes.
const MAX_BODY: usize = 4 * 1024;
/// Requests that are worked on at once: people are few, and slow.
const CONCURRENCY: usize = 32;
/// Challenges at this door name no service: whoever asks need not learn which one it is about.
const REALM: &str = "durward";

/// What the door needs.
#[derive(Debug, Clone)]
pub struct Desk {
    pub engine: Arc<Engine>,
    pub authenticator: Arc<Authenticator>,
    pub store: ApprovalStore,
    pub seal: ApprovalSeal,
    pub known: watch::Receiver<ApprovalObjects>,
    pub trust: Arc<TrustedPeers>,
    pub slots: Arc<Semaphore>,
}

impl Desk {
    pub fn slots() -> Arc<Semaphore> {
        Arc::new(Semaphore::new(CONCURRENCY))
    }
}

/// The door as a router.
pub fn router(desk: Desk) -> Router {
    Router::new()
        .route(PATH, post(ask))
        .route("/approvals/{namespace}/{name}", post(decide))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(desk)
}

/// What a person decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Approve,
    Deny,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Decided {
    decision: Verdict,
}

async fn decide(
    State(desk): State<Desk>,
    Extension(peer): Extension<Peer>,
    Path(name): Path<(String, String)>,
    headers: HeaderMap,
    body: Result<Json<Decided>, JsonRejection>,
) -> Response {
    let Ok(Json(Decided { decision })) = body else {
        return answer(StatusCode::BAD_REQUEST, json!({"error": "invalid_request"}));
    };
    let Ok(_slot) = desk.slots.try_acquire() else {
        return answer(StatusCode::SERVICE_UNAVAILABLE, json!({"error": "temporarily_unavailable"}));
    };
    let approval = desk.known.borrow().get(&name).cloned();
    let credentials = credentials(&desk, &peer, &headers);
    match desk.settle(approval.as_deref(), &credentials, decision).await {
        Ok(told) => answer(StatusCode::OK, told),
        Err(refusal) => refusal,
    }
}

impl Desk {
    async fn settle(
        &self,
        approval: Option<&Approval>,
        credentials: &Credentials<'_>,
        verdict: Verdict,
    ) -> Result<Value, Response> {
        let (now, snapshot) = (Utc::now(), self.engine.snapshot());
        let found = approval.and_then(|approval| {
            let matter = requested_subject(approval)?;
            let (service, approvers) = snapshot.approval_requirement(&matter)?;
            Some((approval, matter, service, approvers))
        });
        // an approval that is not there is asked about by somebody who is accepted nowhere
        let (audience, ways) = match &found {
            Some((_, _, service, approvers)) => (&*service.key().audience, approvers.authentication_methods()),
            None => ("", Vec::new()),
        };
        let expect = Expectation { audience, methods: &ways };
        let authenticated = self.authenticator.authenticate(credentials, &expect, now).await;
        let person =
            authenticated.map_err(|failure| response(HttpAnswer::unauthenticated(REALM, !failure.is_missing())))?;
        let Some((approval, matter, _, approvers)) = found else {
            return Err(response(HttpAnswer::forbidden()));
        };
        approvers.may_decide(&person, &matter.principal, now).map_err(|unfit| match unfit {
            ApproverRejection::NotNamed | ApproverRejection::Requester => response(HttpAnswer::forbidden()),
            ApproverRejection::NotFresh(challenge) => response(HttpAnswer::challenge(REALM, Some(challenge))),
        })?;
        let decided_before = approval.status.as_ref().is_some_and(|status| status.state != ApprovalState::Pending);
        if decided_before && self.seal.verifies(approval) {
            return Err(conflict());
        }
        let mut decided = approval.clone();
        let (state, outcome) = match verdict {
            Verdict::Approve => (ApprovalState::Approved, Outcome::Approved),
            Verdict::Deny => (ApprovalState::Denied, Outcome::Denied),
        };
        decided.status = Some(ApprovalStatus {
            state,
            by: Some(person.identity().id.to_string()),
            decided_at: Some(format_time(now)),
            expires_at: Some(format_time(now + approvers.valid_for)),
            signature: None,
        });
        let unavailable = |why: &dyn std::fmt::Display| {
            tracing::warn!(%why, "what was decided about an approval can't be kept");
            answer(StatusCode::SERVICE_UNAVAILABLE, json!({"error": "temporarily_unavailable"}))
        };
        self.seal.sign(&mut decided).map_err(|error| unavailable(&error))?;
        // recorded before it counts
        if !self.engine.approval(&Event::of(&decided, outcome)) {
            return Err(unavailable(&"it could not be recorded"));
        }
        let written = self.store.record_decision(approval, &decided).await;
        if !matches!(written, Ok(SettleOutcome::Done)) {
            self.engine.approval(&Event::of(&decided, Outcome::Failed));
        }
        match written {
            Ok(SettleOutcome::Done) => {}
            Ok(SettleOutcome::Conflict) => return Err(conflict()),
            Err(error) => return Err(unavailable(&error)),
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
struct Asked {
    audience: String,
    operation: String,
}

/// A caller that was refused at a gate, which can't ask for itself, asks here: the decision is the same.
async fn ask(
    State(desk): State<Desk>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    body: Result<Json<Asked>, JsonRejection>,
) -> Response {
    let Ok(Json(asked)) = body else {
        return answer(StatusCode::BAD_REQUEST, json!({"error": "invalid_request"}));
    };
    let Ok(_slot) = desk.slots.try_acquire() else {
        return answer(StatusCode::SERVICE_UNAVAILABLE, json!({"error": "temporarily_unavailable"}));
    };
    let call = Call::Named { operation: &asked.operation, captures: Captures::new() };
    let request = Request {
        target: ServiceTarget::Audience(&asked.audience),
        call,
        source: Some(peer.address.ip()),
        evidence: &(),
    };
    let caller = Caller::Credentials(credentials(&desk, &peer, &headers));
    response(HttpAnswer::of(&desk.engine.ask(Door::Approvals, &request, caller).await, None))
}

fn credentials<'c>(desk: &Desk, peer: &'c Peer, headers: &'c HeaderMap) -> Credentials<'c> {
    Credentials { headers, certificate: desk.trust.caller_certificate(peer), client_cert_header_trusted: false }
}

/// Somebody decided before, or the object is another one by now.
fn conflict() -> Response {
    answer(StatusCode::CONFLICT, json!({"error": "already_decided"}))
}

fn answer(status: StatusCode, body: Value) -> Response {
    (status, [(header::CACHE_CONTROL, "no-store")], Json(body)).into_response()
}
