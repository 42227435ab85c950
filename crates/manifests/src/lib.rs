//! Manifests in files: reads YAML documents and directories of them, and follows a directory as it changes.
//! It compiles no policy (`durward-api` does) and talks to no cluster.
//! Begin with [`load::load`].

pub mod files;
pub mod load;
pub mod location;
pub mod manifest;
pub mod open;
mod progress;
mod tree;
pub mod watch;
mod yaml;
