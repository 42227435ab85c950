//! The one path that every door takes: find the operation, authenticate, decide, record.
//!
//! It speaks no protocol and reads no resource.
//! Begin with [`Engine::ask`].

pub mod audit;
mod door;
mod engine;
pub mod metrics;
pub mod openfga;

pub use door::{ADMIN, Door};
pub use engine::*;
