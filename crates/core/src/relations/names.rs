//! Texts that occur many times, each kept once and spoken of by number.

use foldhash::fast::RandomState;
use imbl::shared_ptr::DefaultSharedPtr;
use imbl::{GenericHashMap, GenericVector};
use std::sync::Arc;

/// Number of a text.
pub(super) type Name = u32;

/// Clones share what did not change.
#[derive(Debug, Clone, Default)]
pub(super) struct Names {
    numbers: GenericHashMap<Arc<str>, Name, RandomState, DefaultSharedPtr>,
    entries: GenericVector<Entry, DefaultSharedPtr>,
    free: GenericVector<Name, DefaultSharedPtr>,
}

#[derive(Debug, Clone)]
struct Entry {
    text: Arc<str>,
    uses: u32,
}

impl Names {
    /// The number of a text that is in use.
    pub(super) fn find(&self, text: &str) -> Option<Name> {
        self.numbers.get(text).copied()
    }

    /// The text with this number; empty for one that was never given.
    pub(super) fn text(&self, name: Name) -> &str {
        self.entries.get(name as usize).map(|entry| entry.text.as_ref()).unwrap_or_default()
    }

    /// Every text in use with its number, in no order.
    pub(super) fn all(&self) -> impl Iterator<Item = (&str, Name)> {
        self.numbers.iter().map(|(text, name)| (text.as_ref(), *name))
    }

    /// Numbers a text. It is not in use until [`Names::hold`] says so.
    pub(super) fn number(&mut self, text: &str) -> Name {
        if let Some(name) = self.find(text) {
            return name;
        }
        let entry = Entry { text: text.into(), uses: 0 };
        let text = Arc::clone(&entry.text);
        let name = match self.free.pop_back() {
            Some(name) => {
                if let Some(place) = self.entries.get_mut(name as usize) {
                    *place = entry;
                }
                name
            }
            // four billion names do not fit in memory
            None => {
                let name = Name::try_from(self.entries.len()).unwrap_or(Name::MAX);
                self.entries.push_back(entry);
                name
            }
        };
        self.numbers.insert(text, name);
        name
    }

    /// One more uses the text.
    pub(super) fn hold(&mut self, name: Name) {
        if let Some(entry) = self.entries.get_mut(name as usize) {
            entry.uses += 1;
        }
    }

    /// One fewer uses the text; without any use it is forgotten, and its number given away again.
    pub(super) fn release(&mut self, name: Name) {
        let Some(entry) = self.entries.get_mut(name as usize) else { return };
        entry.uses = entry.uses.saturating_sub(1);
        if entry.uses == 0 {
            let text = std::mem::take(&mut entry.text);
            self.numbers.remove(text.as_ref());
            self.free.push_back(name);
        }
    }
}
