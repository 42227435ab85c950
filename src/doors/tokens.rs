//! The token listener: public keys for services that verify tokens on their own.

use axum::Router;
use axum::http::header;
use axum::routing::get;
use std::sync::Arc;

/// How long a verifier may keep the keys, in seconds; a key is published for longer than this before it signs.
const MAX_AGE: &str = "public, max-age=300";

/// The listener as a router, for a JWKS in JSON (RFC 7517, section 5).
pub fn router(jwks: Arc<str>) -> Router {
    let keys = move || {
        let headers = [(header::CONTENT_TYPE, "application/jwk-set+json"), (header::CACHE_CONTROL, MAX_AGE)];
        let jwks = jwks.to_string();
        async move { (headers, jwks) }
    };
    Router::new().route("/.well-known/jwks.json", get(keys))
}
