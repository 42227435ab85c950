//! How callers authenticate, and what a challenge asks for.

use crate::principal::Identity;
use crate::risk::Assurance;
use chrono::TimeDelta;
use std::fmt;
use std::sync::Arc;

/// Clock difference up to which an authentication "in the future" is taken as one of this moment.
pub(crate) const CLOCK_SKEW: TimeDelta = TimeDelta::seconds(60);

/// One accepted way in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AuthenticationMethod {
    /// Certificates, JWT-SVIDs and service-account tokens of this trust domain.
    Workload,
    /// The `IdentityProvider` of this name.
    Provider(Arc<str>),
}

impl AuthenticationMethod {
    /// Whether `caller` came in this way.
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

/// What would be good enough (RFC 9470).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Challenge {
    /// The least assurance that is enough.
    pub assurance: Assurance,
    /// How fresh the authentication must be.
    pub max_age: Option<TimeDelta>,
}
