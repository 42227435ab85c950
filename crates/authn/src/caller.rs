//! Callers whose credentials were verified.

use crate::factor::FactorProof;
use crate::liveness::Binding;
use chrono::{DateTime, Utc};
use durward_core::principal::{CompletedStepUp, Identity, Principal};
use std::sync::Arc;

/// A caller whose credential was verified.
#[derive(Debug, Clone)]
pub struct VerifiedCaller {
    /// The caller.
    pub principal: Arc<Principal>,
    /// The pod and service account of the credential, if it names them.
    pub binding: Option<Binding>,
}

impl VerifiedCaller {
    /// A caller whose credential names no pod and no service account.
    pub(crate) const fn unbound(principal: Arc<Principal>) -> Self {
        Self { principal, binding: None }
    }
}

/// The authenticated subject of a token exchange.
#[derive(Debug, Clone)]
pub struct AuthenticatedSubject {
    /// The subject.
    pub principal: Arc<Principal>,
    /// The pod and service account of the credential, if it names them.
    pub binding: Option<Binding>,
    /// End of the credential, without leeway for clock differences: leeway would add up with each exchange.
    pub ends: DateTime<Utc>,
    /// Methods by which the subject authenticated (RFC 8176), if the token states them.
    pub methods: Vec<String>,
}

impl AuthenticatedSubject {
    /// The subject after it has proved a second factor.
    ///
    /// The factor determines assurance and time. An earlier, stronger factor that the token states is not renewed by
    /// it.
    #[must_use]
    pub fn with_factor(self, proof: &FactorProof) -> Self {
        let before = self.principal.identity();
        let assurance = proof.factor.assurance();
        let identity = match &proof.operation {
            Some(operation) => {
                let step_up =
                    CompletedStepUp { operation: Arc::clone(operation), assurance, authenticated_at: proof.at };
                Identity { step_up: Some(step_up), ..before.clone() }
            }
            None => Identity { assurance, authenticated_at: Some(proof.at), step_up: None, ..before.clone() },
        };
        let mut methods = self.methods;
        methods.extend(proof.factor.methods().iter().map(|method| (*method).to_owned()));
        methods.sort_unstable();
        methods.dedup();
        Self { principal: Arc::new(Principal::authenticated(identity)), methods, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::factor::Factor;
    use durward_core::principal::PrincipalId;
    use durward_core::risk::Assurance;

    /// The first token states a hardware key used an hour ago. A code entered now does not renew it.
    #[test]
    fn a_new_factor_does_not_renew_an_earlier_one() {
        let at = |seconds: i64| DateTime::from_timestamp(1_800_000_000 + seconds, 0).expect("a time");
        let id = PrincipalId::user("corporate", "alice").expect("a name");
        let identity =
            Identity { authenticated_at: Some(at(-3600)), ..Identity::new(id, Assurance::PhishingResistant) };
        let principal = Arc::new(Principal::authenticated(identity));
        let subject = AuthenticatedSubject { principal, binding: None, ends: at(600), methods: vec!["hwk".to_owned()] };
        let after = |factor, operation: Option<&str>| {
            let proof = FactorProof { factor, at: at(0), operation: operation.map(Into::into) };
            subject.clone().with_factor(&proof).principal.identity().clone()
        };
        for factor in [Factor::Totp, Factor::RecoveryCode] {
            let everywhere = after(factor, None);
            assert_eq!((everywhere.assurance, everywhere.authenticated_at), (Assurance::MultiFactor, Some(at(0))));
            let for_refunds = after(factor, Some("refund"));
            let refund = for_refunds.at_operation("refund");
            assert_eq!((refund.assurance, refund.authenticated_at), (Assurance::MultiFactor, Some(at(0))));
            // other operations still see the first token's factor and time
            let list = for_refunds.at_operation("list");
            assert_eq!((list.assurance, list.authenticated_at), (Assurance::PhishingResistant, Some(at(-3600))));
        }
        assert_eq!(after(Factor::Passkey, None).assurance, Assurance::PhishingResistant);
    }
}
