//! The `Authorization` header (RFC 6750 section 2.1, RFC 9110 section 11.6.2).

use crate::cause::Cause;
use durward_core::digest::Digest;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use quick_cache::Equivalent;

/// Longest token, in bytes: what servers accept as one header, and four times the largest token of common issuers.
pub const MAX_TOKEN: usize = 16 * 1024;

/// Bytes of a `b64token`; a second scheme, a space or a comma is never part of one.
const TOKEN: [bool; 256] = {
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

/// A bearer token, with its digest: each way in that is tried asks whether it remembers the token.
#[derive(Clone, Copy)]
pub(crate) struct Bearer<'h> {
    pub text: &'h str,
    digest: Digest,
}

impl<'h> Bearer<'h> {
    pub fn new(text: &'h str) -> Self {
        Self { text, digest: Digest::of([text.as_bytes()]) }
    }

    /// Under which it is remembered what the token, read as one of this kind, says to an audience.
    pub fn read_as<'a>(&self, kind: Kind, audience: &'a str) -> Reading<&'a str> {
        Reading { token: self.digest, kind, audience }
    }
}

/// As what a token is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A credential, of whichever issuer's keys it is looked up with.
    Credential,
    /// An access token of ours.
    AccessToken,
}

/// One reading of a token: all that its outcome depends on, beside the keys that it is verified with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Reading<Audience> {
    token: Digest,
    kind: Kind,
    audience: Audience,
}

impl Reading<&str> {
    pub fn kept(&self) -> Reading<Box<str>> {
        Reading { token: self.token, kind: self.kind, audience: self.audience.into() }
    }
}

impl Equivalent<Reading<Box<str>>> for Reading<&str> {
    fn equivalent(&self, kept: &Reading<Box<str>>) -> bool {
        (self.token, self.kind, self.audience) == (kept.token, kept.kind, &*kept.audience)
    }
}

/// The bearer token of a request, with its digest, if it has one.
pub(crate) fn shown(headers: &HeaderMap) -> Result<Option<Bearer<'_>>, Cause> {
    Ok(token(headers)?.map(Bearer::new))
}

/// The bearer token of a request, if it has one.
pub fn token(headers: &HeaderMap) -> Result<Option<&str>, Cause> {
    let Some(value) = single(headers, AUTHORIZATION.as_str())? else { return Ok(None) };
    let text = str::from_utf8(value.as_bytes()).map_err(|_| Cause::NotBearer)?;
    let (scheme, token) = text.split_once(' ').ok_or(Cause::NotBearer)?;
    if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() {
        return Err(Cause::NotBearer);
    }
    if !token.bytes().all(|byte| TOKEN.get(usize::from(byte)).is_some_and(|good| *good)) {
        return Err(Cause::NotBearer);
    }
    Ok(Some(token))
}

/// The one value of a header, bounded.
pub fn single<'h>(headers: &'h HeaderMap, name: &str) -> Result<Option<&'h http::HeaderValue>, Cause> {
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
