//! The mint: certificates and tokens for pods that ask for them themselves, over the token listener.

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::TimeDelta;
use durward_authn::bearer;
use durward_identity::{CertificateMint, MintError};
use durward_protocol::mint::{CertificateResponse, CertificateRequest, JWT_PATH, TokenResponse, TokenRequest, X509_PATH};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

/// Largest request, in bytes: one for a key of RSA 4096 has about 2 kB.
const MAX_BODY: usize = 16 * 1024;

/// The mint as a router.
pub fn router(mint: CertificateMint) -> Router {
    Router::new()
        .route(X509_PATH, post(certificate))
        .route(JWT_PATH, post(token))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(mint)
}

async fn certificate(State(mint): State<CertificateMint>, headers: HeaderMap, body: Bytes) -> Response {
    let asked = async {
        let token = credential(&headers)?;
        let request: CertificateRequest = read(&body)?;
        let csr = STANDARD.decode(&request.csr).map_err(|_| MintError::Invalid("`csr` is no base64".to_owned()))?;
        let ttl = request.ttl_seconds.map(|seconds| TimeDelta::seconds(seconds.into()));
        let (id, granted) = mint.certificate(token, &csr, ttl).await?;
        Ok(CertificateResponse {
            spiffe_id: id.to_string(),
            chain: granted.chain.iter().map(|certificate| STANDARD.encode(certificate)).collect(),
            not_after: granted.not_after,
            refresh_at: granted.begin_refresh_at,
        })
    };
    answer(asked.await)
}

async fn token(State(mint): State<CertificateMint>, headers: HeaderMap, body: Bytes) -> Response {
    let asked = async {
        let credential = credential(&headers)?;
        let request: TokenRequest = read(&body)?;
        let token = mint.token(credential, &request.audience).await?;
        Ok(TokenResponse { spiffe_id: token.id.to_string(), token: token.text, expires_at: token.expires_at })
    };
    answer(asked.await)
}

pub fn credential(headers: &HeaderMap) -> Result<&str, MintError> {
    let token = bearer::token(headers).ok().flatten();
    token.ok_or(MintError::Unauthenticated("there is no token"))
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, MintError> {
    serde_json::from_slice(body).map_err(|error| MintError::Invalid(error.to_string()))
}

fn answer<T: Serialize>(outcome: Result<T, MintError>) -> Response {
    match outcome {
        Ok(answer) => Json(answer).into_response(),
        Err(error) => refusal(error),
    }
}

/// Who can't prove who it is learns nothing else; everybody else what to do.
pub fn refusal(error: MintError) -> Response {
    let (status, message) = match error {
        MintError::Unauthenticated(cause) => {
            tracing::info!(cause, "nothing minted: who asks is not known");
            let challenge = [(header::WWW_AUTHENTICATE, "Bearer")];
            return (StatusCode::UNAUTHORIZED, challenge, Json(json!({"error": "invalid_token"}))).into_response();
        }
        error @ MintError::NotEntitled(_) => (StatusCode::FORBIDDEN, error.to_string()),
        error @ MintError::Invalid(_) => (StatusCode::BAD_REQUEST, error.to_string()),
        error @ MintError::Unavailable(_) => {
            tracing::warn!(%error, "nothing minted");
            (StatusCode::SERVICE_UNAVAILABLE, "try again".to_owned())
        }
    };
    (status, Json(json!({"error": message}))).into_response()
}
