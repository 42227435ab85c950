//! The client of the controller that agents and gates share: certificates, tokens, bundles, and the snapshot stream.
//!
//! It holds the pod's own identity and renews it; it authenticates no callers and decides nothing.
//! Begin with [`identity`], then [`client`].

pub mod client;
pub mod identity;
pub mod retry;
