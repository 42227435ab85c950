//! The one server behind every listener: HTTP/1.1 and HTTP/2, plain or TLS, everything bounded.

use crate::connection::{Answering, Failed, Http, Io};
use crate::core_runtimes::Lanes;
use crate::trust::Peer;
use axum::Router;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use durward_pki::svid;
use futures::FutureExt;
use http::StatusCode;
use rustls::ServerConfig;
use rustls_pki_types::CertificateDer;
use std::io;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

/// Connections at once; a gateway holds a handful, a hundred gateways some hundreds.
const MAX_CONNECTIONS: usize = 4096;
/// Requests at once on one HTTP/2 connection.
const MAX_STREAMS: u32 = 1024;
/// Time for a client to send its headers, or to shake hands.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// Time for open requests to end once the server is to stop.
const DRAIN: Duration = Duration::from_secs(1);
/// Pause after a failed `accept`, which means that the process is out of file descriptors.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A socket, and the threads that serve what comes in by it.
#[derive(Debug)]
pub struct Listening {
    /// The socket.
    pub socket: TcpListener,
    /// The threads.
    pub(crate) lanes: Arc<Lanes>,
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

/// Answers, or tells that there is no answer because something panicked: the connection and whoever else is on it live on.
pub fn answering(service: impl Answers) -> Answering {
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
pub async fn serve_service(
    Listening { socket, lanes }: Listening,
    tls: Option<Arc<ServerConfig>>,
    service: impl Answers,
    drain: Duration,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let (tasks, slots) = (TaskTracker::new(), Arc::new(Semaphore::new(MAX_CONNECTIONS)));
    let websockets = service.websockets_over_http2();
    let http = Http { patience: PATIENCE, max_streams: MAX_STREAMS, websockets };
    let connection = Connection { tls: tls.map(TlsAcceptor::from), answering: answering(service), http };
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

#[derive(Clone)]
struct Connection {
    tls: Option<TlsAcceptor>,
    answering: Answering,
    http: Http,
}

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
            let peer = Peer { address, secure: false, certificate: None, id: None };
            return self.http(Box::new(stream), peer, shutdown).await;
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
        let id = chain.as_ref().and_then(|chain| svid::parse(chain.first()?).ok()?.id.parse().ok());
        self.http(Box::new(stream), Peer { address, secure: true, certificate: chain, id }, shutdown).await
    }

    async fn http(self, stream: Io, peer: Peer, shutdown: &CancellationToken) -> Result<(), Failed> {
        let answering = move |mut request: Request| {
            request.extensions_mut().insert(peer.clone());
            (self.answering)(request)
        };
        self.http.serve(stream, Arc::new(answering), shutdown.clone()).await
    }
}
