//! Relations that an OpenFGA server knows: its model made from a policy, its tuples from `Relationship`s, and the client
//! that asks it before a decision.
//!
//! ```text
//! Route::questions ──▶ OpenFga ──batch-check──▶ server
//!                        │  what was said a moment ago is remembered
//! Route::answered ◀──────┘  whatever goes wrong is a failed answer, and so no allow
//! ```

mod cache;
mod client;
pub mod model;
pub mod names;

pub use client::failed;
pub use client::{OpenFga, Settings};
