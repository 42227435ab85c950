//! The sockets on which containers reach the agent.

use axum::Router;
use durward_runtime::Failure;
use durward_runtime::connection::ConnectionServer;
use durward_runtime::limits::ServerLimits;
use durward_runtime::listener::ACCEPT_PAUSE;
use futures::{Stream, StreamExt};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::{fs, io};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixListener;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// Every client is a container of the same pod: they share one source.
const POD: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// The agent can't start.
#[derive(Debug, Error)]
pub(crate) enum AgentError {
    /// The TCP address is not on loopback.
    #[error("--tcp {0} would give the pod's identity to others; use 127.0.0.1")]
    PublicAddress(SocketAddr),
    /// The agent can't listen on the socket.
    #[error("can't listen on {}: {source}; choose another path with --socket", .path.display())]
    Socket { path: PathBuf, source: io::Error },
    /// The path exists and is not a socket.
    #[error("{} exists and is not a socket; choose another path with --socket", .0.display())]
    NotASocket(PathBuf),
}

/// Opens a socket that every container of the pod can use, whatever user it runs as. Only this pod has the volume.
pub(crate) fn open_socket(path: &Path) -> Result<UnixListener, AgentError> {
    let failed = |source| AgentError::Socket { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        // a previous agent left it
        Ok(metadata) if metadata.file_type().is_socket() => fs::remove_file(path).map_err(failed)?,
        Ok(_) => return Err(AgentError::NotASocket(path.to_owned())),
        Err(_) => {}
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o777)).map_err(failed)?;
    Ok(listener)
}

/// Serves every connection until `shutdown`. Streams do not end by themselves, so shutdown aborts open connections.
pub(crate) async fn serve<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    connections: impl Stream<Item = io::Result<S>>,
    router: Router,
    limits: ServerLimits,
    shutdown: CancellationToken,
) -> Result<(), Failure> {
    let server = ConnectionServer::new(limits, &router);
    let mut connections = pin!(connections.take_until(shutdown.cancelled()));
    let mut tasks = JoinSet::new();
    while let Some(connection) = connections.next().await {
        match connection {
            Ok(stream) => {
                let context = server.unshared_connection(POD, shutdown.clone());
                tasks.spawn(server.clone().serve(stream, router.clone(), context));
            }
            Err(error) => {
                tracing::warn!(%error, "can't accept a connection; trying again");
                sleep(ACCEPT_PAUSE).await;
            }
        }
        while tasks.try_join_next().is_some() {}
    }
    Ok(())
}
