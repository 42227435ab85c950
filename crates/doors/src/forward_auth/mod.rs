//! Forward auth over HTTP: nginx `auth_request`, Traefik, Caddy, HAProxy.
//!
//! Proxies describe the request in one of two families of headers. A client can add headers of either family to its
//! own request, and a proxy that knows only one passes the other on: so whatever is there has to agree, or nothing is
//! decided.

use crate::doors::Doors;
use crate::answer::{HttpAnswer, response};
use crate::headers::{Shown, Unclear, accept, agreed, forwarded_source, mislead, moved, own_host, single};
use axum::extract::{Extension, State};
use axum::response::Response;
use axum::routing::any;
use axum::{Router, http};
use durward_authn::Credentials;
use durward_core::request::{Call, Request, ServiceTarget};
use durward_engine::{Caller, Door};
use durward_runtime::peers::Peer;
use http::{HeaderMap, Method, Uri};

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
    let asked = own_host(&uri, &headers).and_then(|host| {
        if doors.trust.is_proxy(&peer) {
            return forwarded(&headers, host);
        }
        // nobody is believed what others ask; what is asked is then this request itself
        Ok(Asked { method: method.as_str(), host: host.unwrap_or_default(), uri: uri.path() })
    });
    let source = forwarded_source(&doors.trust, &peer, &headers);
    let (target, call) = match &asked {
        Ok(asked) => (ServiceTarget::Host(asked.host), Call::Http { method: asked.method, path: asked.uri }),
        Err(Unclear) => (ServiceTarget::Host(""), Call::Ambiguous),
    };
    let evidence = &Shown { headers: &headers, authenticator: &doors.authenticator };
    let request = Request { target, call, source, evidence };
    let credentials = Credentials {
        headers: &headers,
        certificate: doors.trust.caller_certificate(&peer),
        client_cert_header_trusted: doors.trust.forwards_certificates(&peer),
    };
    let answer = doors.engine.ask(Door::ForwardAuth, &request, Caller::Credentials(credentials)).await;
    response(HttpAnswer::of(&answer, accept(&headers)))
}

/// What a proxy asks about.
#[derive(Debug, PartialEq, Eq)]
struct Asked<'h> {
    method: &'h str,
    host: &'h str,
    uri: &'h str,
}

fn forwarded<'h>(headers: &'h HeaderMap, host: Option<&'h str>) -> Result<Asked<'h>, Unclear> {
    let original_url = single(headers, "x-original-url")?.map(split_url).transpose()?;
    let original = (
        single(headers, "x-original-method")?,
        single(headers, "x-original-uri")?,
        single(headers, "x-original-host")?,
    );
    let forwarded = (
        single(headers, "x-forwarded-method")?,
        single(headers, "x-forwarded-uri")?,
        single(headers, "x-forwarded-host")?,
    );

    // whose word the host is: nginx passes its own `Host` on, ingress-nginx a whole URL, Traefik and Caddy a header
    let named_host = match (original.1, original_url) {
        (Some(_), _) => host,
        (None, Some((host, _))) => Some(host),
        (None, None) => forwarded.2.or(host),
    };
    let method = agreed([original.0, forwarded.0]).ok_or(Unclear)?;
    // the application could take the method, or the caller, from a header that no proxy removes
    if mislead(method, headers) {
        return Err(Unclear);
    }
    let uri = agreed([original.1, original_url.map(|(_, uri)| uri), forwarded.1]);
    let named = agreed([named_host, original.2, original_url.map(|(host, _)| host), forwarded.2]);
    match (uri, named) {
        // `X-Original-URL` is among what agrees
        (Some(uri), Some(host)) if !moved(uri, headers, &["x-rewrite-url"]) => Ok(Asked { method, host, uri }),
        _ => Err(Unclear),
    }
}

/// Host and path of an absolute URL.
fn split_url(url: &str) -> Result<(&str, &str), Unclear> {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://")).ok_or(Unclear)?;
    let slash = rest.find('/').ok_or(Unclear)?;
    Ok(rest.split_at(slash))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};

    fn asked(headers: &HeaderMap) -> Result<(&str, &str, &str), Unclear> {
        let host = single(headers, "host")?;
        forwarded(headers, host).map(|asked| (asked.method, asked.host, asked.uri))
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
    fn both_families_are_understood() {
        let nginx = headers(&[("host", "a.example"), ("x-original-method", "GET"), ("x-original-uri", "/x?y")]);
        assert_eq!(asked(&nginx), Ok(("GET", "a.example", "/x?y")));
        let traefik = headers(&[
            ("host", "durward"),
            ("x-forwarded-method", "POST"),
            ("x-forwarded-host", "a.example"),
            ("x-forwarded-uri", "/x"),
        ]);
        assert_eq!(asked(&traefik), Ok(("POST", "a.example", "/x")));
        let ingress = headers(&[
            ("host", "durward"),
            ("x-original-method", "GET"),
            ("x-original-url", "https://a.example/x?y=/z"),
        ]);
        assert_eq!(asked(&ingress), Ok(("GET", "a.example", "/x?y=/z")));
    }

    #[test]
    fn what_disagrees_is_not_understood() {
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
            let got = asked(&all);
            assert!(got.is_err(), "{extra:?}: {got:?}");
        }
        assert!(asked(&headers(&[("host", "a.example")])).is_err());
        assert!(asked(&headers(&[("host", "a.example"), ("x-original-uri", "/x")])).is_err());
    }
}
