//! A queue of keys to work on. Each key is handed out at most once at a time; a failed key comes back after a growing
//! pause with jitter.

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use futures::StreamExt;
use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::time::Duration;
use tokio_util::time::DelayQueue;
use tokio_util::time::delay_queue::Key as DelayKey;

/// First pause after a failure.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// Longest pause: writes resume within half a minute after the API server comes back.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Pause before the queue looks again at a key that was pushed while it is worked on.
const BUSY_PAUSE: Duration = Duration::from_millis(20);

/// Keys that wait, each with its time, and keys that are worked on.
#[derive(Debug)]
pub struct WorkQueue<K> {
    queue: DelayQueue<K>,
    waiting: HashMap<K, DelayKey>,
    failed: HashMap<K, ExponentialBackoff>,
    running: HashSet<K>,
}

impl<K: Clone + Eq + Hash> Default for WorkQueue<K> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Clone + Eq + Hash> WorkQueue<K> {
    /// An empty queue.
    pub fn new() -> Self {
        Self { queue: DelayQueue::new(), waiting: HashMap::new(), failed: HashMap::new(), running: HashSet::new() }
    }

    /// Schedules `key` after `delay`. If it is already scheduled, the earlier time wins.
    pub fn push(&mut self, key: K, delay: Duration) {
        match self.waiting.get(&key) {
            Some(slot) => {
                // the pause after a failure is never shortened
                if !self.failed.contains_key(&key) && self.queue.deadline(slot) > tokio::time::Instant::now() + delay {
                    self.queue.reset(slot, delay);
                }
            }
            None => self.insert(key, delay),
        }
    }

    fn insert(&mut self, key: K, delay: Duration) {
        let slot = self.queue.insert(key.clone(), delay);
        self.waiting.insert(key, slot);
    }

    /// Waits for the next key whose time has come. The queue does not hand it out again before [`WorkQueue::done`] or
    /// [`WorkQueue::failed`].
    pub async fn next(&mut self) -> K {
        loop {
            match self.queue.next().await {
                Some(expired) => {
                    let key = expired.into_inner();
                    self.waiting.remove(&key);
                    if self.running.insert(key.clone()) {
                        return key;
                    }
                    self.insert(key, BUSY_PAUSE);
                }
                None => std::future::pending().await,
            }
        }
    }

    /// Reports success of `key`, which resets its pause.
    pub fn done(&mut self, key: &K) {
        self.running.remove(key);
        self.failed.remove(key);
    }

    /// Reports failure of `key`, which schedules it again after its next pause.
    pub fn failed(&mut self, key: K) {
        self.running.remove(&key);
        let backoff = self.failed.entry(key.clone()).or_insert_with(|| {
            let pauses = ExponentialBuilder::default().with_min_delay(FIRST_PAUSE).with_max_delay(LONGEST_PAUSE);
            pauses.with_jitter().without_max_times().build()
        });
        let pause = backoff.next().unwrap_or(LONGEST_PAUSE);
        match self.waiting.get(&key) {
            // it was pushed again meanwhile
            Some(slot) => self.queue.reset(slot, pause),
            None => self.insert(key, pause),
        }
    }

    /// Removes `key` from the schedule, because its object is gone.
    pub fn forget(&mut self, key: &K) {
        self.failed.remove(key);
        if let Some(slot) = self.waiting.remove(key) {
            self.queue.remove(&slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::{Instant, timeout};

    async fn expect_next(queue: &mut WorkQueue<&'static str>, expected: &str) -> Duration {
        let started = Instant::now();
        let key = queue.next().await;
        assert_eq!(key, expected);
        started.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn each_key_is_due_once_at_its_earliest_time() {
        let mut queue = WorkQueue::new();
        queue.push("a", Duration::from_secs(10));
        queue.push("b", Duration::from_secs(5));
        queue.push("a", Duration::from_secs(1));
        queue.push("a", Duration::from_secs(20));
        assert!(expect_next(&mut queue, "a").await < Duration::from_secs(2));
        expect_next(&mut queue, "b").await;
        assert!(timeout(Duration::from_secs(60), queue.next()).await.is_err(), "the queue is empty");
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_in_progress_is_not_due_again() {
        let mut queue = WorkQueue::new();
        queue.push("a", Duration::ZERO);
        expect_next(&mut queue, "a").await;
        queue.push("a", Duration::ZERO);
        assert!(timeout(Duration::from_secs(1), queue.next()).await.is_err());
        queue.done(&"a");
        expect_next(&mut queue, "a").await;
    }

    #[tokio::test(start_paused = true)]
    async fn the_backoff_grows_with_each_failure_and_is_never_shortened() {
        let mut queue = WorkQueue::new();
        queue.push("a", Duration::ZERO);
        expect_next(&mut queue, "a").await;
        let mut total = Duration::ZERO;
        for _ in 0..8 {
            queue.failed("a");
            queue.push("a", Duration::ZERO);
            total += expect_next(&mut queue, "a").await;
        }
        assert!(total > Duration::from_secs(20), "{total:?}");
        queue.done(&"a");
        queue.push("a", Duration::ZERO);
        assert!(expect_next(&mut queue, "a").await < Duration::from_secs(1), "success resets the pause");
    }

    #[tokio::test(start_paused = true)]
    async fn a_forgotten_key_is_never_due() {
        let mut queue = WorkQueue::new();
        queue.push("a", Duration::ZERO);
        queue.forget(&"a");
        assert!(timeout(Duration::from_secs(60), queue.next()).await.is_err());
    }
}
