//! A cache of verified callers, bounded by the memory that it takes.

use crate::caller::VerifiedCaller;
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use std::hash::Hash;

/// Maximum memory of one cache, in bytes: some ten thousand callers of common size.
const CAPACITY: u64 = 8 * 1024 * 1024;
/// Number of entries for which a cache is prepared.
const ESTIMATED_ENTRIES: usize = 10_000;
/// Memory of an entry beside its identity, in bytes: the key, its audience, and the bookkeeping of the cache.
const ENTRY: usize = 256;

/// Verified callers, weighed by their memory.
pub(crate) type CallerCache<K> = Cache<K, VerifiedCaller, CallerWeight>;

/// The memory of a cached caller, in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CallerWeight;

impl<K> Weighter<K, VerifiedCaller> for CallerWeight {
    fn weight(&self, _key: &K, caller: &VerifiedCaller) -> u64 {
        u64::try_from(ENTRY.saturating_add(caller.principal.identity().size())).unwrap_or(u64::MAX)
    }
}

/// An empty cache.
pub(crate) fn caller_cache<K: Eq + Hash>() -> CallerCache<K> {
    Cache::with_weighter(ESTIMATED_ENTRIES, CAPACITY, CallerWeight)
}

#[cfg(test)]
mod tests {
    use super::*;
    use durward_core::principal::{Identity, Principal, PrincipalId};
    use durward_core::risk::Assurance;
    use std::sync::Arc;

    /// Two hundred groups in each of ten thousand tokens took 190 MB when entries were counted.
    #[test]
    fn large_callers_take_no_more_memory_than_small_ones() {
        for groups in [0, 200, 1000] {
            let cache = caller_cache::<usize>();
            let named = |number: usize| format!("a group with a rather long name {number}");
            let id = PrincipalId::user("corporate", "alice").expect("a name");
            let identity =
                Identity { groups: (0..groups).map(named).collect(), ..Identity::new(id, Assurance::Bearer) };
            let caller = VerifiedCaller::unbound(Arc::new(Principal::authenticated(identity)));
            let least = u64::try_from(groups * named(0).len()).expect("a size");
            assert!(CallerWeight.weight(&0, &caller) >= least);
            (0..20_000).for_each(|number| cache.insert(number, caller.clone()));
            assert!(cache.weight() <= CAPACITY, "{groups} groups");
            assert!(cache.weight() >= CAPACITY / 4 || groups == 0, "{groups} groups: {}", cache.weight());
        }
    }
}
