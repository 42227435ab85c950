//! HTTP/1.1 and HTTP/2 on one connection, everything bounded.

use axum::body::Body;
use futures::FutureExt;
use futures::future::BoxFuture;
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use std::convert::Infallible;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::mem;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// All headers of a request, in bytes: a token, a forwarded certificate and cookies fit.
const MAX_HEADERS: usize = 64 * 1024;
/// How often it is asked whether the client of an HTTP/2 connection is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// A request.
pub type Request = http::Request<Body>;
/// An answer.
pub type Response = http::Response<Body>;

/// What answers requests. One type for all services, and [`Io`] for all connections, or there would be as many copies of
/// the whole of HTTP in the program as there are of both: most of a megabyte.
pub type Answering = Arc<dyn Fn(Request) -> BoxFuture<'static, Response> + Send + Sync>;

/// A connection, plain or TLS.
pub type Io = Box<dyn Bytes>;
/// A stream of bytes in both directions.
pub trait Bytes: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Bytes for T {}

/// A connection that has what is small written together.
///
/// HTTP/2 asks it once, before anything is written, whether it takes several pieces at a time. Told so, the library copies
/// no message of more than 256 bytes, and pays with a system call for each; otherwise it is 1 kB, and what a gateway asked in
/// one packet is answered in one. What is longer is then written in pieces all the same.
struct Gathering {
    stream: Io,
    written: bool,
}

impl AsyncRead for Gathering {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Gathering {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.written = true;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.written = true;
        Pin::new(&mut self.stream).poll_write_vectored(cx, pieces)
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

/// Why a connection ended that did not come to a good end.
pub type Failed = Box<dyn std::error::Error + Send + Sync>;

/// Requests that one turn of a connection answers by itself, so that others get their turn too.
const AT_ONCE: usize = 64;

/// What is to be done beside a connection: the answers to requests of HTTP/2.
///
/// Most are made without waiting for anything. These are made in the connection's own turn, once it has read all that there
/// is; only what has to wait becomes a task of its own.
#[derive(Clone, Default)]
struct Beside(Arc<Mutex<Vec<BoxFuture<'static, ()>>>>);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Beside {
    fn execute(&self, task: F) {
        // what panics does not take the connection with it, as it would not in a task of its own
        let task = AssertUnwindSafe(task).catch_unwind().map(drop).boxed();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(task);
    }
}

impl Beside {
    /// Begins all that came in. Whatever wakes the connection meanwhile makes it look again, as a task does when it runs.
    fn begin(&self, cx: &mut Context<'_>) {
        let tasks = mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        for (number, mut task) in tasks.into_iter().enumerate() {
            if number >= AT_ONCE || task.as_mut().poll(cx).is_pending() {
                tokio::spawn(task);
            }
        }
    }
}

/// Serves connections.
#[derive(Debug, Clone, Copy)]
pub struct Http {
    /// Time for a client to send its first request, and to show that it is still there.
    pub patience: Duration,
    /// Requests at once on one HTTP/2 connection.
    pub max_streams: u32,
    /// Whether WebSockets are taken over HTTP/2 too (RFC 8441).
    pub websockets: bool,
}

impl Http {
    fn builder(self, beside: Beside) -> Builder<Beside> {
        let mut builder = Builder::new(beside);
        let mut http1 = builder.http1();
        http1.timer(TokioTimer::new()).header_read_timeout(self.patience).max_buf_size(MAX_HEADERS).writev(true);
        let mut http2 = builder.http2();
        http2
            .timer(TokioTimer::new())
            .max_header_list_size(u32::try_from(MAX_HEADERS).unwrap_or(u32::MAX))
            .max_concurrent_streams(self.max_streams)
            .keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(self.patience);
        if self.websockets {
            http2.enable_connect_protocol();
        }
        builder
    }

    /// Answers what comes in by a connection until it ends or, once `shutdown`, what has come in is answered.
    #[must_use]
    pub fn serve(
        self,
        stream: Io,
        answering: Answering,
        shutdown: CancellationToken,
    ) -> BoxFuture<'static, Result<(), Failed>> {
        let (patience, beside) = (self.patience, Beside::default());
        let asked = Arc::new(AtomicBool::new(false));
        let asks = Arc::clone(&asked);
        let service = service_fn(move |request: hyper::Request<Incoming>| {
            asks.store(true, Ordering::Relaxed);
            let answer = answering(request.map(Body::new));
            async { Ok::<_, Infallible>(answer.await) }
        });
        let stream = TokioIo::new(Gathering { stream, written: false });
        let connection = self.builder(beside.clone()).serve_connection_with_upgrades(stream, service).into_owned();
        Box::pin(async move {
            let mut connection = pin!(connection);
            let turn = |connection: Pin<&mut _>, cx: &mut Context<'_>| {
                let served = Future::poll(connection, cx);
                beside.begin(cx);
                served
            };
            // the library waits for the first bytes of a connection without end, and for those of a request in HTTP/2
            tokio::select! {
                served = poll_fn(|cx| turn(connection.as_mut(), cx)) => return served,
                () = sleep(patience) => {
                    if !asked.load(Ordering::Relaxed) {
                        return Err("no request in time".into());
                    }
                }
                () = shutdown.cancelled() => {}
            }
            tokio::select! {
                served = poll_fn(|cx| turn(connection.as_mut(), cx)) => return served,
                () = shutdown.cancelled() => connection.as_mut().graceful_shutdown(),
            }
            poll_fn(|cx| turn(connection.as_mut(), cx)).await
        })
    }
}
