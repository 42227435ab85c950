//! The object of a grant's relation, filled in from a request.

use super::tuple::{RESERVED_TYPES, is_relation_name};
use crate::path::Captures;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use thiserror::Error;

/// Separators between two captures, which must not occur in their values.
const SEPARATORS: [char; 2] = ['/', ':'];

/// A relation to an object, `type:id`. The id may contain captures of the path: `order:{id}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelationTarget {
    kind: Arc<str>,
    id: Vec<IdPart>,
    /// The relation that the caller needs.
    pub relation: Arc<str>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum IdPart {
    Text(Arc<str>),
    Capture(Arc<str>),
}

/// A text is not the object of a grant.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{text}` is not a valid object: {why}; write `type:id` or `type:{{capture}}`")]
pub struct RelationTargetError {
    text: String,
    why: &'static str,
}

impl RelationTarget {
    /// A relation to the object `object`.
    ///
    /// # Errors
    /// When it is not `type:id`, or two captures are adjacent.
    pub fn new(object: &str, relation: &str) -> Result<Self, RelationTargetError> {
        let error = |why| RelationTargetError { text: object.to_owned(), why };
        let (kind, rest) = object.split_once(':').ok_or_else(|| error("it has no `:`"))?;
        if !is_relation_name(kind) || RESERVED_TYPES.contains(&kind) {
            return Err(error("its type is not valid"));
        }
        let mut id = Vec::new();
        let mut rest = rest;
        while let Some((before, after)) = rest.split_once('{') {
            let (name, after) = after.split_once('}').ok_or_else(|| error("a `{` is not closed"))?;
            if name.is_empty() || name.contains('{') {
                return Err(error("a capture has no name"));
            }
            if !id.is_empty() && !before.contains(SEPARATORS) {
                return Err(error("captures need a `/` or `:` between them"));
            }
            id.extend((!before.is_empty()).then(|| IdPart::Text(before.into())));
            id.push(IdPart::Capture(name.into()));
            rest = after;
        }
        id.extend((!rest.is_empty()).then(|| IdPart::Text(rest.into())));
        if id.is_empty() {
            return Err(error("it has no id"));
        }
        let stray = |c: char| matches!(c, '}' | '#' | '*') || c.is_whitespace() || c.is_control();
        if id.iter().any(|part| matches!(part, IdPart::Text(text) if text.contains(stray))) {
            return Err(error("an id can't contain `}`, `#`, `*` or spaces"));
        }
        Ok(Self { kind: kind.into(), id, relation: relation.into() })
    }

    /// The type of the object.
    #[must_use]
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// The captures that it needs.
    pub fn captures(&self) -> impl Iterator<Item = &str> {
        self.id.iter().filter_map(|part| match part {
            IdPart::Capture(name) => Some(name.as_ref()),
            IdPart::Text(_) => None,
        })
    }

    /// Whether the id is this capture alone.
    pub(crate) fn is_captured_by(&self, name: &str) -> bool {
        matches!(self.id.as_slice(), [IdPart::Capture(capture)] if **capture == *name)
    }

    /// The object, `type:id`. The error is the name of the capture that the request lacks, or whose value contains a
    /// separator.
    pub(crate) fn object(&self, captures: &Captures) -> Result<String, &str> {
        let several = self.captures().count() > 1;
        let mut object = format!("{}:", self.kind);
        for part in &self.id {
            match part {
                IdPart::Text(text) => object.push_str(text),
                IdPart::Capture(name) => {
                    let value = captures.get(name).filter(|value| !value.is_empty());
                    object
                        .push_str(value.filter(|value| !several || !value.contains(SEPARATORS)).ok_or(name.as_ref())?);
                }
            }
        }
        Ok(object)
    }
}

impl fmt::Display for RelationTarget {
    /// `order:{id}#viewer`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.kind)?;
        for part in &self.id {
            match part {
                IdPart::Text(text) => f.write_str(text)?,
                IdPart::Capture(name) => write!(f, "{{{name}}}")?,
            }
        }
        write!(f, "#{}", self.relation)
    }
}

impl FromStr for RelationTarget {
    type Err = RelationTargetError;

    /// Parses `order:{id}#viewer`.
    fn from_str(text: &str) -> Result<Self, RelationTargetError> {
        let (object, relation) = text
            .rsplit_once('#')
            .ok_or_else(|| RelationTargetError { text: text.to_owned(), why: "it has no `#relation`" })?;
        Self::new(object, relation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(text: &str, captures: &[(&str, &str)]) -> Option<String> {
        let captures = captures.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        text.parse::<RelationTarget>().expect(text).object(&captures).ok()
    }

    #[test]
    fn objects_are_filled_from_captures() {
        assert_eq!(filled("order:{id}#viewer", &[("id", "42")]).as_deref(), Some("order:42"));
        assert_eq!(filled("shop:main#owner", &[]).as_deref(), Some("shop:main"));
        assert_eq!(filled("doc:{t}/{id}#viewer", &[("t", "a"), ("id", "b")]).as_deref(), Some("doc:a/b"));
    }

    #[test]
    fn missing_and_ambiguous_captures_are_refused() {
        assert_eq!(filled("order:{id}#viewer", &[("order", "42")]), None);
        assert_eq!(filled("order:{id}#viewer", &[("id", "")]), None);
        assert_eq!(filled("doc:{t}/{id}#viewer", &[("t", "a/b"), ("id", "c")]), None);
        assert_eq!(filled("doc:{t}/{id}#viewer", &[("t", "a"), ("id", "b/c")]), None);
    }

    #[test]
    fn mistakes_are_refused() {
        for text in [
            "order",
            "order#viewer",
            "order:#viewer",
            "order:{id#viewer",
            "order:{}#viewer",
            "order:{a}{b}#v",
            "user:{id}#v",
            "order:a b#v",
            "order:*#v",
            "order:}#v",
        ] {
            assert!(text.parse::<RelationTarget>().is_err(), "{text}");
        }
    }
}
