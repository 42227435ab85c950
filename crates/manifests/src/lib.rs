//! Manifests in files: YAML documents with their places, directories of them, and following a directory as it changes.
//!
//! It compiles nothing itself (that is `durward-api`) and talks to no cluster.
//! Begin with [`load`].

pub mod load;
pub mod manifest;
pub mod place;
mod progress;
pub mod watch;
