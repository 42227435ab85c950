//! What a caller wants, free of any protocol.

use crate::evidence::Evidence;
use crate::kubernetes::ApiCall;
use crate::path::Captures;
use std::net::IpAddr;

/// A request, as a door has read it.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// The service that is asked for.
    pub target: ServiceTarget<'a>,
    /// What is asked of it.
    pub call: Call<'a>,
    /// Where the request comes from, if a trusted party says so.
    pub source: Option<IpAddr>,
    /// What it shows beyond that, for conditions; `&()` where nothing is known.
    pub evidence: &'a dyn Evidence,
}

/// How a request names its service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceTarget<'a> {
    /// By host: a `Host` or `:authority` value, with or without port.
    Host(&'a str),
    /// By the audience of its tokens.
    Audience(&'a str),
}

/// What is asked of a service.
#[derive(Debug, Clone, PartialEq)]
pub enum Call<'a> {
    /// An HTTP request; gRPC is one too.
    Http {
        /// The method, as it was sent.
        method: &'a str,
        /// The request target, as it was sent; a query is ignored.
        path: &'a str,
    },
    /// An operation by its name.
    Named {
        /// Name of the operation.
        operation: &'a str,
        /// What a path would have captured.
        captures: Captures,
    },
    /// A request to the Kubernetes API, authenticated by the API server.
    Kubernetes(ApiCall<'a>),
    /// The door found contradictions and can't tell what is asked.
    Ambiguous,
}
