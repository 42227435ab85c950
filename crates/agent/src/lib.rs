//! `durward agent`: the identity of one pod, for its containers, over the SPIFFE Workload API and Envoy's SDS.
//!
//! ```text
//! controller ──certificate, bundles──▶ source ──▶ Workload API, SDS ◀──socket── containers of the pod
//!     ▲                                  │
//!     └──CSR, service-account token──────┘   the key never leaves this process
//! ```

mod sds;
mod workload_api;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use durward_controller_client::controller::Controller;
use durward_controller_client::source::Source;
use durward_runtime::Failure;
use durward_runtime::connection::{Answering, Bytes, Http};
use durward_runtime::listener::{ACCEPT_PAUSE, PATIENCE, answering};
use durward_runtime::supervisor::{Parts, bind};
use futures::{Stream, StreamExt};
use sds::Sds;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::{fs, io};
use tokio::net::UnixListener;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use url::Url;
use workload_api::WorkloadApi;

/// Streams of one connection at once: a container has a handful.
const MAX_STREAMS: u32 = 128;

/// Everything that the agent can be told.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where containers reach it.
    pub socket: PathBuf,
    /// Where else they do: some gRPC libraries send a socket's path as the name of the host, which HTTP/2 does not allow.
    pub tcp: Option<SocketAddr>,
    /// The controller's token listener.
    pub controller: Url,
    /// The pod's service-account token for the controller.
    pub token: PathBuf,
    /// Roots of the controller's certificate.
    pub roots: PathBuf,
    /// Lifetime of certificates in seconds, where shorter than the policy's.
    pub ttl_seconds: Option<u32>,
    /// Hint that goes with the identity.
    pub hint: String,
    /// Where it tells whether it is ready.
    pub health: SocketAddr,
}

/// Runs until a signal ends it.
///
/// # Errors
/// When the socket or the port can't be used, or when a part of it dies.
pub async fn run(settings: Settings) -> Result<(), Failure> {
    let health = bind(settings.health, "health", "health").await?;
    let socket = open(&settings.socket)?;
    let tcp = match settings.tcp {
        // whoever reaches it has the pod's identity
        Some(address) if !address.ip().is_loopback() => {
            return Err(format!("--tcp {address} would give the pod's identity to others; use 127.0.0.1").into());
        }
        Some(address) => Some(bind(address, "the Workload API", "tcp").await?),
        None => None,
    };
    let Settings { controller, token, roots, ttl_seconds, hint, .. } = settings;
    let source = Source::new(Controller { url: controller, token, roots }, ttl_seconds);
    let mut parts = Parts::new()?;
    let (certificates, bundles) = (source.clone(), source.clone());
    parts.add(|stop| certificates.certificates(stop));
    parts.add(|stop| bundles.bundles(stop));
    parts.serve(health, None, ready(&source));
    let routes = Routes::new(WorkloadApi::server(source.clone(), hint)).add_service(Sds::server(source));
    let answering = answering(routes.prepare().into_axum_router());
    if let Some(tcp) = tcp {
        let answering = Arc::clone(&answering);
        parts.add(|stop| answer(TcpListenerStream::new(tcp), answering, stop));
    }
    parts.add(|stop| answer(UnixListenerStream::new(socket), answering, stop));
    let ended = parts.until_the_end(std::future::ready(())).await;
    // whoever comes later is to see at once that nobody is there
    let _ = fs::remove_file(&settings.socket);
    ended
}

/// A socket that every container of the pod may use, whatever user it runs as; nobody else has the volume.
fn open(path: &Path) -> Result<UnixListener, Failure> {
    let failed =
        |error: io::Error| format!("can't listen on {}: {error}; choose another with --socket", path.display());
    match fs::symlink_metadata(path) {
        // left by an agent before this one
        Ok(found) if found.file_type().is_socket() => fs::remove_file(path).map_err(failed)?,
        Ok(_) => {
            return Err(format!("{} is there and is no socket; choose another with --socket", path.display()).into());
        }
        Err(_) => {}
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o777)).map_err(failed)?;
    Ok(listener)
}

/// Answers whoever connects, until `shutdown`. Streams never end by themselves: whoever holds one is cut off.
async fn answer<S: Bytes + 'static>(
    connections: impl Stream<Item = io::Result<S>>,
    answering: Answering,
    shutdown: CancellationToken,
) -> Result<(), Failure> {
    let http = Http { patience: PATIENCE, max_streams: MAX_STREAMS, websockets: false };
    let mut connections = pin!(connections.take_until(shutdown.cancelled()));
    let mut served = JoinSet::new();
    while let Some(connection) = connections.next().await {
        match connection {
            Ok(stream) => drop(served.spawn(http.serve(Box::new(stream), Arc::clone(&answering), shutdown.clone()))),
            Err(error) => {
                tracing::warn!(%error, "can't accept a connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
        while served.try_join_next().is_some() {}
    }
    Ok(())
}

/// `/readyz` says whether there is an identity to give.
fn ready(source: &Source) -> Router {
    let state = source.state();
    let readyz = move || {
        let ready = state.borrow().ready().is_some();
        std::future::ready(if ready {
            (StatusCode::OK, "ready\n")
        } else {
            (StatusCode::SERVICE_UNAVAILABLE, "no identity yet\n")
        })
    };
    Router::new().route("/readyz", get(readyz)).route("/healthz", get(async || "ok\n"))
}
