//! Waiting for a condition.

use std::time::{Duration, Instant};

use crate::error::{ClusterError, ClusterResult};

/// The interval between checks.
const INTERVAL: Duration = Duration::from_millis(50);

/// Calls `condition` until it returns a value. An error ends the wait at once.
///
/// # Errors
/// [`ClusterError::Timeout`] with `what` after `limit`.
pub fn until<T>(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> ClusterResult<Option<T>>,
) -> ClusterResult<T> {
    let start = Instant::now();
    loop {
        if let Some(value) = condition()? {
            return Ok(value);
        }
        if start.elapsed() > limit {
            return Err(ClusterError::Timeout { what: what.to_owned(), after: limit, logs: String::new() });
        }
        std::thread::sleep(INTERVAL);
    }
}
