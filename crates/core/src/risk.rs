//! Assurance of an authentication, and risk of an operation.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The strength of an authentication, weakest first.
///
/// The order has a meaning: `a >= b` says that `a` satisfies every requirement that `b` satisfies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Assurance {
    /// An API key or a password: any party that has seen it can use it.
    SharedSecret,
    /// A token of a trusted issuer, usable by any bearer (RFC 6750).
    Bearer,
    /// Mutual TLS, or a token bound to a key (RFC 7800, RFC 8705).
    ProofOfPossession,
    /// A person with a second factor.
    MultiFactor,
    /// A person with a phishing-resistant factor (WebAuthn).
    PhishingResistant,
}

impl Assurance {
    /// All levels, weakest first.
    pub const ALL: [Self; 5] =
        [Self::SharedSecret, Self::Bearer, Self::ProofOfPossession, Self::MultiFactor, Self::PhishingResistant];

    /// The assurance of an authentication context class, if the class is one of Durward's.
    #[must_use]
    pub fn of_acr(acr: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|assurance| assurance.acr() == acr)
    }

    /// The authentication context class in a challenge (`acr`, RFC 9470 section 3).
    #[must_use]
    pub const fn acr(self) -> &'static str {
        match self {
            Self::SharedSecret => "urn:durward:assurance:shared-secret",
            Self::Bearer => "urn:durward:assurance:bearer",
            Self::ProofOfPossession => "urn:durward:assurance:proof-of-possession",
            Self::MultiFactor => "urn:durward:assurance:multi-factor",
            Self::PhishingResistant => "urn:durward:assurance:phishing-resistant",
        }
    }

    /// The name in policies and audit records.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SharedSecret => "SharedSecret",
            Self::Bearer => "Bearer",
            Self::ProofOfPossession => "ProofOfPossession",
            Self::MultiFactor => "MultiFactor",
            Self::PhishingResistant => "PhishingResistant",
        }
    }
}

impl fmt::Display for Assurance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The possible damage by a caller who should not get through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub enum RiskLevel {
    /// Any credential is accepted, even a shared secret.
    Low,
    /// Requires [`Assurance::Bearer`] or more.
    #[default]
    Standard,
    /// Workloads have to prove possession of their key; people need a fresh second factor.
    High,
}

#[cfg(test)]
mod tests {
    use super::Assurance;

    #[test]
    fn assurance_is_ordered_from_the_weakest() {
        assert!(Assurance::ALL.windows(2).all(|pair| pair[0] < pair[1]));
    }

    #[test]
    fn assurance_round_trips_through_its_class() {
        assert!(Assurance::ALL.into_iter().all(|assurance| Assurance::of_acr(assurance.acr()) == Some(assurance)));
        assert_eq!(Assurance::of_acr("urn:durward:assurance:root"), None);
    }
}
