//! The decision written a second time, as plainly as the documents say it: no index, no cache, no code of the engine.
//! It is not for enforcing anything, and knows neither credentials nor relation engines outside of the process.
//! Begin reading at [`decision::ReferenceModel::decide`]; `tests/agreement` compares it with the engine.
//!
//! It takes the resources as stored (`durward_api::resources`), and callers as authenticated
//! (`durward_core::principal`), as plain data. Truths that need a parser are known by construction: a segment of a path
//! comes with its decoded form, and a condition with a function that says when it holds.

pub mod conditions;
pub mod decision;
pub mod operations;
pub mod relations;
pub mod subjects;
pub mod tokens;
pub mod world;
