//! The application behind the gate, over plain HTTP on this host.

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

/// Time for the application to take a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// Connections that are kept open while nobody asks.
const IDLE_CONNECTIONS: usize = 64;
/// How long they are; shorter than common servers keep theirs, so that they are seldom closed under a request.
const IDLE: Duration = Duration::from_secs(4);

/// Asks the application.
#[derive(Clone)]
pub(super) struct App {
    http1: Client<Loopback, Body>,
    http2: Client<Loopback, Body>,
    address: Authority,
    http2_alone: bool,
}

impl App {
    pub(super) fn new(upstream: &Upstream) -> Self {
        let connector = Loopback(upstream.address);
        let client = |http2: bool| {
            let mut builder = Client::builder(TokioExecutor::new());
            builder.pool_timer(TokioTimer::new()).timer(TokioTimer::new()).http2_only(http2);
            builder.pool_max_idle_per_host(IDLE_CONNECTIONS).pool_idle_timeout(IDLE);
            builder.build(connector.clone())
        };
        // an address is an authority
        let address =
            Authority::try_from(upstream.address.to_string()).unwrap_or_else(|_| Authority::from_static("localhost"));
        Self { http1: client(false), http2: client(true), address, http2_alone: upstream.http2 }
    }

    /// Whether it takes WebSockets; one that speaks HTTP/2 alone is asked for none.
    pub(super) fn takes_websockets(&self) -> bool {
        !self.http2_alone
    }

    /// Whether a request goes there by HTTP/2.
    pub(super) fn by_http2(&self, grpc: bool) -> bool {
        grpc || self.http2_alone
    }

    /// Asks what was decided. `host` is the name by which the service was found.
    pub(super) fn ask(
        &self,
        mut request: Request<Body>,
        host: Option<Authority>,
        path: Option<PathAndQuery>,
        http2: bool,
    ) -> impl Future<Output = Result<http::Response<Incoming>, Error>> + use<> {
        let mut uri = http::uri::Parts::default();
        uri.scheme = Some(Scheme::HTTP);
        // in HTTP/2 it is what the application sees as host, in HTTP/1.1 only the name of a pool
        uri.authority = host.filter(|_| http2).or_else(|| Some(self.address.clone()));
        uri.path_and_query = path;
        *request.uri_mut() = Uri::from_parts(uri).unwrap_or_default();
        *request.version_mut() = if http2 { Version::HTTP_2 } else { Version::HTTP_11 };
        if http2 { self.http2.request(request) } else { self.http1.request(request) }
    }
}

/// Connects to one address, whatever a URI says.
#[derive(Clone)]
struct Loopback(SocketAddr);

impl Service<Uri> for Loopback {
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
