//! Approvals: a person lets one principal do one operation for a while.
//!
//! An approval is no grant. It makes up for nothing that is missing and no denial gives way to it: an operation that asks
//! for one is open to those to whom it would be open without, once somebody else has agreed.

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

/// Oldest second factor of somebody who approves.
pub const MAX_FACTOR_AGE: TimeDelta = TimeDelta::minutes(5);

/// Longest part of an operation's name in the name of an approval, in bytes: with the digest it is a DNS label.
const READABLE: usize = 30;

/// What an operation asks for before it is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApprovalRequirement {
    /// Any of these people may approve.
    pub approvers: Vec<SubjectMatcher>,
    /// For how long an approval counts.
    pub valid_for: TimeDelta,
    /// `metadata.uid` of the policy that asks, empty where there is none: what was approved for a policy that is gone is not
    /// approved for another one of its name.
    pub policy_uid: Arc<str>,
}

/// What an approval is about: one operation, for one principal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ApprovalSubject {
    /// The policy that declares the operation.
    pub policy: NamespacedName,
    /// Its `metadata.uid`, empty where there is none.
    pub policy_uid: Arc<str>,
    /// The operation.
    pub operation: Arc<str>,
    /// Who is to do it.
    pub principal: PrincipalId,
}

impl ApprovalSubject {
    /// Name of the `Approval` that is about this, in the namespace of the policy: the same wherever it is asked for.
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

    /// Name in the content of a snapshot.
    pub(crate) fn content(&self) -> String {
        format!("Approval/{}/{}", self.policy.namespace, self.approval_name())
    }
}

/// An approval that was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantedApproval {
    /// By whom.
    pub approved_by: PrincipalId,
    /// When it begins to count.
    pub from: DateTime<Utc>,
    /// When it counts no more.
    pub until: DateTime<Utc>,
}

impl GrantedApproval {
    /// Whether it counts, where a policy lets approvals last so long.
    #[must_use]
    pub fn is_valid(&self, valid_for: TimeDelta, now: DateTime<Utc>) -> bool {
        self.from <= now && now < self.until && now - self.from < valid_for
    }

    pub(crate) fn digest(&self) -> Digest {
        let times = [self.from, self.until].map(|at| at.timestamp_micros().to_be_bytes());
        Digest::of([self.approved_by.to_string().as_bytes(), &times[0], &times[1]])
    }
}

/// Why somebody may not approve or refuse.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ApproverRejection {
    /// The operation's policy names others.
    #[error("the policy names others to decide this")]
    NotNamed,
    /// Nobody approves what they do themselves.
    #[error("nobody decides about their own request")]
    Requester,
    /// The second factor is missing, or too old.
    #[error("this asks for a fresh second factor")]
    NotFresh(Challenge),
}

impl ApprovalRequirement {
    /// Whether somebody may approve, or refuse, what `requester` is to do.
    ///
    /// # Errors
    /// With why not.
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

    /// The authentication_methods in by which those who may approve come.
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
