//! Approvals and a seal for tests of this crate and of the crates above.

#![expect(clippy::expect_used, reason = "only tests use this module")]

use crate::ApprovalSeal;
use durward_api::resources::{Approval, ApprovalSpec, ApprovalState, ApprovalStatus};
use durward_api::translation::approval_subject;
use durward_identity::{TokenKeyRing, TokenKeys};
use durward_pki::token::{SigningAlgorithm, TokenKey};

/// A seal with a new key.
#[must_use]
pub fn seal() -> ApprovalSeal {
    let key = TokenKey::generate(SigningAlgorithm::Es256).expect("a key").to_pem();
    ApprovalSeal::new(TokenKeys::new(TokenKeyRing::from_files([("es256-0.pem", key.as_bytes())]).expect("a ring")))
}

/// An unsigned grant for the cleaner to purge, under the policy `shop/orders` with the uid `p-1`.
#[must_use]
pub fn approved() -> Approval {
    let spec = ApprovalSpec {
        policy: "orders".to_owned(),
        policy_uid: "p-1".to_owned(),
        operation: "purge".to_owned(),
        principal: "spiffe://cluster.local/ns/ops/sa/cleaner".to_owned(),
    };
    let mut approval = Approval::new("?", spec);
    approval.metadata.namespace = Some("shop".to_owned());
    approval.metadata.uid = Some("a-1".to_owned());
    approval.status = Some(ApprovalStatus {
        state: ApprovalState::Approved,
        by: Some("user:corporate/alice".to_owned()),
        decided_at: Some("2026-01-01T00:00:00Z".to_owned()),
        expires_at: Some("2026-01-01T00:30:00Z".to_owned()),
        signature: None,
    });
    named(approval)
}

/// The same approval under the name that its subject has.
#[must_use]
pub fn named(mut approval: Approval) -> Approval {
    let namespace = approval.metadata.namespace.as_deref().unwrap_or_default();
    approval.metadata.name = approval_subject(namespace, &approval.spec).map(|subject| subject.approval_name());
    approval
}
