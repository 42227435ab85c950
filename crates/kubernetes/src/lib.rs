//! How every process talks to the API server: time limits, redacted errors, server-side apply, watches, Events, the
//! Lease.
//!
//! It knows no resource of Durward and decides nothing.
//! Begin with [`requests`], then [`work_queue`], which every controller loop uses.

pub mod events;
pub mod kubeconfig;
pub mod lease;
pub mod requests;
pub mod work_queue;
