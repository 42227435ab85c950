//! Reasons to refuse a path or a method that two parsers could read differently.

use thiserror::Error;

/// Longest path that is read, in bytes: what common servers accept as a request line.
pub(super) const MAX_PATH: usize = 8 * 1024;
/// Most segments of a path or pattern; bounds the search for an operation.
pub(super) const MAX_SEGMENTS: usize = 64;

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
