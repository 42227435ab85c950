//! Relations that an external engine evaluates. The caller of the decision queries it before the decision, which does
//! no I/O, and passes the answers in. Audit records contain them.

use super::model::RelationModel;
use crate::condition::Truth;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use thiserror::Error;

/// Where the relations of a service's objects are evaluated.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum RelationBackend {
    /// This crate, from the tuples of `Relationship`s.
    #[default]
    BuiltIn,
    /// An OpenFGA server.
    OpenFga(OpenFgaStore),
}

/// A store of an OpenFGA server, and its authorization model.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpenFgaStore {
    /// The store.
    pub store: Ulid,
    /// The model.
    pub model: Ulid,
}

/// The form of ids of stores and models in OpenFGA: 26 letters and digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ulid(Arc<str>);

/// A text is not a [`Ulid`].
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{0}` is not an OpenFGA id: an id has 26 digits and capital letters, such as 01JB4ZXK5T1Q8M6W3N9R7C2V0D")]
pub struct UlidError(String);

impl Ulid {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Ulid {
    type Err = UlidError;

    fn from_str(text: &str) -> Result<Self, UlidError> {
        let good = text.len() == 26 && text.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_uppercase());
        if good { Ok(Self(text.into())) } else { Err(UlidError(text.to_owned())) }
    }
}

impl fmt::Display for Ulid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A relation of the caller that a decision depends on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelationQuestion {
    /// The object, `type:id`.
    pub object: Arc<str>,
    /// The relation.
    pub relation: Arc<str>,
}

/// The relations that have to be evaluated before a decision.
#[derive(Debug, Clone, PartialEq)]
pub struct RelationQuestions<'s> {
    /// Store and model of the engine.
    pub store: &'s OpenFgaStore,
    /// The relation model of the service.
    pub model: &'s RelationModel,
    /// The relations, in order.
    pub questions: BTreeSet<RelationQuestion>,
}

/// Answers to questions. A question without an answer has failed.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RelationAnswers(BTreeMap<RelationQuestion, Truth>);

impl RelationAnswers {
    /// The answer to a question.
    #[must_use]
    pub fn answer(&self, question: &RelationQuestion) -> Truth {
        self.0.get(question).cloned().unwrap_or_else(|| Truth::Failed("OpenFGA was not asked".to_owned()))
    }

    /// All answers, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&RelationQuestion, &Truth)> {
        self.0.iter()
    }
}

impl FromIterator<(RelationQuestion, Truth)> for RelationAnswers {
    fn from_iter<I: IntoIterator<Item = (RelationQuestion, Truth)>>(answers: I) -> Self {
        Self(answers.into_iter().collect())
    }
}
