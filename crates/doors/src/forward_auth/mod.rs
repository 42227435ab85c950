//! Forward auth over HTTP: nginx `auth_request`, Traefik, Caddy, HAProxy.
//!
//! Proxies describe the request in one of two families of headers. A client can add headers of either family, and a
//! proxy that sets only one family forwards the other. So all headers that are present must agree; otherwise the
//! request is ambiguous and refused.

use crate::answer::{HttpAnswer, response};
use crate::doors::Doors;
use crate::headers::{
    AmbiguousRequest, HeaderEvidence, accept_header, agreed_value, forwarded_address, is_misleading, overrides_path,
    request_host, single_value,
};
use axum::extract::{Extension, State};
use axum::response::Response;
use axum::routing::any;
use axum::{Router, http};
use durward_authn::Credentials;
use durward_core::request::{Call, Request, ServiceTarget};
use durward_engine::{Door, EngineCaller};
use durward_runtime::peers::Peer;
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Uri};

/// The JSON body of a refusal, as a header too: nginx passes on headers of `auth_request`, but no body.
const ERROR_HEADER: &str = "x-durward-error";

/// The door as a router.
pub fn router(doors: Doors) -> Router {
    Router::new().route("/forward-auth", any(forward_auth)).with_state(doors)
}

async fn forward_auth(
    State(doors): State<Doors>,
    Extension(peer): Extension<Peer>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let forwarded = request_host(&uri, &headers).and_then(|host| {
        if doors.trust.is_proxy(&peer) {
            return forwarded_request(&headers, host);
        }
        // the peer may not forward requests of others, so the decision is about its own request
        let uri = uri.path_and_query().map(PathAndQuery::as_str).unwrap_or_default();
        Ok(ForwardedRequest { method: method.as_str(), host: host.unwrap_or_default(), uri })
    });
    let source = forwarded_address(&doors.trust, &peer, &headers);
    let (target, call) = match &forwarded {
        Ok(forwarded) => {
            (ServiceTarget::Host(forwarded.host), Call::Http { method: forwarded.method, path: forwarded.uri })
        }
        Err(AmbiguousRequest) => (ServiceTarget::Host(""), Call::Ambiguous),
    };
    let evidence = &HeaderEvidence { headers: &headers, authenticator: &doors.authenticator, as_text: false };
    let request = Request { target, call, source, evidence };
    let credentials = Credentials {
        headers: &headers,
        // each request of a proxy is another caller's
        certificate: doors.trust.caller_certificate(&peer, true),
        client_cert_header_trusted: doors.trust.forwards_certificates(&peer),
    };
    let answer = doors.engine.authorize(Door::ForwardAuth, &request, EngineCaller::Credentials(credentials)).await;
    let mut http_answer = HttpAnswer::new(&answer, accept_header(&headers));
    if !answer.passes() {
        http_answer.headers.push((ERROR_HEADER, HttpAnswer::new(&answer, None).body));
    }
    response(http_answer)
}

/// The request that a proxy forwards.
#[derive(Debug, PartialEq, Eq)]
struct ForwardedRequest<'h> {
    method: &'h str,
    host: &'h str,
    uri: &'h str,
}

fn forwarded_request<'h>(
    headers: &'h HeaderMap,
    host: Option<&'h str>,
) -> Result<ForwardedRequest<'h>, AmbiguousRequest> {
    let original_url = single_value(headers, "x-original-url")?.map(split_url).transpose()?;
    let original_method = single_value(headers, "x-original-method")?;
    let original_uri = single_value(headers, "x-original-uri")?;
    let original_host = single_value(headers, "x-original-host")?;
    let forwarded_method = single_value(headers, "x-forwarded-method")?;
    let forwarded_uri = single_value(headers, "x-forwarded-uri")?;
    let forwarded_host = single_value(headers, "x-forwarded-host")?;

    // nginx forwards the host in `Host`, ingress-nginx in a URL, and Traefik and Caddy in a header of its own
    let proxy_host = match (original_uri, original_url) {
        (Some(_), _) => host,
        (None, Some((host, _))) => Some(host),
        (None, None) => forwarded_host.or(host),
    };
    let method = agreed_value([original_method, forwarded_method]).ok_or(AmbiguousRequest)?;
    // the application could read the method, or the caller, from a header that no proxy removes
    if is_misleading(method, headers) {
        return Err(AmbiguousRequest);
    }
    let uri = agreed_value([original_uri, original_url.map(|(_, uri)| uri), forwarded_uri]);
    let host = agreed_value([proxy_host, original_host, original_url.map(|(host, _)| host), forwarded_host]);
    match (uri, host) {
        // `X-Original-URL` has been compared above
        (Some(uri), Some(host)) if !overrides_path(uri, headers, &["x-rewrite-url"]) => {
            Ok(ForwardedRequest { method, host, uri })
        }
        _ => Err(AmbiguousRequest),
    }
}

/// Host and path of an absolute URL.
fn split_url(url: &str) -> Result<(&str, &str), AmbiguousRequest> {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://")).ok_or(AmbiguousRequest)?;
    let slash = rest.find('/').ok_or(AmbiguousRequest)?;
    Ok(rest.split_at(slash))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};

    fn parse(headers: &HeaderMap) -> Result<(&str, &str, &str), AmbiguousRequest> {
        let host = single_value(headers, "host")?;
        forwarded_request(headers, host).map(|request| (request.method, request.host, request.uri))
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).fold(
            HeaderMap::new(),
            |mut map, (name, value)| {
                map.append(name, value);
                map
            },
        )
    }

    #[test]
    fn both_families_of_headers_are_read() {
        let nginx = headers(&[("host", "a.example"), ("x-original-method", "GET"), ("x-original-uri", "/x?y")]);
        assert_eq!(parse(&nginx), Ok(("GET", "a.example", "/x?y")));
        let traefik = headers(&[
            ("host", "durward"),
            ("x-forwarded-method", "POST"),
            ("x-forwarded-host", "a.example"),
            ("x-forwarded-uri", "/x"),
        ]);
        assert_eq!(parse(&traefik), Ok(("POST", "a.example", "/x")));
        let ingress = headers(&[
            ("host", "durward"),
            ("x-original-method", "GET"),
            ("x-original-url", "https://a.example/x?y=/z"),
        ]);
        assert_eq!(parse(&ingress), Ok(("GET", "a.example", "/x?y=/z")));
    }

    #[test]
    fn contradicting_headers_are_ambiguous() {
        let base = [("host", "a.example"), ("x-original-method", "GET"), ("x-original-uri", "/x")];
        for extra in [
            ("x-original-uri", "/y"),
            ("x-original-uri", "/x"),
            ("x-original-method", "POST"),
            ("x-forwarded-uri", "/healthz"),
            ("x-forwarded-method", "OPTIONS"),
            ("x-forwarded-host", "b.example"),
            ("x-original-host", "b.example"),
            ("x-original-url", "https://b.example/x"),
            ("x-original-url", "/x"),
            ("host", "b.example"),
            ("x-http-method-override", "DELETE"),
            ("x_durward_principal", "user:corporate/root"),
            ("x-rewrite-url", "/y"),
            ("x_original_url", "/x"),
        ] {
            let all: Vec<_> = base.iter().copied().chain([extra]).collect();
            let all = headers(&all);
            let request = parse(&all);
            assert!(request.is_err(), "{extra:?}: {request:?}");
        }
        assert!(parse(&headers(&[("host", "a.example")])).is_err());
        assert!(parse(&headers(&[("host", "a.example"), ("x-original-uri", "/x")])).is_err());
    }
}
