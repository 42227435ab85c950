//! An index of the tuples of one service.

use super::names::{Names, TextId};
use super::tuple::{RelationTuple, TupleSubject};
use foldhash::fast::RandomState;
use imbl::shared_ptr::DefaultSharedPtr;
use imbl::{GenericHashMap, GenericOrdMap};
use std::collections::BTreeSet;
use std::sync::Arc;

/// The kind of a tuple's subject. A number from [`FIRST_SET`] on is a set: the id of its relation plus [`FIRST_SET`].
pub(super) type SubjectKind = u32;
pub(super) const PRINCIPAL: SubjectKind = 0;
pub(super) const EVERYBODY: SubjectKind = 1;
pub(super) const OBJECT: SubjectKind = 2;
const FIRST_SET: SubjectKind = 3;

/// A tuple by ids: 16 bytes, sorted for the search.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct IndexedTuple {
    pub(super) object: TextId,
    pub(super) relation: TextId,
    pub(super) kind: SubjectKind,
    pub(super) subject: TextId,
}

impl IndexedTuple {
    /// The relation of the set that is the subject.
    pub(super) fn set(&self) -> Option<TextId> {
        self.kind.checked_sub(FIRST_SET)
    }
}

/// The tuples of one service. A clone is cheap and shares what did not change, so a change costs in proportion to the
/// `Relationship` that changes.
#[derive(Debug, Clone, Default)]
pub struct TupleIndex {
    pub(super) names: Names,
    /// Each tuple, with the number of times that it is stated.
    pub(super) index: GenericOrdMap<IndexedTuple, u32, DefaultSharedPtr>,
    /// The tuples of each `Relationship`.
    sources: GenericHashMap<Arc<str>, Arc<[IndexedTuple]>, RandomState, DefaultSharedPtr>,
    /// `Relationship`s whose tuples are unknown.
    unknown: BTreeSet<Arc<str>>,
}

impl TupleIndex {
    /// Replaces the tuples of a `Relationship`.
    pub fn put(&mut self, source: &str, tuples: &[RelationTuple]) {
        self.unknown.remove(source);
        let old = self.sources.remove(source);
        let keys: Arc<[IndexedTuple]> = tuples.iter().map(|tuple| self.insert_tuple(tuple)).collect();
        // after the insertion, so that texts of both lists stay in use
        old.iter().flat_map(|keys| keys.iter()).for_each(|key| self.remove_tuple(*key));
        if !keys.is_empty() {
            self.sources.insert(source.into(), keys);
        }
    }

    /// Removes the tuples of a `Relationship`.
    pub fn remove(&mut self, source: &str) {
        self.put(source, &[]);
    }

    /// Marks the tuples of a `Relationship` as unknown. Until they are known, an exclusion that finds nothing is a
    /// failure.
    pub fn mark_unknown(&mut self, source: &str) {
        self.remove(source);
        self.unknown.insert(source.into());
    }

    /// The first `Relationship` whose tuples are unknown, if any.
    #[must_use]
    pub fn unknown_source(&self) -> Option<&str> {
        self.unknown.first().map(AsRef::as_ref)
    }

    /// Number of different tuples.
    #[must_use]
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Each tuple once, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = RelationTuple> {
        self.index.keys().filter_map(|key| {
            let text = |name| self.names.text(name);
            let subject = match (key.kind, key.set()) {
                (EVERYBODY, _) => TupleSubject::Everybody,
                (_, None) => text(key.subject).parse().ok()?,
                (_, Some(set)) => TupleSubject::Set(text(key.subject).parse().ok()?, text(set).into()),
            };
            Some(RelationTuple { object: text(key.object).parse().ok()?, relation: text(key.relation).into(), subject })
        })
    }

    /// Whether there are neither tuples nor unknown ones.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.index.is_empty() && self.unknown.is_empty()
    }

    fn insert_tuple(&mut self, tuple: &RelationTuple) -> IndexedTuple {
        let object = self.names.number(tuple.object.as_str());
        let relation = self.names.number(&tuple.relation);
        let (kind, subject) = match &tuple.subject {
            TupleSubject::Principal(id) => (PRINCIPAL, self.names.number(&id.to_string())),
            TupleSubject::Everybody => (EVERYBODY, object),
            TupleSubject::Object(other) => (OBJECT, self.names.number(other.as_str())),
            TupleSubject::Set(other, set) => {
                (self.names.number(set).saturating_add(FIRST_SET), self.names.number(other.as_str()))
            }
        };
        let key = IndexedTuple { object, relation, kind, subject };
        match self.index.get_mut(&key) {
            Some(times) => *times += 1,
            None => {
                self.index.insert(key, 1);
                names(&key).for_each(|name| self.names.hold(name));
            }
        }
        key
    }

    fn remove_tuple(&mut self, key: IndexedTuple) {
        match self.index.get_mut(&key) {
            Some(times) if *times > 1 => *times -= 1,
            Some(_) => {
                self.index.remove(&key);
                names(&key).for_each(|name| self.names.release(name));
            }
            None => {}
        }
    }

    /// Whether a tuple is stated.
    pub(super) fn has(&self, key: IndexedTuple) -> bool {
        self.index.contains_key(&key)
    }

    /// Objects with a relation to an object, in no particular order.
    pub(super) fn objects(&self, object: TextId, relation: TextId) -> impl Iterator<Item = &IndexedTuple> {
        self.between(object, relation, OBJECT, OBJECT)
    }

    /// Sets with a relation to an object, in no particular order.
    pub(super) fn sets(&self, object: TextId, relation: TextId) -> impl Iterator<Item = &IndexedTuple> {
        self.between(object, relation, FIRST_SET, SubjectKind::MAX)
    }

    fn between(
        &self,
        object: TextId,
        relation: TextId,
        first: SubjectKind,
        last: SubjectKind,
    ) -> impl Iterator<Item = &IndexedTuple> {
        let from = IndexedTuple { object, relation, kind: first, subject: 0 };
        let to = IndexedTuple { kind: last, subject: TextId::MAX, ..from };
        self.index.range(from..=to).map(|(key, _)| key)
    }

    /// The text form of a tuple.
    pub(super) fn describe(&self, key: &IndexedTuple) -> String {
        let text = |name| self.names.text(name);
        let (object, relation, subject) = (text(key.object), text(key.relation), text(key.subject));
        match (key.kind, key.set()) {
            (EVERYBODY, _) => format!("{object}#{relation}@*"),
            (_, Some(set)) => format!("{object}#{relation}@{subject}#{}", text(set)),
            _ => format!("{object}#{relation}@{subject}"),
        }
    }
}

/// Every text id of a tuple.
fn names(key: &IndexedTuple) -> impl Iterator<Item = TextId> {
    [key.object, key.relation, key.subject].into_iter().chain(key.set())
}
