//! Patterns that policies write for paths and requests.

use super::ambiguity::{Ambiguity, MAX_PATH, MAX_SEGMENTS};
use super::method::Method;
use super::request_path::{RequestPath, decode, is_lookalike, is_plain};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::Arc;
use thiserror::Error;

/// Values that a path captured, by name.
pub type Captures = BTreeMap<Arc<str>, Arc<str>>;

/// HTTP requests by method and path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HttpPattern {
    /// The method; `None` for any.
    pub method: Option<Method>,
    /// The path.
    pub path: PathPattern,
}

impl fmt::Display for HttpPattern {
    /// `GET /orders/{id}`, with `*` for any method.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method.as_ref().map_or("*", Method::as_str), self.path)
    }
}

/// A segment that no pattern contains, for [`PathPattern::examples`].
const EXAMPLE: &str = "~~any~~";

/// A literal in the form of a request.
fn encoded_literal(text: &str) -> String {
    text.bytes().fold(String::new(), |encoded, byte| match byte {
        b if is_plain(b) => encoded + &char::from(b).to_string(),
        b => format!("{encoded}%{b:02X}"),
    })
}

/// One segment of a [`PathPattern`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Segment {
    /// Exactly this text.
    Literal(Arc<str>),
    /// Any one segment, captured under this name.
    Capture(Arc<str>),
    /// One or more segments; only at the end.
    Rest,
}

/// A path in the form of a policy: `/orders`, `/orders/{id}`, `/static/*`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathPattern(pub(crate) Arc<[Segment]>);

/// A text is not a pattern.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PatternError {
    /// No unambiguous request can match it.
    #[error("no request can match it: {0}")]
    Ambiguous(#[from] Ambiguity),
    /// `*` that is not a whole last segment.
    #[error("`*` has to be the whole last segment; it matches one or more segments")]
    Wildcard,
    /// `{` or `}` that do not enclose a whole segment.
    #[error(
        "a capture is a whole segment, `{{name}}`, its name of letters, digits and `_`, not beginning with a digit"
    )]
    Capture,
    /// A capture occurs twice.
    #[error("the capture `{{{0}}}` occurs twice")]
    Twice(String),
}

impl PathPattern {
    /// Parses a pattern.
    ///
    /// # Errors
    /// When it is malformed, or when no unambiguous path could match it.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let rest = text.strip_prefix('/').ok_or(Ambiguity::NotAbsolute)?;
        if text.contains(['?', '#']) {
            return Err(Ambiguity::Fragment.into());
        }
        if text.len() > MAX_PATH {
            return Err(Ambiguity::TooLong.into());
        }
        if rest.is_empty() {
            return Ok(Self(Arc::default()));
        }
        let mut names = HashSet::new();
        let mut segments = Vec::new();
        let mut parts = rest.split('/').peekable();
        while let Some(part) = parts.next() {
            if segments.len() == MAX_SEGMENTS {
                return Err(Ambiguity::TooLong.into());
            }
            segments.push(if part == "*" && parts.peek().is_none() {
                Segment::Rest
            } else if part.contains('*') {
                return Err(PatternError::Wildcard);
            } else if part.contains(['{', '}']) {
                let name = capture_name(part).ok_or(PatternError::Capture)?;
                if !names.insert(name) {
                    return Err(PatternError::Twice(name.to_owned()));
                }
                Segment::Capture(name.into())
            } else {
                Segment::Literal(literal(part)?.into())
            });
        }
        Ok(Self(segments.into()))
    }

    /// The pattern of one gRPC method, or of all methods of the service.
    ///
    /// gRPC over HTTP/2 is `POST /<service>/<method>`, so the pattern matches exactly that path.
    ///
    /// # Errors
    /// When Protocol Buffers do not allow a name.
    pub fn grpc(service: &str, method: Option<&str>) -> Result<Self, PatternError> {
        let identifier = |text: &str| {
            let mut bytes = text.bytes();
            bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
                && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
        };
        if !service.split('.').all(identifier) || !method.is_none_or(identifier) {
            return Err(Ambiguity::Character.into());
        }
        let method = method.map_or_else(|| Segment::Capture("method".into()), |m| Segment::Literal(m.into()));
        Ok(Self([Segment::Literal(service.into()), method].into()))
    }

    /// The segments.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.0
    }

    /// The values that it captures of a path that it matches.
    pub(crate) fn captured(&self, path: &RequestPath<'_>) -> Captures {
        let pairs = self.0.iter().zip(&path.0).filter_map(|(segment, text)| match segment {
            Segment::Capture(name) => Some((Arc::clone(name), text.as_ref().into())),
            Segment::Literal(_) | Segment::Rest => None,
        });
        pairs.collect()
    }

    /// The paths that both patterns match; captures have the names of `a`.
    pub(crate) fn meet(a: &Self, b: &Self) -> Option<Self> {
        let (mut one, mut other) = (a.0.iter(), b.0.iter());
        let mut met = Vec::new();
        loop {
            match (one.next(), other.next()) {
                (None, None) => return Some(Self(met.into())),
                (Some(Segment::Rest), Some(segment)) => {
                    met.push(segment.clone());
                    met.extend(other.cloned());
                    return Some(Self(met.into()));
                }
                (Some(segment), Some(Segment::Rest)) => {
                    met.push(segment.clone());
                    met.extend(one.cloned());
                    return Some(Self(met.into()));
                }
                (Some(Segment::Literal(a)), Some(Segment::Literal(b))) if a != b => return None,
                (Some(literal @ Segment::Literal(_)), Some(_)) | (Some(_), Some(literal @ Segment::Literal(_))) => {
                    met.push(literal.clone());
                }
                (Some(capture), Some(_)) => met.push(capture.clone()),
                (None, Some(_)) | (Some(_), None) => return None,
            }
        }
    }

    /// Paths that it matches and that no other pattern contains literally, one of each length up to `most` segments.
    pub(crate) fn examples(&self, most: usize) -> impl Iterator<Item = String> {
        let open = matches!(self.0.last(), Some(Segment::Rest));
        let longest = if open { most.max(self.0.len()) } else { self.0.len() };
        (self.0.len()..=longest).map(|length| {
            if length == 0 {
                return "/".to_owned();
            }
            (0..length).fold(String::new(), |path, i| match self.0.get(i) {
                Some(Segment::Literal(text)) => format!("{path}/{}", encoded_literal(text)),
                _ => format!("{path}/{EXAMPLE}"),
            })
        })
    }

    /// Whether it captures a segment under `name`.
    #[must_use]
    pub fn captures(&self, name: &str) -> bool {
        self.0.iter().any(|s| matches!(s, Segment::Capture(n) if n.as_ref() == name))
    }
}

/// A literal is written decoded, or in the form of a request.
fn literal(part: &str) -> Result<String, Ambiguity> {
    if part.is_ascii() {
        return decode(part).map(Cow::into_owned);
    }
    if part.chars().any(|c| c.is_control() || is_lookalike(c)) || part.contains(['%', ';', '\\', '"', ' ']) {
        return Err(Ambiguity::Character);
    }
    Ok(part.to_owned())
}

fn capture_name(part: &str) -> Option<&str> {
    let name = part.strip_prefix('{')?.strip_suffix('}')?;
    let mut bytes = name.bytes();
    let head = bytes.next()?;
    ((head.is_ascii_alphabetic() || head == b'_') && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_'))
        .then_some(name)
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("/");
        }
        self.0.iter().try_for_each(|segment| write!(f, "/{segment}"))
    }
}

impl fmt::Display for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // in the form that people write, if it parses as the same literal again
            Self::Literal(text) if !text.contains(['{', '}']) && literal(text).as_deref() == Ok(text) => {
                f.write_str(text)
            }
            Self::Literal(text) => f.write_str(&encoded_literal(text)),
            Self::Capture(name) => write!(f, "{{{name}}}"),
            Self::Rest => f.write_str("*"),
        }
    }
}
