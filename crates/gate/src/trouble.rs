//! When there is no answer to pass on.

use axum::body::Body;
use axum::response::Response;
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderValue};
use tonic::{Code, Status};

/// Why a request that may go on does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Too many are open.
    TooMany,
    /// The next one is not there, is not who it should be, or breaks off.
    Unreachable,
    /// It took too long to begin with its answer.
    Late,
    /// The request can't be passed on as it is.
    Unreadable,
}

impl Trouble {
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

    /// What the caller is told.
    pub(super) fn told(self, grpc: bool) -> Response {
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
