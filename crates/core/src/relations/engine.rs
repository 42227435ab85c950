//! Relations that an engine of the policy's choice knows. It is asked before a decision, which itself asks nobody:
//! what it said is handed to the decision, and stands in the audit record.

use super::model::RelationModel;
use crate::condition::Truth;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use thiserror::Error;

/// Who knows the relations of a service's objects.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum RelationBackend {
    /// This one, by the tuples of `Relationship`s.
    #[default]
    BuiltIn,
    /// An OpenFGA server.
    OpenFga(OpenFgaStore),
}

/// A store of an OpenFGA server, and the authorization model by which it is asked.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpenFgaStore {
    /// The store.
    pub store: Ulid,
    /// The model.
    pub model: Ulid,
}

/// What OpenFGA names stores and models by: 26 letters and digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ulid(Arc<str>);

/// Why a text is no [`Ulid`].
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{0}` is no id of OpenFGA: it has 26 digits and capital letters, such as 01JB4ZXK5T1Q8M6W3N9R7C2V0D")]
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

/// A relation of the caller on which a decision depends.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelationQuestion {
    /// The object, `type:id`.
    pub object: Arc<str>,
    /// The relation.
    pub relation: Arc<str>,
}

/// What has to be asked before a decision.
#[derive(Debug, Clone, PartialEq)]
pub struct RelationQuestions<'s> {
    /// Whom to ask.
    pub store: &'s OpenFgaStore,
    /// How relations come about.
    pub model: &'s RelationModel,
    /// What to ask, in order.
    pub questions: BTreeSet<RelationQuestion>,
}

/// What was said to questions. Whatever was not asked failed.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RelationAnswers(BTreeMap<RelationQuestion, Truth>);

impl RelationAnswers {
    /// The answer to a question.
    #[must_use]
    pub fn answer(&self, question: &RelationQuestion) -> Truth {
        self.0.get(question).cloned().unwrap_or_else(|| Truth::Failed("OpenFGA was not asked".to_owned()))
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&RelationQuestion, &Truth)> {
        self.0.iter()
    }
}

impl FromIterator<(RelationQuestion, Truth)> for RelationAnswers {
    fn from_iter<I: IntoIterator<Item = (RelationQuestion, Truth)>>(answers: I) -> Self {
        Self(answers.into_iter().collect())
    }
}
