//! Relationship-based access control: tuples, the model of what follows from them, and the search.
//!
//! ```text
//! Relationship … ──put──▶ TupleIndex ────┐
//!                                        ├──check(object, relation, caller)──▶ holds, does not hold, or failed
//! AccessPolicy … ────────▶ RelationModel ┘
//! ```
//!
//! A tuple states `object # relation @ subject`. Its subject is a principal, everybody, an object, or everybody who
//! has a relation to an object (see [`TupleSubject`]). The groups of a caller's token act as tuples: a member of group
//! `eng` of provider `corporate` has the tuple `group:corporate/eng # member @ CALLER`.

mod check;
mod engine;
mod model;
mod names;
mod search;
mod target;
mod tuple;
mod tuples;

pub use check::{ProofStep, RelationCheck};
pub use engine::{
    OpenFgaStore, RelationAnswers, RelationBackend, RelationQuestion, RelationQuestions, Ulid, UlidError,
};
pub use model::{CompiledRelationRule, GROUP, RelationModel, TypeRelations};
pub use target::{RelationTarget, RelationTargetError};
pub use tuple::{MEMBER, RESERVED_TYPES, RelationObject, RelationTuple, TupleError, TupleSubject, is_relation_name};
pub use tuples::TupleIndex;
