//! The signature of what was decided, over all that an object says: it is good for that one object, and for no other state
//! of it.

use chrono::Utc;
use durward_api::resources::{Approval, ApprovalSpec, ApprovalState};
use durward_api::translation::unverified_grant;
use durward_core::approval::{ApprovalSubject, GrantedApproval};
use durward_identity::TokenKeys;
use durward_pki::token::{Jwk, SigningAlgorithm};
use durward_runtime::Failure;
use jsonwebtoken::{DecodingKey, Validation};
use serde::{Deserialize, Serialize};

/// Tells these signatures from all others that the same keys make (RFC 8725, section 3.11).
const TYP: &str = "durward-approval+jwt";

/// Signs, and tells whether it did. The keys are those of the audit log: they last longer than any approval, and nobody
/// takes what they sign for a token.
#[derive(Debug, Clone)]
pub struct Seal(TokenKeys);

#[derive(PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Claims {
    namespace: String,
    name: String,
    /// Of the object: one that is made anew is another.
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

impl Claims {
    fn of(approval: &Approval) -> Option<Self> {
        let (meta, spec, status) = (&approval.metadata, &approval.spec, approval.status.as_ref()?);
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

impl Seal {
    pub fn new(keys: TokenKeys) -> Self {
        Self(keys)
    }

    /// Signs what an object says.
    pub fn sign(&self, approval: &mut Approval) -> Result<(), Failure> {
        let claims = Claims::of(approval).ok_or("what was decided is not whole")?;
        let keys = self.0.current();
        let key = keys.signing_key(SigningAlgorithm::Es256, Utc::now()).ok_or("there is no key to sign with")?;
        let signature = key.sign(&claims, TYP)?;
        approval.status.get_or_insert_default().signature = Some(signature);
        Ok(())
    }

    /// Whether what an object says was decided here.
    pub fn holds(&self, approval: &Approval) -> bool {
        holds(&self.public(), approval)
    }

    /// The approval that an object is, if it is one that was given here.
    pub fn given(&self, approval: &Approval) -> Option<(ApprovalSubject, GrantedApproval)> {
        given(&self.public(), approval)
    }

    /// By what others verify what is signed here.
    pub fn public(&self) -> Vec<Jwk> {
        self.0.current().public().cloned().collect()
    }
}

/// Whether what an object says was decided by whoever has one of these keys.
fn holds(keys: &[Jwk], approval: &Approval) -> bool {
    signed(keys, approval).is_some_and(|signed| Claims::of(approval) == Some(signed))
}

fn signed(keys: &[Jwk], approval: &Approval) -> Option<Claims> {
    let signature = approval.status.as_ref()?.signature.as_deref()?;
    let header = jsonwebtoken::decode_header(signature).ok()?;
    let kid = header.kid?;
    let jwk = keys.iter().find(|jwk| jwk.common.key_id.as_ref() == Some(&kid))?;
    if header.typ.as_deref() != Some(TYP) {
        return None;
    }
    let mut validation = Validation::new(jsonwebtoken::Algorithm::ES256);
    // the times are the object's own, and are compared with it
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_aud = false;
    let token = jsonwebtoken::decode::<Claims>(signature, &DecodingKey::from_jwk(jwk).ok()?, &validation);
    token.ok().map(|token| token.claims)
}

/// The grant that an object states, if the holder of one of these keys signed it.
pub fn given(keys: &[Jwk], approval: &Approval) -> Option<(ApprovalSubject, GrantedApproval)> {
    if holds(keys, approval) { unverified_grant(approval) } else { None }
}

/// The words for it in an object.
pub fn spec(matter: &ApprovalSubject) -> ApprovalSpec {
    ApprovalSpec {
        policy: matter.policy.name.to_string(),
        policy_uid: matter.policy_uid.to_string(),
        operation: matter.operation.to_string(),
        principal: matter.principal.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::{approved, named, seal};

    #[test]
    fn what_was_decided_here_counts_and_nothing_that_somebody_made_of_it() {
        let seal = seal();
        let mut good = approved();
        assert_eq!(seal.given(&good), None, "nobody signed it");
        seal.sign(&mut good).expect("signed");
        let (matter, given) = seal.given(&good).expect("it counts");
        assert_eq!((&*matter.operation, given.approved_by.to_string().as_str()), ("purge", "user:corporate/alice"));

        type Change = fn(&mut Approval);
        let status: [(&str, Change); 6] = [
            ("more time", |a| a.status.as_mut().unwrap().expires_at = Some("2027-01-01T00:00:00Z".to_owned())),
            ("an earlier beginning", |a| {
                a.status.as_mut().unwrap().decided_at = Some("2025-01-01T00:00:00Z".to_owned())
            }),
            ("somebody else", |a| a.status.as_mut().unwrap().by = Some("user:corporate/bob".to_owned())),
            ("no signature", |a| a.status.as_mut().unwrap().signature = None),
            ("a cut signature", |a| a.status.as_mut().unwrap().signature.as_mut().unwrap().truncate(100)),
            ("another object of the same name", |a| a.metadata.uid = Some("a-2".to_owned())),
        ];
        for (what, change) in status {
            let mut forged = good.clone();
            change(&mut forged);
            assert_eq!(seal.given(&forged), None, "{what}");
        }
        let other: [(&str, Change); 5] = [
            ("another principal", |a| a.spec.principal = "spiffe://cluster.local/ns/ops/sa/thief".to_owned()),
            ("another operation", |a| a.spec.operation = "refund".to_owned()),
            ("another policy", |a| a.spec.policy = "payments".to_owned()),
            ("a policy made anew", |a| a.spec.policy_uid = "p-2".to_owned()),
            ("another namespace", |a| a.metadata.namespace = Some("bank".to_owned())),
        ];
        for (what, change) in other {
            let mut forged = good.clone();
            change(&mut forged);
            assert_eq!(seal.given(&forged), None, "{what}, under the old name");
            assert_eq!(seal.given(&named(forged)), None, "{what}");
        }
        // a refusal is no approval by another word, and what others sign is nothing
        let mut denied = approved();
        denied.status.as_mut().unwrap().state = ApprovalState::Denied;
        seal.sign(&mut denied).expect("signed");
        assert!(seal.holds(&denied) && seal.given(&denied).is_none());
        denied.status.as_mut().unwrap().state = ApprovalState::Approved;
        assert_eq!(seal.given(&denied), None);
        assert_eq!(crate::samples::seal().given(&good), None, "another key");
    }

    #[test]
    fn what_the_same_key_signs_for_another_purpose_is_no_approval() {
        let seal = seal();
        let mut approval = approved();
        let keys = seal.0.current();
        let key = keys.signing_key(SigningAlgorithm::Es256, Utc::now()).expect("a key");
        let claims = Claims::of(&approval).expect("whole");
        for typ in ["JWT", "at+jwt", "durward-audit+jws"] {
            approval.status.as_mut().unwrap().signature = Some(key.sign(&claims, typ).expect("signed"));
            assert_eq!(seal.given(&approval), None, "{typ}");
        }
    }
}
