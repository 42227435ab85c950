//! The resources that people write, and their translation into what the engine decides by.
//!
//! [`resources`] are the Kubernetes types of group `durward.dev`; their schemas become the CRDs.

pub mod resources;
