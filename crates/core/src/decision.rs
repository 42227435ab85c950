//! Decisions and their reasons.

use crate::approval::{ApprovalSubject, GrantedApproval};
use crate::authentication::Challenge;
use crate::condition::{Condition, Truth};
use crate::digest::Digest;
use crate::named_enum;
use crate::namespaced_name::NamespacedName;
use crate::policy::EnforcementMode;
use crate::scope::Scope;
use crate::service::ServiceKey;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

named_enum! {
    /// Why a request is allowed or denied, in the order of the checks.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
    pub enum Reason {
        /// No policy governs the service, or the policy is broken and its last good version is unknown.
        NoPolicy => "NoPolicy",
        /// Two parsers could read the request differently.
        AmbiguousPath => "AmbiguousPath",
        /// No policy declares the operation.
        OperationUndeclared => "OperationUndeclared",
        /// The operation is public.
        Public => "Public",
        /// The request has no valid credential.
        Unauthenticated => "Unauthenticated",
        /// The caller is authenticated, but too weakly for the risk, or by a method that the policy does not accept.
        AssuranceTooLow => "AssuranceTooLow",
        /// A denial applies.
        Denied => "Denied",
        /// The grants do not give the caller every scope that the operation needs.
        InsufficientScope => "InsufficientScope",
        /// The caller has every scope, but the operation requires an approval.
        ApprovalRequired => "ApprovalRequired",
        /// Grants give every scope that the operation needs.
        Granted => "Granted",
    }
}

impl Reason {
    /// Whether the reason allows the request.
    #[must_use]
    pub const fn allows(self) -> bool {
        matches!(self, Self::Public | Self::Granted)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The approval that an operation requires.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequiredApproval {
    /// Its subject.
    pub subject: ApprovalSubject,
    /// The approval that allowed the request; `None` if no valid one exists.
    pub granted: Option<GrantedApproval>,
}

/// The outcome of a rule's condition.
#[derive(Debug, Clone, PartialEq)]
pub struct EvaluatedCondition {
    /// `<namespace>/<policy>/grants/<name>` or `<namespace>/<policy>/denials/<name>`.
    pub rule: Arc<str>,
    /// The condition.
    pub condition: Arc<Condition>,
    /// Its outcome.
    pub truth: Truth,
}

/// A decision. Equal inputs give equal decisions, field by field.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// The reason, which also says whether the request is allowed.
    pub reason: Reason,
    /// Whether a denial is enforced.
    pub mode: EnforcementMode,
    /// The service, if one was found.
    pub service: Option<ServiceKey>,
    /// The policy that declares the operation, if one was found; for a closed service, the policy that closes it.
    pub policy: Option<NamespacedName>,
    /// The operation, if one was found.
    pub operation: Option<Arc<str>>,
    /// The grants that allowed the request, or the denial that applied.
    pub rules: Vec<Arc<str>>,
    /// The scopes that the operation needs.
    pub required: Arc<[Scope]>,
    /// The needed scopes that no grant gave.
    pub missing: Vec<Scope>,
    /// The requirements that the caller missed, for [`Reason::AssuranceTooLow`].
    pub challenge: Option<Challenge>,
    /// The approval that the operation requires, once the caller meets all other requirements.
    pub approval: Option<Box<RequiredApproval>>,
    /// Details of the reason, for audit records and explanations. Never sent to callers.
    pub detail: Option<String>,
    /// Outcomes of the conditions that read evidence, in the order of their evaluation. Records hold nothing of the
    /// evidence itself.
    pub evaluated: Vec<EvaluatedCondition>,
    /// The rule at which the budget of work ended, if it did. Conditions and relations failed from there on.
    pub exhausted: Option<Arc<str>>,
    /// Revision of the snapshot that it was decided from.
    pub revision: Digest,
}

impl Decision {
    /// Whether the policy allows the request.
    #[must_use]
    pub const fn allowed(&self) -> bool {
        self.reason.allows()
    }

    /// Whether the request passes: it is allowed, or the policies that deny it only audit.
    #[must_use]
    pub fn passes(&self) -> bool {
        self.allowed() || self.mode == EnforcementMode::Audit
    }
}
