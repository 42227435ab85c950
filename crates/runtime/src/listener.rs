//! Accepts TCP connections, plain or TLS, and serves HTTP on them.

use crate::connection::{ConnectionError, ConnectionServer, HttpRequest, HttpResponse, HttpService};
use crate::connections::{ConnectionSlot, Connections};
use crate::core_runtimes::CoreRuntimes;
use crate::limits::ServerLimits;
use crate::peers::Peer;
use durward_pki::svid;
use rustls::ServerConfig;
use rustls_pki_types::CertificateDer;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Time for open requests to complete after shutdown.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);
/// Pause after a failed `accept`, which usually means that the process is out of file descriptors.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A listening socket, and the runtimes that serve its connections.
#[derive(Debug)]
pub struct Listener {
    /// The socket.
    pub socket: TcpListener,
    pub(crate) runtimes: Arc<CoreRuntimes>,
    pub(crate) limits: ServerLimits,
}

/// Serves HTTP on a socket until `shutdown`, then lets open requests complete. Each request has the [`Peer`] among its
/// extensions.
///
/// # Errors
/// Never yet.
pub async fn serve(
    listener: Listener,
    tls: Option<Arc<ServerConfig>>,
    service: impl HttpService,
    shutdown: CancellationToken,
) -> io::Result<()> {
    serve_with_drain(listener, tls, service, DRAIN_TIMEOUT, shutdown).await
}

/// Like [`serve`], with `drain` as the time for open requests to complete.
///
/// # Errors
/// When the connection limit can't be enforced any more.
pub async fn serve_with_drain(
    listener: Listener,
    tls: Option<Arc<ServerConfig>>,
    service: impl HttpService,
    drain: Duration,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let Listener { socket, runtimes, limits } = listener;
    let tasks = TaskTracker::new();
    let max = usize::try_from(limits.settings.max_connections).unwrap_or(usize::MAX);
    let connections = Connections::new(max, limits.settings.source_share, limits.metrics.clone());
    let server = ConnectionServer::new(limits.clone(), &service);
    let handshake_timeout = limits.settings.client_timeout;
    let handler = ConnectionHandler { tls: tls.map(TlsAcceptor::from), service, server, handshake_timeout };
    let abort = CancellationToken::new();
    loop {
        let (stream, address) = tokio::select! {
            accepted = socket.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "can't accept a connection; trying again");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
            () = shutdown.cancelled() => break,
        };
        let Some(slot) = connections.admit(address.ip()) else { continue };
        // detach the socket from this runtime, so that only the runtime of the connection is woken for it
        let Ok(stream) = stream.into_std() else { continue };
        let handler = handler.clone();
        let shutdown = shutdown.clone();
        let abort = abort.clone();
        runtimes.spawn(tasks.track_future(async move {
            let served = tokio::select! {
                served = handler.serve(stream, address, &slot, shutdown) => served,
                () = abort.cancelled() => return,
            };
            if let Err(error) = served {
                tracing::debug!(%address, %error, "connection ended early");
            }
            drop(slot);
        }));
    }
    drop(socket);
    tasks.close();
    if timeout(drain, tasks.wait()).await.is_err() {
        tracing::warn!("requests were still open after the drain time; their connections are closed");
    }
    // no task outlives the server
    abort.cancel();
    tasks.wait().await;
    Ok(())
}

/// Serves the connections of one listener.
#[derive(Clone)]
struct ConnectionHandler<H> {
    tls: Option<TlsAcceptor>,
    service: H,
    server: ConnectionServer,
    handshake_timeout: Duration,
}

impl<H: HttpService> ConnectionHandler<H> {
    async fn serve(
        self,
        stream: std::net::TcpStream,
        address: SocketAddr,
        slot: &ConnectionSlot,
        shutdown: CancellationToken,
    ) -> Result<(), ConnectionError> {
        let stream = TcpStream::from_std(stream).map_err(ConnectionError::Socket)?;
        stream.set_nodelay(true).map_err(ConnectionError::Socket)?;
        let (activity, displaced) = (Arc::clone(&slot.activity), slot.close.clone());
        let context = self.server.connection(address.ip(), activity, displaced, shutdown.clone());
        let Some(acceptor) = self.tls else {
            let peer = Peer { address, secure: false, certificate: None, id: None };
            let service = WithPeer { service: self.service, peer };
            return self.server.serve(stream, service, context).await;
        };
        let handshake = timeout(self.handshake_timeout, acceptor.accept(stream));
        let stream = tokio::select! {
            stream = handshake => {
                stream.map_err(|_| ConnectionError::HandshakeTimeout)?.map_err(ConnectionError::Handshake)?
            }
            () = slot.close.cancelled() => return Err(ConnectionError::Displaced),
            () = shutdown.cancelled() => return Ok(()),
        };
        let chain = stream
            .get_ref()
            .1
            .peer_certificates()
            .map(|chain| chain.iter().cloned().map(CertificateDer::into_owned).collect::<Arc<[_]>>());
        slot.has_certificate.store(chain.is_some(), Ordering::Relaxed);
        let id = chain.as_ref().and_then(|chain| svid::parse(chain.first()?).ok()?.id.parse().ok());
        let service = WithPeer { service: self.service, peer: Peer { address, secure: true, certificate: chain, id } };
        self.server.serve(stream, service, context).await
    }
}

/// Adds the [`Peer`] to each request.
#[derive(Clone)]
struct WithPeer<H> {
    service: H,
    peer: Peer,
}

impl<H: HttpService> HttpService for WithPeer<H> {
    async fn handle(self, mut request: HttpRequest) -> HttpResponse {
        request.extensions_mut().insert(self.peer);
        self.service.handle(request).await
    }
}
