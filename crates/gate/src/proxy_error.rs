//! Responses of the gate itself, where the next server gives none.

use axum::body::Body;
use axum::response::Response;
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderValue};
use tonic::{Code, Status};

/// Why an allowed request has no response of the next server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ProxyError {
    /// Too many requests are open.
    TooMany,
    /// The next server is absent, is not the expected one, or broke off.
    Unreachable,
    /// The next server did not begin its response in time.
    Late,
    /// The request can't be forwarded as it is.
    Unreadable,
}

impl ProxyError {
    const fn parts(self) -> (StatusCode, Code, &'static str) {
        match self {
            Self::TooMany => {
                (StatusCode::SERVICE_UNAVAILABLE, Code::ResourceExhausted, r#"{"error":"too_many_requests"}"#)
            }
            Self::Unreachable => (StatusCode::BAD_GATEWAY, Code::Unavailable, r#"{"error":"bad_gateway"}"#),
            Self::Late => (StatusCode::GATEWAY_TIMEOUT, Code::DeadlineExceeded, r#"{"error":"timeout"}"#),
            Self::Unreadable => (StatusCode::BAD_REQUEST, Code::InvalidArgument, r#"{"error":"bad_request"}"#),
        }
    }

    /// The response to the caller.
    pub(super) fn into_response(self, grpc: bool) -> Response {
        let (status, code, body) = self.parts();
        if grpc {
            return Status::new(code, body).into_http::<Body>();
        }
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }
}
