//! Audit logs as tests read them.

use crate::eventually;
use serde_json::Value;
use std::fs;
use std::path::Path;

/// The decisions and issuances in an audit log, once there are at least `count`.
pub fn records(log: &Path, count: usize) -> Vec<Value> {
    let read = || {
        let text = fs::read_to_string(log).unwrap_or_default();
        // a line that is still being written is none yet
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let lines = whole.lines().map(|line| serde_json::from_str(line).unwrap());
        let records: Vec<Value> = lines.filter(|line: &Value| !is_about_the_log(line)).collect();
        (records.len() >= count).then_some(records)
    };
    eventually(&format!("{count} audit records"), read).unwrap()
}

/// The newest record of an audit log that is so, once there is one.
pub fn record(log: &Path, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    eventually(&format!("a record of {what}"), || records(log, 0).into_iter().rev().find(&is)).unwrap()
}

/// Whether a line of the audit log is about the log itself.
pub fn is_about_the_log(line: &Value) -> bool {
    line["event"].as_str().is_some_and(|event| ["begin", "checkpoint", "gap", "end"].contains(&event))
}
