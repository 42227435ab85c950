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
pub(crate) struct Backlog<K> {
    queue: DelayQueue<K>,
    waiting: HashMap<K, Slot>,
    failed: HashMap<K, ExponentialBackoff>,
    running: HashSet<K>,
}

impl<K: Clone + Eq + Hash> Backlog<K> {
    pub(crate) fn new() -> Self {
        Self { queue: DelayQueue::new(), waiting: HashMap::new(), failed: HashMap::new(), running: HashSet::new() }
    }

    /// Wants `key` done after `delay`. One that waits already keeps its place, unless that is later.
    pub(crate) fn push(&mut self, key: K, delay: Duration) {
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
    pub(crate) async fn next(&mut self) -> K {
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
    pub(crate) fn done(&mut self, key: &K) {
        self.running.remove(key);
        self.failed.remove(key);
    }

    /// `key` could not be done; it gets its turn again.
    pub(crate) fn failed(&mut self, key: K) {
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
    pub(crate) fn forget(&mut self, key: &K) {
        self.failed.remove(key);
        if let Some(slot) = self.waiting.remove(key) {
            self.queue.remove(&slot);
        }
    }
}
