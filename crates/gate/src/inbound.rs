//! From callers to the application: the engine decides each request, and the gate forwards exactly what was decided about.

use crate::application::Application;
use crate::exchange::Exchange;
use crate::forwarding::{
    identify, is_grpc, is_websocket, is_websocket_over_http2, join_cookies, pass, strip_foreign, strip_hop_by_hop,
};
use crate::proxy_error::ProxyError;
use crate::settings::GateLimits;
use crate::tunnel;
use crate::tunnel::Tunnels;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use durward_authn::{Authenticator, Credentials};
use durward_core::host::Host;
use durward_core::request::{Call, Request as DecisionRequest, ServiceTarget};
use durward_doors::answer::response;
use durward_doors::answer::{HttpAnswer, PATH_OVERRIDES};
use durward_doors::headers::{
    AmbiguousRequest, HeaderEvidence, accept_header, is_misleading, overrides_path, request_host,
};
use durward_engine::{Door, Engine, EngineCaller, EngineContext};
use durward_runtime::connection::{HttpService, RequestBodies};
use durward_runtime::peers::Peer;
use http::header::{HOST, HeaderValue, TE, WWW_AUTHENTICATE};
use http::uri::{Authority, PathAndQuery};
use http::{Method, StatusCode, Version};
use hyper::ext::Protocol;
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::sleep;
use tonic::{Code, Status};

/// Interval between checks whether the caller of an open stream is still allowed: its end is noticed within a second.
const RECHECK_INTERVAL: Duration = Duration::from_millis(500);

/// The side for callers.
#[derive(Clone)]
pub(super) struct Inbound {
    engine: Arc<Engine>,
    authenticator: Arc<Authenticator>,
    app: Application,
    limits: GateLimits,
    slots: Arc<Semaphore>,
    tunnels: Tunnels,
}

/// Method, host and path of a request, as policies name them.
struct RequestTarget<'r> {
    method: &'r str,
    host: &'r str,
    path: Cow<'r, str>,
}

impl HttpService for Inbound {
    async fn handle(self, request: Request) -> Response {
        let grpc = is_grpc(&request);
        match self.decide_and_forward(request, grpc).await {
            Ok(response) => response,
            Err(error) => error.into_response(grpc),
        }
    }

    fn websockets_over_http2(&self) -> bool {
        self.app.accepts_websockets()
    }

    fn request_bodies(&self) -> RequestBodies {
        RequestBodies::Streamed
    }
}

impl Inbound {
    pub(super) fn new(context: EngineContext, app: Application, limits: GateLimits, tunnels: Tunnels) -> Self {
        let slots = Arc::new(Semaphore::new(limits.requests));
        Self { engine: context.engine, authenticator: context.authenticator, app, limits, slots, tunnels }
    }

    async fn decide_and_forward(&self, request: Request, grpc: bool) -> Result<Response, ProxyError> {
        let permit = Arc::clone(&self.slots).try_acquire_owned().map_err(|_| ProxyError::TooMany)?;
        let peer = request.extensions().get::<Peer>().cloned().ok_or(ProxyError::Unreachable)?;
        let source = peer.address.ip();
        let read = read(&request);
        let (target, call) = match &read {
            Ok(read) => (ServiceTarget::Host(read.host), Call::Http { method: read.method, path: &read.path }),
            Err(AmbiguousRequest) => (ServiceTarget::Host(""), Call::Ambiguous),
        };
        let evidence =
            &HeaderEvidence { headers: request.headers(), authenticator: &self.authenticator, as_text: false };
        let decision_request = DecisionRequest { target, call, source: Some(source), evidence };
        let credentials = Credentials {
            headers: request.headers(),
            certificate: peer.certificate.as_deref(),
            client_cert_header_trusted: false,
        };
        let answer = self.engine.authorize(Door::Gate, &decision_request, EngineCaller::Credentials(credentials)).await;
        let passes = answer.passes();
        let http_answer = HttpAnswer::new(&answer, accept_header(request.headers()));
        // a policy that only audits lets readable requests pass; an ambiguous one belongs to no policy
        let host = match read {
            Ok(read) if passes => {
                Authority::try_from(Host::of_authority(read.host).map_err(|_| ProxyError::Unreachable)?.as_str())
            }
            _ => return Ok(refusal(http_answer, grpc)),
        };
        let host = host.map_err(|_| ProxyError::Unreachable)?;
        let (identity, http2) = (http_answer.headers, self.app.uses_http2(grpc));

        let mut exchange = Exchange::new(self.limits, permit);
        if self.limits.recheck.applies(answer.risk) {
            exchange.cut_after(self.clone().denied(head_of(&request), peer));
        }
        let mut request = request;
        let caller = if is_websocket_over_http2(&request) {
            Some(tunnel::WebSocketCaller::over_http2(&mut request)?)
        } else {
            (is_websocket(&request) && !http2).then(|| tunnel::WebSocketCaller::of(&mut request))
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
            // HTTP/2 has `:authority` instead
            headers.remove(HOST);
            if grpc {
                headers.insert(TE, HeaderValue::from_static("trailers"));
            }
        } else {
            join_cookies(headers);
        }
        if websocket {
            tunnel::request_upgrade(headers);
        }
        let send = |body| self.app.send(Request::from_parts(parts, body), Some(host), path, http2);
        let response = exchange.send(pass(body), send).await?;
        let response = response.map_err(|error| {
            tracing::warn!(%error, "the application did not answer; answering 502");
            ProxyError::Unreachable
        })?;
        self.tunnels.return_response(response, caller, exchange)
    }
}

impl Inbound {
    /// Waits until a request that was allowed, and is still open, is no longer allowed. Records that.
    async fn denied(self, request: Request<()>, peer: Peer) {
        loop {
            sleep(RECHECK_INTERVAL).await;
            let Ok(read) = read(&request) else { return };
            let evidence =
                &HeaderEvidence { headers: request.headers(), authenticator: &self.authenticator, as_text: false };
            let decision_request = DecisionRequest {
                target: ServiceTarget::Host(read.host),
                call: Call::Http { method: read.method, path: &read.path },
                source: Some(peer.address.ip()),
                evidence,
            };
            let credentials = || Credentials {
                headers: request.headers(),
                certificate: peer.certificate.as_deref(),
                client_cert_header_trusted: false,
            };
            if self.engine.still_passes(&decision_request, credentials()).await {
                continue;
            }
            let caller = EngineCaller::Credentials(credentials());
            if !self.engine.authorize(Door::Gate, &decision_request, caller).await.passes() {
                tracing::info!("the caller of an open stream is no longer allowed; closing the stream");
                return;
            }
        }
    }
}

/// A request without its body.
fn head_of(request: &Request) -> Request<()> {
    let mut head = Request::new(());
    *head.method_mut() = request.method().clone();
    *head.uri_mut() = request.uri().clone();
    *head.version_mut() = request.version();
    *head.headers_mut() = request.headers().clone();
    if let Some(protocol) = request.extensions().get::<Protocol>() {
        head.extensions_mut().insert(protocol.clone());
    }
    head
}

/// Method, host and path, if every parser reads the same ones.
fn read<B>(request: &Request<B>) -> Result<RequestTarget<'_>, AmbiguousRequest> {
    let (uri, headers) = (request.uri(), request.headers());
    let host = request_host(uri, headers)?.unwrap_or_default();
    let (connects, over_http2) = (request.method() == Method::CONNECT, is_websocket_over_http2(request));
    // policies know a WebSocket by GET, in HTTP/2 too
    let method = if over_http2 { "GET" } else { request.method().as_str() };
    let whole = uri.path_and_query().map(PathAndQuery::as_str).unwrap_or_default();
    if connects && (!over_http2 || is_grpc(request))
        || is_misleading(method, headers)
        || overrides_path(whole, headers, &PATH_OVERRIDES)
    {
        return Err(AmbiguousRequest);
    }
    // HTTP/2 sends the parts of a URI one by one; in HTTP/1.1 a URI with a host is a request to a proxy
    let path = if request.version() < Version::HTTP_2 && uri.authority().is_some() {
        Cow::Owned(uri.to_string())
    } else {
        // the query too, which can name another method
        Cow::Borrowed(whole)
    };
    Ok(RequestTarget { method, host, path })
}

/// The response to a denied request; for gRPC a status with the same text.
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
