//! What the controller, agents and gates say to each other: types and paths alone.
//!
//! It neither sends nor answers: clients are in `durward-controller-client`, servers among the doors.
//! Begin with [`mint`], then [`snapshot`].

pub mod bundles;
pub mod mint;
pub mod snapshot;
pub mod upstream;
