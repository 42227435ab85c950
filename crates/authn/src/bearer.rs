//! The `Authorization` header (RFC 6750 section 2.1, RFC 9110 section 11.6.2), and bearer tokens as cache keys.

use crate::cause::Cause;
use durward_core::digest::Digest;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use quick_cache::Equivalent;

/// Maximum length of a token, in bytes: the limit of common servers for one header, and four times the largest token
/// of common issuers.
pub const MAX_TOKEN: usize = 16 * 1024;

/// Bytes of a `b64token`. A space or a comma is never part of one, so a second scheme can't be either.
const TOKEN_BYTES: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0_u8;
    while byte < u8::MAX {
        #[expect(clippy::indexing_slicing, reason = "the table has an entry for each byte")]
        {
            table[byte as usize] =
                byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'+' | b'/' | b'=');
        }
        byte += 1;
    }
    table
};

/// A bearer token and its digest. The digest is computed once, for the caches of all authentication methods.
#[derive(Clone, Copy)]
pub(crate) struct Bearer<'h> {
    pub text: &'h str,
    digest: Digest,
}

impl<'h> Bearer<'h> {
    pub fn new(text: &'h str) -> Self {
        Self { text, digest: Digest::of([text.as_bytes()]) }
    }

    /// The cache key for a verification of this token, for an audience.
    pub fn cache_key<'a>(&self, token_use: TokenUse, audience: &'a str) -> TokenCacheKey<&'a str> {
        TokenCacheKey { token: self.digest, token_use, audience }
    }
}

/// The use for which a token is verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TokenUse {
    /// A credential of any issuer.
    Credential,
    /// An access token of our own token service.
    AccessToken,
}

/// Cache key of a verified token: everything that the result depends on, except for the keys of the issuer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenCacheKey<Audience> {
    token: Digest,
    token_use: TokenUse,
    audience: Audience,
}

impl TokenCacheKey<&str> {
    /// The key with its own copy of the audience, for insertion.
    pub fn to_stored(self) -> TokenCacheKey<Box<str>> {
        TokenCacheKey { token: self.token, token_use: self.token_use, audience: self.audience.into() }
    }
}

impl Equivalent<TokenCacheKey<Box<str>>> for TokenCacheKey<&str> {
    fn equivalent(&self, stored: &TokenCacheKey<Box<str>>) -> bool {
        (self.token, self.token_use, self.audience) == (stored.token, stored.token_use, &*stored.audience)
    }
}

/// The bearer token of a request, with its digest; `None` without `Authorization`.
pub(crate) fn from_headers(headers: &HeaderMap) -> Result<Option<Bearer<'_>>, Cause> {
    Ok(token(headers)?.map(Bearer::new))
}

/// The bearer token of a request; `None` without `Authorization`.
///
/// # Errors
/// When the header is repeated, too long, or not a bearer token.
pub fn token(headers: &HeaderMap) -> Result<Option<&str>, Cause> {
    let Some(value) = single_header(headers, AUTHORIZATION.as_str())? else { return Ok(None) };
    let text = str::from_utf8(value.as_bytes()).map_err(|_| Cause::NotBearer)?;
    let (scheme, token) = text.split_once(' ').ok_or(Cause::NotBearer)?;
    if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() {
        return Err(Cause::NotBearer);
    }
    if !token.bytes().all(|byte| TOKEN_BYTES.get(usize::from(byte)).is_some_and(|allowed| *allowed)) {
        return Err(Cause::NotBearer);
    }
    Ok(Some(token))
}

/// The only value of a header; `None` without the header.
///
/// # Errors
/// When the header is repeated or too long.
pub fn single_header<'h>(headers: &'h HeaderMap, name: &str) -> Result<Option<&'h http::HeaderValue>, Cause> {
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
