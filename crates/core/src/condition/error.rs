//! Mistakes in an expression, with their position.

use cel::Program;
use thiserror::Error;

/// An expression is not a valid condition.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{message} (line {line}, column {column} of the expression)")]
pub struct ConditionError {
    /// Line within the expression, from 1.
    pub line: usize,
    /// Column within the line, from 1.
    pub column: usize,
    /// The mistake, and how to fix it.
    pub message: String,
}

/// A mistake at a node of the expression.
pub(super) fn error_at(program: &Program, source: &str, node: u64, message: String) -> ConditionError {
    let offset = program.source_info().offset_for(node).map_or(0, |(start, _)| start as usize);
    let before: String = source.chars().take(offset).collect();
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    ConditionError { line, column, message }
}
