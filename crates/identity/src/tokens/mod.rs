//! Access tokens, and the keys that sign tokens and the audit log.

pub mod exchange;
pub mod key_ring;
pub mod key_store;
pub mod token_keys;
