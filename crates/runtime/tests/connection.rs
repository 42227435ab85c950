//! Concurrent requests on one HTTP/2 connection.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation fails the test")]

use axum::body::Body;
use durward_runtime::connection::{ConnectionServer, HttpRequest, HttpResponse, HttpService};
use durward_runtime::limits::ServerLimits;
use futures::future::{join_all, pending};
use http_body_util::{BodyExt, StreamBody};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::io;
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex};
use tokio_util::sync::CancellationToken;

/// A stream that supports vectored writes, as a socket does, and counts the writes.
struct CountingStream {
    stream: DuplexStream,
    writes: Arc<AtomicUsize>,
}

impl AsyncRead for CountingStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for CountingStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Serves one connection. Returns its client, and the number of writes of the server.
async fn connect() -> (SendRequest<Body>, Arc<AtomicUsize>) {
    let (client, server) = duplex(1 << 20);
    let writes = Arc::new(AtomicUsize::new(0));
    let stream = CountingStream { stream: server, writes: Arc::clone(&writes) };
    let server = ConnectionServer::new(ServerLimits::default(), &TestService);
    let context = server.unshared_connection(Ipv4Addr::LOCALHOST.into(), CancellationToken::new());
    tokio::spawn(server.serve(stream, TestService, context));
    let (client, connection) = handshake(TokioExecutor::new(), TokioIo::new(client)).await.unwrap();
    tokio::spawn(connection);
    (client, writes)
}

async fn get(client: &SendRequest<Body>, path: &str) -> Option<usize> {
    let request = http::Request::get(format!("http://x{path}")).body(Body::empty()).unwrap();
    let response = client.clone().send_request(request).await.ok()?;
    Some(response.into_body().collect().await.ok()?.to_bytes().len())
}

/// Length of a typical decision for Envoy, in bytes.
const LENGTH: usize = 400;

/// Responds, except under `/panic`, where the body panics, and `/never`.
#[derive(Clone)]
struct TestService;

impl HttpService for TestService {
    async fn handle(self, request: HttpRequest) -> HttpResponse {
        match request.uri().path() {
            "/never" => pending().await,
            "/panic" => HttpResponse::new(Body::new(StreamBody::new(futures::stream::poll_fn(
                |_| -> Poll<Option<io::Result<http_body::Frame<bytes::Bytes>>>> { panic!("on purpose") },
            )))),
            _ => HttpResponse::new(Body::from("x".repeat(LENGTH))),
        }
    }
}

#[tokio::test]
async fn responses_to_concurrent_requests_share_writes() {
    let (client, writes) = connect().await;
    assert_eq!(get(&client, "/").await, Some(LENGTH));
    let before = writes.load(Ordering::Relaxed);
    let responses = join_all((0..20).map(|_| get(&client, "/"))).await;
    assert!(responses.into_iter().all(|response| response == Some(LENGTH)));
    let writes = writes.load(Ordering::Relaxed) - before;
    assert!(writes < 10, "{writes} writes for 20 responses");
}

#[tokio::test]
async fn all_requests_of_a_large_batch_are_answered() {
    let (client, _) = connect().await;
    let responses = join_all((0..500).map(|_| get(&client, "/"))).await;
    assert!(responses.into_iter().all(|response| response == Some(LENGTH)));
}

#[tokio::test]
async fn waiting_and_panicking_requests_do_not_delay_others() {
    let (client, _) = connect().await;
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { get(&client, "/never").await }
    });
    for _ in 0..3 {
        let (panicked, answered) = tokio::join!(get(&client, "/panic"), get(&client, "/"));
        assert_eq!((panicked, answered), (None, Some(LENGTH)));
    }
    assert!(!waiting.is_finished());
}
