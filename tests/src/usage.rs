//! CPU time and memory of a process, from `/proc`. A process is named by its id or `self`.

use std::fmt::Display;
use std::fs;
use std::time::Duration;

/// User and system CPU time since start, in steps of 10 ms. None if there is no such process.
pub fn cpu(process: impl Display) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // the program's name comes first, in parentheses, and may contain any byte
    let fields: Vec<&str> = stat.rsplit(") ").next()?.split(' ').collect();
    let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    Some(Duration::from_millis(ticks * 10))
}

/// Resident memory in kB. None if there is no such process.
pub fn resident(process: impl Display) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}
