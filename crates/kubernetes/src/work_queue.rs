//! Work by key: each at most once at a time, a failed one again after a growing pause with jitter.

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use futures::StreamExt;
use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::time::Duration;
use tokio_util::time::DelayQueue;
use tokio_util::time::delay_queue::Key as Slot;

/// First pause after a failure.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// Longest pause: an API server that comes back is used again within half a minute.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Pause of a key that is wanted again while it is being worked on.
const BUSY_PAUSE: Duration = Duration::from_millis(20);

/// Keys that wait for their turn.
#[derive(Debug)]
pub struct Backlog<K> {
    queue: DelayQueue<K>,
    waiting: HashMap<K, Slot>,
    failed: HashMap<K, ExponentialBackoff>,
    running: HashSet<K>,
}

impl<K: Clone + Eq + Hash> Backlog<K> {
    pub fn new() -> Self {
        Self { queue: DelayQueue::new(), waiting: HashMap::new(), failed: HashMap::new(), running: HashSet::new() }
    }

    /// Wants `key` done after `delay`. One that waits already keeps its place, unless that is later.
    pub fn push(&mut self, key: K, delay: Duration) {
        match self.waiting.get(&key) {
            Some(slot) => {
                // a pause after a failure is not cut short
                if !self.failed.contains_key(&key) && self.queue.deadline(slot) > tokio::time::Instant::now() + delay {
                    self.queue.reset(slot, delay);
                }
            }
            None => self.wait(key, delay),
        }
    }

    fn wait(&mut self, key: K, delay: Duration) {
        let slot = self.queue.insert(key.clone(), delay);
        self.waiting.insert(key, slot);
    }

    /// The next key whose time has come; waits while there is none. It does not come again until it is done, failed or
    /// forgotten.
    pub async fn next(&mut self) -> K {
        loop {
            match self.queue.next().await {
                Some(expired) => {
                    let key = expired.into_inner();
                    self.waiting.remove(&key);
                    if self.running.insert(key.clone()) {
                        return key;
                    }
                    self.wait(key, BUSY_PAUSE);
                }
                None => std::future::pending().await,
            }
        }
    }

    /// `key` was done.
    pub fn done(&mut self, key: &K) {
        self.running.remove(key);
        self.failed.remove(key);
    }

    /// `key` could not be done; it gets its turn again.
    pub fn failed(&mut self, key: K) {
        self.running.remove(&key);
        let backoff = self.failed.entry(key.clone()).or_insert_with(|| {
            let pauses = ExponentialBuilder::default().with_min_delay(FIRST_PAUSE).with_max_delay(LONGEST_PAUSE);
            pauses.with_jitter().without_max_times().build()
        });
        let pause = backoff.next().unwrap_or(LONGEST_PAUSE);
        match self.waiting.get(&key) {
            // it was wanted again meanwhile
            Some(slot) => self.queue.reset(slot, pause),
            None => self.wait(key, pause),
        }
    }

    /// `key` no longer matters.
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

    async fn waits(backlog: &mut Backlog<&'static str>, expected: &str) -> Duration {
        let began = Instant::now();
        let key = backlog.next().await;
        assert_eq!(key, expected);
        began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn keys_come_once_each_and_the_earlier_wish_counts() {
        let mut backlog = Backlog::new();
        backlog.push("a", Duration::from_secs(10));
        backlog.push("b", Duration::from_secs(5));
        backlog.push("a", Duration::from_secs(1));
        backlog.push("a", Duration::from_secs(20));
        assert!(waits(&mut backlog, "a").await < Duration::from_secs(2));
        waits(&mut backlog, "b").await;
        assert!(timeout(Duration::from_secs(60), backlog.next()).await.is_err(), "nothing is left");
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_does_not_come_again_while_it_is_worked_on() {
        let mut backlog = Backlog::new();
        backlog.push("a", Duration::ZERO);
        waits(&mut backlog, "a").await;
        backlog.push("a", Duration::ZERO);
        assert!(timeout(Duration::from_secs(1), backlog.next()).await.is_err());
        backlog.done(&"a");
        waits(&mut backlog, "a").await;
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_with_each_failure_and_nothing_cuts_them_short() {
        let mut backlog = Backlog::new();
        backlog.push("a", Duration::ZERO);
        waits(&mut backlog, "a").await;
        let mut total = Duration::ZERO;
        for _ in 0..8 {
            backlog.failed("a");
            backlog.push("a", Duration::ZERO);
            total += waits(&mut backlog, "a").await;
        }
        assert!(total > Duration::from_secs(20), "{total:?}");
        backlog.done(&"a");
        backlog.push("a", Duration::ZERO);
        assert!(waits(&mut backlog, "a").await < Duration::from_secs(1), "a success begins anew");
    }

    #[tokio::test(start_paused = true)]
    async fn what_no_longer_matters_never_comes() {
        let mut backlog = Backlog::new();
        backlog.push("a", Duration::ZERO);
        backlog.forget(&"a");
        assert!(timeout(Duration::from_secs(60), backlog.next()).await.is_err());
    }
}
