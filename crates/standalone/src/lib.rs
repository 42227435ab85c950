//! The engine from a directory of manifests, without a cluster.

pub mod up;
