//! The engine from a directory of manifests, without a cluster.

pub(crate) mod approvals;
pub(crate) mod key_uses;
pub mod load;
pub mod manifest;
pub(crate) mod place;
mod progress;
pub mod state;
pub(crate) mod token_keys;
pub mod up;
pub(crate) mod watch;
