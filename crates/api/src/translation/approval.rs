//! `Approval`s: the subject that each one names, and the change that follows from a grant.
//!
//! An `Approval` is only valid with Durward's signature. This crate holds no keys: the caller verifies the signature
//! and passes the grant on only if it is valid.

use crate::catalog::CatalogChange;
use crate::resources::{Approval, ApprovalSpec, ApprovalState};
use chrono::{DateTime, Utc};
use durward_core::approval::{ApprovalSubject, GrantedApproval};
use durward_core::namespaced_name::NamespacedName;

/// The changes for an `Approval`. `previous` is the subject that the same object granted before, `granted` the verified
/// grant.
///
/// Pass `None` as `granted` for an object that was deleted, can't be decoded, or has no valid signature.
#[must_use]
pub fn approval(
    previous: Option<&ApprovalSubject>,
    granted: Option<(ApprovalSubject, GrantedApproval)>,
) -> Vec<CatalogChange> {
    let kept = granted.as_ref().map(|(subject, _)| subject);
    let withdrawn = previous.filter(|subject| kept != Some(*subject)).cloned();
    let withdrawn = withdrawn.map(|subject| CatalogChange::Approval(subject, None));
    let granted = granted.map(|(subject, granted)| CatalogChange::Approval(subject, Some(granted)));
    withdrawn.into_iter().chain(granted).collect()
}

/// The subject of an approval in a namespace; `None` if the principal is not valid.
#[must_use]
pub fn approval_subject(namespace: &str, spec: &ApprovalSpec) -> Option<ApprovalSubject> {
    Some(ApprovalSubject {
        policy: NamespacedName::new(namespace, spec.policy.as_str()),
        policy_uid: spec.policy_uid.as_str().into(),
        operation: spec.operation.as_str().into(),
        principal: spec.principal.parse().ok()?,
    })
}

/// The subject of an `Approval`; `None` if the object does not have the name of its subject.
#[must_use]
pub fn requested_subject(approval: &Approval) -> Option<ApprovalSubject> {
    let metadata = &approval.metadata;
    let subject = approval_subject(metadata.namespace.as_deref()?, &approval.spec)?;
    if metadata.name.as_ref() == Some(&subject.approval_name()) { Some(subject) } else { None }
}

/// The grant that an `Approval` states, without a check of its signature.
///
/// Everyone who can write the object can state a grant. Decide by it only after a check of the signature.
#[must_use]
pub fn unverified_grant(approval: &Approval) -> Option<(ApprovalSubject, GrantedApproval)> {
    let subject = requested_subject(approval)?;
    let status = approval.status.as_ref()?;
    if status.state != ApprovalState::Approved {
        return None;
    }
    let time = |text: &Option<String>| text.as_ref()?.parse::<DateTime<Utc>>().ok();
    let granted = GrantedApproval {
        approved_by: status.by.as_ref()?.parse().ok()?,
        from: time(&status.decided_at)?,
        until: time(&status.expires_at)?,
    };
    Some((subject, granted))
}
