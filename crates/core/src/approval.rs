//! Approvals: a person lets one principal do one operation for a limited time.
//!
//! An approval is not a grant. It replaces no missing scope and overrides no denial. It is the last requirement of a
//! caller who has everything else that the operation needs.

use crate::authentication::CLOCK_SKEW;
use crate::authentication::{AuthenticationMethod, Challenge};
use crate::digest::Digest;
use crate::namespaced_name::NamespacedName;
use crate::principal::{Principal, PrincipalId};
use crate::risk::Assurance;
use crate::subject::SubjectMatcher;
use chrono::{DateTime, TimeDelta, Utc};
use std::collections::BTreeSet;
use std::sync::Arc;
use thiserror::Error;

/// Maximum age of an approver's second factor.
pub const MAX_FACTOR_AGE: TimeDelta = TimeDelta::minutes(5);

/// Maximum length of the operation's name in the name of an approval, in bytes. With the digest it fits a DNS label.
const READABLE: usize = 30;

/// The approval that an operation requires.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApprovalRequirement {
    /// The people who may approve.
    pub approvers: Vec<SubjectMatcher>,
    /// How long an approval is valid.
    pub valid_for: TimeDelta,
    /// `metadata.uid` of the policy that declares the operation, empty if it has none. An approval for a deleted
    /// policy is not valid for a new policy of the same name.
    pub policy_uid: Arc<str>,
}

/// The subject of an approval: one operation, for one principal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ApprovalSubject {
    /// The policy that declares the operation.
    pub policy: NamespacedName,
    /// Its `metadata.uid`, empty where there is none.
    pub policy_uid: Arc<str>,
    /// The operation.
    pub operation: Arc<str>,
    /// The principal that does it.
    pub principal: PrincipalId,
}

impl ApprovalSubject {
    /// Name of the `Approval` with this subject, in the namespace of the policy. It is the same on every replica.
    #[must_use]
    pub fn approval_name(&self) -> String {
        let principal = self.principal.to_string();
        let parts = [&self.policy.namespace, &self.policy.name, &self.policy_uid, &self.operation, principal.as_str()];
        let digest = Digest::of(parts.map(str::as_bytes));
        let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
        let readable: String = self.operation.chars().map(plain).take(READABLE).collect();
        match readable.trim_matches('-') {
            "" => digest.to_string(),
            readable => format!("{readable}-{digest}"),
        }
    }

    /// Name among the contents of a snapshot.
    pub(crate) fn content(&self) -> String {
        format!("Approval/{}/{}", self.policy.namespace, self.approval_name())
    }
}

/// An approval that a person granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantedApproval {
    /// The approver.
    pub approved_by: PrincipalId,
    /// Start of its validity.
    pub from: DateTime<Utc>,
    /// End of its validity.
    pub until: DateTime<Utc>,
}

impl GrantedApproval {
    /// Whether it is valid at `now`, for a policy that limits approvals to `valid_for`.
    #[must_use]
    pub fn is_valid(&self, valid_for: TimeDelta, now: DateTime<Utc>) -> bool {
        self.from <= now && now < self.until && now - self.from < valid_for
    }

    pub(crate) fn digest(&self) -> Digest {
        let times = [self.from, self.until].map(|at| at.timestamp_micros().to_be_bytes());
        Digest::of([self.approved_by.to_string().as_bytes(), &times[0], &times[1]])
    }
}

/// Why a caller may not decide about an approval.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ApproverRejection {
    /// The policy does not list the caller as an approver.
    #[error("the policy does not list the caller as an approver")]
    NotNamed,
    /// Requesters never approve their own requests.
    #[error("requesters can't decide about their own requests")]
    Requester,
    /// The second factor is missing or too old.
    #[error("a fresh second factor is required")]
    NotFresh(Challenge),
}

impl ApprovalRequirement {
    /// Checks that `approver` may approve or refuse an operation of `requester`.
    ///
    /// # Errors
    /// The reason for which the caller may not decide.
    pub fn may_decide(
        &self,
        approver: &Principal,
        requester: &PrincipalId,
        now: DateTime<Utc>,
    ) -> Result<(), ApproverRejection> {
        let person = approver.identity();
        if !matches!(person.id, PrincipalId::User { .. })
            || !self.approvers.iter().any(|one| one.includes(person, None))
        {
            return Err(ApproverRejection::NotNamed);
        }
        if person.id == *requester {
            return Err(ApproverRejection::Requester);
        }
        let fresh =
            person.authenticated_at.map(|at| now - at).is_some_and(|age| age <= MAX_FACTOR_AGE && age >= -CLOCK_SKEW);
        if person.assurance < Assurance::MultiFactor || !fresh {
            return Err(ApproverRejection::NotFresh(Challenge {
                assurance: Assurance::MultiFactor,
                max_age: Some(MAX_FACTOR_AGE),
            }));
        }
        Ok(())
    }

    /// The authentication methods of the people who may approve.
    #[must_use]
    pub fn authentication_methods(&self) -> Vec<AuthenticationMethod> {
        let provider = |subject: &SubjectMatcher| match subject {
            SubjectMatcher::Provider(provider)
            | SubjectMatcher::Group { provider, .. }
            | SubjectMatcher::Claims { provider, .. } => Some(Arc::clone(provider)),
            SubjectMatcher::Principal(PrincipalId::User { provider, .. }) => Some(Arc::clone(provider)),
            _ => None,
        };
        let providers: BTreeSet<_> = self.approvers.iter().filter_map(provider).collect();
        providers.into_iter().map(AuthenticationMethod::Provider).collect()
    }
}
