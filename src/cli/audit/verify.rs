//! `durward audit verify`: check that an audit log is complete and unaltered.

use crate::cli::cluster::block_on;
use crate::cli::outcome::{CommandOutcome, CommandResult};
use crate::cli::output::OutputFormat;
use durward_authn::KeySource;
use durward_authn::keys::{KeySet, fetch_jwks};
use durward_engine::audit::is_log_event;
use durward_engine::audit::verify::{ChainClose, LogPosition, LogVerifier, VerificationReport};
use serde::Serialize;
use std::fmt::Write;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::PathBuf;
use std::sync::Arc;
use thiserror::Error;

/// Longest line that is read, in bytes. No record is longer.
const MAX_LINE: u64 = 256 * 1024;
/// Lines at the beginning of a file that are searched for its first record.
const LINES_WITH_TIME: usize = 10;

#[derive(Debug, clap::Args)]
#[command(after_help = "Exit codes: 0 the log is intact, 1 it is not, 2 unknown or unproven: without --keys,\n\
                        when the log has no end, or when lines after its last signature are not proven.\n\n\
                        Examples:\n  durward audit keys > keys.json && durward audit verify audit.log.1 audit.log --keys keys.json\n  \
                        zcat audit.log.2.gz | durward audit verify - --partial --keys keys.json")]
pub(crate) struct VerifyCommand {
    /// The audit log, or all files of a rotated log; `-` is standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Public keys of the installation (a JWKS), from `durward audit keys` or the token listener
    #[arg(long, value_name = "FILE|URL")]
    keys: Option<String>,
    /// Accept a part of a log, or a log that is still written: lines before the first and after the last may be missing
    #[arg(long)]
    partial: bool,
    /// Output format
    #[arg(long, short, value_enum, default_value_t)]
    output: OutputFormat,
}

/// The result for a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
enum LogVerdict {
    Intact,
    Broken,
    Unknown,
    Unproven,
}

#[derive(Debug, Serialize)]
struct VerificationOutput {
    verdict: LogVerdict,
    /// Whether the log may lack its beginning and end.
    partial: bool,
    #[serde(flatten)]
    report: VerificationReport,
}

/// A log that can't be verified.
#[derive(Debug, Error)]
enum LogVerificationError {
    #[error("cannot read the keys in {from}: {reason}")]
    Keys { from: String, reason: String },
    #[error("cannot read the audit log {file}: {source}")]
    Log { file: Arc<str>, source: io::Error },
    #[error("the files contain no line of an audit log")]
    Empty,
    #[error(
        "the log has no end, so lines may be missing; if it is still written or continues in other files, add --partial"
    )]
    NoEnd,
    #[error("the signatures are not checked; name the installation's keys with --keys")]
    NoKeys,
    #[error(
        "no signature proves the last {lines} lines; verify them again with the next checkpoint, which a process writes \
         10 s after an unsigned line"
    )]
    Unproven { lines: u64 },
}

impl VerifyCommand {
    pub(crate) fn run(self) -> CommandResult {
        let keys = self.keys.as_deref().map(read_keys).transpose()?;
        let mut verifier = LogVerifier::new(keys.as_ref(), self.partial);
        let mut files = self.files.iter().map(LogFile::open).collect::<Result<Vec<_>, _>>()?;
        sort_by_time(&mut files);
        let incomplete_line = feed(files, &mut verifier)?;
        let report = verifier.finish(incomplete_line.as_ref());
        let broken = !report.findings.is_empty();
        if report.chains.is_empty() && (report.lines == 0 || report.records == 0) {
            return Err(LogVerificationError::Empty.into());
        }
        let unknown = !report.signatures_checked || (report.is_open() && !self.partial);
        let verdict = match (broken, unknown, report.unproven) {
            (true, _, _) => LogVerdict::Broken,
            (false, true, _) => LogVerdict::Unknown,
            (false, false, 1..) => LogVerdict::Unproven,
            (false, false, 0) => LogVerdict::Intact,
        };
        let output = VerificationOutput { verdict, partial: self.partial, report };
        self.output.print(&output, text)?;
        match verdict {
            LogVerdict::Intact => Ok(CommandOutcome::Success),
            LogVerdict::Broken => Ok(CommandOutcome::Negative),
            LogVerdict::Unproven => Err(LogVerificationError::Unproven { lines: output.report.unproven }.into()),
            LogVerdict::Unknown if output.report.signatures_checked => Err(LogVerificationError::NoEnd.into()),
            LogVerdict::Unknown => Err(LogVerificationError::NoKeys.into()),
        }
    }
}

/// Reads the keys from a file or URL.
fn read_keys(from: &str) -> Result<KeySet, LogVerificationError> {
    let failed =
        |error: &dyn std::fmt::Display| LogVerificationError::Keys { from: from.to_owned(), reason: error.to_string() };
    let json = if from.contains("://") {
        let source = KeySource::Url(KeySource::url(from).map_err(|error| failed(&error))?);
        let fetched = block_on(fetch_jwks(&source)).map_err(|error| failed(&error))?;
        fetched.map_err(|error| failed(&error))?
    } else {
        std::fs::read(from).map_err(|error| failed(&error))?
    };
    KeySet::parse(&json).map_err(|error| failed(&error))
}

/// One file of the log.
struct LogFile {
    name: Arc<str>,
    reader: Box<dyn BufRead>,
    /// The bytes that were read to find the time.
    beginning: Vec<u8>,
    /// Time of the first record, empty if none was found.
    time: String,
}

impl LogFile {
    fn open(path: &PathBuf) -> Result<Self, LogVerificationError> {
        let name: Arc<str> = path.display().to_string().into();
        let mut reader: Box<dyn BufRead> = if &*name == "-" {
            Box::new(BufReader::new(io::stdin()))
        } else {
            Box::new(BufReader::new(File::open(path).map_err(|error| unreadable(&name, error))?))
        };
        let mut beginning = Vec::new();
        let mut time = String::new();
        for _ in 0..LINES_WITH_TIME {
            let start = beginning.len();
            let read = reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut beginning);
            read.map_err(|error| unreadable(&name, error))?;
            let line = beginning.get(start..).unwrap_or_default();
            // a line of the chain itself can carry a later time than the records that follow it
            if is_log_event(line) {
                continue;
            }
            let line: Result<serde_json::Value, _> = serde_json::from_slice(line);
            // all times are UTC in one format, so their text sorts by time
            if let Some(found) = line.ok().as_ref().and_then(|line| line.get("time")?.as_str()) {
                found.clone_into(&mut time);
                break;
            }
        }
        Ok(Self { name, reader, beginning, time })
    }
}

/// Sorts the files of a log by the time of their first record, whatever their names.
///
/// A file too small for a whole record stays behind the one before it. A forged time shows as lines out of order.
fn sort_by_time(files: &mut [LogFile]) {
    for at in 1..files.len() {
        if let Ok([before, file]) = files.get_disjoint_mut([at - 1, at])
            && file.time.is_empty()
        {
            before.time.clone_into(&mut file.time);
        }
    }
    files.sort_by(|a, b| a.time.cmp(&b.time));
}

/// Verifies all files as one text; returns the position of the last line if it has no end.
fn feed(files: Vec<LogFile>, verifier: &mut LogVerifier<'_>) -> Result<Option<LogPosition>, LogVerificationError> {
    let mut line = Vec::new();
    let mut position = None::<LogPosition>;
    for LogFile { name, reader, beginning, .. } in files {
        let mut reader = beginning.as_slice().chain(reader);
        let mut number = 1;
        loop {
            let read = reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut line);
            if read.map_err(|error| unreadable(&name, error))? == 0 {
                break;
            }
            // a line without end continues in the next file
            let at = position.get_or_insert_with(|| LogPosition { file: Arc::clone(&name), line: number });
            if line.ends_with(b"\n") || line.len() as u64 >= MAX_LINE {
                number += u64::from(line.ends_with(b"\n"));
                line.pop_if(|last| *last == b'\n');
                verifier.line(at, &line);
                line.clear();
                position = None;
            }
        }
    }
    if let Some(at) = &position {
        verifier.line(at, &line);
    }
    Ok(position)
}

fn unreadable(name: &Arc<str>, source: io::Error) -> LogVerificationError {
    LogVerificationError::Log { file: Arc::clone(name), source }
}

fn text(output: &VerificationOutput) -> String {
    let report = &output.report;
    let mut text = String::new();
    for finding in &report.findings {
        let kind = format!("{:?}", finding.kind).to_lowercase();
        let _ = writeln!(text, "{}: {kind}: {}", finding.position, finding.message);
    }
    if report.more_findings > 0 {
        let _ = writeln!(text, "and {} more", report.more_findings);
    }
    for chain in &report.chains {
        let close = match chain.close {
            ChainClose::Ended => "ended",
            ChainClose::Continued => "continued by the next",
            ChainClose::Open => "without end",
        };
        let lost = if chain.lost > 0 { format!(", {} lost while writing", chain.lost) } else { String::new() };
        let tail = if chain.unsigned > 0 { format!(", {} lines not proven", chain.unsigned) } else { String::new() };
        let _ = writeln!(
            text,
            "chain {}: {} records from {} to {}{lost}, {close}{tail}",
            chain.id, chain.records, chain.from, chain.to
        );
    }
    let verdict = match output.verdict {
        LogVerdict::Intact if output.partial => "INTACT   the lines are complete and unaltered",
        LogVerdict::Intact => "INTACT   the log is complete and unaltered",
        LogVerdict::Broken => "BROKEN   the log is incomplete or altered",
        LogVerdict::Unknown => "UNKNOWN  the lines are consistent",
        LogVerdict::Unproven => "UNPROVEN no signature proves the last lines",
    };
    let keys = report.keys.iter().cloned().collect::<Vec<_>>().join(", ");
    let signed = if report.signatures_checked { "signed by" } else { "signatures not checked: signed by" };
    let _ = writeln!(
        text,
        "{verdict}; {} records, {signed} {}",
        report.records,
        if keys.is_empty() { "no key" } else { &keys }
    );
    text
}
