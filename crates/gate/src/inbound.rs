//! From callers to the application: each request is decided, and goes on exactly as it was decided about.

use crate::Limits;
use crate::app::App;
use crate::passing::{
    identify, is_grpc, is_websocket, is_websocket_over_http2, join_cookies, pass, strip_foreign, strip_hop_by_hop,
};
use crate::trouble::Trouble;
use crate::tunnel;
use crate::tunnel::Tunnels;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use durward_authn::Credentials;
use durward_core::host::Host;
use durward_core::request::{Call, Request as Asked, ServiceTarget};
use durward_doors::answer::response;
use durward_doors::answer::{HttpAnswer, PATH_OVERRIDES};
use durward_doors::headers::{Shown, Unclear, accept, mislead, moved, own_host};
use durward_engine::{Caller, Door, Engine};
use durward_runtime::listener::Answers;
use durward_runtime::trust::Peer;
use http::header::{HOST, HeaderValue, TE, WWW_AUTHENTICATE};
use http::uri::{Authority, PathAndQuery};
use http::{Method, StatusCode, Version};
use std::borrow::Cow;
use std::sync::Arc;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tonic::{Code, Status};

/// The side that callers reach.
#[derive(Clone)]
pub(super) struct Inbound {
    engine: Arc<Engine>,
    app: App,
    limits: Limits,
    slots: Arc<Semaphore>,
    tunnels: Tunnels,
}

/// What a caller asks, in the words of policies.
struct Read<'r> {
    method: &'r str,
    host: &'r str,
    path: Cow<'r, str>,
}

impl Answers for Inbound {
    async fn answer(self, request: Request) -> Response {
        let grpc = is_grpc(&request);
        match self.decided(request, grpc).await {
            Ok(response) => response,
            Err(trouble) => trouble.told(grpc),
        }
    }

    fn websockets_over_http2(&self) -> bool {
        self.app.takes_websockets()
    }
}

impl Inbound {
    pub(super) fn new(engine: Arc<Engine>, app: App, limits: Limits, tunnels: Tunnels) -> Self {
        let slots = Arc::new(Semaphore::new(limits.requests));
        Self { engine, app, limits, slots, tunnels }
    }

    async fn decided(&self, request: Request, grpc: bool) -> Result<Response, Trouble> {
        let permit = Arc::clone(&self.slots).try_acquire_owned().map_err(|_| Trouble::TooMany)?;
        let peer = request.extensions().get::<Peer>().cloned().ok_or(Trouble::Unreachable)?;
        let source = peer.address.ip();
        let read = read(&request);
        let (target, call) = match &read {
            Ok(read) => (ServiceTarget::Host(read.host), Call::Http { method: read.method, path: &read.path }),
            Err(Unclear) => (ServiceTarget::Host(""), Call::Ambiguous),
        };
        let evidence = &Shown { headers: request.headers(), authenticator: self.engine.authenticator() };
        let asked = Asked { target, call, source: Some(source), evidence };
        let credentials = Credentials {
            headers: request.headers(),
            certificate: peer.certificate.as_deref(),
            client_cert_header_trusted: false,
        };
        let answer = self.engine.ask(Door::Gate, &asked, Caller::Credentials(credentials)).await;
        let passes = answer.passes();
        let told = HttpAnswer::of(&answer, accept(request.headers()));
        // a policy that only audits lets through what it can read; what nobody can read is of no policy
        let host = match read {
            Ok(read) if passes => {
                Authority::try_from(Host::of_authority(read.host).map_err(|_| Trouble::Unreachable)?.as_str())
            }
            _ => return Ok(refusal(told, grpc)),
        };
        let host = host.map_err(|_| Trouble::Unreachable)?;
        let (identity, http2) = (told.headers, self.app.by_http2(grpc));

        let mut request = request;
        let caller = if is_websocket_over_http2(&request) {
            Some(tunnel::Caller::over_http2(&mut request)?)
        } else {
            (is_websocket(&request) && !http2).then(|| tunnel::Caller::of(&mut request))
        };
        let websocket = caller.is_some();
        let path = request.uri().path_and_query().cloned();
        if request.headers().get(HOST).is_none()
            && let Some(authority) = request.uri().authority()
            && let Ok(value) = HeaderValue::from_str(authority.as_str())
        {
            request.headers_mut().insert(HOST, value);
        }
        let (mut parts, body) = request.into_parts();
        parts.extensions.clear();
        let headers = &mut parts.headers;
        strip_hop_by_hop(headers);
        strip_foreign(headers);
        identify(headers, identity, source);
        if http2 {
            // there it is `:authority`
            headers.remove(HOST);
            if grpc {
                headers.insert(TE, HeaderValue::from_static("trailers"));
            }
        } else {
            join_cookies(headers);
        }
        if websocket {
            tunnel::ask(headers);
        }
        let body = pass(body, self.limits.idle, None);
        let onward = self.app.ask(Request::from_parts(parts, body), Some(host), path, http2);
        let answered = timeout(self.limits.response, onward).await.map_err(|_| Trouble::Late)?;
        let answered = answered.map_err(|error| {
            tracing::warn!(%error, "the application did not answer");
            Trouble::Unreachable
        })?;
        self.tunnels.pass_back(answered, caller, self.limits.idle, permit)
    }
}

/// Host and path, if no parser could read others.
fn read(request: &Request) -> Result<Read<'_>, Unclear> {
    let (uri, headers) = (request.uri(), request.headers());
    let host = own_host(uri, headers)?.unwrap_or_default();
    let (connects, over_http2) = (request.method() == Method::CONNECT, is_websocket_over_http2(request));
    // a WebSocket is asked for by GET, whichever version of HTTP has another word for it
    let method = if over_http2 { "GET" } else { request.method().as_str() };
    let whole = uri.path_and_query().map(PathAndQuery::as_str).unwrap_or_default();
    if connects && (!over_http2 || is_grpc(request))
        || mislead(method, headers)
        || moved(whole, headers, &PATH_OVERRIDES)
    {
        return Err(Unclear);
    }
    // in HTTP/2 the parts of a URI come one by one; in HTTP/1.1 one with a host is a request to a proxy
    let path = if request.version() < Version::HTTP_2 && uri.authority().is_some() {
        Cow::Owned(uri.to_string())
    } else {
        Cow::Borrowed(uri.path())
    };
    Ok(Read { method, host, path })
}

/// The answer to a caller that may not; for gRPC as a status, with the same words.
fn refusal(answer: HttpAnswer, grpc: bool) -> Response {
    if !grpc {
        return response(answer);
    }
    let code = if answer.status == StatusCode::UNAUTHORIZED { Code::Unauthenticated } else { Code::PermissionDenied };
    let mut refused = Status::new(code, answer.body).into_http::<Body>();
    let challenge = answer.headers.into_iter().find(|(name, _)| *name == WWW_AUTHENTICATE.as_str());
    if let Some(value) = challenge.and_then(|(_, value)| HeaderValue::try_from(value).ok()) {
        refused.headers_mut().insert(WWW_AUTHENTICATE, value);
    }
    refused
}
