//! Audit logs as tests read them.

use crate::eventually;
use serde_json::Value;
use std::fs;
use std::path::Path;

/// Waits for at least `count` records of decisions and issuances, and returns all.
pub fn records(log: &Path, count: usize) -> Vec<Value> {
    let read = || {
        let text = fs::read_to_string(log).unwrap_or_default();
        // the last line may be incomplete
        let complete = text.rsplit_once('\n').map_or("", |(complete, _)| complete);
        let lines = complete.lines().map(|line| serde_json::from_str(line).unwrap());
        let records: Vec<Value> = lines.filter(|line: &Value| !is_about_the_log(line)).collect();
        (records.len() >= count).then_some(records)
    };
    eventually(&format!("{count} audit records"), read).unwrap()
}

/// Waits for a record that `matches`, and returns the newest.
pub fn record(log: &Path, what: &str, matches: impl Fn(&Value) -> bool) -> Value {
    eventually(&format!("an audit record: {what}"), || records(log, 0).into_iter().rev().find(&matches)).unwrap()
}

/// Whether a line describes the log itself rather than a decision or an issuance.
pub fn is_about_the_log(line: &Value) -> bool {
    line["event"].as_str().is_some_and(|event| ["begin", "checkpoint", "gap", "end"].contains(&event))
}
