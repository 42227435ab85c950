//! Denials for checks that fail before they are decided.
//!
//! Envoy can be set to let requests through when its authorization service fails (`failure_mode_allow`). A client could
//! then get through by causing a gRPC error, for example with an oversized request. So every failure is a denial.

use crate::answer::HttpAnswer;
use crate::doors::Doors;
use crate::ext_authz::response::denial;
use axum::body::{Body, Bytes};
use axum::response::Response;
use durward_authn::Credentials;
use durward_core::request::{Call, Request, ServiceTarget};
use durward_engine::{Door, EngineCaller};
use futures::FutureExt;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use http_body_util::{BodyExt, Full};
use prost::Message;
use std::panic::AssertUnwindSafe;

/// Turns every failed check (an unreadable or oversized message, a panic) into a denial, recorded like any other.
pub(super) async fn deny_failures(doors: &Doors, check: impl Future<Output = Response>) -> Response {
    let succeeded = |response: &Response| {
        response.status() == StatusCode::OK && response.headers().get("grpc-status").is_none_or(|status| status == "0")
    };
    if let Some(response) = AssertUnwindSafe(check).catch_unwind().await.ok().filter(succeeded) {
        return response;
    }
    let headers = HeaderMap::new();
    let credentials = Credentials { headers: &headers, certificate: None, client_cert_header_trusted: false };
    let request = Request { target: ServiceTarget::Host(""), call: Call::Ambiguous, source: None, evidence: &() };
    let answer = doors.engine.authorize(Door::ExtAuthz, &request, EngineCaller::Credentials(credentials)).await;
    grpc_denial(&HttpAnswer::new(&answer, None))
}

/// A denial as a complete gRPC response, for requests on which the gRPC library has given up.
fn grpc_denial(answer: &HttpAnswer) -> Response {
    // a request that names no service is never allowed; the status makes sure of it
    let status = if answer.status.is_success() { StatusCode::FORBIDDEN } else { answer.status };
    let message = denial(status, answer.headers.clone(), answer.body.clone()).encode_to_vec();
    // length-prefixed message (gRPC over HTTP/2, "Requests"): not compressed, then the length in four bytes
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes();
    let frame: Vec<u8> = std::iter::once(0).chain(length).chain(message).collect();
    let trailers = HeaderMap::from_iter([(HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"))]);
    let body = Full::new(Bytes::from(frame)).with_trailers(std::future::ready(Some(Ok(trailers))));
    let mut response = Response::new(Body::new(body));
    response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}
