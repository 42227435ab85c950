//! The gRPC service `envoy.service.auth.v3.Authorization`, which calls a function for each check.

use axum::body::Body;
use durward_runtime::connection::{HttpRequest, HttpResponse};
use futures::FutureExt;
use futures::future::BoxFuture;
use http::Extensions;
use messages::authorization_server::{Authorization, AuthorizationServer};
use messages::{CheckRequest, CheckResponse};
use std::fmt;
use std::sync::Arc;
use tonic::Status;
use tower::Service;

/// Generated from `proto/check.proto`.
#[allow(missing_debug_implementations, reason = "generated")]
pub(super) mod messages {
    tonic::include_proto!("envoy.service.auth.v3");
}

/// Answers one check; the extensions carry the peer of the connection.
pub(super) type CheckFunction =
    Arc<dyn Fn(Extensions, CheckRequest) -> BoxFuture<'static, Result<CheckResponse, Status>> + Send + Sync>;

/// The service, ready to be called for one request.
#[derive(Clone)]
pub(super) struct CheckService(AuthorizationServer<CheckHandler>);

struct CheckHandler(CheckFunction);

#[tonic::async_trait]
impl Authorization for CheckHandler {
    async fn check(&self, request: tonic::Request<CheckRequest>) -> Result<tonic::Response<CheckResponse>, Status> {
        let (_, extensions, message) = request.into_parts();
        (self.0)(extensions, message).await.map(tonic::Response::new)
    }
}

impl CheckService {
    /// A service that decodes messages of up to `max_message` bytes.
    pub(super) fn new(check: CheckFunction, max_message: usize) -> Self {
        Self(AuthorizationServer::new(CheckHandler(check)).max_decoding_message_size(max_message))
    }

    /// Answers one request.
    pub(super) fn call(&mut self, request: HttpRequest) -> BoxFuture<'static, HttpResponse> {
        let response = self.0.call(request);
        response
            .map(|response| response.map_or_else(|never| match never {}, |response| response.map(Body::new)))
            .boxed()
    }
}

impl fmt::Debug for CheckService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CheckService").finish_non_exhaustive()
    }
}
