//! Slots for requests that are processed at once, of which one source has only a share.

use crate::listener_metrics::ListenerMetrics;
use crate::source::{SourceAddress, share_of};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Share of the slots that one source may have, in percent.
const SHARE: u8 = 50;

/// The slots of an endpoint. A slot is for a caller whose credential was verified: an invalid one must not take it.
#[derive(Debug, Clone)]
pub struct SourceSlots(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    endpoint: &'static str,
    free: Arc<Semaphore>,
    /// Taken slots by source.
    taken: Mutex<HashMap<SourceAddress, usize>>,
    share: usize,
    metrics: ListenerMetrics,
}

/// A slot, until dropped.
#[derive(Debug)]
pub struct SourceSlot {
    slots: SourceSlots,
    source: SourceAddress,
    _permit: OwnedSemaphorePermit,
}

impl SourceSlots {
    /// That many slots for the endpoint of this name.
    #[must_use]
    pub fn new(endpoint: &'static str, count: usize, metrics: ListenerMetrics) -> Self {
        let free = Arc::new(Semaphore::new(count));
        Self(Arc::new(Shared { endpoint, free, taken: Mutex::default(), share: share_of(count, SHARE), metrics }))
    }

    /// Takes a slot; `None` if none is free, or if the source has its share.
    #[must_use]
    pub fn try_acquire(&self, source: IpAddr) -> Option<SourceSlot> {
        let source = SourceAddress::from(source);
        let mut taken = self.0.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.get(&source).is_some_and(|count| *count >= self.0.share) {
            self.0.metrics.slot_refused(self.0.endpoint, "source_share");
            return None;
        }
        let Ok(permit) = Arc::clone(&self.0.free).try_acquire_owned() else {
            self.0.metrics.slot_refused(self.0.endpoint, "full");
            return None;
        };
        *taken.entry(source).or_default() += 1;
        drop(taken);
        Some(SourceSlot { slots: self.clone(), source, _permit: permit })
    }
}

impl Drop for SourceSlot {
    fn drop(&mut self) {
        let mut taken = self.slots.0.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_source_takes_at_most_its_share() {
        let slots = SourceSlots::new("test", 4, ListenerMetrics::default());
        let [one, two, three] = [1, 2, 3].map(|host| IpAddr::from([10, 0, 0, host]));
        let first: Vec<_> = (0..4).map_while(|_| slots.try_acquire(one)).collect();
        assert_eq!(first.len(), 2);
        let second: Vec<_> = (0..4).map_while(|_| slots.try_acquire(two)).collect();
        assert_eq!(second.len(), 2);
        assert!(slots.try_acquire(three).is_none(), "all slots are taken");
        drop(first);
        assert!(slots.try_acquire(three).is_some(), "dropped slots are free again");
        drop(second);
        let nothing_kept = slots.0.taken.lock().is_ok_and(|taken| taken.is_empty());
        assert!(nothing_kept, "sources without a slot are forgotten");
    }
}
