//! The doors, as audit records and metrics name them.

/// Where a request came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Door {
    /// Envoy `ext_authz` over gRPC.
    ExtAuthz,
    /// Forward auth over HTTP.
    ForwardAuth,
    /// AuthZEN 1.0.
    AuthZen,
    /// The enforcing proxy.
    Gate,
    /// Validating admission of the Kubernetes API server.
    Admission,
    /// The authorization webhook of the Kubernetes API server.
    Authorization,
    /// The admin listener.
    Admin,
    /// Where callers ask for approvals.
    Approvals,
}

/// Name of the door that decides by a policy of its own.
pub const ADMIN: &str = "admin";

impl Door {
    /// The name in audit records and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ExtAuthz => "ext_authz",
            Self::ForwardAuth => "forward_auth",
            Self::AuthZen => "authzen",
            Self::Gate => "gate",
            Self::Admission => "admission",
            Self::Authorization => "authorization",
            Self::Admin => ADMIN,
            Self::Approvals => "approvals",
        }
    }
}
