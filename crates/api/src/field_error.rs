//! A mistake in a resource, with the field to change.

use std::fmt;

/// A mistake in one field of a resource.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FieldError {
    /// Path of the field, such as `spec.operations[2].http[0].paths[1]`.
    pub field: String,
    /// What is wrong and what to do.
    pub message: String,
}

impl FieldError {
    /// A mistake in `field`. Control characters that the message quotes are escaped, so the message is one line.
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        let message: String = message.into();
        let escaped = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
        let message = if message.contains(char::is_control) { message.chars().map(escaped).collect() } else { message };
        Self { field: field.into(), message }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}
