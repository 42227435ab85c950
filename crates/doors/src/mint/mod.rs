//! The mint: issues certificates and tokens to pods that request them on the token listener.

use crate::body_limit::with_body_limit;
use axum::body::Bytes;
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::TimeDelta;
use durward_authn::bearer;
use durward_identity::{CertificateMint, MintError, PodCredential};
use durward_protocol::mint::{
    CertificateRequest, CertificateResponse, JWT_PATH, TokenRequest, TokenResponse, X509_PATH,
};
use durward_runtime::peers::Peer;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

/// Largest request, in bytes: one with an RSA key of 4096 bits has about 2 kB.
const MAX_BODY: usize = 16 * 1024;

/// The mint as a router.
pub fn router(mint: CertificateMint) -> Router {
    let router = Router::new().route(X509_PATH, post(certificate)).route(JWT_PATH, post(token));
    with_body_limit(router, MAX_BODY).with_state(mint)
}

async fn certificate(
    State(mint): State<CertificateMint>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let outcome = async {
        let credential = credential(&headers, &peer)?;
        let request: CertificateRequest = parse(&body)?;
        let csr = STANDARD.decode(&request.csr).map_err(|_| MintError::Invalid("`csr` is not base64".to_owned()))?;
        let ttl = request.ttl_seconds.map(|seconds| TimeDelta::seconds(seconds.into()));
        let (id, granted) = mint.certificate(credential, &csr, ttl).await?;
        Ok(CertificateResponse {
            spiffe_id: id.to_string(),
            chain: granted.chain.iter().map(|certificate| STANDARD.encode(certificate)).collect(),
            not_after: granted.not_after,
            refresh_at: granted.begin_refresh_at,
        })
    };
    response(outcome.await)
}

async fn token(
    State(mint): State<CertificateMint>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let outcome = async {
        let credential = credential(&headers, &peer)?;
        let request: TokenRequest = parse(&body)?;
        let token = mint.token(credential, &request.audience).await?;
        Ok(TokenResponse { spiffe_id: token.id.to_string(), token: token.text, expires_at: token.expires_at })
    };
    response(outcome.await)
}

/// The bearer token of a request, and its source.
pub(crate) fn credential<'h>(headers: &'h HeaderMap, peer: &Peer) -> Result<PodCredential<'h>, MintError> {
    let token = bearer::token(headers).ok().flatten().ok_or(MintError::Unauthenticated("there is no token"))?;
    Ok(PodCredential { token, source: peer.address.ip() })
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, MintError> {
    serde_json::from_slice(body).map_err(|error| MintError::Invalid(error.to_string()))
}

fn response<T: Serialize>(outcome: Result<T, MintError>) -> Response {
    match outcome {
        Ok(answer) => Json(answer).into_response(),
        Err(error) => error_response(error),
    }
}

/// The response to a failed request. Only an authenticated pod learns why.
pub(crate) fn error_response(error: MintError) -> Response {
    let (status, message) = match error {
        MintError::Unauthenticated(cause) => {
            tracing::info!(cause, "pod not authenticated; refusing its request");
            let challenge = [(header::WWW_AUTHENTICATE, "Bearer")];
            return (StatusCode::UNAUTHORIZED, challenge, Json(json!({"error": "invalid_token"}))).into_response();
        }
        error @ MintError::NotEntitled(_) => (StatusCode::FORBIDDEN, error.to_string()),
        error @ MintError::Invalid(_) => (StatusCode::BAD_REQUEST, error.to_string()),
        error @ MintError::Unavailable(_) => {
            tracing::warn!(%error, "request of a pod can't be answered now; asking it to try again");
            (StatusCode::SERVICE_UNAVAILABLE, "try again".to_owned())
        }
    };
    (status, Json(json!({"error": message}))).into_response()
}
