//! The one server behind every listener: HTTP/1.1 and HTTP/2, plain or TLS, everything bounded.

use crate::doors::trust::Peer;
use axum::Router;
use axum::extract::Request;
use durward_pki::svid;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use rustls::ServerConfig;
use rustls_pki_types::CertificateDer;
use std::io;
use std::net::SocketAddr;
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
use tower_http::catch_panic::CatchPanicLayer;

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

/// Serves `router` on `listener` until `shutdown`, then lets open requests end.
///
/// # Errors
/// When the listener has no address any more.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
    router: Router,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let (tasks, graceful, slots) =
        (TaskTracker::new(), GracefulShutdown::new(), Arc::new(Semaphore::new(MAX_CONNECTIONS)));
    let connection = Connection {
        tls: tls.map(TlsAcceptor::from),
        router: router.layer(CatchPanicLayer::new()),
        builder: builder(),
    };
    let cut = CancellationToken::new();
    loop {
        // no slot, no accept: further clients wait in the kernel's queue
        let slot = tokio::select! {
            slot = Arc::clone(&slots).acquire_owned() => slot.map_err(io::Error::other)?,
            () = shutdown.cancelled() => break,
        };
        let (stream, address) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "can't accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
            () = shutdown.cancelled() => break,
        };
        let (connection, watcher, shutdown) = (connection.clone(), graceful.watcher(), shutdown.clone());
        let cut = cut.clone();
        tasks.spawn(async move {
            let served = tokio::select! {
                served = connection.serve(stream, address, watcher, &shutdown) => served,
                () = cut.cancelled() => return,
            };
            if let Err(error) = served {
                tracing::debug!(%address, error, "connection ended");
            }
            drop(slot);
        });
    }
    drop(listener);
    tasks.close();
    if timeout(DRAIN, graceful.shutdown()).await.is_err() {
        tracing::warn!("requests were still open when the time to drain was over");
    }
    // no task outlives the server
    cut.cancel();
    tasks.wait().await;
    Ok(())
}

fn builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(PATIENCE).max_buf_size(MAX_HEADERS);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(u32::try_from(MAX_HEADERS).unwrap_or(u32::MAX))
        .max_concurrent_streams(MAX_STREAMS)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(PATIENCE);
    builder
}

#[derive(Clone)]
struct Connection {
    tls: Option<TlsAcceptor>,
    router: Router,
    builder: Builder<TokioExecutor>,
}

type Failed = Box<dyn std::error::Error + Send + Sync>;

impl Connection {
    async fn serve(
        self,
        stream: TcpStream,
        address: SocketAddr,
        watcher: hyper_util::server::graceful::Watcher,
        shutdown: &CancellationToken,
    ) -> Result<(), Failed> {
        stream.set_nodelay(true)?;
        let Some(acceptor) = self.tls.clone() else {
            return self.http(stream, Peer { address, secure: false, certificate: None, id: None }, watcher).await;
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
        self.http(stream, Peer { address, secure: true, certificate: chain, id }, watcher).await
    }

    async fn http(
        self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        peer: Peer,
        watcher: hyper_util::server::graceful::Watcher,
    ) -> Result<(), Failed> {
        let router = self.router;
        let asked = Arc::new(AtomicBool::new(false));
        let asks = Arc::clone(&asked);
        let service = service_fn(move |mut request: hyper::Request<Incoming>| {
            asks.store(true, Ordering::Relaxed);
            request.extensions_mut().insert(peer.clone());
            router.clone().oneshot(request.map(axum::body::Body::new) as Request)
        });
        let connection = self.builder.serve_connection(TokioIo::new(stream), service).into_owned();
        let mut connection = pin!(watcher.watch(connection));
        // the library waits for the first bytes of a connection without end, and for those of a request in HTTP/2
        if let Ok(served) = timeout(PATIENCE, &mut connection).await {
            return served;
        }
        if !asked.load(Ordering::Relaxed) {
            return Err("no request in time".into());
        }
        connection.await
    }
}
