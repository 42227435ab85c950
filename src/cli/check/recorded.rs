//! A decision of the audit log, to be explained.

use crate::cli::Failure;
use chrono::{DateTime, Utc};
use durward_core::snapshot::Snapshot;
use durward_engine::audit::Record;
use durward_engine::audit::replay::{decide_again, differences};
use serde::Serialize;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::str::FromStr;

/// Which record of a log.
#[derive(Debug, Clone)]
pub(super) struct Which {
    file: PathBuf,
    record: One,
}

#[derive(Debug, Clone)]
enum One {
    Line(u64),
    Id(String),
    Last,
}

impl FromStr for Which {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let whole = || Self { file: text.into(), record: One::Last };
        Ok(match text.rsplit_once(':') {
            Some((file, number)) if number.parse::<u64>().is_ok() => {
                Self { file: file.into(), record: One::Line(number.parse().unwrap_or_default()) }
            }
            Some((file, id)) if is_id(id) => Self { file: file.into(), record: One::Id(id.to_owned()) },
            _ => whole(),
        })
    }
}

/// Whether a text is the name of a decision: two numbers in hexadecimal.
fn is_id(text: &str) -> bool {
    let is_hex = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    text.split_once('-').is_some_and(|(process, number)| process.len() == 16 && is_hex(process) && is_hex(number))
}

impl Which {
    /// The line with the record, and its number.
    pub(super) fn find(&self) -> Result<(u64, String), Failure> {
        let name = self.file.display();
        let file = File::open(&self.file).map_err(|error| format!("can't read the audit log {name}: {error}"))?;
        let mut last = None;
        for (number, line) in (1..).zip(BufReader::new(file).lines()) {
            let line = line.map_err(|error| format!("can't read the audit log {name}: {error}"))?;
            match &self.record {
                One::Line(wanted) if *wanted == number => return Ok((number, line)),
                One::Line(_) => {}
                One::Id(wanted) => {
                    if line.contains(wanted) && read(number, &line).is_ok_and(|(_, record)| record.id == *wanted) {
                        return Ok((number, line));
                    }
                }
                One::Last => {
                    if read(number, &line).is_ok() {
                        last = Some((number, line));
                    }
                }
            }
        }
        let missing = match &self.record {
            One::Line(wanted) => format!("{name} has no line {wanted}"),
            One::Id(wanted) => format!("{name} has no decision {wanted}"),
            One::Last => format!("{name} holds no decision"),
        };
        last.ok_or_else(|| missing.into())
    }
}

/// The decision at a line.
pub(super) fn read(number: u64, line: &str) -> Result<(u64, Record<'_>), Failure> {
    let record = serde_json::from_str(line).map_err(|error| format!("line {number} holds no decision: {error}"))?;
    Ok((number, record))
}

/// What was decided then.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Recorded {
    pub(super) line: u64,
    pub(super) id: String,
    pub(super) time: DateTime<Utc>,
    pub(super) verdict: String,
    pub(super) reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cause: Option<String>,
    /// Fields in which it would be decided otherwise now: name, then, now.
    pub(super) differences: Vec<(&'static str, String, String)>,
}

pub(super) fn compared(line: u64, record: &Record<'_>, snapshot: &Snapshot) -> Recorded {
    let now = decide_again(record, snapshot);
    Recorded {
        line,
        id: record.id.clone(),
        time: record.time,
        verdict: record.verdict.to_string(),
        reason: record.reason.to_string(),
        cause: record.cause.clone(),
        differences: differences(record, &now),
    }
}
