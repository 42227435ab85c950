//! Requests, independent of any protocol.

use crate::evidence::Evidence;
use crate::kubernetes::ApiCall;
use crate::path::Captures;
use std::net::IpAddr;

/// A request, as an enforcement point has read it.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// The service.
    pub target: ServiceTarget<'a>,
    /// The call.
    pub call: Call<'a>,
    /// The client's address, if a trusted party states it.
    pub source: Option<IpAddr>,
    /// The evidence for conditions; `&()` if there is none.
    pub evidence: &'a dyn Evidence,
}

/// How a request names its service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceTarget<'a> {
    /// By host: a `Host` or `:authority` value, with or without port.
    Host(&'a str),
    /// By the audience of its access tokens.
    Audience(&'a str),
}

/// A call of a service.
#[derive(Debug, Clone, PartialEq)]
pub enum Call<'a> {
    /// An HTTP request, gRPC included.
    Http {
        /// The method, as it was sent.
        method: &'a str,
        /// The request target, as it was sent. Its query is ignored.
        path: &'a str,
    },
    /// An operation, called by name.
    Named {
        /// Name of the operation.
        operation: &'a str,
        /// The values that a path would capture.
        captures: Captures,
    },
    /// A request to the Kubernetes API, authenticated by the API server.
    Kubernetes(ApiCall<'a>),
    /// The request contradicts itself, so the enforcement point can't tell what it calls.
    Ambiguous,
}
