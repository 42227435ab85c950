//! AuthZEN Authorization API 1.0: enforcement points ask about subjects that they have authenticated themselves.
//!
//! `resource.type` is the audience of the service, and `action.name` the name of its operation. `resource.properties`
//! are the captures of the path, and `resource.id` is the capture `id`. If `resource.type` is `http`, the resource is a
//! URL and the action a method.

mod evaluation;
mod messages;
mod search;

use crate::body_limit::with_body_limit;
use crate::doors::Doors;
use axum::body::Body;
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use durward_runtime::peers::Peer;
use messages::with_request_id;
use serde_json::json;

/// Largest request, in bytes.
const MAX_BODY: usize = 256 * 1024;

/// The door as a router.
pub fn router(doors: Doors) -> Router {
    let router = Router::new()
        .route("/access/v1/evaluation", post(evaluation::evaluation))
        .route("/access/v1/evaluations", post(evaluation::evaluations))
        .route("/access/v1/search/subject", post(search::subjects))
        .route("/access/v1/search/resource", post(search::resources))
        .route("/access/v1/search/action", post(search::actions))
        .route_layer(from_fn_with_state(doors.clone(), only_enforcement_points))
        .route("/.well-known/authzen-configuration", get(configuration));
    with_body_limit(router, MAX_BODY).with_state(doors)
}

/// Refuses requests of other peers before their body is read.
async fn only_enforcement_points(
    State(doors): State<Doors>,
    Extension(peer): Extension<Peer>,
    request: axum::extract::Request,
    next: Next,
) -> Response {
    if doors.trust.is_enforcement_point(&peer) {
        return next.run(request).await;
    }
    let challenge =
        [(header::WWW_AUTHENTICATE, r#"Bearer realm="durward""#), (header::CONTENT_TYPE, "application/json")];
    let refusal = (StatusCode::UNAUTHORIZED, challenge, r#"{"error":"invalid_token"}"#).into_response();
    with_request_id(request.headers(), refusal)
}

/// The locations of the endpoints (section 9).
async fn configuration(Extension(peer): Extension<Peer>, headers: HeaderMap) -> Response {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).and_then(|host| {
        // only a valid host may appear in a document that others read
        durward_core::host::Host::of_authority(host).ok().map(|_| host.to_owned())
    });
    let Some(host) = host else {
        return Response::builder().status(StatusCode::BAD_REQUEST).body(Body::empty()).unwrap_or_default();
    };
    let base = format!("{}://{host}", if peer.secure { "https" } else { "http" });
    Json(json!({
        "policy_decision_point": base,
        "access_evaluation_endpoint": format!("{base}/access/v1/evaluation"),
        "access_evaluations_endpoint": format!("{base}/access/v1/evaluations"),
        "search_subject_endpoint": format!("{base}/access/v1/search/subject"),
        "search_resource_endpoint": format!("{base}/access/v1/search/resource"),
        "search_action_endpoint": format!("{base}/access/v1/search/action"),
    }))
    .into_response()
}
