//! Limits of an expression and of its evaluation.

/// Longest expression, in bytes. With [`MAX_NODES`] and [`MAX_NESTED_LOOPS`] it bounds what an evaluation can cost.
pub const MAX_SOURCE: usize = 2048;
/// Most nodes of an expression's tree.
pub(super) const MAX_NODES: usize = 512;
/// Brackets and `?:` within each other. The parser recurses on them, and one level takes up to 200 kB of stack in a
/// debug build; threads have 2 MB.
pub(super) const MAX_DEPTH: u16 = 8;
/// Depth of an expression's tree. The interpreter recurses on it, with up to 20 kB a level in a debug build.
pub(super) const MAX_TREE_DEPTH: usize = 32;
/// Loops (`all`, `exists`, `map`, `filter`) within loops: the cost grows with the power of this.
pub(super) const MAX_NESTED_LOOPS: usize = 2;

/// What the turns of all loops of an evaluation may cost: their number, times the parts of the expression, times the parts of
/// what it reads. A loop over two thousand groups goes by ten times as much, nested loops over them don't.
pub(super) const MAX_WORK: usize = 1_000_000_000;
/// The same for what loops put into lists: the number of its values, times the parts of what is read, of which each is one
/// at most. Some hundred megabytes if every value were all that is read.
pub(super) const MAX_KEPT: usize = 4_000_000;
