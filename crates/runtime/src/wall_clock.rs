//! Deadlines in wall-clock time. A timer counts monotonic time: it stands still while the host sleeps, and does not
//! notice that the clock was set.

use std::future::Future;
use std::time::{Duration, SystemTime};
use tokio::time::sleep;

/// Longest time until a deadline notices that the host slept or that the clock was set: an expired certificate is in use
/// for no longer.
pub const CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// Sleeps until the clock shows `deadline`, whether the time until then passed, the host slept, or the clock was set.
pub async fn sleep_until(deadline: SystemTime) {
    sleep_until_by(SystemTime::now, deadline, sleep).await;
}

async fn sleep_until_by<F: Future<Output = ()>>(
    now: impl Fn() -> SystemTime,
    deadline: SystemTime,
    sleep: impl Fn(Duration) -> F,
) {
    while let Ok(remaining) = deadline.duration_since(now())
        && !remaining.is_zero()
    {
        sleep(remaining.min(CHECK_INTERVAL)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    /// Sleeps until a deadline an hour ahead. `step` changes the clock during each sleep; returns the number of sleeps.
    async fn sleeps(step: impl Fn(u32, Duration) -> Duration) -> u32 {
        let (clock, count) = (Cell::new(SystemTime::UNIX_EPOCH), Cell::new(0));
        let deadline = SystemTime::UNIX_EPOCH + Duration::from_secs(3600);
        let sleep = |pause| {
            clock.set(clock.get() + step(count.get(), pause));
            count.set(count.get() + 1);
            std::future::ready(())
        };
        sleep_until_by(|| clock.get(), deadline, sleep).await;
        assert!(clock.get() >= deadline, "it ends no earlier");
        count.get()
    }

    #[tokio::test]
    async fn a_deadline_notices_sleep_and_steps_of_the_clock() {
        assert_eq!(sleeps(|_, pause| pause).await, 1800, "time that passes");
        assert_eq!(sleeps(|count, pause| pause + Duration::from_secs(3600) * u32::from(count == 2)).await, 3, "a step");
        assert_eq!(sleeps(|_, pause| pause + Duration::from_secs(598)).await, 6, "naps of ten minutes");
    }

    #[tokio::test]
    async fn a_deadline_in_the_past_ends_at_once() {
        sleep_until(SystemTime::UNIX_EPOCH).await;
    }
}
