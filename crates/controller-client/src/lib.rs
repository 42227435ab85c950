//! The client of the controller that agents and gates share: certificates, tokens, bundles, and the snapshot stream.
//!
//! It holds the pod's own identity and keeps it fresh; it authenticates and decides nothing.
//! Begin with [`source`].

pub mod controller;
pub mod source;
