//! The resources that people write, and their translation into what the engine decides by.
//!
//! [`resources`] are the Kubernetes types of group `durward.dev`; [`crd`] makes CRDs of their schemas.

pub mod crd;
pub mod resources;
