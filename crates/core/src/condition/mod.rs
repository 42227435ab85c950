//! Conditions in CEL: compiled when a policy is accepted, evaluated with three outcomes.
//!
//! The outcome [`Truth::Failed`] never allows: a grant whose condition fails gives nothing, a denial whose condition
//! fails applies.
//!
//! One table, [`functions()`], describes the functions that conditions can call.

mod constant;
mod environment;
mod error;
mod evaluation;
mod expression;
mod facts;
mod fields;
mod functions;
mod headers;
mod inspect;
mod json;
mod limits;
mod metering;
mod pattern;
mod price;
#[cfg(test)]
mod tests;
mod truth;
mod type_check;
mod value_type;

pub use error::ConditionError;
pub use expression::{Condition, ConditionDependency};
pub use facts::{ConditionFacts, FactCache};
pub use functions::{ConditionFunction, functions};
pub use headers::{HeaderValues, MAX_HEADER};
pub use json::{JsonFields, MAX_LEVELS, MAX_PARTS};
pub use limits::MAX_SOURCE;
pub use truth::Truth;
pub use value_type::ValueType;
