//! Awaiting a condition.

use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// How often a condition is looked at.
const INTERVAL: Duration = Duration::from_millis(50);

/// Calls `condition` until it gives a value. Errors of the condition end the wait at once.
///
/// # Errors
/// [`Error::Timeout`] naming `what` when it gave none within `limit`.
pub fn until<T>(what: &str, limit: Duration, mut condition: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(value) = condition()? {
            return Ok(value);
        }
        if start.elapsed() > limit {
            return Err(Error::Timeout { what: what.to_owned(), after: limit, logs: String::new() });
        }
        std::thread::sleep(INTERVAL);
    }
}
