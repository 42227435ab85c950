//! Durward's Kubernetes resources, their compilation for the engine, and the catalog of all resources.
//!
//! It is not for talking to the API server, reading files, or deciding requests: objects go in as values, and a
//! snapshot for `durward_core` comes out. Begin reading at [`catalog::Catalog::apply`]; [`translation`] makes the
//! changes that it applies, [`compile`] checks one policy, and [`resources`] has the types that become the CRDs.

pub mod catalog;
pub mod compile;
pub mod crd;
pub mod field_error;
mod last_good;
pub mod lint;
pub mod ownership;
pub mod resources;
pub mod translation;
