//! Durward: a doorkeeper for Kubernetes workloads.

pub mod agent;
pub(crate) mod approval;
pub mod audit;
pub mod authn;
pub mod cli;
pub mod controller;
pub mod doors;
pub mod engine;
pub mod gate;
mod hex;
pub mod identity;
pub(crate) mod kubeconfig;
pub mod lanes;
pub mod metrics;
pub mod openfga;
mod process;
mod random;
pub mod standalone;
pub mod stepup;
