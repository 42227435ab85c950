//! The engine in a cluster: resources come from the Kubernetes API, and what became of them goes back there.
//!
//! ```text
//! API server ──watch──▶ resources ──▶ catalog ──▶ snapshot ──▶ engine ◀── doors
//!      ▲                    │ fates                               ▲
//!      └──status, Events────┘ (leader only)        API server ────┘ webhooks
//! ```
//!
//! Every replica decides from its own snapshot; the one that holds the Lease writes.

mod certificates;
mod filled;
mod gates;
mod key_uses;
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

pub use key_uses::uses_name;
pub use run::{Listen, Settings, run};
pub use webhooks::{FailurePolicy, remove};
