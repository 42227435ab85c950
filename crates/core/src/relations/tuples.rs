//! The tuples of one service, indexed.

use super::names::{Name, Names};
use super::tuple::{Subject, Tuple};
use foldhash::fast::RandomState;
use imbl::shared_ptr::DefaultSharedPtr;
use imbl::{GenericHashMap, GenericOrdMap};
use std::collections::BTreeSet;
use std::sync::Arc;

/// What kind of subject a tuple has; any greater number is the relation of a set, moved up by [`FIRST_SET`].
pub(super) type Kind = u32;
pub(super) const PRINCIPAL: Kind = 0;
pub(super) const EVERYBODY: Kind = 1;
pub(super) const OBJECT: Kind = 2;
const FIRST_SET: Kind = 3;

/// A tuple in numbers: 16 bytes, in the order in which a search looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) object: Name,
    pub(super) relation: Name,
    pub(super) kind: Kind,
    pub(super) subject: Name,
}

impl Key {
    /// The relation of the set that is the subject.
    pub(super) fn set(&self) -> Option<Name> {
        self.kind.checked_sub(FIRST_SET)
    }
}

/// The tuples of one service. A clone is cheap and shares what did not change, so a change costs in proportion to
/// the `Relationship` that changes.
#[derive(Debug, Clone, Default)]
pub struct Tuples {
    pub(super) names: Names,
    /// Each tuple with the number of times that it is stated.
    pub(super) index: GenericOrdMap<Key, u32, DefaultSharedPtr>,
    /// What each `Relationship` states.
    sources: GenericHashMap<Arc<str>, Arc<[Key]>, RandomState, DefaultSharedPtr>,
    /// `Relationship`s that state what is not known here.
    lost: BTreeSet<Arc<str>>,
}

impl Tuples {
    /// Puts what a `Relationship` states in place of what it stated before.
    pub fn put(&mut self, source: &str, tuples: &[Tuple]) {
        self.lost.remove(source);
        let old = self.sources.remove(source);
        let keys: Arc<[Key]> = tuples.iter().map(|tuple| self.enter(tuple)).collect();
        // after the new ones came in: what both state is never forgotten on the way
        old.iter().flat_map(|keys| keys.iter()).for_each(|key| self.withdraw(*key));
        if !keys.is_empty() {
            self.sources.insert(source.into(), keys);
        }
    }

    /// Takes away what a `Relationship` states.
    pub fn take(&mut self, source: &str) {
        self.put(source, &[]);
    }

    /// Notes that a `Relationship` states what is not known here: as long as it does, whatever an exclusion does not find may
    /// yet be there, and nobody passes by that.
    pub fn lose(&mut self, source: &str) {
        self.take(source);
        self.lost.insert(source.into());
    }

    /// The first `Relationship` that states what is not known here, if there is any.
    #[must_use]
    pub fn lost(&self) -> Option<&str> {
        self.lost.first().map(AsRef::as_ref)
    }

    /// Number of different tuples.
    #[must_use]
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Each tuple, once, in no order.
    pub fn stated(&self) -> impl Iterator<Item = Tuple> {
        self.index.keys().filter_map(|key| {
            let text = |name| self.names.text(name);
            let subject = match (key.kind, key.set()) {
                (EVERYBODY, _) => Subject::Everybody,
                (_, None) => text(key.subject).parse().ok()?,
                (_, Some(set)) => Subject::Set(text(key.subject).parse().ok()?, text(set).into()),
            };
            Some(Tuple { object: text(key.object).parse().ok()?, relation: text(key.relation).into(), subject })
        })
    }

    /// Whether there is none, known or not.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.index.is_empty() && self.lost.is_empty()
    }

    fn enter(&mut self, tuple: &Tuple) -> Key {
        let object = self.names.number(tuple.object.as_str());
        let relation = self.names.number(&tuple.relation);
        let (kind, subject) = match &tuple.subject {
            Subject::Principal(id) => (PRINCIPAL, self.names.number(&id.to_string())),
            Subject::Everybody => (EVERYBODY, object),
            Subject::Object(other) => (OBJECT, self.names.number(other.as_str())),
            Subject::Set(other, set) => {
                (self.names.number(set).saturating_add(FIRST_SET), self.names.number(other.as_str()))
            }
        };
        let key = Key { object, relation, kind, subject };
        match self.index.get_mut(&key) {
            Some(times) => *times += 1,
            None => {
                self.index.insert(key, 1);
                names(&key).for_each(|name| self.names.hold(name));
            }
        }
        key
    }

    fn withdraw(&mut self, key: Key) {
        match self.index.get_mut(&key) {
            Some(times) if *times > 1 => *times -= 1,
            Some(_) => {
                self.index.remove(&key);
                names(&key).for_each(|name| self.names.release(name));
            }
            None => {}
        }
    }

    /// Whether a tuple is there.
    pub(super) fn has(&self, key: Key) -> bool {
        self.index.contains_key(&key)
    }

    /// Objects that stand in a relation to an object, in no order that anybody may rely on.
    pub(super) fn objects(&self, object: Name, relation: Name) -> impl Iterator<Item = &Key> {
        self.between(object, relation, OBJECT, OBJECT)
    }

    /// Sets that stand in a relation to an object, in no order that anybody may rely on.
    pub(super) fn sets(&self, object: Name, relation: Name) -> impl Iterator<Item = &Key> {
        self.between(object, relation, FIRST_SET, Kind::MAX)
    }

    fn between(&self, object: Name, relation: Name, first: Kind, last: Kind) -> impl Iterator<Item = &Key> {
        let from = Key { object, relation, kind: first, subject: 0 };
        let to = Key { kind: last, subject: Name::MAX, ..from };
        self.index.range(from..=to).map(|(key, _)| key)
    }

    /// A tuple in words.
    pub(super) fn describe(&self, key: &Key) -> String {
        let text = |name| self.names.text(name);
        let (object, relation, subject) = (text(key.object), text(key.relation), text(key.subject));
        match (key.kind, key.set()) {
            (EVERYBODY, _) => format!("{object}#{relation}@*"),
            (_, Some(set)) => format!("{object}#{relation}@{subject}#{}", text(set)),
            _ => format!("{object}#{relation}@{subject}"),
        }
    }
}

/// Every name in a tuple.
fn names(key: &Key) -> impl Iterator<Item = Name> {
    [key.object, key.relation, key.subject].into_iter().chain(key.set())
}
