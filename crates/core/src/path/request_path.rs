//! Paths of requests: either every parser reads them in the same way, or they are refused.

use super::ambiguity::{Ambiguity, MAX_PATH, MAX_SEGMENTS};
use std::borrow::Cow;

/// An unambiguous path: its segments, decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestPath<'a>(pub(super) Vec<Cow<'a, str>>);

impl<'a> RequestPath<'a> {
    /// Reads the path of a request target, without the query.
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

/// One segment, decoded, if decoding can't change its meaning.
pub(super) fn decode(segment: &str) -> Result<Cow<'_, str>, Ambiguity> {
    if segment.is_empty() {
        return Err(Ambiguity::EmptySegment);
    }
    // the fast path for most segments
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

/// The byte of `%XY`, if it needs encoding.
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
pub(super) const fn is_plain(byte: u8) -> bool {
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

/// Characters whose compatibility form (Unicode NFKC), or best fit in a code page, contains a delimiter of paths: `/`,
/// `\`, `.`, `%`, `;`, `#` or `?`.
pub(super) const fn is_lookalike(c: char) -> bool {
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
