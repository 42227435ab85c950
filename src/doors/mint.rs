//! The mint: certificates and tokens for pods that ask for them themselves, over the token listener.

use crate::authn::bearer;
use crate::identity::{Mint, MintError};
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, TimeDelta, Utc};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;

/// Where certificates are minted.
pub(crate) const X509_PATH: &str = "/mint/x509";
/// Where tokens are minted.
pub(crate) const JWT_PATH: &str = "/mint/jwt";
/// Largest request, in bytes: one for a key of RSA 4096 has about 2 kB.
const MAX_BODY: usize = 16 * 1024;

/// Asks for a certificate.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct CertificateRequest {
    /// PKCS#10 (RFC 2986) in DER and base64.
    pub(crate) csr: String,
    /// Longest lifetime.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ttl_seconds: Option<u32>,
}

/// A certificate.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CertificateAnswer {
    pub(crate) spiffe_id: String,
    /// Leaf first, DER in base64.
    pub(crate) chain: Vec<String>,
    pub(crate) not_after: DateTime<Utc>,
    /// When to ask for the next one.
    pub(crate) refresh_at: DateTime<Utc>,
}

/// Asks for a token.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TokenRequest {
    pub(crate) audience: Vec<String>,
}

/// A token.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TokenAnswer {
    pub(crate) spiffe_id: String,
    pub(crate) token: String,
    pub(crate) expires_at: DateTime<Utc>,
}

/// The mint as a router.
pub(crate) fn router(mint: Mint) -> Router {
    Router::new()
        .route(X509_PATH, post(certificate))
        .route(JWT_PATH, post(token))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(mint)
}

async fn certificate(State(mint): State<Mint>, headers: HeaderMap, body: Bytes) -> Response {
    let asked = async {
        let token = credential(&headers)?;
        let request: CertificateRequest = read(&body)?;
        let csr = STANDARD.decode(&request.csr).map_err(|_| MintError::Invalid("`csr` is no base64".to_owned()))?;
        let ttl = request.ttl_seconds.map(|seconds| TimeDelta::seconds(seconds.into()));
        let (id, granted) = mint.certificate(token, &csr, ttl).await?;
        Ok(CertificateAnswer {
            spiffe_id: id.to_string(),
            chain: granted.chain.iter().map(|certificate| STANDARD.encode(certificate)).collect(),
            not_after: granted.not_after,
            refresh_at: granted.begin_refresh_at,
        })
    };
    answer(asked.await)
}

async fn token(State(mint): State<Mint>, headers: HeaderMap, body: Bytes) -> Response {
    let asked = async {
        let credential = credential(&headers)?;
        let request: TokenRequest = read(&body)?;
        let token = mint.token(credential, &request.audience).await?;
        Ok(TokenAnswer { spiffe_id: token.id.to_string(), token: token.text, expires_at: token.expires_at })
    };
    answer(asked.await)
}

pub(crate) fn credential(headers: &HeaderMap) -> Result<&str, MintError> {
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
pub(crate) fn refusal(error: MintError) -> Response {
    let (status, message) = match error {
        MintError::Unauthenticated(cause) => {
            tracing::info!(cause, "nothing minted: who asks is not known");
            let challenge = [(header::WWW_AUTHENTICATE, "Bearer")];
            return (StatusCode::UNAUTHORIZED, challenge, Json(json!({"error": "invalid_token"}))).into_response();
        }
        error @ MintError::NotMinted(_) => (StatusCode::FORBIDDEN, error.to_string()),
        error @ MintError::Invalid(_) => (StatusCode::BAD_REQUEST, error.to_string()),
        error @ MintError::Later(_) => {
            tracing::warn!(%error, "nothing minted");
            (StatusCode::SERVICE_UNAVAILABLE, "try again".to_owned())
        }
    };
    (status, Json(json!({"error": message}))).into_response()
}
