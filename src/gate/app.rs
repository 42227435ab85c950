//! The application behind the gate, over plain HTTP on this host.

use axum::body::Body;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Request, Uri, Version};
use hyper::body::Incoming;
use hyper_util::client::legacy::{Client, Error};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::str::FromStr;
use std::task::{Context, Poll};
use std::time::Duration;
use thiserror::Error as ThisError;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tower::Service;
use url::{Host, Url};

/// Time for the application to take a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// Connections that are kept open while nobody asks.
const IDLE_CONNECTIONS: usize = 64;
/// How long they are; shorter than common servers keep theirs, so that they are seldom closed under a request.
const IDLE: Duration = Duration::from_secs(4);

/// Where the application listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    address: SocketAddr,
    /// Whether it speaks HTTP/2 for everything, not only for gRPC.
    http2: bool,
}

/// A text names no application.
#[derive(Debug, Clone, PartialEq, Eq, ThisError)]
#[error(
    "`{0}` is no application behind this gate; write `http://127.0.0.1:PORT`, or `h2c://127.0.0.1:PORT` if it speaks HTTP/2 alone. \
     It has to be on loopback: whoever else reaches it could write identity headers of its own"
)]
pub struct UpstreamError(String);

impl FromStr for Upstream {
    type Err = UpstreamError;

    fn from_str(text: &str) -> Result<Self, UpstreamError> {
        let wrong = || UpstreamError(text.to_owned());
        let url: Url = text.parse().map_err(|_| wrong())?;
        let http2 = match url.scheme() {
            "http" => false,
            "h2c" => true,
            _ => return Err(wrong()),
        };
        // a host of a scheme that the standard does not know is a text, whatever it is
        let host = match url.host() {
            Some(Host::Domain("localhost")) => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            Some(Host::Domain(name)) => name.parse().ok(),
            Some(Host::Ipv4(address)) => Some(address.into()),
            Some(Host::Ipv6(address)) => Some(address.into()),
            None => None,
        };
        let host = host.filter(IpAddr::is_loopback).ok_or_else(wrong)?;
        let port = url.port_or_known_default().filter(|port| *port > 0).ok_or_else(wrong)?;
        let bare = matches!(url.path(), "" | "/") && url.query().is_none() && url.username().is_empty();
        if bare { Ok(Self { address: SocketAddr::new(host, port), http2 }) } else { Err(wrong()) }
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_application_is_on_this_host() {
        for (text, good) in [
            ("http://127.0.0.1:8080", true),
            ("http://localhost:8080/", true),
            ("http://[::1]:8080", true),
            ("h2c://127.0.0.1:50051", true),
            ("http://10.0.0.1:8080", false),
            ("http://orders:8080", false),
            ("https://127.0.0.1:8443", false),
            ("http://127.0.0.1:8080/base", false),
            ("127.0.0.1:8080", false),
            ("", false),
        ] {
            assert_eq!(text.parse::<Upstream>().is_ok(), good, "{text}");
        }
    }
}
