//! Reading request headers that could mean two things, and refusing those that do.

use crate::answer::{IDENTITY_HEADERS, METHOD_OVERRIDES, PATH_OVERRIDES};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, Uri, header};
use durward_authn::Authenticator;
use durward_core::evidence::Evidence;
use durward_runtime::peers::{Peer, TrustedPeers};
use std::borrow::Cow;
use std::net::IpAddr;

/// The headers contradict each other or can't be read.
///
/// Such a request belongs to no service. If it did, a client could choose a host whose policy only audits.
#[derive(Debug, PartialEq, Eq)]
pub struct AmbiguousRequest;

/// The headers of a request, as far as conditions may read them.
#[derive(Debug)]
pub struct HeaderEvidence<'h> {
    pub headers: &'h HeaderMap,
    /// Its providers say which headers carry API keys.
    pub authenticator: &'h Authenticator,
    /// Whether the values are texts, in which Envoy has replaced what is not UTF-8.
    pub as_text: bool,
}

/// What Envoy puts in place of bytes that are not UTF-8, in values that it sends as texts.
pub(crate) const ENVOY_REPLACEMENT: u8 = b'!';

/// Stands for a value of which only Envoy's text is known. No condition can read it, since it isn't printable ASCII.
const UNKNOWN_VALUE: &[u8] = "\u{fffd}".as_bytes();

impl Evidence for HeaderEvidence<'_> {
    fn headers(&self, each: &mut dyn FnMut(&str, Option<&[u8]>)) -> bool {
        for (name, value) in self.headers {
            // a policy that reads such a header is rejected, but a policy can be stored before its provider
            let is_secret = self.authenticator.is_api_key_header(name.as_str());
            let altered = self.as_text && value.as_bytes().contains(&ENVOY_REPLACEMENT);
            let value = if altered { UNKNOWN_VALUE } else { value.as_bytes() };
            each(name.as_str(), if is_secret { None } else { Some(value) });
        }
        true
    }
}

/// The value of a header that may be present once; an empty value is treated as absent.
pub fn single_value<'h>(headers: &'h HeaderMap, name: &str) -> Result<Option<&'h str>, AmbiguousRequest> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => {
            let value = value.to_str().map_err(|_| AmbiguousRequest)?;
            Ok(if value.is_empty() { None } else { Some(value) })
        }
        (Some(_), Some(_)) => Err(AmbiguousRequest),
    }
}

/// The media types that the client accepts (RFC 9110, section 12.5.1).
pub fn accept_header(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::ACCEPT)?.to_str().ok()
}

/// The value of those that are present, if they are all equal.
pub(crate) fn agreed_value<const N: usize>(values: [Option<&str>; N]) -> Option<&str> {
    let mut values = values.into_iter().flatten();
    let first = values.next()?;
    values.all(|value| value == first).then_some(first)
}

/// Host of a request: `Host`, or `:authority` in HTTP/2. Where both are present, they must be equal.
pub fn request_host<'h>(uri: &'h Uri, headers: &'h HeaderMap) -> Result<Option<&'h str>, AmbiguousRequest> {
    match (single_value(headers, "host")?, uri.authority().map(Authority::as_str)) {
        (None, None) => Ok(None),
        (host, authority) => agreed_value([host, authority]).map(Some).ok_or(AmbiguousRequest),
    }
}

/// Whether the application could read another method, or another caller, than the decision is about.
pub fn is_misleading(method: &str, headers: &HeaderMap) -> bool {
    let is_other = |value: Result<Option<&str>, AmbiguousRequest>| value != Ok(None) && value != Ok(Some(method));
    METHOD_OVERRIDES.iter().any(|name| is_other(single_value(headers, name)))
        || headers.keys().any(is_reserved_in_another_spelling)
        || drops_relevant_headers(headers)
}

/// Whether one of these headers gives the application another path than the decision is about.
///
/// A proxy in front that sets such a header sets it to the path that the client requested.
pub fn overrides_path(path_and_query: &str, headers: &HeaderMap, names: &[&str]) -> bool {
    names.iter().any(|name| match single_value(headers, name) {
        Ok(path) => path.is_some_and(|path| path != path_and_query),
        Err(AmbiguousRequest) => true,
    })
}

/// A name as gateway interfaces fold it: each character other than a letter or digit is a hyphen. CGI, WSGI and PHP
/// don't distinguish these characters.
#[must_use]
pub fn folded_name(name: &HeaderName) -> Cow<'_, str> {
    let name = name.as_str();
    let folds = |c: char| !c.is_ascii_alphanumeric() && c != '-';
    if name.contains(folds) { name.replace(folds, "-").into() } else { name.into() }
}

/// Whether a header is an identity header, or overrides method or path, to those who fold its name.
fn is_reserved_in_another_spelling(name: &HeaderName) -> bool {
    let Cow::Owned(folded) = folded_name(name) else { return false };
    [&IDENTITY_HEADERS[..], &METHOD_OVERRIDES, &PATH_OVERRIDES].iter().any(|names| names.contains(&folded.as_str()))
}

/// Whether the client asks proxies to drop a header that matters to the decision or to the application.
///
/// Proxies don't forward the headers that `Connection` lists (RFC 9110, section 7.6.1), neither the client's nor the
/// proxy's own.
fn drops_relevant_headers(headers: &HeaderMap) -> bool {
    let starts_with =
        |name: &[u8], prefix: &[u8]| name.get(..prefix.len()).is_some_and(|head| head.eq_ignore_ascii_case(prefix));
    connection_options(headers)
        .any(|name| [&b"x-"[..], b"authorization", b"host"].iter().any(|prefix| starts_with(name, prefix)))
}

/// The names that `Connection` lists.
pub fn connection_options(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let values = headers.get_all(header::CONNECTION).iter();
    values.flat_map(|value| value.as_bytes().split(|b| *b == b',').map(<[u8]>::trim_ascii))
}

/// Whether a proxy has added a header about the request that it forwards.
pub(crate) fn is_forwarded(headers: &HeaderMap) -> bool {
    let is_added = |name: &str| {
        let prefixes = ["x-forwarded-", "x-original-", "x-envoy-"];
        prefixes.iter().any(|prefix| name.starts_with(prefix)) || ["forwarded", "via", "x-real-ip"].contains(&name)
    };
    headers.keys().any(|name| is_added(name.as_str()))
}

/// Address of the caller: the peer's, or the last one that a trusted proxy forwards.
pub(crate) fn forwarded_address(trust: &TrustedPeers, peer: &Peer, headers: &HeaderMap) -> Option<IpAddr> {
    if !trust.is_proxy(peer) {
        return Some(peer.address.ip());
    }
    let last = headers.get_all("x-forwarded-for").iter().next_back()?;
    last.to_str().ok()?.rsplit(',').next()?.trim().parse().ok()
}

/// Address of the caller, which is the proxy's own where it forwards none.
pub fn caller_address(trust: &TrustedPeers, peer: &Peer, headers: &HeaderMap) -> IpAddr {
    forwarded_address(trust, peer, headers).unwrap_or_else(|| peer.address.ip())
}
