//! Tuples: `object # relation @ subject`.

use crate::principal::PrincipalId;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use thiserror::Error;

/// Kinds of principals, which can't be object types.
pub const RESERVED_TYPES: [&str; 4] = ["user", "key", "kube", "spiffe"];
/// The relation of the members of a group.
pub const MEMBER: &str = "member";
/// Maximum length of an object's id, in bytes.
const MAX_ID: usize = 512;
/// Maximum length of an object type or a relation, in bytes.
const MAX_NAME: usize = 64;

/// An object: `type:id`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelationObject(Arc<str>);

/// A text is not an object, subject or relation.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{text}` is not a valid {what}: {why}")]
pub struct TupleError {
    text: String,
    what: &'static str,
    why: String,
}

impl TupleError {
    fn new(text: &str, what: &'static str, why: impl Into<String>) -> Self {
        Self { text: text.to_owned(), what, why: why.into() }
    }
}

impl RelationObject {
    /// The type of the object.
    #[must_use]
    pub fn kind(&self) -> &str {
        kind_of(&self.0)
    }

    /// `type:id`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RelationObject {
    type Err = TupleError;

    fn from_str(text: &str) -> Result<Self, TupleError> {
        let error = |why: &str| TupleError::new(text, "object", why);
        let (kind, id) = text.split_once(':').ok_or_else(|| error("write `type:id`"))?;
        if !is_relation_name(kind) {
            return Err(error("a type begins with a letter and contains letters, digits, `-` and `_`"));
        }
        if RESERVED_TYPES.contains(&kind) {
            return Err(error("principals are subjects, not objects"));
        }
        if id.is_empty() || id.len() > MAX_ID {
            return Err(error("an id has 1 to 512 bytes"));
        }
        if id == "*" || id.contains(|c: char| c == '#' || c.is_whitespace() || c.is_control()) {
            return Err(error("an id is not `*`, and has no `#` and no spaces"));
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for RelationObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The type in `type:id`.
pub(super) fn kind_of(object: &str) -> &str {
    object.split_once(':').map_or("", |(kind, _)| kind)
}

/// Whether `text` can name a relation or an object type.
#[must_use]
pub fn is_relation_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    text.len() <= MAX_NAME
        && bytes.next().is_some_and(|b| b.is_ascii_alphabetic())
        && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

/// The subject of a tuple.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TupleSubject {
    /// `*`: every authenticated caller.
    Everybody,
    /// A principal by its id, such as `user:corporate/alice` or `spiffe://cluster.local/ns/billing/sa/billing`.
    Principal(PrincipalId),
    /// Another object, such as `folder:reports`, for `from` in the model.
    Object(RelationObject),
    /// Everybody who has a relation to an object, such as `group:eng#member`.
    Set(RelationObject, Arc<str>),
}

impl FromStr for TupleSubject {
    type Err = TupleError;

    fn from_str(text: &str) -> Result<Self, TupleError> {
        if text == "*" {
            return Ok(Self::Everybody);
        }
        // principals first: their names may contain `:` and `#`
        let kind = kind_of(text);
        if RESERVED_TYPES.contains(&kind) {
            let id = text.parse::<PrincipalId>();
            return id.map(Self::Principal).map_err(|error| TupleError::new(text, "subject", error.to_string()));
        }
        match text.rsplit_once('#') {
            None if !text.contains(':') => {
                let forms = "write a principal such as `user:PROVIDER/NAME`, `type:id`, `type:id#relation`, or `*`";
                Err(TupleError::new(text, "subject", forms))
            }
            None => text.parse().map(Self::Object),
            Some((object, relation)) if is_relation_name(relation) => Ok(Self::Set(object.parse()?, relation.into())),
            Some(_) => Err(TupleError::new(text, "subject", "the name of a relation follows `#`")),
        }
    }
}

impl fmt::Display for TupleSubject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everybody => f.write_str("*"),
            Self::Principal(id) => id.fmt(f),
            Self::Object(object) => object.fmt(f),
            Self::Set(object, relation) => write!(f, "{object}#{relation}"),
        }
    }
}

/// A statement that a subject has a relation to an object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelationTuple {
    /// The object.
    pub object: RelationObject,
    /// The relation.
    pub relation: Arc<str>,
    /// The subject.
    pub subject: TupleSubject,
}

impl fmt::Display for RelationTuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}@{}", self.object, self.relation, self.subject)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_round_trip_through_their_text() {
        for text in [
            "*",
            "user:corporate/alice",
            "user:corporate/a#b",
            "spiffe://cluster.local/ns/shop/sa/orders",
            "kube:system:admin",
            "key:partners/acme",
            "folder:reports/2026",
            "group:eng#member",
            "group:corporate/eng#member",
        ] {
            assert_eq!(text.parse::<TupleSubject>().expect(text).to_string(), text);
        }
        assert!(matches!("user:corporate/a#member".parse(), Ok(TupleSubject::Principal(_))));
        assert!(matches!("group:eng#member".parse(), Ok(TupleSubject::Set(..))));
        assert!(matches!("group:eng".parse(), Ok(TupleSubject::Object(_))));
    }

    #[test]
    fn ambiguous_texts_are_refused() {
        for text in ["", "alice", "user:alice", "folder:", "folder:*", "folder:a b", "folder:a#", "folder:a#b#c", "9:a"]
        {
            assert!(text.parse::<TupleSubject>().is_err(), "{text:?}");
        }
        for text in ["user:corporate/alice", "order", "order:a#b", "order:\n", "spiffe://a/ns/b/sa/c"] {
            assert!(text.parse::<RelationObject>().is_err(), "{text:?}");
        }
    }
}
