//! Request methods.

use super::ambiguity::Ambiguity;
use std::sync::Arc;

/// A method that no pattern contains.
pub(crate) const ANY_METHOD: &str = "ANY-OTHER";

/// A request method (RFC 9110 section 9.1), in upper case as every registered method is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Method(pub(crate) Arc<str>);

impl Method {
    /// Parses a method.
    ///
    /// # Errors
    /// [`Ambiguity::Method`] when it is not a token in upper case: servers differ in whether `get` is `GET`.
    pub fn parse(text: &str) -> Result<Self, Ambiguity> {
        if is_method(text) { Ok(Self(text.into())) } else { Err(Ambiguity::Method) }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether every server reads `text` as the same method.
#[must_use]
pub fn is_method(text: &str) -> bool {
    !text.is_empty() && text.len() <= 32 && text.bytes().all(|b| b.is_ascii_uppercase() || b == b'-')
}
