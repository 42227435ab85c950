//! The `Authorization` header (RFC 6750 section 2.1, RFC 9110 section 11.6.2).

use crate::authn::cause::Cause;
use http::HeaderMap;
use http::header::AUTHORIZATION;

/// Longest token, in bytes: what servers accept as one header, and four times the largest token of common issuers.
pub(crate) const MAX_TOKEN: usize = 16 * 1024;

/// The bearer token of a request, if it has one.
pub(crate) fn token(headers: &HeaderMap) -> Result<Option<&str>, Cause> {
    let Some(value) = single(headers, AUTHORIZATION.as_str())? else { return Ok(None) };
    let text = value.to_str().map_err(|_| Cause::NotBearer)?;
    let (scheme, token) = text.split_once(' ').ok_or(Cause::NotBearer)?;
    if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() {
        return Err(Cause::NotBearer);
    }
    // `b64token`; a second scheme, a space or a comma is never part of it
    if !token.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~' | b'+' | b'/' | b'='))
    {
        return Err(Cause::NotBearer);
    }
    Ok(Some(token))
}

/// The one value of a header, bounded.
pub(crate) fn single<'h>(headers: &'h HeaderMap, name: &str) -> Result<Option<&'h http::HeaderValue>, Cause> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    if values.next().is_some() {
        return Err(Cause::Repeated(name.to_owned()));
    }
    if first.is_some_and(|value| value.len() > MAX_TOKEN + 16) {
        return Err(Cause::TooLong);
    }
    Ok(first)
}
