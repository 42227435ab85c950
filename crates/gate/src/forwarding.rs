//! Headers and bodies that the gate forwards in either direction, and those that it removes.

use axum::body::Body;
use axum::extract::Request;
use durward_doors::answer::{IDENTITY_HEADERS, METHOD_OVERRIDES};
use durward_doors::headers::{connection_options, folded_name};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Version};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Frame};
use hyper::ext::Protocol;
use std::net::IpAddr;

/// Headers for one connection only (RFC 9110 section 7.6.1), and those that the gate handles itself.
const HOP_BY_HOP: [HeaderName; 9] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::EXPECT,
];

/// Headers by which frameworks assume a path, host, scheme or caller other than the request's.
const FOREIGN: [&str; 7] =
    ["forwarded", "x-real-ip", "x-client-ip", "true-client-ip", "x-rewrite-url", "x-host", "x-http-host-override"];
const FOREIGN_PREFIXES: [&str; 2] = ["x-forwarded-", "x-original-"];

/// Removes headers that belong to one connection.
pub(super) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<_> = connection_options(headers).filter_map(|name| HeaderName::from_bytes(name).ok()).collect();
    named.iter().chain(&HOP_BY_HOP).for_each(|name| drop(headers.remove(name)));
}

/// Removes headers by which a caller could pose as the gate.
pub(super) fn strip_foreign(headers: &mut HeaderMap) {
    let foreign: Vec<_> = headers.keys().filter(|name| is_foreign(name)).cloned().collect();
    foreign.iter().for_each(|name| drop(headers.remove(name)));
}

fn is_foreign(name: &HeaderName) -> bool {
    let name = &*folded_name(name);
    FOREIGN_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        || [FOREIGN.as_slice(), &IDENTITY_HEADERS, &METHOD_OVERRIDES].iter().any(|names| names.contains(&name))
}

/// Adds the identity and the address of the caller.
pub(super) fn identify(headers: &mut HeaderMap, identity: Vec<(&'static str, String)>, source: IpAddr) {
    let source = [("x-forwarded-for", source.to_canonical().to_string()), ("x-forwarded-proto", "https".to_owned())];
    for (name, value) in identity.into_iter().chain(source) {
        // the values come from parsed names; one that is invalid all the same becomes empty
        let value = HeaderValue::try_from(value).unwrap_or(HeaderValue::from_static(""));
        headers.insert(HeaderName::from_static(name), value);
    }
}

/// Joins cookies, which HTTP/2 may send one by one and HTTP/1.1 may not (RFC 9113 section 8.2.3).
pub(super) fn join_cookies(headers: &mut HeaderMap) {
    let cookies: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if cookies.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&cookies.join(&b"; "[..]))
    {
        headers.insert(header::COOKIE, joined);
    }
}

/// Whether a request is a gRPC call (gRPC over HTTP/2, "Requests").
pub(super) fn is_grpc<B>(request: &Request<B>) -> bool {
    let kind = request.headers().get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    let rest = kind.and_then(|kind| kind.strip_prefix(b"application/grpc"));
    request.version() == Version::HTTP_2 && rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// Whether a request asks for a WebSocket (RFC 6455 section 4.1). Other upgrades are refused: a connection that becomes
/// `h2c` would carry requests that the engine never sees.
pub(super) fn is_websocket(request: &Request) -> bool {
    let mut upgrades = request.headers().get_all(header::UPGRADE).iter();
    let one = upgrades.next().filter(|_| upgrades.next().is_none());
    request.version() == Version::HTTP_11
        && request.method() == Method::GET
        && request.body().is_end_stream()
        && one.is_some_and(|upgrade| upgrade.as_bytes().eq_ignore_ascii_case(b"websocket"))
        && connection_options(request.headers()).any(|name| name.eq_ignore_ascii_case(b"upgrade"))
}

/// Whether a request asks for a WebSocket over HTTP/2 (RFC 8441 section 5). Other protocols are refused.
pub(super) fn is_websocket_over_http2<B>(request: &Request<B>) -> bool {
    request.version() == Version::HTTP_2
        && request.method() == Method::CONNECT
        && request.extensions().get::<Protocol>().is_some_and(|protocol| protocol.as_str() == "websocket")
}

/// Forwards a body and cleans its trailers.
pub(super) fn pass(body: Body) -> Body {
    // no body stays no body: a message that ends with its headers means something else in gRPC and in HTTP/1.1
    if body.is_end_stream() {
        return Body::empty();
    }
    Body::new(body.map_frame(|frame| match frame.into_trailers() {
        Ok(mut trailers) => {
            strip_hop_by_hop(&mut trailers);
            strip_foreign(&mut trailers);
            Frame::trailers(trailers)
        }
        Err(frame) => frame,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_headers_are_removed_in_every_spelling() {
        for (name, foreign) in [
            ("x-durward-principal", true),
            ("x_durward_scopes", true),
            ("x.durward.principal", true),
            ("x~http~method~override", true),
            ("x!forwarded!for", true),
            ("x-forwarded-uri", true),
            ("x_forwarded_for", true),
            ("x-original-url", true),
            ("x-rewrite-url", true),
            ("forwarded", true),
            ("x-http-method-override", true),
            ("x-durward", false),
            ("x-request-id", false),
            ("authorization", false),
            ("traceparent", false),
        ] {
            assert_eq!(is_foreign(&HeaderName::from_static(name)), foreign, "{name}");
        }
    }

    #[test]
    fn headers_that_connection_names_are_removed() {
        let mut headers = HeaderMap::new();
        for (name, value) in [("connection", "close, X-Mine"), ("x-mine", "1"), ("te", "trailers"), ("accept", "*/*")] {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        strip_hop_by_hop(&mut headers);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["accept"]);
    }
}
