//! The one path that every door takes: find the operation, authenticate the caller, decide, record.
//!
//! It speaks no protocol and reads no resource.
//! Begin with [`Engine::authorize`].

pub mod audit;
mod context;
mod door;
mod engine;
pub mod metrics;
pub mod openfga;
pub mod outcome;
mod recorder;

pub use context::EngineContext;
pub use door::{ADMIN, Door, Purpose};
pub use engine::{Engine, EngineAnswer, EngineCaller, KubernetesReview};
