//! Mistakes in an expression, with their position, and facts that it can't read.

use super::headers::HeaderValueError;
use super::json::JsonFieldError;
use crate::unknown_facts::UnknownCause;
use cel::Program;
use std::sync::Arc;
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

/// A fact that a condition reads is unknown, or can't be read. The text can become part of an audit record.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(super) enum UnreadableFact {
    #[error("it reads headers, and those of the request are unknown")]
    UnknownHeaders,
    #[error("it reads the caller's groups, which are unknown: {0}")]
    UnknownGroups(UnknownCause),
    #[error("it reads the caller's attribute `{name}`, which is unknown: {cause}")]
    UnknownAttribute { name: String, cause: UnknownCause },
    #[error("it reads the {0}, which is unknown here")]
    UnknownFields(&'static str),
    #[error("header `{name}` {error}")]
    Header { name: Arc<str>, error: HeaderValueError },
    #[error(transparent)]
    Field(#[from] JsonFieldError),
}

/// A mistake at a node of the expression.
pub(super) fn error_at(program: &Program, source: &str, node: u64, message: String) -> ConditionError {
    let offset = program.source_info().offset_for(node).map_or(0, |(start, _)| start as usize);
    let before: String = source.chars().take(offset).collect();
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    ConditionError { line, column, message }
}
