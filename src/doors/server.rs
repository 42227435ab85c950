//! The one server behind every listener: HTTP/1.1 and HTTP/2, plain or TLS, everything bounded.

use crate::doors::trust::Peer;
use crate::lanes::Lanes;
use axum::Router;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use durward_pki::svid;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::StatusCode;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use rustls::ServerConfig;
use rustls_pki_types::CertificateDer;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

/// Connections at once; a gateway holds a handful, a hundred gateways some hundreds.
const MAX_CONNECTIONS: usize = 4096;
/// All headers of a request, in bytes: a token, a forwarded certificate and cookies fit.
const MAX_HEADERS: usize = 64 * 1024;
/// Requests at once on one HTTP/2 connection.
const MAX_STREAMS: u32 = 1024;
/// Time for a client to send its headers, or to shake hands.
const PATIENCE: Duration = Duration::from_secs(10);
/// Time for open requests to end once the server is to stop.
const DRAIN: Duration = Duration::from_secs(1);
/// Pause after a failed `accept`, which means that the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A socket, and the threads that serve what comes in by it.
#[derive(Debug)]
pub struct Listening {
    /// The socket.
    pub socket: TcpListener,
    /// The threads.
    pub lanes: Arc<Lanes>,
}

/// What answers requests; each has the [`Peer`] among its extensions.
pub trait Answers: Clone + Send + Sync + 'static {
    /// Answers one.
    fn answer(self, request: Request) -> impl Future<Output = Response> + Send;

    /// Whether it takes WebSockets over HTTP/2 (RFC 8441): `CONNECT` with a `:protocol`.
    fn websockets_over_http2(&self) -> bool {
        false
    }
}

impl Answers for Router {
    async fn answer(self, request: Request) -> Response {
        self.oneshot(request).await.unwrap_or_else(|never| match never {})
    }
}

/// The answer to a request. One type for all services, and [`Io`] for all connections, or there would be as many copies of
/// the whole of HTTP in the program as there are of both: most of a megabyte.
type Answering = Arc<dyn Fn(Request) -> BoxFuture<'static, Response> + Send + Sync>;

/// A connection, plain or TLS.
type Io = Box<dyn Bytes>;
trait Bytes: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Bytes for T {}

/// Answers, or tells that there is no answer because something panicked: the connection and whoever else is on it live on.
fn answering(service: impl Answers) -> Answering {
    Arc::new(move |request| {
        let answer = AssertUnwindSafe(service.clone().answer(request)).catch_unwind();
        answer.map(|it| it.unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())).boxed()
    })
}

/// Answers what comes in by a socket until `shutdown`, then lets open requests end.
///
/// # Errors
/// When the listener has no address any more.
pub async fn serve(
    listening: Listening,
    tls: Option<Arc<ServerConfig>>,
    service: impl Answers,
    shutdown: CancellationToken,
) -> io::Result<()> {
    serve_service(listening, tls, service, DRAIN, shutdown).await
}

/// As [`serve`], with `drain` for open requests to end.
pub(crate) async fn serve_service(
    Listening { socket, lanes }: Listening,
    tls: Option<Arc<ServerConfig>>,
    service: impl Answers,
    drain: Duration,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let (tasks, slots) = (TaskTracker::new(), Arc::new(Semaphore::new(MAX_CONNECTIONS)));
    let builder = builder(service.websockets_over_http2());
    let connection = Connection { tls: tls.map(TlsAcceptor::from), answering: answering(service), builder };
    let cut = CancellationToken::new();
    loop {
        // no slot, no accept: further clients wait in the kernel's queue
        let slot = tokio::select! {
            slot = Arc::clone(&slots).acquire_owned() => slot.map_err(io::Error::other)?,
            () = shutdown.cancelled() => break,
        };
        let (stream, address) = tokio::select! {
            accepted = socket.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "can't accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
            () = shutdown.cancelled() => break,
        };
        // from here on the lane hears of the socket, and nobody else
        let Ok(stream) = stream.into_std() else { continue };
        let (connection, shutdown, cut) = (connection.clone(), shutdown.clone(), cut.clone());
        lanes.run(tasks.track_future(async move {
            let served = tokio::select! {
                served = connection.serve(stream, address, &shutdown) => served,
                () = cut.cancelled() => return,
            };
            if let Err(error) = served {
                tracing::debug!(%address, error, "connection ended");
            }
            drop(slot);
        }));
    }
    drop(socket);
    tasks.close();
    if timeout(drain, tasks.wait()).await.is_err() {
        tracing::warn!("requests were still open when the time to drain was over");
    }
    // no task outlives the server
    cut.cancel();
    tasks.wait().await;
    Ok(())
}

fn builder(websockets_over_http2: bool) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(PATIENCE).max_buf_size(MAX_HEADERS);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(u32::try_from(MAX_HEADERS).unwrap_or(u32::MAX))
        .max_concurrent_streams(MAX_STREAMS)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(PATIENCE);
    if websockets_over_http2 {
        builder.http2().enable_connect_protocol();
    }
    builder
}

#[derive(Clone)]
struct Connection {
    tls: Option<TlsAcceptor>,
    answering: Answering,
    builder: Builder<TokioExecutor>,
}

type Failed = Box<dyn std::error::Error + Send + Sync>;

impl Connection {
    async fn serve(
        self,
        stream: std::net::TcpStream,
        address: SocketAddr,
        shutdown: &CancellationToken,
    ) -> Result<(), Failed> {
        let stream = TcpStream::from_std(stream)?;
        stream.set_nodelay(true)?;
        let Some(acceptor) = self.tls.clone() else {
            return self
                .http(Box::new(stream), Peer { address, secure: false, certificate: None, id: None }, shutdown)
                .await;
        };
        let handshake = timeout(PATIENCE, acceptor.accept(stream));
        let stream = tokio::select! {
            stream = handshake => stream??,
            () = shutdown.cancelled() => return Ok(()),
        };
        let chain = stream
            .get_ref()
            .1
            .peer_certificates()
            .map(|chain| chain.iter().cloned().map(CertificateDer::into_owned).collect::<Arc<[_]>>());
        let id = chain.as_ref().and_then(|chain| svid::read(chain.first()?).ok()?.id.parse().ok());
        self.http(Box::new(stream), Peer { address, secure: true, certificate: chain, id }, shutdown).await
    }

    async fn http(self, stream: Io, peer: Peer, shutdown: &CancellationToken) -> Result<(), Failed> {
        let asked = Arc::new(AtomicBool::new(false));
        let asks = Arc::clone(&asked);
        let service = service_fn(move |mut request: hyper::Request<Incoming>| {
            asks.store(true, Ordering::Relaxed);
            request.extensions_mut().insert(peer.clone());
            let answer = (self.answering)(request.map(axum::body::Body::new));
            async { Ok::<_, Infallible>(answer.await) }
        });
        let connection = self.builder.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned();
        let mut connection = pin!(connection);
        // the library waits for the first bytes of a connection without end, and for those of a request in HTTP/2
        tokio::select! {
            served = &mut connection => return served,
            () = sleep(PATIENCE) => {
                if !asked.load(Ordering::Relaxed) {
                    return Err("no request in time".into());
                }
            }
            () = shutdown.cancelled() => {}
        }
        tokio::select! {
            served = &mut connection => return served,
            () = shutdown.cancelled() => connection.as_mut().graceful_shutdown(),
        }
        connection.await
    }
}
