//! The process around the engine: listeners, connections, supervisor, readiness, TLS verification, private files.
//!
//! It knows neither policies nor callers, and it decides nothing.
//! Begin with [`supervisor`], which every process of Durward starts, then [`listener`], which serves every socket.

pub mod address;
pub mod bodies;
pub mod connection;
mod connections;
pub mod core_runtimes;
pub mod duration;
pub mod limits;
pub mod listener;
pub mod listener_metrics;
pub mod memory;
pub mod peers;
pub mod private_files;
pub mod random;
pub mod readiness;
pub mod signals;
pub mod slots;
pub mod source;
pub mod supervisor;
pub mod tls;
pub mod wall_clock;

pub use supervisor::Failure;
