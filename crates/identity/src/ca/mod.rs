//! The certificate authority: where it is kept, how it is rotated, how its roots spread.

pub mod authorities;
pub mod bundle;
pub mod rotation;
pub mod secret;
pub mod store;
