//! What headers say of a request, where they could say two things.

use crate::answer::{IDENTITY_HEADERS, METHOD_OVERRIDES, PATH_OVERRIDES};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, Uri, header};
use durward_authn::Authenticator;
use durward_core::evidence::Evidence;
use durward_runtime::trust::{Peer, Trust};
use std::net::IpAddr;

/// The headers contradict each other, or can't be read. Such a request is to no service at all: whose host would it be?
/// A client could choose one whose policy only audits.
#[derive(Debug, PartialEq, Eq)]
pub struct Unclear;

/// The headers of a request, as far as conditions may see them.
#[derive(Debug)]
pub struct Shown<'h> {
    pub headers: &'h HeaderMap,
    /// Knows in which of them API keys come.
    pub authenticator: &'h Authenticator,
}

impl Evidence for Shown<'_> {
    fn headers(&self, each: &mut dyn FnMut(&str, Option<&[u8]>)) -> bool {
        for (name, value) in self.headers {
            // a policy that lists such a header is refused, but not before its provider is known
            let secret = self.authenticator.reads_keys_in(name.as_str());
            each(name.as_str(), Some(value.as_bytes()).filter(|_| !secret));
        }
        true
    }
}

/// The one value of a header.
pub fn single<'h>(headers: &'h HeaderMap, name: &str) -> Result<Option<&'h str>, Unclear> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => {
            value.to_str().map(|value| Some(value).filter(|value| !value.is_empty())).map_err(|_| Unclear)
        }
        (Some(_), Some(_)) => Err(Unclear),
    }
}

/// What a client says to understand (RFC 9110, section 12.5.1).
pub fn accept(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::ACCEPT)?.to_str().ok()
}

/// The value of all that are there, if it is one.
pub(crate) fn agreed<const N: usize>(values: [Option<&str>; N]) -> Option<&str> {
    let mut values = values.into_iter().flatten();
    let first = values.next()?;
    values.all(|value| value == first).then_some(first)
}

/// Host of a request: `Host`, or `:authority` in HTTP/2; where both are there, they agree.
pub fn own_host<'h>(uri: &'h Uri, headers: &'h HeaderMap) -> Result<Option<&'h str>, Unclear> {
    match (single(headers, "host")?, uri.authority().map(Authority::as_str)) {
        (None, None) => Ok(None),
        (host, authority) => agreed([host, authority]).map(Some).ok_or(Unclear),
    }
}

/// Whether the application could read another method, or another caller, than the one that is decided about.
pub fn mislead(method: &str, headers: &HeaderMap) -> bool {
    let [a, b, c] = METHOD_OVERRIDES.map(|name| single(headers, name));
    let (Ok(a), Ok(b), Ok(c)) = (a, b, c) else { return true };
    agreed([Some(method), a, b, c]).is_none() || headers.keys().any(is_disguised) || drops_what_matters(headers)
}

/// Whether the application could take another path, or none, from one of these headers than the one that is decided about. A
/// server in front that sets them sets them to what it was asked.
pub fn moved(path_and_query: &str, headers: &HeaderMap, by: &[&str]) -> bool {
    by.iter().any(|name| single(headers, name).map_or(true, |said| said.is_some_and(|said| said != path_and_query)))
}

/// Whether a header is one of ours, or changes method or path, once underscores are read as hyphens: gateway interfaces
/// such as CGI and WSGI can't tell the two apart.
pub(crate) fn is_disguised(name: &HeaderName) -> bool {
    let name = name.as_str();
    name.contains('_') && {
        let plain = name.replace('_', "-");
        [&IDENTITY_HEADERS[..], &METHOD_OVERRIDES, &PATH_OVERRIDES].iter().any(|names| names.contains(&plain.as_str()))
    }
}

/// Whether the client asks proxies to drop a header that decides something: whatever `Connection` names goes no further
/// (RFC 9110 section 7.6.1), be it set by us or by the proxy.
fn drops_what_matters(headers: &HeaderMap) -> bool {
    let starts_with =
        |name: &[u8], prefix: &[u8]| name.get(..prefix.len()).is_some_and(|head| head.eq_ignore_ascii_case(prefix));
    named_by_connection(headers)
        .any(|name| [&b"x-"[..], b"authorization", b"host"].iter().any(|prefix| starts_with(name, prefix)))
}

/// What `Connection` names.
pub fn named_by_connection(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let values = headers.get_all(header::CONNECTION).iter();
    values.flat_map(|value| value.as_bytes().split(|b| *b == b',').map(<[u8]>::trim_ascii))
}

/// Address of the caller: the peer, or what a trusted proxy says last.
pub(crate) fn forwarded_source(trust: &Trust, peer: &Peer, headers: &HeaderMap) -> Option<IpAddr> {
    if !trust.is_proxy(peer) {
        return Some(peer.address.ip());
    }
    let last = headers.get_all("x-forwarded-for").iter().next_back()?;
    last.to_str().ok()?.rsplit(',').next()?.trim().parse().ok()
}

/// The same where there has to be one: a proxy that says nothing asks for itself.
pub fn source(trust: &Trust, peer: &Peer, headers: &HeaderMap) -> IpAddr {
    forwarded_source(trust, peer, headers).unwrap_or_else(|| peer.address.ip())
}
