//! The token listener: public keys for services that verify tokens on their own, and the trust bundle.

use crate::identity::{Authorities, TokenKeys};
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use durward_pki::bundle::bundle;
use durward_pki::token::Algorithm;
use serde_json::json;
use std::sync::Arc;

/// How long a verifier may keep the keys, in seconds; a key is published for longer than this before it signs.
const MAX_AGE: &str = "public, max-age=300";
/// How often whoever uses the trust bundle is to look for another one, in seconds.
const REFRESH_HINT: u32 = 300;

/// The listener of a standalone engine as a router, for a JWKS in JSON (RFC 7517, section 5).
pub fn keys_only(jwks: Arc<str>) -> Router {
    Router::new().route("/.well-known/jwks.json", get(async move || key_set(jwks.to_string())))
}

/// What the listener of a cluster tells.
#[derive(Clone)]
pub(crate) struct Published {
    issuer: Arc<str>,
    authorities: Authorities,
    keys: TokenKeys,
}

impl Published {
    /// `issuer` is the URL under which tokens of this installation are verified.
    pub(crate) fn new(issuer: String, authorities: Authorities, keys: TokenKeys) -> Self {
        Self { issuer: issuer.into(), authorities, keys }
    }
}

/// The listener of a cluster as a router.
pub(crate) fn router(published: Published) -> Router {
    Router::new()
        .route("/.well-known/jwks.json", get(async |State(this): State<Published>| key_set(this.keys.current().jwks())))
        .route("/.well-known/openid-configuration", get(discovery))
        .route("/bundle", get(spiffe_bundle))
        .with_state(published)
}

fn key_set(jwks: String) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/jwk-set+json"), (header::CACHE_CONTROL, MAX_AGE)], jwks)
}

/// OpenID Connect Discovery, section 3: as much of it as verifiers of tokens read.
async fn discovery(State(this): State<Published>) -> impl IntoResponse {
    let document = json!({
        "issuer": &*this.issuer,
        "jwks_uri": format!("{}/.well-known/jwks.json", this.issuer),
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": Algorithm::ALL.map(Algorithm::as_str),
    });
    ([(header::CACHE_CONTROL, MAX_AGE)], Json(document))
}

/// The bundle as SPIFFE has it (SPIFFE Trust Domain and Bundle, section 4).
async fn spiffe_bundle(State(this): State<Published>) -> impl IntoResponse {
    let (trust, keys) = (this.authorities.current(), this.keys.current());
    let sequence = trust.since.max(keys.newest());
    let document = bundle(&trust.roots(), keys.public(), sequence, REFRESH_HINT);
    ([(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, MAX_AGE)], document)
}
