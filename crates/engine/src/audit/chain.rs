//! The chain that makes the log tamper-evident.
//!
//! Every line carries where it stands and the hash of the line before it. The line that begins a chain, a checkpoint
//! after so many lines or seconds, and the line that ends it are signed, so that nobody without the key can write the
//! chain anew. All of it happens in the writer's thread: a decision pays nothing for it.
//!
//! ```text
//! {"event":"begin",…,"chain":{"id":"5f…","seq":0,"prev":""},"jws":"…"}        signed; names what stood before it
//! {"time":…,"id":…,…,"chain":{"id":"5f…","seq":1,"prev":"<hash of line 0>"}}
//! {"event":"checkpoint",…,"chain":{"id":"5f…","seq":2,"prev":…},"jws":"…"}    signed: all up to here is proven
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

/// Lines after which a checkpoint is due; with [`INTERVAL`] it bounds how much can be cut off unnoticed.
pub(super) const MOST_UNSIGNED: u64 = 1000;
/// Time after which a checkpoint is due once there is something to prove.
const INTERVAL: Duration = Duration::from_secs(10);
/// `typ` of the signatures, so that none is ever taken for a token.
pub(super) const TYP: &str = "durward-audit+jwt";
/// What a signature is appended with, and found by.
const JWS: &str = ",\"jws\":\"";
/// How much of a file's end is looked at for its last line: a line is no longer.
const TAIL: u64 = 256 * 1024;

/// Lines that are about the log itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Event {
    /// A process begins to write.
    Begin,
    /// All lines of the chain up to this one are proven.
    Checkpoint,
    /// Records were lost here.
    Gap,
    /// The process ends in good order.
    End,
}

/// Where a line stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Link {
    /// Names the chain: one run of one process.
    pub(super) id: String,
    /// Number of the line, from 0.
    pub(super) seq: u64,
    /// Hash of the line before; empty for the first.
    pub(super) prev: String,
}

/// The last line of a chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    pub(super) id: String,
    pub(super) seq: u64,
    pub(super) hash: String,
}

/// What stood at the end of a log before a process went on with it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Before {
    /// The last whole line.
    pub(super) after: Option<Head>,
    /// Hash of a line that a crash cut off.
    pub(super) torn: Option<String>,
}

/// A line about the log itself, before its signature.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Own<'l> {
    event: Event,
    time: DateTime<Utc>,
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<&'l Head>,
    #[serde(skip_serializing_if = "Option::is_none")]
    torn: Option<&'l str>,
    /// Records lost: since the last such line in a gap, in all at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    lost: Option<u64>,
}

/// A signature in compact form (RFC 7515, section 7.1).
type Signed = Result<String, TokenKeyError>;

/// Signs lines of the log with the key of the installation, whichever that is at the time.
pub struct LogSigner(Box<Sign>);

/// Signs claims under a `typ`.
type Sign = dyn Fn(&Value, &str) -> Signed + Send;

impl LogSigner {
    /// Signs by `sign`, which takes claims and a `typ`.
    pub fn new(sign: impl Fn(&Value, &str) -> Signed + Send + 'static) -> Self {
        Self(Box::new(sign))
    }
}

impl fmt::Debug for LogSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LogSigner")
    }
}

/// A chain as it is written.
pub(super) struct Chain {
    id: String,
    signer: LogSigner,
    before: Before,
    seq: u64,
    prev: String,
    /// Lines since the last one that was signed.
    unsigned: u64,
    /// When the first of them came.
    since: Option<Instant>,
    /// Lost records that the chain tells of.
    told: u64,
}

impl Chain {
    /// A chain of this name, written behind what is there. Its first line is written with its first record.
    pub(super) fn new(id: String, signer: LogSigner, before: Before) -> Self {
        Self { id, signer, before, seq: 0, prev: String::new(), unsigned: 0, since: None, told: 0 }
    }

    /// Appends a record, and before it the beginning of the chain and the number of records that were `lost` so far,
    /// where that is news.
    pub(super) fn record(&mut self, line: &[u8], lost: u64, to: &mut Vec<u8>) {
        self.catch_up(lost, to);
        self.link(line, to);
        if self.unsigned >= MOST_UNSIGNED {
            self.own(Event::Checkpoint, None, to);
        }
    }

    fn catch_up(&mut self, lost: u64, to: &mut Vec<u8>) {
        if self.seq == 0 {
            if self.before.torn.is_some() {
                to.push(b'\n');
            }
            self.own(Event::Begin, None, to);
        }
        if lost > self.told {
            let news = lost - self.told;
            self.told = lost;
            self.own(Event::Gap, Some(news), to);
        }
    }

    /// How long until a checkpoint is due; `None` while there is nothing to prove.
    pub(super) fn due(&self) -> Option<Duration> {
        Some(INTERVAL.saturating_sub(self.since?.elapsed()))
    }

    /// Appends a checkpoint, if there is anything to prove.
    pub(super) fn checkpoint(&mut self, lost: u64, to: &mut Vec<u8>) {
        if self.unsigned > 0 {
            self.catch_up(lost, to);
            self.own(Event::Checkpoint, None, to);
        }
    }

    /// Appends the end, if there was a beginning or something was lost.
    pub(super) fn end(&mut self, lost: u64, to: &mut Vec<u8>) {
        if self.seq > 0 || lost > 0 {
            self.catch_up(lost, to);
            self.own(Event::End, Some(lost), to);
        }
    }

    /// Appends a line about the log itself; a gap waits for the next signature like any record.
    fn own(&mut self, event: Event, lost: Option<u64>, to: &mut Vec<u8>) {
        let begins = event == Event::Begin;
        let own = Own {
            event,
            time: Utc::now(),
            after: self.before.after.as_ref().filter(|_| begins),
            torn: self.before.torn.as_deref().filter(|_| begins),
            lost,
        };
        let mut line = Vec::with_capacity(512);
        // values of these types always have a JSON form
        let _ = serde_json::to_writer(&mut line, &own);
        let start = to.len();
        self.link(&line, to);
        if event == Event::Gap {
            return;
        }
        let unsigned = to.get(start..).unwrap_or_default().trim_ascii_end();
        match (self.signer.0)(&json!({"hash": hash(unsigned)}), TYP) {
            Ok(jws) => {
                to.truncate(start + unsigned.len().saturating_sub(1));
                to.extend_from_slice(JWS.as_bytes());
                to.extend_from_slice(jws.as_bytes());
                to.extend_from_slice(b"\"}\n");
                self.prev = hash(to.get(start..).unwrap_or_default().trim_ascii_end());
                (self.unsigned, self.since) = (0, None);
            }
            // the line stands there without proof, and the next one is tried again
            Err(error) => tracing::error!(%error, "a checkpoint of the audit log can't be signed"),
        }
    }

    /// Appends a line with its place in the chain. It is a JSON object, with or without an end of line.
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
        self.since.get_or_insert_with(Instant::now);
    }
}

/// SHA-256 of a line without its end, in base64url.
pub(super) fn hash(line: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(digest(&SHA256, line))
}

/// A line without its signature, and the signature.
pub(super) fn signature(line: &[u8]) -> Option<(Vec<u8>, &str)> {
    let at = line.windows(JWS.len()).rposition(|window| window == JWS.as_bytes())?;
    let (signed, rest) = line.split_at_checked(at)?;
    let jws = rest.get(JWS.len()..)?.strip_suffix(b"\"}")?;
    Some(([signed, b"}"].concat(), std::str::from_utf8(jws).ok()?))
}

/// Whether a line is about the log itself.
pub fn is_own(line: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Line {
        #[serde(rename = "event")]
        _event: Event,
    }
    serde_json::from_slice::<Line>(line).is_ok()
}

/// What stands at the end of a log.
///
/// # Errors
/// When the file is there and can't be read.
pub(super) fn before(path: &Path) -> io::Result<Before> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Before::default()),
        Err(error) => return Err(error),
    };
    let metadata = file.metadata()?;
    // a device or a pipe has no end to go on from
    if !metadata.is_file() {
        return Ok(Before::default());
    }
    file.seek(SeekFrom::Start(metadata.len().saturating_sub(TAIL)))?;
    let mut tail = Vec::new();
    file.take(TAIL).read_to_end(&mut tail)?;
    Ok(last(&tail))
}

fn last(tail: &[u8]) -> Before {
    #[derive(Deserialize)]
    struct Line {
        chain: Link,
    }
    let (whole, torn) = match tail.iter().rposition(|byte| *byte == b'\n') {
        Some(end) => (tail.get(..end).unwrap_or_default(), tail.get(end + 1..).unwrap_or_default()),
        None => (&[][..], tail),
    };
    let after = whole.rsplit(|byte| *byte == b'\n').find_map(|line| {
        let Line { chain } = serde_json::from_slice(line).ok()?;
        Some(Head { id: chain.id, seq: chain.seq, hash: hash(line) })
    });
    Before { after, torn: (!torn.is_empty()).then(|| hash(torn)) }
}
