//! The writer thread and its queue.

use crate::audit::chain::{Chain, LogSigner, LogTail, read_tail};
use crate::audit::output::{LogOutput, ReopenableLog};
use durward_runtime::random::{RandomnessUnavailable, random_bytes};
use serde::Serialize;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;
use thiserror::Error;
use tokio::sync::oneshot;
use tokio::time::timeout;

/// Records that may wait for the writer. At 10,000 decisions a second this bridges 0.8 s of a stalled disk;
/// at about 700 bytes each it is at most 6 MB.
const QUEUE: usize = 8192;
/// Bytes of one write.
const BATCH: usize = 64 * 1024;
/// How long the writer collects records after the first; the queue holds those of 2 ms at 4 million a second.
const GATHER: Duration = Duration::from_millis(2);
/// Delay before a failed write is retried.
const RETRY: Duration = Duration::from_millis(200);
/// Retries of a failed write once the process ends.
const FINAL_RETRIES: u32 = 3;

/// How long an answer waits for its record to be written, with [`OnLoss::Deny`].
const WRITE_DEADLINE: Duration = Duration::from_secs(1);

/// What the writer thread receives.
#[derive(Debug)]
enum WriterMessage {
    /// A line to write, and who waits until it is written.
    Record(Vec<u8>, Option<oneshot::Sender<()>>),
    /// Look whether the file is still there.
    Reopen,
}

/// Destination of the records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuditSink {
    /// Standard output.
    Stdout,
    /// A file, appended to.
    File(PathBuf),
    /// None, for tools that decide without enforcing.
    Nowhere,
}

/// What happens if a decision can't be recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum OnLoss {
    /// Go on, and count the lost records
    #[default]
    Continue,
    /// Deny requests whose decision can't be recorded; each allow waits until its record is written
    Deny,
}

/// The audit log can't be opened.
#[derive(Debug, Error)]
pub enum AuditError {
    /// The file can't be opened, or the writer thread can't be started.
    #[error(
        "can't write the audit log `{path}`: {source}; name a file that can be written with --audit-log, or `-` for \
         standard output"
    )]
    Io {
        /// The file.
        path: String,
        /// The cause.
        source: io::Error,
    },
    /// There is no randomness for the id of the chain.
    #[error(transparent)]
    Random(#[from] RandomnessUnavailable),
}

/// A record that the log did not take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the audit log takes no more records")]
pub struct RecordLost;

/// A record in the queue, whose effect may have to wait for the writer thread.
#[derive(Debug)]
#[must_use = "with `--audit-on-loss deny` nothing may pass before `finished`"]
pub struct PendingRecord(Option<oneshot::Receiver<()>>);

impl PendingRecord {
    /// Waits until the record is handed to the operating system. Does not wait if the log may lose records.
    ///
    /// # Errors
    /// If it is not written within [`WRITE_DEADLINE`]. It may be written later: then the record of a request that was
    /// refused says that it was allowed.
    pub async fn finished(self) -> Result<(), RecordLost> {
        match self.0 {
            None => Ok(()),
            Some(written) => match timeout(WRITE_DEADLINE, written).await {
                Ok(Ok(())) => Ok(()),
                _ => Err(RecordLost),
            },
        }
    }
}

/// Writes the audit log in a thread of its own.
#[derive(Debug)]
pub struct AuditWriter {
    queue: Option<SyncSender<WriterMessage>>,
    state: Arc<WriterState>,
    on_loss: OnLoss,
    writer: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct WriterState {
    failing: AtomicBool,
    closing: AtomicBool,
    lost: AtomicU64,
}

impl AuditWriter {
    /// Opens the log and starts the writer thread, which chains the lines and signs checkpoints with `signer`.
    ///
    /// # Errors
    /// If the file can't be opened for appending, or the thread can't be started.
    pub fn open(sink: &AuditSink, on_loss: OnLoss, signer: LogSigner) -> Result<Self, AuditError> {
        let (output, tail) = match sink {
            AuditSink::Nowhere => return Ok(Self::nowhere()),
            AuditSink::Stdout => (LogOutput::Stdout(io::stdout()), LogTail::default()),
            AuditSink::File(path) => {
                let failed = |source| AuditError::Io { path: path.display().to_string(), source };
                let file = ReopenableLog::open(path).map_err(failed)?;
                (LogOutput::File(file), read_tail(path).map_err(failed)?)
            }
        };
        let id = format!("{:016x}", u64::from_be_bytes(random_bytes()?));
        Self::to(output, on_loss, Chain::new(id, signer, tail))
    }

    /// Writes the log to `output`.
    fn to(output: LogOutput, on_loss: OnLoss, chain: Chain) -> Result<Self, AuditError> {
        let (queue, records) = sync_channel(QUEUE);
        let state = Arc::new(WriterState::default());
        let shared = Arc::clone(&state);
        let writer = std::thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || write(&records, chain, output, &shared))
            .map_err(|source| AuditError::Io { path: "audit".to_owned(), source })?;
        Ok(Self { queue: Some(queue), state, on_loss, writer: Some(writer) })
    }

    /// Discards all records.
    #[must_use]
    pub fn nowhere() -> Self {
        Self { queue: None, state: Arc::default(), on_loss: OnLoss::Continue, writer: None }
    }

    /// Hands a record to the writer thread, without waiting.
    ///
    /// # Errors
    /// If the record is lost, or if it might be and the log must not lose any.
    pub fn record(&self, record: &impl Serialize) -> Result<(), RecordLost> {
        self.queue(record, None)
    }

    /// Like [`AuditWriter::record`], for what has an effect: that waits for [`PendingRecord::finished`].
    ///
    /// # Errors
    /// Like [`AuditWriter::record`].
    pub fn record_effect(&self, record: &impl Serialize) -> Result<PendingRecord, RecordLost> {
        if self.on_loss == OnLoss::Continue || self.queue.is_none() {
            return self.queue(record, None).map(|()| PendingRecord(None));
        }
        let (written, pending) = oneshot::channel();
        self.queue(record, Some(written)).map(|()| PendingRecord(Some(pending)))
    }

    fn queue(&self, record: &impl Serialize, written: Option<oneshot::Sender<()>>) -> Result<(), RecordLost> {
        let Some(queue) = &self.queue else { return Ok(()) };
        let queued = self.enqueue(queue, record, written);
        if queued.is_err() {
            self.state.lost.fetch_add(1, Ordering::Relaxed);
        }
        queued
    }

    /// Lets the writer thread look at once whether the file was renamed or removed, and open it again then. Without
    /// this, it looks before the next record.
    pub fn reopen(&self) {
        if let Some(queue) = &self.queue {
            // a thread with a full queue looks soon
            let _ = queue.try_send(WriterMessage::Reopen);
        }
    }

    fn enqueue(
        &self,
        queue: &SyncSender<WriterMessage>,
        record: &impl Serialize,
        written: Option<oneshot::Sender<()>>,
    ) -> Result<(), RecordLost> {
        if self.on_loss == OnLoss::Deny && self.state.failing.load(Ordering::Relaxed) {
            return Err(RecordLost);
        }
        let mut line = Vec::with_capacity(768);
        serde_json::to_writer(&mut line, record).map_err(|_| RecordLost)?;
        line.push(b'\n');
        queue.try_send(WriterMessage::Record(line, written)).map_err(|_| RecordLost)
    }

    /// Whether requests pass although their record is lost.
    #[must_use]
    pub(crate) fn tolerates_loss(&self) -> bool {
        self.on_loss == OnLoss::Continue
    }

    /// Number of records lost so far.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.state.lost.load(Ordering::Relaxed)
    }
}

impl Drop for AuditWriter {
    /// Waits until everything in the queue is written.
    fn drop(&mut self) {
        self.state.closing.store(true, Ordering::Relaxed);
        drop(self.queue.take());
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

fn write(records: &Receiver<WriterMessage>, mut chain: Chain, mut output: LogOutput, state: &WriterState) {
    let lost = || state.lost.load(Ordering::Relaxed);
    let mut batch = Vec::with_capacity(BATCH);
    let mut waiting = Vec::new();
    loop {
        batch.clear();
        let message = match chain.checkpoint_due_in() {
            Some(due) => records.recv_timeout(due),
            None => records.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        if output.is_gone() {
            tracing::warn!("the audit log was renamed or removed; continuing it in a new file");
            // the old file ends with a signature
            chain.checkpoint(lost(), &mut batch);
            deliver(&batch, &mut output, state);
            batch.clear();
            reopen(&mut output, state);
        }
        let ended = matches!(message, Err(RecvTimeoutError::Disconnected));
        match message {
            Ok(WriterMessage::Reopen) => continue,
            Ok(WriterMessage::Record(line, written)) => {
                chain.record(&line, lost(), &mut batch);
                // collect more records, so that a busy log needs one wake-up and one system call for many of them; an
                // answer that waits makes the others wait for its write anyway
                if written.is_none() && !state.closing.load(Ordering::Relaxed) {
                    std::thread::sleep(GATHER);
                }
                waiting.extend(written);
                while batch.len() < BATCH
                    && let Ok(message) = records.try_recv()
                {
                    if let WriterMessage::Record(line, written) = message {
                        chain.record(&line, lost(), &mut batch);
                        waiting.extend(written);
                    }
                }
            }
            Err(RecvTimeoutError::Timeout) => chain.checkpoint(lost(), &mut batch),
            Err(RecvTimeoutError::Disconnected) => chain.end(lost(), &mut batch),
        }
        let delivered = deliver(&batch, &mut output, state);
        if delivered {
            for written in waiting.drain(..) {
                // a receiver that gave up has refused its request
                let _ = written.send(());
            }
        }
        if ended {
            break;
        }
        if !delivered {
            // the chain does not mention this gap, so no line may follow it
            state.lost.fetch_add(records.iter().map(|_| 1).sum(), Ordering::Relaxed);
            break;
        }
    }
    if lost() > 0 {
        tracing::warn!(lost = lost(), "audit records were lost");
    }
}

/// Opens the log again, and retries until it succeeds. Once the process ends, the old file gets the rest.
fn reopen(output: &mut LogOutput, state: &WriterState) {
    while let Err(error) = output.reopen() {
        if !state.failing.swap(true, Ordering::Relaxed) {
            tracing::error!(%error, "opening the audit log again failed; retrying");
        }
        if state.closing.load(Ordering::Relaxed) {
            return;
        }
        std::thread::sleep(RETRY);
    }
}

/// Writes a batch and retries until it succeeds; once the process ends, only a few times. Returns whether it is
/// written.
fn deliver(batch: &[u8], output: &mut LogOutput, state: &WriterState) -> bool {
    let mut rest = batch;
    let mut retries_left = FINAL_RETRIES;
    while !rest.is_empty() {
        let error = match output.write(rest) {
            Ok(written) if written > 0 => {
                rest = rest.get(written..).unwrap_or_default();
                continue;
            }
            Ok(_) => io::Error::from(io::ErrorKind::WriteZero),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => error,
        };
        if !state.failing.swap(true, Ordering::Relaxed) {
            tracing::error!(%error, "audit log write failed; retrying");
        }
        if state.closing.load(Ordering::Relaxed) {
            retries_left -= 1;
            if retries_left == 0 {
                let lines = rest.iter().filter(|byte| **byte == b'\n').count();
                state.lost.fetch_add(u64::try_from(lines).unwrap_or(u64::MAX), Ordering::Relaxed);
                return false;
            }
        }
        std::thread::sleep(RETRY);
    }
    if state.failing.swap(false, Ordering::Relaxed) {
        tracing::info!(lost = state.lost.load(Ordering::Relaxed), "audit log write succeeded again");
    }
    true
}
