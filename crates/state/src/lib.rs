//! The state directory of a process without a cluster: CA, signing keys, approvals and the last uses of API keys.
//! It serves nothing and decides nothing: `durward-standalone` and `durward-gate` do.
//! Begin with [`LocalState`].

mod approvals;
mod directory;
mod error;
pub mod key_uses;
mod local_state;
mod token_keys;

pub use approvals::{LocalApprovals, LocalApprovalsError};
pub use directory::StateDirectory;
pub use error::StateError;
pub use local_state::LocalState;
pub use token_keys::TokenKeyFolder;
