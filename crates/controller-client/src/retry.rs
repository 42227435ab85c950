//! Pauses between failed requests to the controller.

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use std::time::Duration;

/// First pause: short, because a pod may wait for its identity before it starts.
pub const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// Pauses that grow with each failure, with jitter.
#[derive(Debug)]
pub struct RetryPauses(ExponentialBackoff);

impl RetryPauses {
    /// Pauses that begin with the shortest.
    #[must_use]
    pub fn new() -> Self {
        let pauses = ExponentialBuilder::default().with_min_delay(FIRST_PAUSE).with_max_delay(LONGEST_PAUSE);
        Self(pauses.with_jitter().without_max_times().build())
    }

    /// The next pause, after a failure.
    pub fn next_pause(&mut self) -> Duration {
        self.0.next().unwrap_or(LONGEST_PAUSE)
    }

    /// Begins again with the shortest pause, after a success.
    pub fn reset(&mut self) {
        *self = Self::new();
    }
}

impl Default for RetryPauses {
    fn default() -> Self {
        Self::new()
    }
}
