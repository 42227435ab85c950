//! The messages between the controller, agents and gates: types and paths alone.
//!
//! It neither sends nor answers: clients are in `durward-controller-client`, servers in `durward-doors`.
//! Begin with [`mint`], then [`snapshot`].

pub mod bundles;
pub mod mint;
pub mod snapshot;
pub mod upstream;
