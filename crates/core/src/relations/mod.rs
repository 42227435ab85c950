//! Relationship-based access control: tuples, the model that says what follows from them, and the search.
//!
//! ```text
//! Relationship … ──put──▶ Tuples ─┐
//!                                 ├──check(object, relation, caller)──▶ holds, does not, or failed; and the proof
//! AccessPolicy … ──────▶ Model ───┘
//! ```
//!
//! A tuple says `object # relation @ subject`. Its subject is a principal, everybody, an object, or everybody who
//! stands in a relation to an object (see [`Subject`]). The groups of a caller's token count as tuples too: a member of group
//! `eng` of provider `corporate` has the tuple `group:corporate/eng # member @ CALLER`.

mod check;
mod engine;
mod model;
mod names;
mod search;
mod target;
mod tuple;
mod tuples;

pub use check::{Checked, Proof};
pub use engine::{Answers, Question, Questions, RelationEngine, Store, Ulid, UlidError};
pub use model::{GROUP, Model, RESERVED, Relations, Rule};
pub use target::{RelationTo, TargetError};
pub use tuple::{MEMBER, Object, Subject, Tuple, TupleError, is_relation_name};
pub use tuples::Tuples;
