//! What every request of a gateway runs through before and after its decision: HTTP on a connection, and what Envoy says.
//!
//! It has a level of optimisation of its own (`profile.release` in the workspace's `Cargo.toml`): what is generic in hyper, h2
//! and tonic is built here. So nothing here is generic towards the outside, or it would be built where it is used.
//! It decides nothing, and knows nobody who does.

pub mod connection;
pub mod ext_authz;
