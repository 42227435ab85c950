//! The snapshot stream, on the token listener: a gate receives the resources that its pod's decisions need.
//!
//! The stream consists of lines of JSON, one for each change. The gate authenticates as a pod, as at the mint. It
//! receives the resources of its own services, which the selectors of policies in its namespace determine.

mod resources;
mod stream;

pub use resources::{PublishedPolicy, PublishedResources};

use crate::body_limit::with_body_limit;
use crate::mint;
use axum::body::{Body, Bytes};
use axum::extract::rejection::JsonRejection;
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use chrono::Utc;
use durward_api::resources::ApprovalSpec;
use durward_api::translation::approval_subject;
use durward_approvals::ApprovalSeal;
use durward_authn::Authenticator;
use durward_core::approval::ApprovalSubject;
use durward_core::snapshot::Snapshot;
use durward_engine::Engine;
use durward_identity::{CertificateMint, LabelledPod, MintError};
use durward_protocol::snapshot::{APPROVALS_PATH, KEY_USES_PATH, KeyUse, SNAPSHOT_PATH};
use durward_runtime::peers::Peer;
use futures::stream::unfold;
use serde_json::json;
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use stream::SnapshotStream;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Largest request, in bytes.
const MAX_BODY: usize = 4 * 1024;
/// Longest duration of a stream. Then the pod authenticates again, with its current labels.
const MAX_STREAM: Duration = Duration::from_secs(300);

/// State of the endpoints.
#[derive(Debug, Clone)]
pub struct SnapshotsEndpoint {
    pub mint: CertificateMint,
    pub resources: watch::Receiver<PublishedResources>,
    pub engine: Arc<Engine>,
    pub authenticator: Arc<Authenticator>,
    pub seal: ApprovalSeal,
    /// Ends every stream.
    pub closing: CancellationToken,
}

/// The endpoints as a router.
pub fn router(endpoint: SnapshotsEndpoint) -> Router {
    let router = Router::new()
        .route(SNAPSHOT_PATH, get(stream))
        .route(APPROVALS_PATH, post(request_approval))
        .route(KEY_USES_PATH, post(report_key_uses));
    with_body_limit(router, MAX_BODY).with_state(endpoint)
}

impl SnapshotsEndpoint {
    /// The pod that sends a request.
    async fn pod(&self, headers: &HeaderMap, peer: &Peer) -> Result<LabelledPod, MintError> {
        self.mint.pod_labels(mint::credential(headers, peer)?).await
    }
}

/// Requests an approval for a caller of the gate's service. The gate itself has no access to the API server.
async fn request_approval(
    State(this): State<SnapshotsEndpoint>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    body: Result<Json<ApprovalSpec>, JsonRejection>,
) -> Response {
    let pod = match this.pod(&headers, &peer).await {
        Ok(pod) => pod,
        Err(error) => return mint::error_response(error),
    };
    let snapshot = this.engine.snapshot();
    let Some(subject) = body.ok().and_then(|Json(spec)| own_approval_subject(&snapshot, &pod, &spec)) else {
        return mint::error_response(MintError::Invalid("this pod can't request such an approval".to_owned()));
    };
    this.engine.request_approval(&subject);
    (StatusCode::ACCEPTED, Json(json!({}))).into_response()
}

/// The subject of an approval, if the operation belongs to a service of the pod and requires approval.
fn own_approval_subject(snapshot: &Snapshot, pod: &LabelledPod, spec: &ApprovalSpec) -> Option<ApprovalSubject> {
    let subject = approval_subject(&pod.namespace, spec)?;
    let (service, _) = snapshot.approval_requirement(&subject)?;
    let mut own_services = snapshot.services_of_pod(&pod.namespace, &pod.labels);
    own_services.any(|own| own.key() == service.key()).then_some(subject)
}

/// Records the uses of API keys at a gate, for `durward api-key list`.
async fn report_key_uses(
    State(this): State<SnapshotsEndpoint>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    body: Result<Json<Vec<KeyUse>>, JsonRejection>,
) -> Response {
    let pod = match this.pod(&headers, &peer).await {
        Ok(pod) => pod,
        Err(error) => return mint::error_response(error),
    };
    let Ok(Json(uses)) = body else {
        return mint::error_response(MintError::Invalid("the body must list uses of API keys".to_owned()));
    };
    let resources = this.resources.borrow().clone();
    for (provider, name, at) in resources.credible_key_uses(&pod, uses, Utc::now().timestamp()) {
        this.authenticator.record_key_use(&provider, &name, at);
    }
    (StatusCode::ACCEPTED, Json(json!({}))).into_response()
}

async fn stream(
    State(this): State<SnapshotsEndpoint>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
) -> Response {
    let pod = match this.pod(&headers, &peer).await {
        Ok(pod) => pod,
        Err(error) => return mint::error_response(error),
    };
    let stream = SnapshotStream {
        pod,
        resources: this.resources,
        engine: this.engine,
        authenticator: this.authenticator,
        seal: this.seal,
        sent_resources: Bytes::new(),
        sent_deletions: BTreeSet::new(),
        ends: Instant::now() + MAX_STREAM,
    };
    let closing = this.closing;
    let lines = unfold(stream, move |mut stream| {
        let closing = closing.clone();
        async move {
            let line = tokio::select! {
                line = stream.next() => line?,
                () = closing.cancelled_owned() => return None,
            };
            Some((Ok::<_, Infallible>(line), stream))
        }
    });
    ([(header::CONTENT_TYPE, "application/x-ndjson"), (header::CACHE_CONTROL, "no-store")], Body::from_stream(lines))
        .into_response()
}

#[cfg(test)]
mod tests;
