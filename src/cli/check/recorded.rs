//! Decisions of an audit log.

use chrono::{DateTime, Utc};
use durward_core::snapshot::Snapshot;
use durward_engine::audit::DecisionRecord;
use durward_engine::audit::replay::{decide_again, differences};
use serde::Serialize;
use std::convert::Infallible;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::PathBuf;
use std::str::FromStr;
use thiserror::Error;

/// The selected record can't be read.
#[derive(Debug, Error)]
pub(super) enum RecordError {
    #[error("cannot read the audit log {}: {source}", .file.display())]
    Read { file: PathBuf, source: io::Error },
    #[error("{} has no line {line}", .file.display())]
    NoLine { file: PathBuf, line: u64 },
    #[error("{} has no decision {id}", .file.display())]
    NoDecision { file: PathBuf, id: String },
    #[error("{} contains no decision", .0.display())]
    Empty(PathBuf),
    #[error("line {line} contains no decision: {source}")]
    Parse { line: u64, source: serde_json::Error },
}

/// A record of an audit log, as FILE, FILE:LINE or FILE:ID.
#[derive(Debug, Clone)]
pub(super) struct RecordSelector {
    file: PathBuf,
    position: RecordPosition,
}

#[derive(Debug, Clone)]
enum RecordPosition {
    Line(u64),
    Id(String),
    Last,
}

impl FromStr for RecordSelector {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        if let Some((file, suffix)) = text.rsplit_once(':') {
            if let Ok(line) = suffix.parse() {
                return Ok(Self { file: file.into(), position: RecordPosition::Line(line) });
            }
            if is_id(suffix) {
                return Ok(Self { file: file.into(), position: RecordPosition::Id(suffix.to_owned()) });
            }
        }
        Ok(Self { file: text.into(), position: RecordPosition::Last })
    }
}

/// Whether a text is a decision id: two hexadecimal numbers.
fn is_id(text: &str) -> bool {
    let is_hex = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    text.split_once('-').is_some_and(|(process, number)| process.len() == 16 && is_hex(process) && is_hex(number))
}

impl RecordSelector {
    /// Finds the record; returns the number and the text of its line.
    pub(super) fn find(&self) -> Result<(u64, String), RecordError> {
        let unreadable = |source| RecordError::Read { file: self.file.clone(), source };
        let log = File::open(&self.file).map_err(unreadable)?;
        let mut last = None;
        for (number, line) in (1..).zip(BufReader::new(log).lines()) {
            let line = line.map_err(unreadable)?;
            match &self.position {
                RecordPosition::Line(wanted) if *wanted == number => return Ok((number, line)),
                RecordPosition::Line(_) => {}
                RecordPosition::Id(wanted) => {
                    // a look at the text first saves parsing every line
                    if line.contains(wanted) && read(number, &line).is_ok_and(|(_, record)| record.id == *wanted) {
                        return Ok((number, line));
                    }
                }
                RecordPosition::Last => {
                    if read(number, &line).is_ok() {
                        last = Some((number, line));
                    }
                }
            }
        }
        last.ok_or_else(|| self.not_found())
    }

    fn not_found(&self) -> RecordError {
        let file = self.file.clone();
        match &self.position {
            RecordPosition::Line(line) => RecordError::NoLine { file, line: *line },
            RecordPosition::Id(id) => RecordError::NoDecision { file, id: id.clone() },
            RecordPosition::Last => RecordError::Empty(file),
        }
    }
}

/// Reads the record of a line.
pub(super) fn read(number: u64, line: &str) -> Result<(u64, DecisionRecord<'_>), RecordError> {
    let record = serde_json::from_str(line).map_err(|source| RecordError::Parse { line: number, source })?;
    Ok((number, record))
}

/// The recorded decision, compared with a new one.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RecordedDecision {
    pub(super) line: u64,
    pub(super) id: String,
    pub(super) time: DateTime<Utc>,
    pub(super) verdict: String,
    pub(super) reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cause: Option<String>,
    /// Each field that differs now: its name, the recorded value, the new value.
    pub(super) differences: Vec<(&'static str, String, String)>,
}

pub(super) fn compared(line: u64, record: &DecisionRecord<'_>, snapshot: &Snapshot) -> RecordedDecision {
    let now = decide_again(record, snapshot);
    RecordedDecision {
        line,
        id: record.id.clone(),
        time: record.time,
        verdict: record.verdict.to_string(),
        reason: record.reason.to_string(),
        cause: record.cause.clone(),
        differences: differences(record, &now),
    }
}
