//! What passes through, in both directions, and what does not.

use axum::body::Body;
use axum::extract::Request;
use durward_doors::answer::{IDENTITY_HEADERS, METHOD_OVERRIDES};
use durward_doors::headers::named_by_connection;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Version};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Frame};
use hyper::ext::Protocol;
use std::net::IpAddr;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;
use tower_http::timeout::TimeoutBody;

/// What two neighbours tell each other alone (RFC 9110 section 7.6.1), and what is done with by us.
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

/// By which frameworks believe another path, host, scheme or caller than those of the request.
const FOREIGN: [&str; 7] =
    ["forwarded", "x-real-ip", "x-client-ip", "true-client-ip", "x-rewrite-url", "x-host", "x-http-host-override"];
const FOREIGN_PREFIXES: [&str; 2] = ["x-forwarded-", "x-original-"];

/// Removes what is not to be passed on to anybody.
pub(super) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<_> = named_by_connection(headers).filter_map(|name| HeaderName::from_bytes(name).ok()).collect();
    named.iter().chain(&HOP_BY_HOP).for_each(|name| drop(headers.remove(name)));
}

/// Removes what a caller could say of itself, or of its request, in place of us.
pub(super) fn strip_foreign(headers: &mut HeaderMap) {
    let foreign: Vec<_> = headers.keys().filter(|name| is_foreign(name)).cloned().collect();
    foreign.iter().for_each(|name| drop(headers.remove(name)));
}

fn is_foreign(name: &HeaderName) -> bool {
    // gateway interfaces can't tell underscores from hyphens
    let underscored = name.as_str().contains('_').then(|| name.as_str().replace('_', "-"));
    let name = underscored.as_deref().unwrap_or(name.as_str());
    FOREIGN_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        || [FOREIGN.as_slice(), &IDENTITY_HEADERS, &METHOD_OVERRIDES].iter().any(|names| names.contains(&name))
}

/// Says who is calling: the identity, and where from.
pub(super) fn identify(headers: &mut HeaderMap, identity: Vec<(&'static str, String)>, source: IpAddr) {
    let source = [("x-forwarded-for", source.to_canonical().to_string()), ("x-forwarded-proto", "https".to_owned())];
    for (name, value) in identity.into_iter().chain(source) {
        // what is set comes from names that were parsed; a value that is none after all is left out
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
}

/// HTTP/2 may send cookies one by one; HTTP/1.1 has them in one header (RFC 9113 section 8.2.3).
pub(super) fn join_cookies(headers: &mut HeaderMap) {
    let cookies: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if cookies.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&cookies.join(&b"; "[..]))
    {
        headers.insert(header::COOKIE, joined);
    }
}

/// Whether a request is a gRPC call (gRPC over HTTP/2, "Requests").
pub(super) fn is_grpc(request: &Request) -> bool {
    let kind = request.headers().get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    let rest = kind.and_then(|kind| kind.strip_prefix(b"application/grpc"));
    request.version() == Version::HTTP_2 && rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// Whether a request asks to become a WebSocket (RFC 6455 section 4.1). Other upgrades are never taken: a connection that
/// goes on as `h2c` would carry requests that nobody decides about.
pub(super) fn is_websocket(request: &Request) -> bool {
    let mut upgrades = request.headers().get_all(header::UPGRADE).iter();
    let one = upgrades.next().filter(|_| upgrades.next().is_none());
    request.version() == Version::HTTP_11
        && request.method() == Method::GET
        && request.body().is_end_stream()
        && one.is_some_and(|upgrade| upgrade.as_bytes().eq_ignore_ascii_case(b"websocket"))
        && named_by_connection(request.headers()).any(|name| name.eq_ignore_ascii_case(b"upgrade"))
}

/// Whether a request asks for a WebSocket within HTTP/2 (RFC 8441 section 5). Other protocols are never taken.
pub(super) fn is_websocket_over_http2(request: &Request) -> bool {
    request.version() == Version::HTTP_2
        && request.method() == Method::CONNECT
        && request.extensions().get::<Protocol>().is_some_and(|protocol| protocol.as_str() == "websocket")
}

/// A body as it comes, that may pause no longer than `idle`; trailers say nothing in place of us either. `permit` is held to
/// its end.
pub(super) fn pass(body: Body, idle: Duration, permit: Option<OwnedSemaphorePermit>) -> Body {
    // what has no body is to stay so: a message that ends with its headers is another one in gRPC, and in HTTP/1.1
    if body.is_end_stream() {
        return Body::empty();
    }
    let passed = body.map_frame(move |frame| {
        let _held = &permit;
        match frame.into_trailers() {
            Ok(mut trailers) => {
                strip_hop_by_hop(&mut trailers);
                strip_foreign(&mut trailers);
                Frame::trailers(trailers)
            }
            Err(frame) => frame,
        }
    });
    Body::new(TimeoutBody::new(idle, passed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_foreign_goes_however_it_is_spelled() {
        for (name, foreign) in [
            ("x-durward-principal", true),
            ("x_durward_scopes", true),
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
    fn what_a_connection_names_goes_no_further() {
        let mut headers = HeaderMap::new();
        for (name, value) in [("connection", "close, X-Mine"), ("x-mine", "1"), ("te", "trailers"), ("accept", "*/*")] {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        strip_hop_by_hop(&mut headers);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["accept"]);
    }
}
