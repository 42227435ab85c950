//! `durward up`: serves every door on this host, and decides by a directory of manifests, without a cluster.
//! It contains no door and makes no decision of its own; those are in `durward-doors` and `durward-engine`.
//! Begin with [`up`], which assembles the process, then read `wiring/`.

mod settings;
mod wiring;

pub use settings::{StandaloneAddresses, StandaloneSettings};
pub use wiring::up;
