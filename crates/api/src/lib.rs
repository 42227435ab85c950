//! The resources that people write, and their translation into what the engine decides by.
//!
//! [`resources`] are the Kubernetes types of group `durward.dev`; their schemas become the CRDs. [`compile`] turns
//! one policy into the engine's terms; [`catalog`] keeps all of them and makes the snapshot.

pub mod catalog;
pub mod compile;
pub mod crd;
pub mod field_error;
mod last_good;
pub mod lint;
pub mod ownership;
pub mod resources;
pub mod translation;
