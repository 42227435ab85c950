//! The limit for the bodies of an endpoint.

use axum::Router;
use axum::body::HttpBody;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Request};
use axum::middleware::map_request;
use http_body_util::{Full, Limited};

/// Limits the bodies of requests, in bytes. A body that is stated to be longer fails before any of it is read, one that
/// is longer than stated while it is read. The endpoint answers both in its own way.
pub(crate) fn with_body_limit<S: Clone + Send + Sync + 'static>(router: Router<S>, bytes: usize) -> Router<S> {
    let refuse_stated = move |request: Request| async move {
        let stated = request.body().size_hint().lower();
        if stated <= u64::try_from(bytes).unwrap_or(u64::MAX) { request } else { request.map(|_| too_long()) }
    };
    router.layer(DefaultBodyLimit::max(bytes)).layer(map_request(refuse_stated))
}

/// A body that fails as one that was read up to its limit.
fn too_long() -> Body {
    Body::new(Limited::new(Full::new(Bytes::from_static(b"x")), 0))
}
