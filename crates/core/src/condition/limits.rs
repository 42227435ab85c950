//! Limits of an expression. The work of its evaluation is limited by the budget of the decision.

/// Maximum length of an expression, in bytes.
pub const MAX_SOURCE: usize = 2048;
/// Maximum number of nodes of an expression's tree.
pub(super) const MAX_NODES: usize = 512;
/// Maximum depth of nested brackets and `?:`. The parser recurses on them, and one level takes up to 200 kB of stack
/// in a debug build; threads have 2 MB.
pub(super) const MAX_DEPTH: u16 = 8;
/// Maximum depth of an expression's tree. The interpreter recurses on it, with up to 20 kB a level in a debug build.
pub(super) const MAX_TREE_DEPTH: usize = 32;
/// Maximum depth of nested loops (`all`, `exists`, `map`, `filter`): the work grows with the power of this.
pub(super) const MAX_NESTED_LOOPS: usize = 2;
