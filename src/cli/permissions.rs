//! Parts of a caller's rights that several commands print.

use durward_core::approval::ApprovalRequirement;
use durward_core::rights::Permission;
use serde::Serialize;
use std::fmt;

/// The approval that an operation requires.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ApprovalTerms {
    /// Each of these may approve.
    by: Vec<String>,
    /// Validity of an approval.
    seconds: i64,
}

impl From<&ApprovalRequirement> for ApprovalTerms {
    fn from(requirement: &ApprovalRequirement) -> Self {
        Self {
            by: requirement.approvers.iter().map(ToString::to_string).collect(),
            seconds: requirement.valid_for.num_seconds(),
        }
    }
}

impl fmt::Display for ApprovalTerms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an approval by {}, for ", self.by.join(" or "))?;
        if self.seconds % 60 == 0 { write!(f, "{} min", self.seconds / 60) } else { write!(f, "{} s", self.seconds) }
    }
}

/// The word for a permission, in text and in JSON.
pub(crate) const fn permission_word(permission: Permission) -> &'static str {
    match permission {
        Permission::Always => "yes",
        Permission::Conditional => "if",
        Permission::Never => "no",
    }
}
