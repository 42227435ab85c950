//! The client of the application behind the gate: plain HTTP on this host.

use axum::body::Body;
use durward_protocol::upstream::Upstream;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Request, Uri, Version};
use hyper::body::Incoming;
use hyper_util::client::legacy::{Client, Error};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tower::Service;

/// Time for the application to accept a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// Most idle connections.
const IDLE_CONNECTIONS: usize = 64;
/// Lifetime of an idle connection. Common servers keep theirs longer, so a request seldom meets a closed one.
const IDLE: Duration = Duration::from_secs(4);

/// Sends requests to the application.
#[derive(Clone)]
pub(super) struct Application {
    http1: Client<LoopbackConnector, Body>,
    http2: Client<LoopbackConnector, Body>,
    address: Authority,
    http2_only_application: bool,
}

impl Application {
    pub(super) fn new(upstream: &Upstream) -> Self {
        let connector = LoopbackConnector(upstream.address);
        let client = |http2: bool| {
            let mut builder = Client::builder(TokioExecutor::new());
            builder.pool_timer(TokioTimer::new()).timer(TokioTimer::new()).http2_only(http2);
            builder.pool_max_idle_per_host(IDLE_CONNECTIONS).pool_idle_timeout(IDLE);
            builder.build(connector.clone())
        };
        // an address is an authority
        let address =
            Authority::try_from(upstream.address.to_string()).unwrap_or_else(|_| Authority::from_static("localhost"));
        Self { http1: client(false), http2: client(true), address, http2_only_application: upstream.http2 }
    }

    /// Whether the application can accept WebSockets; one that speaks only HTTP/2 gets none.
    pub(super) fn accepts_websockets(&self) -> bool {
        !self.http2_only_application
    }

    /// Whether a request is sent by HTTP/2.
    pub(super) fn uses_http2(&self, grpc: bool) -> bool {
        grpc || self.http2_only_application
    }

    /// Sends a request that was allowed. `host` is the name under which the service was found.
    pub(super) fn send(
        &self,
        mut request: Request<Body>,
        host: Option<Authority>,
        path: Option<PathAndQuery>,
        http2: bool,
    ) -> impl Future<Output = Result<http::Response<Incoming>, Error>> + use<> {
        let mut uri = http::uri::Parts::default();
        uri.scheme = Some(Scheme::HTTP);
        // in HTTP/2 the application sees it as its host, in HTTP/1.1 it only names the connection pool
        uri.authority = host.filter(|_| http2).or_else(|| Some(self.address.clone()));
        uri.path_and_query = path;
        *request.uri_mut() = Uri::from_parts(uri).unwrap_or_default();
        *request.version_mut() = if http2 { Version::HTTP_2 } else { Version::HTTP_11 };
        if http2 { self.http2.request(request) } else { self.http1.request(request) }
    }
}

/// Connects to one address, whatever the URI says.
#[derive(Clone)]
struct LoopbackConnector(SocketAddr);

impl Service<Uri> for LoopbackConnector {
    type Response = TokioIo<TcpStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TokioIo<TcpStream>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let address = self.0;
        Box::pin(async move {
            let stream = timeout(CONNECT, TcpStream::connect(address)).await??;
            stream.set_nodelay(true)?;
            Ok(TokioIo::new(stream))
        })
    }
}
