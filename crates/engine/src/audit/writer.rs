//! The writer thread and its queue.

use crate::audit::chain::{Before, Chain, LogSigner, before};
use durward_runtime::random::{NoRandomness, random};
use serde::Serialize;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;
use thiserror::Error;

/// Records that may wait for the writer: at 10,000 decisions a second, most of a second of a stalled disk, and at
/// about 700 bytes each no more than 6 MB.
const QUEUE: usize = 8192;
/// Bytes that are written at once.
const BATCH: usize = 64 * 1024;
/// How long the writer lets records gather after the first; the queue has room for millions a second.
const GATHER: Duration = Duration::from_millis(2);
/// How long the writer waits before it tries a failed write again.
const RETRY: Duration = Duration::from_millis(200);
/// How often the writer tries again once the process wants to end.
const LAST_TRIES: u32 = 3;

/// Where records go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sink {
    /// Standard output.
    Stdout,
    /// A file, appended to.
    File(PathBuf),
    /// Nowhere: for tools that decide without enforcing.
    Nowhere,
}

/// What to do when a decision can't be recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum OnLoss {
    /// Go on; what is lost is counted.
    #[default]
    Continue,
    /// Deny what can't be recorded.
    Deny,
}

/// The log could not be opened.
#[derive(Debug, Error)]
pub enum AuditError {
    /// The file, or the thread that writes it.
    #[error(
        "can't write the audit log `{path}`: {source}; name a file that can be written with --audit-log, or `-` for standard output"
    )]
    Io {
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The log has no name to begin with.
    #[error(transparent)]
    Random(#[from] NoRandomness),
}

/// A record that the log did not take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the audit log takes no more records")]
pub struct Lost;

/// A handle to the audit log.
#[derive(Debug)]
pub struct Audit {
    queue: Option<SyncSender<Vec<u8>>>,
    state: Arc<State>,
    on_loss: OnLoss,
    writer: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct State {
    failing: AtomicBool,
    closing: AtomicBool,
    lost: AtomicU64,
}

impl Audit {
    /// Opens the log and starts its writer, which chains what it writes and has `signer` sign checkpoints.
    ///
    /// # Errors
    /// When the file can't be opened for appending, or the thread can't be started.
    pub fn open(sink: &Sink, on_loss: OnLoss, signer: LogSigner) -> Result<Self, AuditError> {
        let (output, before): (Box<dyn Write + Send>, Before) = match sink {
            Sink::Nowhere => return Ok(Self::nowhere()),
            Sink::Stdout => (Box::new(io::stdout()), Before::default()),
            Sink::File(path) => {
                let failed = |source| AuditError::Io { path: path.display().to_string(), source };
                let file = OpenOptions::new().create(true).append(true).open(path).map_err(failed)?;
                (Box::new(file), before(path).map_err(failed)?)
            }
        };
        let id = format!("{:016x}", u64::from_be_bytes(random()?));
        Self::to(output, on_loss, Chain::new(id, signer, before))
    }

    /// Writes the log to `output`.
    fn to(output: Box<dyn Write + Send>, on_loss: OnLoss, chain: Chain) -> Result<Self, AuditError> {
        let (queue, records) = sync_channel(QUEUE);
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        let writer = std::thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || write(&records, chain, output, &shared))
            .map_err(|source| AuditError::Io { path: "audit".to_owned(), source })?;
        Ok(Self { queue: Some(queue), state, on_loss, writer: Some(writer) })
    }

    /// A log that keeps nothing.
    #[must_use]
    pub fn nowhere() -> Self {
        Self { queue: None, state: Arc::default(), on_loss: OnLoss::Continue, writer: None }
    }

    /// Hands a record to the writer; never waits.
    ///
    /// # Errors
    /// When the record is lost, or would be if the log is to deny rather than lose.
    pub fn record(&self, record: &impl Serialize) -> Result<(), Lost> {
        let Some(queue) = &self.queue else { return Ok(()) };
        let taken = (|| {
            if self.on_loss == OnLoss::Deny && self.state.failing.load(Ordering::Relaxed) {
                return Err(Lost);
            }
            let mut line = Vec::with_capacity(768);
            serde_json::to_writer(&mut line, record).map_err(|_| Lost)?;
            line.push(b'\n');
            queue.try_send(line).map_err(|_| Lost)
        })();
        if taken.is_err() {
            self.state.lost.fetch_add(1, Ordering::Relaxed);
        }
        taken
    }

    /// Whether decisions go on when a record is lost.
    #[must_use]
    pub(crate) fn may_lose(&self) -> bool {
        self.on_loss == OnLoss::Continue
    }

    /// Number of records lost so far.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.state.lost.load(Ordering::Relaxed)
    }
}

impl Drop for Audit {
    /// Waits until everything in the queue is written.
    fn drop(&mut self) {
        self.state.closing.store(true, Ordering::Relaxed);
        drop(self.queue.take());
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

fn write(records: &Receiver<Vec<u8>>, mut chain: Chain, mut output: Box<dyn Write + Send>, state: &State) {
    let lost = || state.lost.load(Ordering::Relaxed);
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        batch.clear();
        let next = match chain.due() {
            Some(due) => records.recv_timeout(due),
            None => records.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match next {
            Ok(ref line) => {
                chain.record(line, lost(), &mut batch);
                // what comes soon and what waits goes along: a busy log costs one wake-up and one system call for many
                // records
                if !state.closing.load(Ordering::Relaxed) {
                    std::thread::sleep(GATHER);
                }
                while batch.len() < BATCH
                    && let Ok(line) = records.try_recv()
                {
                    chain.record(&line, lost(), &mut batch);
                }
            }
            Err(RecvTimeoutError::Timeout) => chain.checkpoint(lost(), &mut batch),
            Err(RecvTimeoutError::Disconnected) => chain.end(lost(), &mut batch),
        }
        let delivered = deliver(&batch, &mut output, state);
        if next.is_err_and(|error| error == RecvTimeoutError::Disconnected) {
            break;
        }
        if !delivered {
            // nothing may follow a hole that the chain does not tell of
            state.lost.fetch_add(records.iter().map(|_| 1).sum(), Ordering::Relaxed);
            break;
        }
    }
    if lost() > 0 {
        tracing::warn!(lost = lost(), "audit records were lost");
    }
}

/// Writes a batch, however often it takes; once the process wants to end, a few times more. Tells whether it is written.
fn deliver(batch: &[u8], output: &mut Box<dyn Write + Send>, state: &State) -> bool {
    let (mut rest, mut last_tries) = (batch, LAST_TRIES);
    while !rest.is_empty() {
        let error = match output.write(rest).and_then(|written| output.flush().map(|()| written)) {
            Ok(written) if written > 0 => {
                rest = rest.get(written..).unwrap_or_default();
                continue;
            }
            Ok(_) => io::Error::from(io::ErrorKind::WriteZero),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => error,
        };
        if !state.failing.swap(true, Ordering::Relaxed) {
            tracing::error!(%error, "the audit log can't be written; trying again until it can");
        }
        if state.closing.load(Ordering::Relaxed) {
            last_tries -= 1;
            if last_tries == 0 {
                let lines = rest.iter().filter(|byte| **byte == b'\n').count();
                state.lost.fetch_add(u64::try_from(lines).unwrap_or(u64::MAX), Ordering::Relaxed);
                return false;
            }
        }
        std::thread::sleep(RETRY);
    }
    if state.failing.swap(false, Ordering::Relaxed) {
        tracing::info!(lost = state.lost.load(Ordering::Relaxed), "the audit log is written again");
    }
    true
}
