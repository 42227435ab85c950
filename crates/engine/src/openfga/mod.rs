//! Relations in an OpenFGA server: its model made from a policy, its tuples made from `Relationship`s, and the client
//! that asks it before a decision.
//!
//! ```text
//! Route::questions ────▶ OpenFga ──batch-check──▶ server
//!                          │ recent answers come from a cache
//! Route::with_answers ◀────┘ every error is a failed answer, which allows nothing
//! ```

mod cache;
mod client;
mod error;
pub mod model;
pub mod names;
mod settings;

pub use client::{OpenFga, failed};
pub use error::{OpenFgaRequestError, OpenFgaUrlError};
pub use settings::OpenFgaSettings;
