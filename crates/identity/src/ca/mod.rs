//! The certificate authority: its store, its rotation, and the publication of its roots.

pub mod authorities;
pub mod bundle;
pub mod rotation;
pub mod secret;
pub mod store;
