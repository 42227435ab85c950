//! The parts of a process: each runs until all are to end, and one that dies ends them all.

use crate::core_runtimes::Lanes;
use crate::listener::{Answers, Listening, serve};
use rustls::ServerConfig;
use std::error::Error;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// One line that says what went wrong, where, and what to do.
pub type Failure = Box<dyn Error + Send + Sync>;

/// A port can't be had.
#[derive(Debug, Error)]
#[error("can't listen on {address} for {what}: {source}; stop what uses it, or choose another address with --{option}")]
pub struct ListenError {
    address: SocketAddr,
    what: &'static str,
    option: &'static str,
    source: io::Error,
}

/// Listens on an address; `what` and `option` are for the message when it can't be had.
pub async fn bind(address: SocketAddr, what: &'static str, option: &'static str) -> Result<TcpListener, ListenError> {
    TcpListener::bind(address).await.map_err(|source| ListenError { address, what, option, source })
}

/// Parts that run side by side.
#[derive(Debug)]
pub struct Parts {
    tasks: JoinSet<Result<(), Failure>>,
    shutdown: CancellationToken,
    lanes: Arc<Lanes>,
    interrupt: Signal,
    terminate: Signal,
}

impl Parts {
    /// No parts yet. From now on signals are heard, so that none that comes while they begin ends the process at once.
    ///
    /// # Errors
    /// When the system has no threads for them.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            tasks: JoinSet::new(),
            shutdown: CancellationToken::new(),
            lanes: Arc::new(Lanes::start()?),
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Starts a part, which is to end when the token is cancelled.
    pub fn add<F>(&mut self, part: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        self.tasks.spawn(part(self.shutdown.clone()));
    }

    /// Answers what comes in by a socket, as a part.
    pub fn serve(&mut self, listener: TcpListener, tls: Option<Arc<ServerConfig>>, service: impl Answers) {
        let listening = self.listening(listener);
        self.add(|shutdown| async move { Ok(serve(listening, tls, service, shutdown).await?) });
    }

    /// A socket whose connections are served by the threads of this process.
    pub fn listening(&self, socket: TcpListener) -> Listening {
        Listening { socket, lanes: Arc::clone(&self.lanes) }
    }

    /// Waits for a signal, or for a part that dies; then lets every part end. After a signal `linger` is awaited first,
    /// for whoever still comes because word of the end has not spread.
    pub async fn until_the_end(self, linger: impl Future<Output = ()>) -> Result<(), Failure> {
        let Self { mut tasks, shutdown, lanes: _lanes, mut interrupt, mut terminate } = self;
        let mut outcome = tokio::select! {
            _ = interrupt.recv() => Ok(()),
            _ = terminate.recv() => {
                linger.await;
                Ok(())
            }
            ended = tasks.join_next() => match ended {
                Some(Ok(Ok(()))) | None => Err("a part of the process ended by itself".into()),
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
