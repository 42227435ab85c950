//! Verifies that a log is as it was written: its chains of hashes and their signatures.

use crate::audit::chain::{ChainHead, ChainLink, LogEvent, MAX_UNSIGNED, TYP, hash, split_signature};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use durward_authn::Cause;
use durward_authn::keys::KeySet;
use jsonwebtoken::Algorithm;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use thiserror::Error;

/// Findings that are reported one by one. A log that was rewritten has as many as it has lines.
const MAX_FINDINGS: usize = 100;

/// A line of a log file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LogPosition {
    /// Name of the file.
    pub file: Arc<str>,
    /// Number of the line, from 1.
    pub line: u64,
}

impl fmt::Display for LogPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// What is wrong with a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum FindingKind {
    /// The line was changed.
    Altered,
    /// Lines before it are missing.
    Removed,
    /// The line belongs to no chain.
    Inserted,
    /// The line was moved or repeated.
    Reordered,
    /// A signature is missing or wrong: nothing proves the lines after the last valid one.
    Forged,
    /// The line is incomplete.
    Truncated,
}

/// A line is not signed, or its signature proves nothing. The text is part of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
enum LineSignatureError {
    #[error("it is not signed")]
    Missing,
    #[error("its signature can't be read")]
    Unreadable,
    #[error("its signature is of another kind")]
    OtherKind,
    #[error("its signature is of another line")]
    OtherLine,
    #[error("it is signed by a key that is not among the given ones")]
    UnknownKey,
    #[error("its signature does not verify")]
    Invalid,
}

/// A problem of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The line.
    #[serde(flatten)]
    pub position: LogPosition,
    /// The kind of problem.
    pub kind: FindingKind,
    /// Description.
    pub message: String,
}

/// How a chain ends in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum ChainClose {
    /// With a signed end.
    Ended,
    /// The next chain continues after it, and is signed.
    Continued,
    /// Without an end: the process still writes it or was killed, or lines were cut off.
    Open,
}

/// A chain in the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ChainSummary {
    /// Its id.
    pub id: String,
    /// Its first line.
    pub from: LogPosition,
    /// Its last line.
    pub to: LogPosition,
    /// Number of records.
    pub records: u64,
    /// Records that the process could not write, as the chain reports them.
    pub lost: u64,
    /// How it ends.
    pub close: ChainClose,
    /// Lines after the last signature, which nothing proves.
    pub unsigned: u64,
}

/// The result of the verification.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VerificationReport {
    /// Lines read.
    pub lines: u64,
    /// Records in them.
    pub records: u64,
    /// Records that were lost when the log was written.
    pub lost: u64,
    /// Lines that no signature proves: at the ends of the chains, and a last line that is cut off.
    pub unproven: u64,
    /// The chains, in the order of their first lines.
    pub chains: Vec<ChainSummary>,
    /// Ids of the keys that signed.
    pub keys: BTreeSet<String>,
    /// Whether signatures were verified, by keys that the caller trusts.
    pub signatures_checked: bool,
    /// The problems.
    pub findings: Vec<Finding>,
    /// Number of problems beyond those.
    pub more_findings: u64,
}

impl VerificationReport {
    /// Whether a chain has no end.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.chains.iter().any(|chain| chain.close == ChainClose::Open)
    }
}

#[derive(Deserialize)]
struct ParsedLine<'l> {
    #[serde(borrow)]
    event: Option<Cow<'l, str>>,
    chain: ChainLink,
    after: Option<ChainHead>,
    torn: Option<String>,
    lost: Option<u64>,
    jws: Option<IgnoredAny>,
}

impl ParsedLine<'_> {
    fn log_event(&self) -> Option<LogEvent> {
        let name = self.event.as_deref()?;
        [
            ("begin", LogEvent::Begin),
            ("checkpoint", LogEvent::Checkpoint),
            ("gap", LogEvent::Gap),
            ("end", LogEvent::End),
        ]
        .into_iter()
        .find_map(|(known, event)| (known == name).then_some(event))
    }
}

/// A chain that is being read.
struct ChainState {
    order: usize,
    next: u64,
    hash: String,
    from: LogPosition,
    to: LogPosition,
    proven: LogPosition,
    records: u64,
    lost: u64,
    unsigned: u64,
    /// Whether one of its lines has a valid signature.
    signed: bool,
    /// Whether a finding says already that the chain is forged.
    forged: bool,
    close: ChainClose,
}

impl ChainState {
    /// Problems of a line that comes next in the chain.
    fn sequence_findings(&self, position: &LogPosition, link: &ChainLink) -> Vec<(LogPosition, FindingKind, String)> {
        let mut findings = Vec::new();
        if link.seq > self.next {
            let first = self.next;
            let last = link.seq - 1;
            let which = if first == last { format!("line {first}") } else { format!("lines {first} to {last}") };
            let message = format!("{which} of chain {} should stand before", link.id);
            findings.push((position.clone(), FindingKind::Removed, message));
        } else if link.prev != self.hash {
            let message = format!(
                "it is not what it was when line {} was written after it (or that one was altered)",
                position.line
            );
            findings.push((self.to.clone(), FindingKind::Altered, message));
        }
        if self.close == ChainClose::Ended {
            findings.push((position.clone(), FindingKind::Inserted, format!("chain {} had ended before", link.id)));
        }
        findings
    }

    fn append(&mut self, position: &LogPosition, hash: String, line: &ParsedLine<'_>, event: Option<LogEvent>) {
        self.next = line.chain.seq.saturating_add(1);
        self.hash = hash;
        self.to = position.clone();
        self.unsigned += 1;
        match event {
            Some(LogEvent::Gap) => self.lost = self.lost.saturating_add(line.lost.unwrap_or(0)),
            Some(LogEvent::End) => self.close = ChainClose::Ended,
            Some(LogEvent::Begin | LogEvent::Checkpoint) => {}
            None => self.records += 1,
        }
    }
}

/// Reads a log line by line, the oldest first.
pub struct LogVerifier<'k> {
    keys: Option<&'k KeySet>,
    partial: bool,
    chains: BTreeMap<String, ChainState>,
    /// Lines of no chain, with their hashes. A crash leaves one, which the next chain confirms.
    unchained: Vec<(LogPosition, String)>,
    report: VerificationReport,
}

impl fmt::Debug for LogVerifier<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogVerifier").field("report", &self.report).finish_non_exhaustive()
    }
}

impl<'k> LogVerifier<'k> {
    /// Creates a verifier. It verifies signatures only with `keys`. A `partial` log may lack its beginning and end.
    #[must_use]
    pub fn new(keys: Option<&'k KeySet>, partial: bool) -> Self {
        let report = VerificationReport { signatures_checked: keys.is_some(), ..VerificationReport::default() };
        Self { keys, partial, chains: BTreeMap::new(), unchained: Vec::new(), report }
    }

    /// Verifies the next line, without its line end.
    pub fn line(&mut self, position: &LogPosition, line: &[u8]) {
        if line.trim_ascii().is_empty() {
            return;
        }
        self.report.lines += 1;
        match serde_json::from_slice::<ParsedLine<'_>>(line) {
            Ok(read) => self.chained_line(position, line, &read),
            Err(_) if self.unchained.len() < MAX_FINDINGS => self.unchained.push((position.clone(), hash(line))),
            Err(_) => self.report.more_findings += 1,
        }
    }

    fn chained_line(&mut self, position: &LogPosition, text: &[u8], line: &ParsedLine<'_>) {
        let link = &line.chain;
        let event = line.log_event();
        if event == Some(LogEvent::Begin) {
            self.begin(position, line);
        }
        // a signature is verified on any line that has one, so renaming an event can't hide it
        let signs = line.jws.is_some() || matches!(event, Some(LogEvent::Begin | LogEvent::Checkpoint | LogEvent::End));
        let signed = signs.then(|| self.signing_key(text));
        self.add_chain(position, link, event);
        let Some(state) = self.chains.get_mut(&link.id) else { return };
        if link.seq < state.next {
            let message = format!(
                "line {} of chain {} stands after its line {}: moved, or written twice",
                link.seq,
                link.id,
                state.next - 1
            );
            self.report_finding(position, FindingKind::Reordered, message);
            return;
        }
        let mut findings = state.sequence_findings(position, link);
        state.append(position, hash(text), line, event);
        match signed {
            Some(Ok(kid)) => {
                state.unsigned = 0;
                state.signed = true;
                state.proven = position.clone();
                self.report.keys.extend(kid);
            }
            Some(Err(error)) => {
                state.forged = true;
                let message = format!("{error}: nothing proves the lines after {}", state.proven);
                findings.push((position.clone(), FindingKind::Forged, message));
            }
            None => {}
        }
        if state.unsigned > MAX_UNSIGNED + 1 && !state.forged {
            state.forged = true;
            let message = format!("more than {MAX_UNSIGNED} lines without a checkpoint since {}", state.proven);
            findings.push((position.clone(), FindingKind::Forged, message));
        }
        for (position, kind, message) in findings {
            self.report_finding(&position, kind, message);
        }
    }

    /// Adds the chain of a line if the line is its first.
    fn add_chain(&mut self, position: &LogPosition, link: &ChainLink, event: Option<LogEvent>) {
        if self.chains.contains_key(&link.id) {
            return;
        }
        if link.seq > 0 && !self.partial {
            let message =
                format!("chain {} begins here with its line {}; what stood before is missing", link.id, link.seq);
            self.report_finding(position, FindingKind::Removed, message);
        }
        if link.seq == 0 && event != Some(LogEvent::Begin) {
            self.report_finding(position, FindingKind::Forged, format!("chain {} has no signed beginning", link.id));
        }
        let state = ChainState {
            order: self.chains.len(),
            next: link.seq,
            hash: link.prev.clone(),
            from: position.clone(),
            to: position.clone(),
            proven: position.clone(),
            records: 0,
            lost: 0,
            unsigned: 0,
            signed: false,
            forged: link.seq == 0 && event != Some(LogEvent::Begin),
            close: ChainClose::Open,
        };
        self.chains.insert(link.id.clone(), state);
    }

    /// Verifies the lines before a new chain by what its first line says about them.
    fn begin(&mut self, position: &LogPosition, line: &ParsedLine<'_>) {
        if let Some(torn) = &line.torn
            && let Some(at) = self.unchained.iter().position(|(_, hash)| hash == torn)
        {
            self.unchained.remove(at);
        }
        let Some(after) = &line.after else { return };
        let message = match self.chains.get_mut(&after.id) {
            Some(before) if before.next == after.seq.saturating_add(1) && before.hash == after.hash => {
                if before.close == ChainClose::Open {
                    before.close = ChainClose::Continued;
                    before.unsigned = 0;
                }
                return;
            }
            // another process continued it meanwhile, which its own lines prove
            Some(before) if before.next > after.seq.saturating_add(1) => return,
            Some(before) if before.next == after.seq.saturating_add(1) => {
                let last = before.to.clone();
                let message = format!("it is not what line {} found when the next process began", position.line);
                self.report_finding(&last, FindingKind::Altered, message);
                return;
            }
            Some(before) => format!("lines {} to {} of chain {} should stand before", before.next, after.seq, after.id),
            None if self.partial => return,
            None => format!("chain {} should stand before, up to its line {}", after.id, after.seq),
        };
        self.report_finding(position, FindingKind::Removed, message);
    }

    /// Verifies the signature of a line. Returns the id of the key.
    fn signing_key(&self, line: &[u8]) -> Result<Option<String>, LineSignatureError> {
        #[derive(Deserialize)]
        struct Header {
            alg: String,
            typ: String,
            kid: String,
        }
        #[derive(Deserialize)]
        struct Claims {
            hash: String,
        }
        let (line, jws) = split_signature(line).ok_or(LineSignatureError::Missing)?;
        let unreadable = LineSignatureError::Unreadable;
        let (message, mark) = jws.rsplit_once('.').ok_or(unreadable)?;
        let (header, claims) = message.split_once('.').ok_or(unreadable)?;
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| unreadable);
        let header: Header = serde_json::from_slice(&decode(header)?).map_err(|_| unreadable)?;
        let claims: Claims = serde_json::from_slice(&decode(claims)?).map_err(|_| unreadable)?;
        // a verifier may ignore unused bits at the end, which could then be changed unnoticed; decoding rejects them
        decode(mark)?;
        if header.typ != TYP || header.alg != "ES256" {
            return Err(LineSignatureError::OtherKind);
        }
        if claims.hash != hash(&line) {
            return Err(LineSignatureError::OtherLine);
        }
        let Some(keys) = self.keys else { return Ok(Some(header.kid)) };
        match keys.verify(Some(&header.kid), Algorithm::ES256, message, mark) {
            Ok(()) => Ok(Some(header.kid)),
            Err(Cause::UnknownKey) => Err(LineSignatureError::UnknownKey),
            Err(_) => Err(LineSignatureError::Invalid),
        }
    }

    fn report_finding(&mut self, position: &LogPosition, kind: FindingKind, message: String) {
        if self.report.findings.len() < MAX_FINDINGS {
            self.report.findings.push(Finding { position: position.clone(), kind, message });
        } else {
            self.report.more_findings += 1;
        }
    }

    /// Ends the verification. `cut` is the last line, if it has no line end.
    #[must_use]
    pub fn finish(mut self, cut: Option<&LogPosition>) -> VerificationReport {
        for (position, _) in std::mem::take(&mut self.unchained) {
            if cut == Some(&position) {
                // a partial log may end in the middle of a line that is being written
                if self.partial {
                    self.report.unproven += 1;
                } else {
                    self.report_finding(&position, FindingKind::Truncated, "the line is cut off".to_owned());
                }
            } else {
                let message = "it is of no chain: put in, or altered beyond reading".to_owned();
                self.report_finding(&position, FindingKind::Inserted, message);
            }
        }
        let mut chains: Vec<_> = std::mem::take(&mut self.chains).into_iter().collect();
        chains.sort_unstable_by_key(|(_, state)| state.order);
        // the signed beginning of the next chain proves a chain as well
        let unsigned = |state: &ChainState| !state.signed && !state.forged && state.close != ChainClose::Continued;
        for (id, state) in chains.iter().filter(|(_, state)| unsigned(state)) {
            let message = format!("chain {id} has no valid signature: nothing proves its lines");
            self.report_finding(&state.from, FindingKind::Forged, message);
        }
        self.report.chains = chains
            .into_iter()
            .map(|(id, state)| ChainSummary {
                id,
                from: state.from,
                to: state.to,
                records: state.records,
                lost: state.lost,
                close: state.close,
                unsigned: state.unsigned,
            })
            .collect();
        self.report.records = self.report.chains.iter().map(|chain| chain.records).sum();
        self.report.lost = self.report.chains.iter().map(|chain| chain.lost).sum();
        self.report.unproven += self.report.chains.iter().map(|chain| chain.unsigned).sum::<u64>();
        let position = |finding: &Finding| (Arc::clone(&finding.position.file), finding.position.line);
        self.report.findings.sort_by_key(position);
        self.report
    }
}
