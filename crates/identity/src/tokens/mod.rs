//! Access tokens, and the keys that sign tokens and the audit log.

pub mod exchange;
pub mod token_keys;
