//! Scopes.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;
use thiserror::Error;

/// One scope, a `scope-token` of RFC 6749 section 3.3.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Scope(pub(crate) Arc<str>);

/// A text is not a scope.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ScopeError {
    /// The text is empty.
    #[error("a scope can't be empty")]
    Empty,
    /// More than [`Scope::MAX_LEN`] bytes.
    #[error("a scope can't be longer than {} bytes", Scope::MAX_LEN)]
    TooLong,
    /// A character outside `scope-token`.
    #[error("`{0}` can't be part of a scope: use printable ASCII without space, `\"` and `\\`")]
    Character(char),
}

impl Scope {
    /// Maximum length of a scope, in bytes.
    pub const MAX_LEN: usize = 128;

    /// Parses one scope.
    ///
    /// # Errors
    /// When `text` is not a `scope-token` or too long.
    pub fn parse(text: &str) -> Result<Self, ScopeError> {
        if text.is_empty() {
            return Err(ScopeError::Empty);
        }
        if text.len() > Self::MAX_LEN {
            return Err(ScopeError::TooLong);
        }
        match text.chars().find(|c| !matches!(c, '\x21' | '\x23'..='\x5b' | '\x5d'..='\x7e')) {
            Some(c) => Err(ScopeError::Character(c)),
            None => Ok(Self(text.into())),
        }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Scope {
    type Error = ScopeError;

    fn try_from(text: String) -> Result<Self, ScopeError> {
        Self::parse(&text)
    }
}

impl From<Scope> for String {
    fn from(scope: Scope) -> Self {
        scope.0.as_ref().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_scope_tokens() {
        for good in ["orders.read", "https://api/x", "a:b", "!"] {
            assert!(Scope::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "a b", "a\"b", "a\\b", "ä", "a\n"] {
            assert!(Scope::parse(bad).is_err(), "{bad:?}");
        }
        assert_eq!(Scope::parse(&"x".repeat(129)), Err(ScopeError::TooLong));
    }
}
