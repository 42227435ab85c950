//! Requests on one connection of HTTP/2.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says what it expects")]

use axum::body::Body;
use durward_runtime::connection::{Answering, Http, Request, Response};
use futures::FutureExt;
use futures::future::{join_all, pending};
use http_body_util::{BodyExt, StreamBody};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex};
use tokio_util::sync::CancellationToken;

/// A stream that takes several pieces at a time, as a socket does, and counts how often it is given any.
struct Counting {
    stream: DuplexStream,
    writes: Arc<AtomicUsize>,
}

impl AsyncRead for Counting {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Counting {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        Pin::new(&mut self.stream).poll_write_vectored(cx, pieces)
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

/// Serves one connection; its client, and how often the server wrote.
async fn connected(answering: Answering) -> (SendRequest<Body>, Arc<AtomicUsize>) {
    let (here, there) = duplex(1 << 20);
    let writes = Arc::new(AtomicUsize::new(0));
    let stream = Counting { stream: there, writes: Arc::clone(&writes) };
    let http = Http { patience: Duration::from_secs(10), max_streams: 1024, websockets: false };
    tokio::spawn(http.serve(Box::new(stream), answering, CancellationToken::new()));
    let (client, connection) = handshake(TokioExecutor::new(), TokioIo::new(here)).await.unwrap();
    tokio::spawn(connection);
    (client, writes)
}

async fn ask(client: &SendRequest<Body>, path: &str) -> Option<usize> {
    let request = http::Request::get(format!("http://x{path}")).body(Body::empty()).unwrap();
    let answer = client.clone().send_request(request).await.ok()?;
    Some(answer.into_body().collect().await.ok()?.to_bytes().len())
}

/// As long as what Envoy is told.
const LENGTH: usize = 400;

/// Answers, but for who asks for one that panics, or for none.
fn answering() -> Answering {
    Arc::new(|request: Request| {
        async move {
            match request.uri().path() {
                "/never" => pending().await,
                "/panic" => Response::new(Body::new(StreamBody::new(futures::stream::poll_fn(
                    |_| -> Poll<Option<io::Result<http_body::Frame<bytes::Bytes>>>> { panic!("on purpose") },
                )))),
                _ => Response::new(Body::from("x".repeat(LENGTH))),
            }
        }
        .boxed()
    })
}

#[tokio::test]
async fn what_was_asked_at_once_is_answered_at_once() {
    let (client, writes) = connected(answering()).await;
    assert_eq!(ask(&client, "/").await, Some(LENGTH));
    let before = writes.load(Ordering::Relaxed);
    let answers = join_all((0..20).map(|_| ask(&client, "/"))).await;
    assert!(answers.into_iter().all(|answer| answer == Some(LENGTH)));
    let writes = writes.load(Ordering::Relaxed) - before;
    assert!(writes < 10, "{writes} for 20 answers");
}

#[tokio::test]
async fn more_than_one_turn_answers_are_answered() {
    let (client, _) = connected(answering()).await;
    let answers = join_all((0..500).map(|_| ask(&client, "/"))).await;
    assert!(answers.into_iter().all(|answer| answer == Some(LENGTH)));
}

#[tokio::test]
async fn who_waits_and_what_panics_hold_nobody_up() {
    let (client, _) = connected(answering()).await;
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { ask(&client, "/never").await }
    });
    for _ in 0..3 {
        let (panicked, answered) = tokio::join!(ask(&client, "/panic"), ask(&client, "/"));
        assert_eq!((panicked, answered), (None, Some(LENGTH)));
    }
    assert!(!waiting.is_finished());
}
