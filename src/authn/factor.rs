//! A second factor beside a first token: who has shown both is better known than the token alone says.

use crate::authn::subject::Subject;
use chrono::{DateTime, Utc};
use durward_core::principal::{Identity, Principal, StepUp};
use durward_core::risk::Assurance;
use std::sync::Arc;

/// A kind of second factor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Factor {
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
    pub(crate) const fn assurance(self) -> Assurance {
        match self {
            Self::Totp | Self::RecoveryCode => Assurance::MultiFactor,
            Self::Passkey | Self::HardwareKey => Assurance::PhishingResistant,
        }
    }

    /// Ways of authentication that tokens name (`amr`, RFC 8176): codes are passwords for one use, and keys are unlocked by
    /// their user.
    pub(crate) const fn methods(self) -> &'static [&'static str] {
        match self {
            Self::Totp | Self::RecoveryCode => &["otp", "mfa"],
            Self::Passkey => &["swk", "user", "mfa"],
            Self::HardwareKey => &["hwk", "user", "mfa"],
        }
    }

    /// The name in metrics.
    pub(crate) const fn as_str(self) -> &'static str {
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
pub(crate) struct Proof {
    pub(crate) factor: Factor,
    pub(crate) at: DateTime<Utc>,
    /// The one operation that it is for; any if left out.
    pub(crate) operation: Option<Arc<str>>,
}

impl Subject {
    /// The subject with the second factor that it has shown just now. Never less than it was before.
    pub(crate) fn with(self, proof: &Proof) -> Self {
        let before = self.principal.identity();
        let assurance = proof.factor.assurance().max(before.assurance);
        let identity = match &proof.operation {
            Some(operation) => {
                let (operation, authenticated_at) = (Arc::clone(operation), proof.at);
                Identity { step_up: Some(StepUp { operation, assurance, authenticated_at }), ..before.clone() }
            }
            None => Identity { assurance, authenticated_at: Some(proof.at), step_up: None, ..before.clone() },
        };
        let mut methods = self.methods;
        methods.extend(proof.factor.methods().iter().map(|method| (*method).to_owned()));
        methods.sort();
        methods.dedup();
        Self { principal: Arc::new(Principal::authenticated(identity)), methods, ..self }
    }
}
