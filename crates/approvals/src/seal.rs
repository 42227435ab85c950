//! The signature of a decision. It covers the whole object, so it is valid for one object in one state only.

use crate::error::ApprovalSealError;
use chrono::Utc;
use durward_api::resources::{Approval, ApprovalSpec, ApprovalState};
use durward_api::translation::unverified_grant;
use durward_core::approval::{ApprovalSubject, GrantedApproval};
use durward_identity::TokenKeys;
use durward_pki::token::{Jwk, SigningAlgorithm};
use jsonwebtoken::{DecodingKey, Validation};
use serde::{Deserialize, Serialize};

/// Distinguishes these signatures from all others by the same keys (RFC 8725, section 3.11).
const TYP: &str = "durward-approval+jwt";

/// Signs decisions and verifies their signatures. The keys are those of the audit log: they outlive every approval, and
/// no verifier accepts their signatures as tokens.
#[derive(Debug, Clone)]
pub struct ApprovalSeal(TokenKeys);

#[derive(PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ApprovalClaims {
    namespace: String,
    name: String,
    /// Uid of the object: an object that is created again is another one.
    uid: String,
    policy: String,
    policy_uid: String,
    operation: String,
    principal: String,
    state: ApprovalState,
    by: String,
    decided_at: String,
    expires_at: String,
}

impl ApprovalClaims {
    fn of(approval: &Approval) -> Option<Self> {
        let meta = &approval.metadata;
        let spec = &approval.spec;
        let status = approval.status.as_ref()?;
        Some(Self {
            namespace: meta.namespace.clone()?,
            name: meta.name.clone()?,
            uid: meta.uid.clone()?,
            policy: spec.policy.clone(),
            policy_uid: spec.policy_uid.clone(),
            operation: spec.operation.clone(),
            principal: spec.principal.clone(),
            state: status.state,
            by: status.by.clone()?,
            decided_at: status.decided_at.clone()?,
            expires_at: status.expires_at.clone()?,
        })
    }
}

impl ApprovalSeal {
    pub fn new(keys: TokenKeys) -> Self {
        Self(keys)
    }

    /// Signs the decision of an object.
    ///
    /// # Errors
    /// When the object is incomplete, or there is no key.
    pub fn sign(&self, approval: &mut Approval) -> Result<(), ApprovalSealError> {
        let claims = ApprovalClaims::of(approval).ok_or(ApprovalSealError::Incomplete)?;
        let keys = self.0.current();
        let key = keys.signing_key(SigningAlgorithm::Es256, Utc::now()).ok_or(ApprovalSealError::NoKey)?;
        let signature = key.sign(&claims, TYP).map_err(ApprovalSealError::Signing)?;
        approval.status.get_or_insert_default().signature = Some(signature);
        Ok(())
    }

    /// Whether an object has a valid signature of its decision.
    pub fn verifies(&self, approval: &Approval) -> bool {
        verifies(&self.public_keys(), approval)
    }

    /// The grant in an object, if it has a valid signature.
    pub fn grant(&self, approval: &Approval) -> Option<(ApprovalSubject, GrantedApproval)> {
        verified_grant(&self.public_keys(), approval)
    }

    /// The keys that verify the signatures.
    pub fn public_keys(&self) -> Vec<Jwk> {
        self.0.current().public_keys().cloned().collect()
    }
}

/// Whether one of these keys signed the object in its present state.
fn verifies(keys: &[Jwk], approval: &Approval) -> bool {
    signed_claims(keys, approval).is_some_and(|signed| ApprovalClaims::of(approval) == Some(signed))
}

/// The claims of an object's signature, if one of these keys made it.
fn signed_claims(keys: &[Jwk], approval: &Approval) -> Option<ApprovalClaims> {
    let signature = approval.status.as_ref()?.signature.as_deref()?;
    let header = jsonwebtoken::decode_header(signature).ok()?;
    let kid = header.kid?;
    let jwk = keys.iter().find(|jwk| jwk.common.key_id.as_ref() == Some(&kid))?;
    if header.typ.as_deref() != Some(TYP) {
        return None;
    }
    let mut validation = Validation::new(jsonwebtoken::Algorithm::ES256);
    // the claims are compared with the object, and its times are checked with each decision
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_aud = false;
    let token = jsonwebtoken::decode::<ApprovalClaims>(signature, &DecodingKey::from_jwk(jwk).ok()?, &validation);
    token.ok().map(|token| token.claims)
}

/// The grant in an object, if one of these keys signed it.
pub fn verified_grant(keys: &[Jwk], approval: &Approval) -> Option<(ApprovalSubject, GrantedApproval)> {
    if verifies(keys, approval) { unverified_grant(approval) } else { None }
}

/// The spec of the object for a subject.
pub fn approval_spec(subject: &ApprovalSubject) -> ApprovalSpec {
    ApprovalSpec {
        policy: subject.policy.name.to_string(),
        policy_uid: subject.policy_uid.to_string(),
        operation: subject.operation.to_string(),
        principal: subject.principal.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::{approved, named, seal};

    #[test]
    fn any_change_of_a_signed_grant_invalidates_it() {
        let seal = seal();
        let mut good = approved();
        assert_eq!(seal.grant(&good), None, "it has no signature");
        seal.sign(&mut good).expect("signed");
        let (subject, granted) = seal.grant(&good).expect("a valid grant");
        assert_eq!((&*subject.operation, granted.approved_by.to_string().as_str()), ("purge", "user:corporate/alice"));

        type Change = fn(&mut Approval);
        let status_changes: [(&str, Change); 6] = [
            ("more time", |a| a.status.as_mut().unwrap().expires_at = Some("2027-01-01T00:00:00Z".to_owned())),
            ("an earlier decision", |a| {
                a.status.as_mut().unwrap().decided_at = Some("2025-01-01T00:00:00Z".to_owned())
            }),
            ("another approver", |a| a.status.as_mut().unwrap().by = Some("user:corporate/bob".to_owned())),
            ("no signature", |a| a.status.as_mut().unwrap().signature = None),
            ("a truncated signature", |a| a.status.as_mut().unwrap().signature.as_mut().unwrap().truncate(100)),
            ("another object of the same name", |a| a.metadata.uid = Some("a-2".to_owned())),
        ];
        for (what, change) in status_changes {
            let mut forged = good.clone();
            change(&mut forged);
            assert_eq!(seal.grant(&forged), None, "{what}");
        }
        let subject_changes: [(&str, Change); 5] = [
            ("another principal", |a| a.spec.principal = "spiffe://cluster.local/ns/ops/sa/thief".to_owned()),
            ("another operation", |a| a.spec.operation = "refund".to_owned()),
            ("another policy", |a| a.spec.policy = "payments".to_owned()),
            ("a policy that was created again", |a| a.spec.policy_uid = "p-2".to_owned()),
            ("another namespace", |a| a.metadata.namespace = Some("bank".to_owned())),
        ];
        for (what, change) in subject_changes {
            let mut forged = good.clone();
            change(&mut forged);
            assert_eq!(seal.grant(&forged), None, "{what}, under the old name");
            assert_eq!(seal.grant(&named(forged)), None, "{what}");
        }
        // the signature of a denial is no approval, and signatures of other keys are invalid
        let mut denied = approved();
        denied.status.as_mut().unwrap().state = ApprovalState::Denied;
        seal.sign(&mut denied).expect("signed");
        assert!(seal.verifies(&denied) && seal.grant(&denied).is_none());
        denied.status.as_mut().unwrap().state = ApprovalState::Approved;
        assert_eq!(seal.grant(&denied), None);
        assert_eq!(crate::samples::seal().grant(&good), None, "another key");
    }

    #[test]
    fn signatures_of_other_types_are_rejected() {
        let seal = seal();
        let mut approval = approved();
        let keys = seal.0.current();
        let key = keys.signing_key(SigningAlgorithm::Es256, Utc::now()).expect("a key");
        let claims = ApprovalClaims::of(&approval).expect("complete");
        for typ in ["JWT", "at+jwt", "durward-audit+jws"] {
            approval.status.as_mut().unwrap().signature = Some(key.sign(&claims, typ).expect("signed"));
            assert_eq!(seal.grant(&approval), None, "{typ}");
        }
    }
}
