//! Serves HTTP/1.1 and HTTP/2 on one connection, with limits on time, headers and concurrent requests.

use crate::bodies::{ConnectionBodies, Reservation};
use crate::connections::{Activity, OpenRequest};
use crate::limits::ServerLimits;
use crate::listener_metrics::ConnectionRefusal;
use axum::Router;
use axum::body::Body;
use axum::response::IntoResponse;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::{StatusCode, Version};
use http_body::{Body as _, Frame, SizeHint};
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
use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, sleep, timeout};
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

    /// What the service does with request bodies.
    fn request_bodies(&self) -> RequestBodies {
        RequestBodies::Collected
    }
}

/// What a service does with request bodies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestBodies {
    /// It reads them whole. They are counted, and one that can't be read is answered by its connection.
    Collected,
    /// It reads them whole and answers by itself where one can't be read.
    CollectedWithOwnErrors,
    /// It forwards them as they arrive, and limits pauses by itself. The window of the connection bounds what waits.
    Streamed,
}

impl RequestBodies {
    /// Limit for concurrent requests on one HTTP/2 connection. Proxies open further connections at the limit. The
    /// clients of a service that forwards are gateways, whose users share few connections and may hold streams open.
    const fn max_streams(self) -> u32 {
        match self {
            Self::Collected | Self::CollectedWithOwnErrors => 64,
            Self::Streamed => 256,
        }
    }

    /// Most bytes that a client may send on one HTTP/2 connection before they are read: on a stream, and in all. What
    /// is read whole needs no more than it has in transit; what is forwarded gets windows for a long way.
    const fn windows(self) -> (u32, u32) {
        match self {
            Self::Collected | Self::CollectedWithOwnErrors => (64 << 10, 256 << 10),
            Self::Streamed => (256 << 10, 1 << 20),
        }
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
    /// The client sent no further request for too long.
    #[error("the client sent no further request for too long")]
    Idle,
    /// The connection was idle and made room for another.
    #[error("the connection was idle and made room for another")]
    Displaced,
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
#[derive(Clone)]
struct InlineExecutor {
    tasks: Arc<Mutex<Vec<BoxFuture<'static, ()>>>>,
    activity: Arc<Activity>,
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for InlineExecutor {
    fn execute(&self, task: F) {
        let open = self.activity.begin_request();
        // as in a task of its own, a panic must not end the connection
        let task = async move {
            let _open = open;
            drop(AssertUnwindSafe(task).catch_unwind().await);
        };
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).push(task.boxed());
    }
}

impl InlineExecutor {
    /// Polls each new task once and spawns those that have to wait. A spawned task is polled by its own runtime, so it
    /// does not matter that its first poll registered the waker of the connection.
    fn poll_tasks(&self, cx: &mut Context<'_>) {
        let tasks = mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        for (number, mut task) in tasks.into_iter().enumerate() {
            if number >= MAX_INLINE_REQUESTS || task.as_mut().poll(cx).is_pending() {
                tokio::spawn(task);
            }
        }
    }
}

/// One connection, as its server knows it.
#[derive(Debug, Clone)]
pub struct ConnectionContext {
    /// Counts the request bodies of the client.
    bodies: Arc<ConnectionBodies>,
    activity: Arc<Activity>,
    /// Cancelled when the connection has to make room for another.
    displaced: CancellationToken,
    /// Cancelled when the process shuts down.
    shutdown: CancellationToken,
}

/// Serves connections within limits.
#[derive(Debug, Clone)]
pub struct ConnectionServer {
    limits: ServerLimits,
    request_bodies: RequestBodies,
    websockets_over_http2: bool,
}

impl ConnectionServer {
    /// A server of connections to this service.
    #[must_use]
    pub fn new(limits: ServerLimits, service: &impl HttpService) -> Self {
        let websockets_over_http2 = service.websockets_over_http2();
        Self { limits, request_bodies: service.request_bodies(), websockets_over_http2 }
    }

    /// A connection from this address that never makes room for another, until `shutdown`.
    #[must_use]
    pub fn unshared_connection(&self, source: IpAddr, shutdown: CancellationToken) -> ConnectionContext {
        self.connection(source, Arc::new(Activity::new()), CancellationToken::new(), shutdown)
    }

    /// A connection from this address.
    pub(crate) fn connection(
        &self,
        source: IpAddr,
        activity: Arc<Activity>,
        displaced: CancellationToken,
        shutdown: CancellationToken,
    ) -> ConnectionContext {
        let timeout = self.limits.settings.body_timeout;
        let bodies = Arc::new(ConnectionBodies::new(&self.limits.bodies, source, timeout));
        ConnectionContext { bodies, activity, displaced, shutdown }
    }

    fn builder(&self, executor: InlineExecutor) -> Builder<InlineExecutor> {
        let client_timeout = self.limits.settings.client_timeout;
        let (stream_window, connection_window) = self.request_bodies.windows();
        let mut builder = Builder::new(executor);
        let mut http1 = builder.http1();
        http1.timer(TokioTimer::new()).header_read_timeout(client_timeout).max_buf_size(MAX_HEADERS).writev(true);
        let mut http2 = builder.http2();
        http2
            .timer(TokioTimer::new())
            .max_header_list_size(u32::try_from(MAX_HEADERS).unwrap_or(u32::MAX))
            .max_concurrent_streams(self.request_bodies.max_streams())
            .initial_stream_window_size(stream_window)
            .initial_connection_window_size(connection_window)
            .keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(client_timeout);
        if self.websockets_over_http2 {
            http2.enable_connect_protocol();
        }
        builder
    }

    /// Serves a connection until the client ends it. After shutdown, requests already received are still answered.
    ///
    /// # Errors
    /// When the client sends no request in time or violates the protocol, or when the connection makes room for another.
    pub async fn serve<S, H>(self, stream: S, service: H, context: ConnectionContext) -> Result<(), ConnectionError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
        H: HttpService,
    {
        let ConnectionContext { bodies, activity, displaced, shutdown } = context;
        let settings = Arc::clone(&self.limits.settings);
        let executor = InlineExecutor { tasks: Arc::default(), activity: Arc::clone(&activity) };
        let requested = Arc::new(AtomicBool::new(false));
        let requests = RequestHandler {
            service,
            first_request: Arc::clone(&requested),
            activity: Arc::clone(&activity),
            bodies,
            request_bodies: self.request_bodies,
        };
        let service = service_fn(move |request: hyper::Request<Incoming>| requests.handle(request));
        let stream = TokioIo::new(CoalescingStream { stream, written: false });
        let builder = self.builder(executor.clone());
        let mut connection = pin!(builder.serve_connection_with_upgrades(stream, service).into_owned());
        let poll_connection = |connection: Pin<&mut _>, cx: &mut Context<'_>| {
            let polled: Poll<Result<(), _>> = Future::poll(connection, cx);
            executor.poll_tasks(cx);
            polled.map_err(ConnectionError::Http)
        };
        // the library limits neither the wait for a connection's first bytes nor, in HTTP/2, for a request
        let mut deadline = pin!(sleep(settings.client_timeout));
        let is_idle = loop {
            tokio::select! {
                biased;
                served = poll_fn(|cx| poll_connection(connection.as_mut(), cx)) => return served,
                () = displaced.cancelled() => return Err(ConnectionError::Displaced),
                () = shutdown.cancelled() => break false,
                () = deadline.as_mut() => {}
            }
            if !requested.load(Ordering::Relaxed) {
                self.limits.metrics.connection_refused(ConnectionRefusal::Idle);
                return Err(ConnectionError::NoRequest);
            }
            // a connection with open requests is looked at again after the whole time
            let idle_since = activity.idle_since().map(Instant::from_std);
            let next = idle_since.unwrap_or_else(Instant::now) + settings.connection_idle_timeout;
            if next <= Instant::now() {
                self.limits.metrics.connection_refused(ConnectionRefusal::Idle);
                break true;
            }
            deadline.as_mut().reset(next);
        };
        connection.as_mut().graceful_shutdown();
        let end = poll_fn(|cx| poll_connection(connection.as_mut(), cx));
        if !is_idle {
            return end.await;
        }
        // the client learns that it has to connect again; one that does not close the connection is not waited for
        match timeout(settings.client_timeout, end).await {
            Ok(served) => served,
            Err(_) => Err(ConnectionError::Idle),
        }
    }
}

/// Handles the requests of one connection.
struct RequestHandler<H> {
    service: H,
    first_request: Arc<AtomicBool>,
    activity: Arc<Activity>,
    bodies: Arc<ConnectionBodies>,
    request_bodies: RequestBodies,
}

impl<H: HttpService> RequestHandler<H> {
    fn handle(
        &self,
        request: hyper::Request<Incoming>,
    ) -> impl Future<Output = Result<HttpResponse, Infallible>> + Send + use<H> {
        self.first_request.store(true, Ordering::Relaxed);
        // requests of HTTP/2 are tasks, which the executor counts
        let open = (request.version() < Version::HTTP_2).then(|| self.activity.begin_request());
        let (request, reservation) = self.count_body(request);
        let handled = AssertUnwindSafe(self.service.clone().handle(request)).catch_unwind();
        let own_errors = self.request_bodies == RequestBodies::CollectedWithOwnErrors;
        async move {
            let response = handled.await;
            let response = response.unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response());
            let refusal = reservation.filter(|_| !own_errors).and_then(|body| body.refusal_response());
            Ok(hold_open(refusal.unwrap_or(response), open))
        }
    }

    /// Counts the body of a request, if it has one and if the service reads it whole.
    fn count_body(&self, request: hyper::Request<Incoming>) -> (HttpRequest, Option<Arc<Reservation>>) {
        if self.request_bodies == RequestBodies::Streamed || request.body().is_end_stream() {
            return (request.map(Body::new), None);
        }
        let (head, body) = request.into_parts();
        let body = self.bodies.count(body);
        let reservation = Arc::clone(&body.reservation);
        (HttpRequest::from_parts(head, Body::new(body)), Some(reservation))
    }
}

/// A response whose request stays open as long as the service produces its body. A body that exists already does not
/// count: a client that does not read it leaves the connection idle.
fn hold_open(response: HttpResponse, open: Option<OpenRequest>) -> HttpResponse {
    match open {
        Some(open) if response.body().size_hint().exact().is_none() => {
            response.map(|body| Body::new(HeldBody { body, _open: open }))
        }
        _ => response,
    }
}

/// A response body that keeps its request open.
struct HeldBody {
    body: Body,
    _open: OpenRequest,
}

impl http_body::Body for HeldBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
