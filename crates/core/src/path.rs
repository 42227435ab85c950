//! Request paths and the patterns that policies write for them.
//!
//! A path is either read in the one way that every parser reads it, or not at all. Nothing is normalised into a
//! match: between us and the application stand proxies and frameworks that decode, merge slashes, resolve dots
//! or strip parameters, each in its own way, and any difference is a way around the policy.

use crate::service::Captures;
use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use thiserror::Error;

/// Longest path that is read, in bytes: what common servers accept as a request line.
const MAX_PATH: usize = 8 * 1024;
/// Most segments of a path or pattern; bounds the search for an operation.
const MAX_SEGMENTS: usize = 64;

/// Why two parsers could read a path differently. For audit and explanations, not for callers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Ambiguity {
    /// Relative, absolute-form or asterisk-form.
    #[error("the path does not begin with `/`")]
    NotAbsolute,
    /// `//`, or a slash at the end.
    #[error("the path has an empty segment or ends with `/`")]
    EmptySegment,
    /// `.`, `..`, or a segment that ends with a dot.
    #[error("the path has a dot segment, or a segment that ends with a dot or a space")]
    DotSegment,
    /// A backslash.
    #[error("the path has a backslash")]
    Backslash,
    /// `;`, which some frameworks cut off.
    #[error("the path has a parameter (`;`)")]
    Parameter,
    /// `#`, which belongs to no request.
    #[error("the path has a fragment (`#`)")]
    Fragment,
    /// A `%` that is not followed by two hexadecimal digits.
    #[error("the path has a broken percent-encoding")]
    BrokenEncoding,
    /// An encoded character that need not be encoded: decoded or not makes two paths of it.
    #[error("the path encodes a character that decoders and non-decoders tell apart")]
    NeedlessEncoding,
    /// Control characters, encoded or not.
    #[error("the path has a control character")]
    Control,
    /// Bytes that no URI has, or that are no UTF-8 once decoded.
    #[error("the path has a character that must be encoded, or is not UTF-8")]
    Character,
    /// A character that some systems turn into `/`, `\`, `.`, `%`, `;`, `#` or `?`.
    #[error("the path has a character that some systems read as `/`, `\\`, `.`, `%`, `;`, `#` or `?`")]
    Lookalike,
    /// Over the limits.
    #[error("the path is longer than {MAX_PATH} bytes or {MAX_SEGMENTS} segments")]
    TooLong,
    /// Differs from a declared path in nothing but upper and lower case.
    #[error("the path differs from a declared one only in upper and lower case")]
    Case,
    /// A method that is not a token in upper case.
    #[error("the method is not a token in upper case")]
    Method,
    /// The caller's request could not be told at all.
    #[error("the request does not say unmistakably what is asked")]
    Request,
}

/// A path that has one reading: its segments, decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestPath<'a>(Vec<Cow<'a, str>>);

impl<'a> RequestPath<'a> {
    /// Reads the path of a request target; a query is cut off.
    ///
    /// # Errors
    /// When two parsers could read it differently.
    pub fn parse(target: &'a str) -> Result<Self, Ambiguity> {
        if target.contains('#') {
            return Err(Ambiguity::Fragment);
        }
        let path = target.split_once('?').map_or(target, |(path, _)| path);
        if path.len() > MAX_PATH {
            return Err(Ambiguity::TooLong);
        }
        let rest = path.strip_prefix('/').ok_or(Ambiguity::NotAbsolute)?;
        if rest.is_empty() {
            return Ok(Self(Vec::new()));
        }
        let mut segments = Vec::with_capacity(8);
        for segment in rest.split('/') {
            if segments.len() == MAX_SEGMENTS {
                return Err(Ambiguity::TooLong);
            }
            segments.push(decode(segment)?);
        }
        Ok(Self(segments))
    }

    /// The decoded segments.
    #[must_use]
    pub fn segments(&self) -> &[Cow<'a, str>] {
        &self.0
    }
}

/// One segment, decoded, if decoding can't change what it means.
fn decode(segment: &str) -> Result<Cow<'_, str>, Ambiguity> {
    if segment.is_empty() {
        return Err(Ambiguity::EmptySegment);
    }
    // the usual segment needs no second look
    if segment.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'~')) {
        return Ok(Cow::Borrowed(segment));
    }
    let mut decoded = Vec::with_capacity(segment.len());
    let mut bytes = segment.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => decoded.push(encoded(bytes.next(), bytes.next())?),
            b'\\' => return Err(Ambiguity::Backslash),
            b';' => return Err(Ambiguity::Parameter),
            0..=0x1f | 0x7f => return Err(Ambiguity::Control),
            byte if is_plain(byte) => decoded.push(byte),
            _ => return Err(Ambiguity::Character),
        }
    }
    let text = String::from_utf8(decoded).map_err(|_| Ambiguity::Character)?;
    if text.ends_with(['.', ' ']) {
        return Err(Ambiguity::DotSegment);
    }
    if text.chars().any(char::is_control) {
        return Err(Ambiguity::Control);
    }
    if text.chars().any(is_lookalike) {
        return Err(Ambiguity::Lookalike);
    }
    Ok(if text == segment { Cow::Borrowed(segment) } else { Cow::Owned(text) })
}

/// The byte behind `%XY`, if it had to be encoded.
fn encoded(high: Option<u8>, low: Option<u8>) -> Result<u8, Ambiguity> {
    let digit = |b: Option<u8>| b.and_then(|b| char::from(b).to_digit(16)).and_then(|d| u8::try_from(d).ok());
    let (Some(high), Some(low)) = (digit(high), digit(low)) else { return Err(Ambiguity::BrokenEncoding) };
    match high << 4 | low {
        0..=0x1f | 0x7f => Err(Ambiguity::Control),
        b'\\' => Err(Ambiguity::Backslash),
        byte if is_plain(byte) || matches!(byte, b'/' | b'%' | b';' | b'?' | b'#' | b'[' | b']') => {
            Err(Ambiguity::NeedlessEncoding)
        }
        byte => Ok(byte),
    }
}

/// `pchar` of RFC 3986 without `%` and `;`: characters that stand for themselves.
const fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'-' | b'.'
                | b'_'
                | b'~'
                | b'!'
                | b'$'
                | b'&'
                | b'\''
                | b'('
                | b')'
                | b'*'
                | b'+'
                | b','
                | b'='
                | b':'
                | b'@'
        )
}

/// Characters whose compatibility form (Unicode NFKC), or a code page's best fit, has a character that paths are
/// taken apart by: `/`, `\`, `.`, `%`, `;`, `#` or `?`.
const fn is_lookalike(c: char) -> bool {
    matches!(
        c,
        '\u{2044}' | '\u{2215}' | '\u{2216}' | '\u{29f5}' | '\u{29f8}' // best fits of slashes and backslashes
        | '\u{37e}' // the Greek question mark is `;`
        | '\u{2024}'..='\u{2026}' // leaders of one to three dots
        | '\u{2047}'..='\u{2049}' // double question marks
        | '\u{2100}' | '\u{2101}' | '\u{2105}' | '\u{2106}' // a/c, a/s, c/o, c/u
        | '\u{2488}'..='\u{249b}' | '\u{1f100}' // numbers with a full stop
        | '\u{33c2}' | '\u{33c7}' | '\u{33d8}' // a.m., Co., p.m.
        | '\u{fe14}' | '\u{fe16}' | '\u{fe19}' | '\u{fe30}' // vertical forms
        | '\u{fe52}' | '\u{fe54}' | '\u{fe56}' | '\u{fe5f}' | '\u{fe68}' | '\u{fe6a}' // small forms
        | '\u{ff03}' | '\u{ff05}' | '\u{ff0e}' | '\u{ff0f}' | '\u{ff1b}' | '\u{ff1f}' | '\u{ff3c}' // fullwidth forms
    )
}

/// A segment that nobody writes into a pattern, for [`PathPattern::examples`].
const EXAMPLE: &str = "~~any~~";
/// A method that nobody writes into a pattern.
pub(crate) const ANY_METHOD: &str = "ANY-OTHER";

/// A literal as a request has it.
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

/// A path as a policy writes it: `/orders`, `/orders/{id}`, `/static/*`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathPattern(pub(crate) Arc<[Segment]>);

/// Why a text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PatternError {
    /// A request for it would be refused.
    #[error("no request can match it: {0}")]
    Ambiguous(#[from] Ambiguity),
    /// `*` that is not a whole last segment.
    #[error("`*` stands alone as the last segment; it matches one or more segments")]
    Wildcard,
    /// `{` or `}` that do not enclose a whole segment.
    #[error(
        "a capture is a whole segment, `{{name}}`, its name of letters, digits and `_`, not beginning with a digit"
    )]
    Capture,
    /// One name twice.
    #[error("the capture `{{{0}}}` occurs twice")]
    Twice(String),
}

impl PathPattern {
    /// Reads a pattern.
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
    /// gRPC over HTTP/2 is `POST /<service>/<method>`, so it is matched as just that.
    ///
    /// # Errors
    /// When a name is not one that Protocol Buffers allow.
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

    /// What it captures of a path that it matches.
    pub(crate) fn captured(&self, path: &RequestPath<'_>) -> Captures {
        let pairs = self.0.iter().zip(&path.0).filter_map(|(segment, text)| match segment {
            Segment::Capture(name) => Some((Arc::clone(name), text.as_ref().into())),
            Segment::Literal(_) | Segment::Rest => None,
        });
        pairs.collect()
    }

    /// The paths that two patterns both match; captures have names of `a`.
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

    /// Paths that it matches and that no other pattern names literally, up to so many segments: one of each length.
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

/// A literal is written decoded, or just as it stands in a request.
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
            // as people would write it, if that is read as the same again
            Self::Literal(text) if !text.contains(['{', '}']) && literal(text).as_deref() == Ok(text) => {
                f.write_str(text)
            }
            Self::Literal(text) => f.write_str(&encoded_literal(text)),
            Self::Capture(name) => write!(f, "{{{name}}}"),
            Self::Rest => f.write_str("*"),
        }
    }
}

/// A request method (RFC 9110 section 9.1), in upper case as every registered one is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Method(pub(crate) Arc<str>);

impl Method {
    /// Reads a method.
    ///
    /// # Errors
    /// [`Ambiguity::Method`] when it is no token in upper case: servers differ in whether `get` is `GET`.
    pub fn parse(text: &str) -> Result<Self, Ambiguity> {
        if is_method(text) { Ok(Self(text.into())) } else { Err(Ambiguity::Method) }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether `text` is a method that is read the same everywhere.
#[must_use]
pub fn is_method(text: &str) -> bool {
    !text.is_empty() && text.len() <= 32 && text.bytes().all(|b| b.is_ascii_uppercase() || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segments(path: &str) -> Vec<String> {
        RequestPath::parse(path).expect(path).segments().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn plain_paths_are_read() {
        assert_eq!(segments("/"), Vec::<String>::new());
        assert_eq!(segments("/orders/42?x=/../&y"), ["orders", "42"]);
        assert_eq!(segments("/v1/items:batch,a=b@c!"), ["v1", "items:batch,a=b@c!"]);
        assert_eq!(segments("/a%20b/%C3%A4"), ["a b", "ä"]);
        assert_eq!(segments("/file.tar.gz/.hidden"), ["file.tar.gz", ".hidden"]);
    }

    #[test]
    fn a_path_with_two_readings_is_not_read() {
        use Ambiguity::*;
        for (path, why) in [
            ("", NotAbsolute),
            ("*", NotAbsolute),
            ("orders", NotAbsolute),
            ("http://host/orders", NotAbsolute),
            ("//host/orders", EmptySegment),
            ("/orders//42", EmptySegment),
            ("/orders/", EmptySegment),
            ("/./orders", DotSegment),
            ("/a/../orders", DotSegment),
            ("/orders.", DotSegment),
            ("/orders%20", DotSegment),
            ("/orders/...", DotSegment),
            ("/%2e%2e/orders", NeedlessEncoding),
            ("/%2E/orders", NeedlessEncoding),
            ("/a%2Forders", NeedlessEncoding),
            ("/a%2forders", NeedlessEncoding),
            ("/a%252forders", NeedlessEncoding),
            ("/%6Frders", NeedlessEncoding),
            ("/items%3Abatch", NeedlessEncoding),
            ("/a%3Bb", NeedlessEncoding),
            ("/a\\b", Backslash),
            ("/a%5Cb", Backslash),
            ("/a;v=1/b", Parameter),
            ("/a#b", Fragment),
            ("/a%00b", Control),
            ("/a\u{0}b", Control),
            ("/a\tb", Control),
            ("/a%0d%0ab", Control),
            ("/a%", BrokenEncoding),
            ("/a%2", BrokenEncoding),
            ("/a%zz", BrokenEncoding),
            ("/a%+1", BrokenEncoding),
            ("/a%u002f", BrokenEncoding),
            ("/a b", Character),
            ("/ä", Character),
            ("/a<b", Character),
            ("/a%ff", Character),
            ("/a%c0%af", Character),
            ("/a%EF%BC%8Fb", Lookalike),
            ("/a%E2%80%A5", Lookalike),
            ("/a%EF%BC%9Bb", Lookalike),
            ("/a%CD%BEb", Lookalike),
            ("/%E2%84%80", Lookalike),
            ("/a%C2%85", Control),
        ] {
            assert_eq!(RequestPath::parse(path), Err(why), "{path:?}");
        }
        assert_eq!(RequestPath::parse(&format!("/{}", "a".repeat(MAX_PATH))), Err(TooLong));
        assert_eq!(RequestPath::parse(&"/a".repeat(65)), Err(TooLong));
    }

    #[test]
    fn patterns_survive_their_text() {
        for text in ["/", "/orders", "/orders/{id}/refund", "/static/*", "/{a}/{b}", "/a.b/c:d"] {
            assert_eq!(PathPattern::parse(text).expect(text).to_string(), text);
        }
    }

    #[test]
    fn patterns_that_say_less_than_they_seem_to_are_refused() {
        for text in [
            "",
            "orders",
            "/orders/",
            "//orders",
            "/*/orders",
            "/orders*",
            "/**",
            "/{id}x",
            "/{}",
            "/{1}",
            "/{a}/{a}",
            "/a?b",
            "/a#b",
            "/../a",
            "/%2e%2e",
            "/a;b",
            "/a\\b",
            "/{a-b}",
            "/a b",
        ] {
            assert!(PathPattern::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn grpc_is_a_post_path() {
        assert_eq!(
            PathPattern::grpc("shop.v1.Orders", Some("Watch")).expect("good").to_string(),
            "/shop.v1.Orders/Watch"
        );
        assert_eq!(PathPattern::grpc("shop.v1.Orders", None).expect("good").to_string(), "/shop.v1.Orders/{method}");
        for (service, method) in [("", "A"), ("a/b", "A"), ("a", "A/B"), ("a..b", "A"), ("a", ""), ("a", "*")] {
            assert!(PathPattern::grpc(service, Some(method)).is_err(), "{service}/{method}");
        }
    }
}
