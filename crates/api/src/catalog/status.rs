//! The status of a policy or a `Relationship`: which version is in force, and why the newest one is not.

use crate::field_error::FieldError;

/// Status of a policy, or of a `Relationship`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyStatus {
    /// Why the newest version is not in force; `None` when it is.
    pub rejected: Option<PolicyRejection>,
    /// Whether a version is in force: the newest one, or the last good one.
    pub in_force: bool,
    /// Whether the service is closed: for a policy of it, the version that was in force is unknown to this replica.
    ///
    /// For a `Relationship`: whether the service's exclusions deny everyone, for the same reason.
    pub closed: bool,
}

/// Why a version of a policy is not in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyRejection {
    /// Condition reason, for `Accepted=False`.
    pub reason: RejectionReason,
    /// Each mistake with its field.
    pub errors: Vec<FieldError>,
}

/// Reason of a rejection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RejectionReason {
    /// The resource does not compile.
    Invalid,
    /// The policy claims a host, an audience or a store that its namespace does not own.
    NotOwned,
    /// An older policy holds a host or the audience.
    HostConflict,
    /// An older policy of the service declares the same operation or requests.
    OperationConflict,
    /// An older policy closes the service: the version of it that was in force is unknown to this replica.
    ServiceClosed,
    /// No policy declares the service of a `Relationship`.
    NoService,
    /// The service does not declare the relations of some tuples.
    UnknownRelation,
    /// The service looks its relations up in another engine, not in `Relationship`s.
    OtherRelationEngine,
    /// The newest version of a `Relationship` is invalid, and the version that was in force is unknown to this replica.
    LastGoodUnknown,
}

impl RejectionReason {
    /// The name in conditions and messages.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Invalid => "Invalid",
            Self::NotOwned => "NotOwned",
            Self::HostConflict => "HostConflict",
            Self::OperationConflict => "OperationConflict",
            Self::ServiceClosed => "ServiceClosed",
            Self::NoService => "NoService",
            Self::UnknownRelation => "UnknownRelation",
            Self::OtherRelationEngine => "OtherRelationEngine",
            Self::LastGoodUnknown => "LastGoodUnknown",
        }
    }
}
