//! The relation model of a service: how relations follow from tuples.

use super::tuple::MEMBER;
use foldhash::fast::RandomState;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

/// The type that every model has. Unless the model declares it, its only relation is `member`, which tuples state.
pub const GROUP: &str = "group";

/// How a relation follows from tuples and other relations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CompiledRelationRule {
    /// From tuples that state it.
    This,
    /// From this other relation of the same object.
    Computed(Arc<str>),
    /// From a relation of the objects that a direct relation leads to.
    From {
        /// The direct relation whose tuples name the objects.
        from: Arc<str>,
        /// The relation of these objects.
        relation: Arc<str>,
    },
    /// From any of these.
    Union(Vec<CompiledRelationRule>),
    /// From all of these.
    Intersection(Vec<CompiledRelationRule>),
    /// From the first, but from none of the others.
    Exclusion(Box<CompiledRelationRule>, Vec<CompiledRelationRule>),
}

impl CompiledRelationRule {
    /// The direct parts of this rule.
    pub fn parts(&self) -> impl Iterator<Item = &Self> {
        let (first, rest): (Option<&Self>, &[Self]) = match self {
            Self::This | Self::Computed(_) | Self::From { .. } => (None, &[]),
            Self::Union(parts) | Self::Intersection(parts) => (None, parts),
            Self::Exclusion(base, others) => (Some(base), others),
        };
        first.into_iter().chain(rest)
    }
}

impl fmt::Display for CompiledRelationRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |f: &mut fmt::Formatter<'_>, parts: &mut dyn Iterator<Item = &Self>, word: &str| {
            let parts: Vec<String> = parts.map(ToString::to_string).collect();
            write!(f, "({})", parts.join(word))
        };
        match self {
            Self::This => f.write_str("this"),
            Self::Computed(relation) => f.write_str(relation),
            Self::From { from, relation } => write!(f, "{relation} from {from}"),
            Self::Union(_) => list(f, &mut self.parts(), " or "),
            Self::Intersection(_) => list(f, &mut self.parts(), " and "),
            Self::Exclusion(..) => list(f, &mut self.parts(), " but not "),
        }
    }
}

/// Relations of one type, by name.
pub type TypeRelations = BTreeMap<Arc<str>, CompiledRelationRule>;

/// Object types and their relations.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RelationModel {
    types: HashMap<Arc<str>, HashMap<Arc<str>, CompiledRelationRule, RandomState>, RandomState>,
}

impl RelationModel {
    /// A model of these types. A relation that it does not declare never holds.
    #[must_use]
    pub fn new(types: impl IntoIterator<Item = (Arc<str>, TypeRelations)>) -> Self {
        Self { types: types.into_iter().map(|(kind, relations)| (kind, relations.into_iter().collect())).collect() }
    }

    /// The rule of a relation of a type, if the model has one.
    #[must_use]
    pub fn rule(&self, kind: &str, relation: &str) -> Option<&CompiledRelationRule> {
        match self.types.get(kind) {
            Some(relations) => relations.get(relation),
            None => (kind == GROUP && relation == MEMBER).then_some(&CompiledRelationRule::This),
        }
    }

    /// Whether the model declares a type itself.
    #[must_use]
    pub fn declares(&self, kind: &str) -> bool {
        self.types.contains_key(kind)
    }

    /// Whether the model declares any type itself.
    #[must_use]
    pub fn declares_any(&self) -> bool {
        !self.types.is_empty()
    }

    /// The types that the model declares, in order.
    #[must_use]
    pub fn types(&self) -> Vec<&Arc<str>> {
        let mut types: Vec<_> = self.types.keys().collect();
        types.sort_unstable();
        types
    }

    /// The relations of a type that the model declares, in order.
    #[must_use]
    pub fn relations(&self, kind: &str) -> Vec<(&Arc<str>, &CompiledRelationRule)> {
        let mut relations: Vec<_> = self.types.get(kind).into_iter().flatten().collect();
        relations.sort_unstable_by_key(|(name, _)| *name);
        relations
    }

    /// Adds the types of another model. A type that both declare stays as it is.
    pub(crate) fn absorb(&mut self, other: &Self) {
        for (kind, relations) in &other.types {
            self.types.entry(Arc::clone(kind)).or_insert_with(|| relations.clone());
        }
    }
}
