//! Runs the tasks of a process. All tasks run until shutdown; if one ends before, the process shuts down.

use crate::connection::HttpService;
use crate::core_runtimes::CoreRuntimes;
use crate::limits::ServerLimits;
use crate::listener::{Listener, serve};
use rustls::ServerConfig;
use std::error::Error;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Why a task or a command failed, in one line: what failed, where, and what to do.
pub type Failure = Box<dyn Error + Send + Sync>;

/// A task ended before the process shut down, without an error.
#[derive(Debug, Error)]
#[error("a task of the process ended unexpectedly; report this as a bug")]
struct UnexpectedEnd;

/// The process can't listen on an address.
#[derive(Debug, Error)]
#[error(
    "can't listen on {address} for {purpose}: {source}; stop the process that uses it, or choose another address with \
     --{option}"
)]
pub struct ListenError {
    address: SocketAddr,
    purpose: &'static str,
    option: &'static str,
    source: io::Error,
}

/// Listens on an address. The error message names its `purpose` and the command-line `option` that sets it.
///
/// # Errors
/// When the address is in use, or not one of this host.
pub async fn bind(
    address: SocketAddr,
    purpose: &'static str,
    option: &'static str,
) -> Result<TcpListener, ListenError> {
    TcpListener::bind(address).await.map_err(|source| ListenError { address, purpose, option, source })
}

/// Starts the tasks of a process and shuts them down together.
#[derive(Debug)]
pub struct Supervisor {
    tasks: JoinSet<Result<(), Failure>>,
    shutdown: CancellationToken,
    runtimes: Arc<CoreRuntimes>,
    admin: Arc<CoreRuntimes>,
    limits: ServerLimits,
    interrupt: Signal,
    terminate: Signal,
}

impl Supervisor {
    /// A supervisor without tasks, whose listeners share these limits. From now on it catches signals, so that none ends the
    /// process while tasks start.
    ///
    /// # Errors
    /// When the system has no more threads or file descriptors.
    pub fn new(limits: ServerLimits) -> io::Result<Self> {
        Ok(Self {
            tasks: JoinSet::new(),
            shutdown: CancellationToken::new(),
            runtimes: Arc::new(CoreRuntimes::start()?),
            admin: Arc::new(CoreRuntimes::start_admin()?),
            limits,
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Starts a task, which must end once the token is cancelled.
    pub fn spawn<F>(&mut self, task: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        self.tasks.spawn(task(self.shutdown.clone()));
    }

    /// Starts a task that serves HTTP on a socket.
    pub fn serve(&mut self, socket: TcpListener, tls: Option<Arc<ServerConfig>>, service: impl HttpService) {
        let listener = self.listener(socket);
        self.spawn(|shutdown| async move { Ok(serve(listener, tls, service, shutdown).await?) });
    }

    /// Starts a task that serves health and admin on a socket. It accepts and answers on a thread of its own, so that it
    /// answers while decisions keep every other thread busy.
    pub fn serve_admin(&mut self, socket: TcpListener, tls: Option<Arc<ServerConfig>>, service: impl HttpService) {
        let (runtimes, limits) = (Arc::clone(&self.admin), self.limits.clone());
        self.spawn(|shutdown| async move {
            let (end, ended) = oneshot::channel();
            // the socket belongs to the runtime that accepts its connections
            let socket = socket.into_std()?;
            let accepting = Arc::clone(&runtimes);
            accepting.spawn(async move {
                let served = match TcpListener::from_std(socket) {
                    Ok(socket) => serve(Listener { socket, runtimes, limits }, tls, service, shutdown).await,
                    Err(error) => Err(error),
                };
                // the supervisor waits for it until the process ends
                let _ = end.send(served);
            });
            Ok(ended.await??)
        });
    }

    /// A listener whose connections run on the runtimes of this process.
    pub fn listener(&self, socket: TcpListener) -> Listener {
        Listener { socket, runtimes: Arc::clone(&self.runtimes), limits: self.limits.clone() }
    }

    /// Waits for a signal, or for a task that ends; then shuts down every task. After SIGTERM, `linger` is awaited
    /// first: clients still connect until they learn that the process is shutting down.
    ///
    /// # Errors
    /// When a task fails, or ends without a signal.
    pub async fn run_until_shutdown(self, linger: impl Future<Output = ()>) -> Result<(), Failure> {
        let Self { mut tasks, shutdown, runtimes: _runtimes, admin: _admin, limits: _, mut interrupt, mut terminate } =
            self;
        let mut outcome = tokio::select! {
            _ = interrupt.recv() => Ok(()),
            _ = terminate.recv() => {
                linger.await;
                Ok(())
            }
            ended = tasks.join_next() => match ended {
                Some(Ok(Ok(()))) | None => Err(UnexpectedEnd.into()),
                Some(Ok(Err(error))) => Err(error),
                Some(Err(error)) => Err(error.into()),
            },
        };
        shutdown.cancel();
        while let Some(ended) = tasks.join_next().await {
            if outcome.is_ok() {
                outcome = ended.map_err(Into::into).and_then(|ended| ended);
            }
        }
        outcome
    }
}
