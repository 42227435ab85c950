//! Texts that occur many times: each is kept once and has an id.

use imbl::shared_ptr::DefaultSharedPtr;
use imbl::{GenericOrdSet, GenericVector};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

/// Id of a text.
pub(super) type TextId = u32;

/// The texts in use. Clones share what did not change.
///
/// A text is found by its hash. `numbers` is sorted by hash and takes eight bytes a text, where a map from texts would
/// take several times that. The hash is `SipHash` with keys of this process, so no one can choose colliding texts.
/// Texts that collide by chance are compared.
#[derive(Debug, Clone, Default)]
pub(super) struct Names {
    hasher: RandomState,
    /// The hash of each text in use, in the upper half, with its id in the lower half.
    numbers: GenericOrdSet<u64, DefaultSharedPtr>,
    entries: GenericVector<NameEntry, DefaultSharedPtr>,
    free: GenericVector<TextId, DefaultSharedPtr>,
}

#[derive(Debug, Clone)]
struct NameEntry {
    text: Arc<str>,
    uses: u32,
}

impl Names {
    /// The id of a text that is in use.
    pub(super) fn find(&self, text: &str) -> Option<TextId> {
        let hash = self.hash(text);
        let mut found = self.numbers.range(placed(hash, 0)..=placed(hash, TextId::MAX)).map(|place| number_in(*place));
        found.find(|name| self.text(*name) == text)
    }

    /// The text with this id; empty for an unknown id.
    pub(super) fn text(&self, name: TextId) -> &str {
        self.entries.get(name as usize).map(|entry| entry.text.as_ref()).unwrap_or_default()
    }

    /// Every text in use with its id, in no particular order.
    pub(super) fn all(&self) -> impl Iterator<Item = (&str, TextId)> {
        self.numbers.iter().map(|place| (self.text(number_in(*place)), number_in(*place)))
    }

    /// The hash of a text: with 32 bits, a billion texts have few collisions each.
    fn hash(&self, text: &str) -> u32 {
        (self.hasher.hash_one(text) >> 32) as u32
    }

    /// The id of a text, which is added if it is missing. It is not in use before [`Names::hold`].
    pub(super) fn number(&mut self, text: &str) -> TextId {
        if let Some(name) = self.find(text) {
            return name;
        }
        let entry = NameEntry { text: text.into(), uses: 0 };
        let name = match self.free.pop_back() {
            Some(name) => {
                if let Some(place) = self.entries.get_mut(name as usize) {
                    *place = entry;
                }
                name
            }
            // four billion names do not fit in memory
            None => {
                let name = TextId::try_from(self.entries.len()).unwrap_or(TextId::MAX);
                self.entries.push_back(entry);
                name
            }
        };
        self.numbers.insert(placed(self.hash(text), name));
        name
    }

    /// Adds one use of the text.
    pub(super) fn hold(&mut self, name: TextId) {
        if let Some(entry) = self.entries.get_mut(name as usize) {
            entry.uses += 1;
        }
    }

    /// Removes one use of the text. A text without any use is removed, and its id is free again.
    pub(super) fn release(&mut self, name: TextId) {
        let Some(entry) = self.entries.get_mut(name as usize) else { return };
        entry.uses = entry.uses.saturating_sub(1);
        if entry.uses == 0 {
            let text = std::mem::take(&mut entry.text);
            self.numbers.remove(&placed(self.hash(&text), name));
            self.free.push_back(name);
        }
    }
}

/// The entry of a text in `numbers`.
const fn placed(hash: u32, name: TextId) -> u64 {
    ((hash as u64) << 32) | name as u64
}

/// The id in an entry of `numbers`.
#[expect(clippy::cast_possible_truncation, reason = "the number is the lower half")]
const fn number_in(place: u64) -> TextId {
    place as TextId
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Enough texts that some of them have the same hash.
    #[test]
    fn texts_with_the_same_hash_have_distinct_ids() {
        let texts: Vec<String> = (0..200_000).map(|number| format!("doc:{number}")).collect();
        let mut names = Names::default();
        let ids: Vec<TextId> = texts.iter().map(|text| names.number(text)).collect();
        ids.iter().for_each(|name| names.hold(*name));
        let hashes: std::collections::BTreeSet<u32> = texts.iter().map(|text| names.hash(text)).collect();
        assert!(hashes.len() < texts.len(), "none collide");
        for (text, name) in texts.iter().zip(&ids) {
            assert_eq!((names.find(text), names.text(*name)), (Some(*name), text.as_str()));
        }
        let before = names.clone();
        ids.iter().step_by(2).for_each(|name| names.release(*name));
        for (number, (text, name)) in texts.iter().zip(&ids).enumerate() {
            assert_eq!(names.find(text), (number % 2 == 1).then_some(*name), "{text}");
            assert_eq!(before.find(text), Some(*name));
        }
        assert_eq!(names.all().count(), texts.len() / 2);
        assert!(ids.contains(&names.number("another")), "a free id is used again");
    }
}
