//! The functions that conditions can call.
//!
//! An entry of a table holds a function's signature, its description and its implementation. To add a function, add an
//! entry to the table of its topic, such as [`text::FUNCTIONS`], and its implementation below the table.

mod function;
mod network;
mod quantity;
mod standard;
mod text;
mod url;
mod values;

use cel::{DeclarationError, Env};
pub use function::ConditionFunction;
pub(super) use values::{Url, failure};

/// The tables, in the order of the reference page.
const TABLES: [&[ConditionFunction]; 5] =
    [standard::FUNCTIONS, text::FUNCTIONS, network::FUNCTIONS, url::FUNCTIONS, quantity::FUNCTIONS];

/// Every function that a condition can call, one entry for each signature, in the order of the reference page.
pub fn functions() -> impl Iterator<Item = &'static ConditionFunction> {
    TABLES.into_iter().flatten()
}

/// Adds the functions that CEL's standard library lacks.
pub(super) fn register(env: &mut Env) -> Result<(), DeclarationError> {
    functions().try_for_each(|function| function.register(env))
}
