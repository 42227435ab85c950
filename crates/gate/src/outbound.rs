//! From the application to other services: plain HTTP in, the pod's certificate and TLS out.

use crate::exchange::Exchange;
use crate::forwarding::{is_grpc, is_websocket, join_cookies, pass, strip_foreign, strip_hop_by_hop};
use crate::proxy_error::ProxyError;
use crate::server_verifier::ServerVerifier;
use crate::settings::GateLimits;
use crate::tunnel;
use crate::tunnel::Tunnels;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use durward_doors::headers::request_host;
use durward_runtime::connection::{HttpService, RequestBodies};
use durward_runtime::tls::{ReloadableCertificate, TlsError};
use http::header::{HOST, HeaderValue, TE};
use http::uri::{Authority, Parts, Scheme};
use http::{Method, Uri, Version};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// Time for a service to accept a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// Most idle connections to one service.
const IDLE_CONNECTIONS: usize = 64;
/// Lifetime of an idle connection.
const IDLE: Duration = Duration::from_secs(60);
/// Port of a URL without one; the service there must speak TLS.
const PORT: u16 = 80;

type HttpsClient = Client<HttpsConnector<HttpConnector>, Body>;

/// The side for the application.
#[derive(Clone)]
pub(super) struct Outbound {
    http1: HttpsClient,
    http2: HttpsClient,
    limits: GateLimits,
    slots: Arc<Semaphore>,
    tunnels: Tunnels,
}

impl HttpService for Outbound {
    async fn handle(self, request: Request) -> Response {
        let grpc = is_grpc(&request);
        self.forward(request, grpc).await.unwrap_or_else(|error| error.into_response(grpc))
    }

    fn request_bodies(&self) -> RequestBodies {
        RequestBodies::Streamed
    }
}

impl Outbound {
    pub(super) fn new(
        peers: &Arc<ServerVerifier>,
        certificate: &Arc<ReloadableCertificate>,
        limits: GateLimits,
        tunnels: Tunnels,
    ) -> Result<Self, TlsError> {
        let client = |http2: bool| -> Result<HttpsClient, TlsError> {
            let tls = HttpsConnectorBuilder::new().with_tls_config(peers.client(Arc::clone(certificate))?).https_only();
            let mut tcp = HttpConnector::new();
            tcp.enforce_http(false);
            tcp.set_nodelay(true);
            tcp.set_connect_timeout(Some(CONNECT));
            let connector =
                if http2 { tls.enable_http2().wrap_connector(tcp) } else { tls.enable_http1().wrap_connector(tcp) };
            let mut builder = Client::builder(TokioExecutor::new());
            builder.pool_timer(TokioTimer::new()).timer(TokioTimer::new()).http2_only(http2);
            builder.pool_max_idle_per_host(IDLE_CONNECTIONS).pool_idle_timeout(IDLE);
            Ok(builder.build(connector))
        };
        let slots = Arc::new(Semaphore::new(limits.requests));
        Ok(Self { http1: client(false)?, http2: client(true)?, limits, slots, tunnels })
    }

    async fn forward(&self, mut request: Request, grpc: bool) -> Result<Response, ProxyError> {
        let permit = Arc::clone(&self.slots).try_acquire_owned().map_err(|_| ProxyError::TooMany)?;
        let destination = destination(&request)?;
        // the same version of HTTP on both sides
        let http2 = request.version() == Version::HTTP_2;
        let websocket = is_websocket(&request);
        let caller = websocket.then(|| tunnel::WebSocketCaller::of(&mut request));
        let (mut parts, body) = request.into_parts();
        parts.extensions.clear();
        parts.uri = destination;
        parts.version = if http2 { Version::HTTP_2 } else { Version::HTTP_11 };
        let headers = &mut parts.headers;
        strip_hop_by_hop(headers);
        strip_foreign(headers);
        // the client makes it from the URI, for either version
        headers.remove(HOST);
        if grpc {
            headers.insert(TE, HeaderValue::from_static("trailers"));
        }
        if !http2 {
            join_cookies(headers);
        }
        if websocket {
            tunnel::request_upgrade(headers);
        }
        let exchange = Exchange::new(self.limits, permit);
        let client = if http2 { &self.http2 } else { &self.http1 };
        let response = exchange.send(pass(body), |body| client.request(Request::from_parts(parts, body))).await?;
        let response = response.map_err(|error| {
            tracing::warn!(error = %innermost(&error), "the service can't be reached; answering 502");
            ProxyError::Unreachable
        })?;
        self.tunnels.return_response(response, caller, exchange)
    }
}

/// The URL of the service: from the `Host` header, or from the URI of a request to a proxy.
fn destination(request: &Request) -> Result<Uri, ProxyError> {
    let uri = request.uri();
    let plain = uri.scheme().is_none_or(|scheme| *scheme == Scheme::HTTP);
    if request.method() == Method::CONNECT || !plain {
        return Err(ProxyError::Unreadable);
    }
    let host = request_host(uri, request.headers()).ok().flatten().ok_or(ProxyError::Unreadable)?;
    let host: Authority = host.parse().map_err(|_| ProxyError::Unreadable)?;
    // no user in front of the host, and no address: a certificate can't prove either
    let named = durward_core::host::Host::of_authority(host.as_str()).is_ok();
    if !named {
        return Err(ProxyError::Unreadable);
    }
    let mut parts = Parts::default();
    parts.scheme = Some(Scheme::HTTPS);
    let port = host.port_u16().unwrap_or(PORT);
    parts.authority = Some(format!("{}:{port}", host.host()).parse().map_err(|_| ProxyError::Unreadable)?);
    parts.path_and_query = uri.path_and_query().cloned();
    Uri::from_parts(parts).map_err(|_| ProxyError::Unreadable)
}

fn innermost(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), innermost)
}
