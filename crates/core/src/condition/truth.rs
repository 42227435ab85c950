//! The outcome of a condition.

/// What a condition said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Truth {
    /// It holds.
    True,
    /// It does not hold.
    False,
    /// It could not be evaluated, and why.
    Failed(String),
}
