//! Signals that do not end the process: SIGHUP asks it to read its files again and to reopen its log. SIGUSR1 and
//! SIGUSR2, which would end it, have no effect.

use crate::Failure;
use std::io;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The signals of a process, caught from its start on.
#[derive(Debug)]
pub struct ReloadSignals {
    hangup: Signal,
    ignored: [Signal; 2],
    requests: watch::Sender<u64>,
}

impl ReloadSignals {
    /// Catches the signals from now on.
    ///
    /// # Errors
    /// When the system has no more file descriptors.
    pub fn catch() -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            ignored: [signal(SignalKind::user_defined1())?, signal(SignalKind::user_defined2())?],
            requests: watch::Sender::new(0),
        })
    }

    /// The number of requests to reload so far.
    #[must_use]
    pub fn requests(&self) -> watch::Receiver<u64> {
        self.requests.subscribe()
    }

    /// Counts the requests, until `shutdown`.
    ///
    /// # Errors
    /// None; the signature is that of a task.
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<(), Failure> {
        let [user1, user2] = &mut self.ignored;
        loop {
            tokio::select! {
                Some(()) = self.hangup.recv() => self.requests.send_modify(|count| *count += 1),
                Some(()) = user1.recv() => tracing::info!("SIGUSR1 has no effect; SIGHUP reloads"),
                Some(()) = user2.recv() => tracing::info!("SIGUSR2 has no effect; SIGHUP reloads"),
                () = shutdown.cancelled() => return Ok(()),
            }
        }
    }
}
