//! Facts about a caller that exist, but whose value could not be established from its credential.
//!
//! Unknown is not none: a grant that needs such a fact gives nothing, and a denial that depends on it applies.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// Why a fact is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum UnknownCause {
    /// The issuer left the value out of the credential, and keeps it elsewhere.
    LeftOut,
    /// The value has another type than expected.
    WrongType,
    /// The value exceeds the limit of bytes.
    TooLarge,
}

impl UnknownCause {
    /// The name in records and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::LeftOut => "LeftOut",
            Self::WrongType => "WrongType",
            Self::TooLarge => "TooLarge",
        }
    }
}

impl fmt::Display for UnknownCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LeftOut => "left out by the issuer",
            Self::WrongType => "of the wrong type",
            Self::TooLarge => "too large",
        })
    }
}

/// The unknown facts about a caller, each with the cause.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UnknownFacts {
    /// Whether further groups are unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups: Option<UnknownCause>,
    /// Unknown attributes by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, UnknownCause>,
}

impl UnknownFacts {
    /// Whether every fact is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.groups.is_none() && self.attributes.is_empty()
    }

    /// The first unknown attribute that a reader needs.
    pub(crate) fn first_attribute(&self, needs: impl Fn(&str) -> bool) -> Option<(&str, UnknownCause)> {
        self.attributes.iter().map(|(name, cause)| (name.as_str(), *cause)).find(|(name, _)| needs(name))
    }
}

impl fmt::Display for UnknownFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let groups = self.groups.map(|cause| format!("groups ({cause})"));
        let attributes = self.attributes.iter().map(|(name, cause)| format!("attribute `{name}` ({cause})"));
        f.write_str(&groups.into_iter().chain(attributes).collect::<Vec<_>>().join(", "))
    }
}
