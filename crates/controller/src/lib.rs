//! The controller of a cluster: it reads resources from the Kubernetes API, decides by them and reports their status.
//!
//! It contains no door and makes no decision of its own; those are in `durward-doors` and `durward-engine`.
//! Begin with [`run`], then read `resource_index`.
//!
//! ```text
//! API server ──watches──▶ resource index ──▶ catalog ──▶ snapshot ──▶ engine ◀── doors
//!      ▲                        │ reports                                ▲
//!      └──── status, Events ────┘ (leader only)          API server ─────┘ webhooks
//! ```
//!
//! Every replica decides from its own snapshot. The one that holds the Lease writes.

mod cert_manager;
pub mod cluster_read;
mod gate_resources;
mod key_use_writer;
mod listener_tls;
mod liveness;
mod replicas;
mod resource_index;
mod rollout;
mod service_accounts;
mod settings;
mod status;
mod status_writer;
mod watches;
mod webhooks;
mod wiring;

pub use key_use_writer::key_uses_config_map;
pub use settings::{ControllerAddresses, ControllerSettings};
pub use webhooks::{FailurePolicy, UninstallError, remove};
pub use wiring::run;
