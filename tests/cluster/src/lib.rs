//! A real Kubernetes for tests: no container engine, no registry, no images pulled.
//!
//! ```no_run
//! # fn main() -> durward_cluster::ClusterResult<()> {
//! use durward_cluster::Cluster;
//!
//! // A node that all tests of this machine share, brought up on first use.
//! let cluster = Cluster::shared()?;
//! let namespace = cluster.namespace("orders")?;
//! namespace.kubectl(["get", "pods"])?;
//!
//! // A control plane without a node, for controllers and webhooks; it ends with the value.
//! let control_plane = Cluster::isolated()?;
//! # Ok(()) }
//! ```
//!
//! Everything here blocks: in async tests call it before the first await or from `spawn_blocking`.
//! `README.md` explains how it works and how to debug it.

pub mod binaries;
pub mod cargo;
mod certs;
mod cluster;
mod command;
mod control_plane;
pub mod dockerfile;
mod error;
pub mod image;
mod lifecycle;
mod namespaces;
mod node;
pub mod paths;
pub mod ports;
pub mod preflight;
mod process;
pub mod wait;

pub use cluster::{Cluster, Namespace};
pub use error::{ClusterError, ClusterResult};
pub use image::Image;
pub use lifecycle::{ClusterStatus, Component, down, status};
pub use node::NODE_NAME;

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Standard base64, as kubeconfigs have it.
pub(crate) fn base64(bytes: &[u8]) -> String {
    base64::Engine::encode(&base64::engine::general_purpose::STANDARD, bytes)
}
