//! How callers authenticate, and what a challenge asks for.

use crate::principal::Identity;
use crate::risk::Assurance;
use chrono::TimeDelta;
use std::fmt;
use std::sync::Arc;

/// Tolerated clock difference: an authentication up to this far "in the future" is accepted.
pub(crate) const CLOCK_SKEW: TimeDelta = TimeDelta::seconds(60);

/// One accepted authentication method.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AuthenticationMethod {
    /// Certificates, JWT-SVIDs and service-account tokens of the cluster's own trust domain.
    Workload,
    /// Credentials of the `IdentityProvider` of this name.
    Provider(Arc<str>),
}

impl AuthenticationMethod {
    /// Whether `caller` authenticated by this method.
    #[must_use]
    pub fn admits(&self, caller: &Identity) -> bool {
        match self {
            Self::Workload => caller.is_own_workload(),
            Self::Provider(name) => caller.provider() == Some(name),
        }
    }
}

impl fmt::Display for AuthenticationMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Workload => f.write_str("workload"),
            Self::Provider(name) => write!(f, "provider {name}"),
        }
    }
}

/// What a caller needs in order to be accepted (RFC 9470).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Challenge {
    /// Minimum assurance.
    pub assurance: Assurance,
    /// Maximum age of the authentication.
    pub max_age: Option<TimeDelta>,
}
