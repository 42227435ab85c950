//! The state directory of a process without a cluster: CA, signing keys, approvals, uses of API keys.
//!
//! It serves nothing; `durward-standalone` and `durward-gate` do.
//! Begin with [`state`].

pub mod approvals;
pub mod key_uses;
pub mod state;
pub mod token_keys;
