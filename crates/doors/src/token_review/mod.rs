//! Token authentication webhook of the Kubernetes API server (`TokenReview`, `authentication.k8s.io/v1`).

use crate::body_limit::with_body_limit;
use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use chrono::Utc;
use durward_authn::{Authenticator, Credentials, Expectation, FACTOR, FACTOR_TIME};
use durward_core::authentication::AuthenticationMethod;
use durward_core::principal::Identity;
use durward_core::risk::Assurance;
use durward_engine::metrics::Metrics;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus, UserInfo};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Path of the webhook.
pub(crate) const TOKEN_PATH: &str = "/review/token";
/// Prefix of every user and group, so that no name equals one to which Kubernetes grants rights by itself.
pub const PREFIX: &str = "durward:";
/// Largest review, in bytes: twice the longest token.
const MAX_REVIEW: usize = 64 * 1024;
/// Most audiences of a review that are tried.
const MAX_AUDIENCES: usize = 8;

/// State of the webhook.
#[derive(Debug, Clone)]
pub struct TokenReviewWebhook {
    /// Authenticates the tokens.
    pub authenticator: Arc<Authenticator>,
    /// Counts failed authentications.
    pub metrics: Arc<Metrics>,
    /// The authentication methods that are accepted at the API server. With none, every token is rejected.
    pub methods: Arc<[AuthenticationMethod]>,
}

/// The webhook as a router.
pub fn router(webhook: TokenReviewWebhook) -> Router {
    let router = Router::new().route(TOKEN_PATH, post(async move |body: Bytes| review(&webhook, &body).await));
    with_body_limit(router, MAX_REVIEW)
}

async fn review(this: &TokenReviewWebhook, body: &[u8]) -> Response {
    let Ok(mut review) = serde_json::from_slice::<TokenReview>(body) else {
        return (StatusCode::BAD_REQUEST, "not a TokenReview of authentication.k8s.io/v1\n").into_response();
    };
    let status = status(this, &review.spec).await;
    // the response doesn't repeat the token
    review.spec = TokenReviewSpec::default();
    review.status = Some(status.unwrap_or_else(|| {
        this.metrics.authentication_failure(false);
        // the response doesn't say what is wrong
        TokenReviewStatus { authenticated: Some(false), ..TokenReviewStatus::default() }
    }));
    Json(review).into_response()
}

/// The user of a token. Its audience must be the API server, or a service could present its callers' tokens here.
async fn status(this: &TokenReviewWebhook, spec: &TokenReviewSpec) -> Option<TokenReviewStatus> {
    let mut headers = HeaderMap::new();
    let mut value = HeaderValue::try_from(format!("Bearer {}", spec.token)).ok()?;
    value.set_sensitive(true);
    headers.insert(header::AUTHORIZATION, value);
    let credentials = Credentials { headers: &headers, certificate: None, client_cert_header_trusted: false };
    let authenticator = &this.authenticator;
    for audience in spec.audiences.iter().flatten().take(MAX_AUDIENCES) {
        let expect = Expectation { audience, methods: &this.methods };
        match authenticator.authenticate(&credentials, &expect, Utc::now()).await {
            // the API server ignores scopes, so it would grant more than a narrowed token allows
            Ok(principal) if principal.identity().narrowed => return None,
            Ok(principal) => {
                return Some(TokenReviewStatus {
                    authenticated: Some(true),
                    audiences: Some(vec![audience.clone()]),
                    user: Some(user(principal.identity())),
                    error: None,
                });
            }
            Err(failure) => {
                tracing::info!(cause = %failure, "token not accepted for the API server; trying its next audience")
            }
        }
    }
    None
}

/// The principal as a user of the API server. Extra attributes describe the second factor, which operations of high
/// risk require.
fn user(identity: &Identity) -> UserInfo {
    let provider = identity.provider();
    let group = |group: &String| Some(format!("{PREFIX}{}:{group}", provider?));
    let mut extra = BTreeMap::new();
    if identity.assurance >= Assurance::MultiFactor {
        extra.insert(FACTOR.to_owned(), vec![identity.assurance.as_str().to_owned()]);
        let at = identity.authenticated_at.map(|at| vec![at.timestamp().to_string()]);
        extra.extend(at.map(|at| (FACTOR_TIME.to_owned(), at)));
    }
    UserInfo {
        username: Some(format!("{PREFIX}{}", identity.id)),
        groups: Some(identity.groups.iter().filter_map(group).collect()),
        uid: None,
        extra: (!extra.is_empty()).then_some(extra),
    }
}

#[cfg(test)]
mod tests;
