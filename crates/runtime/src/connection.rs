//! Serves HTTP/1.1 and HTTP/2 on one connection, with limits on time, headers and concurrent requests.

use axum::Router;
use axum::body::Body;
use axum::response::IntoResponse;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::StatusCode;
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use std::convert::Infallible;
use std::error::Error;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::mem;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

/// Limit for all headers of a request, in bytes: enough for a token, a forwarded certificate and cookies.
const MAX_HEADERS: usize = 64 * 1024;
/// Interval between HTTP/2 pings that check that the client is still there.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);

/// An HTTP request.
pub type HttpRequest = http::Request<Body>;
/// An HTTP response.
pub type HttpResponse = http::Response<Body>;

/// Handles HTTP requests.
pub trait HttpService: Clone + Send + Sync + 'static {
    /// Handles one request. If this panics, the client receives status 500.
    fn handle(self, request: HttpRequest) -> impl Future<Output = HttpResponse> + Send;

    /// Whether clients may open WebSockets over HTTP/2 (RFC 8441): `CONNECT` with a `:protocol`.
    fn websockets_over_http2(&self) -> bool {
        false
    }
}

impl HttpService for Router {
    async fn handle(self, request: HttpRequest) -> HttpResponse {
        self.oneshot(request).await.unwrap_or_else(|never| match never {})
    }
}

/// Why a connection ended early.
#[derive(Debug, Error)]
pub enum ConnectionError {
    /// The socket can't be used.
    #[error("the socket can't be used: {0}")]
    Socket(#[source] io::Error),
    /// The TLS handshake failed.
    #[error("the TLS handshake failed: {0}")]
    Handshake(#[source] io::Error),
    /// The client did not complete the TLS handshake in time.
    #[error("the client did not complete the TLS handshake in time")]
    HandshakeTimeout,
    /// The client sent no request in time.
    #[error("the client sent no request in time")]
    NoRequest,
    /// The client violated the protocol, or went away.
    #[error("{0}")]
    Http(#[source] Box<dyn Error + Send + Sync>),
}

/// A stream that makes the HTTP/2 library coalesce small messages into one write.
///
/// The library asks once, before the first write, whether the stream supports vectored writes. If it does, the library
/// chains each message over 256 bytes instead of copying it, at the price of one system call each; if not, the limit
/// is 1 kB. Answering "no" until the first write lets all responses to the requests of one packet leave in one write,
/// which measurably saves CPU time. Longer messages still use vectored writes.
struct CoalescingStream<S> {
    stream: S,
    written: bool,
}

impl<S: AsyncRead + Unpin> AsyncRead for CoalescingStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for CoalescingStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.written = true;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.written = true;
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.written && self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Limit for requests that one turn of a connection handles inline, so that other connections get their turn.
const MAX_INLINE_REQUESTS: usize = 64;

/// Runs HTTP/2 requests in the turn of their connection.
///
/// Most requests complete without waiting. Polling them inline, once the connection has read everything available,
/// saves a task and a wake-up per request, which measurably saves CPU time. Only a request that has to wait becomes a
/// task.
#[derive(Clone, Default)]
struct InlineExecutor(Arc<Mutex<Vec<BoxFuture<'static, ()>>>>);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for InlineExecutor {
    fn execute(&self, task: F) {
        // as in a task of its own, a panic must not end the connection
        let task = AssertUnwindSafe(task).catch_unwind().map(drop).boxed();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(task);
    }
}

impl InlineExecutor {
    /// Polls each new task once and spawns those that have to wait. A spawned task is polled by its own runtime, so it
    /// does not matter that its first poll registered the waker of the connection.
    fn poll_tasks(&self, cx: &mut Context<'_>) {
        let tasks = mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        for (number, mut task) in tasks.into_iter().enumerate() {
            if number >= MAX_INLINE_REQUESTS || task.as_mut().poll(cx).is_pending() {
                tokio::spawn(task);
            }
        }
    }
}

/// Serves connections within limits.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionServer {
    /// Time for a client to send its first request, to send all headers of a request, and to answer a ping.
    pub client_timeout: Duration,
    /// Limit for concurrent requests on one HTTP/2 connection.
    pub max_streams: u32,
    /// Whether clients may open WebSockets over HTTP/2 (RFC 8441).
    pub websockets_over_http2: bool,
}

impl ConnectionServer {
    fn builder(self, executor: InlineExecutor) -> Builder<InlineExecutor> {
        let mut builder = Builder::new(executor);
        let mut http1 = builder.http1();
        http1.timer(TokioTimer::new()).header_read_timeout(self.client_timeout).max_buf_size(MAX_HEADERS).writev(true);
        let mut http2 = builder.http2();
        http2
            .timer(TokioTimer::new())
            .max_header_list_size(u32::try_from(MAX_HEADERS).unwrap_or(u32::MAX))
            .max_concurrent_streams(self.max_streams)
            .keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(self.client_timeout);
        if self.websockets_over_http2 {
            http2.enable_connect_protocol();
        }
        builder
    }

    /// Serves a connection until the client ends it. After `shutdown`, requests already received are still answered.
    ///
    /// # Errors
    /// When the client sends no request in time or violates the protocol.
    pub async fn serve<S, H>(self, stream: S, service: H, shutdown: CancellationToken) -> Result<(), ConnectionError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
        H: HttpService,
    {
        let executor = InlineExecutor::default();
        let requested = Arc::new(AtomicBool::new(false));
        let first_request = Arc::clone(&requested);
        let service = service_fn(move |request: hyper::Request<Incoming>| {
            first_request.store(true, Ordering::Relaxed);
            let response = AssertUnwindSafe(service.clone().handle(request.map(Body::new))).catch_unwind();
            async {
                let response = response.await;
                Ok::<_, Infallible>(response.unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response()))
            }
        });
        let stream = TokioIo::new(CoalescingStream { stream, written: false });
        let builder = self.builder(executor.clone());
        let mut connection = pin!(builder.serve_connection_with_upgrades(stream, service).into_owned());
        let poll_connection = |connection: Pin<&mut _>, cx: &mut Context<'_>| {
            let polled: Poll<Result<(), _>> = Future::poll(connection, cx);
            executor.poll_tasks(cx);
            polled.map_err(ConnectionError::Http)
        };
        // the library limits neither the wait for a connection's first bytes nor, in HTTP/2, for its first request
        tokio::select! {
            served = poll_fn(|cx| poll_connection(connection.as_mut(), cx)) => return served,
            () = sleep(self.client_timeout) => {
                if !requested.load(Ordering::Relaxed) {
                    return Err(ConnectionError::NoRequest);
                }
            }
            () = shutdown.cancelled() => {}
        }
        tokio::select! {
            served = poll_fn(|cx| poll_connection(connection.as_mut(), cx)) => return served,
            () = shutdown.cancelled() => connection.as_mut().graceful_shutdown(),
        }
        poll_fn(|cx| poll_connection(connection.as_mut(), cx)).await
    }
}
