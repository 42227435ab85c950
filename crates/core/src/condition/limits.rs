//! Limits of an expression and of its evaluation.

/// Maximum length of an expression, in bytes. With [`MAX_NODES`] and [`MAX_NESTED_LOOPS`] it bounds the cost of an
/// evaluation.
pub const MAX_SOURCE: usize = 2048;
/// Maximum number of nodes of an expression's tree.
pub(super) const MAX_NODES: usize = 512;
/// Maximum depth of nested brackets and `?:`. The parser recurses on them, and one level takes up to 200 kB of stack
/// in a debug build; threads have 2 MB.
pub(super) const MAX_DEPTH: u16 = 8;
/// Maximum depth of an expression's tree. The interpreter recurses on it, with up to 20 kB a level in a debug build.
pub(super) const MAX_TREE_DEPTH: usize = 32;
/// Maximum depth of nested loops (`all`, `exists`, `map`, `filter`): the cost grows with the power of this.
pub(super) const MAX_NESTED_LOOPS: usize = 2;

/// Maximum cost of all loops of an evaluation: the number of turns, times the nodes of the expression, times the parts
/// of the values that it reads. A loop over two thousand groups stays below a tenth of it; nested loops over them
/// exceed it.
pub(super) const MAX_WORK: usize = 1_000_000_000;
/// Maximum size of lists that loops build: the number of their values, times the parts of the values that the
/// expression reads, since each value has at most that many. It allows some hundred megabytes in the worst case.
pub(super) const MAX_KEPT: usize = 4_000_000;
