//! Second factors: what each kind proves.

use chrono::{DateTime, Utc};
use durward_core::risk::Assurance;
use std::sync::Arc;

/// A kind of second factor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Factor {
    /// A code of an authenticator app (RFC 6238).
    Totp,
    /// A recovery code, for a lost authenticator app.
    RecoveryCode,
    /// A WebAuthn key that can be copied to other devices, such as a synchronised passkey.
    Passkey,
    /// A WebAuthn key that can't leave its device.
    HardwareKey,
}

impl Factor {
    /// Assurance of the factor together with a first token.
    #[must_use]
    pub const fn assurance(self) -> Assurance {
        match self {
            Self::Totp | Self::RecoveryCode => Assurance::MultiFactor,
            Self::Passkey | Self::HardwareKey => Assurance::PhishingResistant,
        }
    }

    /// Authentication methods for `amr` (RFC 8176): codes are one-time passwords, and the user unlocks a key.
    #[must_use]
    pub const fn methods(self) -> &'static [&'static str] {
        match self {
            Self::Totp | Self::RecoveryCode => &["otp", "mfa"],
            Self::Passkey => &["swk", "user", "mfa"],
            Self::HardwareKey => &["hwk", "user", "mfa"],
        }
    }

    /// Label value in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Totp => "totp",
            Self::RecoveryCode => "recovery-code",
            Self::Passkey => "passkey",
            Self::HardwareKey => "hardware-key",
        }
    }
}

/// A verified second factor.
#[derive(Debug, Clone)]
pub struct FactorProof {
    /// Kind of the factor.
    pub factor: Factor,
    /// When it was verified.
    pub at: DateTime<Utc>,
    /// The only operation for which it is valid; `None` for all operations.
    pub operation: Option<Arc<str>>,
}
