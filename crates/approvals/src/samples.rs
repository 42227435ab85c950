//! Approvals and a seal for tests, here and in the crates above.

#![expect(clippy::expect_used, reason = "only tests use it")]

use crate::Seal;
use durward_api::resources::{Approval, ApprovalSpec, ApprovalState, ApprovalStatus};
use durward_api::translation::approval_subject;
use durward_identity::{Ring, TokenKeys};
use durward_pki::token::{SigningAlgorithm, TokenKey};

/// A seal with a key of its own.
#[must_use]
pub fn seal() -> Seal {
    let key = TokenKey::generate(SigningAlgorithm::Es256).expect("a key").to_pem();
    Seal::new(TokenKeys::new(Ring::read([("es256-0.pem", key.as_bytes())]).expect("a ring")))
}

/// The cleaner may purge, as `shop/orders` says with uid `p-1`; not signed yet.
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

/// The same, called as what it is about.
#[must_use]
pub fn named(mut approval: Approval) -> Approval {
    let namespace = approval.metadata.namespace.as_deref().unwrap_or_default();
    approval.metadata.name = approval_subject(namespace, &approval.spec).map(|matter| matter.approval_name());
    approval
}
