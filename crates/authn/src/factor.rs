//! A second factor beside a first token: who has shown both is better known than the token alone says.

use crate::subject::AuthenticatedSubject;
use chrono::{DateTime, Utc};
use durward_core::principal::{CompletedStepUp, Identity, Principal};
use durward_core::risk::Assurance;
use std::sync::Arc;

/// A kind of second factor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Factor {
    /// A code of an authenticator app (RFC 6238).
    Totp,
    /// One of the codes for the day on which the app is lost.
    RecoveryCode,
    /// A WebAuthn key that can be copied to other devices, as synchronised passkeys are.
    Passkey,
    /// A WebAuthn key that stays in its device.
    HardwareKey,
}

impl Factor {
    /// What it proves, beside a first token.
    pub const fn assurance(self) -> Assurance {
        match self {
            Self::Totp | Self::RecoveryCode => Assurance::MultiFactor,
            Self::Passkey | Self::HardwareKey => Assurance::PhishingResistant,
        }
    }

    /// Ways of authentication that tokens name (`amr`, RFC 8176): codes are passwords for one use, and keys are unlocked by
    /// their user.
    pub const fn methods(self) -> &'static [&'static str] {
        match self {
            Self::Totp | Self::RecoveryCode => &["otp", "mfa"],
            Self::Passkey => &["swk", "user", "mfa"],
            Self::HardwareKey => &["hwk", "user", "mfa"],
        }
    }

    /// The name in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Totp => "totp",
            Self::RecoveryCode => "recovery-code",
            Self::Passkey => "passkey",
            Self::HardwareKey => "hardware-key",
        }
    }
}

/// A second factor that was shown, and for what.
#[derive(Debug, Clone)]
pub struct FactorProof {
    pub factor: Factor,
    pub at: DateTime<Utc>,
    /// The one operation that it is for; any if left out.
    pub operation: Option<Arc<str>>,
}

impl AuthenticatedSubject {
    /// The subject with the second factor that it has shown just now. It is known as well as that proves, at that time: what
    /// its credential tells of an earlier one is not shown anew by it.
    pub fn with(self, proof: &FactorProof) -> Self {
        let before = self.principal.identity();
        let assurance = proof.factor.assurance();
        let identity = match &proof.operation {
            Some(operation) => {
                let (operation, authenticated_at) = (Arc::clone(operation), proof.at);
                Identity { step_up: Some(CompletedStepUp { operation, assurance, authenticated_at }), ..before.clone() }
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
    use durward_core::principal::PrincipalId;

    /// A key that was shown an hour ago, as the first token tells, and a code now are no key now.
    #[test]
    fn what_was_shown_long_ago_is_not_shown_anew() {
        let at = |seconds: i64| DateTime::from_timestamp(1_800_000_000 + seconds, 0).expect("a time");
        let id = PrincipalId::user("corporate", "alice").expect("a name");
        let identity =
            Identity { authenticated_at: Some(at(-3600)), ..Identity::new(id, Assurance::PhishingResistant) };
        let principal = Arc::new(Principal::authenticated(identity));
        let subject = AuthenticatedSubject { principal, binding: None, ends: at(600), methods: vec!["hwk".to_owned()] };
        let after = |factor, operation: Option<&str>| {
            let proof = FactorProof { factor, at: at(0), operation: operation.map(Into::into) };
            subject.clone().with(&proof).principal.identity().clone()
        };
        for factor in [Factor::Totp, Factor::RecoveryCode] {
            let any = after(factor, None);
            assert_eq!((any.assurance, any.authenticated_at), (Assurance::MultiFactor, Some(at(0))));
            let one = after(factor, Some("refund"));
            let here = one.at_operation("refund");
            assert_eq!((here.assurance, here.authenticated_at), (Assurance::MultiFactor, Some(at(0))));
            // elsewhere it is still what it was, when it was
            let elsewhere = one.at_operation("list");
            assert_eq!(
                (elsewhere.assurance, elsewhere.authenticated_at),
                (Assurance::PhishingResistant, Some(at(-3600)))
            );
        }
        assert_eq!(after(Factor::Passkey, None).assurance, Assurance::PhishingResistant);
    }
}
