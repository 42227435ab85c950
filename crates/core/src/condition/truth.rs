//! The outcome of a condition.

/// The outcome of a condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Truth {
    /// It holds.
    True,
    /// It does not hold.
    False,
    /// It could not be evaluated, for this reason.
    Failed(String),
}
