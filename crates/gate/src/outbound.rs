//! From the application to other services: plain HTTP in, the pod's certificate and TLS out.

use crate::Limits;
use crate::passing::{is_grpc, is_websocket, join_cookies, pass, strip_foreign, strip_hop_by_hop};
use crate::peers::Peers;
use crate::trouble::Trouble;
use crate::tunnel;
use crate::tunnel::Tunnels;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use durward_doors::headers::own_host;
use durward_runtime::listener::Answers;
use durward_runtime::tls::{ServerCertificate, TlsError};
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
use tokio::time::timeout;

/// Time for a service to take a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// Connections to one service that are kept open while nobody asks.
const IDLE_CONNECTIONS: usize = 64;
/// How long they are.
const IDLE: Duration = Duration::from_secs(60);
/// Port of a URL that says none; whatever stands there has to speak TLS.
const PORT: u16 = 80;

type Https = Client<HttpsConnector<HttpConnector>, Body>;

/// The side that the application reaches.
#[derive(Clone)]
pub(super) struct Outbound {
    http1: Https,
    http2: Https,
    limits: Limits,
    slots: Arc<Semaphore>,
    tunnels: Tunnels,
}

impl Answers for Outbound {
    async fn answer(self, request: Request) -> Response {
        let grpc = is_grpc(&request);
        self.passed(request, grpc).await.unwrap_or_else(|trouble| trouble.told(grpc))
    }
}

impl Outbound {
    pub(super) fn new(
        peers: &Arc<Peers>,
        certificate: &Arc<ServerCertificate>,
        limits: Limits,
        tunnels: Tunnels,
    ) -> Result<Self, TlsError> {
        let client = |http2: bool| -> Result<Https, TlsError> {
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

    async fn passed(&self, mut request: Request, grpc: bool) -> Result<Response, Trouble> {
        let permit = Arc::clone(&self.slots).try_acquire_owned().map_err(|_| Trouble::TooMany)?;
        let to = destination(&request)?;
        // each side speaks what the other does
        let http2 = request.version() == Version::HTTP_2;
        let websocket = is_websocket(&request);
        let caller = websocket.then(|| tunnel::Caller::of(&mut request));
        let (mut parts, body) = request.into_parts();
        parts.extensions.clear();
        parts.uri = to;
        parts.version = if http2 { Version::HTTP_2 } else { Version::HTTP_11 };
        let headers = &mut parts.headers;
        strip_hop_by_hop(headers);
        strip_foreign(headers);
        // made from the URI, for either version
        headers.remove(HOST);
        if grpc {
            headers.insert(TE, HeaderValue::from_static("trailers"));
        }
        if !http2 {
            join_cookies(headers);
        }
        if websocket {
            tunnel::ask(headers);
        }
        let onward = Request::from_parts(parts, pass(body, self.limits.idle, None));
        let onward = if http2 { self.http2.request(onward) } else { self.http1.request(onward) };
        let answered = timeout(self.limits.response, onward).await.map_err(|_| Trouble::Late)?;
        let answered = answered.map_err(|error| {
            tracing::warn!(error = %innermost(&error), "a service can't be reached");
            Trouble::Unreachable
        })?;
        self.tunnels.pass_back(answered, caller, self.limits.idle, permit)
    }
}

/// Where a request is to go: by its host, or as one to a proxy.
fn destination(request: &Request) -> Result<Uri, Trouble> {
    let uri = request.uri();
    let plain = uri.scheme().is_none_or(|scheme| *scheme == Scheme::HTTP);
    if request.method() == Method::CONNECT || !plain {
        return Err(Trouble::Unreadable);
    }
    let host = own_host(uri, request.headers()).ok().flatten().ok_or(Trouble::Unreadable)?;
    let host: Authority = host.parse().map_err(|_| Trouble::Unreadable)?;
    // no user in front of the host, and no address: who would it have to be?
    let named = durward_core::host::Host::of_authority(host.as_str()).is_ok();
    if !named {
        return Err(Trouble::Unreadable);
    }
    let mut parts = Parts::default();
    parts.scheme = Some(Scheme::HTTPS);
    let port = host.port_u16().unwrap_or(PORT);
    parts.authority = Some(format!("{}:{port}", host.host()).parse().map_err(|_| Trouble::Unreadable)?);
    parts.path_and_query = uri.path_and_query().cloned();
    Uri::from_parts(parts).map_err(|_| Trouble::Unreadable)
}

fn innermost(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), innermost)
}
