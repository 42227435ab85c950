//! The doors, as audit records and metrics name them, and what their answers are for.

use durward_core::named_enum;

/// Name of the door that decides by its own policy.
pub const ADMIN: &str = "admin";

named_enum! {
    /// The door that a request came through.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    pub enum Door {
        /// Envoy `ext_authz` over gRPC.
        ExtAuthz => "ext_authz",
        /// Forward auth over HTTP.
        ForwardAuth => "forward_auth",
        /// AuthZEN 1.0.
        AuthZen => "authzen",
        /// The enforcing proxy.
        Gate => "gate",
        /// Validating admission of the Kubernetes API server.
        Admission => "admission",
        /// The authorization webhook of the Kubernetes API server.
        Authorization => "authorization",
        /// The admin listener.
        Admin => ADMIN,
        /// The endpoint where callers request approvals.
        Approvals => "approvals",
    }
}

/// What an answer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The request happens if it passes.
    Enforcement,
    /// The caller only wants to know: a dry run or an access review. The answer changes nothing.
    Question,
}
