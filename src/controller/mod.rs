//! The engine in a cluster: resources come from the Kubernetes API, and what became of them goes back there.
//!
//! ```text
//! API server ──watch──▶ resources ──▶ catalog ──▶ snapshot ──▶ engine ◀── doors
//!      ▲                    │ fates                               ▲
//!      └──status, Events────┘ (leader only)        API server ────┘ webhooks
//! ```
//!
//! Every replica decides from its own snapshot; the one that holds the Lease writes.

mod api_server;
mod backlog;
mod certificates;
mod decode;
mod events;
mod filled;
mod gates;
mod key_uses;
mod leader;
pub mod live;
mod living;
mod owner;
mod reach;
mod replicas;
mod run;
mod service_accounts;
mod status;
mod watch;
mod webhooks;
mod writer;

pub(crate) use api_server::{MANAGER, PATIENCE, apply, brief, patiently, pauses, versions};
pub(crate) use backlog::Backlog;
pub(crate) use events::Events;
pub(crate) use key_uses::uses_name;
pub use run::{Listen, Settings, run};
pub use webhooks::{FailurePolicy, remove};
