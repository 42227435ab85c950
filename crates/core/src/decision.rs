//! What was decided, and why.

use crate::approval::{ApprovalSubject, GrantedApproval};
use crate::authentication::Challenge;
use crate::condition::{Condition, Truth};
use crate::digest::Digest;
use crate::namespaced_name::NamespacedName;
use crate::policy::EnforcementMode;
use crate::scope::Scope;
use crate::service::ServiceKey;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

/// Why a request is allowed or denied, in the order in which it is found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Reason {
    /// No policy speaks for the service, or the one that does is broken and its last good version is not known.
    NoPolicy,
    /// Two parsers could read the request differently.
    AmbiguousPath,
    /// No policy declares the operation.
    OperationUndeclared,
    /// The operation is open to everybody.
    Public,
    /// Nobody known is asking.
    Unauthenticated,
    /// The caller is known, but not well enough for the risk, or not in a way that the policy accepts.
    AssuranceTooLow,
    /// A denial applies.
    Denied,
    /// Nobody granted the caller all that the operation needs.
    InsufficientScope,
    /// The caller has all that the operation needs, but for somebody's approval.
    ApprovalRequired,
    /// Grants give all that the operation needs.
    Granted,
}

impl Reason {
    /// Whether it is a reason to allow.
    #[must_use]
    pub const fn allows(self) -> bool {
        matches!(self, Self::Public | Self::Granted)
    }

    /// The name as audit records and metrics write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoPolicy => "NoPolicy",
            Self::AmbiguousPath => "AmbiguousPath",
            Self::OperationUndeclared => "OperationUndeclared",
            Self::Public => "Public",
            Self::Unauthenticated => "Unauthenticated",
            Self::AssuranceTooLow => "AssuranceTooLow",
            Self::Denied => "Denied",
            Self::InsufficientScope => "InsufficientScope",
            Self::ApprovalRequired => "ApprovalRequired",
            Self::Granted => "Granted",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The approval that an operation asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequiredApproval {
    /// What it is about.
    pub subject: ApprovalSubject,
    /// The one that carried an allow; `None` if there is none that counts.
    pub granted: Option<GrantedApproval>,
}

/// What the condition of a rule came to.
#[derive(Debug, Clone, PartialEq)]
pub struct EvaluatedCondition {
    /// `<namespace>/<policy>/grants/<name>` or `<namespace>/<policy>/denials/<name>`.
    pub rule: Arc<str>,
    /// The condition.
    pub condition: Arc<Condition>,
    /// What it came to.
    pub truth: Truth,
}

/// A decision. The same input gives the same one, field by field.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// Why; says also whether it is allowed.
    pub reason: Reason,
    /// Whether a denial is enforced.
    pub mode: EnforcementMode,
    /// The service, once found.
    pub service: Option<ServiceKey>,
    /// The policy that declares the operation, once found; for a service that is closed the policy that closes it.
    pub policy: Option<NamespacedName>,
    /// The operation, once found.
    pub operation: Option<Arc<str>>,
    /// The grants that carried an allow, or the denial that applied.
    pub rules: Vec<Arc<str>>,
    /// Scopes that the operation needs.
    pub required: Arc<[Scope]>,
    /// Those of them that nobody granted.
    pub missing: Vec<Scope>,
    /// What would be good enough, for [`Reason::AssuranceTooLow`].
    pub challenge: Option<Challenge>,
    /// The approval that the operation asks for, once the caller has all else.
    pub approval: Option<Box<RequiredApproval>>,
    /// More about the reason, for audit and explanations; not for callers.
    pub detail: Option<String>,
    /// What was found by conditions that read what no record holds, in the order in which they were looked at.
    pub evaluated: Vec<EvaluatedCondition>,
    /// The snapshot that it was decided from.
    pub revision: Digest,
}

impl Decision {
    /// Whether the policy allows the request.
    #[must_use]
    pub const fn allowed(&self) -> bool {
        self.reason.allows()
    }

    /// Whether the request goes through: allowed, or denied by policies that only audit.
    #[must_use]
    pub fn passes(&self) -> bool {
        self.allowed() || self.mode == EnforcementMode::Audit
    }
}
