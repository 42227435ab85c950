//! The chain of hashes that makes the log tamper-evident.
//!
//! Every line holds its position and the hash of the line before it. Three kinds of lines are signed: the one that
//! begins a chain, a checkpoint after a number of lines or seconds, and the one that ends it. So without the key a
//! chain can't be rewritten. All of this happens in the writer thread and delays no decision.
//!
//! ```text
//! {"event":"begin",…,"chain":{"id":"5f…","seq":0,"prev":""},"jws":"…"}        signed; names the line before the chain
//! {"time":…,"id":…,…,"chain":{"id":"5f…","seq":1,"prev":"<hash of line 0>"}}
//! {"event":"checkpoint",…,"chain":{"id":"5f…","seq":2,"prev":…},"jws":"…"}    signed: proves all lines up to here
//! ```

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use durward_pki::token::TokenKeyError;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::time::{Duration, Instant};

/// Lines after which a checkpoint is due. With [`CHECKPOINT_INTERVAL`] it limits how much can be cut off unnoticed.
pub(super) const MAX_UNSIGNED: u64 = 1000;
/// Time after which a checkpoint is due, from the first unsigned line.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(10);
/// `typ` of the signatures, so that none is valid as a token.
pub(super) const TYP: &str = "durward-audit+jwt";
/// Text before an appended signature.
const SIGNATURE_MEMBER: &str = ",\"jws\":\"";
/// Bytes at the end of a file that are searched for the last line; no line is longer.
const TAIL_BYTES: u64 = 256 * 1024;

/// Events of the log itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum LogEvent {
    /// A process begins a chain.
    Begin,
    /// The signature proves all lines of the chain up to this one.
    Checkpoint,
    /// Records were lost here.
    Gap,
    /// The process ends the chain.
    End,
}

/// Position of a line in its chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ChainLink {
    /// Id of the chain: one run of one process.
    pub(super) id: String,
    /// Number of the line, from 0.
    pub(super) seq: u64,
    /// Hash of the line before; empty for the first line.
    pub(super) prev: String,
}

/// The last line of a chain, and its hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ChainHead {
    pub(super) id: String,
    pub(super) seq: u64,
    pub(super) hash: String,
}

/// The end of an existing log, at which a process continues.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct LogTail {
    /// The last complete line.
    pub(super) after: Option<ChainHead>,
    /// Hash of an incomplete line that a crash left.
    pub(super) torn: Option<String>,
}

/// A line with an event of the log itself, before its signature.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LogEventLine<'l> {
    event: LogEvent,
    time: DateTime<Utc>,
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<&'l ChainHead>,
    #[serde(skip_serializing_if = "Option::is_none")]
    torn: Option<&'l str>,
    /// Lost records: in a gap since the last gap, at the end in total.
    #[serde(skip_serializing_if = "Option::is_none")]
    lost: Option<u64>,
}

/// A signature in compact form (RFC 7515, section 7.1).
type SignedText = Result<String, TokenKeyError>;

/// Signs lines of the log with the current key of the installation.
pub struct LogSigner(Box<SignFn>);

/// Signs claims under a `typ`.
type SignFn = dyn Fn(&Value, &str) -> SignedText + Send;

impl LogSigner {
    /// Creates a signer from a function of claims and a `typ`.
    pub fn new(sign: impl Fn(&Value, &str) -> SignedText + Send + 'static) -> Self {
        Self(Box::new(sign))
    }
}

impl fmt::Debug for LogSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LogSigner")
    }
}

/// A chain that is being written.
pub(super) struct Chain {
    id: String,
    signer: LogSigner,
    tail: LogTail,
    seq: u64,
    prev: String,
    /// Lines since the last signed line.
    unsigned: u64,
    /// Time of the first unsigned line.
    unsigned_since: Option<Instant>,
    /// Lost records that gaps report.
    reported_lost: u64,
}

impl Chain {
    /// Creates a chain that continues after `tail`. Its first line is written with its first record.
    pub(super) fn new(id: String, signer: LogSigner, tail: LogTail) -> Self {
        Self { id, signer, tail, seq: 0, prev: String::new(), unsigned: 0, unsigned_since: None, reported_lost: 0 }
    }

    /// Appends a record. Before it come the beginning of the chain, if it is the first, and a gap, if `lost` increased.
    pub(super) fn record(&mut self, line: &[u8], lost: u64, to: &mut Vec<u8>) {
        self.begin_or_report_loss(lost, to);
        self.link(line, to);
        if self.unsigned >= MAX_UNSIGNED {
            self.event(LogEvent::Checkpoint, None, to);
        }
    }

    fn begin_or_report_loss(&mut self, lost: u64, to: &mut Vec<u8>) {
        if self.seq == 0 {
            if self.tail.torn.is_some() {
                to.push(b'\n');
            }
            self.event(LogEvent::Begin, None, to);
        }
        if lost > self.reported_lost {
            let newly_lost = lost - self.reported_lost;
            self.reported_lost = lost;
            self.event(LogEvent::Gap, Some(newly_lost), to);
        }
    }

    /// Time until a checkpoint is due; `None` if every line is proven.
    pub(super) fn checkpoint_due_in(&self) -> Option<Duration> {
        Some(CHECKPOINT_INTERVAL.saturating_sub(self.unsigned_since?.elapsed()))
    }

    /// Appends a checkpoint if there are unsigned lines.
    pub(super) fn checkpoint(&mut self, lost: u64, to: &mut Vec<u8>) {
        if self.unsigned > 0 {
            self.begin_or_report_loss(lost, to);
            self.event(LogEvent::Checkpoint, None, to);
        }
    }

    /// Appends the end if the chain has begun or records were lost.
    pub(super) fn end(&mut self, lost: u64, to: &mut Vec<u8>) {
        if self.seq > 0 || lost > 0 {
            self.begin_or_report_loss(lost, to);
            self.event(LogEvent::End, Some(lost), to);
        }
    }

    /// Appends an event of the log itself, with a signature except for a gap.
    fn event(&mut self, event: LogEvent, lost: Option<u64>, to: &mut Vec<u8>) {
        let begins = event == LogEvent::Begin;
        let event_line = LogEventLine {
            event,
            time: Utc::now(),
            after: if begins { self.tail.after.as_ref() } else { None },
            torn: if begins { self.tail.torn.as_deref() } else { None },
            lost,
        };
        let mut line = Vec::with_capacity(512);
        // values of these types always have a JSON form
        let _ = serde_json::to_writer(&mut line, &event_line);
        let start = to.len();
        self.link(&line, to);
        if event == LogEvent::Gap {
            return;
        }
        let unsigned = to.get(start..).unwrap_or_default().trim_ascii_end();
        match (self.signer.0)(&json!({"hash": hash(unsigned)}), TYP) {
            Ok(jws) => {
                to.truncate(start + unsigned.len().saturating_sub(1));
                to.extend_from_slice(SIGNATURE_MEMBER.as_bytes());
                to.extend_from_slice(jws.as_bytes());
                to.extend_from_slice(b"\"}\n");
                self.prev = hash(to.get(start..).unwrap_or_default().trim_ascii_end());
                self.unsigned = 0;
                self.unsigned_since = None;
            }
            Err(error) => tracing::error!(%error, "audit checkpoint can't be signed; trying again with the next one"),
        }
    }

    /// Appends a line with its position in the chain. The line is a JSON object, with or without a line end.
    fn link(&mut self, line: &[u8], to: &mut Vec<u8>) {
        let start = to.len();
        let open = line.trim_ascii_end().strip_suffix(b"}").unwrap_or(line);
        to.extend_from_slice(open);
        let link = format!(",\"chain\":{{\"id\":\"{}\",\"seq\":{},\"prev\":\"{}\"}}}}", self.id, self.seq, self.prev);
        to.extend_from_slice(link.as_bytes());
        self.prev = hash(to.get(start..).unwrap_or_default());
        to.push(b'\n');
        self.seq += 1;
        self.unsigned += 1;
        self.unsigned_since.get_or_insert_with(Instant::now);
    }
}

/// SHA-256 of a line without its line end, in base64url.
pub(super) fn hash(line: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(digest(&SHA256, line))
}

/// Splits a line into the line without its signature, and the signature.
pub(super) fn split_signature(line: &[u8]) -> Option<(Vec<u8>, &str)> {
    let at = line.windows(SIGNATURE_MEMBER.len()).rposition(|window| window == SIGNATURE_MEMBER.as_bytes())?;
    let (signed, rest) = line.split_at_checked(at)?;
    let jws = rest.get(SIGNATURE_MEMBER.len()..)?.strip_suffix(b"\"}")?;
    Some(([signed, b"}"].concat(), std::str::from_utf8(jws).ok()?))
}

/// Whether a line is an event of the log itself.
pub fn is_log_event(line: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct EventLine {
        #[serde(rename = "event")]
        _event: LogEvent,
    }
    serde_json::from_slice::<EventLine>(line).is_ok()
}

/// Reads the end of a log.
///
/// # Errors
/// If the file exists and can't be read.
pub(super) fn read_tail(path: &Path) -> io::Result<LogTail> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(LogTail::default()),
        Err(error) => return Err(error),
    };
    let metadata = file.metadata()?;
    // a device or a pipe has no end to continue at
    if !metadata.is_file() {
        return Ok(LogTail::default());
    }
    file.seek(SeekFrom::Start(metadata.len().saturating_sub(TAIL_BYTES)))?;
    let mut tail = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut tail)?;
    Ok(parse_tail(&tail))
}

fn parse_tail(tail: &[u8]) -> LogTail {
    #[derive(Deserialize)]
    struct ChainedLine {
        chain: ChainLink,
    }
    let (whole, torn) = match tail.iter().rposition(|byte| *byte == b'\n') {
        Some(end) => (tail.get(..end).unwrap_or_default(), tail.get(end + 1..).unwrap_or_default()),
        None => (&[][..], tail),
    };
    let after = whole.rsplit(|byte| *byte == b'\n').find_map(|line| {
        let ChainedLine { chain } = serde_json::from_slice(line).ok()?;
        Some(ChainHead { id: chain.id, seq: chain.seq, hash: hash(line) })
    });
    LogTail { after, torn: (!torn.is_empty()).then(|| hash(torn)) }
}
