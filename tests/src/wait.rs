//! Waiting for a condition.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The time limit of every wait. It is generous, since only a failing test reaches it.
pub const TIMEOUT: Duration = Duration::from_secs(60);

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

/// Sets a flag when it goes out of scope, so a failed assertion also ends the threads of a `thread::scope`. The scope
/// waits for them.
#[derive(Debug)]
pub struct StopOnDrop<'f>(pub &'f AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
