//! Reasons to refuse a path or a method that two parsers could read differently.

use thiserror::Error;

/// Maximum length of a path, in bytes: common servers accept request lines of this length.
pub(super) const MAX_PATH: usize = 8 * 1024;
/// Maximum number of segments of a path or pattern. It bounds the search for an operation.
pub(super) const MAX_SEGMENTS: usize = 64;

/// Why two parsers could read a path differently. For audit records and explanations, not for callers.
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
    /// A percent-encoded character that needs no encoding: decoders and non-decoders would read two different paths.
    #[error("the path encodes a character that decoders and non-decoders tell apart")]
    NeedlessEncoding,
    /// Control characters, encoded or not.
    #[error("the path has a control character")]
    Control,
    /// Bytes that are not allowed in a URI, or that are not UTF-8 once decoded.
    #[error("the path has a character that must be encoded, or is not UTF-8")]
    Character,
    /// A character that some systems turn into `/`, `\`, `.`, `%`, `;`, `#` or `?`.
    #[error("the path has a character that some systems read as `/`, `\\`, `.`, `%`, `;`, `#` or `?`")]
    Lookalike,
    /// The path exceeds the limits.
    #[error("the path is longer than {MAX_PATH} bytes or {MAX_SEGMENTS} segments")]
    TooLong,
    /// Some framework takes the path for a declared path that it differs from.
    #[error(
        "some frameworks take the path for a declared one: it differs only in case, spaces, characters that look alike, \
         or a format such as `.json`"
    )]
    DeclaredLookalike,
    /// A method that is not a token in upper case.
    #[error("the method is not a token in upper case")]
    Method,
    /// The query has a parameter, such as `_method`, that some frameworks take for the method.
    #[error("the query has a parameter that some frameworks take for another method")]
    MethodParameter,
    /// The enforcement point could not read the request at all.
    #[error("the request is ambiguous")]
    Request,
}
