//! Token authentication webhook of the Kubernetes API server (`TokenReview`, `authentication.k8s.io/v1`).

use axum::body::Bytes;
use axum::extract::DefaultBodyLimit;
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

/// Where tokens are reviewed.
pub(crate) const TOKEN_PATH: &str = "/review/token";
/// Before every user and group: no name of ours is ever one that Kubernetes gives rights to by itself.
pub const PREFIX: &str = "durward:";
/// Largest review, in bytes: twice the longest token.
const MAX_REVIEW: usize = 64 * 1024;
/// Most audiences of an API server.
const MAX_AUDIENCES: usize = 8;

/// What the webhook needs.
#[derive(Debug, Clone)]
pub struct TokenReviews {
    /// Authenticates the tokens.
    pub authenticator: Arc<Authenticator>,
    /// Counts failed authentications.
    pub metrics: Arc<Metrics>,
    /// Ways in that count at the API server; none, and nobody is known.
    pub ways: Arc<[AuthenticationMethod]>,
}

/// The webhook as a router.
pub fn router(reviews: TokenReviews) -> Router {
    Router::new()
        .route(TOKEN_PATH, post(async move |body: Bytes| review(&reviews, &body).await))
        .layer(DefaultBodyLimit::max(MAX_REVIEW))
}

async fn review(this: &TokenReviews, body: &[u8]) -> Response {
    let Ok(mut review) = serde_json::from_slice::<TokenReview>(body) else {
        return (StatusCode::BAD_REQUEST, "no TokenReview of authentication.k8s.io/v1\n").into_response();
    };
    let status = status(this, &review.spec).await;
    // the token goes no further
    review.spec = TokenReviewSpec::default();
    review.status = Some(status.unwrap_or_else(|| {
        this.metrics.authentication_failure(false);
        // whatever is wrong, this is all that is told
        TokenReviewStatus { authenticated: Some(false), ..TokenReviewStatus::default() }
    }));
    Json(review).into_response()
}

/// Who a token is, if it is meant for the API server: one that is meant for a service is not that service's to use here.
async fn status(this: &TokenReviews, spec: &TokenReviewSpec) -> Option<TokenReviewStatus> {
    let mut headers = HeaderMap::new();
    let mut value = HeaderValue::try_from(format!("Bearer {}", spec.token)).ok()?;
    value.set_sensitive(true);
    headers.insert(header::AUTHORIZATION, value);
    let credentials = Credentials { headers: &headers, certificate: None, client_cert_header_trusted: false };
    let authenticator = &this.authenticator;
    for audience in spec.audiences.iter().flatten().take(MAX_AUDIENCES) {
        let expect = Expectation { audience, methods: &this.ways };
        match authenticator.authenticate(&credentials, &expect, Utc::now()).await {
            // scopes mean nothing to the API server, so what is narrowed to some would be wide there
            Ok(principal) if principal.identity().narrowed => return None,
            Ok(principal) => {
                return Some(TokenReviewStatus {
                    authenticated: Some(true),
                    audiences: Some(vec![audience.clone()]),
                    user: Some(user(principal.identity())),
                    error: None,
                });
            }
            Err(failure) => tracing::info!(cause = %failure, "the API server's user is not known by the token"),
        }
    }
    None
}

/// The principal as a user of the API server; what is known of a second factor goes along, so that operations of high risk
/// can ask for it.
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
