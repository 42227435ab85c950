//! Envoy's service for checks (`envoy.service.auth.v3.Authorization`), answered by whoever decides.

use axum::body::Body;
use durward_runtime::connection::{Request, Response};
use futures::FutureExt;
use futures::future::BoxFuture;
use http::Extensions;
use messages::authorization_server::{Authorization, AuthorizationServer};
use messages::{CheckRequest, CheckResponse};
use std::fmt;
use std::sync::Arc;
use tonic::Status;
use tower::Service;

/// What Envoy says, as far as it is read, and what it is told: `proto/check.proto`.
#[allow(missing_debug_implementations, reason = "generated")]
pub mod messages {
    tonic::include_proto!("envoy.service.auth.v3");
}

/// What answers a check, and is told what came with the request.
pub type Deciding =
    Arc<dyn Fn(Extensions, CheckRequest) -> BoxFuture<'static, Result<CheckResponse, Status>> + Send + Sync>;

/// The service.
#[derive(Clone)]
pub struct Checks(AuthorizationServer<Check>);

struct Check(Deciding);

#[tonic::async_trait]
impl Authorization for Check {
    async fn check(&self, request: tonic::Request<CheckRequest>) -> Result<tonic::Response<CheckResponse>, Status> {
        let (_, extensions, message) = request.into_parts();
        (self.0)(extensions, message).await.map(tonic::Response::new)
    }
}

impl Checks {
    /// Has messages of up to `max` bytes answered.
    #[must_use]
    pub fn new(deciding: Deciding, max: usize) -> Self {
        Self(AuthorizationServer::new(Check(deciding)).max_decoding_message_size(max))
    }

    /// Answers one.
    pub fn answer(&mut self, request: Request) -> BoxFuture<'static, Response> {
        let answer = self.0.call(request);
        answer.map(|answer| answer.map_or_else(|never| match never {}, |response| response.map(Body::new))).boxed()
    }
}

impl fmt::Debug for Checks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checks").finish_non_exhaustive()
    }
}
