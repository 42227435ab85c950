//! A compact map that is built once and read often.

use foldhash::fast::RandomState;
use std::borrow::Borrow;
use std::hash::{BuildHasher, Hash};

/// Values by key, sorted by the keys' hashes. The hash is seeded per process. A key can have several values.
/// For one or two keys, as most services have, it takes a fifth of the memory of a hash map and is as fast.
#[derive(Debug)]
pub(crate) struct Lookup<K, V> {
    seed: RandomState,
    entries: Box<[(u64, K, V)]>,
}

impl<K, V> Default for Lookup<K, V> {
    fn default() -> Self {
        Self { seed: RandomState::default(), entries: Box::default() }
    }
}

impl<K: Hash, V> FromIterator<(K, V)> for Lookup<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let seed = RandomState::default();
        let mut entries: Box<[_]> = entries.into_iter().map(|(key, value)| (seed.hash_one(&key), key, value)).collect();
        entries.sort_by_key(|(hash, ..)| *hash);
        Self { seed, entries }
    }
}

impl<K, V> Lookup<K, V> {
    /// The values of a key, in the order of insertion.
    pub(crate) fn get<'l, Q>(&'l self, key: &'l Q) -> impl Iterator<Item = &'l V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        // an empty map needs no hash
        let hash = if self.entries.is_empty() { 0 } else { self.seed.hash_one(key) };
        let from = self.entries.partition_point(|(other, ..)| *other < hash);
        let alike = self.entries.iter().skip(from).take_while(move |(other, ..)| *other == hash);
        alike.filter(move |(_, other, _)| other.borrow() == key).map(|(.., value)| value)
    }

    /// All values, in no particular order.
    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.entries.iter().map(|(.., value)| value)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn get_returns_the_inserted_values(entries: Vec<(u8, u16)>, keys: Vec<u8>) {
            let mut expected: BTreeMap<u8, Vec<u16>> = BTreeMap::new();
            entries.iter().for_each(|(key, value)| expected.entry(*key).or_default().push(*value));
            let lookup: Lookup<u8, u16> = entries.iter().copied().collect();
            for key in keys.iter().chain(expected.keys()) {
                let found: Vec<u16> = lookup.get(key).copied().collect();
                prop_assert_eq!(found, expected.get(key).cloned().unwrap_or_default());
            }
            prop_assert_eq!(lookup.values().count(), entries.len());
            prop_assert_eq!(lookup.is_empty(), entries.is_empty());
        }
    }
}
