//! The limit for the bodies of an endpoint.

use axum::Router;
use axum::extract::DefaultBodyLimit;
use tower_http::limit::RequestBodyLimitLayer;

/// Limits the bodies of requests, in bytes. A request that states a longer one is refused before any of it is read, and
/// one that is longer than it states while it is read; both with status 413.
pub(crate) fn with_body_limit<S: Clone + Send + Sync + 'static>(router: Router<S>, bytes: usize) -> Router<S> {
    router.layer(DefaultBodyLimit::disable()).layer(RequestBodyLimitLayer::new(bytes))
}
