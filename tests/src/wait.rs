//! Waiting for a condition.

use std::time::{Duration, Instant};

/// How long a test waits for anything. Generous, since only a failing test reaches it.
pub const TIMEOUT: Duration = Duration::from_secs(20);

/// Waits until `check` returns a value.
pub fn eventually<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> Result<T, String> {
    let started = Instant::now();
    loop {
        if let Some(value) = check() {
            return Ok(value);
        }
        if started.elapsed() > TIMEOUT {
            return Err(format!("timed out waiting for: {what}"));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
