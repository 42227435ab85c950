//! What a process of this machine has used, as Linux tells it. A process goes by its id, or by `self`.

use std::fmt::Display;
use std::fs;
use std::time::Duration;

/// CPU time since it began, its own and the kernel's for it, in steps of 10 ms; none if there is no such process.
pub fn cpu(process: impl Display) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // the program's name comes before, in parentheses, and may have any byte in it
    let fields: Vec<&str> = stat.rsplit(") ").next()?.split(' ').collect();
    let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    Some(Duration::from_millis(ticks * 10))
}

/// Resident memory, in kB; none if there is no such process.
pub fn resident(process: impl Display) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}
