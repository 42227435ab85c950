//! The engine in a cluster: resources come from the Kubernetes API, and what became of them goes back there.
//!
//! ```text
//! API server ──watch──▶ resources ──▶ catalog ──▶ snapshot ──▶ engine ◀── doors
//!      ▲                    │ fates                               ▲
//!      └──status, Events────┘ (leader only)        API server ────┘ webhooks
//! ```
//!
//! Every replica decides from its own snapshot; the one that holds the Lease writes.

mod backlog;
mod certificates;
mod decode;
mod leader;
pub mod live;
mod owner;
mod replicas;
mod run;
mod service_accounts;
mod status;
mod watch;
mod webhooks;
mod writer;

pub(crate) use backlog::Backlog;
pub use certificates::Origin;
pub(crate) use leader::brief;
pub use run::{Listen, Settings, run};
pub(crate) use watch::pauses;
pub use webhooks::{FailurePolicy, remove};
pub(crate) use writer::MANAGER;
